"""The shape of the house: what the front door loads, and who may know what. Layers are checked by lint-imports."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import r1local
from r1local.catalog import load_catalog

PACKAGE = Path(r1local.__file__).parent
QUANTIZE = PACKAGE.parent / "quantize"
MOST_MODULES = 160
FORBIDDEN = (
    "rich", "pydantic", "textual", "numpy", "gguf", "llama_cpp", "huggingface_hub", "jinja2", "prompt_toolkit",
    "psutil", "platformdirs", "click", "importlib.metadata", "asyncio",
)  # fmt: skip


def modules_after(*arguments: str) -> set[str]:
    code = (
        "import sys, json, contextlib, io\n"
        f"sys.argv = ['r1local', *{list(arguments)!r}]\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n"
        "    from r1local.__main__ import main\n"
        "    main()\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    # Without site-packages' .pth hooks, which load modules of their own into an editable installation.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("--help",), ("chat", "--help"), ("--version",)], ids=" ".join)
def test_the_front_door_is_light(arguments: tuple[str, ...]) -> None:
    bare = set(
        json.loads(
            subprocess.run(
                [sys.executable, "-c", "import sys, json; print(json.dumps(sorted(sys.modules)))"],
                capture_output=True, text=True, check=True,
            ).stdout
        )
    )  # fmt: skip
    loaded = modules_after(*arguments)
    assert not loaded & set(FORBIDDEN)
    assert len(loaded | bare) <= MOST_MODULES


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys; import r1local; print(sum(name.startswith('r1local') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"


@pytest.mark.parametrize("name", r1local.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(r1local, name) is not None


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def all_sources() -> list[Path]:
    return sources() + sorted(QUANTIZE.rglob("*.py"))


def test_the_wheel_has_the_model_inside_and_not_its_training(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=PACKAGE.parent, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    model, _ = load_catalog().resolve("inside")
    assert model.package is not None
    assert f"r1local/{model.package.file}" in names
    assert "r1local/models.toml" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"r1local", "quantize"}
    assert wheel.stat().st_size < 5_000_000


def test_nothing_of_the_package_needs_the_training() -> None:
    for path in all_sources():
        assert not re.search(r"^\s*(from|import) (training|tests|benchmarks)\b", path.read_text(), re.MULTILINE), path


def test_no_module_is_too_long() -> None:
    assert {path.name: n for path in all_sources() if (n := len(path.read_text().splitlines())) > 400} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [path.name for path in all_sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_nothing_dangerous_is_ever_called() -> None:
    """No pickle, eval, shell or repository code; torch and transformers are not even named as imports."""
    for path in all_sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "torch", "transformers", "marshal"} & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, ast.keyword) and node.arg == "shell":
                pytest.fail(f"{path} runs a shell")


def test_only_the_sink_prints() -> None:
    """Text reaches the terminal through Output, or through the last resort for errors, and nowhere else."""
    allowed = {"cli/output.py", "cli/__init__.py"}
    for path in sources():
        if str(path.relative_to(PACKAGE)) in allowed:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name):
                assert node.id != "print", path
            if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"):
                writer = isinstance(node.value, ast.Name) and node.value.id == "sys"
                assert not writer or path.name == "template_worker.py", path

"""Byte for byte what llama.cpp makes: its converter, then its quantizer, on the same checkpoints.

The sums were made by scripts/upstream_digests.py from llama.cpp's own two programs, which need torch.
"""

from __future__ import annotations

import hashlib
import json
import platform
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType

from quantize import convert as converting
from quantize import fast
from quantize.conversion import Options
from quantize.convert import convert_checkpoint
from quantize.gguf_format import Key, make_key, read_gguf
from quantize.imatrix import Imatrix
from quantize.kernels import Choice, Kernels
from quantize.recipes import Wish
from quantize.vocabulary import Vocabulary
from tests import checkpoints

UPSTREAM: dict[str, Any] = json.loads((checkpoints.DATA / "upstream-digests.json").read_text())
# Small, and of every architecture: with all types. The others show what they are there for with some.
IN_FULL = ("R1-Tiny-Qwen-sharded", "Llama-Tied-MHA-f16", "DeepSeek-R1-0528-Qwen3-8B")
SOME = ("Q4_K_M", "Q3_K_M+imatrix", "Q8_0", "BF16", "F32", "IQ4_XS", "IQ2_M+imatrix")
FAST = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_K_S", "Q5_K_S")


def recipes(choice: Choice) -> list[tuple[str, str]]:
    found = []
    for case, entry in UPSTREAM["cases"].items():
        for name, made in entry["quantized"].items():
            has_options = bool(set(made["recipe"]) - {"type", "imatrix"})
            wanted = case in IN_FULL or name in SOME or has_options
            if choice == "fast":
                wanted = name in FAST and case != "R1-Distill-Qwen-Tokenizer"
            if wanted:
                found.append((case, name))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes each checkpoint once."""
    home = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda case: checkpoints.write_case(home, case))


@pytest.fixture(autouse=True, scope="module")
def one_proof_a_checkpoint() -> Any:
    """The tokenizer of a checkpoint is read and proved once, not for every type: that takes longer than the rest."""
    made: dict[Path, Vocabulary] = {}
    proved: set[Path] = set()

    class Once(Vocabulary):
        def __new__(cls, folder: Path, *_: Any) -> Any:
            return made.setdefault(folder, object.__new__(cls))

        def __init__(self, folder: Path, *arguments: Any) -> None:
            if not hasattr(self, "keys"):
                super().__init__(folder, *arguments)
                self.folder = folder

        def prove(self, gguf: Path) -> None:
            if self.folder not in proved:
                super().prove(gguf)
                proved.add(self.folder)

    patch = pytest.MonkeyPatch()
    patch.setattr(converting, "Vocabulary", Once)
    yield
    patch.undo()


def wish_of(recipe: dict[str, Any]) -> Wish:
    return Wish(
        recipe["type"], recipe.get("pure", False), recipe.get("leave_output", False), recipe.get("output", ""),
        recipe.get("embedding", ""), tuple(map(tuple, recipe.get("overrides", ()))),
    )  # fmt: skip


def imatrix_of(case: str) -> Imatrix:
    about = UPSTREAM["imatrix"]
    return Imatrix(Path(about["file"]), checkpoints.imatrix_for(case), about["dataset"], about["chunks"])


def converted(folder: Path, target: Path, case: str, name: str, choice: Choice) -> Path:
    recipe = UPSTREAM["cases"][case]["quantized"][name]["recipe"]
    imatrix = imatrix_of(case) if recipe.get("imatrix") else None
    options = Options(Kernels(choice), 2, threading.Event())
    convert_checkpoint(folder, target, wish_of(recipe), options, imatrix=imatrix)
    return target


@pytest.mark.parametrize(("case", "name"), recipes("c"))
def test_the_file_is_what_llama_cpp_makes(case: str, name: str, folder: Any, tmp_path: Path) -> None:
    target = converted(folder(case), tmp_path / "made.gguf", case, name, "c")
    expected = UPSTREAM["cases"][case]["quantized"][name]
    assert target.stat().st_size == expected["size"]
    made = target.read_bytes()
    assert hashlib.sha256(made[expected["data_start"] :]).hexdigest().startswith(expected["data"])
    assert hashlib.sha256(made).hexdigest() == expected["sha256"]


@pytest.mark.skipif(fast.why_not() is not None, reason=str(fast.why_not()))
@pytest.mark.parametrize(("case", "name"), recipes("fast"))
def test_fast_kernels_make_the_same_file(case: str, name: str, folder: Any, tmp_path: Path) -> None:
    target = converted(folder(case), tmp_path / "made.gguf", case, name, "fast")
    assert hashlib.sha256(target.read_bytes()).hexdigest() == UPSTREAM["cases"][case]["quantized"][name]["sha256"]


@pytest.mark.parametrize("case", UPSTREAM["cases"])
def test_the_checkpoints_are_those_of_the_sums(case: str, folder: Any) -> None:
    for name, digest in UPSTREAM["cases"][case]["checkpoint"].items():
        assert hashlib.sha256((folder(case) / name).read_bytes()).hexdigest().startswith(digest)


def test_a_known_source_adds_two_keys_and_changes_nothing_else(folder: Any, tmp_path: Path) -> None:
    """What a reader of the file can go back to: the commit of the repository. No other key differs."""
    case = "R1-Tiny-Qwen-sharded"
    snapshot = tmp_path / "models--deepseek-ai--R1-Tiny-Qwen-sharded" / "snapshots" / ("ab" * 20)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(folder(case))
    plain = read_gguf(converted(folder(case), tmp_path / "plain.gguf", case, "Q8_0", "c"))
    options = Options(Kernels("c"), 2, threading.Event())
    home = "https://huggingface.co/deepseek-ai/R1-Tiny-Qwen-sharded"
    origin = converting.Origin("R1-Tiny-Qwen-sharded", "deepseek-ai/R1-Tiny-Qwen-sharded", "ab" * 20)
    convert_checkpoint(folder(case), tmp_path / "known.gguf", Wish("Q8_0"), options, origin=origin)
    known = read_gguf(tmp_path / "known.gguf")
    text = GGUFValueType.STRING
    added: list[Key] = [key for key in known.keys if key not in plain.keys]
    assert added == [
        make_key("general.source.url", f"{home}/tree/{'ab' * 20}", text),
        make_key("general.source.repo_url", home, text),
    ]
    assert [key for key in known.keys if key not in added] == list(plain.keys)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the sums are of x86-64")
def test_every_type_of_every_architecture_is_compared() -> None:
    """So that a type that is added has to be compared as well."""
    from quantize.file_types import FILE_TYPES

    for case in IN_FULL:
        compared = {made["recipe"]["type"] for made in UPSTREAM["cases"][case]["quantized"].values()}
        assert compared == set(FILE_TYPES)

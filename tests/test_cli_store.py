"""What is told of the models here: list, show, verify; import and export as commands; a chat without its model."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from huggingface_hub import constants

from r1local import paths
from r1local.catalog import load_catalog
from r1local.errors import ExitCode
from tests.hub import Hub
from tests.makers import R1_TEMPLATE_V2
from tests.test_carry import tiny
from tests.test_store import put_in_cache
from tests.test_terminal_chat import Screen

pytestmark = pytest.mark.engine

REPO = "someone/Some-Model-GGUF"
CATALOG_REPO = "unsloth/DeepSeek-R1-Distill-Qwen-1.5B-GGUF"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egpj.exe\x9b5A"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


def run(*arguments: str | Path, code: int = 0, **environment: str) -> tuple[str, str]:
    result = subprocess.run(
        [sys.executable, "-m", "r1local", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert "made a mistake" not in result.stderr
    return result.stdout, result.stderr


def strict(text: str) -> Any:
    """JSON as other programs read it: NaN and Infinity are no numbers there."""

    def no(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=no)


def hostile(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_name(HOSTILE)
    writer.add_block_count(1)
    writer.add_chat_template(HOSTILE)
    writer.add_string(f"general.{HOSTILE}", HOSTILE)
    writer.add_float32("general.wrong", float("nan"))
    writer.add_tensor("a" + HOSTILE[:4], np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_folder(source: Path, name: str) -> Path:
    target = paths.models_folder() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def in_cache(cache: Path, name: str, *, seed: int = 0, repo: str = REPO, content: bytes = b"") -> Path:
    return put_in_cache(cache, repo, name, content=content or tiny(cache.parent / "made", seed=seed).read_bytes())


def sections(text: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("  "):
            key, _, value = line.strip().partition("  ")
            found[list(found)[-1]][key] = value.strip()
        else:
            found[line] = {}
    return found


def weights(path: Path) -> tuple[int, int]:
    """Weights and their bits, by the reader of another program."""
    tensors = gguf.GGUFReader(path).tensors
    return sum(int(tensor.n_elements) for tensor in tensors), 8 * sum(int(tensor.n_bytes) for tensor in tensors)


# show


def test_every_section(thinking_model: Path) -> None:
    path = in_folder(thinking_model, "thinking.gguf")
    facts = sections(run("show", "thinking")[0])
    assert list(facts) == ["file", "model", "tensors", "template", "memory"]
    count, bits = weights(path)
    assert facts["file"]["path"] == str(path)
    assert facts["file"]["size"].startswith(f"{path.stat().st_size:,} bytes")
    assert facts["file"]["last used"] == "never"
    assert facts["model"]["parameters"] == f"{count:,}"
    assert facts["model"]["bits/weight"] == f"{bits / count:.2f}" == "32.00"
    assert (facts["model"]["architecture"], facts["model"]["quantization"]) == ("qwen2", "F32")
    assert facts["model"]["context"] == "4,096 tokens"
    assert facts["template"]["sha256"] == hashlib.sha256(R1_TEMPLATE_V2.encode()).hexdigest()
    assert run("show", "thinking", "--template")[0].rstrip("\n") == R1_TEMPLATE_V2.rstrip("\n")
    said = strict(run("show", "thinking", "--json")[0])
    assert said["metadata"]["general.name"] == "thinking"
    run("chat", "-m", "thinking", "?")
    assert sections(run("show", "thinking")[0])["file"]["last used"] == "just now"


@pytest.mark.real
def test_the_real_model(smollm2: Path) -> None:
    facts = sections(run("show", "smollm2")[0])
    count, bits = weights(smollm2)
    assert facts["model"]["parameters"] == f"{count:,}"
    assert facts["model"]["bits/weight"] == f"{bits / count:.2f}"
    assert float(facts["model"]["bits/weight"]) < 6
    assert facts["model"]["licence"] == "Apache-2.0"
    assert facts["file"]["size"].startswith(f"{smollm2.stat().st_size:,} bytes")


@pytest.mark.terminal
@pytest.mark.parametrize("flags", [("--metadata",), ("--template",), ("--json",), ()])
def test_hostile_metadata_is_harmless(tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = hostile(tmp_path / "x.gguf")
    screen = Screen(["show", str(path), *flags], columns=120, rows=60)
    assert screen.wait() == 0
    assert screen.title == ""
    assert b"\x1b" not in screen.raw
    assert b"\x07" not in screen.raw
    assert "\u202e" not in screen.raw.decode()
    assert "gpj.exe" in screen.text
    assert "\x1b" not in "".join(run("show", path, *flags))


def test_json_is_json_for_everybody(tmp_path: Path) -> None:
    strict(run("show", hostile(tmp_path / "x.gguf"), "--json")[0])


def test_show_of_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<I", 3))
    run("show", tmp_path / "x.gguf", code=ExitCode.BAD_FILE)
    run("show", tmp_path / "y.gguf", code=ExitCode.NO_MODEL)
    run("show", "no-such-model", code=ExitCode.NO_MODEL)
    _, err = run("show", "someone/not-here", code=ExitCode.NO_MODEL)
    assert "r1local pull someone/not-here" in err


# list


def path_of(name: str) -> str:
    return str(strict(run("show", name, "--json")[0])["file"]["path"])


def test_a_path_is_shown_whole(cache: Path) -> None:
    path = in_cache(cache, "DeepSeek-R1-Distill-Qwen-1.5B-Q8_0.gguf", repo=CATALOG_REPO + "-of-a-Long-Name")
    assert str(path) in run("show", CATALOG_REPO + "-of-a-Long-Name")[0]


def one_of_each(cache: Path) -> None:
    tiny(paths.models_folder() / "my own model.gguf")
    tiny(paths.models_folder() / "DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf", seed=1)
    in_cache(cache, "m-Q4_0.gguf", seed=2)
    in_cache(cache, "m-Q8_0.gguf", seed=3)
    in_cache(cache, "DeepSeek-R1-Distill-Qwen-1.5B-Q8_0.gguf", seed=4, repo=CATALOG_REPO)


def test_every_name_can_be_typed(cache: Path) -> None:
    one_of_each(cache)
    entries = json.loads(run("list", "--json")[0])
    assert len([entry for entry in entries if entry["origin"] != "package"]) == 5
    for entry in entries:
        assert path_of(entry["name"]) == entry["path"]
        assert entry["size"] == os.stat(entry["path"]).st_size
    lines = run("list")[0].splitlines()
    assert lines[0].split() == ["NAME", "QUANT", "SIZE", "USED", "ORIGIN"]
    assert [line.split("  ")[0] for line in lines[1:]] == [entry["name"] for entry in entries]


@pytest.mark.parametrize("case", ["folder", "label", "twins", "no label", "unlabelled", "two versions", "likeness"])
def test_every_name_can_be_typed_in_odd_cases(cache: Path, case: str) -> None:
    match case:
        case "folder":  # a folder of another name
            tiny(paths.models_folder() / "publisher" / "model.gguf")
        case "label":  # a quantization that the catalog does not know
            in_cache(cache, "DeepSeek-R1-Distill-Qwen-1.5B-UD-Q2_K_XL.gguf", repo=CATALOG_REPO)
        case "twins":  # two models in one repository
            for seed, name in enumerate(("a-Q4_0.gguf", "b-Q4_0.gguf")):
                in_cache(cache, name, seed=seed)
        case "no label":
            in_cache(cache, "no-label.gguf")
        case "unlabelled":  # what is here is named in the hint, too
            for seed, name in enumerate(("a.gguf", "b.gguf")):
                in_cache(cache, name, seed=seed)
            assert "a.gguf" in run("show", REPO, code=ExitCode.NO_MODEL)[1]
        case "two versions":
            for seed, commit in enumerate("ab"):
                put_in_cache(cache, REPO, "a-Q4_0.gguf", revision=commit * 40, content=tiny(
                    cache.parent / "made", seed=seed).read_bytes())  # fmt: skip
        case "likeness":
            for seed, maker in enumerate(("", "my_")):
                tiny(paths.models_folder() / f"{maker}DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf", seed=seed)
    for entry in json.loads(run("list", "--json")[0]):
        assert path_of(entry["name"]) == entry["path"]


def test_a_broken_file_in_the_list(cache: Path) -> None:
    one_of_each(cache)
    broken = paths.models_folder() / "broken-Q4_0.gguf"
    broken.write_bytes(b"GGUF and no more")
    out, err = run("list")
    line = next(line for line in out.splitlines() if line.startswith("broken-Q4_0"))
    assert "broken" in line.split()[2:]
    assert "broken-Q4_0.gguf" in err
    assert len(out.splitlines()) == 1 + 7 + 1, "the models, and one inside"
    assert "broken-Q4_0.gguf" in {e["name"]: e["problem"] for e in json.loads(run("list", "--json")[0])}["broken-Q4_0"]
    run("show", "broken-Q4_0", code=ExitCode.BAD_FILE)
    run("verify", "broken-Q4_0", code=ExitCode.BAD_FILE)


@pytest.mark.terminal
@pytest.mark.parametrize("columns", [30, 50, 100])
def test_the_list_on_a_terminal(cache: Path, columns: int) -> None:
    one_of_each(cache)
    tiny(paths.models_folder() / "模型模型模型模型模型模型模型.gguf", seed=9)
    screen = Screen(["list"], columns=columns)
    assert screen.wait() == 0
    rows = [line for line in screen.text.splitlines() if line.strip()]
    assert len(rows) == 1 + 8, "no row wraps"
    assert ("ORIGIN" in rows[0]) == (columns == 100)


# verify


def test_a_damaged_file_is_refused_and_mended_in_words(cache: Path, thinking_model: Path) -> None:
    path = in_cache(cache, "m-Q4_0.gguf", content=thinking_model.read_bytes())
    assert "as published" in run("verify", f"{REPO}:q4_0")[0]
    blob = path.resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    for command in (("verify", f"{REPO}:q4_0"), ("chat", "-m", f"{REPO}:q4_0", "?"), ("verify", "--all")):
        _, err = run(*command, code=ExitCode.BAD_FILE)
        assert "damaged" in err
        assert f"r1local pull {REPO}:q4_0" in err
    report = {entry["name"]: entry for entry in json.loads(run("verify", "--all", "--json", code=4)[0])}
    assert report[f"{REPO}:q4_0"]["sound"] is False
    assert sum(entry["sound"] for entry in report.values()) == len(report) - 1


def test_verify_wants_a_name() -> None:
    run("verify", code=ExitCode.USAGE)
    run("verify", "no-such-model", code=ExitCode.NO_MODEL)


# import and export


def test_import_and_export(tmp_path: Path) -> None:
    source = tiny(tmp_path / "some-model-F32.gguf")
    out, err = run("import", source)
    assert out == f"{paths.models_folder() / source.name}\n"
    shown = re.search(r"chat -m (\S+) ", err)
    assert shown
    run("show", shown[1])
    out, err = run("export", "some-model-F32", tmp_path / "stick")
    assert [Path(line).name for line in out.splitlines()] == [source.name, "manifest.json"]
    run("rm", "some-model-F32", "--yes")
    run("import", tmp_path / "stick")
    assert json.loads(run("list", "--json")[0])[-1]["name"] in ("some-model-F32:f32", "some-model-F32", "smollm2:q4_1")
    run("import", tmp_path / "stick", code=ExitCode.USAGE)
    assert "without a manifest.json" in run("import", tmp_path, code=ExitCode.USAGE)[1]
    run("export", "some-model-F32", source, code=ExitCode.USAGE)
    run("export", "no-such-model", tmp_path / "other", code=ExitCode.NO_MODEL)
    assert not (tmp_path / "other").exists()


# A chat without its model


@pytest.fixture
def hub(no_demo: None, thinking_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serves one small model in place of every thinking one; and no package brings any."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub() as hub:
        for model in load_catalog().models:
            if model.gguf and model.thinks:
                name = model.gguf[0].file.replace("{quant}", model.recommended)
                hub.add(model.gguf[0].repo, {name: thinking_model}, card={"license": "mit"})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.mark.terminal
@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_it_is_offered(hub: Hub, answer: str) -> None:
    screen = Screen(["chat", "-m", "1.5b", "What is 47 + 85?"], columns=200)
    offered = re.search(r"Pull (\S+) now \(about [\d.]+ GB, licence ", screen.until("[y/N]"))
    assert offered
    assert hub.log == [], "nothing is asked of anybody before"
    screen.type(f"{answer}\r")
    code = screen.wait()
    if answer == "y":
        assert code == 0
        assert "132" in screen.text
    else:
        assert code == ExitCode.NO_MODEL
        assert f"r1local pull {offered[1]}" in screen.text.replace("r1-qwen-1.5b", offered[1])
        assert hub.log == []


def test_nothing_is_pulled_unasked(hub: Hub) -> None:
    for flags in (("-m", "1.5b"), ("-m", "1.5b", "--offline", "--yes"), ("-m", "no-such-model", "--yes")):
        out, err = run("chat", *flags, "?", code=ExitCode.NO_MODEL)
        assert out == ""
        assert len(err.splitlines()) >= 2, "with a hint"
    run("chat", "-m", "1.5b", "--yes", "?", code=ExitCode.NO_MODEL, HF_HUB_OFFLINE="1")
    assert hub.log == []


def test_yes_pulls(hub: Hub) -> None:
    assert run("chat", "-m", "1.5b", "--yes", "?")[0] == "47 + 85 = **132**\n"
    hub.log.clear()
    assert run("chat", "-m", "1.5b", "?")[0] == "47 + 85 = **132**\n"
    assert hub.log == []
    names = [entry["name"] for entry in json.loads(run("list", "--json")[0])]
    assert names == ["inside:q8_0", "r1-qwen-1.5b:q8_0"]

"""Every block of weights is looked at, and exactly the tensor that holds a bad one is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from r1local.engine import rows
from r1local.engine.rows import broken_tensors
from r1local.errors import EngineError, ExitCode, ModelFileError
from r1local.gguf_header import read_header
from r1local.gguf_types import TENSOR_TYPES
from tests.test_carry import tiny_split

pytestmark = pytest.mark.engine

# Where the bytes of a scale lie in a block of each type, by ggml/src/ggml-common.h, and how many bytes a block has.
SCALES = {
    "F32": (0, 4, 4),
    "F16": (0, 2, 2),
    "BF16": (0, 2, 2),
    "F64": (0, 8, 8),
    "Q4_0": (0, 2, 18),
    "Q4_1": (2, 2, 20),
    "Q5_0": (0, 2, 22),
    "Q8_0": (0, 2, 34),
    "Q2_K": (80, 2, 84),
    "Q3_K": (108, 2, 110),
    "Q4_K": (2, 2, 144),
    "Q5_K": (0, 2, 176),
    "Q6_K": (208, 2, 210),
    "IQ4_NL": (0, 2, 18),
    "IQ4_XS": (0, 2, 136),
}
NOT_FINITE = {
    ("F64", "nan"): b"\x00\x00\x00\x00\x00\x00\xf8\x7f",
    ("F64", "inf"): b"\x00\x00\x00\x00\x00\x00\xf0\xff",
    ("F32", "nan"): b"\x00\x00\xc0\x7f",
    ("F32", "inf"): b"\x00\x00\x80\xff",
    ("BF16", "nan"): b"\xc0\x7f",
    ("BF16", "inf"): b"\x80\xff",
    ("F16", "nan"): b"\x00\x7e",
    ("F16", "inf"): b"\x00\xfc",
}


def write(path: Path, kind: str, *, blocks: int = 3, tensors: tuple[str, ...] = ("first", "bad", "last")) -> Path:
    """Tensors of zeros, of one type."""
    type_id = next(number for number, (name, _, _) in TENSOR_TYPES.items() if name == kind)
    _, _, size = TENSOR_TYPES[type_id]
    writer = gguf.GGUFWriter(str(path), "qwen2")
    raw = gguf.GGMLQuantizationType(type_id)
    for name in tensors:
        writer.add_tensor(name, np.zeros((1, blocks * size), np.uint8), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def patch(path: Path, tensor: str, offset: int, data: bytes) -> None:
    header = read_header(path)
    where = next(info for info in header.tensors if info.name == tensor)
    with path.open("r+b") as file:
        file.seek(header.data_offset + where.offset + offset)
        file.write(data)


def look(path: Path, on_progress: Callable[[int], None] = lambda _: None, threads: int = 2) -> list[str]:
    return broken_tensors(path, threads=threads, on_progress=on_progress)


def test_a_sound_model(thinking_model: Path) -> None:
    told: list[int] = []
    assert look(thinking_model, told.append) == []
    assert told == sorted(told)
    assert told[-1] == sum(tensor.size for tensor in read_header(thinking_model).tensors)


@pytest.mark.real
def test_the_real_models(real_model: Path) -> None:
    assert look(real_model) == []


def test_zeros_are_sound_in_every_type_that_is_let_in(tmp_path: Path) -> None:
    """A type that the library's look does not know would make every model of it look broken."""
    wrong = []
    validate = rows._validator()
    for type_id, (name, _, size) in TENSOR_TYPES.items():
        block = np.zeros(2 * size, np.uint8)
        if not validate(type_id, block.ctypes.data, block.nbytes):
            wrong.append(name)
    # Types of intermediate results, which no file holds.
    assert [name for name in wrong if name not in ("Q8_1", "Q8_K")] == []


@pytest.mark.parametrize("what", ["nan", "inf"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
def test_the_tensor_with_a_bad_scale_is_named(tmp_path: Path, kind: str, what: str) -> None:
    path = write(tmp_path / "x.gguf", kind)
    offset, _, size = SCALES[kind]
    patch(path, "bad", 2 * size + offset, NOT_FINITE[kind if kind in ("F32", "BF16") else "F16", what])
    assert look(path) == ["bad"]


def test_bad_scales_of_every_type(tmp_path: Path) -> None:
    validate = rows._validator()
    for kind, (offset, _, size) in SCALES.items():
        type_id = next(number for number, (name, _, _) in TENSOR_TYPES.items() if name == kind)
        for what in ("nan", "inf"):
            for block in (0, 1, 4):
                data = np.zeros(5 * size, np.uint8)
                bad = NOT_FINITE[kind if kind in ("F32", "F64", "BF16") else "F16", what]
                start = block * size + offset
                data[start : start + len(bad)] = list(bad)
                assert not validate(type_id, data.ctypes.data, data.nbytes), (kind, what, block)


def test_several_bad_tensors_each_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", "F32", blocks=100, tensors=tuple("abcde"))
    for name in "be":
        for place in (0, 50, 99):
            patch(path, name, 4 * place, NOT_FINITE["F32", "nan"])
    assert look(path) == ["b", "e"]


def test_the_last_number_of_a_tensor_of_many_chunks(tmp_path: Path) -> None:
    """Neither the border of a chunk nor the rest behind the last whole one is passed over."""
    count = 2 * rows._CHUNK_BLOCKS + 7
    for place in (rows._CHUNK_BLOCKS - 1, rows._CHUNK_BLOCKS, count - 1):
        path = write(tmp_path / f"{place}.gguf", "F32", blocks=count, tensors=("a", "b"))
        patch(path, "a", 4 * place, NOT_FINITE["F32", "inf"])
        assert look(path) == ["a"]


def test_names_may_be_hostile(tmp_path: Path) -> None:
    name = '"}\n{"end": true}\x1b]0;x\x07\u202e'
    path = write(tmp_path / "x.gguf", "F32", tensors=("a", name))
    patch(path, name, 0, NOT_FINITE["F32", "nan"])
    assert look(path) == [name]


def children(monkeypatch: pytest.MonkeyPatch, meddle: Callable[[subprocess.Popen[bytes]], None]) -> list[Any]:
    """Every child is handed to `meddle` as soon as it runs."""
    started: list[Any] = []
    real = subprocess.Popen

    def start(*args: Any, **options: Any) -> Any:
        started.append(real(*args, **options))
        meddle(started[-1])
        return started[-1]

    monkeypatch.setattr(rows.subprocess, "Popen", start)
    return started


def test_a_child_that_is_killed(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children(monkeypatch, lambda process: process.kill())
    with pytest.raises(EngineError, match="child process ended with -9") as caught:
        look(random_model)
    assert caught.value.exit_code == ExitCode.ENGINE
    assert caught.value.hint


def test_a_file_cut_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory behind the end of a file is a signal: it hits the child, not the session."""
    path = write(tmp_path / "x.gguf", "F32", blocks=1 << 22, tensors=("a", "b"))
    header = read_header(path)
    code = (
        "import os, r1local.engine.rows as rows; real = rows._validator\n"
        f"rows._validator = lambda: (os.truncate({str(path)!r}, {header.data_offset}), real())[1]\n"
        "rows.child()"
    )
    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return real([*command[:2], code, *command[3:]], **options)

    monkeypatch.setattr(rows.subprocess, "Popen", start)
    with pytest.raises(EngineError, match=f"child process ended with -({int(signal.SIGBUS)}|{int(signal.SIGSEGV)})"):
        look(path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model"])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"x\.gguf"):
        look(path)


def test_stopping_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.gguf", "F32", blocks=1 << 20)
    started = children(monkeypatch, lambda _: None)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(path, stop)
    assert started[0].returncode is not None, "it runs on"


def test_the_file_is_not_changed(random_model: Path) -> None:
    before = (random_model.read_bytes(), random_model.stat().st_mtime_ns)
    look(random_model)
    assert (random_model.read_bytes(), random_model.stat().st_mtime_ns) == before


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "r1local", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=os.environ,
    )  # fmt: skip


def test_verify_names_the_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", "Q8_0", tensors=("blk.0.ffn_up.weight", "blk.7.ffn_down.weight"))
    assert run("verify", path).returncode == ExitCode.OK
    patch(path, "blk.7.ffn_down.weight", 34, NOT_FINITE["F16", "nan"])
    result = run("verify", path)
    assert result.returncode == ExitCode.BAD_FILE
    assert "blk.7.ffn_down.weight" in result.stderr
    assert "blk.0" not in result.stderr
    assert "every scale" not in result.stdout
    assert "Traceback" not in result.stderr


# Parts that are links


def test_parts_of_one_folder_may_be_linked(tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for part in tiny_split(tmp_path / "real"):
        (linked / part.name).symlink_to(part)
    assert len(read_header(linked / "big-F32-00001-of-00003.gguf").parts) == 2


@pytest.mark.parametrize("number", [1, 2])
def test_a_part_that_leads_away_is_refused(tmp_path: Path, number: int) -> None:
    parts, others = tiny_split(tmp_path / "mine"), tiny_split(tmp_path / "secret")
    parts[number].unlink()
    parts[number].symlink_to(others[number])
    with pytest.raises(ModelFileError, match="leads away") as caught:
        read_header(parts[0])
    assert caught.value.exit_code == ExitCode.BAD_FILE

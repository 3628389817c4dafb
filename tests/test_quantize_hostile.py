"""Checkpoints, GGUF files and importance matrices from strangers: one plain sentence for every lie, and nothing else.

Every file here is made to lie on purpose. A lie may not crash, hang, fill the memory, read what lies elsewhere on the
machine, or leave a result behind.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors as reference
from gguf import GGUFValueType
from hypothesis import given
from hypothesis import strategies as st

import quantize.vocabulary
from quantize import conversion
from quantize.architectures import architecture_of, config_of, read_config
from quantize.bounded import read_bytes
from quantize.checkpoint import INDEX, shard_names, shard_tensors
from quantize.comparison import compare
from quantize.config import ModelConfig
from quantize.conversion import Options
from quantize.convert import CheckpointConversion, convert_checkpoint, requantize
from quantize.errors import BadSource, QuantizeError, TokenizerDiffers, Unsupported, printable
from quantize.gguf_format import Key, StoredTensor, make_key, padded, read_gguf, write_header
from quantize.imatrix import read_imatrix
from quantize.kernels import Kernels
from quantize.layout import plan
from quantize.metadata import Origin, general_keys
from quantize.recipes import Wish
from quantize.safetensors import MAX_HEADER, read_safetensors
from quantize.special_tokens import special_tokens
from quantize.tokenizer_json import SPLITS, read_tokenizer
from quantize.vocabulary import TEXTS, Vocabulary
from tests import mutants
from tests.checkpoints import SMALL_TOKENIZERS, write_checkpoint
from tests.mutants import ARRAY, BOOL, F32, I8, STRING, U16, U32, U64, key, tensor

resource = pytest.importorskip("resource", reason="memory is not counted here")

MIB = 1 << 20
REPOSITORY = Path(__file__).parent.parent
TOKEN_IDS = REPOSITORY / "quantize" / "token_ids.py"
EVIL_REGEX = "(a+)+$"
NEEDS_FIFO = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
NEEDS_LINKS = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege here")
Edit = tuple[tuple[str | int, ...], Any]
"""Where in a JSON file, and what stands there instead; `...` takes it out."""


def is_plain(error: QuantizeError) -> bool:
    """One line each, and nothing in it that moves a terminal's cursor."""
    return bool(error.message) and error.message.isprintable() and error.hint.isprintable() and str(error).isprintable()


def refusal(act: Callable[[], Any], kind: type[QuantizeError] = QuantizeError) -> QuantizeError:
    """What `act` was refused with."""
    with pytest.raises(kind) as caught:
        act()
    assert is_plain(caught.value)
    return caught.value


def is_done(act: Callable[[], Any]) -> bool:
    """Whether `act` went through; a refusal is as good, if it is a plain sentence."""
    refused_with: QuantizeError | None = None
    try:
        act()
    except QuantizeError as error:
        refused_with = error
    assert refused_with is None or is_plain(refused_with)
    return refused_with is None


def edited(tree: Any, *edits: Edit) -> Any:
    tree = copy.deepcopy(tree)
    for (*way, last), value in edits:
        place = tree
        for step in way:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return tree


def write(path: Path, value: Any) -> Path:
    """JSON, or bytes as they are."""
    path.write_bytes(value if isinstance(value, bytes) else mutants.dumped(value).encode("utf-8", "surrogatepass"))
    return path


def options() -> Options:
    return Options(Kernels("c"), 2, threading.Event())


def in_child(code: str, *, seconds: float = 60, memory: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `code` where it may crash, hang and fill no more than `memory` bytes."""
    bound = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))\n" if memory else ""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", bound + code],
        capture_output=True, text=True, timeout=seconds, cwd=REPOSITORY,
        env={**os.environ, "GGML_NO_BACKTRACE": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def peak_of(act: Callable[[], Any]) -> int:
    """Bytes that Python had at most while `act` ran, refusals included."""
    tracemalloc.start()
    try:
        act()
    except QuantizeError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


opened: set[str] | None = None
"""What is being opened, while a test looks at it."""


def _note_open(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and opened is not None and isinstance(arguments[0], str):
        opened.add(os.path.normpath(arguments[0]))


sys.addaudithook(_note_open)


@pytest.fixture
def opens() -> Iterator[set[str]]:
    """The paths of every file that is opened during the test."""
    global opened
    opened = set()
    yield opened
    opened = None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint that is as it should be."""
    return write_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "good", layers=1, hidden=64, heads=2, kv_heads=1, ffn=64
    )


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> Path:
    target = checkpoint.with_name("good.gguf")
    convert_checkpoint(checkpoint, target, Wish("Q8_0"), options())
    return target


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of its own, to be spoiled."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


@given(st.text())
def test_a_message_is_one_printable_line_whatever_names_are_in_it(name: str) -> None:
    assert is_plain(BadSource(f"The tensor {name}.", f"Look at {name}."))
    assert printable(printable(name)) == printable(name)


# --- safetensors ------------------------------------------------------------------------------------------------------


def entry(dtype: str = '"F32"', shape: str = "[2]", offsets: str = "[0,8]", extra: str = "") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{extra}}}'


def one(*arguments: str) -> str:
    """The header of one tensor of 8 bytes."""
    return f'{{"a":{entry(*arguments)}}}'


GOOD_ENTRY = entry()
# Numbers that are none, and numbers that are too large or below zero.
BAD_NUMBERS = (
    "-1", "-0", "-0.0", "1e3", "8e0", "1.0", "8.0", "0.5", "true", "false", "null", '"8"', "NaN", "Infinity",
    "-Infinity", "9223372036854775808", "18446744073709551615", "18446744073709551616", "9" * 100, "9" * 5000,
    "08", "+8", "0x8", "[8]", "{}", "8.", "--8",
)  # fmt: skip
BAD_HEADERS: dict[str, tuple[str | bytes, int]] = {
    "no brace first": ("[]", 0),
    "blank first": (' {"a":' + GOOD_ENTRY + "}", 8),
    "byte order mark": ("\ufeff{}", 0),
    "text": ('"a"', 0),
    "number": ("12", 0),
    "cut off": ('{"a":', 8),
    "never closed": (one()[:-1], 8),
    "more behind": (one() + "x", 8),
    "second object": (one() + "{}", 8),
    "zeros behind": (one() + "\0\0", 8),
    "single quotes": ("{'a':" + GOOD_ENTRY + "}", 8),
    "comment": ("{/*a*/}", 0),
    "comma at the end": ('{"a":' + GOOD_ENTRY + ",}", 8),
    "line break in a name": ('{"a\nb":' + GOOD_ENTRY + "}", 8),
    "bad UTF-8": (b'{"\xff":' + GOOD_ENTRY.encode() + b"}", 8),
    "surrogate in UTF-8": ('{"\ud800":' + GOOD_ENTRY + "}", 8),
    "UTF-16": (one().encode("utf-16-le"), 8),
    "lone surrogate": ('{"\\ud800":' + GOOD_ENTRY + "}", 8),
    "surrogates the wrong way": ('{"\\udc00\\ud800":' + GOOD_ENTRY + "}", 8),
    "name twice": ('{"a":' + GOOD_ENTRY + ',"a":' + GOOD_ENTRY + "}", 8),
    "name twice, once escaped": ('{"a":' + GOOD_ENTRY + ',"\\u0061":' + GOOD_ENTRY + "}", 8),
    "field twice": (one('"F32"', "[2]", "[0,8]", ',"dtype":"F32"'), 8),
    "metadata twice": ('{"__metadata__":{},"__metadata__":{},"a":' + GOOD_ENTRY + "}", 8),
    "metadata key twice": ('{"__metadata__":{"k":"1","k":"2"},"a":' + GOOD_ENTRY + "}", 8),
    "gap in front": (one('"F32"', "[2]", "[8,16]"), 16),
    "gap": ('{"a":' + GOOD_ENTRY + ',"b":' + entry(offsets="[9,17]") + "}", 17),
    "overlap": ('{"a":' + GOOD_ENTRY + ',"b":' + entry(offsets="[4,12]") + "}", 12),
    "same place": ('{"a":' + GOOD_ENTRY + ',"b":' + GOOD_ENTRY + "}", 8),
    "no bytes in the middle of another": (
        '{"a":' + GOOD_ENTRY + ',"b":' + entry(shape="[0]", offsets="[4,4]") + "}", 8,
    ),
    "bytes left over": (one(), 9),
    "bytes missing": (one(), 7),
    "no data": (one(), 0),
    "more bytes than the shape needs": (one('"F32"', "[1]", "[0,8]"), 8),
    "fewer bytes than the shape needs": (one('"F32"', "[3]", "[0,8]"), 8),
    "other type than the bytes": (one('"F16"', "[2]", "[0,8]"), 8),
    "ends before it begins": (one('"F32"', "[2]", "[8,0]"), 8),
    "product around 2^64": (one('"F32"', "[4294967296,4294967296,2]", "[0,8]"), 8),
    "product that wraps to the right number": (one('"U8"', "[9223372036854775807,2,8]", "[0,8]"), 8),
    "one offset": (one('"F32"', "[2]", "[8]"), 8),
    "three offsets": (one('"F32"', "[2]", "[0,4,8]"), 8),
    "no offsets": (one('"F32"', "[2]", "[]"), 8),
    "rank 65": (one('"F32"', "[" + "1," * 64 + "2]", "[0,8]"), 8),
    "entry without a type": ('{"a":{"shape":[2],"data_offsets":[0,8]}}', 8),
    "entry without a shape": ('{"a":{"dtype":"F32","data_offsets":[0,8]}}', 8),
    "entry without a place": ('{"a":{"dtype":"F32","shape":[2]}}', 8),
    "empty entry": ('{"a":{}}', 0),
    "extra field": (one('"F32"', "[2]", "[0,8]", ',"strides":[1]'), 8),
    "nested 10,000 deep": ('{"a":' + "[" * 10_000 + "]" * 10_000 + "}", 0),
    "objects 10,000 deep": ('{"a":' * 10_000 + "1" + "}" * 10_000, 0),
    "10,000 brackets": ("{" * 10_000, 0),
    "shape 10,000 deep": (one('"F32"', "[" * 10_000 + "]" * 10_000, "[0,8]"), 8),
    **{f"entry is {what}": ('{"a":' + what + "}", 0) for what in ("[]", "1", '"F32"', "null", "true")},
    **{f"type {what[:20]}": (one(what, "[2]", "[0,8]"), 8) for what in (
        '"F128"', '"f32"', '"F32 "', '""', '"F32\\u0000"', '"F4"', '"Q4_K"', "5", "null", "[]", '["F32"]', "{}", "true",
    )},
    **{f"shape {what}": (one('"F32"', what, "[0,8]"), 8) for what in ("2", '"2"', "{}", "null", '{"0":2}', '"[2]"')},
    **{f"offsets {what}": (one('"F32"', "[2]", what), 8) for what in ("8", '"0,8"', "{}", "null", '{"0":0,"1":8}')},
    **{f"metadata {what[:20]}": ('{"__metadata__":' + what + ',"a":' + GOOD_ENTRY + "}", 8) for what in (
        "[]", '"pt"', "1", "null", "true", '{"k":1}', '{"k":null}', '{"k":["v"]}', '{"k":{"k":"v"}}', "[[]]",
        '{"k":NaN}',
    )},
    **{f"length {what[:24]}": (one('"F32"', f"[{what}]", "[0,8]"), 8) for what in BAD_NUMBERS},
    **{f"begin {what[:24]}": (one('"F32"', "[2]", f"[{what},8]"), 8) for what in BAD_NUMBERS},
    **{f"end {what[:24]}": (one('"F32"', "[2]", f"[0,{what}]"), 8) for what in BAD_NUMBERS if what != "8.0"},
}  # fmt: skip


def assert_read_alike(path: Path) -> dict[str, StoredTensor]:
    """What is accepted, after a look at how the format's own library reads it: it raises for what it refuses."""
    data, found = path.read_bytes(), read_safetensors(path)
    theirs = dict(reference.deserialize(data))
    assert set(theirs) == set(found)
    for name, about in theirs.items():
        ours = found[name]
        assert (list(ours.shape), ours.type) == (about["shape"], about["dtype"])
        assert data[ours.offset :][: len(about["data"])] == about["data"]
    return found


@pytest.mark.parametrize("label", BAD_HEADERS)
def test_a_header_that_breaks_one_rule_is_refused(label: str, tmp_path: Path) -> None:
    header, data = BAD_HEADERS[label]
    path = write(tmp_path / "a.safetensors", mutants.safetensors_bytes(header, data))
    refusal(lambda: read_safetensors(path), BadSource)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (one(), 8),
        (one() + "  \n\t", 8),
        ("{}", 0),
        ('{"__metadata__":{}}', 0),
        (one('"F32"', "[]", "[0,4]"), 4),
        (one('"U8"', "[" + "1," * 63 + "2]", "[0,2]"), 2),
        (one('"F32"', "[0]", "[0,0]"), 0),
        ('{"b":' + entry(shape="[0]", offsets="[8,8]") + ',"a":' + GOOD_ENTRY + "}", 8),
        ('{"b":' + entry(offsets="[8,16]") + ',"a":' + GOOD_ENTRY + "}", 16),
        ('{"\\ud83e\\udd99":' + GOOD_ENTRY + "}", 8),
    ],
)
def test_a_header_at_the_edge_of_the_rules_is_read(header: str, data: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", mutants.safetensors_bytes(header, data))
    assert_read_alike(path)


@pytest.mark.parametrize("size", [*range(17), 40])
def test_a_file_of_zeros_is_no_safetensors_file(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", bytes(size))
    refusal(lambda: read_safetensors(path), BadSource)


@pytest.mark.parametrize("length", [0, 1, 40, 41, 10**6, MAX_HEADER + 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_a_header_that_is_longer_or_shorter_than_can_be_is_refused(length: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", mutants.safetensors_bytes(one(), 8, length))
    refusal(lambda: read_safetensors(path), BadSource)


def test_a_header_above_100_mb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1) + b"{")
        file.truncate(MAX_HEADER + 4096)  # there, and no disk is used
    assert peak_of(lambda: refusal(lambda: read_safetensors(path), BadSource)) < MIB


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = mutants.safetensors_bytes(mutants.dumped(mutants.HEADER), mutants.HEADER_DATA)
    assert len(read_safetensors(write(tmp_path / "a.safetensors", whole))) == 5
    for size in range(len(whole)):
        path = write(tmp_path / "a.safetensors", whole[:size])
        refusal(lambda path=path: read_safetensors(path), BadSource)


def test_more_than_100_000_tensors_are_refused(tmp_path: Path) -> None:
    def header(count: int) -> str:
        return "{" + ",".join(f'"{number}":{entry(shape="[0]", offsets="[0,0]")}' for number in range(count)) + "}"

    path = write(tmp_path / "a.safetensors", mutants.safetensors_bytes(header(100_001)))
    assert "100,000" in refusal(lambda: read_safetensors(path), BadSource).message
    write(path, mutants.safetensors_bytes(header(100_000)))
    assert len(read_safetensors(path)) == 100_000


@pytest.mark.parametrize("name", ["\\u001b[2J", "a\\nb", "\\u202egnp", "\\u2028", "\\u0000", "\\u009b31m", "x" * 9999])
def test_a_tensors_name_cannot_draw_on_the_terminal(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", mutants.safetensors_bytes(f'{{"{name}":{entry(shape="[3]")}}}', 8))
    assert len(refusal(lambda: read_safetensors(path), BadSource).message) < 800


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param('{"\\ud800":"v"}', id="key"),
        pytest.param('{"k":"\\ud800"}', id="value"),
    ],
)
def test_half_a_character_in_the_metadata_is_refused(metadata: str, tmp_path: Path) -> None:
    data = mutants.safetensors_bytes(f'{{"__metadata__":{metadata},"a":{GOOD_ENTRY}}}', 8)
    with pytest.raises(reference.SafetensorError):
        reference.deserialize(data)
    path = write(tmp_path / "a.safetensors", data)
    refusal(lambda: read_safetensors(path), BadSource)


def test_a_shape_whose_product_overflows_before_a_zero_is_refused(tmp_path: Path) -> None:
    data = mutants.safetensors_bytes(one('"F32"', "[4611686018427387904,4,0]", "[0,0]"))
    with pytest.raises(reference.SafetensorError):
        reference.deserialize(data)
    path = write(tmp_path / "a.safetensors", data)
    refusal(lambda: read_safetensors(path), BadSource)


# --- config.json ------------------------------------------------------------------------------------------------------


def config_fields(architecture: str = "qwen2", **changes: Any) -> dict[str, Any]:
    fields = {
        "architectures": [{"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[architecture]],
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 600, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rope_scaling": None,
    }  # fmt: skip
    fields.update(changes)
    return {name: value for name, value in fields.items() if value is not ...}


SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings", "head_dim",
)  # fmt: skip
NO_SIZES: dict[str, Any] = {
    "negative": -1, "zero": 0, "2^31": 1 << 31, "2^63": 1 << 63, "10^300": 10**300, "text": "64", "true": True,
    "list": [64], "object": {"a": 64}, "real": 64.0, "a little": 1e-300, "infinite": mutants.Raw("1e400"), "empty": "",
    "false": False, "5,000 digits": mutants.Raw("9" * 5000), "NaN": mutants.Raw("NaN"),
}  # fmt: skip


@pytest.mark.parametrize("value", NO_SIZES)
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_none_is_refused(name: str, value: str, tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", config_fields(**{name: NO_SIZES[value]}))
    refusal(lambda: read_config(path), BadSource)


BAD_CONFIGS: dict[str, Any] = {
    "empty": b"",
    "one brace": b"{",
    "list": b"[]",
    "null": b"null",
    "text": b'"config"',
    "NaN": b'{"rms_norm_eps": NaN}',
    "Infinity": b'{"rope_theta": Infinity}',
    "minus Infinity": b'{"rope_theta": -Infinity}',
    "10,000 brackets": b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "500,000 brackets": b"[" * 500_000,
    "above 1 MiB": {**config_fields(), "note": "x" * MIB},
    "key twice": json.dumps(config_fields())[:-1].encode() + b', "hidden_size": 64}',
    "key twice, deep": json.dumps(config_fields())[:-1].encode() + b', "a": [{"b": 1, "b": 2}]}',
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(config_fields()).encode(),
    "UTF-16": json.dumps(config_fields()).encode("utf-16"),
    "UTF-32": json.dumps(config_fields()).encode("utf-32"),
    "Latin-1": json.dumps(config_fields(note="é"), ensure_ascii=False).encode("latin-1"),
    "zeros": bytes(4096),
    "GGUF": b"GGUF" + bytes(100),
    "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "comment": b"// config\n{}",
    "no architectures": config_fields(architectures=...),
    "architectures null": config_fields(architectures=None),
    "architectures empty": config_fields(architectures=[]),
    "architectures text": config_fields(architectures="Qwen2ForCausalLM"),
    "architectures number": config_fields(architectures=[5]),
    "architectures nested": config_fields(architectures=[["Qwen2ForCausalLM"]]),
    "architectures object": config_fields(architectures={"0": "Qwen2ForCausalLM"}),
    "foreign architecture": config_fields(architectures=["EvilForCausalLM"]),
    "module as architecture": config_fields(architectures=["os.system"]),
    "path as architecture": config_fields(architectures=["../../etc/passwd"]),
    "escape as architecture": config_fields(architectures=["\x1b]0;title\x07\u202e\n" * 100]),
    "quantized": config_fields(quantization_config={"quant_method": "fp8"}),
    "quantized, as text": config_fields(quantization_config="fp8"),
    "513 layers": config_fields(num_hidden_layers=513),
    "heads in no groups": config_fields(num_key_value_heads=3),
    "more key heads than heads": config_fields(num_key_value_heads=8),
    "width between the heads": config_fields(hidden_size=65),
    "odd heads": config_fields(hidden_size=60),
    "odd heads by name": config_fields(head_dim=33),
    "epsilon zero": config_fields(rms_norm_eps=0),
    "epsilon negative": config_fields(rms_norm_eps=-1e-6),
    "epsilon text": config_fields(rms_norm_eps="1e-6"),
    "epsilon true": config_fields(rms_norm_eps=True),
    "epsilon list": config_fields(rms_norm_eps=[1e-6]),
    "epsilon infinite": config_fields(rms_norm_eps=mutants.Raw("1e400")),
    "theta text": config_fields(rope_theta="10000"),
    "theta list": config_fields(rope_theta=[10000]),
    "theta true": config_fields(rope_theta=True),
    "theta infinite": config_fields(rope_theta=mutants.Raw("1e999")),
    "theta of 400 digits": config_fields(rope_theta=10**400),
    "context text": config_fields(original_max_position_embeddings="4096"),
    "rope list": config_fields(rope_scaling=[1]),
    "rope text": config_fields(rope_scaling="yarn"),
    "rope number": config_fields(rope_scaling=8),
    "rope true": config_fields(rope_scaling=True),
    "rope type number": config_fields(rope_scaling={"rope_type": 5, "factor": 2.0}),
    "rope type list": config_fields(rope_scaling={"type": ["yarn"], "factor": 2.0}),
    "rope factor text": config_fields(rope_scaling={"rope_type": "linear", "factor": "2"}),
    "rope factor true": config_fields(rope_scaling={"rope_type": "linear", "factor": True}),
    "rope factor list": config_fields(rope_scaling={"rope_type": "linear", "factor": [2]}),
    "rope factor object": config_fields(rope_scaling={"rope_type": "linear", "factor": {}}),
    "rope factor infinite": config_fields(rope_scaling={"rope_type": "linear", "factor": mutants.Raw("1e400")}),
    "rope unknown field": config_fields(rope_scaling={"rope_type": "linear", "factor": 2.0, "sections": [1, 2]}),
    "rope parameters list": config_fields(rope_parameters=[1]),
}  # fmt: skip


@pytest.mark.parametrize("label", BAD_CONFIGS)
def test_a_configuration_that_makes_no_sense_is_refused(label: str, tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", BAD_CONFIGS[label])
    error = refusal(lambda: read_config(path))
    assert isinstance(error, BadSource | Unsupported)
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}},
        {"auto_map": 5},
        {"_attn_implementation_internal": "evil/kernels"},
        {"_attn_implementation_internal": ["x"], "_attn_implementation": {"": None}},
        {"custom_pipelines": {"evil": {"impl": "modeling_evil.Evil"}}, "trust_remote_code": True},
        {"quantization_config": {}},
        {"quantization_config": None},
        {"architectures": ["Qwen2ForCausalLM", "modeling_evil.Evil"]},
    ],
)
def test_what_would_run_code_elsewhere_means_nothing_here(
    changes: dict[str, Any], tmp_path: Path, opens: set[str]
) -> None:
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit('it ran')\n")
    path = write(tmp_path / "config.json", config_fields(**changes))
    opens.clear()
    found = read_config(path)
    plain = config_of(config_fields())
    assert [getattr(found, name) for name in ("hidden", "layers", "heads", "rope")] == [
        getattr(plain, name) for name in ("hidden", "layers", "heads", "rope")
    ]
    assert "modeling_evil" not in sys.modules
    assert {name for name in opens if name.startswith(str(tmp_path))} == {str(path)}


def written(fields: dict[str, Any]) -> None:
    """Everything that is made of a configuration alone."""
    config = config_of(fields)
    layout = plan(config, Wish("Q8_0"))
    with np.errstate(all="ignore"):
        write_header(architecture_of(config.model_class).keys(config), layout.stored)
        for planned in layout.tensors:
            values = np.asarray(planned.wanted.values, np.float32)
            if not np.isfinite(values).all():
                raise AssertionError(f"{planned.wanted.name} would not be finite")


ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(config_fields(rope_theta=1e200), id="theta beyond float32"),
        pytest.param(config_fields(rope_theta=10**200), id="theta of 200 digits"),
        pytest.param(config_fields(rms_norm_eps=1e100), id="epsilon beyond float32"),
        pytest.param(config_fields("llama", rope_scaling={**ROPE, "factor": 1e200}), id="llama3 factor beyond float32"),
        pytest.param(config_fields("llama", rope_scaling={**ROPE, "factor": 1e-200}), id="llama3 factor of nothing"),
        pytest.param(config_fields(rope_scaling={**YARN, "factor": 1e99}), id="yarn factor beyond float32"),
        pytest.param(config_fields(rope_scaling={**YARN, "beta_fast": 1e99}), id="yarn beta beyond float32"),
        pytest.param(
            config_fields(rope_scaling={**YARN, "original_max_position_embeddings": -1}), id="yarn context negative"
        ),
        pytest.param(
            config_fields(rope_scaling={**YARN, "original_max_position_embeddings": 1 << 40}), id="yarn context 2^40"
        ),
    ],
)
def test_a_number_that_gguf_cannot_hold_is_refused(fields: dict[str, Any]) -> None:
    refusal(lambda: written(fields), QuantizeError)


@pytest.mark.parametrize(
    "fields",
    [
        config_fields(rope_parameters={"rope_theta": None}),
        config_fields("llama", rope_scaling={**ROPE, "factor": None}),
        config_fields("llama", rope_scaling={**ROPE, "low_freq_factor": None}),
        config_fields(rope_scaling={**YARN, "original_max_position_embeddings": None, "beta_fast": None}),
        config_fields(rope_scaling={**YARN, "rope_type": None}),
    ],
)
def test_null_is_as_good_as_nothing_in_rotary_positions(fields: dict[str, Any]) -> None:
    written(fields)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "factor": 2.0},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": None},
        {"rope_type": "YARN", "factor": 2.0, "original_max_position_embeddings": 5},
        {"rope_type": "\x1b[2J"},
        {"rope_type": "x" * 100_000},
        {"type": "su", "factor": 2.0},
    ],
)
def test_rotary_positions_of_another_kind_are_refused(rope: dict[str, Any]) -> None:
    assert len(refusal(lambda: written(config_fields(rope_scaling=rope)), Unsupported).message) < 300


@pytest.mark.parametrize("changes", [{"factor": 0.0}, {"factor": -8.0}, {"low_freq_factor": 9.0}, {"rope_theta": 0.0}])
def test_a_stretch_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    refusal(lambda: written(config_fields("llama", rope_scaling={**ROPE, **changes})), BadSource)


# --- files that are no files ------------------------------------------------------------------------------------------


def snapshot(parent: Path) -> tuple[Path, Path]:
    """A snapshot's folder and its blobs, as the shared cache has them."""
    home = parent / "hub" / "models--someone--model"
    folder, blobs = home / "snapshots" / ("c" * 40), home / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    return folder, blobs


@NEEDS_LINKS
@pytest.mark.parametrize("digest", ["a" * 40, "0123456789abcdef" * 4])
def test_a_link_of_the_shared_cache_into_its_blobs_is_followed(digest: str, tmp_path: Path) -> None:
    folder, blobs = snapshot(tmp_path)
    write(blobs / digest, config_fields())
    (folder / "config.json").symlink_to(f"../../blobs/{digest}")
    assert read_config(folder / "config.json").hidden == 64


@NEEDS_LINKS
@pytest.mark.parametrize(
    "link",
    [
        "/etc/passwd",
        "../../../../../../../../../../etc/passwd",
        "{blobs}/" + "a" * 40,
        "../../blobs/../blobs/" + "a" * 40,
        "../../blobs/" + "a" * 39,
        "../../blobs/" + "A" * 40,
        "../../blobs/" + "a" * 40 + "/../" + "a" * 40,
        "../../blobs/" + "a" * 40 + "\n",
        "../blobs/" + "a" * 40,
        "../../../models--other--model/blobs/" + "a" * 40,
        "beside.json",
        "config.json",
        "missing",
        "/dev/zero",
        "/proc/self/environ",
    ],
)
def test_a_link_to_anywhere_else_is_refused_unopened(link: str, tmp_path: Path, opens: set[str]) -> None:
    folder, blobs = snapshot(tmp_path)
    other = tmp_path / "hub" / "models--other--model" / "blobs"
    other.mkdir(parents=True)
    for place in (blobs / ("a" * 40), other / ("a" * 40), folder / "beside.json"):
        write(place, config_fields())
    path = folder / "config.json"
    path.symlink_to(link.format(blobs=blobs))
    before = set(opens)
    refusal(lambda: read_config(path), BadSource)
    assert opens == before
    beside = tmp_path / "config.json"  # no snapshot at all
    beside.symlink_to("../../blobs/" + "a" * 40)
    refusal(lambda: read_config(beside), BadSource)


@NEEDS_LINKS
def test_a_blob_that_is_a_link_out_of_the_cache_is_refused(tmp_path: Path) -> None:
    folder, blobs = snapshot(tmp_path)
    secret = write(tmp_path / "secret", config_fields())
    (blobs / ("a" * 40)).symlink_to(secret)
    (folder / "config.json").symlink_to("../../blobs/" + "a" * 40)
    refusal(lambda: read_config(folder / "config.json"), BadSource)


@NEEDS_LINKS
@pytest.mark.parametrize(
    ("link", "is_followed"),
    [
        ("../../blobs/ab/" + "b" * 64, True),
        ("../../blobs/ab/" + "c" * 64, False),  # a link itself
        ("../../blobs/ab/" + "b" * 63, False),
        ("../../blobs/" + "b" * 64, False),
        ("../../../blobs/ab/" + "b" * 64, False),
        ("../blobs/ab/" + "b" * 64, False),
        ("{hub}/blobs/ab/" + "b" * 64, False),
        ("a" * 40, False),  # of itself
    ],
)
def test_a_blob_may_be_a_link_into_what_the_repositories_of_the_cache_share(
    link: str, is_followed: bool, tmp_path: Path
) -> None:
    folder, blobs = snapshot(tmp_path)
    for store in (tmp_path / "hub" / "blobs", tmp_path / "blobs"):
        (store / "ab").mkdir(parents=True)
        write(store / "ab" / ("b" * 64), config_fields())
        (store / "ab" / ("c" * 64)).symlink_to("b" * 64)
    (blobs / ("a" * 40)).symlink_to(link.format(hub=tmp_path / "hub"))
    (folder / "config.json").symlink_to("../../blobs/" + "a" * 40)
    assert is_done(lambda: read_config(folder / "config.json")) == is_followed


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero, which never ends
    except (OSError, AttributeError):
        pytest.skip("devices cannot be made here")
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        pytest.skip("devices cannot be opened here")


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


ODD_FILES = (make_directory, pytest.param(make_fifo, marks=NEEDS_FIFO), make_device, make_link)
READERS: dict[str, Callable[[Path], Any]] = {
    "config": read_config,
    "safetensors": read_safetensors,
    "gguf": read_gguf,
    "imatrix": read_imatrix,
    "tokenizer": lambda path: read_tokenizer(path, 600),
    "card": lambda path: read_bytes(path, 100),
}


@NEEDS_LINKS
@pytest.mark.parametrize("make", ODD_FILES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_plain_file_is_refused_at_once(reader: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    make(path)
    started = time.monotonic()
    refusal(lambda: READERS[reader](path), BadSource)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("reader", "name"),
    [(reader, name) for reader in READERS for name in ("missing", "nul\0l", "x" * 300, "\ud800", "missing/there")],
)
def test_a_file_that_cannot_be_opened_is_refused(reader: str, name: str, tmp_path: Path) -> None:
    refusal(lambda: READERS[reader](tmp_path / name), BadSource)


@NEEDS_LINKS
@pytest.mark.parametrize("make", ODD_FILES)
@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors", INDEX],
)
def test_a_checkpoint_with_an_odd_file_is_refused(
    name: str, make: Callable[[Path], None], copied: Path, tmp_path: Path
) -> None:
    (copied / name).unlink(missing_ok=True)
    make(copied / name)
    target = tmp_path / "out.gguf"
    refusal(lambda: convert_checkpoint(copied, target, Wish("Q8_0"), options()), BadSource)
    assert not target.exists()


# --- the index --------------------------------------------------------------------------------------------------------

BAD_SHARDS: dict[str, Any] = {
    "..": "../secret.safetensors", "deep ..": "a/../../secret.safetensors", "absolute": "/etc/secret.safetensors",
    "folder": "sub/secret.safetensors", "backslash": "..\\secret.safetensors", "drive": "C:\\secret.safetensors",
    "NUL": "a\0.safetensors", "NUL behind": "a.safetensors\0", "line break": "a.safetensors\n", "empty": "",
    "dot": ".safetensors", "hidden": ".a.safetensors", "dots": "...safetensors", "other": "a.bin",
    "dash": "-a.safetensors",
    "blank": "a b.safetensors", "number": 5, "null": None, "list": ["a.safetensors"], "object": {"a": 1}, "true": True,
    "escape": "\x1b[2J.safetensors", "bidi": "a\u202e.safetensors", "long": "/" * 10_000, "pickle": "pytorch_model.bin",
    "device": "/dev/zero", "stream": "a.safetensors:stream", "tilde": "~/a.safetensors",
    "url": "https://a/b.safetensors",
}  # fmt: skip


@pytest.mark.parametrize("label", BAD_SHARDS)
def test_an_index_that_leads_elsewhere_is_refused_and_nothing_there_is_opened(
    label: str, copied: Path, tmp_path: Path, opens: set[str]
) -> None:
    for place in (tmp_path / "secret.safetensors", copied / "sub" / "secret.safetensors"):
        place.parent.mkdir(exist_ok=True)
        shutil.copy(copied / "model.safetensors", place)
    names = list(read_safetensors(copied / "model.safetensors"))
    shards = {name: BAD_SHARDS[label] if number == 3 else "model.safetensors" for number, name in enumerate(names)}
    write(copied / INDEX, {"metadata": {}, "weight_map": shards})
    opens.clear()
    refusal(lambda: convert_checkpoint(copied, tmp_path / "out.gguf", Wish("Q8_0"), options()), BadSource)
    assert {path for path in opens if path.startswith(str(tmp_path))} <= {
        str(copied / name) for name in ("config.json", INDEX)
    }
    assert "/etc/secret.safetensors" not in opens


@pytest.mark.parametrize(
    "index",
    [
        {}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": None}, {"weight_map": "a.safetensors"},
        {"weight_map": 5}, {"weight_map": [["a", "a.safetensors"]]}, {"metadata": {"total_size": 5}}, b"[]", b"",
        b"\xff",
        b'{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}', b'{"weight_map": ' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_index_without_a_map_is_refused(index: Any, copied: Path) -> None:
    write(copied / INDEX, index)
    refusal(lambda: shard_names(copied), BadSource)


def test_an_index_above_its_bound_is_refused(copied: Path) -> None:
    with (copied / INDEX).open("wb") as file:
        file.truncate((16 << 20) + 1)
    refusal(lambda: shard_names(copied), BadSource)


@pytest.mark.parametrize("change", ["one more", "one less", "other name", "in two shards"])
def test_an_index_that_disagrees_with_its_shards_is_refused(change: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", layers=2, hidden=64, heads=2, kv_heads=1, ffn=64, shards=2)
    index = json.loads((folder / INDEX).read_text())
    places = index["weight_map"]
    first = next(iter(places))
    other = next(shard for shard in places.values() if shard != places[first])
    if change == "one more":
        places["model.\x1b[2Jmore\u202e"] = places[first]
    elif change == "one less":
        del places[first]
    elif change == "other name":
        places["model.other"] = places.pop(first)
    else:
        size = math.prod((600, 64)) * 2
        header = json.loads((folder / other).read_bytes()[8:][: _header_length(folder / other)])
        end = max(about["data_offsets"][1] for name, about in header.items() if name != "__metadata__")
        header[first] = {"dtype": "BF16", "shape": [600, 64], "data_offsets": [end, end + size]}
        write(folder / other, mutants.safetensors_bytes(json.dumps(header), end + size))
    write(folder / INDEX, index)
    target = tmp_path / "out.gguf"
    refusal(lambda: convert_checkpoint(folder, target, Wish("Q8_0"), options()), BadSource)
    assert not target.exists()


def _header_length(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:8], "little")


@NEEDS_LINKS
@pytest.mark.parametrize("make", [make_directory, pytest.param(make_fifo, marks=NEEDS_FIFO), make_link])
def test_a_shard_that_is_no_plain_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.safetensors")
    refusal(lambda: shard_tensors(tmp_path, "a.safetensors", None), BadSource)


def test_pickled_weights_are_refused(copied: Path, opens: set[str]) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    opens.clear()
    assert "pickled" in refusal(lambda: shard_names(copied), Unsupported).message
    assert str(copied / "pytorch_model.bin") not in opens


@pytest.mark.parametrize(
    "wish",
    [
        Wish("Q8_0"),
        Wish("Q8_0", leave_output=True),
    ],
)
def test_a_shard_with_a_name_too_long_for_the_disk_is_refused(wish: Wish, copied: Path) -> None:
    write(copied / INDEX, {"weight_map": {"lm_head.weight": "a" * 300 + ".safetensors"}})
    refusal(lambda: CheckpointConversion(copied, wish, Origin("x")).check(), BadSource)


# --- tokenizer.json ---------------------------------------------------------------------------------------------------

MODEL, ADDED, PRE, POST = "model", "added_tokens", "pre_tokenizer", "post_processor"
SPLIT_STEP = (PRE, "pretokenizers", 0)
BPE: dict[str, Any] = json.loads((SMALL_TOKENIZERS["qwen2"] / "tokenizer.json").read_text("utf-8"))
SMALLEST = mutants.small_tokenizer(SMALL_TOKENIZERS["qwen2"])
SETTINGS: dict[str, Any] = json.loads((SMALL_TOKENIZERS["qwen2"] / "tokenizer_config.json").read_text("utf-8"))
FIRST_ADDED: dict[str, Any] = SMALLEST[ADDED][0]
VOCABULARY_SIZE = 600

BAD_TOKENIZERS: dict[str, Edit] = {
    "no model": ((MODEL,), ...),
    "model null": ((MODEL,), None),
    "model list": ((MODEL,), []),
    "model text": ((MODEL,), "BPE"),
    **{f"model type {kind}": ((MODEL, "type"), kind) for kind in (
        "Unigram", "WordPiece", "WordLevel", "bpe", 5, None, [],
    )},
    **{f"vocabulary {what!r}": ((MODEL, "vocab"), what) for what in (None, [], {}, "a", 5, [["a", 0]])},
    **{f"id {what!r:.20}": ((MODEL, "vocab", "!"), what) for what in (
        -1, 2**31, 2**32, 2**63, 10**30, VOCABULARY_SIZE, 1, "0", 0.0, True, None, [0], {"id": 0}, mutants.Raw("NaN"),
        mutants.Raw("1e2"), mutants.Raw("-0.0"),
    )},
    "no token for a byte": ((MODEL, "vocab", "Ā"), ...),
    "no token for the blank": ((MODEL, "vocab", "Ġ"), ...),
    **{f"merges {what!r}": ((MODEL, "merges"), what) for what in (
        None, {}, "a b", 5, [5], [None], [[]], [["a"]], [{}],
    )},
    **{f"merge {what!r:.30}": ((MODEL, "merges", 0), what) for what in (
        "a", "a b c", " ", "", "a ", ["a", "b", "c"], ["a", 5], ["a", None], ["", "a"], [["a"], "b"], {"a": "b"},
        5, None,
        True, ["a", "zz"], ["zz", "a"], ["!", "!"], "! !", ["Ġ" * 500, "Ġ"], ["\x1b[2J\u202e", "\n"],
    )},
    **{f"added {what!r:.30}": ((ADDED,), what) for what in ("a", 5, True, [5], ["a"], [None], [[]], [{}], {"a": 1})},
    "too many added tokens": ((ADDED,), [{**FIRST_ADDED, "id": 599, "content": f"<{n}>"} for n in range(10_001)]),
    **{f"added id {what!r:.20}": ((ADDED, 0, "id"), what) for what in (
        -1, 2**31, 2**32, 2**64, VOCABULARY_SIZE, "5", 5.0, True, None, [], ..., 0, SMALLEST[ADDED][1]["id"],
    )},
    **{f"added text {what!r:.20}": ((ADDED, 0, "content"), what) for what in (
        "", None, 5, [], {}, ..., "!", "Ġ", SMALLEST[ADDED][1]["content"],
    )},
    **{f"added {flag}": ((ADDED, 0, flag), True) for flag in ("lstrip", "rstrip", "single_word")},
    "added lstrip as text": ((ADDED, 0, "lstrip"), "yes"),
    **{f"normalizer {what!r:.40}": (("normalizer",), what) for what in (
        "NFC", 5, [], True, {"type": "NFKC"}, {"type": "NFD"}, {"type": "Lowercase"}, {"type": "Strip"}, {},
        {"type": None},
        {"type": ["NFC"]}, {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        {"type": "Sequence", "normalizers": {}}, {"type": "Sequence", "normalizers": [5]},
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]},
        {"type": "Replace", "pattern": {"Regex": EVIL_REGEX}, "content": ""},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, {"type": "Prepend", "prepend": "▁"},
    )},
    **{f"pre-tokenizer {what!r:.40}": ((PRE,), what) for what in (
        None, ..., "ByteLevel", 5, [], {}, {"type": "ByteLevel"}, {"type": "Whitespace"}, {"type": "Metaspace"},
        {"type": "Sequence"}, {"type": "Sequence", "pretokenizers": []}, {"type": "Sequence", "pretokenizers": {}},
        {"type": "Sequence", "pretokenizers": [{}, {}]}, {"type": "Sequence", "pretokenizers": [5, 5]},
        {"type": "Split", "pattern": {"Regex": EVIL_REGEX}, "behavior": "Isolated", "invert": False},
    )},
    **{f"pattern {what!r:.40}": ((*SPLIT_STEP, "pattern"), what) for what in (
        {"Regex": EVIL_REGEX}, {"Regex": "(a|a)*$"}, {"Regex": "(x+x+)+y"}, {"Regex": ""}, {"Regex": "("},
        {"Regex": None},
        {"Regex": [next(iter(SPLITS))]}, {"String": "a"}, {}, None, 5, next(iter(SPLITS)), [next(iter(SPLITS))],
        {"Regex": next(iter(SPLITS)) + "|" + EVIL_REGEX}, {"Regex": next(iter(SPLITS)) + " "}, {"Regex": ".*" * 10_000},
    )},
    "split type": ((*SPLIT_STEP, "type"), "Punctuation"),
    "split behavior": ((*SPLIT_STEP, "behavior"), "Removed"),
    "split inverted": ((*SPLIT_STEP, "invert"), True),
    "bytes with regex": ((PRE, "pretokenizers", 1, "use_regex"), True),
    "bytes with regex by default": ((PRE, "pretokenizers", 1, "use_regex"), ...),
    "bytes with a blank in front": ((PRE, "pretokenizers", 1, "add_prefix_space"), True),
    "third step": ((PRE, "pretokenizers"), [*BPE[PRE]["pretokenizers"], {"type": "Digits"}]),
    **{f"post-processor {what!r:.40}": ((POST,), what) for what in (
        "ByteLevel", 5, [], True, {}, {"type": None}, {"type": "BertProcessing"}, {"type": ["ByteLevel"]},
        {"type": "RobertaProcessing", "sep": ["a", 0], "cls": ["b", 1]}, {"type": "Sequence", "processors": {}},
        {"type": "Sequence", "processors": [5]}, {"type": "Sequence", "processors": [{"type": "Sequence"}]},
    )},
}  # fmt: skip


@pytest.mark.parametrize("label", BAD_TOKENIZERS)
def test_a_tokenizer_that_breaks_one_rule_is_refused(label: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", edited(SMALLEST, BAD_TOKENIZERS[label]))
    error = refusal(lambda: read_tokenizer(path, VOCABULARY_SIZE))
    assert isinstance(error, BadSource | Unsupported)
    assert len(error.message) < 400


def test_the_smallest_tokenizer_is_read(tmp_path: Path) -> None:
    found = read_tokenizer(write(tmp_path / "tokenizer.json", SMALLEST), VOCABULARY_SIZE)
    assert len(found.merges) == 6
    assert found.split == "qwen2"
    gap = edited(SMALLEST, ((ADDED, 0, "id"), 599))  # a gap is filled
    assert (
        read_tokenizer(write(tmp_path / "tokenizer.json", gap), VOCABULARY_SIZE).added[FIRST_ADDED["content"]].id == 599
    )


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"{" * 100_000, b'{"model": ' + b"[" * 100_000, bytes(1000)])
def test_a_tokenizer_that_is_no_json_is_refused(data: bytes, tmp_path: Path) -> None:
    refusal(lambda: read_tokenizer(write(tmp_path / "tokenizer.json", data), VOCABULARY_SIZE), BadSource)


def test_a_tokenizer_above_its_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    refusal(lambda: read_tokenizer(path, VOCABULARY_SIZE), BadSource)


FOREIGN_REGEX = {"pattern": {"Regex": EVIL_REGEX}, "content": "", "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param((("normalizer",), {"type": "Replace", **FOREIGN_REGEX, "normalizers": []}), id="normalizer"),
        pytest.param((("normalizer",), {"type": "Lowercase", "normalizers": [{"type": "NFC"}]}), id="lower case"),
        pytest.param(
            ((PRE,), {"type": "Split", **FOREIGN_REGEX, "pretokenizers": BPE[PRE]["pretokenizers"]}), id="pre-tokenizer"
        ),
        pytest.param(
            ((POST,), {"type": "BertProcessing", "sep": ["!", 0], "cls": ["!", 0], "processors": []}),
            id="post-processor",
        ),
        pytest.param((("decoder",), {"type": "Replace", **FOREIGN_REGEX}), id="decoder"),
        pytest.param(
            (("decoder",), {"type": "Strip", "content": "x", "start": 0, "stop": 10**6}), id="decoder that panics"
        ),
        pytest.param(((MODEL, "continuing_subword_prefix"), "x" * 30), id="prefix that panics"),
        pytest.param(((MODEL, "dropout"), 0.5), id="dropout"),
    ],
)
def test_a_tokenizer_that_would_run_something_unknown_is_refused_before_it_is_run(edit: Edit, tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", edited(SMALLEST, edit))
    refusal(lambda: read_tokenizer(path, VOCABULARY_SIZE))


def vocabulary_of(folder: Path, size: int = 576) -> Vocabulary:
    return Vocabulary(folder, {}, size, "qwen2")


def tokenizer_ids(path: Path, texts: Sequence[str], decode: Sequence[str] = ()) -> dict[str, Any]:
    return quantize.vocabulary._run("tokenizer", {"path": str(path), "texts": list(texts), "decode": list(decode)})


@pytest.mark.parametrize(
    ("edit", "decode"),
    [
        ((("decoder",), {"type": "Strip", "content": "x", "start": 0, "stop": 10**6}), ["xx"]),
        (((MODEL, "continuing_subword_prefix"), "x" * 30), []),
        (((MODEL, "dropout"), 5.0), []),
        (((MODEL, "vocab", "\ud800"), 590), []),
        ((("decoder",), 5), []),
        ((("version",), "9.9"), []),
        ((("truncation",), "x"), []),
    ],
)
def test_a_tokenizer_that_makes_its_package_panic_or_fail_is_a_bad_source(
    edit: Edit, decode: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "tokenizer.json", json.dumps(edited(SMALLEST, edit)).encode())
    refusal(lambda: tokenizer_ids(path, ["Hello World"], decode), BadSource)


@pytest.mark.parametrize(
    "program",
    ["import os; os.abort()", "import time; time.sleep(60)", "import os; os._exit(3)", "raise SystemExit('\x1b[2J')"],
)
def test_a_tokenizer_that_aborts_or_hangs_its_process_is_a_bad_source(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token_ids.py").write_text(program)
    monkeypatch.setattr(quantize.vocabulary, "__file__", str(tmp_path / "vocabulary.py"))
    monkeypatch.setattr(quantize.vocabulary, "_TIMEOUT", 1)
    refusal(lambda: tokenizer_ids(tmp_path / "tokenizer.json", []), BadSource)


@pytest.mark.parametrize("program", ["tokenizer", "library"])
def test_a_hundred_thousand_letters_are_read_in_reasonable_time(
    program: str, checkpoint: Path, converted: Path
) -> None:
    path = checkpoint / "tokenizer.json" if program == "tokenizer" else converted
    question: dict[str, Any] = {
        "path": str(path),
        "texts": ["a" * 100_000, "😀" * 25_000, " " * 100_000, "a" * 99_999 + "!"],
    }
    if program == "tokenizer":
        question["decode"] = ["a" * 100_000]
    done = subprocess.run(
        [sys.executable, "-P", str(TOKEN_IDS), program],
        input=json.dumps(question), capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert all(json.loads(done.stdout)["ids"])


TEMPLATE: dict[str, Any] = next(step for step in [BPE[POST]] if step["type"] == "TemplateProcessing")


@pytest.mark.parametrize("name", ["single", "pair"])
@pytest.mark.parametrize("value", [5, "A", True, {"a": 1}, [5], ["A"], [None], [[]]])
def test_a_template_that_is_none_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", edited(SMALLEST, ((POST, name), value)))
    refusal(lambda: special_tokens(read_tokenizer(path, VOCABULARY_SIZE), {}, {}), BadSource)


ODD_STEPS: tuple[Any, ...] = (
    {}, {"SpecialToken": None}, {"SpecialToken": {}}, {"SpecialToken": {"id": 5}}, {"SpecialToken": {"id": ["a"]}},
    {"SpecialToken": []}, {"Sequence": 5}, {"Sequence": {"id": ["A"]}}, {"Sequence": {"id": "A"},
    "SpecialToken": {"id": ""}},
)  # fmt: skip
ODD_SETTINGS: tuple[Any, ...] = (
    None,
    5,
    True,
    [],
    ["a"],
    {},
    {"content": 5},
    {"content": ["a"]},
    {"content": None},
    "",
    "x",
)


def test_no_shape_of_a_template_or_of_the_settings_gets_further_than_a_refusal(tmp_path: Path) -> None:
    chance = random.Random(5)
    kinds = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
    steps = (*ODD_STEPS, *TEMPLATE["single"], *TEMPLATE["pair"])
    for _ in range(400):
        template = {
            **TEMPLATE,
            **{name: [chance.choice(steps) for _ in range(chance.randrange(7))] for name in ("single", "pair")},
        }
        path = write(tmp_path / "tokenizer.json", {**SMALLEST, POST: template})
        settings = {f"{kind}_token": chance.choice((*ODD_SETTINGS, FIRST_ADDED["content"])) for kind in kinds}
        settings |= {f"add_{kind}_token": chance.choice(ODD_SETTINGS) for kind in kinds}
        config = {f"{kind}_token_id": chance.choice((*ODD_SETTINGS, 1, 2**70)) for kind in kinds}
        found = special_tokens(read_tokenizer(path, VOCABULARY_SIZE), settings, config)
        assert all(type(number) is int and number >= 0 for number in found.ids.values())
        assert all(isinstance(flag, bool) for flag in found.added.values())


def test_a_special_token_below_zero_is_refused(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(write(tmp_path / "tokenizer.json", SMALLEST), VOCABULARY_SIZE)
    refusal(lambda: special_tokens(tokenizer, {}, {"pad_token_id": -1}), BadSource)


@pytest.mark.parametrize(
    "template",
    [
        5,
        True,
        {},
        [],
        [5],
        [{}],
        [{"name": "default"}],
        [{"name": "default", "template": 5}],
        "",
        [{"name": ["default"], "template": "x"}],
    ],
)
def test_a_chat_template_that_is_no_text_is_left_out(template: Any, copied: Path) -> None:
    found: list[Key] = []
    write(copied / "tokenizer_config.json", {**SETTINGS, "chat_template": template})
    assert is_done(lambda: found.extend(vocabulary_of(copied).keys))
    templates = [key.value for key in found if key.name == "tokenizer.chat_template"]
    assert templates == ([template] if template == "" else [])


@pytest.mark.parametrize("data", [b"\xff", b"\xed\xa0\x80", "{{".encode("utf-16")])
def test_a_chat_template_of_its_own_that_is_no_utf8_is_refused(data: bytes, copied: Path) -> None:
    write(copied / "tokenizer_config.json", {name: v for name, v in SETTINGS.items() if name != "chat_template"})
    write(copied / "chat_template.jinja", data)
    refusal(lambda: vocabulary_of(copied), BadSource)


def with_name(copied: Path, name: str) -> None:
    fields = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**fields, "_name_or_path": name}))


def with_template(copied: Path, template: str) -> None:
    (copied / "tokenizer_config.json").write_text(json.dumps({**SETTINGS, "chat_template": template}))


def with_card(copied: Path, front: str) -> None:
    (copied / "README.md").write_text(f"---\n{front}\n---\n")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda folder: with_template(folder, "{{ '\ud800' }}"), id="chat template"),
        pytest.param(lambda folder: with_name(folder, "a\ud800b"), id="name in config.json"),
        pytest.param(lambda folder: with_card(folder, 'license: "\\ud800"'), id="card"),
    ],
)
def test_half_a_character_in_a_text_is_refused_or_left_out(
    spoil: Callable[[Path], None], copied: Path, tmp_path: Path
) -> None:
    spoil(copied)
    is_done(lambda: convert_checkpoint(copied, tmp_path / "out.gguf", Wish("Q8_0"), options()))


# --- the proof that the result reads text as its source does ----------------------------------------------------------


def tampered(converted: Path, target: Path, change: Callable[[Key], Key]) -> Path:
    """The vocabulary of a result, with keys of it changed and without its weights."""
    keys = [change(key) for key in read_gguf(converted).keys]
    target.write_bytes(write_header(keys, []))
    return target


def with_strings(key: Key, change: Callable[[list[str]], None]) -> Key:
    strings = key.strings()
    change(strings)
    return make_key(key.name, strings, GGUFValueType.ARRAY, GGUFValueType.STRING)


def swapped(name: str, first: str, second: str) -> Callable[[Key], Key]:
    def swap(strings: list[str]) -> None:
        one, two = strings.index(first), strings.index(second)
        strings[one], strings[two] = second, first

    return lambda key: with_strings(key, swap) if key.name == name else key


def without_merges(key: Key) -> Key:
    return with_strings(key, lambda merges: merges.reverse()) if key.name == "tokenizer.ggml.merges" else key


def split_as(name: str) -> Callable[[Key], Key]:
    return lambda key: make_key(key.name, name, GGUFValueType.STRING) if key.name == "tokenizer.ggml.pre" else key


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(swapped("tokenizer.ggml.tokens", "e", "t"), id="two tokens swapped"),
        pytest.param(swapped("tokenizer.ggml.tokens", "Ġ", "Ċ"), id="blank and line break swapped"),
        pytest.param(without_merges, id="merges the other way round"),
        pytest.param(split_as("gpt-2"), id="split as by GPT-2"),
    ],
)
def test_a_vocabulary_that_reads_otherwise_is_found_out_and_the_text_is_named(
    change: Callable[[Key], Key], checkpoint: Path, converted: Path, tmp_path: Path
) -> None:
    vocabulary = vocabulary_of(checkpoint)
    vocabulary.prove(tampered(converted, tmp_path / "same.gguf", lambda key: key))
    other = tampered(converted, tmp_path / "other.gguf", change)
    error = refusal(lambda: vocabulary.prove(other), TokenizerDiffers)
    read = quantize.vocabulary._run("library", {"path": str(other), "texts": list(TEXTS)})["ids"]
    right = tokenizer_ids(checkpoint / "tokenizer.json", TEXTS)["ids"]
    first = next(text for text, one, two in zip(TEXTS, read, right, strict=True) if one != two)
    assert printable(repr(first[:60])) in error.message


@pytest.mark.parametrize(
    "change",
    [
        split_as("no-such-splitting"),
        lambda key: make_key(key.name, "x", GGUFValueType.STRING) if key.name == "tokenizer.ggml.model" else key,
        lambda key: make_key(key.name, "x", GGUFValueType.STRING) if key.name == "general.architecture" else key,
        swapped("tokenizer.ggml.tokens", "e", "e"),
    ],
)
def test_a_vocabulary_that_the_c_library_does_not_take_is_refused(
    change: Callable[[Key], Key], checkpoint: Path, converted: Path, tmp_path: Path
) -> None:
    vocabulary = vocabulary_of(checkpoint)
    other = tampered(converted, tmp_path / "other.gguf", change)
    if read_gguf(other).keys == read_gguf(converted).keys:
        vocabulary.prove(other)
        return
    refusal(lambda: vocabulary.prove(other))


def test_a_result_that_reads_otherwise_never_appears(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quantize.vocabulary._run

    def lying(program: str, question: dict[str, Any]) -> dict[str, Any]:
        answer = whole(program, question)
        if program == "library":
            answer["ids"][7] = [1, 2, 3]
        return answer

    monkeypatch.setattr(quantize.vocabulary, "_run", lying)
    target = tmp_path / "out.gguf"
    error = refusal(lambda: convert_checkpoint(copied, target, Wish("Q8_0"), options()), TokenizerDiffers)
    assert printable(repr(TEXTS[7][:60])) in error.message
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- what a card can do -----------------------------------------------------------------------------------------------

MERGE_BOMB = "a0: &a0 {k: v}\n" + "\n".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 11)
)
ALIASES = "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11))
ODD_CARDS = (
    "a: !!int ''", "a: !!bool foo", "a: !!timestamp x", "a: !!float ''", "license: {a: 1}", "tags: {a: 1}",
    "tags: [1, [2]]",
    "base_model: {a: 1}", "base_model: [1]", "base_model: [[a]]", "model-index: 5", "model_name: 5", "datasets: {a: b}",
    "datasets: [{a: b}]", "language: 5", "tags: !!set {a, b}", "license_name: [a]", "license_link: 2001-01-01",
    "pipeline_tag: [a]", "tags: !!binary aGVsbG8=", "? [a]\n: b", "a: !!python/object/apply:os.abort []", "&a [*a]",
    "tags: &a [*a]", "a: 2001-01-01T00:00:00+99:99", "a: " + "9" * 5000, "[" * 20_000, "- " * 20_000, "\x1b[2J: \u202e",
    "author: .inf", "tags: [.nan, 5, null, 2001-01-01]", "model_name: [x]", "model_creator: {}", "%YAML 9.9",
    "---\n---", "",
)  # fmt: skip


@pytest.mark.parametrize("front", ODD_CARDS, ids=range(len(ODD_CARDS)))
def test_a_card_of_any_shape_is_read_or_left_out(front: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n", encoding="utf-8")
    started = time.thread_time()
    assert general_keys(tmp_path, Origin("name"), {}, "qwen2", 1000)
    assert time.thread_time() - started < 5


def test_a_cards_number_in_base_60_beyond_all_floats_is_left_out(tmp_path: Path) -> None:
    with_card(tmp_path, "a: " + ":".join(["1"] * 300) + ".5")
    assert general_keys(tmp_path, Origin("name"), {}, "qwen2", 1000)


@pytest.mark.parametrize(
    "front",
    [
        pytest.param(MERGE_BOMB, id="merge keys"),
        pytest.param(f"{ALIASES}\nbase_model: [*a10]", id="aliases as a base model"),
        pytest.param(f"{ALIASES}\ndatasets: [*a10]", id="aliases as a dataset"),
    ],
)
def test_a_card_that_grows_tenfold_on_each_line_takes_neither_time_nor_memory(front: str, tmp_path: Path) -> None:
    with_card(tmp_path, front)
    code = f"""
from pathlib import Path
from quantize.metadata import Origin, general_keys
print(len(general_keys(Path({str(tmp_path)!r}), Origin("name"), {{}}, "qwen2", 1000)))
"""
    assert in_child(code, seconds=5, memory=1 << 30).returncode == 0


def test_a_name_of_450_kb_takes_no_time(tmp_path: Path) -> None:
    started = time.thread_time()
    general_keys(tmp_path, Origin("name"), {"_name_or_path": "o/" + "a--" * 150_000}, "qwen2", 1000)
    assert time.thread_time() - started < 0.7


@pytest.mark.parametrize("value", [True, "1", [1], {}, -(2**40), 2**40, mutants.Raw("1e400"), mutants.Raw("NaN"), 0.5])
@pytest.mark.parametrize("name", ["top_k", "penalty_last_n"])
def test_sampling_that_makes_no_sense_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path / "generation_config.json", {name: value})
    refusal(lambda: general_keys(tmp_path, Origin("name"), {}, "qwen2", 1000), BadSource)


# --- GGUF -------------------------------------------------------------------------------------------------------------

ARCHITECTURE_KEY = key("general.architecture", STRING, "llama")
UP = "blk.0.ffn_up.weight"


def gguf(
    *keys: list[mutants.Field], tensors: Sequence[list[mutants.Field]] = (), data: int = 4096, **header: Any
) -> bytes:
    return mutants.joined(mutants.gguf_fields([ARCHITECTURE_KEY, *keys], tensors, **header), data)


def two(first: int, second: int, name: str = "b") -> bytes:
    """Two tensors of 128 bytes."""
    return gguf(tensors=[tensor("a", [32], 0, first), tensor(name, [32], 0, second)])


BAD_GGUFS: dict[str, bytes] = {
    "empty": b"", "magic alone": b"GGUF", "23 bytes": b"GGUF" + bytes(19), "other magic": gguf(magic=b"GGML"),
    "version 0": gguf(version=0), "version 1": gguf(version=1), "version 4": gguf(version=4),
    "other byte order": gguf(version=3 << 24), "zeros": bytes(4096), "2^60 tensors": gguf(tensors=[]).replace(
        bytes(8) + struct.pack("<Q", 1), struct.pack("<QQ", 1 << 60, 1), 1),
    "2^60 keys": b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60) + bytes(4096),
    "2^64 - 1 keys": b"GGUF" + struct.pack("<IQQ", 3, 0, (1 << 64) - 1) + bytes(4096),
    "100,001 tensors": b"GGUF" + struct.pack("<IQQ", 3, 100_001, 0) + bytes(200_000),
    "key twice": gguf(ARCHITECTURE_KEY),
    "key of bad UTF-8": gguf(key(b"\xff\xfe", U32, 1)),
    "key of a surrogate": gguf(key(b"\xed\xa0\x80", U32, 1)),
    "key longer than the file": gguf([mutants.count(1 << 40), mutants.Field("text", b"x")]),
    "text longer than the file": gguf(key("k", STRING, struct.pack("<Q", 1 << 60))),
    "unknown type": gguf(key("\x1b[2J\u202e\n", 13, b"")),
    "type 2^32 - 1": gguf(key("k", (1 << 32) - 1, b"")),
    "array of arrays": gguf(key("k", ARRAY, struct.pack("<IQIQI", ARRAY, 1, U32, 1, 5))),
    "array of unknown": gguf(key("\x1b[2J\n", ARRAY, struct.pack("<IQ", 99, 1))),
    "array of 2^60": gguf(key("k", ARRAY, struct.pack("<IQ", U32, 1 << 60))),
    "array of 2^60 texts": gguf(key("k", ARRAY, struct.pack("<IQ", STRING, 1 << 60))),
    "array of 2^62 numbers that wraps": gguf(key("k", ARRAY, struct.pack("<IQ", U64, (1 << 61) + 1))),
    "text in an array beyond the end": gguf(key("k", ARRAY, struct.pack("<IQQ", STRING, 1, 1 << 63))),
    "tensor beyond the end": gguf(tensors=[tensor("a", [4096], 0, 0)]),
    "tensor far beyond the end": gguf(tensors=[tensor("a", [1 << 50], 0, 0)]),
    "offset beyond the end": gguf(tensors=[tensor("a", [32], 0, 1 << 40)]),
    "offset that wraps": gguf(tensors=[tensor("a", [32], 0, (1 << 64) - 128)]),
    "overlapping": two(0, 96), "same place": two(0, 0), "gap": two(0, 160), "unaligned": two(0, 130),
    "swapped": two(128, 0),
    "first not at the start": two(32, 160), "name twice": two(0, 128, "a"),
    "no dimensions": gguf(tensors=[tensor("a", [], 0, 0)]),
    "5 dimensions": gguf(tensors=[tensor("a", [1] * 5, 0, 0)]),
    "2^32 - 1 dimensions": gguf(tensors=[[*mutants.text("a"), mutants.number(-1)]]),
    "dimension 0": gguf(tensors=[tensor("a", [0], 0, 0)]),
    "dimension 2^63": gguf(tensors=[tensor("a", [1 << 63], 0, 0)]),
    "dimension 2^64 - 1": gguf(tensors=[tensor("a", [-1], 0, 0)]),
    "product 2^63": gguf(tensors=[tensor("a", [1 << 21, 1 << 21, 1 << 21], 0, 0)]),
    "product that wraps to 0": gguf(tensors=[tensor("a", [1 << 32, 1 << 32], 0, 0)]),
    "product that wraps to 32": gguf(tensors=[tensor("a", [(1 << 61) + 1, 32, 8], 0, 0)]),
    "row of half a block": gguf(tensors=[tensor("a", [16], 8, 0)]),
    "row of a K block and a half": gguf(tensors=[tensor("a", [384], 12, 0)]),
    **{f"tensor type {number}": gguf(tensors=[tensor("a", [32], number, 0)]) for number in (
        4, 5, 31, 32, 33, 36, 37, 38, 42, 99, 1 << 31, (1 << 32) - 1,
    )},
    "name of 64 bytes": gguf(tensors=[tensor("x" * 64, [32], 0, 0)]),
    "name of bad UTF-8": gguf(tensors=[tensor(b"\xff", [32], 0, 0)]),
    "name that draws": gguf(tensors=[tensor("\x1b[2J\u202e\n", [32], 0, 7)]),
    **{f"alignment {value}": gguf(key("general.alignment", U32, value)) for value in (0, 1, 3, 16, 64, 1 << 30)},
    "alignment as text": gguf(key("general.alignment", STRING, "32")),
    "alignment as an array": gguf(key("general.alignment", ARRAY, (U32, [32]))),
    "alignment as true": gguf(key("general.alignment", BOOL, True)),
    "alignment beyond all": gguf(key("general.alignment", U64, (1 << 64) - 1)),
    "alignment NaN": gguf(key("general.alignment", F32, math.nan)),
}  # fmt: skip


@pytest.mark.parametrize("label", BAD_GGUFS)
def test_a_gguf_that_breaks_one_rule_is_refused(label: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", BAD_GGUFS[label])
    assert len(refusal(lambda: read_gguf(path), BadSource).message) < 400


@pytest.mark.parametrize("kind", [U64, I8, F32])
def test_an_alignment_of_another_type_is_refused(kind: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", gguf(key("general.alignment", kind, 32)))
    refusal(lambda: read_gguf(path), BadSource)


def test_a_message_does_not_repeat_a_text_of_any_length(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", gguf(key("general.alignment", STRING, "x" * 100_000)))
    assert len(refusal(lambda: read_gguf(path), BadSource).message) < 1000


def test_a_gguf_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = mutants.joined(mutants.gguf_fields(mutants.LLAMA_KEYS, mutants.LLAMA_TENSORS), mutants.LLAMA_DATA)
    path = write(tmp_path / "a.gguf", whole)
    assert len(read_gguf(path).tensors) == 3
    end = max(tensor.offset + tensor.size for tensor in read_gguf(path).tensors)
    for size in range(len(whole)):
        write(path, whole[:size])
        if size < end:
            refusal(lambda: read_gguf(path), BadSource)
        else:
            read_gguf(path)


@pytest.mark.parametrize("cut", range(0, 4096, 256))
def test_a_gguf_cut_anywhere_leaves_no_result(cut: int, converted: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.gguf", converted.read_bytes()[: converted.stat().st_size * cut // 4096])
    target = tmp_path / "out.gguf"
    refusal(lambda: requantize(source, target, Wish("Q4_0"), options(), from_quantized=True), BadSource)
    assert not target.exists()


LAYERS = "llama.block_count"


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(key(LAYERS, U32, 0), id="0"),
        pytest.param(key(LAYERS, U32, (1 << 32) - 1), id="2^32 - 1"),
        pytest.param(key(LAYERS, U64, 1 << 32), id="2^32"),
        pytest.param(key(LAYERS, I8, -1), id="-1"),
        pytest.param(key(LAYERS, F32, 1.0), id="real"),
        pytest.param(key(LAYERS, STRING, "1"), id="text"),
        pytest.param(key("llama.attention.head_count", STRING, "2"), id="heads as text"),
        pytest.param(key("llama.attention.head_count_kv", U32, 0), id="no key heads"),
        pytest.param(key("llama.expert_count", U32, 8), id="experts"),
        pytest.param(key("llama.expert_count", STRING, "\x1b[2J"), id="experts as text"),
        pytest.param(key(LAYERS, U32, 513), id="513"),
        pytest.param(key(LAYERS, BOOL, True), id="true"),
        pytest.param(key(LAYERS, ARRAY, (U32, [1])), id="array"),
    ],
)  # fmt: skip
def test_a_gguf_whose_counts_make_no_sense_is_not_quantized(entry: list[mutants.Field], tmp_path: Path) -> None:
    source = write(tmp_path / "a.gguf", gguf(entry, tensors=[tensor(UP, [32, 2], 0, 0)]))
    target = tmp_path / "out.gguf"
    refusal(lambda: requantize(source, target, Wish("Q8_0"), options()))
    assert not target.exists()


@pytest.mark.parametrize("value", ["clip", "", "\x1b[2J\u202e\n" * 100, "LLAMA"])
def test_a_gguf_of_another_kind_is_not_quantized(value: str, tmp_path: Path) -> None:
    fields = mutants.gguf_fields([key("general.architecture", STRING, value)], [])
    source = write(tmp_path / "a.gguf", mutants.joined(fields, 0))
    assert len(refusal(lambda: requantize(source, tmp_path / "o", Wish("Q8_0"), options()), Unsupported).message) < 500


@pytest.mark.parametrize(
    ("kind", "width", "size"), [(24, 32, 32), (26, 32, 128), (28, 32, 256), (9, 32, 36), (15, 256, 292)]
)
def test_a_tensor_that_the_c_library_cannot_read_is_refused(kind: int, width: int, size: int, tmp_path: Path) -> None:
    source = write(tmp_path / "a.gguf", gguf(tensors=[tensor(UP, [width, 2], kind, 0)], data=padded(2 * size)))
    target = tmp_path / "out.gguf"
    refusal(lambda: requantize(source, target, Wish("F16"), options(), from_quantized=True))
    assert not target.exists()


def part(number: int, count: int, name: str = UP, **changes: int) -> bytes:
    """A part of a model, counted from 0."""
    about = {"split.no": number, "split.count": count, **{f"split.{key}": value for key, value in changes.items()}}
    return gguf(*(key(name, U16, value) for name, value in about.items()), tensors=[tensor(name, [32, 2], 0, 0)])


OTHER = "blk.0.ffn_gate.weight"


def test_a_model_in_two_parts_is_quantized(tmp_path: Path) -> None:
    for number, name in enumerate((UP, OTHER)):
        write(tmp_path / f"m-0000{number + 1}-of-00002.gguf", part(number, 2, name))
    requantize(tmp_path / "m-00001-of-00002.gguf", tmp_path / "out.gguf", Wish("Q8_0"), options())
    assert {tensor.name for tensor in read_gguf(tmp_path / "out.gguf").tensors} == {UP, OTHER}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"m-00001-of-00002": part(0, 2), "m-00002-of-00002": part(1, 2)}, id="tensor in both"),
        pytest.param({"m-00001-of-00002": part(0, 2)}, id="second missing"),
        pytest.param({"m-00001-of-99999": part(0, 99999 % 65536)}, id="more parts by name"),
        pytest.param({"m-00001-of-00003": part(0, 2), "m-00002-of-00003": part(1, 2, OTHER)}, id="other count by name"),
        pytest.param({"m-00001-of-00002": part(0, 2), "m-00002-of-00002": part(0, 2, OTHER)}, id="first twice"),
        pytest.param({"m-00001-of-00002": part(0, 2), "m-00002-of-00002": part(1, 3, OTHER)}, id="other count within"),
        pytest.param({"m-00001-of-00002": part(1, 2), "m-00002-of-00002": part(0, 2, OTHER)}, id="the wrong way"),
        pytest.param({"m-00002-of-00002": part(1, 2), "m-00001-of-00002": part(0, 2, OTHER)}, id="later part named"),
        pytest.param({"m": part(0, 2)}, id="no number in the name"),
        pytest.param({"m-00000-of-00002": part(0, 2), "m-00002-of-00002": part(1, 2, OTHER)}, id="part 0"),
        pytest.param({"m-00001-of-00002": part(0, 2), "m-00002-of-00002": b"GGUF"}, id="second cut off"),
        pytest.param({"m-00001-of-00002": part(0, 2), "m-00002-of-00002": gguf()}, id="second of another model"),
    ],
)
def test_parts_that_are_not_those_of_one_model_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{name}.gguf", data) for name, data in files.items()]
    target = tmp_path / "out.gguf"
    refusal(lambda: requantize(sources[0], target, Wish("Q8_0"), options()))
    assert not target.exists()


def test_a_gguf_that_is_named_the_first_of_no_parts_does_not_crash(tmp_path: Path) -> None:
    source = write(tmp_path / "m-00001-of-00000.gguf", gguf(tensors=[tensor(UP, [32, 2], 0, 0)]))
    is_done(lambda: requantize(source, tmp_path / "out.gguf", Wish("Q8_0"), options()))


@pytest.mark.parametrize("file_type", ["Q8_0", "Q4_K_M", "Q2_K", "Q6_K", "Q4_0", "IQ4_XS", "F16"])
def test_the_result_does_not_depend_on_what_the_memory_held_before(
    file_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else bytes of other files, or of secrets, could get into a file that is published."""
    shapes = {UP: (8, 256), "blk.0.ffn_down.weight": (4, 96), "output_norm.weight": (7,), "blk.0.attn_q.bias": (3,)}
    tensors, data = [], b""
    for number, (name, shape) in enumerate(shapes.items()):
        values = np.random.default_rng(number).standard_normal(shape).astype("<f4")
        values[: len(values) // 2] = 0
        tensors.append(StoredTensor(name, "F32", shape, len(data)))
        data += values.tobytes() + bytes(-values.nbytes % 32)
    keys = [make_key("general.architecture", "llama", GGUFValueType.STRING)]
    source = write(tmp_path / "a.gguf", write_header(keys, tensors) + data)
    fresh = np.empty
    results = set()
    for canary in (0xA5, 0x5A):

        def poisoned(count: Any, dtype: Any = float, canary: int = canary) -> Any:
            held = fresh(count, dtype)
            held.view(np.uint8)[...] = canary
            return held

        with monkeypatch.context() as patch:
            patch.setattr(conversion.np, "empty", poisoned)
            target = tmp_path / "out.gguf"
            requantize(source, target, Wish(file_type), options())
        results.add(target.read_bytes())
        assert bytes([canary]) * 16 not in target.read_bytes()
        target.unlink()
    assert len(results) == 1


def test_an_unfinished_file_of_other_work_does_not_shine_through(converted: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    canary = b"a secret of this machine" * 10_000
    (tmp_path / "out.gguf.part").write_bytes(canary)
    requantize(converted, target, Wish("Q4_0"), options(), from_quantized=True)
    assert b"secret" not in target.read_bytes()


# --- weights and importance that break the C kernels ------------------------------------------------------------------


def matrix_gguf(path: Path, values: np.ndarray[Any, Any]) -> Path:
    keys = [make_key("general.architecture", "llama", GGUFValueType.STRING)]
    stored = StoredTensor("blk.0.ffn_gate.weight", "F32", values.shape, 0)
    return write(path, write_header(keys, [stored]) + values.astype("<f4").tobytes())


def legacy_imatrix(path: Path, name: str, values: np.ndarray[Any, Any], calls: int = 1) -> Path:
    data = struct.pack("<ii", 1, len(name)) + name.encode() + struct.pack("<ii", calls, values.size)
    return write(path, data + values.astype("<f4").tobytes())


@pytest.mark.parametrize(
    ("scale", "importance"),
    [
        pytest.param(1e20, None, id="large weights"),
        pytest.param(1.0, -1.0, id="importance below zero"),
        pytest.param(1e4, 3e38, id="large importance"),
    ],
)
def test_no_weights_and_no_importance_abort_the_process(scale: float, importance: float | None, tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((2, 256)) * scale
    source = matrix_gguf(tmp_path / "a.gguf", values)
    imatrix = tmp_path / "i.dat"
    if importance is not None:
        legacy_imatrix(imatrix, "blk.0.ffn_gate.weight", np.full(256, importance, np.float32))
    code = f"""
import threading
from pathlib import Path
from quantize.conversion import Options
from quantize.convert import requantize
from quantize.errors import QuantizeError
from quantize.imatrix import read_imatrix
from quantize.kernels import Kernels
from quantize.recipes import Wish
try:
    imatrix = read_imatrix(Path({str(imatrix)!r})) if {importance is not None} else None
    options = Options(Kernels("c"), 1, threading.Event())
    requantize(Path({str(source)!r}), Path({str(tmp_path / "o.gguf")!r}), Wish("IQ3_S"), options, imatrix=imatrix)
except QuantizeError as error:
    print(error)
"""
    assert in_child(code).returncode == 0


@pytest.mark.parametrize(
    "file_type", ["Q8_0", "Q4_K_M", "Q2_K", "Q3_K_M", "Q6_K", "Q4_0", "Q5_1", "IQ4_NL", "IQ4_XS", "F16"]
)
@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1e20, 1e-45])
def test_weights_at_the_edge_of_floats_are_stored_or_refused(file_type: str, value: float, tmp_path: Path) -> None:
    values = np.full((2, 256), value, np.float32)
    values[1, ::3] = 1
    source, target = matrix_gguf(tmp_path / "a.gguf", values), tmp_path / "o.gguf"
    assert is_done(lambda: requantize(source, target, Wish(file_type), options())) == target.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 511])
def test_a_weight_that_is_not_finite_is_refused(value: float, place: int, tmp_path: Path) -> None:
    values = np.ones((2, 256), np.float32)
    values.reshape(-1)[place] = value
    source, target = matrix_gguf(tmp_path / "a.gguf", values), tmp_path / "o.gguf"
    refusal(lambda: requantize(source, target, Wish("Q8_0"), options()), BadSource)
    assert not target.exists()


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_a_file_with_weights_that_are_infinite_can_be_compared_or_is_refused(tmp_path: Path) -> None:
    good, bad = np.ones((2, 256), np.float32), np.ones((2, 256), np.float32)
    bad[0, 0], bad[1, 0] = math.inf, -math.inf
    paths = matrix_gguf(tmp_path / "a.gguf", bad), matrix_gguf(tmp_path / "b.gguf", good)
    is_done(lambda: compare(*paths, threads=1))


def test_a_comparison_with_fewer_rows_than_heads_is_refused(tmp_path: Path) -> None:
    header = {"model.layers.0.self_attn.q_proj.weight": {"dtype": "F32", "shape": [2, 32], "data_offsets": [0, 256]}}
    write(tmp_path / "model.safetensors", mutants.safetensors_bytes(json.dumps(header), 256))
    write(tmp_path / "config.json", config_fields("llama"))
    path = write(tmp_path / "a.gguf", gguf(tensors=[tensor("blk.0.attn_q.weight", [32, 2], 0, 0)]))
    refusal(lambda: compare(path, tmp_path, threads=1))


# --- importance matrices ----------------------------------------------------------------------------------------------


def imatrix_gguf(path: Path, sums: Any, counts: Any, *keys: list[mutants.Field], kind: int = 0, name: str = UP) -> Path:
    """An importance matrix of one tensor; sums and counts as arrays."""
    sums, counts = np.asarray(sums, "<f4"), np.asarray(counts, "<f4")
    fields = mutants.gguf_fields(
        [key("general.type", STRING, "imatrix"), *keys],
        [
            tensor(f"{name}.in_sum2", sums.shape[::-1], kind, 0),
            tensor(f"{name}.counts", counts.shape[::-1], 0, padded(sums.nbytes)),
        ],
    )
    data = sums.tobytes() + bytes(-sums.nbytes % 32) + counts.tobytes() + bytes(-counts.nbytes % 32)
    return write(path, mutants.joined(fields, 0) + data)


def test_importance_is_read_in_both_forms(tmp_path: Path) -> None:
    columns = read_imatrix(imatrix_gguf(tmp_path / "i.gguf", [[4, 8]], [[2]])).columns
    assert {name: values.tolist() for name, values in columns.items()} == {UP: [2, 4]}
    columns = read_imatrix(legacy_imatrix(tmp_path / "i.dat", UP, np.array([4, 8]), 2)).columns
    assert {name: values.tolist() for name, values in columns.items()} == {UP: [2, 4]}


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_an_importance_matrix_cut_anywhere_is_refused_or_whole(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"i.{form}"
    if form == "gguf":
        imatrix_gguf(path, np.ones((1, 8)), [[3]], key("imatrix.chunk_count", U32, 3))
        end = max(tensor.offset + tensor.size for tensor in read_gguf(path).tensors)
    else:
        legacy_imatrix(path, UP, np.ones(8), 3)
        end = path.stat().st_size
        path.write_bytes(path.read_bytes() + struct.pack("<ii", 3, 4) + b"text")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if is_done(lambda: read_imatrix(path)):
            assert size >= end
            assert read_imatrix(path).columns[UP].tolist() == [pytest.approx(1 / 3)] * 8


def entries(count: int, *fields: bytes | int) -> bytes:
    return struct.pack("<i", count) + b"".join(f if isinstance(f, bytes) else struct.pack("<i", f) for f in fields)


ONE = struct.pack("<f", 1.0)
BAD_LEGACY = {
    "empty": b"", "no entries": entries(0), "negative entries": entries(-1), "2^31 - 1 entries": entries(2**31 - 1),
    "100,001 entries": entries(100_001), "name negative": entries(1, -1), "name huge": entries(1, 2**31 - 1, b"a"),
    "name of bad UTF-8": entries(1, 1, b"\xff", 1, 1, ONE), "no values": entries(1, 1, b"a", 1, 0),
    "values negative": entries(1, 1, b"a", 1, -1), "values huge": entries(1, 1, b"a", 1, 2**31 - 1, ONE),
    "values that wrap": entries(1, 1, b"a", 1, 1 << 30, ONE), "second entry missing": entries(2, 1, b"a", 1, 1, ONE),
    "dataset negative": entries(1, 1, b"a", 1, 1, ONE, 1, -1), "dataset huge": entries(1, 1, b"a", 1, 1, ONE, 1, 99),
    "half a number behind": entries(1, 1, b"a", 1, 1, ONE, b"xx"),
    "name that draws": entries(1, 7, b"\x1b[2J\n\r\a", 1, 0),
    **{f"value {value}": entries(1, 1, b"a", 1, 1, struct.pack("<f", value)) for value in (
        math.nan, math.inf, -math.inf,
    )},
    "safetensors": mutants.safetensors_bytes(one(), 8), "text": b"not an importance matrix at all", "JSON": b"{}",
}  # fmt: skip


@pytest.mark.parametrize("label", BAD_LEGACY)
def test_an_importance_matrix_of_the_older_form_that_lies_is_refused(label: str, tmp_path: Path) -> None:
    path = write(tmp_path / "i.dat", BAD_LEGACY[label])
    refusal(lambda: read_imatrix(path), BadSource)


@pytest.mark.parametrize(
    ("sums", "counts"),
    [
        ([[math.nan, 1]], [[1]]), ([[math.inf, 1]], [[1]]), ([[1, 2, 3]], [[1], [1]]), ([[1]], [[1], [2]]),
        ([[1, 2]], [[1, 2, 3]]),
    ],
)  # fmt: skip
def test_sums_and_counts_that_do_not_fit_are_refused(sums: Any, counts: Any, tmp_path: Path) -> None:
    refusal(lambda: read_imatrix(imatrix_gguf(tmp_path / "i.gguf", sums, counts)), BadSource)


@pytest.mark.parametrize(
    ("sums", "counts"),
    [([[1, 1]], [[math.nan]]), ([[1, 1]], [[math.inf]]), ([[1, 1]], [[-1]]), ([[-1, 1]], [[1]])],
)
def test_counts_that_are_none_and_squares_below_zero_are_refused(sums: Any, counts: Any, tmp_path: Path) -> None:
    refusal(lambda: read_imatrix(imatrix_gguf(tmp_path / "i.gguf", sums, counts)), BadSource)


def test_an_importance_matrix_without_counts_or_of_other_types_is_refused(tmp_path: Path) -> None:
    fields = mutants.gguf_fields([key("general.type", STRING, "imatrix")], [tensor(f"{UP}.in_sum2", [8], 0, 0)])
    refusal(lambda: read_imatrix(write(tmp_path / "i.gguf", mutants.joined(fields, 32))), BadSource)
    refusal(lambda: read_imatrix(imatrix_gguf(tmp_path / "i.gguf", np.ones((1, 8)), [[1]], kind=1)), BadSource)
    fields = mutants.gguf_fields([ARCHITECTURE_KEY], [])
    refusal(lambda: read_imatrix(write(tmp_path / "i.gguf", mutants.joined(fields, 32))), BadSource)
    fields = mutants.gguf_fields([key("general.type", STRING, "imatrix")], [])
    refusal(lambda: read_imatrix(write(tmp_path / "i.gguf", mutants.joined(fields, 32))), BadSource)


def test_a_count_of_chunks_beyond_32_bits_does_not_crash(tmp_path: Path) -> None:
    path = imatrix_gguf(tmp_path / "i.gguf", [[1, 1]], [[1]], key("imatrix.chunk_count", U64, 1 << 40))
    is_done(lambda: read_imatrix(path).keys())


@NEEDS_LINKS
def test_an_importance_matrix_may_have_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    assert read_imatrix(legacy_imatrix(tmp_path / os.fsdecode(b"i\xff.dat"), UP, np.ones(8))).keys()


# --- memory -----------------------------------------------------------------------------------------------------------


def bracket_header(size: int) -> bytes:
    return mutants.safetensors_bytes('{"a":[' + "[]," * (size // 3) + "[]]}")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: write(path, bracket_header(6 * MIB)), id="safetensors"),
        pytest.param(lambda path: write(path, b'{"model":[' + b"[]," * (2 * MIB) + b"[]]}"), id="tokenizer"),
    ],
)
def test_brackets_do_not_fill_the_memory(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "file")
    reader = read_safetensors if path.read_bytes()[8:9] == b"{" else lambda path: read_tokenizer(path, 600)
    assert peak_of(lambda: reader(path)) < 3 * path.stat().st_size + 64 * MIB


def test_a_vocabulary_size_in_a_configuration_does_not_fill_the_memory(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tokenizer_ids(checkpoint / "tokenizer.json", TEXTS)
    decoded = read_tokenizer(checkpoint / "tokenizer.json", 600).added
    monkeypatch.setattr(quantize.vocabulary, "_run", lambda *_: {**answer, "decoded": list(decoded)})
    assert peak_of(lambda: vocabulary_of(checkpoint, 1_500_000)) < 80 * MIB


def test_an_importance_matrix_is_not_held_twice(tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    with path.open("wb") as file:
        file.truncate(128 * MIB)
    assert peak_of(lambda: read_imatrix(path)) < path.stat().st_size + 64 * MIB


# --- mutants ----------------------------------------------------------------------------------------------------------

HEADERS, CONFIGS, TOKENIZERS, GGUFS = 7000, 4000, 3500, 5500  # 20,000 together
MUTANT_SECONDS = 2


@dataclass
class Watch:
    """Looks at every mutant: what it raises, how long it takes, what the process grows by."""

    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0

    def __post_init__(self) -> None:
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def try_out(self, act: Callable[[], Any]) -> bool:
        """Whether it was accepted. Anything but a QuantizeError goes through."""
        started = time.thread_time()
        done = is_done(act)
        self.slowest = max(self.slowest, time.thread_time() - started)
        self.accepted += done
        self.refused += not done
        return done

    def check(self) -> None:
        assert self.slowest < MUTANT_SECONDS
        unit = 1 if sys.platform == "darwin" else 1024
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._before) * unit
        assert grown < 64 * MIB
        assert self.accepted >= 10  # else the mutants are too wild to meet the later checks
        assert self.refused >= 10


def test_no_mutant_of_a_safetensors_header_is_accepted_that_the_formats_library_refuses(tmp_path: Path) -> None:
    chance, watch, path = random.Random(1), Watch(), tmp_path / "a.safetensors"
    for number in range(HEADERS):
        data = mutants.safetensors_mutant(chance)
        path.write_bytes(data)
        if watch.try_out(lambda: read_safetensors(path)):
            found = assert_read_alike(path)
            if number % 10 == 0:
                with reference.safe_open(path, "numpy") as opened_by_it:
                    assert set(opened_by_it.keys()) == set(found)
    watch.check()


def config_mutants(chance: random.Random, count: int) -> Iterator[bytes]:
    trees = (
        config_fields(rope_scaling=YARN, head_dim=16),
        config_fields("llama", rope_scaling=ROPE, rope_theta=5e5, attention_bias=True),
        config_fields(num_key_value_heads=..., rope_parameters={"rope_theta": 1e6, "rope_type": "default"}),
    )
    for number in range(count):
        yield mutants.dumped(mutants.mutant(trees[number % 3], chance)).encode()


def test_no_mutant_of_a_configuration_gets_further_than_a_refusal(tmp_path: Path) -> None:
    chance, watch, path = random.Random(2), Watch(), tmp_path / "config.json"

    def act() -> None:
        config = read_config(path)
        assert all(0 < value < 1 << 31 for value in _sizes(config))

    for data in config_mutants(chance, CONFIGS):
        path.write_bytes(data)
        watch.try_out(act)
    watch.check()


def _sizes(config: ModelConfig) -> tuple[int, ...]:
    return (
        config.hidden,
        config.layers,
        config.heads,
        config.kv_heads,
        config.head_size,
        config.vocabulary,
        config.context,
    )


def test_every_mutant_of_a_configuration_that_is_accepted_can_be_written(tmp_path: Path) -> None:
    chance, watch, path = random.Random(3), Watch(), tmp_path / "config.json"
    for data in config_mutants(chance, CONFIGS // 4):
        path.write_bytes(data)
        watch.try_out(lambda: written(read_config(path).fields))
    watch.check()


def test_no_mutant_of_a_tokenizer_gets_further_than_a_refusal(tmp_path: Path) -> None:
    chance, watch, path = random.Random(4), Watch(), tmp_path / "tokenizer.json"
    config = {"bos_token_id": 1, "eos_token_id": 2}

    def act() -> None:
        tokenizer = read_tokenizer(path, VOCABULARY_SIZE)
        special_tokens(tokenizer, settings, config)
        assert all(0 <= number < VOCABULARY_SIZE for number in tokenizer.vocabulary.values())
        assert tokenizer.split in SPLITS.values()

    for _ in range(TOKENIZERS):
        write(path, mutants.mutant(SMALLEST, chance))
        settings = mutants.mutant({**SETTINGS, "chat_template": ""}, chance)
        settings = settings if isinstance(settings, dict) else {}
        watch.try_out(act)
    watch.check()


def test_no_mutant_of_a_gguf_gets_further_than_a_refusal(tmp_path: Path) -> None:
    chance, watch, path = random.Random(6), Watch(), tmp_path / "a.gguf"

    def act() -> None:
        found = read_gguf(path)
        end = path.stat().st_size
        assert all(0 < tensor.offset <= tensor.offset + tensor.size <= end for tensor in found.tensors)
        for entry in found.keys:
            assert entry.value is not None or entry.type == GGUFValueType.ARRAY
            entry.strings()

    for _ in range(GGUFS):
        path.write_bytes(mutants.gguf_mutant(chance))
        watch.try_out(act)
    watch.check()


def test_no_mutant_of_a_gguf_that_is_quantized_leaves_a_result_behind_a_refusal(tmp_path: Path) -> None:
    chance, watch, path = random.Random(7), Watch(), tmp_path / "a.gguf"
    target = tmp_path / "out.gguf"
    for _ in range(400):
        path.write_bytes(mutants.gguf_mutant(chance))
        done = watch.try_out(lambda: requantize(path, target, Wish("Q8_0"), options(), from_quantized=True))
        assert target.exists() == done
        if done:
            read_gguf(target)
            target.unlink()
    watch.check()


def test_no_mutant_of_an_importance_matrix_gets_further_than_a_refusal(tmp_path: Path) -> None:
    chance, watch, path = random.Random(8), Watch(), tmp_path / "i"
    forms = (
        imatrix_gguf(path, np.ones((2, 4)), [[3], [1]], key("imatrix.datasets", ARRAY, (STRING, ["a"]))).read_bytes(),
        legacy_imatrix(path, UP, np.ones(8), 3).read_bytes() + struct.pack("<ii", 3, 4) + b"text",
    )
    for _ in range(2000):
        data = bytearray(chance.choice(forms))
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(data))
            data[place : place + chance.choice((1, 4))] = chance.choice(
                (b"\xff\xff\xff\xff", bytes(4), b"\x7f", b"\x80", struct.pack("<i", chance.randrange(9)))
            )
        path.write_bytes(data)
        watch.try_out(lambda: read_imatrix(path))
    watch.check()


@pytest.mark.parametrize("kind", ["safetensors", "config", "tokenizer", "gguf"])
def test_a_mutant_never_takes_much_more_than_64_mib(kind: str, tmp_path: Path) -> None:
    chance, path = random.Random(9), tmp_path / "file"
    made: dict[str, tuple[Callable[[], bytes], Callable[[Path], Any]]] = {
        "safetensors": (lambda: mutants.safetensors_mutant(chance), read_safetensors),
        "config": (lambda: next(config_mutants(chance, 1)), read_config),
        "tokenizer": (lambda: mutants.dumped(mutants.mutant(SMALLEST, chance)).encode(), READERS["tokenizer"]),
        "gguf": (lambda: mutants.gguf_mutant(chance), read_gguf),
    }
    make, reader = made[kind]
    for _ in range(60):
        path.write_bytes(make())
        # Python takes as much at once as it is asked to read: here one byte more than the bound of 64 MiB.
        assert peak_of(lambda: reader(path)) < path.stat().st_size + 65 * MIB


# --- whole checkpoints ------------------------------------------------------------------------------------------------

CHECKPOINTS = 250


@dataclass
class Outcome:
    error: BaseException | None
    has_target: bool


def spoiled(folder: Path, chance: random.Random) -> None:
    """Edit one file of a checkpoint, or two."""
    for _ in range(chance.randint(1, 2)):
        names = (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
        )
        path = folder / chance.choice((*names, "config.json", "model.safetensors", "README.md"))
        data = path.read_bytes()
        if path.suffix == ".json":
            try:
                data = mutants.dumped(mutants.mutant(json.loads(data), chance)).encode("utf-8", "surrogatepass")
            except ValueError:  # it was spoiled before
                data = b""
        elif path.suffix == ".md" or chance.random() < 0.5:
            place = chance.randrange(1, len(data))
            data = chance.choice(
                (data[:place], data[:place] + b"\xff\x7f" + data[place + 2 :], data + b"\0", data[place:])
            )
        else:
            length = int.from_bytes(data[:8], "little")
            try:
                header = mutants.mutant(json.loads(data[8 : 8 + length]), chance)
            except ValueError:
                header = {}
            data = mutants.safetensors_bytes(mutants.dumped(header)) + data[8 + length :]
        path.write_bytes(data)


@pytest.fixture(scope="module")
def outcomes(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """What became of each mutant of a checkpoint; the C library's proof, a process each, is taken for granted."""
    parent = tmp_path_factory.mktemp("mutants")
    chance, whole = random.Random(10), quantize.vocabulary._run
    known: dict[str, dict[str, Any]] = {}
    latest: dict[str, Any] = {}

    def remembered(program: str, question: dict[str, Any]) -> dict[str, Any]:
        nonlocal latest
        if program == "tokenizer":
            digest = hashlib.sha256(Path(question["path"]).read_bytes()).hexdigest()
            if digest not in known:
                known[digest] = whole(program, question)
            latest = known[digest]
        return latest

    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize.vocabulary, "_run", remembered)
        for number in range(CHECKPOINTS):
            folder = Path(shutil.copytree(checkpoint, parent / f"m{number}"))
            spoiled(folder, chance)
            target = parent / f"{number}.gguf"
            file_type = ("Q8_0", "Q4_K_M", "F16")[number % 3]
            try:
                convert_checkpoint(folder, target, Wish(file_type), options())
            except Exception as error:
                found.append(Outcome(error, target.exists()))
            else:
                found.append(Outcome(None, target.exists()))
            shutil.rmtree(folder)
            for left in parent.glob(f"{number}.gguf*"):
                left.unlink()
    return found


def test_no_mutant_of_a_checkpoint_leaves_a_result_behind_an_error(outcomes: list[Outcome]) -> None:
    assert all(outcome.has_target == (outcome.error is None) for outcome in outcomes)
    assert sum(outcome.error is None for outcome in outcomes) >= 10
    assert sum(isinstance(outcome.error, QuantizeError) for outcome in outcomes) >= 100
    assert all(is_plain(outcome.error) for outcome in outcomes if isinstance(outcome.error, QuantizeError))


def test_no_mutant_of_a_checkpoint_fails_with_anything_but_a_sentence(outcomes: list[Outcome]) -> None:
    assert [outcome.error for outcome in outcomes if not isinstance(outcome.error, QuantizeError | None)] == []

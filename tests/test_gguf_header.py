"""The GGUF reader: right about good files, and a typed error for every bad one.

A bad header makes the C library abort the process, so the rules here are those of ggml/src/gguf.cpp and
src/llama-model-loader.cpp, and the files are built byte by byte: every field can be made to lie.
"""

from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import pytest

from r1local.errors import (
    ExitCode,
    ModelFileError,
    ModelNotFound,
    NotGGUF,
    R1Error,
    TruncatedGGUF,
    UnsupportedModel,
)
from r1local.gguf_header import read_header
from r1local.gguf_types import FILE_TYPES, TENSOR_TYPES, GgufHeader
from tests import makers

MIB = 1 << 20

# The types of metadata values, in the order of the format's numbers.
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
# Types of tensors: number, weights in a block, bytes in a block.
BLOCKS = {0: (1, 4), 1: (1, 2), 8: (32, 34), 12: (256, 144), 14: (256, 210)}


# --- a GGUF file, field by field ---


@dataclass(frozen=True)
class Array:
    kind: int
    items: Sequence[Any] = ()
    length: int | None = None
    """None: the true one."""


@dataclass(frozen=True)
class Tensor:
    name: str | bytes
    dims: tuple[int, ...]
    kind: int = 0
    offset: int | None = None
    """None: where it must be."""
    size: int | None = None
    """None: the true one."""

    @property
    def n_bytes(self) -> int:
        if self.size is not None:
            return self.size
        block, block_bytes = BLOCKS[self.kind]
        weights = 1
        for n in self.dims:
            weights *= n
        return weights // block * block_bytes


@dataclass(frozen=True)
class Key:
    name: str | bytes
    kind: int
    value: Any
    """Bytes stand for themselves, whatever the type."""


def array_key(name: str, kind: int, items: Sequence[Any]) -> Key:
    return Key(name, ARRAY, Array(kind, items))


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def encoded(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def shown(name: str | bytes) -> str:
    return name if isinstance(name, str) else repr(name)


def fields(keys: Sequence[Key], tensors: Sequence[Tensor], *, alignment: int = 32) -> dict[str, bytes]:
    """The fields of a file in order, by label. Joined, they are the file."""
    file = {
        "magic": b"GGUF",
        "version": u32(3),
        "tensor count": u64(len(tensors)),
        "key count": u64(len(keys)),
    }

    def put(label: str, data: bytes) -> None:
        while label in file:
            label += "'"
        file[label] = data

    def put_string(label: str, text: str | bytes) -> None:
        put(f"{label} length", u64(len(encoded(text))))
        put(label, encoded(text))

    for key in keys:
        name = shown(key.name)[:60]
        put_string(f"{name}: name", key.name)
        put(f"{name}: type", u32(key.kind))
        match key.value:
            case bytes():
                put(f"{name}: value", key.value)
            case str():
                put_string(f"{name}: value", key.value)
            case Array(kind, items, length):
                put(f"{name}: element type", u32(kind))
                put(f"{name}: array length", u64(len(items) if length is None else length))
                for number, item in enumerate(items):
                    if kind == STRING:
                        put_string(f"{name}: item {number}", item)
                    else:
                        put(f"{name}: item {number}", struct.pack("<" + FORMATS[kind], item))
            case number:
                put(f"{name}: value", struct.pack("<" + FORMATS[key.kind], number))
    expected = end = 0
    for tensor in tensors:
        name = shown(tensor.name)
        put_string(f"{name}: name", tensor.name)
        put(f"{name}: dimension count", u32(len(tensor.dims)))
        for number, n in enumerate(tensor.dims):
            put(f"{name}: dimension {number}", u64(n))
        put(f"{name}: type", u32(tensor.kind))
        put(f"{name}: offset", u64(expected if tensor.offset is None else tensor.offset))
        end = expected + tensor.n_bytes
        expected += -(-tensor.n_bytes // alignment) * alignment
    header = sum(map(len, file.values()))
    put("padding", bytes(-header % alignment))
    put("data", (b"weights!" * (end // 8 + 1))[:end])
    return file


def joined(file: dict[str, bytes]) -> bytes:
    return b"".join(file.values())


TOKENS = ("<s>", "</s>", "a", "ą", "日本")
KEYS = (
    Key("general.architecture", STRING, "qwen2"),
    Key("general.type", STRING, "model"),
    Key("general.name", STRING, "Größe"),
    Key("general.alignment", U32, 32),
    Key("general.file_type", U32, 7),
    Key("split.no", U16, 0),
    Key("split.count", U16, 1),
    Key("qwen2.block_count", U32, 1),
    Key("qwen2.context_length", U32, 4096),
    Key("qwen2.rope.freq_base", F32, 10_000.0),
    Key("test.u8", U8, 255),
    Key("test.i8", I8, -128),
    Key("test.u16", U16, 65_535),
    Key("test.i16", I16, -32_768),
    Key("test.i32", I32, -(2**31)),
    Key("test.bool", BOOL, True),
    Key("test.u64", U64, 2**64 - 1),
    Key("test.i64", I64, -(2**63)),
    Key("test.f64", F64, 0.1),
    Key("test.empty", STRING, ""),
    Key("test.empty_array", ARRAY, Array(U32)),
    Key("test.bools", ARRAY, Array(BOOL, (True, False))),
    Key("tokenizer.ggml.tokens", ARRAY, Array(STRING, TOKENS)),
    Key("tokenizer.ggml.token_type", ARRAY, Array(I32, (3, 3, 1, 1, 1))),
    Key("tokenizer.ggml.scores", ARRAY, Array(F32, (0.0, 0.0, -1.0, -2.0, -3.0))),
    Key("tokenizer.ggml.merges", ARRAY, Array(STRING, ("a b", "c d"))),
    Key("tokenizer.chat_template", STRING, "{{ messages }}"),
)
# 48 bytes, then 2 blocks of 34, then 12: each but the last is followed by padding to a multiple of 32.
TENSORS = (Tensor("token_embd.weight", (4, 3)), Tensor("output.weight", (32, 2), 8), Tensor("output_norm.weight", (3,)))
SMALL = fields(KEYS, TENSORS)
LABELS = list(SMALL)


def with_key(key: Key) -> tuple[Key, ...]:
    """The small file's keys with `key` in the place of the one of its name, or added."""
    names = [existing.name for existing in KEYS]
    if key.name not in names:
        return (*KEYS, key)
    at = names.index(key.name)
    return (*KEYS[:at], key, *KEYS[at + 1 :])


def without(*names: str) -> tuple[Key, ...]:
    return tuple(key for key in KEYS if key.name not in names)


def read(folder: Path, data: bytes, name: str = "bad.gguf") -> GgufHeader:
    path = folder / name
    path.write_bytes(data)
    return read_header(path)


def verdict(path: Path) -> GgufHeader | R1Error:
    """The header, or the error it is refused with. Any other exception is a failure of the test."""
    try:
        return read_header(path)
    except R1Error as error:
        return error


def refused(folder: Path, data: bytes, kind: type[R1Error] = ModelFileError, about: str = "") -> R1Error:
    """The file is refused with an error of `kind` that names the file and `about`, and says what to do."""
    with pytest.raises(kind) as caught:
        read(folder, data)
    error = caught.value
    assert error.exit_code == ExitCode.BAD_FILE
    assert "bad.gguf" in error.message
    assert about in error.message
    assert error.hint
    return error


# --- good files ---


@pytest.mark.parametrize("quantization", ["F32", "Q4_0", "Q8_0"])
def test_reads_what_the_reference_reads(tmp_path: Path, quantization: str) -> None:
    """The same as the `gguf` package on files that package wrote."""
    path = makers.write_model(tmp_path / "model.gguf", makers.Vocabulary(), quantization=quantization)
    header, reference = read_header(path), gguf.GGUFReader(path)
    assert header.path == path
    assert header.version == 3
    assert header.file_size == path.stat().st_size
    assert header.alignment == reference.alignment
    assert header.data_offset == reference.data_offset
    assert header.parts == ()
    found = {
        tensor.name: (tensor.shape, tensor.type_id, tensor.type_name, tensor.size, header.data_offset + tensor.offset)
        for tensor in header.tensors
    }
    expected = {
        tensor.name: (
            tuple(tensor.shape.tolist()),
            int(tensor.tensor_type),
            tensor.tensor_type.name,
            tensor.n_bytes,
            tensor.data_offset,
        )
        for tensor in reference.tensors
    }
    assert found == expected
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in reference.tensors]
    assert header.parameters == sum(int(tensor.n_elements) for tensor in reference.tensors)
    # The reference lists three fields of its own: version and the two counts.
    keys = {name: field for name, field in reference.fields.items() if not name.startswith("GGUF.")}
    assert list(header.metadata) == list(keys)
    for name, key in keys.items():
        value = header.metadata[name]
        if key.types[0] == gguf.GGUFValueType.ARRAY:
            assert (value.element_type, value.length) == (int(key.types[1]), len(key.contents())), name
        else:
            assert value == key.contents(), name


def test_random_model(random_model: Path) -> None:
    header = read_header(random_model)
    assert header.architecture == "qwen2"
    assert header.quantization == "F32"
    assert header.chat_template == makers.R1_TEMPLATE_V2
    assert header.integer("block_count") == 2
    assert header.integer("attention.head_count_kv") == 1
    # By the shapes in makers.write_model: vocabulary 264, hidden 64, two layers, feed-forward 128, one KV head of 32.
    layer = 64 * 64 + 64 + 2 * (32 * 64 + 32) + 64 + 64 * 64 + 64 + 3 * 128 * 64
    assert header.parameters == 2 * 264 * 64 + 64 + 2 * layer
    assert len(header.tensors) == 3 + 2 * 12


def test_small_file(tmp_path: Path) -> None:
    """Every type of value, and the layout of the data. This is also the control of all the bad files below."""
    header = read(tmp_path, joined(SMALL))
    for key in KEYS:
        value = header.metadata[key.name]
        if isinstance(key.value, Array):
            assert (value.element_type, value.length) == (key.value.kind, len(key.value.items)), key.name
        else:
            assert value == key.value, key.name
            assert type(value) is type(key.value), key.name
    assert len(header.metadata) == len(KEYS)
    assert [(t.name, t.shape, t.type_name, t.offset, t.size) for t in header.tensors] == [
        ("token_embd.weight", (4, 3), "F32", 0, 48),
        ("output.weight", (32, 2), "Q8_0", 64, 68),
        ("output_norm.weight", (3,), "F32", 160, 12),
    ]
    assert header.data_offset % 32 == 0
    assert header.data_offset + 160 + 12 == header.file_size


def test_version_2_and_no_tensors(tmp_path: Path) -> None:
    assert read(tmp_path, joined(SMALL | {"version": u32(2)})).version == 2
    assert read(tmp_path, joined(fields(KEYS, ()))).tensors == ()


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment_moves_the_data(tmp_path: Path, alignment: int) -> None:
    keys = with_key(Key("general.alignment", U32, alignment))
    header = read(tmp_path, joined(fields(keys, TENSORS, alignment=alignment)))
    assert header.alignment == alignment
    assert header.data_offset % alignment == 0
    assert header.tensors[1].offset == -(-48 // alignment) * alignment


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(with_key(Key("qwen2.block_count", U32, 512)), id="the most layers"),
        pytest.param(with_key(Key("k" * 65_535, U8, 1)), id="the longest key"),
        pytest.param(without("general.type"), id="no general.type"),
        pytest.param(without("tokenizer.ggml.token_type", "tokenizer.ggml.scores"), id="tokens alone"),
        pytest.param(with_key(Key("test.text", STRING, "x" * 100_000)), id="a long text"),
    ],
)
def test_unusual_and_legal(tmp_path: Path, keys: tuple[Key, ...]) -> None:
    header = read(tmp_path, joined(fields(keys, TENSORS)))
    assert len(header.metadata) == len(keys)
    assert header.architecture == "qwen2"


def test_the_longest_tensor_name(tmp_path: Path) -> None:
    header = read(tmp_path, joined(fields(KEYS, (Tensor("n" * 63, (1, 2, 3, 4)),))))
    assert (header.tensors[0].name, header.tensors[0].shape) == ("n" * 63, (1, 2, 3, 4))


def test_block_sizes_are_those_of_the_format() -> None:
    """As in the `gguf` package, but for Q8_1, where that one is wrong: a half2 and 32 bytes (ggml-common.h)."""
    reference = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGML_QUANT_SIZES}
    reference[9] = ("Q8_1", 32, 4 + 32)
    assert {kind: reference.get(kind) for kind in TENSOR_TYPES} == TENSOR_TYPES


def test_file_types_are_those_of_the_format() -> None:
    names = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {kind: names.get(kind) for kind in FILE_TYPES} == FILE_TYPES


# --- properties ---


@pytest.mark.parametrize(
    ("file_type", "expected"),
    [
        pytest.param(Key("general.file_type", U32, 15), "Q4_K_M", id="said"),
        pytest.param(Key("general.file_type", U32, 0), "F32", id="zero is a type"),
        pytest.param(Key("general.file_type", U32, 9999), "Q6_K", id="an unknown number"),
        pytest.param(Key("general.file_type", STRING, "Q4_K_M"), "Q6_K", id="a text"),
        pytest.param(Key("general.file_type", ARRAY, Array(U32, (15,))), "Q6_K", id="an array"),
        pytest.param(None, "Q6_K", id="not said"),
    ],
)
def test_quantization(tmp_path: Path, file_type: Key | None, expected: str) -> None:
    """What the file says; else the type of most bytes among the matrices, not of the most tensors."""
    tensors = (
        Tensor("a.weight", (256, 1), 12),
        Tensor("b.weight", (256, 1), 12),
        Tensor("c.weight", (256, 2), 14),
        Tensor("norm.weight", (1000,)),
    )
    keys = without("general.file_type") if file_type is None else with_key(file_type)
    assert read(tmp_path, joined(fields(keys, tensors))).quantization == expected


def test_quantization_without_a_matrix(tmp_path: Path) -> None:
    header = read(tmp_path, joined(fields(without("general.file_type"), (Tensor("norm", (4,)),))))
    assert header.quantization == "unknown"


def test_parameters(tmp_path: Path) -> None:
    assert read(tmp_path, joined(SMALL)).parameters == 4 * 3 + 32 * 2 + 3
    assert read(tmp_path, joined(fields(KEYS, ()))).parameters == 0


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param(Key("tokenizer.chat_template", STRING, "{{ x }}"), "{{ x }}", id="text"),
        pytest.param(Key("tokenizer.chat_template", STRING, ""), "", id="empty"),
        pytest.param(Key("tokenizer.chat_template", U32, 7), None, id="a number"),
        pytest.param(Key("tokenizer.chat_template", ARRAY, Array(STRING, ("{{ x }}",))), None, id="an array"),
        pytest.param(None, None, id="none"),
    ],
)
def test_chat_template(tmp_path: Path, template: Key | None, expected: str | None) -> None:
    keys = without("tokenizer.chat_template") if template is None else with_key(template)
    assert read(tmp_path, joined(fields(keys, TENSORS))).chat_template == expected


def test_integer(tmp_path: Path) -> None:
    keys = (*KEYS, Key("qwen2.text", STRING, "12"), Key("qwen2.heads", ARRAY, Array(U32, (1, 2))))
    header = read(tmp_path, joined(fields(keys, TENSORS)))
    assert header.integer("context_length") == 4096
    assert header.integer("missing") == 0
    assert header.integer("missing", 5) == 5
    for wrong_type in ("text", "heads", "rope.freq_base"):
        assert header.integer(wrong_type, 5) == 5


# --- files that end early ---


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """Each beginning of a good file is refused, in less than 50 ms of processor time."""
    data = joined(SMALL)
    path = tmp_path / "bad.gguf"
    times = []
    for length in range(len(data)):
        path.write_bytes(data[:length])
        started = time.process_time()
        result = verdict(path)
        times.append(time.process_time() - started)
        expected = NotGGUF if 0 < length < 4 else ModelFileError
        assert isinstance(result, expected), f"{length} of {len(data)} bytes: {result}"
        assert result.hint
    assert sorted(times)[-len(times) // 100] < 0.05  # a collection of garbage falls into one or another


@pytest.mark.parametrize(
    "last",
    [
        Key("last", STRING, "some text"),
        Key("last", U64, 1),
        array_key("last", STRING, ("one", "two")),
        array_key("last", U16, (1, 2, 3)),
    ],
    ids=["text", "number", "texts", "numbers"],
)
def test_cut_at_every_byte_of_the_last_key(tmp_path: Path, last: Key) -> None:
    """In a file without tensors nothing that follows gives away that the end is missing."""
    whole = joined({label: data for label, data in fields((*KEYS, last), ()).items() if label != "padding"})
    assert "last" in read(tmp_path, whole).metadata
    for length in range(len(whole) - 40, len(whole)):
        refused(tmp_path, whole[:length], TruncatedGGUF)


def test_cut_inside_the_weights_says_so(tmp_path: Path) -> None:
    data = joined(SMALL)
    for length in range(len(data) - len(SMALL["data"]), len(data)):
        refused(tmp_path, data[:length], TruncatedGGUF)


def test_a_download_that_stopped_half_way(tmp_path: Path, random_model: Path) -> None:
    data = random_model.read_bytes()
    error = refused(tmp_path, data[: len(data) // 2], TruncatedGGUF, about=f"{len(data) // 2:,}")
    assert f"{len(data):,}" in error.message, "how many bytes it should have"


# --- counts and lengths ---

COUNTS = [label for label in LABELS if label.endswith((" count", " length"))]
HUGE = (2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1)


# Less than any limit on a count, and still more than the file has bytes.
@pytest.mark.parametrize("value", [0, 1, 9_999_999, *HUGE])
@pytest.mark.parametrize("label", COUNTS)
def test_a_count_that_lies(tmp_path: Path, label: str, value: int) -> None:
    """Counts are checked against the bytes that are there before anything is allocated."""
    width = len(SMALL[label])
    if value >= 1 << 8 * width:
        value = (1 << 8 * width) - 1
    path = tmp_path / "bad.gguf"
    path.write_bytes(joined(SMALL | {label: value.to_bytes(width, "little")}))
    tracemalloc.start()
    started = time.process_time()
    try:
        result = verdict(path)
    finally:
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    if isinstance(result, GgufHeader):
        assert value < 2, "no field of this file is that large"
        assert_sound(result)
    else:
        assert isinstance(result, ModelFileError)
    assert seconds < 1
    assert peak < 64 * MIB


def test_every_kind_of_count_is_among_them() -> None:
    """The table above is made by name: it must not run empty when a name changes."""
    for label in (
        "tensor count",
        "key count",
        "general.architecture: name length",
        "general.architecture: value length",
        "tokenizer.ggml.tokens: array length",
        "tokenizer.ggml.tokens: item 0 length",
        "output.weight: name length",
        "output.weight: dimension count",
    ):
        assert label in COUNTS


def test_large_and_legal(tmp_path: Path) -> None:
    """A vocabulary of 152,064 tokens with 300,000 merges is read in 2 s and 400 MiB."""
    tokens = b"".join(u64(len(text)) + text for text in (b"token%d" % n for n in range(152_064)))
    merges = b"".join(u64(len(text)) + text for text in (b"mer ge%d" % n for n in range(300_000)))
    file = fields(
        (
            Key("general.architecture", STRING, "qwen2"),
            Key("qwen2.block_count", U32, 28),
            Key("tokenizer.ggml.tokens", ARRAY, u32(STRING) + u64(152_064) + tokens),
            Key("tokenizer.ggml.token_type", ARRAY, u32(I32) + u64(152_064) + bytes(4 * 152_064)),
            Key("tokenizer.ggml.merges", ARRAY, u32(STRING) + u64(300_000) + merges),
        ),
        TENSORS,
    )
    path = tmp_path / "large.gguf"
    path.write_bytes(joined(file))
    started = time.process_time()
    header = read_header(path)
    assert time.process_time() - started < 2
    assert header.metadata["tokenizer.ggml.tokens"].length == 152_064
    assert header.metadata["tokenizer.ggml.merges"].length == 300_000
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in TENSORS]
    tracemalloc.start()
    try:
        read_header(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 400 * MIB


# --- metadata that is wrong ---


def nested(levels: int) -> bytes:
    """An array in an array in an array: readers that go down into it run out of stack."""
    return (u32(ARRAY) + u64(1)) * levels + u32(U8) + u64(1) + b"\x01"


BAD_KEYS: dict[str, tuple[Key, ...]] = {
    "array in an array": with_key(Key("test.nested", ARRAY, nested(1))),
    "50,000 arrays in one another": with_key(Key("test.nested", ARRAY, nested(50_000))),
    "empty array of arrays": with_key(Key("test.nested", ARRAY, Array(ARRAY))),
    "unknown type 13": with_key(Key("test.unknown", 13, bytes(64))),
    "unknown type 2**32-1": with_key(Key("test.unknown", 2**32 - 1, bytes(64))),
    "unknown element type": with_key(Key("test.unknown", ARRAY, u32(13) + u64(1) + bytes(64))),
    "unknown element type, empty": with_key(Key("test.unknown", ARRAY, u32(13) + u64(0))),
    "key twice": (*KEYS, Key("general.name", STRING, "again")),
    "key twice, another type": (*KEYS, Key("general.architecture", U32, 1)),
    "key is not UTF-8": (*KEYS, Key(b"general.\xff", U8, 1)),
    "key with half a character": (*KEYS, Key("general.é".encode()[:-1], U8, 1)),
    "key too long": (*KEYS, Key("k" * 65_536, U8, 1)),
    "text is not UTF-8": with_key(Key("general.name", STRING, u64(2) + b"\xc3\x28")),
    "no architecture": without("general.architecture"),
    "empty architecture": with_key(Key("general.architecture", STRING, "")),
    "architecture is a number": with_key(Key("general.architecture", U32, 1)),
    "architecture is an array": with_key(array_key("general.architecture", STRING, ("qwen2",))),
    # gguf.md: a uint32, a multiple of 8; gguf.cpp: a power of two.
    "alignment 0": with_key(Key("general.alignment", U32, 0)),
    "alignment 1": with_key(Key("general.alignment", U32, 1)),
    "alignment 3": with_key(Key("general.alignment", U32, 3)),
    "alignment 2**30": with_key(Key("general.alignment", U32, 2**30)),
    "alignment -32": with_key(Key("general.alignment", I32, -32)),
    "alignment is a text": with_key(Key("general.alignment", STRING, "32")),
    "alignment is a float": with_key(Key("general.alignment", F32, 32.0)),
    "alignment is a bool": with_key(Key("general.alignment", BOOL, True)),
    "alignment is an array": with_key(array_key("general.alignment", U32, (32,))),
    "alignment is a uint64": with_key(Key("general.alignment", U64, 32)),
    # llama-model.cpp: GGML_ASSERT(n_layer > 0 && n_layer <= 512), which aborts.
    "block_count 0": with_key(Key("qwen2.block_count", U32, 0)),
    "block_count 513": with_key(Key("qwen2.block_count", U32, 513)),
    "block_count 2**32": with_key(Key("qwen2.block_count", U64, 2**32)),
    "block_count 2**32+1": with_key(Key("qwen2.block_count", U64, 2**32 + 1)),
    "block_count -1": with_key(Key("qwen2.block_count", I32, -1)),
    "block_count is a text": with_key(Key("qwen2.block_count", STRING, "1")),
    "block_count is a float": with_key(Key("qwen2.block_count", F32, 1.0)),
    "block_count is a bool": with_key(Key("qwen2.block_count", BOOL, True)),
    "block_count is an array": with_key(array_key("qwen2.block_count", U32, (1,))),
    # The C library casts these to what they should be.
    "tokens are numbers": with_key(array_key("tokenizer.ggml.tokens", U64, (1, 2, 3, 4, 5))),
    "tokens are bytes": with_key(array_key("tokenizer.ggml.tokens", U8, (1, 2, 3, 4, 5))),
    "tokens are no array": with_key(Key("tokenizer.ggml.tokens", STRING, "a")),
    "token_type are floats": with_key(array_key("tokenizer.ggml.token_type", F32, (1.0,) * 5)),
    "token_type are bytes": with_key(array_key("tokenizer.ggml.token_type", U8, (1,) * 5)),
    "token_type are int64": with_key(array_key("tokenizer.ggml.token_type", I64, (1,) * 5)),
    "token_type are texts": with_key(array_key("tokenizer.ggml.token_type", STRING, ("1",) * 5)),
    "token_type is no array": with_key(Key("tokenizer.ggml.token_type", I32, 1)),
    "token_type too short": with_key(array_key("tokenizer.ggml.token_type", I32, (1,) * 4)),
    "token_type too long": with_key(array_key("tokenizer.ggml.token_type", I32, (1,) * 6)),
    "token_type empty": with_key(array_key("tokenizer.ggml.token_type", I32, ())),
    "merges are numbers": with_key(array_key("tokenizer.ggml.merges", U64, (1, 2))),
    "merges are no array": with_key(Key("tokenizer.ggml.merges", STRING, "a b")),
    "scores are doubles": with_key(array_key("tokenizer.ggml.scores", F64, (0.0,) * 5)),
    "scores are texts": with_key(array_key("tokenizer.ggml.scores", STRING, ("0",) * 5)),
    "scores are no array": with_key(Key("tokenizer.ggml.scores", F32, 0.0)),
    "scores too short": with_key(array_key("tokenizer.ggml.scores", F32, (0.0,) * 4)),
}


@pytest.mark.parametrize("keys", BAD_KEYS.values(), ids=BAD_KEYS)
def test_bad_metadata(tmp_path: Path, keys: tuple[Key, ...]) -> None:
    refused(tmp_path, joined(fields(keys, TENSORS)))


@pytest.mark.parametrize("alignment", [24, 48])
def test_alignment_is_a_power_of_two(tmp_path: Path, alignment: int) -> None:
    """Also where the tensors lie as it says, so that nothing else is wrong with the file."""
    keys = with_key(Key("general.alignment", U32, alignment))
    refused(tmp_path, joined(fields(keys, TENSORS, alignment=alignment)))


def test_an_adapter_is_not_a_model(tmp_path: Path) -> None:
    keys = with_key(Key("general.type", STRING, "adapter"))
    refused(tmp_path, joined(fields(keys, TENSORS)), UnsupportedModel, about="adapter")


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(Key("qwen2.expert_count", U32, 2**20), id="too many experts"),
        pytest.param(Key("qwen2.expert_used_count", U32, 2), id="more experts used than there are"),
        pytest.param(Key("qwen2.nextn_predict_layers", U32, 2), id="more predicting layers than layers"),
        pytest.param(Key("qwen2.rope.scaling.type", STRING, "unheard-of"), id="unknown rope scaling"),
    ],
)
def test_numbers_the_c_library_aborts_on(tmp_path: Path, key: Key) -> None:
    """The other GGML_ASSERTs of llama_model_base::load_hparams that a header alone sets off (llama-model.cpp)."""
    refused(tmp_path, joined(fields(with_key(key), TENSORS)))


@pytest.mark.parametrize("version", [0, 1, 4, 2**32 - 1, 3 << 24], ids=["0", "1", "4", "2**32-1", "big-endian"])
def test_unknown_version(tmp_path: Path, version: int) -> None:
    refused(tmp_path, joined(SMALL | {"version": u32(version)}), about=f"{version}")


# --- tensors that are wrong ---

A, B, C = TENSORS
BAD_TENSORS: dict[str, tuple[Tensor, ...]] = {
    "no dimensions": (Tensor("bad", (), size=4),),
    "five dimensions": (Tensor("bad", (1, 1, 1, 1, 1)),),
    "a dimension of 0": (Tensor("bad", (0,)),),
    "a second dimension of 0": (Tensor("bad", (4, 0)),),
    "a dimension of 2**63": (Tensor("bad", (2**63,), size=64),),
    "a dimension of 2**64-1": (Tensor("bad", (2**64 - 1,), size=64),),
    "2**63 weights": (Tensor("bad", (2**32, 2**31), size=64),),
    "2**64 weights, 0 when it wraps": (Tensor("bad", (2**32, 2**32), size=0),),
    "2**64+2**32 weights": (Tensor("bad", (2**32, 2**32 + 1), size=64),),
    "2**63 weights in four dimensions": (Tensor("bad", (2**16, 2**16, 2**16, 2**15), size=64),),
    "row no multiple of the block": (Tensor("bad", (33,), 8, size=64),),
    "row smaller than the block": (Tensor("bad", (16, 2), 8, size=34),),
    "Q4_K row of 128": (Tensor("bad", (128, 2), 12, size=144),),
    "the same tensor twice": (A, B, A),
    "the first not at the start": (Tensor("bad", (4, 3), offset=32, size=96),),
    "overlap: two at one place": (A, Tensor("bad", (4, 3), offset=0)),
    "overlap: half": (A, Tensor("bad", (4, 3), offset=32)),
    "overlap: wraps to the first": (A, Tensor("bad", (4, 3), offset=2**64 - 32)),
    "gap": (A, Tensor("bad", (4, 3), offset=96, size=96)),
    "unaligned offset": (A, Tensor("bad", (4, 3), offset=48)),
    "offset of 1": (Tensor("bad", (4, 3), offset=1, size=64),),
    "order swapped": (Tensor("bad", (4, 3), offset=64), Tensor("bad too", (4, 3), offset=0)),
    "past the end": (A, B, Tensor("bad", (4,), size=12)),
    "far past the end": (A, Tensor("bad", (2**40,), size=12)),
    "name of 64 bytes": (Tensor("n" * 64, (4,)),),
    "name of 32 two-byte characters": (Tensor("é" * 32, (4,)),),
    "name is not UTF-8": (Tensor(b"bad\xff", (4,)),),
}


@pytest.mark.parametrize("tensors", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_bad_tensors(tmp_path: Path, tensors: tuple[Tensor, ...]) -> None:
    refused(tmp_path, joined(fields(KEYS, tensors)))


@pytest.mark.parametrize("past", ["past the end", "far past the end"])
def test_a_tensor_past_the_end_is_a_file_cut_off(tmp_path: Path, past: str) -> None:
    refused(tmp_path, joined(fields(KEYS, BAD_TENSORS[past])), TruncatedGGUF)


# 4 and 5 were Q4_2 and Q4_3, 31 to 33 and 36 to 38 repacked layouts: all gone from the format.
@pytest.mark.parametrize("kind", [4, 5, 31, 32, 33, 36, 37, 38, 200, 2**31, 2**32 - 1])
def test_unknown_tensor_type(tmp_path: Path, kind: int) -> None:
    tensors = (A, Tensor("odd.weight", (256,), kind, size=256))
    refused(tmp_path, joined(fields(KEYS, tensors)), UnsupportedModel, about="odd.weight")


# --- things that are no GGUF file ---


@pytest.mark.parametrize(
    "data",
    [b"Once upon a time\n" * 100, b"GG", b"gguf" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(100), b"FUGG" + bytes(64)],
    ids=["text", "two bytes", "lower case", "picture", "big-endian magic"],
)
def test_not_gguf(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data, NotGGUF)


def test_empty_file(tmp_path: Path) -> None:
    refused(tmp_path, b"", TruncatedGGUF, about="0 bytes")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(NotGGUF, match="folder") as caught:
        read_header(tmp_path)
    assert caught.value.hint


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / "dangling.gguf").symlink_to(tmp_path / "gone.gguf")
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    for name in ("none.gguf", "dangling.gguf", "loop.gguf", "no/such/folder.gguf", "nul\0.gguf"):
        with pytest.raises(ModelNotFound) as caught:
            read_header(tmp_path / name)
        assert caught.value.exit_code == ExitCode.NO_MODEL
        assert caught.value.hint


def test_name_too_long_for_the_system(tmp_path: Path) -> None:
    with pytest.raises(R1Error):
        read_header(tmp_path / ("x" * 5000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(R1Error):
        read_header(tmp_path / "pipe.gguf")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    path = locked / "bad.gguf"
    path.write_bytes(joined(SMALL))
    path.chmod(0)
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        read_header(path)
    path.chmod(0o600)
    locked.chmod(0)
    try:
        with pytest.raises(ModelFileError, match=r"bad\.gguf"):
            read_header(path)
    finally:
        locked.chmod(0o700)


# --- split models ---


def split_keys(number: Any, count: Any = 3, *, kind: int = U16) -> tuple[Key, ...]:
    return (Key("split.no", kind, number), Key("split.count", U16, count), Key("split.tensors.count", I32, 3))


@dataclass
class Split:
    """A model in three files, as llama.cpp's gguf-split writes it: all metadata in the first."""

    folder: Path
    parts: list[dict[str, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        description = without("split.no", "split.count")
        self.parts = [fields((*description, *split_keys(0)), (A,))]
        self.parts += [fields(split_keys(number), (tensor,)) for number, tensor in ((1, B), (2, C))]

    def path(self, number: int) -> Path:
        return self.folder / f"model-{number:05d}-of-00003.gguf"

    def write(self) -> Path:
        for number, part in enumerate(self.parts, 1):
            self.path(number).write_bytes(joined(part))
        return self.path(1)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(tmp_path)


def test_split_model(split: Split) -> None:
    header = read_header(split.write())
    assert header.parts == (split.path(2), split.path(3))
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in TENSORS]
    assert header.parameters == 12 + 64 + 3
    assert header.file_size == sum(len(joined(part)) for part in split.parts)
    assert header.architecture == "qwen2"
    alone = read_header(split.path(1), follow_parts=False)
    assert [tensor.name for tensor in alone.tensors] == [A.name]


@pytest.mark.parametrize("missing", [2, 3])
def test_part_missing(split: Split, missing: int) -> None:
    first = split.write()
    split.path(missing).unlink()
    with pytest.raises(TruncatedGGUF, match=split.path(missing).name) as caught:
        read_header(first)
    assert caught.value.hint


@pytest.mark.parametrize("named", [2, 3])
def test_naming_a_further_part(split: Split, named: int) -> None:
    split.write()
    with pytest.raises(ModelFileError, match=split.path(named).name) as caught:
        read_header(split.path(named))
    assert "00001-of" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["renamed.gguf", "model-00001-of-00004.gguf", "model-00002-of-00003.gguf", "model-1-of-3.gguf"]
)
def test_first_part_under_a_wrong_name(split: Split, name: str) -> None:
    """The parts are found by name, so a wrong one is refused here and not deep in the C library."""
    first = split.write()
    with pytest.raises(ModelFileError, match=name):
        read_header(first.replace(first.with_name(name)))


@pytest.mark.parametrize("length", [0, 3, 30, -1])
def test_part_cut_off(split: Split, length: int) -> None:
    first = split.write()
    whole = split.path(3).read_bytes()
    split.path(3).write_bytes(whole[:length])
    with pytest.raises(ModelFileError, match=split.path(3).name):
        read_header(first)


@pytest.mark.parametrize(("count", "kind"), [(2**16 - 1, U16), (99_999, U32)])
def test_a_lie_about_the_number_of_parts(tmp_path: Path, count: int, kind: int) -> None:
    keys = (*without("split.no", "split.count"), Key("split.no", U16, 0), Key("split.count", kind, count))
    path = tmp_path / f"model-00001-of-{count:05d}.gguf"
    path.write_bytes(joined(fields(keys, (A,))))
    with pytest.raises(ModelFileError):
        read_header(path)


def test_parts_must_not_repeat_a_tensor(split: Split) -> None:
    """llama-model-loader.cpp: "tensor '%s' is duplicated"."""
    split.parts[2] = fields(split_keys(2), (B,))
    with pytest.raises(ModelFileError):
        read_header(split.write())


def test_parts_swapped(split: Split) -> None:
    """llama-model-loader.cpp: "invalid split file idx"."""
    split.parts[1], split.parts[2] = split.parts[2], split.parts[1]
    with pytest.raises(ModelFileError):
        read_header(split.write())


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(split_keys(1, kind=U32), id="uint32"),
        pytest.param((Key("split.no", STRING, "1"), *split_keys(1)[1:]), id="text"),
        pytest.param(split_keys(1)[1:], id="missing"),
    ],
)
def test_number_of_a_part_of_a_wrong_type(split: Split, keys: tuple[Key, ...]) -> None:
    """llama-model-loader.cpp reads it with gguf_get_val_u16, which aborts the process on any other type."""
    split.parts[1] = fields(keys, (B,))
    with pytest.raises(ModelFileError):
        read_header(split.write())


@pytest.mark.parametrize("count", [None, 1])
@pytest.mark.parametrize(
    "bad",
    [
        Key("qwen2.block_count", U32, 513),
        Key("general.type", STRING, "adapter"),
        Key("tokenizer.ggml.tokens", STRING, "a"),
        array_key("tokenizer.ggml.token_type", I32, (1,)),
    ],
    ids=["block_count 513", "adapter", "tokens", "token_type"],
)
def test_a_single_file_does_not_escape_the_rules_as_a_part(tmp_path: Path, bad: Key, count: int | None) -> None:
    """The C library looks at split.no only where split.count is above 1; such a file is loaded like any other."""
    keys = [key for key in with_key(bad) if key.name not in ("split.no", "split.count")]
    keys.append(Key("split.no", U16, 1))
    if count is not None:
        keys.append(Key("split.count", U16, count))
    refused(tmp_path, joined(fields(keys, TENSORS)))


def test_every_header_has_an_architecture(tmp_path: Path) -> None:
    """`architecture` is read by everyone who gets a header, so no file without one may pass."""
    keys = [key for key in without("general.architecture", "split.count") if key.name != "split.no"]
    refused(tmp_path, joined(fields([*keys, Key("split.no", U16, 1)], TENSORS)))


# --- random damage ---


def assert_sound(header: GgufHeader) -> None:
    """What a header that was let through promises to those who use it."""
    assert header.alignment >= 8
    assert header.alignment & (header.alignment - 1) == 0
    expected = 0
    for tensor in header.tensors:
        assert tensor.offset == expected
        assert header.data_offset + tensor.offset + tensor.size <= header.file_size
        assert 1 <= len(tensor.shape) <= 4
        assert min(tensor.shape) > 0
        expected += -(-tensor.size // header.alignment) * header.alignment
    assert len({tensor.name for tensor in header.tensors}) == len(header.tensors)
    assert header.architecture
    assert 1 <= header.integer("block_count", 1) <= 512
    assert header.quantization
    assert header.parameters >= len(header.tensors)
    assert header.chat_template is None or isinstance(header.chat_template, str)


def mutant(source: random.Random) -> bytes:
    """The small file with one to three of its fields changed, knowing where the fields are."""
    file = dict(SMALL)
    data = None
    for _ in range(source.randint(1, 3)):
        label = source.choice(list(file))
        old = file[label]
        width = len(old)
        match source.randrange(8):
            case 0 | 1 if width in (1, 2, 4, 8):
                top = 1 << 8 * width
                numbers = [0, 1, 2, 8, 9, 12, 13, top - 1, top // 2, top // 2 - 1, source.randrange(top)]
                numbers += [(int.from_bytes(old, "little") + step) % top for step in (-1, 1, 32)]
                file[label] = (source.choice(numbers) % top).to_bytes(width, "little")
            case 2:
                file[label] = source.randbytes(width)
            case 3:
                del file[label]
            case 4:
                file[label] = old * 2
            case 5:
                other = source.choice(list(file))
                file[label], file[other] = file[other], old
            case 6:
                data = joined(file)[: source.randrange(len(joined(file)) + 1)]
            case _ if width:
                at = source.randrange(width)
                file[label] = old[:at] + bytes([old[at] ^ 1 << source.randrange(8)]) + old[at + 1 :]
    data = joined(file) if data is None else data
    if source.random() < 0.2 and data:
        at = source.randrange(len(data))
        data = data[:at] + source.randbytes(source.randint(1, 8)) + data[at:]
    return data


def test_three_thousand_mutants(tmp_path: Path) -> None:
    """Each is refused with a typed error, or keeps what a header promises. Both happen."""
    accepted = 0
    path = tmp_path / "mutant.gguf"
    for seed in range(3000):
        path.write_bytes(mutant(random.Random(seed)))
        try:
            result = verdict(path)
            if isinstance(result, GgufHeader):
                assert_sound(result)
                accepted += 1
        except Exception as error:
            raise AssertionError(f"mutant {seed}: {type(error).__name__}: {error}") from error
        assert isinstance(result, GgufHeader | ModelFileError), f"mutant {seed}: {result!r}"
    assert 100 < accepted < 2000

"""Files that lie, made of good ones: every number, name and type in them can be another one.

A mutant is a good file with one to three fields changed, so that it gets past the first check and meets the others.
The same seed makes the same mutants.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# --- JSON -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Raw:
    """Text that stands in the file as it is: what `json.dumps` would not write. As a key it may double another."""

    text: str


DEEP = Raw("[" * 3000 + "]" * 3000)
NASTY_NAMES = ("", "\x1b[2J", "two\nlines", "\u202etxt.exe", "\x00", "a/../b", "🦙" * 30, "x" * 300)
HOSTILE: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 255, 513, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63),
    Raw("-0"), Raw("1e3"), Raw("1.0"), Raw("1e400"), Raw("NaN"), Raw("-Infinity"), Raw("9" * 5000), 0.5, 1e-320, 1e299,
    True, False, None, "", "1", "F32", "llama3", "yarn", [], {}, [[]], [None], [0], [1, 2], {"": None}, {"type": "NFC"},
    DEEP, *NASTY_NAMES,
)  # fmt: skip


def dumped(value: Any) -> str:
    """JSON, with what is Raw in it as it is."""
    if isinstance(value, Raw):
        return value.text
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except TypeError:  # there is something Raw in it
        pass
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumped(key)}:{dumped(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumped, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def mutant(tree: Any, chance: random.Random, hostile: Sequence[Any] = HOSTILE) -> Any:
    """`tree` with one to three edits. What is not edited is shared with it."""
    for _ in range(chance.randint(1, 3)):
        tree = _edited(tree, chance, hostile)
    return tree


def _edited(value: Any, chance: random.Random, hostile: Sequence[Any]) -> Any:
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, other = chance.choice(keys), chance.choice(keys)
        changed: Any = value.copy()
        act = chance.random()
        if act < 0.7:
            changed[key] = _edited(value[key], chance, hostile)
        elif act < 0.78:
            del changed[key]
        elif act < 0.86:
            changed[key], changed[other] = value[other], value[key]
        elif isinstance(value, list):
            changed.insert(key, chance.choice((value[other], *hostile)))
        elif act < 0.92:
            changed[Raw(dumped(key))] = value[other]  # the key stands there twice
        elif act < 0.96:
            changed[chance.choice((*NASTY_NAMES, "__metadata__", "type", "id"))] = value[other]
        else:
            changed[chance.choice(NASTY_NAMES)] = changed.pop(key)
        return changed
    act = chance.random()
    if isinstance(value, int) and act < 0.5:
        return chance.choice((value - 1, value + 1, value * 2, -value, value ^ 1 << chance.randrange(64)))
    if isinstance(value, str) and value and act < 0.3:
        place = chance.randrange(len(value))
        return value[:place] + chance.choice(("", "\x1b", "\n", "\u202e", " ", value[place] * 2)) + value[place + 1 :]
    return [value] if act > 0.95 else chance.choice(hostile)


# --- safetensors ------------------------------------------------------------------------------------------------------

# Of every rank and of no bytes at all, and a name that would move the cursor.
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt", "note": "é"},
    "model.a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "model.\x1b[31mb\u202e": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "none": {"dtype": "F16", "shape": [0, 4], "data_offsets": [32, 32]},
    "scalar": {"dtype": "U8", "shape": [], "data_offsets": [32, 33]},
    "deep": {"dtype": "I64", "shape": [1, 1, 2, 1], "data_offsets": [33, 49]},
}
HEADER_DATA = 49


def safetensors_bytes(header: bytes | str, data: int = 0, length: int | None = None) -> bytes:
    """A file with this header, `length` what it says of the header's (None: the truth), and so many zeros of data."""
    text = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def safetensors_mutant(chance: random.Random) -> bytes:
    text = dumped(mutant(HEADER, chance)).encode("utf-8", "surrogatepass")
    length, data = None, HEADER_DATA
    match chance.randrange(40):
        case 0:
            length = chance.choice(
                (0, 1, 7, len(text) - 1, len(text) + 1, len(text) + HEADER_DATA + 1, 2**63, 2**64 - 1)
            )
        case 1:
            data = chance.choice((0, HEADER_DATA - 1, HEADER_DATA + 1))
        case 2:
            place = chance.randrange(len(text))
            text = text[:place] + bytes([chance.randrange(256)]) + text[place + 1 :]
        case 3:
            text += chance.choice((b" ", b"\n\t ", b"\x00", b"x", b"{}"))
    return safetensors_bytes(text, data, length)


# --- GGUF -------------------------------------------------------------------------------------------------------------

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACKED = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
HOSTILE_NUMBERS = (0, 1, 2, 3, 5, 9, 12, 13, 31, 33, 255, 513, 2**20, 2**30, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Field:
    """A piece of a GGUF header."""

    kind: str
    """count, number, text or value."""
    data: bytes


def number(value: int, size: int = 4) -> Field:
    return Field("number", (value % (1 << 8 * size)).to_bytes(size, "little"))


def count(value: int) -> Field:
    return Field("count", struct.pack("<Q", value % (1 << 64)))


def text(value: str | bytes) -> list[Field]:
    data = value.encode() if isinstance(value, str) else value
    return [count(len(data)), Field("text", data)]


def key(name: str | bytes, kind: int, value: Any) -> list[Field]:
    """An entry of the metadata. `value`: a number, text, a list of (element type, items), or bytes as they stand."""
    fields = [*text(name), number(kind)]
    if isinstance(value, bytes):
        return [*fields, Field("value", value)]
    if kind == STRING:
        return [*fields, *text(value)]
    if kind == ARRAY:
        element, items = value
        fields += [number(element), count(len(items))]
        for item in items:
            fields += text(item) if element == STRING else [Field("value", struct.pack("<" + PACKED[element], item))]
        return fields
    return [*fields, Field("value", struct.pack("<" + PACKED[kind], value))]


def tensor(name: str | bytes, dimensions: Sequence[int], kind: int, offset: int) -> list[Field]:
    """`dimensions` as the file has them: the row length first."""
    sizes = [Field("count", struct.pack("<Q", size % (1 << 64))) for size in dimensions]
    return [*text(name), number(len(dimensions)), *sizes, number(kind), count(offset)]


def gguf_fields(
    keys: Sequence[list[Field]], tensors: Sequence[list[Field]], *, magic: bytes = b"GGUF", version: int = 3
) -> list[Field]:
    fields = [Field("text", magic), number(version), count(len(tensors)), count(len(keys))]
    return [*fields, *(field for part in (*keys, *tensors) for field in part)]


def joined(fields: Sequence[Field], data: int) -> bytes:
    """The file, with its padding and so many zeros of data."""
    header = b"".join(field.data for field in fields)
    return header + bytes(-len(header) % 32 + data)


LLAMA_KEYS = (
    key("general.architecture", STRING, "llama"),
    key("llama.block_count", U32, 1),
    key("llama.attention.head_count", U32, 2),
    key("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "b\x1b", ""])),
    key("llama.numbers", ARRAY, (I16, [1, -2, 3])),
    key("general.alignment", U32, 32),
)
LLAMA_TENSORS = (
    tensor("blk.0.ffn_up.weight", (32, 2), 0, 0),
    tensor("blk.0.ffn_down.weight", (32, 2), 1, 256),
    tensor("output_norm.weight", (3,), 0, 384),
)
LLAMA_DATA = 416


def gguf_mutant(chance: random.Random) -> bytes:
    fields = gguf_fields(LLAMA_KEYS, LLAMA_TENSORS)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(fields))
        field, act = fields[place], chance.random()
        if act < 0.08:
            del fields[place]
        elif act < 0.16:
            fields.insert(place, chance.choice(fields))
        elif field.kind in ("count", "number"):
            was = int.from_bytes(field.data, "little")
            now = chance.choice((*HOSTILE_NUMBERS, was - 1, was + 1, was * 2, was ^ 1 << chance.randrange(64)))
            fields[place] = number(now, len(field.data))
        elif field.kind == "text" and act < 0.7:
            other = chance.choice((*NASTY_NAMES, "general.alignment", "llama.block_count", "blk.0.ffn_up.weight"))
            fields[place] = Field("text", other.encode("utf-8", "surrogatepass"))
            if act < 0.5 and place:
                fields[place - 1] = count(len(fields[place].data))
        elif field.data:
            flipped = bytearray(field.data)
            flipped[chance.randrange(len(flipped))] = chance.randrange(256)
            fields[place] = Field(field.kind, bytes(flipped))
    data = joined(fields, LLAMA_DATA)
    return data[: chance.randrange(len(data))] if chance.random() < 0.1 else data


# --- tokenizers -------------------------------------------------------------------------------------------------------


def small_tokenizer(folder: Path) -> dict[str, Any]:
    """A tokenizer.json as small as it can be: the bytes, the first merges, and all else of the one in `folder`."""
    tree: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    model, merges = tree["model"], tree["model"]["merges"][:6]
    kept = {token for token in model["vocab"] if len(token) == 1} | {"".join(pair) for pair in merges}
    vocabulary = {token: place for place, token in enumerate(token for token in model["vocab"] if token in kept)}
    added = [{**token, "id": len(vocabulary) + place} for place, token in enumerate(tree["added_tokens"][:4])]
    return {**tree, "model": {**model, "vocab": vocabulary, "merges": merges}, "added_tokens": added}

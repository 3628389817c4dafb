"""The header of a GGUF file: written, and read back within bounds.

Keys are kept as the bytes they have in a file, since what one tool wrote is carried over unchanged. Format:
ggml/docs/gguf.md and ggml/include/gguf.h of llama.cpp.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from quantize.bounded import open_regular
from quantize.errors import BadSource
from quantize.file_types import block_weights, row_bytes, type_number

ALIGNMENT = 32
_MAGIC = b"GGUF"
_VERSION = 3

# Above every real file: 152,064 tokens and 300,000 merges, 724 tensors.
_MAX_KEYS = 100_000
_MAX_TENSORS = 100_000
_MAX_ELEMENTS = 10_000_000
_MAX_NAME = 63
_MAX_DIMENSIONS = 4

_SCALARS = {
    GGUFValueType.UINT8: "<B", GGUFValueType.INT8: "<b", GGUFValueType.UINT16: "<H", GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I", GGUFValueType.INT32: "<i", GGUFValueType.FLOAT32: "<f", GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q", GGUFValueType.INT64: "<q", GGUFValueType.FLOAT64: "<d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of the metadata."""

    name: str
    type: GGUFValueType
    payload: bytes | bytearray
    """The value as it stands in the file; of an array with its element type and count in front."""

    @property
    def value(self) -> Any:
        """A number, a string, or None for an array."""
        if self.type == GGUFValueType.STRING:
            return self.payload[8:].decode("utf-8", "replace")
        if self.type == GGUFValueType.ARRAY:
            return None
        return struct.unpack(_SCALARS[self.type], self.payload)[0]

    def strings(self) -> list[str]:
        """Of an array of strings its elements; of everything else nothing."""
        if self.type != GGUFValueType.ARRAY or struct.unpack_from("<I", self.payload)[0] != GGUFValueType.STRING:
            return []
        position, found = 12, []
        for _ in range(struct.unpack_from("<Q", self.payload, 4)[0]):
            end = position + 8 + struct.unpack_from("<Q", self.payload, position)[0]
            found.append(self.payload[position + 8 : end].decode("utf-8", "replace"))
            position = end
        return found


def make_key(name: str, value: Any, kind: GGUFValueType, element: GGUFValueType | None = None) -> Key:
    """A value as GGUF stores it. `element` is the type of an array's elements."""
    if kind == GGUFValueType.ARRAY:
        assert element is not None
        return Key(name, kind, _array(value, element))
    return Key(name, kind, _string(value) if kind == GGUFValueType.STRING else struct.pack(_SCALARS[kind], value))


def _array(values: Sequence[Any], element: GGUFValueType) -> bytearray:
    """One buffer from the start: a vocabulary is written through memory once."""
    payload = bytearray(struct.pack("<IQ", element, len(values)))
    if element == GGUFValueType.STRING:
        for value in values:
            payload += _string(value)
    else:
        payload += np.asarray(values, _SCALARS[element].replace("?", "b")).tobytes()
    return payload


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in a file."""

    name: str
    type: str
    """F32, BF16, Q4_K, ..."""
    shape: tuple[int, ...]
    """The row length last, as checkpoints and numpy write it; GGUF itself counts the other way round."""
    offset: int
    """Of its first byte, from the start of the file; in a header that is written, from the start of the data."""

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return row_bytes(self.type, self.weights)

    @property
    def width(self) -> int:
        """Weights in a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        return self.weights // self.width if self.width else 0


def padded(size: int) -> int:
    """`size` rounded up to the alignment of tensors."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def write_header(keys: Iterable[Key], tensors: Sequence[StoredTensor]) -> bytes:
    """Everything in front of the tensors' data, its padding included."""
    keys = list(keys)
    parts: list[bytes | bytearray] = [_MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(keys))]
    for key in keys:
        parts += [_string(key.name), struct.pack("<I", key.type), key.payload]
    for tensor in tensors:
        dimensions = tuple(reversed(tensor.shape))
        parts += [_string(tensor.name), struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)]
        parts += [struct.pack("<IQ", type_number(tensor.type), tensor.offset)]
    header = b"".join(parts)
    return header + bytes(padded(len(header)) - len(header))


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What the header of a file says."""

    path: Path
    keys: tuple[Key, ...]
    tensors: tuple[StoredTensor, ...]

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a key; `default` where there is none or it is an array."""
        key = next((key for key in self.keys if key.name == name), None)
        return default if key is None or key.value is None else key.value


def read_gguf(path: Path) -> GgufFile:
    """The header of one file, every count checked against the bytes there are. Raises BadSource."""
    # Read, not mapped: a file that is cut off under a mapping kills the process.
    with os.fdopen(open_regular(path), "rb", buffering=1 << 20) as file:
        try:
            return _Reader(path, file, os.fstat(file.fileno()).st_size).read()
        except (struct.error, ValueError, OverflowError) as error:
            raise BadSource(f"{path.name} is damaged: {error}.") from None


class _Reader:
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size, self.position = path, file, size, 0

    def read(self) -> GgufFile:
        if self._take(4) != _MAGIC:
            raise BadSource(f"{self.path.name} is not a GGUF file.")
        version = self._number("<I")
        if version not in (2, 3):
            raise BadSource(f"{self.path.name} has GGUF version {version}; 2 and 3 are known.")
        n_tensors, n_keys = self._count(_MAX_TENSORS), self._count(_MAX_KEYS)
        keys = [self._key() for _ in range(n_keys)]
        if len({key.name for key in keys}) != n_keys:
            raise self._bad("a key stands there twice")
        alignment = next((key for key in keys if key.name == "general.alignment"), None)
        if alignment is not None and (alignment.type != GGUFValueType.UINT32 or alignment.value != ALIGNMENT):
            raise self._bad(f"it has another alignment than {ALIGNMENT}, which alone is in use")
        found = [self._tensor() for _ in range(n_tensors)]
        if len({tensor.name for tensor in found}) != n_tensors:
            raise self._bad("a tensor stands there twice")
        start, expected = padded(self.position), 0
        for tensor in found:
            if tensor.offset != expected:
                raise self._bad(f"tensor {tensor.name} lies at the wrong place")
            if start + tensor.offset + tensor.size > self.size:
                raise self._bad(f"tensor {tensor.name} reaches beyond its end")
            expected += padded(tensor.size)
        placed = [StoredTensor(t.name, t.type, t.shape, start + t.offset) for t in found]
        return GgufFile(self.path, tuple(keys), tuple(placed))

    def _bad(self, what: str) -> BadSource:
        return BadSource(f"{self.path.name} is damaged: {what}.")

    def _take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise self._bad("it ends in the middle of its header")
        self.position += count
        data = self.file.read(count)
        if len(data) != count:
            raise self._bad("it was cut off while it was read")
        return data

    def _number(self, layout: str) -> int:
        return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])

    def _count(self, most: int) -> int:
        count = self._number("<Q")
        if count > min(most, self.size - self.position):
            raise self._bad(f"it claims {count} entries")
        return count

    def _text(self) -> bytes:
        return self._take(self._count(self.size))

    def _key(self) -> Key:
        name = self._text().decode("utf-8")
        number = self._number("<I")
        if number not in list(GGUFValueType):
            raise self._bad(f"key {name[:80]} has the unknown type {number}")
        kind, start = GGUFValueType(number), self.position
        if kind == GGUFValueType.STRING:
            self._text()
        elif kind == GGUFValueType.ARRAY:
            self._skip_array(name)
        else:
            self._take(struct.calcsize(_SCALARS[kind]))
        end, self.position = self.position, start
        self.file.seek(start)
        return Key(name, kind, self._take(end - start))

    def _skip_array(self, name: str) -> None:
        element, count = self._number("<I"), self._count(_MAX_ELEMENTS)
        if element == GGUFValueType.STRING:
            for _ in range(count):
                self._text()
        elif element in _SCALARS:
            self._take(count * struct.calcsize(_SCALARS[GGUFValueType(element)]))
        else:
            raise self._bad(f"key {name[:80]} holds elements of the unknown type {element}")

    def _tensor(self) -> StoredTensor:
        name = self._text().decode("utf-8")
        dimensions = self._number("<I")
        if len(name.encode()) > _MAX_NAME or not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._bad(f"tensor {name[:80]} has {dimensions} dimensions, or too long a name")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        number = self._number("<I")
        try:
            block_type = GGMLQuantizationType(number).name
        except ValueError:
            raise self._bad(f"tensor {name} has the unknown type {number}") from None
        if 0 in shape or math.prod(shape) >= 1 << 63 or shape[-1] % block_weights(block_type):
            raise self._bad(f"tensor {name} has the shape {shape}")
        return StoredTensor(name, block_type, shape, self._number("<Q"))

"""Importance matrices: how much each input column of a weight matters, as llama-imatrix counted it.

Two forms are in use: GGUF, and an older one of its own. common/imatrix-loader.cpp and `load_imatrix` in
tools/quantize/quantize.cpp of llama.cpp.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFValueType

from quantize.bounded import open_regular
from quantize.errors import BadSource
from quantize.ggml import Floats
from quantize.gguf_format import Key, StoredTensor, make_key, read_gguf

_MOST_BYTES = 1 << 30
_MOST_ENTRIES = 100_000
_LARGEST = 1e15


@dataclass(frozen=True, slots=True)
class Imatrix:
    """The importance of each column, by the name of the tensor in GGUF."""

    path: Path
    columns: dict[str, Floats]
    dataset: str
    chunks: int

    def keys(self) -> list[Key]:
        """What llama-quantize writes of it, with the file's name alone: a path of this machine is nobody's business."""
        integer, text = GGUFValueType.UINT32, GGUFValueType.STRING
        found = [
            make_key(
                "quantize.imatrix.file", self.path.name.encode("utf-8", "replace")[:127].decode("utf-8", "ignore"), text
            )
        ]
        if self.dataset:
            dataset = self.dataset.encode("utf-8", "replace")[:127].decode("utf-8", "ignore")
            found.append(make_key("quantize.imatrix.dataset", dataset, text))
        found.append(make_key("quantize.imatrix.entries_count", len(self.columns), integer))
        if 0 < self.chunks < 1 << 31:
            found.append(make_key("quantize.imatrix.chunks_count", self.chunks, integer))
        return found


def read_imatrix(path: Path) -> Imatrix:
    """Raises BadSource for a damaged file, and for values that are no finite numbers."""
    try:
        descriptor = open_regular(path)
    except BadSource as error:
        raise BadSource(error.message, "Check the path of the importance matrix.") from None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        if size > _MOST_BYTES:
            raise BadSource(f"{path.name} is too large for an importance matrix.")
        start = file.read(4)
        file.seek(0)
        data = b"" if start == b"GGUF" else file.read()
    imatrix = _from_gguf(path) if start == b"GGUF" else _from_legacy(path, data)
    if not imatrix.columns:
        raise BadSource(f"{path.name} is an importance matrix without entries.")
    for name, values in imatrix.columns.items():
        # Mean squares of activations: the search for a grid point breaks down where their products overflow.
        if not ((values >= 0) & (values < _LARGEST)).all():
            raise BadSource(f"{path.name} holds a value for {name[:80]} that is no importance.")
    return imatrix


def _from_gguf(path: Path) -> Imatrix:
    header = read_gguf(path)
    if header.value("general.type") != "imatrix":
        raise BadSource(f"{path.name} is a GGUF file, but no importance matrix.")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    columns: dict[str, Floats] = {}
    for name, sums in tensors.items():
        weight = name.removesuffix(".in_sum2")
        counts = tensors.get(f"{weight}.counts")
        if weight == name:
            continue
        if counts is None or sums.type != "F32" or counts.type != "F32" or sums.weights % counts.weights:
            raise BadSource(f"{path.name} has no proper counts for {weight[:80]}.")
        values, seen = _floats(path, sums).reshape(counts.weights, -1), np.rint(_floats(path, counts))
        if not np.isfinite(seen).all() or (seen < 0).any():
            raise BadSource(f"{path.name} has counts for {weight[:80]} that are none.")
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = values / seen.astype(np.float32)[:, None]
        columns[weight] = np.ascontiguousarray(np.where(seen[:, None] > 0, mean, np.float32(1)).reshape(-1))
    datasets = next((key.strings() for key in header.keys if key.name == "imatrix.datasets"), [])
    chunks = header.value("imatrix.chunk_count", 0)
    return Imatrix(path, columns, datasets[0] if datasets else "", chunks if isinstance(chunks, int) else 0)


def _floats(path: Path, tensor: StoredTensor) -> Floats:
    return np.fromfile(path, dtype="<f4", count=tensor.weights, offset=tensor.offset).astype(np.float32)


def _from_legacy(path: Path, data: bytes) -> Imatrix:
    columns: dict[str, Floats] = {}
    position = 0

    def number() -> int:
        nonlocal position
        position += 4
        return int(struct.unpack_from("<i", data, position - 4)[0])

    def take(count: int) -> bytes:
        nonlocal position
        if not 0 <= count <= len(data) - position:
            raise ValueError("it is cut off")
        position += count
        return data[position - count : position]

    try:
        entries = number()
        if not 1 <= entries <= _MOST_ENTRIES:
            raise ValueError("it is neither GGUF nor the older form")
        for _ in range(entries):
            name = take(number()).decode("utf-8")
            calls, count = number(), number()
            if count < 1:
                raise ValueError(f"{name[:80]} has no values")
            values = np.frombuffer(take(4 * count), dtype="<f4").astype(np.float32)
            columns[name] = values / np.float32(calls) if calls > 0 else values
        chunks = number() if position < len(data) else 0
        dataset = take(number()).decode("utf-8", "replace") if position < len(data) else ""
    except (struct.error, ValueError) as error:
        raise BadSource(f"{path.name} is no importance matrix: {error}.") from None
    return Imatrix(path, columns, dataset, chunks)

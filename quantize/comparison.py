"""How far the weights of a GGUF are from those it was made of, tensor by tensor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantize import ggml
from quantize.architectures import architecture_of, read_config
from quantize.bounded import open_regular
from quantize.checkpoint import shard_names, shard_tensors
from quantize.config import CONFIG
from quantize.conversion import pair_halves
from quantize.errors import BadRequest, BadSource
from quantize.file_types import FLOATS, row_bytes
from quantize.gguf_format import GgufFile, StoredTensor, read_gguf
from quantize.positional import read_at

_SLAB_WEIGHTS = 1 << 19


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor of a file, and how it compares with its source."""

    name: str
    type: str
    shape: tuple[int, ...]
    """The row length last."""
    size: int
    """Bytes."""
    rmse: float | None = None
    """Root of the mean squared difference; None where nothing was compared."""
    relative: float | None = None
    """The same in units of the root mean square of the source's weights."""
    cosine: float | None = None
    """Of the angle between both, as one long vector each."""

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.size / self.weights


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    stored: StoredTensor
    paired_heads: int = 0


def inspect_file(path: Path) -> tuple[GgufFile, list[TensorReport]]:
    """The header of a GGUF and its tensors in the order of the file. Raises BadSource."""
    header = read_gguf(path)
    return header, [TensorReport(t.name, t.type, t.shape, t.size) for t in header.tensors]


def compare(
    path: Path, source: Path, *, threads: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[TensorReport]:
    """Every tensor of `path` against that of `source`, a checkpoint folder or a GGUF; the worst first.

    on_progress(weights done, of all) may raise to stop. Raises BadSource, BadRequest when they are not of one model.
    """
    header = read_gguf(path)
    places = _places(source)
    total, done = sum(tensor.weights for tensor in header.tensors), 0
    reports = []
    for tensor in header.tensors:
        place = places.get(tensor.name)
        if place is None:
            if tensor.name != "rope_freqs.weight":  # is in no checkpoint
                raise BadRequest(f"{source.name} has no {tensor.name}: it is another model.")
            reports.append(TensorReport(tensor.name, tensor.type, tensor.shape, tensor.size))
            continue
        if place.stored.shape != tensor.shape:
            raise BadRequest(f"{tensor.name} has another shape in {source.name}: it is another model.")
        reports.append(_compared(path, tensor, place, threads))
        done += tensor.weights
        on_progress(done, total)
    return sorted(reports, key=lambda report: -1.0 if report.relative is None else report.relative, reverse=True)


def _places(source: Path) -> dict[str, _Place]:
    if not source.is_dir():
        return {tensor.name: _Place(source, tensor) for tensor in read_gguf(source).tensors}
    config = read_config(source / CONFIG)
    wanted = {tensor.source: tensor for tensor in architecture_of(config.model_class).tensors(config)}
    places = {}
    for shard, names in shard_names(source).items():
        for name, stored in shard_tensors(source, shard, names).items():
            if name in wanted and stored.type in FLOATS:
                places[wanted[name].name] = _Place(source / shard, stored, wanted[name].paired_heads)
    return places


def _compared(path: Path, tensor: StoredTensor, place: _Place, threads: int) -> TensorReport:
    ours, theirs = open_regular(path), open_regular(place.path)
    try:
        heads = place.paired_heads
        whole = tensor.rows // heads if heads and tensor.rows > 1 else 1
        step = max(1, _SLAB_WEIGHTS // (tensor.width * whole)) * whole

        def sums(first: int) -> tuple[float, float, float, float]:
            rows = min(step, tensor.rows - first)
            made = _floats(path, ours, tensor, first, rows)
            given = _floats(place.path, theirs, place.stored, first, rows)
            if heads:
                given = pair_halves(given, tensor.shape[0] // heads)
            a, b = made.reshape(-1).astype(np.float64), given.reshape(-1).astype(np.float64)
            difference = a - b
            return float(difference @ difference), float(a @ a), float(b @ b), float(a @ b)

        with ThreadPoolExecutor(max(1, threads)) as pool:
            parts = list(pool.map(sums, range(0, tensor.rows, step)))
    finally:
        os.close(ours)
        os.close(theirs)
    error, made, given, product = (math.fsum(column) for column in zip(*parts, strict=True))
    rmse = math.sqrt(error / tensor.weights)
    size = math.sqrt(given / tensor.weights)
    cosine = product / math.sqrt(made * given) if made and given else (1.0 if made == given else 0.0)
    relative = rmse / size if size else (0.0 if rmse == 0 else math.inf)
    return TensorReport(tensor.name, tensor.type, tensor.shape, tensor.size, rmse, relative, min(1.0, cosine))


def _floats(path: Path, descriptor: int, stored: StoredTensor, first: int, rows: int) -> ggml.Floats:
    raw = np.empty(row_bytes(stored.type, rows * stored.width), np.uint8)
    if read_at(descriptor, raw.data, stored.offset + row_bytes(stored.type, first * stored.width)) != raw.size:
        raise BadSource(f"{path.name} ends in the middle of {stored.name}.")
    floats = np.empty(rows * stored.width, np.float32)
    ggml.widen(stored.type, raw, floats)
    return floats.reshape(rows, stored.width)

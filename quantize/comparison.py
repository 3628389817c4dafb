"""How far the weights of a GGUF are from those it was made of, tensor by tensor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantize.architectures import architecture_of, read_config
from quantize.bounded import open_regular
from quantize.checkpoint import shard_names, shard_tensors
from quantize.config import CONFIG
from quantize.errors import BadRequest
from quantize.file_types import FLOATS, row_bytes
from quantize.ggml import Floats
from quantize.gguf_format import StoredTensor
from quantize.parts import read_parts
from quantize.slabs import pair_halves, read_slab, slabs

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
    """The same in units of the root mean square of the source's weights; None where these are all zero."""
    cosine: float | None = None
    """Of the angle between both, as one long vector each."""
    finite: bool = True
    """Whether all weights, here and there, are numbers."""

    @property
    def badness(self) -> float:
        """Sorts the worst first, and behind everything what was not compared."""
        if not self.finite or (self.rmse and self.relative is None):
            return math.inf
        return -1.0 if self.relative is None else self.relative

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


def inspect_file(path: Path) -> list[TensorReport]:
    """The tensors of a GGUF in the order of the file, or of all its parts. Raises BadSource, BadRequest."""
    parts = read_parts(path)
    return [TensorReport(t.name, t.type, t.shape, t.size) for part in parts for t in part.tensors]


def compare(
    path: Path, source: Path, *, threads: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[TensorReport]:
    """Every tensor of `path` against that of `source`, a checkpoint folder or a GGUF; the worst first.

    on_progress(weights done, of all) may raise to stop. Raises BadSource, BadRequest when they are not of one model.
    """
    tensors = [(part.path, tensor) for part in read_parts(path) for tensor in part.tensors]
    places = _places(source)
    total, done = sum(tensor.weights for _, tensor in tensors), 0
    reports = []
    for file, tensor in tensors:
        place = places.get(tensor.name)
        if place is None:
            if tensor.name != "rope_freqs.weight":  # is in no checkpoint
                raise BadRequest(f"{source.name} has no {tensor.name}: it is another model.")
            reports.append(TensorReport(tensor.name, tensor.type, tensor.shape, tensor.size))
            continue
        if place.stored.shape != tensor.shape:
            raise BadRequest(f"{tensor.name} has another shape in {source.name}: it is another model.")
        reports.append(_compared(file, tensor, place, threads))
        done += tensor.weights
        on_progress(done, total)
    return sorted(reports, key=lambda report: report.badness, reverse=True)


def _places(source: Path) -> dict[str, _Place]:
    if not source.is_dir():
        return {tensor.name: _Place(part.path, tensor) for part in read_parts(source) for tensor in part.tensors}
    config = read_config(source / CONFIG)
    wanted = {tensor.source: tensor for tensor in architecture_of(config.model_class).tensors(config)}
    places = {}
    for shard, names in shard_names(source).items():
        for name, stored in shard_tensors(source, shard, names).items():
            if name in wanted and stored.type in FLOATS and stored.shape == wanted[name].shape:
                places[wanted[name].name] = _Place(source / shard, stored, wanted[name].paired_heads)
    return places


def _compared(path: Path, tensor: StoredTensor, place: _Place, threads: int) -> TensorReport:
    ours, theirs = open_regular(path), open_regular(place.path)
    try:
        heads = place.paired_heads

        @np.errstate(all="ignore")
        def sums(slab: tuple[int, int]) -> tuple[float, float, float, float]:
            first, rows = slab
            made = _floats(path, ours, tensor, first, rows)
            given = _floats(place.path, theirs, place.stored, first, rows)
            if heads:
                given = pair_halves(given, tensor.shape[0] // heads)
            a, b = made.reshape(-1).astype(np.float64), given.reshape(-1).astype(np.float64)
            difference = a - b
            return float(difference @ difference), float(a @ a), float(b @ b), float(a @ b)

        with ThreadPoolExecutor(max(1, threads)) as pool:
            parts = list(pool.map(sums, slabs(tensor, heads, _SLAB_WEIGHTS)))
    finally:
        os.close(ours)
        os.close(theirs)
    error, made, given, product = (sum(column) for column in zip(*parts, strict=True))
    if not all(map(math.isfinite, (error, made, given))):
        return TensorReport(tensor.name, tensor.type, tensor.shape, tensor.size, finite=False)
    rmse = math.sqrt(error / tensor.weights)
    size = math.sqrt(given / tensor.weights)
    cosine = product / math.sqrt(made * given) if made and given else (1.0 if made == given else 0.0)
    relative = rmse / size if size else (None if rmse else 0.0)
    return TensorReport(tensor.name, tensor.type, tensor.shape, tensor.size, rmse, relative, min(1.0, cosine))


def _floats(path: Path, descriptor: int, stored: StoredTensor, first: int, rows: int) -> Floats:
    raw = np.empty(row_bytes(stored.type, rows * stored.width), np.uint8)
    floats = np.empty(rows * stored.width, np.float32)
    read_slab(descriptor, path.name, stored, first, raw, floats)
    return floats.reshape(rows, stored.width)

"""Whole rows of a stored tensor, some at a time: what is converted, and what is compared."""

from __future__ import annotations

import numpy as np

from quantize.errors import BadSource
from quantize.file_types import row_bytes
from quantize.ggml import Bytes, Floats, widen
from quantize.gguf_format import StoredTensor
from quantize.positional import read_at


def slabs(stored: StoredTensor, paired_heads: int, most_weights: int) -> list[tuple[int, int]]:
    """(first row, rows) of every slab: about so many weights, and whole heads where their rows change places."""
    whole = stored.rows // paired_heads if paired_heads and stored.rows > 1 else 1  # a vector is one row
    step = max(1, most_weights // (stored.width * whole)) * whole
    return [(first, min(step, stored.rows - first)) for first in range(0, stored.rows, step)]


def slab_offset(stored: StoredTensor, first: int) -> int:
    """Where a row begins, counted as the tensor's own offset is."""
    return stored.offset + row_bytes(stored.type, first * stored.width)


def read_slab(descriptor: int, name: str, stored: StoredTensor, first: int, raw: Bytes, floats: Floats) -> None:
    """Fill `raw` with the rows from `first` on as they are stored, and `floats` with their weights.

    name: of the file, for the error. Raises BadSource when the file ends before.
    """
    if read_at(descriptor, raw.data, slab_offset(stored, first)) != raw.size:
        raise BadSource(f"{name} ends in the middle of {stored.name}.", "Fetch it again.")
    widen(stored.type, raw, floats)


def pair_halves(weights: Floats, head_rows: int) -> Floats:
    """Rows of heads from two halves to neighbouring pairs (`permute` in conversion/llama.py of llama.cpp)."""
    columns = weights.shape[1] if weights.shape[0] > 1 else 1  # a bias has one value a row
    heads = weights.reshape(-1, 2, head_rows // 2, columns)
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(weights.shape)

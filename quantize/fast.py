"""ggml's quantizers over many sub-blocks side by side: the same bytes, several times faster.

The C code takes one sub-block at a time, and its sums of floats may not change their order, so it uses one SIMD lane.
The kernels of `fast_kernels` put one sub-block into each lane instead. They are compiled by numba (extra `fast`) at
the first use of a type, which takes seconds, and kept on disk after that.

Covered is what `ggml_quantize_chunk` does without an importance matrix on x86-64.
"""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class _Kernel:
    function: str
    """Of `fast_kernels`; takes weights, blocks and the arguments."""
    weights: int
    """In a block."""
    size: int
    """Bytes of a block."""
    arguments: tuple[np.float32 | int, ...] = ()


KERNELS: Mapping[str, _Kernel] = {
    # Highest level, then where the search begins (rmin) and how many steps of 0.1 it goes.
    "Q4_K": _Kernel("quantize_with_minimum", 256, 144, (np.float32(15), np.float32(-1), 20)),
    "Q5_K": _Kernel("quantize_with_minimum", 256, 176, (np.float32(31), np.float32(-0.5), 15)),
    "Q6_K": _Kernel("quantize_q6_k", 256, 210),
    "Q8_0": _Kernel("quantize_q8_0", 32, 34),
}
"""By the name of the block type."""


def why_not() -> str | None:
    """Why `quantize_rows` cannot replace the C quantizers here, as one sentence; None if it can.

    Imports numba (up to a second). On processors other than x86-64 the kernels would still write the bytes of x86-64,
    but the compiler of the C library may fuse multiplications with additions there, and its bytes differ a little.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return f"The fast kernels promise the bytes of x86-64, and this is {platform.machine() or 'another processor'}."
    try:
        numba = importlib.import_module("numba")
    except ModuleNotFoundError:
        return "With numba (pip install numba) it would be several times faster."
    except ImportError as error:  # also raised by a numba that is too old for this numpy
        return f"Numba cannot be imported: {str(error).rstrip('.')}."
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set."
    return None


def quantize_rows(type_name: str, rows: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """Rows of weights (n, width) to blocks (n, row bytes) of a type of `KERNELS`, as ggml_quantize_chunk would.

    Both arrays are C-contiguous, and width is a multiple of the block's weights. Weights should be finite: NaN
    gives some bytes too, but for Q8_0 not those of C. Releases the GIL; threads may work on different rows.
    ValueError: a type, shape or layout other than that. ImportError: no numba.
    """
    kernel = KERNELS.get(type_name)
    if kernel is None:
        raise ValueError(f"no fast kernel for {type_name}, only for {', '.join(KERNELS)}")
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] % kernel.weights:
        raise ValueError(f"{type_name} takes rows of float32 in blocks of {kernel.weights}")
    if out.dtype != np.uint8 or out.shape != (rows.shape[0], rows.shape[1] // kernel.weights * kernel.size):
        raise ValueError(f"the blocks of {rows.shape} weights do not fit {out.shape} of {out.dtype}")
    if not (rows.flags.c_contiguous and rows.flags.aligned and out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("rows and out must be contiguous, and out writable")
    run = getattr(importlib.import_module("quantize.fast_kernels"), kernel.function)
    weights, blocks = rows.reshape(-1), out.reshape(-1)
    weights.flags.writeable = False  # a view; numba compiles anew for each kind of array, so there is only this one
    try:
        run(weights, blocks, *kernel.arguments)
    except OSError:  # the compiled code could not be saved (a full disk), but it is there
        run(weights, blocks, *kernel.arguments)

"""A narrow door to the C library that llama-cpp-python brings: its quantizers, dequantizers and checks.

Only libggml-base is loaded, by path: the bindings themselves take a second to import and are not needed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.errors import QuantizeError
from quantize.file_types import row_bytes, type_number

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_PATTERNS = {"darwin": "libggml-base*.dylib", "win32": "*ggml-base*.dll"}


class _TypeTraits(ctypes.Structure):
    """struct ggml_type_traits of ggml/include/ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


def quantize_rows(block_type: str, rows: Floats, out: Bytes, importance: Floats | None) -> None:
    """Rows of weights (n, width) to blocks (n, row bytes), by ggml_quantize_chunk.

    importance: one weight a column (width,), or None. Releases the GIL; threads may work on different rows.
    """
    count, width = rows.shape
    assert rows.flags.c_contiguous
    assert out.flags.c_contiguous
    assert out.shape == (count, row_bytes(block_type, width))
    pointer = None if importance is None else importance.ctypes.data
    _library().ggml_quantize_chunk(type_number(block_type), rows.ctypes.data, out.ctypes.data, 0, count, width, pointer)


def are_blocks_valid(block_type: str, blocks: Bytes) -> bool:
    """Whether every scale is a finite number (ggml_validate_row_data, which prints what it finds to stderr)."""
    return bool(_library().ggml_validate_row_data(type_number(block_type), blocks.ctypes.data, blocks.nbytes))


def widen(block_type: str, blocks: Bytes, out: Floats) -> None:
    """Weights of any type as floats. `out` is as long as there are weights, which are whole blocks."""
    if block_type == "F32":
        out.reshape(-1).view(np.uint8)[:] = blocks.reshape(-1)
        return
    traits = _library().ggml_get_type_traits(type_number(block_type)).contents
    if not traits.to_float:
        raise QuantizeError(f"The C library cannot read {block_type}.")
    traits.to_float(blocks.ctypes.data, out.ctypes.data, out.size)


@cache
def library_file() -> Path:
    """The shared library. Raises QuantizeError when llama-cpp-python is not there."""
    try:
        spec = importlib.util.find_spec("llama_cpp")
    except (ImportError, ValueError):
        spec = None
    folders = [Path(folder) / "lib" for folder in (spec.submodule_search_locations or ())] if spec else []
    if named := os.environ.get("LLAMA_CPP_LIB_PATH"):  # what the bindings look at, too
        folders.insert(0, Path(named))
    for folder in folders:
        for file in sorted(folder.glob(_PATTERNS.get(sys.platform, "libggml-base.so*"))):
            return file
    raise QuantizeError("The C library is not there.", "Install it: pip install llama-cpp-python")


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(str(library_file()))
    except OSError as error:
        raise QuantizeError(
            f"The C library cannot be loaded: {error}.", "Install llama-cpp-python again: pip install --force-reinstall"
        ) from None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, pointer, ctypes.c_size_t]
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    return library

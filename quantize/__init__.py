"""Safetensors to GGUF in any quantization, in one pass, byte for byte what llama.cpp makes.

Imports nothing of r1local. Names are loaded when they are used, so that a front end can read `quantize.FILE_TYPES`
without paying for the rest.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "FILE_TYPES": "file_types", "parse_file_type": "file_types", "parse_block_type": "file_types",
    "QuantizeError": "errors",
    "Wish": "recipes",
    "Kernels": "kernels",
    "Options": "conversion",
    "Origin": "metadata",
    "read_imatrix": "imatrix",
    "read_config": "architectures",
    "plan": "layout",
    "CheckpointConversion": "convert", "convert_checkpoint": "convert", "requantize": "convert",
}  # fmt: skip
__all__ = tuple(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"quantize.{_HOMES[name]}"), name)

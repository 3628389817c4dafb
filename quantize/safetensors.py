"""The header of a safetensors file, read within bounds.

Never accepts what the format's own library refuses: no gap, no overlap, no bytes left over. Format:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from quantize.bounded import check_brackets, open_regular, unique
from quantize.errors import BadSource
from quantize.gguf_format import StoredTensor

MAX_HEADER = 100_000_000
MAX_TENSORS = 100_000

# Bytes of an element. Types that do not fill bytes are left out: no model here has them.
_ELEMENT_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name, in the order of their data. Raises BadSource."""
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise BadSource(f"{path.name} is not a safetensors file, or is cut off.")
        header = file.read(length)
    try:
        entries = _parse(header)
        return _placed(entries, 8 + length, size)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200].rstrip(".")
        raise BadSource(f"{path.name} is damaged: {reason}.") from None


def _parse(header: bytes) -> dict[str, Any]:
    def natural(text: str) -> int:
        if text.startswith("-"):
            raise ValueError("a size is negative")
        return int(text)

    def refuse(text: str) -> Any:
        raise ValueError(f"{text[:20]} is no size")

    if not header.startswith(b"{"):
        raise ValueError("its header does not start with a brace")
    check_brackets(header)
    entries = json.loads(
        header.decode("utf-8"), object_pairs_hook=unique, parse_int=natural, parse_float=refuse, parse_constant=refuse
    )
    assert isinstance(entries, dict)  # it starts with a brace
    about = entries.get("__metadata__")
    for text in (*entries, *(json.dumps(about, ensure_ascii=False) if about else "")):
        text.encode("utf-8")  # refuses lone surrogates
    return entries


def _placed(entries: dict[str, Any], start: int, size: int) -> dict[str, StoredTensor]:
    about = entries.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise ValueError("its metadata is not text")
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"it has more than {MAX_TENSORS:,} tensors")
    spans = sorted((_span(name, entry), name, entry) for name, entry in entries.items())
    position, tensors = 0, {}
    for (first, last), name, entry in spans:
        if first != position:
            raise ValueError(f"tensor {name[:80]} leaves a gap or overlaps another")
        position = last
        tensors[name] = StoredTensor(name, entry["dtype"], tuple(entry["shape"]), start + first)
    if start + position != size:
        raise ValueError(f"it has {size - start} bytes of data, and its header speaks of {position}")
    return tensors


def _span(name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name[:80]} is not described")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ELEMENT_BYTES:
        raise ValueError(f"tensor {name[:80]} has an unknown type")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(number) is int and number < 1 << 63 for number in numbers):
            raise ValueError(f"tensor {name[:80]} has sizes that are no numbers")
    if len(offsets) != 2 or len(shape) > 64:
        raise ValueError(f"tensor {name[:80]} has too many sizes")
    needed = _ELEMENT_BYTES[dtype]
    for length in shape:
        needed *= length
        if needed >= 1 << 63:
            raise ValueError(f"tensor {name[:80]} is too large")
    if offsets[1] - offsets[0] != needed:
        raise ValueError(f"tensor {name[:80]} has {offsets[1] - offsets[0]} bytes and needs {needed}")
    return offsets[0], offsets[1]

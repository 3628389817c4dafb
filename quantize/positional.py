"""Reads and writes at a place in a file, from several threads."""

from __future__ import annotations

import os
import threading
from typing import Any

_seeking = threading.Lock()  # Windows has one position a file, and no call that leaves it alone


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from `offset` on; how many bytes there were."""
    got = 0
    while got < len(buffer):
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [buffer[got:]], offset + got)
        else:
            with _seeking:
                os.lseek(descriptor, offset + got, os.SEEK_SET)
                data = os.read(descriptor, len(buffer) - got)
            count = len(data)
            buffer[got : got + count] = data
        if not count:
            break
        got += count
    return got


def write_at(descriptor: int, data: Any, offset: int) -> None:
    """Write all of `data`. Raises OSError when the disk is full."""
    view = memoryview(data).cast("B")
    written = 0
    while written < len(view):
        if hasattr(os, "pwrite"):
            written += os.pwrite(descriptor, view[written:], offset + written)
        else:
            with _seeking:
                os.lseek(descriptor, offset + written, os.SEEK_SET)
                written += os.write(descriptor, view[written:])

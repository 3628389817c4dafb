"""Numbers for conversations and turns, made without asking the database.

So a change can be made again elsewhere: in memory while the disk is full, and in the file once it is not. They grow
with time, which makes the newest the largest, and two processes do not meet: 19 bits of chance in every millisecond.
Conversations are even and turns are odd: both are numbered in one index of words.
"""

from __future__ import annotations

import secrets
import threading
import time

_CHANCE_BITS = 20  # the lowest one says what it is
_lock = threading.Lock()
_last = 0


def new_conversation() -> int:
    return _new() & ~1


def new_turn() -> int:
    return _new() | 1


def is_turn(number: int) -> bool:
    return bool(number & 1)


def _new() -> int:
    global _last
    with _lock:
        number = int(time.time() * 1000) << _CHANCE_BITS | secrets.randbits(_CHANCE_BITS)
        _last = max(number, _last + 2)
        return _last

"""Which process something belongs to, in a text that outlives it: its machine, its number, and when both began."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import cache
from pathlib import Path

PATTERN = r"[0-9a-f]{8}-[0-9]+-[0-9a-f]{8}"


def owner() -> str:
    """The text for this process, of the form PATTERN."""
    return _text(os.getpid())


def is_alive(text: str) -> bool | None:
    """Whether the process of `text` still runs; None where that cannot be told, for it is of another machine."""
    import psutil

    match = re.fullmatch(PATTERN, text)
    if match is None:
        return False
    machine, pid, _ = text.split("-")
    if machine != _machine():
        return None
    try:
        if psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE:
            return False
        return _text(int(pid)) == text
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError, OverflowError):
        return True


@cache
def boot_id() -> str:
    """A text that is another one after every start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        return str(round(psutil.boot_time() / 60))


@cache
def _machine() -> str:
    """Which machine this is, and which of its containers: process numbers mean something only within."""
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        container = ""
    return _short_hash(platform.node(), container)


def _text(pid: int) -> str:
    """Raises psutil.NoSuchProcess."""
    return f"{_machine()}-{pid}-{_short_hash(boot_id(), _started(pid))}"


def _started(pid: int) -> str:
    """When a process was started, by a clock that nobody can set. Raises psutil.NoSuchProcess."""
    import psutil

    try:
        # Field 22 of proc(5), in ticks since boot; the name before it may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return str(psutil.Process(pid).create_time())


def _short_hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:8]

"""Checksums of model files, computed once and remembered for as long as the file is the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from r1local import paths
from r1local.errors import R1Error

_BLOCK = 4 << 20


class Checksums:
    """What was computed of which file, kept in a small file that may be deleted at any time."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or paths.checksums_file()

    def known(self, path: Path) -> str:
        """The checksum of `path` if it was computed and the file was not touched since; else empty."""
        entry = self._load().get(os.path.realpath(path))
        return entry[-1] if entry is not None and entry[:-1] == _marks(path) else ""

    def remember(self, path: Path, checksum: str) -> None:
        """Keep it; a home that cannot be written to only costs computing it again."""
        entries = {name: entry for name, entry in self._load().items() if os.path.exists(name)}
        entries[os.path.realpath(path)] = [*_marks(path), checksum]
        try:
            paths.atomic_write(self._file, json.dumps(entries, indent=1).encode())
        except (OSError, R1Error):
            pass

    def compute(self, path: Path, *, like: str = "", on_progress: Callable[[int], None] | None = None) -> str:
        """SHA-256 of the file, or git's SHA-1 where `like` is one. Remembered. Raises OSError.

        on_progress(bytes read) is called after every 4 MiB and may raise to stop.
        """
        digest = digest_like(like, path.stat().st_size)
        buffer = memoryview(bytearray(_BLOCK))
        done = 0
        with path.open("rb", buffering=0) as file:
            before = _marks(path, file.fileno())
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                done += count
                if on_progress is not None:
                    on_progress(done)
        checksum = digest.hexdigest()
        if _marks(path) == before:
            self.remember(path, checksum)
        return checksum

    def _load(self) -> dict[str, list[str]]:
        try:
            data = json.loads(self._file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(data, dict):
            return {}
        return {
            name: entry
            for name, entry in data.items()
            if isinstance(entry, list) and len(entry) == 5 and all(isinstance(part, str) for part in entry)
        }


def digest_like(etag: str, size: int) -> hashlib._Hash:
    """An empty digest of the kind of `etag`: git's SHA-1 of a blob of so many bytes for 40 digits, else SHA-256."""
    if len(etag) == 40:
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    return hashlib.sha256()


def _marks(path: Path, handle: int | None = None) -> list[str]:
    """What changes when a file does: size, times of the last change (one of which nobody can set), which file it is."""
    try:
        status = os.fstat(handle) if handle is not None else path.stat()
    except OSError:
        return []
    return [str(status.st_size), str(status.st_mtime_ns), str(status.st_ctime_ns), str(status.st_ino)]

"""The replies that one process is writing right now, outside the database: a line for every piece shown.

Each line is a JSON array: the turn, a piece of its thought, a piece of its answer. A kill can tear the last line only,
and a torn line is no JSON. The lock beside the file is let go by the system when its process ends in whatever way, so
no number of a process, which another one may have by now, has to be trusted.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from r1local.history.file import lock as opening_lock
from r1local.history.file import open_plain

TOKEN = r"[0-9a-f]{16}"
_LOCK_SECONDS = 10.0
_MAX_BYTES = 1 << 28

Piece = tuple[int, str, str]
"""A turn, what its thought grew by, what its answer grew by."""


class Live:
    """This process's own file. Used by one thread, but for `sync`."""

    def __init__(self, database: Path) -> None:
        from filelock import FileLock

        self.token = secrets.token_hex(8)
        self._database = database
        self._file: IO[bytes] | None = None
        self._lock = FileLock(_lock_of(database, self.token), mode=0o600, thread_local=False)
        self._unwritten = b""
        self._unsynced = False

    @property
    def behind(self) -> bool:
        """Whether there are lines that a full disk refused."""
        return bool(self._unwritten)

    def open(self) -> None:
        """Make the file, and the lock that says it is in use. Raises OSError, filelock.Timeout.

        Under the lock of whoever opens the database: nobody looks for abandoned files between the two steps.
        """
        if self._file is None:
            from filelock import FileLock

            with FileLock(opening_lock(self._database), timeout=_LOCK_SECONDS):
                self._lock.acquire(timeout=_LOCK_SECONDS)
                self._file = open_plain(_file_of(self._database, self.token), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, pieces: Iterable[Piece]) -> None:
        """Hand them to the system: from then on they outlive this process. Raises OSError.

        What could not be written is kept and goes first the next time, from the very byte on.
        """
        lines = "".join(json.dumps(piece, ensure_ascii=False) + "\n" for piece in pieces)
        self._unwritten += lines.encode("utf-8", "replace")
        self.open()
        assert self._file is not None
        while self._unwritten:
            count = self._file.write(self._unwritten) or 0
            self._unwritten = self._unwritten[count:]
            self._unsynced = True

    def sync(self) -> None:
        """Bring it to the disk, for the case that the whole machine stops. Raises OSError."""
        if self._file is not None and self._unsynced:
            self._unsynced = False
            getattr(os, "fdatasync", os.fsync)(self._file.fileno())

    def empty(self) -> None:
        """No reply is under way: all that is in the file is in the database. Raises OSError."""
        self._unwritten = b""
        self._unsynced = False
        if self._file is not None:
            self._file.truncate(0)

    def close(self, *, keep: bool = False) -> None:
        """Let go of it. With `keep`, whoever opens the database next finds it as if this process had been killed."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if not keep:
                _unlink(_file_of(self._database, self.token))
        if self._lock.is_locked:
            _unlink(_lock_of(self._database, self.token))  # before it is let go: then it is nobody's, and never again
            self._lock.release()
            _unlink(_lock_of(self._database, self.token))  # where an open file cannot be removed


class Abandoned:
    """The files of processes that are gone. The caller holds the opening lock."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._alive: dict[str, bool] = {}

    def tokens(self) -> Iterator[str]:
        """Of all such files that lie beside the database."""
        pattern = re.compile(rf"{re.escape(self._database.name)}\.({TOKEN})\.(?:live|lock)")
        found = {match[1] for name in os.listdir(self._database.parent) if (match := pattern.fullmatch(name))}
        return (token for token in sorted(found) if not self.is_alive(token))

    def is_alive(self, token: str) -> bool:
        """Whether the process that has this token still runs."""
        if token not in self._alive:
            self._alive[token] = _is_locked(_lock_of(self._database, token))
        return self._alive[token]

    def remove(self, token: str) -> None:
        """Once its turns are in the database."""
        _unlink(_file_of(self._database, token))
        _unlink(_lock_of(self._database, token))


def pieces_of(database: Path, token: str, turn: int) -> tuple[str, str]:
    """Thought and answer of a turn that the process with this token is writing, or was when it ended."""
    if not re.fullmatch(TOKEN, token):
        return "", ""
    try:
        with open_plain(_file_of(database, token), os.O_RDONLY) as file:
            lines = file.read(_MAX_BYTES).split(b"\n")
    except OSError:
        return "", ""
    found = [piece for line in lines if (piece := _piece(line)) is not None and piece[0] == turn]
    return "".join(thought for _, thought, _ in found), "".join(answer for _, _, answer in found)


def _piece(line: bytes) -> Piece | None:
    try:
        match json.loads(line):
            case [int(turn), str(thought), str(answer)]:
                return turn, thought, answer
    except (ValueError, RecursionError):
        pass
    return None


def _is_locked(lock: Path) -> bool:
    from filelock import FileLock, Timeout

    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0, mode=0o600):
            return False
    except Timeout:
        return True
    except OSError:
        return True  # it cannot be told: better a turn that stays open than one that is taken from its writer


def _file_of(database: Path, token: str) -> Path:
    return database.with_name(f"{database.name}.{token}.live")


def _lock_of(database: Path, token: str) -> Path:
    return database.with_name(f"{database.name}.{token}.lock")


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass

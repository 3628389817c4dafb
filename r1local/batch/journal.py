"""What a batch has finished, on disk: a line for each row, whole or not there.

    8 hexadecimal digits of CRC-32, a space, a JSON object, a line feed

The first line says how replies are made. A line that was cut by a kill, or whose bits have changed, is no line: its
row is done again. One that lacks nothing but its line feed is whole. A row that stands there twice counts once. One
process writes; another one is refused. Rows that ended in an error are tried again by whoever goes on.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r1local import paths
from r1local.errors import DiskFull, R1Error, UsageError
from r1local.units import shortened

_MOST_BYTES = 64 << 20
"""Of a line: no reply is as long."""
_NO_SPACE = (28, 122)  # ENOSPC, EDQUOT
_LINE = re.compile(rb'[0-9a-f]{8} \{"')
_MOST_STARTS = 1000
"""Of lines, looked at inside a damaged one."""


class Journal:
    """The finished rows of one output file. Of each only its place is kept in memory."""

    def __init__(self, path: Path, made_how: Mapping[str, Any], *, anew: bool = False) -> None:
        """Open it, or begin it. `made_how`: the settings; other ones than before are refused, unless it is begun anew.

        Raises UsageError for other settings or where another process writes, R1Error when it cannot be written.
        """
        from filelock import FileLock, Timeout

        self.path = path
        lock = paths.lock_file(path)
        self._lock = FileLock(lock, timeout=0, mode=0o600)
        try:
            paths.ensure_folder(lock.parent)
            self._lock.acquire()
        except Timeout as error:
            raise UsageError(
                f"Another process writes {path} right now.", "Wait for it, or choose another -o."
            ) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        self._places: dict[str, tuple[int, bool]] = {}
        """Where each row's line begins, and whether it holds an answer."""
        self._file = -1
        try:
            self._begin(json.loads(_text(made_how)), anew)
        except BaseException:
            self.close()
            raise

    def _begin(self, made_how: dict[str, Any], anew: bool) -> None:
        before, foreign = None, False
        for place, line in _lines(self.path) if not anew else ():
            start, record = _found(line)
            if record is None:
                foreign = foreign or not _may_begin(line)
            elif "settings" in record and "key" not in record:
                before = before or record["settings"]
            elif isinstance(record.get("key"), str):
                self._note(record, place + start)
        if before is None and (foreign or self._places):
            raise UsageError(
                f"{self.path} is no journal of a batch, or its beginning is damaged.",
                "Choose another -o; --restart overwrites it.",
            )
        if before is not None and before != made_how:
            raise UsageError(
                f"{self.path} was begun with other settings: {_difference(before, made_how)}.",
                "Give the same ones to go on, or --restart to begin anew.",
            )
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file = os.open(self.path, flags | (0 if before is not None else os.O_TRUNC), 0o600)
            size = os.fstat(self._file).st_size
            if size and _read_at(self._file, size - 1, 1) != b"\n":
                self._append(b"\n")  # what was cut off stays a line of its own, and no line
        except OSError as error:
            raise _unwritable(self.path, error) from error
        if before is None:
            self._write({"settings": made_how})

    def _note(self, record: Mapping[str, Any], place: int) -> None:
        _, answered = self._places.get(record["key"], (0, False))
        if not answered:
            self._places[record["key"]] = place, "error" not in record

    def __contains__(self, key: str) -> bool:
        """Whether the row is answered; one that ended in an error is not."""
        return self._places.get(key, (0, False))[1]

    def get(self, key: str) -> dict[str, Any] | None:
        """The row's record, from the disk; its error where it has no answer; None where it was not finished."""
        if key not in self._places:
            return None
        with self.path.open("rb") as file:
            file.seek(self._places[key][0])
            return _record(file.readline(_MOST_BYTES))

    def in_order(self) -> list[str]:
        """Keys of all finished rows, in the order they ended."""
        return sorted(self._places, key=lambda key: self._places[key][0])

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """A row is finished. When this returns, the system has it. Raises DiskFull, R1Error."""
        record = {"key": key, **row}
        self._note(record, self._write(record))

    def _write(self, record: Mapping[str, Any]) -> int:
        text = _text(record)
        try:
            return self._append(b"%08x %s\n" % (zlib.crc32(text), text))
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _append(self, line: bytes) -> int:
        start = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(_NO_SPACE[0], os.strerror(_NO_SPACE[0]))
        except OSError:
            if os.fstat(self._file).st_size != start:
                os.ftruncate(self._file, start)
            raise
        return start

    def sync(self) -> None:
        """Outlive a power cut too."""
        os.fsync(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line of a journal and where it begins; none where there is no file."""
    try:
        with path.open("rb") as file:
            place = 0
            while line := file.readline(_MOST_BYTES):
                yield place, line
                place += len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise R1Error(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error


def _text(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")


def _found(line: bytes) -> tuple[int, dict[str, Any] | None]:
    """A line's record and where it begins: further on where the line feed before it was damaged."""
    record = _record(line)
    if record is None:
        for match in islice(_LINE.finditer(line, 1), _MOST_STARTS):
            if (record := _record(line[match.start() :])) is not None:
                return match.start(), record
    return 0, record


def _may_begin(line: bytes) -> bool:
    """Whether this may be what a kill left of the first line of a journal."""
    start, text = b' {"settings": ', line[8:]
    return (
        not line.endswith(b"\n")
        and not line[:8].strip(b"0123456789abcdef")
        and text[: len(start)] == start[: len(text)]
    )


def _record(line: bytes) -> dict[str, Any] | None:
    if line[8:9] != b" ":
        return None
    text = line[9:].removesuffix(b"\n")
    try:
        if int(line[:8], 16) != zlib.crc32(text):
            return None
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _read_at(file: int, place: int, count: int) -> bytes:
    os.lseek(file, place, os.SEEK_SET)
    return os.read(file, count)


def _difference(before: Any, now: dict[str, Any]) -> str:
    if not isinstance(before, dict):
        return "unreadable ones"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(
        f"{shortened(name)} was {shortened(repr(before.get(name)))} and is {shortened(repr(now.get(name)))}"
        for name in names[:3]
    )


def _unwritable(path: Path, error: OSError) -> R1Error:
    kind = DiskFull if error.errno in _NO_SPACE else R1Error
    return kind(f"{path} cannot be written: {error.strerror or error}.", "Make room, then run the same command again.")

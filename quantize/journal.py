"""What of a file is written already, so that a killed conversion goes on where it was."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

_FIRST = "r1local conversion 1"


def journal_of(target: Path) -> Path:
    """The journal of an unfinished file."""
    return target.with_name(target.name + ".part.journal")


class Journal:
    """Lines of text beside the unfinished file: which rows of which tensor are in it, with their checksum.

    A line is only believed when the bytes it speaks of are there: after a power cut neither file can be trusted.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """identity: of the work; a journal of other work is put aside. One line without spaces."""
        self.path = path
        self._start = f"{_FIRST} {identity}\n"
        self._file: int | None = None

    def read(self) -> Iterator[tuple[int, int, int, int]]:
        """(number of the tensor, first row, rows, CRC-32), as far as the lines are whole. Nothing for other work."""
        try:
            text = self.path.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return
        if not text.startswith(self._start):
            return
        for line in text[len(self._start) :].split("\n")[:-1]:
            numbers = line.split(" ")
            if len(numbers) != 5 or not all(number.isdecimal() and len(number) < 20 for number in numbers):
                return
            *entry, check = map(int, numbers)
            if check != _check(entry):
                return
            yield (entry[0], entry[1], entry[2], entry[3])

    def open(self, entries: list[tuple[int, int, int, int]]) -> None:
        """Start writing, with what was found to be right in front."""
        beside = self.path.with_name(self.path.name + ".new")
        beside.unlink(missing_ok=True)
        with beside.open("x", encoding="ascii") as file:  # never through a link that somebody left there
            file.write(self._start + "".join(map(_line, entries)))
        os.replace(beside, self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))

    def add(self, entry: tuple[int, int, int, int]) -> None:
        """Call it when the rows are in the file."""
        assert self._file is not None
        os.write(self._file, _line(entry).encode("ascii"))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _line(entry: tuple[int, int, int, int]) -> str:
    return f"{' '.join(map(str, entry))} {_check(entry)}\n"


def _check(entry: tuple[int, ...] | list[int]) -> int:
    return zlib.crc32(" ".join(map(str, entry)).encode())

"""Text that grows, kept as its wrapped lines.

Adding costs what was added, however much is there: only the last line is wrapped again. Places are counted in
characters from the start, so they stay right when more comes or the width changes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from r1local.tui.text.wrapping import shown, wrap


class Page:
    """Lines of so many cells. The last one is open: more of it may come."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._done: list[bytes] = []
        """The lines that are complete, as UTF-8: one Chinese character makes a string twice as large."""
        self._last = ""
        self._starts = array("Q", [0])
        self._shown = 0

    def __len__(self) -> int:
        """How many lines there are to show: blank ones at the end wait until something follows."""
        return self._shown

    @property
    def text(self) -> str:
        return b"".join(self._done).decode() + self._last

    @property
    def size(self) -> int:
        """Characters in all."""
        return self._starts[-1] + len(self._last)

    def append(self, text: str) -> int:
        """Add text at the end. Returns the first line that is another now."""
        first = len(self._done)
        fresh = wrap(self._last + text, self.columns)
        self._last = fresh[-1]
        self._done += [line.encode() for line in fresh[:-1]]
        self._starts.extend(accumulate(map(len, fresh[:-1]), initial=self._starts.pop()))
        self._count(first, fresh)
        return first

    def rewrap(self, columns: int) -> None:
        text, self.columns = self.text, columns
        self._done, self._last, self._starts, self._shown = [], "", array("Q", [0]), 0
        self.append(text)

    def _count(self, first: int, lines: Sequence[str]) -> None:
        """See which is the last of these lines, the first of which has that number, that is not blank."""
        for index in range(len(lines) - 1, -1, -1):
            if lines[index] and not lines[index].isspace():
                self._shown = first + index + 1
                return

    def line(self, index: int) -> str:
        """What is seen of a line."""
        return shown(self._done[index].decode() if index < len(self._done) else self._last)

    def start(self, index: int) -> int:
        """The place where a line begins; of a line behind the last, where the last one begins."""
        return self._starts[min(index, len(self._starts) - 1)]

    def line_of(self, place: int) -> int:
        """The line that holds a place."""
        return bisect_right(self._starts, place) - 1

    def since(self, place: int) -> tuple[int, str]:
        """The text from the start of the line that holds a place, and where that is."""
        line = self.line_of(place)
        return self._starts[line], b"".join(self._done[line:]).decode() + self._last

    def cut(self, start: int, end: int) -> str:
        """The text between two places."""
        first, last = self.line_of(start), self.line_of(end)
        text = b"".join(self._done[first : last + 1]).decode() + (self._last if last == len(self._done) else "")
        return text[start - self._starts[first] : end - self._starts[first]]

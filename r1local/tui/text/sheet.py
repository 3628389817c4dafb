"""Leaves of Markdown laid out in rows of so many cells.

Rows of finished leaves stay as they are until the width changes. Places are counted in characters of what the rows
show, a newline behind each row that the text itself ends.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from r1local.tui.text.colours import Coat
from r1local.tui.text.leaves import NOTHING, Leaf, Line, stretch
from r1local.tui.text.tables import table_lines
from r1local.tui.text.wrapping import cells, wrap

_NARROWEST = 12
"""What stands before a line leaves at least so many cells for the line."""


@dataclass(frozen=True, slots=True)
class Row:
    """A stretch of a line: copies of its text and styles would take more memory than all the rest."""

    whole: Line = NOTHING
    start: int = 0
    end: int = 0
    before: str = ""
    style: str = ""
    """Of the whole row: h1, program, formula ..."""
    soft: bool = False
    """Whether the text goes on in the next row."""

    @property
    def text(self) -> str:
        return self.whole.text[self.start : self.end]

    @property
    def coats(self) -> list[Coat]:
        """What the text wears, counted from its own start."""
        return stretch(self.whole, self.start, self.end)

    @property
    def length(self) -> int:
        """In characters, with the newline behind it."""
        return self.end - self.start + (not self.soft)

    @property
    def looks(self) -> tuple[object, ...]:
        return self.text, self.coats, self.before, self.style, self.soft


class Sheet:
    """Rows, the last of which can still be replaced."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._firm: list[Leaf] = []
        self._loose: list[Leaf] = []
        self._rows: list[Row] = []
        self._starts = array("Q", [0])
        self._firm_rows = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        """Characters in all."""
        return self._starts[-1]

    def show(self, leaves: Sequence[Leaf], *, finished: bool) -> int:
        """Put these in place of those that were not finished. Returns the first row that is another now."""
        fresh = list(self._laid(leaves))
        same = 0
        for new, known in zip(fresh, self._rows[self._firm_rows :], strict=False):
            if new.looks != known.looks:
                break
            same += 1
        changed = self._firm_rows + same
        self._replace(changed, fresh[same:])
        self._loose = [] if finished else list(leaves)
        if finished:
            self._firm += leaves
            self._firm_rows = len(self._rows)
        return changed

    def rewrap(self, columns: int) -> None:
        self.columns = columns
        firm, loose = self._firm, self._loose
        self._firm, self._firm_rows = [], 0
        self.show(firm, finished=True)
        self.show(loose, finished=False)

    def row(self, index: int) -> Row:
        return self._rows[index]

    def start(self, index: int) -> int:
        """The place where a row begins."""
        return self._starts[min(index, len(self._rows))]

    def line_of(self, place: int) -> int:
        """The row that holds a place."""
        return max(0, min(bisect_right(self._starts, place), len(self._rows)) - 1)

    def since(self, place: int) -> tuple[int, str]:
        """The text from the start of the row that holds a place, and where that is."""
        first = self.line_of(place)
        return self._starts[first], "".join(map(_said, self._rows[first:]))

    def cut(self, start: int, end: int) -> str:
        """The text between two places, with bullets and numbers of the lines whose beginning is among it."""
        text = ""
        for index in range(self.line_of(start), min(self.line_of(end) + 1, len(self._rows))):
            row, at = self._rows[index], self._starts[index]
            whole = at >= start and not (index and self._rows[index - 1].soft)
            text += row.before if whole else ""
            text += _said(row)[max(start - at, 0) : max(end - at, 0)]
        return text

    def _replace(self, first: int, rows: list[Row]) -> None:
        del self._rows[first:]
        del self._starts[first + 1 :]
        for row in rows:
            self._rows.append(row)
            self._starts.append(self._starts[-1] + row.length)

    def _laid(self, leaves: Sequence[Leaf]) -> Iterator[Row]:
        for index, leaf in enumerate(leaves):
            if leaf.gap is not None and (index or self._firm_rows):
                yield Row(before=leaf.gap)
            yield from rows_of(leaf, self.columns)


def _said(row: Row) -> str:
    return row.text if row.soft else row.text + "\n"


def rows_of(leaf: Leaf, columns: int) -> Iterator[Row]:
    """The rows of one leaf."""
    first, rest = leaf.first, leaf.rest
    if cells(rest) > columns - _NARROWEST:
        first, rest = first.lstrip(), ""
    if leaf.kind == "formula":
        first, rest = f"{first}    "[: max(columns - _NARROWEST, 0)], f"{rest}    "[: max(columns - _NARROWEST, 0)]
    width = max(columns - cells(first), 2)
    style = {"text": "", "code": "program", "heading": f"h{min(leaf.level, 3)}"}.get(leaf.kind, leaf.kind)
    if leaf.kind == "rule":
        yield Row(Line("─" * width), 0, width, first, style)
    elif leaf.table:
        for index, line in enumerate(table_lines(leaf.table, width)):
            yield Row(line, 0, len(line.text), rest if index else first, style)
    else:
        at, text = 0, leaf.line.text
        for piece in wrap(text, max(width - 2, 2) if leaf.kind == "code" else width):
            end = at + len(piece)
            ends = piece.endswith("\n")
            yield Row(leaf.line, at, end - ends, rest if at else first, style, soft=not ends and end < len(text))
            at = end

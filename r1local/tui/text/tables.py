"""Tables in as many cells as there are: columns that are shrunk, the widest first, or one line for each value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from r1local.tui.text.colours import Coat
from r1local.tui.text.leaves import Align, Line, Table, stretch
from r1local.tui.text.wrapping import cells, shown, wrap

_BETWEEN = " │ "
_NARROWEST = 6
"""A column that needs more cells keeps at least so many."""


def table_lines(table: Table, width: int) -> Iterator[Line]:
    """The lines of a table, none wider than `width` cells."""
    columns = range(len(table.aligns))
    rows = [[row[at] if at < len(row) else Line() for at in columns] for row in table.rows]
    needs = [max(cells(row[at].text) for row in rows) for at in columns]
    room = width - len(_BETWEEN) * (len(needs) - 1)
    if sum(min(need, _NARROWEST) for need in needs) > room:
        yield from _listed(rows, width)
        return
    widths = _shared(needs, room)
    for number, row in enumerate(rows):
        yield from _row(row, widths, table.aligns, "header" if number == 0 else "")
        if number == 0:
            yield Line("─┼─".join("─" * one for one in widths), ((0, width, "rule"),))


def _shared(needs: Sequence[int], room: int) -> list[int]:
    """How wide each column may be: what it needs, while there is room; the widest give way first."""
    limit = max(needs, default=0)
    while sum(min(need, limit) for need in needs) > room and limit > 1:
        limit -= 1
    widths = [min(need, limit) for need in needs]
    for at, need in enumerate(needs):
        spare = room - sum(widths)
        widths[at] += max(min(spare, need - widths[at]), 0)
    return [max(one, 1) for one in widths]


def _row(row: Sequence[Line], widths: Sequence[int], aligns: Sequence[Align], style: str) -> Iterator[Line]:
    """One row, on as many lines as its highest cell needs."""
    drawn = [list(_pieces(cell, width)) for cell, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, drawn), default=0)):
        text = ""
        coats: list[Coat] = []
        for at, (cell, width, align) in enumerate(zip(drawn, widths, aligns, strict=True)):
            if at:
                coats.append((len(text), len(text) + len(_BETWEEN), "rule"))
                text += _BETWEEN
            piece = cell[number] if number < len(cell) else Line()
            spare = max(width - cells(piece.text), 0)
            left = {"left": 0, "center": spare // 2, "right": spare}[align]
            start = len(text) + left
            text += " " * left + piece.text + " " * (spare - left)
            coats += [(start + first, start + last, name) for first, last, name in piece.coats]
            if style:
                coats.append((start, start + len(piece.text), style))
        yield Line(text.rstrip(), tuple(coats))


def _pieces(cell: Line, width: int) -> Iterator[Line]:
    at = 0
    for piece in wrap(cell.text, width):
        text = shown(piece)
        yield Line(text, tuple(stretch(cell, at, at + len(text))))
        at += len(piece)


def _listed(rows: Sequence[Sequence[Line]], width: int) -> Iterator[Line]:
    """Where columns would be too narrow to read: each row as lines of "heading: value"."""
    heading, *others = rows
    for number, row in enumerate(others):
        if number:
            yield Line()
        for name, value in zip(heading, row, strict=True):
            label = f"{name.text}: "
            coats = [(0, len(label), "header")]
            coats += [(len(label) + first, len(label) + last, coat) for first, last, coat in value.coats]
            yield from _pieces(Line(label + value.text, tuple(coats)), width)

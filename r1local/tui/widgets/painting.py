"""One line of text with coats of colour over parts of it, as a terminal takes it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from r1local.tui.text.search import Span
from r1local.tui.text.wrapping import cells

Coat = tuple[Span, Style]


def paint(
    line: str,
    start: int,
    width: int,
    base: Style,
    coats: Sequence[Coat],
    *,
    places: bool,
    before: Sequence[Segment] = (),
) -> Strip:
    """A line that stands at `start` in its text; the spans of the coats are places of that text, later ones on top.

    With `places` each piece says where it stands, for Textual's selection by mouse: a place in the text instead of a
    row and a column, because a place survives another width. What is only looked at goes without: Textual keeps
    thousands of styles, and with places each line would have one of its own.
    """
    end = start + len(line)
    edges = {start, end, *(min(max(edge, start), end) for span, _ in coats for edge in span)}
    edges |= {start + at + side for at, char in enumerate(line) if char == "\t" for side in (0, 1)}
    segments = [one for lead in before for one in (_cells(lead.text, lead.style, start) if places else [lead])]
    used = 0
    for left, right in pairwise(sorted(edges) if line else (start, start)):
        style = base + _place(left) if places else base
        for span, coat in coats:
            if span[0] <= left < span[1]:
                style += coat
        piece = line[left - start : right - start]
        filled = cells(piece, used)
        segments += [Segment(" ", style)] * filled if piece == "\t" else [Segment(piece, style)]
        used += filled
    return Strip(segments, used + sum(cells(lead.text) for lead in before)).adjust_cell_length(width, base)


def _cells(text: str, style: Style | None, place: int) -> list[Segment]:
    """What stands before a line, one character at a time: wherever it is clicked, the line's beginning is meant."""
    return [Segment(char, (style or Style()) + _place(place)) for char in text]


def _place(place: int) -> Style:
    return Style.from_meta({"offset": (place, 0)})

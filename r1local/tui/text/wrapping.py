"""Breaks text into lines of so many terminal cells, at the speed a resize needs.

The lines are slices of the text: put together they are the text again, each character once, newlines included.
A line depends only on what follows its own start, so after more text has come only the last line is broken anew,
and it makes no difference in how many pieces the text came.

Spaces that no longer fit hang over the end of their line, where nobody sees them, as in every word processor.
Between Chinese characters a line may break without a space, but not in front of a full stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len, get_character_cell_size

TAB = 4
_SPACES = " \t"
_JOINER, _SELECTOR = "\u200d", "\ufe0f"
# Each of these fills one cell whatever stands beside it; only a variation selector could change that, and it is not
# among them. Text of nothing else needs no measuring: Latin, Greek, Cyrillic, punctuation, arrows, signs of maths.
_NARROW = re.compile("[ -~\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0377\u037a-\u037f\u0391-\u03a1\u03a3-\u0482"
                     "\u2010-\u2027\u2030-\u2052\u2070\u2071\u2074-\u208e\u2100-\u2138\u2190-\u2199\u2200-\u22ff"
                     "\u2500-\u257f]*")  # fmt: skip
# Must not begin a line, must not end one.
_CLOSING = frozenset("、。，．：；？！）〕］｝〉》」』】〗’”…‥ー々・,.:;?!)]}%")
_OPENING = frozenset("（〔［｛〈《「『【〖‘“([{")
_MARKS_PER_CELL = 8
"""Bounds a line in characters too: a letter may wear a million accents that fill no cell."""


def wrap(text: str, width: int) -> list[str]:
    """The lines of `text`, none wider than `width` cells but for spaces that hang over. The last one may go on."""
    width = max(width, 2)
    lines: list[str] = []
    start = 0
    while (end := text.find("\n", start) + 1) > 0:
        lines += _paragraph(text[start:end], width)
        start = end
    lines += _paragraph(text[start:], width)
    return lines


def shown(line: str) -> str:
    """What is seen of a line: without its newline and the spaces that hang over."""
    return line.rstrip(" \t\n")


def cells(text: str, column: int = 0) -> int:
    """How many cells a piece of a line fills that begins in this column, tabs included.

    rich remembers each text it measured; lines that grow would push out all that is worth remembering.
    """
    end = column
    for number, part in enumerate(text.split("\t")):
        end += TAB - end % TAB if number else 0
        if _NARROW.fullmatch(part):
            end += len(part)
        elif _JOINER in part or _SELECTOR in part:
            end += cell_len(part)
        else:
            end += sum(map(get_character_cell_size, part))
    return end - column


def _paragraph(text: str, width: int) -> Iterator[str]:
    size = len(text.removesuffix("\n"))
    start = 0
    while start < size:
        reach = min(size, start + width + 1)
        plain = _NARROW.fullmatch(text, start, reach)
        cut = _narrow_line_end(text, start, size, width) if plain else _line_end(text, start, size, width)
        if cut == size:
            break
        yield text[start:cut]
        start = cut
    yield text[start:]


def _narrow_line_end(text: str, start: int, size: int, width: int) -> int:
    """Where every character fills one cell: a search or two instead of a look at each character."""
    end = start + width
    if end >= size:
        return size
    if text[end] != " ":
        cut = text.rfind(" ", start, end) + 1
        return cut if text[start:cut].strip() else end  # an indented word that is too long is broken, not moved down
    hanging = end + 1
    while hanging < size and text[hanging] == " " and hanging - end < width:
        hanging += 1
    return hanging


def _line_end(text: str, start: int, size: int, width: int) -> int:
    """The same where characters fill no cell, one or two: each is looked at."""
    limit = min(size, start + width * _MARKS_PER_CELL)
    used = cut = 0
    cluster = start
    """Where the character began that the marks, joiners and selectors at hand belong to."""
    before, before_wide, ink, joined = "", False, False, False
    for index in range(start, limit):
        char = text[index]
        if joined and char != "\t":
            joined = False  # what is joined to an emoji fills no cell of its own
        elif char in _SPACES:
            used += TAB - used % TAB if char == "\t" else 1
            if used > 2 * width:
                return max(index, start + 1)
            if ink or used > width:
                cut = index + 1
            before, before_wide, cluster, joined = "", False, index, False
        elif char == _JOINER and used <= width:
            joined = True
        else:
            cell = _cells_of(char, before)
            wide = cell == 2 and char != _SELECTOR
            if cell and before and (wide or before_wide) and char not in _CLOSING and before not in _OPENING:
                cut = index
            if used + cell > width:
                return cut or max(index if cell and char != _SELECTOR else cluster, start + 1)
            used += cell
            if char == _SELECTOR:
                before = ""
            elif cell:
                before, before_wide, cluster, ink = char, wide, index, True
    return limit


def _cells_of(char: str, before: str) -> int:
    """The cells that `char` adds. A selector can make the narrow character before it a wide one."""
    if char == _SELECTOR:
        return cell_len(before + _SELECTOR) - cell_len(before) if before else 0
    return get_character_cell_size(char)

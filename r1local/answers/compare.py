"""Whether two answers say the same, as far as text and exact numbers tell. It is no computer algebra system."""

from __future__ import annotations

import re
from collections import Counter

from r1local.answers.quantities import Quantity
from r1local.answers.reading import Bundle, Named, Reading, Words, read

MOST_PAIRED = 16
"""Items of a set that are paired one with another; the items of a larger one must be equal as they are read."""

_PROSE = re.compile(r"[^\W\d_]{3,}(?:[-'’][^\W\d_]+)*")
_CLOCK_OR_RATIO = re.compile(r"[0-9]+(?::[0-9]+)+(?:[ap]m)?")
_COUNTED = re.compile(r"-?[0-9.,/]+[a-zA-Z]+")  # 5m is no number; the library would take the letters for a unit
_MATHEMATICS = re.compile(r"[0-9\\^=+*/<>|!_-]|(?<![^\W\d_])[a-zA-Z](?![^\W\d_])|[a-z]{2}")


def same(one: str, other: str) -> bool:
    """Whether both say the same. Exact, the same in either order, true of any answer and itself; never raises."""
    return verdict(one, other) is True


def verdict(one: str, other: str) -> bool | None:
    """True for the same, False for different, None where only algebra could tell."""
    if one == other:
        return True
    return _alike(read(one), read(other))


def _alike(one: Reading, other: Reading) -> bool | None:
    if one == other:
        return True
    match one, other:
        case Named(), Named() if one.name != other.name:
            return False if isinstance(one.value, Quantity) and isinstance(other.value, Quantity) else None
        case Named(), Named():
            return _alike(one.value, other.value)
        case Named(), _:
            return _alike(one.value, other)
        case _, Named():
            return _alike(one, other.value)
        case Quantity(), Quantity():
            return one.same(other)
        case Bundle(), Bundle():
            return _alike_bundles(one, other)
        case Words(), Words():
            return None if _algebraic(one) and _algebraic(other) else False
        case (Quantity(), Words() as words) | (Words() as words, Quantity()):
            return None if _algebraic(words) and not _COUNTED.fullmatch(words.text) else False
        case (Words() as words, _) | (_, Words() as words):
            return None if _algebraic(words) else False
        case _:
            return None


def _alike_bundles(one: Bundle, other: Bundle) -> bool | None:
    if one.kind != other.kind and {one.kind, other.kind} != {"set", "list"}:
        return None if "list" in (one.kind, other.kind) or "union" in (one.kind, other.kind) else False
    if len(one.items) != len(other.items):
        exact = all(isinstance(item, Quantity) for item in (*one.items, *other.items))
        return False if one.ordered or exact else None
    if one.ordered:
        found = [_alike(*pair) for pair in zip(one.items, other.items, strict=True)]
        return False if False in found else None if None in found else True
    if Counter(one.items) == Counter(other.items):
        return True
    if len(one.items) > MOST_PAIRED:
        return None
    table = [[_alike(item, candidate) for candidate in other.items] for item in one.items]
    if _paired([[known is True for known in row] for row in table]):
        return True
    return None if _paired([[known is not False for known in row] for row in table]) else False


def _paired(table: list[list[bool]]) -> bool:
    """Whether every row can have a column of its own that is true in it (Kuhn's augmenting paths)."""
    owner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fits in enumerate(table[row]):
            if fits and column not in tried:
                tried.add(column)
                if column not in owner or place(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(table)))


def _algebraic(words: Words) -> bool:
    """Whether it may be a formula: not a choice, a time, a ratio, or prose."""
    text = words.text
    if text in tuple("ABCDE") or _CLOCK_OR_RATIO.fullmatch(text) or _PROSE.fullmatch(text):
        return False
    return bool(_MATHEMATICS.search(text))

"""An answer as what it says: numbers, lists, tuples, intervals, matrices, and words for everything else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from r1local.answers.dressing import MATRIX_CLOSE, MATRIX_OPEN, ROW, SET_CLOSE, SET_OPEN, plain
from r1local.answers.quantities import Quantity, quantity

MOST_DEPTH = 12
"""Brackets in brackets; what lies deeper is a word."""


@dataclass(frozen=True, slots=True)
class Words:
    """Anything that is not understood further, in one spelling."""

    text: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Several things together."""

    kind: str
    """The brackets around them, such as "[)"; "set" and "list" and "union" have no order; "matrix" and "row"."""
    items: tuple[Reading, ...]

    @property
    def ordered(self) -> bool:
        return self.kind not in ("set", "list", "union")


@dataclass(frozen=True, slots=True)
class Named:
    """x = 5."""

    name: str
    value: Reading


Reading: TypeAlias = Words | Quantity | Bundle | Named

_BRACKETS = {"(": ")", "[": "]", SET_OPEN: SET_CLOSE, MATRIX_OPEN: MATRIX_CLOSE}
_OPENING = frozenset(_BRACKETS)
_CLOSING = frozenset(_BRACKETS.values())
_NAME = re.compile(
    r"\s*((?:\\[a-zA-Z]+|[a-zA-Z]|[A-Z]{2,3}|\\angle\s*[A-Z]{1,3}|m\s*\\angle\s*[A-Z]{1,3})"
    r"(?:_\w|_\(\w+\))?'?(?:\([a-zA-Z0-9,; ]{1,9}\))?|\([a-z](?:[,;] ?[a-z]){1,3}\))"
    r"\s*(?:=|\\in(?![a-zA-Z]))\s*([^=<>]+)"
)
_JOINED = re.compile(r"(?:[,;]\s*)?\b(?:and|or)\b")
_CHOICE = re.compile(r"(?i:(?:choice|option)\s+)?\(?([A-E])(?:[).:]|\s*)")
_WORD_RUN = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_PRODUCT = re.compile(r"(?<=[0-9a-zA-Z)])\s*\*\s*(?=[a-zA-Z\\(])")
_AFTERNOON = re.compile(r"(?<=[0-9])\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
_AGREEMENT = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}


@lru_cache(maxsize=4096)
def read(answer: str) -> Reading:
    """What `answer` says. Never raises."""
    return _read(plain(answer), 0)


def _read(text: str, depth: int) -> Reading:
    text = text.strip()
    if depth > MOST_DEPTH:
        return _words(text)
    if (number := quantity(text)) is not None:
        return number
    if match := _CHOICE.fullmatch(text):
        return Words(match[1])
    if match := _NAME.fullmatch(text):
        return Named(_joined(match[1]), _read(match[2], depth + 1))
    for split in (_listed, _bracketed, _union, _signs):
        if (found := split(text, depth)) is not None:
            return found
    return _words(text)


def _listed(text: str, depth: int) -> Reading | None:
    parts = _split(_JOINED.sub(";", text), ",;")
    return _unordered("list", parts, depth) if len(parts) > 1 else None


def _signs(text: str, depth: int) -> Reading | None:
    """a \\pm b as the two it stands for."""
    before, sign, after = text.partition("\\pm")
    if not sign or "\\pm" in after or after[:1].isalpha() or not after.strip():
        return None
    return _unordered(
        "list", [f"{before.strip()}+{after}".removeprefix("+"), f"{before.strip()}-{after.strip()}"], depth
    )


def _union(text: str, depth: int) -> Reading | None:
    parts = text.split("\\cup")
    return Bundle("union", tuple(_read(part, depth + 1) for part in parts)) if len(parts) > 1 else None


def _bracketed(text: str, depth: int) -> Reading | None:
    if text[:1] not in _OPENING or _closing(text) != len(text) - 1:
        return None
    inside = text[1:-1]
    if text[0] == MATRIX_OPEN:
        rows = [row for row in inside.split(ROW) if row.strip()]
        return Bundle("matrix", tuple(_row(row, depth) for row in rows))
    parts = _split(inside, ",;")
    if text[0] == SET_OPEN:
        return _unordered("set", parts if inside.strip() else [], depth)
    if len(parts) == 1 and text[0] == "(" and text[-1] == ")":
        return _read(inside, depth + 1)
    return Bundle(text[0] + text[-1], tuple(_read(part, depth + 1) for part in parts))


def _row(row: str, depth: int) -> Bundle:
    return Bundle("row", tuple(_read(cell, depth + 1) for cell in row.split("&")))


def _unordered(kind: str, parts: list[str], depth: int) -> Bundle:
    """Of the parts; a part that is itself several, such as \\pm 2, gives its own."""
    items: list[Reading] = []
    for part in parts:
        item = _read(part, depth + 1)
        items.extend(item.items if isinstance(item, Bundle) and "\\pm" in part and item.kind == "list" else [item])
    return Bundle(kind, tuple(items))


def _closing(text: str) -> int:
    """Where the bracket that `text` begins with closes; -1 for nowhere. Intervals may close with another kind."""
    depth = 0
    for place, character in enumerate(text):
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
            if depth <= 0:
                return place
    return -1


def _split(text: str, separators: str) -> list[str]:
    """`text` at the separators outside all brackets; whole where that would leave an empty part."""
    parts = [""]
    start = depth = 0
    for place, character in enumerate(text):
        if character in _OPENING or character == "{":
            depth += 1
        elif character in _CLOSING or character == "}":
            depth -= 1
        elif character in separators and depth == 0:
            parts[-1] = text[start:place]
            parts.append("")
            start = place + 1
    parts[-1] = text[start:]
    return parts if all(part.strip() for part in parts) else [text]


def _words(text: str) -> Words:
    text = _AFTERNOON.sub(lambda match: f"{match[1].casefold()}m", text)
    text = _joined(_PRODUCT.sub("", text)).rstrip(".")
    text = _WORD_RUN.sub(lambda match: match[0].casefold(), text).removeprefix("+")
    folded = text.casefold()
    return Words(_AGREEMENT.get(folded, text))


def _joined(text: str) -> str:
    """Without spaces, but for those that keep digits apart, or a command and the letters after it."""
    text = re.sub(r"(\\[a-zA-Z]+) (?=[a-zA-Z])", "\\1\ue010", text.replace(";", ","))
    text = re.sub(r"(?<=[0-9]) (?=[0-9])", "\ue010", text)
    return text.replace(" ", "").replace("\ue010", " ")

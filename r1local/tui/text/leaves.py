"""What Markdown says, before anything is known of how wide the screen is.

It becomes a row of leaves: paragraphs, headings, programs and tables, each with what stands before its lines because
of the lists and quotations around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markdown_it.token import Token

from r1local.terminal import clean
from r1local.tui.text.colours import Coat, colours, known
from r1local.tui.text.formulas import BLOCK, BOXED

Align = Literal["left", "center", "right"]
_BULLETS = "•◦▪"
_COATS = {"strong": "strong", "em": "em", "s": "s", "a": "link", "code_inline": "code", BOXED: "boxed"}


@dataclass(frozen=True, slots=True)
class Line:
    """Text with styles. It may have newlines in it."""

    text: str = ""
    coats: tuple[Coat, ...] = ()


NOTHING = Line()


def stretch(line: Line, start: int, end: int) -> list[Coat]:
    """What a stretch of a line wears, counted from the start of the stretch."""
    return [
        (max(at, start) - start, min(to, end) - start, name) for at, to, name in line.coats if at < end and to > start
    ]


@dataclass(frozen=True, slots=True)
class Table:
    aligns: tuple[Align, ...]
    rows: tuple[tuple[Line, ...], ...]
    """The first one is the heading."""


@dataclass(frozen=True, slots=True)
class Leaf:
    kind: Literal["text", "heading", "formula", "code", "rule", "table"]
    line: Line = NOTHING
    first: str = ""
    """What stands before its first line: a bullet, a number."""
    rest: str = ""
    """What stands before the others."""
    gap: str | None = ""
    """What stands on the blank line before it, if there is one: the bar of a quotation goes on."""
    level: int = 0
    """Of a heading."""
    table: Table | None = None


def leaves(tokens: Sequence[Token]) -> list[Leaf]:
    """The leaves of Markdown that was parsed."""
    return list(_Reader(tokens).read())


class _Reader:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = iter(tokens)
        self._before: list[tuple[str, str]] = []
        """Of each open list item and quotation, what stands before its first line and before the others."""
        self._numbers: list[int | None] = []
        self._tight = self._fresh = False
        self._last: str | None = None
        """What stood before the lines of the leaf before, if that is in the same outermost block."""

    def read(self) -> Iterator[Leaf]:
        for token in self._tokens:
            if not token.level and token.nesting >= 0:
                self._last = None
            match token.type:
                case "bullet_list_open":
                    self._numbers.append(None)
                case "ordered_list_open":
                    self._numbers.append(int(token.attrs.get("start", 1)))
                case "bullet_list_close" | "ordered_list_close":
                    self._numbers.pop()
                case "list_item_open":
                    self._item()
                case "blockquote_open":
                    self._before.append(("▌ ", "▌ "))
                case "list_item_close" | "blockquote_close":
                    if self._fresh:  # it is empty, but its bullet is there
                        yield self._leaf("text")
                    self._before.pop()
                case "paragraph_open":
                    self._tight = token.hidden
                case "heading_open":
                    yield self._leaf("heading", _inline(next(self._tokens)), level=int(token.tag[1:]))
                case "inline":
                    yield self._leaf("text", _inline(token))
                case "table_open":
                    yield self._leaf("table", table=_table(self._tokens))
                case "fence" | "code_block":
                    yield from self._code(token)
                case "hr":
                    yield self._leaf("rule")
                case _ if token.type == BLOCK:
                    yield self._leaf("formula", _inline(token))

    def _item(self) -> None:
        number = self._numbers[-1]
        depth = sum(other is None for other in self._numbers)
        mark = f"{_BULLETS[(depth - 1) % len(_BULLETS)]} " if number is None else f"{number}. "
        self._numbers[-1] = None if number is None else number + 1
        self._before.append((mark, " " * len(mark)))
        self._fresh = True

    def _code(self, token: Token) -> Iterator[Leaf]:
        """A program. What stands beside its opening fence shows as its colours, or else as words."""
        code, info = token.content.removesuffix("\n").expandtabs(4), clean(token.info.strip())
        language = info.split(" ")[0]
        if info and not (info == language and known(language)):
            yield self._leaf("text", Line(info, ((0, len(info), "target"),)))
        yield self._leaf("code", Line(code, tuple(colours(code, language))))

    def _leaf(
        self,
        kind: Literal["text", "heading", "formula", "code", "rule", "table"],
        line: Line = NOTHING,
        level: int = 0,
        table: Table | None = None,
    ) -> Leaf:
        first = "".join(mark for mark, _ in self._before)
        self._before = [(rest, rest) for _, rest in self._before]
        rest = "".join(rest for _, rest in self._before)
        gap = None if self._last is not None and self._numbers and self._tight else _shared(self._last or "", rest)
        self._fresh, self._last = False, rest
        return Leaf(kind, line, first, rest, gap, level, table)


def _shared(first: str, second: str) -> str:
    """How both begin: what is open around both of two leaves."""
    while not second.startswith(first):
        first = first[:-1]
    return first.rstrip()


def _inline(token: Token) -> Line:
    """Text and styles of a paragraph. Behind a link stands where it leads: a screen of text shows it nowhere else."""
    text = ""
    coats: list[Coat] = []
    began: list[tuple[int, str, str]] = []
    for child in token.children or ():
        start = len(text)
        match child.type:
            case "softbreak":
                text += " "
            case "hardbreak":
                text += "\n"
            case "image":
                text += f"[{child.content or 'image'}: {child.attrs.get('src', '')}]"
                coats.append((start, len(text), "link"))
            case "code_inline" | "boxed":
                text += child.content
                coats.append((start, len(text), _COATS[child.type]))
            case _ if child.nesting == 1:
                began.append((start, _COATS.get(child.tag, ""), _target(child)))
            case _ if child.nesting == -1 and began:
                start, name, target = began.pop()
                coats.append((start, len(text), name))
                if target:
                    text += f" ({target})"
                    coats.append((len(text) - len(target) - 2, len(text), "target"))
            case _:
                text += re.sub(r"\s+", " ", child.content)
    return Line(text, tuple(coat for coat in coats if coat[0] < coat[1]))


def _target(token: Token) -> str:
    return "" if token.info == "auto" else str(token.attrs.get("href", ""))


def _table(tokens: Iterator[Token]) -> Table:
    """Read a table up to its end."""
    aligns: list[Align] = []
    rows: list[tuple[Line, ...]] = []
    for token in tokens:
        match token.type:
            case "table_close":
                break
            case "tr_open":
                rows.append(())
            case "th_open":
                style = str(token.attrs.get("style", ""))
                aligns.append("center" if "center" in style else "right" if "right" in style else "left")
            case "inline":
                rows[-1] += (_inline(token),)
    return Table(tuple(aligns), tuple(rows))

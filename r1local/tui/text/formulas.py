"""Markdown rules for formulas: \\(..\\), \\[..\\], $..$, $$..$$, \\begin{..}..\\end{..} and a bare \\boxed{..}.

What comes out is plain text and boxes; never inside code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from r1local.tui.text import maths

Nesting = Literal[-1, 0, 1]
BLOCK = "formula"
"""A formula that stands alone; its children are the inline tokens to show."""
BOXED = "boxed"
"""The answer to what was asked, inside of a formula."""
_OPENINGS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}
_BLOCK_OPENING = re.compile(r"\\\[|\$\$|\\begin\{(?P<name>[a-z]+\*?)\}")
_LONGEST = 4000
# A single dollar more often is money: $5 and $10. A formula has an operator, or is one short name or number.
_FORMULA = re.compile(r"(?=\S)(?:[^$]*[\\^_=+*/<>{}|-][^$]*|[A-Za-z]'?|\d[\d.,]*|[A-Za-z]\([A-Za-z\d, ]+\))(?<=\S)")


def formulas(markdown: MarkdownIt) -> None:
    """A plugin. With the option `unfinished`, a formula left open at the end of the text is a formula already."""
    markdown.block.ruler.before("fence", BLOCK, _block, {"alt": ["paragraph", "blockquote", "list"]})
    markdown.inline.ruler.before("escape", BLOCK, _inline)


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Lines from one that opens a formula to the one that closes it, or to a blank one: no other rule may have them.

    That the lines decide it which are there, and none that come behind a blank one, lets a stream be split for good.
    """
    if state.is_code_block(start):
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    opening = _BLOCK_OPENING.match(first)
    if not opening:
        return False
    name = opening["name"]
    closing = f"\\end{{{name}}}" if name else _OPENINGS[opening.group()]
    last, rest = start, first[opening.end() :]
    while closing not in rest and last + 1 < end and not state.isEmpty(last + 1):
        if state.sCount[last + 1] < state.blkIndent:
            break
        last += 1
        rest = state.src[state.bMarks[last] + state.tShift[last] : state.eMarks[last]]
    if silent:
        return True
    content = state.getLines(start, last + 1, state.blkIndent, False).strip()
    _, closed, after = content[len(opening.group()) :].partition(closing)
    state.line = last + 1
    if not after.strip(" .,;") if closed else state.md.options.get("unfinished"):
        formula = content if name else content[len(opening.group()) :].removesuffix(after).removesuffix(closing)
        token = state.push(BLOCK, "", 0)
        token.map = [start, state.line]
        token.content = content
        spoken = _spoken(formula + after.strip() if closed and not name else formula)
        token.children = [Token(kind, tag, nesting, content=text) for kind, tag, nesting, text in spoken]
        return True
    state.push("paragraph_open", "p", 1).map = [start, state.line]
    token = state.push("inline", "", 0)
    token.map, token.content, token.children = [start, state.line], content, []
    state.push("paragraph_close", "p", -1)
    return True


def _inline(state: StateInline, silent: bool) -> bool:
    """A formula between its delimiters, or a bare box, which models write at the end of their answers."""
    source, at = state.src, state.pos
    if source[at] not in "\\$":
        return False
    opening = next((one for one in _OPENINGS if source.startswith(one, at)), "")
    if opening:
        begin = at + len(opening)
        end = source.find(_OPENINGS[opening], begin, begin + _LONGEST)
        after = end + len(_OPENINGS[opening])
    elif source.startswith("\\boxed{", at):
        begin, end = at, _brace(source, at + 6)
        after = end
    else:
        return False
    if end < 0:
        if not state.md.options.get("unfinished") or opening == "$" or len(source) - begin > _LONGEST:
            return False
        end = after = len(source)
    formula = source[begin:end]
    if not formula.strip() or "`" in formula:
        return False
    if opening == "$" and (not _FORMULA.fullmatch(formula) or source[after : after + 1].isalnum()):
        return False
    if not silent:
        for kind, tag, nesting, text in _spoken(formula):
            state.push(kind, tag, nesting).content = text
    state.pos = after
    return True


def _brace(source: str, at: int) -> int:
    """Behind the brace that closes the one here, or -1."""
    depth = 0
    for index in range(at, min(len(source), at + _LONGEST)):
        depth += {"{": 1, "}": -1}.get(source[index], 0)
        if not depth:
            return index + 1
    return -1


def _spoken(formula: str) -> Iterator[tuple[str, str, Nesting, str]]:
    """A formula as tokens of text and of boxes: their type, tag, nesting and content."""
    for number, line in enumerate(maths.plain(formula).split("\n")):
        if number:
            yield "hardbreak", "br", 0, ""
        for piece in re.split(f"({maths.BOX[0]}[^{maths.BOX[1]}]*{maths.BOX[1]})", line):
            text = piece.strip("".join(maths.BOX))
            if piece[:1] == maths.BOX[0]:
                yield BOXED, "", 0, f" {text} "
            elif text:
                yield "text", "", 0, text

"""Splits Markdown that comes in pieces into its outermost blocks: paragraphs, lists, tables, code.

A block is finished once another has begun on a line that is complete; from then on nothing can change it, and it is
drawn for the last time. Where the text is cut into pieces makes no difference, and no character is lost.
"""

from __future__ import annotations

from itertools import pairwise

from r1local.tui.text.leaves import Leaf, Line, leaves
from r1local.tui.text.markdown import DEEPEST, outline, parser

_LONGEST, _LONGEST_DRAFT = 50_000, 20_000
"""Characters of one block. What is longer is shown as it is written."""


class Blocks:
    """The text as blocks: those that `feed` returned, then the open one."""

    def __init__(self) -> None:
        self.open = ""
        """What came since the last finished block."""
        self._outline = outline()
        self._patience = 0
        """How long a very long block must become before it is looked through again."""

    def feed(self, text: str) -> list[str]:
        """Take a further piece; return the blocks it finishes."""
        self.open += text
        if "\n" not in text or len(self.open) < self._patience:
            return []
        blocks = self._split(self.open.rfind("\n") + 1)
        self._patience = len(self.open) * 5 // 4 if len(self.open) > _LONGEST_DRAFT else 0
        return blocks

    def flush(self) -> list[str]:
        """Nothing follows: the blocks that are left."""
        blocks = self._split(len(self.open))
        rest, self.open = self.open, ""
        return [*blocks, rest] if rest else blocks

    def _split(self, end: int) -> list[str]:
        """Cut off all but the last block of those that begin before `end`."""
        whole = self.open[:end]
        starts = [token.map[0] for token in self._outline.parse(whole) if token.map and not token.level]
        if len(starts) < 2:
            return []
        lines = whole.split("\n")
        blocks = ["\n".join([*lines[first:last], ""]) for first, last in pairwise([0, *starts[1:]])]
        self.open = self.open[sum(map(len, blocks)) :]
        return blocks


class Reader:
    """Makes leaves of blocks. For use by one thread."""

    def __init__(self) -> None:
        self._final, self._draft = parser(), parser(unfinished=True)

    def read(self, block: str, *, finished: bool) -> list[Leaf]:
        if len(block) <= (_LONGEST if finished else _LONGEST_DRAFT):
            tokens = (self._final if finished else self._draft).parse(block)
            if all(token.level < DEEPEST for token in tokens):
                return leaves(tokens)
        return [Leaf("text", Line(block.strip("\n")))]

"""Finds a literal text in a text that grows.

Literal on purpose: a pattern that takes for ever would stop the whole screen. Without a capital in it the case of
letters makes no difference.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Span = tuple[int, int]
"""From one place up to another, in characters from the start of the text."""


class Search:
    """Where a literal text stands. Occurrences do not overlap; the leftmost counts."""

    def __init__(self, needle: str = "") -> None:
        self.needle = needle
        self.spans: list[Span] = []
        self.current: Span | None = None
        """The one gone to last."""
        case = 0 if any(char.isupper() for char in needle) else re.IGNORECASE
        self._pattern = re.compile(re.escape(needle), case)
        self._seen = 0

    @property
    def wanted(self) -> int:
        """The place from which on `feed` wants the text: before it there can be no occurrence that is not known."""
        last = self.spans[-1][1] if self.spans else 0
        return max(last, self._seen - len(self.needle) + 1)

    def feed(self, start: int, text: str) -> None:
        """Look through the end of the whole text, which stands at `start`; what is before `wanted` is left out."""
        if self.needle:
            found = self._pattern.finditer(text, max(self.wanted - start, 0))
            self.spans += [(start + one.start(), start + one.end()) for one in found]
            self._seen = start + len(text)

    def rewind(self, place: int) -> None:
        """What stands behind a place is another now."""
        self._seen = min(self._seen, place)
        while self.spans and self.spans[-1][1] > place:
            self.spans.pop()

    def step(self, forward: bool, place: int) -> Span | None:
        """Go to the next occurrence, or the one before; the first time seen from a place. The ends meet."""
        if not self.spans:
            return None
        at, beyond = self.current or (place, place)
        index = bisect_left(self.spans, (beyond, 0)) if forward else bisect_left(self.spans, (at, 0)) - 1
        self.current = self.spans[index % len(self.spans)]
        return self.current

    def choose(self, index: int | None) -> Span | None:
        """Go to the one with this number, or to none."""
        self.current = self.spans[index] if index is not None and index < len(self.spans) else None
        return self.current

    def between(self, start: int, end: int) -> Iterator[Span]:
        """The occurrences of which something stands between two places."""
        for span in self.spans[max(bisect_right(self.spans, (start, 0)) - 1, 0) :]:
            if span[0] >= end:
                return
            if span[1] > start:
                yield span

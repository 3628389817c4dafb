"""Which bytes of a file are there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator


class Spans:
    """A set of byte positions, kept as sorted, disjoint stretches [start, end)."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0
        """How many positions are in the set."""

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        first = bisect_right(self._ends, start - 1)  # the first stretch that touches [start, end)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
            self.total -= sum(b - a for a, b in zip(self._starts[first:last], self._ends[first:last], strict=True))
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self.total += end - start

    def gaps(self, size: int) -> Iterator[tuple[int, int]]:
        """The stretches of [0, size) that are not in the set, in order."""
        at = 0
        for start, end in self:
            if start >= size:
                break
            if start > at:
                yield at, start
            at = end
        if at < size:
            yield at, size

    def prefix(self) -> int:
        """How far the set reaches without a hole from 0 on."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(list(self._starts), list(self._ends), strict=True))

"""Which row goes out next, and which of them have been there too often when a worker died."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from r1local.many.row import Row

MOST_DEATHS = 3
"""After so many workers that died with it, a row is given up."""


@dataclass(eq=False)
class Entry:
    """A row that went out, or comes back to go out again."""

    ticket: int
    row: Row
    deaths: int = 0
    """Workers that died while they had it."""

    @property
    def suspect(self) -> bool:
        """With the next death it would be given up: it runs alone, so that no other row bears the blame."""
        return self.deaths >= MOST_DEATHS - 1


class Ledger:
    """Rows in the order they come; those of lost workers first. Of the input only what is out is kept."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._coming: Iterator[Row] | None = iter(rows)
        self._again: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()
        self._tickets = 0

    @property
    def empty(self) -> bool:
        """No row is left to go out. Known once one was asked for and there was none."""
        return self._coming is None and not self._again and not self._suspects

    def next(self, room: int, holding: Collection[Entry]) -> list[Entry]:
        """Up to `room` rows for a worker that has those of `holding`."""
        if any(entry.suspect for entry in holding):
            return []
        if self._suspects and not holding:
            return [self._suspects.popleft()]
        found: list[Entry] = []
        while len(found) < room:
            entry = self._again.popleft() if self._again else self._fresh()
            if entry is None:
                break
            found.append(entry)
        return found

    def _fresh(self) -> Entry | None:
        row = next(self._coming, None) if self._coming is not None else None
        if row is None:
            self._coming = None
            return None
        self._tickets += 1
        return Entry(self._tickets, row)

    def lost(self, entries: Iterable[Entry]) -> list[Entry]:
        """The worker that had them died: they go out again, but for those that are returned and given up."""
        given_up, again = [], []
        for entry in entries:
            entry.deaths += 1
            if entry.deaths >= MOST_DEATHS:
                given_up.append(entry)
            elif entry.suspect:
                self._suspects.append(entry)
            else:
                again.append(entry)
        self._again.extendleft(reversed(again))
        return given_up

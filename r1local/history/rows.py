"""Rows of the table of turns, and the tree they make."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from r1local.history.values import START


@dataclass(frozen=True, slots=True)
class Row:
    """A row, its fields in the order of the table's columns."""

    id: int
    conversation: int
    parent: int | None
    position: int
    """How many turns stand before it on its branch."""
    role: Literal["user", "assistant"]
    text: str
    thought: str | None
    complete: int
    stats: str
    """JSON, or empty."""
    started: float
    ended: float | None
    writer: str
    """While it is under way: the token of the process that writes it."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The turns of a conversation by what they follow."""

    parents: dict[int, int]
    children: dict[int, tuple[int, ...]]
    """The oldest first."""

    def newest_leaf(self, start: int) -> int:
        """From a turn on down, always to the youngest."""
        seen = {start}
        while following := self.children.get(start):
            start = following[-1]
            if start in seen:
                break
            seen.add(start)
        return start

    def path_to(self, leaf: int) -> list[int]:
        """From a first turn to this one."""
        path: list[int] = []
        seen = {START}
        while leaf in self.parents and leaf not in seen:
            seen.add(leaf)
            path.append(leaf)
            leaf = self.parents[leaf]
        return path[::-1]


def tree_of(db: sqlite3.Connection, conversation: int) -> Tree:
    parents: dict[int, int] = {}
    children: defaultdict[int, tuple[int, ...]] = defaultdict(tuple)
    # Ordered here: by a sort on the id, SQLite would read the whole table in its order instead.
    for turn, parent in sorted(db.execute("SELECT id, parent FROM turns WHERE conversation = ?", (conversation,))):
        parents[turn] = parent or START
        children[parent or START] += (turn,)
    return Tree(parents, dict(children))

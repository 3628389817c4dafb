"""A reply under way: kept piece by piece as it is shown, and whole when it has ended."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import replace

from r1local.chat_types import Turn
from r1local.errors import UsageError
from r1local.events import Stats
from r1local.history import changes, documents
from r1local.history.pieces import Pieces
from r1local.history.rows import Row
from r1local.history.words import storable
from r1local.history.writer import Writer


class Recorder:
    """Keeps one reply while it comes. Made by `History.begin`; used by one thread."""

    def __init__(self, row: Row, writer: Writer, pieces: Pieces, under_way: MutableMapping[int, Recorder]) -> None:
        self.row = row
        self._writer = writer
        self._pieces = pieces
        self._under_way = under_way
        self._thought: list[str] = []
        self._answer: list[str] = []
        self._ended = threading.Lock()  # held from its end on: whoever is to end it must be the first

    @property
    def turn(self) -> int:
        return self.row.id

    @property
    def so_far(self) -> tuple[str, str]:
        """Thought and answer as they came."""
        return "".join(self._thought), "".join(self._answer)

    def add(self, think: str = "", answer: str = "") -> None:
        """What was just shown. Returns at once; a moment later it outlives this process."""
        if (think or answer) and not self._ended.locked():
            self._thought.append(think)
            self._answer.append(answer)
            self._pieces.add((self.turn, think, answer))

    def finish(self, turn: Turn, stats: Stats | None = None) -> None:
        """The reply has ended, and this is all of it. Raises UsageError when its conversation was deleted meanwhile."""
        if self._ended.acquire(blocking=False):
            thought = None if turn.thought is None else storable(turn.thought)
            row = replace(
                self.row,
                text=storable(turn.text),
                thought=thought,
                complete=turn.complete,
                stats=documents.stats_json(stats),
                ended=time.time(),
                writer="",
            )
            self._end(row, lambda db: changes.end_turn(db, row))

    def abandon(self) -> None:
        """The reply failed, or is no longer wanted: what came of it stays; if nothing came it was never there."""
        thought, answer = self.so_far
        with suppress(UsageError):
            if thought or answer:
                self.finish(Turn("assistant", answer, thought or None, complete=False))
            elif self._ended.acquire(blocking=False):
                self._end(self.row, lambda db: changes.withdraw(db, self.turn))

    def _end(self, row: Row, change: Callable[[sqlite3.Connection], None]) -> None:
        try:
            self._writer.make(row.conversation, change)
        finally:
            self._under_way.pop(row.id, None)
            self._pieces.tidy()

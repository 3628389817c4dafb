"""Answers questions from the file, or from memory for what could not be written to it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from r1local.errors import UsageError
from r1local.history import changes
from r1local.history.connection import as_r1error, connect_reading, transaction
from r1local.history.writer import Writer

_Result = TypeVar("_Result")
_Query = Callable[[sqlite3.Connection], _Result]


class Reader:
    """A connection of its own: no question waits for what is being written here. Threads may share it."""

    def __init__(self, path: Path, writer: Writer) -> None:
        self._path = path
        self._writer = writer
        self._disk = connect_reading(path)
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._disk.close()

    def of(self, conversation: int, query: _Query[_Result]) -> _Result:
        """Ask where this conversation is to be looked up."""
        spare = self._writer.spare
        if spare is not None and conversation in spare.holds:
            with spare.lock:
                return query(spare.db)
        return self._in_file(query)

    def everywhere(self, query: _Query[list[_Result]], owner: Callable[[_Result], int]) -> list[_Result]:
        """Ask both, where `owner` says which conversation an answer belongs to."""
        spare = self._writer.spare
        if spare is None:
            return self._in_file(query)
        with spare.lock:
            here, held = query(spare.db), spare.holds
        return here + [found for found in self._in_file(query) if owner(found) not in held]

    def conversation_of(self, turn: int) -> int:
        """Raises UsageError when there is no such turn."""
        spare = self._writer.spare
        if spare is not None:
            with spare.lock, suppress(UsageError):
                return changes.conversation_of(spare.db, turn)
        return self._in_file(lambda db: changes.conversation_of(db, turn))

    def _in_file(self, query: _Query[_Result]) -> _Result:
        """One state of the file for all that a query looks up."""
        try:
            with self._lock, transaction(self._disk, "BEGIN"):
                return query(self._disk)
        except sqlite3.Error as error:
            raise as_r1error(self._path, error) from error

"""The store of conversations, as the views use it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r1local import paths
from r1local.errors import R1Error, UsageError
from r1local.history import changes, documents, file, ids, reading
from r1local.history.changes import Head
from r1local.history.connection import as_r1error, connect_writing
from r1local.history.live import Abandoned, Live, pieces_of
from r1local.history.pieces import Pieces
from r1local.history.reader import Reader
from r1local.history.recorder import Recorder
from r1local.history.rows import Row
from r1local.history.values import Hit, Stored, Summary
from r1local.history.words import storable, title_of
from r1local.history.writer import Writer, in_transaction

# A new file is made, or an old one brought to a new version, by one process while the others wait.
_OPEN_SECONDS = 60.0


class History:
    """All conversations on this machine. Threads may share it.

    What changes something returns when that is on the disk, which takes some milliseconds: call it beside the thread
    that draws. `Recorder.add` returns at once. Raises UsageError for what is not there, R1Error when the file cannot be
    read; that it cannot be written is no error of any call, but `trouble`.
    """

    def __init__(self, path: Path) -> None:
        """Use `open`."""
        self._path = path
        self._recorders: dict[int, Recorder] = {}
        with ExitStack() as opened:
            self._pieces = Pieces(Live(path), self._needs_pieces)
            opened.callback(self._pieces.close)
            self._writer = Writer(path, self._pieces)
            opened.callback(self._writer.close)
            self._reader = Reader(path, self._writer)
            opened.pop_all()

    @classmethod
    def open(cls, path: Path | None = None) -> History:
        """Open the store, and make it where there is none. Raises R1Error.

        Replies whose process was killed are ended with what they had shown.
        """
        from filelock import FileLock, Timeout

        path = (path or paths.conversations_file()).absolute()
        try:
            with FileLock(file.lock(path), timeout=_OPEN_SECONDS):
                file.prepare(path)
                _end_abandoned(path)
                return cls(path)
        except Timeout as error:
            raise R1Error("Another r1local is still preparing the conversations.", "Try again in a minute.") from error
        except (OSError, sqlite3.Error) as error:
            raise as_r1error(path, error) from error

    def close(self) -> None:
        """End every reply under way with what came of it, write all, and let go of the file."""
        for recorder in list(self._recorders.values()):
            recorder.abandon()
        self._writer.close()
        self._pieces.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def trouble(self) -> R1Error | None:
        """Why what is said is kept in memory alone, for as long as that is so: the same object, to be shown once."""
        return self._writer.trouble

    # What there is

    def conversations(self, limit: int = 100, search: str = "") -> list[Summary]:
        """Those changed last, or those of them that have all words of `search`. Any text can be searched for."""
        found = self._reader.everywhere(lambda db: reading.summaries(db, limit, search), lambda summary: summary.id)
        return sorted(found, key=lambda summary: (summary.changed, summary.id), reverse=True)[:limit]

    def load(self, conversation: int) -> Stored:
        """A conversation along its active branch, replies under way with what came so far."""
        return self._reader.of(conversation, lambda db: reading.stored(db, conversation, self._so_far))

    def search(self, text: str, limit: int = 50) -> list[Hit]:
        """Where all words of `text` stand, the newest first; the last one may be a word's beginning."""
        found = self._reader.everywhere(lambda db: reading.hits(db, text, limit), lambda hit: hit.conversation)
        return sorted(found, key=lambda hit: hit.turn or hit.conversation, reverse=True)[:limit]

    def export_markdown(self, conversation: int) -> str:
        """The active branch, to read."""
        return documents.as_markdown(self.load(conversation))

    def export_json(self, conversation: int) -> str:
        """Every branch, to keep."""
        stored, turns = self._reader.of(
            conversation,
            lambda db: (
                reading.stored(db, conversation, self._so_far),
                reading.all_turns(db, conversation, self._so_far),
            ),
        )
        return documents.as_json(stored, turns)

    # What changes

    def create(
        self, model: str, *, system: str = "", settings: Mapping[str, Any] | None = None, title: str = ""
    ) -> int:
        """A conversation in which nothing was said yet. Without a title it gets one from the first question."""
        conversation, now = ids.new_conversation(), time.time()
        head = Head(title_of(title), storable(model), now, now, storable(system), json.dumps(dict(settings or {})))
        self._writer.make(conversation, lambda db: changes.create(db, conversation, head), new=True)
        return conversation

    def import_json(self, text: str) -> int:
        """A new conversation out of what `export_json` gave. Raises UsageError when it is something else."""
        conversation, head, rows, leaf = documents.parse(text)
        self._writer.make(conversation, lambda db: changes.bring_in(db, conversation, head, rows, leaf), new=True)
        return conversation

    def rename(self, conversation: int, title: str) -> None:
        title = title_of(title)
        if not title:
            raise UsageError("A title cannot be empty.", "Type some words.")
        self._writer.make(conversation, lambda db: changes.rename(db, conversation, title))

    def set_up(
        self,
        conversation: int,
        *,
        model: str | None = None,
        system: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Go on with another model, system prompt or other settings."""
        values = {
            "model": None if model is None else storable(model),
            "system": None if system is None else storable(system),
            "settings": None if settings is None else json.dumps(dict(settings)),
        }
        given = {name: value for name, value in values.items() if value is not None}
        self._writer.make(conversation, lambda db: changes.set_up(db, conversation, given))

    def delete(self, conversation: int) -> None:
        """For good, with all its branches; once the store is closed no word of it is left in the file."""
        self._writer.make(conversation, lambda db: changes.delete(db, conversation))
        self._writer.purge = True

    def say(self, conversation: int, text: str, *, parent: int | None = None) -> int:
        """Keep a question. Returns its turn, which is the new end of the active branch.

        It follows the end of the active branch, or `parent`: to word a question anew, the parent of the old wording,
        which stays as a branch of its own.
        """
        now = time.time()
        turn = ids.new_turn()
        row = Row(turn, conversation, None, 0, "user", storable(text), None, True, "", now, now, "")
        self._writer.make(conversation, lambda db: changes.add_turn(db, row, parent))
        return turn

    def begin(self, conversation: int, parent: int | None = None) -> Recorder:
        """Keep a reply while it comes, to `parent` or to the end of the active branch. Another one to the same turn
        makes a branch.
        """
        turn = ids.new_turn()
        row = Row(turn, conversation, None, 0, "assistant", "", None, False, "", time.time(), None, self._pieces.token)
        recorder = self._recorders[turn] = Recorder(row, self._writer, self._pieces, self._recorders)
        try:
            self._pieces.open()
            follows = self._writer.make(conversation, lambda db: changes.add_turn(db, row, parent))
        except BaseException:
            del self._recorders[turn]
            raise
        recorder.row = replace(row, parent=follows or None)
        return recorder

    def branch(self, turn: int) -> None:
        """Go back to a turn: it becomes the end of the active branch, and what is said next follows it."""
        conversation = self._reader.conversation_of(turn)
        self._writer.make(conversation, lambda db: changes.go_back(db, turn))

    def choose(self, turn: int) -> None:
        """Make the branch through a turn the active one, down to its newest end."""
        conversation = self._reader.conversation_of(turn)
        self._writer.make(conversation, lambda db: changes.choose(db, turn))

    def _needs_pieces(self) -> bool:
        """Whether there is something in the live file that the database does not have yet."""
        return bool(self._recorders) or self.trouble is not None

    def _so_far(self, token: str, turn: int) -> tuple[str, str]:
        recorder = self._recorders.get(turn)
        return pieces_of(self._path, token, turn) if recorder is None else recorder.so_far


def _end_abandoned(path: Path) -> None:
    """A disk too full for it leaves them for the next time."""
    abandoned = Abandoned(path)
    with suppress(sqlite3.Error), closing(connect_writing(path)) as db:
        if db.execute("SELECT 1 FROM turns WHERE ended IS NULL").fetchone():
            in_transaction(
                db,
                lambda db: changes.end_abandoned(
                    db, abandoned.is_alive, lambda token, turn: pieces_of(path, token, turn)
                ),
            )
        for token in abandoned.tokens():
            abandoned.remove(token)

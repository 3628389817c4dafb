"""The one thread that writes to the database, so that nobody who draws a screen ever waits for a disk.

Changes are made one after another, each in a transaction of its own. When the file cannot be written, for a full disk
above all, they are made in memory instead (`Spare`) and kept; they are made in the file, in their order, as soon as it
takes them again.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any, TypeVar

from r1local.errors import R1Error, UsageError
from r1local.history import changes, schema
from r1local.history.connection import BUSY_SECONDS, as_r1error, connect_writing, transaction
from r1local.history.mailbox import Mailbox
from r1local.history.pieces import RETRY_SECONDS, Pieces

_Result = TypeVar("_Result")
Change = Callable[[sqlite3.Connection], Any]

# Once another program has the file locked for too long, nobody waits for it again and again.
_LEAST_BUSY_SECONDS = 0.2


class Spare:
    """The conversations that are changed while the file cannot be, in memory."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.db = schema.in_memory()
        self.holds: frozenset[int] = frozenset()
        """The conversations that are to be looked up here and not in the file."""

    def make(self, job: _Job, disk: sqlite3.Connection) -> Any:
        """Raises sqlite3.Error when the conversation is only in a file that cannot be read either."""
        with self.lock:
            if job.conversation not in self.holds:
                if not job.new:
                    in_transaction(self.db, lambda db: changes.adopt(db, disk, job.conversation))
                self.holds |= {job.conversation}
            return in_transaction(self.db, job.change)


class _Outdated(R1Error):
    pass


@dataclass(frozen=True, slots=True)
class _Job:
    conversation: int
    change: Change
    new: bool
    """Whether the change makes the conversation."""
    result: Future[Any] = field(default_factory=Future)


class Writer:
    """Owns the connection that writes. Raises sqlite3.Error when the file cannot be opened."""

    def __init__(self, path: Path, pieces: Pieces) -> None:
        self.trouble: R1Error | None = None
        """Why what is said is only in memory; the same object for as long as that lasts."""
        self.spare: Spare | None = None
        self.purge = False
        """Whether the index of words is to be written anew at the end: only that leaves nothing of what was deleted."""
        self._path = path
        self._pieces = pieces
        self._disk = connect_writing(path)
        self._queue: Mailbox[_Job | Callable[[], None]] = Mailbox()
        self._waiting: deque[Change] = deque()
        self._tried_at = 0.0
        pieces.failed = lambda error: self._queue.put(lambda: self._in_trouble(error))
        pieces.sync_wanted = lambda: self._queue.put(pieces.sync)
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def make(self, conversation: int, change: Callable[[sqlite3.Connection], _Result], *, new: bool = False) -> _Result:
        """Make a change and wait until it is on the disk, or in memory while that is in trouble.

        Raises what the change raises, after which nothing of it is there.
        """
        job = _Job(conversation, change, new)
        self._queue.put_awaited(job)
        result: _Result = job.result.result()
        return result

    def close(self) -> None:
        """Write what is to be written, and end."""
        self._queue.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=None if self.trouble is None else self._seconds_to_retry())
            except Empty:
                self._retry()
                continue
            if job is None:
                break
            if isinstance(job, _Job):
                self._do(job)
            else:
                job()
            del job  # with all the text of the turn it kept
            if self.trouble is not None and not self._seconds_to_retry():
                self._retry()
        if self.trouble is not None:
            self._retry()
        if self.purge:
            with suppress(sqlite3.Error):
                self._disk.execute("INSERT INTO words (words) VALUES ('optimize')")
        self._disk.close()

    def _seconds_to_retry(self) -> float:
        return max(0.0, self._tried_at + RETRY_SECONDS - time.monotonic())

    def _do(self, job: _Job) -> None:
        try:
            job.result.set_result(self._made(job))
        except BaseException as error:
            job.result.set_exception(error)

    def _made(self, job: _Job) -> Any:
        if not self._waiting:
            try:
                return self._commit(job.change)
            except sqlite3.IntegrityError:
                raise
            except (sqlite3.Error, _Outdated) as error:
                self._in_trouble(error)
        if self.spare is None:
            self.spare = Spare()
        try:
            result = self.spare.make(job, self._disk)
        except sqlite3.OperationalError as error:
            raise as_r1error(self._path, error) from error
        self._waiting.append(job.change)
        return result

    def _commit(self, change: Change) -> Any:
        def checked(db: sqlite3.Connection) -> Any:
            if db.execute("PRAGMA user_version").fetchone() != (schema.version(),):
                raise _Outdated(
                    "A newer r1local has changed the file of conversations.", "End this one and start anew."
                )
            return change(db)

        return in_transaction(self._disk, checked)

    def _in_trouble(self, error: BaseException) -> None:
        if self.trouble is None:
            reason = error if isinstance(error, R1Error) else as_r1error(self._path, error)
            self.trouble = type(reason)(
                f"{reason.message} What is said from now on is kept in memory, and saved once that is possible.",
                reason.hint,
            )
            self.trouble.__cause__ = error
            self._wait_for_locks(_LEAST_BUSY_SECONDS)
            self._tried_at = time.monotonic()

    def _retry(self) -> None:
        """Make in the file what was made in memory. A change whose conversation is gone by now is dropped."""
        try:
            while self._waiting:
                try:
                    self._commit(self._waiting[0])
                except (UsageError, sqlite3.IntegrityError):
                    pass
                self._waiting.popleft()
        except (_Outdated, sqlite3.Error):
            return
        finally:
            self._tried_at = time.monotonic()
        if not self._pieces.behind:
            self._wait_for_locks(BUSY_SECONDS)
            self.trouble = None
            self.spare = None

    def _wait_for_locks(self, seconds: float) -> None:
        self._disk.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")


def in_transaction(db: sqlite3.Connection, change: Callable[[sqlite3.Connection], _Result]) -> _Result:
    with transaction(db, "BEGIN IMMEDIATE"):
        return change(db)

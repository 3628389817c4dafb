"""The thread that hands pieces of replies to the system, apart from the one that waits for the disk.

A change to the database ends when the disk says so, on a busy one after a second; what is shown meanwhile is to outlive
a kill all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty

from r1local.errors import R1Error
from r1local.history.live import Live, Piece
from r1local.history.mailbox import Mailbox

# How often the file is brought to the disk: a power cut costs what was shown since. A kill costs nothing.
SYNC_SECONDS = 2.0
# How often a file that could not be written is tried again.
RETRY_SECONDS = 5.0


class Pieces:
    """Owns the live file."""

    def __init__(self, live: Live, needed: Callable[[], bool]) -> None:
        self.token = live.token
        self.failed: Callable[[Exception], None] = lambda error: None
        """Told of every error."""
        self.sync_wanted: Callable[[], None] = lambda: None
        """Asked now and then to call `sync`, on a thread that may wait."""
        self._live = live
        self._needed = needed
        self._queue: Mailbox[Piece | Callable[[], None]] = Mailbox()
        self._asked_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="history pieces", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> bool:
        """Whether there are pieces that a full disk refused."""
        return self._live.behind

    def add(self, piece: Piece) -> None:
        """Have a piece written. Costs the caller nothing and raises nothing."""
        self._queue.put(piece)

    def open(self) -> None:
        """Make sure that other processes see this one as alive, before it has a reply under way."""
        opened: Future[None] = Future()

        def open_file() -> None:
            try:
                self._live.open()
            except (OSError, R1Error) as error:  # filelock's Timeout is an OSError
                self.failed(error)
            finally:
                opened.set_result(None)

        self._queue.put_awaited(open_file)
        opened.result()

    def tidy(self) -> None:
        """Empty the file if nothing in it is needed any more."""
        self._queue.put(self._tidy)

    def sync(self) -> None:
        with suppress(OSError, ValueError):  # closed meanwhile
            self._live.sync()

    def close(self) -> None:
        self._queue.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            pieces, job = self._next()
            if pieces or self._live.behind:
                self._write(pieces)
            if job is None:
                break
            job()
        self._live.close(keep=self._needed())

    def _next(self) -> tuple[list[Piece], Callable[[], None] | None]:
        """All pieces there are, and what is to be done after them; None at the end."""
        pieces: list[Piece] = []
        try:
            while True:
                wait = not pieces
                item = self._queue.get(wait, RETRY_SECONDS if self._live.behind else None)
                if not isinstance(item, tuple):
                    return pieces, item
                pieces.append(item)
        except Empty:
            return pieces, _nothing

    def _write(self, pieces: list[Piece]) -> None:
        try:
            self._live.write(pieces)
        except (OSError, R1Error) as error:
            self.failed(error)
            return
        now = time.monotonic()
        if now - self._asked_at >= SYNC_SECONDS:
            self._asked_at = now
            self.sync_wanted()

    def _tidy(self) -> None:
        if not self._needed():
            with suppress(OSError):
                self._live.empty()


def _nothing() -> None:
    """There was none."""

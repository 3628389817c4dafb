"""What one thread is given to do by others, and an end after which nothing more is taken."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Generic, TypeVar

from r1local.errors import R1Error

_Item = TypeVar("_Item")


class Mailbox(Generic[_Item]):
    """A queue whose reader ends at None, behind which nobody waits for anything."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False

    def put(self, item: _Item) -> None:
        """For who does not wait for it: after the end it is dropped."""
        self._queue.put(item)

    def put_awaited(self, item: _Item) -> None:
        """For who waits until it is done. Raises R1Error after the end."""
        with self._gate:
            if self._closed:
                raise R1Error("The conversations were closed already.")
            self._queue.put(item)

    def get(self, wait: bool = True, timeout: float | None = None) -> _Item | None:
        """The next one, None at the end. Raises queue.Empty."""
        return self._queue.get(wait, timeout)

    def close(self) -> None:
        with self._gate:
            self._closed = True
            self._queue.put(None)

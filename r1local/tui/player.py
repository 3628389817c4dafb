"""Plays a reply: the events of a conversation, read in a thread, handed to the screen some times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from r1local.events import AnswerDelta, Done, Event, ThinkDelta, Votes


@dataclass(frozen=True, slots=True)
class Heard:
    """What came since the last look, pieces of a kind joined."""

    thought: str = ""
    answer: str = ""
    votes: Votes | None = None
    """How a vote stands by now."""
    done: Done | None = None
    error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.done is not None or self.error is not None


@dataclass(eq=False)
class Player:
    """One reply on its way. `hear` is for the screen's thread, everything else happens in a thread of its own.

    A screen that is told of every token would do nothing else at 200 tokens a second; so it asks instead, as often as
    it can draw.
    """

    events: Callable[[], Iterator[Event]]
    cancel: Callable[[], None]
    _thought: list[str] = field(default_factory=list)
    _answer: list[str] = field(default_factory=list)
    _votes: Votes | None = None
    _done: Done | None = None
    _error: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _began: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="r1local-reply", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._began

    def hear(self) -> Heard:
        with self._lock:
            heard = Heard("".join(self._thought), "".join(self._answer), self._votes, self._done, self._error)
            self._thought.clear()
            self._answer.clear()
        return heard

    def join(self, timeout: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            for event in self.events():
                with self._lock:
                    match event:
                        case Votes():
                            self._votes = event
                        case ThinkDelta(text):
                            self._thought.append(text)
                        case AnswerDelta(text):
                            self._answer.append(text)
                        case Done():
                            self._done = event
        except BaseException as error:
            with self._lock:
                self._error = error

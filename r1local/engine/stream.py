"""What goes into an engine and what comes out: requests, and streams of pieces."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from r1local.chat_types import Sampling
from r1local.errors import ContextFull, R1Error
from r1local.events import Finish

_TOGETHER_SECONDS = 0.004
"""Nobody sees that text comes so much later."""


@dataclass(frozen=True, slots=True)
class Request:
    """One continuation to make."""

    tokens: Sequence[int]
    """The prompt as token ids, at least one."""
    sampling: Sampling
    max_tokens: int | None = None
    """Most tokens to draw; None leaves it to the context."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply; they are not part of it."""
    stop_after: str = ""
    """Stop texts are looked for only behind this text, such as the closing tag of a thought."""


def check_room(prompt_tokens: int, n_ctx: int) -> None:
    """Raises ContextFull where a prompt leaves no room for a single token of a reply."""
    if prompt_tokens >= n_ctx:
        raise ContextFull(
            f"The prompt has {prompt_tokens:,} tokens and the context holds {n_ctx:,}.",
            "Shorten it, start anew with /clear, or choose a larger context with --ctx.",
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that became certain, and the tokens drawn for it. Text may be empty: a part of a character, say."""

    text: str
    tokens: int
    at: float
    """When the last of the tokens was drawn, by time.perf_counter."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stream ended, and what it cost. Times by time.perf_counter."""

    finish: Finish
    note: str = ""
    prompt_tokens: int = 0
    reused_tokens: int = 0
    submitted_at: float = 0.0
    first_token_at: float | None = None
    ended_at: float = 0.0
    prefill_seconds: float = 0.0
    """Time inside decode calls that held tokens of this prompt."""


Item = Piece | Outcome | R1Error


@dataclass(eq=False)
class Stream:
    """A reply on its way: iterate for pieces, then read `outcome`.

    Iterating raises the R1Error that ended the reply, if one did. Any thread may cancel; one may iterate.
    """

    on_cancel: Callable[[Stream], None] = lambda _: None
    outcome: Outcome | None = None
    _items: SimpleQueue[tuple[Stream, Sequence[Item]]] = field(default_factory=SimpleQueue)
    _next: deque[Item] = field(default_factory=deque)
    """Taken out of the queue, and not read yet."""
    _moving: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    def put(self, *items: Item) -> None:
        """For engines: add the next items. An Outcome or an error is the last one."""
        with self._moving:
            self._items.put((self, items))

    def cancel(self) -> None:
        """Ask the engine to stop. What was made so far still comes, then an outcome of "cancelled"."""
        self.on_cancel(self)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        if self._ended:
            raise StopIteration
        if not self._next:
            self._next.extend(self._items.get()[1])
        piece = self._take(self._next.popleft())
        if piece is None:
            raise StopIteration
        return piece

    def _take(self, item: Item) -> Piece | None:
        if isinstance(item, Piece):
            return item
        self._ended = True
        if isinstance(item, R1Error):
            raise item
        self.outcome = item
        return None

    def _redirect(self, target: SimpleQueue[Any]) -> None:
        with self._moving:
            if self._next:
                target.put((self, tuple(self._next)))
                self._next.clear()
            while not self._items.empty():
                target.put(self._items.get())
            self._items = target


class Outbox:
    """Pieces on their way to whoever reads the streams, those of a few milliseconds together.

    Waking a reader takes as long as a tenth of a small model's token, and while it reads, it is in the way of those
    who compute.
    """

    def __init__(self) -> None:
        self._waiting: dict[Stream, list[Piece]] = {}
        self._sent_at = 0.0

    def add(self, stream: Stream, piece: Piece) -> None:
        self._waiting.setdefault(stream, []).append(piece)

    def send_if_due(self) -> None:
        if self._waiting and time.perf_counter() - self._sent_at >= _TOGETHER_SECONDS:
            self.send()

    def send(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for stream, pieces in waiting.items():
            stream.put(*pieces)
        self._sent_at = time.perf_counter()


class Streams:
    """Streams read together; more may join while they run. One thread reads."""

    def __init__(self) -> None:
        self._items: SimpleQueue[tuple[Stream, Sequence[Item]]] = SimpleQueue()
        self._next: deque[tuple[Stream, Item]] = deque()
        self._open: set[Stream] = set()

    def __len__(self) -> int:
        """Those that have not ended."""
        return len(self._open)

    def add(self, stream: Stream) -> None:
        """What it yields comes out of `get` from now on, what it has yielded already included."""
        self._open.add(stream)
        stream._redirect(self._items)

    def get(self, timeout: float | None = None) -> tuple[Stream, Item]:
        """What any of them yields next; an outcome or an error is its last.

        Raises queue.Empty after `timeout` seconds.
        """
        if not self._next:
            stream, items = self._items.get(timeout=timeout)
            self._next.extend((stream, item) for item in items)
        stream, item = self._next.popleft()
        if not isinstance(item, Piece):
            stream._ended = True
            if isinstance(item, Outcome):
                stream.outcome = item
            self._open.discard(stream)
        return stream, item


def merge(streams: Sequence[Stream]) -> Iterator[tuple[Stream, Item]]:
    """Everything the streams yield, as it comes: (stream, piece)..., then (stream, outcome or error) for each.

    An error of one stream is handed over, not raised: the others go on.
    """
    together = Streams()
    for stream in streams:
        if stream.outcome is not None:
            yield stream, stream.outcome
        elif not stream._ended:
            together.add(stream)
    while together:
        yield together.get()

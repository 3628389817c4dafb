"""What goes into an engine and what comes out: requests, and streams of pieces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from r1local.chat_types import Sampling
from r1local.errors import ContextFull, R1Error
from r1local.events import Finish


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
    _items: SimpleQueue[tuple[Stream, Item]] = field(default_factory=SimpleQueue)
    _moving: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    def put(self, item: Item) -> None:
        """For engines: add the next item. An Outcome or an error is the last one."""
        with self._moving:
            self._items.put((self, item))

    def cancel(self) -> None:
        """Ask the engine to stop. What was made so far still comes, then an outcome of "cancelled"."""
        self.on_cancel(self)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        if self._ended:
            raise StopIteration
        _, item = self._items.get()
        piece = self._take(item)
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
            while not self._items.empty():
                target.put(self._items.get())
            self._items = target


def merge(streams: Sequence[Stream]) -> Iterator[tuple[Stream, Piece | Outcome | R1Error]]:
    """Everything the streams yield, as it comes: (stream, piece)..., then (stream, outcome or error) for each.

    An error of one stream is handed over, not raised: the others go on.
    """
    shared: SimpleQueue[tuple[Stream, Item]] = SimpleQueue()
    for stream in streams:
        if stream.outcome is not None:
            yield stream, stream.outcome
    open_streams = {stream for stream in streams if not stream._ended}
    for stream in open_streams:
        stream._redirect(shared)
    while open_streams:
        stream, item = shared.get()
        yield stream, item
        if not isinstance(item, Piece):
            stream._ended = True
            if isinstance(item, Outcome):
                stream.outcome = item
            open_streams.discard(stream)

"""Measures how fast a loaded model reads and writes, on made-up tokens. Prints nothing and remembers nothing.

The C library decodes in a thread of its own while this one asks whether to stop: a prompt may take many seconds.
All measuring of a process shares that thread: OpenMP keeps a team of threads for each one that decodes, and teams
beside one another make each other slow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass

from r1local.engine.context import Batch, Context
from r1local.engine.library import library
from r1local.engine.loading import Loaded
from r1local.errors import EngineError

PROMPT_TOKENS, THOUGHT_TOKENS = 512, 1_000
"""Of a typical exchange, which settings are judged by: what is read, and what is then written."""
LEAST_ROUNDS, MOST_ROUNDS = 5, 7
_ASK_SECONDS = 0.1
_LEAST_SECONDS = 1e-9  # a clock may stand still while a very small model decodes


@dataclass(frozen=True, slots=True)
class Figures:
    """Tokens a second; 0 for what was not measured."""

    prefill: float
    decode: float

    @property
    def exchange_seconds(self) -> float:
        """What a typical exchange would take."""
        return PROMPT_TOKENS / self.prefill + THOUGHT_TOKENS / self.decode


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is read and written for one figure, in tokens."""

    prompt: int
    """In front of what is written: attention takes longer the more there is."""
    read: int
    """Of the prompt the last ones, which are read anew each time."""
    written: int
    """0 where only reading is of interest."""

    def seconds(self, at: Figures) -> float:
        """How long that takes at this speed."""
        return self.read / at.prefill + (self.written / at.decode if self.written else 0.0)


PROBE = Sizes(32, 32, 4)
_SIZES = (
    Sizes(PROMPT_TOKENS, PROMPT_TOKENS, 64),
    Sizes(PROMPT_TOKENS, PROMPT_TOKENS, 32),
    Sizes(256, 256, 16),
    Sizes(128, 128, 8),
    Sizes(64, 64, 4),
)


class Rig:
    """A context that reads and writes tokens against the clock."""

    def __init__(
        self,
        context: Context,
        n_vocab: int,
        worker: Executor,
        *,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`worker` has one thread, the one that decodes for every rig. What `check` raises stops it at once."""
        self.context = context
        self._n_vocab = n_vocab
        self._worker = worker
        self._check = check
        self._clock = clock
        self._batch = Batch(context.n_batch)
        self._tokens = [(7 + 31 * place) % min(n_vocab, 1000) for place in range(context.n_ctx)]
        self._held = 0
        """Tokens in the KV cache."""

    def measure(self, sizes: Sizes, *, n_threads: int, n_batch: int) -> Figures:
        """Read the end of a prompt, then write on. Raises EngineError, and what stops it."""
        self._check()
        library().llama_set_n_threads(self.context.pointer, n_threads, n_threads)
        future = self._worker.submit(self._measure, sizes, n_batch)
        try:
            while not future.done():
                wait([future], _ASK_SECONDS)
                self._check()
        except BaseException:
            self.context.interrupt()
            wait([future])
            self.context.interrupt(False)
            raise
        return future.result()

    def _measure(self, sizes: Sizes, n_batch: int) -> Figures:
        kept = sizes.prompt - sizes.read
        self._forget_from(kept)
        self._decode_until(kept, n_batch)
        began = self._clock()
        self._decode_until(sizes.prompt, n_batch)
        read = self._clock()
        for count in range(sizes.written):
            self._decode_until(sizes.prompt + count + 1, 1)
        written = self._clock()
        return Figures(
            sizes.read / max(read - began, _LEAST_SECONDS), sizes.written / max(written - read, _LEAST_SECONDS)
        )

    def _forget_from(self, place: int) -> None:
        """Some kinds of memory cannot forget a part: then all of it goes."""
        if self._held > place:
            self._held = place if place and self.context.remove(0, place) else 0
            if not self._held:
                self.context.remove(0)

    def _decode_until(self, end: int, n_batch: int) -> None:
        """As a reply does: logits of the last token alone, and not before they are there is it over."""
        row = -1
        while self._held < end:
            tokens = self._tokens[self._held : min(end, self._held + min(n_batch, self._batch.capacity))]
            self._batch.clear()
            row = self._batch.add(0, tokens, self._held, want_last=self._held + len(tokens) == end)
            result = self.context.decode(self._batch)
            if result != Context.OK:
                self.context.remove(0)
                self._held = 0
                raise EngineError(
                    f"Decoding stopped with code {result} while it was measured.",
                    "Close other programs, and try again.",
                )
            self._held += len(tokens)
        if row >= 0:
            self.context.logits(row, self._n_vocab)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a model does by its settings."""

    sizes: Sizes
    rounds: tuple[Figures, ...]

    @property
    def prefill(self) -> list[float]:
        """Tokens a second, of each round."""
        return [figures.prefill for figures in self.rounds]

    @property
    def decode(self) -> list[float]:
        return [figures.decode for figures in self.rounds]

    @property
    def middle(self) -> Figures:
        return middle(self.rounds)


def middle(rounds: Sequence[Figures]) -> Figures:
    """The medians, each by itself."""
    return Figures(
        statistics.median(figures.prefill for figures in rounds),
        statistics.median(figures.decode for figures in rounds),
    )


def measure(
    loaded: Loaded,
    seconds: float,
    *,
    on_progress: Callable[[str], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Reading and writing in turns, at least LEAST_ROUNDS times each; less of both where `seconds` are too few.

    `on_progress` is told what is done now. What `check` raises stops it at once.
    """
    deadline = clock() + seconds
    settings = loaded.plan.settings
    with ThreadPoolExecutor(1, "r1local-measure") as worker:
        rig = Rig(loaded.context, loaded.model.n_vocab, worker, check=check, clock=clock)

        def figures(sizes: Sizes) -> Figures:
            return rig.measure(sizes, n_threads=loaded.plan.n_threads, n_batch=settings.n_ubatch)

        on_progress("warming up")
        figures(PROBE)
        speed = figures(PROBE)
        fitting = [sizes for sizes in _SIZES if sizes.prompt + sizes.written <= loaded.context.n_ctx] or [PROBE]
        left = deadline - clock()
        sizes = next((it for it in fitting if LEAST_ROUNDS * it.seconds(speed) <= left), fitting[-1])
        rounds: list[Figures] = []
        while len(rounds) < LEAST_ROUNDS or (
            len(rounds) < MOST_ROUNDS and clock() + sizes.seconds(rounds[-1]) < deadline
        ):
            on_progress(f"round {len(rounds) + 1}")
            rounds.append(figures(sizes))
    return Measurement(sizes, tuple(rounds))

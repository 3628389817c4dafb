"""Many replies at once out of one context: admission, shared prefixes, continuous batching.

One thread owns the context and does all decoding. Each round of its loop takes in what callers asked for,
gives waiting jobs a slot, and decodes one batch: the next token of every running job, and as much of the
prompts still to be read as does not hold the others up. Callers submit requests and iterate streams.

    job     a request on its way, with its sampler and its text
    slot    one sequence of the KV cache and the tokens in it; keeps them after its job, for the next one
    cell    one token's place in the KV cache; slots with a common prefix share cells
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np

from r1local.engine.llama import Batch, Context, Model, Sampler
from r1local.engine.stream import Outcome, Piece, Request, Stream
from r1local.engine.text import TextAssembler
from r1local.errors import ContextFull, EngineError, R1Error
from r1local.events import Finish

# While others are running, a round should not take longer than this for the sake of a prompt: the longest
# pause a reader sees between two tokens.
ROUND_SECONDS = 0.25
_FIRST_CHUNK = 64
_SMALLEST_CHUNK = 16
# A common prefix shorter than this is decoded again rather than waited for.
_WORTH_WAITING = 32
# A decode call is stopped for a cancelled job only when at least so many of its tokens are being read.
_WORTH_INTERRUPTING = 16


@dataclass(eq=False)
class _Job:
    request: Request
    stream: Stream
    sampler: Sampler
    text: TextAssembler
    tokens: array[int]
    """The prompt, then every token drawn."""
    submitted_at: float
    order: int
    drawn: int = 0
    reused: int = 0
    first_token_at: float | None = None
    prefill_seconds: float = 0.0


@dataclass(eq=False)
class _Slot:
    sequence: int
    tokens: array[int] = field(default_factory=lambda: array("i"))
    """What the KV cache holds of this sequence."""
    cells: array[int] = field(default_factory=lambda: array("q"))
    """A number for the cell of each token; the same number in two slots is the same cell."""
    job: _Job | None = None
    used_at: float = 0.0

    @property
    def pending(self) -> int:
        """Tokens of the job that are not in the cache yet."""
        return len(self.job.tokens) - len(self.tokens) if self.job else 0

    @property
    def reading(self) -> bool:
        """Its job's prompt is not read to the end yet."""
        return self.job is not None and self.pending > 1


class Scheduler:
    """Runs requests on a model and a context, both of which it owns and closes."""

    def __init__(self, model: Model, context: Context, *, n_batch: int, n_seq_max: int) -> None:
        self._model = model
        self._context = context
        self.n_ctx = context.n_ctx
        self._batch = Batch(n_batch)
        self._slots = [_Slot(sequence) for sequence in range(n_seq_max)]
        self._waiting: deque[_Job] = deque()
        self._calls: SimpleQueue[_Job | None] = SimpleQueue()
        self._jobs: dict[Stream, _Job] = {}
        self._lock = threading.Lock()
        self._decoding: dict[_Job, int] = {}
        """Jobs in the decode call under way, with their number of tokens in it."""
        self._cancelled: set[_Job] = set()
        self._failure: R1Error | None = None
        self._closing = False
        self._order = 0
        self._next_cell = 0
        self._chunk = _FIRST_CHUNK
        self._thread = threading.Thread(target=self._run, name="r1local engine", daemon=True)
        self._thread.start()

    # For any thread.

    def submit(self, request: Request) -> Stream:
        """Queue a request. Raises ContextFull when its prompt leaves no room for a single token."""
        size = len(request.tokens)
        if size == 0:
            raise EngineError("The prompt has no tokens.", "Say something.")
        if size >= self.n_ctx:
            raise ContextFull(
                f"The prompt has {size:,} tokens and the context holds {self.n_ctx:,}.",
                "Shorten it, start anew with /clear, or choose a larger context with --ctx.",
            )
        stream = Stream(on_cancel=self._cancel)
        job = _Job(
            request,
            stream,
            Sampler(self._model, request.sampling, request.tokens),
            TextAssembler(request.stop, request.stop_after),
            array("i", request.tokens),
            time.perf_counter(),
            0,
        )
        with self._lock:
            if self._failure or self._closing:
                job.sampler.close()
                raise self._failure or EngineError("The engine is closed.")
            self._order += 1
            job.order = self._order
            self._jobs[stream] = job
        self._calls.put(job)
        return stream

    def _cancel(self, stream: Stream) -> None:
        with self._lock:
            job = self._jobs.get(stream)
            if job is None:
                return
            self._cancelled.add(job)
            share = self._decoding.get(job, 0)
            if share and (share >= _WORTH_INTERRUPTING or len(self._decoding) == 1):
                self._context.interrupt()
        self._calls.put(None)

    def close(self) -> None:
        """Cancel everything, wait for the thread, free the context and the model."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._context.interrupt()
        self._calls.put(None)
        self._thread.join()
        self._context.close()
        self._model.close()

    # The engine's thread from here on.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._take_calls()
                self._drop_cancelled()
                self._admit()
                self._round()
        except R1Error as error:
            self._failure = error
        except Exception as error:  # the callers' iterators must end, whatever happened here
            self._failure = EngineError(
                f"The engine stopped: {type(error).__name__}: {error}.", "Start again; see `r1local doctor`."
            )
        with self._lock:
            self._closing = self._closing or self._failure is not None
            jobs = list(self._jobs.values())
        for job in jobs:
            if self._failure:
                self._end(job)
                job.stream.put(self._failure)
            else:
                self._finish(job, "cancelled")

    def _take_calls(self) -> None:
        """Take in new jobs; wait for one when there is nothing to do."""
        idle = not self._waiting and not any(slot.job for slot in self._slots)
        try:
            while True:
                job = self._calls.get(block=idle)
                idle = False
                if job is not None:
                    self._waiting.append(job)
        except Empty:
            pass

    def _drop_cancelled(self) -> None:
        with self._lock:
            cancelled, self._cancelled = self._cancelled, set()
        for job in cancelled:
            if job.stream not in self._jobs:
                continue  # it ended by itself meanwhile
            if job in self._waiting:
                self._waiting.remove(job)
            self._finish(job, "cancelled")

    # Admission.

    def _admit(self) -> None:
        idle = [slot for slot in self._slots if slot.job is None]
        for job in list(self._waiting) if idle else ():
            idle = [slot for slot in self._slots if slot.job is None]
            if not idle:
                return
            best, common = self._best_prefix(job)
            if self._worth_waiting(job, common):
                continue
            slot = self._choose(idle, best, common)
            if not self._make_room(job, slot, best, common):
                return  # in order: a small job does not overtake a large one for ever
            self._waiting.remove(job)
            self._place(job, slot, best, common)

    def _best_prefix(self, job: _Job) -> tuple[_Slot, int]:
        """The slot whose tokens agree with the job's for longest, and for how long.

        The last token of the prompt is never counted: it must be decoded for its logits.
        """
        lengths = [min(_common(slot.tokens, job.tokens), len(job.tokens) - 1) for slot in self._slots]
        length = max(lengths)
        return self._slots[lengths.index(length)], length

    def _worth_waiting(self, job: _Job, common: int) -> bool:
        """Whether a running job is just reading a longer common prefix."""
        for slot in self._slots:
            if slot.job is not None and slot.reading:
                ahead = min(_common(slot.job.tokens, job.tokens), len(job.tokens) - 1)
                if ahead >= common + _WORTH_WAITING:
                    return True
        return False

    def _choose(self, idle: list[_Slot], best: _Slot, common: int) -> _Slot:
        """The slot to use: the one with the prefix when it is idle and mostly that prefix, or the stalest."""
        if best in idle and common * 2 >= len(best.tokens):
            return best
        others = [slot for slot in idle if slot is not best] or idle
        return min(others, key=lambda slot: (len(slot.tokens) > 0, slot.used_at))

    def _make_room(self, job: _Job, slot: _Slot, best: _Slot, common: int) -> bool:
        """See that the prompt fits the KV cache, forgetting idle slots where it must be."""
        while True:
            kept = [other for other in self._slots if other is not slot]
            cells = _distinct([other.cells for other in kept] + [best.cells[:common]])
            if cells + len(job.tokens) - common + 1 <= self.n_ctx:
                return True
            idle = [other for other in kept if other.job is None and other is not best and other.tokens]
            if idle:
                self._trim(min(idle, key=lambda other: other.used_at), 0)
            elif any(other.job for other in kept):
                return False
            else:
                if best is not slot:
                    self._trim(best, common)
                return True

    def _place(self, job: _Job, slot: _Slot, best: _Slot, common: int) -> None:
        if slot is not best:
            self._trim(slot, 0)
            if common:
                self._context.copy(best.sequence, slot.sequence, common)
                slot.tokens, slot.cells = best.tokens[:common], best.cells[:common]
        else:
            self._trim(slot, common)
        slot.job = job
        if job.drawn == 0:
            job.reused = len(slot.tokens)

    def _trim(self, slot: _Slot, length: int) -> None:
        """Forget what the slot holds behind `length` tokens."""
        if len(slot.tokens) <= length:
            return
        if not self._context.remove(slot.sequence, length):
            self._context.remove(slot.sequence, length := 0)
        del slot.tokens[length:]
        del slot.cells[length:]

    # Decoding.

    def _round(self) -> None:
        rows, parts = self._fill_batch()
        if not parts:
            return
        with self._lock:
            if self._closing or self._cancelled:
                return
            self._context.interrupt(False)
            self._decoding = {slot.job: count for slot, count in parts if slot.job}
        began = time.perf_counter()
        result = self._context.decode(self._batch)
        elapsed = time.perf_counter() - began
        with self._lock:
            self._decoding = {}
        if result == Context.OK:
            self._account(parts, elapsed)
            for slot, row in rows:
                self._draw(slot, row)
        else:
            for slot, _ in parts:
                self._context.remove(slot.sequence, len(slot.tokens))
            if result == Context.NO_ROOM:
                self._give_way()

    def _fill_batch(self) -> tuple[list[tuple[_Slot, int]], list[tuple[_Slot, int]]]:
        """Rows to draw from, (slot, row), and what is decoded, (slot, number of tokens)."""
        batch = self._batch
        batch.clear()
        rows: list[tuple[_Slot, int]] = []
        parts: list[tuple[_Slot, int]] = []
        active = sorted((s for s in self._slots if s.job), key=lambda s: s.job.order if s.job else 0)
        running = [slot for slot in active if not slot.reading]
        for slot in running:
            rows.append((slot, self._add(slot, 1)))
            parts.append((slot, 1))
        room = batch.capacity - batch.size
        if running:
            room = min(room, self._chunk)
        for slot in active:
            if slot.reading and room > 0:
                count = min(slot.pending, room)
                room -= count
                last = count == slot.pending
                row = self._add(slot, count)
                parts.append((slot, count))
                if last:
                    rows.append((slot, row))
        return rows, parts

    def _add(self, slot: _Slot, count: int) -> int:
        assert slot.job is not None
        start = len(slot.tokens)
        tokens = slot.job.tokens
        return self._batch.add(
            slot.sequence, tokens[start : start + count], start, want_last=start + count == len(tokens)
        )

    def _account(self, parts: list[tuple[_Slot, int]], elapsed: float) -> None:
        read = 0
        for slot, count in parts:
            job = slot.job
            assert job is not None
            start = len(slot.tokens)
            slot.tokens.extend(job.tokens[start : start + count])
            slot.cells.extend(range(self._next_cell, self._next_cell + count))
            self._next_cell += count
            if job.drawn == 0:
                job.prefill_seconds += elapsed
                read += count
        if read >= _SMALLEST_CHUNK:
            chunk = int(read / elapsed * ROUND_SECONDS) if elapsed > 0 else self._batch.capacity
            self._chunk = max(_SMALLEST_CHUNK, min(self._batch.capacity, (self._chunk + chunk) // 2))

    def _draw(self, slot: _Slot, row: int) -> None:
        job = slot.job
        assert job is not None
        token = job.sampler.sample(self._context, row)
        now = time.perf_counter()
        if job.first_token_at is None:
            job.first_token_at = now
        if self._model.is_end(token):
            self._finish(job, "stop")
            return
        job.tokens.append(token)
        job.drawn += 1
        job.stream.put(Piece(job.text.feed(self._model.piece(token)), 1, now))
        if job.text.stopped:
            self._finish(job, "stop")
        elif job.request.max_tokens is not None and job.drawn >= job.request.max_tokens:
            self._finish(job, "length", f"the limit of {job.request.max_tokens:,} tokens was reached")
        elif len(job.tokens) > self.n_ctx:
            self._finish(job, "length", f"the context of {self.n_ctx:,} tokens is full")

    def _give_way(self) -> None:
        """The KV cache is full: forget an idle slot, or send the youngest job back to wait for room."""
        idle = [slot for slot in self._slots if slot.job is None and slot.tokens]
        if idle:
            self._trim(min(idle, key=lambda slot: slot.used_at), 0)
            return
        active = [slot for slot in self._slots if slot.job]
        youngest = max(active, key=lambda slot: slot.job.order if slot.job else 0)
        job = youngest.job
        assert job is not None
        if len(active) == 1:
            self._finish(job, "length", f"the context of {self.n_ctx:,} tokens is full")
            return
        youngest.job = None
        self._trim(youngest, 0)
        self._waiting.appendleft(job)

    # Ends.

    def _finish(self, job: _Job, finish: Finish, note: str = "") -> None:
        rest = job.text.flush()
        now = time.perf_counter()
        if rest:
            job.stream.put(Piece(rest, 0, now))
        self._end(job)
        job.stream.put(
            Outcome(
                finish,
                note,
                prompt_tokens=len(job.request.tokens),
                reused_tokens=job.reused,
                submitted_at=job.submitted_at,
                first_token_at=job.first_token_at,
                ended_at=now,
                prefill_seconds=job.prefill_seconds,
            )
        )

    def _end(self, job: _Job) -> None:
        with self._lock:
            self._jobs.pop(job.stream, None)
        for slot in self._slots:
            if slot.job is job:
                slot.job = None
                slot.used_at = time.perf_counter()
        job.sampler.close()


def _common(a: array[int], b: array[int]) -> int:
    """The length of the longest common prefix."""
    length = min(len(a), len(b))
    if length == 0 or a[0] != b[0]:
        return 0
    differs = np.frombuffer(a, np.int32, length) != np.frombuffer(b, np.int32, length)
    first = int(differs.argmax())
    return first if differs[first] else length


def _distinct(groups: list[array[int]]) -> int:
    """How many different cells there are in `groups`."""
    filled = [np.frombuffer(group, np.int64) for group in groups if len(group)]
    return int(np.unique(np.concatenate(filled)).size) if filled else 0

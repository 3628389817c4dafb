"""Many replies at once out of one context: continuous batching.

One thread owns the context and does all decoding. Each round of its loop takes in what callers asked for, gives
waiting jobs a slot, and decodes one batch: the next token of every running job, and as much of the prompts still
to be read as does not hold the others up. Callers submit requests and iterate streams.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from queue import Empty, SimpleQueue

from r1local.engine.context import Batch, Context
from r1local.engine.model import Model
from r1local.engine.sampler import Sampler
from r1local.engine.slots import Admission, Job, Slot, Slots
from r1local.engine.stream import Outbox, Outcome, Piece, Request, Stream, check_room
from r1local.engine.text import TextAssembler
from r1local.errors import EngineError, R1Error
from r1local.events import Finish

# While others are running, a round should not take longer than this for the sake of a prompt: it is the longest
# pause a reader sees between two tokens.
ROUND_SECONDS = 0.25
_FIRST_CHUNK = 64
_SMALLEST_CHUNK = 16
# Where each sequence has cells of its own, the library computes neighbouring sequences together: a gap of up to so
# many idle ones is bridged by a token that is forgotten again, for less than a second pass over the weights.
_WORTH_BRIDGING = 3
# A decode call is stopped for a cancelled job only when at least so many of its tokens are in it.
_WORTH_INTERRUPTING = 16

_Part = tuple[Slot, int, int]
"""What a batch holds of a slot: the slot, how many tokens, and the row of the last one."""


class Scheduler:
    """Runs requests on a model and a context, both of which it owns and closes."""

    def __init__(self, model: Model, context: Context, *, n_seq_max: int) -> None:
        self._model = model
        self._context = context
        self.n_ctx = context.n_ctx
        self._batch = Batch(context.n_batch)
        self._slots = Slots(context, n_seq_max)
        self._waiting: deque[Job] = deque()
        self._calls: SimpleQueue[Job | None] = SimpleQueue()
        self._outbox = Outbox()
        self._bridges: list[Slot] = []
        """Idle slots with a token in the batch that is not theirs."""
        self._chunk = _FIRST_CHUNK
        """Prompt tokens in a round while others are running."""
        # Any thread may submit and cancel, and a signal handler may cancel in the middle of either.
        self._lock = threading.RLock()
        self._jobs: dict[Stream, Job] = {}
        self._cancelled: set[Job] = set()
        self._decoding: dict[Job, int] = {}
        """Jobs in the decode call under way, with their number of tokens in it."""
        self._submitted = 0
        self._failure: R1Error | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="r1local engine", daemon=True)
        self._thread.start()

    # For any thread.

    def submit(self, request: Request) -> Stream:
        """Queue a request. Raises ContextFull when its prompt leaves no room for a single token."""
        size = len(request.tokens)
        if size == 0:
            raise EngineError("The prompt has no tokens.", "Say something.")
        check_room(size, self.n_ctx)
        stream = Stream(on_cancel=self._cancel)
        job = Job(
            request,
            stream,
            Sampler(self._model, request.sampling, request.tokens),
            TextAssembler(request.stop, request.stop_after),
            array("i", request.tokens),
            time.perf_counter(),
        )
        with self._lock:
            if self._failure or self._closing:
                job.sampler.close()
                raise self._failure or EngineError("The engine is closed.")
            self._submitted += 1
            job.order = self._submitted
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
            if self._closing and self._failure is None:
                return
            self._closing = True
            self._context.interrupt()
        self._calls.put(None)
        self._thread.join()
        self._context.close()
        self._model.close()

    # The engine's thread from here on.

    def _run(self) -> None:
        failure: R1Error | None = None
        try:
            while not self._closing:
                self._take_calls()
                self._drop_cancelled()
                self._admit()
                self._round()
        except R1Error as error:
            failure = error
        except Exception as error:  # the callers' iterators must end, whatever happened here
            failure = EngineError(
                f"The engine stopped: {type(error).__name__}: {error}.", "Start again; see `r1local doctor`."
            )
        with self._lock:
            self._closing, self._failure = True, failure
            jobs = list(self._jobs.values())
        for job in jobs:
            if failure:
                self._end(job, failure)
            else:
                self._finish(job, "cancelled")

    def _take_calls(self) -> None:
        """Take in new jobs; wait for one when there is nothing to do."""
        wait = not self._waiting and not self._slots.active
        try:
            while True:
                job = self._calls.get(block=wait)
                wait = False
                if job is not None:
                    self._waiting.append(job)
        except Empty:
            pass

    def _drop_cancelled(self) -> None:
        with self._lock:
            cancelled, self._cancelled = self._cancelled, set()
            cancelled &= set(self._jobs.values())  # some have ended by themselves meanwhile
        for job in cancelled:
            if job in self._waiting:
                self._waiting.remove(job)
            self._finish(job, "cancelled")

    def _admit(self) -> None:
        if not self._waiting or not self._slots.any_idle:
            return
        # In order: a small job does not overtake a large one for ever.
        for job in list(self._waiting):
            admission = self._slots.admit(job)
            if admission is Admission.NO_ROOM:
                return
            if admission is Admission.PLACED:
                self._waiting.remove(job)

    def _round(self) -> None:
        parts = self._fill_batch()
        if not parts:
            return
        with self._lock:
            if self._closing or self._cancelled:
                return
            self._context.interrupt(False)
            self._decoding = {slot.job: count for slot, count, _ in parts if slot.job}
        began = time.perf_counter()
        result = self._context.decode(self._batch)
        elapsed = time.perf_counter() - began
        with self._lock:
            self._decoding = {}
        for slot in self._bridges:
            self._slots.take_back(slot)
        if result == Context.OK:
            self._account(parts, elapsed)
            for slot, _, row in parts:
                if slot.pending == 0:
                    self._draw(slot, row)
            self._outbox.send_if_due()
            return
        for slot, _, _ in parts:
            self._slots.take_back(slot)
        if result == Context.NO_ROOM:
            self._give_way()

    def _fill_batch(self) -> list[_Part]:
        self._batch.clear()
        self._bridges = []
        room = self._batch.capacity
        active = self._slots.active
        counts = {slot: 1 for slot in active if not slot.reading}
        counts = dict(list(counts.items())[:room])
        room -= len(counts)
        if counts:
            room = min(room, self._chunk)
        for slot in active:
            if slot.reading and room > 0:
                counts[slot] = min(slot.pending, room)
                room -= counts[slot]
        if self._context.kv_unified:
            return [self._add(slot, count) for slot, count in counts.items()]
        parts: list[_Part] = []
        for slot in sorted(counts, key=lambda slot: slot.sequence):
            if parts:
                self._bridge(parts[-1][0].sequence, slot.sequence, room)
            parts.append(self._add(slot, counts[slot]))
        return parts

    def _bridge(self, low: int, high: int, room: int) -> None:
        """Let the library see the sequences between two that are in the batch, where they are few and idle."""
        if not 1 < high - low <= _WORTH_BRIDGING + 1 or room < len(self._bridges) + _WORTH_BRIDGING:
            return
        for slot in self._slots.idle_between(low, high):
            self._slots.make_room_for_one(slot)
            self._batch.add(slot.sequence, (0,), len(slot.tokens), want_last=False)
            self._bridges.append(slot)

    def _add(self, slot: Slot, count: int) -> _Part:
        assert slot.job is not None
        start = len(slot.tokens)
        run = slot.job.tokens[start : start + count]
        row = self._batch.add(slot.sequence, run, start, want_last=count == slot.pending)
        return slot, count, row

    def _account(self, parts: list[_Part], elapsed: float) -> None:
        read = 0
        for slot, count, _ in parts:
            self._slots.advance(slot, count)
            job = slot.job
            if job is not None and job.drawn == 0:
                job.prefill_seconds += elapsed
                read += count
        if read >= _SMALLEST_CHUNK and elapsed > 0:
            fitting = (self._chunk + int(read / elapsed * ROUND_SECONDS)) // 2
            self._chunk = max(_SMALLEST_CHUNK, min(self._batch.capacity, fitting))

    def _draw(self, slot: Slot, row: int) -> None:
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
        self._outbox.add(job.stream, Piece(job.text.feed(self._model.piece(token)), 1, now))
        limit = job.request.max_tokens
        if job.text.stopped:
            self._finish(job, "stop")
        elif limit is not None and job.drawn >= limit:
            self._finish(job, "length", f"the limit of {limit:,} tokens was reached")
        elif len(job.tokens) > self.n_ctx:
            self._finish(job, "length", self._context_full)

    @property
    def _context_full(self) -> str:
        return f"the context of {self.n_ctx:,} tokens is full"

    def _give_way(self) -> None:
        """The KV cache is full: forget an idle slot, or send the youngest job back to wait for room."""
        if self._slots.forget_stalest():
            return
        active = self._slots.active
        youngest = active[-1]
        if len(active) == 1 and youngest.job is not None:
            self._finish(youngest.job, "length", self._context_full)
        else:
            self._waiting.appendleft(self._slots.preempt(youngest))

    # Ends.

    def _finish(self, job: Job, finish: Finish, note: str = "") -> None:
        rest = job.text.flush()
        now = time.perf_counter()
        if rest:
            self._outbox.add(job.stream, Piece(rest, 0, now))
        self._end(
            job,
            Outcome(
                finish,
                note,
                prompt_tokens=len(job.request.tokens),
                reused_tokens=job.reused,
                submitted_at=job.submitted_at,
                first_token_at=job.first_token_at,
                ended_at=now,
                prefill_seconds=job.prefill_seconds,
            ),
        )

    def _end(self, job: Job, last: Outcome | R1Error) -> None:
        with self._lock:
            self._jobs.pop(job.stream, None)
        self._slots.release(job)
        job.sampler.close()
        self._outbox.send()
        job.stream.put(last)

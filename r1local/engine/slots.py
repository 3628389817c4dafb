"""Who holds what in the KV cache: slots, the prefixes they share, and room for the next prompt.

job     a request on its way, with its sampler and its text
slot    one sequence of the KV cache and the tokens in it; keeps them after its job, for the next one
cell    one token's place in the KV cache; slots with a common prefix share cells
"""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import numpy as np

from r1local.engine.context import Context
from r1local.engine.sampler import Sampler
from r1local.engine.stream import Request, Stream
from r1local.engine.text import TextAssembler

# A common prefix shorter than this is decoded again rather than waited for.
_WORTH_WAITING = 32
# Tokens that each running job can still draw when another one is let in beside it, and when one returns that had to
# give way before: it must not be sent back at once.
_ROOM_TO_GROW = 16
_ROOM_TO_RETURN = 128
# A prefix is copied from a sequence at most so many times as long: copying a token took a hundredth of decoding it.
_WORTH_COPYING = 32
# Bytes of memory that jobs which gave way may keep for their return.
_MOST_SAVED = 2 << 30


@dataclass(eq=False)
class Job:
    request: Request
    stream: Stream
    sampler: Sampler
    text: TextAssembler
    tokens: array[int]
    """The prompt, then every token drawn."""
    submitted_at: float
    order: int = 0
    drawn: int = 0
    reused: int = 0
    first_token_at: float | None = None
    prefill_seconds: float = 0.0
    saved: Any = b""
    """Keys and values of a job that gave way."""
    saved_tokens: int = 0


@dataclass(eq=False)
class Slot:
    sequence: int
    tokens: array[int] = field(default_factory=lambda: array("i"))
    """What the KV cache holds of this sequence."""
    cells: array[int] = field(default_factory=lambda: array("q"))
    """A number for the cell of each token; the same number in two slots is the same cell."""
    job: Job | None = None
    used_at: float = 0.0

    @property
    def pending(self) -> int:
        """Tokens of the job that are not in the cache yet."""
        return len(self.job.tokens) - len(self.tokens) if self.job else 0

    @property
    def reading(self) -> bool:
        """Its job's prompt is not read to the end yet."""
        return self.job is not None and self.pending > 1


class Admission(Enum):
    PLACED = auto()
    LATER = auto()
    """Another job is just reading a prefix that this one can share: let others go first."""
    NO_ROOM = auto()
    """Nothing more can be placed until a running job ends."""


class Slots:
    """The sequences of one context. Used by the engine's thread only."""

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._slots = [Slot(sequence) for sequence in range(count)]
        self._next_cell = 0
        self._saved_bytes = 0

    @property
    def active(self) -> list[Slot]:
        """Slots with a job, the oldest job first."""
        return sorted((slot for slot in self._slots if slot.job), key=lambda slot: slot.job.order if slot.job else 0)

    @property
    def any_idle(self) -> bool:
        return any(slot.job is None for slot in self._slots)

    def admit(self, job: Job) -> Admission:
        """Give the job a slot, with as much of its prompt in it as the cache has."""
        idle = [slot for slot in self._slots if slot.job is None]
        if not idle:
            return Admission.NO_ROOM
        best, common = self._best_prefix(job)
        if job.saved and job.saved_tokens > common:
            common = 0  # what it had is given back whole
        elif self._worth_waiting(job, common):
            return Admission.LATER
        slot = self._choose(idle, best, common)
        if not self._make_room(job, slot, best, common):
            return Admission.NO_ROOM
        self._place(job, slot, best, common)
        return Admission.PLACED

    def idle_between(self, low: int, high: int) -> list[Slot]:
        """The slots of the sequences between two, if all of them are idle."""
        between = self._slots[low + 1 : high]
        return between if all(slot.job is None for slot in between) else []

    def advance(self, slot: Slot, count: int) -> None:
        """Note that the next `count` tokens of the slot's job are in the cache now."""
        assert slot.job is not None
        start = len(slot.tokens)
        slot.tokens.extend(slot.job.tokens[start : start + count])
        slot.cells.extend(range(self._next_cell, self._next_cell + count))
        self._next_cell += count

    def make_room_for_one(self, slot: Slot) -> None:
        """See that an idle sequence is not full to the last cell."""
        if len(slot.tokens) >= self._context.n_ctx:
            self._trim(slot, 0)

    def take_back(self, slot: Slot) -> None:
        """Remove from the cache what an interrupted decode call may have left behind the slot's tokens."""
        self._context.remove(slot.sequence, len(slot.tokens))

    def release(self, job: Job) -> None:
        """The job is over; its slot keeps the tokens for a request that begins alike."""
        self._forget_saved(job)
        for slot in self._slots:
            if slot.job is job:
                slot.job = None
                slot.used_at = time.perf_counter()

    def preempt(self, slot: Slot) -> Job:
        """Take the slot from its job, which gets its tokens back later, or reads them again."""
        assert slot.job is not None
        job, slot.job = slot.job, None
        saved = self._context.save(slot.sequence)
        if self._saved_bytes + len(saved) <= _MOST_SAVED:
            job.saved, job.saved_tokens = saved, len(slot.tokens)
            self._saved_bytes += len(saved)
        self._trim(slot, 0)
        return job

    def forget_stalest(self, keep: tuple[Slot, ...] = ()) -> bool:
        """Empty the idle slot that was used longest ago. False when there is none."""
        idle = [slot for slot in self._slots if slot.job is None and slot.tokens and slot not in keep]
        if not idle:
            return False
        self._trim(min(idle, key=lambda slot: slot.used_at), 0)
        return True

    def _best_prefix(self, job: Job) -> tuple[Slot, int]:
        """The slot whose tokens agree with the job's for longest, and for how long.

        The last token of the prompt is never counted: it must be decoded for its logits.
        """
        lengths = [min(_common(slot.tokens, job.tokens), len(job.tokens) - 1) for slot in self._slots]
        length = max(lengths)
        best = self._slots[lengths.index(length)]
        if not self._context.kv_unified and length * _WORTH_COPYING < len(best.tokens):
            return best, 0
        return best, length

    def _worth_waiting(self, job: Job, common: int) -> bool:
        """Whether a running job is just reading a longer common prefix."""
        for slot in self._slots:
            if slot.job is not None and slot.reading:
                ahead = min(_common(slot.job.tokens, job.tokens), len(job.tokens) - 1)
                if ahead >= common + _WORTH_WAITING:
                    return True
        return False

    def _choose(self, idle: list[Slot], best: Slot, common: int) -> Slot:
        """The slot to use: the one with the prefix when it is idle and mostly that prefix, or the stalest."""
        if best in idle and common * 2 >= len(best.tokens):
            return best
        others = [slot for slot in idle if slot is not best] or idle
        return min(others, key=lambda slot: (len(slot.tokens) > 0, slot.used_at, slot.sequence))

    def _make_room(self, job: Job, slot: Slot, best: Slot, common: int) -> bool:
        """See that the prompt fits the KV cache, forgetting idle slots where it must be.

        Beside running jobs it must leave all of them room to grow, or one would be sent back at once.
        """
        if not self._context.kv_unified:
            return True
        kept = [other for other in self._slots if other is not slot]
        running = sum(1 for other in kept if other.job)
        growth = (_ROOM_TO_RETURN if job.saved_tokens else _ROOM_TO_GROW) * (running + 1) if running else 1
        while True:
            cells = _distinct([other.cells for other in kept] + [best.cells[:common]])
            if cells + len(job.tokens) - common + growth <= self._context.n_ctx:
                return True
            if self.forget_stalest(keep=(slot, best)):
                continue
            if best is not slot and best.job is None and len(best.tokens) > common:
                self._trim(best, common)
                continue
            return not running

    def _place(self, job: Job, slot: Slot, best: Slot, common: int) -> None:
        if job.saved and not common:
            self._trim(slot, 0)
            if self._context.restore(slot.sequence, job.saved):
                slot.tokens = job.tokens[: job.saved_tokens]
                slot.cells = array("q", range(self._next_cell, self._next_cell + job.saved_tokens))
                self._next_cell += job.saved_tokens
        elif slot is best:
            self._trim(slot, common)
        else:
            self._trim(slot, 0)
            if common and self._context.share(best.sequence, slot.sequence, common):
                slot.tokens, slot.cells = best.tokens[:common], best.cells[:common]
        self._forget_saved(job)
        slot.job = job
        if job.drawn == 0:
            job.reused = len(slot.tokens)

    def _forget_saved(self, job: Job) -> None:
        self._saved_bytes -= len(job.saved)
        job.saved = b""

    def _trim(self, slot: Slot, length: int) -> None:
        """Forget what the slot holds behind `length` tokens."""
        if len(slot.tokens) <= length:
            return
        if not self._context.remove(slot.sequence, length):
            length = 0
            self._context.remove(slot.sequence)
        del slot.tokens[length:]
        del slot.cells[length:]


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

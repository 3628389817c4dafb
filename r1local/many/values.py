"""How rows are answered, and what becomes of them: the values of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from r1local.chat_types import Sampling
from r1local.errors import R1Error, UsageError
from r1local.events import Done
from r1local.many.row import Row
from r1local.many.votes import Tally
from r1local.reader import ReplyReader
from r1local.units import shortened


@dataclass(frozen=True, slots=True)
class How:
    """How every row is answered, but for what a row says itself."""

    sampling: Sampling
    max_tokens: int | None = None
    """Of each sample, thought included."""
    stop: tuple[str, ...] = ()
    system: str = ""
    samples: int = 1
    """Replies to each row, of which the majority wins."""
    stop_early: bool = True
    """No more of them than can change the winner."""


@dataclass(eq=False)
class Sample:
    """One reply to a row, under way or ended."""

    row: Row
    number: int
    reader: ReplyReader
    done: Done | None = None
    error: R1Error | None = None
    submitted: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def stopped(self) -> bool:
        return self.done is not None and self.done.finish == "cancelled"


@dataclass(eq=False)
class Finished:
    """A row with its samples, those left out that were stopped because they could change nothing."""

    row: Row
    samples: list[Sample]
    tally: Tally | None = None
    error: R1Error | None = None
    """Why there is no answer."""
    spent: int = 0
    """Tokens drawn for it, those of stopped samples included."""

    @property
    def chosen(self) -> Sample | None:
        """The sample that speaks for the row: the first that gave the winning answer, or without one that ended."""
        ended = [sample for sample in self.samples if sample.done is not None]
        winner = self.tally.winner if self.tally else None
        if winner is not None:
            return next(sample for sample in ended if sample.number == winner.samples[0])
        return min(ended, key=lambda sample: (not sample.reader.answer, sample.number), default=None)


@dataclass(eq=False)
class Open:
    """A row that has begun."""

    row: Row
    how: How
    tokens: list[int]
    """The prompt."""
    thought_open: bool
    tally: Tally | None
    left: int
    """Samples still to be submitted."""
    running: int = 0
    ended: list[Sample] = field(default_factory=list)
    spent: int = 0

    @property
    def may_begin_another(self) -> bool:
        """While all answers agree, only so many samples are begun as would decide the vote."""
        if not self.left:
            return False
        if self.tally is None or not self.how.stop_early or not self.tally.unanimous:
            return True
        return self.running < self.tally.needed

    @property
    def unfinished(self) -> bool:
        """Whether more samples were to vote."""
        return self.tally is not None and bool(self.tally.needed if self.how.stop_early else self.tally.left)


def of_row(how: How, settings: Mapping[str, Any]) -> How:
    """With what a row says itself. Raises UsageError for a value that cannot be."""
    if not settings:
        return how
    own = dict(settings)
    limit, system = own.pop("max_tokens", how.max_tokens), own.pop("system", how.system)
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise UsageError(
            f"max_tokens must be a whole number from 1 on, not {shortened(repr(limit))}.", "Correct this row."
        )
    if not isinstance(system, str):
        raise UsageError(f"system must be text, not {shortened(repr(system))}.", "Correct this row.")
    whole = {"top_k", "seed"}
    for name, value in own.items():
        if isinstance(value, bool) or not isinstance(value, int if name in whole else int | float):
            kind = "a whole number" if name in whole else "a number"
            raise UsageError(f"{name} must be {kind}, not {shortened(repr(value))}.", "Correct this row.")
    return replace(how, sampling=replace(how.sampling, **own), max_tokens=limit, system=system)

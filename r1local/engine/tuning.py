"""Finds the fastest settings within a time budget. Prints nothing and remembers nothing.

First every variant is measured a few times in turns with the default. What looks faster is put together and confirmed:
only settings that stay ahead of the default in many further turns are taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from r1local.engine.measure import PROBE, PROMPT_TOKENS, Figures, Sizes
from r1local.engine.turns import LEAST_PAIRS, LEAST_ROUNDS, NEEDED_GAIN, Outcome, Row, faster
from r1local.engine.ways import Variant, Way
from r1local.errors import OutOfMemory

MOST_PAIRS = 15
_CLOSE = 1.06  # with a median between 1 and this, more turns are worth their time
_MOST_ROUNDS, _MOST_WHOLE_ROUNDS = 5, 3
_MOST_FOR_BATCHES = 0.4  # of the time is set aside for whole prompts in batches of all sizes
_SIZES = (
    Sizes(512, 128, 64),
    Sizes(512, 128, 32),
    Sizes(512, 128, 16),
    Sizes(512, 64, 16),
    Sizes(256, 64, 16),
    Sizes(256, 64, 8),
    Sizes(128, 32, 8),
    Sizes(64, 32, 4),
)


class Measures(Protocol):
    """ways.Rigs, or a double."""

    def measure(self, way: Way, sizes: Sizes) -> Figures: ...


class _OutOfTime(Exception): ...


class Tuner:
    def __init__(
        self,
        default: Way,
        variants: Sequence[Variant],
        rigs: Measures,
        seconds: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._rigs, self._clock, self._say = rigs, clock, on_progress
        self._began = clock()
        self._budget = seconds
        self._default = Row("default", default)
        self._rows = [Row(each.name, each.way, note=each.why_not, variant=each) for each in variants]
        self._latest: dict[Way, Figures] = {}
        self._probe = Figures(1.0, 1.0)
        self._opening = 0.0
        """Seconds that loading the model took."""
        self._sizes = _SIZES[-1]

    def run(self) -> Outcome:
        winner, decided = None, False
        try:
            self._begin()
            self._screen()
            self._read_whole()
            winner, decided = self._decide()
        except _OutOfTime:
            pass
        took = self._clock() - self._began
        return Outcome(self._default, tuple(self._rows), decided, winner, self._sizes, took)

    def _left(self) -> float:
        return self._began + self._budget - self._clock()

    def _expected(self, way: Way, sizes: Sizes) -> float:
        """Seconds, from the last time, or as if speed went with threads."""
        known = self._latest.get(way)
        if known is not None:
            return sizes.seconds(known)
        return sizes.seconds(self._probe) * max(1.0, self._default.way.n_threads / way.n_threads)

    def _cost(self, sizes: Sizes) -> float:
        """Seconds that all of it takes at least, with a confirmation."""
        ways = [row.way for row in self._rows if row.variant is not None and not row.variant.reads_only]
        rigs = len({(way.repack, way.flash_attention, way.kv_type) for way in [self._default.way, *ways]})
        fill = rigs * (sizes.prompt - sizes.read) / self._probe.prefill
        second = self._opening if any(way.repack != self._default.way.repack for way in ways) else 0.0
        screen = LEAST_ROUNDS * sum(self._expected(way, sizes) for way in [self._default.way, *ways])
        return fill + second + screen + self._confirming(sizes) + self._whole_round()

    def _confirming(self, sizes: Sizes) -> float:
        return (2 * LEAST_PAIRS + 1) * sizes.seconds(self._probe)

    def _whole_round(self) -> float:
        """Of reading whole prompts: in the default's batches, and in as many other sizes as there is time for."""
        ways = [row.way for row in self._rows if row.variant is not None and row.variant.reads_only]
        total = base = _whole(self._default.way).seconds(self._probe)
        for cost in sorted(_whole(way).seconds(self._probe) for way in ways):
            if total + cost <= _MOST_FOR_BATCHES * self._budget:
                total += cost
        return total if total > base else 0.0

    # Measuring

    def _measure(self, way: Way, sizes: Sizes) -> Figures:
        """Raises _OutOfTime rather than run over the budget."""
        expected = self._expected(way, sizes) if self._latest else 0.0
        if expected >= self._left():
            raise _OutOfTime
        figures = self._rigs.measure(way, sizes)
        if sizes.written:
            self._latest[way] = figures
        return figures

    def _begin(self) -> None:
        """Load the model, warm up, and choose how much to measure at a time."""
        self._say("loading and warming up")
        self._measure(self._default.way, PROBE)
        self._opening = self._clock() - self._began
        self._probe = self._measure(self._default.way, PROBE)
        self._sizes = next((sizes for sizes in _SIZES if self._cost(sizes) <= self._left()), _SIZES[-1])

    def _screen(self) -> None:
        """Each variant that may change both reading and writing, in turns with the default."""
        going = [row for row in self._rows if row.variant is not None and not row.variant.reads_only]
        for number in range(_MOST_ROUNDS):
            going = [row for row in going if row.in_play]
            again = sum(self._expected(row.way, self._sizes) for row in [self._default, *going])
            needed = again + self._confirming(self._sizes) + self._whole_round()
            if number >= LEAST_ROUNDS and (not going or self._left() < needed):
                return
            self._say(f"round {number + 1}, default")
            base = self._measure(self._default.way, self._sizes)
            self._default.pairs.append((base, base))
            for row in list(going):
                self._say(f"round {number + 1}, {row.name}")
                try:
                    row.pairs.append((base, self._measure(row.way, self._sizes)))
                except OutOfMemory:
                    row.note = "not enough memory"
                    going.remove(row)

    def _read_whole(self) -> None:
        """Whole prompts in batches of all sizes, as far as there is time; what a size does to writing is nothing."""
        assert self._default.figures is not None
        default, decode = self._default.way, self._default.figures.decode
        rows = [row for row in self._rows if row.variant is not None and row.variant.reads_only]
        kept = self._confirming(self._sizes) if self._promising() else 0.0
        reference = Row(f"batch {default.n_batch}", default, note="default")

        def cost(way: Way) -> float:
            return _whole(way).seconds(self._latest[default])

        def read(row: Row) -> Figures:
            self._say(f"whole prompts, {row.name}")
            return replace(self._measure(row.way, _whole(row.way)), decode=decode)

        for number in range(_MOST_WHOLE_ROUNDS):
            rows = [row for row in rows if row.in_play]
            base: Figures | None = None
            for row in rows:
                if self._left() < kept + cost(row.way) + (0.0 if base else cost(default)):
                    row.note = row.note if row.pairs else f"not measured: takes {cost(row.way):.0f} s"
                    continue
                try:
                    base = base or read(reference)
                    row.pairs.append((base, read(row)))
                except _OutOfTime:
                    return
            if base is None:
                return
            reference.pairs.append((base, base))
            if not number:
                self._rows.insert(self._rows.index(rows[0]), reference)

    # Deciding

    def _promising(self) -> list[Row]:
        """Of each setting the best value that may be chosen and looks faster; the best of them first."""
        found: dict[str, Row] = {}
        for row in self._rows:
            if row.variant is None or row.variant.why_not or row.ratio is None or row.ratio < NEEDED_GAIN:
                continue
            best = found.get(row.variant.setting)
            if best is None or row.ratio > (best.ratio or 0.0):
                found[row.variant.setting] = row
        return sorted(found.values(), key=lambda row: -(row.ratio or 0.0))

    def _decide(self) -> tuple[Row | None, bool]:
        """The winner, and whether there was time to decide."""
        promising = self._promising()
        tried = promising[:1]
        if len(promising) > 1:
            changes: dict[str, Any] = {
                row.variant.setting: getattr(row.way, row.variant.setting) for row in promising if row.variant
            }
            parts = " + ".join(row.name for row in promising)
            together = Row("together", replace(self._default.way, **changes), parts=parts)
            self._rows.append(together)
            tried = [together, *tried]
        for row in tried:
            verdict = self._confirm(row)
            if verdict is None:
                row.note = "not confirmed: no time"
                return None, False
            row.note = "chosen" if verdict else "not confirmed"
            if verdict:
                return row, True
        return None, True

    def _confirm(self, row: Row) -> bool | None:
        """Settings against the default in turns, whoever was second is first the next time."""
        sizes = self._sizes if self._confirming(self._sizes) <= self._left() else _SIZES[-1]
        if row.way.n_batch != self._default.way.n_batch:
            sizes = replace(_whole(self._default.way), written=sizes.written)
        turns = Row(row.name, row.way)
        verdict: bool | None = None
        try:
            self._measure(row.way, sizes)  # it may be new, and cold
            while len(turns.pairs) < MOST_PAIRS and (verdict is None or 1.0 < (turns.ratio or 0.0) < _CLOSE):
                self._say(f"confirming {row.full_name}, {len(turns.pairs) + 1}")
                found: dict[Way, Figures] = {}
                ways = (self._default.way, row.way)
                for way in ways if len(turns.pairs) % 2 else reversed(ways):
                    found[way] = self._measure(way, sizes)
                turns.pairs.append((found[self._default.way], found[row.way]))
                verdict = faster(turns.seconds)
        except _OutOfTime:
            pass
        except OutOfMemory:
            return False
        if verdict is not None or row.variant is None:
            row.pairs = turns.pairs
        return verdict


def _whole(way: Way) -> Sizes:
    """A typical prompt, or one that fills a batch."""
    size = max(PROMPT_TOKENS, way.n_batch)
    return Sizes(size, size, 0)

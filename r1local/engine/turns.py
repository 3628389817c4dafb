"""What was measured in turns, and what that says. Nothing here measures.

Machines are noisy, and drift: whatever is compared is measured in turns, and judged by the ratios within turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from r1local.engine.measure import Figures, Sizes, middle
from r1local.engine.ways import Variant, Way
from r1local.plan.learnt import Tuned

NEEDED_GAIN = 1.03
"""How much faster something must be, in the median of LEAST_PAIRS turns or more; and it must have been faster in
NEEDED_WINS of them."""
LEAST_PAIRS = 7
LOST_PAIRS = 3
"""What was ahead in none of so many turns has lost."""
NEEDED_WINS = 0.75
LEAST_ROUNDS = 2
SLOWER, HOPELESS = 0.8, 0.25
"""Than the default: not measured further after LEAST_ROUNDS rounds, after one."""


def faster(pairs: Sequence[tuple[float, float]]) -> bool | None:
    """Whether the second of two ways is faster than the first beyond noise; None where too few turns were measured.

    `pairs`: seconds of both in each turn.
    """
    ratios = [first / second for first, second in pairs]
    if len(ratios) < LEAST_PAIRS:
        return False if len(ratios) >= LOST_PAIRS and max(ratios) <= 1 else None
    wins = sum(ratio > 1 for ratio in ratios)
    return statistics.median(ratios) >= NEEDED_GAIN and wins >= NEEDED_WINS * len(ratios)


@dataclass(eq=False)
class Row:
    """One way, with what was measured of it in turns with the default."""

    name: str
    way: Way
    pairs: list[tuple[Figures, Figures]] = field(default_factory=list)
    """The default's figures and its own."""
    note: str = ""
    variant: Variant | None = None
    parts: str = ""
    """Of several settings together, which."""

    @property
    def full_name(self) -> str:
        return self.parts or self.name

    @property
    def figures(self) -> Figures | None:
        return middle([own for _, own in self.pairs]) if self.pairs else None

    @property
    def ratio(self) -> float | None:
        """Speed of a typical exchange over the default's."""
        return statistics.median(first / own for first, own in self.seconds) if self.pairs else None

    @property
    def seconds(self) -> list[tuple[float, float]]:
        return [(first.exchange_seconds, own.exchange_seconds) for first, own in self.pairs]

    @property
    def in_play(self) -> bool:
        ratio, rounds = self.ratio, len(self.pairs)
        return ratio is None or not (ratio < HOPELESS or (rounds >= LEAST_ROUNDS and ratio < SLOWER))


@dataclass(frozen=True, slots=True)
class Outcome:
    default: Row
    rows: tuple[Row, ...]
    decided: bool
    winner: Row | None
    """None where the default settings are to be kept."""
    sizes: Sizes
    seconds: float

    @property
    def tuned(self) -> Tuned | None:
        """What to remember; None where nothing was decided."""
        best = self.winner or self.default
        if not self.decided or best.figures is None:
            return None
        way, figures = best.way, best.figures
        return Tuned(
            way.n_threads, way.n_batch, way.repack, way.flash_attention, way.kv_type, figures.decode, figures.prefill
        )

"""How often is the comparison of answers wrong? By topic, on the hand-made pairs in tests/data/equivalences.jsonl.

A pair that is called different and is the same is missed; a pair that is called the same and is different is false.
Goals: nothing false, and at most 3 % missed with math-verify.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from r1local.answers import Judge, same

PAIRS = Path(__file__).parent.parent / "tests" / "data" / "equivalences.jsonl"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers, and what mathematics says about them."""

    gold: str
    given: str
    same: bool
    topic: str


@dataclass(slots=True)
class Errors:
    """What a comparison got wrong in some pairs."""

    pairs: int = 0
    missed: list[Pair] = field(default_factory=list)
    """Called different."""
    false: list[Pair] = field(default_factory=list)
    """Called the same."""

    @property
    def rate(self) -> float:
        """Wrong ones of all."""
        return (len(self.missed) + len(self.false)) / self.pairs if self.pairs else 0.0


def read_pairs(path: Path = PAIRS) -> list[Pair]:
    return [Pair(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def by_topic(pairs: Iterable[Pair], compare: Callable[[str, str], bool]) -> dict[str, Errors]:
    """The errors of `compare`, in the order of the topics' first pairs, and those of all under an empty name."""
    found: dict[str, Errors] = defaultdict(Errors)
    for pair in pairs:
        said = compare(pair.gold, pair.given)
        for errors in (found[pair.topic], found[""]):
            errors.pairs += 1
            if said != pair.same:
                (errors.false if said else errors.missed).append(pair)
    found[""] = found.pop("")  # all of them last
    return found


def _timed(pairs: list[Pair], compare: Callable[[str, str], bool]) -> tuple[dict[str, Errors], float]:
    started = time.perf_counter()
    found = by_topic(pairs, compare)
    return found, (time.perf_counter() - started) / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, default=PAIRS)
    parser.add_argument("--list", action="store_true", help="every pair that was judged wrongly")
    options = parser.parse_args()
    pairs = read_pairs(options.pairs)
    alone, alone_seconds = _timed(pairs, same)
    with Judge() as judge:
        judge.same("x+y", "y+x")  # starts the child, which is not what is measured
        judged, judge_seconds = _timed(pairs, judge.same)
        name = "with math-verify" if judge.installed else "without math-verify"
    print(f"{'topic':30} {'pairs':>5} | {'alone: wrong':>12} {'missed':>6} {'false':>5} | {name}: wrong, missed, false")
    for topic, errors in alone.items():
        other = judged[topic]
        print(
            f"{topic or 'all':30} {errors.pairs:5} | {errors.rate:12.1%} {len(errors.missed):6} {len(errors.false):5}"
            f" | {other.rate:6.1%} {len(other.missed):6} {len(other.false):5}"
        )
    print(f"a pair takes {alone_seconds * 1e6:.0f} µs alone, {judge_seconds * 1e3:.1f} ms {name}")
    if options.list:
        for title, table in (("alone", alone), (name, judged)):
            for kind, wrong in (("false", table[""].false), ("missed", table[""].missed)):
                for pair in wrong:
                    print(f"{title}, {kind}: {pair.gold}  |  {pair.given}")


if __name__ == "__main__":
    main()

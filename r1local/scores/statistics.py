"""What the graded replies of one model to one task amount to, and how two models compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from r1local.scores.grading import Graded
from r1local.scores.intervals import Rate, difference, rate
from r1local.scores.voting import Same, consensus, pass_at, sizes


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens drawn for a reply, thought and answer together."""

    mean: float
    median: float
    total: int
    thinking: float
    """The mean of those of the thought."""
    right: float | None
    """The mean over right replies; None where there are none."""
    wrong: float | None


@dataclass(frozen=True, slots=True)
class Topic:
    """The problems of one topic."""

    problems: int
    pass1: Rate


@dataclass(frozen=True, slots=True)
class Measures:
    """One model on one task. Shares are from 0 to 1."""

    problems: int
    """Those with a reply, or with the reason why there is none."""
    replies: int
    samples: int
    """Replies to each problem; where some have fewer, the fewest."""
    errors: int
    """Of the replies, those that failed; they count as wrong."""
    pass1: Rate
    """The mean over the replies to a problem, then over the problems."""
    consensus: Mapping[int, Rate]
    """By how many replies vote."""
    pass_at: Mapping[int, float]
    """By how many replies may be chosen from."""
    truncated: float
    """The share of replies that ran into their limit."""
    unclosed: float
    """The share whose thought did not end."""
    looped: float
    """The share that went round in circles."""
    tokens: Tokens
    seconds: float
    """Of all replies, each counted from its start; those that run at once are counted each."""
    tokens_per_second: float
    """Of one reply among those that ran at once. 0 where there is nothing to measure."""
    topics: Mapping[str, Topic]
    shares: Mapping[str, float]
    """The share of right replies to each problem, by its id."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the replies that both have."""

    one: str
    other: str
    difference: Rate
    """pass@1 of `one` less that of `other`."""
    problems: int
    replies: int
    """Of each model."""

    @property
    def is_shown(self) -> bool:
        """Whether the difference is more than chance would make in one of twenty."""
        return not self.difference.low <= 0 <= self.difference.high

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        points = 100 * self.difference.value
        if abs(points) < 0.05:
            where = "level with"
        else:
            where = f"{abs(points):.1f} points {'below' if points < 0 else 'above'}"
        low, high = (f"{100 * end:+.1f}" for end in (self.difference.low, self.difference.high))
        verdict = "more than chance" if self.is_shown else "no difference shown"
        return f"{self.one} is {where} {self.other}, 95 % interval {low} to {high}: {verdict}"


def measure(graded: Iterable[Graded], same: Same) -> Measures:
    """The measures of all replies of one model, in any order. Raises ValueError when there are none."""
    by_problem = _by_problem(graded)
    replies = [reply for those in by_problem.values() for reply in those]
    if not replies:
        raise ValueError("no replies")
    samples = min(map(len, by_problem.values()))
    shares = {name: _share(those) for name, those in by_problem.items()}
    seconds = sum(reply.seconds for reply in replies)
    drawn = sum(reply.tokens for reply in replies if reply.seconds)
    return Measures(
        problems=len(by_problem),
        replies=len(replies),
        samples=samples,
        errors=sum(bool(reply.error) for reply in replies),
        pass1=rate(list(shares.values()), len(replies)),
        consensus={size: _consensus(by_problem, size, same) for size in sizes(samples)},
        pass_at={size: _best_of(by_problem, size) for size in sizes(samples)},
        truncated=fmean(reply.truncated for reply in replies),
        # A reply that failed says nothing about the thought.
        unclosed=fmean(not reply.closed and not reply.error for reply in replies),
        looped=fmean(reply.looped for reply in replies),
        tokens=_tokens(replies),
        seconds=seconds,
        tokens_per_second=drawn / seconds if seconds else 0.0,
        topics=_topics(by_problem),
        shares=shares,
    )


def compare(one: str, ones: Iterable[Graded], other: str, others: Iterable[Graded]) -> Comparison:
    """Two models by name, paired by problem, on the problems and samples that both have a reply to."""
    mine = {(reply.problem, reply.sample): reply for reply in ones}
    theirs = {(reply.problem, reply.sample): reply for reply in others}
    both = mine.keys() & theirs.keys()
    left = _by_problem(mine[key] for key in both)
    right = _by_problem(theirs[key] for key in both)
    pairs = [(_share(left[name]), _share(right[name])) for name in sorted(left)]
    step = 1 / max(map(len, left.values()), default=1)
    return Comparison(one, other, difference(pairs, step), len(pairs), len(both))


def _by_problem(graded: Iterable[Graded]) -> dict[str, list[Graded]]:
    """The replies to each problem in the order of their samples; of a sample that is there twice the last one."""
    found: dict[str, dict[int, Graded]] = defaultdict(dict)
    for reply in graded:
        found[reply.problem][reply.sample] = reply
    return {name: [those[sample] for sample in sorted(those)] for name, those in found.items()}


def _share(replies: Sequence[Graded]) -> float:
    return sum(reply.right for reply in replies) / len(replies)


def _consensus(by_problem: Mapping[str, Sequence[Graded]], size: int, same: Same) -> Rate:
    shares = [consensus(replies, size, same) for replies in by_problem.values()]
    return rate(shares, sum(len(replies) // size for replies in by_problem.values()))


def _best_of(by_problem: Mapping[str, Sequence[Graded]], size: int) -> float:
    return fmean(pass_at(size, len(replies), sum(reply.right for reply in replies)) for replies in by_problem.values())


def _tokens(replies: Sequence[Graded]) -> Tokens:
    answered = [reply for reply in replies if not reply.error]

    def mean(of: Sequence[Graded]) -> float | None:
        return fmean(reply.tokens for reply in of) if of else None

    counts = [reply.tokens for reply in answered]
    return Tokens(
        mean=mean(answered) or 0.0,
        median=float(median(counts)) if counts else 0.0,
        total=sum(counts),
        thinking=fmean(reply.think_tokens for reply in answered) if answered else 0.0,
        right=mean([reply for reply in answered if reply.right]),
        wrong=mean([reply for reply in answered if not reply.right]),
    )


def _topics(by_problem: Mapping[str, Sequence[Graded]]) -> dict[str, Topic]:
    """By name; nothing where there is but one."""
    sorted_in: dict[str, list[Sequence[Graded]]] = defaultdict(list)
    for replies in by_problem.values():
        sorted_in[replies[0].topic].append(replies)
    if len(sorted_in) < 2:
        return {}
    return {
        name: Topic(len(those), rate([_share(replies) for replies in those], sum(map(len, those))))
        for name, those in sorted(sorted_in.items())
    }

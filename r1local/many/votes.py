"""Counts the answers of many samples, and says when more of them cannot change the winner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from r1local.answers import final_answer
from r1local.events import Votes
from r1local.terminal import clean_line
from r1local.units import shortened

_WIDEST = 32
"""Characters of an answer in a table."""
_BARS = 64
"""Votes up to which a bar has room."""

Same = Callable[[str, str], bool]
"""Whether two final answers are the same one; the answer that was given earlier comes first."""


@dataclass(eq=False)
class Group:
    """Answers that are the same."""

    answer: str
    """As it was given first."""
    samples: list[int] = field(default_factory=list)
    """Numbers of the samples that gave it, in the order they came."""

    @property
    def votes(self) -> int:
        return len(self.samples)


class Tally:
    """Votes of up to `wanted` samples. A sample without an answer is a vote for nobody."""

    def __init__(self, wanted: int, same: Same) -> None:
        self.wanted = wanted
        self.counted = 0
        self.groups: list[Group] = []
        """In the order they were first given, which decides between equals."""
        self._same = same

    def add(self, sample: int, answer: str) -> Group | None:
        """Count a reply's answer; the group it joined."""
        self.counted += 1
        found = final_answer(answer)
        if found is None:
            return None
        group = next((group for group in self.groups if self._same(group.answer, found)), None)
        if group is None:
            group = Group(found)
            self.groups.append(group)
        group.samples.append(sample)
        return group

    @property
    def ranking(self) -> list[Group]:
        """Most votes first; of equals the one that was given first."""
        return sorted(self.groups, key=lambda group: -group.votes)

    @property
    def winner(self) -> Group | None:
        return self.ranking[0] if self.groups else None

    @property
    def agreement(self) -> float:
        """Share of all counted samples that gave the winner's answer."""
        return self.winner.votes / self.counted if self.winner else 0.0

    @property
    def left(self) -> int:
        """Samples not counted yet."""
        return max(0, self.wanted - self.counted)

    @property
    def needed(self) -> int:
        """The fewest further votes for the present winner after which no others could beat it; 0: it is decided."""
        left, winner = self.left, self.winner
        if not left or winner is None:
            return -(-left // 2)
        # All that is left may go to one answer: a new one, which would lose a tie, or one that is there.
        most = left - winner.votes
        for place, group in enumerate(self.groups):
            if group is not winner:
                wins_ties = place < self.groups.index(winner)
                most = max(most, group.votes + left - winner.votes + wins_ties)
        return max(0, -(-most // 2))

    @property
    def decided(self) -> bool:
        """Whether no outcome of the samples still to come can change the winner."""
        return self.needed == 0

    @property
    def unanimous(self) -> bool:
        return len(self.groups) < 2

    def standing(self, *, running: int = 0, tokens: int = 0) -> Votes:
        """How it stands, as an event."""
        counts = tuple((group.answer, group.votes) for group in self.ranking)
        return Votes(self.wanted, self.counted, running, tokens, counts)


def standing_line(votes: Votes) -> str:
    """How a vote stands, on one line."""
    counts = ", ".join(f"{_short(answer)}: {count}" for answer, count in votes.counts)
    parts = [f"{votes.counted} of {votes.wanted} voted", f"{votes.running} thinking" if votes.running else ""]
    return " · ".join(filter(None, [*parts, f"{votes.tokens:,} tokens", counts]))


def voted_line(votes: Votes) -> str:
    """How a vote ended, in a sentence."""
    left = votes.wanted - votes.counted
    early = f"; the other {left} could not change it" if left and votes.counts else ""
    if not votes.counts:
        return f"None of {votes.counted} samples came to an answer ({votes.tokens:,} tokens)."
    winner, count = votes.counts[0]
    return f"{count} of {votes.counted} say {_short(winner)}{early} ({votes.tokens:,} tokens)."


def count_table(votes: Votes) -> list[str]:
    """How a vote ended: a line for each answer, with a bar."""
    nobody = votes.counted - sum(count for _, count in votes.counts)
    rows = [(_short(answer), count) for answer, count in votes.counts]
    if nobody:
        rows.append(("no answer", nobody))
    width = max((len(answer) for answer, _ in rows), default=0)
    return [
        f"{answer:<{width}}  {count:>3}  {'█' * count if votes.wanted <= _BARS else ''}".rstrip()
        for answer, count in rows
    ]


def _short(answer: str) -> str:
    return shortened(clean_line(answer), _WIDEST)

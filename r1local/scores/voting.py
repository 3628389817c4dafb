"""What several replies to one problem are worth: by majority, and by the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb

from r1local.scores.grading import Graded

Same = Callable[[str, str], bool]
"""Whether two final answers say the same."""

USUAL = (2, 4, 8, 16, 32, 64)
"""Numbers of replies that votes and choices are reported for."""


def sizes(samples: int) -> list[int]:
    """The usual numbers of replies that can be had of so many, and all of them; nothing of a single one."""
    return sorted({size for size in (*USUAL, samples) if 1 < size <= samples})


def majority(answers: Sequence[str | None], same: Same) -> int | None:
    """Where the answer stands that most agree with, for the first time; None where there is no answer at all.

    None is no vote. Of answers with as many votes the one that was given first wins.
    """
    votes: dict[str, int] = {}
    """By the first wording of each answer."""
    spelt: dict[str, str] = {}
    """Each wording, and the first one that says the same."""
    for answer in answers:
        if answer is None:
            continue
        if answer not in spelt:
            spelt[answer] = next((known for known in votes if same(known, answer)), answer)
        votes[spelt[answer]] = votes.get(spelt[answer], 0) + 1
    return answers.index(max(votes, key=votes.__getitem__)) if votes else None


def consensus(replies: Sequence[Graded], size: int, same: Same) -> float:
    """The share of right majorities among the disjoint groups of `size` replies to one problem, in their order.

    A majority is right when the first reply that gave its answer is. Replies that fill no group are left out.
    """
    groups = [replies[start : start + size] for start in range(0, len(replies) - size + 1, size)]
    if not groups:
        raise ValueError(f"{len(replies)} replies are no {size}")
    return sum(_is_right(group, same) for group in groups) / len(groups)


def _is_right(group: Sequence[Graded], same: Same) -> bool:
    chosen = majority([reply.given for reply in group], same)
    return chosen is not None and group[chosen].right


def pass_at(size: int, replies: int, right: int) -> float:
    """The chance that one of `size` replies, drawn from `replies` of which `right` are right, is right.

    Unbiased: 1 - C(n - c, k) / C(n, k) (Chen et al., "Evaluating Large Language Models Trained on Code",
    arXiv 2107.03374, equation 1).
    """
    if not (0 < size <= replies and 0 <= right <= replies):
        raise ValueError(f"no {size} of {replies} replies, {right} of them right")
    return 1 - comb(replies - right, size) / comb(replies, size)

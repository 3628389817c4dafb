"""Measures against values worked out by hand, and against what must hold for all replies."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.scores.grading import Graded
from r1local.scores.statistics import compare, measure
from r1local.scores.voting import consensus, majority, pass_at, sizes


def same(one: str, other: str) -> bool:
    """Numbers are the same whatever zeros they begin with."""
    return one.lstrip("0") == other.lstrip("0")


def replies(problem: str, said: str, **changes: object) -> list[Graded]:
    """One reply a letter: R right, W wrong, v another wrong one, - none at all."""
    given = {"R": "7", "W": "8", "v": "9", "-": None}
    return [
        Graded(problem, sample, letter == "R", given[letter], **changes)  # type: ignore[arg-type]
        for sample, letter in enumerate(said)
    ]


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        ([], None), ([None, None], None), (["1"], 0), (["1", "2", "2"], 1), (["1", "2"], 0), (["2", "1", "1", "2"], 0),
        ([None, None, "3"], 2), (["1", "02", "2", "1", "002"], 1), (["9", "08", None, "8"], 1),
    ],
)  # fmt: skip
def test_the_majority_is_what_most_agree_with_and_of_ties_the_first(
    answers: list[str | None], chosen: int | None
) -> None:
    assert majority(answers, same) == chosen


@given(st.lists(st.none() | st.sampled_from("abc"), max_size=12))
def test_a_majority_has_the_most_votes(answers: list[str | None]) -> None:
    chosen = majority(answers, lambda one, other: one == other)
    votes = [answer for answer in answers if answer is not None]
    if chosen is None:
        assert votes == []
        return
    winner = answers[chosen]
    assert winner is not None
    assert all(votes.count(winner) >= votes.count(other) for other in votes)
    assert answers.index(winner) == chosen


def test_equal_wordings_are_compared_once() -> None:
    asked: list[tuple[str, str]] = []

    def slow(one: str, other: str) -> bool:
        asked.append((one, other))
        return False

    majority(["a", "b"] * 500, slow)
    assert asked == [("a", "b")]


@pytest.mark.parametrize(
    ("said", "size", "expected"),
    [
        ("RRW", 3, 1), ("RWW", 3, 0), ("RWv", 3, 1), ("WRv", 3, 0), ("---", 3, 0), ("--R", 3, 1), ("RRWW", 2, 0.5),
        ("RWWR", 2, 0.5), ("RRWWW", 2, 0.5), ("RWRWRW", 1, 0.5),
    ],
)  # fmt: skip
def test_consensus_is_the_mean_over_disjoint_groups(said: str, size: int, expected: float) -> None:
    assert consensus(replies("p", said), size, same) == expected


def test_too_few_replies_for_a_vote_are_an_error() -> None:
    with pytest.raises(ValueError, match="are no 3"):
        consensus(replies("p", "RR"), 3, same)


@pytest.mark.parametrize(
    ("size", "count", "right", "expected"),
    [(1, 4, 1, 0.25), (2, 4, 1, 0.5), (2, 4, 2, 5 / 6), (4, 4, 1, 1), (3, 4, 2, 1), (2, 4, 0, 0), (1, 1, 1, 1)],
)
def test_pass_at_by_hand(size: int, count: int, right: int, expected: float) -> None:
    assert pass_at(size, count, right) == pytest.approx(expected)


@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 8))
def test_pass_at_is_the_share_of_draws_with_a_right_one(count: int, right: int, size: int) -> None:
    """Chen's estimator, against counting every draw."""
    right, size = min(right, count), min(size, count)
    draws = list(combinations([True] * right + [False] * (count - right), size))
    assert pass_at(size, count, right) == pytest.approx(sum(map(any, draws)) / len(draws))


@given(st.integers(1, 64), st.data())
def test_pass_at_grows_with_the_number_of_replies(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    values = [pass_at(size, count, right) for size in range(1, count + 1)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(right / count)
    assert values[-1] == (right > 0)


def test_pass_at_of_what_cannot_be_is_an_error() -> None:
    for size, count, right in ((0, 4, 1), (5, 4, 1), (1, 4, 5), (1, 4, -1)):
        with pytest.raises(ValueError, match="no "):
            pass_at(size, count, right)


def test_sizes_are_the_usual_ones_and_all() -> None:
    assert (sizes(1), sizes(2), sizes(6), sizes(64)) == ([], [2], [2, 4, 6], [2, 4, 8, 16, 32, 64])


GRADED = [*replies("a", "RRRW"), *replies("b", "WWvR"), *replies("c", "RRRR"), *replies("d", "----")]


def test_the_measures_of_four_problems_by_hand() -> None:
    found = measure(GRADED, same)
    assert (found.problems, found.replies, found.samples) == (4, 16, 4)
    assert found.shares == {"a": 0.75, "b": 0.25, "c": 1, "d": 0}
    assert found.pass1.value == 0.5
    # a: both groups right (RR, and RW as a tie); b: WW wrong, vR a tie for the wrong one; c both; d none.
    assert {size: it.value for size, it in found.consensus.items()} == {2: 0.5, 4: 0.5}
    # a: 1 - C(1,2)/6 = 1; b: 1 - C(3,2)/6 = 1/2; c: 1; d: 0.
    assert found.pass_at == {2: pytest.approx(2.5 / 4), 4: pytest.approx(3 / 4)}


def test_the_order_of_replies_does_not_matter() -> None:
    mixed = list(GRADED)
    Random(1).shuffle(mixed)
    one, other = measure(mixed, same), measure(GRADED, same)
    assert dict(sorted(one.shares.items())) == dict(sorted(other.shares.items()))
    assert one.consensus == other.consensus


def test_a_problem_with_fewer_replies_counts_as_much_as_the_others() -> None:
    found = measure([*replies("a", "RRRR"), *replies("b", "WW")], same)
    assert found.pass1.value == 0.5
    assert found.samples == 2
    assert list(found.consensus) == [2]


def test_of_a_sample_that_was_answered_twice_the_last_counts() -> None:
    assert measure([*replies("a", "W"), *replies("a", "R")], same).pass1.value == 1


def test_how_replies_ended_and_what_they_cost() -> None:
    found = measure(
        [
            Graded("a", 0, True, "1", think_tokens=80, answer_tokens=20, seconds=4),
            Graded("a", 1, False, "2", think_tokens=280, answer_tokens=20, seconds=6),
            Graded("b", 0, False, None, closed=False, truncated=True, looped=True, think_tokens=800, seconds=10),
            Graded("b", 1, False, None, closed=False, error="no memory"),
        ],
        same,
    )
    assert (found.truncated, found.unclosed, found.looped, found.errors) == (0.25, 0.25, 0.25, 1)
    tokens = found.tokens
    assert (tokens.mean, tokens.median, tokens.total, tokens.right, tokens.wrong) == (400, 300, 1200, 100, 550)
    assert tokens.thinking == pytest.approx((80 + 280 + 800) / 3)
    assert (found.seconds, found.tokens_per_second) == (20, 60)
    assert found.pass1.value == 0.25, "a reply that failed is wrong"


def test_without_right_replies_or_times_there_is_nothing_to_say() -> None:
    found = measure(replies("a", "WW"), same)
    assert (found.tokens.right, found.tokens_per_second) == (None, 0)
    with pytest.raises(ValueError, match="no replies"):
        measure([], same)


def test_topics_are_measured_each() -> None:
    found = measure(
        [*replies("a", "RW", topic="x"), *replies("b", "RR", topic="y"), *replies("c", "WW", topic="y")], same
    )
    assert {name: (it.problems, it.pass1.value) for name, it in found.topics.items()} == {"x": (1, 0.5), "y": (2, 0.5)}
    assert measure(replies("a", "RW", topic="x"), same).topics == {}


problems = st.lists(st.tuples(st.sampled_from("RWv-"), st.integers(1, 6)), min_size=1, max_size=10)


@given(problems)
def test_identical_replies_make_every_measure_the_same(said: list[tuple[str, int]]) -> None:
    """Votes and choices win nothing then."""
    count = min(samples for _, samples in said)
    found = measure([it for name, (letter, _) in enumerate(said) for it in replies(str(name), letter * count)], same)
    for value in [it.value for it in found.consensus.values()] + list(found.pass_at.values()):
        assert value == pytest.approx(found.pass1.value)


@given(st.lists(st.text("RWv-", min_size=4, max_size=4), min_size=1, max_size=12))
def test_a_choice_is_never_worse_than_a_vote(said: list[str]) -> None:
    found = measure([it for name, letters in enumerate(said) for it in replies(str(name), letters)], same)
    assert found.pass_at[4] >= found.consensus[4].value - 1e-9
    assert found.pass1.value <= found.pass_at[2] + 1e-9 <= found.pass_at[4] + 2e-9
    assert 0 <= found.pass1.low <= found.pass1.value <= found.pass1.high <= 1


def test_a_comparison_takes_what_both_have() -> None:
    one = [*replies("a", "RRRR"), *replies("b", "RW"), *replies("only", "RR")]
    other = [*replies("a", "RRWW"), *replies("b", "RWWW")]
    found = compare("Q8_0", one, "Q4_K_M", other)
    assert (found.problems, found.replies) == (2, 6)
    assert found.difference.value == pytest.approx((0.5 + 0) / 2)


def wins(better: int, worse: int, level: int) -> tuple[list[Graded], list[Graded]]:
    names = [f"p{number}" for number in range(better + worse + level)]
    letters = ["RW"] * better + ["WR"] * worse + ["RR"] * level
    return tuple(  # type: ignore[return-value]
        [it for name, pair in zip(names, letters, strict=True) for it in replies(name, pair[which])] for which in (0, 1)
    )


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((3, 4, 93), "A is 1.0 points below B, 95 % interval -6.3 to +4.3: no difference shown"),
        ((4, 3, 93), "A is 1.0 points above B, 95 % interval -4.3 to +6.3: no difference shown"),
        ((20, 2, 78), "A is 18.0 points above B, 95 % interval +9.4 to +26.6: more than chance"),
        ((5, 5, 90), "A is level with B, 95 % interval -6.3 to +6.3: no difference shown"),
    ],
)
def test_the_verdict_is_a_plain_sentence(counts: tuple[int, int, int], sentence: str) -> None:
    """By hand for 3, 4 of 100: squares 7 - 100 * 0.01^2 = 6.99, s = sqrt(6.99 / 9900) = 0.02657, t of 99 = 1.984;
    for 20, 2: 22 - 100 * 0.18^2 = 18.76, s = 0.04353; for 5, 5: s = sqrt(10 / 9900) = 0.03178.
    """
    found = compare("A", wins(*counts)[0], "B", wins(*counts)[1])
    assert found.sentence == sentence


def test_pairing_sees_what_two_intervals_do_not() -> None:
    """One model loses a little on every problem: each alone is uncertain, their difference is not."""
    random = Random(2)
    ones, others = [], []
    for number in range(30):
        right = random.randrange(2, 17)
        ones += replies(str(number), "R" * right + "W" * (16 - right))
        others += replies(str(number), "R" * (right - 1) + "W" * (17 - right))
    one, other = measure(ones, same).pass1, measure(others, same).pass1
    assert one.low < other.value < one.high
    assert compare("B", others, "A", ones).is_shown


def test_nothing_in_common_says_nothing() -> None:
    found = compare("A", replies("a", "R"), "B", replies("b", "R"))
    assert (found.problems, found.difference.low, found.difference.high) == (0, -1, 1)
    assert not found.is_shown

"""Intervals hold what they promise: by known values, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.scores.intervals import difference, rate, t_quantile

# Two-sided 95 % in the tables of Student's t.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 20: 2.086, 29: 2.045, 60: 2.000, 120: 1.980}


@pytest.mark.parametrize(("freedom", "expected"), STUDENT.items())
def test_students_t_is_that_of_the_tables(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, rel=0.002 if freedom == 3 else 0.0006)


def test_without_freedom_there_is_no_t() -> None:
    with pytest.raises(ValueError, match="freedom"):
        t_quantile(0)


def test_a_rate_by_hand() -> None:
    """Shares 0, 0.5, 1, 0.5: mean 0.5, squares 0.5, so s^2 = 0.5 / 12 = 1/24 and the effective number is 6."""
    found = rate([0, 0.5, 1, 0.5], 100)
    weight = 3.1824**2 / 6
    half = 3.1824 / (1 + weight) * math.sqrt(0.25 / 6 + weight / 24)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), rel=0.003)


def test_one_reply_to_each_of_many_problems_is_wilsons_interval() -> None:
    """200 of 400: Wilson's interval is 0.4513 to 0.5487."""
    found = rate([0.0, 1.0] * 200, 400)
    assert (found.low, found.high) == pytest.approx((0.4513, 0.5487), abs=0.0005)


def test_more_replies_to_the_same_problems_prove_nothing_new_when_they_agree() -> None:
    once, often = rate([0.0, 1.0] * 10, 20), rate([0.0, 1.0] * 10, 20 * 64)
    assert once == often


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_or_all_wrong_is_no_certainty(value: float) -> None:
    found = rate([value] * 30, 30 * 64)
    assert found.value == value
    assert 0.05 < found.high - found.low < 0.15


def test_nothing_and_a_single_problem_say_nothing() -> None:
    assert (rate([], 0).low, rate([], 0).high) == (0, 1)
    assert (rate([1.0], 64).value, rate([1.0], 64).low, rate([1.0], 64).high) == (1, 0, 1)
    assert (difference([(1, 0)], 1).low, difference([(1, 0)], 1).high) == (-1, 1)


shares = st.lists(st.integers(0, 8).map(lambda right: right / 8), min_size=1, max_size=50)


@given(shares)
def test_a_rate_lies_in_its_interval_and_both_between_0_and_1(values: list[float]) -> None:
    found = rate(values, 8 * len(values))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert len(values) < 2 or found.high > found.low


@given(shares)
def test_wrong_is_the_mirror_of_right(values: list[float]) -> None:
    found, mirror = rate(values, 8 * len(values)), rate([1 - value for value in values], 8 * len(values))
    assert (found.low, found.high) == pytest.approx((1 - mirror.high, 1 - mirror.low), abs=1e-9)


@given(shares, st.randoms())
def test_a_model_beside_itself_differs_by_nothing(values: list[float], random: object) -> None:
    found = difference([(value, value) for value in values], 1 / 8)
    assert found.value == 0
    assert found.low < 0 < found.high


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_swapped_models_swap_the_difference(pairs: list[tuple[float, float]]) -> None:
    found, swapped = difference(pairs, 0.1), difference([(other, one) for one, other in pairs], 0.1)
    assert (found.value, found.low, found.high) == pytest.approx((-swapped.value, -swapped.high, -swapped.low))


def test_a_difference_by_hand() -> None:
    """Differences 0.5, 0, 0.5, 0: mean 0.25, squares 0.25, s = sqrt(0.25 / 12), t of 3 degrees."""
    found = difference([(1, 0.5), (0, 0), (0.5, 0), (1, 1)], 0.5)
    assert found.value == 0.25
    assert found.high - found.value == pytest.approx(3.1824 * math.sqrt(0.25 / 12), rel=0.002)


PROBLEMS, TRIALS = 30, 1500


def covered(a: float, b: float, samples: int, seed: int) -> float:
    """How often, in percent, the interval of 30 problems holds the mean of all problems, of Beta(a, b) difficulty."""
    random = np.random.default_rng(seed)
    chances = random.beta(a, b, (TRIALS, PROBLEMS))
    right = random.binomial(samples, chances) / samples
    found = [rate(row, PROBLEMS * samples) for row in right.tolist()]
    return 100 * sum(it.low <= a / (a + b) <= it.high for it in found) / TRIALS


@pytest.mark.parametrize("samples", [4, 16, 64])
@pytest.mark.parametrize("difficulty", [(1, 1), (5, 5), (0.3, 0.7), (0.7, 0.3), (0.4, 0.1), (0.2, 0.8)], ids=str)
def test_the_interval_of_30_problems_covers_93_to_97_percent(difficulty: tuple[float, float], samples: int) -> None:
    assert 93 <= covered(*difficulty, samples, seed=12) <= 97


@pytest.mark.parametrize("samples", [4, 16, 64])
def test_at_nine_of_ten_it_still_covers_some_93_percent(samples: int) -> None:
    """The mean and t s alone would cover 90 %."""
    assert 91.5 <= covered(0.9, 0.1, samples, seed=12) <= 96


@pytest.mark.parametrize(("samples", "alike"), [(1, 0.9), (4, 0.8), (16, 0.8), (64, 0.8), (8, 0.0)])
def test_the_interval_of_a_difference_covers_93_to_98_percent(samples: int, alike: float) -> None:
    """Of two models with the same mean, whose chances agree on so many of the problems."""
    random = np.random.default_rng(5)
    one = random.beta(0.7, 0.3, (TRIALS, PROBLEMS))
    other = np.where(random.random((TRIALS, PROBLEMS)) < alike, one, random.beta(0.7, 0.3, (TRIALS, PROBLEMS)))
    right = [(random.binomial(samples, chances) / samples).tolist() for chances in (one, other)]
    found = [difference(list(zip(*rows, strict=True)), 1 / samples) for rows in zip(*right, strict=True)]
    assert 93 <= 100 * sum(it.low <= 0 <= it.high for it in found) / TRIALS <= 98

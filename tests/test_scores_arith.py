"""Arithmetic that is made: right, distinct, the same for a seed, and nothing that training ever said."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from r1local.errors import UsageError
from r1local.scores.arith import KINDS, MOST, Arithmetic, arithmetic, is_held_out, was_never_stated
from r1local.scores.problems import load_problem_set, load_problems
from training import problems as training

MADE = arithmetic(1, 160)


def steps(made: Arithmetic) -> list[str]:
    return made.expression.split(" ")


def test_all_kinds_come_in_turn() -> None:
    assert [made.kind for made in MADE] == list(KINDS) * 20


def test_problems_are_distinct_and_the_same_for_a_seed() -> None:
    assert len({made.id for made in MADE}) == len(MADE)
    assert arithmetic(1, 40) == MADE[:40]
    assert len({made.id for made in arithmetic(2, 40)} & {made.id for made in MADE}) < 10


@pytest.mark.parametrize("made", MADE[:80], ids=lambda made: made.id)
def test_the_result_is_that_of_the_expression(made: Arithmetic) -> None:
    first, *rest = steps(made)
    total = int(first)
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        if sign == "×":
            total *= int(number)
        else:
            total += int(f"{sign}{number}")
    assert made.result == total


def test_the_question_has_the_numbers_in_their_order() -> None:
    for made in MADE:
        assert re.findall(r"\d+", made.question) == re.findall(r"\d+", made.expression)
        assert made.kind == "stories" or made.expression in made.question
    stories = [made.question for made in MADE if made.kind == "stories"]
    assert not any(re.search(r"[{}+×]| - ", question) for question in stories)


def test_training_never_says_the_first_step() -> None:
    for made in MADE:
        first, sign, second = steps(made)[:3]
        a, b = int(first), int(second)
        assert is_held_out(sign, a, b)
        assert was_never_stated(sign, a, b)
        if sign == "+":
            assert is_held_out("-", a + b, a)
            assert is_held_out("-", a + b, b)
        if sign == "-":
            assert is_held_out("+", abs(a - b), min(a, b))


def test_a_run_of_training_has_none_of_them() -> None:
    asked = {made.expression for made in MADE}
    random = Random(3)
    for _ in range(3000):
        taught = training.lesson(random, random.choice(training.KINDS))
        assert taught.expression not in asked
        assert asked.isdisjoint(re.findall(r"(?<![\d ×+\-])(\d+ [+\-×] \d+) =", taught.thought)), taught.thought


def test_training_keeps_to_the_same_rule() -> None:
    assert training.is_held_out is is_held_out
    assert training.was_never_stated is was_never_stated


def test_kinds_are_as_long_as_they_say() -> None:
    digits = {
        "sums": ((1, 3), (1, 3)), "longer_sums": ((4, 6), (1, 6)), "products": ((2, 2), (2, 2)),
        "longer_products": ((3, 3), (2, 2)), "differences": ((1, 3), (1, 3)),
    }  # fmt: skip
    for made in MADE:
        for number, (least, most) in zip(steps(made)[::2], digits.get(made.kind, ()), strict=False):
            assert least <= len(number) <= most, made
        longest = max(len(number) for number in steps(made)[::2])
        assert made.kind != "longer_differences" or longest >= 4
        assert made.kind != "three_numbers" or len(steps(made)) == 5


def test_some_differences_are_below_zero_and_no_story_is() -> None:
    below = Counter(made.kind for made in MADE if made.result < 0)
    assert set(below) == {"differences", "longer_differences"}
    assert below.total() < 20  # of 40, 6 expected
    stories = [made.expression for made in MADE if made.kind == "stories"]
    assert 3 <= sum("+" in expression for expression in stories) <= 17


@pytest.mark.parametrize("count", [0, -1, MOST + 1])
def test_as_many_as_there_are_can_be_asked_for(count: int) -> None:
    with pytest.raises(UsageError):
        arithmetic(0, count)


def test_as_a_task_they_are_worded_and_sorted_by_topic() -> None:
    found = load_problem_set("arith", limit=16, seed=1)
    assert [problem.id for problem in found.problems] == [made.id for made in MADE[:16]]
    assert [problem.topic for problem in found.problems] == list(KINDS) * 2
    assert found.problems[0].prompt.endswith(
        "\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    assert all(problem.kind == "integer" and re.fullmatch(r"-?\d+", problem.gold) for problem in found.problems)
    assert len(load_problems("arith", offline=True)) == 200

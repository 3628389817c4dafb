"""A reply is right when its answer is, and a thought that was never closed has none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.answers import Judge
from r1local.scores.grading import Graded, ends_in_a_loop, grade
from r1local.scores.problems import Problem
from r1local.scores.tasks import Kind


class Exact:
    """Only the same letters are the same; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def same(self, gold: str, given: str) -> bool:
        self.asked.append((gold, given))
        return gold == given


def problem(gold: str, kind: Kind = "maths") -> Problem:
    return Problem("p", "?", gold, "a topic", kind)


def record(answer: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": "p#3", "think": "hm", "answer": answer, "finish": "stop", "thought_closed": True, "thought_end": "model",
        "tokens": {"prompt": 9, "think": 70, "answer": 5}, "seconds": 2.5, "model": "m", **changes,
    }  # fmt: skip


def is_right(gold: str, kind: Kind, answer: str) -> bool:
    return grade(problem(gold, kind), record(answer), Exact()).right


def test_everything_of_a_record_is_taken_over() -> None:
    graded = grade(problem("4"), record("\\boxed{4}"), Exact())
    assert graded == Graded("p", 3, True, "4", "a topic", True, False, False, "", 70, 5, 2.5)
    assert graded.tokens == 75


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("73", "The answer is \\boxed{073}.", True), ("73", "\\boxed{73}", True), ("73", "\\boxed{730}", False),
        ("73", "\\boxed{-73}", False), ("73", "So \\boxed{72}, no: \\boxed{73}", True), ("0", "\\boxed{000}", True),
        ("1024", "\\boxed{1{,}024}", True), ("1024", "\\boxed{1,024}", True), ("204", "\\boxed{204^\\circ}", True),
        ("73", "", False), ("73", "I do not know.", False), ("73", "\\boxed{}", False),
    ],
)  # fmt: skip
def test_integers_are_compared_as_numbers(gold: str, answer: str, right: bool) -> None:
    assert is_right(gold, "integer", answer) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [("\\boxed{C}", True), ("Answer: C", True), ("\\boxed{B}", False), ("A or C? \\boxed{A}", False), ("", False),
     ("None of them.", False)],
)  # fmt: skip
def test_a_letter_is_compared_as_a_letter(answer: str, right: bool) -> None:
    assert is_right("C", "letter", answer) is right


def test_mathematics_is_judged_with_the_gold_first() -> None:
    judge = Exact()
    assert not grade(problem("\\frac12"), record("\\boxed{0.5}"), judge).right
    assert judge.asked == [("\\frac12", "0.5")]
    with Judge(use_library=False) as real:
        assert grade(problem("\\frac12"), record("\\boxed{0.5}"), real).right
        assert not grade(problem("\\frac12"), record("\\boxed{0.6}"), real).right


def test_no_judge_is_asked_about_letters_and_numbers() -> None:
    judge = Exact()
    grade(problem("12", "integer"), record("\\boxed{13}"), judge)
    grade(problem("A", "letter"), record("\\boxed{B}"), judge)
    assert judge.asked == []


def test_a_thought_that_was_not_closed_is_wrong_whatever_the_text_says() -> None:
    graded = grade(problem("4"), record("\\boxed{4}", thought_closed=False, finish="length"), Exact())
    assert (graded.right, graded.given, graded.closed, graded.truncated) == (False, None, False, True)


def test_what_stands_in_the_thought_does_not_count() -> None:
    assert not grade(problem("4"), record("I am not sure.", think="\\boxed{4}"), Exact()).right


def test_a_cut_answer_that_has_its_box_counts() -> None:
    graded = grade(problem("4"), record("\\boxed{4} because", finish="length"), Exact())
    assert graded.right
    assert graded.truncated


def test_a_reply_that_failed_is_wrong_and_says_why() -> None:
    graded = grade(problem("4"), {"id": "p#1", "error": {"message": "no\x1b[31m memory", "hint": "h"}}, Exact())
    assert (graded.right, graded.sample, graded.given) == (False, 1, None)
    assert graded.error.startswith("no")
    assert "\x1b" not in graded.error


def test_a_loop_is_told_or_seen() -> None:
    circles = "Wait, let me think again. " * 40
    assert grade(problem("4"), record("", thought_end="loop", thought_closed=False), Exact()).looped
    assert grade(problem("4"), record("", think=circles, thought_closed=False, finish="length"), Exact()).looped
    assert not grade(problem("4"), record("\\boxed{4}", think=circles), Exact()).looped, "it came out of it"


@given(st.text(min_size=1, max_size=60), st.text(max_size=300), st.text(max_size=10))
def test_a_piece_over_and_over_is_a_loop(piece: str, before: str, rest: str) -> None:
    rounds = max(5, 900 // len(piece))
    assert ends_in_a_loop(before + piece * rounds + piece[: len(rest)])


def test_a_text_with_ever_other_numbers_is_no_loop() -> None:
    assert not ends_in_a_loop("".join(f"Try {number}: {number * number} is too small. " for number in range(300)))
    assert not ends_in_a_loop("a" * 300)
    assert not ends_in_a_loop("")
    assert not ends_in_a_loop("again and again " * 100 + "".join(f"{number}, " for number in range(100, 300)))


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    ["id", "think", "answer", "finish", "thought_closed", "thought_end", "tokens", "seconds", "error"]
)


@given(st.dictionaries(fields, anything), st.sampled_from(["integer", "maths", "letter"]))
def test_no_record_is_too_odd_to_be_graded(odd: dict[str, Any], kind: Kind) -> None:
    graded = grade(problem("4", kind), odd, Exact())
    assert graded.tokens >= 0
    assert graded.seconds >= 0
    assert graded.sample >= 0
    assert not graded.right or graded.given is not None

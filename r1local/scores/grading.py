"""Whether a reply is right. Only its answer counts: a thought that was never closed has none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from r1local.answers import final_answer, letter, same
from r1local.scores.problems import Problem
from r1local.terminal import clean_line

_TAIL = 4000  # characters at the end of a thought that are searched for a loop
_LOOP = 400  # characters a loop has at least
_ROUNDS = 4  # times its piece is there at least
_MOST_TOKENS = 10**9
_MAX_GIVEN = 10_000
_WHOLE = re.compile(r"[+-]?[0-9]{1,1000}")


class Comparer(Protocol):
    """Whether two answers say the same: `r1local.answers.Judge`."""

    def same(self, gold: str, given: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Graded:
    """One reply to one problem."""

    problem: str
    """The problem's id."""
    sample: int
    """Counted from 0."""
    right: bool
    given: str | None = None
    """The final answer; None where there is none."""
    topic: str = ""
    closed: bool = True
    """Whether the thought was."""
    truncated: bool = False
    """Whether the reply ran into its limit of tokens or into the end of the context."""
    looped: bool = False
    """Whether the thought went round in circles until it was stopped."""
    error: str = ""
    """Why there is no reply. It counts as wrong."""
    think_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """All that were drawn."""
        return self.think_tokens + self.answer_tokens


def grade(problem: Problem, record: Mapping[str, Any], judge: Comparer) -> Graded:
    """The record of a reply, `id` being the problem's with "#" and the number of the sample. What the record lacks
    or has in another type is taken as nothing.
    """
    sample = str(record.get("id", "")).rpartition("#")[2]
    number = int(sample) if re.fullmatch(r"[0-9]{1,9}", sample) else 0
    failure = record.get("error")
    if failure:
        message = failure.get("message") if isinstance(failure, Mapping) else failure
        return Graded(
            problem.id, number, False, topic=problem.topic, closed=False, error=clean_line(str(message))[:500] or "?"
        )
    tokens = record.get("tokens")
    tokens = tokens if isinstance(tokens, Mapping) else {}
    # A record that does not say how the reply ended is no proof that it is whole.
    closed = record.get("thought_closed") is True
    truncated = record.get("finish") == "length"
    given = given_answer(problem, _text(record, "answer")) if closed else None
    return Graded(
        problem.id,
        number,
        right=given is not None and is_right(problem, given, judge),
        given=given,
        topic=problem.topic,
        closed=closed,
        truncated=truncated,
        looped=record.get("thought_end") == "loop" or (not closed and ends_in_a_loop(_text(record, "think"))),
        think_tokens=_count(tokens.get("think")),
        answer_tokens=_count(tokens.get("answer")),
        seconds=_seconds(record.get("seconds")),
    )


def given_answer(problem: Problem, answer: str) -> str | None:
    """The final answer, in the form in which it is compared; None where there is none."""
    if problem.kind == "letter":
        return letter(answer)
    final = final_answer(answer)
    if final is None or not final.strip():
        return None
    final = final.strip()[:_MAX_GIVEN]
    if problem.kind == "integer":
        bare = final.strip("$ .").replace(",", "").replace("{}", "")
        if _WHOLE.fullmatch(bare):
            return str(int(bare))
    return final


def is_right(problem: Problem, given: str, judge: Comparer) -> bool:
    """Whether a final answer is the one that has to come out."""
    if given == problem.gold:
        return True
    match problem.kind:
        case "letter":
            return False
        case "integer":
            # 204^\circ, x = 204: no whole number as it stands, and no question for an algebra system either.
            return not _WHOLE.fullmatch(given) and same(problem.gold, given)
        case "maths":
            return judge.same(problem.gold, given)


def ends_in_a_loop(thought: str) -> bool:
    """Whether the thought ends with one piece of text over and over, at least four times."""
    text = thought[-_TAIL:][::-1]
    # The prefix function of Knuth, Morris and Pratt: text[:n] has the period n - border[n].
    border = [0] * (len(text) + 1)
    matched = 0
    for end in range(1, len(text)):
        while matched and text[end] != text[matched]:
            matched = border[matched]
        matched += text[end] == text[matched]
        border[end + 1] = matched
        length = end + 1
        if length >= _LOOP and (length - matched) * _ROUNDS <= length:
            return True
    return False


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS else 0


def _seconds(value: object) -> float:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return float(value) if fine and math.isfinite(value) else 0.0  # type: ignore[arg-type]

"""Many rows with one engine, votes over many samples, and conversations that vote. All over written replies."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.answers import same
from r1local.chat_types import Sampling, Turn
from r1local.conversation import Conversation
from r1local.engine.scripted import Script
from r1local.engine.stream import Request, Stream
from r1local.errors import ContextFull, EngineError, R1Error, UsageError
from r1local.events import AnswerDelta, Done, Event, ThinkDelta, Votes
from r1local.many.row import Row
from r1local.many.run import Run
from r1local.many.values import Finished, How, Sample
from r1local.many.votes import Tally, count_table, standing_line, voted_line
from r1local.template import ChatTemplate
from tests.makers import CHATML
from tests.test_conversation import WatchedEngine

SAMPLING = Sampling(temperature=0.5, top_p=0.9, top_k=10, min_p=0.1, seed=7)
HOW = How(SAMPLING)
ENDLESS = Script(("…",) * 500, seconds_per_piece=0.01)
"""Cancelled long before its end."""

Make = Callable[..., "PlannedEngine"]


class PlannedEngine(WatchedEngine):
    """Plays for each request what belongs to its question."""

    def __init__(self, scripts: Any, template: ChatTemplate, *, n_ctx: int = 4096) -> None:
        """`scripts`: for each request, in turn; or by a word in its prompt, again in turn."""
        super().__init__([], template, n_ctx=n_ctx)
        self.plan = {
            name: list(some) for name, some in (scripts if isinstance(scripts, dict) else {"": scripts}).items()
        }
        self.on_submit: Callable[[int], object] = lambda _: None

    @property
    def prompts(self) -> list[str]:
        return ["".join(map(chr, request.tokens)) for request in self.requests]

    def submit(self, request: Request) -> Stream:
        text = "".join(map(chr, request.tokens))
        name = next(name for name in self.plan if name in text)
        self._scripts.append(self.plan[name].pop(0))
        stream = super().submit(request)
        self.on_submit(len(self.streams))
        return stream


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    with_thoughts = ChatTemplate(CHATML, thinks=True)
    yield with_thoughts
    with_thoughts.close()


@pytest.fixture
def engine(template: ChatTemplate) -> Make:
    def make(*scripts: Script, n_ctx: int = 4096, **by_word: Iterable[Script]) -> PlannedEngine:
        return PlannedEngine(by_word or list(scripts), template, n_ctx=n_ctx)

    return make


def reply(answer: str, *, thought: str = "Hm.", pause: float = 0.0, **more: Any) -> Script:
    return Script((thought, "</think>", "\n\n", answer), pause, **more)


def boxed(answer: str, **more: Any) -> Script:
    return reply(f"It is \\boxed{{{answer}}}.", **more)


def ask(*texts: str, **settings: Any) -> list[Row]:
    return [Row(number, f"r{number}", (Turn("user", text),), settings) for number, text in enumerate(texts)]


def runner(engine: PlannedEngine, how: How = HOW, *, parallel: int = 4) -> Run:
    return Run(engine, how, parallel=parallel, same=same)


def voting(samples: int, *, stop_early: bool = True, seed: int | None = 7) -> How:
    return How(Sampling(0.5, 0.9, 10, 0.1, seed), samples=samples, stop_early=stop_early)


def answer_of(finished: Finished) -> str | None:
    return finished.chosen.reader.answer if finished.chosen else None


def only(finished: Iterable[Finished]) -> Finished:
    (one,) = finished
    return one


# Rows


def test_every_row_once_in_the_order_they_end(engine: Make) -> None:
    names = ["slow", "quick", "middle"]
    made = engine(slow=[reply("S", pause=0.1)], quick=[reply("Q")], middle=[reply("M", pause=0.04)])
    found = list(runner(made).finished(ask(*names)))
    assert [(each.row.id, answer_of(each)) for each in found] == [("r1", "Q"), ("r2", "M"), ("r0", "S")]
    assert [each.chosen.reader.thought for each in found if each.chosen] == ["Hm."] * 3


@given(st.integers(0, 12), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_no_row_is_lost_or_twice(count: int, parallel: int, samples: int, stop_early: bool) -> None:
    with_no_thought = ChatTemplate(None)
    made = PlannedEngine([Script(("1",))] * (count * samples), with_no_thought)
    made.template = _Plain()  # type: ignore[assignment]
    run = runner(made, voting(samples, stop_early=stop_early), parallel=parallel)
    found = list(run.finished(ask(*map(str, range(count)))))
    assert sorted(each.row.number for each in found) == list(range(count))
    assert run.running == []
    wanted = samples if not stop_early else samples // 2 + 1 if samples % 2 else max(1, samples // 2)
    assert Counter(made.prompts) == Counter({str(number): wanted for number in range(count)})
    with_no_thought.close()


class _Plain:
    """Renders what was said, in no process of its own."""

    def render(self, turns: Sequence[Turn]) -> Any:
        from r1local.template import Prompt, Segment

        return Prompt((Segment(turns[-1].text, trusted=False),), thought_open=False)


def test_no_more_at_once_than_two_beyond_what_runs(engine: Make) -> None:
    made = engine(*[reply("a", pause=0.02)] * 10)
    run = runner(made, parallel=3)
    most = 0
    for _ in run.steps(ask(*"abcdefghij")):
        most = max(most, len(run.running))
    assert len(made.requests) == 10
    assert 3 <= most <= 5


def test_rows_are_taken_as_they_are_needed(engine: Make) -> None:
    taken = 0

    def coming() -> Iterator[Row]:
        nonlocal taken
        for row in ask(*"abcdefghij"):
            taken += 1
            yield row

    made = engine(*[reply("a")] * 2, *[ENDLESS] * 8)
    found = runner(made, parallel=1).finished(coming())
    next(found)
    assert taken <= 4
    found.close()  # type: ignore[attr-defined]


def test_what_a_row_says_itself_reaches_the_request(engine: Make) -> None:
    own = {"temperature": 0.25, "top_k": 3, "seed": 99, "max_tokens": 12, "system": "Be kind.", "dry_multiplier": 1}
    made = engine(reply("a"), reply("b"))
    how = How(SAMPLING, max_tokens=50, stop=("END",), system="Be brief.")
    rows = [*ask("own", **own), Row(1, "1", (Turn("user", "common"),))]
    list(runner(made, how).finished(rows))
    by_own = "kind" in made.prompts[1]
    mine, common = made.requests[by_own], made.requests[not by_own]
    sampling = mine.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.dry_multiplier) == (0.25, 3, 99, 1)
    assert (sampling.top_p, sampling.min_p) == (SAMPLING.top_p, SAMPLING.min_p)
    assert (mine.max_tokens, common.max_tokens, common.sampling) == (12, 50, SAMPLING)
    assert mine.stop == common.stop == ("END",)
    assert mine.stop_after == "</think>"
    assert [text.count("system") for text in made.prompts] == [1, 1]
    assert any("Be brief." in text and "common" in text for text in made.prompts)


def test_a_row_without_a_system_prompt(engine: Make) -> None:
    made = engine(reply("a"))
    list(runner(made, How(SAMPLING, system="Be brief.")).finished(ask("x", system="")))
    assert "system" not in made.prompts[0]


def test_the_system_message_of_a_row_is_the_only_one(engine: Make) -> None:
    made = engine(reply("a"))
    row = Row(0, "0", (Turn("system", "Mine."), Turn("user", "x")))
    list(runner(made, How(SAMPLING, system="Be brief.")).finished([row]))
    assert made.prompts[0].count("system") == 1
    assert "Mine." in made.prompts[0]


BAD: list[tuple[str, object]] = [
    ("temperature", "warm"), ("temperature", -1), ("temperature", True), ("temperature", float("nan")),
    ("temperature", [1]), ("temperature", 10**400), ("top_p", 2), ("top_k", 1.5), ("seed", -1), ("seed", 2**32),
    ("seed", "1"), ("max_tokens", 0), ("max_tokens", True), ("max_tokens", "9"), ("max_tokens", 1e9), ("system", 3),
    ("temperature", "x" * 100_000), ("system", ["x" * 100_000]), ("max_tokens", {"x" * 100_000: 1}),
]  # fmt: skip


def test_rows_that_cannot_be_asked_have_errors_and_the_others_answers(engine: Make) -> None:
    made = engine(reply("fine"), n_ctx=300)
    rows = [
        Row(0, "r0", (), problem="Row r0 cannot be asked: no."),
        Row(1, "r1", (Turn("user", "x" * 400),)),
        *[Row(2 + n, f"r{2 + n}", (Turn("user", "q"),), {name: value}) for n, (name, value) in enumerate(BAD)],
        Row(99, "r99", (Turn("user", "fine"),)),
    ]
    found = {each.row.number: each for each in runner(made).finished(rows)}
    assert len(found) == len(rows)
    assert answer_of(found.pop(99)) == "fine"
    errors = {number: each.error for number, each in found.items()}
    assert isinstance(errors.pop(1), ContextFull)
    assert errors[0] is not None
    assert errors.pop(0).message == "Row r0 cannot be asked: no."  # type: ignore[union-attr]
    for number, (name, _) in enumerate(BAD, 2):
        error = errors[number]
        assert isinstance(error, UsageError)
        assert error.message.startswith(name)
        assert len(error.message) < 700
    assert all(each.chosen is None for each in found.values())
    assert len(made.requests) == 1


def test_a_reply_that_fails_is_an_error_of_its_row(engine: Make) -> None:
    made = engine(bad=[reply("half", error=ContextFull("full"))], good=[reply("g")])
    found = {each.row.id: each for each in runner(made).finished(ask("bad", "good"))}
    assert isinstance(found["r0"].error, ContextFull)
    assert answer_of(found["r1"]) == "g"


def test_an_engine_that_failed_ends_the_run(engine: Make) -> None:
    made = engine(bad=[reply("half", error=EngineError("gone"))], other=[ENDLESS])
    run = runner(made)
    with pytest.raises(EngineError, match="gone"):
        list(run.finished(ask("other", "bad")))
    assert made.streams[0] in made.cancelled


def test_a_check_that_raises_ends_the_run(engine: Make) -> None:
    made = engine(ENDLESS)

    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        list(runner(made).finished(ask("a"), check=check))
    assert made.cancelled == made.streams


def test_tokens_and_seconds_are_counted(engine: Make) -> None:
    made = engine(*[reply("abc", pause=0.01)] * 3)
    run = runner(made)
    found = list(run.finished(ask(*"abc")))
    assert run.tokens == 12
    assert [each.spent for each in found] == [4, 4, 4]
    assert all(each.chosen and 0.03 < each.chosen.seconds < 5 for each in found)


# Stopping


def test_drain_finishes_what_has_begun_and_begins_nothing(engine: Make) -> None:
    made = engine(*[reply("a", pause=0.02)] * 20)
    run = runner(made, parallel=2)
    found = []
    for each in run.finished(ask(*[str(number) for number in range(20)])):
        run.drain()
        found.append(each)
    assert len(found) == len(made.requests) <= 2 + 2 + 1
    assert made.cancelled == []
    assert all(each.chosen and each.chosen.done and each.chosen.done.finish == "stop" for each in found)


def test_drain_finishes_votes_with_all_their_samples(engine: Make) -> None:
    """Samples that were not submitted yet belong to a row that has begun."""
    made = engine(*[boxed("1", pause=0.01)] * 20)
    run = runner(made, voting(5, stop_early=False), parallel=1)
    found = []
    for step in run.steps(ask(*"abcd")):
        run.drain()
        if isinstance(step, Finished):
            found.append(step)
    assert {each.tally.counted for each in found if each.tally} == {5}
    assert len(made.requests) == 5 * len(found)
    assert 1 <= len(found) < 4


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("stop_early", [True, False])
def test_cancel_yields_nothing_unfinished(engine: Make, samples: int, stop_early: bool) -> None:
    """With two of five samples there, or where all were wanted with three of them."""
    ended = [boxed("1")] * (1 if samples == 1 else 2 if stop_early else 3)
    made = engine(first=[boxed("1")] * samples, second=[*ended[1:], *[ENDLESS] * samples])
    run = runner(made, voting(samples, stop_early=stop_early), parallel=2 * samples)
    found: list[Finished] = []
    counted = 0
    for step in run.steps(ask("first", "second")):
        if isinstance(step, Finished):
            found.append(step)
        counted += isinstance(step, Sample) and step.row.id == "r1"
        if found and counted == len(ended) - 1:
            run.cancel()
    assert [each.row.id for each in found] == ["r0"]
    assert run.running == []


@pytest.mark.parametrize("when", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 4])
def test_cancel_while_a_request_is_handed_in(engine: Make, when: int, samples: int) -> None:
    """As a second Ctrl-C may come at any moment: nothing runs on, and nothing more is begun."""
    made = engine(*[ENDLESS] * 100)
    run = runner(made, voting(samples, stop_early=False), parallel=3)

    def interrupt(count: int) -> None:
        if count == when:
            run.cancel()

    made.on_submit = interrupt
    began = time.monotonic()
    assert list(run.finished(ask(*"abcdef"))) == []
    assert time.monotonic() - began < 5
    assert len(made.requests) == when
    assert set(made.cancelled) == set(made.streams)


def test_cancel_while_a_row_is_read(engine: Make) -> None:
    made = engine(*[ENDLESS] * 10)
    run = runner(made)

    def coming() -> Iterator[Row]:
        for row in ask(*"abc"):
            if row.id == "r1":
                run.cancel()
            yield row

    assert list(run.finished(coming())) == []
    assert set(made.cancelled) == set(made.streams)
    assert len(made.streams) == 1


def test_an_abandoned_run_cancels_its_streams(engine: Make) -> None:
    made = engine(reply("a"), *[ENDLESS] * 5)
    found = runner(made, parallel=2).finished(ask(*"abcdef"))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert set(made.streams[1:]) <= set(made.cancelled)
    assert len(made.streams) > 1


# Votes of many samples


def test_every_sample_has_a_seed_of_its_own(engine: Make) -> None:
    made = engine(*[boxed(str(number)) for number in range(4)])
    list(runner(made, voting(4, seed=7)).finished(ask("q")))
    assert [request.sampling.seed for request in made.requests] == [7, 8, 9, 10]
    assert len({tuple(request.tokens) for request in made.requests}) == 1


def test_the_last_seed_is_followed_by_the_first(engine: Make) -> None:
    made = engine(*[boxed(str(number)) for number in range(3)])
    list(runner(made, voting(3, seed=2**32 - 2)).finished(ask("q")))
    assert [request.sampling.seed for request in made.requests] == [2**32 - 2, 0, 1]


def test_without_a_seed_all_samples_are_without(engine: Make) -> None:
    made = engine(*[boxed(str(number)) for number in range(3)])
    list(runner(made, voting(3, seed=None)).finished(ask("q")))
    assert [request.sampling.seed for request in made.requests] == [None] * 3


@pytest.mark.parametrize("samples", range(2, 9))
def test_while_all_agree_no_more_are_begun_than_decide(engine: Make, samples: int) -> None:
    made = engine(*[boxed("4")] * samples)
    run = runner(made, voting(samples), parallel=samples)
    finished = only(run.finished(ask("q")))
    needed = (samples + 1) // 2  # an equal number of others would come later, and lose
    assert len(made.requests) == needed
    assert made.cancelled == []
    assert finished.tally
    assert (finished.tally.counted, finished.tally.winner and finished.tally.winner.votes) == (needed, needed)


def test_a_decided_vote_cancels_the_rest(engine: Make) -> None:
    """Two answers are there, so all samples run; then one of them cannot be beaten any more."""
    made = engine(boxed("1"), boxed("2", pause=0.01), *[boxed("1", pause=0.03)] * 3, *[ENDLESS] * 4)
    run = runner(made, voting(7), parallel=9)
    finished = only(run.finished(ask("q")))
    assert finished.tally
    assert finished.tally.decided
    assert finished.tally.winner
    assert finished.tally.winner.answer == "1"
    assert not any(sample.stopped for sample in finished.samples)
    assert len(finished.samples) == finished.tally.counted < 7
    ended = [made.streams[sample.number] for sample in finished.samples]
    assert set(made.streams) - set(ended) <= set(made.cancelled)
    assert run.running == []


def test_without_an_early_stop_all_samples_vote(engine: Make) -> None:
    made = engine(*[boxed("1")] * 6)
    finished = only(runner(made, voting(6, stop_early=False)).finished(ask("q")))
    assert len(made.requests) == len(finished.samples) == 6
    assert finished.tally
    assert finished.tally.counted == 6


def test_the_first_sample_that_gave_the_winning_answer_speaks(engine: Make) -> None:
    made = engine(
        reply("I say \\boxed{2}"),
        reply("Slow: \\boxed{1}", pause=0.05),
        reply("Quick: \\boxed{1.0}", pause=0.01),
        reply("None at all " * 30),
    )
    finished = only(runner(made, voting(4, stop_early=False)).finished(ask("q")))
    assert answer_of(finished) == "Quick: \\boxed{1.0}"
    assert finished.tally
    assert [(group.answer, group.votes) for group in finished.tally.ranking] == [("1.0", 2), ("2", 1)]


def test_samples_without_an_answer_are_nobodys_votes(engine: Make) -> None:
    """One never ended its thought, one said too much, and two failed, one of them behind its answer."""
    made = engine(
        Script(("I think \\boxed{9}",) * 2, finish="length"),
        reply("word " * 80),
        reply("", error=ContextFull("full")),
        boxed("9", error=ContextFull("full")),
        boxed("3", pause=0.05),
    )
    finished = only(runner(made, voting(5, stop_early=False)).finished(ask("q")))
    assert finished.error is None
    assert finished.tally
    assert finished.tally.counted == 5
    assert [(group.answer, group.votes) for group in finished.tally.ranking] == [("3", 1)]
    assert answer_of(finished) == "It is \\boxed{3}."


def test_where_nobody_answers_a_sample_that_ended_speaks(engine: Make) -> None:
    made = engine(Script(("Hm.",), finish="length"), reply("word " * 80), Script(("So",), finish="length"))
    finished = only(runner(made, voting(3)).finished(ask("q")))
    assert finished.error is None
    assert answer_of(finished) == "word " * 80
    assert finished.tally
    assert finished.tally.winner is None


def test_where_all_samples_fail_the_row_fails(engine: Make) -> None:
    made = engine(*[boxed("1", error=ContextFull("full"))] * 3)
    finished = only(runner(made, voting(3, stop_early=False)).finished(ask("q")))
    assert isinstance(finished.error, ContextFull)


def test_settle_ends_with_what_there_is(engine: Make) -> None:
    made = engine(boxed("1"), boxed("2"), *[ENDLESS] * 6)
    run = runner(made, voting(8), parallel=8)
    found = []
    for step in run.steps(ask("q")):
        if run.tallies and run.tallies[0].counted == 2:
            run.settle()
        if isinstance(step, Finished):
            found.append(step)
    finished = only(found)
    assert finished.tally
    assert (finished.tally.counted, finished.error) == (2, None)
    assert answer_of(finished) in ("It is \\boxed{1}.", "It is \\boxed{2}.")
    ended = [made.streams[sample.number] for sample in finished.samples]
    assert set(made.streams) - set(ended) <= set(made.cancelled)
    assert len(made.streams) > 2


def test_settle_before_any_answer_ends_with_the_first(engine: Make) -> None:
    made = engine(*[ENDLESS] * 3, boxed("5", pause=0.05), *[ENDLESS] * 4)
    run = runner(made, voting(8, stop_early=False), parallel=8)
    run.settle()
    finished = only(run.finished(ask("q")))
    assert answer_of(finished) == "It is \\boxed{5}."
    assert finished.tally
    assert finished.tally.counted == 1


# How votes are counted

Ballots = list[str | None]


def counted(ballots: Sequence[str | None], wanted: int) -> Tally:
    tally = Tally(wanted, lambda one, other: one == other)
    for number, ballot in enumerate(ballots):
        tally.add(number, "" if ballot is None else ballot)
    return tally


def winner_of(ballots: Sequence[str | None]) -> str | None:
    """By its definition: the most votes, of equals the answer that was given first."""
    given_ = [ballot for ballot in ballots if ballot is not None]
    return max(dict.fromkeys(given_), key=given_.count, default=None)


def is_decided(ballots: Sequence[str | None], left: int) -> bool:
    """By trying everything that three answers and nobody can get of the rest, in every order."""
    now = winner_of(ballots)
    return all(winner_of([*ballots, *rest]) == now for rest in itertools.product([*"abc", None], repeat=left))


BALLOTS = st.lists(st.sampled_from([*"abc", None]), max_size=9)
LEFT = st.integers(0, 5)


@given(BALLOTS, LEFT)
def test_a_vote_is_decided_when_nothing_can_change_it_and_not_before(ballots: list[str | None], left: int) -> None:
    tally = counted(ballots, len(ballots) + left)
    assert (tally.winner.answer if tally.winner else None) == winner_of(ballots)
    assert tally.decided == is_decided(ballots, left)
    assert tally.left == left


@given(BALLOTS, LEFT)
def test_needed_is_the_smallest_number_that_decides(ballots: list[str | None], left: int) -> None:
    winner = winner_of(ballots) or "a"
    fewest = next(more for more in range(left + 1) if is_decided([*ballots, *[winner] * more], left - more))
    assert counted(ballots, len(ballots) + left).needed == fewest


@given(BALLOTS)
def test_ties_go_to_the_first_given(ballots: list[str | None]) -> None:
    ranking = [(group.answer, group.votes) for group in counted(ballots, len(ballots)).ranking]
    given_ = [ballot for ballot in ballots if ballot is not None]
    assert ranking == Counter(given_).most_common(), "which keeps equals in the order they came"


@given(BALLOTS, LEFT)
def test_how_it_stands(ballots: list[str | None], left: int) -> None:
    tally = counted(ballots, len(ballots) + left)
    votes = tally.standing(running=2, tokens=30)
    assert (votes.wanted, votes.counted, votes.running, votes.tokens) == (len(ballots) + left, len(ballots), 2, 30)
    assert sum(count for _, count in votes.counts) == len(ballots) - ballots.count(None)
    assert tally.agreement == votes.agreement
    assert tally.agreement * len(ballots) == pytest.approx(ballots.count(winner_of(ballots)) if votes.counts else 0)
    assert tally.unanimous == (len(set(ballots) - {None}) < 2)
    for text in (standing_line(votes), voted_line(votes), *count_table(votes)):
        assert "\n" not in text
        assert text


def test_answers_that_come_to_the_same_are_one_group() -> None:
    tally = Tally(4, same)
    for number, answer in enumerate(["\\boxed{1/2}", "The answer is 0.5.", "\\boxed{\\frac12}", "", "\\boxed{2}"]):
        tally.add(number, answer)
    assert [(group.answer, group.samples) for group in tally.ranking] == [("1/2", [0, 1, 2]), ("2", [4])]


# Votes in words


def test_words_of_a_vote() -> None:
    votes = Votes(8, 5, 3, 1234, (("132", 4), ("133", 1)))
    assert standing_line(votes) == "5 of 8 voted · 3 thinking · 1,234 tokens · 132: 4, 133: 1"
    assert voted_line(votes) == "4 of 5 say 132; the other 3 could not change it (1,234 tokens)."
    assert voted_line(Votes(5, 5, 0, 9, (("1", 5),))) == "5 of 5 say 1 (9 tokens)."
    assert count_table(votes) == ["132    4  ████", "133    1  █"]


def test_words_of_a_vote_without_answers() -> None:
    assert voted_line(Votes(4, 4, 0, 80)) == "None of 4 samples came to an answer (80 tokens)."
    assert voted_line(Votes(4, 0, 0, 0)) == "None of 0 samples came to an answer (0 tokens)."
    assert count_table(Votes(4, 4, 0, 80)) == ["no answer    4  ████"]
    assert count_table(Votes(3, 3, 0, 80, (("1", 1),))) == ["1            1  █", "no answer    2  ██"]


def test_a_table_of_many_votes_has_no_bars() -> None:
    assert count_table(Votes(65, 65, 0, 1, (("1", 65),))) == ["1   65"]
    assert count_table(Votes(64, 64, 0, 1, (("1", 64),))) == ["1   64  " + "█" * 64]


@pytest.mark.parametrize("answer", ["\x1b[2J\x1b]0;owned\x07", "a\nb\r\nc", "\u202eevil\u200b", "\x9b31m", "\ud800"])
def test_answers_cannot_touch_the_terminal(answer: str) -> None:
    votes = Votes(2, 2, 0, 5, ((answer, 1), ("x" * 500, 1)))
    for text in (standing_line(votes), voted_line(votes), *count_table(votes)):
        assert text.isprintable()
        assert len(text) < 200


@given(st.lists(st.tuples(st.text(max_size=60), st.integers(1, 3)), max_size=4), st.integers(0, 3), st.integers(0, 3))
def test_any_answers_in_words(counts: list[tuple[str, int]], nobody: int, left: int) -> None:
    cast = sum(count for _, count in counts) + nobody
    votes = Votes(cast + left, cast, 0, 1, tuple(counts))
    table = count_table(votes)
    assert len(table) == len(counts) + bool(nobody)
    for text in (standing_line(votes), voted_line(votes), *table):
        assert not set(text) & {"\x1b", "\n", "\r", "\x9b", "\u202e", "\u2028"}
    assert all(len(line) <= 32 + 2 + 3 + 2 + cast for line in table)


# Conversations that vote


def conversation(engine: PlannedEngine, vote: int, **more: Any) -> Conversation:
    return Conversation(engine, SAMPLING, vote=vote, **more)


def kinds(events: Iterable[Event]) -> str:
    return "".join({Votes: "v", ThinkDelta: "t", AnswerDelta: "a", Done: "d"}[type(event)] for event in events)


def test_a_conversation_that_votes(engine: Make) -> None:
    made = engine(boxed("2", thought="Two?"), boxed("1", pause=0.02), *[boxed("1", thought="One.", pause=0.05)] * 3)
    talk = conversation(made, 5, vote_stop=False)
    events = list(talk.ask("q"))
    assert kinds(events).lstrip("v") == "tad"
    votes = [event for event in events if isinstance(event, Votes)]
    assert [each.counted for each in votes] == sorted(each.counted for each in votes)
    assert {each.counted for each in votes} >= {1, 2, 5}
    assert votes[-1].counts == (("1", 4), ("2", 1))
    assert votes[-1].running == 0
    done = events[-1]
    assert isinstance(done, Done)
    assert done.votes == votes[-1]
    assert done.finish == "stop"
    assert (done.stats.think_tokens, done.stats.answer_tokens) == (2, 2), "of the reply alone"
    assert votes[-1].tokens == 20
    assert talk.turns == [Turn("user", "q"), Turn("assistant", "It is \\boxed{1}.", "Hm.")]


def test_the_next_question_builds_on_the_reply_that_won(engine: Make) -> None:
    made = engine(*[boxed("1")] * 2, *[boxed("2")] * 2)
    talk = conversation(made, 3)
    list(talk.ask("first"))
    list(talk.ask("second"))
    assert [turn.text for turn in talk.turns] == ["first", "It is \\boxed{1}.", "second", "It is \\boxed{2}."]
    assert "It is \\boxed{1}." in made.prompts[-1]


def test_retry_votes_again(engine: Make) -> None:
    made = engine(*[boxed("1")] * 2, *[boxed("2")] * 2)
    talk = conversation(made, 3)
    list(talk.ask("first"))
    list(talk.retry())
    assert [turn.text for turn in talk.turns] == ["first", "It is \\boxed{2}."]


def test_a_vote_is_cancelled(engine: Make) -> None:
    made = engine(boxed("1"), *[ENDLESS] * 7)
    talk = conversation(made, 8, turns=[Turn("system", "s")])
    events = []
    for event in talk.ask("q"):
        events.append(event)
        if isinstance(event, Votes) and event.counted:
            talk.cancel()
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.finish, done.thought_closed) == ("cancelled", False)
    assert kinds(events).lstrip("v") == "d"
    assert talk.turns == [Turn("system", "s")]
    assert set(made.cancelled) >= set(made.streams[1:])


@pytest.mark.parametrize("vote", [2, 4])
def test_a_vote_that_is_cancelled_before_it_begins(engine: Make, vote: int) -> None:
    talk = conversation(engine(*[boxed("1")] * vote), vote)
    events = talk.ask("q")
    talk.cancel()
    done = list(events)[-1]
    assert isinstance(done, Done)
    assert done.finish == "cancelled"
    assert talk.turns == []


def test_a_vote_is_cancelled_from_another_thread(engine: Make) -> None:
    talk = conversation(engine(*[ENDLESS] * 8), 8)
    timer = threading.Timer(0.1, talk.cancel)
    timer.start()
    done = list(talk.ask("q"))[-1]
    timer.join()
    assert isinstance(done, Done)
    assert done.finish == "cancelled"


def test_a_vote_nobody_listens_to_is_stopped(engine: Make) -> None:
    made = engine(boxed("1"), *[ENDLESS] * 7)
    talk = conversation(made, 8)
    events = talk.ask("q")
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert set(made.cancelled) >= set(made.streams[1:])
    assert talk.turns == []


def test_skipping_the_thought_ends_the_vote_with_what_there_is(engine: Make) -> None:
    made = engine(boxed("1"), boxed("2"), *[ENDLESS] * 6)
    talk = conversation(made, 8)
    events = []
    for event in talk.ask("q"):
        events.append(event)
        if isinstance(event, Votes) and event.counted == 2:
            talk.skip_thinking()
    done = events[-1]
    assert isinstance(done, Done)
    assert done.finish == "stop"
    assert done.votes
    assert (done.votes.counted, done.votes.wanted) == (2, 8)
    assert kinds(events).lstrip("v") == "tad"
    assert len(talk.turns) == 2


def test_skipping_before_any_answer_ends_with_the_first(engine: Make) -> None:
    made = engine(*[ENDLESS] * 3, boxed("5", pause=0.05))
    talk = conversation(made, 4, vote_stop=False)
    events = talk.ask("q")
    talk.skip_thinking()
    assert [event.text for event in events if isinstance(event, AnswerDelta)] == ["It is \\boxed{5}."]


def test_what_does_not_fit_is_refused_at_the_call(engine: Make) -> None:
    made = engine(n_ctx=50)
    talk = conversation(made, 3)
    with pytest.raises(ContextFull):
        talk.ask("x" * 100)
    assert (talk.turns, made.requests) == ([], [])


@pytest.mark.parametrize("error", [EngineError("gone"), ContextFull("full")])
def test_errors_of_a_vote_come_out(engine: Make, error: R1Error) -> None:
    talk = conversation(engine(*[reply("", error=error)] * 3), 3, turns=[Turn("user", "a"), Turn("assistant", "b")])
    with pytest.raises(type(error)):
        list(talk.ask("q"))
    assert talk.turns == [Turn("user", "a"), Turn("assistant", "b")]


def test_one_sample_that_fails_does_not_end_a_vote(engine: Make) -> None:
    talk = conversation(engine(boxed("9", error=ContextFull("full")), *[boxed("1", pause=0.02)] * 2), 3)
    assert kinds(talk.ask("q")).lstrip("v") == "tad"
    assert talk.turns[-1].text == "It is \\boxed{1}."

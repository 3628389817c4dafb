"""The user ends a thought, or gives one to go on from: the answer follows it, and nothing said is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from r1local.conversation import Conversation
from r1local.engine import EngineOptions, open_engine
from r1local.engine.scripted import Script, ScriptedEngine
from r1local.errors import ContextFull, UsageError
from r1local.events import AnswerDelta, Done, Event, ThinkDelta
from r1local.template import ChatTemplate
from tests.makers import CHATML, R1_TEMPLATE_V2
from tests.test_conversation import SAMPLING

THOUGHT = "So 47 + 85. Wait, "
Make = Callable[..., Conversation]


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    template = ChatTemplate(R1_TEMPLATE_V2)
    yield template
    template.close()


@pytest.fixture
def make(template: ChatTemplate) -> Make:
    def make(*scripts: Script, **options: object) -> Conversation:
        return Conversation(ScriptedEngine(scripts, template, n_ctx=100_000), SAMPLING, **options)  # type: ignore[arg-type]

    return make


def endless() -> Script:
    return Script(("Wait, ",) * 20_000, seconds_per_piece=0.001)


def prompts(conversation: Conversation) -> list[str]:
    assert isinstance(conversation.engine, ScriptedEngine)
    return ["".join(map(chr, request.tokens)) for request in conversation.engine.requests]


def skipped(conversation: Conversation, after: int = 3) -> list[Event]:
    events = []
    for event in conversation.ask("What is 47 + 85?"):
        events.append(event)
        if len(events) == after:
            conversation.skip_thinking()
    return events


def text(events: list[Event], kind: type[ThinkDelta] | type[AnswerDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def test_a_skipped_thought_is_closed_and_answered(make: Make) -> None:
    conversation = make(endless(), Script(("It is", " 132.")))
    events = skipped(conversation)
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.finish, done.thought_closed, done.thought_end) == ("stop", True, "user")
    assert text(events, AnswerDelta) == "It is 132."
    thought = text(events, ThinkDelta)
    assert thought.startswith("Wait, Wait,")
    assert (conversation.turns[-1].text, conversation.turns[-1].thought) == ("It is 132.", thought)
    first, second = prompts(conversation)
    assert second == first + thought + "\n</think>\n\n"


def test_figures_of_a_skipped_thought_are_of_both_parts(make: Make) -> None:
    done = skipped(make(endless(), Script(("It is", " 132."))))[-1]
    assert isinstance(done, Done)
    assert done.stats.think_tokens >= 3
    assert done.stats.answer_tokens == 2
    assert done.stats.prompt_tokens < 200, "the thought is not counted as prompt"


def test_what_is_left_of_the_limit_is_for_the_answer(make: Make) -> None:
    conversation = make(endless(), Script(("a ",) * 500), max_tokens=300)
    done = skipped(conversation, after=100)[-1]
    assert isinstance(done, Done)
    assert done.finish == "length"
    assert done.stats.think_tokens + done.stats.answer_tokens == 300


def test_skipping_before_the_thought_has_a_word(make: Make) -> None:
    conversation = make(endless(), Script(("132.",)))
    events = conversation.ask("What is 47 + 85?")
    conversation.skip_thinking()
    assert text(list(events), AnswerDelta) == "132."
    assert prompts(conversation)[-1].endswith("<think>\n\n</think>\n\n")


def test_cancelling_counts_for_more(make: Make) -> None:
    conversation = make(endless())
    events = []
    for event in conversation.ask("What is 47 + 85?"):
        events.append(event)
        if len(events) == 3:
            conversation.skip_thinking()
            conversation.cancel()
    assert isinstance(events[-1], Done)
    assert events[-1].finish == "cancelled"
    assert not events[-1].thought_closed


def test_skipping_an_answer_does_nothing(make: Make) -> None:
    conversation = make(Script(("Hm.", "</think>", "\n\n", "one ", "two ", "three"), seconds_per_piece=0.01))
    events = []
    for event in conversation.ask("Count."):
        events.append(event)
        if isinstance(event, AnswerDelta):
            conversation.skip_thinking()
    done = events[-1]
    assert isinstance(done, Done)
    assert text(events, AnswerDelta) == "one two three"
    assert (done.finish, done.thought_end) == ("stop", "model")


def test_a_thought_that_ends_in_the_moment_it_is_skipped(make: Make) -> None:
    """The engine stops in the middle of the answer then: the rest of it is asked for."""
    conversation = make(Script(("Hm.", "</think>", "\n\n", "one ", "two", " three")), Script((" three",)))
    stream_cancelled = threading.Event()
    events = []
    for event in conversation.ask("Count."):
        events.append(event)
        if isinstance(event, ThinkDelta) and conversation._stream is not None:
            conversation._answer_wanted = True
            stream = conversation._stream
            threading.Timer(0.0, lambda stream=stream: (stream.cancel(), stream_cancelled.set())).start()
            stream_cancelled.wait()
    done = events[-1]
    assert isinstance(done, Done)
    assert done.finish == "stop"
    assert done.thought_end in ("model", "user")
    assert text(events, AnswerDelta).endswith("three")


def test_going_on_from_a_thought(make: Make) -> None:
    conversation = make(Script(("first.",)), Script(("it is 132.", "</think>", "\n\n", "132")))
    list(conversation.ask("What is 47 + 85?"))
    events = list(conversation.go_on(THOUGHT))
    assert text(events, ThinkDelta) == THOUGHT + "it is 132."
    assert text(events, AnswerDelta) == "132"
    assert prompts(conversation)[-1].endswith("<think>\n" + THOUGHT.rstrip())  # a space begins the next token
    assert [turn.role for turn in conversation.turns] == ["user", "assistant"]


def test_a_thought_that_is_given_closed_is_answered_at_once(make: Make) -> None:
    conversation = make(Script(("first.",)), Script(("132",)))
    list(conversation.ask("What is 47 + 85?"))
    events = list(conversation.go_on("It is 132.</think>"))
    assert (text(events, ThinkDelta), text(events, AnswerDelta)) == ("It is 132.", "132")
    assert prompts(conversation)[-1].endswith("<think>\nIt is 132.\n</think>\n\n")


def test_a_given_thought_can_be_skipped_too(make: Make) -> None:
    conversation = make(Script(("first.",)), endless(), Script(("132",)))
    list(conversation.ask("What is 47 + 85?"))
    events = []
    for event in conversation.go_on(THOUGHT):
        events.append(event)
        if len(events) == 4:
            conversation.skip_thinking()
    assert text(events, ThinkDelta).startswith(THOUGHT + "Wait, ")
    assert text(events, AnswerDelta) == "132"


def test_there_is_nothing_to_go_on_from(make: Make) -> None:
    with pytest.raises(UsageError, match="no question"):
        make().go_on("Hm.")
    with closing(ChatTemplate(CHATML)) as template:  # a model that does not think
        conversation = Conversation(ScriptedEngine([Script(("Hi.",))], template), SAMPLING)
        list(conversation.ask("Hi"))
        with pytest.raises(UsageError, match="does not think"):
            conversation.go_on("Hm.")


def test_what_does_not_fit_is_refused_before_anything_is_kept(template: ChatTemplate) -> None:
    """At the call: nobody has to start the iterator to hear of it."""

    class Small(ScriptedEngine):
        def encode(self, segments: object) -> list[int]:
            raise ContextFull("It is full.")

    conversation = Conversation(Small([], template), SAMPLING)
    with pytest.raises(ContextFull):
        conversation.ask("x")
    assert conversation.turns == []


@pytest.mark.engine
def test_the_model_inside_answers_when_its_thought_is_cut(inside: object) -> None:
    """With a real model: the answer follows a thought that ended in its middle."""
    with open_engine(inside, EngineOptions(n_ctx=1024)) as engine:  # type: ignore[arg-type]
        conversation = Conversation(engine, SAMPLING)
        events = skipped(conversation, after=2)
        done = events[-1]
        assert isinstance(done, Done)
        assert text(events, AnswerDelta).strip()
        assert done.finish == "stop"
        whole = list(conversation.go_on(conversation.turns[-1].thought or ""))
        assert text(whole, AnswerDelta).strip()

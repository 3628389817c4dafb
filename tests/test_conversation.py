"""Conversations over scripted replies: events, history, figures, and what is sent again."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from r1local.chat_types import Sampling, Turn
from r1local.conversation import Conversation, with_system
from r1local.engine.scripted import Script, ScriptedEngine
from r1local.engine.stream import Outcome, Piece, Request, Stream
from r1local.errors import ContextFull, EngineError, UsageError
from r1local.events import AnswerDelta, Done, Event, ThinkDelta
from r1local.reader import ReplyReader
from r1local.template import ChatTemplate
from tests.conftest import THINKING_SCRIPT
from tests.makers import CHATML, R1_TEMPLATE_V1, R1_TEMPLATE_V2

SAMPLING = Sampling(temperature=0.5, top_p=0.9, top_k=10, min_p=0.1, seed=7)
THOUGHT, ANSWER = "Let me add the tens...", "47 + 85 = **132**"
QUESTION = "What is 47 + 85?"
LONG = 20_000
"""Pieces of a script that is cancelled long before its end."""

Ask = Callable[..., Conversation]


class WatchedEngine(ScriptedEngine):
    """Keeps the streams that it made, and those that it was asked to stop."""

    def __init__(self, scripts: Iterable[Script], template: ChatTemplate, *, n_ctx: int = 4096) -> None:
        super().__init__(scripts, template, n_ctx=n_ctx)
        self.streams: list[Stream] = []
        self.cancelled: list[Stream] = []

    def submit(self, request: Request) -> Stream:
        stream = super().submit(request)
        stop = stream.on_cancel

        def watched(stream: Stream) -> None:
            self.cancelled.append(stream)
            stop(stream)

        stream.on_cancel = watched
        self.streams.append(stream)
        return stream


@pytest.fixture(scope="module", params=["v1", "v2"])
def r1_template(request: pytest.FixtureRequest) -> Iterator[ChatTemplate]:
    """Both templates that the distills came with; only the later one opens the thought by itself."""
    template = ChatTemplate(R1_TEMPLATE_V1 if request.param == "v1" else R1_TEMPLATE_V2)
    yield template
    template.close()


@pytest.fixture(scope="module")
def plain_template() -> Iterator[ChatTemplate]:
    template = ChatTemplate(CHATML)
    yield template
    template.close()


@pytest.fixture(scope="module")
def thinker_with_plain_template() -> Iterator[ChatTemplate]:
    """A reasoning model in a file whose template knows nothing of thoughts."""
    template = ChatTemplate(CHATML, thinks=True)
    yield template
    template.close()


@pytest.fixture
def r1(r1_template: ChatTemplate) -> Ask:
    def make(*scripts: Script, **options: object) -> Conversation:
        return Conversation(WatchedEngine(scripts, r1_template), SAMPLING, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def plain(plain_template: ChatTemplate) -> Ask:
    def make(*scripts: Script, **options: object) -> Conversation:
        return Conversation(WatchedEngine(scripts, plain_template), SAMPLING, **options)  # type: ignore[arg-type]

    return make


def said(*pieces: str) -> Script:
    return Script(pieces)


def thoughtful(thought: str, answer: str) -> Script:
    return Script((thought, "</think>", "\n\n", answer))


def engine_of(conversation: Conversation) -> WatchedEngine:
    assert isinstance(conversation.engine, WatchedEngine)
    return conversation.engine


def requests_of(conversation: Conversation) -> list[Request]:
    return engine_of(conversation).requests


def prompt_of(conversation: Conversation, number: int = -1) -> str:
    """What the engine was given: its tokens are characters."""
    return "".join(map(chr, requests_of(conversation)[number].tokens))


def thought_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ThinkDelta))


def answer_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, AnswerDelta))


def done_of(events: Sequence[Event]) -> Done:
    """The end of the reply: there must be exactly one, and it must be last."""
    assert [isinstance(event, Done) for event in events] == [False] * (len(events) - 1) + [True]
    assert isinstance(events[-1], Done)
    return events[-1]


# Events


def test_thought_then_answer_then_done(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT))
    events = list(conversation.ask(QUESTION))
    kinds = [type(event) for event in events]
    assert kinds == sorted(kinds, key=[ThinkDelta, AnswerDelta, Done].index)
    assert thought_of(events) == THOUGHT
    assert answer_of(events) == ANSWER
    done = done_of(events)
    assert (done.finish, done.note, done.thought_closed) == ("stop", "", True)
    assert all(event.text for event in events[:-1] if not isinstance(event, Done))


def test_events_come_while_the_reply_is_under_way(r1: Ask) -> None:
    """The first delta is there long before the last piece is made."""
    conversation = r1(Script(("word ",) * LONG, seconds_per_piece=0.001))
    events = conversation.ask(QUESTION)
    assert isinstance(next(events), ThinkDelta)
    conversation.cancel()
    assert done_of(list(events)).finish == "cancelled"


def test_a_model_that_does_not_think(plain: Ask) -> None:
    conversation = plain(said("Hello", " there"))
    events = list(conversation.ask("Hi"))
    assert thought_of(events) == ""
    assert answer_of(events) == "Hello there"
    assert done_of(events).thought_closed
    assert conversation.turns == [Turn("user", "Hi"), Turn("assistant", "Hello there")]


def test_a_reply_of_nothing(plain: Ask) -> None:
    """A model may end at once: that is an answer, and an empty one."""
    conversation = plain(said())
    assert done_of(list(conversation.ask("Hi"))).finish == "stop"
    assert conversation.turns == [Turn("user", "Hi"), Turn("assistant", "")]


def test_a_reply_that_ends_inside_its_thought(r1: Ask) -> None:
    conversation = r1(said("Let me", " see"))
    events = list(conversation.ask(QUESTION))
    assert thought_of(events) == "Let me see"
    assert answer_of(events) == ""
    assert not done_of(events).thought_closed


def test_nothing_happens_before_the_first_event_is_asked_for(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT))
    conversation.ask(QUESTION)
    assert requests_of(conversation) == []
    assert conversation.turns == []


@pytest.mark.parametrize("text", ["", " ", "\n\t\n", "\u3000"], ids=["empty", "blank", "lines", "wide blank"])
def test_an_empty_question_is_a_usage_error_at_once(text: str, r1: Ask) -> None:
    """Before anything is iterated: a caller that never starts the iterator still hears of it."""
    conversation = r1(said(*THINKING_SCRIPT))
    with pytest.raises(UsageError):
        conversation.ask(text)
    assert conversation.turns == []
    assert requests_of(conversation) == []


# Requests


def test_the_request_carries_what_the_conversation_was_given(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT), max_tokens=99, stop=("STOP", "END"))
    list(conversation.ask(QUESTION))
    (request,) = requests_of(conversation)
    assert request.sampling is SAMPLING
    assert request.max_tokens == 99
    assert request.stop == ("STOP", "END")


def test_a_thinking_model_looks_for_stop_texts_behind_the_thought(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT))
    list(conversation.ask(QUESTION))
    assert requests_of(conversation)[0].stop_after == "</think>"
    assert prompt_of(conversation).endswith("<think>\n")
    assert prompt_of(conversation).count("<think>") == 1


def test_a_thinking_model_with_a_plain_template_too(thinker_with_plain_template: ChatTemplate) -> None:
    conversation = Conversation(WatchedEngine([said(*THINKING_SCRIPT)], thinker_with_plain_template), SAMPLING)
    events = list(conversation.ask(QUESTION))
    assert requests_of(conversation)[0].stop_after == "</think>"
    assert (thought_of(events), answer_of(events)) == (THOUGHT, ANSWER)


def test_a_model_that_does_not_think_looks_for_them_at_once(plain: Ask) -> None:
    conversation = plain(said("one ", "STOP", " two"), stop=("STOP",))
    events = list(conversation.ask("Hi"))
    assert requests_of(conversation)[0].stop_after == ""
    assert answer_of(events) == "one "
    assert done_of(events).finish == "stop"


def test_stop_texts_do_not_match_inside_the_thought(r1: Ask) -> None:
    script = said("I must STOP", " here.", "</think>", "\n\n", "An answer. ", "ST", "OP", " never said")
    conversation = r1(script, stop=("STOP",))
    events = list(conversation.ask(QUESTION))
    assert thought_of(events) == "I must STOP here."
    assert answer_of(events) == "An answer. "
    assert done_of(events).finish == "stop"
    assert conversation.turns[-1] == Turn("assistant", "An answer. ", "I must STOP here.", complete=True)


def test_max_tokens_end_a_reply(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT), max_tokens=3)
    events = list(conversation.ask(QUESTION))
    assert thought_of(events) == "Let me add"
    done = done_of(events)
    assert done.finish == "length"
    assert "3 tokens" in done.note
    assert not done.thought_closed
    assert done.stats.think_tokens == 3


# History


def test_history_after_the_end(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT))
    list(conversation.ask(QUESTION))
    assert conversation.turns == [Turn("user", QUESTION), Turn("assistant", ANSWER, THOUGHT, complete=True)]


def test_history_after_length(r1: Ask) -> None:
    conversation = r1(Script(("I think", "</think>", "\n\n", "It is", " 1"), finish="length", note="enough"))
    assert done_of(list(conversation.ask(QUESTION))).note == "enough"
    assert conversation.turns == [Turn("user", QUESTION), Turn("assistant", "It is 1", "I think", complete=False)]


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [(("word ",) * LONG, ThinkDelta), (("hm", "</think>", "\n\n", *(("word ",) * LONG)), AnswerDelta)],
    ids=["in the thought", "in the answer"],
)
def test_history_after_cancel_with_something_said(pieces: tuple[str, ...], kind: type, r1: Ask) -> None:
    conversation = r1(Script(pieces, seconds_per_piece=0.001))
    events: list[Event] = []
    for event in conversation.ask(QUESTION):
        if isinstance(event, kind) and not any(isinstance(earlier, kind) for earlier in events):
            conversation.cancel()
        events.append(event)
    done = done_of(events)
    assert done.finish == "cancelled"
    assert done.thought_closed == (kind is AnswerDelta)
    question, reply = conversation.turns
    assert question == Turn("user", QUESTION)
    assert not reply.complete
    assert (reply.thought, reply.text) == (thought_of(events), answer_of(events))


def test_history_after_cancel_with_nothing_said(r1: Ask) -> None:
    """White space at the start of a thought says nothing, so the cancel may come as late as it likes."""
    conversation = r1(Script(("\n",) * LONG, seconds_per_piece=0.001), said(*THINKING_SCRIPT))
    events: list[Event] = []

    def read() -> None:
        events.extend(conversation.ask(QUESTION))

    reader = threading.Thread(target=read)
    reader.start()
    while reader.is_alive():  # a cancel before the stream is there has nothing to stop yet
        conversation.cancel()
        reader.join(0.001)
    assert done_of(events).finish == "cancelled"
    assert len(events) == 1
    assert conversation.turns == []
    list(conversation.ask("And now?"))
    assert QUESTION not in prompt_of(conversation)


def test_cancel_from_another_thread(r1: Ask) -> None:
    conversation = r1(Script(("word ",) * LONG, seconds_per_piece=0.001))
    events = conversation.ask(QUESTION)
    first = next(events)
    canceller = threading.Thread(target=conversation.cancel)
    canceller.start()
    assert done_of([first, *events]).finish == "cancelled"
    canceller.join()


def test_cancel_with_nothing_under_way(r1: Ask) -> None:
    """A late Ctrl-C, after the last event, stops neither this reply nor the next."""
    conversation = r1(said(*THINKING_SCRIPT), said(*THINKING_SCRIPT))
    conversation.cancel()
    list(conversation.ask(QUESTION))
    conversation.cancel()
    assert done_of(list(conversation.ask(QUESTION))).finish == "stop"
    assert engine_of(conversation).cancelled == []


def test_history_after_an_error(r1: Ask) -> None:
    conversation = r1(
        said(*THINKING_SCRIPT),
        Script(("Let", " me"), error=EngineError("it broke")),
        thoughtful("again", "fine"),
    )
    list(conversation.ask(QUESTION))
    before = list(conversation.turns)
    events = conversation.ask("And now?")
    seen: list[Event] = []
    with pytest.raises(EngineError, match="it broke"):
        seen.extend(iter(lambda: next(events), None))
    assert conversation.turns == before
    list(conversation.ask("And then?"))
    assert "And now?" not in prompt_of(conversation)
    assert [turn.text for turn in conversation.turns] == [QUESTION, ANSWER, "And then?", "fine"]


def test_what_was_said_before_an_error_was_given_out(r1: Ask) -> None:
    conversation = r1(Script(("Let", " me"), error=EngineError("it broke")))
    events = conversation.ask(QUESTION)
    assert next(events) == ThinkDelta("Let")
    assert next(events) == ThinkDelta(" me")
    with pytest.raises(EngineError):
        next(events)


def test_a_prompt_that_does_not_fit_leaves_the_history(r1_template: ChatTemplate) -> None:
    engine = ScriptedEngine([said(*THINKING_SCRIPT)], r1_template, n_ctx=200)
    conversation = Conversation(engine, SAMPLING)
    with pytest.raises(ContextFull):
        list(conversation.ask("x" * 200))
    assert conversation.turns == []
    assert answer_of(list(conversation.ask("short"))) == ANSWER


@pytest.mark.parametrize(
    ("pieces", "last", "reply"),
    [
        (("word",) * LONG, ThinkDelta, Turn("assistant", "", "word", complete=False)),
        (("hm", "</think>", *(("word",) * LONG)), AnswerDelta, Turn("assistant", "word", "hm", complete=False)),
    ],
    ids=["in the thought", "in the answer"],
)
def test_history_after_a_dropped_iterator(pieces: tuple[str, ...], last: type, reply: Turn, r1: Ask) -> None:
    conversation = r1(Script(pieces, seconds_per_piece=0.001))
    events = conversation.ask(QUESTION)
    assert any(isinstance(event, last) for event in events)
    events.close()  # type: ignore[attr-defined]
    assert conversation.turns == [Turn("user", QUESTION), reply]


def test_a_dropped_iterator_stops_the_engine(r1: Ask) -> None:
    conversation = r1(Script(("word ",) * LONG, seconds_per_piece=0.001))
    events = conversation.ask(QUESTION)
    next(events)
    del events
    (stream,) = engine_of(conversation).streams
    assert sum(1 for _ in stream) < LONG
    assert stream.outcome is not None
    assert stream.outcome.finish == "cancelled"


def test_an_interrupt_stops_the_engine_and_leaves_the_history(r1: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C arrives wherever the program happens to be, most likely while it waits for a piece."""
    conversation = r1(Script(("word ",) * LONG, seconds_per_piece=0.001))
    events = conversation.ask(QUESTION)
    next(events)

    def interrupted(_: Stream) -> Piece:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "__next__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(events)
    assert conversation.turns == []
    (stream,) = engine_of(conversation).streams
    assert sum(1 for _ in stream) < LONG
    assert stream.outcome is not None
    assert stream.outcome.finish == "cancelled"


def test_an_iterator_dropped_at_its_end_remembers_the_reply_once(r1: Ask) -> None:
    """A view may break out of its loop at Done, and never ask for what is behind it."""
    conversation = r1(said(*THINKING_SCRIPT))
    for event in conversation.ask(QUESTION):
        if isinstance(event, Done):
            assert len(conversation.turns) == 2
            break
    assert conversation.turns == [Turn("user", QUESTION), Turn("assistant", ANSWER, THOUGHT)]


# What is sent again


def test_an_old_thought_is_kept_and_not_sent_again(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT), thoughtful("second thought", "second answer"), thoughtful("x", "y"))
    for question in (QUESTION, "And twice that?", "And half?"):
        list(conversation.ask(question))
    assert [turn.thought for turn in conversation.turns if turn.role == "assistant"] == [THOUGHT, "second thought", "x"]
    prompt = prompt_of(conversation)
    for text in (QUESTION, ANSWER, "And twice that?", "second answer", "And half?"):
        assert prompt.count(text) == 1
    assert THOUGHT not in prompt
    assert "second thought" not in prompt
    assert "</think>" not in prompt


def test_an_old_thought_is_not_sent_to_a_template_that_knows_none(thinker_with_plain_template: ChatTemplate) -> None:
    scripts = [said(*THINKING_SCRIPT), thoughtful("x", "y")]
    conversation = Conversation(WatchedEngine(scripts, thinker_with_plain_template), SAMPLING)
    list(conversation.ask(QUESTION))
    list(conversation.ask("And twice that?"))
    assert ANSWER in prompt_of(conversation)
    assert THOUGHT not in prompt_of(conversation)
    assert "</think>" not in prompt_of(conversation)


@pytest.mark.parametrize("end", ["length", "cancel", "drop", "stop"])
def test_an_unfinished_thought_is_never_sent(end: str, r1: Ask) -> None:
    """Sent again, it would be an answer that ends in the middle, or a thought that the model goes on with."""
    endless = Script(("secret ", "plan ") * LONG, seconds_per_piece=0.001)
    first = (
        endless
        if end in ("cancel", "drop")
        else Script(("secret ", "plan "), finish="length" if end == "length" else "stop")
    )
    conversation = r1(first, thoughtful("x", "y"))
    events = conversation.ask(QUESTION)
    assert next(events) == ThinkDelta("secret")
    if end == "drop":
        events.close()  # type: ignore[attr-defined]
    else:
        if end == "cancel":
            conversation.cancel()
        assert not done_of(list(events)).thought_closed
    reply = conversation.turns[-1]
    assert reply.role == "assistant"
    assert reply.text == ""
    assert reply.thought is not None
    assert reply.thought.startswith("secret")
    list(conversation.ask("And twice that?"))
    prompt = prompt_of(conversation)
    assert "secret" not in prompt
    assert "plan" not in prompt
    assert prompt.count("<think>") == 1
    assert prompt.endswith("<think>\n")
    assert QUESTION in prompt


def test_a_system_prompt_is_sent_every_time(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT), said(*THINKING_SCRIPT), turns=with_system("Be brief."))
    list(conversation.ask(QUESTION))
    list(conversation.ask("Again?"))
    for number in (0, 1):
        assert prompt_of(conversation, number).count("Be brief.") == 1
    assert conversation.turns[0] == Turn("system", "Be brief.")


@pytest.mark.parametrize("text", [None, ""])
def test_no_system_prompt(text: str | None) -> None:
    assert with_system(text) == []


# Retry and clear


def test_retry_asks_the_same_again_and_forgets_the_first_reply(r1: Ask) -> None:
    conversation = r1(thoughtful("a", "first"), thoughtful("b", "second"), thoughtful("c", "third"))
    list(conversation.ask("Question one"))
    list(conversation.ask("Question two"))
    events = list(conversation.retry())
    assert answer_of(events) == "third"
    assert done_of(events).finish == "stop"
    assert [turn.text for turn in conversation.turns] == ["Question one", "first", "Question two", "third"]
    assert requests_of(conversation)[2].tokens == requests_of(conversation)[1].tokens


def test_retry_with_nothing_to_retry(r1: Ask) -> None:
    for conversation in (r1(), r1(turns=with_system("Be brief."))):
        with pytest.raises(UsageError):
            conversation.retry()


def test_a_retry_that_breaks_leaves_the_first_reply(r1: Ask) -> None:
    conversation = r1(thoughtful("a", "first"), Script(("b",), error=EngineError("it broke")))
    list(conversation.ask(QUESTION))
    with pytest.raises(EngineError):
        list(conversation.retry())
    assert [turn.text for turn in conversation.turns] == [QUESTION, "first"]


def test_retry_of_an_unfinished_reply(r1: Ask) -> None:
    conversation = r1(Script(("half",), finish="length"), thoughtful("b", "whole"))
    list(conversation.ask(QUESTION))
    list(conversation.retry())
    assert conversation.turns == [Turn("user", QUESTION), Turn("assistant", "whole", "b")]


def test_clear_keeps_the_system_prompt(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT), thoughtful("x", "y"), turns=with_system("Be brief."))
    list(conversation.ask(QUESTION))
    conversation.clear()
    assert conversation.turns == [Turn("system", "Be brief.")]
    list(conversation.ask("And now?"))
    assert "Be brief." in prompt_of(conversation)
    assert QUESTION not in prompt_of(conversation)
    assert ANSWER not in prompt_of(conversation)


def test_clear_without_a_system_prompt(r1: Ask) -> None:
    conversation = r1(said(*THINKING_SCRIPT))
    list(conversation.ask(QUESTION))
    conversation.clear()
    assert conversation.turns == []
    with pytest.raises(UsageError):
        conversation.retry()


# Figures


@pytest.mark.parametrize(
    ("pieces", "think", "answer"),
    [
        (THINKING_SCRIPT, 7, 6),  # the closing tag is part of the thought, the empty line behind it is not
        (("a", "b", "</th", "ink", ">", "c"), 5, 1),  # a closing tag of three tokens
        (("</think>", "a", "b"), 1, 2),
        (("a", "b"), 2, 0),
        (("<think>", "\n", "a", "</think>", "b"), 4, 1),  # the opening tag once more
        (("a", "", "", "</think>", "", "b"), 4, 2),  # parts of characters are tokens too
        ((), 0, 0),
    ],
)
def test_tokens_are_counted_where_they_belong(pieces: tuple[str, ...], think: int, answer: int, r1: Ask) -> None:
    stats = done_of(list(r1(said(*pieces)).ask(QUESTION))).stats
    assert (stats.think_tokens, stats.answer_tokens) == (think, answer)
    assert stats.reused_tokens == 0


def test_tokens_of_a_model_that_does_not_think(plain: Ask) -> None:
    conversation = plain(said("a", "b", "c"))
    stats = done_of(list(conversation.ask("Hi"))).stats
    assert (stats.think_tokens, stats.answer_tokens) == (0, 3)
    assert stats.think_seconds == 0
    assert stats.prompt_tokens == len(prompt_of(conversation))


def test_tokens_of_a_thought_that_the_model_opens_itself(plain: Ask) -> None:
    stats = done_of(list(plain(said("<think>", "a", "b", "</think>", "c", "d")).ask("Hi"))).stats
    assert (stats.think_tokens, stats.answer_tokens) == (4, 2)


def test_times_are_plausible(r1: Ask) -> None:
    """13 tokens, at least 3 ms each, as sleeping never ends early. The thought is the first 7."""
    pause = 0.003
    stats = done_of(list(r1(Script(THINKING_SCRIPT, seconds_per_piece=pause)).ask(QUESTION))).stats
    assert stats.time_to_first_token >= pause
    assert stats.think_seconds >= 6 * pause
    assert stats.total_seconds >= 13 * pause
    assert stats.time_to_first_token + stats.think_seconds + 6 * pause <= stats.total_seconds + 1e-6
    assert 0 < stats.decode_tokens_per_second <= 1 / pause
    assert stats.prefill_tokens_per_second == 0  # the script measures none


def reader_stats(pieces: Sequence[Piece], outcome: Outcome) -> Done:
    reader = ReplyReader(thought_open=True)
    for piece in pieces:
        reader.feed(piece)
    done = reader.finish(outcome)[-1]
    assert isinstance(done, Done)
    return done


def test_times_are_exact_where_the_clock_is_known() -> None:
    """Asked at 100; the first token at 102; a thought until 105; five tokens, so four steps, until 106."""
    pieces = [
        Piece("a", 1, 102.0),
        Piece("b", 1, 104.0),
        Piece("</think>", 1, 105.0),
        Piece("c", 1, 105.5),
        Piece("d", 1, 106.0),
    ]
    outcome = Outcome(
        "stop", prompt_tokens=50, reused_tokens=20, submitted_at=100.0, first_token_at=102.0, ended_at=106.25,
        prefill_seconds=1.5,
    )  # fmt: skip
    stats = reader_stats(pieces, outcome).stats
    assert dataclasses.asdict(stats) == {
        "prompt_tokens": 50,
        "reused_tokens": 20,
        "think_tokens": 3,
        "answer_tokens": 2,
        "time_to_first_token": 2.0,
        "prefill_tokens_per_second": 20.0,
        "decode_tokens_per_second": 1.0,
        "think_seconds": 3.0,
        "total_seconds": 6.25,
    }


def test_no_division_by_nothing() -> None:
    """No token at all, and one token only: neither has a speed."""
    none = reader_stats([], Outcome("cancelled", prompt_tokens=50, submitted_at=100.0, ended_at=101.0)).stats
    assert none.decode_tokens_per_second == none.time_to_first_token == none.think_seconds == 0
    assert none.total_seconds == 1.0
    one = reader_stats(
        [Piece("a", 1, 102.0)], Outcome("stop", submitted_at=100.0, first_token_at=102.0, ended_at=103.0)
    ).stats
    assert one.decode_tokens_per_second == 0
    assert one.time_to_first_token == 2.0


def test_text_that_comes_with_the_end_is_no_token() -> None:
    """What was held back for a stop text comes in a piece of no tokens, at the end: it is text, and takes no time."""
    pieces = [Piece("a", 1, 101.0), Piece("</think>", 1, 102.0), Piece("b", 1, 103.0), Piece("STO", 0, 103.0)]
    reader = ReplyReader(thought_open=True)
    events = [event for piece in pieces for event in reader.feed(piece)]
    events += reader.finish(Outcome("stop", submitted_at=100.0, first_token_at=101.0, ended_at=103.0))
    assert answer_of(events) == "bSTO"
    stats = done_of(events).stats
    assert (stats.think_tokens, stats.answer_tokens) == (2, 1)
    assert stats.decode_tokens_per_second == 1.0
    assert reader.turn(complete=True) == Turn("assistant", "bSTO", "a")


def test_readers_of_two_streams_do_not_mix() -> None:
    one, two = ReplyReader(thought_open=True), ReplyReader(thought_open=False)
    one.feed(Piece("thought", 1, 0.0))
    two.feed(Piece("answer", 1, 0.0))
    assert (one.thinking, two.thinking) == (True, False)
    assert (one.thought, one.answer, one.think_tokens) == ("thought", "", 1)
    assert (two.thought, two.answer, two.think_tokens) == ("", "answer", 0)


def test_a_question_without_an_answer_is_asked_with_the_next_one(r1: Ask) -> None:
    """No empty answer to learn from, and no two questions in a row, which templates garble."""
    conversation = r1(Script(("secret ", "plan "), finish="length"), thoughtful("x", "y"))
    list(conversation.ask("First?"))
    list(conversation.ask("Second?"))
    assert prompt_of(conversation) == "<｜User｜>First?\n\nSecond?<｜Assistant｜><think>\n"
    assert [turn.text for turn in conversation.turns] == ["First?", "", "Second?", "y"]

"""Streams and the scripted engine: pieces in order, one end, errors once, and many streams as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from r1local.chat_types import Sampling
from r1local.engine.scripted import Script, ScriptedEngine
from r1local.engine.stream import Outcome, Piece, Request, Stream, merge
from r1local.errors import ContextFull, EngineError, ExitCode, R1Error
from r1local.template import ChatTemplate, Segment

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, min_p=0)
END = Outcome("stop")


def piece(text: str) -> Piece:
    return Piece(text, 1, 0.0)


def filled(*items: Piece | Outcome | R1Error) -> Stream:
    stream = Stream()
    for item in items:
        stream.put(item)
    return stream


def in_time(work: Callable[[], object], seconds: float = 10) -> None:
    """Run `work` elsewhere and fail where it waits without end, in place of a test run that hangs."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits without end"
    if errors:
        raise errors[0]


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    template = ChatTemplate(None)
    yield template
    template.close()


def request(**options: object) -> Request:
    return Request([1, 2, 3], GREEDY, **options)  # type: ignore[arg-type]


# One stream


def test_pieces_come_in_order_and_then_the_outcome() -> None:
    stream = filled(piece("a"), piece("b"), piece("c"), END)
    assert stream.outcome is None
    assert [item.text for item in stream] == ["a", "b", "c"]
    assert stream.outcome is END


def test_the_end_stays_the_end() -> None:
    stream = filled(piece("a"), END)
    assert list(stream) == [piece("a")]
    in_time(lambda: [list(stream), list(stream)])
    with pytest.raises(StopIteration):
        next(stream)


def test_a_stream_of_nothing() -> None:
    stream = filled(END)
    assert list(stream) == []
    assert stream.outcome is END


def test_an_error_is_raised_once_behind_the_pieces() -> None:
    error = EngineError("it broke")
    stream = filled(piece("a"), error)
    assert next(stream) == piece("a")
    with pytest.raises(EngineError) as caught:
        next(stream)
    assert caught.value is error
    with pytest.raises(StopIteration):
        next(stream)
    assert stream.outcome is None


def test_iterating_waits_for_what_comes_later() -> None:
    stream = Stream()
    read: list[str] = []
    seen = threading.Event()

    def reader() -> None:
        for item in stream:
            read.append(item.text)
            seen.set()

    thread = threading.Thread(target=reader)
    thread.start()
    stream.put(piece("a"))
    assert seen.wait(10)
    assert stream.outcome is None
    stream.put(piece("b"))
    stream.put(END)
    thread.join(10)
    assert read == ["a", "b"]
    assert stream.outcome is END


def test_cancel_asks_the_engine_and_takes_nothing_back() -> None:
    asked: list[Stream] = []
    stream = Stream(on_cancel=asked.append)
    stream.put(piece("a"))
    stream.cancel()
    assert asked == [stream]
    stream.put(Outcome("cancelled"))
    assert list(stream) == [piece("a")]
    assert stream.outcome == Outcome("cancelled")


def test_cancel_without_an_engine_does_nothing() -> None:
    stream = filled(END)
    stream.cancel()
    assert list(stream) == []


def test_streams_can_be_told_apart() -> None:
    """Two streams that hold the same are two streams: as keys, and in a set."""
    assert len({Stream(), Stream(), Stream()}) == 3


# Many streams as one


def by_stream(items: Sequence[tuple[Stream, object]], stream: Stream) -> list[object]:
    return [item for owner, item in items if owner is stream]


def test_merge_of_none() -> None:
    in_time(lambda: list(merge([])))


def test_merge_of_streams_that_hold_everything_already() -> None:
    one, two = filled(piece("a"), piece("b"), END), filled(piece("c"), Outcome("length"))
    items = list(merge([one, two]))
    assert by_stream(items, one) == [piece("a"), piece("b"), END]
    assert by_stream(items, two) == [piece("c"), Outcome("length")]
    assert (one.outcome, two.outcome) == (END, Outcome("length"))


def test_merge_hands_an_error_over_and_goes_on() -> None:
    error = EngineError("it broke")
    bad, good = filled(piece("a"), error), Stream()
    items: list[tuple[Stream, object]] = []
    merged = merge([bad, good])
    items += [next(merged), next(merged)]
    assert items == [(bad, piece("a")), (bad, error)]
    good.put(piece("b"))
    good.put(END)
    items += merged
    assert by_stream(items, good) == [piece("b"), END]
    assert bad.outcome is None
    with pytest.raises(StopIteration):
        next(bad)


def test_merge_of_a_stream_that_was_read_in_part() -> None:
    """What was read stays read; the rest comes, what was there before as well as what follows."""
    stream, other = filled(piece("a"), piece("b"), piece("c")), filled(END)
    assert next(stream) == piece("a")
    merged = merge([stream, other])
    first = [next(merged) for _ in range(3)]
    stream.put(piece("d"))
    stream.put(END)
    assert by_stream([*first, *merged], stream) == [piece("b"), piece("c"), piece("d"), END]


def test_merge_of_a_stream_that_has_ended_already() -> None:
    """There is nothing more to wait for; its outcome is still handed over, as for each."""
    stream, other = filled(END), filled(piece("a"), END)
    assert list(stream) == []
    items: list[tuple[Stream, object]] = []
    in_time(lambda: items.extend(merge([stream, other])), seconds=1)
    assert by_stream(items, stream) == [END]
    assert by_stream(items, other) == [piece("a"), END]


def test_merge_gives_items_as_they_come() -> None:
    """Not one stream after the other: the later stream may be the faster one."""
    slow, fast = Stream(), Stream()
    merged = merge([slow, fast])
    fast.put(piece("1"))
    assert next(merged) == (fast, piece("1"))
    slow.put(piece("2"))
    assert next(merged) == (slow, piece("2"))
    fast.put(END)
    assert next(merged) == (fast, END)
    slow.put(END)
    assert next(merged) == (slow, END)
    assert list(merged) == []


@pytest.mark.parametrize("count", [1, 8])
def test_merge_loses_and_mixes_nothing_while_others_write(count: int) -> None:
    """Writers are at work while merge takes the streams over: the moment at which an item could be lost."""
    length = 300
    streams = [Stream() for _ in range(count)]
    start = threading.Barrier(count + 1)

    def write(stream: Stream) -> None:
        start.wait()
        for number in range(length):
            stream.put(piece(str(number)))
        stream.put(END)

    threads = [threading.Thread(target=write, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    items: list[tuple[Stream, object]] = []

    def read() -> None:
        start.wait()
        items.extend(merge(streams))

    in_time(read)
    for thread in threads:
        thread.join(10)
    expected = [*(piece(str(number)) for number in range(length)), END]
    for stream in streams:
        assert by_stream(items, stream) == expected


# The scripted engine


def test_a_script_is_played(template: ChatTemplate) -> None:
    engine = ScriptedEngine([Script(("Hel", "lo", "🎉"))], template)
    asked = request()
    stream = engine.submit(asked)
    assert [(item.text, item.tokens) for item in stream] == [("Hel", 1), ("lo", 1), ("🎉", 1)]
    assert engine.requests == [asked]
    outcome = stream.outcome
    assert outcome is not None
    assert (outcome.finish, outcome.note, outcome.prompt_tokens) == ("stop", "", 3)
    assert outcome.first_token_at is not None
    assert outcome.submitted_at <= outcome.first_token_at <= outcome.ended_at


def test_scripts_are_played_one_after_the_other(template: ChatTemplate) -> None:
    engine = ScriptedEngine([Script(("one",)), Script(("two",), finish="length", note="enough")], template)
    first, second = engine.submit(request()), engine.submit(request())
    assert [item.text for item in second] == ["two"]
    assert [item.text for item in first] == ["one"]
    assert second.outcome is not None
    assert (second.outcome.finish, second.outcome.note) == ("length", "enough")


def test_a_script_can_break(template: ChatTemplate) -> None:
    stream = ScriptedEngine([Script(("a", "b"), error=EngineError("it broke"))], template).submit(request())
    assert [next(stream).text, next(stream).text] == ["a", "b"]
    with pytest.raises(EngineError, match="it broke"):
        next(stream)


@pytest.mark.parametrize(("limit", "finish"), [(2, "length"), (3, "stop"), (None, "stop")])
def test_a_script_keeps_to_max_tokens(limit: int | None, finish: str, template: ChatTemplate) -> None:
    stream = ScriptedEngine([Script(("a", "b", "c"))], template).submit(request(max_tokens=limit))
    assert [item.text for item in stream] == ["a", "b", "c"][:limit]
    assert stream.outcome is not None
    assert stream.outcome.finish == finish
    assert ("2" in stream.outcome.note) == (finish == "length")


def test_a_script_keeps_to_stop_texts(template: ChatTemplate) -> None:
    stream = ScriptedEngine([Script(("a ST", "OP b", "c"))], template).submit(request(stop=("STOP",)))
    assert "".join(item.text for item in stream) == "a "
    assert stream.outcome is not None
    assert stream.outcome.finish == "stop"


def test_what_was_held_back_for_a_stop_text_comes_in_the_end(template: ChatTemplate) -> None:
    stream = ScriptedEngine([Script(("a ", "STO"))], template).submit(request(stop=("STOP",)))
    pieces = list(stream)
    assert "".join(item.text for item in pieces) == "a STO"
    assert sum(item.tokens for item in pieces) == 2


def test_a_prompt_as_long_as_the_context_is_refused(template: ChatTemplate) -> None:
    engine = ScriptedEngine([Script(("a",))], template, n_ctx=3)
    with pytest.raises(ContextFull) as caught:
        engine.submit(request())
    assert caught.value.exit_code == ExitCode.CONTEXT_FULL
    assert engine.requests == []


def test_a_token_is_a_character(template: ChatTemplate) -> None:
    engine = ScriptedEngine([], template)
    assert engine.encode([Segment("a", True), Segment("é🎉", False)]) == [0x61, 0xE9, 0x1F389]


def test_cancel_from_another_thread(template: ChatTemplate) -> None:
    engine = ScriptedEngine([Script(("x",) * 20_000, seconds_per_piece=0.001)], template)
    stream = engine.submit(request())
    read = [next(stream)]
    threading.Thread(target=stream.cancel).start()
    in_time(lambda: read.extend(stream))
    assert 1 <= len(read) < 20_000
    assert stream.outcome is not None
    assert stream.outcome.finish == "cancelled"


def test_cancel_of_one_of_several(template: ChatTemplate) -> None:
    endless = Script(("x",) * 20_000, seconds_per_piece=0.001)
    engine = ScriptedEngine([endless, Script(("a", "b", "c"))], template)
    long, short = engine.submit(request()), engine.submit(request())
    items: list[tuple[Stream, object]] = []

    def read() -> None:
        for stream, item in merge([long, short]):
            items.append((stream, item))
            if isinstance(item, Outcome) and stream is short:
                long.cancel()

    in_time(read)
    assert [item.text for item in by_stream(items, short) if isinstance(item, Piece)] == ["a", "b", "c"]
    assert short.outcome is not None
    assert long.outcome is not None
    assert (short.outcome.finish, long.outcome.finish) == ("stop", "cancelled")

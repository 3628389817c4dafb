"""What goes to stdout and what to stderr, that neither harms a terminal, and how figures are written."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wcwidth import wcswidth

from r1local.chat_types import ThinkMode
from r1local.cli import output as output_module
from r1local.cli import reply as reply_module
from r1local.cli.output import Output, fit, size
from r1local.cli.reply import ReplyView, stats_line
from r1local.errors import EngineError, UsageError
from r1local.events import AnswerDelta, Done, Event, Stats, ThinkDelta, as_json
from r1local.units import seconds

MODES: tuple[ThinkMode, ...] = ("show", "fold", "hide", "only")
every_mode = pytest.mark.parametrize("mode", MODES)

# What no terminal may get from a model: all control characters but newline and tab, and what turns text around
# or hides it.
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff]")
# What Output itself says to a terminal: dim, not dim, to the start of the line, erase to its end.
OWN = re.compile("\x1b\\[2m|\x1b\\[22m|\r|\x1b\\[K")
ATTACKS = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07after",
    "clipboard": "\x1b]52;c;ZXZpbA==\x1b\\after",
    "clear": "\x1b[2J\x1b[Hafter",
    "eight-bit": "\x9b31mred\x9d0;x\x9cafter",
    "overwrite": "good\rbad ",
    "backspace": "good\b\b\b\bbad",
    "bell and shift": "\x07\x0e\x0f\x7fafter",
    "bidi": "\u202egnp.exe\u202c after",
    "zero width": "pass\u200bword\ufeff after",
}


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(output: Output, mode: ThinkMode, events: Sequence[Event]) -> Done:
    """Show the events; each piece of thought is one token."""
    seen: list[Event] = []

    def coming() -> Iterator[Event]:
        for event in events:
            seen.append(event)
            yield event

    return ReplyView(output, mode, lambda: sum(isinstance(event, ThinkDelta) for event in seen)).play(coming())


class Sink:
    """Output on two streams, each a terminal or not."""

    def __init__(self, *, stdout: bool = False, stderr: bool = False, raw: bool = False) -> None:
        self._stdout = FakeTerminal() if stdout else io.StringIO()
        self._stderr = FakeTerminal() if stderr else io.StringIO()
        self.output = Output(raw=raw, stdout=self._stdout, stderr=self._stderr)

    @property
    def data(self) -> str:
        return self._stdout.getvalue()

    @property
    def talk(self) -> str:
        return self._stderr.getvalue()

    def play(self, mode: ThinkMode, events: Sequence[Event]) -> Done:
        try:
            return play(self.output, mode, events)
        finally:
            self.output.close()


class Screen:
    """One terminal that both streams write to, as a person would see it."""

    def __init__(self, columns: int = 60) -> None:
        self._screen = pyte.Screen(columns, 12)
        stream = pyte.Stream(self._screen)

        class Half(FakeTerminal):
            def write(self, text: str) -> int:
                stream.feed(text.replace("\n", "\r\n"))
                return len(text)

        self.output = Output(stdout=Half(), stderr=Half())

    @property
    def lines(self) -> list[str]:
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")


def reply(thought: Sequence[str], answer: Sequence[str], **end: object) -> list[Event]:
    """The events of a reply; `end` are fields of its Done."""
    done = Done("stop", Stats(think_tokens=len(thought) + 1, answer_tokens=len(answer), think_seconds=15.2))
    return [*map(ThinkDelta, thought), *map(AnswerDelta, answer), dataclasses.replace(done, **end)]  # type: ignore[arg-type]


USUAL = reply(["Let me", " add", " the tens..."], ["47 + 85", " = **132**"])


# The four ways to show a thought


@pytest.mark.parametrize(
    ("mode", "data", "talk"),
    [
        ("show", "47 + 85 = **132**\n", "Let me add the tens...\n\n"),
        ("fold", "47 + 85 = **132**\n", "Thought for 0.0 s, 3 tokens\n"),
        ("hide", "47 + 85 = **132**\n", ""),
        ("only", "Let me add the tens...\n", ""),
    ],
)
def test_what_goes_where(mode: ThinkMode, data: str, talk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_module, "time", SimpleNamespace(perf_counter=lambda: 100.0))
    sink = Sink()
    assert sink.play(mode, USUAL) is USUAL[-1]
    assert (sink.data, sink.talk) == (data, talk)


@every_mode
def test_where_nothing_is_a_terminal_no_escape_is_written(mode: ThinkMode) -> None:
    sink = Sink()
    sink.play(mode, USUAL)
    assert "\x1b" not in sink.data + sink.talk
    assert "\r" not in sink.data + sink.talk


@every_mode
def test_data_is_the_same_on_a_terminal(mode: ThinkMode) -> None:
    """And holds no escapes there either: colour and the live line belong to stderr."""
    piped, shown = Sink(), Sink(stdout=True, stderr=True)
    piped.play(mode, USUAL)
    shown.play(mode, USUAL)
    assert shown.data == piped.data


@every_mode
def test_an_answer_without_a_thought(mode: ThinkMode) -> None:
    sink = Sink()
    sink.play(mode, reply([], ["Hello", " there"]))
    assert sink.data == ("" if mode == "only" else "Hello there\n")
    assert sink.talk == ""


def test_a_folded_thought_says_how_long_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first piece to the answer; waiting for the first piece is no thinking."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(reply_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def events() -> Iterator[Event]:
        clock.now = 130.0
        yield from map(ThinkDelta, ["so "] * 1204)
        clock.now = 145.0
        yield AnswerDelta("132")
        clock.now = 200.0
        yield Done("stop", Stats())

    sink = Sink()
    sink.play("fold", events())  # type: ignore[arg-type]
    assert sink.talk == "Thought for 15 s, 1,204 tokens\n"


def test_a_folded_thought_that_never_ended_says_so_too() -> None:
    sink = Sink()
    sink.play("fold", reply(["a", "b"], [], finish="length", note="the context is full", thought_closed=False))
    assert sink.data == ""
    assert sink.talk.startswith("Thought for 15 s, 3 tokens\n")


@every_mode
def test_a_reply_that_ended_inside_its_thought_says_what_to_do(mode: ThinkMode) -> None:
    sink = Sink()
    sink.play(mode, reply(["a"], [], finish="length", note="the limit of 5 tokens was reached", thought_closed=False))
    assert "Stopped: the limit of 5 tokens was reached.\n" in sink.talk
    assert "--max-tokens" in sink.talk
    assert sink.talk.endswith("\n")


@every_mode
def test_a_cancelled_reply_says_so_and_gives_no_advice(mode: ThinkMode) -> None:
    sink = Sink()
    sink.play(mode, reply(["a"], [], finish="cancelled", thought_closed=False))
    assert "Stopped.\n" in sink.talk
    assert "--max-tokens" not in sink.talk


@every_mode
def test_a_reply_that_breaks_is_ended_tidily(mode: ThinkMode) -> None:
    """Lines are ended and the live line is gone before the error is shown."""

    def events() -> Iterator[Event]:
        yield ThinkDelta("Let me")
        if mode in ("fold", "hide"):
            yield AnswerDelta("47")
        raise EngineError("it broke")

    sink = Sink(stderr=True)
    with pytest.raises(EngineError, match="it broke"):
        sink.play(mode, events())  # type: ignore[arg-type]
    assert sink.data in ("", "47\n", "Let me\n")
    screen = OWN.sub("", sink.talk.rpartition("\x1b[K")[2])
    assert screen == "" or screen.endswith("\n")


def test_a_thought_is_dimmed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(stderr=True)
    sink.play("show", USUAL)
    assert "\x1b[2mLet me\x1b[22m" in sink.talk
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            plain = Sink(stderr=True)
            plain.play("show", USUAL)
        assert "\x1b[2m" not in plain.talk
        assert "Let me add the tens...\n" in plain.talk


# Harm


@every_mode
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("terminal", [False, True], ids=["piped", "terminal"])
def test_a_model_cannot_speak_to_the_terminal(mode: ThinkMode, attack: str, terminal: bool) -> None:
    """In thought and answer, on both streams, whole and byte by byte; the letters of it are still there."""
    for cut in ([attack], list(attack)):
        sink = Sink(stdout=terminal, stderr=terminal)
        sink.play(mode, reply(cut, cut))
        assert not HARMFUL.search(sink.data)
        assert not HARMFUL.search(OWN.sub("", sink.talk))
        letters = "".join(char for char in attack if char.isalpha())
        shown = [sink.data] if mode != "show" else [sink.data, OWN.sub("", sink.talk)]
        for text in shown:
            without_marks = re.sub(r"⟨U\+[0-9A-F]+⟩|\^[@-_?]", "", text)
            assert letters in "".join(char for char in without_marks if char.isalpha())


@settings(deadline=None)
@given(
    text=st.text(st.characters() | st.sampled_from("\x1b\r\n\x9b\u202e\u200d[m"), max_size=12),
    places=st.lists(st.integers(0, 12), max_size=4),
    mode=st.sampled_from(MODES),
)
@example(text="a\rb", places=[2], mode="show")
def test_no_text_at_all_harms(text: str, places: list[int], mode: ThinkMode) -> None:
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    sink = Sink()
    sink.play(mode, reply(pieces, pieces))
    assert not HARMFUL.search(sink.data + sink.talk)


def test_a_note_and_a_line_of_talk_are_cleaned_too() -> None:
    sink = Sink()
    sink.play("hide", reply([], ["x"], finish="length", note="\x1b[31mred"))
    sink.output.line("file \x1b]0;owned\x07.gguf")
    assert not HARMFUL.search(sink.talk)
    assert "owned" in sink.talk


def test_windows_line_ends_become_plain_ones() -> None:
    sink = Sink()
    for piece in ("one\r", "\ntwo\r\n", "three"):
        sink.output.data(piece)
    sink.output.end_data()
    assert sink.data == "one\ntwo\nthree\n"


# Raw


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_raw_keeps_data_and_still_cleans_talk(attack: str) -> None:
    sink = Sink(raw=True)
    sink.play("show", reply([attack], [attack, "\r\n"]))
    assert sink.data == attack + "\r\n"
    assert not HARMFUL.search(sink.talk)


def test_raw_keeps_a_thought_that_is_data() -> None:
    sink = Sink(raw=True)
    sink.play("only", reply(["\x1b[31mred\r"], ["no"]))
    assert sink.data == "\x1b[31mred\r\n"


@pytest.mark.parametrize("stderr", [False, True])
def test_raw_is_refused_on_a_terminal(stderr: bool) -> None:
    with pytest.raises(UsageError, match="--raw"):
        Sink(raw=True, stdout=True, stderr=stderr)
    Sink(raw=True, stdout=False, stderr=stderr)


# JSON


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_holds_the_true_text_and_does_no_harm(attack: str, indent: int | None) -> None:
    sink = Sink(stdout=True)
    events = [as_json(event) for event in reply([attack], [attack, "字🎉é"])]
    for event in events:
        sink.output.json(event, indent=indent)
    assert not HARMFUL.search(sink.data)
    decoder, position, read = json.JSONDecoder(), 0, []
    while position < len(sink.data):
        value, position = decoder.raw_decode(sink.data, position)
        read.append(value)
        position += 1  # the newline behind each
    assert read == events
    assert [event["text"] for event in read[:-1]] == [attack, attack, "字🎉é"]
    if indent is None:
        assert sink.data.count("\n") == len(events)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=20))
@example("\ud800 alone")
@example("\U000e0041\u202e\x1b")
def test_json_of_any_text(text: str) -> None:
    sink = Sink()
    sink.output.json({text: text})
    assert json.loads(sink.data) == json.loads(json.dumps({text: text}))
    assert not HARMFUL.search(sink.data)
    sink.data.encode()


def test_json_leaves_letters_readable() -> None:
    sink = Sink()
    sink.output.json({"text": "Größe 字 🎉"})
    assert "Größe 字 🎉" in sink.data


# Lines


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a"], "a\n"),
        (["a\n"], "a\n"),
        (["a", "\n"], "a\n"),
        (["a\n\n"], "a\n\n"),
        ([], ""),
        ([""], ""),
        (["a\r"], "a^M\n"),
    ],
)
def test_data_ends_with_a_line_end(pieces: list[str], expected: str) -> None:
    sink = Sink()
    for piece in pieces:
        sink.output.data(piece)
    sink.output.end_data()
    assert sink.data == expected


def test_talk_does_not_cut_into_data_of_a_pipe_and_does_on_a_terminal() -> None:
    """On a terminal both are one picture, so talk begins a line of its own."""
    for terminal, expected in ((False, "some data"), (True, "some data\n")):
        sink = Sink(stdout=terminal)
        sink.output.data("some data")
        sink.output.line("a word")
        assert (sink.data, sink.talk) == (expected, "a word\n")


def test_a_line_ends_running_talk_first() -> None:
    sink = Sink()
    sink.output.talk("running")
    sink.output.line("a word")
    assert sink.talk == "running\na word\n"


def test_an_encoding_without_the_letters_shows_marks() -> None:
    """A terminal in the C locale gets a question mark for what it cannot show, and no traceback."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict", newline="")
    output = Output(stdout=stream, stderr=io.StringIO())
    output.data("a字🎉\ud800b")
    output.end_data()
    assert re.fullmatch(rb"a\?\?\?b\n", raw.getvalue())
    stream.close()


# The picture on a terminal


@pytest.mark.parametrize(
    ("mode", "lines"),
    [
        ("show", ["Let me add the tens...", "", "47 + 85 = **132**"]),
        ("fold", ["Thought for 0.0 s, 3 tokens", "47 + 85 = **132**"]),
        ("hide", ["47 + 85 = **132**"]),
        ("only", ["Let me add the tens..."]),
    ],
)
def test_the_picture(mode: ThinkMode, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_module, "time", SimpleNamespace(perf_counter=lambda: 100.0))
    screen = Screen()
    play(screen.output, mode, USUAL)
    screen.output.close()
    assert screen.lines == lines


def test_the_live_line_gives_way_to_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "_REDRAW_SECONDS", 60)
    screen = Screen()
    output = screen.output
    output.line("first")
    output.status(lambda: "a live line that is rather long")
    assert screen.lines == ["first", "a live line that is rather long"]
    output.line("second")
    assert screen.lines == ["first", "second"]
    output.status(lambda: "another")
    output.data("data\n")
    assert screen.lines == ["first", "second", "data"]
    output.status(lambda: "a longer one")
    output.status(lambda: "short")
    assert screen.lines == ["first", "second", "data", "short"]
    output.status(None)
    assert screen.lines == ["first", "second", "data"]
    output.close()


@pytest.mark.parametrize("columns", [10, 20, 40])
def test_the_live_line_never_wraps(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrapped, its first half would stay on the screen for ever."""
    monkeypatch.setattr(output_module, "_REDRAW_SECONDS", 60)
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Screen(columns)
    screen.output.status(lambda: "答え the answer\nis\x1b[2J 字字字字字字字字字字字字字字字字字字")
    (line,) = screen.lines
    assert line.startswith("答え the")
    screen.output.status(None)
    assert screen.lines == [""]
    screen.output.close()


def test_the_live_line_is_drawn_again_and_ends_with_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "_REDRAW_SECONDS", 0.001)
    sink = Sink(stderr=True)
    drawn = 0
    enough = threading.Event()

    def text() -> str:
        nonlocal drawn
        drawn += 1
        if drawn >= 5:
            enough.set()
        return f"drawn {drawn}"

    sink.output.status(text)
    assert enough.wait(10)
    sink.output.close()
    assert "drawn 5" in sink.talk
    assert sink.talk.endswith("\r\x1b[K")
    assert not [thread for thread in threading.enumerate() if thread.name == "status line"]


def test_without_a_terminal_there_is_no_live_line() -> None:
    sink = Sink()
    sink.output.status(lambda: pytest.fail("it was asked for"))
    sink.output.close()
    assert sink.talk == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "status line"]


# Figures


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("", 5, ""),
        ("short", 10, "short"),
        ("exact", 5, "exact"),
        ("abcdefghij", 5, "abcd…"),
        ("abcdefghij", 1, "…"),
        ("数学", 4, "数学"),
        ("数学の答え", 5, "数学…"),
        ("数学の答え", 4, "数…"),  # half of a wide character cannot be shown
        ("e\u0301" * 6, 6, "e\u0301" * 6),
        ("e\u0301" * 6, 4, "e\u0301" * 3 + "…"),
    ],
)
def test_fit(text: str, columns: int, expected: str) -> None:
    assert fit(text, columns) == expected


@settings(deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["a", "字", "é", "e\u0301", "🎉", "❤️", "1️⃣", "👨‍👩‍👧", "👍🏽", "🇩🇪", " "]), max_size=15
    ).map("".join),
    columns=st.integers(1, 20),
)
def test_fit_keeps_to_the_columns(text: str, columns: int) -> None:
    fitted = fit(text, columns)
    assert wcswidth(fitted) <= columns
    assert fitted == text or text.startswith(fitted.removesuffix("…"))
    if wcswidth(text) <= columns:
        assert fitted == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (4.2, "4.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (15.2, "15 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (3840, "1 h 4 min"),
        (90000, "25 h 0 min"),
    ],
)
def test_seconds(value: float, expected: str) -> None:
    assert seconds(value) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (1024**2 - 1, "1.0 MiB"),  # not 1024.0 KiB
        (1024**3 - 1, "1.0 GiB"),
        (4_683_073_248, "4.4 GiB"),
        (2 * 1024**4, "2048.0 GiB"),
    ],
)
def test_size(count: int, expected: str) -> None:
    assert size(count) == expected


def test_the_line_of_figures() -> None:
    stats = Stats(
        prompt_tokens=1234, reused_tokens=1000, think_tokens=5678, answer_tokens=90, time_to_first_token=0.25,
        prefill_tokens_per_second=321.4, decode_tokens_per_second=12.34, think_seconds=125, total_seconds=130,
    )  # fmt: skip
    assert stats_line(stats).split(" · ") == [
        "prompt 1,234 tokens (1,000 from cache)",
        "thought 5,678 tokens in 2 min 5 s",
        "answer 90 tokens",
        "first token 0.25 s",
        "prefill 321 tok/s",
        "decode 12.3 tok/s",
    ]


def test_the_line_of_figures_leaves_out_what_was_not_measured() -> None:
    line = stats_line(Stats(prompt_tokens=10, answer_tokens=5))
    assert line.split(" · ") == ["prompt 10 tokens", "answer 5 tokens", "first token 0.00 s"]

"""The chat on a real pseudo-terminal: what a person sees, at the width they have."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.terminal]


class Screen:
    """r1local on a terminal of so many columns, and a model of that terminal."""

    def __init__(self, arguments: list[str], *, columns: int = 80, rows: int = 24) -> None:
        environment = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
        environment.pop("COLUMNS", None)
        environment.pop("LINES", None)
        self.process = pexpect.spawn(
            sys.executable, ["-m", "r1local", *arguments], env=environment, dimensions=(rows, columns), timeout=30
        )
        self._screen = pyte.HistoryScreen(columns, rows, history=2000)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    def pump(self, seconds: float = 0.05) -> None:
        try:
            data = self.process.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            return
        self.raw += data
        self._stream.feed(data)

    @property
    def text(self) -> str:
        past = ["".join(line[x].data for x in sorted(line)) for line in self._screen.history.top]
        # Its own `display` fails on the half of a wide character that was left when the other was overwritten.
        columns, lines, buffer = self._screen.columns, self._screen.lines, self._screen.buffer
        now = ["".join(buffer[y][x].data for x in range(columns)) for y in range(lines)]
        return "\n".join(line.rstrip() for line in [*past, *now])

    @property
    def title(self) -> str:
        return str(self._screen.title)

    def until(self, seen: str | Callable[[str], bool], seconds: float = 30) -> str:
        """Read until the screen shows it."""
        test = seen if callable(seen) else lambda text: seen in text
        deadline = time.monotonic() + seconds
        while not test(self.text):
            if time.monotonic() > deadline or (not self.process.isalive() and self.pump() is None):
                break
            self.pump()
        assert test(self.text), f"not on the screen: {seen!r}\n{self.text}"
        return self.text

    def type(self, keys: str) -> None:
        self.process.send(keys)

    def wait(self) -> int | None:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + 30
        while self.process.isalive() and time.monotonic() < deadline:
            self.pump()
        self.pump()
        self.process.close()
        return self.process.exitstatus


@pytest.fixture
def start() -> Iterator[Callable[..., Screen]]:
    screens: list[Screen] = []

    def begin(*arguments: str | Path, **options: int) -> Screen:
        screens.append(Screen([str(argument) for argument in arguments], **options))
        return screens[-1]

    yield begin
    for screen in screens:
        screen.process.close(force=True)


Start = Callable[..., Screen]


@pytest.mark.parametrize("columns", [20, 40, 120])
def test_one_question(start: Start, thinking_model: Path, columns: int) -> None:
    """The live lines leave nothing behind, at any width: the fold, then the answer."""
    screen = start("chat", "-m", thinking_model, "What is 47 + 85?", columns=columns)
    assert screen.wait() == 0
    lines = [line for line in screen.text.splitlines() if line.strip()]
    joined = " ".join(lines)
    assert "47 + 85 = **132**" in joined
    assert "Thought for" in joined
    assert "Loading" not in joined
    assert "Reading" not in joined
    assert max(map(len, lines)) <= columns


def test_a_live_line_while_it_thinks(start: Start, endless_model: Path) -> None:
    screen = start("chat", "-m", endless_model, "--ctx", "65536", "?", columns=40)
    screen.until(lambda text: "Thinking" in text and "tokens" in text)
    screen.process.sendintr()
    screen.wait()
    assert screen.process.exitstatus in (0, 130)
    thinking = [line for line in screen.text.splitlines() if "Thinking" in line]
    assert thinking == [], "the live line is gone at the end"


def test_conversation(start: Start, thinking_model: Path, tmp_path: Path) -> None:
    """From the first question through every command to the end."""
    screen = start("chat", "--plain", "-m", thinking_model, columns=100, rows=60)
    screen.until("/help for commands")
    screen.type("What is 47 + 85?\r")
    screen.until("47 + 85 = **132**")
    screen.type("/think\r")
    screen.until("Let me add the tens...")
    screen.type("/think show\r")
    screen.until("Thoughts: show.")
    screen.type("/retry\r")
    screen.until(lambda text: text.count("Let me add the tens...") == 2)
    screen.type("/stats\r")
    screen.until("decode")
    screen.type(f"/save {tmp_path / 'chat.md'}\r")
    screen.until("Saved 2 turns")
    screen.type(f"/save {tmp_path / 'chat.md'}\r")
    screen.until("exists already")
    screen.type("/halp\r")
    screen.until("Did you mean /help?")
    screen.type("/help\r")
    screen.until("Alt-Enter")
    screen.type("/clear\r")
    screen.until("forgotten")
    screen.type("/retry\r")
    screen.until("nothing to retry")
    screen.type("/quit\r")
    assert screen.wait() == 0
    saved = (tmp_path / "chat.md").read_text()
    assert "47 + 85 = **132**" in saved
    assert "Let me add the tens..." in saved


def test_interrupt_stops_the_reply_and_keeps_the_conversation(start: Start, endless_model: Path) -> None:
    screen = start("chat", "--plain", "-m", endless_model, "--ctx", "65536", "--think", "show", columns=100, rows=30)
    screen.until("/help for commands")
    screen.type("go on\r")
    screen.until("wait,,, wait")
    screen.process.sendintr()
    screen.until(lambda text: "Stopped" in text)
    screen.type("/think\r")
    screen.until(lambda text: text.rstrip().endswith(">"))
    screen.process.sendintr()
    screen.until("Ctrl-C again leaves.")
    screen.process.sendintr()
    assert screen.wait() == 0
    assert "Traceback" not in screen.text


def test_end_of_input_leaves(start: Start, thinking_model: Path) -> None:
    screen = start("chat", "--plain", "-m", thinking_model)
    screen.until("/help for commands")
    screen.process.sendeof()
    assert screen.wait() == 0


def test_pasted_lines_stay_together(start: Start, thinking_model: Path) -> None:
    """Bracketed paste: five lines are one question, sent by the Enter after it."""
    screen = start("chat", "--plain", "-m", thinking_model, columns=100, rows=40)
    screen.until("/help for commands")
    screen.type("\x1b[200~one\ntwo\nthree\nfour\nfive\x1b[201~")
    screen.until("five")
    assert "132" not in screen.text
    screen.type("\r")
    screen.until("132")
    screen.type("/quit\r")
    screen.wait()
    assert screen.text.count("**132**") == 1


def test_hostile_output_is_harmless(start: Start, models: Path) -> None:
    """A model that writes escape sequences cannot touch title, colours or cursor."""
    from tests.makers import write_script

    hostile = write_script(
        models / "hostile.gguf",
        ("\x1b]0;owned", "\x07", "\x1b[2J\x1b[H", "</think>", "\x1b[31mred", "\x9b5A", "\u202eevil", "end"),
    )
    screen = start("chat", "-m", hostile, "--think", "show", "?", columns=100)
    screen.wait()
    assert screen.title == ""
    assert "^[]0;owned^G^[[2J^[[H" in screen.text
    assert "^[[31mred" in screen.text
    assert "⟨U+202E⟩evil" in screen.text


def test_history_of_typed_lines(start: Start, thinking_model: Path, home: Path) -> None:
    screen = start("chat", "--plain", "-m", thinking_model)
    screen.until("/help for commands")
    screen.type("first question\r")
    screen.until("132")
    screen.type("/quit\r")
    screen.wait()
    assert "first question" in (home / "history").read_text()
    assert (home / "history").stat().st_mode & 0o077 == 0
    again = start("chat", "--plain", "-m", thinking_model)
    again.until("/help for commands")
    again.type("\x1b[A\x1b[A")
    again.until("first question")
    again.type("\x15/quit\r")
    again.wait()


def test_no_colour_when_it_is_not_wanted(start: Start, thinking_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = start("chat", "-m", thinking_model, "--think", "show", "?")
    screen.wait()
    assert b"\x1b[2m" not in screen.raw
    monkeypatch.delenv("NO_COLOR")
    screen = start("chat", "-m", thinking_model, "--think", "show", "?")
    screen.wait()
    assert b"\x1b[2m" in screen.raw


def test_raw_is_refused_on_a_terminal(start: Start, thinking_model: Path) -> None:
    screen = start("chat", "-m", thinking_model, "--raw", "?")
    assert screen.wait() == 2
    assert "--raw is for pipes" in screen.text


def test_no_live_line_is_drawn_over_a_thought_that_is_the_data(start: Start, endless_model: Path) -> None:
    """With `--think only` the text runs on stdout for longer than the live line takes to be redrawn."""
    screen = start("chat", "-m", endless_model, "--ctx", "65536", "-n", "6000", "--think", "only", "?", columns=100)
    screen.wait()
    assert b"Reading" not in screen.raw.partition(b"Wait")[2]

"""The full screen on a real pseudo-terminal, with a real model: from the first start to leaving."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from r1local.history import History
from tests.test_terminal_chat import Screen

pytestmark = pytest.mark.terminal


@pytest.mark.parametrize(("columns", "rows"), [(40, 16), (120, 36)])
def test_from_nothing_to_the_second_turn(inside: Path, columns: int, rows: int) -> None:
    screen = Screen(["chat", "-m", "inside", "--temperature", "0"], columns=columns, rows=rows)
    screen.until("Ask something")
    screen.type("What is 47 + 85?\r")
    screen.until("Thought for")
    screen.until("132")
    screen.until("ready")
    screen.type("12乘34等于多少？\r")
    screen.until("408")
    screen.until("ready")
    screen.type("\x0f")  # Ctrl-O opens the thought
    screen.until("12 × 4")
    screen.type("\x11")  # Ctrl-Q
    assert screen.wait() == 0
    with History.open() as history:
        (summary,) = history.conversations()
        assert summary.title == "What is 47 + 85?"
        turns = history.load(summary.id).turns
    assert [turn.turn.role for turn in turns] == ["user", "assistant"] * 2
    assert "132" in turns[1].turn.text
    assert "408" in turns[3].turn.text


def test_the_screen_is_given_back(endless_model: Path) -> None:
    """Left in the middle of a reply, the terminal is as it was, and what was shown is kept."""
    screen = Screen(["chat", "-m", str(endless_model), "--ctx", "65536"], columns=80, rows=24)
    screen.until("Ask something")
    screen.type("?\r")
    screen.until("tok/s")
    screen.type("\x11")
    assert screen.wait() == 0
    assert b"\x1b[?1049l" in screen.raw
    with History.open() as history:
        (summary,) = history.conversations()
        reply = history.load(summary.id).turns[1].turn
    assert reply.thought is not None
    assert "wait" in reply.thought
    assert not reply.complete


def test_a_hangup_keeps_what_was_shown(endless_model: Path) -> None:
    """The window is closed, or the connection lost."""
    screen = Screen(["chat", "-m", str(endless_model), "--ctx", "65536"], columns=80, rows=24)
    screen.until("Ask something")
    screen.type("?\r")
    screen.until("tok/s")
    os.kill(screen.process.pid, signal.SIGHUP)
    screen.wait()
    assert not screen.process.isalive()
    with History.open() as history:
        (summary,) = history.conversations()
        assert "wait" in (history.load(summary.id).turns[1].turn.thought or "")


def test_ctrl_c_does_not_leave(thinking_model: Path) -> None:
    screen = Screen(["chat", "-m", str(thinking_model)], columns=80, rows=24)
    screen.until("Ask something")
    screen.type("\x03\x03")
    screen.type("?\r")
    screen.until("132")
    screen.type("/quit\r")
    assert screen.wait() == 0


def test_plain_where_the_terminal_cannot(thinking_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(["chat", "--plain", "-m", str(thinking_model)], columns=80, rows=24)
    screen.until("/help for commands")
    assert b"\x1b[?1049h" not in screen.raw
    screen.type("/quit\r")
    assert screen.wait() == 0

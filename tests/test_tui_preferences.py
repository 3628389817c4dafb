"""What is kept of how the screen is set up, and the clipboard."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App

from r1local import paths
from r1local.errors import R1Error
from r1local.tui import clipboard
from r1local.tui.preferences import Preferences, load, save

_Result = TypeVar("_Result")
CHOSEN = Preferences(theme="high-contrast", thought="hidden", side_by_side=False, sidebar=False)


def test_nothing_was_chosen_yet() -> None:
    assert load() == Preferences("dark", "folded", True, True)
    assert not paths.screen_file().exists()


def test_what_is_saved_is_there_the_next_time(home: Path) -> None:
    assert save(CHOSEN) is None
    assert load() == CHOSEN
    assert json.loads((home / "screen.json").read_text()) == {
        "theme": "high-contrast",
        "thought": "hidden",
        "side_by_side": False,
        "sidebar": False,
    }
    assert stat.S_IMODE(paths.screen_file().stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[1, 2]", b'"dark"', b"null", b"[" * 10**5, b"1" * 5000, b'{"theme": 1' + b" " * 10**5],
)  # fmt: skip
def test_a_broken_file_is_as_good_as_none(content: bytes) -> None:
    paths.screen_file().write_bytes(content)
    assert load() == Preferences()


def test_wrong_values_fall_back_one_by_one() -> None:
    paths.screen_file().write_text('{"theme": "light", "thought": "shut", "side_by_side": 0, "sidebar": false, "x": 1}')
    assert load() == Preferences(theme="light", sidebar=False)
    paths.screen_file().write_text('{"theme": ["dark"], "thought": {"a": 1}, "side_by_side": "no", "sidebar": null}')
    assert load() == Preferences()


def test_unknown_keys_are_kept_out() -> None:
    paths.screen_file().write_text('{"theme": "light", "colour": "red"}')
    save(load())
    assert "colour" not in json.loads(paths.screen_file().read_text())


VALUES = st.sampled_from(["dark", "open", True, False, 0, 1, None, "", [], {}]) | st.text(max_size=5)


@given(st.dictionaries(st.sampled_from(["theme", "thought", "side_by_side", "sidebar", "y"]), VALUES))
def test_any_file_gives_preferences_that_can_be_used(data: dict[str, Any]) -> None:
    paths.screen_file().write_text(json.dumps(data))
    found = load()
    assert found.theme in ("dark", "light", "high-contrast")
    assert found.thought in ("open", "tail", "folded", "hidden")
    assert found.side_by_side is (data.get("side_by_side") is not False)
    assert found.sidebar is (data.get("sidebar") is not False)


def test_a_folder_or_a_pipe_in_its_place_is_as_good_as_none() -> None:
    os.mkfifo(paths.screen_file())
    assert load() == Preferences()
    paths.screen_file().unlink()
    paths.screen_file().mkdir()
    assert load() == Preferences()
    error = save(CHOSEN)
    assert isinstance(error, R1Error)
    assert str(paths.screen_file()) in error.message


def test_a_place_that_cannot_be_written_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("R1LOCAL_HOME", str(tmp_path / "file" / "home"))
    assert load() == Preferences()
    error = save(CHOSEN)
    assert isinstance(error, R1Error)
    assert error.hint


# The clipboard


class Terminal(App[None]):
    """Notes what is sent to the terminal."""

    sent = ""


def on_a_terminal(do: Callable[[Terminal], _Result]) -> tuple[_Result, str, str]:
    """What `do` gives; what the clipboard of the terminal holds afterwards, and that of the app."""

    async def run() -> tuple[_Result, str, str]:
        app = Terminal()
        async with app.run_test():
            written: list[str] = []
            assert app._driver is not None
            app._driver.write = written.append  # type: ignore[method-assign]
            result = do(app)
            (sequence,) = (one for one in written if one.startswith("\x1b]52"))
            assert sequence.startswith("\x1b]52;c;")
            assert sequence.endswith("\a")
            return result, base64.b64decode(sequence[7:-1]).decode(), app.clipboard

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def no_tmux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMUX", raising=False)


def test_a_text_is_copied() -> None:
    text = "47 + 85 = **132** 中文\n\tcode\n"
    assert on_a_terminal(lambda app: clipboard.copy(app, text)) == ("Copied 27 characters.", text, text)
    assert on_a_terminal(lambda app: clipboard.copy(app, "x"))[0] == "Copied 1 character."
    assert on_a_terminal(lambda app: clipboard.copy(app, "x" * 1204))[0] == "Copied 1,204 characters."


def test_what_is_copied_presses_no_keys_where_it_is_pasted() -> None:
    said, copied, _ = on_a_terminal(lambda app: clipboard.copy(app, "ls\x1b[201~\r\x03rm\x9b\x7f\ud800"))
    assert copied == "ls[201~rm?"
    assert said == "Copied 10 characters."


def test_a_long_text_is_in_a_private_file_as_well(home: Path) -> None:
    file = home / "clipboard.txt"
    fits = "é" * (clipboard.MOST_BYTES // 2)
    assert on_a_terminal(lambda app: clipboard.copy(app, fits))[0] == f"Copied {len(fits):,} characters."
    assert not file.exists()
    said, copied, _ = on_a_terminal(lambda app: clipboard.copy(app, fits + "é"))
    assert copied == fits + "é"
    assert said.startswith(f"Copied {len(fits) + 1:,} characters. ")
    assert str(file) in said
    assert file.read_text(encoding="utf-8") == copied
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    on_a_terminal(lambda app: clipboard.copy(app, "short"))
    assert [*home.glob("clipboard*")] == []


def test_the_longest_text_fits_what_terminals_take() -> None:
    sequence = b"\x1b]52;c;" + base64.b64encode(b"x" * clipboard.MOST_BYTES) + b"\a"
    assert len(sequence) <= 100_000 < len(sequence) + 4


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("R1LOCAL_HOME", str(tmp_path / "file" / "home"))
    said, copied, _ = on_a_terminal(lambda app: clipboard.copy(app, "x" * 80_000))
    assert len(copied) == 80_000
    assert "no file could be written" in said
    on_a_terminal(lambda app: clipboard.copy(app, "short"))


def test_tmux_has_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    assert "set -s set-clipboard on" in on_a_terminal(lambda app: clipboard.copy(app, "x"))[0]

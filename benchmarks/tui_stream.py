"""What does a frame cost while a long thought and its answer come in, at their start and at their end?

A thought of 32,000 tokens, then an answer of 2,000, ten tokens a flush, on a headless screen of 100 x 32 behind so many
earlier turns; each flush is drawn down to the bytes for the terminal. Goals: the last tenth costs what the first did,
99 % of the frames take at most 33 ms and 99 % of the keys are on the screen after 50 ms, and the memory grows by at
most three times the text. The answer is drawn a second time by Textual's own Markdown widget.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from textual import events
from textual._compositor import CompositorUpdate
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Markdown, TextArea

from r1local.tui.widgets.answer import Answer
from r1local.tui.widgets.thought import Thought

THOUGHT, ANSWER, FLUSH = 32_000, 2_000, 10
_WORDS = """
the of so Let me think about this again wait, maybe we need to add units and tens first then carry one is equal to 47 +
85 = 132 × 3 ≤ 400, multiplication step number result check that because if where → 首先 计算 个位 然后 答案
"""
_ANSWER = """\
## Step {0}

To find the sum we add the **tens** first and the *units* after that, as `int.__add__` does: \\(40 + 80 = {0}\\), then

1. the tens: $\\frac{{{0}}}{{2}}$, which is more than we had before, so that one is carried over
2. the units, with **{0}** in all
   - the carry is `1`

\\[ x_{{n+1}} = x_n - \\frac{{f(x_n)}}{{{0}}} \\]

| step | value |
|------|------:|
| tens | {0} |
| units | \\boxed{{12}} |

```python
def add(a: int, b: int) -> int:
    return a + b + {0}  # no overflow
```

"""


def thought_tokens(count: int) -> list[str]:
    """Words as a model's tokens, with a paragraph now and then."""
    draw, words = random.Random(7), _WORDS.split()
    return ["\n\n" if draw.random() < 0.012 else f"{draw.choice(words)} " for _ in range(count)]


def answer_tokens(count: int) -> list[str]:
    text = "".join(_ANSWER.format(number) for number in range(1, 60))
    return [text[at : at + 4] for at in range(0, 4 * count, 4)]


class Screen(App[None]):
    """A conversation as the real one: turns that scroll, a field to type in."""

    CSS = "VerticalScroll { height: 1fr; } TextArea { height: 4; }"

    def __init__(self, turns: int, answer: type[Answer] | type[Markdown]) -> None:
        super().__init__()
        self.thought = Thought()
        self.answer = answer()
        self.drawn = 0
        self._turns, self._kind = turns, answer

    def compose(self) -> ComposeResult:
        said = "".join(answer_tokens(300))
        with VerticalScroll() as conversation:
            for _ in range(self._turns):
                thought = Thought()
                thought.append("".join(thought_tokens(500)), 500)
                thought.finish()
                yield thought
                answer = self._kind()
                if isinstance(answer, Answer):
                    answer.append(said)
                    answer.finish()
                    yield answer
                else:
                    yield Markdown(said)
            yield self.thought
            yield self.answer
        conversation.anchor()
        yield TextArea()

    def _display(self, screen: Any, renderable: Any) -> None:
        if isinstance(renderable, CompositorUpdate):  # a headless app leaves out the last step
            self.drawn += len(renderable.render_segments(self.console))


async def frame(app: Screen) -> None:
    """Let every message be handled, and draw."""
    for _ in range(2):
        for _ in range(5):
            await asyncio.sleep(0)
        app.screen._on_timer_update()


def rest() -> None:
    """What the app does when a reply ends: what lives on is not looked through again and again by the collector."""
    gc.collect()
    gc.freeze()


class Figures:
    """What flushes cost: by the clock, and of the processor alone, which busy neighbours change less."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.work: list[float] = []

    async def measure(self, flush: Awaitable[None]) -> None:
        wall, work = time.perf_counter(), time.process_time()
        await flush
        self.work.append((time.process_time() - work) * 1e3)
        self.wall.append((time.perf_counter() - wall) * 1e3)

    def report(self, name: str) -> None:
        tenth = max(len(self.work) // 10, 1)
        first, last = (statistics.median(part) for part in (self.work[:tenth], self.work[-tenth:]))
        work, wall = (statistics.quantiles(figures, n=100)[98] for figures in (self.work, self.wall))
        change = f"{first:6.2f} -> {last:6.2f} ms, x {last / first:.2f}"
        print(f"  {name:<40} {change}; p99 {work:5.1f}, by the clock {wall:5.1f}")


def flushes(tokens: list[str]) -> Iterator[tuple[str, int]]:
    for at in range(0, len(tokens), FLUSH):
        yield "".join(tokens[at : at + FLUSH]), at + FLUSH


async def thinks(app: Screen, text: str, tokens: int) -> None:
    app.thought.append(text, tokens)
    app.thought.tick()
    await frame(app)


async def answers(app: Screen, text: str, tokens: int) -> None:
    if isinstance(app.answer, Answer):
        app.answer.append(text)
        app.answer.flush()
    else:
        await app.answer.append(text)
    await frame(app)


async def types(app: Screen, text: str, tokens: int, flush: Callable[[Screen, str, int], Awaitable[None]]) -> None:
    """A key that is pressed when a flush has just come: it waits for that to be drawn."""
    field = app.query_one(TextArea)
    field.focus()
    before = len(field.text)
    app.post_message(events.Key("a", "a"))
    await flush(app, text, tokens)
    while len(field.text) == before:
        await frame(app)
    await frame(app)


async def stream(turns: int, kind: type[Answer] | type[Markdown], *, scale: float, state: str) -> None:
    """One conversation, with figures for each part of it."""
    app = Screen(turns, kind)
    async with app.run_test(size=(100, 32)) as pilot:
        await pilot.pause()
        thought = list(flushes(thought_tokens(int(THOUGHT * scale)))) if kind is Answer else []
        if state == "open":
            app.thought.action_fold()
        parts: tuple[tuple[str, list[tuple[str, int]], Any], ...] = (
            (f"thought ({state})", thought, thinks),
            (f"answer, by {kind.__name__}", list(flushes(answer_tokens(ANSWER))), answers),
        )
        for name, pieces, flush in parts:
            rest()
            drawing, typing = Figures(), Figures()
            for index, (text, tokens) in enumerate(pieces):
                if index % 5 == 4:
                    await typing.measure(types(app, text, tokens, flush))
                else:
                    await drawing.measure(flush(app, text, tokens))
            if flush is thinks:
                app.thought.finish()
            if pieces:
                drawing.report(f"{name}, a frame")
                typing.report(f"{name}, a frame and a key")
        if thought:
            rest()
            opening = Figures()
            for _ in range(20):
                app.thought.action_fold()
                await opening.measure(frame(app))
            opening.report("opening and folding the whole thought")


async def memory() -> None:
    """What is allocated by our own code; Textual's and rich's caches are full sooner or later, whatever the length."""
    app = Screen(0, Answer)
    ours = [tracemalloc.Filter(True, "*/r1local/*")]
    streams = (("thought", thought_tokens(THOUGHT), thinks), ("answer", answer_tokens(ANSWER), answers))
    async with app.run_test(size=(100, 32)) as pilot:
        await pilot.pause()
        await answers(app, "".join(answer_tokens(200)), 200)
        tracemalloc.start()
        for name, tokens, flush in streams:
            gc.collect()
            before, all_before = tracemalloc.take_snapshot().filter_traces(ours), tracemalloc.get_traced_memory()[0]
            for text, count in flushes(tokens):
                await flush(app, text, count)
            gc.collect()
            grown = sum(
                one.size_diff for one in tracemalloc.take_snapshot().filter_traces(ours).compare_to(before, "filename")
            )
            everything = tracemalloc.get_traced_memory()[0] - all_before
            size = sum(len(token.encode()) for token in tokens)
            print(
                f"  {name:<40} {size / 1e3:.0f} kB of text, {grown / 1e3:.0f} kB of memory: x {grown / size:.2f}; "
                f"with all caches {everything / 1e3:.0f} kB"
            )
        tracemalloc.stop()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--turns", type=int, nargs="*", default=[0, 20], help="earlier turns above")
    options.add_argument("--scale", type=float, default=1.0, help="of the thought's length")
    options.add_argument("--state", choices=["tail", "open"], default="tail")
    given = options.parse_args()
    for turns in given.turns:
        print(f"{turns} earlier turns")
        asyncio.run(stream(turns, Answer, scale=given.scale, state=given.state))
        asyncio.run(stream(turns, Markdown, scale=given.scale, state=given.state))
    print("memory")
    asyncio.run(memory())


if __name__ == "__main__":
    main()

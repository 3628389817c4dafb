"""What does the whole full-screen chat cost the thread that draws it, from its start to the end of a long reply?

The app on a terminal that only takes note of what is written to it. A reply of 32,000 tokens of thought and 2,000 of
answer comes at 200 tokens a second behind six earlier turns, and a key is pressed every quarter of a second. A frame is
all the work between two rests of the event loop in which something was drawn. Goals: 99 % of the frames take at most
33 ms and 99 % of the keys are on the screen after 50 ms, a token costs at the end what it did at the start, memory
grows by at most three times the text, and the composer stands 1.2 s after the start.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textual import events

from benchmarks.tui_stage import Frame, Stage, play
from r1local.catalog import load_catalog
from r1local.chat_types import Turn
from r1local.engine.scripted import Script
from r1local.events import Stats
from r1local.history import History
from r1local.store import find
from r1local.tui.widgets.reply_view import ReplyView

FRAME, ECHO, START = 33.0, 50.0, 1.2
_KEY_SECONDS = 0.25
_LETTERS = [chr(code) for code in range(0x1401, 0x1667)]  # in no text here, so their echo is plain to see
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


def thought_tokens(count: int, seed: int = 7) -> list[str]:
    """Words as a model's tokens, with a paragraph now and then."""
    draw, words = random.Random(seed), _WORDS.split()
    return ["\n\n" if draw.random() < 0.012 else f"{draw.choice(words)} " for _ in range(count)]


def answer_tokens(count: int) -> list[str]:
    text = "".join(_ANSWER.format(number) for number in range(1, 2 + 4 * count // 400))
    return [text[at : at + 4] for at in range(0, 4 * count, 4)]


# What is in the store


def keep(turns: int, thought: int, title: str = "") -> int:
    """A conversation of so many questions with their replies, as it was kept some time ago."""
    with History.open() as history:
        conversation = history.create("inside", title=title)
        for number in range(turns):
            question = history.say(conversation, f"Question {number}: what is {number} + 85?")
            answer = "".join(answer_tokens(300)) + f"\n\nThat was answer {number}."
            recorder = history.begin(conversation, question)
            stats = Stats(prompt_tokens=20, think_tokens=thought, answer_tokens=300, think_seconds=thought / 200)
            recorder.finish(Turn("assistant", answer, "".join(thought_tokens(thought, number))), stats)
    return conversation


@contextmanager
def new_home() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="r1local-tui-") as folder:
        os.environ["R1LOCAL_HOME"] = folder
        os.environ["HF_HOME"] = f"{folder}/huggingface"
        os.environ["HF_HUB_OFFLINE"] = "1"
        yield


def percentile(figures: Sequence[float], percent: int) -> float:
    if len(figures) < 2:
        return max(figures, default=0.0)
    return statistics.quantiles(figures, n=100, method="inclusive")[percent - 1]


def verdict(value: float, goal: float) -> str:
    return "" if value <= goal else f"  MISSED: the goal is {goal:g}"


# The measurements


def reply_script(tokens: int, answer: int, rate: float) -> Script:
    return Script(
        ("<think>", *thought_tokens(tokens), "</think>", "\n\n", *answer_tokens(answer), "\n\nTheEnd"), 1 / rate
    )


def stream(size: tuple[int, int], given: argparse.Namespace) -> None:
    """A long reply with somebody typing meanwhile."""
    conversation = keep(6, 500)
    echoes: dict[str, list[float]] = {"thought": [], "answer": []}

    def scene(stage: Stage) -> None:
        chat = stage.app.chat
        stage.opened(conversation, "answer 5")
        stage.rest()
        began = time.perf_counter()
        stage.do(lambda: chat.exchange.send("Think about it."))
        stage.until(lambda: chat.exchange.reply and list(chat.query(ReplyView))[-1].begun)
        view = list(chat.query(ReplyView))[-1]
        stage.watch.part = lambda: "answer" if view.answering else "thought"
        if given.open:
            stage.do(chat.action_thought)
        for number, letter in enumerate(itertools.cycle(_LETTERS)):
            due = time.monotonic() + _KEY_SECONDS
            if not chat.exchange.busy:
                break
            if number % 40 == 39:
                stage.do(lambda: setattr(chat.composer, "draft", ""))
            else:
                echoes[stage.watch.part()].append(stage.terminal.echo(letter))
            time.sleep(max(0.0, due - time.monotonic()))
        stage.watch.part = lambda: ""
        seconds = time.perf_counter() - began
        stage.said.append(f"{size[0]} x {size[1]}: {(given.tokens + given.answer) / seconds:.0f} tokens/s")
        for part in ("thought", "answer"):
            stage.said += told(part, [frame for frame in stage.watch.frames if frame.part == part])
            figure = percentile(echoes[part], 99)
            stage.said.append(
                f"  {part}: a key is on the screen after {statistics.median(echoes[part]):.1f} ms, p99 {figure:.1f}, "
                f"worst {max(echoes[part]):.1f} of {len(echoes[part])}{verdict(figure, ECHO)}"
            )

    play(scene, size, reply_script(given.tokens, given.answer, given.rate))


def told(part: str, frames: list[Frame]) -> Iterator[str]:
    """The first tenth of the time, the last, and all of it."""
    start, end = frames[0].at, frames[-1].at
    tenth = (end - start) / 10
    parts = {
        "first tenth": [frame for frame in frames if frame.at < start + tenth],
        "last tenth": [frame for frame in frames if frame.at >= end - tenth],
        "all": frames,
    }
    for name, those in parts.items():
        drawn = [frame for frame in those if frame.drawn]
        wall = [frame.milliseconds for frame in drawn]
        own = [frame.milliseconds - frame.collected for frame in drawn]
        figure = percentile(wall, 99)
        yield (
            f"  {part}, {name:<12} frame {statistics.median(wall):5.2f} ms, p99 {figure:5.1f}, worst {max(wall):5.1f} "
            f"(without the collector of memory p99 {percentile(own, 99):5.1f}, worst {max(own):5.1f}); "
            f"{len(drawn)} frames of {statistics.mean(frame.drawn for frame in drawn):,.0f} characters"
            f"{verdict(figure, FRAME)}"
        )
    first, last = (
        sum(frame.processor for frame in parts[name]) / tenth / 1e3 for name in ("first tenth", "last tenth")
    )
    garbage = [frame.collected for frame in frames if frame.collected > 20]
    yield f"  {part}: the collector took more than 20 ms {len(garbage)} times, {max(garbage, default=0.0):.0f} at most"
    yield f"  {part}: busy {first:.1%} of the time at first, {last:.1%} at last: x {last / first:.2f} a token"


def memory(size: tuple[int, int], given: argparse.Namespace) -> None:
    """What is allocated by our own code; Textual's and rich's caches are full sooner or later, whatever the length."""
    conversation = keep(6, 500)
    ours = [tracemalloc.Filter(True, "*/r1local/*"), tracemalloc.Filter(False, "*/scripted.py")]
    long = reply_script(given.tokens, given.answer, 4_000)
    size_of_text = sum(len(piece.encode()) for piece in long.pieces)

    def look() -> tuple[tracemalloc.Snapshot, int]:
        gc.collect()
        return tracemalloc.take_snapshot().filter_traces(ours), tracemalloc.get_traced_memory()[0]

    def scene(stage: Stage) -> None:
        chat = stage.app.chat
        stage.opened(conversation, "answer 5")

        def ask() -> None:
            stage.do(lambda: chat.exchange.send("Think about it."))
            stage.until(lambda: not chat.exchange.busy)
            stage.rest()

        ask()
        tracemalloc.start()
        before, all_before = look()
        ask()
        after, all_after = look()
        tracemalloc.stop()
        places = after.compare_to(before, "filename")
        grown = sum(place.size_diff for place in places)
        stage.said.append(
            f"memory: {size_of_text / 1e3:.0f} kB of text, {grown / 1e3:.0f} kB more: x {grown / size_of_text:.2f}"
            f"{verdict(grown / size_of_text, 3)}; with all caches {(all_after - all_before) / 1e3:.0f} kB"
        )
        for place in sorted(places, key=lambda place: -place.size_diff)[:6]:
            stage.said.append(
                f"  {place.size_diff / 1e3:7.0f} kB  {place.traceback[0].filename.partition('r1local/')[2]}"
            )

    play(scene, size, reply_script(2_000, 200, 4_000), long)


def paste(size: tuple[int, int], given: argparse.Namespace) -> None:
    """A megabyte, and the next key."""
    text = "".join(thought_tokens(1_000_000))[:1_000_000]

    def scene(stage: Stage) -> None:
        terminal, letters = stage.terminal, iter(_LETTERS)
        for _ in range(3):
            stage.do(lambda: setattr(stage.app.chat.composer, "draft", ""))
            stage.rest()
            began = time.perf_counter()
            terminal.process_message(events.Paste(text))
            figure = terminal.echo(next(letters))
            after = [terminal.echo(next(letters)) for _ in range(10)]
            stage.rest()
            stage.said.append(
                f"1 MB pasted: the next key is on the screen after {figure:.1f} ms{verdict(figure, ECHO)}, "
                f"the ones after it {statistics.median(after):.1f}, worst {max(after):.1f}; "
                f"longest work {stage.watch.worst(began):.1f}"
            )

    play(scene, size, Script(("x",)))


def listing(size: tuple[int, int], given: argparse.Namespace) -> None:
    """The list beside, with many conversations kept."""
    for number in range(given.conversations):
        keep(1, 50, f"Conversation {number:04}")
    newest = f"Conversation {given.conversations - 1:04}"

    def scene(stage: Stage) -> None:
        for _ in range(5):
            stage.terminal.press("ctrl+b")
            stage.rest()
            began = time.perf_counter()
            figure = stage.terminal.seen_after(lambda: stage.terminal.press("ctrl+b"), newest)
            stage.rest()
            stage.said.append(
                f"list of {given.conversations} shown after {figure:.1f} ms, longest {stage.watch.worst(began):.1f}"
            )
        stage.do(lambda: stage.app.chat.sidebar.focus())
        began = time.perf_counter()
        figure = stage.terminal.seen_after(lambda: stage.terminal.press("end"), "Conversation 0000")
        stage.said.append(f"its end after {figure:.1f} ms, longest work {stage.watch.worst(began):.1f}")

    play(scene, size, Script(("x",)))


def opening(size: tuple[int, int], given: argparse.Namespace) -> None:
    """A conversation with very long thoughts."""
    conversation = keep(given.turns, given.thought)

    def scene(stage: Stage) -> None:
        for _ in range(3):
            stage.do(stage.app.chat.show_new)
            stage.rest()
            began = time.perf_counter()
            figure = stage.opened(conversation, f"answer {given.turns - 1}")
            stage.rest()
            stage.said.append(
                f"{given.turns} questions, their thoughts of {given.thought:,} tokens each: shown after {figure:.0f} "
                f"ms, longest work {stage.watch.worst(began):.0f}{verdict(stage.watch.worst(began), ECHO)}"
            )

    play(scene, size, Script(("x",)))


@contextmanager
def program(model: Path) -> Iterator[tuple[Any, float]]:
    """`r1local chat` in a pseudo-terminal, and when it was started."""
    import pexpect

    began = time.perf_counter()
    command = ["-m", "r1local", "chat", "-m", str(model)]
    process = pexpect.spawn(sys.executable, command, dimensions=(32, 100), timeout=60, env=dict(os.environ))
    try:
        yield process, began
        process.send("\x11")
        process.expect(pexpect.EOF)
    finally:
        process.close(force=True)


def starting(model: Path, rounds: int) -> None:
    """From the start of the process to the composer."""
    drawn: list[float] = []
    loaded: list[float] = []
    for number in range(rounds + 1):
        with program(model) as (process, began):
            process.expect_exact("Ask something")
            composer = time.perf_counter() - began
            process.expect_exact("ready")
            if number:  # the first one makes the store and warms the caches
                drawn.append(composer)
                loaded.append(time.perf_counter() - began)
    print(
        f"start: the composer after {statistics.median(drawn):.2f} s, worst {max(drawn):.2f} of {rounds}"
        f"{verdict(statistics.median(drawn), START)}; the model {model.name} after {statistics.median(loaded):.2f} s"
    )


def pasting(model: Path) -> None:
    """A megabyte again, through a terminal and all that takes it apart."""
    text = "".join(thought_tokens(1_000_000)).encode()[:1_000_000].decode(errors="ignore")
    with program(model) as (process, _):
        process.expect_exact("ready")
        began = time.perf_counter()
        sent = threading.Thread(target=process.send, args=(f"\x1b[200~{text}\x1b[201~{_LETTERS[0]}",))
        sent.start()
        process.expect_exact(_LETTERS[0].encode())
        print(
            f"1 MB pasted through a terminal: the next key is on the screen after {time.perf_counter() - began:.2f} s"
        )
        sent.join()


def in_own_process(part: Callable[..., None], *given: object) -> None:
    """What one part leaves in memory would be searched for garbage in the next one."""
    with new_home():
        process = multiprocessing.get_context("spawn").Process(target=part, args=given)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit("FAILED")


def main() -> None:
    parts: dict[str, Callable[[tuple[int, int], argparse.Namespace], None]] = {
        "paste": paste, "list": listing, "opening": opening, "memory": memory, "stream": stream,
    }  # fmt: skip
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("parts", nargs="*", help=f"of: start, {', '.join(parts)}; without any, all")
    options.add_argument("--tokens", type=int, default=32_000, help="of the thought")
    options.add_argument("--answer", type=int, default=2_000, help="tokens of the answer")
    options.add_argument("--rate", type=float, default=200, help="tokens a second")
    options.add_argument("--open", action="store_true", help="the thought is open while it comes")
    options.add_argument("--sizes", nargs="*", default=["100x32", "160x45"])
    options.add_argument("--conversations", type=int, default=500)
    options.add_argument("--turns", type=int, default=40, help="of the conversation that is opened")
    options.add_argument("--thought", type=int, default=20_000, help="tokens of each of its thoughts")
    options.add_argument("--rounds", type=int, default=7, help="starts")
    options.add_argument("--model", type=Path, help="to start with, a .gguf file; without it the model inside")
    given = options.parse_args()
    sizes = [(int(columns), int(rows)) for columns, _, rows in (size.partition("x") for size in given.sizes)]
    model = (given.model or find(load_catalog(), "inside").path).absolute()
    if not given.parts or "start" in given.parts:
        with new_home():
            starting(model, given.rounds)
    if not given.parts or "paste" in given.parts:
        with new_home():
            pasting(model)
    for name, part in parts.items():
        if not given.parts or name in given.parts:
            for size in sizes if name == "stream" else sizes[:1]:
                in_own_process(part, size, given)


if __name__ == "__main__":
    main()

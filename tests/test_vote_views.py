"""A vote as it is seen: on the command line, line by line, and on the full screen."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from r1local.catalog import load_catalog
from r1local.chat_types import Sampling
from r1local.engine import Engine
from r1local.engine.scripted import Script, ScriptedEngine
from r1local.errors import ExitCode, OutOfMemory
from r1local.hardware import detect
from r1local.history import History
from r1local.settings import Settings
from r1local.store import LocalModel, find
from r1local.template import ChatTemplate
from r1local.tui.app import R1App, Start
from r1local.tui.session import Setup
from r1local.tui.widgets.reply_view import ReplyView
from tests.makers import R1_TEMPLATE_V2
from tests.test_terminal_chat import Screen
from tests.tui import until

QUESTION = "What is 47 + 85?"
SAMPLING = Sampling(temperature=0.6, top_p=0.95, top_k=0, min_p=0.0)


# One question


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "r1local", *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.engine
def test_the_answer_is_data_and_the_count_is_talk() -> None:
    ended = run("chat", "--vote", "4", "--seed", "1", "-m", "inside", QUESTION)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "47 + 85 = **132**\n\n\\boxed{132}\n"
    lines = ended.stderr.splitlines()
    (sentence,) = [number for number, line in enumerate(lines) if " say 132" in line]
    votes = int(lines[sentence].split()[0])
    assert 2 <= votes <= 4
    assert lines[sentence + 1].split() == ["132", str(votes), "█" * votes]
    assert "Thought for" not in ended.stderr


@pytest.mark.engine
def test_votes_in_json() -> None:
    ended = run("chat", "--vote", "4", "--no-vote-stop", "--json", "-m", "inside", QUESTION)
    reply = json.loads(ended.stdout)
    assert (reply["finish"], reply["votes"]["wanted"], reply["votes"]["counted"]) == ("stop", 4, 4)
    assert sum(count for _, count in reply["votes"]["counts"]) <= 4
    assert reply["votes"]["counts"][0][0] == "132"
    assert "\\boxed{132}" in reply["answer"]
    assert reply["think"]
    # All samples together took more than the one that is shown.
    assert reply["votes"]["tokens"] > reply["stats"]["think_tokens"] + reply["stats"]["answer_tokens"]


@pytest.mark.engine
def test_votes_come_first_among_events() -> None:
    ended = run("chat", "--vote", "4", "--events", "-m", "inside", QUESTION)
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    kinds = [event["type"] for event in events]
    assert list(dict.fromkeys(kinds)) == ["votes", "think", "answer", "done"]
    assert kinds == sorted(kinds, key=["votes", "think", "answer", "done"].index)
    standings = [event for event in events if event["type"] == "votes"]
    assert [each["counted"] for each in standings] == sorted(each["counted"] for each in standings)
    assert {key: value for key, value in standings[-1].items() if key != "type"} == events[-1]["votes"]


@pytest.mark.engine
def test_without_a_vote_nothing_speaks_of_one() -> None:
    ended = run("chat", "--vote", "1", "--json", "-m", "inside", QUESTION)
    assert "votes" not in json.loads(ended.stdout)


@pytest.mark.engine
@pytest.mark.parametrize("samples", ["0", "257"])
def test_a_number_that_cannot_be(samples: str) -> None:
    ended = run("chat", "--vote", samples, "-m", "inside", QUESTION)
    assert (ended.returncode, ended.stdout) == (ExitCode.USAGE, "")
    assert "vote must be at" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.engine
def test_interrupted_without_a_terminal(endless_model: Path) -> None:
    """Ctrl-C ends all samples at once: no answer, no traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "r1local", "chat", "--vote", "3", "--events", "-m", str(endless_model), "?"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "votes"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in err
    done = json.loads(out.splitlines()[-1])
    assert (done["type"], done["finish"], done["votes"]["counted"]) == ("done", "cancelled", 0)


# On a terminal


@pytest.fixture
def start() -> Iterator[Callable[..., Screen]]:
    screens: list[Screen] = []

    def begin(*arguments: str | Path, **options: int) -> Screen:
        screens.append(Screen([str(argument) for argument in arguments], **options))
        return screens[-1]

    yield begin
    for screen in screens:
        screen.process.close(force=True)


@pytest.mark.engine
@pytest.mark.terminal
@pytest.mark.parametrize("columns", [40, 100])
def test_the_live_line_shows_how_it_stands(start: Callable[..., Screen], endless_model: Path, columns: int) -> None:
    screen = start("chat", "--vote", "3", "-m", endless_model, "?", columns=columns)
    screen.until(lambda text: "0 of 3 voted · 2 thinking" in text and "tokens" in text)
    screen.process.sendintr()
    assert screen.wait() == ExitCode.INTERRUPTED
    assert "Traceback" not in screen.text
    assert "Stopped." in screen.text
    assert "thinking" not in screen.text, "the live line is gone at the end"
    assert max(map(len, screen.text.splitlines())) <= columns


@pytest.mark.engine
@pytest.mark.terminal
@pytest.mark.parametrize("mode", ["fold", "show", "only"])
def test_a_vote_on_a_terminal(start: Callable[..., Screen], thinking_model: Path, mode: str) -> None:
    screen = start("chat", "--vote", "3", "--think", mode, "-m", thinking_model, QUESTION, columns=40)
    assert screen.wait() == 0
    assert ("47 + 85 = **132**" in screen.text) == (mode != "only")
    assert ("Let me add the tens..." in screen.text) == (mode != "fold")
    assert "2 of 2 say 132" in " ".join(screen.text.split()).replace("**", "")
    assert "voted" not in screen.text
    # The live line is not drawn over the thought: nothing is erased behind its first word.
    assert b"voted" not in screen.raw.partition(b"Let me")[2]


@pytest.mark.engine
@pytest.mark.terminal
def test_line_by_line(start: Callable[..., Screen], thinking_model: Path) -> None:
    screen = start("chat", "--plain", "-m", thinking_model, columns=100, rows=60)
    screen.until("/help for commands")
    for wrong in ("0", "x", "", "257", "4 5", "٣"):
        screen.type(f"/vote {wrong}\r")
        screen.until(f"A vote takes 1 to 256 samples, not '{wrong}'.")
    screen.type("/vote 4\r")
    screen.until("4 samples vote on each reply.")
    screen.type(f"{QUESTION}\r")
    screen.until("say 132")
    screen.type("/retry\r")
    screen.until(lambda text: text.count("say 132") == 2)
    screen.type("/vote 1\r")
    screen.until("No votes.")
    screen.type("And twice that?\r")
    screen.until("Thought for")
    screen.type("/quit\r")
    assert screen.wait() == 0
    assert screen.text.count("say 132") == 2
    assert "Traceback" not in screen.text


@pytest.mark.engine
@pytest.mark.terminal
def test_an_interrupted_vote_leaves_the_conversation(start: Callable[..., Screen], endless_model: Path) -> None:
    screen = start("chat", "--plain", "--vote", "3", "-m", endless_model, columns=100, rows=40)
    screen.until("/help for commands")
    for question in ("go on", "and on"):
        screen.type(f"{question}\r")
        screen.until("0 of 3 voted")
        screen.process.sendintr()
        screen.until(lambda text: "Stopped." in text.partition(question)[2])  # noqa: B023 - called at once
    screen.type("/quit\r")
    assert screen.wait() == 0
    assert "Traceback" not in screen.text


@pytest.mark.engine
@pytest.mark.terminal
def test_a_model_that_cannot_be_loaded_for_so_many(start: Callable[..., Screen], thinking_model: Path) -> None:
    """It is said, and what can be done; the conversation goes on with fewer."""
    screen = start("chat", "--plain", "-m", thinking_model, columns=100, rows=40)
    screen.until("/help for commands")
    hidden = thinking_model.with_suffix(".away")
    thinking_model.rename(hidden)
    try:
        screen.type("/vote 4\r")
        screen.until("There is no file")
        screen.type(f"{QUESTION}\r")
        screen.until("/vote 1 loads it again")
    finally:
        hidden.rename(thinking_model)
    screen.type("/vote 1\r")
    screen.until("No votes.")
    screen.type(f"{QUESTION}\r")
    screen.until("47 + 85 = **132**")
    screen.type("/quit\r")
    assert screen.wait() == 0
    assert "Traceback" not in screen.text


# On the full screen

Scene = Callable[[R1App, "Pilot[None]"], Awaitable[None]]


def thinks(answer: str, *, pieces: int = 1, seconds: float = 0.0) -> Script:
    return Script((*["Hm, "] * pieces, "</think>", "\n\n", f"\\boxed{{{answer}}}"), seconds)


class Stage:
    """An app whose samples say what is written; how often it loaded, and for how many samples."""

    def __init__(self) -> None:
        self.votes: list[int] = []
        self.loads = 0
        self.fails = False

    def run(self, scene: Scene, *scripts: Script, size: tuple[int, int] = (100, 30), vote: int = 1) -> None:
        self.votes.append(vote)

        def loader(local: LocalModel, on_notice: object, on_progress: object) -> Engine:
            self.loads += 1
            if self.fails:
                raise OutOfMemory("There is not enough memory.", "Close other programs.")
            return ScriptedEngine(scripts, ChatTemplate(R1_TEMPLATE_V2))

        async def main() -> None:
            catalog = load_catalog()
            app = R1App(
                Start(
                    catalog=catalog,
                    settings=Settings,
                    local=find(catalog, "inside"),
                    load=loader,
                    setup=lambda local: Setup(SAMPLING, vote=self.votes[-1]),
                    machine=detect,
                    real_one=str,
                    set_vote=self.votes.append,
                )
            )
            async with app.run_test(size=size, notifications=True) as pilot:
                await until(pilot, lambda: app.screen is app.chat)
                await scene(app, pilot)

        asyncio.run(main())


async def send(app: R1App, pilot: Pilot[None], text: str) -> None:
    await until(pilot, lambda: app.engines.engine is not None)
    app.chat.composer.draft = text
    await pilot.press("enter")


def reply(app: R1App) -> ReplyView:
    return list(app.chat.query(ReplyView))[-1]


def footer(app: R1App) -> str:
    return str(reply(app)._footer.content) if app.chat.query(ReplyView) else ""


def notices(app: R1App) -> str:
    return "\n".join(notice.message for notice in app._notifications)


def kept() -> list[tuple[str, str]]:
    with History.open() as history:
        return [(t.turn.role, t.turn.text) for c in history.conversations() for t in history.load(c.id).turns]


@pytest.mark.parametrize("size", [(100, 30), (40, 24)])
def test_a_vote_on_the_full_screen(size: tuple[int, int]) -> None:
    """The tally while samples run; then the reply, and below it how the vote ended."""
    stage = Stage()

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await send(app, pilot, "/vote 4")
        await until(pilot, lambda: stage.loads == 2 and app.engines.engine is not None)
        await send(app, pilot, QUESTION)
        await until(pilot, lambda: "1 of 4 voted · 1 thinking" in footer(app))
        assert "132: 1" in footer(app)
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert reply(app).answer.source == "\\boxed{132}"
        assert reply(app).thought.body.text == "Hm,"
        assert "2 of 3 say 132; the other 1 could not change it" in footer(app)
        assert not app.chat.query(ReplyView).first().thought.thinking
        assert reply(app)._footer.region.right <= size[0]

    scripts = (
        thinks("132"), thinks("131", pieces=30, seconds=0.01), thinks("132", pieces=20, seconds=0.01),
        thinks("132", pieces=4000, seconds=0.01),
    )  # fmt: skip
    stage.run(scene, *scripts, size=size)
    assert stage.votes == [1, 4]
    assert kept() == [("user", QUESTION), ("assistant", "\\boxed{132}")]


def test_a_wrong_number_loads_nothing() -> None:
    stage = Stage()

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        for wrong in ("x", "0", "257"):
            await send(app, pilot, f"/vote {wrong}")
            await until(pilot, lambda: f"A vote takes 1 to 256 samples, not '{wrong}'" in notices(app))  # noqa: B023

    stage.run(scene)
    assert (stage.votes, stage.loads) == ([1], 1)


def test_escape_stops_a_vote() -> None:
    """The question stays; of a vote that was stopped there is no reply."""
    stage = Stage()

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await send(app, pilot, QUESTION)
        await until(pilot, lambda: "1 of 3 voted" in footer(app))
        await pilot.press("escape")
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert "\\boxed" not in "".join(view.answer.source for view in app.chat.query(ReplyView))
        assert not notices(app)

    slow = thinks("132", pieces=4000, seconds=0.005)
    stage.run(scene, thinks("132"), slow, slow, vote=3)
    assert [turn for turn in kept() if turn[0] == "assistant" and turn[1]] == []


def test_a_vote_that_was_stopped_is_no_reply() -> None:
    """Nor is it kept with what was said before, and its retry is an only child."""
    stage = Stage()

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await send(app, pilot, QUESTION)
        await until(pilot, lambda: "2 of 2 say 132" in footer(app) and not app.chat.exchange.busy)
        await send(app, pilot, "And twice that?")
        await until(pilot, lambda: "0 of 3 voted" in footer(app))
        await pilot.press("escape")
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert [turn for turn in kept() if turn[1]] == [
            ("user", QUESTION), ("assistant", "\\boxed{132}"), ("user", "And twice that?"),
        ]  # fmt: skip
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "2 of 2 say 264" in footer(app) and not app.chat.exchange.busy)

    slow = thinks("7", pieces=4000, seconds=0.005)
    stage.run(scene, thinks("132"), thinks("132"), slow, slow, thinks("264"), thinks("264"), vote=3)
    assert kept()[-1] == ("assistant", "\\boxed{264}")


def test_the_answer_now_settles_a_vote() -> None:
    """With the answers there are."""
    stage = Stage()

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await send(app, pilot, QUESTION)
        await until(pilot, lambda: "1 of 4 voted" in footer(app))
        await pilot.press("ctrl+t")
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert reply(app).answer.source == "\\boxed{132}"
        assert "1 of 1 say 132" in footer(app)

    slow = thinks("7", pieces=4000, seconds=0.005)
    stage.run(scene, slow, thinks("132"), vote=4)
    assert kept()[-1] == ("assistant", "\\boxed{132}")


def test_settled_before_any_answer_it_takes_the_first() -> None:
    stage = Stage()

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await send(app, pilot, QUESTION)
        await until(pilot, lambda: "0 of 3 voted" in footer(app))
        await pilot.press("ctrl+t")
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert reply(app).answer.source == "\\boxed{132}"
        assert "1 of 1 say 132" in footer(app)

    slow = thinks("7", pieces=4000, seconds=0.005)
    stage.run(scene, slow, thinks("132", pieces=120, seconds=0.005), vote=3)


def test_a_vote_without_any_answer() -> None:
    """None of them said anything that counts; the first reply is shown all the same."""
    stage = Stage()

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await send(app, pilot, QUESTION)
        await until(pilot, lambda: app.chat.exchange.busy or app.chat.query(ReplyView))
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert "None of 3 samples came to an answer" in footer(app)

    stage.run(scene, *[Script(("Hm, ",) * 3, finish="length", note="the context is full")] * 3, vote=3)


def test_a_model_that_cannot_be_loaded_again_says_so() -> None:
    stage = Stage()

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.engines.engine is not None)
        stage.fails = True
        await send(app, pilot, "/vote 8")
        await until(pilot, lambda: app.engines.status.state == "failed")
        app.chat.composer.draft = QUESTION
        await pilot.press("enter")
        await until(pilot, lambda: "not enough memory" in notices(app))
        assert app.chat.composer.draft == QUESTION
        stage.fails = False
        app.chat.composer.draft = ""
        await pilot.press(*"/vote", "space", "1", "enter")
        await until(pilot, lambda: app.engines.engine is not None)
        await send(app, pilot, QUESTION)
        await until(pilot, lambda: app.chat.query(ReplyView) and not app.chat.exchange.busy)
        assert reply(app).answer.source == "\\boxed{132}"

    stage.run(scene, thinks("132"))

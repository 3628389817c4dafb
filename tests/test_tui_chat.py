"""The conversation on the full screen, on written replies: what is typed, what is shown, what is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from r1local import paths
from r1local.catalog import load_catalog
from r1local.chat_types import Sampling
from r1local.engine import Engine
from r1local.engine.scripted import Script, ScriptedEngine
from r1local.errors import EngineError, OutOfMemory, R1Error
from r1local.hardware import detect
from r1local.history import History
from r1local.settings import Settings
from r1local.store import LocalModel, find
from r1local.template import ChatTemplate
from r1local.tui.app import R1App, Start
from r1local.tui.session import Setup
from r1local.tui.widgets.reply_view import ReplyView
from r1local.tui.widgets.turns import Question
from tests.makers import R1_TEMPLATE_V2
from tests.tui import until

SAMPLING = Sampling(temperature=0.6, top_p=0.95, top_k=0, min_p=0.0)
QUESTION = "What is 47 + 85?"
CATALOG = load_catalog()
Scene = Callable[[R1App, "Pilot[None]"], Awaitable[None]]


def thinks(answer: str = "47 + 85 = **132**", thought: str = "Let me add the tens...") -> Script:
    return Script((thought, "</think>", "\n\n", *answer.split(" ")))


def slow(pieces: int = 20_000, piece: str = "Wait, ") -> Script:
    return Script((piece,) * pieces, seconds_per_piece=0.002)


class Stage:
    """An app whose model says what is written; the home is kept from one run to the next."""

    def __init__(self) -> None:
        self.engines: list[ScriptedEngine] = []

    def run(
        self,
        scene: Scene,
        *scripts: Script,
        size: tuple[int, int] = (100, 30),
        load: Callable[[], Engine] | None = None,
        n_ctx: int = 4096,
    ) -> None:
        def loader(local: LocalModel, on_notice: object, on_progress: object) -> Engine:
            if load is not None:
                return load()
            self.engines.append(ScriptedEngine(scripts, ChatTemplate(R1_TEMPLATE_V2), n_ctx=n_ctx))
            return self.engines[-1]

        async def main() -> None:
            app = R1App(
                Start(
                    catalog=CATALOG,
                    settings=Settings,
                    local=find(CATALOG, "inside"),
                    load=loader,
                    setup=lambda local: Setup(SAMPLING),
                    machine=detect,
                    real_one=lambda: "A real one: r1local pull 7b",
                )
            )
            async with app.run_test(size=size, notifications=True) as pilot:
                await until(pilot, lambda: app.screen is app.chat)
                await scene(app, pilot)

        asyncio.run(main())

    def prompts(self) -> list[str]:
        return ["".join(map(chr, request.tokens)) for engine in self.engines for request in engine.requests]


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def say(app: R1App, pilot: Pilot[None], text: str, *, wait: bool = True) -> None:
    await until(pilot, lambda: app.engines.engine is not None)
    app.chat.composer.draft = text
    await pilot.press("enter")
    if wait:
        await until(pilot, lambda: app.chat.exchange.busy or not app.chat.composer.draft)
        await until(pilot, lambda: not app.chat.exchange.busy)


def replies(app: R1App) -> list[ReplyView]:
    return list(app.chat.query(ReplyView))


def questions(app: R1App) -> list[str]:
    return [view.text for view in app.chat.query(Question)]


def answers(app: R1App) -> list[str]:
    return [view.answer.source for view in replies(app)]


def notices(app: R1App) -> str:
    return "\n".join(notice.message for notice in app._notifications)


def kept() -> list[list[tuple[str, str, str | None, bool]]]:
    """Every conversation on the disk along its active branch."""
    with History.open() as history:
        return [
            [
                (turn.turn.role, turn.turn.text, turn.turn.thought, turn.turn.complete)
                for turn in history.load(c.id).turns
            ]
            for c in history.conversations()
        ]


# Asking


def test_a_first_turn(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        assert app.focused is not None
        await until(pilot, lambda: app.engines.engine is not None)
        await pilot.press(*"Hi", "space", *"you?")
        await pilot.press("enter")
        await until(pilot, lambda: not app.chat.exchange.busy and replies(app))
        (reply,) = replies(app)
        assert questions(app) == ["Hi you?"]
        assert reply.answer.source == "47+85=**132**"
        assert reply.thought.state == "folded"
        assert reply.thought.body.text == "Let me add the tens..."
        assert app.chat.composer.draft == ""

    stage.run(scene, thinks())
    assert kept() == [[("user", "Hi you?", None, True), ("assistant", "47+85=**132**", "Let me add the tens...", True)]]


def test_a_second_turn_knows_the_first(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        await say(app, pilot, "And twice that?")
        assert answers(app) == ["47+85=**132**", "264"]

    stage.run(scene, thinks(), thinks("264"))
    assert QUESTION in stage.prompts()[1]
    assert "**132**" in stage.prompts()[1]
    assert len(kept()[0]) == 4


def test_escape_stops_and_what_was_said_stays(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION, wait=False)
        await until(pilot, lambda: replies(app) and len(replies(app)[0].thought.body.text) > 20)
        await pilot.press("escape")
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert "Stopped" in str(replies(app)[0]._footer.content)

    stage.run(scene, slow())
    (conversation,) = kept()
    assert conversation[1][2] is not None
    assert conversation[1][2].startswith("Wait, Wait,")
    assert not conversation[1][3]


def test_the_answer_now(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION, wait=False)
        await until(pilot, lambda: replies(app) and replies(app)[0].thought.thinking)
        await pilot.press("ctrl+t")
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert answers(app) == ["132."]
        assert "You ended the thought" in str(replies(app)[0]._footer.content)

    stage.run(scene, slow(), Script(("132.",)), n_ctx=1_000_000)


def test_what_is_sent_meanwhile_is_asked_next(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION, wait=False)
        await until(pilot, lambda: replies(app) and replies(app)[0].begun)
        await say(app, pilot, "And 1 + 1?", wait=False)
        await until(pilot, lambda: len(answers(app)) == 2 and not app.chat.exchange.busy)
        assert questions(app) == [QUESTION, "And 1 + 1?"]

    stage.run(scene, slow(60), thinks("2"))


def test_a_stop_gives_back_what_waits(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION, wait=False)
        await until(pilot, lambda: replies(app) and replies(app)[0].begun)
        await say(app, pilot, "And 1 + 1?", wait=False)
        await pilot.press("escape")
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert app.chat.composer.draft == "And 1 + 1?"
        assert questions(app) == [QUESTION]

    stage.run(scene, slow())


def test_a_question_waits_for_the_model(stage: Stage) -> None:
    import threading

    may_load = threading.Event()

    def load() -> Engine:
        assert may_load.wait(10)
        return ScriptedEngine([thinks()], ChatTemplate(R1_TEMPLATE_V2))

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        app.chat.composer.draft = QUESTION
        await pilot.press("enter")
        await pilot.pause(0.2)
        assert questions(app) == [QUESTION]
        assert "when the model is loaded" in str(replies(app)[0]._footer.content)
        may_load.set()
        await until(pilot, lambda: not app.chat.exchange.busy)
        assert answers(app) == ["47+85=**132**"]

    stage.run(scene, load=load)


def test_a_model_that_cannot_be_loaded_gives_the_question_back(stage: Stage) -> None:
    def load() -> Engine:
        raise OutOfMemory("There is not enough memory.", "Close other programs.")

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        app.chat.composer.draft = QUESTION
        await pilot.press("enter")
        await until(pilot, lambda: "not enough memory" in notices(app))
        assert "Close other programs." in notices(app)
        assert app.chat.composer.draft == QUESTION
        assert questions(app) == []

    stage.run(scene, load=load)
    assert kept() == []


def test_what_does_not_fit_comes_back(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, "x" * 600, wait=False)
        await until(pilot, lambda: "Ctrl-N" in notices(app))
        assert app.chat.composer.draft == "x" * 600

    stage.run(scene, thinks(), n_ctx=300)


def test_an_engine_that_breaks_keeps_the_conversation(stage: Stage) -> None:
    broken = Script(("Let me", " see"), error=EngineError("Decoding failed.", "Run `r1local doctor`."))

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        assert "Decoding failed." in notices(app)
        assert "/reload" in notices(app)
        assert replies(app)[0].thought.body.text == "Let me see"
        app.chat.composer.draft = "/reload"
        await pilot.press("enter")
        await until(pilot, lambda: app.engines.engine is not None)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: answers(app) == ["47+85=**132**"] or len(stage.engines) > 1)

    stage.run(scene, broken)
    (conversation,) = kept()
    assert conversation[0][1] == QUESTION


# Other ways through a conversation


def test_retry_keeps_both_replies(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: answers(app) == ["second"] and not app.chat.exchange.busy)
        assert "‹ 2 of 2 ›" in str(replies(app)[0]._footer.content)
        replies(app)[0].focus()
        await pilot.press("left")
        await until(pilot, lambda: answers(app) == ["first"])

    stage.run(scene, thinks("first"), thinks("second"))
    assert stage.prompts()[0] == stage.prompts()[1]
    assert [text for _, text, _, _ in kept()[0]] == [QUESTION, "first"]


def test_a_question_worded_anew(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        await pilot.press("ctrl+e")
        assert app.chat.composer.draft == QUESTION
        app.chat.composer.draft = "What is 1 + 1?"
        await pilot.press("enter")
        await until(pilot, lambda: answers(app) == ["2"] and not app.chat.exchange.busy)
        assert questions(app) == ["What is 1 + 1?"]

    stage.run(scene, thinks(), thinks("2"))
    assert QUESTION not in stage.prompts()[1]
    assert [text for _, text, _, _ in kept()[0]] == ["What is 1 + 1?", "2"]


def test_leaving_the_new_wording(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        await pilot.press("ctrl+e", "escape")
        assert app.chat.composer.draft == ""
        await say(app, pilot, "Next")
        assert questions(app) == [QUESTION, "Next"]

    stage.run(scene, thinks(), thinks("2"))


def test_a_branch_from_an_earlier_turn(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        for text in ("one", "two"):
            await say(app, pilot, text)
        replies(app)[0].focus()
        await pilot.press("b")
        await until(pilot, lambda: questions(app) == ["one"])
        await say(app, pilot, "three")
        assert questions(app) == ["one", "three"]

    stage.run(scene, thinks("1"), thinks("2"), thinks("3"))
    assert [text for _, text, _, _ in kept()[0]] == ["one", "1", "three", "3"]


def test_going_on_from_an_edited_thought(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        replies(app)[0].focus()
        await pilot.press("g")
        await until(pilot, lambda: app.screen is not app.chat)
        await pilot.press(*" No.")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: answers(app) == ["133"] and not app.chat.exchange.busy)
        assert replies(app)[0].thought.body.text.startswith("Let me add the tens... No.")

    stage.run(scene, thinks(), Script((" So 133.", "</think>", "\n\n", "133")))
    assert stage.prompts()[1].endswith("<think>\nLet me add the tens... No.")


# Conversations


def test_a_conversation_is_resumed(stage: Stage) -> None:
    async def first(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)

    async def later(app: R1App, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.chat.sidebar.display)
        await pilot.press("ctrl+b", "ctrl+b")
        await pilot.pause(0.3)
        await pilot.press("enter")
        await until(pilot, lambda: answers(app) == ["47+85=**132**"])
        await pilot.press("ctrl+o")
        assert replies(app)[0].thought.state == "open"
        app.chat.composer.focus()
        await say(app, pilot, "And twice?")

    stage.run(first, thinks())
    stage.run(later, thinks("264"))
    assert [text for _, text, _, _ in kept()[0]] == [QUESTION, "47+85=**132**", "And twice?", "264"]


def test_a_new_conversation(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, "one")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: questions(app) == [])
        await say(app, pilot, "two")
        assert questions(app) == ["two"]

    stage.run(scene, thinks("1"), thinks("2"))
    assert sorted(len(conversation) for conversation in kept()) == [2, 2]
    assert "one" not in stage.prompts()[1]


def test_leaving_in_the_middle_keeps_what_was_shown(stage: Stage) -> None:
    shown = ""

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        nonlocal shown
        await say(app, pilot, QUESTION, wait=False)
        await until(pilot, lambda: replies(app) and len(replies(app)[0].thought.body.text) > 50)
        shown = replies(app)[0].thought.body.text
        await pilot.press("ctrl+q")

    stage.run(scene, slow())
    thought = kept()[0][1][2]
    assert thought is not None
    assert thought.startswith(shown.rstrip())


def test_searching_everywhere_and_here(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        await pilot.press("ctrl+n")
        await pilot.press("ctrl+g")
        await until(pilot, lambda: app.screen is not app.chat)
        await pilot.press(*"tens")
        await pilot.pause(0.6)
        await pilot.press("enter")
        await until(pilot, lambda: questions(app) == [QUESTION])
        await until(pilot, lambda: replies(app)[0].thought.state == "open", 3)

    stage.run(scene, thinks())


def test_the_find_bar(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, "a needle")
        await pilot.press("ctrl+f")
        await pilot.press(*"needle")
        await pilot.pause(0.2)
        assert app.chat.transcript.step(True) == (1, 3)
        assert app.chat.transcript.step(True) == (2, 3)
        assert replies(app)[0].thought.state == "open"
        await pilot.press("escape")
        assert not app.chat.find_bar.display

    stage.run(scene, thinks("needle", "needle"))


# Commands


def test_copying(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        await pilot.press("ctrl+y")
        await until(pilot, lambda: app.clipboard)
        assert app.clipboard.startswith("Look:")
        for command, text in (("/copy code", "print(1)\n"), ("/copy thought", "Hm.")):
            app.chat.composer.draft = command
            await pilot.press("enter")
            await until(pilot, lambda text=text: app.clipboard == text)

    stage.run(scene, Script(("Hm.", "</think>", "\n\n", "Look:\n\n```python\nprint(1)\n```\n\nDone.")))


def test_saving(stage: Stage, tmp_path: Path) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        for name in ("chat.md", "chat.json"):
            app.chat.composer.draft = f"/save {tmp_path / name}"
            await pilot.press("enter")
            await until(pilot, (tmp_path / name).exists)
        app.chat.composer.draft = f"/save {tmp_path / 'chat.md'}"
        await pilot.press("enter")
        await until(pilot, lambda: "exists already" in notices(app))

    stage.run(scene, thinks())
    assert QUESTION in (tmp_path / "chat.md").read_text()
    assert QUESTION in json.dumps(json.loads((tmp_path / "chat.json").read_text()))


def test_renaming_and_deleting(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        app.chat.composer.draft = "/rename Sums"
        await pilot.press("enter")
        await until(pilot, lambda: app.session.title == "Sums")
        app.chat.composer.draft = "/delete"
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is not app.chat)
        await pilot.press("y")
        await until(pilot, lambda: app.screen is app.chat and questions(app) == [])
        await pilot.pause(0.3)

    stage.run(scene, thinks())
    assert kept() == []


def test_how_thoughts_are_shown_is_remembered(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.engines.engine is not None)
        app.chat.composer.draft = "/think open"
        await pilot.press("enter")
        await say(app, pilot, QUESTION)
        assert replies(app)[0].thought.state == "open"

    async def later(app: R1App, pilot: Pilot[None]) -> None:
        assert app.preferences.thought == "open"

    stage.run(scene, thinks())
    assert json.loads(paths.screen_file().read_text())["thought"] == "open"
    stage.run(later)


@pytest.mark.parametrize(
    "command", ["/help", "/settings", "/models", "/search", "/stats", "/find", "/copy", "/thought", "/rename"]
)
def test_commands_before_anything_was_said(stage: Stage, command: str) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.engines.engine is not None)
        app.chat.composer.draft = command
        await pilot.press("enter")
        await pilot.pause(0.2)
        await pilot.press("escape")
        await pilot.pause(0.2)
        assert app.screen is app.chat

    stage.run(scene)


def test_every_command_does_something() -> None:
    """None of the list is forgotten in the code that carries them out."""
    import inspect

    from r1local.tui import app as application
    from r1local.tui.commands import COMMANDS
    from r1local.tui.screens import chat

    source = inspect.getsource(application) + inspect.getsource(chat)
    assert [name for name in COMMANDS if f'"{name}"' not in source] == []


# Small, wide, without colour


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (160, 50)])
def test_every_size(stage: Stage, size: tuple[int, int]) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        chat = app.chat
        assert chat.sidebar.display == (size[0] >= 80)
        composer = chat.composer.region
        assert composer.height >= 1
        assert composer.bottom <= size[1]
        reply = replies(app)[0]
        beside = reply.thought.region.right <= reply.answer.region.x
        assert beside == (size[0] >= 140)
        assert reply.answer.region.width > 20
        assert any("47+85=132" in line for line in lines(app))

    stage.run(scene, thinks(), size=size)


def test_errors_are_sentences(stage: Stage) -> None:
    class Odd(R1Error):
        pass

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        app.tell(Odd("It says [red]no[/red].", "Type something else."))
        await pilot.pause()
        assert "It says [red]no[/red].\nType something else." in notices(app)

    stage.run(scene)


def lines(app: R1App) -> Iterable[str]:
    return (strip.text for strip in app.screen._compositor.render_strips())


def test_hostile_text_is_harmless(stage: Stage) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J[red]x[/red]\u202e"

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        shown = "\n".join(lines(app))
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "[red]x[/red]" in shown

    stage.run(scene, thinks(evil, evil))


def test_pages_turn_while_one_types(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        transcript = app.chat.transcript
        await until(pilot, lambda: transcript.scroll_y > 20)
        app.chat.composer.draft = "a draft"
        before = transcript.scroll_y
        await pilot.press("pageup")
        await until(pilot, lambda: transcript.scroll_y < before - 5)
        await pilot.press("pagedown", "pagedown")
        await until(pilot, lambda: transcript.scroll_y == transcript.max_scroll_y)
        assert app.chat.composer.draft == "a draft"

    stage.run(scene, Script(("Hm.", "</think>", "\n\n", "A line.\n\n" * 60)))


def test_an_opened_thought_is_read_from_its_start(stage: Stage) -> None:
    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: any("line 1 of it" in line for line in lines(app)))
        assert any("Thought for" in line for line in lines(app))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: any("the end of the answer" in line for line in lines(app)))

    thought = "".join(f"line {number} of it\n" for number in range(1, 200))
    stage.run(scene, Script((thought, "</think>", "\n\n", "word\n\n" * 30, "the end of the answer")))


def test_a_folded_thought_takes_the_memory_of_its_text_alone(stage: Stage) -> None:
    """Its lines are laid out when somebody opens it."""

    async def scene(app: R1App, pilot: Pilot[None]) -> None:
        await say(app, pilot, QUESTION)
        thought = replies(app)[0].thought
        assert thought._body.line_count <= 1
        await pilot.press("ctrl+o")
        assert thought.body.line_count > 100
        assert "line 150 of it" in thought.body.text

    stage.run(scene, Script(("line 150 of it\n" * 150, "</think>", "\n\n", "answer")))

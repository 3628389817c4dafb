"""The composer: typing, sending, completing, pasting, and what it says about the size of the draft."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from textual import events
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static, TextArea

from r1local.tui.drafts import Drafts
from r1local.tui.widgets.composer import Composer
from r1local.tui.widgets.gauge import Gauge

COMMANDS = {
    "/retry": "Another reply",
    "/save": "Save as a file",
    "/stats": "How fast it was",
    "/clear": "Forget all",
    "/quit": "Leave",
    "/help": "What there is",
    "/edit": "Edit the last question",
}
MEGABYTE = 1 << 20


class Chat(App[None]):
    """A screen with a composer at its foot."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "stop", "Stop"),
        ("ctrl+e", "say('edit')", "Edit"),
        ("ctrl+y", "say('copy')", "Copy"),
    ]

    def __init__(self, drafts: Drafts, count: Callable[[str], int | None] | None) -> None:
        super().__init__()
        self.composer = Composer(COMMANDS, drafts=drafts, count=count)
        self.heard: list[Any] = []
        self.changes: list[str] = []

    def compose(self) -> ComposeResult:
        yield VerticalScroll(can_focus=False)
        yield self.composer
        yield Input()

    def on_mount(self) -> None:
        self.composer.focus()

    def on_composer_sent(self, message: Composer.Sent) -> None:
        self.heard.append(message.text)

    def on_composer_command(self, message: Composer.Command) -> None:
        self.heard.append((message.name, message.argument))

    def on_composer_changed(self, message: Composer.Changed) -> None:
        self.changes.append(message.text)

    def action_stop(self) -> None:
        self.heard.append("stop")

    def action_say(self, word: str) -> None:
        self.heard.append(word)

    @property
    def area(self) -> TextArea:
        return self.query_one(TextArea)

    @property
    def offered(self) -> list[str]:
        choices = self.query_one(OptionList)
        return [str(option.prompt) for option in choices.options] if choices.display else []

    @property
    def notices(self) -> list[str]:
        return [notice.message for notice in self._notifications]

    def type(self, *keys: str) -> None:
        """Faster than one key a frame."""
        for key in keys:
            self.area.post_message(events.Key(key, key if len(key) == 1 else None))

    async def paste(self, pilot: Pilot[None], text: str) -> None:
        self.post_message(events.Paste(text))
        await pilot.pause()


Scene = Callable[[Chat, Pilot[None]], Awaitable[None]]


def play(
    scene: Scene,
    *,
    size: tuple[int, int] = (80, 24),
    drafts: Drafts | None = None,
    count: Callable[[str], int | None] | None = None,
) -> None:
    async def run() -> None:
        chat = Chat(drafts or Drafts(), count)
        async with chat.run_test(size=size) as pilot:
            await pilot.pause()
            await scene(chat, pilot)

    asyncio.run(run())


async def until(pilot: Pilot[None], true: Callable[[], object]) -> None:
    """Wait for what comes from a thread."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "nothing came"
        await pilot.pause(0.01)


@pytest.fixture(params=[(80, 24), (40, 12), (200, 60)], ids=str)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    chosen: tuple[int, int] = request.param
    return chosen


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Sending


def test_enter_sends_and_clears(size: tuple[int, int]) -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"hi you", "enter")
        assert (chat.heard, chat.composer.draft) == (["hi you"], "")
        assert chat.changes[:2] == ["h", "hi"]
        assert chat.changes[-1] == ""

    play(scene, size=size)


def test_nothing_is_sent_of_nothing() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press("enter", "space", "shift+enter", "enter")
        assert (chat.heard, chat.composer.draft) == ([], " \n")

    play(scene)


@pytest.mark.parametrize("key", ["shift+enter", "ctrl+j", "alt+enter"])
def test_a_new_line(key: str) -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press("a", key, "b", "enter")
        assert chat.heard == ["a\nb"]

    play(scene)


def test_keys_that_come_at_once_keep_their_order() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.type("a", "ctrl+j", "b", "enter", *"/retry", "enter", "c", "enter", "d")
        await pilot.pause()
        await pilot.pause()
        assert (chat.heard, chat.composer.draft) == (["a\nb", ("/retry", ""), "c"], "d")

    play(scene)


def test_the_height_follows_the_text_up_to_a_third_of_the_screen() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        heights = []
        for height in (12, 24, 60, 4):
            await pilot.resize_terminal(40, height)
            chat.composer.draft = ""
            await pilot.pause()
            assert chat.area.size.height == 1
            chat.composer.draft = "word " * 9
            await pilot.pause()
            two = chat.area.size.height
            chat.composer.draft = "x\n" * 50
            await pilot.pause()
            heights.append((two, chat.area.size.height))
        assert heights == [(2, 3), (2, 7), (2, 19), (1, 1)]

    play(scene)


def test_the_placeholder_is_seen() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        assert chat.area.render_line(0).text.strip() == "Ask something. Enter sends."
        assert not chat.composer.gauge.display

    play(scene, size=(40, 12))


def test_a_refused_text_comes_back_in_front(folder: Path) -> None:
    (folder / "a.txt").write_text("A")

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"one", "enter", *"two")
        chat.composer.refuse("one")
        await pilot.press("!")
        assert chat.composer.draft == "one\ntwo!"
        chat.composer.draft = ""
        chat.composer.refuse("never sent")
        await pilot.press("!")
        assert chat.composer.draft == "never sent!"
        chat.composer.draft = "read @a.txt"
        await pilot.press("enter")
        await until(pilot, lambda: len(chat.heard) == 2)
        assert chat.heard[1].startswith("[file name]: a.txt\n")
        chat.composer.refuse(chat.heard[1])
        assert chat.composer.draft == "read @a.txt"

    play(scene)


def test_insert_puts_in_at_the_cursor() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"ac", "left")
        chat.composer.insert("b\x1b")
        await pilot.press("d")
        assert chat.composer.draft == "ab^[dc"

    play(scene)


# Commands


def test_commands() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        for draft in ("/retry", " /save a b.md ", "/2 is half", "/usr/bin", "/stats\nnow"):
            chat.composer.draft = draft
            await pilot.press("enter")
        assert chat.heard == [("/retry", ""), ("/save", "a b.md"), "/2 is half", "/usr/bin", ("/stats", "now")]

    play(scene)


def test_an_unknown_command_stays_and_the_nearest_is_named() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.composer.draft = "/retri [red]x"
        await pilot.press("enter")
        chat.composer.draft = "/zzz"
        await pilot.press("enter")
        assert (chat.heard, chat.composer.draft) == ([], "/zzz")
        assert chat.notices == ["There is no command /retri.\nDid you mean /retry?", "There is no command /zzz."]

    play(scene)


def test_commands_are_offered_and_taken(size: tuple[int, int]) -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"/s")
        assert chat.offered == ["/save   Save as a file", "/stats  How fast it was"]
        await pilot.press("down", "enter")
        assert (chat.composer.draft, chat.offered, chat.heard) == ("/stats ", [], [])
        await pilot.press("enter")
        assert chat.heard == [("/stats", "")]
        await pilot.press(*"/re", "tab", *"now", "enter")
        assert chat.heard[1:] == [("/retry", "now")]
        await pilot.press(*"/retry")
        assert chat.offered == ["/retry  Another reply"]
        await pilot.press("enter")
        assert chat.heard[2:] == [("/retry", "")]

    play(scene, size=size)


def test_the_list_of_commands_leaves_room_for_the_rest() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press("/")
        await pilot.pause()
        heights = []
        for columns, rows in ((80, 24), (40, 12), (40, 8)):
            await pilot.resize_terminal(columns, rows)
            await pilot.pause()
            choices = chat.query_one(OptionList)
            heights.append(choices.size.height)
            assert choices.region.bottom == chat.area.region.y
        assert heights == [6, 3, 2]

    play(scene)


def test_escape_closes_the_list_first() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"/s", "escape")
        assert (chat.offered, chat.heard) == ([], [])
        await pilot.press("escape")
        assert chat.heard == ["stop"]
        await pilot.press("t")
        assert chat.offered == ["/stats  How fast it was"]
        await pilot.press("escape", "tab", "enter")
        assert chat.heard == ["stop", ("/stats", "")]

    play(scene)


def test_a_click_takes_a_command() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"/s")
        await pilot.pause()
        await pilot.click(OptionList, offset=(3, 1))
        await pilot.pause()
        assert (chat.composer.draft, chat.focused) == ("/stats ", chat.area)

    play(scene)


def test_tab_moves_on_where_there_is_nothing_to_complete() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press("a", "tab")
        assert isinstance(chat.focused, Input)
        chat.composer.focus()
        await pilot.press(*"b@c", "left", "backspace", "/", "tab")
        assert chat.composer.draft == "ab/c"

    play(scene)


# Keys


def test_control_c_copies_or_clears_and_never_quits() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"abc", "shift+left", "ctrl+c")
        assert (chat.clipboard, chat.composer.draft) == ("c", "abc")
        await pilot.press("right", "ctrl+c")
        assert (chat.clipboard, chat.composer.draft) == ("c", "")
        await pilot.press("ctrl+z")
        assert chat.composer.draft == "abc"
        await pilot.press("ctrl+c", "ctrl+c", "ctrl+c")
        assert chat.is_running
        assert chat._exit is False

    play(scene)


def test_control_c_leaves_what_is_selected_elsewhere_to_the_screen() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await chat.query_one(VerticalScroll).mount(Static("an answer"))
        await pilot.press(*"abc")
        await pilot.mouse_down(Static, offset=(3, 0))
        await pilot.hover(Static, offset=(8, 0))
        await pilot.mouse_up(Static, offset=(8, 0))
        chat.composer.focus()
        await pilot.press("ctrl+c")
        assert (chat.clipboard, chat.composer.draft) == ("answer", "abc")

    play(scene)


def test_keys_of_the_app_are_left_to_it() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"ab", "home", "ctrl+e", "ctrl+y", "x")
        assert (chat.heard, chat.composer.draft) == (["edit", "copy"], "xab")

    play(scene)


def test_former_prompts() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"one", "enter", *"/retry", "enter")
        chat.composer.draft = "two\nlines"
        await pilot.press("enter", *"un", "up")
        assert chat.composer.draft == "two\nlines"
        await pilot.press("up")
        assert (chat.composer.draft, chat.offered) == ("/retry", [])
        await pilot.press("up")
        assert chat.composer.draft == "one"
        await pilot.press("up", "up", "down")
        assert chat.composer.draft == "/retry"
        await pilot.press("down")
        assert chat.composer.draft == "two\nlines"
        await pilot.press("down", "!")
        assert chat.composer.draft == "un!"

    play(scene)


def test_up_and_down_move_in_a_draft_of_several_rows() -> None:
    drafts = Drafts()
    drafts.add("former")

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.composer.draft = "word " * 12
        await pilot.press("up")
        assert chat.composer.draft.startswith("word")
        await pilot.press("up")
        assert chat.composer.draft == "former"
        await pilot.press("down", "a")
        assert chat.composer.draft == "word " * 12 + "a"

    play(scene, drafts=drafts, size=(40, 12))


def test_prompts_of_the_plain_chat_and_of_before(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text("\n# 2025-01-01\n+before\x1b[2J\n+line\n")
    drafts = Drafts(file)
    drafts.load()
    drafts.join(10)

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"new", "enter", "up", "up")
        assert chat.composer.draft == "before^[[2J\nline"

    play(scene, drafts=drafts)
    drafts.join(10)
    assert file.read_text().endswith("\n+new\n")


# Pasting


def test_short_pastes_are_text() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await chat.paste(pilot, "a\tb\rc\r\nd\x1b[31m\u202e")
        await pilot.press("enter")
        assert chat.heard == ["a\tb\nc\nd^[[31m⟨U+202E⟩"]

    play(scene)


def test_a_long_paste_is_a_chip_and_sent_as_a_file(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path / "history")

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"sum up ")
        await chat.paste(pilot, "x\x1b\r" * 100)
        assert chat.composer.draft == "sum up [pasted text 1: 300 characters]"
        await pilot.press("enter")
        await until(pilot, lambda: chat.heard)
        content = "x^[\n" * 100
        assert chat.heard == [
            f"[file name]: pasted text 1\n[file content begin]\n{content}\n[file content end]\nsum up pasted text 1"
        ]
        await pilot.press("up", "enter")
        await until(pilot, lambda: len(chat.heard) == 2)
        assert chat.heard[0] == chat.heard[1]
        drafts.join(10)
        again = Drafts(tmp_path / "history")
        again.load()
        again.join(10)
        assert again.former == ["sum up " + content]

    play(scene, drafts=drafts)


def test_a_chip_goes_as_a_whole_and_comes_back() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await chat.paste(pilot, "x" * 5000)
        await pilot.press("backspace")
        assert chat.composer.draft == ""
        await pilot.press("ctrl+z")
        assert chat.composer.draft == "[pasted text 1: 5,000 characters]"
        await pilot.press("left", "backspace", "enter")
        await until(pilot, lambda: chat.heard)
        assert chat.heard == ["[pasted text 1: 5,000 character]"]

    play(scene)


def test_a_long_draft_is_a_chip_that_stands_for_itself() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.composer.draft = "y" * 20_000
        assert chat.composer.draft == "[long text 1: 20,000 characters]"
        await pilot.press("!", "enter")
        await until(pilot, lambda: chat.heard)
        assert chat.heard == ["y" * 20_000 + "!"]

    play(scene)


@pytest.mark.parametrize("text", ["word " * (MEGABYTE // 5), "line\n" * (MEGABYTE // 5), "\x1b[0m\u202e" * 200_000])
def test_a_megabyte_is_pasted_at_once(text: str) -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        began = time.perf_counter()
        await chat.area._on_paste(events.Paste(text))
        spent = time.perf_counter() - began
        assert chat.composer.draft.startswith("[pasted text 1: ")
        assert spent < 0.05

    play(scene)


# Files


def test_files_are_read_and_sent_in_the_order_of_asking(folder: Path) -> None:
    (folder / "a b.txt").write_text("A")

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await chat.paste(pilot, 'read @"a b.txt"')
        chat.type("enter", *"then", "enter")
        await until(pilot, lambda: len(chat.heard) == 2)
        block = "[file name]: a b.txt\n[file content begin]\nA\n[file content end]\n"
        assert chat.heard == [block + "read a b.txt", "then"]

    play(scene)


def test_a_wrong_path_sends_nothing_and_the_draft_comes_back(folder: Path) -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"see @no/such")
        chat.type("enter", *"more")
        await until(pilot, lambda: chat.notices)
        assert chat.notices[0].startswith("There is no file no/such.\n")
        assert (chat.heard, chat.composer.draft) == ([], "see @no/such\nmore")
        chat.composer.draft = "@alice hi"
        await pilot.press("enter")
        await until(pilot, lambda: chat.heard)
        assert chat.heard == ["@alice hi"]

    play(scene)


def test_tab_completes_paths(folder: Path, size: tuple[int, int]) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "a b.txt").write_text("A")
    (folder / "notes" / "ac").write_text("A")
    (folder / "notes" / "\x1b[2Jd").write_text("A")
    (folder / "notes" / ".hidden").write_text("A")
    (folder / "other").write_text("A")

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press(*"see @no", "tab")
        await until(pilot, lambda: chat.offered)
        assert chat.composer.draft == "see @notes/"
        assert chat.offered == ["^[[2Jd   cannot be typed", "a b.txt", "ac"]
        await pilot.press("a")
        await until(pilot, lambda: len(chat.offered) == 2)
        await pilot.press("tab")
        assert chat.composer.draft == 'see @"notes/a b.txt" '
        assert chat.offered == []
        await pilot.press(*'@"notes/a', "tab")
        await until(pilot, lambda: chat.offered)
        await pilot.press("down", "enter")
        assert chat.composer.draft == 'see @"notes/a b.txt" @notes/ac '
        await pilot.press(*"@zzz", "tab")
        await pilot.pause(0.1)
        assert chat.composer.draft.endswith("@zzz")
        await pilot.press("escape")
        assert chat.heard == ["stop"]

    play(scene, size=size)


def test_the_list_closes_when_the_focus_goes() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press("/")
        chat.query_one(Input).focus()
        await pilot.pause()
        assert chat.offered == []

    play(scene)


def test_a_full_folder_is_listed_in_part(folder: Path) -> None:
    for number in range(300):
        (folder / f"f{number}").touch()

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        await pilot.press("@", "tab")
        await until(pilot, lambda: chat.offered)
        assert len(chat.offered) == 200

    play(scene)


# The gauge


def gauge(chat: Chat) -> str:
    return chat.query_one(Gauge).render_line(0).text.strip()


def test_the_gauge_counts_the_draft_with_what_is_attached(folder: Path) -> None:
    (folder / "a.txt").write_text("x" * 500)
    counted: list[tuple[str, bool]] = []

    def count(text: str) -> int:
        counted.append((text, threading.current_thread() is threading.main_thread()))
        return len(text)

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        shown = chat.query_one(Gauge)
        await pilot.press(*"four")
        assert not shown.display
        chat.composer.room = 1000
        await until(pilot, lambda: shown.used is not None)
        await pilot.pause()
        assert gauge(chat) == "draft 4 of 1,000 tokens left ────────"
        assert shown.region.right == chat.composer.region.right
        assert counted == [("four", False)]
        chat.composer.draft = "@a.txt"
        await until(pilot, lambda: shown.used and shown.used > 500)
        assert counted[-1][0].startswith("[file name]: a.txt")
        chat.composer.draft = ""
        await pilot.pause()
        assert (shown.display, shown.used) == (False, None)

    play(scene, count=count)


def test_a_huge_draft_is_estimated() -> None:
    def count(text: str) -> int:
        raise AssertionError

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.composer.room = 500_000
        await chat.paste(pilot, "word " * (MEGABYTE // 5))
        await until(pilot, lambda: chat.composer.gauge.used)
        await pilot.pause()
        assert gauge(chat).startswith("draft ~262,15")

    play(scene, count=count)


def test_only_the_latest_draft_is_counted_one_at_a_time() -> None:
    running, most, seen = [0], [0], []
    go = threading.Event()

    def count(text: str) -> int:
        running[0] += 1
        most[0] = max(most[0], running[0])
        seen.append(text)
        go.wait(10)
        running[0] -= 1
        return len(text)

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.composer.room = 100
        await pilot.press(*"abc")
        await until(pilot, lambda: seen)
        for key in "de":
            await pilot.press(key)
            await pilot.pause(0.35)
        assert (seen, chat.composer.gauge.used) == (["abc"], None)
        go.set()
        await until(pilot, lambda: chat.composer.gauge.used == 5)
        assert (seen, most[0]) == (["abc", "abcde"], 1)

    play(scene, count=count)


def test_what_is_counted_of_a_draft_that_is_gone_is_not_shown() -> None:
    go, seen = threading.Event(), threading.Event()

    def count(text: str) -> int:
        seen.set()
        go.wait(10)
        return len(text)

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.composer.room = 100
        await pilot.press(*"abc")
        await until(pilot, seen.is_set)
        await pilot.press("ctrl+c")
        go.set()
        await until(pilot, lambda: not chat.composer.gauge._weights._busy)
        assert chat.composer.gauge.used is None

    play(scene, count=count)


def test_work_that_is_never_started_is_not_complained_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the app ends in between."""
    shown = Gauge()
    monkeypatch.setattr(shown, "run_worker", lambda work: None)
    shown._weights.ask(("a", {}))
    gc.collect()


@pytest.mark.parametrize(
    ("used", "room", "shown", "classes"),
    [
        (1204, 6890, "draft 1,204 of 6,890 tokens left ━───────", set()),
        (800, 1000, "draft 800 of 1,000 tokens left ━━━━━━──", set()),
        (801, 1000, "draft 801 of 1,000 tokens left ━━━━━━──", {"-warning"}),
        (1000, 1000, "draft 1,000 of 1,000 tokens left ━━━━━━━━", {"-warning"}),
        (1001, 1000, "draft 1,001 of 1,000 tokens left ━━━━━━━━", {"-error"}),
        (1, -5, "draft 1 of 0 tokens left ━━━━━━━━", {"-error"}),
        (1, None, "", set()),
        (None, 5, "", set()),
    ],
)
def test_what_the_gauge_shows(used: int | None, room: int | None, shown: str, classes: set[str]) -> None:
    counted = threading.Event()

    def count(text: str) -> int | None:
        counted.set()
        return used

    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.composer.room = room
        await pilot.press("a")
        await until(pilot, lambda: counted.is_set() and not chat.composer.gauge._weights._busy)
        await pilot.pause()
        assert (gauge(chat) if chat.composer.gauge.display else "") == shown
        assert chat.composer.gauge.classes & {"-warning", "-error"} == classes

    play(scene, count=count)


def test_a_narrow_gauge_leaves_out_what_matters_least() -> None:
    async def scene(chat: Chat, pilot: Pilot[None]) -> None:
        chat.composer.room = 6890
        await pilot.press("a")
        for width, words in (
            (60, "draft 1,204 of 6,890 tokens left ━───────"),
            (40, "draft 1,204 of 6,890 tokens left"),
            (30, "1,204 / 6,890 ━───────"),
        ):
            await pilot.resize_terminal(width, 12)
            await until(pilot, lambda words=words: gauge(chat) == words)

    play(scene, count=lambda text: 1204)

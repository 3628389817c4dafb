"""The conversation: what was said, what is being said, and where to type."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

from r1local import paths
from r1local.errors import R1Error
from r1local.history import History, Stored
from r1local.template import Segment
from r1local.tui.commands import COMMANDS
from r1local.tui.drafts import Drafts
from r1local.tui.engines import Engines
from r1local.tui.exchange import Exchange, Surroundings
from r1local.tui.notices import text_of
from r1local.tui.preferences import Preferences
from r1local.tui.session import Session
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.composer import Composer
from r1local.tui.widgets.find_bar import FindBar
from r1local.tui.widgets.reply_view import ReplyView
from r1local.tui.widgets.sidebar import Sidebar
from r1local.tui.widgets.status import StatusLine
from r1local.tui.widgets.transcript import Transcript
from r1local.tui.widgets.turns import TurnView

_FRAME = 1 / 20
_WIDE, _NARROW = 140, 80
"""Columns from which on a thought stands beside its answer, and below which the list of conversations is away."""


def spare_the_collector() -> None:
    """What is there from the start is not looked through for garbage again and again: with all of Textual that takes
    100 ms. What comes later is, but rarely as a whole.
    """
    gc.freeze()
    gc.set_threshold(5_000, 20, 100)


class ChatScreen(Screen[None]):
    """Owns the conversation on the screen. What leads to other screens it leaves to the app."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", show=False),
        Binding("ctrl+t", "skip_thinking", "Answer now", priority=True),
        Binding("ctrl+r", "retry", "Retry", show=False),
        Binding("ctrl+e", "edit_last", "Edit", show=False, priority=True),
        Binding("ctrl+o", "thought", "Thought"),
        Binding("ctrl+y", "copy_answer", "Copy", show=False, priority=True),
        Binding("ctrl+n", "new", "New", priority=True),
        Binding("ctrl+b", "sidebar", "List", priority=True),
        Binding("ctrl+f", "find", "Find", show=False, priority=True),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
    ]

    class CommandGiven(Message):
        """A slash command, or what a turn's key stands for, that is not this screen's own."""

        def __init__(self, name: str, argument: str = "", view: TurnView | None = None) -> None:
            super().__init__()
            self.name = name
            self.argument = argument
            self.view = view

    def __init__(
        self,
        session: Session,
        engines: Engines,
        history: History,
        preferences: Preferences,
        *,
        welcome: Callable[[], Widget],
        model_name: Callable[[], str],
    ) -> None:
        super().__init__()
        self.session = session
        self._engines = engines
        self._history = history
        self.preferences = preferences
        self._welcome = welcome
        self._model_name = model_name
        self._thinking = False
        self._listed: tuple[int | None, bool] = (None, False)
        self._drafts = Drafts(paths.history_file())
        self.transcript = Transcript(id="transcript")
        self.composer = Composer(COMMANDS, drafts=self._drafts, count=self._count)
        self.sidebar = Sidebar(history)
        self.find_bar = FindBar()
        self.status = StatusLine(id="status")
        around = Surroundings(
            tell=self._tell,
            say=lambda text: self.notify(text, timeout=3),
            model_name=model_name,
            thought_state=lambda: self.preferences.thought,
            ended=self._ended,
        )
        self.exchange = Exchange(session, engines, self.transcript, self.composer, around)

    def compose(self) -> ComposeResult:
        with Horizontal(id="columns"):
            yield self.sidebar
            with Vertical(id="talk"):
                yield self.transcript
                yield self.find_bar
                yield self.status
                yield self.composer
        yield Footer(compact=True, show_command_palette=False)  # it would cover other keys on narrow screens

    def on_mount(self) -> None:
        self.find_bar.display = False
        self._arrange()
        self.transcript.show_welcome(self._welcome())
        self.composer.focus()
        self._drafts.load()
        self.call_after_refresh(spare_the_collector)
        self.set_interval(_FRAME, self._tick)

    def on_composer_sent(self, message: Composer.Sent) -> None:
        self.exchange.send(message.text)

    def _tick(self) -> None:
        self.exchange.tick()
        self._show_status()
        if self._thinking != self.exchange.thinking:
            self._thinking = self.exchange.thinking
            self.refresh_bindings()
        if self._listed != self._to_list:
            self._list()

    def _ended(self) -> None:
        """A reply was, and is kept."""
        self._room()
        self.refresh_bindings()

    @property
    def _to_list(self) -> tuple[int | None, bool]:
        """What the list of conversations shows of this one: which it is, and whether a reply is under way."""
        return self.session.id, self.exchange.reply is not None

    def _list(self) -> None:
        self._listed = conversation, under_way = self._to_list
        self.sidebar.refresh_list(conversation, [conversation] if under_way and conversation is not None else [])

    def _tell(self, error: R1Error) -> None:
        self.notify(text_of(error), severity="error", timeout=15, markup=False)

    # What is said below

    @property
    def _n_ctx(self) -> int:
        return self._engines.engine.n_ctx if self._engines.engine else 0

    @property
    def _used(self) -> int:
        """Tokens of the conversation so far, as far as they are known; old thoughts are not sent again."""
        last = self.session.last_reply
        stats = last.stats if last else None
        return stats.prompt_tokens + stats.answer_tokens if stats else 0

    def _room(self) -> None:
        self.composer.room = max(0, self._n_ctx - self._used) if self._n_ctx else None

    def _show_status(self) -> None:
        if self.composer.room is None and self._n_ctx:
            self._room()
        state, waiting = self.exchange.state()
        room = f"{self._used:,} of {self._n_ctx:,} tokens" if self._n_ctx else ""
        self.status.show(f"{self._model_name()} · {state}", waiting, room, self.session.title)

    def _count(self, text: str) -> int | None:
        engine = self._engines.engine
        return len(engine.encode([Segment(text, trusted=False)])) if engine else None

    # Conversations

    def open(self, conversation: int, turn: int | None = None, needle: str = "") -> None:
        self.exchange.when_free(lambda: self._read(conversation, turn, needle))

    @work(thread=True, exclusive=True, group="read")
    def _read(self, conversation: int, turn: int | None, needle: str) -> None:
        try:
            stored = self.session.read(conversation)
        except R1Error as error:
            self.app.call_from_thread(self._tell, error)
            return
        self.app.call_from_thread(self._show, stored, turn, needle)

    def _show(self, stored: Stored, turn: int | None = None, needle: str = "") -> None:
        self.exchange.editing = None
        self._arrange()
        self.session.show(stored)
        self.transcript.show_turns(stored.turns, self.preferences.thought)
        self._list()
        self._room()
        self.composer.focus()
        if needle:
            self.call_after_refresh(self._find, needle)

    def _find(self, needle: str) -> None:
        if self.transcript.find(needle):
            self.transcript.step(True)

    @work(thread=True, group="change")
    def change(self, do: Callable[[], object], reread: bool = True) -> None:
        """Change something on the disk, then show the conversation as it is now."""
        try:
            do()
            stored = self.session.read(self.session.id) if reread and self.session.id is not None else None
        except R1Error as error:
            self.app.call_from_thread(self._tell, error)
            return
        if stored is not None:
            self.app.call_from_thread(self._show, stored)
        else:
            self.app.call_from_thread(self._list)

    def action_new(self) -> None:
        self.exchange.when_free(self.show_new)

    def show_new(self) -> None:
        self.exchange.editing = None
        self.session.new()
        self.transcript.show_welcome(self._welcome())
        self._list()
        self._room()
        self.composer.focus()

    # Keys

    def action_stop(self) -> None:
        self.exchange.stop()
        self.composer.focus()

    def action_skip_thinking(self) -> None:
        self.exchange.skip_thinking()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that would do nothing now are not offered."""
        if action == "skip_thinking":
            return self._thinking
        if action == "thought":
            return any(view.thought.display for view in self.query(ReplyView))
        return True

    def action_retry(self) -> None:
        question = self.session.last_question
        if question is None:
            self.notify("There is nothing to retry yet. Type a question.")
        else:
            self.exchange.answer_anew(question)

    def action_edit_last(self) -> None:
        question = self.session.last_question
        if question is None:
            self.notify("There is no question to edit yet.")
        else:
            self.exchange.edit(question)

    def action_thought(self) -> None:
        views = [view for view in self.query(ReplyView) if view.thought.display]
        if views:
            thought = views[-1].thought
            thought.action_fold()
            if thought.state == "open" and not thought.thinking:
                self.transcript.release_anchor()
                self.call_after_refresh(views[-1].scroll_visible, top=True, animate=False)
            else:
                self.transcript.anchor()

    def action_copy_answer(self) -> None:
        self.post_message(self.CommandGiven("/copy"))

    def action_page(self, pages: int) -> None:
        if pages < 0:
            self.transcript.release_anchor()
        self.transcript.scroll_relative(y=pages * max(1, self.transcript.size.height - 2), animate=False)

    def action_sidebar(self) -> None:
        self.sidebar.display = not self.sidebar.display
        self.set_class(self.sidebar.display, "-listing")
        if self.sidebar.display:
            self.sidebar.focus()
        else:
            self.composer.focus()

    def action_find(self) -> None:
        self.find_bar.display = True
        self.find_bar.focus()

    # Messages

    def on_composer_command(self, message: Composer.Command) -> None:
        self.command(message.name, message.argument)

    def command(self, name: str, argument: str = "") -> None:
        """Carry out a slash command, or hand it to the app."""
        own: dict[str, Callable[[], None]] = {
            "/new": self.action_new,
            "/retry": self.action_retry,
            "/edit": self.action_edit_last,
            "/skip": self.action_skip_thinking,
            "/find": self.action_find,
        }
        if name in own:
            own[name]()
        else:
            self.post_message(self.CommandGiven(name, argument))

    def on_turn_view_wanted(self, message: TurnView.Wanted) -> None:
        turn = message.view.turn
        if turn is None:
            self.notify("It is not kept yet.")
        elif message.action == "edit":
            self.exchange.edit(turn)
        elif message.action == "retry":
            question = next((each for each in self.session.turns if each.id == turn.parent), None)
            if question is not None:
                self.exchange.answer_anew(question)
        elif message.action == "branch":
            self.exchange.when_free(lambda: self.change(lambda: self._history.branch(turn.id)))
        elif message.action in ("earlier", "later"):
            place = turn.siblings.index(turn.id) + (1 if message.action == "later" else -1)
            if 0 <= place < len(turn.siblings):
                self.exchange.when_free(lambda: self.change(lambda: self._history.choose(turn.siblings[place])))
        else:
            self.post_message(self.CommandGiven(f"/{message.action}", view=message.view))

    def on_find_bar_changed(self, message: FindBar.Changed) -> None:
        self.find_bar.show_count(0, self.transcript.find(message.text))

    def on_find_bar_step(self, message: FindBar.Step) -> None:
        self.find_bar.show_count(*self.transcript.step(message.forward))

    def on_find_bar_closed(self) -> None:
        self.transcript.find("")
        self.find_bar.display = False
        self.composer.focus()

    # The room there is

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Which columns there are."""
        self.set_class(self.preferences.side_by_side and self.size.width >= _WIDE, "-beside")
        self.set_class(self.size.width < _NARROW, "-narrow")
        self.sidebar.display = self.preferences.sidebar and self.size.width >= _NARROW
        self.set_class(self.sidebar.display, "-listing")

    def prefer(self, preferences: Preferences) -> None:
        self.preferences = preferences
        self._arrange()

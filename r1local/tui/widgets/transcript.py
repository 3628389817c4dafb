"""What was said in a conversation, from top to bottom, and searching in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Button

from r1local.history import StoredTurn
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.readable import Readable
from r1local.tui.widgets.reply_view import ReplyView
from r1local.tui.widgets.thought import State
from r1local.tui.widgets.turns import Question, TurnView

_AT_ONCE = 30
"""Turns that are put on the screen at a time: each takes some milliseconds."""


class Transcript(VerticalScroll):
    """Turns. It follows its end while that is in view."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = []

    class Earlier(Message):
        """More of the conversation is wanted."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, can_focus=False)
        self._earlier: list[StoredTurn] = []
        self._after: State = "folded"
        self._needle = ""
        self._current: tuple[Readable, int] | None = None

    def on_mount(self) -> None:
        self.anchor()

    @property
    def views(self) -> list[TurnView]:
        return list(self.query_children(TurnView))

    def show_turns(self, turns: Sequence[StoredTurn], after: State) -> None:
        """Instead of all there was. Only the last turns at once; the ones before on request."""
        self._after = after
        self._current = None
        self._earlier = list(turns[:-_AT_ONCE])
        self.remove_children()
        if self._earlier:
            self.mount(self._button())
        self.mount_all(self._view(turn) for turn in turns[-_AT_ONCE:])
        self.anchor()

    def show_welcome(self, welcome: Widget) -> None:
        self._earlier = []
        self.remove_children()
        self.mount(welcome)

    def add(self, view: TurnView) -> None:
        if not self.views:
            self.remove_children()
        self.mount(view)
        self.anchor()

    def cut(self, first: TurnView) -> None:
        """Take a turn and all that follow off the screen."""
        views = self.views
        for view in views[views.index(first) :]:
            view.remove()

    def _view(self, turn: StoredTurn) -> TurnView:
        if turn.turn.role == "user":
            return Question(turn.turn.text, turn)
        return ReplyView(turn, after=self._after)

    def _button(self) -> Button:
        return Button(f"{len(self._earlier)} earlier turns", id="earlier", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        turns, self._earlier = self._earlier[-_AT_ONCE:], self._earlier[:-_AT_ONCE]
        first = self.views[0]
        event.button.remove()
        if self._earlier:
            self.mount(self._button(), before=first)
        self.mount_all([self._view(turn) for turn in turns], before=first)
        first.scroll_visible(top=True, animate=False)

    # Searching

    def find(self, needle: str) -> int:
        """Mark a text everywhere, thoughts included; how often it is there. "" marks none."""
        self._needle, self._current = needle, None
        return sum(len(text.search(needle)) for text in self._texts())

    def step(self, forward: bool) -> tuple[int, int]:
        """Go to the next occurrence or the one before: its number from 1, and how many there are."""
        places = [(text, index) for text in self._texts() for index in range(len(text.matches))]
        if not places:
            return 0, 0
        if self._current in places:
            number = (places.index(self._current) + (1 if forward else -1)) % len(places)
            self._current[0].show_match(None)
        else:
            number = 0 if forward else len(places) - 1
        text, index = self._current = places[number]
        for view in self.query(ReplyView):
            if text is view.thought.body and view.thought.state != "open":
                view.thought.state = "open"
        self.call_after_refresh(self._reveal, text, index)
        return number + 1, len(places)

    def _reveal(self, text: Readable, index: int) -> None:
        self.release_anchor()
        text.scroll_visible(animate=False)
        text.show_match(index)

    def _texts(self) -> Iterator[Readable]:
        for view in self.views:
            if isinstance(view, Question):
                yield view.body
            elif isinstance(view, ReplyView):
                yield view.thought.body
                yield view.answer

"""A turn of the conversation, and the one that is a question."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from r1local.history import StoredTurn
from r1local.tui.text import footers
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.long_text import LongText

_LONG_QUESTION = 2_000
"""Characters above which a question may scroll in its box, and wants keys for it."""


class TurnView(Widget):
    """A turn. `turn` is known once it is kept."""

    turn: StoredTurn | None = None

    class Wanted(Message):
        """Somebody wants something done with this turn.

        edit, retry, branch, earlier, later; copy, thought and code are copied; go_on: with a thought that is edited.
        """

        def __init__(self, view: TurnView, action: str) -> None:
            super().__init__()
            self.view = view
            self.action = action

    def action_want(self, action: str) -> None:
        self.post_message(self.Wanted(self, action))


class Question(TurnView, can_focus=True):
    """What somebody asked."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "want('edit')", "Edit"),
        Binding("c", "want('copy')", "Copy"),
        Binding("b", "want('branch')", "Go on from here"),
        Binding("left", "want('earlier')", "Earlier wording", show=False),
        Binding("right", "want('later')", "Later wording", show=False),
    ]

    def __init__(self, text: str, turn: StoredTurn | None = None) -> None:
        super().__init__()
        self.text = text
        self.turn = turn
        self.body = LongText(text, share=0.4, classes="question--text")
        self.body.can_focus = len(text) > _LONG_QUESTION

    def compose(self) -> ComposeResult:
        yield self.body
        if siblings := footers.place(self.turn):
            yield Static(siblings, markup=False, classes="turn--footer")

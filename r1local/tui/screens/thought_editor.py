"""Changes a thought before the model goes on from it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from r1local.template import THINK_CLOSE
from r1local.tui.widgets import style_beside


class ThoughtEditor(ModalScreen[str | None]):
    """Gives the thought as it was left; with its closing tag where the answer is wanted at once."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "think_on", "Think on from here", priority=True),
        Binding("ctrl+d", "answer", "Answer now", priority=True),
        Binding("escape", "leave", "Leave", priority=True),
    ]

    def __init__(self, thought: str) -> None:
        super().__init__()
        self._thought = thought

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static("Ctrl-S thinks on from the end · Ctrl-D answers now · Esc leaves it", classes="hint")
            yield TextArea(self._thought, soft_wrap=True)

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.move_cursor(area.document.end)
        area.focus()

    def action_think_on(self) -> None:
        self.dismiss(self.query_one(TextArea).text)

    def action_answer(self) -> None:
        self.dismiss(self.query_one(TextArea).text + THINK_CLOSE)

    def action_leave(self) -> None:
        self.dismiss(None)

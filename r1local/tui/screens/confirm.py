"""A question with two answers."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from r1local.terminal import clean
from r1local.tui.widgets import style_beside

_WIDTH = 64
_FRAME = 5
"""Lines around question and detail; no fewer columns."""


class Confirm(ModalScreen[bool]):
    """Dismisses with True for a yes, with False for everything else. The texts are cleaned here."""

    DEFAULT_CSS = style_beside(__file__)
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", show=False),
        Binding("n,escape", "answer(False)", "No", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
        Binding("up", "scroll_detail(-1)", show=False),
        Binding("down", "scroll_detail(1)", show=False),
    ]

    def __init__(self, question: str, detail: str = "", yes_label: str = "Yes", *, careful: bool = False) -> None:
        """With `careful`, Enter alone means no."""
        super().__init__()
        self._question, self._detail, self._yes_label = clean(question), clean(detail), clean(yes_label)
        self._careful = careful

    def compose(self) -> ComposeResult:
        with Vertical(id="box"):
            yield Static(Content(self._question), id="question")
            with VerticalScroll(can_focus=False):
                yield Static(Content(self._detail), id="detail")
            with Horizontal():
                yield Button(Content(f"{self._yes_label} (y)"), id="yes", compact=True, variant="primary")
                yield Button(Content("Cancel (n)"), id="no", compact=True)

    def on_resize(self, event: events.Resize) -> None:
        """The buttons stay on the screen, whatever there is to read."""
        question = cell_len(self._question) // max(1, min(_WIDTH, event.size.width) - _FRAME) + 1
        self.query_one(VerticalScroll).styles.max_height = max(1, event.size.height - question - _FRAME)

    def on_mount(self) -> None:
        self.query_one("#no" if self._careful else "#yes").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_scroll_detail(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)

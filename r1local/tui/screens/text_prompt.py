"""Asks for one line of text."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from r1local.terminal import clean_line
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.find_bar import LineInput


class TextPrompt(ModalScreen[str | None]):
    """Gives what was typed, without spaces around it and never empty, or None."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Leave it")]

    def __init__(self, title: str, value: str = "", hint: str = "") -> None:
        super().__init__()
        self._title, self._value, self._hint = clean_line(title), clean_line(value), clean_line(hint)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._title, classes="text-prompt--title", markup=False)
            yield LineInput(self._value, compact=True)
            if self._hint:
                yield Static(self._hint, classes="text-prompt--hint", markup=False)
            yield Static("Enter takes it, Esc leaves it.", classes="text-prompt--keys", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if text := event.value.strip():
            self.dismiss(text)

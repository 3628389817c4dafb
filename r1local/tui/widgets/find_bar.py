"""The line to search in the open conversation; and what a line is typed into, here and elsewhere, and cut to fit."""

from __future__ import annotations

import re
from typing import ClassVar, Self

from rich.cells import set_cell_size
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from r1local.terminal import clean_line
from r1local.tui.text.wrapping import cells
from r1local.tui.widgets import style_beside

# Textual sends them to the terminal as they are. What only hides or reorders text stays: scripts need some of it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def fitted(text: str, width: int) -> str:
    """One clean line of at most so many cells."""
    text = clean_line(text[: max(width, 1) * 8])
    return text if cells(text) <= width else set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


class LineInput(Input):
    """One line that holds no control characters, whatever is pasted."""

    def validate_value(self, value: str) -> str:
        return _CONTROL.sub(" ", value)


class FindBar(Widget):
    """What is searched for, and which of how many places is shown. It finds nothing itself."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "step(True)", "Next"),
        Binding("up,shift+enter", "step(False)", "Previous"),
        Binding("escape", "close", "Close"),
    ]

    class Changed(Message):
        """Another text is searched for; "" for none."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Step(Message):
        """To the next place, or to the one before."""

        def __init__(self, forward: bool) -> None:
            super().__init__()
            self.forward = forward

    class Closed(Message):
        """It is no longer wanted."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._input = LineInput(placeholder="in this conversation", compact=True)
        self._count = Static(classes="find-bar--count", markup=False)

    @property
    def text(self) -> str:
        """What is searched for."""
        return self._input.value

    def show_count(self, index: int, total: int) -> None:
        """The place gone to, counted from 1, of so many; an index of 0 for none yet."""
        if not self.text:
            self._count.update("")
        elif not total:
            self._count.update("not found")
        elif index:
            self._count.update(f"{index:,} of {total:,}")
        else:
            self._count.update(f"{total:,} found")

    def focus(self, scroll_visible: bool = True) -> Self:
        """Type into it; what was there before is selected."""
        self._input.focus(scroll_visible)
        self._input.select_all()
        return self

    def compose(self) -> ComposeResult:
        yield Static("Find", classes="find-bar--label", markup=False)
        yield self._input
        yield self._count

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._count.update("")  # nobody has looked yet
        self.post_message(self.Changed(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_step(True)

    def action_step(self, forward: bool) -> None:
        if self.text:
            self.post_message(self.Step(forward))

    def action_close(self) -> None:
        self.post_message(self.Closed())

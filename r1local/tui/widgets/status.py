"""One line between the conversation and the composer: the model, what it does, and the room that is left."""

from __future__ import annotations

from textual.widgets import Static

from r1local.terminal import clean_line
from r1local.tui.widgets import style_beside


class StatusLine(Static):
    """As many of its parts as fit, the most telling first."""

    DEFAULT_CSS = style_beside(__file__)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("", markup=False, id=id)
        self._parts: tuple[str, ...] = ()

    def show(self, *parts: str) -> None:
        """The first one is never left out."""
        shown = tuple(clean_line(part) for part in parts if part)
        if shown != self._parts:
            self._parts = shown
            self._fill()

    def on_resize(self) -> None:
        self._fill()

    def _fill(self) -> None:
        width = self.size.width - 2
        text = ""
        for part in self._parts:
            longer = f"{text} · {part}" if text else part
            if text and 0 < width < len(longer):
                break
            text = longer
        self.update(text)

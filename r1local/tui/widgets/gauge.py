"""How much of the context the draft would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.text import Text
from textual import events
from textual.reactive import reactive
from textual.timer import Timer
from textual.widgets import Static

from r1local.errors import R1Error, UsageError
from r1local.tui import attachments
from r1local.tui.latest import Latest
from r1local.tui.widgets import style_beside

_BAR = 8
_PAUSE = 0.3
_COUNTED = 200_000
"""Characters whose tokens are still counted."""
_Draft = tuple[str, Mapping[str, str]]


def _weight(
    draft: str, pasted: Mapping[str, str], count: Callable[[str], int | None] | None
) -> tuple[int | None, bool]:
    """The tokens of a draft, if they are known, and whether they were only estimated."""
    characters, text = attachments.length(draft, pasted), draft
    if characters <= _COUNTED:
        try:
            text = attachments.expand(draft, pasted, Path())
        except UsageError:
            text = attachments.inline(draft, pasted)
        characters = len(text)
    if characters > _COUNTED:
        return characters // 4, True
    try:
        return (count(text) if count is not None else None), False
    except R1Error:
        return None, False


class Gauge(Static):
    """One line: the tokens of the draft, and those that are left for it. Empty while either is unknown."""

    DEFAULT_CSS = style_beside(__file__)

    used: reactive[int | None] = reactive[int | None](None, init=False)
    room: reactive[int | None] = reactive[int | None](None, init=False)
    estimated: reactive[bool] = reactive(False, init=False)
    """Whether `used` was not counted."""

    def __init__(
        self,
        count: Callable[[str], int | None] | None = None,
        *,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`count` gives the tokens of a text, or None while nobody knows; it is called in a thread."""
        super().__init__(id=id, classes=classes, markup=False)
        self.display = False
        self._draft: _Draft = ("", {})
        self._weights = Latest(self, lambda draft: _weight(*draft, count), self._put)
        self._timer: Timer | None = None

    def weigh(self, draft: str, pasted: Mapping[str, str]) -> None:
        """Show soon how much a draft takes with all that is attached; at once that it takes nothing."""
        self._draft = draft, pasted
        if self._timer is not None:
            self._timer.stop()
        if draft:
            self._timer = self.set_timer(_PAUSE, lambda: self._weights.ask(self._draft))
        else:
            self.used = None
        self._show()

    def _put(self, draft: _Draft, weight: tuple[int | None, bool]) -> None:
        if draft is self._draft and draft[0]:
            self.used, self.estimated = weight

    @property
    def share(self) -> float:
        """Of the room; more than 1 is too much."""
        if not self.used or self.room is None:
            return 0.0
        return self.used / self.room if self.room > 0 else float("inf")

    def words(self, width: int) -> str:
        """What it says on so many columns, the bar apart."""
        if self.used is None or self.room is None:
            return ""
        about = "~" if self.estimated else ""
        used, room = f"{about}{self.used:,}", f"{max(self.room, 0):,}"
        full = f"draft {used} of {room} tokens left"
        return full if len(full) <= width else f"{used} / {room}"

    def _show(self) -> None:
        self.display = bool(self._draft[0]) and self.room is not None
        width = self.content_size.width
        words = self.words(width)
        self.set_class(0.8 < self.share <= 1, "-warning").set_class(self.share > 1, "-error")
        line = Text(words, no_wrap=True, end="")
        if words and len(words) + 1 + _BAR <= width:
            filled = min(_BAR, round(self.share * _BAR)) if self.share <= 1 else _BAR
            line.append(" " + "━" * filled).append("─" * (_BAR - filled), style="dim")
        self.update(line, layout=False)

    def on_resize(self, event: events.Resize) -> None:
        self._show()

    def watch_used(self) -> None:
        self._show()

    def watch_room(self) -> None:
        self._show()

    def watch_estimated(self) -> None:
        self._show()

"""What stands in a conversation where nothing was said yet: what to type, and how to get further."""

from __future__ import annotations

from collections.abc import Callable

from textual import work
from textual.widgets import Static

from r1local.store import LocalModel
from r1local.terminal import clean_line
from r1local.tui.widgets import style_beside

_INSIDE = "This is the small model inside r1local. It only does arithmetic, but it thinks: ask it"
_EXAMPLES = ("What is 347 + 285?", "What is 47 * 86?")


class Welcome(Static):
    """A few lines; the one about better models comes when the machine was looked at."""

    DEFAULT_CSS = style_beside(__file__)

    def __init__(self, local: LocalModel, real_one: Callable[[], str]) -> None:
        super().__init__(markup=False)
        self._local = local
        self._real_one = real_one

    def on_mount(self) -> None:
        self._fill("")
        if self._local.is_inside:
            self._look()

    def _fill(self, further: str) -> None:
        name = clean_line(self._local.name)
        if self._local.is_inside:
            lines = ["Welcome to r1local.", "", _INSIDE, *(f"  {example}" for example in _EXAMPLES)]
            lines += ["", further or "Looking which real model this machine can run…", "F2 lists models and gets them."]
        else:
            lines = [f"{name} listens.", "", "Nothing of what you say leaves this machine."]
        lines += ["", "F1 shows the keys."]
        self.update("\n".join(lines))

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        further = self._real_one()
        if self.is_mounted:
            self.app.call_from_thread(self._fill, further)

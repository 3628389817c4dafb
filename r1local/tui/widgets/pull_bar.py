"""How far the download is that is under way."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content
from textual.widget import Widget

from r1local.terminal import clean_line
from r1local.tui.pulls import PullState
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.model_list import shortened
from r1local.units import seconds

_ONE_LINE = 90
"""Columns from which everything stands on one line."""
_SHORTEST_BAR = 6
_LONGEST_NAME = 26


class PullBar(Widget):
    """The one that runs: its name, a bar, percent, size, speed and time left. Hidden while there is none."""

    DEFAULT_CSS = style_beside(__file__)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._state: PullState | None = None
        self._waiting = 0
        self.display = False

    def show(self, states: tuple[PullState, ...]) -> None:
        """Draw where they stand."""
        active = [state for state in states if state.active]
        self._state = next((state for state in active if state.state != "waiting"), active[0] if active else None)
        self._waiting = len(active) - 1
        self.display = self._state is not None
        self.refresh()

    @property
    def _one_line(self) -> bool:
        return self.outer_size.width >= _ONE_LINE

    def on_resize(self) -> None:
        self.set_class(not self._one_line, "-narrow")

    def render(self) -> Content:
        if self._state is None:
            return Content()
        name = clean_line(self._state.name) + (f" (+{self._waiting})" if self._waiting else "")
        facts, width = _facts(self._state), self.size.width
        room = width - _LONGEST_NAME - _SHORTEST_BAR - 8 if self._one_line else width
        text = shortened(next((text for text in facts if cell_len(text) <= room), facts[-1]), room)
        if self._one_line:
            return Content.assemble(self._begin(name, width - cell_len(text) - 2), "  ", text)
        return Content.assemble(self._begin(name, width), "\n", text)

    def _begin(self, name: str, width: int) -> Content:
        """Name, bar and percent, in just so many columns."""
        state = self._state
        assert state is not None
        share = min(1.0, state.done / state.total) if state.total else 0.0
        percent = f"{int(share * 100):>3}%" if state.total else ""
        name = shortened(name, min(_LONGEST_NAME, width - _SHORTEST_BAR - len(percent) - 2))
        length = max(0, width - cell_len(name) - len(percent) - 2)
        full = int(share * length)
        return Content.assemble(
            (name, "bold"),
            " ",
            ("━" * full, "$primary"),
            ("─" * (length - full), "$foreground 40%"),
            " ",
            (percent, "bold"),
        )


def _facts(state: PullState) -> list[str]:
    """What to say, from the longest wording to the shortest."""
    if state.note:
        return [clean_line(state.note)]
    if state.state == "waiting":
        return ["waits for another download"]
    if not state.total:
        return ["asking what there is…"]
    if state.state == "checking":
        return [f"checking  {_part(state)}"]
    left = seconds(state.seconds_left) if state.seconds_left is not None else ""
    pace = f"{state.bytes_per_second / 1e6:.1f} MB/s" if state.bytes_per_second else ""
    wordings = (_part(state), pace, f"{left} left" if left else ""), (_part(state), pace, left), (_part(state), left)
    return ["  ".join(filter(None, wording)) for wording in wordings]


def _part(state: PullState) -> str:
    unit, name = (1e9, "GB") if state.total >= 1e9 else (1e6, "MB")
    digits = 2 if unit == 1e9 else 1
    return f"{state.done / unit:.{digits}f}/{state.total / unit:.{digits}f} {name}"

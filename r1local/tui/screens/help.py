"""What the keys do, and what can be typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from r1local.terminal import clean_line
from r1local.tui.text.wrapping import cells
from r1local.tui.widgets import style_beside

Pairs = Sequence[tuple[str, str]]
_MOST_CELLS = 16
_MOST_SHARE = 4
"""What stands on the left takes no more cells, and without long words no more than this part of the screen."""


class HelpScreen(ModalScreen[None]):
    """Groups, each of a heading and of keys with what they do; then the commands. It scrolls."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,f1", "dismiss(None)", "Close", key_display="esc")]

    def __init__(self, groups: Sequence[tuple[str, Pairs]], commands: Mapping[str, str]) -> None:
        super().__init__()
        self._groups: list[tuple[str, Pairs]] = [*groups]
        if commands:
            self._groups.append(("Commands", [*commands.items()]))

    def compose(self) -> ComposeResult:
        with VerticalScroll() as scroll:
            scroll.border_title = "Help"
            scroll.border_subtitle = "↑↓ scroll, Esc closes"
            yield from self._rows()

    def _rows(self) -> Iterator[Static]:
        lefts = [clean_line(left) for _, pairs in self._groups for left, _ in pairs]
        longest = max(map(cells, lefts), default=1)
        word = max((cells(word) for left in lefts for word in left.split()), default=1)
        columns = min(max(word, min(longest, self.app.size.width // _MOST_SHARE)), _MOST_CELLS)
        for heading, pairs in self._groups:
            yield Static(clean_line(heading), classes="help--heading", markup=False)
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(width=columns, overflow="fold")
            table.add_column(ratio=1, overflow="fold")
            for left, right in pairs:
                table.add_row(Text(clean_line(left), style="bold"), Text(clean_line(right)))
            yield Static(table)

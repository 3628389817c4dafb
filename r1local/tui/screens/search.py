"""Finds words in every conversation there is, in what was thought as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from r1local.errors import R1Error
from r1local.history import History, Hit
from r1local.terminal import clean_line
from r1local.tui.notices import text_of
from r1local.tui.text.wrapping import cells
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.find_bar import LineInput, fitted

MOST = 50
_WAIT = 0.15
"""Seconds without a key before anything is looked up."""
_ALL = 1 << 30
_KIND = 10
_MATCH = "bold $background on $warning"


def lines_of(hit: Hit, width: int) -> Content:
    """Two lines: where it is, and the words around the match. The match is always in view."""
    start, end = sorted(min(max(edge, 0), len(hit.snippet)) for edge in hit.match)
    title = fitted(hit.title.strip() or "New conversation", width - _KIND)
    match = fitted(hit.snippet[start:end], width - 4)
    before = _tail(clean_line(hit.snippet[:start]), max((width - 2 - cells(match)) // 3, 1))
    after = fitted(hit.snippet[end:], max(width - 2 - cells(before) - cells(match), 0)) if width > 4 else ""
    return Content.assemble(
        f"{hit.kind:<{_KIND}}", (title, "bold"), "\n  ", before, (match, _MATCH if match else ""), after
    )


def _tail(text: str, width: int) -> str:
    """The end of a clean text, of at most so many cells."""
    if cells(text) <= width:
        return text
    text = text[-width:]
    while text and cells(text) >= width:
        text = text[1:]
    return "…" + text


class SearchScreen(Screen[Hit | None]):
    """Gives the place that was chosen, or None."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Back"),
        Binding("up", "move('cursor_up')", show=False),
        Binding("down", "move('cursor_down')", show=False),
        Binding("pageup", "move('page_up')", show=False),
        Binding("pagedown", "move('page_down')", show=False),
    ]

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history
        self._input = LineInput(placeholder="Search all conversations", compact=True)
        self._note = Static(classes="search--note", markup=False)
        self._list = OptionList(compact=True, markup=False)
        self._hits: Sequence[Hit] = ()
        self._shown = ""
        """What the list was looked up for."""
        self._count: int | None = None
        self._asked = 0
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield self._input
        yield self._note
        yield self._list
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self._input.focus()
        self._count_all()

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self._fill)

    # Looking up

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._asked += 1
        if self._timer is not None:
            self._timer.stop()
        if event.value.strip():
            self._timer = self.set_timer(_WAIT, self._ask)
        else:
            self._show(self._asked, "", [])

    def _ask(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._look_up(self._asked, self._input.value)

    @work(thread=True)
    def _look_up(self, number: int, text: str) -> None:
        if number != self._asked:
            return  # somebody typed on
        try:
            found = self._history.search(text, MOST)
        except R1Error as error:
            self.call_later(self._complain, error)
        else:
            self.call_later(self._show, number, text, found)

    @work(thread=True)
    def _count_all(self) -> None:
        try:
            count = len(self._history.conversations(_ALL))
        except R1Error as error:
            self.call_later(self._complain, error)
        else:
            self.call_later(self._counted, count)

    def _counted(self, count: int) -> None:
        self._count = count
        self._say()

    def _complain(self, error: R1Error) -> None:
        self.app.notify(text_of(error), severity="error", markup=False)

    # Showing

    def _show(self, number: int, text: str, hits: Sequence[Hit]) -> None:
        if number == self._asked:
            self._hits, self._shown = hits, text
            self._fill(0)
            self._say()

    def _fill(self, highlighted: int | None = None) -> None:
        """Make the rows for the width there is."""
        kept = self._list.highlighted if highlighted is None else highlighted
        width = max(self._list.scrollable_content_region.width, 1)
        self._list.clear_options()
        self._list.add_options(Option(lines_of(hit, width)) for hit in self._hits)
        self._list.highlighted = kept if self._hits else None

    def _say(self) -> None:
        if self._hits:
            count = len(self._hits)
            found = (
                f"The newest {count}; add words to find fewer." if count >= MOST else f"{count} found, Enter opens one."
            )
        elif self._shown:
            found = f"Nothing found for “{fitted(self._shown, 60)}”."
        elif self._count is None:
            found = ""
        elif self._count:
            found = f"Type to search {self._count:,} conversation{'' if self._count == 1 else 's'}."
        else:
            found = "There are no conversations yet."
        self._note.update(found)

    # Keys

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._shown != self._input.value:
            self._ask()  # the list is still that of another text
        elif self._hits:
            self.dismiss(self._hits[self._list.highlighted or 0])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(self._hits[event.option_index])

    def action_move(self, action: str) -> None:
        getattr(self._list, f"action_{action}")()

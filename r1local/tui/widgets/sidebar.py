"""The conversations there are, to open one of them or to start another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import ClassVar, Literal, Self

from rich.segment import Segment
from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

from r1local.errors import R1Error
from r1local.history import History, Summary
from r1local.tui.notices import text_of
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.find_bar import LineInput, fitted

PAGE, _ALL = 100, 1 << 30
_HIGH = 2  # lines of a row

_MOVES = {"up": "move(-1)", "down": "move(1)", "pageup": "page(-1)", "pagedown": "page(1)", "home": "page(-99999999)",
          "end": "last"}  # fmt: skip


def when(changed: float, now: datetime) -> str:
    """today 14:02, yesterday, 2026-01-31; nothing for a time that no calendar has."""
    try:
        then = datetime.fromtimestamp(changed)
    except (OverflowError, OSError, ValueError):
        return ""
    days = (now.date() - then.date()).days
    return f"today {then:%H:%M}" if not days else "yesterday" if days == 1 else then.date().isoformat()


class ConversationRows(ScrollView, can_focus=True, inherit_bindings=False):
    """Two lines for each conversation. Only those in view are ever made, so it matters little how many there are."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"row--detail", "row--active", "row--cursor"}
    cursor: reactive[int] = reactive(0, repaint=True)
    active: reactive[int | None] = reactive[int | None](None)
    under_way: reactive[frozenset[int]] = reactive[frozenset[int]](frozenset())

    def __init__(self, now: Callable[[], datetime], near_end: Callable[[], None]) -> None:
        """`near_end` is called when more rows will be looked at soon."""
        super().__init__()
        self.summaries: Sequence[Summary] = ()
        self._now, self._near_end = now, near_end

    @property
    def current(self) -> Summary | None:
        return self.summaries[self.cursor] if self.cursor < len(self.summaries) else None

    def show(self, summaries: Sequence[Summary], cursor: int) -> None:
        self.summaries = summaries
        self.virtual_size = Size(self.size.width, len(summaries) * _HIGH)
        self.set_reactive(ConversationRows.cursor, self.validate_cursor(cursor))
        self.watch_cursor()
        self.refresh()

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self.summaries) - 1))

    def watch_cursor(self) -> None:
        self.scroll_to_region(Region(0, self.cursor * _HIGH, 1, _HIGH), animate=False, force=True)
        self._look_ahead(self.cursor * _HIGH)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._look_ahead(new_value)

    def _look_ahead(self, line: float) -> None:
        if self.summaries and line + 2 * self.size.height >= self.virtual_size.height:
            self._near_end()

    def on_resize(self) -> None:
        self.watch_cursor()

    def row_under(self, event: events.Click) -> int | None:
        offset = event.get_content_offset(self)
        row = len(self.summaries) if offset is None else (self.scroll_offset.y + offset.y) // _HIGH
        return row if row < len(self.summaries) else None

    def render_line(self, y: int) -> Strip:
        row, line = divmod(self.scroll_offset.y + y, _HIGH)
        width = self.scrollable_content_region.width
        if row >= len(self.summaries):
            return Strip.blank(width, self.rich_style)
        summary = self.summaries[row]
        active = summary.id == self.active
        names = ["row--detail"] * line + ["row--active"] * active + ["row--cursor"] * (row == self.cursor)
        style = self.get_component_rich_style(*names) if names else self.rich_style
        text = self._detail(summary) if line else summary.title.strip() or "New conversation"
        return Strip([Segment(f"{'▌' if active else ' '}{fitted(text, width - 2)}", style)]).adjust_cell_length(
            width, style
        )

    def _detail(self, summary: Summary) -> str:
        said = "● answering" if summary.id in self.under_way else when(summary.changed, self._now())
        return " · ".join(filter(None, (said, summary.model)))


class Sidebar(Widget):
    """A list, and a field to filter it. It changes nothing: it says what is wanted."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "tell('Open')", "Open"),
        Binding("n", "new", "New"),
        Binding("r", "tell('Rename')", "Rename"),
        Binding("delete,d", "tell('Delete')", "Delete", key_display="d"),
        Binding("e", "tell('Export')", "Export"),
        Binding("slash", "filter", "Filter", key_display="/"),
        *(Binding(key, action, show=False) for key, action in _MOVES.items()),
    ]

    class About(Message):
        """Something is wanted of a conversation; `title` is what the list says of it."""

        def __init__(self, conversation: int, title: str = "") -> None:
            super().__init__()
            self.conversation = conversation
            self.title = title

    class Open(About): ...

    class Rename(About): ...

    class Delete(About): ...

    class Export(About): ...

    class New(Message):
        """Another conversation is wanted."""

    def __init__(self, history: History, *, now: Callable[[], datetime] = datetime.now, id: str | None = None) -> None:
        super().__init__(id=id)
        self.rows = ConversationRows(now, self._more)
        self._history = history
        self._filter = LineInput(placeholder="/ filter", compact=True)
        self._note = Static(classes="sidebar--note", markup=False)
        self._asked = self._answered = 0
        self._limit = PAGE
        self._complete = False
        self._complaint = ""

    def refresh_list(self, active: int | None, under_way: Collection[int] = ()) -> None:
        """Look again at what there is; mark the open conversation, and those with a reply under way."""
        self.rows.active, self.rows.under_way = active, frozenset(under_way)
        if self.is_mounted:
            self._ask(self._limit)

    def focus(self, scroll_visible: bool = True) -> Self:
        self.rows.focus(scroll_visible)
        return self

    def compose(self) -> ComposeResult:
        yield self._filter
        yield self._note
        yield self.rows

    def on_mount(self) -> None:
        self._ask(PAGE)

    def _ask(self, limit: int, cursor: int | None = None) -> None:
        """Look up so many. Without a cursor it stays with its conversation."""
        self._asked += 1
        self._look_up(self._asked, limit, self._filter.value, cursor)

    @work(thread=True)
    def _look_up(self, number: int, limit: int, words: str, cursor: int | None) -> None:
        if number != self._asked:
            return  # somebody typed on
        try:
            found = self._history.conversations(limit, words)
        except R1Error as error:
            self.call_later(self._complain, error)
        else:
            self.call_later(self._show, number, limit, found, cursor)

    def _show(self, number: int, limit: int, found: Sequence[Summary], cursor: int | None) -> None:
        if number != self._asked:
            return
        self._answered, self._limit, self._complete, self._complaint = number, limit, len(found) < limit, ""
        self.rows.show(found, self._kept(found) if cursor is None else cursor)
        words = fitted(self._filter.value.strip(), 60)
        self._note.update(f"Nothing found for “{words}”." if words else "No conversations yet. n starts one.")
        self._note.display = not found

    def _kept(self, found: Sequence[Summary]) -> int:
        """Where the conversation at the cursor is now; while nobody moves it, the open one."""
        before = self.rows.current
        moved = before is not None and (self.has_focus_within or self.rows.active is None)
        wanted = before.id if moved and before is not None else self.rows.active
        places = (place for place, summary in enumerate(found) if summary.id == wanted)
        return next(places, self.rows.cursor)

    def _complain(self, error: R1Error) -> None:
        self._answered = self._asked
        if error.message != self._complaint:
            self._complaint = error.message
            self.app.notify(text_of(error), severity="error", markup=False)

    def _more(self) -> None:
        if not self._complete and self._asked == self._answered:
            self._ask(self._limit * 2)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._ask(PAGE, 0)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_tell("Open")

    def on_click(self, event: events.Click) -> None:
        if event.widget is self.rows and (row := self.rows.row_under(event)) is not None:
            self.rows.cursor = row
            self.action_tell("Open")

    def action_tell(self, wanted: Literal["Open", "Rename", "Delete", "Export"]) -> None:
        if (summary := self.rows.current) is not None:
            message: type[Sidebar.About] = getattr(self, wanted)
            self.post_message(message(summary.id, summary.title))

    def action_new(self) -> None:
        self.post_message(self.New())

    def action_filter(self) -> None:
        self._filter.focus()

    def action_move(self, by: int) -> None:
        if by < 0 and not self.rows.cursor:
            self._filter.focus()
        self.rows.cursor += by

    def action_page(self, by: int) -> None:
        self.rows.cursor += by * max(1, self.rows.size.height // _HIGH - 1)

    def action_last(self) -> None:
        if self._complete:
            self.rows.cursor = len(self.rows.summaries)
        else:
            self._ask(_ALL, _ALL)

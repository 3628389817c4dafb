"""Plain text without end that grows while it is read: the thought of a model.

What lays the whole text out again at each new token grows slower without end. Here only the last line is wrapped
again when more comes, and only lines that are seen are drawn.
"""

from __future__ import annotations

from textual import events
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from r1local.terminal import TerminalCleaner
from r1local.tui.text.page import Page
from r1local.tui.text.search import Search
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.painting import paint
from r1local.tui.widgets.readable import Readable


class LongText(Readable, ScrollView, can_focus=True):
    """Text that is appended to. It follows the end while the end is in view, and keeps its place otherwise."""

    DEFAULT_CSS = style_beside(__file__)

    def __init__(
        self, text: str = "", *, share: float = 1.0, id: str | None = None, classes: str | None = None
    ) -> None:
        """`share` of the screen's height is the most it takes; Textual ignores a max-height of 60vh here."""
        super().__init__(id=id, classes=classes)
        self.following = True
        """Whether it stays at the end when more comes: until somebody scrolls up, and again when they come back."""
        self._share = share
        self._cleaner = TerminalCleaner()
        self._lines: Page = Page(80)
        self.append(text)

    @property
    def text(self) -> str:
        """All of it as it is shown: cleaned."""
        return self._lines.text

    @property
    def line_count(self) -> int:
        return len(self._lines)

    def append(self, text: str) -> None:
        """Add text that may end anywhere, in the middle of an escape sequence as well."""
        self._add(self._cleaner.feed(text))

    def end(self) -> None:
        """Nothing follows: show what was held back."""
        self._add(self._cleaner.flush())

    def clear(self) -> None:
        self._cleaner, self._lines, self._search = TerminalCleaner(), Page(self._lines.columns), Search()
        self.following = True
        self._redraw()
        self._measure(0)

    def _add(self, text: str) -> None:
        if text:
            fitted = self.line_count
            first = self._lines.append(text)
            self._strips.discard(first)
            self._look(self._lines.start(first))
            if self.is_mounted:
                self._measure(fitted)
                self.refresh_lines(first, self.line_count - first)

    # The box it is in

    def _measure(self, fitted: int) -> None:
        """Tell how high the text is. If some of it was out of view already, nothing else on the screen moves."""
        size = Size(self._lines.columns, self.line_count)
        if size != self.virtual_size:
            if self.container_size.height < fitted:
                self.set_reactive(LongText.virtual_size, size)
                self._scroll_update(size)
            else:
                self.virtual_size = size
            self._keep_place()

    def _fit(self, width: int) -> None:
        """Wrap for a box this wide, if that is new."""
        columns = width - self.scrollbar_size_vertical
        if columns != self._lines.columns and columns > 0:
            place = None if self.following else self._lines.start(self._top())
            self._lines.rewrap(columns)
            self._strips.clear()
            self.set_reactive(LongText.virtual_size, Size(columns, self.line_count))
            self.call_later(self._keep_place, place)

    def _keep_place(self, place: int | None = None) -> None:
        """Show a place of the text, or the end while that is followed."""
        if place is not None:
            self.scroll_to(y=self._lines.line_of(place), animate=False)
        elif self.following:
            self.scroll_to(y=self.max_scroll_y, animate=False)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        self._fit(width)
        return min(self.line_count, max(4, int(viewport.height * self._share)))

    def on_resize(self, event: events.Resize) -> None:
        self._fit(self.size.width)
        self._keep_place()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        # Two lines of mercy for who scrolls down after an end that runs away; none for who scrolls up.
        self.following = round(new_value) >= self.max_scroll_y - (2 if new_value > old_value else 0)

    def action_scroll_end(self) -> None:
        self.following = True
        if self.is_mounted:
            self._keep_place()

    def show_start(self) -> None:
        self.following = False
        if self.is_mounted:
            self.scroll_to(y=0, animate=False)

    # Drawing

    def _top(self) -> int:
        return self.scroll_offset.y

    def _reveal(self, line: int) -> None:
        height = self.container_size.height
        if not self._top() <= line < self._top() + height:
            self.scroll_to(y=line - height // 3, animate=False)

    def _first(self) -> int:
        return self.scroll_offset.y

    def _paint(self, index: int, *, places: bool) -> Strip:
        line, start = self._lines.line(index), self._lines.start(index)
        coats = self._coats(start, start + len(line))
        return paint(line, start, self.size.width, self.rich_style, coats, places=places)

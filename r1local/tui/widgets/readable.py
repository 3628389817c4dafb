"""What all text on the screen can do: be selected, searched, and drawn by lines that are kept."""

from __future__ import annotations

from typing import ClassVar, Protocol

from rich.style import Style
from textual.cache import LRUCache
from textual.geometry import Region
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from r1local.tui.text.search import Search, Span
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.painting import Coat


class Lines(Protocol):
    """Text in lines. Places are counted in characters from its start."""

    def __len__(self) -> int: ...
    @property
    def size(self) -> int: ...
    def start(self, index: int) -> int: ...
    def line_of(self, place: int) -> int: ...
    def since(self, place: int) -> tuple[int, str]: ...
    def cut(self, start: int, end: int) -> str: ...


class Readable(Widget):
    """Selecting and searching by places in the text, which stay right when more comes or the width changes."""

    ALLOW_SELECT = True
    COMPONENT_CLASSES: ClassVar[set[str]] = {"match", "match--current"}
    DEFAULT_CSS = style_beside(__file__)
    _lines: Lines

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._search = Search()
        self._strips: LRUCache[int, Strip] = LRUCache(128)
        self._drawing = False

    @property
    def matches(self) -> list[Span]:
        """Where the text searched for stands."""
        return self._search.spans

    def search(self, needle: str) -> list[Span]:
        """Mark every occurrence of a literal text, those still to come as well. "" marks none."""
        self._search = Search(needle)
        self._search.feed(*self._lines.since(0))
        self._redraw()
        return self.matches

    def _look(self, place: int) -> None:
        """See what is found now that the text is another from a place on."""
        if self._search.needle:
            self._search.rewind(place)
            self._search.feed(*self._lines.since(self._search.wanted))

    def step_match(self, forward: bool = True) -> Span | None:
        """Go to the next occurrence, or the one before, first seen from what is in view."""
        span = self._search.step(forward, self._lines.start(self._top()))
        if span is not None:
            self._reveal(self._lines.line_of(span[0]))
            self._redraw()
        return span

    def show_match(self, index: int | None) -> None:
        """Go to the occurrence with this number; None marks none as the current one."""
        if (span := self._search.choose(index)) is not None:
            self._reveal(self._lines.line_of(span[0]))
        self._redraw()

    def _top(self) -> int:
        """The first line in view."""
        raise NotImplementedError

    def _reveal(self, line: int) -> None:
        """Bring a line into view."""
        raise NotImplementedError

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return self._lines.cut(*self._selected(selection)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self._redraw()

    def _selected(self, selection: Selection) -> Span:
        return selection.start.x if selection.start else 0, selection.end.x if selection.end else self._lines.size

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()

    def render_lines(self, crop: Region) -> list[Strip]:
        self._drawing = True
        try:
            return super().render_lines(crop)
        finally:
            self._drawing = False

    def render_line(self, y: int) -> Strip:
        """A line to draw; or, when the mouse asks what is under it, one that says its places."""
        index = self._first() + y
        if index >= len(self._lines):
            return Strip.blank(self.size.width, self.rich_style)
        if not self._drawing:
            return self._paint(index, places=True)
        if (strip := self._strips.get(index)) is None:
            strip = self._strips[index] = self._paint(index, places=False)
        return strip

    def _first(self) -> int:
        """The line that is drawn on top."""
        return 0

    def _paint(self, index: int, *, places: bool) -> Strip:
        raise NotImplementedError

    def _redraw(self) -> None:
        self._strips.clear()
        self.refresh()

    def _coats(self, start: int, end: int) -> list[Coat]:
        """What is painted over the text between two places."""
        coats = [
            (span, self._style("match--current" if span == self._search.current else "match"))
            for span in self._search.between(start, end)
        ]
        if (selection := self.text_selection) is not None:
            behind = self.screen.get_component_rich_style("screen--selection").bgcolor
            coats.append((self._selected(selection), Style(bgcolor=behind)))  # its colour is transparent
        return coats

    def _style(self, name: str) -> Style:
        """What a style says itself, its colours blended with what is behind; the rest shows through."""
        says = self.get_component_rich_style(name, partial=True)
        blended = self.get_component_rich_style(name)
        return says + Style(color=says.color and blended.color, bgcolor=says.bgcolor and blended.bgcolor)

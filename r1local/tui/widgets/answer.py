"""The answer of one turn: Markdown that is drawn while it comes.

One widget draws it all by lines. Textual's own Markdown makes a widget of every paragraph, bullet and cell, and after
twenty answers each step of the layout takes longer than a frame; here finished blocks are never looked at again, and
of the open one only the lines that changed are drawn.
"""

from __future__ import annotations

import re
import time
from typing import ClassVar

from rich.segment import Segment
from textual.geometry import Region, Size
from textual.selection import SELECT_ALL, Selection
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from r1local.terminal import TerminalCleaner
from r1local.tui.text.blocks import Blocks, Reader
from r1local.tui.text.sheet import Sheet
from r1local.tui.text.wrapping import shown
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.painting import paint
from r1local.tui.widgets.readable import Readable

_PAUSE = 0.1
"""Seconds between two drawings, at least; four times what the last one took, where that is more."""
_SOON = 1 / 60
_HELD = re.compile(r"(?<=\n)[ \t]*(?:[-=*+#>`~|:]+|\d+[.)]?)[ \t]*\Z")
"""A line that just begins: a dash for a list, which for now would make a heading of the line above."""
_STYLES = (
    "strong em s link target code boxed h1 h2 h3 formula marker rule header table program "
    "comment string number keyword name"
)


class Answer(Readable):
    """Markdown that is appended to. Call `finish` at its end."""

    DEFAULT_CSS = style_beside(__file__)
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"answer--{name}" for name in _STYLES.split()}

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._cleaner = TerminalCleaner()
        self._source: list[str] = []  # finished blocks
        self._pending: list[str] = []
        self._blocks = Blocks()
        self._lines: Sheet = Sheet(80)
        self._reader = Reader()
        self._timer: Timer | None = None
        self._due = 0.0

    @property
    def source(self) -> str:
        """The Markdown as it came, LaTeX and all, but cleaned: what belongs on the clipboard."""
        return "".join([*self._source, self._blocks.open, *self._pending])

    def append(self, text: str) -> None:
        """Add text that may end anywhere. It is drawn ten times a second at most."""
        self._take(self._cleaner.feed(text))
        if self._timer is None and self.is_mounted:
            self._timer = self.set_timer(max(_SOON, self._due - time.monotonic()), self.flush)

    def finish(self) -> None:
        """Nothing follows: draw everything as it stays."""
        self._take(self._cleaner.flush())
        self.flush()
        self._show(self._blocks.flush(), finished=True)

    def _take(self, text: str) -> None:
        if text:
            self._pending.append(text)

    def flush(self) -> None:
        """Draw what has come."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if not self._pending:
            return
        began = time.monotonic()
        text = "".join(self._pending)
        self._pending.clear()
        self._show(self._blocks.feed(text), finished=True)
        self._show([_HELD.sub("", self._blocks.open)], finished=False)
        now = time.monotonic()
        self._due = now + max(_PAUSE, 4 * (now - began))

    def _show(self, blocks: list[str], *, finished: bool) -> None:
        """Lay blocks out, and draw what is another than before."""
        before = len(self._lines)
        if finished:
            self._source += blocks
        said = [leaf for block in blocks for leaf in self._reader.read(block, finished=finished)]
        first = self._lines.show(said, finished=finished)
        for index in range(first, max(before, len(self._lines))):
            self._strips.discard(index)
        self._look(self._lines.start(first))
        if len(self._lines) != before:
            self.refresh(layout=True)
        elif first < before:
            self.refresh(Region(0, first, self.size.width, before - first))

    def on_mount(self) -> None:
        self.flush()

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """A part as it is shown, and all of it as it was written: that is what can be pasted as Markdown."""
        return (self.source, "\n") if selection == SELECT_ALL else super().get_selection(selection)

    # The box it is in

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if width != self._lines.columns and width > 0:
            self._lines.rewrap(width)
            self._strips.clear()
            self._look(0)  # the columns of tables are others now
        return len(self._lines)

    # Drawing

    def _window(self) -> Widget:
        """What it is scrolled in."""
        return next((node for node in self.ancestors if isinstance(node, Widget) and node.max_scroll_y), self.screen)

    def _top(self) -> int:
        return max(0, self._window().scrollable_content_region.y - self.content_region.y)

    def _reveal(self, line: int) -> None:
        window = self._window()
        above = self.content_region.y - window.scrollable_content_region.y + window.scroll_offset.y
        window.scroll_to_region(Region(0, above + line, 1, 1), animate=False)

    def _paint(self, index: int, *, places: bool) -> Strip:
        row, start, base = self._lines.row(index), self._lines.start(index), self.rich_style
        before = [Segment(row.before, base + self._style("answer--marker"))] if row.before else []
        if row.style:
            base += self._style(f"answer--{row.style}")
        if row.style == "program":
            before.append(Segment(" ", base))
        text = shown(row.text) if row.soft else row.text
        coats = [((start + at, start + to), self._style(f"answer--{name}")) for at, to, name in row.coats]
        coats += self._coats(start, start + len(text))
        return paint(text, start, self.size.width, base, coats, places=places, before=before)

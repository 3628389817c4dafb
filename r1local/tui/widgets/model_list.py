"""Models in a table that leaves out columns where the screen is narrow; the name and the verdict always stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from r1local.tui.widgets import style_beside

COLUMNS = ("", "Name", "Verdict", "", "Tokens/s", "Memory", "Context", "Params", "Here")
"""Of a line's cells: a mark, the name, the verdict, a remark, numbers, and what of it is here."""
_MARK, _NAME, _VERDICT, _REMARK, _SPEED, _MEMORY, _CONTEXT, _PARAMETERS, _HERE = range(9)
_LEAVE_OUT = (_PARAMETERS, _CONTEXT, _MEMORY, _HERE, _SPEED, _REMARK)
"""The columns a narrow screen goes without, in this order."""
_RIGHT = (_SPEED, _MEMORY, _CONTEXT, _PARAMETERS, _HERE)
_LONGEST_NAME = 34
_SHORTEST_NAME = 8
_STYLES = {"Fits": "$text-success", "Slow": "$text-warning", "Won't fit": "$text-error", "Broken": "$text-error"}


@dataclass(frozen=True, slots=True)
class Line:
    """A model, or a heading where there are no cells."""

    key: str
    """No other line's; of a heading its text."""
    cells: tuple[str, ...] = ()


class _Options(OptionList):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "Use")]


class ModelList(Vertical):
    """A heading that stays, and lines to choose from."""

    DEFAULT_CSS = style_beside(__file__)

    class Highlighted(Message):
        """Another line is the one that keys are about."""

    class Chosen(Message):
        """Enter, or a click."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._header = Static(id="header")
        self.options = _Options(compact=True, markup=False)
        self._lines: tuple[Line, ...] = ()
        self._shown: tuple[Line, ...] = ()
        self._width = 0

    @property
    def key(self) -> str:
        """Of the highlighted line; empty while there is none."""
        option = self.options.highlighted_option
        return (option.id or "") if option is not None else ""

    def show(self, lines: Sequence[Line], key: str = "") -> None:
        """Show these, and highlight the one with this key, or the one that was, or the first."""
        before = self.key
        self._lines = tuple(lines)
        self._write(key or before)

    def compose(self) -> ComposeResult:
        yield self._header
        yield self.options

    def on_resize(self, event: events.Resize) -> None:
        if self._columns() != self._width:
            self.call_after_refresh(self._write, self.key)
        self.call_after_refresh(self.options.scroll_to_highlight)

    def _columns(self) -> int:
        return self.options.scrollable_content_region.width

    def _write(self, key: str) -> None:
        width = self._columns()
        if width <= 0 or ((self._lines, width) == (self._shown, self._width) and key == self.key):
            return
        models = [line.cells for line in self._lines if line.cells]
        layout = arranged(models, width)
        self._header.update(_written(COLUMNS, layout, bold=True))
        prompts = [
            _written(line.cells, layout) if line.cells else Content.styled(line.key, "bold") for line in self._lines
        ]
        if [line.key for line in self._lines] == [line.key for line in self._shown]:
            for index, prompt in enumerate(prompts):
                if width != self._width or self._lines != self._shown:
                    self.options.replace_option_prompt_at_index(index, prompt)
        else:
            self.options.set_options(
                Option(prompt, line.key, disabled=not line.cells)
                for prompt, line in zip(prompts, self._lines, strict=True)
            )
        self._shown, self._width = self._lines, width
        places = [index for index, line in enumerate(self._lines) if line.cells]
        self.options.highlighted = next(
            (index for index in places if self._lines[index].key == key), places[0] if places else None
        )

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self.post_message(self.Highlighted())

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.Chosen())


def arranged(rows: Sequence[tuple[str, ...]], width: int) -> list[tuple[int, int]]:
    """The columns that there is room for, each with its width. The name gives way last."""
    widths = [max(map(cell_len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
    widths[_MARK], widths[_NAME] = max(1, widths[_MARK]), min(widths[_NAME], _LONGEST_NAME)
    taken = [column for column in range(len(COLUMNS)) if widths[column]]
    for column in _LEAVE_OUT:
        if _total(taken, widths) <= width:
            break
        taken = [other for other in taken if other != column]
    over = _total(taken, widths) - width
    if over > 0:
        widths[_NAME] = max(_SHORTEST_NAME, widths[_NAME] - over)
    return [(column, widths[column]) for column in taken]


def _total(columns: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[column] + _gap(column) for column in columns)


def _gap(column: int) -> int:
    """Columns in front of it."""
    return 0 if column == _MARK else 1 if column in (_NAME, _REMARK) else 2


def _written(cells: tuple[str, ...], layout: Sequence[tuple[int, int]], *, bold: bool = False) -> Content:
    return Content.assemble(*_pieces(cells, layout, bold=bold))


def _pieces(cells: tuple[str, ...], layout: Sequence[tuple[int, int]], *, bold: bool) -> Iterator[tuple[str, str]]:
    for column, width in layout:
        text = shortened(cells[column], width)
        space = " " * (width - cell_len(text))
        yield " " * _gap(column), ""
        style = "bold" if bold else _STYLES.get(text, "") if column == _VERDICT else ""
        yield (space + text if column in _RIGHT else text + space), style


def shortened(text: str, width: int) -> str:
    """Text in so many columns: what is too long loses its middle, as names differ at their ends."""
    if cell_len(text) <= width:
        return text
    if width <= 1:
        return "…"[: max(0, width)]
    head, tail = "", ""
    for first, last in zip(text, reversed(text), strict=True):
        if cell_len(head + first + tail) > width - 1:
            break
        head += first
        if cell_len(head + last + tail) > width - 1:
            break
        tail = last + tail
    return f"{head}…{tail}"

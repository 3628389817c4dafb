"""The text area of the composer: Textual's own, with the keys that belong to a chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.widgets import TextArea
from textual.widgets.text_area import Location

from r1local.tui.widgets import style_beside

Key = Callable[[], bool]
"""What a key does first; False leaves the key to the text area and those around it."""

_TAKEN = {"ctrl+e", "ctrl+y", "pageup", "pagedown"}
"""Keys that mean the same everywhere in the app."""


def _bindings() -> Iterator[BindingType]:
    for binding in TextArea.BINDINGS:
        assert isinstance(binding, Binding)
        keys = ",".join(key for key in binding.key.split(",") if key not in _TAKEN)
        if keys:
            yield Binding(keys, binding.action, binding.description, show=False)
    yield Binding("ctrl+shift+z", "redo", "Redo", show=False)


class DraftArea(TextArea, inherit_bindings=False):
    """Text as high as it is, up to a third of the screen with the line below it.

    Keys are looked at here and not in bindings: those are run by another task, while further letters of fast typing
    come in already.
    """

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = list(_bindings())

    def __init__(
        self,
        keys: Mapping[str, Key],
        *,
        edited: Callable[[], None],
        pasted: Callable[[str], None],
        placeholder: str,
    ) -> None:
        """`edited` is called after each change and before anything else happens; `pasted` puts a text in."""
        super().__init__(soft_wrap=True, compact=True, highlight_cursor_line=False, placeholder=placeholder)
        self._keys = keys
        self._edited = edited
        self._pasted = pasted

    @property
    def on_first_row(self) -> bool:
        return self.navigator.is_first_wrapped_line(self.cursor_location)

    @property
    def on_last_row(self) -> bool:
        return self.navigator.is_last_wrapped_line(self.cursor_location)

    @property
    def before(self) -> str:
        """The line up to the cursor."""
        row, column = self.cursor_location
        return self.document.get_line(row)[:column]

    def swap(self, back: int, text: str) -> None:
        """Put a text in the place of some characters before the cursor, as if it were typed."""
        row, column = self.cursor_location
        self.replace(text, (row, column - back), (row, column), maintain_selection_offset=False)

    def put(self, text: str) -> None:
        """Put a text in the place of the selection, as if it were typed."""
        self.replace(text, *self.selection, maintain_selection_offset=False)

    def find_matching_bracket(self, bracket: str, search_from: Location) -> Location | None:
        return None  # prose; and looking for one takes long in a long text

    def update_suggestion(self) -> None:
        self._edited()

    async def _on_key(self, event: events.Key) -> None:
        handler = self._keys.get(event.key)
        if handler is not None and handler():
            event.stop()
            event.prevent_default()
        elif event.key == "enter":
            event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        self._pasted(event.text)

    def action_paste(self) -> None:
        self._pasted(self.app.clipboard)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return min(self.wrapped_document.height, max(1, viewport.height // 3 - 1))

"""How the screen is set up, and what config.toml says besides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Button, Footer, Select, Static

from r1local.settings import Settings
from r1local.terminal import clean, clean_line
from r1local.tui.preferences import Preferences, Theme
from r1local.tui.widgets import style_beside

_LONGEST = 200

# What can be chosen: the name of the field, what it is called, and each value with what that is called.
_CHOICES: Sequence[tuple[str, str, Sequence[tuple[str, Any]]]] = (
    ("theme", "Theme", [("Dark", "dark"), ("Light", "light"), ("High contrast", "high-contrast")]),
    (
        "thought",
        "Past thoughts",
        [("Folded to a line", "folded"), ("Last lines", "tail"), ("Open", "open"), ("Never shown", "hidden")],
    ),
    ("side_by_side", "Thought stands", [("Beside if wide", True), ("Above the answer", False)]),
    ("sidebar", "Conversations", [("List shown", True), ("List hidden", False)]),
)


class SettingsScreen(Screen[Preferences | None]):
    """Gives the preferences as they were left. Every choice can be made with the keys alone."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "done", "Done")]

    class Preview(Message):
        """Another theme was chosen, to be looked at at once."""

        def __init__(self, theme: Theme) -> None:
            super().__init__()
            self.theme = theme

    def __init__(self, preferences: Preferences, settings: Settings, config_file: Path, about: str) -> None:
        super().__init__()
        self.preferences = preferences
        self._settings, self._config_file, self._about = settings, config_file, about

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield Static("Settings", classes="settings--title", markup=False)
            for name, label, options in _CHOICES:
                with Horizontal(classes="settings--choice"):
                    yield Static(label, classes="settings--label", markup=False)
                    value = getattr(self.preferences, name)
                    yield Select(options, value=value, allow_blank=False, id=name, compact=True)
            yield Button("Done", id="done", compact=True)
            yield Static("\n".join(self._config_lines()), classes="settings--text", markup=False)
            yield Static(clean(self._about), classes="settings--text", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def _config_lines(self) -> Iterator[str]:
        yield clean_line(str(self._config_file))
        yield "Edit it, then load it anew with /reload."
        given = {field.name: getattr(self._settings, field.name) for field in fields(self._settings)}
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            yield "It sets nothing: the model and this machine decide."
        for name, value in given.items():
            written = clean_line(json.dumps(value, ensure_ascii=False))
            yield f"  {name} = {written if len(written) <= _LONGEST else written[:_LONGEST] + '…'}"

    def on_select_changed(self, event: Select.Changed) -> None:
        event.stop()
        before = self.preferences
        changed: dict[str, Any] = {str(event.select.id): event.value}
        self.preferences = replace(before, **changed)
        if self.preferences.theme != before.theme:
            self.post_message(self.Preview(self.preferences.theme))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.action_done()

    def action_done(self) -> None:
        self.dismiss(self.preferences)

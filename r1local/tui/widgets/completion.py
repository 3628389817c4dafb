"""What a word of the draft could become: the list above it, and where its lines come from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from rich.cells import cell_len
from rich.text import Text
from textual.geometry import Size
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from r1local import paths
from r1local.errors import UsageError
from r1local.terminal import clean_line
from r1local.tui.latest import Latest
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.draft_area import DraftArea

MOST_FILES = 200
_MOST_SEEN = 20_000
"""Entries of one folder that are looked at."""
_ROWS = 6
_COMMAND = re.compile(r"/[^\W\d_]*")
_WORD = re.compile(r'(?:^|(?<=\s))@(?:"([^"]*)|([^\s"]\S*)?)\Z')


@dataclass(frozen=True, slots=True)
class Choice:
    shown: str
    text: str
    """What stands in the draft when it is taken. Empty: it cannot be."""
    about: str = ""


def commands(draft: str, known: Mapping[str, str]) -> list[Choice]:
    """The commands that a draft may become, an exactly typed one first; none if it is no beginning of one."""
    if not _COMMAND.fullmatch(draft):
        return []
    names = sorted((name for name in known if name.startswith(draft)), key=lambda name: name != draft)
    return [Choice(name, f"{name} ", known[name]) for name in names]


def path_word(line: str) -> str | None:
    """The @path at the end of a line, as it was typed, or None."""
    match = _WORD.search(line)
    return match.group() if match else None


def files(word: str, base: Path) -> list[Choice]:
    """What an @path may become. It reads a folder, so it is not for the screen's thread."""
    typed = word[1:].removeprefix('"')
    folder, slash, start = typed.rpartition("/")
    try:
        entries = os.scandir(base / paths.expand(folder + slash))
    except (OSError, ValueError, UsageError):
        return []
    with entries:
        fitting = (
            entry
            for entry in islice(entries, _MOST_SEEN)
            if entry.name.startswith(start) and (start or not entry.name.startswith("."))
        )
        found = [_choice(folder + slash, entry) for entry in islice(fitting, MOST_FILES)]
    return sorted(found, key=lambda choice: choice.shown)


def _choice(folder: str, entry: os.DirEntry[str]) -> Choice:
    try:
        within = entry.is_dir()
    except OSError:
        within = False
    name, path = entry.name + "/" * within, f"{folder}{entry.name}{'/' * within}"
    shown = clean_line(name)
    if shown != name or '"' in path:
        return Choice(shown, "", "cannot be typed")
    if re.search(r"\s", path):
        return Choice(shown, f'@"{path}' if within else f'@"{path}" ')
    return Choice(shown, f"@{path}" if within else f"@{path} ")


class Completion(OptionList, can_focus=False):
    """Choices for what is typed, while there are any. Its keys are typed in the draft below it."""

    DEFAULT_CSS = style_beside(__file__)

    def __init__(self, area: DraftArea, known: Mapping[str, str]) -> None:
        """`known` are the commands and what they do."""
        super().__init__(markup=False, compact=True)
        self.quiet: str | None = None
        """A draft that no commands are offered for: it was not typed."""
        self.choices: Sequence[Choice] = ()
        self.display = False
        self._area, self._known = area, known
        self._listing = False  # files, and not commands
        self._files = Latest(self, lambda word: files(word, Path()), self._offer_files)

    # Keys; each says whether it did something

    def complete(self) -> bool:
        """Take what is chosen, or what is the only choice; or else show the choices."""
        if self.choices:
            return self.take(typed=True) or True
        choices = commands(self._area.text, self._known)
        if len(choices) == 1:
            self._put(choices[0])
        else:
            self.offer(choices)
        return bool(choices) or self._list_files()

    def take(self, *, typed: bool = False) -> bool:
        """Take what is chosen, unless it is just what was typed already; with `typed` even then."""
        chosen = self._chosen
        if chosen is None or (chosen.text.strip() == self._word and not typed):
            return False
        self._put(chosen)
        return True

    def dismiss(self) -> bool:
        """Close it until something else is typed."""
        was_open = bool(self.choices)
        self.close()
        return was_open

    def step(self, by: Literal[-1, 1]) -> bool:
        if self.choices:
            self.action_cursor_up() if by < 0 else self.action_cursor_down()
        return bool(self.choices)

    # What is offered

    def follow(self) -> None:
        """The draft is another now."""
        draft = self._area.text
        if draft != self.quiet:
            self.quiet = None
        if self.quiet is None and (choices := commands(draft, self._known)):
            self._listing = False
            self.offer(choices)
        elif not (self._listing and self._list_files()):
            self.close()

    def offer(self, choices: Sequence[Choice]) -> None:
        """Show these, the first of them chosen; none closes the list."""
        if choices == self.choices:
            return
        self.choices = choices
        wide = max((cell_len(choice.shown) for choice in choices), default=0)
        self.clear_options()
        self.add_options(Option(_line(choice, wide), disabled=not choice.text) for choice in choices)
        self.display = bool(choices)
        if choices:
            self.action_first()

    def close(self) -> None:
        self._listing = False
        self.offer(())

    @property
    def _word(self) -> str:
        """What a choice is put in the place of."""
        return (path_word(self._area.before) or "") if self._listing else self._area.text

    @property
    def _chosen(self) -> Choice | None:
        return None if self.highlighted is None or not self.choices else self.choices[self.highlighted]

    def _put(self, choice: Choice) -> None:
        word = self._word
        self.close()
        self._area.swap(len(word), choice.text)
        if choice.text.endswith("/"):
            self._list_files()

    def _list_files(self) -> bool:
        word = path_word(self._area.before)
        if word is not None:
            self._listing = True
            self._files.ask(word)
        return word is not None

    def _offer_files(self, word: str, choices: list[Choice]) -> None:
        if self._listing and word == path_word(self._area.before):
            if len(choices) == 1 and choices[0].text and not self.choices:
                self._put(choices[0])
            else:
                self.offer(choices)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._put(self.choices[event.option_index])

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return min(len(self.choices), _ROWS, max(2, viewport.height // 4))


def _line(choice: Choice, wide: int) -> Text:
    line = Text(choice.shown, no_wrap=True, overflow="ellipsis")
    if choice.about:
        line.append(" " * (wide - cell_len(choice.shown) + 2)).append(choice.about, style="dim")
    return line

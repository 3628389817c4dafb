"""Where a person types, also while a model answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from textual import work
from textual.app import ComposeResult
from textual.message import Message
from textual.widget import Widget

from r1local.errors import R1Error, UsageError, suggest
from r1local.tui import attachments
from r1local.tui.drafts import Drafts
from r1local.tui.notices import text_of
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.completion import Completion
from r1local.tui.widgets.draft_area import DraftArea, Key
from r1local.tui.widgets.gauge import Gauge

_NEW_LINE = ("shift+enter", "ctrl+j", "alt+enter", "shift+\r")
"""The last one is what Textual makes of xterm's own Shift-Enter."""
_WRITTEN = 100_000
"""Characters of a prompt that still goes into the file of the former ones."""


class Composer(Widget):
    """The draft of the next question, with its completions above and its size below. It is never disabled."""

    DEFAULT_CSS = style_beside(__file__)

    class Sent(Message):
        """Something is to be asked. `text` has everything in it that was attached."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Command(Message):
        """A known command was typed. `name` has its slash."""

        def __init__(self, name: str, argument: str) -> None:
            super().__init__()
            self.name = name
            self.argument = argument

    class Changed(Message):
        """The draft is another. `text` is what stands in it."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(
        self,
        commands: Mapping[str, str],
        *,
        drafts: Drafts,
        count: Callable[[str], int | None] | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`commands` says in a line what each does: {"/retry": "Another reply"}. `count` is called in a thread."""
        super().__init__(id=id, classes=classes)
        self.gauge = Gauge(count)
        self._commands, self._drafts = commands, drafts
        self._texts = attachments.Texts()
        self._asked: deque[tuple[str, str]] = deque(maxlen=8)
        self._expanding: deque[tuple[str, Mapping[str, str]]] = deque()
        keys: dict[str, Key] = dict.fromkeys(_NEW_LINE, self._newline)
        self._area = DraftArea(keys, edited=self._edited, pasted=self._paste, placeholder="Ask something. Enter sends.")
        self._completion = Completion(self._area, commands)
        keys |= {
            "enter": self._enter,
            "tab": self._completion.complete,
            "escape": self._completion.dismiss,
            "up": lambda: self._completion.step(-1) or self._walk_back(),
            "down": lambda: self._completion.step(1) or self._walk_on(),
            "ctrl+c": self._clear,
            "backspace": self._delete_chip,
        }

    # What others do with it

    @property
    def draft(self) -> str:
        """What stands there; a long text is one chip in it."""
        return self._area.text

    @draft.setter
    def draft(self, text: str) -> None:
        text = self._texts.fitted(text, "long")
        self._completion.quiet = text
        self._area.load_text(text)
        self._area.move_cursor(self._area.document.end)

    @property
    def room(self) -> int | None:
        """How many tokens are left for the draft, if that is known."""
        return self.gauge.room

    @room.setter
    def room(self, tokens: int | None) -> None:
        self.gauge.room = tokens
        self._weigh()

    def focus(self, scroll_visible: bool = True) -> Self:
        self._area.focus(scroll_visible)
        return self

    def insert(self, text: str) -> None:
        """Put a text in at the cursor."""
        self._area.put(self._texts.fitted(text, "long"))

    def refuse(self, text: str) -> None:
        """A sent text could not be asked: it becomes the draft again, in front of what was typed since."""
        draft = next((draft for sent, draft in reversed(self._asked) if sent == text), None)
        self._put_back(self._texts.fitted(text, "long") if draft is None else draft)

    def _put_back(self, draft: str) -> None:
        since = self.draft
        front = f"{draft}\n" if since else draft
        self._completion.quiet = front + since
        self._area.insert(front, (0, 0))

    # Sending

    def _enter(self) -> bool:
        if not self._completion.take():
            self._send()
        return True

    def _send(self) -> None:
        draft = self.draft
        if not (words := draft.split(maxsplit=1)):
            return
        name = words[0]
        if name in self._commands:
            argument = attachments.inline(words[1], self._texts.behind(draft)) if len(words) > 1 else ""
            self._drafts.add(draft)
            self.draft = ""
            self.post_message(self.Command(name, argument.strip()))
        elif name.startswith("/") and name[1:].isalpha():
            near = suggest(name, self._commands)
            self._complain(UsageError(f"There is no command {name}.", f"Did you mean {near}?" if near else ""))
        else:
            pasted = self._texts.behind(draft)
            self.draft = ""
            if pasted or "@" in draft or self._expanding:
                self._expanding.append((draft, pasted))
                if len(self._expanding) == 1:
                    self._expand()
            else:
                self._ask(draft, draft, draft)

    @work
    async def _expand(self) -> None:
        """Ask what was sent, in the order in which it was."""
        while self._expanding:
            draft, pasted = self._expanding[0]
            try:
                self._ask(draft, *await asyncio.to_thread(_expanded, draft, pasted))
            except R1Error as error:
                self._put_back(draft)
                self._complain(error)
            finally:
                self._expanding.popleft()

    def _ask(self, draft: str, text: str, written: str) -> None:
        self._asked.append((text, draft))
        self._drafts.add(draft, written)
        self.post_message(self.Sent(text))

    def _complain(self, error: R1Error) -> None:
        self.notify(text_of(error), severity="error", markup=False)

    # Other keys

    def _paste(self, text: str) -> None:
        self._area.put(self._texts.fitted(text, "pasted"))

    def _delete_chip(self) -> bool:
        before = self._area.before
        for start, end in self._texts.spans(before):
            if end == len(before) and self._area.selection.is_empty:
                self._area.swap(end - start, "")
                return True
        return False

    def _newline(self) -> bool:
        self._area.put("\n")
        return True

    def _clear(self) -> bool:
        if self._area.selected_text or self.screen.get_selected_text() or not self.draft:
            return False
        self._area.clear()  # an edit that can be undone
        return True

    def _walk_back(self) -> bool:
        text = self._drafts.older(self.draft) if self._area.on_first_row else None
        if text is not None:
            self.draft = text
            ends = self._area.wrapped_document.get_offsets(0)
            first_row = ends[0] - 1 if ends else len(self._area.document.get_line(0))
            self._area.move_cursor((0, first_row))  # from there the next one is as near as this one was
        return text is not None

    def _walk_on(self) -> bool:
        text = self._drafts.newer(self.draft) if self._area.on_last_row else None
        if text is not None:
            self.draft = text
        return text is not None

    def _edited(self) -> None:
        if self.is_mounted:
            self.post_message(self.Changed(self.draft))
            self._completion.follow()
            self._weigh()

    def _weigh(self) -> None:
        if self.is_mounted:
            self.gauge.weigh(self.draft, self._texts.behind(self.draft))

    def on_mount(self) -> None:
        self._weigh()

    # Where it is

    def compose(self) -> ComposeResult:
        yield self._completion
        yield self._area
        yield self.gauge

    def on_descendant_blur(self) -> None:
        self._completion.close()


def _expanded(draft: str, pasted: Mapping[str, str]) -> tuple[str, str]:
    """The text to ask, and what the file of former prompts gets of it: nothing if that is long."""
    text = attachments.expand(draft, pasted, Path())
    written = attachments.inline(draft, pasted) if attachments.length(draft, pasted) <= _WRITTEN else ""
    return text, written

"""A reply: its thought, its answer, and a quiet line about both."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Static

from r1local.events import Done
from r1local.history import StoredTurn
from r1local.tui.text import footers
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.answer import Answer
from r1local.tui.widgets.thought import State, Thought
from r1local.tui.widgets.turns import TurnView


class ReplyView(TurnView, can_focus=True):
    """A reply that comes, or one that was kept."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "want('copy')", "Copy"),
        Binding("t", "want('thought')", "Copy thought"),
        Binding("k", "want('code')", "Copy code"),
        Binding("r", "want('retry')", "Retry"),
        Binding("g", "want('go_on')", "Edit thought"),
        Binding("b", "want('branch')", "Go on from here", show=False),
        Binding("left", "want('earlier')", "Earlier reply", show=False),
        Binding("right", "want('later')", "Later reply", show=False),
    ]

    def __init__(self, turn: StoredTurn | None = None, *, after: State = "folded") -> None:
        """`after` is the state a thought takes when it is over."""
        super().__init__()
        self.turn = turn
        self.thought = Thought(live="hidden" if after == "hidden" else "tail", after=after)
        self.answer = Answer()
        self._footer = Static(classes="turn--footer", markup=False)
        self._answering = False
        self._note = ""
        self.thought.display = False
        if turn is not None:
            self._show(turn)

    def compose(self) -> ComposeResult:
        with Horizontal(classes="reply--body"):
            yield self.thought
            yield self.answer
        yield self._footer

    def _show(self, turn: StoredTurn) -> None:
        stats = turn.stats
        if turn.turn.thought:
            self.thought.display = True
            self.thought.keep(turn.turn.thought)
            self.thought.finish(
                spent=stats.think_seconds if stats else 0.0,
                tokens=stats.think_tokens if stats else 0,
                cut_short=not turn.turn.complete and not turn.turn.text,
            )
        self.answer.append(turn.turn.text)
        self.answer.finish()
        self._say(footers.of_stored(turn))

    @property
    def begun(self) -> bool:
        return self._answering or self.thought.display

    @property
    def answering(self) -> bool:
        return self._answering

    def wait(self, note: str) -> None:
        """Nothing has come yet, and why."""
        if note != self._note:
            self._note = note
            self._say(note)

    def add(self, thought: str, answer: str, think_tokens: int) -> None:
        """What came since the last time."""
        if self._note:
            self.wait("")
        if thought:
            self.thought.display = True
            self.thought.append(thought, think_tokens)
        if answer:
            if not self._answering:
                self._answering = True
                self.thought.finish(tokens=think_tokens)
            self.answer.append(answer)

    def end(self, done: Done | None, turn: StoredTurn | None) -> None:
        """It is over, and kept as `turn`; without `done` it broke off."""
        self.turn = turn
        if done is None:
            self.thought.finish(cut_short=True)
        else:
            stats = done.stats
            self.thought.finish(spent=stats.think_seconds, tokens=stats.think_tokens, cut_short=not done.thought_closed)
        self.answer.finish()
        thought = (turn.turn.thought if turn is not None else None) or ""
        if thought:
            self.thought.keep(thought)
        self._say(footers.of_done(done, turn, thought, self.answer.source))

    def _say(self, text: str) -> None:
        self._footer.update(text)
        self._footer.display = bool(text)

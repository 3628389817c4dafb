"""The thought of one turn: a few live lines while the model thinks, one line afterwards, all of it on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Literal

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static

from r1local.tui.text import headings
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.long_text import LongText

State = Literal["open", "tail", "folded", "hidden"]
"""open: all of it, in a box that scrolls. tail: its last four lines. folded: its heading. hidden: nothing."""

_TICK = 0.25
_SCROLLS = ("up", "down", "page_up", "page_down", "home", "end")


class Thought(Widget, can_focus=True):
    """Thinks from its first text to `finish`. Which state it then takes is a setting, until somebody toggles it."""

    DEFAULT_CSS = style_beside(__file__)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "fold", "Thought"),
        *(Binding(to.replace("_", ""), f"scroll('{to}')", show=False) for to in _SCROLLS),
    ]

    state: reactive[State] = reactive[State]("tail", init=False)

    class Toggled(Message):
        """Somebody opened or closed it."""

        def __init__(self, thought: Thought, state: State) -> None:
            super().__init__()
            self.thought = thought
            self.state = state

        @property
        def control(self) -> Thought:
            return self.thought

    def __init__(
        self,
        *,
        live: State = "tail",
        after: State = "folded",
        clock: Callable[[], float] = time.monotonic,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`live` is the state while the model thinks, `after` the one that follows."""
        super().__init__(id=id, classes=classes)
        self._body = LongText(share=3 / 5)
        self._body.can_focus = False  # one stop for the Tab key: its keys are bound here
        self._kept = ""
        self.tokens = 0
        self.seconds = 0.0
        self._live, self._after, self._clock = live, after, clock
        self._header = Static(classes="thought--header", markup=False)
        self._heading = ""
        self._began: float | None = None
        self._finished = self._cut_short = self._chosen = False
        self._timer: Timer | None = None
        self.set_reactive(Thought.state, live)
        self.add_class(f"-{live}")

    @property
    def body(self) -> LongText:
        """Its text. One that was kept is wrapped when somebody asks for it: most thoughts stay folded."""
        if self._kept:
            kept, self._kept = self._kept, ""
            self._body.append(kept)
            self._body.end()
        return self._body

    @property
    def thinking(self) -> bool:
        return self._began is not None and not self._finished

    def append(self, text: str, tokens: int) -> None:
        """A further piece; `tokens` is how many there are of them in all so far."""
        if self._began is None:
            self._began = self._clock()
            self._wind()
        self.tokens = tokens
        self.body.append(text)

    def keep(self, text: str) -> None:
        """All of a thought that is over; `finish` follows, or was. Folded it takes no more memory than this text."""
        if not self._finished or self.state not in ("open", "tail"):
            self._body.clear()
            self._kept = text

    def finish(self, *, spent: float | None = None, tokens: int | None = None, cut_short: bool = False) -> None:
        """The thought is over. What was measured nearer to the model is better than what was seen here."""
        self.seconds = self._elapsed() if spent is None else spent
        self.tokens = self.tokens if tokens is None else tokens
        self._finished, self._cut_short = True, cut_short
        self._body.end()
        self._wind()
        if not self._chosen:
            self.state = self._after

    def _elapsed(self) -> float:
        return 0.0 if self._began is None else self._clock() - self._began

    # Heading

    def tick(self) -> None:
        """Write the heading anew if it says something else now."""
        width = max(self.content_size.width - 2, 0)
        if self._finished:
            words = headings.thought(self.seconds, self.tokens, width, cut_short=self._cut_short)
        else:
            words = headings.thinking(None if self._began is None else self._elapsed(), self.tokens, width)
        heading = f"{'▾' if self.state == 'open' else '▸'} {words}"
        if heading != self._heading:
            self._heading = heading
            self._header.update(heading, layout=False)

    def _wind(self) -> None:
        """The clock runs only while there is something to count and somebody to see it."""
        if self._timer is not None:
            if self.thinking and self.state != "hidden":
                self._timer.resume()
            else:
                self._timer.pause()
        self.tick()

    # State

    def compose(self) -> ComposeResult:
        yield self._header
        yield self.body if self.state in ("open", "tail") else self._body

    def on_mount(self) -> None:
        self._timer = self.set_interval(_TICK, self.tick, pause=True)
        self._wind()

    def on_resize(self, event: events.Resize) -> None:
        self.tick()

    def watch_state(self, old: State, new: State) -> None:
        self.remove_class(f"-{old}").add_class(f"-{new}")
        self._wind()
        body = self.body if new in ("open", "tail") else self._body
        if self._finished:
            body.show_start()  # what is over is read from there
        else:
            body.action_scroll_end()

    def action_fold(self) -> None:
        """Open it, or close it as far as it was before."""
        usual = self._live if self.thinking else self._after
        closed: State = "folded" if usual == "open" else usual
        self.state = closed if self.state == "open" else "open"
        self._chosen = self.state != usual
        self.post_message(self.Toggled(self, self.state))

    def on_click(self, event: events.Click) -> None:
        """The heading toggles, and the tail; what is open is there to be read and selected."""
        if (event.screen_y == self.content_region.y or self.state == "tail") and not self.screen.selections:
            self.action_fold()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "scroll" or self.state == "open"

    def action_scroll(self, to: str) -> None:
        getattr(self.body, f"action_scroll_{to}")()

"""A screen whose slow work is done in threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from textual.message import Message
from textual.screen import Screen, ScreenResultType

from r1local.errors import R1Error
from r1local.tui.notices import text_of


class Aside(Screen[ScreenResultType]):
    """Errors of that work that are meant for a person become notices."""

    class Ready(Message, namespace="aside"):
        """Something was found out in a thread; the rest is for the screen's."""

        def __init__(self, then: Callable[[], None]) -> None:
            super().__init__()
            self.then = then

    def aside(self, task: Callable[[], Callable[[], None]]) -> None:
        """Run `task` in a thread, then what it returns in this one, if the screen is still there."""

        def run() -> None:
            try:
                then = task()
            except R1Error as error:
                then = partial(self.tell, error)
            except OSError as error:
                then = partial(self.tell, R1Error(f"{error.filename}: {error.strerror or error}."))
            self.post_message(self.Ready(then))

        self.run_worker(run, thread=True)

    def tell(self, error: R1Error) -> None:
        self.notify(text_of(error), severity="error", markup=False)

    def on_aside_ready(self, message: Ready) -> None:
        message.then()

"""Slow answers to questions that keep changing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from textual.widget import Widget

Question = TypeVar("Question")
Found = TypeVar("Found")


class Latest(Generic[Question, Found]):
    """Work that is done in a thread, one at a time; what is asked meanwhile replaces what was asked before it."""

    def __init__(
        self, widget: Widget, work: Callable[[Question], Found], done: Callable[[Question, Found], None]
    ) -> None:
        """`done` is called on the screen's thread, with each question that was worked on, while the widget lives."""
        self._widget, self._work, self._done = widget, work, done
        self._wanted: list[Question] = []
        self._busy = False

    def ask(self, question: Question) -> None:
        self._wanted = [question]
        if not self._busy:
            self._busy = True
            # Not a coroutine: one that is never started, because the app ends, would be complained of.
            self._widget.run_worker(self._run)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Nothing is asked any more; work that has begun is still told of."""
        self._wanted.clear()

    async def _run(self) -> None:
        try:
            while self._wanted:
                question = self._wanted.pop()
                self._done(question, await asyncio.to_thread(self._work, question))
        finally:
            self._busy = False

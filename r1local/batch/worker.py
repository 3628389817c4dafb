"""Who answers rows: this process with one engine, or something that stands for many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from r1local.batch.records import record_of
from r1local.engine import Engine
from r1local.many.row import Row
from r1local.many.run import Run
from r1local.many.values import How
from r1local.many.votes import Same

Record = dict[str, Any]


class Worker(Protocol):
    """Answers rows, each once. `drain` and `cancel` are for any thread and for signal handlers."""

    @property
    def tokens(self) -> int:
        """Drawn so far."""
        ...

    @property
    def running(self) -> int:
        """Replies under way."""
        ...

    @property
    def status(self) -> str:
        """A few words more for a status line, such as how a vote stands; may be empty."""
        ...

    def answered(self, rows: Iterable[Row], *, check: Callable[[], None]) -> Iterator[tuple[Row, Record]]:
        """Every row with its record, as they end. What `check`, called some times a second, raises comes out.

        Raises EngineError when nothing more can be answered.
        """
        ...

    def drain(self) -> None:
        """Finish what has begun, and begin nothing more."""
        ...

    def cancel(self) -> None:
        """Stop; rows that are not finished are not yielded."""
        ...


class LocalWorker:
    """One engine in this process."""

    def __init__(self, engine: Engine, how: How, *, parallel: int, same: Same, model: str, settings: str) -> None:
        """`parallel`: sequences the engine has. `model` and `settings` go into the records."""
        self._run = Run(engine, how, parallel=parallel, same=same)
        self._model = model
        self._settings = settings

    @property
    def tokens(self) -> int:
        return self._run.tokens

    @property
    def running(self) -> int:
        return len(self._run.running)

    @property
    def status(self) -> str:
        running = self._run.running
        thinking = sum(sample.reader.thinking for sample in running)
        return f"{thinking} thinking" if running else ""

    def answered(
        self, rows: Iterable[Row], *, check: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Row, Record]]:
        for finished in self._run.finished(rows, check=check):
            yield finished.row, record_of(finished, self._model, self._settings)

    def drain(self) -> None:
        self._run.drain()

    def cancel(self) -> None:
        self._run.cancel()

"""The engine behind the screen: loaded in a thread, exchanged for another model's, given up when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from r1local.engine import Engine
from r1local.store import LocalModel

State = Literal["none", "loading", "ready", "failed"]


class Loader(Protocol):
    def __call__(
        self, local: LocalModel, on_notice: Callable[[str], None], on_progress: Callable[[float], None]
    ) -> Engine: ...


class Replaced(Exception):
    """Raised in a load that nobody waits for any more."""


@dataclass(frozen=True, slots=True)
class Status:
    state: State = "none"
    share: float = 0.0
    """Of the file that is loaded."""
    error: BaseException | None = None


class Engines:
    """One engine at a time. Its methods are for the screen's thread; loading happens in threads of its own."""

    def __init__(self, loader: Loader, on_notice: Callable[[str], None]) -> None:
        self._loader = loader
        self._on_notice = on_notice
        self._lock = threading.Lock()
        self._turn = 0
        self._thread: threading.Thread | None = None
        self.engine: Engine | None = None
        self.local: LocalModel | None = None
        self.status = Status()

    def load(self, local: LocalModel) -> None:
        """Start loading; what was loaded or loading before is given up."""
        with self._lock:
            self._turn += 1
            turn, before = self._turn, self._thread
            former, self.engine = self.engine, None
            self.local, self.status = local, Status("loading")
        self._thread = threading.Thread(
            target=self._run, args=(turn, local, former, before), name="r1local-load", daemon=True
        )
        self._thread.start()

    def fail(self, error: BaseException) -> None:
        """It cannot be used any more; `load` replaces it."""
        with self._lock:
            self.engine, self.status = None, Status("failed", error=error)

    def close(self) -> None:
        with self._lock:
            self._turn += 1
            engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def _run(self, turn: int, local: LocalModel, former: Engine | None, before: threading.Thread | None) -> None:
        if former is not None:
            former.close()  # two models at once may not fit
        if before is not None:
            before.join()

        def progress(share: float) -> None:
            if turn != self._turn:
                raise Replaced
            self.status = Status("loading", share)

        try:
            engine = self._loader(local, self._on_notice, progress)
        except Replaced:
            return
        except BaseException as error:
            with self._lock:
                if turn == self._turn:
                    self.status = Status("failed", error=error)
            return
        with self._lock:
            if turn == self._turn:
                self.engine, self.status = engine, Status("ready", 1.0)
                return
        engine.close()

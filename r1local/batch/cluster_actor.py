"""What runs on a node of a cluster: one engine, fed with rows as long as it asks for more."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from r1local import __version__, hardware
from r1local.batch.opening import Work, open_worker
from r1local.batch.worker import LocalWorker, Record
from r1local.catalog import load_catalog
from r1local.engine.loading import usable
from r1local.errors import EngineError, ModelNotFound, R1Error, UsageError
from r1local.many.row import Row
from r1local.store import FILE, LocalModel, find

Given = tuple[int, Row]
"""A row and the ticket it is known by; two rows may ask the same."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a node needs to begin."""

    work: Work
    size: int
    """Bytes of the model: a file of another size is another one."""
    replies: int
    """Those to be expected of this worker."""
    share: int
    """Workers on the node, which part its cores."""
    version: str
    """Of r1local at the driver."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker has to say since it was asked last, and how it stands."""

    records: tuple[tuple[int, Record], ...] = ()
    """Finished rows, by their tickets."""
    begun: int = 0
    """Rows taken up so far, in the order they were given."""
    tokens: int = 0
    running: int = 0
    ready: bool = False
    """The engine is open."""
    progress: float = 0.0
    """Share of the model that is loaded."""
    notices: tuple[str, ...] = ()
    error: R1Error | None = None
    """Why it can answer nothing more."""
    ended: bool = False
    pid: int = 0


def located(work: Work, size: int) -> Path:
    """Where the model lies on this machine: at the same path, or wherever its name leads to.

    Raises ModelNotFound, also for a file of another size.
    """
    try:
        if work.path.is_file() and LocalModel(work.path, None, "", FILE).size == size:
            return work.path
    except OSError:
        pass  # a folder that is not ours to look into
    copy = f"Copy it there as {work.path}."
    try:
        local = find(load_catalog(), work.model)
    except ModelNotFound as error:
        raise ModelNotFound(error.message, error.hint if "r1local pull" in error.hint else copy) from error
    if local.size != size:
        raise ModelNotFound(
            f"{work.model} is another file there: {local.size:,} bytes instead of {size:,}.",
            f"{copy} The published one comes with: r1local pull {work.model}",
        )
    return local.path


class NodeWorker:
    """One engine and the thread that works with it. Methods return at once, but for `take` and `end`."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._changed = threading.Condition()
        self._queue: deque[Given] = deque()
        self._tickets: dict[int, tuple[int, Row]] = {}
        """By the identity of each row that was taken up."""
        self._records: list[tuple[int, Record]] = []
        self._notices: list[str] = []
        self._begun = 0
        self._news = False
        self._progress = 0.0
        self._worker: LocalWorker | None = None
        self._error: R1Error | None = None
        self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def give(self, rows: list[Given]) -> None:
        with self._changed:
            self._queue.extend(rows)
            self._changed.notify_all()  # no news to who gave them

    def take(self, seconds: float) -> Report:
        """How it stands, as soon as a row ended or was taken up, or after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._news, timeout=seconds)
            worker = self._worker
            report = Report(
                tuple(self._records),
                self._begun,
                worker.tokens if worker else 0,
                worker.running if worker else 0,
                worker is not None,
                self._progress,
                tuple(self._notices),
                self._error,
                self._ended,
                os.getpid(),
            )
            self._news = False
            self._records.clear()
            self._notices.clear()
        return report

    def drain(self) -> None:
        """Finish what was taken up; what still waits is dropped."""
        self._stop(lambda worker: worker.drain())

    def cancel(self) -> None:
        self._stop(lambda worker: worker.cancel())

    def end(self, seconds: float) -> None:
        """Stop, and close the engine; returns when that is done, or after so many seconds."""
        self.cancel()
        self._thread.join(seconds)

    def _stop(self, how: Callable[[LocalWorker], None]) -> None:
        with self._changed:
            self._stopping = True
            if self._worker is not None:
                how(self._worker)
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            with open_worker(
                self._prepared(), self._terms.replies, on_notice=self._note, on_progress=self._loaded
            ) as worker:
                with self._telling():
                    self._worker = worker
                # None among the rows says that there is no other one now.
                for row, record in worker.answered(cast(Iterator[Row], self._rows(worker))):
                    with self._telling():
                        ticket, _ = self._tickets.pop(id(row))
                        self._records.append((ticket, record))
        except R1Error as error:
            self._error = error
        except BaseException as error:
            self._error = EngineError(f"{type(error).__name__}: {error}", "This is a bug of r1local.")
        finally:
            with self._telling():
                self._ended = True

    def _prepared(self) -> Work:
        """The work as this node is to do it. Raises ModelNotFound, UsageError."""
        terms = self._terms
        if terms.version != __version__:
            raise UsageError(
                f"It has r1local {__version__}, and here it is {terms.version}.",
                f"On that machine: pip install 'r1local[cluster]=={terms.version}'",
            )
        work = replace(terms.work, path=located(terms.work, terms.size))
        if terms.share > 1 and work.options.n_threads is None:
            cores = usable(hardware.detect()).usable_cores
            work = replace(work, options=replace(work.options, n_threads=max(1, cores // terms.share)))
        return work

    def _rows(self, worker: LocalWorker) -> Iterator[Row | None]:
        """What was given, as it comes: waits only where nothing runs, since whoever asks cannot go on meanwhile."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping or worker.running)
                if self._stopping:
                    return
                row = None
                if self._queue:
                    ticket, row = self._queue.popleft()
                    self._tickets[id(row)] = ticket, row
                    with self._telling():
                        self._begun += 1
            yield row

    def _note(self, notice: str) -> None:
        with self._telling():
            self._notices.append(notice)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What happens inside is worth a report."""
        with self._changed:
            yield
            self._news = True
            self._changed.notify_all()

    def _loaded(self, share: float) -> None:
        self._progress = share
        if self._stopping:
            raise EngineError("Stopped.")

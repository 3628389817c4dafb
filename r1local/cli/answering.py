"""Answers rows for `batch` and `eval`: who does it, the live line, and Ctrl-C."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from r1local.batch.opening import Work, open_worker
from r1local.batch.records import made_how, settings_hash
from r1local.batch.worker import Record, Worker
from r1local.cli.chat import options_of
from r1local.cli.output import Output
from r1local.errors import UsageError
from r1local.many.row import Row
from r1local.many.values import How
from r1local.settings import Settings
from r1local.store import LocalModel
from r1local.store.usage import mark_used
from r1local.units import seconds

_BYTES_A_TOKEN = 3
"""Of a prompt, at the least: English has four, a Chinese character is three."""
_BEFORE_GUESSING = 3
"""Rows that have to end before it is said how long the others may take."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Over what the rows are spread."""

    parallel: int | None = None
    cluster: str = ""
    """Empty for this process, or the kind of cluster."""
    address: str = ""
    workers: int | None = None

    def check(self) -> None:
        """Raises UsageError for what cannot be, before anything is loaded."""
        if self.cluster not in ("", "ray"):
            raise UsageError(f"There is no kind of cluster {self.cluster!r}.", "--cluster ray is the one there is.")
        if not self.cluster and (self.address or self.workers):
            raise UsageError("--address and --workers are for a cluster.", "Add --cluster ray.")


@dataclass(frozen=True, slots=True)
class Counted:
    """What was done."""

    finished: int
    failed: int
    tokens: int
    seconds: float
    stopped: bool
    """Before the last row."""

    def __str__(self) -> str:
        rate = f", {self.tokens / self.seconds:.0f} tok/s" if self.seconds > 0 else ""
        failed = f"; {self.failed:,} failed: see their errors" if self.failed else ""
        rows = "1 row" if self.finished == 1 else f"{self.finished:,} rows"
        return f"{rows} in {seconds(self.seconds)}, {self.tokens:,} tokens{rate}{failed}."


def work_of(
    local: LocalModel, how: How, settings: Settings, spread: Spread, **more: Any
) -> tuple[Work, dict[str, Any]]:
    """What to open engines for, and the settings that replies depend on; `more` are further ones."""
    facts = made_how(how, local, **more)
    work = Work(
        local.name,
        local.path,
        how,
        settings_hash(facts),
        local.model.thinks if local.model else None,
        options_of(settings),
        spread.parallel,
    )
    return work, facts


def answer_rows(
    rows: Sequence[Row],
    work: Work,
    spread: Spread,
    output: Output,
    take: Callable[[Row, Record], None],
    *,
    label: str = "",
) -> Counted:
    """Answer the rows; `take` gets each record as it ends. The first Ctrl-C finishes what has begun, the second stops.

    Raises R1Error, and what `take` raises.
    """
    began = time.monotonic()
    finished = failed = 0
    with _opened(rows, work, spread, output) as worker:
        mark_used(work.path)
        loaded = time.monotonic()

        def status() -> str:
            spent = time.monotonic() - loaded
            parts = [f"{finished:,} of {len(rows):,} rows", f"{worker.running} at once", worker.status]
            parts.append(f"{worker.tokens / spent:.0f} tok/s" if spent > 0 else "")
            if finished >= _BEFORE_GUESSING:
                parts.append(f"about {seconds(spent / finished * (len(rows) - finished))} left")
            return " · ".join(filter(None, [label, *parts]))

        output.status(status)
        try:
            with _draining(worker, output):
                for row, record in worker.answered(rows, check=lambda: None):
                    finished += 1
                    failed += "error" in record
                    take(row, record)
        finally:
            output.status(None)
        return Counted(finished, failed, worker.tokens, time.monotonic() - began, finished < len(rows))


@contextmanager
def _opened(rows: Sequence[Row], work: Work, spread: Spread, output: Output) -> Iterator[Worker]:
    share = 0.0

    def progress(value: float) -> None:
        nonlocal share
        share = value

    longest = max((sum(len(turn.text.encode("utf-8", "replace")) for turn in row.turns) for row in rows), default=0)
    work = replace(work, prompt_tokens=longest // _BYTES_A_TOKEN + len(work.how.system))
    replies = len(rows) * work.how.samples
    if spread.cluster:
        from r1local.batch.cluster import open_cluster

        output.status(lambda: f"Starting workers {share:.0%}")
        with open_cluster(
            work, replies, address=spread.address, workers=spread.workers, on_notice=output.line, on_progress=progress
        ) as workers:
            yield workers
        return
    output.status(lambda: f"Loading {work.path.name} {share:.0%}")
    with open_worker(work, replies, on_notice=output.line, on_progress=progress) as worker:
        yield worker


@contextmanager
def _draining(worker: Worker, output: Output) -> Iterator[None]:
    """The first Ctrl-C lets what has begun come to its end, the second one stops it."""
    pressed = 0

    def handle(*_: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed == 1:
            worker.drain()
            output.line(f"Finishing what has begun ({worker.running} replies). Ctrl-C again stops it.")
        else:
            worker.cancel()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

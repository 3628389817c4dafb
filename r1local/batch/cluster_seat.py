"""One worker of a cluster as the driver sees it: its node, its rows, and the lives it has had."""

from __future__ import annotations

import math
import time
from typing import Any

from r1local import __version__
from r1local.batch.cluster_actor import NodeWorker, Report, Terms
from r1local.batch.cluster_join import Node
from r1local.batch.cluster_ledger import Entry
from r1local.batch.opening import Work
from r1local.errors import EngineError, R1Error, UsageError
from r1local.terminal import clean_line

MOST_RESTARTS = 3
"""In a row, without a row finished in between."""
_POLL_SECONDS = 0.5
"""A worker with nothing to report says so this often: for the figures."""
_MOST_CHARACTERS = 300
"""Of what another machine says."""


class Seat:
    """A place on a node, taken by one worker after the other as they are lost."""

    def __init__(self, ray: Any, node: Node, number: int, share: int) -> None:
        """`number`: from 1. `share`: the seats of the node, which part what it has."""
        self._ray = ray
        self.node = node
        self.number = number
        self.share = share
        self.holding: dict[int, Entry] = {}
        """Rows that went there and have not come back, by ticket."""
        self.taking: Any = None
        """The report that is waited for; None where there is no worker."""
        self.report = Report()
        self.failures = 0
        """Workers lost since one finished a row."""
        self.out = False
        """Left for good."""
        self.reason: R1Error | None = None
        """Why the last worker was lost."""
        self._started = 0.0
        self._actor: Any = None
        self._given = 0
        self._tokens_before = 0

    @property
    def name(self) -> str:
        return f"Worker {self.number} on {self.node.name}"

    @property
    def ready(self) -> bool:
        return self.taking is not None and self.report.ready and not self.report.ended

    @property
    def opening(self) -> bool:
        return self.taking is not None and not self.report.ready

    @property
    def unheard(self) -> float:
        """Seconds since its worker was started, as long as nothing was heard of it."""
        return time.monotonic() - self._started if self.opening and not self.report.pid else 0.0

    @property
    def waiting(self) -> int:
        """Rows given that it has not taken up yet, as far as it said."""
        return self._given - self.report.begun

    @property
    def tokens(self) -> int:
        return self._tokens_before + self.report.tokens

    def start(self, work: Work, size: int, replies: int) -> None:
        """A fresh worker; it is ready when it reports so."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self._ray.remote(
            num_cpus=_part(self.node.cores, self.share),
            num_gpus=_part(self.node.gpus, self.share),
            max_restarts=0,
            concurrency_groups={"take": 1, "steer": 1},
            scheduling_strategy=NodeAffinitySchedulingStrategy(self.node.id, soft=False),
        )(NodeWorker)
        self._given = 0
        self.report = Report()
        self._started = time.monotonic()
        self._actor = actor.remote(Terms(work, size, replies, self.share, __version__))
        self._ask()

    def _ask(self) -> None:
        self.taking = self._actor.take.options(concurrency_group="take").remote(_POLL_SECONDS)

    def give(self, entries: list[Entry]) -> None:
        if entries:
            self.holding.update((entry.ticket, entry) for entry in entries)
            self._given += len(entries)
            self._steer("give", [(entry.ticket, entry.row) for entry in entries])

    def _steer(self, method: str, *arguments: Any) -> Any:
        return getattr(self._actor, method).options(concurrency_group="steer").remote(*arguments)

    def heard(self, report: Report) -> list[tuple[Entry, dict[str, Any]]]:
        """Note a report and ask for the next one; the rows it finished."""
        self.report = report
        if report.ended:
            self.taking = None
        else:
            self._ask()
        finished = []
        for ticket, record in report.records:
            entry = self.holding.pop(ticket, None)
            if entry is not None:  # once is enough
                finished.append((entry, record))
        if finished:
            self.failures = 0
        return finished

    def lost(self, reason: R1Error) -> list[Entry]:
        """There is no worker any more; the rows it had, in order. What it may still say is not heard."""
        self.reason = reason
        self.failures += 1
        self._tokens_before += self.report.tokens
        self.kill()
        entries = list(self.holding.values())
        self.holding.clear()
        self.report = Report()
        return entries

    def drain(self) -> None:
        if self._actor is not None:
            self._steer("drain")

    def cancel(self) -> None:
        if self._actor is not None:
            self._steer("cancel")

    def end(self, seconds: float) -> Any:
        """Let it close its engine; a promise that is kept when it has, or after so long. None where none is there."""
        return self._steer("end", seconds) if self._actor is not None and self.report.pid else None

    def kill(self) -> None:
        """End its process."""
        if self._actor is not None:
            try:
                self._ray.kill(self._actor)
            except Exception:
                pass  # it is gone already, or the whole cluster is
        self._actor = self.taking = None


def _part(amount: float, share: int) -> float:
    """What each of `share` workers may take: Ray hands out whole ones, or parts of a single one."""
    part = amount / share
    return math.floor(part) if part >= 1 else math.floor(part * 1000) / 1000


def reason_of(error: BaseException, *, up: bool) -> R1Error:
    """Why a worker was lost, of what Ray raised instead of its report. `up`: whether its node is."""
    cause = getattr(error, "cause", None)
    for known in (error, cause):
        if isinstance(known, R1Error):
            return known
    text = str(error)
    if "No module named 'r1local" in text:
        return UsageError("r1local is not installed there.", "On that machine: pip install 'r1local[cluster]'")
    if not up:
        return EngineError("Its machine is gone.", "See what became of it: ray status")
    if "low on memory" in text or "OutOfMemory" in type(error).__name__:
        return EngineError("Ray ended it because its machine ran out of memory.", "Let it answer fewer rows at once.")
    if cause is not None:
        return EngineError(clean_line(f"{type(cause).__name__}: {cause}")[:_MOST_CHARACTERS], "")
    return EngineError("Its process died.", "What it said last stands in Ray's logs on that machine.")


def shown(text: str) -> str:
    """What another machine said, on one line and bounded."""
    return clean_line(text)[:_MOST_CHARACTERS]

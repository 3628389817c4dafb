"""Rows spread over the nodes of a Ray cluster, a worker with an engine of its own on each.

cluster             hands rows out, takes records in, puts up with workers that die
cluster_join        Ray itself: joins a cluster or starts one
cluster_seat        one worker as the driver sees it
cluster_ledger      which row goes out next
cluster_actor       what runs on a node
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from r1local.batch.cluster_actor import Report
from r1local.batch.cluster_join import joined, nodes
from r1local.batch.cluster_ledger import MOST_DEATHS, Entry, Ledger
from r1local.batch.cluster_seat import MOST_RESTARTS, Seat, reason_of, shown
from r1local.batch.opening import Work
from r1local.batch.records import error_record
from r1local.batch.worker import Record
from r1local.errors import EngineError, ModelNotFound, R1Error, UsageError
from r1local.many.row import Row
from r1local.store import FILE, LocalModel

_ASK_SECONDS = 0.1
_AHEAD = 2
"""Rows that wait at a worker, beyond those it has taken up, so that it never has to wait for one."""
_PATIENCE_SECONDS = 20.0
"""A worker that was not even heard of after so long waits for something."""
_END_SECONDS = 3.0


class RayWorkers:
    """Answers rows on the nodes of a cluster. Used by one thread; `drain` and `cancel` are for any."""

    def __init__(self, ray: Any, work: Work, replies: int, seats: list[Seat], on_notice: Callable[[str], None]) -> None:
        """`replies`: to be expected of all workers together."""
        self._ray = ray
        self._work = work
        self._size = LocalModel(work.path, None, "", FILE).size
        self._replies = max(1, -(-replies // len(seats)))
        self._on_notice = on_notice
        self._draining = self._cancelled = False
        self._blamed = 0
        """Rows given up in a row, none finished in between."""
        self._impatient: set[Seat] = set()
        self.seats = seats

    @property
    def tokens(self) -> int:
        """Drawn so far, as last heard."""
        return sum(seat.tokens for seat in self.seats)

    @property
    def running(self) -> int:
        return sum(seat.report.running for seat in self.seats)

    @property
    def status(self) -> str:
        return f"{sum(seat.ready for seat in self.seats)} of {len(self.seats)} workers"

    def drain(self) -> None:
        self._draining = True

    def cancel(self) -> None:
        self._cancelled = True

    def open(self, on_progress: Callable[[float], None]) -> None:
        """Returns when the first worker is ready; the others join later. Raises R1Error where none will be."""
        ledger = Ledger(())
        while not any(seat.ready for seat in self.seats):
            self._collect(ledger)
            on_progress(max(seat.report.progress for seat in self.seats))

    def answered(
        self, rows: Iterable[Row], *, check: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Row, Record]]:
        """As Worker.answered; once. A row during which several workers died comes with an error."""
        ledger = Ledger(rows)
        told = False
        checked = time.monotonic()
        try:
            while not self._cancelled:
                if self._draining and not told:
                    told = True
                    for seat in self.seats:
                        seat.drain()
                self._feed(ledger)
                if self._done(ledger):
                    return
                for entry, record in self._collect(ledger):
                    yield entry.row, record
                if time.monotonic() - checked >= _ASK_SECONDS:
                    check()
                    checked = time.monotonic()
        finally:
            if any(seat.holding for seat in self.seats):  # stopped, or nobody listens any more
                for seat in self.seats:
                    seat.cancel()

    def _feed(self, ledger: Ledger) -> None:
        for seat in self.seats:
            if seat.ready and not self._draining:
                seat.give(ledger.next(_AHEAD - seat.waiting, seat.holding.values()))

    def _done(self, ledger: Ledger) -> bool:
        if self._draining:
            return not any(seat.holding and not seat.report.ended for seat in self.seats)
        return ledger.empty and not any(seat.holding for seat in self.seats)

    def _collect(self, ledger: Ledger) -> list[tuple[Entry, Record]]:
        """What ended, within a tenth of a second. Raises R1Error when no worker is left."""
        from ray.exceptions import RayError

        self._start_workers()
        taking = {seat.taking: seat for seat in self.seats if seat.taking is not None}
        if not taking:
            raise self._nobody()
        heard, _ = self._ray.wait(list(taking), timeout=_ASK_SECONDS)
        ended: list[tuple[Entry, Record]] = []
        for promise in heard:
            seat = taking[promise]
            try:
                report = self._ray.get(promise)
            except RayError as error:
                ended += self._lost(seat, ledger, reason_of(error, up=self._is_up(seat)))
            else:
                ended += self._heard(seat, ledger, report)
        return ended

    def _heard(self, seat: Seat, ledger: Ledger, report: Report) -> list[tuple[Entry, Record]]:
        finished = seat.heard(report)
        if finished:
            self._blamed = 0
        for notice in report.notices:
            self._on_notice(shown(f"{seat.node.name}: {notice}" if len(self.seats) > 1 else notice))
        if report.ended and (report.error is not None or not self._draining):
            finished += self._lost(seat, ledger, report.error or EngineError("It ended.", ""))
        return finished

    def _lost(self, seat: Seat, ledger: Ledger, reason: R1Error) -> list[tuple[Entry, Record]]:
        rows = seat.lost(reason)
        given_up = ledger.lost(rows)
        if given_up and self._blamed < MOST_DEATHS:
            self._blamed += len(given_up)
            seat.failures -= 1  # the row's fault, not the worker's
        for_good = not isinstance(reason, EngineError) or not self._is_up(seat) or seat.failures > MOST_RESTARTS
        seat.out = for_good or self._draining
        self._on_notice(_loss(seat, reason, len(rows) - len(given_up)))
        hint = "Give it alone, with fewer tokens or less context."
        message = f"{MOST_DEATHS} workers died while they answered this row: {shown(reason.message)}"
        return [(entry, error_record(entry.row.id, message, hint)) for entry in given_up]

    def _start_workers(self) -> None:
        """Those that are not there; on one node one after the other, for each plans with the memory that is left."""
        opening = {seat.node.id for seat in self.seats if seat.opening}
        for seat in self.seats:
            if seat.taking is None and not seat.out and not self._draining and seat.node.id not in opening:
                seat.start(self._work, self._size, self._replies)
                opening.add(seat.node.id)
            elif seat.unheard > _PATIENCE_SECONDS and seat not in self._impatient:
                self._impatient.add(seat)
                self._on_notice(f"{seat.name} waits until other work of the cluster leaves it the whole machine.")

    def _is_up(self, seat: Seat) -> bool:
        return any(node.id == seat.node.id for node in nodes(self._ray))

    def _nobody(self) -> R1Error:
        reasons = [seat.reason for seat in self.seats if seat.reason is not None]
        if reasons and all(isinstance(reason, ModelNotFound) for reason in reasons):
            return ModelNotFound(f"No node of the cluster has {self._work.model}.", reasons[-1].hint)
        if reasons and not isinstance(reasons[-1], EngineError):
            return reasons[-1]
        last = f" The last one: {shown(reasons[-1].message)}" if reasons else ""
        hint = (reasons[-1].hint if reasons else "") or "See what became of the nodes: ray status"
        return EngineError(f"All workers of the cluster are lost.{last}", hint)

    def close(self) -> None:
        """End the workers, in good order where they still hear."""
        ending = [promise for promise in (seat.end(_END_SECONDS) for seat in self.seats) if promise is not None]
        try:
            if ending:
                self._ray.wait(ending, num_returns=len(ending), timeout=_END_SECONDS)
        finally:
            for seat in self.seats:
                seat.kill()


def _loss(seat: Seat, reason: R1Error, rows: int) -> str:
    what = f"{seat.name} is {'left out' if seat.out else 'lost'}: {shown(reason.message)}"
    if seat.out:
        return f"{what} {shown(reason.hint)}".rstrip()
    again = f" {rows} row{'s go' if rows > 1 else ' goes'} out again." if rows else ""
    return f"{what}{again} It starts anew."


@contextmanager
def open_cluster(
    work: Work,
    replies: int,
    *,
    address: str = "",
    workers: int | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Iterator[RayWorkers]:
    """Workers on the nodes of a cluster, one on each or `workers` in all. `address` as for `joined`.

    Every node plans for itself, and has the model already: at the same path or under its name.
    Raises R1Error: UsageError where Ray is not installed, ModelNotFound where no node has the model.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers can answer nothing.", "Give --workers 1 or more.")
    with joined(address) as ray:
        up = nodes(ray)
        if not up:
            raise EngineError("No node of the cluster offers cores.", "See which nodes there are: ray status")
        count = workers or len(up)
        seats = [
            Seat(ray, up[place % len(up)], place + 1, len(range(place % len(up), count, len(up))))
            for place in range(count)
        ]
        crew = RayWorkers(ray, work, replies, seats, on_notice)
        try:
            crew.open(on_progress)
            yield crew
        finally:
            crew.close()

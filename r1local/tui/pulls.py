"""Downloads behind the screen: one at a time, each in a thread of its own, in the order they were asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r1local import __version__
from r1local.catalog import Catalog
from r1local.checksums import Checksums
from r1local.errors import DownloadError, R1Error, UnsafeServer
from r1local.gguf_header import read_header
from r1local.hub.client import Client
from r1local.hub.hosts import Hosts, configured_endpoint, configured_token, is_offline
from r1local.hub.names import parse_reference
from r1local.hub.pull import Progress, Puller
from r1local.store import find, find_without_network
from r1local.tui.pull_state import Pace, PullState, State
from r1local.units import seconds

__all__ = ["PullState", "Pulls"]

_STATES: dict[str, State] = {"downloading": "running", "checking": "checking", "waiting": "waiting"}
_TELL_SECONDS = 0.1
_CLOSE_SECONDS = 2.0
_STANDING: dict[str, Any] = {"bytes_per_second": 0.0, "seconds_left": None, "note": ""}


@dataclass(eq=False)
class _Pull:
    state: PullState
    cancel: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    """None while it waits for its turn."""
    pace: Pace = field(default_factory=Pace)
    note_until: float = 0.0


class Pulls:
    """Downloads in order. Every method may be called from any thread, and none waits but `close`."""

    def __init__(self, catalog: Catalog, changed: Callable[[], None], *, offline: bool = False) -> None:
        """`changed` is called from a thread of its own, at most ten times a second and never after `close`, when
        `states` says something else than before. It must not wait for the screen.
        """
        self._catalog = catalog
        self._changed = changed
        self._offline = offline
        self._lock = threading.Lock()
        self._pulls: dict[str, _Pull] = {}
        self._running: _Pull | None = None
        self._news = threading.Event()
        self._closed = threading.Event()
        self._teller: threading.Thread | None = None

    @property
    def states(self) -> tuple[PullState, ...]:
        """All that was asked for since the start, in the order in which it was."""
        with self._lock:
            return tuple(pull.state for pull in self._pulls.values())

    def start(self, name: str) -> None:
        """Pull what `r1local pull NAME` would, in its turn, and from where it stopped if it did. Nothing happens where
        that is on its way already.
        """
        with self._lock:
            before = self._pulls.get(name)
            if self._closed.is_set() or (before is not None and before.state.active):
                return
            self._pulls.pop(name, None)
            self._pulls[name] = _Pull(PullState(name))
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell, name="r1local-pulls", daemon=True)
                self._teller.start()
            self._next()
        self._news.set()

    def cancel(self, name: str) -> None:
        """Stop it. What was fetched is kept for the next time."""
        with self._lock:
            pull = self._pulls.get(name)
            if pull is not None:
                self._stop(pull)
        self._news.set()

    def close(self) -> None:
        """Stop all; takes two seconds at most. What was fetched is kept."""
        with self._lock:
            self._closed.set()
            for pull in self._pulls.values():
                self._stop(pull)
            running = self._running
        self._news.set()
        if running is not None and running.thread is not None:
            running.thread.join(_CLOSE_SECONDS)

    # Under the lock

    def _stop(self, pull: _Pull) -> None:
        if pull.state.active:
            pull.cancel.set()
            pull.state = replace(pull.state, state="cancelled", **_STANDING)

    def _next(self) -> None:
        """Begin the first one that waits, if none is running."""
        if self._running is not None or self._closed.is_set():
            return
        for pull in self._pulls.values():
            if pull.thread is None and pull.state.state == "waiting":
                pull.state = replace(pull.state, state="checking")
                pull.thread = threading.Thread(target=self._run, args=(pull,), name="r1local-pull", daemon=True)
                self._running = pull
                pull.thread.start()
                return

    # In the thread of a pull

    def _run(self, pull: _Pull) -> None:
        outcome: dict[str, Any]
        try:
            outcome = {"state": "done", "path": self._fetch(pull)}
        except KeyboardInterrupt:
            outcome = {"state": "cancelled"}
        except R1Error as error:
            outcome = {"state": "failed", "error": error}
        except Exception as error:  # a folder that cannot be written, and whatever else a download meets
            text = f"{pull.state.name} could not be pulled: {error or type(error).__name__}."
            outcome = {"state": "failed", "error": DownloadError(text, "Try again.")}
        with self._lock:
            self._running = None
            # Whoever stopped it knows; what was complete all the same is here.
            if pull.state.active or outcome["state"] == "done":
                pull.state = replace(pull.state, **_STANDING, **outcome)
            self._next()
        self._news.set()

    def _fetch(self, pull: _Pull) -> Path:
        """Raises R1Error, KeyboardInterrupt, OSError."""
        name = pull.state.name
        if self._offline or is_offline():
            return find_without_network(self._catalog, name).path
        endpoint = configured_endpoint()
        reference = parse_reference(name, self._catalog, endpoint=endpoint)
        hosts = Hosts(endpoint, configured_token(endpoint))
        with Client(hosts, user_agent=f"r1local/{__version__}") as client:
            puller = Puller(
                client,
                self._catalog,
                Checksums(),
                cancel=pull.cancel,
                on_progress=lambda progress: self._on_progress(pull, progress),
                on_wait=lambda wait, why: self._on_wait(pull, wait, why),
            )
            try:
                plan = puller.plan(reference)
            except UnsafeServer:
                raise
            except DownloadError as error:  # without the Hub, what is here will do
                try:
                    return find(self._catalog, name).path
                except R1Error:
                    raise error from None
            if pull.cancel.is_set():
                raise KeyboardInterrupt
            path = puller.run(plan)
        read_header(path)
        return path

    def _on_progress(self, pull: _Pull, progress: Progress) -> None:
        now = time.monotonic()
        state = _STATES[progress.state]
        with self._lock:
            if not pull.state.active:
                return
            if (state, progress.size) != (pull.state.state, pull.state.total):
                pull.pace = Pace()
            speed = pull.pace.at(now, progress.done)
            pull.state = replace(
                pull.state,
                state=state,
                file=progress.file,
                done=progress.done,
                total=progress.size,
                bytes_per_second=speed,
                seconds_left=max(0, progress.size - progress.done) / speed if speed else None,
                note=pull.state.note if now < pull.note_until else "",
            )
        self._news.set()

    def _on_wait(self, pull: _Pull, wait: float, why: str) -> None:
        with self._lock:
            if pull.state.active:
                pull.note_until = time.monotonic() + wait
                pull.state = replace(pull.state, note=f"{why} Again in {seconds(wait)}.")
        self._news.set()

    # In a thread of its own

    def _tell(self) -> None:
        while not self._closed.is_set():
            self._news.wait()
            self._news.clear()
            if not self._closed.is_set():
                self._changed()
            self._closed.wait(_TELL_SECONDS)

"""Fetches one file in several ranges at once into a partial, and hashes it while it comes."""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable
from typing import Any

from r1local.checksums import digest_like
from r1local.errors import ChecksumMismatch, DownloadError
from r1local.hub.client import LONGEST_WAIT, Client, Passing, pause
from r1local.hub.partial import Partial, as_disk_full
from r1local.hub.ranges import EXPIRED, Connection, FetchOptions, Writer, is_range
from r1local.hub.repository import Location

_HASH_BYTES = 4 << 20
_SYNC_SECONDS = 2.0


class Fetch:
    """One download. `run` blocks until the partial is complete and its checksum was compared.

    locate: asks the Hub for a fresh address; called once more when an address has expired.
    on_wait(seconds, why): something went wrong and is tried again after so long.
    """

    def __init__(
        self,
        client: Client,
        locate: Callable[[], Location],
        location: Location,
        partial: Partial,
        *,
        options: FetchOptions,
        cancel: threading.Event,
        on_wait: Callable[[float, str], None] | None = None,
    ) -> None:
        self.client = client
        self.partial = partial
        self._locate = locate
        self._location = location
        self._options = options
        self._cancel = cancel
        self._on_wait = on_wait
        self._lock = threading.RLock()
        self._todo = partial.gaps()
        self._connections: dict[int, Connection] = {}
        self._failures: dict[int, int] = {}
        self._relocating = threading.Lock()
        self._error: BaseException | None = None
        self._whole_body = False
        """The server knows no ranges: one connection, the reader, fetches all of the file."""
        self._reader: int | None = None
        self._over = threading.Event()
        """Nothing is left to fetch, or something went wrong: nobody need wait any longer to try again."""
        self._ended = threading.Event()
        self._digest = ""
        self.hashed = 0
        """Bytes from the start that went into the checksum already."""

    def run(self, on_progress: Callable[[], None]) -> None:
        """Raises DownloadError, AccessDenied, DiskFull, ChecksumMismatch, KeyboardInterrupt.

        `on_progress` is called ten times a second, from this thread.
        """
        size = self._location.size
        missing = sum(end - start for start, end in self._todo)
        count = min(self._options.connections, max(1, missing // self._options.smallest_range)) if missing else 0
        workers = [threading.Thread(target=self._work, name=f"range {n}", daemon=True) for n in range(count)]
        hasher = threading.Thread(target=self._guard, args=(self._hash,), name="hash", daemon=True)
        syncer = threading.Thread(target=self._guard, args=(self._sync,), name="sync", daemon=True)
        for thread in (*workers, hasher, syncer):
            thread.start()
        try:
            while any(worker.is_alive() for worker in workers):
                if self._over.wait(0.1):
                    time.sleep(0.01)
                self._cut_stalled()
                self._report(on_progress)
            while self._error is None and hasher.is_alive():
                hasher.join(0.1)
                self._report(on_progress)
        except BaseException:
            self._stop(KeyboardInterrupt())
            raise
        finally:
            self._ended.set()
            # One that waits for an answer cannot be told; as a daemon it holds nobody up.
            deadline = time.monotonic() + 2.0
            for worker in (*workers, hasher):
                worker.join(max(0.0, deadline - time.monotonic()))
            syncer.join()
            self._save()
        if self._error is not None:
            raise self._error
        if self._digest != self._location.etag:
            self.partial.discard()
            raise ChecksumMismatch(
                f"{self.partial.identity.file} arrived damaged: its checksum is {self._digest[:12]}…, and "
                f"{self._location.etag[:12]}… was published. What came was deleted.",
                "Pull again; if that repeats, a proxy or the mirror changes what it passes on.",
            )
        assert self.partial.done.total == size

    def _report(self, on_progress: Callable[[], None]) -> None:
        on_progress()
        if self._cancel.is_set():
            raise KeyboardInterrupt

    # The ranges

    def _work(self) -> None:
        try:
            while (span := self._take()) is not None:
                try:
                    self._fetch(*span)
                except Passing as passing:
                    self._failed(passing)
        except BaseException as error:
            self._stop(as_disk_full(error))

    def _take(self) -> tuple[int, int] | None:
        """The next range for a connection: large while much is left, small near the end so that all end together."""
        with self._lock:
            if not self._todo or self._error is not None or self._reader is not None:
                return None
            left = sum(end - start for start, end in self._todo)
            options = self._options
            length = left // (2 * options.connections)
            length = min(max(length, options.smallest_range), options.largest_range)
            start, end = self._todo.pop(0)
            if end - start > length:
                self._todo.insert(0, (start + length, end))
                end = start + length
            self._connections[threading.get_ident()] = Connection()
            return start, end

    def _fetch(self, start: int, end: int) -> None:
        """Fetch the bytes [start, end). What is missing of them afterwards goes back to the others."""
        writer = Writer(self.partial, start)
        try:
            headers = {} if self._whole_body else {"range": f"bytes={start}-{end - 1}"}
            patience = self._options.stall_seconds
            with self.client.open("GET", self._location.url, headers, timeout=patience) as response:
                connection = self._connections[threading.get_ident()]
                if response.status_code in EXPIRED:
                    self._relocate(self._location)
                ranged = is_range(response, start, end, self._location.size)
                with self._lock:
                    if self._reader is not None or self._error is not None:
                        return  # another connection reads the whole file
                    connection.attach(response)
                    if not ranged:
                        self._become_reader(connection)
                if not ranged:
                    self._read_whole(response, connection)
                    return
                left = end - start
                for piece in response.iter_raw():
                    connection.received += len(piece)
                    if len(piece) > left:
                        piece = piece[:left]  # more than was asked for: not of this file
                    writer.write(piece)
                    left -= len(piece)
                    self._failures.clear()
                    if left == 0 or self._error is not None:
                        break
            if writer.at < end and self._error is None:
                raise Passing(DownloadError(f"{response.url.host} broke off in the middle.", "Try again."))
        finally:
            try:
                writer.close()
            finally:
                with self._lock:
                    self._connections.pop(threading.get_ident(), None)
                    if self._reader == threading.get_ident():
                        self._reader = None
                    if writer.at < end:
                        insort(self._todo, (writer.at, end))
                    if self._whole_body:
                        self._todo = self.partial.gaps()
                    if self.partial.done.total == self._location.size:
                        self._over.set()

    def _become_reader(self, connection: Connection) -> None:
        self._whole_body = True
        self._reader = threading.get_ident()
        for other in self._connections.values():
            if other is not connection:
                other.cut()

    def _read_whole(self, response: Any, connection: Connection) -> None:
        """Read all of the file, and keep what was missing."""
        # No byte is written twice: what was hashed stays as it is. So the others must have ended.
        while any(other.attached for other in list(self._connections.values()) if other is not connection):
            if self._error is not None:
                return
            time.sleep(0.005)
        gaps = self.partial.gaps()
        at = 0
        writer: Writer | None = None
        try:
            for piece in response.iter_raw():
                connection.received += len(piece)
                begin, at = at, at + len(piece)
                for start, end in gaps:
                    low, high = max(begin, start), min(at, end)
                    if low >= high:
                        continue
                    if writer is None or writer.at != low:
                        if writer is not None:
                            writer.close()
                        writer = Writer(self.partial, low)
                    writer.write(piece[low - begin : high - begin])
                    self._failures.clear()
                if self._error is not None:
                    return
        finally:
            if writer is not None:
                writer.close()
        if at < self._location.size:
            raise Passing(DownloadError(f"{response.url.host} broke off in the middle.", "Try again."))

    def _relocate(self, expired: Location) -> None:
        with self._relocating:
            if self._location is not expired:
                return  # another connection has asked already
            fresh = self._locate()
            if (fresh.etag, fresh.size) != (expired.etag, expired.size):
                raise DownloadError(
                    f"{self.partial.identity.file} was changed on the Hub during the download.", "Pull again."
                )
            self._location = fresh

    def _failed(self, passing: Passing) -> None:
        me = threading.get_ident()
        failures = self._failures[me] = self._failures.get(me, 0) + 1
        if self._error is not None or self._reader is not None:
            return
        if failures >= self._options.attempts or passing.wait > LONGEST_WAIT:
            hint = f"{passing.error.hint} The {self.partial.done.total:,} bytes that are here are kept."
            raise DownloadError(passing.error.message, hint.strip()) from passing
        pause(passing, failures - 1, self._options.first_wait, self._on_wait, self._over)

    def _cut_stalled(self) -> None:
        with self._lock:
            for connection in self._connections.values():
                connection.cut_if_stalled(self._options)

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            for connection in self._connections.values():
                connection.cut()
        self._over.set()
        self._ended.set()

    # Beside the ranges

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._stop(as_disk_full(error))

    def _hash(self) -> None:
        """Hash the file from its start as far as it is there, following the download."""
        size, etag = self._location.size, self._location.etag
        digest = digest_like(etag, size)
        buffer = memoryview(bytearray(_HASH_BYTES))
        at = 0
        with self.partial.data.open("rb", buffering=0) as file:
            while at < size:
                ready = self.partial.prefix()
                if ready - at < min(_HASH_BYTES, size - at):
                    if self._ended.wait(0.02):
                        return
                    continue
                count = file.readinto(buffer[: min(_HASH_BYTES, ready - at)])
                if not count:
                    raise DownloadError("The partial file became shorter.", "Pull again.")
                digest.update(buffer[:count])
                at += count
                self.hashed = at
        self._digest = digest.hexdigest()

    def _sync(self) -> None:
        while not self._ended.wait(_SYNC_SECONDS):
            self.partial.sync()

    def _save(self) -> None:
        try:
            self.partial.sync()
        except OSError as error:
            if self._error is None:
                self._error = as_disk_full(error)

"""One range of a download: is the answer what was asked for, its way to the disk, and its connection."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass
from typing import Any

from r1local.errors import DownloadError
from r1local.hub.client import Passing, raise_if_passing
from r1local.hub.partial import Partial

# What a server says of an address that was signed for a time that is over.
EXPIRED = (401, 403, 404, 410)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_JOURNAL_BYTES = 1 << 20
_JOURNAL_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class FetchOptions:
    connections: int = 4
    smallest_range: int = 4 << 20
    largest_range: int = 64 << 20
    stall_seconds: float = 20.0
    """A connection that brings fewer than `stall_bytes` in this time is cut and opened again."""
    stall_bytes: int = 16 << 10
    attempts: int = 8
    """Failures in a row, with not a byte between them, before it is given up."""
    first_wait: float = 0.5


def is_range(response: Any, start: int, end: int, size: int) -> bool:
    """Whether an answer is the range that was asked for, or else the whole file. Raises Passing or R1Error."""
    host, status = response.url.host, response.status_code
    raise_if_passing(response)
    if status in EXPIRED:
        raise Passing(DownloadError(f"{host} refuses to send the file ({status}).", "Pull again later."))
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise Passing(DownloadError(f"{host} sends the file packed, which was not asked for.", "Pull again."))
    if "text/html" in response.headers.get("content-type", "").lower():
        raise Passing(
            DownloadError(
                f"{host} sends a web page in place of the file.",
                "A login page of the network may stand between: open a web page once, then pull again.",
            )
        )
    length = response.headers.get("content-length", "")
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None or int(match[1]) != start or int(match[2]) >= end or match[3] not in (str(size), "*"):
            raise Passing(DownloadError(f"{host} sends another part than was asked for.", "Pull again."))
        return True
    if status == 200 and (not length or length == str(size)):
        return False
    if status in (200, 416):
        raise Passing(DownloadError(f"{host} has a file of another size.", "Pull again later."))
    raise DownloadError(f"{host} answers {status} in place of the file.", "Pull again later.")


class Writer:
    """Writes one stretch of the data file and notes it in the journal a megabyte at a time."""

    def __init__(self, partial: Partial, at: int) -> None:
        self.at = at
        self._partial = partial
        self._noted = at
        self._noted_at = time.monotonic()
        self._file = partial.data.open("rb+", buffering=0)
        self._file.seek(at)

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            count = self._file.write(view)
            self.at += count
            view = view[count:]
        if self.at - self._noted >= _JOURNAL_BYTES or time.monotonic() - self._noted_at > _JOURNAL_SECONDS:
            self.save()

    def save(self) -> None:
        if self.at > self._noted:
            self._partial.record(self._noted, self.at)
            self._noted = self.at
        self._noted_at = time.monotonic()

    def close(self) -> None:
        try:
            self.save()
        finally:
            self._file.close()


class Connection:
    """What one worker has under way, so that others can cut it."""

    def __init__(self) -> None:
        self.received = 0
        self._seen = 0
        self._since = time.monotonic()
        self._stream: Any = None

    @property
    def attached(self) -> bool:
        """Whether an answer is being read, and written down."""
        return self._stream is not None

    def attach(self, response: Any) -> None:
        self._stream = response.extensions.get("network_stream")
        self._since = time.monotonic()

    def cut_if_stalled(self, options: FetchOptions) -> None:
        now = time.monotonic()
        if now - self._since < options.stall_seconds:
            return
        if self._stream is not None and self.received - self._seen < options.stall_bytes:
            self.cut()
        self._seen, self._since = self.received, now

    def cut(self) -> None:
        """Close the socket under a blocked read, which then fails at once."""
        sock = self._stream.get_extra_info("socket") if self._stream is not None else None
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

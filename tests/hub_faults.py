"""What goes wrong between a Hub and its client: requests, answers, and the faults that damage answers on the way."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Origin = Literal["hub", "cdn"]
Kind = Literal[
    "status",  # `status` with `headers` and `body` instead of the answer
    "html",  # 200 and the login page of somebody's network (or `body`)
    "redirect",  # 302 to `url`, or another `status`
    "headers",  # `headers` replaced or added; None takes one away
    "refuse",  # the connection closed without a word
    "slow_headers",  # nothing for `seconds`, then the answer
    "cut",  # the connection closed after `after` bytes of the body
    "stall",  # `after` bytes of the body, nothing for `seconds`, then the rest
    "trickle",  # the body at `rate` bytes a second
    "flip",  # one bit inverted at `offset` of the file
    "extra",  # `body` behind the announced length, then the connection closed
    "gzip",  # Content-Encoding: gzip
    "ignore_range",  # 200 and the whole file where 206 was right
    "wrong_content_range",  # 206 that claims to start `by` bytes elsewhere
    "short_total",  # 206 that claims a file `by` bytes shorter
]
OF_BODIES = ("cut", "stall", "trickle", "flip", "extra", "gzip")
OF_RANGES = ("ignore_range", "wrong_content_range", "short_total")
LOGIN_PAGE = b"<!DOCTYPE html>\n<html><title>Sign in</title><body>Welcome to the guest network.</body></html>\n"
FOREVER = float("inf")


@dataclass(eq=False)
class Request:
    """One request, as it came in, and what was handed to the socket in answer."""

    origin: Origin
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    """0 as long as nothing was answered."""
    total: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held from before bytes go out until `total` counts them."""

    @property
    def sent(self) -> int:
        """Bytes of the body handed over, those a client already has among them."""
        held = self.lock.acquire(timeout=0.2)
        try:
            return self.total
        finally:
            if held:
                self.lock.release()


@dataclass(eq=False)
class Answer:
    """A status, headers, and the bytes start..stop of `data`; and how the delivery of all that goes wrong."""

    status: int
    headers: dict[str, str]
    data: bytes | Path = b""
    size: int = 0
    start: int = 0
    stop: int = 0
    refused: bool = False
    delay: float = 0
    rate: int | None = None
    cut: int | None = None
    stalls: dict[int, float] = field(default_factory=dict)
    flips: list[int] = field(default_factory=list)
    extra: bytes = b""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """A body that is all there."""
        return cls(status, {"Content-Length": str(len(body)), **headers}, body, len(body), 0, len(body))

    def set(self, name: str, value: str | None) -> None:
        """Replace or add a header, or take it away; upper and lower case are one."""
        self.headers = {known: old for known, old in self.headers.items() if known.lower() != name.lower()}
        if value is not None:
            self.headers[name] = value

    def serve(self, body: bytes | Path, size: int) -> None:
        """Another body, from its first byte to its last."""
        self.data, self.size, self.start, self.stop = body, size, 0, size
        self.set("Content-Length", str(size))
        self.set("Content-Range", None)

    def plain(self) -> bytes:
        """The body, in memory."""
        if isinstance(self.data, bytes):
            return self.data[self.start : self.stop]
        with self.data.open("rb") as file:
            file.seek(self.start)
            return file.read(self.stop - self.start)


@dataclass(eq=False, kw_only=True)
class Fault:
    """One thing that goes wrong, and with which requests.

    Only requests that the fault can hit are counted by `skip` and `times`: faults of a body want a GET with a body
    (longer than `after`, or with the byte `offset` in it), faults of a range want a 206. Faults that meet at one
    request all apply, in the order in which they were added.
    """

    kind: Kind
    origin: Origin | None = None
    method: str | None = None
    path: str = ""
    """Regular expression, searched in the path with its query. Addresses at the second origin name the file too."""
    skip: int = 0
    times: int | None = 1
    """How many requests are hit; None: all."""

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    url: str = ""
    after: int = 0
    offset: int = 0
    by: int = 1
    rate: int = 1024
    seconds: float = FOREVER
    """FOREVER ends with the Hub."""

    seen: int = 0
    hits: int = 0

    def strike(self, request: Request, answer: Answer) -> Answer:
        """The answer with this fault in it, if the request is one to hit."""
        if not self.fits(request, answer):
            return answer
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return answer
        self.hits += 1
        return self.damaged(answer)

    def fits(self, request: Request, answer: Answer) -> bool:
        """Whether the fault is about this request, and the answer has what it damages."""
        if self.origin not in (None, request.origin) or self.method not in (None, request.method):
            return False
        if not re.search(self.path, request.path):
            return False
        if self.kind in OF_RANGES:
            return answer.status == 206
        if self.kind in OF_BODIES and request.method == "HEAD":
            return False
        if self.kind == "flip":
            return answer.start <= self.offset < answer.stop
        return self.kind not in OF_BODIES or answer.stop - answer.start > self.after

    def damaged(self, answer: Answer) -> Answer:
        match self.kind:
            case "status":
                answer = Answer.of(self.status or 503, {"Content-Type": "text/plain"}, self.body or b"")
            case "html":
                body = LOGIN_PAGE if self.body is None else self.body
                answer = Answer.of(self.status or 200, {"Content-Type": "text/html; charset=utf-8"}, body)
            case "redirect":
                answer = Answer.of(self.status or 302, {"Location": self.url}, self.body or b"")
            case "refuse":
                answer.refused = True
            case "slow_headers":
                answer.delay += self.seconds
            case "cut":
                answer.cut = self.after
            case "stall":
                answer.stalls[self.after] = self.seconds
            case "trickle":
                answer.rate = self.rate
            case "flip":
                answer.flips.append(self.offset)
            case "extra":
                answer.extra += b"\0extra" if self.body is None else self.body
            case "gzip":
                packed = gzip.compress(answer.plain(), 1)
                claimed = answer.headers.get("Content-Range")
                answer.serve(packed, len(packed))
                answer.set("Content-Range", claimed)
                answer.set("Content-Encoding", "gzip")
            case "ignore_range":
                answer.status = 200
                answer.serve(answer.data, answer.size)
            case "wrong_content_range":
                start = answer.start - self.by if answer.start >= self.by else answer.start + self.by
                end = start + answer.stop - answer.start - 1
                answer.set("Content-Range", f"bytes {start}-{end}/{answer.size}")
            case "short_total":
                total = answer.size - self.by
                answer.set("Content-Range", f"bytes {answer.start}-{answer.stop - 1}/{total}")
        for name, value in self.headers.items():
            answer.set(name, value)
        return answer

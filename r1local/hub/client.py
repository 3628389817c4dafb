"""Requests to a Hub: every redirect looked at, every failure either worth another try or one clear sentence."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from r1local.errors import DownloadError, R1Error, UnsafeServer, UsageError
from r1local.hub.hosts import Hosts, through_proxy

_Result = TypeVar("_Result")

_MAX_REDIRECTS = 5
_MAX_JSON = 64 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
# What a server says when another try may do: it is busy, restarting, or limits the rate.
_PASSING = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
_NUMBER = re.compile(r"[0-9]{1,18}")
LONGEST_WAIT = 300.0
"""Seconds. A server that wants a longer pause gets an error in place of patience."""


class Passing(Exception):
    """Something went wrong that may go better next time. `wait` is what the server asked for, in seconds."""

    def __init__(self, error: R1Error, wait: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait = wait


class Client:
    """A pool of connections for one Hub. Threads may share it."""

    def __init__(self, hosts: Hosts, *, user_agent: str, timeout: float = 30.0, connections: int = 8) -> None:
        self.hosts = hosts
        try:
            self._http = httpx2.Client(
                follow_redirects=False,
                timeout=httpx2.Timeout(timeout, connect=min(timeout, 15.0)),
                limits=httpx2.Limits(max_connections=connections + 2, max_keepalive_connections=connections + 2),
                headers={"user-agent": user_agent, "accept-encoding": "identity"},
            )
        except (ValueError, ImportError, OSError, httpx2.InvalidURL) as error:
            # A proxy or a certificate file of the environment cannot be used.
            raise UsageError(
                f"The network settings of this environment cannot be used: {error}.",
                "Look at HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR.",
            ) from error

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def open(
        self, method: str, url: str, headers: dict[str, str] | None = None, *, timeout: float | None = None
    ) -> Iterator[httpx2.Response]:
        """The answer to a request after its redirects, body unread. `response.url` is where it came from.

        timeout: seconds to wait for every next byte, where it differs from the client's.
        Raises Passing for what another try may mend and UnsafeServer. A status is for the caller to judge.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(method, url, headers or {}, timeout)
            try:
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    try:
                        yield response
                    except httpx2.RequestError as error:
                        raise Passing(explain(error, url)) from error
                    return
                target = self.hosts.target(url, response.headers["location"])
            finally:
                response.close()
            url = target
        raise UnsafeServer(f"{self.hosts.name} redirects in a circle.", "Try again later, or another --endpoint.")

    def head(self, url: str) -> httpx2.Response:
        """The answer to HEAD, not followed when it redirects to another host: the facts are on the redirect itself."""
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send("HEAD", url, {}, None)
            response.close()
            location = response.headers.get("location", "") if response.status_code in _REDIRECTS else ""
            # A renamed repository is a redirect on the Hub, with nothing about the file on it.
            if not location or "x-linked-etag" in response.headers or "etag" in response.headers:
                return response
            url = self.hosts.target(url, location)
        raise UnsafeServer(f"{self.hosts.name} redirects in a circle.", "Try again later, or another --endpoint.")

    def json(self, url: str) -> tuple[Any, httpx2.Response]:
        """The document at `url`; None in place of it when the status says there is none."""
        with self.open("GET", url, {"accept": "application/json"}) as response:
            raise_if_passing(response)
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _MAX_JSON:
                    raise DownloadError(f"{self.hosts.name} answers without end.", "Try again later.")
            if response.status_code != 200:
                return None, response
        try:
            return json.loads(body.decode("utf-8")), response
        except (ValueError, RecursionError):
            raise DownloadError(
                f"{self.hosts.name} does not answer as a Hub does: this is not JSON.",
                "A login page of the network may stand between; open a web page once, or check --endpoint.",
            ) from None

    def _send(self, method: str, url: str, headers: dict[str, str], timeout: float | None) -> httpx2.Response:
        """The answer of this one address, body unread, if it may be asked at all. The caller closes it."""
        self.hosts.check(url)
        try:
            request = self._http.build_request(
                method,
                url,
                headers={**headers, **self.hosts.headers(url)},
                timeout=self._http.timeout if timeout is None else timeout,
            )
            response = self._http.send(request, stream=True)
        except (httpx2.RequestError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise Passing(explain(error, url)) from error
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if peer:
            try:
                self.hosts.check_peer(str(response.url), str(peer[0]))
            except UnsafeServer:
                response.close()
                raise
        return response


def raise_if_passing(response: httpx2.Response) -> None:
    """Raises Passing for a status that another try may mend."""
    if response.status_code not in _PASSING:
        return
    host = response.url.host
    wait = retry_after(response.headers)
    asked = f" It asks to wait {wait:,.0f} s." if wait > LONGEST_WAIT else ""
    if response.status_code == 429:
        error = DownloadError(
            f"{host} limits how much may be asked of it (429).{asked}",
            "Wait some minutes; logging in raises the limit.",
        )
    else:
        error = DownloadError(f"{host} has trouble of its own ({response.status_code}).{asked}", "Try again later.")
    raise Passing(error, wait)


def retry_after(headers: httpx2.Headers) -> float:
    """The seconds a server asks to wait, by Retry-After in either of its forms or the rate limit headers; else 0."""
    value = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(value):
        return float(value)
    if value:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return 0.0
    # draft-ietf-httpapi-ratelimit-headers: "api";r=0;t=55
    for part in headers.get("ratelimit", "").split(";"):
        name, _, number = part.strip().partition("=")
        if name == "t" and _NUMBER.fullmatch(number):
            return float(number)
    return 0.0


def patiently(
    call: Callable[[], _Result],
    *,
    attempts: int = 4,
    first_wait: float = 0.5,
    on_wait: Callable[[float, str], None] | None = None,
    cancel: threading.Event | None = None,
) -> _Result:
    """`call`, tried again after what may pass, with growing pauses. Raises the last error's sentence."""
    for attempt in range(attempts):
        try:
            return call()
        except Passing as passing:
            if attempt == attempts - 1 or passing.wait > LONGEST_WAIT:
                raise passing.error from passing
            pause(passing, attempt, first_wait, on_wait, cancel)
            if cancel is not None and cancel.is_set():
                raise KeyboardInterrupt from passing
    raise AssertionError("unreachable")


def pause(
    passing: Passing,
    attempt: int,
    first_wait: float,
    on_wait: Callable[[float, str], None] | None,
    cancel: threading.Event | None,
) -> None:
    """Wait as long as the server asked, else twice as long each time, up to half a minute, a little at random."""
    wait = passing.wait or min(30.0, first_wait * 2**attempt) * (0.75 + random.random() / 2)
    if on_wait is not None and wait >= 0.2:
        on_wait(wait, passing.error.message)
    if cancel is not None:
        cancel.wait(wait)
    else:
        time.sleep(wait)


def explain(error: Exception, url: str) -> DownloadError:
    """One sentence for what kept a request from being answered."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    text = str(error)
    low = text.lower()
    if isinstance(error, httpx2.ProxyError):
        return DownloadError(f"The proxy refuses: {text}.", "Check HTTPS_PROXY, or set NO_PROXY.")
    if "certificate" in low or "ssl" in low:
        return DownloadError(
            f"The encryption with {host} cannot be trusted: {text}.",
            "Check the clock; behind a proxy that opens TLS, put its certificate into SSL_CERT_FILE.",
        )
    if any(words in low for words in ("name or service", "getaddrinfo", "nodename", "name resolution", "no address")):
        return DownloadError(
            f"There is no way to {host}: its name is not known here. Is this machine online?",
            "With a mirror, use --endpoint; models that are here work offline.",
        )
    if isinstance(error, httpx2.TimeoutException):
        return DownloadError(f"{host} does not answer.", "Try again, or another --endpoint.")
    if isinstance(error, httpx2.RemoteProtocolError):
        return DownloadError(f"{host} broke off in the middle.", "Try again.")
    if isinstance(error, httpx2.ConnectError) or "refused" in low:
        if through_proxy(urlsplit(url).scheme, urlsplit(url).hostname or ""):
            return DownloadError(
                f"The proxy on the way to {host} cannot be reached: {text}.", "Check HTTPS_PROXY, or set NO_PROXY."
            )
        return DownloadError(f"{host} cannot be reached: {text}.", "Check the network, HTTPS_PROXY and --endpoint.")
    return DownloadError(f"The connection to {host} failed: {text or type(error).__name__}.", "Try again.")

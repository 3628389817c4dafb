"""Requests to a Hub: redirects, patience, and what a failing network is told as."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from r1local.errors import DownloadError, ExitCode, R1Error, UnsafeServer, UsageError
from r1local.hub import client as client_module
from r1local.hub.client import LONGEST_WAIT, Client, patiently, retry_after
from r1local.hub.hosts import Hosts
from tests.hub import Fault, Hub

TOKEN = "hf_secret"
REPO = "someone/Some-Model-GGUF"
WEIGHTS = b"GGUF" * 1000

pytestmark = pytest.mark.usefixtures("no_network_settings")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.accept_token(TOKEN)
        hub.add(REPO, {"m-Q4_0.gguf": WEIGHTS, "config.json": b"{}"})
        yield hub


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted and not made, and nothing is at random."""
    pauses: list[float] = []
    monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=pauses.append, time=time.time))
    monkeypatch.setattr(client_module, "random", SimpleNamespace(random=lambda: 0.5))
    return pauses


def connect(endpoint: str, token: str = "", timeout: float = 5) -> Client:
    return Client(Hosts(endpoint, token), user_agent="test", timeout=timeout)


def weights(hub: Hub) -> str:
    return f"{hub.endpoint}/{REPO}/resolve/main/m-Q4_0.gguf"


def info(hub: Hub) -> str:
    return f"{hub.endpoint}/api/models/{REPO}"


def failure(call: Callable[[], object]) -> R1Error:
    """What a person is told: one sentence and what to do, and nothing of the token."""
    with pytest.raises(DownloadError) as caught:
        patiently(call, attempts=1)
    error = caught.value
    assert error.message.endswith((".", "?"))
    assert "\n" not in error.message
    assert "Traceback" not in error.message
    assert len(error.message) < 250
    assert error.hint
    assert TOKEN not in error.message + error.hint + repr(error)
    assert error.exit_code == ExitCode.DOWNLOAD
    return error


def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_the_token_stays_with_the_hub_when_a_file_is_elsewhere(hub: Hub) -> None:
    with connect(hub.endpoint, TOKEN) as client:
        with client.open("GET", weights(hub)) as response:
            assert (response.read(), response.url.port) == (WEIGHTS, int(hub.cdn.rpartition(":")[2]))
        hub.fault(Fault(kind="headers", method="HEAD", origin="hub", headers={"ETag": None, "X-Linked-Etag": None}))
        assert client.head(weights(hub)).url.port == int(hub.cdn.rpartition(":")[2])
        hub.fault(Fault(kind="redirect", origin="hub", url=f"{hub.cdn}/elsewhere?a=1"))
        client.json(info(hub))
    seen = {(request.method, request.origin, request.headers.get("authorization")) for request in hub.log}
    pairs = [("hub", f"Bearer {TOKEN}"), ("cdn", None)]
    assert seen == {(method, *pair) for method in ("GET", "HEAD") for pair in pairs}


def test_a_redirect_on_the_hub_keeps_the_token(hub: Hub) -> None:
    hub.add("someone/private", {"x.gguf": b"x"}, private=True)
    hub.accept_token(TOKEN, ["someone/private"])
    hub.fault(Fault(kind="redirect", status=307, path="old-name", times=2, url="/api/models/someone/private"))
    with connect(hub.endpoint, TOKEN) as client:
        data, _ = client.json(f"{hub.endpoint}/api/models/someone/old-name")
        assert data["id"] == "someone/private"
        assert client.head(f"{hub.endpoint}/api/models/someone/old-name").status_code == 200


def test_head_stops_where_the_facts_are(hub: Hub) -> None:
    with connect(hub.endpoint) as client:
        response = client.head(weights(hub))
    assert (response.status_code, response.headers["x-linked-size"], len(hub.log)) == (302, "4000", 1)


def test_redirects_in_a_circle_end(hub: Hub) -> None:
    hub.fault(Fault(kind="redirect", times=None, url=f"{hub.endpoint}/round"))
    with connect(hub.endpoint) as client:
        assert "circle" in failure(lambda: client.json(info(hub))).message
        assert len(hub.log) <= 10
        assert "circle" in failure(lambda: client.head(info(hub))).message


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://u:p@127.0.0.1/x", "javascript:1"])
def test_redirects_that_are_not_followed(hub: Hub, url: str) -> None:
    hub.fault(Fault(kind="redirect", times=None, url=url))
    with connect(hub.endpoint, TOKEN) as client:
        assert isinstance(failure(lambda: client.json(info(hub))), UnsafeServer)
        assert isinstance(failure(lambda: client.head(info(hub))), UnsafeServer)


@pytest.mark.parametrize("url", ["http://[::1/x", "//[", "http://[bad]/", "http://\u2100/"], ids=ascii)
def test_redirects_to_addresses_that_cannot_be_read(hub: Hub, url: str) -> None:
    hub.fault(Fault(kind="redirect", times=None, url=url))
    with connect(hub.endpoint) as client:
        failure(lambda: client.json(info(hub)))


NOWHERE = ["http://127.0.0.1:abc/", "http://127.0.0.1:99999/", "/\x01", "x" * 70_000]


@pytest.mark.parametrize("url", NOWHERE, ids=lambda url: ascii(url)[:30])
def test_redirects_that_lead_nowhere(hub: Hub, url: str) -> None:
    hub.fault(Fault(kind="redirect", times=None, url=url))
    with connect(hub.endpoint) as client:
        failure(lambda: client.json(info(hub)))


def test_a_public_hub_is_not_followed_to_this_machine(hub: Hub) -> None:
    """The stand-in plays a public Hub; what it redirects to, and what a name turns out to be, stays untouched."""
    with connect(hub.endpoint, TOKEN) as client:
        client.hosts._local = False
        with pytest.raises(UnsafeServer, match="private"):
            client.json(info(hub))  # the connection itself ended up on this machine
        client.hosts.check_peer = lambda *_: None  # type: ignore[method-assign]
        with pytest.raises(UnsafeServer, match="without encryption"), client.open("GET", weights(hub)):
            pass
    assert {request.origin for request in hub.log} == {"hub"}


def test_the_address_of_the_connection_is_looked_at_for_head(hub: Hub) -> None:
    with connect(hub.endpoint, TOKEN) as client:
        client.hosts._local = False
        with pytest.raises(UnsafeServer):
            client.head(weights(hub))


# Another try


@pytest.mark.parametrize(
    ("status", "headers", "pauses"),
    [
        (503, {}, [0.5, 1.0, 2.0]),
        (429, {"Retry-After": "7"}, [7.0, 7.0, 7.0]),
        (502, {"Retry-After": "0"}, [0.5, 1.0, 2.0]),
        (429, {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, [55.0] * 3),
    ],
)
def test_what_passes_is_tried_again(hub: Hub, slept: list[float], status: int, headers: Any, pauses: Any) -> None:
    hub.fault(Fault(kind="status", status=status, headers=headers, times=3))
    waits: list[tuple[float, str]] = []
    with connect(hub.endpoint) as client:
        data, _ = patiently(lambda: client.json(info(hub)), on_wait=lambda *wait: waits.append(wait))
    assert (data["id"], slept, [seconds for seconds, _ in waits]) == (REPO, pauses, pauses)
    assert all(str(status) in why for _, why in waits)


def test_a_date_to_come_back_at_is_kept(hub: Hub, slept: list[float]) -> None:
    for skip, seconds in ((0, 60), (1, -60)):
        when = formatdate(time.time() + seconds, usegmt=True)
        hub.fault(Fault(kind="status", status=503, headers={"Retry-After": when}, skip=skip))
    with connect(hub.endpoint) as client:
        patiently(lambda: client.json(info(hub)))
    assert 57 < slept[0] <= 60
    assert slept[1:] == [1.0]


def test_patience_ends(hub: Hub, slept: list[float]) -> None:
    fault = hub.fault(Fault(kind="status", status=503, times=None))
    with connect(hub.endpoint) as client:
        with pytest.raises(DownloadError, match="503"):
            patiently(lambda: client.json(info(hub)), attempts=3)
        assert (fault.hits, slept) == (3, [0.5, 1.0])
        fault.headers = {"Retry-After": str(int(LONGEST_WAIT) + 1)}
        with pytest.raises(DownloadError, match="503"):
            patiently(lambda: client.json(info(hub)))
    assert (fault.hits, slept) == (4, [0.5, 1.0])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_what_stays_is_asked_once(hub: Hub, slept: list[float], status: int) -> None:
    hub.fault(Fault(kind="status", status=status, times=None))
    with connect(hub.endpoint) as client:
        data, response = patiently(lambda: client.json(info(hub)))
    assert (data, response.status_code, len(hub.log), slept) == (None, status, 1, [])


NO_PAUSES = [
    "", "x", "-5", "1e9", "nan", "inf", "9" * 400, "Wed, 31 Feb 2099 07:28:00 GMT",
    "Mon, 1 Jan 0001 00:00:00 +2359", "1 1 1 1:1:1 +99999999999",
    *(odd for odd in ("\u00b2", "5\u00b3")),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_PAUSES, ids=lambda value: ascii(value)[:30])
def test_pauses_that_are_none(value: str) -> None:
    for headers in ({"retry-after": value}, {"ratelimit": f'"api";r=0;t={value}'}):
        wait = retry_after(httpx2.Headers([(key, text.encode("latin-1")) for key, text in headers.items()]))
        assert 0 <= wait < 10**9 + 1


# One sentence


def test_a_server_that_is_not_there() -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    with connect(endpoint, TOKEN) as client:
        error = failure(lambda: client.json(f"{endpoint}/x"))
    assert endpoint.removeprefix("http://") in error.message


NOT_KNOWN = [
    (-2, "Name or service not known"), (-3, "Temporary failure in name resolution"), (11001, "getaddrinfo failed"),
    (-5, "No address associated with hostname"), (8, "nodename nor servname provided, or not known"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "words"), NOT_KNOWN)
def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(number, words)

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with connect("https://hub.invalid", TOKEN) as client:
        error = failure(lambda: client.json("https://hub.invalid/x"))
    assert "hub.invalid" in error.message
    assert "online" in error.message


def test_encryption_with_who_does_not_know_it(hub: Hub) -> None:
    endpoint = hub.endpoint.replace("http:", "https:")
    with connect(endpoint, TOKEN) as client:
        assert "encryption" in failure(lambda: client.json(f"{endpoint}/x")).message
    assert hub.log == []


def test_proxies_that_do_not_work(hub: Hub, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    with connect(hub.endpoint, TOKEN) as client:
        assert "PROXY" in failure(lambda: client.json(info(hub))).hint
    monkeypatch.setenv("HTTPS_PROXY", hub.endpoint)  # which knows no CONNECT
    with connect("https://hub.example", TOKEN) as client:
        error = failure(lambda: client.json("https://hub.example/x"))
    assert ("proxy" in error.message, "PROXY" in error.hint, hub.log) == (True, True, [])


def test_a_server_that_says_nothing_or_breaks_off(hub: Hub) -> None:
    hub.fault(Fault(kind="slow_headers"))
    hub.fault(Fault(kind="refuse", skip=1))
    hub.fault(Fault(kind="cut", skip=2, after=20))
    with connect(hub.endpoint, timeout=0.3) as client:
        for words in ("does not answer", "broke off", "broke off"):
            assert words in failure(lambda: client.json(info(hub))).message


def test_what_is_not_json(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(hub.endpoint) as client:
        hub.fault(Fault(kind="html"))
        assert "login page" in failure(lambda: client.json(info(hub))).hint
        for body in (b"", b"\xff\xfe", b"{", b"[" * 200_000, b"1" * 5000):
            hub.fault(Fault(kind="html", body=body))
            failure(lambda: client.json(info(hub)))
        monkeypatch.setattr(client_module, "_MAX_JSON", 100_000)
        for body, headers in ((b"[" + b"1," * 10**6, {}), (gzip.compress(b" " * 10**6), {"Content-Encoding": "gzip"})):
            hub.fault(Fault(kind="status", status=200, body=body, headers=headers))
            assert "without end" in failure(lambda: client.json(info(hub))).message


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_is_not_packed_as_it_says(hub: Hub, coding: str) -> None:
    hub.fault(Fault(kind="headers", headers={"Content-Encoding": coding}))
    with connect(hub.endpoint) as client:
        failure(lambda: client.json(info(hub)))


def test_a_token_that_cannot_be_sent_is_not_shown(hub: Hub) -> None:
    for token in (f"{TOKEN}\n{TOKEN}", f"{TOKEN}é", f"{TOKEN}\0", f"{TOKEN} x"):
        with pytest.raises(UsageError) as error:
            connect(hub.endpoint, token)
        assert TOKEN not in error.value.message + error.value.hint


NO_SETTINGS = [
    ("ALL_PROXY", "foo://127.0.0.1:1080"), ("HTTPS_PROXY", "foo://x"), ("HTTPS_PROXY", "http://[::1"),
    ("SSL_CERT_FILE", "/does/not/exist"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), NO_SETTINGS)
def test_settings_of_the_environment_that_cannot_be(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(R1Error) as error:
        connect("https://hub.example").close()
    assert name in str(error.value.message) + error.value.hint

"""Whom a download may talk to, who gets the token, and what a failing network is told as."""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from r1local.errors import DownloadError, ExitCode, R1Error, UnsafeServer, UsageError
from r1local.hub import client as client_module
from r1local.hub import hosts as hosts_module
from r1local.hub.client import LONGEST_WAIT, Client, patiently, retry_after
from r1local.hub.hosts import Hosts, configured_endpoint, configured_token
from tests.hub import Fault, Hub

TOKEN = "hf_secret"
REPO = "someone/Some-Model-GGUF"
WEIGHTS = b"GGUF" * 1000
NAMES = {
    "hub.example": ["18.244.0.1"],
    "cdn.example": ["2600:9000::1", "18.244.0.2"],
    "localhost": ["::1", "127.0.0.1"],
    "router.example": ["192.168.1.1"],
    "half.example": ["18.244.0.3", "10.0.0.1"],
    "tunnel.example": ["198.18.0.7"],
    "nas.example": ["10.0.0.9"],
}


def broken(value: object, reason: str, raises: type[Exception] | None = None) -> Any:
    """A case that fails today."""
    return pytest.param(value, marks=pytest.mark.xfail(strict=True, reason=reason, raises=raises))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine: no proxies, no token, no endpoint."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names resolve as NAMES says, for r1local alone; numbers as the system reads them. The names asked for."""
    names: list[str] = []

    def resolve(host: str, port: Any, **options: Any) -> list[tuple[Any, ...]]:
        names.append(host)
        if host in NAMES:
            return [(0, 0, 0, "", (address, 0)) for address in NAMES[host]]
        return socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST, **options)

    monkeypatch.setattr(hosts_module, "socket", SimpleNamespace(getaddrinfo=resolve, SOCK_STREAM=socket.SOCK_STREAM))
    return names


# Hosts


@pytest.mark.parametrize("url", ["https://hub.example/x", "https://hub.example:443/x", "https://HUB.Example/x?y#z"])
def test_the_hub_itself_gets_the_token(asked: list[str], url: str) -> None:
    hosts = Hosts("https://hub.example", TOKEN)
    hosts.check(url)
    assert hosts.headers(url) == {"authorization": f"Bearer {TOKEN}"}


NOT_THE_HUB = [
    "https://hub.example:444/x", "https://hub.example:abc/x", "http://hub.example/x", "http://hub.example:443/x",
    "https://hub.example./x", "https://hub.example.evil/x", "https://cdn.example/hub.example", "https:///x", "",
    "https://hub.example@cdn.example/x", "https://hub.example:443@cdn.example/x", "http://hub@evil/x",
    "https://cdn.example#@hub.example/x", "https://cdn.example?@hub.example/x", "//hub.example/x",
    "https://hub.example\\@cdn.example/x", "ftp://hub.example/x",
    broken("https://hub.example:0/x", "port 0 counts as none"),
]  # fmt: skip


@pytest.mark.parametrize("url", NOT_THE_HUB)
def test_nobody_else_gets_the_token(asked: list[str], url: str) -> None:
    assert Hosts("https://hub.example", TOKEN).headers(url) == {}


PIECES = [
    "https:",
    "//",
    "/",
    "\\",
    "@",
    "18.244.0.1",
    "18.244",
    ":443",
    ":444",
    "evil",
    "#",
    "?",
    "\t",
    "%00",
    "[",
    "]",
    ".",
]


@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
def test_who_gets_the_token_is_the_hub_also_for_the_http_library(rest: str) -> None:
    """Two readers of one address must not differ where the token goes."""
    try:
        url = httpx2.URL(f"https://{rest}")
        headers = Hosts("https://18.244.0.1", TOKEN).headers(f"https://{rest}")
    except (httpx2.InvalidURL, ValueError):
        return
    if headers:
        assert (url.scheme, url.host, url.port) == ("https", "18.244.0.1", None)


def test_the_token_is_never_sent_in_the_clear(asked: list[str]) -> None:
    for inside in ("http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"):
        assert Hosts(inside, TOKEN).headers(f"{inside}/x") == {"authorization": f"Bearer {TOKEN}"}
    for over_the_wire in ("http://192.168.1.5", "http://nas.example:8080", "http://half.example"):
        hosts = Hosts(over_the_wire, TOKEN)
        assert (hosts.has_token, hosts.headers(f"{over_the_wire}/x")) == (False, {})
    for encrypted in ("https://hub.example", "https://nas.example"):
        assert Hosts(encrypted, TOKEN).has_token


@pytest.mark.parametrize("endpoint", ["http://hub.example", "http://8.8.8.8:80/mirror", "http://tunnel.example"])
def test_a_public_hub_without_encryption_is_refused(asked: list[str], endpoint: str) -> None:
    with pytest.raises(UsageError, match="without encryption") as error:
        Hosts(endpoint)
    assert endpoint.replace("http:", "https:") in error.value.hint


NO_ENDPOINT = [
    "", "hub.example", "ftp://hub.example", "https://", "https://me@hub.example", "https://hub.example?x=1",
    "https://hub.example/#x", "file:///x",
    *(broken(odd, "taken, or a ValueError") for odd in (
        "https://[::1", "https://hub.example:abc", "https://:word@hub.example", "https://hub.example:99999",
        "https://hub.example/?", "https://hub.example\n",
    )),
]  # fmt: skip


@pytest.mark.parametrize("endpoint", NO_ENDPOINT)
def test_what_is_no_endpoint(asked: list[str], endpoint: str) -> None:
    with pytest.raises(UsageError) as error:
        Hosts(endpoint)
    assert error.value.hint


INSIDE = [
    "127.0.0.1", "127.8.9.1", "localhost", "router.example", "half.example", "10.0.0.1", "172.16.5.4", "192.168.0.1",
    "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fe80::1]",
    "[fe80::1%25eth0]", "[fd00:ec2::254]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::FFFF:A9FE:A9FE]",
    "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "0",
]  # fmt: skip
EMBEDDED = [
    "[64:ff9b::a9fe:a9fe]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "[::ffff:0:10.0.0.1]", "[fec0::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE + [broken(host, "an IPv4 address in an IPv6 one") for host in EMBEDDED])
def test_a_public_hub_may_not_send_us_inside(asked: list[str], host: str) -> None:
    with pytest.raises(UnsafeServer, match="private network") as error:
        Hosts("https://hub.example").check(f"https://{host}:8443/latest/meta-data")
    assert error.value.exit_code == ExitCode.DOWNLOAD
    for own in ("https://nas.example", "http://localhost:5000"):
        Hosts(own).check(f"https://{host}/x")  # as the Hub was configured to be inside itself
    Hosts("http://localhost:5000").check(f"http://{host}/x")


OUTSIDE = [
    "cdn.example", "18.244.0.9", "[2600:9000::5]", "198.18.0.1", "198.19.255.254", "tunnel.example",
    "[::ffff:18.244.0.9]",
]  # fmt: skip


@pytest.mark.parametrize("host", OUTSIDE)
def test_a_public_hub_may_send_us_into_the_internet_with_encryption_only(asked: list[str], host: str) -> None:
    hosts = Hosts("https://hub.example", TOKEN)
    hosts.check(f"https://{host}/x")
    hosts.check_peer(f"https://{host}/x", "198.18.0.1")
    with pytest.raises(UnsafeServer, match="without encryption"):
        hosts.check(f"http://{host}/x")


NO_ADDRESS = [
    "ftp://cdn.example/x", "file:///etc/passwd", "gopher://cdn.example", "https:///x", "cdn.example", "",
    "https://u@cdn.example/", "https://u:p@hub.example/",
    *(broken(url, "urlsplit raises", ValueError) for url in ("https://[::1/x", "https://[bad]/x", "https://\u2100/x")),
]  # fmt: skip


@pytest.mark.parametrize("url", NO_ADDRESS, ids=ascii)
def test_redirects_to_what_is_no_web_address(asked: list[str], url: str) -> None:
    for endpoint in ("https://hub.example", "http://localhost:5000"):
        with pytest.raises(UnsafeServer):
            Hosts(endpoint).check(url)


def test_a_name_that_changed_its_address_is_noticed_at_the_connection(asked: list[str]) -> None:
    hosts = Hosts("https://hub.example")
    hosts.check("https://cdn.example/x")
    for address in ("127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0"):
        with pytest.raises(UnsafeServer, match="private network"):
            hosts.check_peer("https://cdn.example/x", address)
    Hosts("http://localhost:5000").check_peer("https://cdn.example/x", "127.0.0.1")


def test_a_proxy_resolves_names_itself(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts("https://hub.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://10.1.1.1:3128")
    monkeypatch.setenv("NO_PROXY", "router.example")
    asked.clear()
    hosts.check("https://only-the-proxy-knows.example/x")
    hosts.check_peer("https://only-the-proxy-knows.example/x", "10.1.1.1")
    assert asked == []
    for url in ("https://router.example/x", "https://169.254.169.254/x"):
        with pytest.raises(UnsafeServer):
            hosts.check(url)


def test_the_endpoint_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured_endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert configured_endpoint() == "https://mirror.example"
    assert configured_endpoint("https://given.example") == "https://given.example"
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert configured_endpoint() == "https://huggingface.co"


def test_the_token_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    public, mirror = "https://huggingface.co", "https://mirror.example"
    assert configured_token(public) == ""
    Path(constants.HF_TOKEN_PATH).write_text("hf_saved\n")
    assert configured_token(public) == "hf_saved"
    for other in (
        mirror,
        "http://huggingface.co",
        "https://huggingface.co:8443",
        "https://huggingface.co.evil.example",
    ):
        assert configured_token(other) == ""
    monkeypatch.setenv("HF_TOKEN", " hf_environment\n")
    assert [configured_token(endpoint) for endpoint in (public, mirror)] == ["hf_environment"] * 2
    assert configured_token(public, "hf_given") == "hf_given"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert [configured_token(public), configured_token(public, "hf_given")] == ["", "hf_given"]


# The client


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
    assert seen == {
        (method, *who) for method in ("GET", "HEAD") for who in (("hub", f"Bearer {TOKEN}"), ("cdn", None))
    }  # fmt: skip


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


@pytest.mark.xfail(strict=True, raises=ValueError, reason="urljoin and urlsplit raise ValueError outside the try")
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


@pytest.mark.xfail(strict=True, reason="head() does not look at the address it was connected to")
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
    *(broken(odd, "is a digit, and no number", ValueError) for odd in ("\u00b2", "5\u00b3")),
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


@pytest.mark.xfail(strict=True, raises=httpx2.DecodingError, reason="no TransportError, so it is not caught")
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_is_not_packed_as_it_says(hub: Hub, coding: str) -> None:
    hub.fault(Fault(kind="headers", headers={"Content-Encoding": coding}))
    with connect(hub.endpoint) as client:
        failure(lambda: client.json(info(hub)))


@pytest.mark.xfail(strict=True, reason="the HTTP library quotes the header it refuses")
def test_a_token_that_cannot_be_sent_is_not_shown(hub: Hub) -> None:
    with connect(hub.endpoint, f"{TOKEN}\n{TOKEN}") as client:
        failure(lambda: client.json(info(hub)))


NO_SETTINGS = [
    ("ALL_PROXY", "socks5h://127.0.0.1:1080"), ("HTTPS_PROXY", "foo://x"), ("HTTPS_PROXY", "http://[::1"),
    ("SSL_CERT_FILE", "/does/not/exist"),
]  # fmt: skip


@pytest.mark.xfail(strict=True, reason="the HTTP library raises what it likes")
@pytest.mark.parametrize(("name", "value"), NO_SETTINGS)
def test_settings_of_the_environment_that_cannot_be(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(R1Error) as error:
        connect("https://hub.example").close()
    assert name in str(error.value.message) + error.value.hint

"""Whom a download may talk to, and who gets the token."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from r1local.errors import ExitCode, UnsafeServer, UsageError
from r1local.hub.hosts import Hosts, configured_endpoint, configured_token

TOKEN = "hf_secret"
REPO = "someone/Some-Model-GGUF"
WEIGHTS = b"GGUF" * 1000

pytestmark = pytest.mark.usefixtures("no_network_settings")


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
    "https://hub.example:0/x",
]  # fmt: skip


@pytest.mark.parametrize("url", NOT_THE_HUB)
def test_nobody_else_gets_the_token(asked: list[str], url: str) -> None:
    assert Hosts("https://hub.example", TOKEN).headers(url) == {}


PIECES = [
    "https:", "//", "/", "\\", "@", "18.244.0.1", "18.244", ":443", ":444", "evil", "#", "?", "\t", "%00", "[",
    "]", ".",
]  # fmt: skip


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
    *(odd for odd in (
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


@pytest.mark.parametrize("host", INSIDE + list(EMBEDDED))
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
    *(url for url in ("https://[::1/x", "https://[bad]/x", "https://\u2100/x")),
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
    for other in (mirror, "http://huggingface.co", f"{public}:8443", f"{public}.evil.example"):
        assert configured_token(other) == ""
    monkeypatch.setenv("HF_TOKEN", " hf_environment\n")
    assert [configured_token(endpoint) for endpoint in (public, mirror)] == ["hf_environment"] * 2
    assert configured_token(public, "hf_given") == "hf_given"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert [configured_token(public), configured_token(public, "hf_given")] == ["", "hf_given"]

"""Whom a download may talk to, and who gets the token."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from urllib.parse import urljoin, urlsplit

from r1local.errors import UnsafeServer, UsageError

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Not routed on the internet, but what VPN programs answer for every name while they tunnel it (RFC 2544 range).
_TUNNEL_RANGE = ipaddress.ip_network("198.18.0.0/15")
# IPv6 addresses whose last four bytes are an IPv4 address: NAT64 (RFC 6052), IPv4-compatible and -translated.
_CARRY_IPV4 = tuple(ipaddress.ip_network(network) for network in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96"))
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Hosts:
    """One Hub, and the rule for every address that a request of ours is sent to.

    The Hub may redirect to other hosts, as it does for large files. Those get no token, must speak TLS where the Hub
    does, and must lie on the internet unless the Hub itself was configured to be on this machine or in this network:
    a redirect is no way to reach a router's page or a cloud's metadata.
    """

    def __init__(self, endpoint: str, token: str = "") -> None:
        try:
            parts = urlsplit(endpoint)
            host = parts.hostname or ""
            sound = parts.port != 0 and parts.scheme in _DEFAULT_PORTS and bool(host)
        except ValueError:
            sound = False
        if not sound or not endpoint.isprintable() or any(character in endpoint for character in " @?#\\"):
            shown = endpoint.rpartition("@")[2]  # what stands before it may be a password
            raise UsageError(f"{shown!r} is no address of a Hub.", "Give it like https://huggingface.co")
        self.endpoint = endpoint.rstrip("/")
        self._origin = origin(endpoint)
        self._local = any(not _on_the_internet(address) for address in _addresses(host))
        loopback = _is_loopback(host)
        if parts.scheme == "http" and not self._local:
            raise UsageError(
                f"{endpoint} would be talked to without encryption.", f"Use https://{parts.netloc}{parts.path}"
            )
        token = token.strip()
        if token and not _TOKEN.fullmatch(token):
            raise UsageError("The token holds characters that no token has.", "Look at HF_TOKEN, or `hf auth login`.")
        # Without TLS a token is readable on the way; inside this machine there is no way.
        self._token = token if parts.scheme == "https" or loopback else ""

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    @property
    def name(self) -> str:
        """The Hub's host, for messages."""
        return urlsplit(self.endpoint).netloc

    def headers(self, url: str) -> dict[str, str]:
        """The authorization for this address: the token for the Hub itself, nothing for anyone else."""
        return {"authorization": f"Bearer {self._token}"} if self._token and origin(url) == self._origin else {}

    def check(self, url: str) -> None:
        """Raises UnsafeServer when no request may go to `url`."""
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            raise self._no_address(url) from None
        if origin(url) == self._origin and not parts.username:
            return
        if parts.scheme not in _DEFAULT_PORTS or not host or parts.username:
            raise self._no_address(url)
        if parts.scheme == "http" and not self._local:
            raise UnsafeServer(
                f"{self.name} sends the download to {host} without encryption.", "Try again, or another --endpoint."
            )
        if self._local:
            return
        addresses = [host] if _is_literal(host) else [] if through_proxy(parts.scheme, host) else _addresses(host)
        for address in addresses:
            if not _on_the_internet(address):
                raise UnsafeServer(
                    f"{self.name} sends the download to {host}, which lies in a private network ({address}).", _REPORT
                )

    def target(self, url: str, location: str) -> str:
        """Where a redirect from `url` leads. Raises UnsafeServer when that is no address; it is still to be checked."""
        try:
            return urljoin(url, location)
        except ValueError:
            raise self._no_address(location) from None

    def _no_address(self, url: str) -> UnsafeServer:
        return UnsafeServer(f"{self.name} sends the download to {_short(url)!r}, which is no web address.", _REPORT)

    def check_peer(self, url: str, address: str) -> None:
        """Raises UnsafeServer when a connection ended up inside a private network: names can change their address."""
        parts = urlsplit(url)
        if self._local or not _is_literal(address) or through_proxy(parts.scheme, parts.hostname or ""):
            return
        if not _on_the_internet(address):
            raise UnsafeServer(f"The download led to {address}, which lies in a private network.", _REPORT)


_REPORT = "If that is meant, name the server with --endpoint."


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what a token belongs to."""
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme, 0)
        return parts.scheme, (parts.hostname or "").lower(), port
    except ValueError:
        return "", "", -1


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    addresses = _addresses(host)
    return bool(addresses) and all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _addresses(host: str) -> list[str]:
    """What the name stands for; nothing when it cannot be told, which the connection will then say better."""
    if _is_literal(host):
        return [host.partition("%")[0]]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def _on_the_internet(address: str) -> bool:
    parsed: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is None and any(parsed in network for network in _CARRY_IPV4):
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if parsed.is_site_local:
            return False
        parsed = inner or parsed
    return (parsed.is_global and not parsed.is_multicast) or (parsed.version == 4 and parsed in _TUNNEL_RANGE)


def through_proxy(scheme: str, host: str) -> bool:
    """Whether a proxy of the environment stands between, which then resolves the name, perhaps as nobody else can."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    if not (proxies.get(scheme) or proxies.get("all")):
        return False
    try:
        return not proxy_bypass(host)
    except OSError:
        return True


def _short(url: str) -> str:
    return url if len(url) <= 80 else url[:80] + "…"


def configured_endpoint(given: str = "") -> str:
    """--endpoint, else HF_ENDPOINT, else the public Hub."""
    if given:
        return given
    if from_environment := os.environ.get("HF_ENDPOINT"):
        return from_environment
    from huggingface_hub import constants

    return str(constants._HF_DEFAULT_ENDPOINT)


def configured_token(endpoint: str, given: str = "") -> str:
    """--token, else HF_TOKEN, else the one saved by `hf auth login`, which is for the public Hub only."""
    from huggingface_hub import constants, get_token

    if given or constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return given
    if from_environment := os.environ.get("HF_TOKEN", "").strip():
        return from_environment
    return (get_token() or "") if origin(endpoint) == origin(constants._HF_DEFAULT_ENDPOINT) else ""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE, or what it stands for, forbids the network."""
    return any(
        os.environ.get(name, "").strip().upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )

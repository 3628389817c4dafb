"""One file over a network where everything goes wrong: in the end it is right, or nothing is published."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from r1local.errors import AccessDenied, ChecksumMismatch, DiskFull, DownloadError, NotOffered, R1Error, UnsafeServer
from r1local.hub.names import parse_reference
from tests.hub import Fault, Hub
from tests.pulling import (
    KIB,
    MIB,
    NAME,
    QUICK,
    REPO,
    Desk,
    assert_clean,
    catalog,
    noise,
    online,
    published,
    repo,
    unfinished,
    working_threads,
)  # fmt: skip

DATA = noise(2 * MIB)
CLOSED = "http://127.0.0.1:9/"
HASTY = dataclasses.replace(QUICK, attempts=2, stall_seconds=0.2)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add(REPO, {NAME: DATA})
        yield hub


@pytest.fixture
def desk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    online(tmp_path / "cache", monkeypatch)
    yield Desk(hub)
    huggingface_hub.close_session()


def ranges(hub: Hub) -> list[int]:
    """How long the ranges were that were asked for."""
    asked = [r.headers["range"].partition("=")[2].split("-") for r in hub.log if "range" in r.headers]
    return [int(end) + 1 - int(start) for start, end in asked]


# Well


@pytest.mark.parametrize("size", [0, 1, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, MIB, 3 * MIB + 7])
@pytest.mark.parametrize("connections", [1, 4, 9])
def test_no_byte_is_sent_twice(hub: Hub, desk: Desk, size: int, connections: int) -> None:
    data = noise(size, 1)
    hub.add(REPO, {NAME: data})
    desk.options = dataclasses.replace(QUICK, connections=connections)
    path = desk.pull()
    assert path.read_bytes() == data
    assert hub.bytes_sent() == size
    assert sum(ranges(hub)) == size
    if size > MIB and connections > 1:
        assert len(ranges(hub)) > connections
    assert_clean()


def test_progress_never_falls_and_ends_at_the_size(hub: Hub, desk: Desk) -> None:
    hub.rate = MIB
    hub.fault(Fault(kind="cut", origin="cdn", skip=2, after=1000))
    desk.pull()
    done = [step.done for step in desk.progress if step.state == "downloading"]
    assert done == sorted(done)
    assert done[-1] == len(DATA)
    assert any(0 < step < len(DATA) for step in done)
    assert {step.size for step in desk.progress} == {len(DATA)}


# What passes


PASSING: dict[str, list[dict[str, Any]]] = {
    "cut at once": [{"kind": "cut"}],
    "cut after a byte": [{"kind": "cut", "after": 1}],
    "cut late": [{"kind": "cut", "after": 250 * KIB}],
    "every second one cut": [{"kind": "cut", "after": 100 * KIB, "skip": skip, "times": 1} for skip in range(0, 12, 2)],
    "stall": [{"kind": "stall", "after": 70 * KIB}],
    "stall at once": [{"kind": "stall"}],
    "all four stall": [{"kind": "stall", "after": 70 * KIB, "times": 4}],
    "trickle": [{"kind": "trickle", "rate": 20 * KIB}],
    "extra": [{"kind": "extra", "times": None}],
    "gzip": [{"kind": "gzip", "times": 2}],
    "html": [{"kind": "html", "times": 2}],
    "503": [{"kind": "status", "status": 503, "headers": {"Retry-After": "1"}}],
    "429": [{"kind": "status", "status": 429, "headers": {"RateLimit": '"resolvers";r=0;t=1'}}],
    "500": [{"kind": "status", "status": 500, "times": 3}],
    "expired": [{"kind": "status", "status": 403, "times": 4}],
    "refuse": [{"kind": "refuse", "times": 3}],
    "other part": [{"kind": "wrong_content_range", "by": 1, "times": 3}],
    "other total": [{"kind": "short_total", "times": 3}],
    "no Content-Range": [{"kind": "headers", "headers": {"Content-Range": None}, "times": 3}],
    "other ETag": [{"kind": "headers", "headers": {"ETag": '"changed"'}, "skip": 2}],
    "no total": [{"kind": "headers", "headers": {"Content-Range": "bytes 0-0/*"}}],
    "closed port": [{"kind": "redirect", "url": CLOSED, "times": 2}],
    "416": [{"kind": "status", "status": 416}],
    "slow headers": [{"kind": "slow_headers", "seconds": 0.3, "times": 4}],
}


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING)
def test_what_passes_is_survived(hub: Hub, desk: Desk, faults: list[dict[str, Any]]) -> None:
    struck = [hub.fault(Fault(origin="cdn", method="GET", **fault)) for fault in faults]
    assert hashlib.sha256(desk.pull().read_bytes()).digest() == hashlib.sha256(DATA).digest()
    hits = sum(fault.hits for fault in struck)
    assert all(fault.hits for fault in struck)
    assert hub.bytes_sent() <= len(DATA) + hits * max(ranges(hub))
    if {"cut", "stall"} >= {fault.kind for fault in struck}:
        assert hub.bytes_sent() <= len(DATA) + hits * 64 * KIB, "what came before the cut is kept"
    if faults[0].get("headers", {}).keys() & {"Retry-After", "RateLimit"}:
        assert desk.waits == [1.0]
    assert_clean()


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_is_survived(hub: Hub, desk: Desk, seed: int) -> None:
    chance = random.Random(seed)
    quick = [fault for name, faults in PASSING.items() if name not in ("503", "429") for fault in faults]
    for _ in range(12):
        fault = chance.choice(quick)
        hub.fault(Fault(origin="cdn", method="GET", **fault | {"skip": chance.randrange(20), "times": 1}))
    assert desk.pull().read_bytes() == DATA
    assert_clean()


def test_an_address_that_expires_is_asked_for_again(desk: Desk) -> None:
    with Hub(link_seconds=1) as hub:
        hub.add(REPO, {NAME: DATA})
        hub.rate, desk.hub = 220 * KIB, hub
        assert desk.pull().read_bytes() == DATA
        refused = [request for request in hub.log if request.status == 403]
        heads = [request for request in hub.log if request.method == "HEAD"]
        assert refused
        assert 2 <= len(heads) <= 1 + len(refused)
        assert hub.bytes_sent() <= len(DATA) + sum(request.sent for request in refused)


@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_a_server_that_knows_no_ranges(hub: Hub, desk: Desk, times: int | None) -> None:
    hub.fault(Fault(kind="ignore_range", origin="cdn", times=times))
    assert desk.pull().read_bytes() == DATA
    assert hub.bytes_sent() <= len(DATA) * QUICK.connections
    assert_clean()


def test_a_server_that_knows_no_ranges_and_breaks_off(hub: Hub, desk: Desk) -> None:
    ignoring = hub.fault(Fault(kind="ignore_range", origin="cdn", times=None))
    hub.fault(Fault(kind="cut", origin="cdn", after=MIB, times=None))
    desk.options = HASTY
    with pytest.raises(DownloadError, match="broke off"):
        desk.pull()
    assert published() == []
    ignoring.times = 0
    before = hub.bytes_sent()
    assert desk.pull().read_bytes() == DATA
    assert hub.bytes_sent() - before <= len(DATA) - MIB + 64 * KIB, "its first half was kept"
    assert_clean()


def test_a_server_that_knows_no_ranges_and_serves_one_at_a_time(hub: Hub, desk: Desk) -> None:
    hub.fault(Fault(kind="ignore_range", origin="cdn", times=None))
    hub.fault(Fault(kind="slow_headers", origin="cdn", seconds=0.2))
    hub.fault(Fault(kind="slow_headers", origin="cdn", skip=1, times=3))
    desk.timeout = 3
    begin = time.monotonic()
    assert desk.pull().read_bytes() == DATA
    assert time.monotonic() - begin < 2


def test_one_connection_that_must_wait_holds_up_nobody(hub: Hub, desk: Desk) -> None:
    hub.fault(Fault(kind="status", status=503, headers={"Retry-After": "3"}, origin="cdn"))
    begin = time.monotonic()
    assert desk.pull().read_bytes() == DATA
    assert time.monotonic() - begin < 1.5


# What does not pass


LASTING: dict[str, tuple[type[R1Error], dict[str, Any]]] = {
    "refuse": (DownloadError, {"kind": "refuse"}),
    "cut": (DownloadError, {"kind": "cut"}),
    "stall": (DownloadError, {"kind": "stall"}),
    "no headers": (DownloadError, {"kind": "slow_headers"}),
    "gzip": (DownloadError, {"kind": "gzip"}),
    "br": (DownloadError, {"kind": "headers", "headers": {"Content-Encoding": "br"}}),
    "html": (DownloadError, {"kind": "html"}),
    "html as 206": (DownloadError, {"kind": "html", "status": 206}),
    "text": (DownloadError, {"kind": "status", "status": 200, "body": b"Sign in", "headers": {}}),
    "429": (DownloadError, {"kind": "status", "status": 429, "headers": {"Retry-After": "3600"}}),
    "503": (
        DownloadError,
        {"kind": "status", "status": 503, "headers": {"Retry-After": "Fri, 31 Dec 2100 00:00:00 GMT"}},
    ),
    "odd Retry-After": (DownloadError, {"kind": "status", "status": 503, "headers": {"Retry-After": "²"}}),
    "403": (DownloadError, {"kind": "status", "status": 403}),
    "418": (DownloadError, {"kind": "status", "status": 418}),
    "204": (DownloadError, {"kind": "status", "status": 204}),
    "other part": (DownloadError, {"kind": "wrong_content_range", "by": 1 << 40}),
    "an earlier part": (DownloadError, {"kind": "wrong_content_range", "skip": 1}),
    "other total": (DownloadError, {"kind": "short_total"}),
    "a long number": (DownloadError, {"kind": "headers", "headers": {"Content-Range": f"bytes 0-{'9' * 5000}/*"}}),
    "closed port": (DownloadError, {"kind": "redirect", "url": CLOSED}),
    "circle": (UnsafeServer, {"kind": "redirect", "url": "?"}),
    "no port": (DownloadError, {"kind": "redirect", "url": "http://127.0.0.1:99999/"}),
    "no host": (DownloadError, {"kind": "redirect", "url": "http://"}),
    "no address": (DownloadError, {"kind": "redirect", "url": "http://[127.0.0.1/"}),
    "a file": (UnsafeServer, {"kind": "redirect", "url": "file:///etc/passwd"}),
    "with password": (UnsafeServer, {"kind": "redirect", "url": "http://user:pw@127.0.0.1:9/"}),
}


@pytest.mark.parametrize(
    ("error", "fault"),
    [pytest.param(*case, id=name) for name, case in LASTING.items()],
)
def test_what_lasts_publishes_nothing(hub: Hub, desk: Desk, error: type[R1Error], fault: dict[str, Any]) -> None:
    desk.options, desk.timeout = HASTY, 0.3 if fault["kind"] == "slow_headers" else 10
    hub.fault(Fault(origin="cdn", method="GET", times=None, **fault))
    with pytest.raises(error) as raised:
        desk.pull()
    assert raised.value.message
    assert raised.value.hint
    assert published() == []
    hub.faults.clear()
    assert desk.pull().read_bytes() == DATA
    assert_clean()


OF_THE_HUB: dict[str, tuple[type[R1Error], dict[str, Any]]] = {
    "info: html": (DownloadError, {"path": "^/api", "kind": "html"}),
    "info: cut": (DownloadError, {"path": "^/api", "kind": "cut", "after": 20}),
    "info: list": (DownloadError, {"path": "^/api", "kind": "html", "body": b"[]"}),
    "info: deep": (DownloadError, {"path": "^/api", "kind": "html", "body": b"[" * 100_000}),
    "info: 500": (DownloadError, {"path": "^/api", "kind": "status", "status": 500}),
    "info: 403": (AccessDenied, {"path": "^/api", "kind": "status", "status": 403}),
    "head: 404": (NotOffered, {"path": "resolve", "kind": "status", "status": 404}),
    "other checksum": (UnsafeServer, {"path": "resolve", "kind": "headers", "headers": {"X-Linked-Etag": "0" * 64}}),
    "other size": (UnsafeServer, {"path": "resolve", "kind": "headers", "headers": {"X-Linked-Size": "5"}}),
    "bad Location": (
        UnsafeServer,
        {"path": "resolve", "kind": "headers", "headers": {"Location": "file:///etc/passwd"}},
    ),
    "odd Location": (R1Error, {"path": "resolve", "kind": "headers", "headers": {"Location": "http://[::1"}}),
}


@pytest.mark.parametrize(("error", "fault"), OF_THE_HUB.values(), ids=OF_THE_HUB)
def test_a_hub_that_talks_nonsense(
    hub: Hub, desk: Desk, error: type[R1Error], fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1local.hub.client.pause", lambda *_: None)
    hub.fault(Fault(origin="hub", times=None, **fault))
    with pytest.raises(error):
        desk.pull()
    assert published() == []
    assert hub.bytes_sent() == 0
    hub.faults.clear()
    assert desk.pull().read_bytes() == DATA


@pytest.mark.parametrize(
    "etag",
    [
        None,
        "",
        'W/"x"',
        '"../../../x"',
        "A" * 64,
        "0" * 63,
        "x" * 10_000,
    ],
)
def test_a_checksum_that_is_none_is_not_used(hub: Hub, desk: Desk, etag: str | None) -> None:
    """The one in the listing will do."""
    hub.fault(
        Fault(kind="headers", origin="hub", path="resolve", headers={"X-Linked-Etag": etag, "ETag": etag}, times=None)
    )
    assert desk.pull().read_bytes() == DATA
    assert_clean()


@pytest.mark.parametrize("size", ["²", "-1", "9" * 5000, "many", ""])
def test_a_size_that_is_none_does_no_harm(hub: Hub, desk: Desk, size: str) -> None:
    """Refused or not looked at; in no case trusted."""
    hub.fault(Fault(kind="headers", origin="hub", path="resolve", headers={"X-Linked-Size": size}, times=None))
    try:
        assert desk.pull().read_bytes() == DATA
    except UnsafeServer:
        assert published() == []


@pytest.mark.parametrize("offset", [0, MIB + 5, len(DATA) - 1])
def test_a_flipped_bit_publishes_nothing(hub: Hub, desk: Desk, offset: int) -> None:
    hub.fault(Fault(kind="flip", origin="cdn", offset=offset))
    with pytest.raises(ChecksumMismatch, match=NAME):
        desk.pull()
    assert published() == []
    assert unfinished() == []
    assert desk.pull().read_bytes() == DATA
    assert hub.bytes_sent() == 2 * len(DATA)
    assert_clean()


# Interrupted


def test_a_pull_that_is_cancelled_goes_on_next_time(hub: Hub, desk: Desk) -> None:
    hub.rate = 400 * KIB
    threading.Timer(0.5, desk.cancel.set).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        desk.pull()
    assert time.monotonic() - begin < 1.5
    assert working_threads() == []
    assert published() == []
    first = hub.bytes_sent()
    assert 0 < first < len(DATA)
    desk.cancel.clear()
    hub.rate = None
    assert desk.pull().read_bytes() == DATA
    assert hub.bytes_sent() <= len(DATA) + 4 * 128 * KIB
    assert_clean()


def test_a_pull_without_an_answer_is_cancelled_at_once(hub: Hub, desk: Desk) -> None:
    hub.fault(Fault(kind="slow_headers", origin="cdn", times=None))
    desk.options, desk.timeout = dataclasses.replace(QUICK, connections=1), 4
    threading.Timer(0.3, desk.cancel.set).start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            desk.pull()
        assert time.monotonic() - begin < 1.5
        assert working_threads() == []
    finally:
        hub.stop()
        while working_threads():
            time.sleep(0.01)


def test_an_error_is_told_at_once(hub: Hub, desk: Desk) -> None:
    hub.fault(Fault(kind="status", status=503, headers={"Retry-After": "3"}, origin="cdn"))
    hub.fault(Fault(kind="status", status=418, origin="cdn", skip=1))
    hub.fault(Fault(kind="slow_headers", seconds=0.2, origin="cdn", skip=1))
    begin = time.monotonic()
    with pytest.raises(DownloadError, match="418"):
        desk.pull()
    assert time.monotonic() - begin < 1.5


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 4 MiB with the cache on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(disk / "cache"))
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def blindly(desk: Desk) -> Path:
    """Without a look at the free space: somebody else takes it during the download."""
    with desk.puller() as puller:
        plan = puller.plan(parse_reference(REPO, catalog()))
        return puller.run(dataclasses.replace(plan, free=1 << 50))


def test_a_disk_that_becomes_full(hub: Hub, desk: Desk, small_disk: Path) -> None:
    data = noise(8 * MIB)
    hub.add(REPO, {NAME: data})
    with pytest.raises(DiskFull) as raised:
        blindly(desk)
    assert raised.value.hint
    assert working_threads() == []
    assert published() == []
    before = hub.bytes_sent()
    subprocess.run(["mount", "-o", "remount,size=32m", small_disk], check=True)
    assert blindly(desk).read_bytes() == data
    assert hub.bytes_sent() - before < 6 * MIB, "what fitted was kept"
    assert_clean()


def test_a_disk_that_is_full_from_the_start(hub: Hub, desk: Desk, small_disk: Path) -> None:
    (repo().folder / "blobs").mkdir(parents=True)
    with (small_disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(small_disk).free)
    assert shutil.disk_usage(small_disk).free == 0
    with pytest.raises(DiskFull):
        blindly(desk)


def test_too_little_space_is_told_before_a_byte_is_fetched(hub: Hub, desk: Desk, small_disk: Path) -> None:
    plan = desk.plan()
    assert plan.missing == len(DATA)
    assert plan.free <= 4 * MIB
    with pytest.raises(DiskFull, match="free"):
        desk.pull()
    assert hub.bytes_sent() == 0
    assert not repo().folder.exists()

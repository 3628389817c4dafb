"""Downloads behind the screen, from a Hub on this machine."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest

from r1local.catalog import load_catalog
from r1local.errors import DiskFull, DownloadError, ModelNotFound, NotGGUF, NotOffered, Offline
from r1local.hf_cache import CachedRepo, cache_folder
from r1local.hub.partial import unfinished
from r1local.tui.pull_state import Pace
from r1local.tui.pulls import Pulls, PullState
from tests.hub import Fault, Hub
from tests.pulling import online

KNOWN = "unsloth/DeepSeek-R1-Distill-Qwen-1.5B-GGUF"
NAME = "DeepSeek-R1-Distill-Qwen-1.5B-Q8_0.gguf"
SMALL = "DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf"
OTHER = "unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF"
CATALOG = load_catalog()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound header and twelve megabytes behind it."""
    return model_file(tmp_path_factory.mktemp("large") / "x.gguf", 3_000_000)


def model_file(path: Path, weights: int) -> bytes:
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_name("Large")
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_head_count(2)
    writer.add_tensor("a", np.random.default_rng(weights).standard_normal(weights).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def hub(large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    online(tmp_path / "cache", monkeypatch)
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub() as hub:
        hub.add(KNOWN, {NAME: large, SMALL: model_file(tmp_path / "small.gguf", 5_000)}, card={"license": "mit"})
        hub.add(OTHER, {"DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf": b"no model" * 200})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def pulls(hub: Hub) -> Iterator[Pulls]:
    pulls = Pulls(CATALOG, lambda: None)
    yield pulls
    pulls.close()


def wait_until(what: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def state(pulls: Pulls, name: str = "1.5b") -> PullState:
    return next(state for state in pulls.states if state.name == name)


def wait_for(pulls: Pulls, wanted: str, name: str = "1.5b") -> PullState:
    wait_until(lambda: state(pulls, name).state == wanted)
    return state(pulls, name)


def partials() -> int:
    """Bytes that are kept of unfinished downloads."""
    return sum(one.held for one in unfinished(CachedRepo(cache_folder(), KNOWN).partials))


def test_a_pull_from_start_to_end(hub: Hub, large: bytes) -> None:
    hub.rate = 6_000_000
    seen: list[PullState] = []
    pulls = Pulls(CATALOG, lambda: seen.extend(pulls.states))
    pulls.start("1.5b")
    done = wait_for(pulls, "done")
    assert done.path is not None
    assert done.path.name == NAME
    assert hashlib.sha256(done.path.read_bytes()).digest() == hashlib.sha256(large).digest()
    assert (done.error, done.active, done.seconds_left) == (None, False, None)
    wait_until(lambda: seen and seen[-1].state == "done")
    pulls.close()
    order = ["waiting", "checking", "running", "done"]
    assert [order.index(one.state) for one in seen] == sorted(order.index(one.state) for one in seen)
    running = [one for one in seen if one.state == "running"]
    assert len(running) >= 3
    assert [one.done for one in running] == sorted(one.done for one in running)
    assert {one.total for one in running} == {len(large)}
    assert any(one.bytes_per_second > 0 and one.seconds_left is not None for one in running)
    assert {one.file for one in running} == {NAME}


def test_two_pulls_in_order(hub: Hub, pulls: Pulls) -> None:
    hub.rate = 4_000_000
    pulls.start("1.5b")
    pulls.start("1.5b:q4_k_m")
    wait_until(lambda: state(pulls).state == "running")
    assert state(pulls, "1.5b:q4_k_m").state == "waiting"
    assert [one.name for one in pulls.states] == ["1.5b", "1.5b:q4_k_m"]
    assert not [request for request in hub.log if "Q4_K_M" in request.path]
    second = wait_for(pulls, "done", "1.5b:q4_k_m")
    assert state(pulls).state == "done"
    assert second.path is not None
    assert second.path.name == SMALL


def test_one_that_waits_can_be_cancelled(hub: Hub, pulls: Pulls) -> None:
    hub.rate = 4_000_000
    for name in ("1.5b", "1.5b:q4_k_m", "7b"):
        pulls.start(name)
    pulls.cancel("1.5b:q4_k_m")
    assert state(pulls, "1.5b:q4_k_m").state == "cancelled"
    wait_for(pulls, "failed", "7b")
    assert state(pulls).state == "done"
    assert state(pulls, "1.5b:q4_k_m").state == "cancelled"
    assert not [request for request in hub.log if "Q4_K_M.gguf" in request.path and "1.5B" in request.path]


def test_what_was_cancelled_goes_on_where_it_stopped(hub: Hub, pulls: Pulls, large: bytes) -> None:
    hub.rate = 1_000_000
    pulls.start("1.5b")
    wait_until(lambda: state(pulls).done > 1_000_000)
    pulls.cancel("1.5b")
    assert state(pulls).state == "cancelled"
    pulls.start("1.5b")  # at once: the thread of the first may still be there
    hub.rate = None
    done = wait_for(pulls, "done")
    assert done.path is not None
    assert done.path.read_bytes() == large
    assert partials() == 0
    assert hub.bytes_sent() < 2 * len(large) - 1_000_000 + (1 << 20)


def test_what_is_under_way_is_not_started_twice(hub: Hub, pulls: Pulls, large: bytes) -> None:
    hub.rate = 6_000_000
    pulls.start("1.5b")
    wait_until(lambda: state(pulls).state == "running")
    pulls.start("1.5b")
    assert [one.state for one in pulls.states] == ["running"]
    wait_for(pulls, "done")
    assert hub.bytes_sent() == len(large)


def test_closing_keeps_what_came(hub: Hub, large: bytes) -> None:
    hub.rate = 1_000_000
    told: list[float] = []
    pulls = Pulls(CATALOG, lambda: told.append(time.monotonic()))
    pulls.start("1.5b")
    pulls.start("1.5b:q4_k_m")
    wait_until(lambda: state(pulls).done > 1_000_000)
    began = time.monotonic()
    pulls.close()
    closed = time.monotonic()
    assert closed - began < 2.5
    assert {one.state for one in pulls.states} == {"cancelled"}
    assert partials() > 1_000_000 - (1 << 20) // 2
    pulls.start("7b")
    time.sleep(0.3)
    assert len(pulls.states) == 2
    assert all(when <= closed + 0.1 for when in told)
    hub.rate = None
    again = Pulls(CATALOG, lambda: None)
    again.start("1.5b")
    done = wait_for(again, "done")
    again.close()
    assert done.path is not None
    assert done.path.read_bytes() == large
    assert hub.bytes_sent() < 2 * len(large)


def test_closing_does_not_wait_for_a_server_that_says_nothing(hub: Hub) -> None:
    hub.fault(Fault(kind="slow_headers", times=None))
    pulls = Pulls(CATALOG, lambda: None)
    pulls.start("1.5b")
    wait_until(lambda: hub.log)
    began = time.monotonic()
    pulls.close()
    assert time.monotonic() - began < 2.5


def test_nobody_is_told_more_than_ten_times_a_second(hub: Hub) -> None:
    hub.rate = 4_000_000
    told: list[float] = []
    threads: set[threading.Thread] = set()

    def changed() -> None:
        told.append(time.monotonic())
        threads.add(threading.current_thread())

    pulls = Pulls(CATALOG, changed)
    pulls.start("1.5b")
    for _ in range(50):
        pulls.start("1.5b:q4_k_m")
        pulls.cancel("1.5b:q4_k_m")
    wait_for(pulls, "done")
    wait_until(lambda: told[-1] > time.monotonic() - 0.15)
    pulls.close()
    assert len(told) > 5
    assert min(after - before for before, after in pairwise(told)) > 0.095
    assert threading.current_thread() not in threads


# What goes wrong


def test_a_name_nobody_knows(pulls: Pulls) -> None:
    pulls.start("qwen-7x")
    assert isinstance(wait_for(pulls, "failed", "qwen-7x").error, ModelNotFound)


def test_what_the_hub_does_not_have(pulls: Pulls) -> None:
    pulls.start("32b")
    error = wait_for(pulls, "failed", "32b").error
    assert isinstance(error, NotOffered)


def test_a_file_that_is_no_model(pulls: Pulls) -> None:
    pulls.start("7b")
    assert isinstance(wait_for(pulls, "failed", "7b").error, NotGGUF)


def test_a_full_disk(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    pulls.start("1.5b")
    assert isinstance(wait_for(pulls, "failed").error, DiskFull)


def test_a_folder_that_cannot_be_made(pulls: Pulls) -> None:
    cache_folder().write_text("a file")
    pulls.start("1.5b")
    error = wait_for(pulls, "failed").error
    assert error is not None
    assert error.hint


def test_no_network_at_all(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pulls.start("1.5b")
    error = wait_for(pulls, "failed").error
    assert isinstance(error, Offline)
    assert "the network is switched off" in error.message


def test_what_is_here_needs_no_network(hub: Hub, pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.start("1.5b:q4_k_m")
    path = wait_for(pulls, "done", "1.5b:q4_k_m").path
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pulls.start("1.5b:q4_k_m")
    assert wait_for(pulls, "done", "1.5b:q4_k_m").path == path
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    pulls.start("1.5b:q4_k_m")
    assert wait_for(pulls, "done", "1.5b:q4_k_m").path == path


def test_a_hub_that_is_not_there(hub: Hub, pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    pulls.start("1.5b")
    wait_until(lambda: state(pulls).note)
    assert "Again in" in state(pulls).note
    error = wait_for(pulls, "failed").error
    assert isinstance(error, DownloadError)
    assert "cannot be reached" in error.message


def test_after_a_failure_it_can_be_tried_again(hub: Hub, pulls: Pulls, large: bytes) -> None:
    hub.fault(Fault(kind="status", status=404, origin="hub", times=None))
    pulls.start("1.5b")
    assert wait_for(pulls, "failed").error is not None
    hub.faults.clear()
    pulls.start("1.5b")
    done = wait_for(pulls, "done")
    assert (done.error, done.path is not None and done.path.read_bytes() == large) == (None, True)


# Pace


def test_the_pace_of_the_last_five_seconds() -> None:
    pace = Pace()
    assert pace.at(0.0, 0) == 0
    assert pace.at(1.0, 100) == 100
    assert [pace.at(float(second), 100) for second in range(2, 6)][-1] == 20
    assert pace.at(6.0, 100) == 0, "what came six seconds ago does not count"
    assert pace.at(7.0, 50) == 0, "another file"
    assert pace.at(9.0, 90) == 20

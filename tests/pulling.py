"""Pulls from the Hub of the tests: in this process, and as `python -m tests.pulling` in others that can be killed."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars

from r1local.catalog import Catalog, load_catalog
from r1local.checksums import Checksums
from r1local.hf_cache import CachedRepo, cache_folder
from r1local.hub.client import Client
from r1local.hub.fetch import FetchOptions
from r1local.hub.hosts import Hosts
from r1local.hub.names import parse_reference
from r1local.hub.pull import Progress, Puller, PullPlan
from tests.hub import Hub

REPO = "someone/Some-Model-GGUF"
NAME = "some-model-Q4_K_M.gguf"
KIB, MIB = 1024, 1024 * 1024
QUICK = FetchOptions(
    smallest_range=128 * KIB, largest_range=512 * KIB, stall_seconds=0.4, stall_bytes=16 * KIB, first_wait=0.01
)


@cache
def noise(size: int, seed: int = 0) -> bytes:
    """Bytes in which no two places look alike."""
    return random.Random(f"{size} {seed}").randbytes(size)


@cache
def catalog() -> Catalog:
    return load_catalog()


class Desk:
    """Someone who pulls from `hub` into the cache of the test, and hears what is said meanwhile."""

    def __init__(self, hub: Hub, options: FetchOptions = QUICK, timeout: float = 10) -> None:
        self.hub, self.options, self.timeout = hub, options, timeout
        self.notices: list[str] = []
        self.waits: list[float] = []
        self.progress: list[Progress] = []
        self.cancel = threading.Event()

    @contextmanager
    def puller(self) -> Iterator[Puller]:
        with Client(Hosts(self.hub.endpoint), user_agent="tests", timeout=self.timeout) as client:
            yield Puller(
                client,
                catalog(),
                Checksums(),
                self.options,
                self.cancel,
                self.progress.append,
                self.notices.append,
                lambda seconds, _: self.waits.append(seconds),
            )

    def plan(self, text: str = REPO, revision: str = "") -> PullPlan:
        with self.puller() as puller:
            return puller.plan(parse_reference(text, catalog()), revision=revision)

    def pull(self, text: str = REPO, revision: str = "") -> Path:
        with self.puller() as puller:
            return puller.run(puller.plan(parse_reference(text, catalog()), revision=revision))


def online(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub on line again, without a token, with its cache in `folder`."""
    registry = folder.with_name("harnesses.json")
    registry.write_text('{"standardEnvVars": [], "harnesses": {}}')
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(registry))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder.with_name("token")))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    disable_progress_bars()


def repo() -> CachedRepo:
    return CachedRepo(cache_folder(), REPO)


def unfinished() -> list[Path]:
    """What lies in the folder of partials."""
    return sorted(repo().partials.rglob("*")) if repo().partials.exists() else []


def published() -> list[str]:
    """The names of all blobs and of all files in snapshots."""
    return sorted(
        path.relative_to(repo().folder).as_posix()
        for kind in ("blobs", "snapshots")
        for path in (repo().folder / kind).rglob("*")
        if path.is_symlink() or path.is_file()
    )


def assert_clean(*, scan: bool = True) -> None:
    """Nothing unfinished, no temporary name, no thread left, and the scan of huggingface_hub finds no fault."""
    assert unfinished() == []
    assert not [path for path in repo().folder.rglob("*") if path.name.endswith((".link", ".ref", ".new"))]
    assert not working_threads()
    if scan:
        report = huggingface_hub.scan_cache_dir(cache_folder())
        assert [str(warning) for warning in report.warnings] == []
        assert [found.repo_id for found in report.repos] == [REPO]


def working_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("range", "hash", "sync"))]


def claims(folder: Path, *, after_power_cut: bool = False) -> set[tuple[int, int]]:
    """The stretches that a journal names, read a second way: a checksum ends each line, "synced" is a line."""
    found: set[tuple[int, int]] = set()
    synced: set[tuple[int, int]] = set()
    for line in (folder / "journal").read_bytes().splitlines(keepends=True)[1:]:
        text, checksum = line[:-10], line[-10:]
        if checksum != b" %08x\n" % zlib.crc32(text):
            break
        if text == b"synced":
            synced = set(found)
        else:
            start, end = text.split()
            found.add((int(start), int(end)))
    return synced if after_power_cut else found


# Other processes


def start(hub: Hub, *flags: str, home: Path | None = None) -> subprocess.Popen[str]:
    """A process that pulls into the cache of this one."""
    environment = os.environ | {"HF_HUB_CACHE": str(cache_folder()), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint}
    if home is not None:
        environment["R1LOCAL_HOME"] = str(home)
    command = [sys.executable, "-m", "tests.pulling", hub.endpoint, *flags]
    return subprocess.Popen(
        command, env=environment, cwd=Path(__file__).parent.parent, text=True, stdout=subprocess.PIPE
    )


def result(process: subprocess.Popen[str], timeout: float = 30) -> dict[str, Any]:
    output, _ = process.communicate(timeout=timeout)
    answer = json.loads(output.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("--no-locks", action="store_true", help="flock succeeds always")
    parser.add_argument("--hugging-face", action="store_true", help="as huggingface_hub does it")
    parser.add_argument("--range", type=int, default=512 * KIB, help="bytes of the largest range")
    parser.add_argument("--go", help="wait until this file is there")
    options = parser.parse_args()
    if options.no_locks:
        import fcntl

        fcntl.flock = lambda *_: None  # type: ignore[assignment]
    disable_progress_bars()
    hub = Hub()
    hub.endpoint = options.endpoint
    desk = Desk(hub, FetchOptions(4, min(128 * KIB, options.range), options.range, first_wait=0.05))
    answer: dict[str, Any] = {"notices": desk.notices}
    if options.go:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not os.path.exists(options.go):
            threading.Event().wait(0.001)
    try:
        if options.hugging_face:
            answer["path"] = huggingface_hub.hf_hub_download(REPO, NAME)
        else:
            answer["path"] = str(desk.pull())
    except BaseException as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()

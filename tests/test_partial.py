"""An unfinished download: the journal never claims a byte that was not written, and one process alone owns it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.hub import partial
from r1local.hub.owner import owner
from r1local.hub.partial import Identity, Partial, claim, held, outdated
from r1local.hub.spans import Spans
from tests.pulling import claims

ETAG = "ab" * 32
WHAT = Identity(ETAG, 1000, "someone/Model", "m.gguf")
CLAIM = f"""
import sys, time
from pathlib import Path
from r1local.hub.partial import Identity, claim
part = claim(Path(sys.argv[1]), Identity({ETAG!r}, 1000, "someone/Model", "m.gguf"))
if part is not None:
    part.open()
    with part.data.open("rb+") as file:
        file.write(bytes(range(100)))
    part.record(0, 100)
print(part and part.folder.name, flush=True)
time.sleep(float(sys.argv[2]))
"""


def positions(spans: Spans) -> set[int]:
    return {at for start, end in spans for at in range(start, end)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Partials, and none of them yet."""
    return tmp_path / ".r1local"


def new(folder: Path, *stretches: tuple[int, int], what: Identity = WHAT) -> Partial:
    part = claim(folder, what)
    assert part is not None
    part.open()
    for start, end in stretches:
        with part.data.open("rb+") as file:
            file.seek(start)
            file.write(b"x" * (end - start))
        part.record(start, end)
    return part


def reopened(folder: Path, what: Identity = WHAT) -> set[int]:
    part = new(folder, what=what)
    part.close()
    return positions(part.done)


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The machine is another one from now on, its processes are gone."""

    def strike() -> None:
        monkeypatch.setattr(partial, "boot_id", lambda: "after")

    return strike


# Sets of bytes


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30), st.integers(0, 50))
def test_spans_are_a_set_of_bytes(stretches: list[tuple[int, int]], size: int) -> None:
    spans, model = Spans(), set()
    for start, end in stretches:
        spans.add(start, end)
        model |= set(range(start, end))
        assert spans.total == len(model)
        assert positions(spans) == model
        assert spans.prefix() == next(at for at in range(100) if at not in model)
    size += max(model, default=-1) + 1
    gaps = list(spans.gaps(size))
    assert {at for start, end in gaps for at in range(start, end)} == set(range(size)) - model
    assert sum(end - start for start, end in gaps) == len(set(range(size)) - model)
    assert all(start < end for start, end in gaps)
    ends = [edge for stretch in spans for edge in stretch]
    assert all(before < after for before, after in pairwise(ends)), "sorted, and never touching"


def test_no_gap_lies_behind_the_end() -> None:
    spans = Spans()
    spans.add(1, 2)
    assert list(spans.gaps(0)) == []
    spans.add(8, 9)
    assert list(spans.gaps(4)) == [(0, 1), (2, 4)]
    assert list(spans.gaps(1)) == [(0, 1)]


# The journal


@pytest.fixture
def written(folder: Path) -> tuple[Path, set[int]]:
    """A partial that was left, and the bytes that were written to it."""
    part = new(folder, (0, 100), (500, 620))
    part.sync()
    for start, end in ((100, 150), (900, 1000), (300, 301)):
        with part.data.open("rb+") as file:
            file.seek(start)
            file.write(b"x" * (end - start))
        part.record(start, end)
    part.close()
    return part.folder, positions(part.done)


def damaged(folder: Path, journals: Iterator[bytes]) -> Iterator[tuple[bytes, set[int]]]:
    for journal in journals:
        (folder / "journal").write_bytes(journal)
        yield journal, reopened(folder.parent)


@pytest.fixture
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of syncs are slow and change nothing here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.mark.usefixtures("no_disk")
def test_a_journal_cut_anywhere_claims_no_more_than_was_written(written: tuple[Path, set[int]]) -> None:
    folder, truth = written
    whole = (folder / "journal").read_bytes()
    lines = whole.count(b"\n")
    seen = []
    for journal, there in damaged(folder, (whole[:end] for end in range(len(whole) + 1))):
        assert there <= truth
        assert held(folder.parent, ETAG) == len(there)
        if journal.endswith(b"\n") or not journal:
            seen.append(len(there))
    assert len(seen) == lines + 1
    # A header, two stretches synced, the marker, the same again, then three that were added.
    assert seen == [0, 0, 100, 220, 220, 220, 220, 270, 370, 371]


@pytest.mark.usefixtures("no_disk")
@pytest.mark.parametrize("change", [1, 2, 0x10, 0x80], ids=hex)
def test_a_flipped_bit_in_the_journal_claims_no_more_than_was_written(
    written: tuple[Path, set[int]], change: int
) -> None:
    folder, truth = written
    whole = (folder / "journal").read_bytes()
    flipped = (whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :] for at in range(len(whole)))
    for _, there in damaged(folder, flipped):
        assert there < truth or there == truth
    cut_out = (whole[:at] + whole[at + 1 :] for at in range(len(whole)))
    for _, there in damaged(folder, cut_out):
        assert there <= truth


def test_after_a_power_cut_only_what_was_synced_counts(
    written: tuple[Path, set[int]], reboot: Callable[[], None]
) -> None:
    folder, _ = written
    reboot()
    assert reopened(folder.parent) == {*range(100), *range(500, 620)}
    assert reopened(folder.parent) == {*range(100), *range(500, 620)}, "what was reopened was synced again"


def test_after_a_power_cut_nothing_counts_when_nothing_was_synced(folder: Path, reboot: Callable[[], None]) -> None:
    new(folder, (0, 1000)).close()
    reboot()
    assert reopened(folder) == set()


@pytest.mark.parametrize(
    "other",
    [
        Identity(ETAG, 1001, "someone/Model", "m.gguf"),
        Identity(ETAG, 999, "someone/Model", "m.gguf"),
        Identity(ETAG, 1000, "someone/Other", "m.gguf"),
        Identity(ETAG, 1000, "someone/Model", "n.gguf"),
    ],
    ids=["larger", "smaller", "repository", "name"],
)
def test_the_journal_of_another_file_counts_for_nothing(written: tuple[Path, set[int]], other: Identity) -> None:
    assert reopened(written[0].parent, other) == set()
    assert next(written[0].parent.glob("*/data")).stat().st_size == other.size


def test_the_journal_of_another_content_counts_for_nothing(written: tuple[Path, set[int]]) -> None:
    folder, _ = written
    other = Identity("cd" * 32, 1000, WHAT.repo, WHAT.file)
    folder.rename(folder.parent / f"{other.etag}.{owner()}")
    assert reopened(folder.parent, other) == set()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 550, 999])
def test_a_data_file_that_is_shorter_than_its_journal(written: tuple[Path, set[int]], size: int) -> None:
    folder, truth = written
    os.truncate(folder / "data", size)
    assert reopened(folder.parent) == {at for at in truth if at < size}
    assert (folder / "data").stat().st_size == 1000
    (folder / "data").unlink()
    assert reopened(folder.parent) == set()


def huge(path: Path) -> None:
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 40)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x").touch()


def deep(path: Path) -> None:
    text = b"[" * 100_000
    path.write_bytes(b"%s %08x\n" % (text, zlib.crc32(text)))


def endless_number(path: Path) -> None:
    number = b"0 " + b"9" * 5000
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n%s %08x\n" % (number, zlib.crc32(number)))


def backwards(path: Path) -> None:
    for text in (b"90 10", b"-5 10", b"10", b"", b"1 2 3", b"0x1 0x9", b"\xff \xff", "²  ³".encode()):
        with path.open("ab") as file:
            file.write(b"%s %08x\n" % (text, zlib.crc32(text)))


@pytest.mark.parametrize(
    "spoil",
    [
        huge,
        a_folder,
        deep,
        endless_number,
        backwards,
    ],
)
def test_no_journal_stands_in_the_way(written: tuple[Path, set[int]], spoil: Callable[[Path], None]) -> None:
    folder, truth = written
    spoil(folder / "journal")
    begin = time.monotonic()
    outdated(folder.parent, Identity("cd" * 32, 1000, WHAT.repo, WHAT.file))
    assert reopened(folder.parent) <= truth
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("name", ["data", "journal.new"])
def test_a_planted_link_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    """An archive of a cache may carry any link, in the folder of a process that is long gone."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine" * 500)
    planted = folder / f"{ETAG}.00000000-1-00000000"
    planted.mkdir(parents=True)
    (planted / name).symlink_to(precious)
    os.utime(planted, (0, 0))
    part = claim(folder, WHAT)
    assert part is not None
    part.open()
    part.close()
    assert precious.read_bytes() == b"mine" * 500


@pytest.mark.usefixtures("no_disk")
def test_a_power_cut_at_any_moment_of_a_busy_download(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads write while others sync. What a journal calls synced must have been written before a sync began."""
    part = new(folder, what=Identity(ETAG, 4000, WHAT.repo, WHAT.file))
    touched, on_disk, wrong = set(), set(), []
    lock = threading.Lock()
    ending = threading.Event()

    def slowly(_: Path) -> None:
        with lock:
            arriving = set(touched)
        time.sleep(random.random() / 200)
        look()
        with lock:
            on_disk.update(arriving)

    def look() -> None:
        promised = {at for a, b in claims(part.folder, after_power_cut=True) for at in range(a, b)}
        with lock:
            wrong.extend(promised - on_disk)

    def write(number: int) -> None:
        for start in range(number * 1000, number * 1000 + 1000, 10):
            with lock:
                touched.update(range(start, start + 10))
            part.record(start, start + 10)
            time.sleep(0.0005)

    def sync() -> None:
        while not ending.is_set():
            part.sync()

    monkeypatch.setattr(partial, "sync", slowly)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    syncer = threading.Thread(target=sync)
    for thread in (*writers, syncer):
        thread.start()
    for thread in writers:
        thread.join()
    ending.set()
    syncer.join()
    look()
    assert wrong == []
    part.sync()
    part.close()
    look()
    assert wrong == []
    assert on_disk == set(range(4000))
    assert claims(part.folder, after_power_cut=True) == {(0, 4000)}


# Owners


def other(folder: Path, seconds: float = 60) -> tuple[subprocess.Popen[str], str]:
    """A process that claimed a partial, wrote 100 bytes and lives on; the name of its folder."""
    command = [sys.executable, "-c", CLAIM, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.fixture
def living(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    process, name = other(folder)
    yield process, folder / name
    process.kill()
    process.communicate()


def test_a_partial_belongs_to_its_process_until_that_is_gone(
    living: tuple[subprocess.Popen[str], Path], folder: Path
) -> None:
    process, theirs = living
    assert claim(folder, WHAT) is None
    assert [path.name for path in folder.iterdir()] == [theirs.name]
    assert outdated(folder, Identity("cd" * 32, 1000, WHAT.repo, WHAT.file)) == []
    process.kill()
    process.wait()
    assert outdated(folder, Identity("cd" * 32, 1000, WHAT.repo, WHAT.file)) == [(theirs, 100)]
    part = new(folder)
    assert positions(part.done) == set(range(100))
    assert [path.name for path in folder.iterdir()] == [f"{ETAG}.{owner()}"]
    part.close()
    assert reopened(folder) == set(range(100)), "and this process goes on with its own"
    part.discard()
    assert list(folder.iterdir()) == []


def test_a_process_that_nobody_waited_for_is_gone(living: tuple[subprocess.Popen[str], Path], folder: Path) -> None:
    process, _ = living
    process.send_signal(signal.SIGKILL)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert claim(folder, WHAT) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux tells the start of a process")
def test_a_clock_that_was_set_kills_no_owner(
    living: tuple[subprocess.Popen[str], Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from psutil import _pslinux

    boot = _pslinux.boot_time()
    monkeypatch.setattr(_pslinux, "boot_time", lambda: boot + 1.0)
    assert claim(folder, WHAT) is None


def rename_owner(path: Path, host: str = "", pid: str = "", start: str = "") -> Path:
    etag, _, token = path.name.partition(".")
    old_host, old_pid, old_start = token.split("-")
    return path.rename(path.with_name(f"{etag}.{host or old_host}-{pid or old_pid}-{start or old_start}"))


def test_a_reused_process_number_owns_nothing(living: tuple[subprocess.Popen[str], Path], folder: Path) -> None:
    rename_owner(living[1], start="0badcafe")
    assert reopened(folder) == set(range(100))


@pytest.mark.parametrize("pid", ["4194305", "9" * 30, "0", "00001"])
def test_a_process_number_that_cannot_be_owns_nothing(written: tuple[Path, set[int]], pid: str) -> None:
    folder, truth = written
    rename_owner(folder, pid=pid)
    assert reopened(folder.parent) == truth


def test_another_machine_is_given_time(written: tuple[Path, set[int]]) -> None:
    folder, truth = written
    away = rename_owner(folder, host="0badcafe")
    assert claim(folder.parent, WHAT) is None
    long_ago = time.time() - 3600
    os.utime(away / "journal", (long_ago, long_ago))
    assert reopened(folder.parent) == truth


def test_another_machine_that_only_begins_is_given_time(folder: Path) -> None:
    (folder / f"{ETAG}.0badcafe-77-0badcafe").mkdir(parents=True)
    assert claim(folder, WHAT) is None


@pytest.mark.parametrize("turn", range(3))
def test_of_many_that_claim_at_once_one_wins(folder: Path, turn: int) -> None:
    process, _ = other(folder)
    process.kill()
    process.communicate()
    script = f"import os, sys, time\nwhile not os.path.exists({str(folder.parent / 'go')!r}): time.sleep(0.0005)\n"
    command = [sys.executable, "-c", f"import psutil, r1local.hub.partial\n{script}{CLAIM}", str(folder), "60"]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    time.sleep(0.5)
    (folder.parent / "go").touch()
    names = [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]
    for racer in racers:
        racer.kill()
        racer.communicate()
    winners = [name for name in names if name != "None"]
    assert len(winners) == 1
    assert [path.name for path in folder.iterdir()] == winners
    assert reopened(folder) == set(range(100))


def test_what_is_no_partial_is_left_alone(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    header = json.dumps({"etag": ETAG, "size": 1000, "repo": WHAT.repo, "file": WHAT.file, "boot": "x"})
    (outside / "journal").write_text(f"{header} {zlib.crc32(header.encode()):08x}\n")
    (folder / f"{ETAG}.00000000-1-00000000").symlink_to(outside)
    (folder / "notes.txt").write_text("mine")
    (folder / f"{ETAG}.backup").mkdir()
    before = sorted(path.name for path in folder.iterdir())
    part = new(folder, (0, 5))
    assert outdated(folder, Identity("cd" * 32, 1000, WHAT.repo, WHAT.file)) == []
    part.discard()
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.name for path in outside.iterdir()] == ["journal"]


def test_the_data_file_stays_the_one_that_was_opened(folder: Path) -> None:
    part = new(folder, (0, 5))
    with part.data.open("rb") as file:
        assert part.still_ours(file.fileno())
        shutil.copy(part.data, part.folder / "copy")
        os.replace(part.folder / "copy", part.data)
        assert not part.still_ours(file.fileno())
        part.data.unlink()
        assert not part.still_ours(file.fileno())
        part.data.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        assert not part.still_ours(file.fileno())
    part.discard()


def test_what_is_there_is_read_while_nobody_records(folder: Path) -> None:
    """Half an entry of the set would name bytes that are not there yet."""
    part = new(folder, (0, 10), (20, 30))
    seen: list[object] = []
    readers = [threading.Thread(target=lambda ask=ask: seen.append(ask())) for ask in (part.prefix, part.gaps)]
    with part.lock:
        for reader in readers:
            reader.start()
            reader.join(0.05)
        assert seen == []
    for reader in readers:
        reader.join()
    assert sorted(map(str, seen)) == sorted(map(str, (10, [(10, 20), (30, WHAT.size)])))
    part.close()

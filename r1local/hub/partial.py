"""An unfinished download on disk: its bytes, and a journal of which of them are there.

    .r1local/ETAG.OWNER/data       as large as the finished file, with holes
    .r1local/ETAG.OWNER/journal    a header, then a line for every stretch written; each line has its checksum

Killed at any moment, the journal names bytes that were written before it did. After a power cut the disk may hold less
than was written: then only stretches before the last "synced" line count, which is added once the data before it is
on the disk. OWNER names the process that writes: its host, its number, and when it and its machine were started. Only
a folder whose owner is gone is taken over, by renaming it, which one process alone can do; so two processes never
write one file, even where file locks do nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import stat
import threading
import time
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO

from r1local.errors import DiskFull

_FOLDER = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\.([0-9a-f]{8})-(\d+)-([0-9a-f]{8})")
_SPAN = re.compile(r"([0-9]{1,18}) ([0-9]{1,18})")
_SYNCED = "synced"
# A process on another machine that shares the disk counts as gone when it wrote nothing for so long.
_FOREIGN_PATIENCE_SECONDS = 180.0
_MAX_JOURNAL = 256 << 20


class Spans:
    """A set of byte positions, kept as sorted, disjoint stretches [start, end)."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0
        """How many positions are in the set."""

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        first = bisect_right(self._ends, start - 1)  # the first stretch that touches [start, end)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
            self.total -= sum(b - a for a, b in zip(self._starts[first:last], self._ends[first:last], strict=True))
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self.total += end - start

    def gaps(self, size: int) -> Iterator[tuple[int, int]]:
        """The stretches of [0, size) that are not in the set, in order."""
        at = 0
        for start, end in self:
            if start >= size:
                break
            if start > at:
                yield at, start
            at = end
        if at < size:
            yield at, size

    def prefix(self) -> int:
        """How far the set reaches without a hole from 0 on."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(list(self._starts), list(self._ends), strict=True))


@dataclass(frozen=True, slots=True)
class Identity:
    """What is being downloaded. A partial is continued only for the very same."""

    etag: str
    size: int
    repo: str
    file: str


class Partial:
    """A claimed partial: this process alone writes it. Threads may share it."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder = folder
        self.identity = identity
        self.done = Spans()
        self.data = folder / "data"
        self.lock = threading.Lock()
        self._journal: IO[bytes] | None = None
        self._unsynced = False

    def open(self) -> None:
        """Read the journal of an earlier run, keep what of it can be trusted, and go on from there."""
        spans = _read_journal(self.folder / "journal", self.identity)
        held = self.data.stat().st_size if self.data.exists() else 0
        for start, end in spans:
            self.done.add(start, min(end, held, self.identity.size))
        with self.data.open("ab") as file:
            file.truncate(self.identity.size)
        sync(self.data)
        # Written anew: short again, of this boot, and without the torn line a kill may have left at the end.
        self._rewrite(list(self.done))

    def record(self, start: int, end: int) -> None:
        """Note that the bytes [start, end) were written to the data file."""
        with self.lock:
            self.done.add(start, end)
            self._unsynced = True
            if self._journal is not None:
                self._journal.write(_line(f"{start} {end}"))

    def sync(self) -> None:
        """Bring what was written so far to the disk, and note that."""
        with self.lock:
            if not self._unsynced or self._journal is None:
                return
            written = list(self.done)
            self._unsynced = False
        sync(self.data)
        with self.lock:
            if self._journal is not None:
                self._rewrite(written)

    def _rewrite(self, synced: list[tuple[int, int]]) -> None:
        """The journal anew: what is surely on the disk, the marker, then everything that was written."""
        beside = self.folder / "journal.new"
        with beside.open("wb") as file:
            file.write(_line(json.dumps({**asdict(self.identity), "boot": boot_id()})))
            file.writelines(_line(f"{start} {end}") for start, end in synced)
            file.write(_line(_SYNCED))
            file.writelines(_line(f"{start} {end}") for start, end in self.done)
            file.flush()
            os.fsync(file.fileno())
        if self._journal is not None:
            self._journal.close()  # Windows renames over no open file
        os.replace(beside, self.folder / "journal")
        # Unbuffered: a line that a full disk refused must not come back when the file is closed.
        self._journal = (self.folder / "journal").open("ab", buffering=0)

    def close(self) -> None:
        """Let go of it: another run may take it over."""
        with self.lock:
            if self._journal is not None:
                self._journal.close()
                self._journal = None
        with _written_here_lock:
            _written_here.discard(self.folder)

    def discard(self) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def still_ours(self, handle: int) -> bool:
        """Whether the data file's name still leads to the file that was opened: nobody put another in its place."""
        try:
            there, here = os.stat(self.data, follow_symlinks=False), os.fstat(handle)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


# Partials that this process is writing, for its own threads to keep apart.
_written_here: set[Path] = set()
_written_here_lock = threading.Lock()


def claim(partials: Path, identity: Identity) -> Partial | None:
    """The partial of an earlier run that is gone, or a new one; None while somebody else writes one.

    The caller holds the file lock of the download where locks work, and closes or discards the partial.
    """
    if partials.is_symlink():
        partials.unlink()
    partials.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = partials / f"{identity.etag}.{owner()}"
    with _written_here_lock:
        if mine in _written_here:
            return None
        _written_here.add(mine)
    try:
        claimed = _adopt_or_make(partials, mine, identity)
    except BaseException:
        claimed = None
        raise
    finally:
        if claimed is None:
            with _written_here_lock:
                _written_here.discard(mine)
    return claimed


def _adopt_or_make(partials: Path, mine: Path, identity: Identity) -> Partial | None:
    for folder in _folders(partials):
        if folder.name.startswith(f"{identity.etag}.") and folder != mine:
            if _is_alive(folder):
                return None
            try:
                if mine.exists():
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    os.rename(folder, mine)
            except OSError:
                return None  # somebody else was faster
    if mine.is_symlink() or not _holds_plain_files(mine):
        # Not as we leave it: an archive may have brought it, with links to files that are none of ours.
        if mine.is_symlink() or not mine.is_dir():
            mine.unlink()
        else:
            shutil.rmtree(mine)
    mine.mkdir(mode=0o700, exist_ok=True)
    return Partial(mine, identity)


def _holds_plain_files(folder: Path) -> bool:
    """Whether everything in a partial's folder, which may not exist, is a regular file with no other name."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
    for entry in entries:
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or (os.name != "nt" and status.st_nlink != 1):
            return False
    return True


def outdated(partials: Path, identity: Identity) -> list[tuple[Path, int]]:
    """Abandoned partials of the same file with other content, and how much of it each holds."""
    found = []
    for folder in _folders(partials):
        header = _read_header(folder / "journal")
        if header is None or folder.name.startswith(f"{identity.etag}."):
            continue
        if header.get("file") == identity.file and header.get("repo") == identity.repo and not _is_alive(folder):
            found.append((folder, sum(end - start for start, end in _read_journal(folder / "journal", None))))
    return found


def held(partials: Path, etag: str) -> int:
    """How many bytes of a file are in a partial already."""
    return max(
        (
            sum(end - start for start, end in _read_journal(folder / "journal", None))
            for folder in _folders(partials)
            if folder.name.startswith(f"{etag}.")
        ),
        default=0,
    )


def _folders(partials: Path) -> list[Path]:
    try:
        return sorted(path for path in partials.iterdir() if _FOLDER.fullmatch(path.name) and not path.is_symlink())
    except OSError:
        return []


def _line(text: str) -> bytes:
    data = text.encode("ascii")
    return data + b" %08x\n" % zlib.crc32(data)


def _lines(path: Path) -> Iterator[str]:
    """The sound lines of a journal, up to the first that is not."""
    try:
        if path.stat().st_size > _MAX_JOURNAL:
            return
        data = path.read_bytes()
    except OSError:
        return
    for raw in data.split(b"\n")[:-1]:
        text, _, checksum = raw.rpartition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            return
        yield text.decode("ascii", "replace")


def _read_header(path: Path) -> dict[str, object] | None:
    for text in _lines(path):
        try:
            header = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return header if isinstance(header, dict) else None
    return None


def _read_journal(path: Path, identity: Identity | None) -> Spans:
    """What a journal says is there. Nothing when it is of another download."""
    spans, synced = Spans(), Spans()
    header: dict[str, object] | None = None
    for text in _lines(path):
        if header is None:
            header = _read_header(path) or {}
            if identity is not None and any(header.get(key) != value for key, value in asdict(identity).items()):
                return spans
        elif text == _SYNCED:
            synced = _copy(spans)
        else:
            match = _SPAN.fullmatch(text)
            if match is not None:
                spans.add(int(match[1]), int(match[2]))
    return spans if header is not None and header.get("boot") == boot_id() else synced


def _copy(spans: Spans) -> Spans:
    copy = Spans()
    for start, end in spans:
        copy.add(start, end)
    return copy


def sync(path: Path) -> None:
    with path.open("rb+") as file:
        getattr(os, "fdatasync", os.fsync)(file.fileno())


# Who owns a partial


@cache
def boot_id() -> str:
    """A text that is another one after every start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        return str(round(psutil.boot_time() / 60))


def _short_hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:8]


@cache
def _machine() -> str:
    """Which machine this is, and which of its containers: process numbers mean something only within."""
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        container = ""
    return _short_hash(platform.node(), container)


def _token(pid: int) -> str:
    """The owner text of a process of this machine. Raises psutil.NoSuchProcess."""
    return f"{_machine()}-{pid}-{_short_hash(boot_id(), _started(pid))}"


def _started(pid: int) -> str:
    """When a process was started, by a clock that nobody can set. Raises psutil.NoSuchProcess."""
    import psutil

    try:
        # Field 22 of proc(5), in ticks since boot; the name before it may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return str(psutil.Process(pid).create_time())


def owner() -> str:
    return _token(os.getpid())


def _is_alive(folder: Path) -> bool:
    """Whether the process that a partial belongs to may still be writing it."""
    import psutil

    match = _FOLDER.fullmatch(folder.name)
    if match is None:
        return False
    _, host, pid, start = match.groups()
    if host != _machine():
        journal = folder / "journal"
        try:
            written = (journal if journal.is_file() else folder).stat().st_mtime
        except OSError:
            return False
        return time.time() - written < _FOREIGN_PATIENCE_SECONDS
    if int(pid) == os.getpid():
        with _written_here_lock:
            return folder in _written_here
    try:
        if psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE:
            return False
        return _token(int(pid)) == f"{host}-{pid}-{start}"
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError, OverflowError):
        return True


_NO_SPACE = {28, 122, 27, 112}  # ENOSPC, EDQUOT, EFBIG, and what Windows says


def as_disk_full(error: BaseException) -> BaseException:
    """The sentence for a disk that cannot take more; any other error as it is."""
    if isinstance(error, OSError) and (error.errno in _NO_SPACE or getattr(error, "winerror", None) in _NO_SPACE):
        full = DiskFull(
            "The disk is full. What was fetched is kept.", "Free some space and pull again: it goes on from here."
        )
        full.__cause__ = error
        return full
    return error

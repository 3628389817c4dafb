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

import json
import os
import re
import shutil
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from r1local.errors import DiskFull
from r1local.hub.owner import PATTERN, boot_id, is_alive, owner
from r1local.hub.spans import Spans
from r1local.terminal import clean_line

_FOLDER = re.compile(rf"([0-9a-f]{{40}}|[0-9a-f]{{64}})\.({PATTERN})")
_SPAN = re.compile(r"([0-9]{1,18}) ([0-9]{1,18})")
_SYNCED = "synced"
# A process on another machine that shares the disk counts as gone when it wrote nothing for so long.
_FOREIGN_PATIENCE_SECONDS = 180.0
_MAX_JOURNAL = 256 << 20


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

    def gaps(self) -> list[tuple[int, int]]:
        """The stretches that are missing, in order. Other threads may be recording."""
        with self.lock:
            return list(self.done.gaps(self.identity.size))

    def prefix(self) -> int:
        """How many bytes are there without a hole from the start on. Other threads may be recording."""
        with self.lock:
            return self.done.prefix()

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
            found.append((folder, _read_journal(folder / "journal", None).total))
    return found


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A download that stopped, or is under way."""

    folder: Path
    repo: str
    file: str
    size: int
    """Bytes of the whole file."""
    held: int
    """Bytes of it that are here."""
    under_way: bool

    @property
    def name(self) -> str:
        return clean_line(f"{self.repo}/{self.file}")


def unfinished(partials: Path) -> list[Unfinished]:
    """What lies in a repository's folder of partials."""
    found = []
    for folder in _folders(partials):
        header = _read_header(folder / "journal") or {}
        repo, file, size = header.get("repo"), header.get("file"), header.get("size")
        if isinstance(repo, str) and isinstance(file, str) and isinstance(size, int):
            here = _read_journal(folder / "journal", None).total
            found.append(Unfinished(folder, repo, file, size, here, _is_alive(folder)))
    return found


def held(partials: Path, etag: str) -> int:
    """How many bytes of a file are in a partial already."""
    return max(
        (
            _read_journal(folder / "journal", None).total
            for folder in _folders(partials)
            if folder.name.startswith(f"{etag}.")
        ),
        default=0,
    )


def taken(partials: Path, etag: str) -> int:
    """How many bytes of the disk a file's unfinished copies take, those included that are fetched again."""
    total = 0
    for folder in _folders(partials):
        if folder.name.startswith(f"{etag}."):
            for file in folder.iterdir():
                status = file.lstat()
                total += status.st_blocks * 512 if hasattr(status, "st_blocks") else 0
    return total


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


def _is_alive(folder: Path) -> bool:
    """Whether the process that a partial belongs to may still be writing it."""
    match = _FOLDER.fullmatch(folder.name)
    if match is None:
        return False
    if match[2] == owner():
        with _written_here_lock:
            return folder in _written_here
    alive = is_alive(match[2])
    if alive is not None:
        return alive
    journal = folder / "journal"
    try:
        written = (journal if journal.is_file() else folder).stat().st_mtime
    except OSError:
        return False
    return time.time() - written < _FOREIGN_PATIENCE_SECONDS


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

"""The cache that all Hugging Face tools share: its layout, and which files in it may be opened.

    models--OWNER--NAME/blobs/ETAG              the bytes, under the checksum that names them
    models--OWNER--NAME/refs/REVISION           the commit a branch or tag pointed to
    models--OWNER--NAME/snapshots/COMMIT/FILE   a relative link to ../../blobs/ETAG
    .locks/models--OWNER--NAME/ETAG.lock        held by whoever downloads that blob
    blobs/XX/HASH                               what several repositories share, linked to from their blobs

Layout: huggingface_hub, "Understand caching", and its file_download.py. Where symbolic links cannot be made (Windows
without the right to), the file itself lies in the snapshot.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHARED = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This file is a cache directory tag created by huggingface_hub.\n"
    b"# For information about cache directory tags, see:\n#\thttps://bford.info/cachedir/\n"
)


def cache_folder() -> Path:
    """HF_HUB_CACHE, or its place under HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@dataclass(frozen=True, slots=True)
class CachedRepo:
    """One model repository's folder, which may not be there yet."""

    cache: Path
    id: str

    @property
    def folder(self) -> Path:
        return self.cache / f"models--{self.id.replace('/', '--')}"

    @property
    def locks(self) -> Path:
        return self.cache / ".locks" / self.folder.name

    @property
    def partials(self) -> Path:
        """Unfinished downloads of ours. A name that the other tools pass over."""
        return self.folder / ".r1local"

    def blob(self, etag: str) -> Path:
        if not _BLOB.fullmatch(etag):
            raise ValueError(f"no name of a blob: {etag!r}")
        return self.folder / "blobs" / etag

    def snapshot(self, commit: str, name: str = "") -> Path:
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"no commit: {commit!r}")
        return self.folder / "snapshots" / commit / name

    def prepare(self) -> None:
        """Make the folders, and the tag that tells backup programs to pass the cache over."""
        for folder in (self.folder / "blobs", self.folder / "snapshots", self.folder / "refs", self.locks):
            folder.mkdir(parents=True, exist_ok=True)
        tag = self.cache / "CACHEDIR.TAG"
        if not tag.exists():
            try:
                tag.write_bytes(_TAG)
            except OSError:
                pass

    def snapshots(self) -> list[Path]:
        """The folders of all commits here: the one `refs/main` names first, the others by age, the newest first."""
        folder = self.folder / "snapshots"
        try:
            found = [entry for entry in folder.iterdir() if _COMMIT.fullmatch(entry.name) and _is_real_folder(entry)]
            ages = {entry: entry.stat().st_mtime for entry in found}
        except OSError:
            return []
        main = self.commit_of("main")
        return sorted(found, key=lambda entry: (entry.name != main, -ages[entry], entry.name))

    def commit_of(self, revision: str) -> str:
        """The commit a branch or tag pointed to when it was last looked up; empty when it was not."""
        try:
            text = (self.folder / "refs" / revision).read_text(encoding="ascii")
        except (OSError, ValueError):
            return ""
        return text if _COMMIT.fullmatch(text) else ""

    def revisions_of(self, commit: str) -> list[Path]:
        """The files under refs that name `commit`."""
        folder = self.folder / "refs"
        return [path for path in _files_below(folder) if _reads(path, commit)] if folder.is_dir() else []

    def allows(self, path: Path) -> bool:
        """Whether a file of a snapshot may be opened.

        It may be a regular file, or a link to a regular file among this repository's own blobs, which again may be a
        link into the cache's shared blobs. A link that leads anywhere else was not made by a downloader: a repository
        or an archive can carry links to any file of this machine.
        """
        try:
            inside = path.relative_to(self.folder / "snapshots")
        except ValueError:
            return False
        step = self.folder / "snapshots"
        if ".." in inside.parts or not _is_real_folder(step):
            return False
        for part in inside.parts[:-1]:
            step = step / part
            if not _is_real_folder(step):
                return False
        return self._blob_behind(path) is not None

    def etag_of(self, path: Path) -> str:
        """The name of the blob behind a file of a snapshot; empty when the file itself lies there."""
        blob = self._blob_behind(path)
        return blob.name if blob is not None and blob != path else ""

    def _blob_behind(self, path: Path) -> Path | None:
        try:
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                return path
            if not stat.S_ISLNK(mode):
                return None
            blob = _target(path)
            if blob.parent != Path(os.path.abspath(self.folder / "blobs")) or not _BLOB.fullmatch(blob.name):
                return None
            return blob if self.holds(blob.name) else None
        except (OSError, ValueError):
            return None

    def holds(self, etag: str) -> bool:
        """Whether this blob is here: a regular file, or a link to one among the cache's shared blobs."""
        blob = self.blob(etag)
        try:
            if not _is_real_folder(blob.parent):
                return False
            mode = blob.lstat().st_mode
            if stat.S_ISREG(mode):
                return True
            shared = _target(blob) if stat.S_ISLNK(mode) else blob
            store = Path(os.path.abspath(self.cache / "blobs"))
            if not shared.is_relative_to(store) or not _SHARED.fullmatch(shared.relative_to(store).as_posix()):
                return False
            return stat.S_ISREG(shared.lstat().st_mode) and _is_real_folder(shared.parent)
        except (OSError, ValueError):
            return False

    def links_to(self, etag: str) -> list[Path]:
        """The files of all snapshots that lead to this blob."""
        return [path for snapshot in self.snapshots() for path in _files_below(snapshot) if self.etag_of(path) == etag]

    def link(self, commit: str, name: str, etag: str, *, own: bool = False) -> Path:
        """Make the snapshot's file for a blob that is here, atomically.

        Where links cannot be made the bytes go there: moved if the blob is `own`, of this run, so that nothing else
        can lead to it yet, and copied otherwise.
        """
        target = self.snapshot(commit, name)
        if self.allows(target) and self.etag_of(target) == etag:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        blob = self.blob(etag)
        beside = target.with_name(f".{secrets.token_hex(4)}.link")
        if links_wanted():
            try:
                os.symlink(os.path.relpath(blob, target.parent), beside)
                os.replace(beside, target)
                return target
            except (OSError, NotImplementedError):
                beside.unlink(missing_ok=True)
        try:
            if own:
                os.replace(blob, target)
            else:
                shutil.copyfile(blob, beside)
                os.replace(beside, target)
        except OSError:
            beside.unlink(missing_ok=True)
            if not self.allows(target):  # unless another process was faster
                raise
        return target

    def set_revision(self, revision: str, commit: str) -> None:
        """Remember what a branch or tag points to now."""
        if commit in (revision, self.commit_of(revision)):
            return
        path = self.folder / "refs" / revision
        # Not among the refs, for a scan takes every file there for one.
        beside = self.folder / f".{secrets.token_hex(4)}.ref"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(commit, encoding="ascii")
            os.replace(beside, path)
        except OSError:
            # A branch where there was a folder of branches, or a full disk: the files are here all the same.
            beside.unlink(missing_ok=True)


def links_wanted() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_SYMLINKS


def repo_of(path: Path) -> CachedRepo | None:
    """The repository a file of the cache belongs to; None for a file that is elsewhere."""
    cache = cache_folder()
    try:
        parts = path.absolute().relative_to(cache.absolute()).parts
    except ValueError:
        return None
    if len(parts) < 4 or parts[1] != "snapshots":
        return None
    return _repo_in(cache, parts[0])


def cached_repos() -> Iterator[CachedRepo]:
    """Every model repository in the cache."""
    cache = cache_folder()
    try:
        names = sorted(entry.name for entry in os.scandir(cache))
    except OSError:
        return
    for name in names:
        repo = _repo_in(cache, name)
        if repo is not None:
            yield repo


def _repo_in(cache: Path, name: str) -> CachedRepo | None:
    kind, _, rest = name.partition("--")
    owner, _, repo = rest.partition("--")
    return CachedRepo(cache, f"{owner}/{repo}") if kind == "models" and owner and repo else None


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders, and writes names through by itself
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _target(link: Path) -> Path:
    """Where a link leads, one step, without a look at what is there."""
    return Path(os.path.abspath(link.parent / os.readlink(link)))


def _is_real_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _files_below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder, followlinks=False):
        for name in sorted(names):
            yield Path(root) / name


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="ascii") == text
    except (OSError, ValueError):
        return False

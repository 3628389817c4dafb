"""Taking a model away: what goes, what stays because something else needs it, and how much that frees."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from r1local import paths
from r1local.errors import UsageError
from r1local.hf_cache import CachedRepo
from r1local.store import CACHE, FOLDER, PACKAGE, LocalModel
from r1local.store.carry import MANIFEST

_PAPERS = ("README", "LICENSE", "LICENCE", "NOTICE", ".GITATTRIBUTES")


@dataclass(frozen=True, slots=True)
class Removal:
    """What `carry_out` will take away."""

    local: LocalModel
    files: tuple[Path, ...]
    """Links, files and blobs; links first, so that none ever leads nowhere."""
    folder: Path | None
    """A folder that goes as a whole, with whatever papers lie in it."""
    frees: int
    """Bytes."""
    notes: tuple[str, ...]
    """What stays, and why."""


def plan_removal(local: LocalModel) -> Removal:
    """Raises UsageError for a file that is not ours to take away."""
    if local.origin == PACKAGE and local.model is not None and local.model.package is not None:
        package = local.model.package.module.replace("_", "-")
        raise UsageError(f"{local.name} is part of a Python package.", f"To remove it: pip uninstall {package}")
    if local.origin == CACHE and local.repo is not None:
        return _from_cache(local, local.repo)
    if local.origin != FOLDER:
        raise UsageError(f"{local.path} is not in r1local's store.", "Delete the file yourself.")
    return _from_folder(local)


def carry_out(removal: Removal) -> None:
    """Raises OSError."""
    for file in removal.files:
        file.unlink(missing_ok=True)
    if removal.folder is not None:
        shutil.rmtree(removal.folder, ignore_errors=True)
    repo = removal.local.repo
    if repo is not None:
        if removal.folder == repo.folder:
            shutil.rmtree(repo.locks, ignore_errors=True)
        else:
            _drop_empty_snapshots(repo)


def _from_folder(local: LocalModel) -> Removal:
    parts = [part for part in local.parts if os.path.lexists(part)]
    frees, notes = 0, []
    for part in parts:
        if part.is_symlink():
            notes.append(f"Only the link goes; the file stays in {os.path.realpath(part)}.")
        elif part.stat().st_nlink > 1:
            notes.append(f"{part.name} has another name elsewhere on this disk: its bytes stay.")
        else:
            frees += part.stat().st_size
    folder = local.path.parent
    whole = folder != paths.models_folder() and (folder / MANIFEST).is_file()
    return Removal(local, tuple(parts), folder if whole else None, frees, tuple(notes))


def _from_cache(local: LocalModel, repo: CachedRepo) -> Removal:
    """The file in every snapshot that has it, and its blob unless another file of the repository is the same."""
    links: list[Path] = []
    blobs: list[Path] = []
    notes: list[str] = []
    frees = 0
    for part in local.parts:
        etag = repo.etag_of(part)
        if not etag:  # no links on this system: the snapshot holds the bytes
            links.append(part)
            frees += part.stat().st_size
            continue
        inside = _inside(part, repo)
        all_links = repo.links_to(etag)
        mine = [link for link in all_links if _inside(link, repo) == inside]
        links += mine
        blob = repo.blob(etag)
        if len(mine) < len(all_links):
            notes.append(f"The bytes of {part.name} stay: another file of {repo.id} is the same.")
            continue
        blobs.append(blob)
        if blob.is_symlink():
            notes.append(f"The bytes of {part.name} are shared by several repositories: `hf cache prune` frees them.")
        elif blob.stat().st_nlink > 1:
            notes.append(f"The bytes of {part.name} have another name on this disk: they stay.")
        else:
            frees += blob.stat().st_size
    going = {*links, *blobs}
    rest = [path for path in _files(repo.folder / "snapshots") if path not in going]
    if all(path.name.upper().startswith(_PAPERS) for path in rest) and not _files(repo.partials):
        others = [path for path in _files(repo.folder / "blobs") if path not in going and not path.is_symlink()]
        frees += sum(path.stat().st_size for path in others)
        return Removal(local, (*links, *blobs), repo.folder, frees, tuple(notes))
    return Removal(local, (*links, *blobs), None, frees, tuple(notes))


def _inside(path: Path, repo: CachedRepo) -> tuple[str, ...]:
    """A file's place in its snapshot."""
    return path.relative_to(repo.folder / "snapshots").parts[1:]


def _files(folder: Path) -> list[Path]:
    return [Path(root) / name for root, _, names in os.walk(folder) for name in names]


def _drop_empty_snapshots(repo: CachedRepo) -> None:
    """Folders of commits that hold nothing any more, with the branches that named them."""
    for snapshot in repo.snapshots():
        for root, _, _ in os.walk(snapshot, topdown=False):
            if not os.listdir(root):
                os.rmdir(root)
        if not snapshot.exists():
            for revision in repo.revisions_of(snapshot.name):
                revision.unlink(missing_ok=True)

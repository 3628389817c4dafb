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
from r1local.store.carry import MANIFEST, imported_files, is_paper


@dataclass(frozen=True, slots=True)
class Removal:
    """What `carry_out` will take away."""

    local: LocalModel
    files: tuple[Path, ...]
    """Links, files and blobs; links first, so that none ever leads nowhere."""
    folder: Path | None
    """A repository's folder, when nothing is left in it but papers."""
    frees: int
    """Bytes."""
    notes: tuple[str, ...]
    """What stays, and why."""


def plan_removal(local: LocalModel) -> Removal:
    """Raises UsageError for a file that is not ours to take away."""
    if local.origin == PACKAGE and local.model is not None and local.model.package is not None:
        if local.is_inside:
            raise UsageError(f"{local.name} is a part of r1local.", "It cannot be removed alone.")
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
    repo = removal.local.repo
    if repo is None:
        folder = removal.local.path.parent
        if folder != paths.models_folder() and not os.listdir(folder):
            folder.rmdir()
    elif removal.folder is not None:
        shutil.rmtree(removal.folder, ignore_errors=True)
        shutil.rmtree(repo.locks, ignore_errors=True)
    else:
        _drop_empty_snapshots(repo)


def _from_folder(local: LocalModel) -> Removal:
    """The file, and of an import the papers that came with it; nothing that lies behind a linked folder."""
    home = Path(os.path.realpath(paths.models_folder()))
    folder = local.path.parent
    if not Path(os.path.realpath(folder)).is_relative_to(home):
        raise UsageError(f"{local.path} lies behind a link to another folder.", "Delete the file yourself.")
    going = [part for part in local.parts if os.path.lexists(part)]
    imported = imported_files(folder)
    if local.path.name in imported:
        going += [folder / name for name in (*imported, MANIFEST) if folder / name not in going]
    frees, notes = 0, []
    for file in going:
        if file.is_symlink():
            notes.append(f"Only the link goes; the file stays in {os.path.realpath(file)}.")
        elif not file.is_file():
            continue
        elif file.stat().st_nlink > 1:
            notes.append(f"{file.name} has another name elsewhere on this disk: its bytes stay.")
        else:
            frees += file.stat().st_size
    return Removal(local, tuple(file for file in going if os.path.lexists(file)), None, frees, tuple(notes))


def _from_cache(local: LocalModel, repo: CachedRepo) -> Removal:
    """The file in every version that is here, and its blobs but for those that another file is the same as."""
    links = [path for part in local.parts for path in _in_all_snapshots(part, repo)]
    blobs: list[Path] = []
    notes: list[str] = []
    frees = 0
    for etag in dict.fromkeys(repo.etag_of(link) for link in links):
        if not etag:  # no links on this system: the snapshot holds the bytes
            frees += sum(link.stat().st_size for link in links if not repo.etag_of(link))
            continue
        blob = repo.blob(etag)
        if set(repo.links_to(etag)) - set(links):
            notes.append(f"The bytes of {local.path.name} stay: another file of {repo.id} is the same.")
            continue
        blobs.append(blob)
        if blob.is_symlink():
            notes.append(f"{local.path.name} is shared by several repositories: `hf cache prune` frees its bytes.")
        elif blob.stat().st_nlink > 1:
            notes.append(f"The bytes of {local.path.name} have another name on this disk: they stay.")
        else:
            frees += blob.stat().st_size
    going = {*links, *blobs}
    rest = [path for path in _files(repo.folder / "snapshots") if path not in going]
    under_way = _files(repo.partials) or list((repo.folder / "blobs").glob("*.incomplete"))
    if all(is_paper(path.name) or path.name == ".gitattributes" for path in rest) and not under_way:
        others = [path for path in _files(repo.folder / "blobs") if path not in going and not path.is_symlink()]
        frees += sum(path.stat().st_size for path in others)
        return Removal(local, (*links, *blobs), repo.folder, frees, tuple(notes))
    return Removal(local, (*links, *blobs), None, frees, tuple(notes))


def _in_all_snapshots(path: Path, repo: CachedRepo) -> list[Path]:
    """A file of a snapshot, and the ones in its place in the others."""
    inside = Path(*path.relative_to(repo.folder / "snapshots").parts[1:])
    return [
        snapshot / inside
        for snapshot in repo.snapshots()
        if os.path.lexists(snapshot / inside) and repo.allows(snapshot / inside)
    ]


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

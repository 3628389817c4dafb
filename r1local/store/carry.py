"""Model files into the models folder, and out to another machine: linked, copied, checked on the way."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shlex
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1local import paths
from r1local.checksums import Checksums
from r1local.errors import ChecksumMismatch, DiskFull, ModelFileError, ModelNotFound, UsageError
from r1local.gguf_header import read_header
from r1local.gguf_types import GgufHeader
from r1local.hf_cache import sync_folder
from r1local.names import unsafe_name
from r1local.store import LocalModel
from r1local.units import amount

MANIFEST = "manifest.json"
_FORMAT = "r1local model"
_MAX_MANIFEST = 1 << 20
_BLOCK = 4 << 20
_PAPERS = ("README", "LICENSE", "LICENCE", "NOTICE")

OnProgress = Callable[[str, int, int], None]
"""on_progress(file name, bytes done, bytes in all); may raise to stop."""


@dataclass(frozen=True, slots=True)
class Imported:
    path: Path
    linked: bool
    """Whether the bytes stayed where they were."""


def file_name_of(header: GgufHeader, title: str) -> str:
    """What to call a model file whose own name tells nothing, from what its store calls it.

    Not from its metadata: whoever made the file could call it anybody's.
    """
    stem = title if title.upper().endswith(header.quantization) else f"{title}-{header.quantization}"
    return f"{stem}.gguf" if not unsafe_name(f"{stem}.gguf") else f"model-{header.quantization}.gguf"


def bring(source: Path, name: str = "", *, copy: bool = False, on_progress: OnProgress = lambda *_: None) -> Imported:
    """Make a model file be found in the models folder, by a link to it or as a copy; all parts of a split one.

    `name` is what to call it there. Raises ModelFileError for what is no sound GGUF, UsageError, DiskFull; nothing
    is left behind then.
    """
    header = read_header(source)
    folder = paths.ensure_folder(paths.models_folder())
    targets = {}
    for part in (source, *header.parts):
        wanted = name if name and not header.parts else part.name
        stem = wanted[: -len(".gguf")] if wanted.lower().endswith(".gguf") else Path(wanted).stem
        target = targets[part] = folder / f"{stem}.gguf"
        why = unsafe_name(target.name) or ("it is hidden" if target.name.startswith(".") else "")
        if why:
            raise UsageError(f"{target.name!r} is no name for a model file: {why}.", "Rename it first.")
        if os.path.lexists(target) and target.exists() and os.path.realpath(target) != os.path.realpath(part):
            raise UsageError(
                f"There is a {target.name} in the models folder already.",
                f"`r1local rm {shlex.quote(target.stem)}` takes it away.",
            )
    missing = [part for part, target in targets.items() if not target.exists()]
    if copy:
        _check_space(folder, sum(part.stat().st_size for part in missing))
    made: list[Path] = []
    try:
        for part in reversed(missing):  # the first part makes it appear, so it comes last
            target = targets[part]
            if target.is_symlink():
                target.unlink()  # to a file that is gone
            made.append(target)
            if copy:
                _copy(part, target, _reporter(on_progress, part.name, part.stat().st_size))
            else:
                _link(part.absolute(), target)
    except BaseException:
        for target in made:
            target.unlink(missing_ok=True)
        raise
    return Imported(targets[source], linked=not copy)


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source, target)
    except (OSError, NotImplementedError):
        try:
            os.link(source, target)  # Windows lets anybody make these, on the same disk
        except OSError as error:
            raise UsageError(
                f"No link to {source} can be made here: {error.strerror or error}.", "Copy it with --copy."
            ) from error


def export(
    local: LocalModel, folder: Path, checksums: Checksums, *, on_progress: OnProgress = lambda *_: None
) -> list[Path]:
    """Write the model, its papers and a manifest with checksums into `folder`. The files that were written.

    Raises ChecksumMismatch when the file here is damaged, DiskFull, UsageError, ModelFileError.
    """
    header = read_header(local.path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be made: {error.strerror or error}.", "Name another one."
        ) from error
    sources = [local.path, *header.parts, *_papers(local)]
    there = [source for source in sources if _is_there(source, folder / source.name)]
    if (folder / MANIFEST).exists() and local.path not in there:
        raise UsageError(f"{folder} holds another model already.", f"Name another folder: {folder / local.path.stem}")
    _check_space(folder, sum(source.stat().st_size for source in sources if source not in there))
    entries, written = [], []
    for source in sources:
        target = folder / source.name
        size = source.stat().st_size
        if source in there:
            digest = _sha256(target, checksums, _reporter(on_progress, source.name, size))
            if digest != _sha256(source, checksums, _reporter(on_progress, source.name, size)):
                raise UsageError(f"{target} is another file.", f"Name another folder: {folder / local.path.stem}")
        else:
            digest = _copy(source, target, _reporter(on_progress, source.name, size))
        etag = local.repo.etag_of(source) if local.repo is not None else ""
        if len(etag) == 64 and digest != etag:
            target.unlink()
            raise ChecksumMismatch(
                f"{source.name} is damaged: its checksum is {digest[:12]}…, and {etag[:12]}… was published.",
                f"Get it again: r1local pull {local.name}",
            )
        checksums.remember(source, digest)
        entries.append({"name": source.name, "size": size, "sha256": digest})
        written.append(target)
    model = local.model
    manifest = {
        "format": _FORMAT,
        "version": 1,
        "model": local.name,
        "quantization": header.quantization,
        "licence": model.licences if model else str(header.metadata.get("general.license", "")),
        "repository": local.repo.id if local.repo else "",
        "commit": local.path.relative_to(local.repo.folder).parts[1] if local.repo else "",
        "template_sha256": hashlib.sha256((header.chat_template or "").encode("utf-8", "replace")).hexdigest(),
        "files": entries,
    }
    paths.atomic_write(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False).encode())
    return [*written, folder / MANIFEST]


def _sha256(path: Path, checksums: Checksums, report: Callable[[int], None]) -> str:
    known = checksums.known(path)
    return known if len(known) == 64 else checksums.compute(path, on_progress=report)


def _reporter(on_progress: OnProgress, name: str, size: int) -> Callable[[int], None]:
    return lambda done: on_progress(name, done, size)


def _is_there(source: Path, target: Path) -> bool:
    """Whether an export that was broken off wrote this file already. Raises UsageError where another one is there."""
    if not os.path.lexists(target):
        return False
    if not target.is_file() or target.is_symlink() or target.stat().st_size != source.stat().st_size:
        raise UsageError(f"{target} is there already.", f"Name another folder: {target.parent / source.stem}")
    return True


def _papers(local: LocalModel) -> list[Path]:
    """README and licence that lie beside the model in its repository, or in its folder of an import."""
    root = local.path.parent
    if local.repo is not None:
        commit = local.path.relative_to(local.repo.folder).parts[1]
        root = local.repo.snapshot(commit)
    elif root == paths.models_folder() or not (root / MANIFEST).is_file():
        return []
    found = [path for path in sorted(root.iterdir()) if is_paper(path.name) and path.is_file()]
    return [path for path in found if local.repo is None or local.repo.allows(path)]


def bring_folder(folder: Path, checksums: Checksums, *, on_progress: OnProgress = lambda *_: None) -> Imported:
    """Copy an exported model into the models folder, checking every byte of it against its manifest.

    Raises ModelNotFound, ModelFileError, ChecksumMismatch, DiskFull, UsageError. Nothing appears before all is right.
    """
    name, entries = _read_manifest(folder)
    home = paths.ensure_folder(paths.models_folder())
    target = home / name
    if target.exists():
        raise UsageError(
            f"{name} is in the models folder already.", f"`r1local rm {target / entries[0][0]}` takes it away."
        )
    _check_space(home, sum(size for _, size, _ in entries))
    for left in home.glob(f".{glob.escape(name)}.import*"):  # of an import that was killed
        shutil.rmtree(left, ignore_errors=True)
    beside = home / f".{name}.import{os.getpid()}"
    beside.mkdir(mode=0o700)
    try:
        for file, size, sha256 in entries:
            source = folder / file
            if not source.exists():
                raise ModelFileError(f"{file} is missing in {folder}.", "Copy the whole folder again.")
            if not stat.S_ISREG(source.lstat().st_mode):
                raise ModelFileError(f"{file} in {folder} is not a plain file.", "Copy the folder again.")
            if source.stat().st_size != size:
                raise ModelFileError(
                    f"{file} has {source.stat().st_size:,} bytes, and its manifest says {size:,}.", "Copy it again."
                )
            digest = _copy(source, beside / file, _reporter(on_progress, file, size), _plain_only)
            if digest != sha256:
                raise ChecksumMismatch(f"{file} was damaged on the way: its checksum is wrong.", "Copy it again.")
        shutil.copyfile(folder / MANIFEST, beside / MANIFEST)
        read_header(beside / entries[0][0])
        os.replace(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(home)
    for file, _, sha256 in entries:
        checksums.remember(target / file, sha256)
    return Imported(target / entries[0][0], linked=False)


def imported_files(folder: Path) -> dict[str, str]:
    """The files of an imported model and their checksums, by its manifest; none where there is no manifest."""
    try:
        _, entries = _read_manifest(folder)
    except (ModelNotFound, ModelFileError):
        return {}
    return {name: sha256 for name, _, sha256 in entries}


def is_paper(name: str) -> bool:
    """Whether a file is there to be read by people: what a model is, and under which licence."""
    return name.upper().startswith(_PAPERS) and not name.lower().endswith(".gguf")


def _read_manifest(folder: Path) -> tuple[str, list[tuple[str, int, str]]]:
    """The name for the model's folder, and name, size and checksum of each file, the model first."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelNotFound(
            f"{folder} has no {MANIFEST}.", "Name a folder that `r1local export` wrote, or a .gguf file."
        )
    wrong = ModelFileError(f"{path} is not a manifest of r1local.", "Export the model again.")
    if path.stat().st_size > _MAX_MANIFEST:
        raise wrong
    try:
        data: Any = json.loads(path.read_bytes())
        if data["format"] != _FORMAT or data["version"] != 1:
            raise wrong
        entries = [(entry["name"], entry["size"], entry["sha256"]) for entry in data["files"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise wrong from None
    for name, size, sha256 in entries:
        if not (isinstance(name, str) and isinstance(size, int) and isinstance(sha256, str)) or not 0 <= size < 2**63:
            raise wrong
        if "/" in name or unsafe_name(name) or name.startswith(".") or name == MANIFEST:
            raise ModelFileError(f"{path} names a file {name!r}, which is refused.", "Do not trust its source.")
    if (
        not entries
        or not entries[0][0].lower().endswith(".gguf")
        or len({n.lower() for n, _, _ in entries}) < len(entries)
    ):
        raise wrong
    return entries[0][0][: -len(".gguf")], entries


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + (64 << 20) > free:
        raise DiskFull(
            f"{amount(size)} are to be written, and {amount(free)} are free in {folder}.", "Free some space."
        )


def _plain_only(path: str, flags: int) -> int:
    """Open a file whose folder a stranger may have filled: no link, no device, no pipe."""
    handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ModelFileError(f"{path} is not a plain file.", "Copy the folder again.")
    return handle


def _copy(
    source: Path,
    target: Path,
    on_progress: Callable[[int], None],
    opener: Callable[[str, int], int] | None = None,
) -> str:
    """Copy beside, sync, rename; the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    done = 0
    try:
        with open(source, "rb", buffering=0, opener=opener) as reader, beside.open("wb", buffering=0) as writer:
            while block := reader.read(_BLOCK):
                digest.update(block)
                view = memoryview(block)
                while view:
                    view = view[writer.write(view) :]
                done += len(block)
                on_progress(done)
            os.fsync(writer.fileno())
        os.replace(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno in (28, 122):
            raise DiskFull(f"The disk of {target.parent} is full.", "Free some space.") from error
        if error.errno == 27:
            raise DiskFull(
                f"The disk of {target.parent} takes no file as large as {source.name}.",
                "FAT32 ends at 4 GB: format it as exFAT, or use another one.",
            ) from error
        raise
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return digest.hexdigest()

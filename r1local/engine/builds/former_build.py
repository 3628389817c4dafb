"""Keeps the installed llama-cpp-python while another is put in its place, and puts it back.

Without a network and without a compiler: it is a copy of the files, as the package's own list (RECORD) names them. A
journal is written when the copy is whole and taken away when the new build has passed its test. Whoever finds one
later finds an installation that was killed, and puts the copy back; that can itself be killed and done again.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from r1local import paths
from r1local.engine.library import PACKAGE
from r1local.errors import DiskFull, EngineError, UsageError
from r1local.units import amount

# What wheels of it are known to put beside one another. Other packages may share the last three.
_FOLDERS = ("llama_cpp", "llama_cpp_python.libs", "lib", "include", "bin")
_NO_SPACE = {28, 122, 112}  # ENOSPC, EDQUOT, and what Windows says


@contextmanager
def locked() -> Iterator[None]:
    """Only one r1local at a time changes the build of an environment. Raises UsageError."""
    from filelock import FileLock, Timeout

    path = paths.lock_file(paths.former_build_folder())
    paths.ensure_folder(path.parent)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        raise UsageError("Another r1local is installing a build right now.", "Wait until it is done.") from error


def keep() -> int:
    """Copy the installed build away; how many bytes it has, 0 where none is installed.

    Raises DiskFull or another error before anything was changed.
    """
    folder = paths.former_build_folder()
    shutil.rmtree(folder, ignore_errors=True)  # without a journal: a copy that was never finished
    files = _installed_files()
    needed = sum(path.stat().st_size for path in files)
    advice = f"Free some space, or move {paths.home()} with R1LOCAL_HOME."
    try:
        paths.ensure_folder(folder)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise DiskFull(
                f"To be put back, the present build is copied: {amount(needed)}, and the disk of {folder} has "
                f"{amount(free)}. Nothing was changed.",
                advice,
            )
        for number, path in enumerate(files):
            _copy(path, folder / str(number))
        journal = {
            "files": [str(path) for path in files],
            "within": [str(path) for path in _within()],
            "beside": [str(path) for root in _roots() if root.is_dir() for path in root.iterdir()],
        }
        paths.atomic_write(_journal(), json.dumps(journal).encode())
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and {error.errno, getattr(error, "winerror", 0)} & _NO_SPACE:
            raise DiskFull(
                f"The disk of {folder} is full: the present build could not be copied. Nothing was changed.", advice
            ) from error
        raise
    return needed


def note_installer(pid: int) -> None:
    """Remember the process that does the work: it outlives us where we are killed alone."""
    import psutil

    try:
        text = f"{pid} {psutil.Process(pid).create_time()}"
    except psutil.Error:  # over already
        return
    (paths.former_build_folder() / "installer").write_text(text)


def is_unfinished() -> bool:
    """Whether an installation was begun here and not brought to its end."""
    return _journal().exists()


def put_back() -> str:
    """Undo an unfinished installation; a sentence that says what is installed now.

    Raises UsageError while the installer still works, EngineError where the files cannot be written.
    """
    _check_installer()
    try:
        journal = json.loads(_journal().read_bytes())
        files, within, beside = ([Path(text) for text in journal[key]] for key in ("files", "within", "beside"))
        _clear_away({*files, *within})
        _clear_set_aside(set(beside), files)
        for number, path in enumerate(files):
            _restore(paths.former_build_folder() / str(number), path)
        _drop_empty_folders(set(beside))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"The former build could not be put back: {error}.",
            "Close other programs that use it and free some space; then type: r1local backend",
        ) from error
    forget()
    return "The former build is back." if files else "There was no build before, and there is none now."


def forget() -> None:
    """The new build is good: the copy is not needed any more."""
    _journal().unlink(missing_ok=True)
    shutil.rmtree(paths.former_build_folder(), ignore_errors=True)


def _journal() -> Path:
    return paths.former_build_folder() / "journal.json"


def _check_installer() -> None:
    import psutil

    try:
        pid, started = (paths.former_build_folder() / "installer").read_text().split()
        process = psutil.Process(int(pid))
        alive = process.create_time() == float(started) and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.Error):
        return
    if alive:
        raise UsageError(
            f"An installation of llama-cpp-python is still under way (process {pid}).",
            "Wait until it is done, or end it; then type: r1local backend",
        )


def _roots() -> list[Path]:
    """The folders pip installs into from here; a package found elsewhere is another environment's, and stays."""
    found = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return [Path(path) for path in dict.fromkeys(map(os.path.realpath, found))]


def _installed_files() -> list[Path]:
    """Every file of the build that an installation would take away, bytecode that Python added included.

    Raises UsageError where nobody knows them.
    """
    files: list[Path] = []
    for found in metadata.distributions(name=PACKAGE, path=[str(root) for root in _roots()]):
        if found.files is None:
            raise UsageError(
                "The installed llama-cpp-python has no list of its files (RECORD), so it could not be put back.",
                "It was not installed by pip or uv: change it with the tool that did.",
            )
        files += [*_listed(found), *Path(str(found.locate_file("llama_cpp"))).rglob("*")]
    return [path for path in dict.fromkeys(files) if path.is_file()]


def _listed(found: metadata.Distribution) -> list[Path]:
    """The files a package names as its own, within this environment: the list came with the package."""
    ours = [Path(os.path.realpath(sys.prefix)), *_roots()]
    files = [Path(os.path.normpath(str(found.locate_file(entry)))) for entry in found.files or ()]
    return [path for path in files if any(path.is_relative_to(place) for place in ours)]


def _folders() -> list[Path]:
    """Where files of any build may lie."""
    return [
        folder
        for root in _roots()
        for folder in [*(root / name for name in _FOLDERS), *root.glob("llama_cpp_python-*.dist-info")]
    ]


def _within() -> list[Path]:
    return [path for folder in _folders() for path in folder.rglob("*") if path.is_file()]


def _copy(source: Path, target: Path) -> None:
    """With times, which the self-test's memory goes by; and written to the disk, for a power cut may follow."""
    shutil.copy2(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _clear_away(before: set[Path]) -> None:
    """Delete what the new build or a killed installer left, and nothing of anybody else's."""
    roots = [str(root) for root in _roots()]
    left = {path for new in metadata.distributions(name=PACKAGE, path=roots) for path in _listed(new)}
    left = {*left, *_within()} - before
    if left:
        left -= {path for other in metadata.distributions(path=roots) if _is_another(other) for path in _listed(other)}
    for path in sorted(left, key=lambda path: path.name == "RECORD"):  # the list last: it may be read again
        path.unlink(missing_ok=True)


def _is_another(found: metadata.Distribution) -> bool:
    try:
        return found.name.lower().replace("_", "-") != PACKAGE
    except (AttributeError, TypeError):  # it has no METADATA: the half of an installation
        return False


def _clear_set_aside(before: set[Path], files: list[Path]) -> None:
    """pip sets a folder aside as ~older while it replaces it."""
    names = {path.relative_to(root).parts[0] for root in _roots() for path in files if path.is_relative_to(root)}
    for root in _roots():
        for path in set(root.glob("~*")) - before:
            if any(len(path.name) == len(name) and path.name[2:] == name[2:] for name in names):
                shutil.rmtree(path)


def _restore(source: Path, target: Path) -> None:
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
        if _marks(source) != _marks(target):
            shutil.copystat(source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".former")
    shutil.copy2(source, beside)
    os.replace(beside, target)  # a library that a program has loaded keeps its old file


def _marks(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mode, status.st_mtime_ns


def _drop_empty_folders(before: set[Path]) -> None:
    """Folders that only the new build had."""
    for folder in _folders():
        inner = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
        for path in [*inner, *({folder} - before)]:
            try:
                path.rmdir()
            except OSError:  # not empty, or not there
                pass

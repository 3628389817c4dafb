"""Where r1local keeps things. All of it lies under one folder, which R1LOCAL_HOME moves."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from r1local.errors import UsageError


def home() -> Path:
    """$R1LOCAL_HOME, or this system's place for a program's data."""
    if configured := os.environ.get("R1LOCAL_HOME"):
        try:
            return expand(configured).absolute()
        except UsageError as error:
            raise UsageError(f"R1LOCAL_HOME is {error.message}", "Name a folder.") from error
    from platformdirs import user_data_path

    return user_data_path("r1local", appauthor=False)


def expand(text: str) -> Path:
    """A path as a person writes it, with ~ for a home. Raises UsageError where there is no such home."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{text!r} leads nowhere: {error}.", "Write the path out.") from error


def config_file() -> Path:
    return home() / "config.toml"


def models_folder() -> Path:
    """GGUF files put here are found by their name."""
    return home() / "models"


def log_file() -> Path:
    return home() / "logs" / "engine.log"


def selftest_file() -> Path:
    """What the self-test learnt about this machine; safe to delete."""
    return home() / "cache" / "selftest.json"


def checksums_file() -> Path:
    """Checksums of model files that were computed; safe to delete."""
    return home() / "cache" / "checksums.json"


def bandwidth_file() -> Path:
    """How fast memory was read when it was measured; safe to delete."""
    return home() / "cache" / "bandwidth.json"


def plans_file() -> Path:
    """How models were loaded here, and what `bench --tune` found; safe to delete."""
    return home() / "cache" / "plans.json"


def reading_file() -> Path:
    """How fast this processor works through weights of each type; safe to delete."""
    return home() / "cache" / "reading.json"


def usage_file() -> Path:
    """When each model was last used."""
    return home() / "cache" / "used.json"


def lock_file(target: Path) -> Path:
    """The lock of a file that is being made; not beside it, since a lock's own file must never be deleted."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(target))).hexdigest()[:32]
    return home() / "cache" / "locks" / f"{name}.lock"


def former_build_folder() -> Path:
    """The C library's former build while `r1local backend` changes it: of this environment, others have theirs."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(sys.prefix))).hexdigest()[:16]
    return home() / "cache" / "former-build" / name


def history_file() -> Path:
    """The lines typed at the prompt of the plain chat."""
    return home() / "history"


def conversations_file() -> Path:
    """The conversations that were had in the terminal interface."""
    return home() / "conversations.db"


def screen_file() -> Path:
    """How the terminal interface was left: theme, panels, how thoughts are shown."""
    return home() / "screen.json"


def ensure_folder(folder: Path) -> Path:
    """Make `folder`, readable by its owner only, and return it; our home comes first, as private.

    Raises UsageError when it cannot be made.
    """
    try:
        if folder.is_relative_to(home()):
            home().mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be made: {error.strerror or error}.",
            "Set R1LOCAL_HOME to a folder you can write to.",
        ) from error
    return folder


def atomic_write(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write beside, sync, then rename: `path` holds the old bytes or the new ones, never a part.

    `data`: whole, or in pieces that need not be in memory together.
    """
    ensure_folder(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise

"""Connections to the database, and what is said when one fails."""

from __future__ import annotations

import errno
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from r1local.errors import DiskFull, R1Error
from r1local.terminal import clean_line

BUSY_SECONDS = 10.0
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, 112}  # the last one is what Windows says


def connect_writing(path: Path) -> sqlite3.Connection:
    """A connection to a file that `file.prepare` let pass. Raises sqlite3.Error."""
    connection = connect_reading(path)
    try:
        connection.execute("PRAGMA query_only = OFF")
        connection.execute("PRAGMA synchronous = FULL")  # a turn is on the disk before anybody hears it is kept
        connection.execute("PRAGMA secure_delete = ON")  # a deleted conversation leaves no text behind
        _choose_journal(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reading(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, but for undoing what a killed process left half done. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",  # a file that is gone is not made anew
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_SECONDS,
    )
    try:
        for pragma in (
            "query_only = ON",
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "mmap_size = 0",  # a damaged or shortened file then costs an error, not the process
            "foreign_keys = ON",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    except BaseException:
        connection.close()
        raise
    return connection


def journal_mode() -> str:
    """Before 3.51.3 SQLite's write-ahead log can lose what two writers wrote (sqlite.org/wal.html#walresetbug)."""
    return "wal" if sqlite3.sqlite_version_info >= (3, 51, 3) else "delete"


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def as_r1error(path: Path, error: BaseException) -> R1Error:
    """The sentence for what went wrong with the file itself."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = getattr(error, "errno", None)
    name = clean_line(str(path))
    if code == sqlite3.SQLITE_FULL or number in _NO_SPACE:
        return DiskFull(f"The disk is full: {name} cannot grow.", "Free some space.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return refusal(path, "it is damaged")
    if code == sqlite3.SQLITE_BUSY:
        return R1Error(f"Another program has held {name} for too long.", "End that program, or wait for it.")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return R1Error(
        f"The conversations in {name} cannot be used: {clean_line(reason)}.",
        "See to it that the file and its folder can be written to, or set R1LOCAL_HOME to another folder.",
    )


def refusal(path: Path, reason: str) -> R1Error:
    """Of a file that is not ours, or no longer sound."""
    return R1Error(
        f"{clean_line(str(path))} cannot be used for conversations: {reason}. It was left as it is.",
        f"Move it away, and a new one is made: mv {clean_line(shlex.quote(str(path)))} "
        f"{clean_line(shlex.quote(f'{path}.old'))}",
    )


def _choose_journal(connection: sqlite3.Connection) -> None:
    try:
        if connection.execute("PRAGMA journal_mode").fetchone() != (journal_mode(),):
            connection.execute(f"PRAGMA journal_mode = {journal_mode()}")
    except sqlite3.OperationalError:
        pass  # another process has it open in the other mode: it stays as it is

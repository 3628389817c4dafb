"""The database's file: made whole or not at all, looked at before it is trusted, backed up before it is changed.

A file that is not ours to the last table is never opened for writing, and none is ever deleted or written over: it may
be somebody's only copy of something. Who opens it holds `paths.lock_file` of it meanwhile.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from r1local import paths
from r1local.errors import R1Error
from r1local.history import schema
from r1local.history.connection import as_r1error, connect_reading, refusal, transaction
from r1local.terminal import clean_line

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"


def prepare(path: Path) -> None:
    """Make the file, or check the one that is there and bring it to this version. Raises R1Error."""
    schema.check_library()
    try:
        if not os.path.lexists(path):
            _make(path)
        with closing(_trusted(path)) as connection:
            found = _number(connection, "user_version")
            if found < schema.version():
                connection.execute("PRAGMA query_only = OFF")
                _migrate(path, connection, found)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    except (OSError, sqlite3.Error) as error:
        raise as_r1error(path, error) from error


def open_plain(path: Path, flags: int) -> IO[bytes]:
    """Open a regular file that is no link, unbuffered; a new one is its owner's alone. Raises OSError."""
    handle = os.open(path, flags | _NO_LINKS, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        return os.fdopen(handle, "rb" if flags & (os.O_WRONLY | os.O_RDWR) == 0 else "ab", buffering=0)
    except BaseException:
        os.close(handle)
        raise


_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _trusted(path: Path) -> sqlite3.Connection:
    """A connection that only reads, to a file that is found to be ours. Raises R1Error, OSError or sqlite3.Error."""
    _check_header(path)
    connection = connect_reading(path)
    try:
        # Both were in the header already; a journal that a killed process left may just have changed it.
        with transaction(connection, "BEGIN"):
            _check_marks(path, _number(connection, "application_id"), _number(connection, "user_version"))
            expected = schema.expected_layout(_number(connection, "user_version"), schema.MIGRATIONS)
            if schema.layout(connection) != expected:
                raise refusal(path, "its tables are not those that r1local makes")
            if not _is_whole(path, connection):
                raise refusal(path, "it is damaged: its end is missing")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_whole(path: Path, connection: sqlite3.Connection) -> bool:
    """Whether all pages are there; SQLite misses whole ones, and takes a part for a page. Within a transaction."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        return True  # some pages may be in there alone
    return path.stat().st_size >= _number(connection, "page_count") * _number(connection, "page_size")


def _check_header(path: Path) -> None:
    """Look at a file before SQLite does. Raises R1Error or OSError."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise R1Error(
            f"{clean_line(str(path))} is a link, and conversations are not written through one.",
            "Put the file itself there, or set R1LOCAL_HOME to the folder that it is in.",
        )
    if not stat.S_ISREG(mode):
        raise refusal(path, "it is not a regular file")
    with open_plain(path, os.O_RDONLY) as file:
        header = file.read(_HEADER_BYTES)
    if not header:
        raise refusal(path, "it is empty")
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise refusal(path, "it is no SQLite database")
    _check_marks(path, int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big", signed=True))


def _check_marks(path: Path, application: int, found: int) -> None:
    if application != schema.APPLICATION:
        raise refusal(path, "it belongs to another program")
    if found > schema.version():
        raise R1Error(
            f"{clean_line(str(path))} was written by a newer r1local (version {found} of the file; this one knows "
            f"{schema.version()}).",
            "Upgrade: pip install -U r1local. Or set R1LOCAL_HOME to another folder.",
        )
    if found < 1:
        raise refusal(path, "its version makes no sense")


def _make(path: Path) -> None:
    """A new file, under its name only once it is whole and on the disk."""
    with _new_file(path) as connection, transaction(connection, "BEGIN"):
        schema.upgrade(connection, 0)


def _migrate(path: Path, connection: sqlite3.Connection, found: int) -> None:
    """Keep what there is under another name, then change the tables all at once."""
    with _new_file(path.with_name(f"{path.name}.version-{found}")) as backup:
        connection.backup(backup)
    connection.execute("PRAGMA synchronous = FULL")
    with transaction(connection, "BEGIN EXCLUSIVE"):
        schema.upgrade(connection, found)


@contextmanager
def _new_file(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to an empty database that gets its name when the block ends well."""
    beside = path.with_name(f"{path.name}.new")
    for leftover in (beside, beside.with_name(f"{beside.name}-journal")):
        leftover.unlink(missing_ok=True)
    open_plain(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL).close()
    try:
        with closing(connect_reading(beside)) as connection:
            connection.execute("PRAGMA query_only = OFF")
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if os.name != "nt":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(value)


def lock(path: Path) -> Path:
    """The lock that whoever opens the file holds meanwhile. Raises UsageError."""
    file = paths.lock_file(path)
    paths.ensure_folder(file.parent)
    paths.ensure_folder(path.parent)
    return file

"""The tables, by version, and whether a file has just these and nothing else.

Turns are a tree: each names the one it follows, so another wording of a question or another reply leaves the old
branch where it was; `leaf` is the end of the branch that is shown. The index of words has no copy of the texts and no
triggers: changes.py keeps it, in the same transaction. Texts in scripts that put no spaces between words are indexed
character by character (words.py).
"""

from __future__ import annotations

import sqlite3
from functools import cache

from r1local.errors import R1Error

APPLICATION = int.from_bytes(b"r1lh", "big")
"""Stands in the file's header: whose format it is."""

LEAST_SQLITE = (3, 31)  # PRAGMA trusted_schema

# One tuple of statements for each version; those of a released version are never edited.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversations (
            id INTEGER PRIMARY KEY,
            title TEXT NOT NULL,
            model TEXT NOT NULL,
            created REAL NOT NULL,
            changed REAL NOT NULL,
            system TEXT NOT NULL,
            settings TEXT NOT NULL,
            leaf INTEGER REFERENCES turns
        )""",
        """CREATE TABLE turns (
            id INTEGER PRIMARY KEY,
            conversation INTEGER NOT NULL REFERENCES conversations,
            parent INTEGER REFERENCES turns,
            position INTEGER NOT NULL,
            role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
            text TEXT NOT NULL,
            thought TEXT,
            complete INTEGER NOT NULL,
            stats TEXT NOT NULL,
            started REAL NOT NULL,
            ended REAL,
            writer TEXT NOT NULL
        )""",
        "CREATE INDEX by_change ON conversations (changed, id)",
        "CREATE INDEX by_leaf ON conversations (leaf)",
        "CREATE INDEX by_conversation ON turns (conversation)",
        "CREATE INDEX by_parent ON turns (parent)",
        "CREATE INDEX under_way ON turns (writer) WHERE ended IS NULL",
        """CREATE VIRTUAL TABLE words USING fts5 (
            title, question, answer, thought,
            content = '', columnsize = 0, tokenize = 'unicode61 remove_diacritics 2'
        )""",
    ),
)


def version() -> int:
    """The version this program reads and writes."""
    return len(MIGRATIONS)


def upgrade(connection: sqlite3.Connection, start: int) -> None:
    """From version `start` to this program's, within the caller's transaction."""
    for statements in MIGRATIONS[start:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {version()}")


def in_memory() -> sqlite3.Connection:
    """An empty database of this program's version."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON")
    upgrade(connection, 0)
    return connection


def check_library() -> None:
    """Raises R1Error when this Python's SQLite cannot hold these tables."""
    try:
        if sqlite3.sqlite_version_info >= LEAST_SQLITE:
            expected_layout(version(), MIGRATIONS)
            return
    except sqlite3.OperationalError:
        pass
    raise R1Error(
        f"Conversations cannot be kept: this Python's SQLite ({sqlite3.sqlite_version}) is too old, or was built "
        "without its full-text search.",
        "Use a Python from python.org, uv or conda.",
    )


def layout(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Everything that is defined in a database: kind, name and definition.

    The tables behind the index of words are SQLite's own, and worded by its version.
    """
    return {
        (str(kind), str(name), "" if str(name).startswith("words_") else str(definition))
        for kind, name, definition in connection.execute("SELECT type, name, sql FROM sqlite_master")
        if not (kind == "index" and definition is None) and (kind, name) not in _BY_ANALYZE
    }


_BY_ANALYZE = {("table", "sqlite_stat1"), ("table", "sqlite_stat4")}


@cache
def expected_layout(wanted: int, migrations: tuple[tuple[str, ...], ...]) -> frozenset[tuple[str, str, str]]:
    """What `layout` gives for a sound file of a version."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for statements in migrations[:wanted]:
            for statement in statements:
                connection.execute(statement)
        return frozenset(layout(connection))
    finally:
        connection.close()

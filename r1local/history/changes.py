"""Every change to the tables, each a function over a connection, within the caller's transaction.

They make no numbers and read no clock, so that one that a full disk refused can be made again. The index of words has
the title of every conversation, and the texts of every turn that has ended.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from r1local.errors import UsageError
from r1local.history.rows import Row, tree_of
from r1local.history.values import START
from r1local.history.words import indexed, title_of


@dataclass(frozen=True, slots=True)
class Head:
    """A conversation without its turns."""

    title: str
    model: str
    created: float
    changed: float
    system: str
    settings: str
    """JSON."""


def create(db: sqlite3.Connection, conversation: int, head: Head) -> None:
    values = (head.title, head.model, head.created, head.changed, head.system, head.settings)
    db.execute(
        "INSERT INTO conversations (id, title, model, created, changed, system, settings) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (conversation, *values),
    )
    _index(db, conversation, title=head.title)


def rename(db: sqlite3.Connection, conversation: int, title: str) -> None:
    _, old = _head(db, conversation)
    _index(db, conversation, remove=True, title=old)
    db.execute("UPDATE conversations SET title = ? WHERE id = ?", (title, conversation))
    _index(db, conversation, title=title)


def set_up(db: sqlite3.Connection, conversation: int, values: Mapping[str, str]) -> None:
    """Another model, system prompt or settings from now on."""
    _head(db, conversation)
    for column in ("model", "system", "settings"):
        if column in values:
            db.execute(f"UPDATE conversations SET {column} = ? WHERE id = ?", (values[column], conversation))


def delete(db: sqlite3.Connection, conversation: int) -> None:
    """For good. A conversation that is not there is no error: another process was faster."""
    row = db.execute("SELECT title FROM conversations WHERE id = ?", (conversation,)).fetchone()
    if row is None:
        return
    _index(db, conversation, remove=True, title=row[0])
    for turn in tree_of(db, conversation).parents:
        _index_turn(db, turn, remove=True)
    db.execute("UPDATE conversations SET leaf = NULL WHERE id = ?", (conversation,))
    db.execute("DELETE FROM turns WHERE conversation = ?", (conversation,))
    db.execute("DELETE FROM conversations WHERE id = ?", (conversation,))


def add_turn(db: sqlite3.Connection, row: Row, parent: int | None) -> int:
    """A turn below `parent`, or below the end of the active branch; it is the new end. Returns the turn it follows."""
    leaf, title = _head(db, row.conversation)
    parent = (leaf or START) if parent is None else parent
    position = 0
    if parent != START:
        above = db.execute(
            "SELECT position FROM turns WHERE id = ? AND conversation = ?", (parent, row.conversation)
        ).fetchone()
        if above is None:
            raise UsageError("The turn to go on from is no longer there.", "Open the conversation again.")
        position = above[0] + 1
    _insert(db, replace(row, parent=parent or None, position=position))
    if not title and row.role == "user":
        rename(db, row.conversation, title_of(row.text))
    db.execute("UPDATE conversations SET leaf = ?, changed = ? WHERE id = ?", (row.id, row.started, row.conversation))
    return parent


def end_turn(db: sqlite3.Connection, row: Row) -> None:
    """A reply as it is when it has ended.

    Where another process took this one for dead and ended the turn already, or withdrew it, that is made good.
    """
    _index_turn(db, row.id, remove=True)
    changed = db.execute(
        "UPDATE turns SET text = ?, thought = ?, complete = ?, stats = ?, ended = ?, writer = '' WHERE id = ?",
        (row.text, row.thought, row.complete, row.stats, row.ended, row.id),
    ).rowcount
    if not changed:
        add_turn(db, row, row.parent or START)
        return
    _index_turn(db, row.id)
    db.execute("UPDATE conversations SET changed = max(changed, ?) WHERE id = ?", (row.ended, row.conversation))


def withdraw(db: sqlite3.Connection, turn: int) -> None:
    """A reply of which nothing came goes, and the branch ends where the newest one from there on does."""
    found = db.execute("SELECT conversation, parent FROM turns WHERE id = ? AND ended IS NULL", (turn,)).fetchone()
    if found is None:
        return
    if db.execute("SELECT 1 FROM turns WHERE parent = ?", (turn,)).fetchone():
        db.execute("UPDATE turns SET ended = started, writer = '' WHERE id = ?", (turn,))
        _index_turn(db, turn)
        return
    conversation, parent = found
    leaf, _ = _head(db, conversation)
    db.execute("UPDATE conversations SET leaf = NULL WHERE leaf = ?", (turn,))
    db.execute("DELETE FROM turns WHERE id = ?", (turn,))
    if leaf == turn:
        leaf = tree_of(db, conversation).newest_leaf(parent or START)
        db.execute("UPDATE conversations SET leaf = ? WHERE id = ?", (leaf or None, conversation))


def go_back(db: sqlite3.Connection, turn: int) -> None:
    """Make this turn the end of the active branch."""
    db.execute("UPDATE conversations SET leaf = ? WHERE id = ?", (turn, conversation_of(db, turn)))


def choose(db: sqlite3.Connection, turn: int) -> None:
    """Make the branch through this turn the active one, down to its newest end."""
    conversation = conversation_of(db, turn)
    leaf = tree_of(db, conversation).newest_leaf(turn)
    db.execute("UPDATE conversations SET leaf = ? WHERE id = ?", (leaf, conversation))


def bring_in(db: sqlite3.Connection, conversation: int, head: Head, rows: Sequence[Row], leaf: int) -> None:
    """A whole conversation, parents before their children."""
    create(db, conversation, head)
    for row in rows:
        _insert(db, row)
    db.execute("UPDATE conversations SET leaf = ? WHERE id = ?", (leaf or None, conversation))


def end_abandoned(
    db: sqlite3.Connection, is_alive: Callable[[str], bool], pieces: Callable[[str, int], tuple[str, str]]
) -> None:
    """End the replies whose process is gone, with what it had shown of them."""
    for values in db.execute("SELECT * FROM turns WHERE ended IS NULL").fetchall():
        row = Row(*values)
        if is_alive(row.writer):
            continue
        thought, text = pieces(row.writer, row.id)
        if thought or text:
            end_turn(db, replace(row, thought=thought or None, text=text, ended=row.started))
        else:
            withdraw(db, row.id)


def adopt(db: sqlite3.Connection, source: sqlite3.Connection, conversation: int) -> None:
    """Copy a conversation, if it is there, out of another database."""
    db.execute("PRAGMA defer_foreign_keys = ON")
    for table, column in (("conversations", "id"), ("turns", "conversation")):
        for values in source.execute(f"SELECT * FROM {table} WHERE {column} = ?", (conversation,)):
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
    for title in db.execute("SELECT title FROM conversations WHERE id = ?", (conversation,)).fetchall():
        _index(db, conversation, title=title[0])
    for turn in tree_of(db, conversation).parents:
        _index_turn(db, turn)


def conversation_of(db: sqlite3.Connection, turn: int) -> int:
    row = db.execute("SELECT conversation FROM turns WHERE id = ?", (turn,)).fetchone()
    if row is None:
        raise UsageError("That turn is no longer there.", "Open the conversation again.")
    return int(row[0])


def _head(db: sqlite3.Connection, conversation: int) -> tuple[int | None, str]:
    row = db.execute("SELECT leaf, title FROM conversations WHERE id = ?", (conversation,)).fetchone()
    if row is None:
        raise UsageError("That conversation was deleted meanwhile.", "Start a new one.")
    return row[0], row[1]


def _title(db: sqlite3.Connection, conversation: int) -> str:
    return _head(db, conversation)[1]


def _insert(db: sqlite3.Connection, row: Row) -> None:
    db.execute("INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(row))
    _index_turn(db, row.id)


def _index_turn(db: sqlite3.Connection, turn: int, *, remove: bool = False) -> None:
    """Put the texts of a turn that has ended into the index of words, or take them out."""
    found = db.execute("SELECT role, text, thought FROM turns WHERE id = ? AND ended IS NOT NULL", (turn,)).fetchone()
    if found is not None:
        role, text, thought = found
        if role == "user":
            _index(db, turn, remove=remove, question=text)
        else:
            _index(db, turn, remove=remove, answer=text, thought=thought or "")


def _index(db: sqlite3.Connection, number: int, *, remove: bool = False, **texts: str) -> None:
    names = [*(["words"] if remove else []), "rowid", *texts]
    values = [*(["delete"] if remove else []), number, *map(indexed, texts.values())]
    db.execute(f"INSERT INTO words ({', '.join(names)}) VALUES ({', '.join('?' * len(values))})", values)

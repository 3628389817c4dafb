"""Every question to the tables, each a function over a connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_args

from r1local.chat_types import Turn
from r1local.errors import UsageError
from r1local.events import Stats
from r1local.history.ids import is_turn
from r1local.history.rows import Row, Tree, tree_of
from r1local.history.values import Hit, Kind, Stored, StoredTurn, Summary
from r1local.history.words import match_of, snippet, words_in

Pieces = Callable[[str, int], tuple[str, str]]
"""Thought and answer so far, of the reply that the process with this token is writing in this turn."""

SUMMARIES = """
    SELECT c.id, c.title, c.model, c.created, c.changed, coalesce(leaf.position + 1, 0)
    FROM conversations AS c LEFT JOIN turns AS leaf ON leaf.id = c.leaf
    {where} ORDER BY c.changed DESC, c.id DESC LIMIT ?
"""
FOUND = """
    WHERE c.id IN (
        SELECT coalesce((SELECT conversation FROM turns WHERE id = words.rowid), words.rowid)
        FROM words WHERE words MATCH ?
    )
"""
HITS = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid DESC LIMIT ?"
TURN = """
    SELECT c.id, c.title, t.text, t.thought
    FROM turns AS t JOIN conversations AS c ON c.id = t.conversation WHERE t.id = ?
"""
PATH = "SELECT * FROM turns WHERE id IN (SELECT value FROM json_each(?))"


def summaries(db: sqlite3.Connection, limit: int, search: str) -> list[Summary]:
    """The conversations last changed, or those of them in which a title or a turn has all the words."""
    if not search.strip():
        rows = db.execute(SUMMARIES.format(where=""), (limit,))
    elif match := match_of(search):
        rows = db.execute(SUMMARIES.format(where=FOUND), (match, limit))
    else:
        return []
    return [Summary(*row) for row in rows]


def hits(db: sqlite3.Connection, search: str, limit: int) -> list[Hit]:
    """Where all the words stand in one text, the newest first."""
    found: list[tuple[int, Kind]] = []
    for kind in get_args(Kind):
        if match := match_of(search, kind):
            found += [(number, kind) for (number,) in db.execute(HITS, (match, limit))]
    words = words_in(search)
    order = get_args(Kind)
    found.sort(key=lambda hit: (-hit[0], order.index(hit[1])))
    return [_hit(db, number, kind, words) for number, kind in found[:limit]]


def stored(db: sqlite3.Connection, conversation: int, pieces: Pieces) -> Stored:
    """Raises UsageError when it is not there."""
    head = db.execute(
        "SELECT id, title, model, created, changed, system, settings, leaf FROM conversations WHERE id = ?",
        (conversation,),
    ).fetchone()
    if head is None:
        raise UsageError(f"There is no conversation {conversation}.", "It may have been deleted meanwhile.")
    tree = tree_of(db, conversation)
    path = tree.path_to(head[7] or 0)
    rows = {values[0]: Row(*values) for values in db.execute(PATH, (json.dumps(path),))}
    turns = tuple(_stored_turn(rows[turn], tree, pieces) for turn in path)
    number, title, model, created, changed, system, settings, _ = head
    return Stored(number, title, model, created, changed, system, mapping_of(settings), turns)


def all_turns(db: sqlite3.Connection, conversation: int, pieces: Pieces) -> list[StoredTurn]:
    """Of every branch, parents before their children."""
    tree = tree_of(db, conversation)
    rows = db.execute("SELECT * FROM turns WHERE conversation = ?", (conversation,))
    return [
        _stored_turn(row, tree, pieces)
        for row in sorted((Row(*row) for row in rows), key=lambda row: (row.position, row.id))
    ]


def stats_of(document: str) -> Stats | None:
    """What a turn cost, if it was noted; names and values that make no sense are passed over."""
    known = {field.name for field in fields(Stats)}
    values: dict[str, Any] = {
        name: value
        for name, value in mapping_of(document).items()
        if name in known and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Stats(**values) if values else None


def mapping_of(document: str) -> Mapping[str, Any]:
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _stored_turn(row: Row, tree: Tree, pieces: Pieces) -> StoredTurn:
    text, thought = row.text, row.thought
    if row.ended is None:
        so_far, text = pieces(row.writer, row.id)
        thought = so_far or None
    turn = Turn(row.role, text, thought, bool(row.complete))
    parent = tree.parents[row.id]
    siblings = tree.children[parent]
    return StoredTurn(row.id, parent, turn, stats_of(row.stats), row.started, row.ended, siblings)


def _hit(db: sqlite3.Connection, number: int, kind: Kind, words: list[str]) -> Hit:
    if not is_turn(number):
        ((title,),) = db.execute("SELECT title FROM conversations WHERE id = ?", (number,))
        return Hit(number, title, None, kind, *snippet(title, words))
    ((conversation, title, text, thought),) = db.execute(TURN, (number,))
    return Hit(conversation, title, number, kind, *snippet(thought or "" if kind == "thought" else text, words))

"""A conversation as a document: Markdown to read, JSON with every branch to keep and to bring in again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, NoReturn

from r1local.errors import UsageError
from r1local.events import Stats
from r1local.history import ids
from r1local.history.changes import Head
from r1local.history.reading import stats_of
from r1local.history.rows import Row
from r1local.history.values import START, Stored, StoredTurn
from r1local.history.words import storable, title_of

FORMAT = "r1local conversation"
VERSION = 1


def as_markdown(stored: Stored) -> str:
    """The active branch. Thoughts are quotations, so that nothing in them ends or hides what follows."""
    when = datetime.fromtimestamp(stored.created).astimezone().isoformat(" ", "minutes")
    parts = [f"# {stored.title or 'Conversation'}", f"{stored.model}, {when}"]
    if stored.system:
        parts += ["## System prompt", stored.system]
    for entry in stored.turns:
        turn = entry.turn
        parts.append("## Question" if turn.role == "user" else "## Answer")
        if turn.thought:
            parts.append(_quoted(turn.thought))
        if turn.text:
            parts.append(turn.text)
        if not turn.complete:
            parts.append("*(stopped here)*")
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def as_json(stored: Stored, turns: Sequence[StoredTurn]) -> str:
    """All branches; `turns` with parents before their children. A turn names the one it follows by its place."""
    places = {turn.id: place for place, turn in enumerate(turns)}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "title": stored.title,
        "model": stored.model,
        "created": stored.created,
        "changed": stored.changed,
        "system": stored.system,
        "settings": stored.settings,
        "turns": [
            {
                "parent": places.get(entry.parent),
                **asdict(entry.turn),
                "stats": None if entry.stats is None else asdict(entry.stats),
                "started": entry.started,
                "ended": entry.started if entry.ended is None else entry.ended,
            }
            for entry in turns
        ],
        "active": places.get(stored.turns[-1].id) if stored.turns else None,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def parse(text: str) -> tuple[int, Head, list[Row], int]:
    """A new conversation's number, its head, rows and leaf, out of what `as_json` wrote. Raises UsageError."""
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError("This is no conversation that r1local exported: it is not JSON.", _HINT) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        _refuse("it does not say so")
    if document.get("version") != VERSION:
        raise UsageError("This conversation was exported by a newer r1local.", "Upgrade: pip install -U r1local.")
    conversation = ids.new_conversation()
    numbers: list[int] = []
    rows: list[Row] = []
    for entry in _get(document, "turns", list):
        if not isinstance(entry, dict):
            _refuse("a turn is no object")
        parent = _place(entry, "parent", len(rows))
        numbers.append(ids.new_turn())
        rows.append(_row(entry, numbers[-1], conversation, None if parent is None else rows[parent]))
    active = _place(document, "active", len(rows))
    head = Head(
        title_of(_get(document, "title", str)),
        storable(_get(document, "model", str)),
        _time(document, "created"),
        _time(document, "changed"),
        storable(_get(document, "system", str)),
        json.dumps(_get(document, "settings", dict)),
    )
    return conversation, head, rows, START if active is None else numbers[active]


_HINT = "Name a file that was exported as JSON."


def stats_json(stats: Stats | None) -> str:
    return "" if stats is None else json.dumps(asdict(stats))


def _row(entry: dict[str, Any], number: int, conversation: int, parent: Row | None) -> Row:
    role = entry.get("role")
    if role not in ("user", "assistant"):
        _refuse("a turn is neither a question nor an answer")
    thought = None if entry.get("thought") is None else storable(_get(entry, "thought", str))
    stats = None if entry.get("stats") is None else stats_of(json.dumps(_get(entry, "stats", dict)))
    return Row(
        number,
        conversation,
        None if parent is None else parent.id,
        0 if parent is None else parent.position + 1,
        role,
        storable(_get(entry, "text", str)),
        thought,
        _get(entry, "complete", bool),
        stats_json(stats),
        _time(entry, "started"),
        _time(entry, "ended"),
        "",
    )


def _get(document: dict[str, Any], key: str, kind: type) -> Any:
    value = document.get(key)
    if not isinstance(value, kind):
        _refuse(f"its {key} is missing or of the wrong kind")
    return value


def _time(document: dict[str, Any], key: str) -> float:
    value = document.get(key)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < 1e11
        or not math.isfinite(value)
    ):
        _refuse(f"its {key} is no time")
    return float(value)


def _place(document: dict[str, Any], key: str, end: int) -> int | None:
    """A number of a turn before `end`, or none. A turn follows one that was there before it, so there is no circle."""
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < end:
        _refuse(f"its {key} is no turn")
    return int(value)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip("\n").split("\n"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse(reason: str) -> NoReturn:
    raise UsageError(f"This is no conversation that r1local exported: {reason}.", _HINT)

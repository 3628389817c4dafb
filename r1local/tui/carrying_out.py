"""What commands do that need no screen: parts of a reply to copy, a conversation as a file."""

from __future__ import annotations

import re
from pathlib import Path

from r1local import paths
from r1local.chat_types import Turn
from r1local.errors import UsageError
from r1local.history import History

_FENCED = re.compile(r"^(`{3,}|~{3,})[^\n]*\n(.*?)^\1[`~]*[ \t]*$", re.DOTALL | re.MULTILINE)


def part_of(turn: Turn, what: str) -> str:
    """What of a reply is meant: answer, thought, or code, its last block. Raises UsageError."""
    if what == "answer":
        text = turn.text
    elif what == "thought":
        text = turn.thought or ""
    elif what == "code":
        blocks = _FENCED.findall(turn.text)
        text = blocks[-1][1] if blocks else ""
    else:
        raise UsageError(f"There is no {what!r} to copy.", "Type /copy, /copy thought or /copy code.")
    if not text:
        raise UsageError(f"There is no {what} in this reply.", "Choose another with Tab.")
    return text


def save(history: History, conversation: int, name: str) -> Path:
    """Write a conversation to a new file: Markdown, or JSON where the name ends so. Raises UsageError."""
    target = paths.expand(name)
    if target.exists():
        raise UsageError(f"{target} exists already.", "Choose another name.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}.", "Make it first, or choose another.")
    export = history.export_json if target.suffix == ".json" else history.export_markdown
    try:
        paths.atomic_write(target, export(conversation).encode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}.", "Choose another place.") from error
    return target

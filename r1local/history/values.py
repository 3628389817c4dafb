"""What the store of conversations gives out. Frozen; times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from r1local.chat_types import Turn
from r1local.events import Stats

Kind = Literal["title", "question", "answer", "thought"]

START = 0
"""The parent of a first turn."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation in the list."""

    id: int
    title: str
    """Empty until something was asked or a title was given."""
    model: str
    created: float
    changed: float
    """When something was last said."""
    turns: int
    """On the active branch, questions and replies."""


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A turn of a conversation, and its place among the branches."""

    id: int
    parent: int
    """The turn it follows, START for a first one. Saying something there again makes another branch."""
    turn: Turn
    stats: Stats | None
    started: float
    ended: float | None
    """None while the reply is under way, here or in another process; `turn` holds what came so far."""
    siblings: tuple[int, ...]
    """All turns with this parent, itself among them, the oldest first: other wordings, other replies."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A conversation along its active branch."""

    id: int
    title: str
    model: str
    created: float
    changed: float
    system: str
    settings: Mapping[str, Any]
    turns: tuple[StoredTurn, ...]

    @property
    def chat_turns(self) -> list[Turn]:
        """What to go on from: the system prompt, if there is one, and every turn that has ended."""
        start = [Turn("system", self.system)] if self.system else []
        return [*start, *(stored.turn for stored in self.turns if stored.ended is not None)]


@dataclass(frozen=True, slots=True)
class Hit:
    """A place where the searched words stand."""

    conversation: int
    title: str
    turn: int | None
    """None for a title."""
    kind: Kind
    snippet: str
    """Text around the words, on one line."""
    match: tuple[int, int]
    """Where in the snippet the first of the words stands; empty where it is spelt otherwise there."""

"""One prompt among many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from r1local.chat_types import Turn


@dataclass(frozen=True)
class Row:
    """A prompt with a name."""

    number: int
    """From 0, as it came."""
    id: str
    turns: tuple[Turn, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of this row alone: fields of Sampling, max_tokens, system."""
    problem: str = ""
    """Why it cannot be asked; such a row is answered by that."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields, to be handed through."""
    repeat: int = 0
    """How many rows before it ask the very same under the same id."""
    named: bool = True
    """False where the id says only where the row stands."""

    @cached_property
    def key(self) -> str:
        """What finished rows are known by: a row that asks something else is another one, one that moved is not."""
        said = [
            self.id if self.named else "",
            self.repeat,
            [(turn.role, turn.text) for turn in self.turns],
            dict(self.settings),
            self.problem,
        ]
        text = json.dumps(said, sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

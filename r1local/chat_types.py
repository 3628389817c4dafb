"""The values a chat is made of: turns and sampling settings. Frozen, and free of any default of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from r1local.errors import UsageError

Role = Literal["system", "user", "assistant"]
ThinkMode = Literal["show", "fold", "hide", "only"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    text: str
    """What was said: the question, or the answer without its thought."""
    thought: str | None = None
    """The thought before the answer, as data. Whether it is sent again is the template's decision."""
    complete: bool = True
    """False when the turn was stopped before it ended by itself."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. Applied in this order: penalties, DRY, top_k, temperature, top_p, min_p.

    Temperature comes before top_p, as in the library the published scores were measured with; llama.cpp's
    own default order has it last. Neutral values switch a stage off.
    """

    temperature: float
    """0 means greedy: always the likeliest token."""
    top_p: float
    """Nucleus: the smallest set of tokens whose probabilities reach this. 1 is off."""
    top_k: int
    """Keep this many likeliest tokens. 0 is off."""
    min_p: float
    """Drop tokens less likely than this share of the likeliest. 0 is off."""
    seed: int | None = None
    """None draws a fresh one for every request."""
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    """How many tokens back the penalties look."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry_multiplier: float = 0.0
    """Strength of DRY ("don't repeat yourself"), which makes the continuation of a repeated run of tokens
    less likely, the longer the run. 0 is off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{field.name} must be a finite number, not {value}")
        _check("temperature", self.temperature, 0, 100)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        _check("top_k", self.top_k, 0, 2**31 - 1)
        _check("repeat_penalty", self.repeat_penalty, 1e-3, 100)
        _check("repeat_last_n", self.repeat_last_n, 0, 2**31 - 1)
        _check("frequency_penalty", self.frequency_penalty, -100, 100)
        _check("presence_penalty", self.presence_penalty, -100, 100)
        _check("dry_multiplier", self.dry_multiplier, 0, 100)
        _check("dry_base", self.dry_base, 1, 100)
        _check("dry_allowed_length", self.dry_allowed_length, 0, 2**31 - 1)
        if self.seed is not None:
            _check("seed", self.seed, 0, 2**32 - 2)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} must be between {low:g} and {high:g}, not {value}")

"""The user's config.toml, and how defaults, settings and flags become what a request uses."""

from __future__ import annotations

import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from r1local import paths
from r1local.chat_types import Sampling, ThinkMode
from r1local.errors import SettingsError, UsageError, suggest


@dataclass(frozen=True, slots=True)
class Settings:
    """What config.toml may say. Anything left out is decided by models.toml and this machine."""

    model: str | None = None
    """Catalog name, alias or path used when no --model is given."""
    think: ThinkMode | None = None
    """How a thought is shown: show, fold, hide or only."""
    system: str | None = None
    """System prompt. DeepSeek advises to use none with R1."""
    ctx: int | None = None
    """Tokens of context."""
    threads: int | None = None
    gpu_layers: int | None = None
    """Layers on the GPU, the output counted as one more; -1 is all."""
    kv_type: Literal["f16", "q8_0", "q4_0"] | None = None
    """In what the KV cache is kept: q8_0 takes about half of f16."""
    batch: int | None = None
    """Most tokens in one decode call."""
    margin: int | None = None
    """MiB of each device's memory that are left to others."""
    max_tokens: int | None = None
    """Most tokens of a reply, its thought included."""
    vote: int | None = None
    """Samples of each reply, of which the majority wins; 1 is none of that."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None


_LEAST = {"ctx": 256, "threads": 1, "gpu_layers": -1, "batch": 32, "margin": 0, "max_tokens": 1, "vote": 1}
_MOST = {"threads": 4096, "gpu_layers": 10_000, "batch": 1 << 16, "margin": 1 << 30, "vote": 256}


def load_settings(path: Path | None = None) -> Settings:
    """Read config.toml; a missing file is an empty one.

    Raises SettingsError for anything in it that is not understood.
    """
    path = path or paths.config_file()
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or no end to its digits or brackets
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"{path} is not TOML: {reason}.", "Mend that line.") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    return parse_settings(data, str(path))


def parse_settings(data: Mapping[str, Any], where: str) -> Settings:
    """Settings from a mapping. `where` names its source in errors. Raises SettingsError."""
    hints = get_type_hints(Settings)
    for key, value in data.items():
        if key not in hints:
            near = suggest(key, hints)
            raise SettingsError(
                f"{where} has the unknown setting {key!r}.",
                f"Did you mean {near}?" if near else "Known: " + ", ".join(sorted(hints)),
            )
        _check_type(key, value, hints[key], where)
        if key in _LEAST and value < _LEAST[key]:
            raise SettingsError(f"{where}: {key} must be at least {_LEAST[key]}, not {value}.")
        if key in _MOST and value > _MOST[key]:
            raise SettingsError(f"{where}: {key} must be at most {_MOST[key]}.")
    return Settings(**{key: _as_declared(value, hints[key]) for key, value in data.items()})


def parse_vote(text: str) -> int:
    """How many samples shall vote, as somebody typed it. Raises UsageError."""
    most = _MOST["vote"]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise UsageError(
            f"A vote takes 1 to {most} samples, not {text[:20]!r}.", "For example: /vote 8; /vote 1 ends it."
        )
    return int(text)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)


def _check_type(key: str, value: Any, hint: Any, where: str) -> None:
    expected = "left out"
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            if value in get_args(kind):
                return
            expected = "one of " + ", ".join(get_args(kind))
        elif kind is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return
            expected = "a number"
        elif kind is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return
            expected = "a whole number"
        elif kind is str:
            if isinstance(value, str):
                return
            expected = "text"
    raise SettingsError(f"{where}: {key} must be {expected}, not {value!r}.")


def _as_declared(value: Any, hint: Any) -> Any:
    if float not in _alternatives(hint):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf  # refused by whoever takes it, with the range that is possible


_SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))


def merge_sampling(model: Mapping[str, float], settings: Settings, flags: Mapping[str, Any]) -> Sampling:
    """models.toml < config.toml < flags; None in either of the latter leaves the one before.

    Raises UsageError when the result is out of range.
    """
    merged: dict[str, Any] = dict(model)
    for name in _SAMPLING_FIELDS:
        for value in (getattr(settings, name, None), flags.get(name)):
            if value is not None:
                merged[name] = value
    return Sampling(**merged)

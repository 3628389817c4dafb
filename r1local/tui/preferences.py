"""How the screen is set up, kept from one time to the next. The file may be deleted at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from r1local import paths
from r1local.errors import R1Error
from r1local.terminal import clean_line
from r1local.tui.widgets.thought import State

Theme = Literal["dark", "light", "high-contrast"]

_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Preferences:
    """What somebody chose. None of it changes what a model says."""

    theme: Theme = "dark"
    thought: State = "folded"
    """The state a thought takes once it is over; "hidden" hides it while the model thinks, too."""
    side_by_side: bool = True
    """Where there is room for both, the thought stands beside the answer."""
    sidebar: bool = True


def load() -> Preferences:
    """What was saved last. Whatever in it makes no sense is as if it had never been chosen."""
    try:
        file = paths.screen_file()
        data: Any = {}
        if file.is_file():
            with file.open("rb") as opened:
                data = json.loads(opened.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError, R1Error):
        data = {}
    return _parsed(data if isinstance(data, dict) else {})


def save(preferences: Preferences) -> R1Error | None:
    """Keep them. Where that cannot be done they hold until the end; the error says why, to be shown once."""
    try:
        paths.atomic_write(paths.screen_file(), json.dumps(asdict(preferences), indent=1).encode() + b"\n")
    except R1Error as error:
        return error
    except OSError as error:
        return R1Error(
            f"{clean_line(str(paths.screen_file()))} cannot be written: {error.strerror or error}.",
            "The settings of the screen hold until you leave.",
        )
    return None


def _parsed(data: Mapping[str, Any]) -> Preferences:
    hints = get_type_hints(Preferences)
    names = (field.name for field in fields(Preferences))
    return Preferences(**{name: data[name] for name in names if name in data and _fits(data[name], hints[name])})


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    return isinstance(value, hint)

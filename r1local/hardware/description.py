"""A machine as JSON, both ways: so that one can be planned for that is not here.

What comes in is a file by anybody: every value is checked for its type and for being one that a machine can have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, get_args, get_type_hints

from r1local.errors import UsageError, suggest
from r1local.hardware.gpu import Gpu, Kind
from r1local.hardware.known import SPEED_CLASSES
from r1local.hardware.machine import Hardware

# The most of each that is taken for a machine: a petabyte, a petabyte a second.
_MOST = {
    "physical_cores": 1 << 16, "usable_cores": 1 << 16, "other_users": 1 << 22,
    "memory_total": 1 << 50, "memory_available": 1 << 50, "memory_free": 1 << 50,
    "bandwidth": 1e15, "memory_bandwidth": 1e15,
}  # fmt: skip
_LEAST = {"physical_cores": 1, "usable_cores": 1, "memory_total": 1}
_CHOICES = {"kind": get_args(Kind), "speed_class": ("", *SPEED_CLASSES)}
# What cannot be more than what.
_PARTS = (
    ("usable_cores", "physical_cores"), ("memory_available", "memory_total"), ("memory_free", "memory_total"),
)  # fmt: skip
_MOST_TEXT = 1000  # characters
_MOST_ITEMS = 64


def to_json(machine: Hardware) -> dict[str, Any]:
    """What `json.dumps` can write, and `from_json` turns back into the very same machine."""
    data = asdict(machine)
    data["gpus"] = [asdict(gpu) for gpu in machine.gpus]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


def from_json(data: object) -> Hardware:
    """The machine that parsed JSON describes; what may be left out is as in `Hardware`. Raises UsageError."""
    return Hardware(**_checked(data, Hardware, "The machine"))


def _checked(data: object, kind: type[Hardware] | type[Gpu], where: str) -> dict[str, Any]:
    """The fields of such an object, as `kind` takes them. `where` begins the sentences of errors."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} is described by {_shown(data)} instead of a JSON object.", _hint(kind))
    hints = get_type_hints(kind)
    for key in data:
        if key not in hints:
            near = suggest(str(key), hints)
            raise UsageError(
                f"{where} has the unknown key {_shown(key)}.", f"Did you mean {near}?" if near else _hint(kind)
            )
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in data]
    if missing:
        raise UsageError(f"{where} lacks {' and '.join(missing)}.", _hint(kind))
    values = {key: _value(key, value, hints[key], f"{where}: {key}") for key, value in data.items()}
    for part, whole in _PARTS:
        if part in values and whole in values and values[part] > values[whole]:
            raise UsageError(f"{where}: {part} is {values[part]}, more than {whole}, which is {values[whole]}.")
    return values


def _value(key: str, value: object, hint: Any, where: str) -> Any:
    if hint == tuple[Gpu, ...]:
        return tuple(Gpu(**_checked(item, Gpu, f"{where}[{index}]")) for index, item in enumerate(_list(value, where)))
    if hint == tuple[str, ...]:
        return tuple(_text(key, item, f"{where}[{index}]") for index, item in enumerate(_list(value, where)))
    if hint is bool:
        if not isinstance(value, bool):
            raise _wrong(where, "true or false", value)
        return value
    if hint is int or hint is float:
        return _number(key, value, hint, where)
    return _text(key, value, where)


def _number(key: str, value: object, kind: type[int] | type[float], where: str) -> int | float:
    wanted = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise _wrong(where, wanted, value)
    # Written so that NaN, which is never less nor more, is refused as well.
    if not _LEAST.get(key, 0) <= value <= _MOST[key]:
        raise _wrong(where, f"{wanted} from {_LEAST.get(key, 0)} to {_MOST[key]:.0f}", value)
    return kind(value)


def _text(key: str, value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise _wrong(where, f"text of {_MOST_TEXT} characters at most", value)
    choices = _CHOICES.get(key)
    if choices is not None and value not in choices:
        near = suggest(value, choices)
        raise UsageError(
            f"{where} is {_shown(value)}, which is none of them.",
            f"Did you mean {near}?" if near else "Known: " + ", ".join(choice for choice in choices if choice),
        )
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        raise _wrong(where, f"a list of {_MOST_ITEMS} at most", value)
    return value


def _wrong(where: str, expected: str, value: object) -> UsageError:
    return UsageError(f"{where} must be {expected}, not {_shown(value)}.")


def _shown(value: object) -> str:
    """A value for a message, however long it is."""
    if isinstance(value, (list, Mapping)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**30:
        return f"a number of {math.floor(math.log10(abs(value))) + 1} digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _hint(kind: type[Hardware] | type[Gpu]) -> str:
    return "Known: " + ", ".join(get_type_hints(kind)) + "."

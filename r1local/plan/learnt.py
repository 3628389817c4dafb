"""What running models on this machine taught: plans that had to be lowered, memory really used, tuned settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from r1local import paths
from r1local.errors import R1Error
from r1local.plan.shape import KV_TYPES

_MOST_ENTRIES = 200
# With so much more memory free than when a plan failed, the larger one is tried again.
_WORTH_ANOTHER_TRY = 1.05


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a model was loaded with when more did not work."""

    n_ctx: int
    kv_type: str
    n_gpu_layers: int
    memory_free: int
    """Bytes that were free then, on all devices together."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Memory in bytes, planned and real."""

    planned: int
    real: int
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """For each device and part, such as "CUDA0 KV": planned and real."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `bench --tune` found fastest."""

    n_threads: int
    n_batch: int
    repack: bool
    flash_attention: bool
    kv_type: str = "f16"
    decode: float = 0.0
    """Tokens a second."""
    prefill: float = 0.0


_BOUNDS = {"n_ctx": (1, 1 << 31), "n_threads": (1, 4096), "n_batch": (1, 1 << 16), "n_gpu_layers": (0, 10_000)}
_KINDS: dict[str, Any] = {"lowered": Lowered, "measured": Measured, "tuned": Tuned}


class Learnt:
    """plans.json: {"lowered" | "measured" | "tuned": {key: {...}}}. A broken file is as good as none.

    A key names the machine, the build and the model's file or kind.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = {
            kind: dict(found) if isinstance(found := data.get(kind), dict) else {} for kind in (*_KINDS, "told")
        }

    @classmethod
    def load(cls) -> Learnt:
        try:
            data = json.loads(paths.plans_file().read_bytes())
        except (OSError, ValueError, RecursionError):
            data = {}
        return cls(data if isinstance(data, dict) else {})

    def lowered(self, key: str, memory_free: int) -> Lowered | None:
        """What worked before, unless there is so much more memory now that more may work."""
        found = self._get("lowered", key)
        if not isinstance(found, Lowered) or memory_free > found.memory_free * _WORTH_ANOTHER_TRY:
            return None
        return found

    def tuned(self, key: str) -> Tuned | None:
        found = self._get("tuned", key)
        return found if isinstance(found, Tuned) else None

    def measured(self, machine: str) -> dict[str, Measured]:
        """By the rest of the key, for every model that was loaded on this machine."""
        found = {key: self._get("measured", key) for key in self._data["measured"] if key.startswith(machine)}
        return {key.removeprefix(machine): entry for key, entry in found.items() if isinstance(entry, Measured)}

    def has(self, kind: str, key: str) -> bool:
        return key in self._data[kind]

    def _get(self, kind: str, key: str) -> Any:
        entry: Any = self._data[kind].get(key)
        made: Any = _KINDS[kind]
        try:
            found = made(**entry)
        except TypeError:
            return None
        return found if all(_is_sound(field.name, getattr(found, field.name)) for field in fields(found)) else None


def _is_sound(name: str, value: Any) -> bool:
    """Whether a value that was read from a file is one that was written."""
    match name:
        case "repack" | "flash_attention":
            return isinstance(value, bool)
        case "kv_type":
            return isinstance(value, str) and value in KV_TYPES
        case "decode" | "prefill":
            return type(value) in (int, float) and 0 <= value < 1e12  # NaN is neither
        case "parts":
            return isinstance(value, dict) and all(
                isinstance(sizes, (list, tuple)) and [type(size) for size in sizes] == [int, int]
                for sizes in value.values()
            )
    least, most = _BOUNDS.get(name, (0, 1 << 62))
    return type(value) is int and least <= value <= most


def remember(kind: str, key: str, entry: Any) -> None:
    """Add to what is on disk now: another process may have learnt something meanwhile. Never raises."""
    latest = Learnt.load()
    entries = latest._data[kind]
    entries.pop(key, None)
    entries[key] = asdict(entry) if kind in _KINDS else entry
    while len(entries) > _MOST_ENTRIES:
        del entries[next(iter(entries))]
    try:
        paths.atomic_write(paths.plans_file(), json.dumps(latest._data, indent=1).encode())
    except (OSError, R1Error):
        pass  # a full or read-only disk: it is learnt again


def forget(kind: str, key: str) -> None:
    latest = Learnt.load()
    if latest._data[kind].pop(key, None) is not None:
        try:
            paths.atomic_write(paths.plans_file(), json.dumps(latest._data, indent=1).encode())
        except (OSError, R1Error):
            pass

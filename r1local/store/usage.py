"""When each model file was last used. A file's own access time says when a backup program read it, too."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from r1local import paths
from r1local.errors import R1Error


def mark_used(path: Path) -> None:
    """Note that a model is used now. A home that cannot be written to is no reason not to chat."""
    times = {name: when for name, when in _load().items() if os.path.exists(name)}
    times[os.path.realpath(path)] = time.time()
    try:
        paths.atomic_write(paths.usage_file(), json.dumps(times, indent=1).encode())
    except (OSError, R1Error):
        pass


def last_used(path: Path) -> float | None:
    """Seconds since the epoch; None for a file that r1local never used."""
    return _load().get(os.path.realpath(path))


def _load() -> dict[str, float]:
    try:
        data = json.loads(paths.usage_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {name: float(when) for name, when in data.items() if isinstance(when, (int, float))}

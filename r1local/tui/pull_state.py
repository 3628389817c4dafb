"""Where a download stands, and how fast it is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r1local.errors import R1Error

State = Literal["waiting", "checking", "running", "done", "failed", "cancelled"]

_WINDOW_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class PullState:
    """Where one download stands."""

    name: str
    """As it was given to `start`."""
    state: State = "waiting"
    """waiting: for its turn, or for another program that fetches the same. checking: the Hub is asked what there is
    (`total` is 0 then), or a checksum is computed.
    """
    file: str = ""
    done: int = 0
    total: int = 0
    """Bytes, of all files together; of the file that is checked while checking."""
    bytes_per_second: float = 0.0
    """Over the last five seconds."""
    seconds_left: float | None = None
    note: str = ""
    """What keeps it from going on right now, in a sentence."""
    error: R1Error | None = None
    """Why it failed."""
    path: Path | None = None
    """The model, when it is done."""

    @property
    def active(self) -> bool:
        return self.state in ("waiting", "checking", "running")


class Pace:
    """How fast a number grows, over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def at(self, now: float, done: int) -> float:
        """Take note of a value; units a second, 0 while that cannot be told. A smaller value starts anew."""
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW_SECONDS:
            self._samples.popleft()
        start, before = self._samples[0]
        return (done - before) / (now - start) if now > start else 0.0

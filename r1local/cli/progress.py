"""A long transfer on the screen: a line that never wraps or runs backwards, or plain lines where nobody watches."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable

from r1local.cli.output import Output, fit
from r1local.terminal import clean_line
from r1local.units import seconds

_WINDOW_SECONDS = 5.0
_PATIENCE = 3.0
"""Seconds. What is over sooner, and is not what was asked for, is not worth plain lines."""
_PLAIN_STEP = 5
"""Percent between two plain lines."""


class Transfer:
    """Shows how far something is. `update` may be called as often as one likes, from one thread.

    On a terminal a live line on stderr; else a plain line for every five percent, once it takes longer than
    `plain_after` seconds; with `json_lines` an object on stdout twice a second in place of both.
    """

    def __init__(self, output: Output, verb: str, *, json_lines: bool = False, plain_after: float = _PATIENCE) -> None:
        self._output = output
        self._verb = self._own_verb = verb
        self._plain_after = time.monotonic() + plain_after
        self._json = json_lines
        self._name = ""
        self._done = self._size = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._told = -1
        self._json_told = 0.0
        self._interlude: Callable[[], str] | None = None
        self._interlude_until = 0.0
        self._shown = False

    def update(self, name: str, done: int, size: int, verb: str = "") -> None:
        """So many of `size` bytes are done. `verb` replaces the usual one, and starts the count anew."""
        verb = verb or self._verb
        if (verb, size) != (self._verb, self._size) or done < self._done:
            self._samples.clear()
            self._told = -1
            if verb not in (self._verb, self._own_verb):
                self._plain_after = time.monotonic() + _PATIENCE
            elif verb == self._own_verb != self._verb:
                self._plain_after = 0.0
        self._verb, self._name, self._size, self._done = verb, name, size, done
        now = time.monotonic()
        if not self._samples or now - self._samples[-1][0] > 0.2:
            self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_SECONDS:
            self._samples.popleft()
        if self._json:
            self._tell_json(now)
        elif not self._output.stderr_is_terminal:
            self._tell_plain()
        elif not self._shown:
            self._shown = True
            self._output.status(self.line)

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._json:
            self._output.json({"event": "notice", "message": text})
        else:
            self._output.line(text)

    def pause(self, wait: float, why: str) -> None:
        """Something went wrong and is tried again in so many seconds."""
        until = time.monotonic() + wait
        if self._json or not self._output.stderr_is_terminal:
            self.say(f"{why} Trying again in {seconds(wait)}.")
            return
        self._interlude = lambda: f"{why} Again in {seconds(max(0.0, until - time.monotonic()))}"
        self._interlude_until = until
        if not self._shown:
            self._shown = True
            self._output.status(self.line)

    def close(self) -> None:
        self._output.status(None)
        self._shown = False

    @property
    def speed(self) -> float:
        """Bytes a second over the last seconds; 0 while that cannot be told."""
        if len(self._samples) < 2:
            return 0.0
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def line(self) -> str:
        """What fits the terminal's width, the least needed left out."""
        columns = max(10, shutil.get_terminal_size().columns - 1)
        if self._interlude is not None:
            if time.monotonic() < self._interlude_until:
                return fit(self._interlude(), columns)
            self._interlude = None
        share = f"{self._percent}%"
        if self._size <= 0:
            return fit(f"{self._verb} {clean_line(self._name)}", columns)
        part = f"{self._done / 1e9:.2f} of {self._size / 1e9:.2f} GB"
        if self._size < 1e9:
            part = f"{self._done / 1e6:.1f} of {self._size / 1e6:.1f} MB"
        speed, left = self.speed, ""
        pace = f"{speed / 1e6:.1f} MB/s" if speed else ""
        if speed > 0 and self._done < self._size:
            left = f"{seconds((self._size - self._done) / speed)} left"
        name = clean_line(self._name).rpartition("/")[2]
        from_long_to_short = (
            (self._verb, name, share, part, pace, left),
            (name, share, part, pace, left),
            (share, part, pace, left),
            (share, part, left or pace),
            (share, left or pace),
            (share,),
        )
        for words in from_long_to_short:
            text = "  ".join(filter(None, words))
            if len(text) <= columns and fit(text, columns) == text:
                return text
        return share

    @property
    def _percent(self) -> int:
        return int(100 * self._done / self._size) if self._size else 0

    def _tell_plain(self) -> None:
        if time.monotonic() < self._plain_after:
            return
        step = self._percent // _PLAIN_STEP * _PLAIN_STEP
        if step > self._told:
            self._told = step
            speed = f", {self.speed / 1e6:.1f} MB/s" if self.speed else ""
            self._output.line(f"{self._verb} {clean_line(self._name).rpartition('/')[2]}: {step}%{speed}")

    def _tell_json(self, now: float) -> None:
        if now - self._json_told < 0.5 and self._done < self._size:
            return
        if self._done == self._size and self._told == 100:
            return
        self._json_told = now
        self._told = self._percent
        self._output.json(
            {
                "event": "progress",
                "doing": self._verb,
                "file": self._name,
                "done": self._done,
                "size": self._size,
                "bytes_per_second": round(self.speed),
            }
        )

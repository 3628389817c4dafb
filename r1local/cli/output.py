"""The one way to the terminal: stdout is data, stderr is talk, and both pass the cleaner."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from r1local.errors import UsageError
from r1local.terminal import TerminalCleaner, clean, clean_line, escape_json

_REDRAW_SECONDS = 0.1


class Output:
    """Writes cleaned text to stdout and stderr, with a live status line on stderr where that is a terminal.

    `raw` lets data through unchanged, for pipes. Raises UsageError when it is asked for on a terminal.
    """

    def __init__(self, *, raw: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        for stream in (self.stdout, self.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that cannot show 字 shows ?
        self.stdout_is_terminal = self.stdout.isatty()
        self.stderr_is_terminal = self.stderr.isatty()
        if raw and self.stdout_is_terminal:
            raise UsageError(
                "--raw is for pipes and files, not for a terminal.", "Leave it out, or redirect the output."
            )
        self._raw = raw
        self._colour = self.stderr_is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._data_cleaner = TerminalCleaner()
        self._talk_cleaner = TerminalCleaner()
        self._data_at_line_start = True
        self._talk_at_line_start = True
        self._lock = threading.RLock()
        self._status: Callable[[], str] | None = None
        self._status_drawn = False
        self._ticker: threading.Thread | None = None
        self._stop_ticking = threading.Event()

    # Data

    def data(self, text: str) -> None:
        """A further piece of what was asked for, to stdout."""
        self._write_data(text if self._raw else self._data_cleaner.feed(text))

    def end_data(self) -> None:
        """The end of a piece of data: at least one newline after it."""
        if not self._raw:
            self._write_data(self._data_cleaner.flush())
        if not self._data_at_line_start:
            self._write_data("\n")

    def json(self, value: Any, *, indent: int | None = None) -> None:
        """A JSON document on stdout, in true text, and harmless on a terminal."""
        self._write_data(escape_json(json.dumps(value, ensure_ascii=False, indent=indent)) + "\n")

    def _write_data(self, text: str) -> None:
        if not text:
            return
        with self._lock:
            self._erase_status()
            self.stdout.write(text)
            self.stdout.flush()
            self._data_at_line_start = text.endswith("\n")

    # Talk

    def line(self, text: str) -> None:
        """A whole line of talk, on stderr."""
        with self._lock:
            self.end_talk()
            self._write_talk(clean(text) + "\n")

    def talk(self, text: str) -> None:
        """A further piece of running talk, such as a thought that is shown: dimmed where there is colour."""
        cleaned = self._talk_cleaner.feed(text)
        if cleaned:
            self._write_talk(f"\x1b[2m{cleaned}\x1b[22m" if self._colour else cleaned, cleaned)

    def end_talk(self) -> None:
        rest = self._talk_cleaner.flush()
        if rest:
            self._write_talk(rest)
        if not self._talk_at_line_start:
            self._write_talk("\n")

    def _write_talk(self, text: str, visible: str | None = None) -> None:
        with self._lock:
            self._erase_status()
            if self.stdout_is_terminal and not self._data_at_line_start:
                self.stdout.write("\n")
                self.stdout.flush()
                self._data_at_line_start = True
            self.stderr.write(text)
            self.stderr.flush()
            self._talk_at_line_start = (visible or text).endswith("\n")

    @property
    def can_ask(self) -> bool:
        """Whether there is somebody at a terminal to answer a question."""
        return self.stderr_is_terminal and sys.stdin is not None and sys.stdin.isatty()

    def ask(self, question: str) -> bool:
        """A question on stderr that only a yes answers with yes. The caller knows that it can be asked."""
        self.status(None)
        with self._lock:
            self.end_talk()
            self._write_talk(f"{clean_line(question)} [y/N] ")
        answer = sys.stdin.readline()
        self._talk_at_line_start = True
        if not answer.endswith("\n"):
            self._write_talk("\n")
        return answer.strip().lower() in ("y", "yes")

    # The live line

    def status(self, text: Callable[[], str] | None) -> None:
        """Show a live line, redrawn ten times a second, or none. Nothing happens where stderr is no terminal."""
        if not self.stderr_is_terminal:
            return
        with self._lock:
            if text is None:
                self._erase_status()
            self._status = text
            if text is not None:
                self._draw_status()
                if self._ticker is None:
                    self._stop_ticking.clear()
                    self._ticker = threading.Thread(target=self._tick, name="status line", daemon=True)
                    self._ticker.start()

    def close(self) -> None:
        """Take the live line away and stop redrawing it."""
        self.status(None)
        self._stop_ticking.set()
        if self._ticker is not None:
            self._ticker.join(timeout=1)
            self._ticker = None

    def _tick(self) -> None:
        while not self._stop_ticking.wait(_REDRAW_SECONDS):
            with self._lock:
                try:
                    self._draw_status()
                except (OSError, ValueError):
                    return

    def _draw_status(self) -> None:
        if self._status is None:
            return
        columns = shutil.get_terminal_size().columns
        text = fit(clean_line(self._status()), max(1, columns - 1))
        self.stderr.write("\r" + text + "\x1b[K")
        self.stderr.flush()
        self._status_drawn = True

    def _erase_status(self) -> None:
        if self._status_drawn:
            self.stderr.write("\r\x1b[K")
            self.stderr.flush()
            self._status_drawn = False


def fit(text: str, columns: int) -> str:
    """`text` cut to so many columns of a terminal, wide characters counted as two."""
    from wcwidth import wcswidth

    if wcswidth(text) <= columns:
        return text
    kept = text[: 4 * columns + 16]  # room for characters of no width of their own
    while kept and wcswidth(kept + "…") > columns:
        kept = kept[:-1]
    return kept + "…"


def size(count: float) -> str:
    """Bytes for people, in powers of 1024 as memory is counted."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if round(count, 1) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""

"""The former prompts: walked through from the draft, kept in the line history of the plain chat."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from r1local.errors import R1Error
from r1local.paths import ensure_folder

KEPT = 1000
"""Prompts in memory, the latest."""
_MOST_READ = 64_000_000
"""Bytes of a history that are still read; reading takes some times as much memory."""


class Drafts:
    """Its methods are for the screen's thread; the file is read and written in others.

    A file that cannot be read or written is done without.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Without a file all is forgotten at the end."""
        self._file = file
        self._former: list[str] = []
        self._before: list[str] | None = None  # what the file held, until it is taken over
        self._back = 0  # how many prompts back the walk is; 0 is the draft
        self._edited: dict[int, str] = {}
        self._unwritten: deque[str] = deque()
        self._writing = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def former(self) -> list[str]:
        """The latest prompts, the oldest first."""
        if self._before is not None:
            before, self._before = self._before, None
            self._former = [*before, *self._former][-KEPT:]
        return self._former

    def load(self) -> None:
        """Begin to read the file; what is in it appears when it was read."""
        if self._file is not None:
            self._start(self._read, self._file, daemon=True)

    def add(self, draft: str, written: str | None = None) -> None:
        """Remember a prompt, and end the walk. `written` is what the file gets instead of it; "" is nothing."""
        self._back = 0
        self._edited.clear()
        if self.former[-1:] != [draft]:
            self._former.append(draft)
            del self._former[:-KEPT]
            if self._file is not None and written != "":
                self._unwritten.append(draft if written is None else written)
                self._start(self._write, self._file, daemon=False)  # the last prompt before the end counts as well

    def older(self, draft: str) -> str | None:
        """The prompt before; None at the first one. `draft` is what stands there now, for when the walk comes back."""
        return self._walk(draft, 1)

    def newer(self, draft: str) -> str | None:
        """The prompt after, and the unsent draft in the end; None when there already."""
        return self._walk(draft, -1)

    def join(self, timeout: float | None = None) -> None:
        """Wait until all is read and written."""
        for thread in self._threads:
            thread.join(timeout)

    def _walk(self, draft: str, step: int) -> str | None:
        former, back = self.former, self._back + step
        if not 0 <= back <= len(former):
            return None
        self._edited[self._back] = draft
        self._back = back
        return self._edited.get(back, former[-back] if back else "")

    def _start(self, work: Callable[[Path], None], file: Path, *, daemon: bool) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, args=(file,), name="r1local-drafts", daemon=daemon)
        self._threads.append(thread)
        thread.start()

    def _read(self, file: Path) -> None:
        from prompt_toolkit.history import FileHistory

        try:
            if file.is_file() and file.stat().st_size <= _MOST_READ:
                latest = list(islice(FileHistory(str(file)).load_history_strings(), KEPT))
                self._before = latest[::-1]
        except OSError:
            pass

    def _write(self, file: Path) -> None:
        from prompt_toolkit.history import FileHistory

        with self._writing:
            while self._unwritten:
                text = self._unwritten.popleft()
                try:
                    ensure_folder(file.parent)
                    file.touch(mode=0o600)
                    if file.is_file():
                        FileHistory(str(file)).store_string(text)
                except (OSError, R1Error):
                    pass

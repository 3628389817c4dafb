"""A program of ours in a process of its own: it is told a line and says a line, and can be killed."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Sequence


class LineWorker:
    """The process, from its start to its end. It also ends with this one, when its input does."""

    def __init__(self, arguments: Sequence[str], *, name: str, own_session: bool = False) -> None:
        """`arguments`: of the Python that runs us. `own_session`: Ctrl-C in the terminal does not reach it.

        Raises OSError where it cannot be started.
        """
        self._process = process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=own_session,
        )
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        replies = self._replies

        def read() -> None:
            assert process.stdout is not None
            with process.stdout as stream:
                for line in stream:
                    replies.put(line)
            replies.put(b"")

        # Its end is the end of the process's output, so it needs no other stopping.
        threading.Thread(target=read, name=f"{name} replies", daemon=True).start()

    def ask(self, line: bytes, seconds: float) -> bytes:
        """What it says to this line; nothing where it has ended, or is not done within so many seconds."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            return b""
        return self.hear(seconds)

    def hear(self, seconds: float) -> bytes:
        """What it says next, with the same meaning of nothing."""
        try:
            return self._replies.get(timeout=seconds)
        except queue.Empty:
            return b""

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError:
                pass

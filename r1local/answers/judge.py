"""Whether an answer says what the right one says, with the help of algebra where that is installed."""

from __future__ import annotations

import importlib.util
import json
import queue
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import TracebackType

from r1local.answers import compare

MAX_SECONDS = 5.0
"""Wall time of one question, after which the answers count as different."""
MAX_START_SECONDS = 60.0
"""Loading the library from a slow disk takes a while; it is done once."""
MOST_CHARACTERS = 1000
"""A longer formula is not worth the time that algebra takes with it."""
MOST_REMEMBERED = 4096

_WORKER = Path(__file__).with_name("judge_worker.py")


class Judge:
    """Compares answers with `compare.verdict`, and asks math-verify in a child process what that leaves open.

    The child is started at the first question that needs it, killed at one that takes too long, and ends with `close`
    or with this process. A judge without the library knows what `compare.same` knows. Any thread may ask.
    """

    def __init__(self, *, use_library: bool = True, seconds: float = MAX_SECONDS) -> None:
        self._asks = use_library and self.installed
        self._remembered: dict[tuple[str, str], bool] = {}
        self._lock = threading.Lock()
        self._child = _Child(seconds)
        # Also when nobody closes it; weak, so that it does not keep the judge.
        self._close = weakref.finalize(self, self._child.stop)

    @property
    def installed(self) -> bool:
        """Whether math-verify is there. It is looked up, not loaded."""
        return importlib.util.find_spec("math_verify") is not None

    def same(self, gold: str, given: str) -> bool:
        """Whether `given` says what `gold`, the right answer, says. Never raises.

        The order matters: an equation or a set may be given for a value, but not the other way round.
        """
        known = compare.verdict(gold, given)
        if known is not None or not self._asks or max(len(gold), len(given)) > MOST_CHARACTERS:
            return known is True
        with self._lock:
            pair = (gold, given)
            if pair not in self._remembered:
                if len(self._remembered) >= MOST_REMEMBERED:
                    del self._remembered[next(iter(self._remembered))]
                self._remembered[pair] = self._close.alive and self._child.ask(*pair)
            return self._remembered[pair]

    def close(self) -> None:
        """End the child. Afterwards the judge knows what it remembers and what `compare.same` knows."""
        with self._lock:
            self._close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Child:
    """The process that computes. Not safe for several threads at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._useless = False

    def ask(self, gold: str, given: str) -> bool:
        """Its answer; False where it has none within its time."""
        if self._process is None and not self._start():
            return False
        assert self._process is not None
        assert self._process.stdin is not None
        request = json.dumps({"gold": gold, "given": given}).encode("ascii") + b"\n"
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except OSError:  # it was ended by someone else
            self.stop()
            return False
        reply = self._reply(self._seconds)
        if reply is None:
            self.stop()
        return reply == {"same": True}

    def _start(self) -> bool:
        """Whether it is ready. A library that cannot be loaded is not tried again."""
        if self._useless:
            return False
        try:
            process = subprocess.Popen(
                # -P: a script's folder is where Python looks for modules first, and this one is full of ours.
                [sys.executable, "-P", str(_WORKER), str(2 * self._seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for us alone, even while it starts
            )
        except OSError:
            self._useless = True
            return False
        replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            with process.stdout as stream:
                for line in stream:
                    replies.put(line)
            replies.put(b"")

        # Its end is the end of the process's output, so it needs no other stopping.
        threading.Thread(target=read, name="judge replies", daemon=True).start()
        self._process, self._replies = process, replies
        if self._reply(MAX_START_SECONDS) != {"ready": True}:
            self._useless = True
            self.stop()
        return not self._useless

    def _reply(self, seconds: float) -> object:
        """The next one; None when the process is late, or has ended."""
        try:
            return json.loads(self._replies.get(timeout=seconds))
        except (queue.Empty, ValueError):
            return None

    def stop(self) -> None:
        """End it, if it runs. The next question starts another one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass

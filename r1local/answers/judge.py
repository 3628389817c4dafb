"""Whether an answer says what the right one says, with the help of algebra where that is installed."""

from __future__ import annotations

import importlib.util
import json
import threading
import weakref
from pathlib import Path
from types import TracebackType

from r1local.answers import compare
from r1local.line_worker import LineWorker

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
        self._process: LineWorker | None = None
        self._useless = False
        """It could not be started, and is not tried again."""

    def ask(self, gold: str, given: str) -> bool:
        """Its answer; False where it has none within its time."""
        if self._process is None:
            self._start()
        if self._process is None:
            return False
        request = json.dumps({"gold": gold, "given": given}).encode("ascii") + b"\n"
        reply = _read(self._process.ask(request, self._seconds))
        if reply is None:
            self.stop()
        return reply == {"same": True}

    def _start(self) -> None:
        if self._useless:
            return
        # -P: a script's folder is where Python looks for modules first, and this one is full of ours.
        arguments = ["-P", str(_WORKER), str(2 * self._seconds)]
        try:
            # Ctrl-C in the terminal is for us alone, even while it starts.
            self._process = LineWorker(arguments, name="judge", own_session=True)
        except OSError:
            self._useless = True
            return
        if _read(self._process.hear(MAX_START_SECONDS)) != {"ready": True}:
            self._useless = True
            self.stop()

    def stop(self) -> None:
        """End it, if it runs. The next question starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()


def _read(line: bytes) -> object:
    """What the child says; None where that is nothing."""
    try:
        return json.loads(line)
    except ValueError:
        return None

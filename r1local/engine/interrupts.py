"""Ctrl-C while the C library works."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_held() -> Iterator[Callable[[], bool]]:
    """Hold a Ctrl-C back until the library's call has returned; yields whether there was one.

    Python runs its signal handler in the main thread's next line, and that line may be one of a callback the library
    has called, such as its log: an exception cannot cross the library, so ctypes prints it and drops it, and the
    Ctrl-C is lost. Raises KeyboardInterrupt at the end where one came. Other threads never get signals.
    """
    pressed = False

    def hold(*_: object) -> None:
        nonlocal pressed
        pressed = True

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) in (
        signal.SIG_IGN,
        None,  # a handler Python did not set and could not put back
    ):
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt

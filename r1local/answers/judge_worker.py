"""Compares formulas with math-verify in a process of its own, which can be killed and has little memory.

Algebra on a stranger's formula may work for ever or fill the memory, and no signal stops it in every thread on every
system. So the process that computes is not the process that asks. It is started by file name, speaks one JSON object a
line, and imports nothing but math-verify and the standard library.

    out  {"ready": true}                    once, when the library is loaded
    in   {"gold": str, "given": str}        LaTeX without delimiters
    out  {"same": bool}                     False too for what the library cannot read

The one argument is the processor time in seconds that a question may take.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from typing import Any

MAX_MEMORY = 2 << 30


def _limit() -> None:
    """Bound the memory of this process, and leave Ctrl-C to the parent; this process ends with its input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import resource
    except ImportError:  # Windows: the parent's clock is the only bound there
        return
    for name, most in (("RLIMIT_AS", MAX_MEMORY), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
        except (AttributeError, ValueError, OSError):
            continue


def _watch(seconds: float) -> None:
    """End this process after so much processor time: a parent that was killed can stop nothing any more."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process


def _own_output() -> io.FileIO:
    """Where replies go. What libraries print goes nowhere, so that it cannot be taken for one."""
    replies = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return io.FileIO(replies, "w")


def _with_imaginary_unit(formula: Any) -> Any:
    """The library reads i as a letter where no other sign says that numbers are complex."""
    from sympy import I  # type: ignore[import-untyped,import-not-found,unused-ignore]

    letters = {symbol: I for symbol in getattr(formula, "free_symbols", ()) if symbol.name == "i"}
    return formula.subs(letters) if letters else formula


def _same(gold: str, given: str) -> bool:
    # Only the reader of LaTeX: the library's other one hands the text to `eval`. No time limits, which are signals.
    from math_verify import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        LatexExtractionConfig,
        parse,
        verify,
    )

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    read: list[Any] = []
    for text in (gold, given):
        found = parse(f"\\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=None)
        if not found:
            return False
        read.append([_with_imaginary_unit(formula) for formula in found])
    return bool(verify(*read, allow_set_relation_comp=True, timeout_seconds=None))


def main() -> None:
    _limit()
    seconds = float(sys.argv[1])
    replies = _own_output()
    logging.disable()  # it logs that its time limits are off
    _same("1", "2")  # loads all that is needed
    replies.write(b'{"ready": true}\n')
    for line in sys.stdin.buffer:
        _watch(seconds)
        try:
            request = json.loads(line)
            same = _same(request["gold"], request["given"])
        except (Exception, MemoryError, RecursionError):  # a formula can raise anything at all
            same = False
        _watch(0)
        replies.write(json.dumps({"same": same}).encode("ascii") + b"\n")


if __name__ == "__main__":
    main()

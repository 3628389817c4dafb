"""How long from the command to the first token of a thought, with the model inside? Goal: less than 1 s on the very
first run, which tries the build and the file in a child process; a later run is compared with it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.measure import ROUNDS, interleaved, report


def first_token(home: str) -> float:
    """Seconds until the first event of a chat, in a process of its own."""
    command = [sys.executable, "-m", "r1local", "chat", "-m", "inside", "--events", "What is 47 + 85?"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "R1LOCAL_HOME": home},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - began
        process.stdout.read()
    if b'"think"' not in line or process.returncode:
        raise SystemExit(f"The chat failed: {line!r}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as kept:

        def first_run() -> float:
            with tempfile.TemporaryDirectory() as new:
                return first_token(new)

        results = interleaved({"first run": first_run, "later run": lambda: first_token(kept)}, given.rounds)
    report(results, "s", of="later run", against="first run")


if __name__ == "__main__":
    main()

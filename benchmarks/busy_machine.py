"""How fast is a reply while another program keeps one core busy? With our limit on spinning, against without."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.measure import arguments, interleaved, report
from r1local.engine.library import SPIN_COUNT


def main() -> None:
    given = arguments(__doc__, tokens=48)

    def speed(spin_count: str | None) -> float:
        environment = {**os.environ}
        environment.pop("GOMP_SPINCOUNT", None)
        if spin_count is not None:
            environment["GOMP_SPINCOUNT"] = spin_count
        command = [sys.executable, "-m", "r1local", "chat", "-m", str(given.model), "--json", "--temperature", "0"]
        result = subprocess.run(
            [*command, "-n", str(given.tokens), "Tell me a long story."],
            env=environment,
            capture_output=True,
            check=True,
        )
        return float(json.loads(result.stdout)["stats"]["decode_tokens_per_second"])

    # What libgomp does by itself where there are no more threads than processors.
    variants = {"our limit": lambda: speed(None), "libgomp's own": lambda: speed("300000")}
    print(f"Decode, {given.model.name}, machine idle (GOMP_SPINCOUNT {SPIN_COUNT} against its default)")
    report(interleaved(variants, given.rounds), "tok/s", of="our limit", against="libgomp's own")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        results = interleaved(variants, given.rounds)
    finally:
        busy.kill()
        busy.wait()
    print("The same beside one busy process")
    report(results, "tok/s", of="our limit", against="libgomp's own")


if __name__ == "__main__":
    main()

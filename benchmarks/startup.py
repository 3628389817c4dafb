"""What does the front door cost? Modules and milliseconds of `r1local --help`, against a bare Python."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measure import interleaved, report


def milliseconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    count = (
        "import sys, contextlib, io\n"
        "sys.argv = ['r1local', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    from r1local.__main__ import main; main()\n"
        "print(len(sys.modules))"
    )
    modules = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True).stdout.strip()
    results = interleaved(
        {
            "r1local --help": lambda: milliseconds("-m", "r1local", "--help"),
            "python -c pass": lambda: milliseconds("-c", "pass"),
        },
        rounds=15,
    )
    print(f"The front door loads {modules} modules")
    report(results, "ms", of="r1local --help", against="python -c pass")


if __name__ == "__main__":
    main()

"""A whole pull, checksum and fsync included, against `hf download` and curl, from one local Hub.

Goals: no slower than `hf download`, and at most 100 MB above what the program holds when it pulls a tiny file.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.local_hub import FILE, REPO, LocalHub, local_hub, peak_memory
from benchmarks.measure import interleaved, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    memory: dict[str, float] = {}
    with local_hub(given.megabytes * 1_000_000) as hub, local_hub(100_000) as tiny:
        _, start = pull(tiny)

        def timed(name: str) -> float:
            took, memory[name] = {"r1local pull": pull, "hf download": hf_download, "curl": curl}[name](hub)
            return took

        names = ("r1local pull", "hf download", "curl")
        results = interleaved({name: lambda name=name: timed(name) for name in names}, given.rounds)  # type: ignore[misc]
    report(results, "s", of="r1local pull", against="hf download")
    report({name: results[name] for name in ("r1local pull", "curl")}, "s", of="r1local pull", against="curl")
    print(f"  peak memory, MB: {', '.join(f'{name} {peak:.0f}' for name, peak in memory.items())}")
    print(f"  r1local above its own start ({start:.0f} MB): {memory['r1local pull'] - start:.0f} MB")


def emptied(hub: LocalHub) -> Path:
    cache = hub.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    subprocess.run(["sync"], check=True)  # nobody pays for what the one before left to write
    return cache


def pull(hub: LocalHub) -> tuple[float, float]:
    command = [sys.executable, "-m", "r1local", "pull", "--yes", f"{REPO}:q4_k_m"]
    return peak_memory(command, hub.environment(emptied(hub)))


def hf_download(hub: LocalHub) -> tuple[float, float]:
    command = [str(Path(sys.executable).with_name("hf")), "download", REPO, FILE]
    return peak_memory(command, hub.environment(emptied(hub)))


def curl(hub: LocalHub) -> tuple[float, float]:
    cache = emptied(hub)
    url = f"{hub.endpoint}/{REPO}/resolve/main/{FILE}"
    return peak_memory(["curl", "-sSfL", "-o", str(cache / FILE), url], hub.environment(cache))


if __name__ == "__main__":
    main()

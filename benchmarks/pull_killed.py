"""What a kill costs: SIGKILL at random moments of a pull, then completion.

Goal: the file is right every time, and all bytes the server handed out are at most 1.05 times the file plus one open
range for each kill. Bytes are counted at the server, those in the sockets' buffers included.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.local_hub import FILE, REPO, LocalHub, killed_until_done, random_model
from r1local.hub.ranges import FetchOptions
from tests.hub import Hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rate", type=int, default=20, help="MB a second of each connection")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    size = given.megabytes * 1_000_000
    with tempfile.TemporaryDirectory(prefix="r1local-kill-") as name, Hub() as hub:
        folder = Path(name)
        source = folder / FILE
        sha256 = random_model(source, size)
        hub.add(REPO, {FILE: source})
        hub.rate = given.rate * 1_000_000
        facts = LocalHub(hub.endpoint, size, sha256, folder)
        kills = files = 0
        while kills < given.kills:
            files += 1
            cache = folder / f"cache{files}"
            killed = one_file(facts, cache, chance, given.kills - kills, hub)
            kills += killed
            path = next(cache.rglob(f"snapshots/*/{FILE}"))
            right = hashlib.sha256(path.read_bytes()).hexdigest() == sha256
            leftover = list(cache.rglob(".r1local/*"))
            print(f"  file {files}: {killed} kills, right: {right}, leftovers: {len(leftover)}")
            if not right or leftover:
                raise SystemExit("FAILED")
        sent = hub.bytes_sent()
        again = sent - files * size
        largest = min(FetchOptions().largest_range, size // (2 * FetchOptions().connections))
        allowed = 1.05 * files * size + kills * largest
        print(f"  {kills} kills, {files} files of {size / 1e6:.0f} MB: {sent / 1e6:.1f} MB sent in all")
        print(f"  sent again: {again / 1e6:.1f} MB, {again / max(1, kills) / 1e6:.2f} MB for each kill")
        print(f"  allowed: {allowed / 1e6:.0f} MB; total / file bytes: {sent / (files * size):.3f}")
        if sent > allowed:
            raise SystemExit("FAILED")


def one_file(hub: LocalHub, cache: Path, chance: random.Random, most: int, server: Hub) -> int:
    """Pull one file, killed at random moments until it is there; how many kills that took."""
    command = [sys.executable, "-m", "r1local", "pull", "--yes", f"{REPO}:q4_k_m"]

    def moment() -> Callable[[], bool]:
        before, deadline = server.bytes_sent(), time.monotonic() + chance.uniform(0.0, 1.2)

        def is_now() -> bool:
            # Half of the moments count from the first byte, the others from the start of the process.
            late = time.monotonic() >= deadline
            return late and (server.bytes_sent() > before or chance.random() < 0.01)

        return is_now

    return killed_until_done(command, hub.environment(cache), most, moment)


if __name__ == "__main__":
    main()

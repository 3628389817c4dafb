"""What a kill costs while a checkpoint is fetched and converted: SIGKILL at random moments, then completion.

Goal: the model has the bytes of a conversion on the spot every time; all bytes the server handed out are at most the
checkpoint plus one shard for each kill; and the disk never holds more than the result and two shards. Bytes are
counted at the server, those in the sockets' buffers included; the disk is looked at all the time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.local_hub import LocalHub, killed_until_done
from quantize.conversion import Options
from quantize.convert import convert_checkpoint
from quantize.kernels import Kernels
from quantize.metadata import Origin
from quantize.recipes import Wish
from tests.checkpoints import write_checkpoint
from tests.hub import Hub

NAME = "Thinker"
REPO = f"somebody/{NAME}"
# The small files, journals, and blocks of the file system that are not full.
_BESIDES = 4 << 20


class Watch(threading.Thread):
    """The most bytes that one folder took on the disk, and the most shards that were in it, whole or in part."""

    def __init__(self, folder: Path, shards: set[str]) -> None:
        super().__init__(daemon=True)
        self.folder, self.shards = folder, shards
        self.bytes = self.count = self.samples = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.005):
            before = self._blobs()
            taken, etags = 0, set(before)
            for root, _, names in os.walk(self.folder):
                if ".r1local" in Path(root).parts:
                    etags.add(Path(root).name.partition(".")[0])
                for name in names:
                    try:
                        taken += os.lstat(os.path.join(root, name)).st_blocks * 512
                    except FileNotFoundError:
                        pass
            if before == self._blobs():  # else a file may have been counted under two names
                self.samples += 1
                self.bytes = max(self.bytes, taken)
                self.count = max(self.count, len(etags & self.shards))

    def _blobs(self) -> set[str]:
        return {path.name for path in self.folder.glob("huggingface/hub/models--*/blobs/*")}

    def stop(self) -> None:
        self._over.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--a-run", type=int, default=4, help="kills of one model, before it may be completed")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--rate", type=int, default=10, help="MB a second of each connection")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="r1local-source-") as name, Hub(lfs_threshold=1 << 20) as hub:
        folder = Path(name)
        source = write_checkpoint(folder / "source", layers=12, hidden=1024, heads=16, kv_heads=4, ffn=4096, shards=6)
        commit = hub.add(REPO, {path.name: path for path in sorted(source.iterdir())})
        sizes = sorted(path.stat().st_size for path in source.glob("*.safetensors"))
        etags = {sha256(path) for path in source.glob("*.safetensors")}
        expected = folder / "expected.gguf"
        options = Options(Kernels("auto" if given.kernels == "auto" else "c"), 2, threading.Event())
        origin = Origin(NAME, REPO, commit)
        convert_checkpoint(source, expected, Wish(given.quant), options, origin=origin)
        right, size = expected.read_bytes(), expected.stat().st_size
        allowed_disk = size + sizes[-1] + sizes[-2] + _BESIDES
        facts = LocalHub(hub.endpoint, sum(sizes), "", folder)
        command = [
            sys.executable, "-m", "r1local", "pull", "--from-source", "--yes", REPO,
            "--quant", given.quant, "--kernels", given.kernels,
        ]  # fmt: skip
        hub.rate = given.rate * 1_000_000
        print(f"  checkpoint: {sum(sizes) / 1e6:.1f} MB in {len(sizes)} shards, the largest {sizes[-1] / 1e6:.1f} MB")
        print(f"  result: {size / 1e6:.1f} MB; result and two shards: {(size + sum(sizes[-2:])) / 1e6:.1f} MB")
        print(
            f"  {'model':>5} {'kills':>5} {'right':>5} {'seconds':>7} {'sent MB':>8} {'again, shards a kill':>20}",
            end="",
        )
        print(f" {'disk MB':>8} {'shards':>6} {'samples':>7} {'left over':>9}")
        kills = models = 0
        failed = False
        while kills < given.kills:
            models += 1
            home = folder / f"home{models}"
            watch = Watch(home, etags)
            watch.start()
            before, began = hub.bytes_sent(), time.monotonic()
            killed = one_model(command, facts, home, chance, min(given.a_run, given.kills - kills), hub)
            watch.stop()
            kills += killed
            sent = hub.bytes_sent() - before
            again = (sent - sum(sizes)) / max(1, killed) / sizes[-1]
            path = home / "r1local" / "models" / f"{NAME}-{given.quant}.gguf"
            is_right = path.read_bytes() == right
            left = [found.name for found in path.parent.iterdir() if found != path]
            left += [found.name for found in home.rglob("*") if found.name in etags or ".r1local" in found.parts]
            path.unlink()
            print(
                f"  {models:>5} {killed:>5} {is_right!s:>5} {time.monotonic() - began:>7.1f} {sent / 1e6:>8.1f} "
                f"{again:>20.2f} {watch.bytes / 1e6:>8.1f} {watch.count:>6} {watch.samples:>7} {len(left):>9}"
            )
            if not is_right or left or again > 1 or watch.bytes > allowed_disk or watch.count > 2:
                failed = True
        print(f"  {kills} kills of {models} models")
        if failed:
            raise SystemExit("FAILED")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_model(command: list[str], hub: LocalHub, home: Path, chance: random.Random, most: int, server: Hub) -> int:
    """Make one model, killed at random moments until it was often enough; how many kills that took."""

    def moment() -> Callable[[], bool]:
        # Most moments count from the first byte of a shard, some from the start of the process.
        before, early = server.bytes_sent(), chance.random() < 0.2
        wait = chance.uniform(0.0, 2.0 if early else 4.0)
        began = time.monotonic() if early else 0.0

        def is_now() -> bool:
            nonlocal began
            if not began and server.bytes_sent() > before:
                began = time.monotonic()
            return bool(began) and time.monotonic() > began + wait

        return is_now

    return killed_until_done(command, hub.environment(home), most, moment)


if __name__ == "__main__":
    main()

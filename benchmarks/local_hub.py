"""A local Hub in a process of its own, with one large model of random bytes, for the benchmarks of pull."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPO = "somebody/Model-GGUF"
FILE = "Model-Q4_K_M.gguf"
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class LocalHub:
    endpoint: str
    size: int
    sha256: str
    folder: Path
    """Scratch space for caches."""

    def environment(self, cache: Path) -> dict[str, str]:
        """For a client of this Hub that has its cache in `cache`, and asks nobody else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "R1LOCAL_"))}
        return {
            **kept,
            "HF_HOME": str(cache / "huggingface"),
            "R1LOCAL_HOME": str(cache / "r1local"),
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }


def killed_until_done(
    command: list[str], environment: dict[str, str], most: int, is_moment: Callable[[], Callable[[], bool]]
) -> int:
    """Run a command again and again, killed at most so many times, until it ends well; how many kills that took.

    is_moment() begins with a run of the command and returns what tells when to kill it.
    """
    killed = 0
    while True:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if killed < most:
            now = is_moment()
            while child.poll() is None:
                if now():
                    os.kill(child.pid, signal.SIGKILL)
                    break
                time.sleep(0.002)
        code = child.wait()
        if code == 0:
            return killed
        if code != -signal.SIGKILL:
            raise SystemExit(f"FAILED: exit code {code}")
        killed += 1


def random_model(path: Path, size: int) -> str:
    """Write a GGUF file of that many bytes, one tensor of random 8-bit numbers in it; its SHA-256."""
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    header += struct.pack("<Q20sIQ5s", 20, b"general.architecture", 8, 5, b"llama")
    rows = size - 128
    header += struct.pack("<Q1sIQIQ", 1, b"x", 1, rows, 24, 0)
    header = header.ljust(128, b"\0")
    digest = hashlib.sha256(header)
    size -= len(header)
    with path.open("wb") as file:
        file.write(header)
        while size:
            block = os.urandom(min(size, 8 << 20))
            digest.update(block)
            file.write(block)
            size -= len(block)
    return digest.hexdigest()


@contextmanager
def local_hub(size: int, rate: int = 0) -> Iterator[LocalHub]:
    """Serve a model of `size` bytes; `rate` bounds each connection's bytes a second."""
    with tempfile.TemporaryDirectory(prefix="r1local-hub-") as name:
        folder = Path(name)
        home = folder / "repos" / REPO
        home.mkdir(parents=True)
        sha256 = random_model(home / FILE, size)
        port_file = folder / "port"
        command = [sys.executable, "-m", "tests.hub", str(folder / "repos"), "--port-file", str(port_file)]
        if rate:
            command += ["--rate", str(rate)]
        server = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            while not port_file.exists():
                if server.poll() is not None:
                    raise SystemExit("The local Hub did not start.")
                time.sleep(0.05)
            yield LocalHub(f"http://127.0.0.1:{port_file.read_text()}", size, sha256, folder)
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate()


def peak_memory(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; the seconds it took, and the most memory it held, in MB. Raises when it fails."""
    began = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=_ROOT)
    assert child.stderr is not None
    talk = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    took = time.perf_counter() - began
    child.stderr.close()
    if child.returncode:
        raise SystemExit(f"{command[0]} failed: {talk.decode(errors='replace')}")
    return took, usage.ru_maxrss * 1024 / 1e6

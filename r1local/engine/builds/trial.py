"""Tries a build that was just installed, in a child process: does it load, find what it should, and compute?"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

from r1local.engine.devices import Device
from r1local.engine.library import child_environment
from r1local.errors import R1Error, SelfTestFailed
from r1local.terminal import clean_line

# The child has others try the model, up to five times, each of which has two minutes.
_TRIAL_SECONDS = 900.0
_THREADS = 2  # enough for 3.4 million weights


@dataclass(frozen=True, slots=True)
class Trial:
    """What the build was found to do."""

    devices: tuple[Device, ...]
    summary: str
    """What of it is used: "works with all features"."""


def try_build(wanted: str) -> Trial:
    """Try the installed build in a child process. Raises SelfTestFailed."""
    with tempfile.TemporaryDirectory(prefix="r1local-") as home:
        # A home of its own: what the self-test remembers of a build with the same marks must not stand for this one.
        environment = {**child_environment(), "R1LOCAL_HOME": home}
        command = [sys.executable, "-c", "from r1local.engine.builds.trial import child; child()"]
        try:
            ended = subprocess.run(
                command, input=wanted.encode(), capture_output=True, env=environment, timeout=_TRIAL_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise SelfTestFailed(
                f"The new build hangs: no answer within {_TRIAL_SECONDS:.0f} s.", _advice(wanted, "")
            ) from error
    try:
        report: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = clean_line(ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]) or "no message"
        raise SelfTestFailed(
            f"The new build crashes when it is loaded (exit code {ended.returncode}: {last}).", _advice(wanted, last)
        ) from error
    if "problem" in report:
        raise SelfTestFailed(f"The new build fails its test: {report['problem']}", _advice(wanted, report["problem"]))
    return Trial(tuple(Device(**each) for each in report["devices"]), report["summary"])


def _advice(wanted: str, problem: str) -> str:
    """What to do about a build that is right and does not run."""
    if wanted != "cuda":
        first = "Compile it" if wanted == "cpu" else "Look at the driver of the GPU, or compile it"
        return f"{first} for this machine: r1local backend install {wanted} --from-source"
    runtime = re.search(r"lib(?:cudart|cublas\w*)\.so\.\d+", problem)
    if runtime or "dependencies" in problem:  # as Windows says it
        return (
            f"Install NVIDIA's CUDA runtime, which has {runtime.group() if runtime else 'cudart and cublas'}, or put "
            "the folder that has it into LD_LIBRARY_PATH (PATH on Windows); then type it again."
        )
    return (
        "nvidia-smi shows whether the driver works; for an older CUDA: r1local backend install cuda --cuda-version 12.1"
    )


def child() -> None:
    """The other side of `try_build`: try what standard input names and print one line of JSON."""
    wanted = sys.stdin.read()
    report_to = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the library may print there
    try:
        report = _examine(wanted)
    except R1Error as error:
        report = {"problem": error.message}
    os.write(report_to, json.dumps(report).encode() + b"\n")
    os._exit(0)  # unloading a GPU's libraries takes time, and some crash in it


def _examine(wanted: str) -> dict[str, Any]:
    from r1local.catalog import load_catalog
    from r1local.engine import selftest
    from r1local.engine.devices import devices
    from r1local.gguf_header import read_header
    from r1local.store import find

    found = devices()
    if wanted != "cpu" and not any(device.is_gpu for device in found):
        return {"problem": f"it finds no GPU, only {', '.join(device.name for device in found) or 'nothing'}."}
    header = read_header(find(load_catalog(), "inside").path)
    verdict = selftest.check(header, n_threads=_THREADS, n_gpu_layers=-1)
    return {"devices": [asdict(device) for device in found], "summary": verdict.summary}

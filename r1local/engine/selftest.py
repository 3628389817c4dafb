"""Tries a model file with the installed build on this machine, once, in a process that may die of it.

A crash in the C library cannot be caught. It happens with healthy builds (AMX kernels compiled by GCC 12),
and with files made to do harm. So before a file is opened here for the first time, a child process loads it,
decodes a batch of tokens and then the same tokens one by one, and compares. Where the child dies, features
are taken away until it lives; what works is remembered for this build, processor and quantization, so that
the next file of the kind starts from there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from r1local import errors
from r1local.engine.context import Batch, Context
from r1local.engine.library import child_environment, library_version, supports_gpu_offload
from r1local.engine.model import Features, Model
from r1local.engine.verdicts import Memory, Verdict, described, file_identity, kind_of, ladder, machine
from r1local.errors import ModelFileError, OutOfMemory, R1Error, SelfTestFailed
from r1local.gguf_types import GgufHeader
from r1local.terminal import clean_line

# The least a child gets; a large file gets the time to be read from a slow disk as well.
PATIENCE_SECONDS = 120.0
_SLOW_DISK_BYTES_PER_SECOND = 40e6
_BATCH = 48
_COMPARED = 4
# Different kernels round differently; a wrong one is far off.
_LEAST_COSINE = 0.98


def check(
    header: GgufHeader,
    *,
    n_threads: int,
    n_gpu_layers: int = -1,
    on_notice: Callable[[str], None] = lambda _: None,
    patience: float | None = None,
) -> Verdict:
    """The features to run this file with: remembered, or tried now.

    `on_notice` is told when something is being tried, as that takes a while. `patience` is the most seconds a
    child gets. Raises SelfTestFailed, OutOfMemory, or the ModelFileError the file deserves.
    """
    memory = Memory.load()
    kind = kind_of(header, on_gpu=n_gpu_layers != 0 and supports_gpu_offload())
    file_key = file_identity(header.path)
    known = memory.verdict(kind)
    if known is not None and memory.data["files"].get(file_key) == kind:
        return known
    on_notice(f"Trying {header.path.name} on this machine, once.")
    limit = patience or PATIENCE_SECONDS + header.file_size / _SLOW_DISK_BYTES_PER_SECOND
    crashed = list(known.crashed) if known else []
    steps = ladder()
    start = 0
    if known is not None:
        start = steps.index(known.features) if known.features in steps else 0
    elif memory.amx_crashed(machine()):
        start = 1
    for features in steps[start:]:
        problem = _try(header.path, features, n_threads, n_gpu_layers, limit)
        if problem is None:
            verdict = Verdict(features, tuple(crashed), time.strftime("%Y-%m-%dT%H:%M:%S"))
            memory.remember(kind, file_key, verdict)
            return verdict
        crashed.append(f"{described(features)}: {problem}")
        on_notice(f"With {described(features)} the C library {problem}; trying with less.")
    attempts = "; ".join(crashed)
    if known is not None:
        raise ModelFileError(
            f"{header.path.name} makes the C library crash, which runs other files of its kind ({attempts}).",
            "Delete it and get the model from a source you trust.",
        )
    raise SelfTestFailed(
        f"The installed llama-cpp-python {library_version()} cannot run {header.path.name} here ({attempts}).",
        "Run `r1local doctor`; rebuild with: CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --force-reinstall "
        f"--no-cache-dir llama-cpp-python=={library_version()}",
    )


def _try(path: Path, features: Features, n_threads: int, n_gpu_layers: int, limit: float) -> str | None:
    """Run the child. None when all is well, or how it ended. Raises the error that the child reports."""
    request = json.dumps(
        {
            "path": str(path),
            "features": asdict(features),
            "n_threads": n_threads,
            "n_gpu_layers": n_gpu_layers,
        }
    )
    child = subprocess.Popen(
        [sys.executable, "-c", "from r1local.engine.selftest import child; child()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    try:
        output, talk = child.communicate(request.encode(), timeout=limit)
    except subprocess.TimeoutExpired:
        return f"did not answer within {limit:.0f} s"
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()
    try:
        report = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return _ending(path, child.returncode, talk)
    if "error" in report:
        kind = getattr(errors, str(report["error"]), R1Error)
        raise kind(report["message"], report["hint"])
    problem = report.get("problem")
    return str(problem) if problem else None


def _ending(path: Path, code: int, talk: bytes) -> str:
    """How a child ended that could not report, with the assertion that failed where there was one."""
    if code == -getattr(signal, "SIGKILL", 9):
        raise OutOfMemory(
            f"The trial of {path.name} was killed by the system, most likely for want of memory.",
            "Choose a smaller model or quantization, or close other programs, and try again.",
        )
    asserted = re.search(r"GGML_ASSERT\(.{1,200}?\) failed", talk.decode("utf-8", "replace"))
    because = f", {clean_line(asserted.group())}" if asserted else ""
    if code < 0:
        try:
            return f"crashed ({signal.Signals(-code).name}{because})"
        except ValueError:
            return f"crashed (signal {-code}{because})"
    return f"ended with code {code & 0xFFFFFFFF:#x}"


def child() -> None:
    """The other side: try what standard input asks for and print one line of JSON."""
    request = json.loads(sys.stdin.read())
    # The library may print to either stream; the report goes where the parent listens.
    report_to = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        report: dict[str, Any] = {"problem": _exercise(request)}
    except R1Error as error:
        report = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    os.write(report_to, json.dumps(report).encode() + b"\n")
    os._exit(0)  # freeing a large model takes seconds and proves nothing


def _exercise(request: dict[str, Any]) -> str | None:
    features = Features(**request["features"])
    model = Model(Path(request["path"]), features, n_gpu_layers=request["n_gpu_layers"])
    context = Context(model, features, n_ctx=256, n_batch=64, n_seq_max=2, n_threads=request["n_threads"])
    batch = Batch(64)
    tokens = [(7 + 31 * i) % min(model.n_vocab, 1000) for i in range(_BATCH)]

    def logits_after(sequence: int, run: list[int], start: int) -> Any:
        batch.clear()
        row = batch.add(sequence, run, start, want_last=True)
        if context.decode(batch) != Context.OK:
            return None
        return context.logits(row, model.n_vocab).astype(np.float64)

    together = logits_after(0, tokens[:_COMPARED], 0)
    apart = None
    for position in range(_COMPARED):
        apart = logits_after(1, [tokens[position]], position)
    rest = logits_after(0, tokens[_COMPARED:], _COMPARED)
    if together is None or apart is None or rest is None:
        return "could not decode"
    if not (np.isfinite(together).all() and np.isfinite(apart).all() and np.isfinite(rest).all()):
        return "computes numbers that are not finite"
    scale = float(np.linalg.norm(together) * np.linalg.norm(apart))
    if scale > 0 and float(together @ apart) / scale < _LEAST_COSINE:
        return "computes different results for a batch than for single tokens"
    return None

"""A whole 1.5B distill to Q4_K_M: one pass of ours against llama.cpp's converter and then its quantizer.

Random weights in the true shape with the true tokenizer, 3.55 GB of bf16. llama.cpp's side needs its source folder, a
Python with torch and transformers for the converter (`--python`), and is left out without them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.measure import interleaved, report
from tests.checkpoints import true_1_5b

FILE_TYPE, NUMBER = "Q4_K_M", 15
QUANTIZE = """
import sys, llama_cpp, ctypes
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype, parameters.nthread = int(sys.argv[3]), int(sys.argv[4])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(parameters)))
"""


class Meter:
    """Runs commands one after the other: wall seconds, and the most memory all their processes held together."""

    def __init__(self) -> None:
        self.peak = 0

    def run(self, *commands: list[str]) -> float:
        self.peak = 0
        started = time.monotonic()
        for command in commands:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            watcher = threading.Thread(target=self._watch, args=(process.pid,), daemon=True)
            watcher.start()
            _, errors = process.communicate()
            watcher.join()
            if process.returncode:
                raise SystemExit(f"{' '.join(command[:4])} failed: {errors.decode(errors='replace')[-2000:]}")
        return time.monotonic() - started

    def _watch(self, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                family = [process, *process.children(recursive=True)]
                self.peak = max(self.peak, sum(_resident(one) for one in family))
                time.sleep(0.05)
        except psutil.NoSuchProcess:
            return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, help="the llama.cpp source folder")
    parser.add_argument("--python", type=Path, help="a Python with torch and transformers, for its converter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made, or is from the last time")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.gettempdir()) / "r1local-1.5b"
    source = folder / "DeepSeek-R1-Distill-Qwen-1.5B"
    if not (source / "model.safetensors").exists():
        true_1_5b(source)
    meter = Meter()
    peaks: dict[str, list[int]] = {}
    disk: dict[str, int] = {}
    results = {
        name: folder / f"{name.split()[0]}.gguf" for name in ("fast kernels", "C kernels", "llama.cpp two steps")
    }

    def ours(name: str, kernels: str) -> Callable[[], float]:
        target = results[name]

        def run() -> float:
            target.unlink(missing_ok=True)
            command = [sys.executable, "-m", "quantize", str(source), "-t", FILE_TYPE, "-o", str(target)]
            seconds = meter.run([*command, "--kernels", kernels, "--threads", str(given.threads)])
            peaks.setdefault(name, []).append(meter.peak)
            disk[name] = target.stat().st_size
            return seconds

        return run

    def theirs() -> float:
        name = "llama.cpp two steps"
        target, between = results[name], folder / "between.gguf"
        target.unlink(missing_ok=True)
        converter = [str(given.python), str(given.llama_cpp / "convert_hf_to_gguf.py"), str(source)]
        quantizer = [sys.executable, "-c", QUANTIZE, str(between), str(target), str(NUMBER), str(given.threads)]
        seconds = meter.run([*converter, "--outfile", str(between), "--outtype", "bf16"], quantizer)
        peaks.setdefault(name, []).append(meter.peak)
        disk[name] = target.stat().st_size + between.stat().st_size
        between.unlink()
        return seconds

    variants = {"fast kernels": ours("fast kernels", "fast"), "C kernels": ours("C kernels", "c")}
    if given.llama_cpp and given.python:
        variants["llama.cpp two steps"] = theirs
    else:
        print("llama.cpp's own two steps are left out: --llama-cpp and --python name them.")
    figures = interleaved(variants, given.rounds)
    against = "llama.cpp two steps" if "llama.cpp two steps" in variants else "C kernels"
    for name in ("fast kernels", "C kernels"):
        if name != against:
            report({name: figures[name], against: figures[against]}, "s", of=name, against=against)
    for name in variants:
        print(f"  {name:<22} memory {statistics.median(peaks[name]) / 1e6:7.0f} MB   disk {disk[name] / 1e9:.2f} GB")
    made = {results[name].read_bytes() for name in variants}
    print("  the files are equal, byte for byte" if len(made) == 1 else "  THE FILES DIFFER")
    for name in variants:
        results[name].unlink()
    if given.folder is None:
        shutil.rmtree(folder)
    if len(made) > 1:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

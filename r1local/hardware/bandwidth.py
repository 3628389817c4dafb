"""How fast this machine's memory is read: what decoding is limited by. Measured once, in half a second."""

from __future__ import annotations

import json
import os
import threading
import time

from r1local import paths
from r1local.errors import R1Error

_MOST_BYTES = 1 << 30  # larger than any cache: some servers have hundreds of MiB
_LEAST_BYTES = 64 << 20  # less may lie in a cache, and be read at its speed
_WINDOWS = 5
_SECONDS = 0.03  # of each window
_PLAUSIBLE = (1e8, 1e14)  # bytes a second
_MOST_REMEMBERED = 50
_BUSY = 0.75  # programs that want to run, for each core


def memory_bandwidth(processor: str, cores: int, memory_available: int) -> float:
    """Bytes a second that `cores` threads read together; 0 where there is too little room to find out.

    Measured on the first call, then remembered for this processor and number of threads.
    """
    key = f"{processor}, {cores} threads"
    if known := _remembered().get(key):
        return known
    size = min(_MOST_BYTES, memory_available // 8)
    if size < _LEAST_BYTES:
        return 0.0
    try:
        measured = measure(cores, size)
    except (RuntimeError, MemoryError):
        return 0.0
    if is_busy(cores):
        return measured  # of this moment; a calm one will tell more
    entries = {**_remembered(), key: measured}
    while len(entries) > _MOST_REMEMBERED:
        del entries[next(iter(entries))]
    try:
        paths.atomic_write(paths.bandwidth_file(), json.dumps(entries, indent=1).encode())
    except (OSError, R1Error):
        pass  # a full or read-only disk: it is measured again next time
    return measured


def is_busy(cores: int) -> bool:
    """Whether other programs take so much of this machine now that a measurement says little about it."""
    try:
        return os.getloadavg()[0] > cores * _BUSY
    except (AttributeError, OSError):  # Windows does not count
        return False


def measure(cores: int, size: int) -> float:
    """Bytes a second of `cores` threads that read `size` bytes again and again.

    The best of several windows of time, as a disturbed one only shows the disturbance. In each all threads start
    together and read on until it is over, so that none stands still while another one is reading. Raises RuntimeError
    where so many threads cannot be had, and MemoryError.
    """
    import numpy as np

    shares = [np.empty(size // cores // 8, dtype=np.int64) for _ in range(cores)]
    start = threading.Barrier(cores)
    rates: list[list[float]] = [[] for _ in range(cores)]

    def read(index: int) -> None:
        share = shares[index]
        share.fill(1)  # memory that nobody wrote to is one and the same page of zeros
        for _ in range(_WINDOWS):
            try:
                start.wait()
            except threading.BrokenBarrierError:
                return
            rounds, elapsed, began = 0, 0.0, time.perf_counter()
            while elapsed < _SECONDS:
                share.sum()  # many elements an instruction, and the interpreter's lock is given away
                rounds, elapsed = rounds + 1, time.perf_counter() - began
            rates[index].append(rounds * share.nbytes / elapsed)

    threads = [threading.Thread(target=read, args=(index,), name=f"r1local-read-{index}") for index in range(cores)]
    try:
        for thread in threads:
            thread.start()
    except BaseException:
        start.abort()
        raise
    for thread in threads:
        thread.join()
    best: float = max(sum(window) for window in zip(*rates, strict=True))
    return best


def _remembered() -> dict[str, float]:
    try:
        data = json.loads(paths.bandwidth_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    least, most = _PLAUSIBLE
    return {key: float(value) for key, value in data.items() if type(value) in (int, float) and least < value < most}

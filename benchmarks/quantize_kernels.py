"""Weights a second of the fast quantizers against those of the C library, on one core. Goal: three times as many.

With --equal it compares their bytes instead, on many weights of several kinds; goal: all equal.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.measure import ROUNDS, interleaved, report
from quantize import fast, ggml

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
WIDTH = 1536
CHUNK = (680, WIDTH)  # a million weights


def as_bf16(rows: Floats) -> Floats:
    """The values that a checkpoint has, cut off rather than rounded."""
    return (rows.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def normal(random: Generator) -> Floats:
    return as_bf16(random.standard_normal(CHUNK, np.float32) * np.float32(0.02))


def heavy_tailed(random: Generator) -> Floats:
    return (random.standard_t(2, CHUNK) * 0.02).astype(np.float32)


def zeros(random: Generator) -> Floats:
    """Most blocks, and most weights of the others."""
    few = random.random(CHUNK) < np.repeat(random.random((CHUNK[0], WIDTH // 32)) < 0.1, 32, axis=1) * 0.05
    return random.standard_normal(CHUNK, np.float32) * few


def constants(random: Generator) -> Floats:
    """Runs of 16, 32 or 256 equal weights, half of them with a little noise."""
    run = int(random.choice([16, 32, 256]))
    rows = np.repeat(random.standard_normal((CHUNK[0], WIDTH // run), np.float32), run, axis=1)
    noise = random.standard_normal(CHUNK, np.float32) * np.float32(1e-6)
    return rows + noise * (random.random((CHUNK[0], 1)) < 0.5)


def denormals(random: Generator) -> Floats:
    """Up to 2**-126, each row with a largest of its own."""
    largest = 2.0 ** random.integers(1, 24, (CHUNK[0], 1))
    return (np.rint(random.uniform(-1, 1, CHUNK) * largest) * 2.0**-149).astype(np.float32)


KINDS: dict[Callable[[Generator], Floats], float] = {
    normal: 0.4,
    heavy_tailed: 0.3,
    zeros: 0.05,
    constants: 0.1,
    denormals: 0.15,
}
"""And their share of the weights that are compared."""


def empty_blocks(name: str, rows: Floats) -> Bytes:
    kernel = fast.KERNELS[name]
    return np.empty((rows.shape[0], rows.shape[1] // kernel.weights * kernel.size), np.uint8)


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare_speed(rounds: int, rows_count: int) -> None:
    rows = as_bf16(np.random.default_rng(1).standard_normal((rows_count, WIDTH), np.float32) * np.float32(0.02))
    for name in fast.KERNELS:
        out = empty_blocks(name, rows)
        first = seconds(lambda: fast.quantize_rows(name, rows[:1], out[:1]))  # noqa: B023
        print(f"{name}, {rows.shape[0]} x {WIDTH} weights; first call {first:.2f} s")
        variants = {
            "fast": lambda: rows.size / 1e6 / seconds(lambda: fast.quantize_rows(name, rows, out)),  # noqa: B023
            "C": lambda: rows.size / 1e6 / seconds(lambda: ggml.quantize_rows(name, rows, out, None)),  # noqa: B023
        }
        report(interleaved(variants, rounds), "M weights/s", of="fast", against="C")


def compare_bytes(weights: int) -> bool:
    all_equal = True
    for name, kernel in fast.KERNELS.items():
        print(f"{name}:")
        for seed, (kind, share) in enumerate(KINDS.items()):
            random = np.random.default_rng(seed)
            equal = unequal = 0
            while equal + unequal < weights * share:
                rows = kind(random)
                out, out_of_c = empty_blocks(name, rows), empty_blocks(name, rows)
                fast.quantize_rows(name, rows, out)
                ggml.quantize_rows(name, rows, out_of_c, None)
                wrong = kernel.weights * int((out != out_of_c).reshape(-1, kernel.size).any(axis=1).sum())
                equal, unequal = equal + rows.size - wrong, unequal + wrong
            print(f"  {kind.__name__:<14} {equal:>12,} weights equal, {unequal:,} in blocks that differ", flush=True)
            all_equal &= not unequal
    return all_equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--equal", type=int, nargs="?", const=10**8, metavar="N", help="compare N weights of each type")
    given = parser.parse_args()
    if reason := fast.why_not():
        raise SystemExit(reason)
    if given.equal is None:
        compare_speed(given.rounds, given.rows)
    elif not compare_bytes(given.equal):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

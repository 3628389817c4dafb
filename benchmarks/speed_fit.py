"""Fits the constants of speeds.toml to published speeds, and to all but one source, which it then predicts.

Errors are of logarithms: twice as fast is as wrong as half as fast. Each piece of hardware of a source counts once,
however many rows it has. Used by benchmarks.published_speeds.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from benchmarks.speed_rows import LONG, Row, errors, percentile
from r1local.plan.speed import ClassSpeed, decode, load_constants

PROMISED = ("nv-consumer", "apple-base/pro", "cpu-laptop", "cpu-desktop")
"""Classes whose errors are to keep to these two bars."""
MEDIAN_BAR, NINETIETH_BAR = 0.12, 0.30

DISCRETE = ("nv-consumer", "nv-workstation", "nv-hbm", "amd-rdna3", "amd-rdna4", "intel-arc")
WITH_OVERHEAD = (*DISCRETE, "apple-max", "apple-ultra")
"""Classes so fast that starting kernels shows. On the others one constant does as well as two, or better."""

THIN = 3
"""With fewer rows than this a class counts FIRST_FIT as one more piece of hardware, and a discrete GPU has the overhead
of OVERHEAD_OF."""
FIRST_FIT = 0.75
"""Of the peak bandwidth: the middle of the 0.7 to 0.8 that a first fit to more sources than these gave for Apple's base
and Pro chips, laptops and desktops."""
OVERHEAD_OF = "nv-consumer"

MANY_HARDWARE = 5
NARROW, MIDDLE, WIDE = 0.10, 0.20, 0.35
"""No range is narrower than this on either side: with MANY_HARDWARE of several sources, with less, and in a class that
is not predictable."""

Fit = tuple[float, float]
"""Efficiency, and overhead in seconds a layer."""
_RATIOS = tuple(step * 1e-6 for step in range(401))
"""Of the overhead to the factor on the time at full speed: tried one by one, in seconds a layer."""


def attention_rate(rows: Iterable[Row], speed_class: str, *, without: str = "") -> float:
    """Bytes of KV cache a second without flash attention, from rows that differ in their length alone.

    Of all classes of the maker but `without`. GPUs of other makers have no rows and count as NVIDIA's; 0 for
    processors: not known.
    """
    if speed_class.startswith("cpu-"):
        return 0.0
    maker = "apple-" if speed_class.startswith("apple-") else "nv-"
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.is_large and row.speed_class.startswith(maker) and row.speed_class != without:
            runs.setdefault((row.hardware, row.model, row.quantization, row.source), []).append(row)
    rates = []
    for run in runs.values():
        short, long = min(run, key=lambda row: row.tokens), max(run, key=lambda row: row.tokens)
        if long.tokens >= LONG > short.tokens:
            rates.append((long.kv_bytes - short.kv_bytes) / (1 / long.speed - 1 / short.speed))
    return statistics.geometric_mean(rates)


def fit(rows: Sequence[Row], rate: float, ratios: Iterable[float]) -> Fit:
    """The efficiency and the overhead with the least squares of logarithms."""
    count = Counter((row.hardware, row.source) for row in rows)
    best = (math.inf, 1.0, 0.0)
    for ratio in ratios:
        logs = [
            (
                1 / count[row.hardware, row.source],
                math.log(_net(row, rate) / (row.full_speed_seconds + ratio * row.layers)),
            )
            for row in rows
        ]
        mean = sum(weight * value for weight, value in logs) / len(count)
        squares = sum(weight * (value - mean) ** 2 for weight, value in logs)
        # Where the rows cannot tell, the smallest overhead is kept.
        if squares < best[0] * (1 - 1e-9) - 1e-12:
            best = (squares, math.exp(mean), ratio)
    return 1 / best[1], best[1] * best[2]


def fit_thin(rows: Iterable[Row], rate: float, overhead: float) -> Fit:
    """The mean of the pieces of hardware and of FIRST_FIT, with an overhead that is given."""
    logs: dict[str, list[float]] = {"": [math.log(FIRST_FIT)]}
    for row in rows:
        seconds = max(_net(row, rate) - overhead * row.layers, row.full_speed_seconds)
        logs.setdefault(row.hardware, []).append(math.log(row.full_speed_seconds / seconds))
    return math.exp(statistics.fmean(statistics.fmean(each) for each in logs.values())), overhead


def _net(row: Row, rate: float) -> float:
    """Seconds a token without its KV cache."""
    by_flash = load_constants().kv_efficiency * row.bandwidth
    return 1 / row.speed - row.kv_bytes / (rate if rate and not row.flash_attention else by_flash)


def fit_class(speed_class: str, rows: Collection[Row], rate: float) -> Fit:
    """From the rows of this class; with too few of them, as THIN says. `unknown` is one constant over all classes."""
    own = [row for row in rows if row.is_judged and speed_class in (row.speed_class, "unknown")]
    if len(own) >= THIN:
        return fit(own, rate, _RATIOS if speed_class in WITH_OVERHEAD else (0.0,))
    borrows = speed_class in DISCRETE and speed_class != OVERHEAD_OF
    return fit_thin(own, rate, fit_class(OVERHEAD_OF, rows, rate)[1] if borrows else 0.0)


def fit_own(speed_class: str, rows: Collection[Row], rate: float) -> Fit:
    """One constant from the rows of this class and nothing else, however few."""
    return fit([row for row in rows if row.is_judged and row.speed_class == speed_class], rate, (0.0,))


def measured_over_expected(row: Row, fitted: Fit, rate: float) -> float:
    """By the very code that plans."""
    of = ClassSpeed(*fitted, low=1.0, high=1.0, predictable=False, attention_without_flash=rate)
    return row.speed / decode(row.parts(), replace(load_constants(), decode={row.speed_class: of})).expected


def by_source(row: Row) -> str:
    return row.source


def by_device(row: Row) -> str:
    return row.device


def held_out(
    speed_class: str,
    rows: Collection[Row],
    kept_apart: Callable[[Row], str] = by_source,
    wanted: Callable[[Row], bool] = lambda row: row.is_judged,
    fit_by: Callable[[str, Collection[Row], float], Fit] = fit_class,
) -> list[tuple[Row, float]]:
    """The wanted rows of the class with measured over expected, by a fit that saw nothing of the same source.

    How fast the KV cache is read without flash attention is taken from the maker's other classes.
    """
    rate = attention_rate(rows, speed_class, without=speed_class)
    wanted_rows = [row for row in rows if row.speed_class == speed_class and wanted(row)]
    found: list[tuple[Row, float]] = []
    for apart in sorted({kept_apart(row) for row in wanted_rows}):
        fitted = fit_by(speed_class, [row for row in rows if kept_apart(row) != apart], rate)
        found += [(row, measured_over_expected(row, fitted, rate)) for row in wanted_rows if kept_apart(row) == apart]
    return found


def keeps_to_the_bars(ratios: Iterable[float]) -> bool:
    wrong = errors(ratios)
    return statistics.median(wrong) <= MEDIAN_BAR and percentile(wrong, 0.9) <= NINETIETH_BAR


def class_speeds(rows: Collection[Row]) -> dict[str, ClassSpeed]:
    """The tables [decode.*] of speeds.toml. Classes without rows have none: they count as `unknown`."""
    classes = sorted({row.speed_class for row in rows})
    found = {speed_class: _class_speed(speed_class, rows) for speed_class in classes}
    efficiency, _ = fit_class("unknown", rows, attention_rate(rows, "nv-consumer"))
    ratios = [
        measured_over_expected(row, (efficiency, 0.0), attention_rate(rows, row.speed_class))
        for row in rows
        if row.is_judged
    ]
    low, high = _range(ratios, WIDE)
    found["unknown"] = ClassSpeed(round(efficiency, 3), 0.0, low, high, False, 0.0)
    return found


def _class_speed(speed_class: str, rows: Collection[Row]) -> ClassSpeed:
    own = [row for row in rows if row.speed_class == speed_class and row.is_judged]
    hardware, sources = len({row.device for row in own}), len({row.source for row in own})
    rate = attention_rate(rows, speed_class)
    efficiency, overhead = fit_class(speed_class, rows, rate)
    ratios = [ratio for _, ratio in held_out(speed_class, rows)]
    # Few rows prove nothing; those of promised classes have a wider range instead.
    predictable = speed_class in PROMISED or (len(own) >= THIN and keeps_to_the_bars(ratios))
    if sources == 1 and not predictable:
        ratios = [ratio for _, ratio in held_out(speed_class, rows, by_device)]
    least = NARROW if hardware >= MANY_HARDWARE and sources > 1 else MIDDLE
    low, high = _range(ratios, least if predictable else WIDE)
    return ClassSpeed(
        round(efficiency, 3),
        round(overhead, 6),
        low,
        high,
        predictable,
        _rounded_rate(rate),
        hardware,
        len(own),
        sources,
    )


def small_low(rows: Collection[Row]) -> float:
    """[limits]: the slowest small model over what is expected of it."""
    classes = {row.speed_class for row in rows}
    small = [pair for name in classes for pair in held_out(name, rows, wanted=lambda row: row.is_small)]
    return round(min(ratio for _, ratio in small), 2)


def _range(ratios: Sequence[float], least: float) -> tuple[float, float]:
    """The middle eight tenths, or what is at least due."""
    return (
        round(min(percentile(ratios, 0.1), 1 - least), 2),
        round(max(percentile(ratios, 0.9), 1 + least), 2),
    )


def _rounded_rate(rate: float) -> float:
    return float(f"{rate:.2g}")

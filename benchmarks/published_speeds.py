"""Speeds that others published against those that r1local expects: errors by class of hardware, as Markdown.

Each source is predicted by a fit that saw only the others. Goal, for consumer NVIDIA, Apple base and Pro, laptop and
desktop processors: median error at most 12 %, 90th percentile at most 30 %.
With --constants it prints the fitted tables of speeds.toml: the same fit on all rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Collection
from dataclasses import asdict

from benchmarks.speed_fit import DISCRETE, PROMISED, by_device, class_speeds, fit_own, held_out, small_low
from benchmarks.speed_rows import Row, errors, percentile, read_rows
from r1local.plan.speed import REFERENCE_PARAMETERS, Part, decode, prefill

FOUR_BITS = ("Q4_K_M", "Q4_0")

LAYERS = 64
LAYER_BYTES = 345_000_000
OUTPUT_BYTES = 639_000_000
"""Qwen2.5 32B in Q5_K_M. The output layer stays with the processor until a 65th layer is asked for."""
LAYER_PARAMETERS, OUTPUT_PARAMETERS = 487_000_000, 779_000_000
PARTIAL_DECODE = {64: 25.23, 32: 4.00, 0: 2.18}
PARTIAL_PREFILL = {64: 2658.0, 32: 1622.0, 0: 1161.0}
"""Published tokens a second: so many of the layers on an RTX 4090, the others on an i5-13600K."""
PARTIAL_BATCH = 2048
"""Not published. With it the three figures agree on 22 GB/s over the bus; with 512 on 89, which no bus has."""


def partial_parts(on_gpu: int) -> list[Part]:
    """Of the model above, at a short context."""
    rest = LAYERS - on_gpu
    return [
        Part(
            "nv-consumer",
            1008e9,
            measured=False,
            weight_bytes=on_gpu * LAYER_BYTES,
            kv_bytes=0,
            layers=on_gpu,
            parameters=on_gpu * LAYER_PARAMETERS,
            name="NVIDIA GeForce RTX 4090",
        ),
        Part(
            "cpu-desktop",
            83.2e9,
            measured=False,
            weight_bytes=rest * LAYER_BYTES + OUTPUT_BYTES,
            kv_bytes=0,
            layers=rest,
            parameters=rest * LAYER_PARAMETERS + OUTPUT_PARAMETERS,
            cores=14,
        ),
    ]


def of_reference(row: Row) -> float:
    """Tokens a second that the 8B would be read at: time goes with the number of weights."""
    return row.speed * row.parameters / REFERENCE_PARAMETERS


def prompt_speeds(rows: Collection[Row]) -> dict[str, float]:
    """[prefill.named], by device: of the 8B in four bits, or of the model nearest to it, on fewest devices."""
    best: dict[str, Row] = {}
    for row in rows:
        if row.is_prompt and not row.cores and row.quantization in FOUR_BITS:
            known = best.get(row.device, row)
            best[row.device] = min(
                known, row, key=lambda row: (row.devices, abs(row.parameters - REFERENCE_PARAMETERS))
            )
    return {device: float(f"{of_reference(row):.3g}") for device, row in sorted(best.items())}


def prompt_shares(rows: Collection[Row]) -> dict[str, float]:
    """[prefill.per_bandwidth]: tokens of the 8B per GB, the geometric mean of a class's devices.

    All of Apple's are one class. GPUs of their own memory without rows count as the slowest that have some, GPUs of an
    unknown class as the slowest of all.
    """
    bandwidth = {row.device: row.bandwidth for row in rows}
    named = prompt_speeds(rows)
    found: dict[str, float] = {}
    for speed_class in sorted({row.speed_class for row in rows if row.is_prompt and not row.cores}):
        kin = speed_class.split("-")[0] + "-" if speed_class.startswith("apple-") else speed_class
        devices = {row.device for row in rows if row.speed_class.startswith(kin)} & set(named)
        share = statistics.geometric_mean(named[device] / bandwidth[device] * 1e9 for device in devices)
        found[speed_class] = float(f"{share:.3g}")
    slowest = min(found[name] for name in DISCRETE if name in found)
    return dict.fromkeys(DISCRETE, slowest) | found | {"unknown": min(found.values())}


def prompt_limits(rows: Collection[Row]) -> dict[str, float]:
    """[prefill]: slowest and fastest published over expected, by name and by class; what a core reads."""
    named, shares = prompt_speeds(rows), prompt_shares(rows)
    prompts = [row for row in rows if row.is_prompt and row.device in named]
    by_name = [of_reference(row) / named[row.device] for row in prompts]
    whole = sum(part.parameters for part in partial_parts(LAYERS))
    by_name.append(PARTIAL_PREFILL[LAYERS] * whole / REFERENCE_PARAMETERS / named["RTX 4090"])
    by_class = [named[row.device] * 1e9 / shares[row.speed_class] / row.bandwidth for row in prompts]
    by_core = [of_reference(row) / row.cores for row in rows if row.is_prompt and row.cores]
    return {
        "core": round(statistics.median(by_core), 1),
        "named_low": round(min(by_name), 2),
        "named_high": round(max(by_name), 2),
        "class_low": round(min(by_class), 2),
        "class_high": round(max(by_class), 2),
    }


def print_constants(rows: Collection[Row]) -> None:
    tables: dict[str, dict[str, object]] = {
        f'decode."{name}"': asdict(speed) for name, speed in class_speeds(rows).items()
    }
    tables["limits"] = {"small_low": small_low(rows)}
    tables["prefill"] = {**prompt_limits(rows)}
    tables["prefill.per_bandwidth"] = {**prompt_shares(rows)}
    tables["prefill.named"] = {**prompt_speeds(rows)}
    for name, facts in tables.items():
        print(f"\n[{name}]")
        for key, value in facts.items():  # JSON's strings, numbers and booleans are TOML's too
            print(f"{json.dumps(key)} = {json.dumps(value)}")


def summary(name: str, found: Collection[tuple[Row, float]]) -> str:
    if not found:
        return f"| {name} | 0 | | | |"
    wrong = errors(ratio for _, ratio in found)
    sources = len({row.source for row, _ in found})
    return f"| {name} | {len(found)} | {sources} | {statistics.median(wrong):.1%} | {percentile(wrong, 0.9):.1%} |"


def print_decode(rows: Collection[Row]) -> None:
    def of_classes(classes: Collection[str], wanted: Callable[[Row], bool]) -> list[tuple[Row, float]]:
        return [pair for name in classes for pair in held_out(name, rows, wanted=wanted)]

    classes = sorted({row.speed_class for row in rows})
    head = "| rows | sources | median | 90th percentile |\n| --- | --- | --- | --- | --- |"
    print(f"| writing, each source held out {head}")
    print(summary("**all that are promised**", of_classes(PROMISED, lambda row: row.is_judged)))
    for name in (*PROMISED, *(name for name in classes if name not in PROMISED)):
        print(summary(name, held_out(name, rows)))
    print(f"\n| not judged above {head}")
    print(summary("all that are promised, with long contexts", of_classes(PROMISED, lambda row: row.is_large)))
    for name in classes:
        if any(row.is_large and not row.is_judged for row in rows if row.speed_class == name):
            long = held_out(name, rows, wanted=lambda row: row.is_large and not row.is_judged)
            print(summary(f"{name}, long contexts without flash attention", long))
    print(summary("apple-base/pro, without the first fit", held_out("apple-base/pro", rows, fit_by=fit_own)))
    small = of_classes(classes, lambda row: row.is_small)
    print(summary("small models", small))
    print(f"\n| writing, each device held out instead {head}")
    for name in classes:
        print(summary(name, held_out(name, rows, by_device)))


def print_partial() -> None:
    print("\n| layers of 64 on the GPU | written | expected | read | expected |\n| --- | --- | --- | --- | --- |")
    for on_gpu, published in PARTIAL_DECODE.items():
        parts = partial_parts(on_gpu)
        write, read = decode(parts), prefill(parts, batch=PARTIAL_BATCH)
        print(
            f"| {on_gpu} | {published:.2f} | {write.low:.2f} to {write.high:.2f}, {write.expected:.2f} "
            f"| {PARTIAL_PREFILL[on_gpu]:.0f} | {read.low:.0f} to {read.high:.0f}, {read.expected:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constants", action="store_true", help="print the fitted tables of speeds.toml")
    rows = read_rows()
    if parser.parse_args().constants:
        print_constants(rows)
        return
    print_decode(rows)
    print_partial()


if __name__ == "__main__":
    main()

"""Speeds that others published: the rows of tests/data/published-speeds.csv. Used by benchmarks.speed_fit."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1local.plan.speed import Part

ROWS = Path(__file__).parents[1] / "tests" / "data" / "published-speeds.csv"

SMALL_BYTES = 1_500_000_000
"""Weights read for a token below which the overhead of layers rules. The rows of the 1.5B are as small as that."""
LONG = 1_024
"""Tokens written from which the KV cache weighs. All such rows are of one source, without flash attention."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; bytes, and tokens a second."""

    hardware: str
    speed_class: str
    devices: int
    cores: int
    bandwidth: float
    model: str
    parameters: int
    layers: int
    kv_per_token: int
    quantization: str
    weight_bytes: int
    is_prompt: bool
    tokens: int
    """Written or read; 0 where nobody said."""
    flash_attention: bool
    speed: float
    source: str
    """All rows of one repository, author or log are one source."""

    @property
    def is_large(self) -> bool:
        """Whether it is of writing, with a model that is not small."""
        return not self.is_prompt and self.weight_bytes >= SMALL_BYTES

    @property
    def is_small(self) -> bool:
        return not self.is_prompt and self.weight_bytes < SMALL_BYTES

    @property
    def is_judged(self) -> bool:
        """Whether constants are fitted to it, and the bars hold for it."""
        return self.is_large and self.tokens < LONG

    @property
    def device(self) -> str:
        return self.hardware.removeprefix(f"{self.devices}x ")

    @property
    def kv_bytes(self) -> float:
        """Read for a token: the cache is on average half as full as it ends."""
        return self.kv_per_token * self.tokens / 2

    @property
    def full_speed_seconds(self) -> float:
        """What a token's weights take at the whole bandwidth."""
        return self.weight_bytes / self.bandwidth

    def parts(self) -> list[Part]:
        """Layers spread evenly."""
        each = self.devices
        part = Part(
            self.speed_class,
            self.bandwidth,
            measured=False,
            weight_bytes=self.weight_bytes // each,
            kv_bytes=int(self.kv_bytes) // each,
            layers=self.layers // each,
            parameters=self.parameters // each,
            cores=self.cores,
            flash_attention=self.flash_attention,
            name=self.device,
        )
        return [part] * each


def read_rows() -> list[Row]:
    with ROWS.open(encoding="utf-8", newline="") as lines:
        return [_row(line) for line in csv.DictReader(lines)]


def _row(line: dict[str, str]) -> Row:
    return Row(
        hardware=line["hardware"],
        speed_class=line["speed_class"],
        devices=int(line["devices"]),
        cores=int(line["cores"] or 0),
        bandwidth=float(line["bandwidth_gbs"]) * 1e9,
        model=line["model"],
        parameters=round(float(line["parameters_b"]) * 1e9),
        layers=int(line["layers"]),
        kv_per_token=int(line["kv_bytes_per_token"]),
        quantization=line["quantization"],
        weight_bytes=round(float(line["weights_gb"]) * 1e9),
        is_prompt=line["test"] == "pp",
        tokens=int(line["tokens"] or 0),
        flash_attention=line["flash_attention"] != "no",
        speed=float(line["tok_s"]),
        source=line["source_group"],
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Between neighbours by a straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def errors(ratios: Iterable[float]) -> list[float]:
    """Of the expected speed as shares of the measured one, from measured over expected."""
    return [abs(1 / each - 1) for each in ratios]

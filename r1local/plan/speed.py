"""How many tokens a second to expect, as a range. All constants stand in speeds.toml, with what they rest on.

Writing a token reads every weight once, so the time for one is bytes over bandwidth, part by part: layers run one
after the other wherever they lie, and times add up. Published rows bear that out: of 64 layers on an RTX 4090, half
moved to a processor take the time that lies half-way between all of them here and all of them there.
Reading a prompt is arithmetic instead: time is weights times tokens over the speed of the arithmetic.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

REFERENCE_PARAMETERS = 8.03e9
"""Weights of the model that figures for prompts are given for: Llama 3 8B, which most published rows have."""
_CONSTANTS = Path(__file__).with_name("speeds.toml")
_PROCESSOR = "cpu-"


@dataclass(frozen=True, slots=True)
class Part:
    """One processor or GPU that reads a share of the model for every token."""

    speed_class: str
    """One of those in speeds.toml; empty when unknown."""
    bandwidth: float
    """Bytes a second: the peak the vendor gives, or what was measured; 0 when unknown."""
    measured: bool
    """Whether it was measured on this machine, by threads of a processor that only read."""
    weight_bytes: int
    """What it reads of the weights for one token; the table of token embeddings is not read."""
    kv_bytes: int
    """What it reads of the KV cache for one token, at the context in question."""
    layers: int
    parameters: int = 0
    """Weights in its part. 0 when unknown: then nothing is said about prompts."""
    cores: int = 0
    """Of a processor."""
    flash_attention: bool = True
    by_kernels: bool = False
    """Whether the bandwidth is what the kernels of these very types get through, arithmetic included."""
    name: str = ""
    """As its driver calls it: for prompts, some devices are known by name."""

    @property
    def is_processor(self) -> bool:
        return self.speed_class.startswith(_PROCESSOR) or self.cores > 0 or self.measured


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second, as a range. All zero where nothing can be said."""

    low: float
    expected: float
    high: float
    predictable: bool
    """Whether others' measurements were met within the range that is promised. If not, the range is wide."""


UNKNOWN = Speed(0.0, 0.0, 0.0, predictable=False)


@dataclass(frozen=True, slots=True)
class ClassSpeed:
    """What one class of hardware does while it writes."""

    efficiency: float
    """Of the bandwidth that reading weights reaches."""
    layer_overhead: float
    """Seconds a layer takes however small it is: starting its kernels."""
    low: float
    """Slowest and fastest that is still usual, as multiples of what is expected."""
    high: float
    predictable: bool
    attention_without_flash: float = 0.0
    """Bytes of KV cache a second without flash attention; 0 where it makes no difference."""
    hardware: int = 0
    """Pieces of hardware, rows and sources it rests on."""
    rows: int = 0
    sources: int = 0


@dataclass(frozen=True, slots=True)
class Constants:
    """speeds.toml. Fields as described there."""

    decode: Mapping[str, ClassSpeed]
    measured: ClassSpeed
    kernels: ClassSpeed
    kv_efficiency: float
    core_bytes: float
    small_bytes: int
    small_low: float
    prefill: Mapping[str, float]
    per_bandwidth: Mapping[str, float]
    named: Mapping[str, float]

    def of(self, part: Part) -> ClassSpeed:
        if part.by_kernels:
            return self.kernels
        if part.measured:
            return self.measured
        return self.decode.get(part.speed_class) or self.decode["unknown"]


@lru_cache(maxsize=1)
def load_constants() -> Constants:
    tables = tomllib.loads(_CONSTANTS.read_text(encoding="utf-8"))
    prefill, limits = dict(tables["prefill"]), tables["limits"]
    per_bandwidth, named = prefill.pop("per_bandwidth"), prefill.pop("named")
    return Constants(
        decode={name: ClassSpeed(**facts) for name, facts in tables["decode"].items()},
        measured=ClassSpeed(**tables["measured"]),
        kernels=ClassSpeed(**tables["kernels"]),
        kv_efficiency=limits["kv_efficiency"],
        core_bytes=limits["core_bytes"],
        small_bytes=limits["small_bytes"],
        small_low=limits["small_low"],
        prefill=prefill,
        per_bandwidth=per_bandwidth,
        named={plain_name(name): figure for name, figure in named.items()},
    )


def decode(parts: Sequence[Part], constants: Constants | None = None) -> Speed:
    """Tokens a second of one reply, its parts working one after the other.

    UNKNOWN without parts, without anything to read, and where a part's bandwidth is not known.
    """
    known = constants or load_constants()
    parts = [part for part in parts if part.weight_bytes or part.kv_bytes or part.layers]
    if not sum(part.weight_bytes for part in parts) or not all(part.bandwidth > 0 for part in parts):
        return UNKNOWN
    times = [(seconds_per_token(part, known), known.of(part)) for part in parts]
    speed = _range((time, of.low, of.high) for time, of in times)
    # What a layer takes besides reading rules a small model, and it differs with build and driver.
    small = sum(part.weight_bytes for part in parts) < known.small_bytes
    low = min(speed.low, known.small_low * speed.expected) if small else speed.low
    predictable = not small and all(of.predictable for _, of in times)
    return Speed(low, speed.expected, speed.high, predictable)


def seconds_per_token(part: Part, known: Constants) -> float:
    """What this part adds to the time of one token."""
    of = known.of(part)
    weights = part.weight_bytes / (of.efficiency * part.bandwidth)
    if part.cores and known.core_bytes:
        weights = max(weights, part.weight_bytes / (part.cores * known.core_bytes))
    kv = part.kv_bytes / ((of.efficiency if part.is_processor else known.kv_efficiency) * part.bandwidth)
    if of.attention_without_flash and not part.flash_attention:
        kv = max(kv, part.kv_bytes / of.attention_without_flash)
    return weights + kv + of.layer_overhead * part.layers


def prefill(
    parts: Sequence[Part], *, streamed: bool = True, batch: int = 512, constants: Constants | None = None
) -> Speed:
    """Tokens a second of a prompt of `batch` tokens or more, its parts working one after the other.

    `streamed`: whether a GPU does the arithmetic of the processors' parts too, for which their weights are sent to it
    anew for each batch. llama.cpp does so with a GPU of its own memory, however few layers lie on it. `batch` is
    n_ubatch. Attention is left out: a prompt of many thousand tokens takes longer.
    UNKNOWN where a part's number of weights or the speed of its arithmetic is not known.
    """
    known = constants or load_constants()
    gpu = next((part for part in parts if not part.is_processor), None)
    parts = [part for part in parts if part.weight_bytes or part.parameters]
    if not parts or batch < 1 or not all(part.parameters for part in parts):
        return UNKNOWN
    times: list[tuple[float, float, float]] = []
    by_name = True
    for part in parts:
        sent = streamed and part.is_processor and gpu is not None
        device = gpu if sent and gpu else part
        rate, low, high, is_named = _prompt_rate(device, known)
        if not rate:
            return UNKNOWN
        by_name &= is_named
        times.append((part.parameters / REFERENCE_PARAMETERS * batch / rate, low, high))
        if sent:
            bus = known.prefill
            time = part.weight_bytes / bus["bus"]
            times.append((time, bus["bus_low"], bus["bus_high"]))
    speed = _range(times)
    return Speed(speed.low * batch, speed.expected * batch, speed.high * batch, by_name)


def _prompt_rate(part: Part, known: Constants) -> tuple[float, float, float, bool]:
    """Tokens a second of the 8B; slowest and fastest as its multiples; whether the device is known by name."""
    facts = known.prefill
    if part.is_processor:
        return part.cores * facts["core"], facts["core_low"], facts["core_high"], False
    if named := known.named.get(plain_name(part.name)):
        return named, facts["named_low"], facts["named_high"], True
    share = known.per_bandwidth.get(part.speed_class) or known.per_bandwidth["unknown"]
    return share * part.bandwidth / 1e9, facts["class_low"], facts["class_high"], False


def _range(times: Iterable[tuple[float, float, float]]) -> Speed:
    """Per second: of parts that take `time` seconds when all is as expected, and low to high times that speed."""
    listed = list(times)
    slow = sum(time / low for time, low, _ in listed)
    expected = sum(time for time, _, _ in listed)
    fast = sum(time / high for time, _, high in listed)
    return Speed(1 / slow, 1 / expected, 1 / fast, predictable=True)


_IN_BRACKETS = re.compile(r"\(.*?\)")
_NOT_THE_NAME = re.compile(r"nvidia|geforce|amd|radeon|intel|apple|generation|graphics|gpu|\d+c|\d+gb")


def plain_name(name: str) -> str:
    """A device's name without its maker, memory and what else drivers and people write around it."""
    words = _IN_BRACKETS.sub(" ", name).lower().split()
    return " ".join(word for word in words if not _NOT_THE_NAME.fullmatch(word))

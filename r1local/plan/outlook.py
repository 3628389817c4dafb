"""What a plan promises: tokens a second, and one word about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from r1local.hardware import Hardware, processor_class
from r1local.hardware.gpu import Gpu
from r1local.plan import speed
from r1local.plan.choose import Plan
from r1local.plan.memory import Placement, placements
from r1local.plan.shape import Shape
from r1local.plan.speed import Part, Speed

NO_RATES: Mapping[str, float] = MappingProxyType({})
Word = Literal["fits", "slow", "won't fit"]

THOUGHT_TOKENS = 4_000
"""A common thought of an R1 distill."""
PATIENCE_SECONDS = 600
"""A plan that needs longer for it is called slow."""


@dataclass(frozen=True, slots=True)
class Outlook:
    word: Word
    decode: Speed
    """Tokens a second of one reply, half-way through a common thought."""
    prefill: Speed
    """Tokens a second at which a prompt is read."""


def outlook(plan: Plan, machine: Hardware, rates: Mapping[str, float] = NO_RATES) -> Outlook:
    """What to expect of the plan. Where a speed is not known, only memory decides about the word.

    `rates`: bytes a second of weights of each type that this machine's kernels get through, where that was measured.
    """
    parts = _parts(plan, machine, rates)
    decode = speed.decode(parts)
    if not plan.fits:
        word: Word = "won't fit"
    elif decode.expected and THOUGHT_TOKENS / decode.expected > PATIENCE_SECONDS:
        word = "slow"
    else:
        word = "fits"
    unified = any(gpu.unified for gpu in plan.gpus)
    return Outlook(word, decode, speed.prefill(parts, streamed=not unified, batch=plan.settings.n_ubatch))


def _parts(plan: Plan, machine: Hardware, rates: Mapping[str, float]) -> list[Part]:
    shape, settings = plan.shape, plan.settings
    kernels = _by_kernels(shape, rates)
    kv = shape.kv_bytes(settings.kv_type) * min(THOUGHT_TOKENS // 2, settings.n_ctx)

    def part(placement: Placement, gpu: Gpu | None) -> Part:
        weights = placement.read_bytes(shape)
        return Part(
            speed_class=gpu.speed_class if gpu else processor_class(machine),
            bandwidth=gpu.bandwidth if gpu else kernels or machine.memory_bandwidth,
            measured=gpu is None,
            by_kernels=gpu is None and kernels > 0,
            weight_bytes=weights,
            kv_bytes=len(placement.layers) * kv,
            layers=len(placement.layers),
            parameters=shape.parameters * weights // max(1, shape.read_bytes),
            cores=0 if gpu else machine.usable_cores,
            flash_attention=settings.flash_attention,
            name=gpu.name if gpu else machine.processor,
        )

    return [
        part(placement, gpu)
        for placement, gpu in zip(placements(shape, settings.gpu_layers), (None, *plan.gpus), strict=True)
        if placement.layers or placement.output
    ]


def _by_kernels(shape: Shape, rates: Mapping[str, float]) -> float:
    """Bytes a second over the mixture of types that are read for a token; 0 where a rate is not known."""
    total = sum(shape.read_types.values())
    # Norms and the like are a thousandth of what is read, and not worth a measurement.
    read = {kind: size for kind, size in shape.read_types.items() if size * 200 > total}
    if not read or not all(rates.get(kind) for kind in read):
        return 0.0
    return sum(read.values()) / sum(size / rates[kind] for kind, size in read.items())


_FASTER_THAN_ANYBODY_READS = 10_000


def speed_range(expected: Speed) -> str:
    """A range for people: "30-43"; "~" in front where it is a guess, "?" where nothing is known."""
    if not expected.expected:
        return "?"
    if expected.low >= _FASTER_THAN_ANYBODY_READS:
        return f"{_FASTER_THAN_ANYBODY_READS:,}+"
    low, high = (f"{value:.1f}" if value < 9.95 else f"{value:,.0f}" for value in (expected.low, expected.high))
    return ("" if expected.predictable else "~") + (low if low == high else f"{low}-{high}")

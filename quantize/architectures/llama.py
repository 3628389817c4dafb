"""Llama 3: the Llama distills of R1. Rotary positions turn neighbouring pairs, and slow ones are stretched.

conversion/llama.py of llama.cpp: `permute`, `generate_extra_tensors`, `set_gguf_parameters`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantize.architectures.decoder import Architecture, Wanted
from quantize.config import ModelConfig
from quantize.errors import BadSource
from quantize.gguf_format import Key


@dataclass(frozen=True, slots=True)
class _Llama(Architecture):
    def made(self, config: ModelConfig) -> list[Wanted]:
        """How much slower each pair of a head turns, where the context was stretched the way of Llama 3.1."""
        if str(config.rope.get("rope_type") or "").lower() != "llama3":
            return []
        factors = tuple(_factors(config))
        return [Wanted("rope_freqs.weight", "", (len(factors),), values=factors)]

    def keys(self, config: ModelConfig) -> list[Key]:
        extra = (("vocab_size", config.vocabulary), ("rope.dimension_count", config.head_size))
        return [*Architecture.keys(self, config), *(self._number(name, value) for name, value in extra)]


def _factors(config: ModelConfig) -> list[float]:
    rope = config.rope
    base, factor = rope.get("rope_theta", 10000.0), rope.get("factor", 8.0)
    low, high = rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0)
    context = rope.get("original_max_position_embeddings", 8192)
    if not (base > 1e-6 and factor > 1e-6 and 1e-6 < low < high < 1e6 and 0 < context < 1 << 40):
        raise BadSource("config.json stretches the context by numbers that make no sense.")
    steps = np.arange(0, config.head_size, 2, dtype=np.float32) / np.float32(config.head_size)
    # Upstream computes with single precision, element by element: so do these lines.
    frequencies = np.float32(1.0) / np.power(np.float32(base), steps)
    factors: list[float] = []
    for frequency in frequencies:
        length = np.float32(2 * math.pi) / frequency
        if length < context / high:
            factors.append(1.0)
        elif length > context / low:
            factors.append(float(factor))
        else:
            smooth = (np.float32(context) / length - np.float32(low)) / np.float32(high - low)
            stretched = (np.float32(1) - smooth) / np.float32(factor) + smooth
            factors.append(float(np.float32(1) / stretched))
    return factors


ARCHITECTURE = _Llama(
    "llama",
    "LlamaForCausalLM",
    interleaved=True,
    names_head_size=True,
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
)

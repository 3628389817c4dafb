"""Qwen2 and Qwen2.5: the Qwen distills of R1, QwQ, OpenR1."""

from __future__ import annotations

from quantize.architectures.decoder import Architecture

ARCHITECTURE = Architecture(
    "qwen2",
    "Qwen2ForCausalLM",
    query_bias=True,
    defaults={
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
)

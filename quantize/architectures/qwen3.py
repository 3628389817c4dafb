"""Qwen3: the distill of R1-0528. Queries and keys are normed, nothing has a bias."""

from __future__ import annotations

from quantize.architectures.decoder import Architecture

ARCHITECTURE = Architecture(
    "qwen3",
    "Qwen3ForCausalLM",
    query_norm=True,
    defaults={
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
)

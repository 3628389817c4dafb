"""How much context a model gets on this machine, and what its KV cache costs."""

from __future__ import annotations

from r1local.errors import OutOfMemory
from r1local.gguf_types import GgufHeader
from r1local.hardware import Hardware

# Contexts tried from the largest down. A thought of an R1 distill is often 5,000 to 20,000 tokens long.
CONTEXT_STEPS = (32768, 16384, 8192, 4096, 2048)

_F16_BYTES = 2


def kv_bytes_per_token(header: GgufHeader) -> int:
    """Bytes of KV cache a token takes at f16: layers x KV heads x (key size + value size) x 2."""
    heads = max(1, header.integer("attention.head_count", 1))
    kv_heads = header.integer("attention.head_count_kv", heads) or heads
    head_size = header.integer("embedding_length") // heads
    key = header.integer("attention.key_length", head_size)
    value = header.integer("attention.value_length", head_size)
    return header.integer("block_count", 1) * kv_heads * (key + value) * _F16_BYTES


def check_context(header: GgufHeader, n_ctx: int, hardware: Hardware) -> None:
    """Raises OutOfMemory when the KV cache of `n_ctx` tokens alone is larger than the machine's memory."""
    needed = n_ctx * kv_bytes_per_token(header)
    if needed > hardware.memory_total:
        most = hardware.memory_total // 2 // kv_bytes_per_token(header)
        raise OutOfMemory(
            f"A context of {n_ctx:,} tokens needs {needed / 2**30:,.0f} GiB of memory, "
            f"and this machine has {hardware.memory_total / 2**30:,.0f}.",
            f"Try --ctx {min(most, header.integer('context_length', most))}",
        )


def default_context(header: GgufHeader, hardware: Hardware) -> int:
    """The largest of CONTEXT_STEPS that the model knows and whose KV cache fits.

    "Fits" means: in half of the memory that is left once the weights are loaded.
    """
    trained = header.integer("context_length", CONTEXT_STEPS[-1]) or CONTEXT_STEPS[-1]
    room = (hardware.memory_available - header.file_size) // 2
    per_token = kv_bytes_per_token(header)
    for step in CONTEXT_STEPS:
        context = min(step, trained)
        if context * per_token <= room:
            return context
    return min(CONTEXT_STEPS[-1], trained)

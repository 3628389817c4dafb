"""How much context a model gets on this machine, and what its KV cache costs."""

from __future__ import annotations

from dataclasses import dataclass

from r1local.catalog import Catalog, Model
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


# What a short chat takes besides the weights: compute buffers, the library, Python.
_OVERHEAD_BYTES = 512 << 20
_SMALL_CONTEXT = CONTEXT_STEPS[2]


@dataclass(frozen=True, slots=True)
class MemoryVerdict:
    """Whether a model that is not here yet would fit this machine's memory."""

    needed: int
    """Bytes: weights, KV cache of a context of 8,192 tokens, and what else a chat takes."""
    word: str
    """fits, tight (when other programs are closed) or too large."""
    sentence: str


def memory_verdict(file_bytes: int, model: Model | None, hardware: Hardware) -> MemoryVerdict:
    """An estimate from the size of the file; the catalog's numbers where it knows the model."""
    per_token = 2 * model.layers * model.kv_heads * model.head_size * _F16_BYTES if model else file_bytes // 50_000
    context = min(_SMALL_CONTEXT, model.context) if model else _SMALL_CONTEXT
    needed = file_bytes + context * per_token + _OVERHEAD_BYTES
    room = f"of {hardware.memory_total / 2**30:.1f} GiB"
    takes = f"It takes about {needed / 2**30:.1f} {room} memory"
    if needed <= hardware.memory_available:
        return MemoryVerdict(needed, "fits", f"{takes}.")
    if needed <= hardware.memory_total:
        free = hardware.memory_available / 2**30
        return MemoryVerdict(needed, "tight", f"{takes}, and {free:.1f} GiB are free now: close other programs.")
    return MemoryVerdict(needed, "too large", f"{takes}: more than there is. A smaller one would run.")


def best_to_pull(catalog: Catalog, hardware: Hardware) -> Model | None:
    """The largest thinking model with a ready file that fits the memory that is free now; None if none does."""
    fitting = [
        model
        for model in catalog.models
        if model.thinks
        and model.gguf
        and memory_verdict(recommended_bytes(catalog, model), model, hardware).word == "fits"
    ]
    return max(fitting, key=lambda model: model.parameters, default=None)


def recommended_bytes(catalog: Catalog, model: Model) -> int:
    """About how large the file of the model's recommended quantization is."""
    return model.file_bytes(catalog.quantization(model.recommended))

"""Random models and machines, of sizes that there are, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from r1local.hardware import Gpu, Hardware
from r1local.plan import KV_TYPES, Shape, Wishes
from r1local.plan.memory import GIB, MIB

TRAINED = (0, 2_048, 4_096, 32_768, 40_960, 131_072)
"""Tokens a model may be trained for; 0 where its file does not say."""


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    layers = draw(st.integers(1, 30))
    head_size = draw(st.sampled_from((64, 128)))
    kv_heads = draw(st.integers(1, 8))
    heads = kv_heads * draw(st.integers(1, 8))
    hidden = heads * head_size
    per_layer = draw(st.integers(MIB, GIB // 2))
    heavier = draw(st.lists(st.integers(0, layers - 1), max_size=4))
    layer_bytes = tuple(per_layer + per_layer // 8 * (number in heavier) for number in range(layers))
    embedding = draw(st.integers(MIB, GIB))
    tied = draw(st.booleans())
    norm = 4 * hidden
    return Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        key_size=head_size,
        value_size=head_size,
        feed_forward=hidden * draw(st.integers(1, 6)),
        vocabulary=draw(st.integers(300, 160_000)),
        trained_context=draw(st.sampled_from(TRAINED)),
        parameters=sum(layer_bytes) * 2,
        layer_bytes=layer_bytes,
        output_bytes=norm + (embedding if tied else draw(st.integers(MIB, GIB))),
        embedding_bytes=embedding,
        tied=tied,
        largest_bytes=per_layer // 3,
        quantization=draw(st.sampled_from(("Q4_K_M", "Q8_0", "Q4_0"))),
        file_bytes=sum(layer_bytes),
    )


@st.composite
def gpus(draw: st.DrawFn) -> Gpu:
    """A card with memory of its own."""
    total = draw(st.integers(2 * GIB, 96 * GIB))
    kind: Any = draw(st.sampled_from(("cuda", "rocm", "vulkan")))
    name = draw(st.sampled_from(("RTX 4090", "RTX 3060", "Other")))
    return Gpu(name, kind, total, draw(st.integers(0, total)), draw(st.sampled_from((0.0, 3e11, 1e12))), "nv-consumer")


@st.composite
def machines(draw: st.DrawFn, most_gpus: int = 3) -> Hardware:
    """Without a GPU, with cards, or with one memory for processor and GPU."""
    total = draw(st.integers(GIB, 128 * GIB))
    available = draw(st.integers(0, total))
    cards = tuple(draw(st.lists(gpus(), max_size=most_gpus)))
    if not cards and draw(st.booleans()):
        share = total * 3 // 4
        free = min(share, available)
        cards = (Gpu("Apple M3 Max", "metal", share, free, 4e11, "apple-max", unified=True),)
    return Hardware(
        system="Linux", processor="AMD Ryzen 7 5800X", physical_cores=8, usable_cores=draw(st.integers(1, 8)),
        memory_total=total, memory_available=available, instruction_sets=("AVX2",), gpus=cards,
        memory_bandwidth=draw(st.sampled_from((0.0, 4e10))),
    )  # fmt: skip


def wishes() -> st.SearchStrategy[Wishes]:
    """What a user may fix, or leave open."""

    def perhaps(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.none() | strategy

    return st.builds(
        Wishes,
        n_ctx=perhaps(st.integers(256, 200_000)),
        kv_type=perhaps(st.sampled_from(sorted(KV_TYPES))),
        n_gpu_layers=perhaps(st.integers(-1, 40)),
        n_threads=perhaps(st.integers(1, 64)),
        n_batch=perhaps(st.integers(32, 4_096)),
        n_seq_max=st.sampled_from((1, 1, 2, 8, 32)),
        flash_attention=st.sampled_from((None, True, False)),
        repack=perhaps(st.booleans()),
        margin=perhaps(st.integers(0, 4 * GIB)),
    )

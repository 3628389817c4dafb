"""How much context the memory of a machine is enough for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from r1local.catalog import load_catalog
from r1local.engine.loading import check_possible
from r1local.errors import OutOfMemory
from r1local.gguf_types import ArrayInfo, GgufHeader
from r1local.hardware import Hardware
from r1local.plan import Wishes, choose, shape_of_file

GIB = 1 << 30

MODELS = {model.id: model for model in load_catalog().models}
# Bytes a token takes in an f16 cache, and GiB at a context of 32,768: layers x KV heads x 128 x 2 (K, V) x 2 bytes.
KV_CACHE = {
    "r1-qwen-1.5b": (28_672, 0.875),
    "r1-qwen-7b": (57_344, 1.75),
    "r1-0528-qwen3-8b": (147_456, 4.5),
    "r1-llama-8b": (131_072, 4),
    "r1-qwen-14b": (196_608, 6),
    "r1-qwen-32b": (262_144, 8),
    "r1-llama-70b": (327_680, 10),
}


# The KV cache


def kv_bytes_per_token(found: GgufHeader) -> int:
    shape = shape_of_file(found)
    return shape.layers * shape.kv_bytes()


def header(metadata: dict[str, object], *, architecture: str = "qwen2", file_size: int = 0) -> GgufHeader:
    keys: dict[str, object] = {"general.architecture": architecture}
    keys |= {f"{architecture}.{key}": value for key, value in metadata.items()}
    return GgufHeader(Path("model.gguf"), 3, keys, (), 0, file_size)


def header_of(model_id: str, *, file_size: int = 0) -> GgufHeader:
    model = MODELS[model_id]
    metadata: dict[str, object] = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.hidden,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
    }
    if model.family == "qwen3":  # states the size of its heads, as it need not follow from the others
        metadata |= {"attention.key_length": model.head_size, "attention.value_length": model.head_size}
    return header(metadata, architecture=model.family, file_size=file_size)


@pytest.mark.parametrize("model_id", KV_CACHE)
def test_kv_bytes_per_token(model_id: str) -> None:
    per_token, gib = KV_CACHE[model_id]
    assert kv_bytes_per_token(header_of(model_id)) == per_token
    assert per_token * 32_768 == gib * GIB


def test_kv_bytes_where_the_size_of_a_head_is_stated() -> None:
    """Qwen3-4B: 32 heads of 128 in a hidden size of 2560, which would make 80."""
    metadata: dict[str, object] = {
        "block_count": 36, "embedding_length": 2560, "attention.head_count": 32, "attention.head_count_kv": 8,
        "attention.key_length": 128, "attention.value_length": 128,
    }  # fmt: skip
    assert kv_bytes_per_token(header(metadata, architecture="qwen3")) == 36 * 8 * (128 + 128) * 2
    metadata["attention.value_length"] = 64
    assert kv_bytes_per_token(header(metadata, architecture="qwen3")) == 36 * 8 * (128 + 64) * 2


@pytest.mark.parametrize("kv_heads", [{}, {"attention.head_count_kv": 0}, {"attention.head_count_kv": 4}])
def test_kv_bytes_without_grouped_heads(kv_heads: dict[str, object]) -> None:
    """A model that does not state its KV heads has as many as heads."""
    metadata = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, **kv_heads}
    assert kv_bytes_per_token(header(metadata)) == 2 * 4 * (16 + 16) * 2


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"attention.head_count": 0, "attention.head_count_kv": 0},
        {"attention.head_count": "many", "embedding_length": 64},
        {"attention.head_count": 4, "attention.head_count_kv": ArrayInfo(5, 2), "embedding_length": 64},
    ],
    ids=["nothing", "zeros", "text", "a list, one per layer"],
)
def test_an_odd_header_is_no_crash(metadata: dict[str, object]) -> None:
    assert kv_bytes_per_token(header(metadata)) >= 0
    assert choose(shape_of_file(header(metadata)), machine(8 * GIB)).n_ctx > 0


# The context


def machine(available: int) -> Hardware:
    return Hardware("Linux", "some", 8, 8, 64 * GIB, available)


@pytest.mark.parametrize("available", [0, 1000 * GIB])
def test_a_model_of_a_very_short_context(available: int) -> None:
    metadata: dict[str, object] = {
        "block_count": 2, "embedding_length": 64, "attention.head_count": 2, "context_length": 512,
    }  # fmt: skip
    assert choose(shape_of_file(header(metadata)), machine(available)).n_ctx == 512


def possible(model_id: str, n_ctx: int, here: Hardware) -> None:
    asked = Wishes(n_ctx=n_ctx)
    check_possible(choose(shape_of_file(header_of(model_id)), here, asked), asked, here)


def test_a_context_that_is_larger_than_the_machine_is_refused() -> None:
    """And the context that the message names is one that works."""
    small = Hardware("Linux", "some", 8, 8, 10 * GIB, 8 * GIB)
    possible("r1-llama-70b", 8_192, small)
    with pytest.raises(OutOfMemory) as caught:
        possible("r1-llama-70b", 65_536, small)
    assert "65,536" in caught.value.message
    advised = re.search(r"--ctx (\d+)", caught.value.hint)
    assert advised is not None
    assert 0 < int(advised.group(1)) < 65_536
    possible("r1-llama-70b", int(advised.group(1)), small)


def test_the_context_advised_is_none_that_the_model_does_not_know() -> None:
    with pytest.raises(OutOfMemory, match="GiB") as caught:
        possible("smollm2", 100_000_000, machine(GIB))
    assert caught.value.hint.rstrip(".").endswith("--ctx 8192")

"""How much memory a model takes: against what llama.cpp logged on others' machines, and what it lays out here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1local.catalog import Model, load_catalog
from r1local.gguf_header import read_header
from r1local.plan import KV_TYPES, Shape, shape_of_file
from r1local.plan.memory import (
    MIB,
    Batch,
    Placement,
    Settings,
    Use,
    compute_bytes,
    inputs_bytes,
    layers_kv_bytes,
    padded_context,
    placements,
    uses,
)
from r1local.prepare.fit import shape_in_catalog
from r1local.prepare.sizes import layout_of
from tests import makers
from tests.layouts import Buffers, Wanted, lay_out, write_hollow
from tests.strategies import shapes

CATALOG = load_catalog()
calm = settings(deadline=None)
"""However busy the machine is."""
MODELS = {model.id: model for model in CATALOG.models}
# Qwen2.5-Coder-1.5B: the shape of the 1.5B distill, but without an output matrix of its own.
TIED_1_5B = replace(MODELS["r1-qwen-1.5b"], id="tied-1.5b", parameters=1_543_714_304)


def shape_of(name: str, quantization: str = "Q4_K_M") -> Shape:
    model = TIED_1_5B if name == TIED_1_5B.id else MODELS[name]
    return shape_in_catalog(model, CATALOG.quantization(quantization))


def used(
    shape: Shape,
    n_ctx: int = 4_096,
    kv_type: str = "f16",
    *,
    n_ubatch: int = 512,
    n_seq_max: int = 1,
    flash_attention: bool = True,
    layers: tuple[int, ...] = (),
) -> tuple[Use, ...]:
    """The processor's share, then those of the cards that have so many layers."""
    chosen = Settings(n_ctx, kv_type, n_ubatch, n_seq_max, flash_attention, layers)
    return uses(shape, chosen, [(f"card {number}", "cuda") for number in range(len(layers))])


# What llama.cpp logged on others' machines, in MiB. Qwen2.5, Llama 3.x and Qwen3 have the shapes of their distills.
# Shortest first: where no issue is named, it is a log that somebody published elsewhere.

# Model, quantization, layers on each card, what lies on each card, and beside the processor.
WEIGHTS = {
    "32B Q4_K_M, CUDA, ggml-org/llama.cpp#11861": ("r1-qwen-32b", "Q4_K_M", (65,), (18508.35,), 417.66),
    "7B Q4_K_M, CUDA": ("r1-qwen-7b", "Q4_K_M", (29,), (4168.09,), 292.36),
    "14B Q4_K_M, ROCm": ("r1-qwen-14b", "Q4_K_M", (49,), (8148.38,), 417.66),
    "8B Q4_K_M, CUDA": ("r1-llama-8b", "Q4_K_M", (33,), (4403.49,), 281.81),
    "8B Q4_0, Vulkan, ikawrakow/ik_llama.cpp#562": ("r1-llama-8b", "Q4_0", (33,), (4155.99,), 281.81),
    "8B F16, Metal, pytorch/torchchat#855": ("r1-llama-8b", "F16", (33,), (14315.02,), 1002.00),
    "Qwen3 8B Q4_K_M, CUDA": ("r1-0528-qwen3-8b", "Q4_K_M", (37,), (4455.34,), 333.84),
    "70B Q4_0, two devices": ("r1-llama-70b", "Q4_0", (41, 40), (18821.56, 18725.42), 563.62),
    # The log does not say what stayed with the processor: the same embedding once more.
    "tied 1.5B Q4_K_M, CUDA": ("tied-1.5b", "Q4_K_M", (29,), (934.70,), 182.57),
}
_LOGGED_TO = 0.01
"""MiB: buffers are logged with two digits."""


@pytest.mark.parametrize(("name", "quantization", "layers", "cards", "processor"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_were_logged(
    name: str, quantization: str, layers: tuple[int, ...], cards: tuple[float, ...], processor: float
) -> None:
    found = [use.weights / MIB for use in used(shape_of(name, quantization), layers=layers)]
    assert found == pytest.approx([processor, *cards], abs=_LOGGED_TO)


# Model, context, type: all layers together.
KV_CACHES = {
    "7B": ("r1-qwen-7b", 8_192, "f16", 448.00),
    "7B in q8_0": ("r1-qwen-7b", 16_384, "q8_0", 476.00),
    "7B at 32,768": ("r1-qwen-7b", 32_768, "f16", 1792.00),
    "14B": ("r1-qwen-14b", 4_096, "f16", 768.00),
    "8B": ("r1-llama-8b", 8_192, "f16", 1024.00),
    "8B at 16,384, ikawrakow/ik_llama.cpp#562": ("r1-llama-8b", 16_384, "f16", 2048.00),
    "Qwen3 8B": ("r1-0528-qwen3-8b", 8_192, "f16", 1152.00),
    "70B": ("r1-llama-70b", 4_096, "f16", 1280.00),
}


@pytest.mark.parametrize(("name", "n_ctx", "kv_type", "logged"), KV_CACHES.values(), ids=KV_CACHES)
def test_kv_caches_that_were_logged(name: str, n_ctx: int, kv_type: str, logged: float) -> None:
    shape = shape_of(name)
    assert layers_kv_bytes(shape, shape.layers, n_ctx, kv_type) == logged * MIB
    for split in ((), (shape.layers + 1,), (5, 7)):
        assert sum(use.kv_cache for use in used(shape, n_ctx, kv_type, layers=split)) == logged * MIB


def test_a_kv_cache_over_two_devices_that_was_logged() -> None:
    """The 70B at 4,096 tokens: 1280 MiB over 41 layers on one and 39 and the output on the other."""
    host, *cards = used(shape_of("r1-llama-70b", "Q4_0"), layers=(41, 40))
    assert [host.kv_cache, *(card.kv_cache for card in cards)] == [0, 41 * 16 * MIB, 39 * 16 * MIB]


# Model, context, type, layers on each card, flash attention, logged on each card.
COMPUTE = {
    "7B": ("r1-qwen-7b", 8_192, "f16", (29,), False, 492.00),
    "7B in q8_0": ("r1-qwen-7b", 16_384, "q8_0", (29,), True, 148.09),
    "8B": ("r1-llama-8b", 8_192, "f16", (33,), False, 560.00),
    "Qwen3 8B": ("r1-0528-qwen3-8b", 8_192, "f16", (37,), True, 104.01),
    "70B over two": ("r1-llama-70b", 4_096, "f16", (41, 40), False, 588.01),
}
_NEAR = 0.15


@pytest.mark.parametrize(("name", "n_ctx", "kv_type", "layers", "flash", "logged"), COMPUTE.values(), ids=COMPUTE)
def test_compute_buffers_that_were_logged(
    name: str, n_ctx: int, kv_type: str, layers: tuple[int, ...], flash: bool, logged: float
) -> None:
    _, *cards = used(shape_of(name), n_ctx, kv_type, flash_attention=flash, layers=layers)
    assert [card.compute / MIB for card in cards] == pytest.approx([logged] * len(cards), rel=_NEAR)


# Model, context, n_ubatch, logged.
OLD_COMPUTE = {
    "7B": ("r1-qwen-7b", 32_768, 512, 382.01),
    "8B, ikawrakow/ik_llama.cpp#562": ("r1-llama-8b", 16_384, 1_024, 613.01),
    "tied 1.5B": ("tied-1.5b", 4_096, 512, 299.75),
}


@pytest.mark.parametrize(("name", "n_ctx", "n_ubatch", "logged"), OLD_COMPUTE.values(), ids=OLD_COMPUTE)
def test_compute_buffers_of_older_builds(name: str, n_ctx: int, n_ubatch: int, logged: float) -> None:
    """They made room for the logits of a whole batch, and kept a mask of 4 bytes a cell beside it."""
    shape = shape_of(name)
    logits = compute_bytes(shape, Batch(n_ctx, n_ubatch, n_outputs=n_ubatch), on_gpu=True)
    mask = n_ubatch * n_ctx * 4
    assert (logits + mask) / MIB == pytest.approx(logged, rel=_NEAR)


def test_the_processors_buffer_beside_a_gpu_that_was_logged() -> None:
    """Qwen3 8B at 8,192 tokens on CUDA: 24.01 MiB of the host's."""
    shape = shape_of("r1-0528-qwen3-8b")
    host, _ = used(shape, 8_192, layers=(37,))
    assert host.compute == inputs_bytes(shape, Batch(8_192, 512, 1))
    assert host.compute / MIB == pytest.approx(24.01, abs=2 * _LOGGED_TO)


# What the installed library lays out, on the processor.

_WANTED = [
    Wanted(n_ctx, n_ubatch, n_seq_max, flash_attention, kv_type)
    for n_ctx in (2_048, 8_192, 32_768)
    for n_ubatch in (256, 512)
    for n_seq_max in (1, 8)
    for flash_attention, kv_type in ((True, "f16"), (True, "q8_0"), (False, "f16"))
]
# Many replies at once: then logits take more room than anything else.
_MANY = [Wanted(n_ctx, 512, n_seq_max) for n_ctx in (2_048, 8_192) for n_seq_max in (64, 256)]
_ODD = [Wanted(2_048, kv_type="q4_0"), Wanted(8_000), Wanted(512, 512), Wanted(2_048, 2_048)]
_SMALLER_THAN_A_BATCH = Wanted(300, 512)
_MORE_SEQUENCES_THAN_A_BATCH = Wanted(2_048, 32, 64)
_ALL = [*_WANTED, *_MANY, *_ODD, _SMALLER_THAN_A_BATCH, _MORE_SEQUENCES_THAN_A_BATCH]
# OpenR1 and QwQ have the shapes of the 7B and the 32B, and differ in the context they were trained for.
HOLLOW = [model.id for model in CATALOG.models if model.id not in ("openr1-7b", "qwq-32b")]
# Files with weights, by the arguments of `makers.write_model`: in the proportions of the distills, whose feed-forward
# part is 2.7 times as wide as the rest and more.
TINY = {
    "tiny": {"feed_forward": 192},
    "tiny of several heads": {
        "hidden": 256, "heads": 4, "kv_heads": 2, "feed_forward": 1_024, "layers": 3, "quantization": "Q8_0",
    },
    "tiny and wide": {"hidden": 128, "feed_forward": 1_024, "heads": 2, "kv_heads": 2, "quantization": "Q4_0"},
}  # fmt: skip

Laid = dict[str, tuple[Shape, dict[Wanted, Buffers]]]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    """Every model in every context, by the library; and its shape as planning sees it."""
    folder = tmp_path_factory.mktemp("layouts")
    files = {name: write_hollow(folder / f"{name}.gguf", MODELS[name], MODELS[name].recommended) for name in HOLLOW}
    for name, sizes in TINY.items():
        files[name] = makers.write_model(folder / f"{name}.gguf", makers.Vocabulary(), **sizes)  # type: ignore[arg-type]
    found = lay_out(list(files.values()), _ALL)
    return {
        name: (shape_of_file(read_header(path)), dict(zip(_ALL, buffers, strict=True)))
        for (name, path), buffers in zip(files.items(), found, strict=True)
    }


def planned(shape: Shape, wanted: Wanted) -> Use:
    (use,) = used(
        shape, wanted.n_ctx, wanted.kv_type, n_ubatch=wanted.n_ubatch, n_seq_max=wanted.n_seq_max,
        flash_attention=wanted.flash_attention,
    )  # fmt: skip
    return use


def beyond(laid: Laid, name: str, wanted: list[Wanted], share: float) -> Iterator[tuple[Wanted, str, float, float]]:
    """Where plan and library differ by more than this share and by more than 0.2 MiB."""
    shape, buffers = laid[name]
    for each in wanted:
        use, real = planned(shape, each), buffers[each]
        for part, size in (("compute", use.compute), ("output", use.output)):
            if abs(size - real[part]) > max(share * real[part], 0.2 * MIB):
                yield each, part, size / MIB, real[part] / MIB


@pytest.mark.engine
@pytest.mark.parametrize("name", HOLLOW)
def test_buffers_as_the_library_lays_them_out(laid: Laid, name: str) -> None:
    assert list(beyond(laid, name, [*_WANTED, *_ODD], share=0.01)) == []


@pytest.mark.engine
@pytest.mark.parametrize("name", TINY)
def test_buffers_of_tiny_models(laid: Laid, name: str) -> None:
    assert list(beyond(laid, name, _WANTED, share=0.01)) == []


@pytest.mark.engine
@pytest.mark.parametrize("name", HOLLOW)
def test_buffers_for_many_replies(laid: Laid, name: str) -> None:
    """Where logits rule, the library finds a place for less of what lives beside them."""
    assert list(beyond(laid, name, _MANY, share=0.13)) == []


@pytest.mark.engine
def test_a_context_smaller_than_a_batch(laid: Laid) -> None:
    """Then no more tokens than it holds are taken at a time."""
    assert list(beyond(laid, "r1-qwen-7b", [_SMALLER_THAN_A_BATCH], share=0.01)) == []


@pytest.mark.engine
def test_more_sequences_than_a_batch_has_tokens(laid: Laid) -> None:
    """Then no more logits are made than a batch has tokens."""
    assert list(beyond(laid, "r1-qwen-7b", [_MORE_SEQUENCES_THAN_A_BATCH], share=0.05)) == []


@pytest.mark.engine
def test_the_judge_sees_a_difference(laid: Laid) -> None:
    """A feed-forward part that is an eighth wider is no longer within the bounds."""
    shape, buffers = laid["r1-qwen-7b"]
    wider = replace(shape, feed_forward=shape.feed_forward * 9 // 8)
    assert list(beyond({"wider": (wider, buffers)}, "wider", _WANTED, share=0.01))


def in_catalog(model: Model) -> Shape:
    return shape_in_catalog(model, CATALOG.quantization(model.recommended))


@pytest.mark.engine
@pytest.mark.parametrize("name", HOLLOW)
def test_a_file_and_the_catalog_give_the_same_shape(laid: Laid, name: str) -> None:
    """But for the file's size and the name of its mix, which a header without a file type does not say."""
    found, _ = laid[name]
    expected = in_catalog(MODELS[name])
    same = {"quantization": "", "file_bytes": 0}
    assert replace(found, **same) == replace(expected, **same)  # type: ignore[arg-type]


def test_layers_are_in_their_order() -> None:
    """In Q4_K_M the first and the last eighth of them and every third between are heavier."""
    shape = shape_of("r1-qwen-7b")
    sizes = tensor_sizes(MODELS["r1-qwen-7b"], "Q4_K_M")
    by_layer = [0] * shape.layers
    for name, size in sizes.items():
        if name.startswith("blk."):
            by_layer[int(name.split(".")[1])] += size
    assert list(shape.layer_bytes) == by_layer != by_layer[::-1]
    heaviest = [sizes[f"blk.{layer}.ffn_down.weight"] for layer in range(shape.layers)]
    assert shape.largest_bytes == max(heaviest) > min(heaviest)


def tensor_sizes(model: Model, quantization: str) -> dict[str, int]:
    layout = layout_of(model, quantization)
    assert layout is not None
    return {stored.name: stored.size for stored in layout.stored}


@pytest.mark.parametrize("name", [model.id for model in CATALOG.models])
def test_a_file_in_the_catalog_is_as_large_as_its_weights(name: str) -> None:
    shape = in_catalog(MODELS[name])
    assert 0 <= shape.file_bytes - shape.weight_bytes < 10_000_000
    assert shape.tied == (name in ("inside", "smollm2"))


# What holds for every model.


def splits(shape: Shape) -> st.SearchStrategy[tuple[int, ...]]:
    """Layers on up to three cards, the output counted as one more."""

    def within(counts: list[int]) -> tuple[int, ...]:
        left, given_out = shape.layers + 1, []
        for count in counts:
            given_out.append(min(count, left))
            left -= given_out[-1]
        return tuple(given_out)

    return st.lists(st.integers(0, shape.layers + 1), max_size=3).map(within)


contexts = st.integers(1, 200_000)


@calm
@given(st.data(), shapes(), contexts, contexts, st.sampled_from(sorted(KV_TYPES)), st.booleans(), st.integers(32, 2048))
def test_more_context_never_takes_less(
    data: st.DataObject, shape: Shape, one: int, other: int, kv_type: str, flash: bool, n_ubatch: int
) -> None:
    layers = data.draw(splits(shape))
    few, many = (
        used(shape, n_ctx, kv_type, n_ubatch=n_ubatch, flash_attention=flash, layers=layers)
        for n_ctx in sorted((one, other))
    )
    for less, more in zip(few, many, strict=True):
        assert less.kv_cache <= more.kv_cache
        assert less.compute <= more.compute
        assert less.total <= more.total
    if padded_context(one) != padded_context(other):
        assert sum(use.kv_cache for use in few) < sum(use.kv_cache for use in many)


@calm
@given(st.data(), shapes(), contexts, st.integers(32, 2_048))
def test_fewer_bits_never_take_more(data: st.DataObject, shape: Shape, n_ctx: int, n_ubatch: int) -> None:
    layers = data.draw(splits(shape))
    by_type = [used(shape, n_ctx, kind, n_ubatch=n_ubatch, layers=layers) for kind in ("f16", "q8_0", "q4_0")]
    for larger, smaller in itertools.pairwise(by_type):
        assert all(one.total <= other.total for one, other in zip(smaller, larger, strict=True))
        assert sum(use.kv_cache for use in smaller) < sum(use.kv_cache for use in larger)


@calm
@given(st.data(), shapes())
def test_every_layer_lies_somewhere_once(data: st.DataObject, shape: Shape) -> None:
    split = data.draw(splits(shape))
    found = placements(shape, split)
    assert len(found) == 1 + len(split)
    assert [layer for place in found for layer in place.layers] == list(range(shape.layers))
    assert sum(place.output for place in found) == 1
    for place, count in zip(found[1:], split, strict=True):
        assert len(place.layers) + place.output == count


def test_the_last_layers_go_to_the_cards_and_the_output_is_the_very_last() -> None:
    shape = shape_of("r1-qwen-7b")
    assert placements(shape, ()) == (Placement(range(28), output=True),)
    assert placements(shape, (1,)) == (Placement(range(28), output=False), Placement(range(28, 28), output=True))
    assert placements(shape, (4, 0, 6)) == (
        Placement(range(19), output=False),
        Placement(range(19, 23), output=False),
        Placement(range(23, 23), output=False),
        Placement(range(23, 28), output=True),
    )
    host, card = placements(shape, (29,))
    assert (host, card) == (Placement(range(0), output=False), Placement(range(28), output=True))


@calm
@given(st.data(), shapes(), contexts, st.sampled_from(sorted(KV_TYPES)), st.integers(1, 64))
def test_parts_add_up(data: st.DataObject, shape: Shape, n_ctx: int, kv_type: str, n_seq_max: int) -> None:
    layers = data.draw(splits(shape))
    found = used(shape, n_ctx, kv_type, n_seq_max=n_seq_max, layers=layers)
    for use in found:
        assert use.total == use.weights + use.kv_cache + use.compute + use.output + use.other
        assert min(use.weights, use.kv_cache, use.compute, use.output, use.other) >= 0
    host, *cards = placements(shape, layers)
    # A tied model's embedding is its output matrix as well: beside a GPU that makes the logits there are two of it.
    copies = shape.embedding_bytes if shape.tied and not host.output else 0
    assert sum(use.weights for use in found) == shape.weight_bytes + copies
    assert sum(use.kv_cache for use in found) == layers_kv_bytes(shape, shape.layers, n_ctx, kv_type)
    for use, card in zip(found[1:], cards, strict=True):
        assert bool(use.total) == bool(card.layers or card.output)


@pytest.mark.parametrize("name", [model.id for model in CATALOG.models])
def test_all_devices_together_hold_the_weights_once(name: str) -> None:
    shape = in_catalog(MODELS[name])
    for layers in ((), (1,), (shape.layers,), (shape.layers + 1,), (1, 2)):
        copies = shape.embedding_bytes if shape.tied and layers else 0
        assert sum(use.weights for use in used(shape, layers=layers)) == shape.weight_bytes + copies


@calm
@given(st.sampled_from(sorted(KV_TYPES)), shapes())
def test_a_token_takes_whole_blocks(kv_type: str, shape: Shape) -> None:
    """Rows of keys and values are as the library has them: whole blocks of 32, or floats of two bytes."""
    block, size = KV_TYPES[kv_type]
    row = shape.kv_heads * shape.key_size
    assert row % block == 0
    assert shape.kv_bytes(kv_type) == 2 * row // block * size


@calm
@given(contexts)
def test_cells_come_by_256(n_ctx: int) -> None:
    cells = padded_context(n_ctx)
    assert cells % 256 == 0
    assert 0 <= cells - n_ctx < 256


def test_without_flash_attention_scores_are_kept_a_second_time_in_f16() -> None:
    """Multiplied with the values, which are f16, they are converted first, into memory of the threads (ggml-cpu.c,
    ggml_graph_plan): two bytes for each head, token of the batch and cell. Not where a GPU computes every layer.
    """
    shape = shape_of("smollm2", "Q4_1")
    flash, plain = (used(shape, 8_192, n_ubatch=128, flash_attention=flash)[0].other for flash in (True, False))
    copied = shape.heads * 128 * 8_192 * 2
    quantized = 128 * shape.feed_forward * 9 // 8  # what the threads' memory holds otherwise
    assert plain - flash == copied - quantized
    every = (shape.layers + 1,)
    on_card = [used(shape, 8_192, flash_attention=flash, layers=every)[0].other for flash in (True, False)]
    assert on_card[0] == on_card[1]

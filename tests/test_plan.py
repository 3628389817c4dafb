"""How models are run on a machine: the plans of ten machines as a table, and the rules that every plan keeps."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from r1local.catalog import load_catalog
from r1local.hardware import Gpu, Hardware, known
from r1local.plan import LEAST_CONTEXT, MARGIN, TARGET_CONTEXT, Plan, Shape, Wishes, choose, memory
from r1local.plan.choose import SMALLEST_CONTEXT, lower, margin
from r1local.plan.memory import GIB, MIB, padded_context
from r1local.plan.outlook import PATIENCE_SECONDS, THOUGHT_TOKENS, outlook
from r1local.prepare.fit import Fit, fit_of, memory_verdict, reason, recommended, runs_well, shape_in_catalog
from tests import plans
from tests.strategies import gpus, machines, shapes, wishes

CATALOG = load_catalog()
calm = settings(deadline=None)
"""However busy the machine is."""
STEP = 1_024
"""Contexts that were looked for are multiples of it."""


def shape_of(name: str, quantization: str = "") -> Shape:
    model, _ = CATALOG.resolve(name)
    return shape_in_catalog(model, CATALOG.quantization(quantization or model.recommended))


def card(gib: float, free: float | None = None, name: str = "RTX 4090") -> Gpu:
    return Gpu(name, "cuda", int(gib * GIB), int((gib if free is None else free) * GIB), 1e12, "nv-consumer")


def computer(*cards: Gpu, gib: float = 128, free: float | None = None) -> Hardware:
    available = int((gib if free is None else free) * GIB)
    return Hardware(
        system="Linux", processor="AMD Ryzen 7 5800X", physical_cores=8, usable_cores=8, memory_total=int(gib * GIB),
        memory_available=available, instruction_sets=("AVX2",), gpus=cards, memory_bandwidth=4e10,
    )  # fmt: skip


def apple(gib: float, free: float) -> Hardware:
    """One memory, of which the GPU may use three quarters."""
    gpu = Gpu("Apple M3 Max", "metal", int(gib * GIB * 0.75), int(free * GIB), 4e11, "apple-max", unified=True)
    return computer(gpu, gib=gib, free=free)


# The table


def kept() -> list[str]:
    return plans.TABLE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("machine", plans.MACHINES)
def test_plans_are_those_of_the_table(machine: str) -> None:
    """See tests/plans.py for how the table is made anew."""
    found = [plans.row(machine, model) for model in plans.MODELS]
    assert found == [line for line in kept() if line.startswith(f"| {machine} |")]


def test_the_table_is_whole() -> None:
    assert len(plans.MACHINES) == 10
    assert kept()[: plans.HEAD.count("\n")] == plans.HEAD.splitlines()
    assert len(kept()) == plans.HEAD.count("\n") + len(plans.MACHINES) * len(plans.MODELS)


# Flash attention


def test_narrow_heads_go_without_flash_attention_on_a_processor() -> None:
    """Where it made decoding half as fast; all distilled models have wider ones."""
    narrow, wide = shape_of("smollm2"), shape_of("r1-qwen-1.5b")
    assert (narrow.key_size, wide.key_size) == (64, 128)
    assert not choose(narrow, computer()).settings.flash_attention
    assert choose(wide, computer()).settings.flash_attention
    assert choose(narrow, computer(card(24))).settings.flash_attention, "not measured on any GPU"
    assert choose(narrow, computer(), Wishes(kv_type="q8_0")).settings.flash_attention, "values need it"
    assert choose(narrow, computer(), Wishes(flash_attention=True)).settings.flash_attention


# What every plan keeps


@calm
@given(shapes(), machines(), wishes())
def test_the_same_question_has_the_same_answer(shape: Shape, machine: Hardware, wished: Wishes) -> None:
    assert choose(shape, machine, wished) == choose(shape, machine, wished)


@calm
@given(shapes(), machines(), wishes())
def test_what_the_user_fixed_stays(shape: Shape, machine: Hardware, wished: Wishes) -> None:
    """Whether it fits or not."""
    plan = choose(shape, machine, wished)
    assert plan.n_ctx == (wished.n_ctx or plan.n_ctx)
    assert plan.kv_type == (wished.kv_type or plan.kv_type)
    assert plan.n_threads == (wished.n_threads or machine.usable_cores)
    assert plan.settings.n_ubatch == (wished.n_batch or (512 if plan.settings.flash_attention else 128))
    assert plan.settings.n_seq_max == wished.n_seq_max
    assert wished.flash_attention in (None, plan.settings.flash_attention)
    assert plan.settings.repack == (plan.settings.repack if wished.repack is None else wished.repack)
    every = shape.layers + 1
    if not machine.gpus:
        assert plan.settings.gpu_layers == ()
    elif wished.n_gpu_layers is not None:
        assert plan.n_gpu_layers == (every if wished.n_gpu_layers < 0 else min(every, wished.n_gpu_layers))


@calm
@given(shapes(), machines(), wishes())
def test_a_plan_that_fits_leaves_the_margin_free(shape: Shape, machine: Hardware, wished: Wishes) -> None:
    plan = choose(shape, machine, wished)
    host, *cards = plan.memory
    taken = host.total + sum(use.total for use, gpu in zip(cards, machine.gpus, strict=True) if gpu.unified)
    kept_free = [machine.memory_available - taken >= margin(machine.memory_total, wished)]
    for use, gpu in zip(cards, machine.gpus, strict=True):
        kept_free.append(not use.total or gpu.memory_free - use.total >= margin(gpu.memory_total, wished))
    assert plan.fits == all(kept_free)
    assert any("It needs" in warning for warning in plan.warnings) == (not plan.fits)


@pytest.mark.parametrize(
    ("total", "wished", "free"),
    [(64 * GIB, None, GIB), (8 * GIB, None, GIB), (4 * GIB, None, GIB // 2), (64 * GIB, 0, 0), (GIB, 5 * GIB, 5 * GIB)],
)
def test_the_margin_is_a_gibibyte_or_an_eighth(total: int, wished: int | None, free: int) -> None:
    assert margin(total, Wishes(margin=wished)) == free
    assert MARGIN == GIB


@calm
@given(shapes(), machines(), wishes())
def test_the_plans_memory_is_that_of_its_settings(shape: Shape, machine: Hardware, wished: Wishes) -> None:
    plan = choose(shape, machine, wished)
    devices = [(gpu.name, gpu.kind) for gpu in machine.gpus]
    expected = memory.uses(shape, plan.settings, devices, wished.process_bytes)
    assert tuple(replace(use, room=0) for use in plan.memory) == expected
    assert plan.gpus == machine.gpus
    assert plan.n_gpu_layers == sum(plan.settings.gpu_layers) <= shape.layers + 1
    assert plan.all_on_gpu == (plan.n_gpu_layers == shape.layers + 1)
    assert plan.tensor_split == (plan.settings.gpu_layers if len(machine.gpus) > 1 else ())


def test_one_memory_is_counted_once() -> None:
    """What an Apple chip's GPU takes is no longer there for the processor."""
    machine = apple(64, free=40)
    plan = choose(shape_of("r1-qwen-32b"), machine)
    host, gpu = plan.memory
    assert plan.all_on_gpu
    assert plan.fits
    assert host.room == machine.memory_available - MARGIN - gpu.total
    beside = choose(shape_of("r1-qwen-32b"), replace(machine, gpus=(replace(machine.gpus[0], unified=False),)))
    assert beside.memory[0].room == machine.memory_available - MARGIN


# Context


@calm
@given(shapes(), machines(), st.sampled_from((1, 2, 8)))
def test_less_than_a_thought_needs_is_told(shape: Shape, machine: Hardware, replies: int) -> None:
    plan = choose(shape, machine, Wishes(n_seq_max=replies))
    wanted = replies * min(LEAST_CONTEXT, shape.trained_context or LEAST_CONTEXT)
    told = any("short for a thought" in warning for warning in plan.warnings)
    assert told == (plan.n_ctx < wanted)
    assert plan.enough_context == (not told)
    if replies > 1 and told:
        assert f"for each of {replies} replies" in " ".join(plan.warnings)


def test_each_of_several_replies_needs_room() -> None:
    """Of a model trained for 4,096 tokens eight replies need that eight times."""
    shape = replace(shape_of("r1-llama-8b"), trained_context=4_096)
    found = [choose(shape, computer(gib=16, free=tenth / 10), Wishes(n_seq_max=8)) for tenth in range(60, 110)]
    assert {plan.enough_context for plan in found if plan.fits} == {True, False}
    for plan in found:
        assert plan.enough_context == (plan.n_ctx >= 8 * 4_096)


@calm
@given(shapes(), machines(), st.sampled_from((1, 2, 8)))
def test_never_more_than_the_model_knows_nor_than_a_thought_takes(
    shape: Shape, machine: Hardware, replies: int
) -> None:
    plan = choose(shape, machine, Wishes(n_seq_max=replies))
    assert plan.n_ctx <= replies * (shape.trained_context or TARGET_CONTEXT)
    assert plan.n_ctx <= max(TARGET_CONTEXT, replies * LEAST_CONTEXT)


def test_where_there_is_room_all_of_it_is_planned() -> None:
    roomy = computer(card(96), gib=256)
    for name, expected in (("r1-qwen-7b", 32_768), ("smollm2", 8_192), ("openr1-7b", 32_768), ("qwq-32b", 32_768)):
        assert choose(shape_of(name), roomy).n_ctx == expected
    assert choose(shape_of("r1-qwen-7b"), roomy, Wishes(n_seq_max=8)).n_ctx == 8 * LEAST_CONTEXT
    unknown = replace(shape_of("r1-qwen-7b"), trained_context=0)
    assert choose(unknown, roomy).n_ctx == TARGET_CONTEXT


# What is given up, in order


def as_it_shrinks(shape: Shape, by: float = 0.25) -> Iterator[Plan]:
    """Plans of one model on a card of which less and less is free."""
    free = 28.0
    while free > 0:
        yield choose(shape, computer(card(32, free), gib=64))
        free -= by


def test_first_bits_then_context_then_layers() -> None:
    found = [plan for plan in as_it_shrinks(shape_of("r1-qwen-32b")) if plan.fits]
    stages = ["more" if plan.n_gpu_layers < 65 else f"{plan.kv_type} {plan.n_ctx}" for plan in found]
    on_gpu = stages[: stages.index("more")]
    assert on_gpu[0] == "f16 32768"
    assert on_gpu[-1] == "q8_0 8192"
    contexts = [plan.n_ctx for plan in found[: len(on_gpu)]]
    assert contexts == sorted(contexts, reverse=True)
    bits = [plan.kv_type for plan in found[: len(on_gpu)]]
    assert bits == sorted(bits)  # f16, then q8_0
    assert all(plan.n_ctx == TARGET_CONTEXT for plan in found[: len(on_gpu)] if plan.kv_type == "f16")
    layers = [plan.n_gpu_layers for plan in found]
    assert layers == sorted(layers, reverse=True)
    assert len(set(layers)) > 30
    assert layers[-1] == 0
    assert all(plan.n_ctx >= LEAST_CONTEXT for plan in found)


@calm
@given(shapes(), machines(most_gpus=1), st.integers(0, 8 * GIB), st.integers(0, 8 * GIB))
def test_more_memory_never_makes_it_worse(shape: Shape, machine: Hardware, more: int, more_on_gpu: int) -> None:
    assume(not machine.gpus or not machine.gpus[0].unified)
    roomier = replace(
        machine,
        memory_available=min(machine.memory_total, machine.memory_available + more),
        gpus=tuple(
            replace(gpu, memory_free=min(gpu.memory_total, gpu.memory_free + more_on_gpu)) for gpu in machine.gpus
        ),
    )
    before, after = choose(shape, machine), choose(shape, roomier)
    assert better(before, after)


def better(before: Plan, after: Plan) -> bool:
    """No worse: layers first, then the bits of the KV cache, then context."""
    if not before.fits:
        return True
    order = [(plan.n_gpu_layers, plan.kv_type == "f16", plan.n_ctx) for plan in (before, after)]
    return after.fits and order[0] <= order[1]


@calm
@given(shapes(), st.floats(2, 30), st.floats(1, 64))
def test_the_most_that_fits_is_found(shape: Shape, on_gpu: float, beside: float) -> None:
    """One card: nothing more of any kind would fit, tried one by one."""
    machine = computer(card(32, on_gpu), gib=64, free=beside)
    plan = choose(shape, machine)
    assume(plan.fits and plan.enough_context)
    most = min(shape.trained_context or TARGET_CONTEXT, TARGET_CONTEXT)
    least = min(shape.trained_context or LEAST_CONTEXT, LEAST_CONTEXT)

    def fits(n_gpu_layers: int, n_ctx: int, kv_type: str) -> bool:
        return choose(shape, machine, Wishes(n_ctx=n_ctx, kv_type=kv_type, n_gpu_layers=n_gpu_layers)).fits

    more_layers = range(plan.n_gpu_layers + 1, shape.layers + 2)
    assert not any(fits(layers, least, "q8_0") for layers in more_layers)
    if plan.kv_type == "q8_0":
        assert not fits(plan.n_gpu_layers, most, "f16")
    if plan.n_ctx < most:
        assert not fits(plan.n_gpu_layers, min(most, (plan.n_ctx // STEP + 1) * STEP), plan.kv_type)


def test_where_nothing_fits_the_plan_says_so() -> None:
    plan = choose(shape_of("r1-llama-70b"), computer(gib=16))
    assert not plan.fits
    assert (plan.n_ctx, plan.kv_type) == (SMALLEST_CONTEXT, "q8_0")
    assert "It needs 40." in plan.warnings[-1]
    assert "where 15.0 GiB can be used." in plan.warnings[-1]


def test_the_device_that_lacks_most_is_named() -> None:
    plan = choose(shape_of("r1-qwen-32b"), computer(card(8), gib=128), Wishes(n_gpu_layers=60, n_ctx=8_192))
    (warning,) = plan.warnings
    assert re.fullmatch(r"It needs 1\d\.\d GiB of the RTX 4090's memory, where 7\.0 GiB can be used\.", warning)
    plan = choose(shape_of("r1-qwen-32b"), computer(card(8), gib=8), Wishes(n_gpu_layers=10, n_ctx=8_192))
    assert "of the processor's memory" in plan.warnings[-1]


def test_layers_beside_the_gpu_are_told() -> None:
    """But to who wanted it so."""
    shape, machine = shape_of("r1-qwen-7b"), computer(card(4))
    plan = choose(shape, machine)
    assert 0 < plan.n_gpu_layers < 29
    assert plan.warnings == (f"{plan.n_gpu_layers} of 29 layers fit on the GPU; the processor computes the others.",)
    for count in (0, 5, 28):
        wanted = choose(shape, computer(card(24)), Wishes(n_gpu_layers=count))
        assert (wanted.all_on_gpu, wanted.warnings) == (False, ())
    assert choose(shape, computer(card(24)), Wishes(n_gpu_layers=29)).all_on_gpu


def test_without_a_gpu_a_short_context_before_none() -> None:
    """14B in 8.2 GiB: less than a thought takes, and it is told."""
    plan = choose(shape_of("r1-qwen-14b"), computer(gib=16, free=10.2))
    assert plan.fits
    assert plan.n_ctx == LEAST_CONTEXT // 2
    assert "4,096 tokens of context are short for a thought" in plan.warnings[0]


def test_beside_a_gpu_a_short_context_before_none() -> None:
    """32B on a card of 12 GB: as many layers there as beside 8,192 tokens, and 4,096 or 2,048 where memory is short."""
    shape = shape_of("r1-qwen-32b")
    layers = choose(shape, computer(card(12), gib=64)).n_gpu_layers
    found = set()
    for tenth in range(90, 120):
        machine = computer(card(12), gib=16, free=tenth / 10)
        plan = choose(shape, machine)
        fitting = [
            n_ctx
            for n_ctx in (8_192, 4_096, 2_048)
            if choose(shape, machine, Wishes(n_ctx=n_ctx, kv_type="q8_0", n_gpu_layers=layers)).fits
        ]
        assert plan.fits or not fitting, f"{tenth / 10} GiB free"
        if plan.fits:
            found.add(plan.n_ctx)
            assert plan.n_ctx >= max(fitting, default=0), f"{tenth / 10} GiB free"
    assert found >= {2_048, 4_096}


def test_where_nothing_fits_the_gpu_is_used_all_the_same() -> None:
    """32B on a laptop with 8 and 16 GB: a third of the layers fit on the card, which spares the rest of the memory."""
    machine = plans.machine("rtx-4060-laptop")
    plan = choose(shape_of("r1-qwen-32b"), machine)
    assert not plan.fits
    assert plan.n_gpu_layers > 0
    assert not any("0 of 65 layers fit" in warning for warning in plan.warnings)


# Several cards


@calm
@given(shapes(), st.lists(gpus(), min_size=2, max_size=4), st.integers(-1, 31))
def test_layers_are_shared_out_once(shape: Shape, cards: list[Gpu], wanted: int) -> None:
    plan = choose(shape, computer(*cards), Wishes(n_gpu_layers=wanted))
    every = shape.layers + 1
    assert len(plan.settings.gpu_layers) == len(cards)
    assert sum(plan.settings.gpu_layers) == (every if wanted < 0 else min(wanted, every))
    assert min(plan.settings.gpu_layers) >= 0


def test_a_model_that_fits_one_card_stays_on_it() -> None:
    """On the one with the most room."""
    machine = computer(card(12), card(24), card(8))
    assert choose(shape_of("r1-qwen-14b"), machine).settings.gpu_layers == (0, 49, 0)


def test_cards_are_filled_to_the_same_share() -> None:
    plan = choose(shape_of("r1-llama-70b"), computer(card(32), card(16), card(16)))
    assert plan.all_on_gpu
    shares = [use.total / use.room for use in plan.memory[1:]]
    assert max(shares) - min(shares) < 0.06
    assert plan.settings.gpu_layers[0] > 1.8 * plan.settings.gpu_layers[1]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_more_cards_are_never_fewer_layers(count: int) -> None:
    shape = shape_of("r1-llama-70b")
    few, many = (choose(shape, computer(*[card(16)] * number)) for number in (count, count + 1))
    assert better(few, many)


@pytest.mark.parametrize(("name", "gib", "lowest"), [("r1-qwen-32b", 12, 10.4), ("r1-llama-70b", 24, 21.0)])
def test_more_memory_on_two_cards_never_makes_it_worse(name: str, gib: int, lowest: float) -> None:
    """Two like cards, of which a little less is used step by step: within 3 layers, as they come in whole ones."""
    shape = shape_of(name)
    free = [lowest + step / 20 for step in range(17)]
    layers = [choose(shape, computer(card(gib, each), card(gib, each - 0.15))).n_gpu_layers for each in free]
    assert all(after >= before - 3 for before, after in itertools.pairwise(layers)), layers


# Lowering


@calm
@given(shapes(), machines(), wishes())
def test_lowering_ends_and_keeps_what_was_fixed(shape: Shape, machine: Hardware, wished: Wishes) -> None:
    plan, steps = choose(shape, machine, wished), 0
    first = plan
    while (less := lower(plan, wished)) is not None:
        smaller = choose(shape, machine, less)
        before, after = (
            (one.n_ctx, one.kv_type != "f16", one.n_gpu_layers, sum(use.total for use in one.memory))
            for one in (plan, smaller)
        )
        assert sum(one != other for one, other in zip(before[:3], after[:3], strict=True)) == 1, "one thing at a time"
        assert after[0] <= before[0]
        assert after[1] >= before[1]
        assert after[2] <= before[2]
        assert smaller.n_threads == first.n_threads
        given_up = {
            "n_ctx": 0,
            "kv_type": "",
            "gpu_layers": (),
            "flash_attention": smaller.kv_type != "f16",
            "n_ubatch": 0,
        }
        assert replace(smaller.settings, **given_up) == replace(first.settings, **given_up)
        if smaller.kv_type == first.kv_type:
            assert smaller.settings.flash_attention == first.settings.flash_attention or machine.gpus
        plan, steps = smaller, steps + 1
        assert steps < 60
    assert plan.n_ctx == wished.n_ctx or plan.n_ctx <= max(SMALLEST_CONTEXT, min(first.n_ctx, SMALLEST_CONTEXT))
    assert plan.kv_type == (wished.kv_type or plan.kv_type)
    if wished.n_gpu_layers is None:
        assert plan.n_gpu_layers == 0
    else:
        assert plan.n_gpu_layers == first.n_gpu_layers


def lowered(shape: Shape, machine: Hardware, wished: Wishes) -> list[tuple[str, int, int]]:
    plan = choose(shape, machine, wished)
    found = []
    while (less := lower(plan, wished)) is not None:
        plan = choose(shape, machine, less)
        found.append((plan.kv_type, plan.n_ctx, plan.n_gpu_layers))
    return found


def test_the_order_of_lowering() -> None:
    """Bits, context down to what a thought needs, layers, and the last of the context."""
    shape, machine = shape_of("r1-qwen-7b"), computer(card(24))
    layers = [21, 15, 11, 8, 6, 4, 3, 2, 1, 0]
    expected = [
        ("q8_0", 32_768, 29), ("q8_0", 16_384, 29), ("q8_0", 8_192, 29), *(("q8_0", 8_192, left) for left in layers),
        ("q8_0", 4_096, 0), ("q8_0", 2_048, 0),
    ]  # fmt: skip
    assert lowered(shape, machine, Wishes()) == expected
    no_gpu = computer(gib=64)
    assert lowered(shape, no_gpu, Wishes()) == [("q8_0", n_ctx, 0) for n_ctx in (32_768, 16_384, 8_192, 4_096, 2_048)]


def test_what_the_user_fixed_is_not_lowered() -> None:
    shape, machine = shape_of("r1-qwen-7b"), computer(card(24))
    everything = Wishes(n_ctx=32_768, kv_type="f16", n_gpu_layers=-1)
    assert lower(choose(shape, machine, everything), everything) is None
    no_flash = lowered(shape, machine, Wishes(flash_attention=False))
    assert {kind for kind, _, _ in no_flash} == {"f16"}, "quantized values need flash attention"
    fixed_context = lowered(shape, machine, Wishes(n_ctx=32_768))
    assert {n_ctx for _, n_ctx, _ in fixed_context} == {32_768}
    assert fixed_context[-1] == ("q8_0", 32_768, 0)


# Speed


@calm
@given(shapes(), machines(), wishes())
def test_only_what_fits_is_promised(shape: Shape, machine: Hardware, wished: Wishes) -> None:
    plan = choose(shape, machine, wished)
    found = outlook(plan, machine)
    assert (found.word == "won't fit") == (not plan.fits)
    decode = found.decode
    if plan.fits:
        slow = 0 < decode.expected < THOUGHT_TOKENS / PATIENCE_SECONDS
        assert found.word == ("slow" if slow else "fits")
    assert 0 <= decode.low <= decode.expected <= decode.high


def test_layers_on_the_card_are_faster() -> None:
    machine, shape = computer(card(24)), shape_of("r1-qwen-14b")
    speeds = [
        outlook(choose(shape, machine, Wishes(n_gpu_layers=count)), machine).decode.expected
        for count in (0, 10, 30, 49)
    ]
    assert speeds == sorted(speeds)
    assert speeds[-1] > 10 * speeds[0]


def test_little_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is chosen whenever a model is loaded, and `fit --all` chooses two hundred."""
    calls = 0
    real = memory.uses

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*arguments)

    monkeypatch.setattr(memory, "uses", counted)
    most, began = 0, time.perf_counter()
    for machine in plans.MACHINES:
        for model in plans.MODELS:
            calls = 0
            choose(shape_of(model), plans.machine(machine))
            most = max(most, calls)
    assert most < 40
    assert time.perf_counter() - began < 20  # half a second on an idle machine


# What is recommended


def best(machine: Hardware, **wished: Any) -> Fit:
    found = recommended(CATALOG, machine, Wishes(**wished))
    assert found is not None
    return found


@pytest.mark.parametrize("machine", [plans.machine("rtx-4090"), known.machine("RTX 4090", plans.machine("no-gpu"))])
def test_a_4090_gets_the_32b_wholly_on_the_card(machine: Hardware) -> None:
    found = best(machine)
    assert found.name == "r1-qwen-32b:q4_k_m"
    assert found.plan.fits
    assert found.plan.all_on_gpu
    assert found.plan.n_ctx >= LEAST_CONTEXT
    assert found.plan.warnings == ()
    assert found.outlook.decode.expected > 25
    assert reason(found).startswith("the largest that fits wholly on the ")


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("broken-driver", "r1-qwen-7b:q4_k_m"),
        ("container-2gb", "r1-qwen-1.5b:q5_k_m"),
        ("h100-80gb", "r1-llama-70b:q4_k_m"),
        ("m2-16gb", "r1-0528-qwen3-8b:q4_k_m"),
        ("m3-max-64gb", "r1-qwen-32b:q4_k_m"),
        ("no-gpu", "r1-0528-qwen3-8b:q4_k_m"),
        ("rtx-3060-12gb", "r1-qwen-14b:q4_k_m"),
        ("rtx-4060-laptop", "r1-0528-qwen3-8b:q4_k_m"),
        ("two-rtx-3090", "r1-llama-70b:q4_k_m"),
    ],
)
def test_what_each_machine_gets(machine: str, expected: str) -> None:
    found = best(plans.machine(machine))
    assert found.name == expected
    assert runs_well(found)


@pytest.mark.parametrize("machine", plans.MACHINES)
def test_nothing_larger_runs_well(machine: str) -> None:
    """In its recommended quantization, of models that can be pulled."""
    hardware = plans.machine(machine)
    found = best(hardware)
    for model in CATALOG.models:
        if model.thinks and model.gguf and model.parameters > found.model.parameters:
            assert not runs_well(fit_of(model, CATALOG.quantization(model.recommended), hardware))


def test_nothing_is_recommended_where_nothing_runs() -> None:
    assert recommended(CATALOG, computer(gib=1, free=0.5)) is None


def test_few_bits_are_not_recommended() -> None:
    """A model whose smallest good quantization does not fit gives way to a smaller one."""
    for tenth in range(10, 300, 20):
        found = recommended(CATALOG, computer(card(40, tenth / 10), gib=64))
        if found is not None:
            assert found.quantization.weight_bits >= CATALOG.warn_below_bits
            assert not found.quantization.older


def test_who_asks_for_a_short_context_gets_a_model_all_the_same() -> None:
    assert best(plans.machine("rtx-4090"), n_ctx=4_096).name == "r1-qwen-32b:q4_k_m"


def test_the_reason_names_the_card_that_is_used() -> None:
    found = best(computer(card(8, name="RTX 3070"), card(96, name="RTX PRO 6000")))
    assert "wholly on the RTX PRO 6000 with 32,768 tokens" in reason(found)


def test_memory_before_a_download() -> None:
    model, _ = CATALOG.resolve("r1-qwen-14b")
    quantization = CATALOG.quantization("Q4_K_M")
    size = model.file_bytes(quantization)
    for machine, word in (
        (computer(gib=32), "fits"), (computer(gib=32, free=4), "tight"), (computer(gib=8), "too large"),
    ):  # fmt: skip
        found = memory_verdict(size, model, quantization, machine)
        assert found.word == word
        assert found.needed > 8 * GIB
        assert memory_verdict(size, None, None, machine).word == word, "by its size alone"


@calm
@given(st.integers(MIB, 200 * GIB), machines())
def test_a_file_nobody_knows_has_a_verdict_too(size: int, machine: Hardware) -> None:
    found = memory_verdict(size, None, None, machine)
    assert found.needed >= size * 9 // 10
    assert found.word in ("fits", "tight", "too large")


@calm
@given(st.integers(1, 200_000), machines(most_gpus=1))
def test_a_context_that_was_asked_for_is_padded_in_memory_alone(n_ctx: int, machine: Hardware) -> None:
    plan = choose(shape_of("r1-qwen-7b"), machine, Wishes(n_ctx=n_ctx, kv_type="f16"))
    assert plan.n_ctx == n_ctx
    assert sum(use.kv_cache for use in plan.memory) == padded_context(n_ctx) * 57_344

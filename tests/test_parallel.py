"""How many replies at once are planned: on recorded machines, on any machine, and that the library takes as much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1local.catalog import load_catalog
from r1local.engine import EngineOptions, open_engine
from r1local.gguf_header import read_header
from r1local.hardware import Hardware
from r1local.plan import TARGET_CONTEXT, Plan, Shape, Wishes, choose, shape_of_file
from r1local.plan.memory import GIB, MIB, Settings, Use, uses
from r1local.plan.parallel import MOST_ON_GPU, MOST_ON_PROCESSOR, plan_parallel
from r1local.prepare.fit import shape_in_catalog
from tests import layouts, makers, plans
from tests.layouts import Buffers, Wanted, lay_out, write_hollow
from tests.strategies import machines, shapes

CATALOG = load_catalog()
MODELS = {model.id: model for model in CATALOG.models}
calm = settings(deadline=None)
PROMPT = 2_048
"""Room that is kept for a prompt beside a reply of limited length."""


def shape_of(name: str) -> Shape:
    return shape_in_catalog(MODELS[name], CATALOG.quantization(MODELS[name].recommended))


def processor(gib: float) -> Hardware:
    return Hardware(
        system="Linux", processor="AMD Ryzen 7 5800X", physical_cores=8, usable_cores=8, memory_total=int(gib * GIB),
        memory_available=int(gib * GIB), instruction_sets=("AVX2",), gpus=(), memory_bandwidth=4e10,
    )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Arguments of plan_parallel."""

    replies: int = 100
    parallel: int | None = None
    max_tokens: int | None = None
    wishes: Wishes = Wishes()  # noqa: RUF009 - it is frozen

    def plan(self, shape: Shape, machine: Hardware) -> Plan:
        return plan_parallel(
            shape, machine, self.wishes, replies=self.replies, parallel=self.parallel, max_tokens=self.max_tokens
        )

    def each(self, shape: Shape) -> int:
        """Tokens that each reply is to have when it has a part of its own."""
        trained = shape.trained_context or TARGET_CONTEXT
        least = min(trained, TARGET_CONTEXT if self.max_tokens is None else self.max_tokens + PROMPT)
        return self.wishes.n_ctx or least


def assert_kept(shape: Shape, machine: Hardware, asked: Asked) -> Plan:
    """What holds for every plan of many replies."""
    plan, single = asked.plan(shape, machine), choose(shape, machine, replace(asked.wishes, n_seq_max=1))
    chosen = plan.settings
    assert 1 <= chosen.n_seq_max <= min(asked.replies, asked.parallel or asked.replies)
    if asked.parallel is None:
        assert chosen.n_seq_max <= (MOST_ON_GPU if machine.gpus else MOST_ON_PROCESSOR)
    assert plan.fits or not single.fits
    assert plan.n_gpu_layers >= single.n_gpu_layers
    if not chosen.kv_unified:
        assert chosen.n_ctx_seq >= asked.each(shape)
        assert plan.n_ctx % (256 * chosen.n_seq_max) == 0
    elif chosen.n_seq_max > 1:
        assert plan.n_ctx % 256 == 0
    return plan


asked = st.builds(
    Asked,
    replies=st.integers(1, 300),
    parallel=st.none() | st.integers(1, 256),
    max_tokens=st.none() | st.integers(1, 40_000),
    wishes=st.builds(
        Wishes,
        n_ctx=st.none() | st.integers(256, 50_000),
        kv_type=st.sampled_from((None, None, "f16", "q8_0")),
        n_gpu_layers=st.none() | st.integers(-1, 40),
        margin=st.none() | st.integers(0, 4 * GIB),
    ),
)


# On recorded machines


@pytest.mark.parametrize("machine", plans.MACHINES)
@pytest.mark.parametrize("name", ["inside", "r1-qwen-1.5b", "r1-qwen-7b", "r1-qwen-32b"])
def test_what_every_recorded_machine_keeps(machine: str, name: str) -> None:
    shape, hardware = shape_of(name), plans.machine(machine)
    for question in (Asked(), Asked(1), Asked(3), Asked(parallel=6), Asked(max_tokens=2_000), Asked(8, 8, 12_000)):
        assert_kept(shape, hardware, question)


# Model, machine, limit: replies at once, and whether each has a part of its own. By hand: what is free, less an eighth
# of the memory or a GiB and what a driver takes, less weights; the rest divided by the KV cache of a reply.
TABLE = {
    # 24 GB and 1.1 GB of weights, 28 KiB a token in f16: 0.875 GiB for 32,768 tokens of each.
    # In f16 that is 23 of them; in q8_0, 14.9 KiB a token, there is room for all.
    "r1-qwen-1.5b on a 4090": ("r1-qwen-1.5b", "rtx-4090", None, range(32, 33), False),
    "r1-qwen-1.5b on a 4090, short replies": ("r1-qwen-1.5b", "rtx-4090", 2_048, range(32, 33), False),
    # 80 GB, 4.4 GiB of weights, 56 KiB a token: 1.75 GiB each.
    "r1-qwen-7b on an H100": ("r1-qwen-7b", "h100-80gb", None, range(32, 33), False),
    # 18.5 GiB of weights leave no room for four thoughts of 256 KiB a token.
    "r1-qwen-32b on a 4090": ("r1-qwen-32b", "rtx-4090", None, range(1, 4), True),
}


@pytest.mark.parametrize(("name", "machine", "limit", "replies", "pool"), TABLE.values(), ids=TABLE)
def test_replies_at_once(name: str, machine: str, limit: int | None, replies: range, pool: bool) -> None:
    plan = Asked(max_tokens=limit).plan(shape_of(name), plans.machine(machine))
    assert plan.settings.n_seq_max in replies
    assert plan.settings.kv_unified == pool


def test_no_more_than_a_processor_can_use() -> None:
    shape = shape_of("inside")
    assert Asked(1000).plan(shape, processor(64)).settings.n_seq_max == MOST_ON_PROCESSOR
    assert Asked(1000, parallel=40).plan(shape, processor(64)).settings.n_seq_max == 40
    assert Asked(5, parallel=40).plan(shape, processor(64)).settings.n_seq_max == 5


@pytest.mark.parametrize("parallel", [2, 6, 32])
def test_no_thought_is_cut_short_for_the_sake_of_others(parallel: int) -> None:
    """Where one reply has no room for a thought, many at once in as little would only wait for one another."""
    shape = shape_of("r1-qwen-7b")
    for gib in (5.4, 5.7):
        plan = Asked(parallel=parallel).plan(shape, processor(gib))
        assert (plan.settings.n_seq_max, plan.fits) == (1, True)
        assert plan.n_ctx == choose(shape, processor(gib)).n_ctx


@pytest.mark.parametrize("limit", [None, 100])
def test_one_reply_has_all_the_context(limit: int | None) -> None:
    """Its prompt may be long however short the reply."""
    shape, machine = shape_of("r1-qwen-7b"), processor(64)
    plan = Asked(1, max_tokens=limit).plan(shape, machine)
    assert (plan.settings.n_seq_max, plan.settings.kv_unified) == (1, True)
    assert plan.n_ctx == TARGET_CONTEXT


# On every machine


@calm
@given(shapes(), machines(), asked)
def test_what_every_machine_keeps(shape: Shape, machine: Hardware, question: Asked) -> None:
    assert_kept(shape, machine, question)


@settings(calm, max_examples=60)
@given(shapes(), machines(), st.integers(1, 512), asked, st.integers(1, 40))
def test_what_is_asked_for_is_obeyed_where_it_fits(
    shape: Shape, machine: Hardware, gib: int, question: Asked, parallel: int
) -> None:
    """So many replies, each with all it may need, or in one pool with enough for a thought of each."""
    question = replace(question, parallel=parallel)
    for hardware in (machine, processor(gib)):
        most = min(question.replies, parallel)
        single = choose(shape, hardware, replace(question.wishes, n_seq_max=1))
        each = -(-question.each(shape) // 256) * 256
        apart = replace(question.wishes, n_seq_max=most, n_ctx=most * each, kv_unified=most == 1)
        ways = [choose(shape, hardware, apart)]
        if question.wishes.n_ctx is None:
            pool = choose(shape, hardware, replace(question.wishes, n_seq_max=most))
            ways += [pool] if pool.enough_context else []
        if any(plan.fits and plan.n_gpu_layers >= single.n_gpu_layers for plan in ways):
            assert question.plan(shape, hardware).settings.n_seq_max == most


@calm
@given(shapes(), st.integers(1, 128), st.integers(0, 64), asked)
def test_more_memory_never_gives_fewer_replies(shape: Shape, gib: int, more: int, question: Asked) -> None:
    """But where a pool becomes parts for each, which are worth more than a larger number in a pool."""
    question = replace(question, wishes=replace(question.wishes, margin=None))
    less, larger = (question.plan(shape, processor(gib + extra)) for extra in (0, more))
    if larger.settings.n_seq_max < less.settings.n_seq_max:
        assert less.settings.kv_unified
        assert not larger.settings.kv_unified
        assert larger.settings.n_seq_max >= 4


# As much as the library takes

APART = [
    Wanted(each * sequences, n_ubatch, sequences, flash_attention, kv_type)
    for each in (1_024, 4_096)
    for sequences in (2, 4, 16)
    for n_ubatch in (128, 512)
    for flash_attention, kv_type in ((True, "f16"), (True, "q8_0"), (False, "f16"))
]
HOLLOW = ("r1-qwen-1.5b", "r1-qwen-7b", "r1-llama-8b", "r1-0528-qwen3-8b", "r1-qwen-32b", "smollm2", "inside")


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Shape, list[Buffers]]]:
    """Each model in each context, by the library, each sequence with cells of its own."""
    folder = tmp_path_factory.mktemp("apart")
    files = {name: write_hollow(folder / f"{name}.gguf", MODELS[name], MODELS[name].recommended) for name in HOLLOW}
    files["tiny"] = makers.write_model(folder / "tiny.gguf", makers.Vocabulary(), feed_forward=192)
    apart = "from functools import partial; from tests import layouts; from r1local.engine.context import Context; "
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            layouts, "_STARTED", apart + "layouts.Context = partial(Context, kv_unified=False); layouts.child()"
        )
        found = lay_out(list(files.values()), APART)
    return {
        name: (shape_of_file(read_header(path)), buffers)
        for (name, path), buffers in zip(files.items(), found, strict=True)
    }


def planned(shape: Shape, wanted: Wanted) -> Use:
    chosen = Settings(
        wanted.n_ctx, wanted.kv_type, wanted.n_ubatch, wanted.n_seq_max, wanted.flash_attention, (), kv_unified=False
    )
    (use,) = uses(shape, chosen, [])
    return use


@pytest.mark.engine
@pytest.mark.parametrize("name", [*HOLLOW, "tiny"])
def test_buffers_apart_are_as_the_library_lays_them_out(
    laid: dict[str, tuple[Shape, list[Buffers]]], name: str
) -> None:
    """Within a hundredth, or a fifth of a MiB."""
    shape, found = laid[name]
    beyond = []
    for wanted, real in zip(APART, found, strict=True):
        use = planned(shape, wanted)
        for part, size in (("compute", use.compute), ("output", use.output)):
            if abs(size - real[part]) > max(0.01 * real[part], 0.2 * MIB):
                beyond.append((wanted, part, size / MIB, real[part] / MIB))
    assert beyond == []


@pytest.mark.engine
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_the_cache_apart_is_as_large_as_planned(inside: Path, kv_type: str) -> None:
    """Loaded, as laying out tells nothing of it."""
    options = EngineOptions(n_ctx=6 * 1_024, n_seq_max=6, kv_unified=False, kv_type=kv_type)
    with open_engine(inside, options) as engine:
        assert engine.n_ctx == 1_024
        planned, real = engine.loaded.measured.parts["processor KV"]
    assert planned == pytest.approx(real, rel=0.01)
    assert planned > 0


def test_a_long_prompt_gets_room_beside_a_short_reply() -> None:
    """1,000 tokens of reply behind prompts of 20,000: none of them is refused where memory allows it."""
    shape, machine = shape_of("r1-qwen-1.5b"), processor(32)
    plan = plan_parallel(shape, machine, Wishes(), replies=4, max_tokens=1_000, prompt_tokens=20_000)
    assert plan.settings.n_ctx_seq >= 21_000
    shorter = plan_parallel(shape, machine, Wishes(), replies=4, max_tokens=1_000)
    assert shorter.settings.n_ctx_seq < 5_000

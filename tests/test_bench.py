"""`r1local bench`: what is measured, what is decided, what is remembered. Real speeds are asserted nowhere."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local import hardware, paths
from r1local.catalog import load_catalog
from r1local.cli import bench, tune
from r1local.cli.bench import BenchFlags, run_bench
from r1local.cli.output import Output
from r1local.engine import EngineOptions, measure, selftest, tuning, ways
from r1local.engine.library import forget_buffers, library, logged_buffers
from r1local.engine.loading import Loaded, load, tuning_key, usable
from r1local.engine.measure import PROBE, Figures, Rig, Sizes
from r1local.engine.model import Features
from r1local.engine.tuning import Tuner
from r1local.engine.turns import LEAST_PAIRS, LOST_PAIRS, NEEDED_GAIN, Outcome, Row, faster
from r1local.engine.verdicts import Verdict
from r1local.engine.ways import Start, Variant, Way, variants
from r1local.errors import ExitCode, OutOfMemory, UsageError
from r1local.gguf_header import read_header
from r1local.hardware import Gpu, Hardware
from r1local.plan import Wishes, choose
from r1local.plan.learnt import Learnt, Tuned, remember
from r1local.plan.memory import GIB
from r1local.prepare.fit import shape_in_catalog
from r1local.store import find
from tests.test_terminal_chat import Screen

# The decision

seconds_of_turns = st.floats(0.001, 1000)


@given(st.lists(st.tuples(seconds_of_turns, seconds_of_turns), max_size=LEAST_PAIRS - 1))
def test_few_turns_can_be_lost_but_not_won(pairs: list[tuple[float, float]]) -> None:
    lost = len(pairs) >= LOST_PAIRS and all(second >= first for first, second in pairs)
    assert faster(pairs) is (False if lost else None)


@given(st.lists(st.tuples(seconds_of_turns, st.floats(0.5, 2)), min_size=LEAST_PAIRS, max_size=40))
def test_what_every_turn_shares_does_not_matter(turns: list[tuple[float, float]]) -> None:
    """A machine that is ten times slower in some turns: only ratios within turns count."""
    ratios = [round(ratio, 2) + 0.001 for _, ratio in turns]
    alone = faster([(ratio, 1.0) for ratio in ratios])
    assert faster([(drift * ratio, drift) for (drift, _), ratio in zip(turns, ratios, strict=True)]) is alone


@given(
    st.integers(LEAST_PAIRS, 30), st.sampled_from([0.5, 0.98, 1.0, 1.02, 1.04, 1.2, 4.0]), st.randoms(),
    st.lists(st.floats(0.01, 100), max_size=30),
)  # fmt: skip
def test_a_quarter_of_the_turns_may_be_spoilt(
    count: int, true: float, order: random.Random, spoilt: list[float]
) -> None:
    ratios = [true] * count
    for place, ratio in zip(order.sample(range(count), count // 4), spoilt, strict=False):
        ratios[place] = ratio
    assert faster([(ratio, 1.0) for ratio in ratios]) is (true >= NEEDED_GAIN)


@given(st.lists(st.floats(0.2, 5), min_size=LEAST_PAIRS, max_size=40))
def test_what_is_not_ahead_in_most_turns_is_never_taken(ratios: list[float]) -> None:
    taken = faster([(ratio, 1.0) for ratio in ratios])
    if sum(ratio < NEEDED_GAIN for ratio in ratios) > len(ratios) / 2 or sum(r <= 1 for r in ratios) > len(ratios) / 4:
        assert taken is False
    if all(ratio >= NEEDED_GAIN for ratio in ratios):
        assert taken is True


# The schedule, on a machine that is made up


DEFAULT = Way(n_threads=2, n_batch=512, kv_type="f16", flash_attention=True, repack=False)
VARIANTS = [
    Variant("1 thread", "n_threads", replace(DEFAULT, n_threads=1)),
    Variant("flash off", "flash_attention", replace(DEFAULT, flash_attention=False)),
    Variant("weights repacked", "repack", replace(DEFAULT, repack=True)),
    Variant("KV q8_0", "kv_type", replace(DEFAULT, kv_type="q8_0"), "ask for it with kv_type"),
    Variant("batch 128", "n_batch", replace(DEFAULT, n_batch=128)),
    Variant("batch 256", "n_batch", replace(DEFAULT, n_batch=256)),
    Variant("batch 1024", "n_batch", replace(DEFAULT, n_batch=1024), "for prompts over 512"),
]
SPEED = Figures(100.0, 14.0)
"""Of a 1.5B on two cores."""


@dataclass
class Machine:
    """Speeds by the way, a clock that measuring moves on, and what was asked of it."""

    gain: Callable[[Way], float] = lambda _: 1.0
    speed: Figures = SPEED
    noise: Callable[[], float] = lambda: 1.0
    drift: float = 0.0
    """Share of its speed that it loses in a second."""
    loading: float = 1.5
    stop_at: int = -1
    error: type[BaseException] = KeyboardInterrupt
    now: float = 1000.0
    calls: list[tuple[Way, Sizes]] = field(default_factory=list)
    loaded: set[bool] = field(default_factory=set)

    def clock(self) -> float:
        return self.now

    def measure(self, way: Way, sizes: Sizes) -> Figures:
        if len(self.calls) == self.stop_at:
            raise self.error
        if way.repack not in self.loaded:
            self.loaded.add(way.repack)
            self.now += self.loading
        self.calls.append((way, sizes))
        gain = self.gain(way) * self.noise() / (1 + self.drift * (self.now - 1000))
        figures = Figures(self.speed.prefill * gain, self.speed.decode * gain)
        self.now += sizes.seconds(figures)
        return figures if sizes.written else Figures(figures.prefill, 0.0)

    def tune(self, seconds: float = 100.0, among: list[Variant] = VARIANTS) -> Outcome:
        return Tuner(DEFAULT, among, self, seconds, clock=self.clock).run()

    def count(self, way: Way) -> int:
        return sum(each == way for each, _ in self.calls)


def gains(**by_setting: float) -> Callable[[Way], float]:
    """Speed of all ways that differ from the default in these settings: the product."""

    def gain(way: Way) -> float:
        product = 1.0
        for setting, factor in by_setting.items():
            if getattr(way, setting) != getattr(DEFAULT, setting):
                product *= factor
        return product

    return gain


def row(outcome: Outcome, name: str) -> Row:
    return next(row for row in outcome.rows if row.name == name)


@pytest.mark.parametrize("setting", ["n_threads", "flash_attention", "repack"])
def test_the_fastest_setting_wins(setting: str) -> None:
    found = Machine(gains(**{setting: 1.3})).tune()
    best = next(variant for variant in VARIANTS if variant.setting == setting)
    assert found.winner is not None
    assert (found.decided, found.winner.way, found.winner.note) == (True, best.way, "chosen")
    assert found.winner.ratio == pytest.approx(1.3)
    assert found.tuned == Tuned(
        best.way.n_threads, 512, best.way.repack, best.way.flash_attention, "f16",
        decode=pytest.approx(1.3 * SPEED.decode), prefill=pytest.approx(1.3 * SPEED.prefill),
    )  # fmt: skip


def test_what_is_faster_is_put_together() -> None:
    machine = Machine(gains(repack=1.3, flash_attention=1.1, n_threads=0.6))
    found = machine.tune()
    assert found.winner is not None
    assert found.winner.way == replace(DEFAULT, repack=True, flash_attention=False)
    assert found.winner.full_name == "weights repacked + flash off"
    assert found.winner.ratio == pytest.approx(1.43)
    assert machine.count(found.winner.way) == len(found.winner.pairs) + 1  # the first time is for warming up


def test_what_spoils_one_another_is_not_put_together() -> None:
    def gain(way: Way) -> float:
        return 0.7 if way.repack and not way.flash_attention else gains(repack=1.3, flash_attention=1.1)(way)

    found = Machine(gain).tune()
    assert row(found, "together").note == "not confirmed"
    assert found.winner is row(found, "weights repacked")
    assert found.tuned is not None
    assert (found.tuned.repack, found.tuned.flash_attention) == (True, True)


def test_a_batch_size_is_judged_by_whole_prompts() -> None:
    """Where reading takes most of an exchange; in small pieces all sizes would seem alike."""
    machine = Machine(speed=Figures(5.0, 50.0))

    def gain(way: Way) -> float:
        return 1.5 if way.n_batch == 256 and machine.calls[-1][1].read >= 512 else 1.0

    machine.gain = gain
    found = machine.tune(20_000)
    assert found.winner is row(found, "batch 256")
    assert row(found, "batch 512").ratio == 1.0
    assert [each.name for each in found.rows if each.way.n_batch != 512] == ["batch 128", "batch 256", "batch 1024"]


@pytest.mark.parametrize("gain", [1.0, 1.02, 0.9])
def test_the_default_is_kept_where_nothing_is_faster(gain: float) -> None:
    found = Machine(gains(repack=gain, flash_attention=gain, n_threads=gain)).tune()
    assert (found.decided, found.winner) == (True, None)
    assert found.tuned == Tuned(
        2, 512, repack=False, flash_attention=True, decode=pytest.approx(14), prefill=pytest.approx(100)
    )


def test_what_is_only_shown_is_never_chosen() -> None:
    found = Machine(gains(kv_type=3.0)).tune()
    assert row(found, "KV q8_0").ratio == pytest.approx(3)
    assert (found.decided, found.winner) == (True, None)


@given(st.randoms(), st.floats(0, 0.005), st.sampled_from([0.9, 0.97, 1.0, 1.2]))
def test_noise_and_drift_win_nothing(chance: random.Random, drift: float, gain: float) -> None:
    """A machine that gets slower all the time, and no figure the same twice: tuned is never slower than the default."""
    noise = lambda: chance.uniform(0.99, 1.01)  # noqa: E731
    found = Machine(gains(repack=gain, flash_attention=0.97, n_threads=0.98), noise=noise, drift=drift).tune(200)
    if found.decided:
        assert (found.winner is row(found, "weights repacked")) is (gain > NEEDED_GAIN)
        assert found.winner is None or found.winner.way == replace(DEFAULT, repack=True)


def test_turns_alternate_when_it_is_decided() -> None:
    machine = Machine(gains(repack=1.2))
    machine.tune()
    order = [way.repack for way, _ in machine.calls[-2 * LEAST_PAIRS :]]
    assert [order[place : place + 2] for place in range(0, len(order), 2)] == [
        [turn % 2 == 0, turn % 2 == 1] for turn in range(LEAST_PAIRS)
    ]


def test_close_races_get_more_turns() -> None:
    close, clear = Machine(gains(repack=1.05)), Machine(gains(repack=1.5))
    pairs = [len(row(machine.tune(500), "weights repacked").pairs) for machine in (close, clear)]
    assert pairs == [tuning.MOST_PAIRS, LEAST_PAIRS]


@pytest.mark.parametrize(("gain", "rounds"), [(0.7, 2), (0.3, 2), (0.2, 1), (0.85, 5)])
def test_what_is_clearly_slower_is_not_measured_further(gain: float, rounds: int) -> None:
    machine = Machine(gains(flash_attention=gain))
    found = machine.tune(1000)
    assert machine.count(VARIANTS[1].way) == len(row(found, "flash off").pairs) == rounds
    assert len(found.default.pairs) == 5


# The time


def test_a_hundred_seconds_are_enough_for_a_1_5b_on_two_cores() -> None:
    """Every variant, with a second model to load and a winner to confirm."""
    machine = Machine(gains(repack=1.15, n_threads=0.55))
    found = machine.tune()
    assert found.winner is row(found, "weights repacked")
    assert machine.now - 1000 < 101
    assert all(len(each.pairs) >= (1 if "batch" in each.name or each.name == "1 thread" else 2) for each in found.rows)


def test_loading_a_second_time_is_reckoned_with() -> None:
    """Most of the time goes there: the rest must do."""
    machine = Machine(gains(repack=1.3), loading=40, speed=Figures(200, 28))
    assert machine.tune(92).winner is not None
    assert machine.now - 1000 < 92


@pytest.mark.parametrize("seconds", [5, 30, 100, 300])
@pytest.mark.parametrize("speed", [Figures(5, 1), Figures(20, 3), SPEED, Figures(3000, 90), Figures(20_000, 2000)])
@pytest.mark.parametrize("gain", [1.0, 1.3])
def test_the_time_is_kept(seconds: float, speed: Figures, gain: float) -> None:
    machine = Machine(gains(repack=gain, n_threads=0.5), speed=speed)
    found = machine.tune(seconds)
    # What is begun is ended: at most the warming up, or filling a new context with a prompt.
    assert machine.now - 1000 <= seconds * 1.1 + 3 * PROBE.seconds(speed)
    assert found.seconds == machine.now - 1000
    assert found.decided is (found.tuned is not None)
    if found.decided:
        assert (found.winner is not None) is (gain > 1)
    else:
        assert speed.prefill <= 100


def test_many_cores_do_not_make_one_thread_take_all_the_time() -> None:
    default = replace(DEFAULT, n_threads=32)
    among = [Variant("1 thread", "n_threads", replace(default, n_threads=1))]
    machine = Machine(lambda way: way.n_threads / 32)
    found = Tuner(default, among, machine, 100, clock=machine.clock).run()
    assert machine.now - 1000 < 100
    assert (found.decided, found.winner, machine.count(among[0].way)) == (True, None, 1)


def test_no_time_at_all() -> None:
    machine = Machine()
    found = machine.tune(0)
    assert machine.calls == []
    assert (found.decided, found.winner, found.tuned) == (False, None, None)


def test_time_for_a_look_but_not_to_decide() -> None:
    """What looks faster is not taken on trust."""
    outcomes = [Machine(gains(repack=1.3)).tune(seconds) for seconds in range(5, 60)]
    unsure = [found for found in outcomes if (row(found, "weights repacked").ratio or 0) > 1.2 and not found.decided]
    assert unsure
    assert all(found.tuned is None and found.winner is None for found in unsure)


def test_memory_for_one_way_is_missing() -> None:
    machine = Machine(gains(flash_attention=1.2), error=OutOfMemory)
    measured = machine.measure

    def measure(way: Way, sizes: Sizes) -> Figures:
        if way.repack:
            raise OutOfMemory("no", "")
        return measured(way, sizes)

    machine.measure = measure  # type: ignore[method-assign]
    found = machine.tune()
    assert (row(found, "weights repacked").note, row(found, "weights repacked").pairs) == ("not enough memory", [])
    assert found.winner is row(found, "flash off")


@pytest.mark.parametrize("call", [0, 1, 5, 20, 40])
def test_an_interruption_comes_out(call: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        Machine(gains(repack=1.2), stop_at=call).tune(200)


# What there is to compare

MACHINE = Hardware("Linux", "some", 8, 8, 64 * GIB, 60 * GIB, ("AVX2",))
GPU = Gpu("RTX 4090", "cuda", 24 * GIB, 24 * GIB, 1e12, "nv-consumer")


EVERYTHING = Features()


def begun(machine: Hardware = MACHINE, features: Features = EVERYTHING, **wishes: Any) -> Start:
    catalog = load_catalog()
    model, _ = catalog.resolve("1.5b")
    wished = Wishes(flash_attention=features.flash_attention, **wishes)
    plan = choose(shape_in_catalog(model, catalog.quantization("Q4_K_M")), machine, wished)
    return Start(Path("model.gguf"), machine, features, wished, plan)


def names(start: Start, logical: int = 8) -> list[str]:
    return [variant.name for variant in variants(start, logical)]


def test_every_variant_differs_in_its_one_setting() -> None:
    start = begun()
    found = variants(start, 16)
    assert [each.name for each in found] == [
        "1 thread", "4 threads", "16 threads", "flash off", "weights repacked", "KV q8_0", "batch 128", "batch 256",
        "batch 1024",
    ]  # fmt: skip
    for each in found:
        assert getattr(each.way, each.setting) != getattr(start.default, each.setting)
        assert replace(each.way, **{each.setting: getattr(start.default, each.setting)}) == start.default
    chosen = {each.name for each in found if not each.why_not}
    assert chosen == {"1 thread", "4 threads", "flash off", "weights repacked", "batch 128", "batch 256"}


@pytest.mark.parametrize(("physical", "usable_cores", "logical", "expected"), [
    (1, 1, 1, []), (2, 2, 2, [1]), (8, 8, 8, [1, 4]), (8, 3, 3, [1]), (8, 8, 16, [1, 4, 16]),
])  # fmt: skip
def test_threads(physical: int, usable_cores: int, logical: int, expected: list[int]) -> None:
    start = begun(replace(MACHINE, physical_cores=physical, usable_cores=usable_cores))
    found = [each for each in variants(start, logical) if each.setting == "n_threads"]
    assert [each.way.n_threads for each in found] == expected
    # Loading never takes more threads than cores: to choose them would remember what is not done.
    assert all(bool(each.why_not) == (each.way.n_threads > usable_cores) for each in found)


def test_nothing_that_crashed_is_switched_on() -> None:
    fine = {"weights repacked", "flash off", "KV q8_0"}
    assert fine <= set(names(begun()))
    assert "weights repacked" not in names(begun(features=Features(amx=False, extra_buffers=False)))
    without = variants(begun(features=Features(amx=False, extra_buffers=False, flash_attention=False)), 8)
    assert not fine & {each.name for each in without}
    assert all(not each.way.flash_attention and not each.way.repack for each in without)


def test_weights_are_not_loaded_twice_where_they_do_not_fit_twice() -> None:
    weights = begun().plan.shape.weight_bytes
    small = replace(MACHINE, memory_total=4 * GIB, memory_available=int(1.6 * weights))
    assert "weights repacked" not in names(begun(small, margin=0))
    enough = replace(small, memory_available=int(2.6 * weights))
    assert "weights repacked" in names(begun(enough, margin=0))


def test_weights_on_a_gpu_are_not_repacked() -> None:
    start = begun(replace(MACHINE, gpus=(GPU,)))
    assert start.plan.all_on_gpu
    assert "weights repacked" not in names(start)


def test_a_repacked_default_is_compared_with_the_file() -> None:
    found = next(each for each in variants(begun(repack=True), 8) if each.setting == "repack")
    assert (found.name, found.way.repack) == ("weights as filed", False)


def test_a_quantized_cache_keeps_its_flash_attention() -> None:
    """The library has no other way for it."""
    found = variants(begun(kv_type="q8_0"), 8)
    assert "flash off" not in {each.name for each in found}
    assert {each.name: each.why_not for each in found if each.setting == "kv_type"} == {
        "KV f16": "ask for it with kv_type"
    }


def test_no_context_is_given_up_for_speed() -> None:
    """Without flash attention attention scores take memory, which a small machine has not got."""
    start = begun()
    need = start.plan.memory[0].total
    tight = replace(MACHINE, memory_total=need + 1, memory_available=need + 1)
    found = {each.name: each.why_not for each in variants(begun(tight, margin=0), 8)}
    assert found["flash off"] == "takes room from the context"
    assert found["1 thread"] == found["batch 256"] == ""


# Measuring, by the real library


@pytest.fixture
def worker() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def loaded(random_model: Path) -> Iterator[Loaded]:
    loaded = load(read_header(random_model), EngineOptions(n_ctx=1024))
    yield loaded
    loaded.close()


def last_logits(loaded: Loaded) -> np.ndarray:
    return np.array(loaded.context.logits(-1, loaded.model.n_vocab))


@pytest.mark.engine
def test_what_is_read_again_is_what_was_read(loaded: Loaded, worker: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits behind a prompt whose end was read several times, in batches of any size, are those behind a fresh one."""
    rig = Rig(loaded.context, loaded.model.n_vocab, worker)
    sizes = Sizes(96, 32, 5)
    rig.measure(sizes, n_threads=1, n_batch=512)
    fresh = last_logits(loaded)
    rig.measure(Sizes(60, 60, 3), n_threads=1, n_batch=7)
    other = last_logits(loaded)
    sizes_decoded: list[int] = []
    decode = loaded.context.decode
    monkeypatch.setattr(loaded.context, "decode", lambda batch: sizes_decoded.append(batch.size) or decode(batch))
    for n_batch in (512, 16, 5):
        figures = rig.measure(sizes, n_threads=1, n_batch=n_batch)
        assert min(figures.prefill, figures.decode) > 0
        assert np.allclose(last_logits(loaded), fresh, atol=0.05)
        assert sorted(set(sizes_decoded)) == {512: [1, 32], 16: [1, 16], 5: [1, 2, 5]}[n_batch]
        sizes_decoded.clear()
    assert not np.allclose(other, fresh, atol=0.05)


@pytest.mark.engine
def test_figures_are_tokens_over_seconds(loaded: Loaded, worker: Executor) -> None:
    ticks = iter([10.0, 12.0, 17.0] * 2)
    rig = Rig(loaded.context, loaded.model.n_vocab, worker, clock=lambda: next(ticks))
    assert rig.measure(Sizes(96, 32, 10), n_threads=1, n_batch=512) == Figures(16.0, 2.0)
    assert rig.measure(Sizes(96, 96, 0), n_threads=1, n_batch=512) == Figures(48.0, 0.0)


@pytest.mark.engine
def test_threads_are_those_asked_for(loaded: Loaded, worker: Executor) -> None:
    rig = Rig(loaded.context, loaded.model.n_vocab, worker)
    for count in (2, 1):
        rig.measure(PROBE, n_threads=count, n_batch=512)
        assert library().llama_n_threads(loaded.context.pointer) == count
        assert library().llama_n_threads_batch(loaded.context.pointer) == count


@pytest.mark.engine
def test_an_interruption_stops_the_library_and_leaves_it_usable(random_model: Path, worker: Executor) -> None:
    asked = 0
    loaded = load(read_header(random_model), EngineOptions(n_ctx=16_384))

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first time is before it begins
            raise KeyboardInterrupt

    rig = Rig(loaded.context, loaded.model.n_vocab, worker, check=check)
    long = Sizes(64, 64, 16_000)
    with pytest.raises(KeyboardInterrupt):
        rig.measure(long, n_threads=1, n_batch=64)
    assert rig._held < long.prompt + long.written
    assert rig.measure(PROBE, n_threads=1, n_batch=64).decode > 0
    loaded.close()


@pytest.mark.engine
def test_an_interruption_before_it_begins(loaded: Loaded, worker: Executor) -> None:
    def check() -> None:
        raise KeyboardInterrupt

    rig = Rig(loaded.context, loaded.model.n_vocab, worker, check=check)
    with pytest.raises(KeyboardInterrupt):
        rig.measure(PROBE, n_threads=1, n_batch=64)
    assert rig._held == 0


@pytest.mark.engine
@pytest.mark.parametrize(("seconds", "rounds", "read"), [(0.0, 5, 64), (1e9, 7, 512)])
def test_at_least_five_rounds_and_of_what_there_is_time_for(
    loaded: Loaded, seconds: float, rounds: int, read: int
) -> None:
    found = measure.measure(loaded, seconds)
    assert (len(found.rounds), found.sizes.read) == (rounds, read)
    assert found.middle.prefill == sorted(found.prefill)[rounds // 2]
    assert found.middle.decode == sorted(found.decode)[rounds // 2]


@pytest.mark.engine
def test_a_small_context_is_measured_too(random_model: Path) -> None:
    loaded = load(read_header(random_model), EngineOptions(n_ctx=256))
    found = measure.measure(loaded, 1e9)
    loaded.close()
    assert 128 <= found.sizes.prompt + found.sizes.written <= 256


@pytest.mark.engine
def test_every_way_runs(random_model: Path) -> None:
    """Each setting reaches the library, in contexts that share a model and a thread."""
    header = read_header(random_model)
    start = ways.start(header, EngineOptions(), usable(hardware.detect()))
    with ways.Rigs(start) as rigs:
        for way in [start.default, *(variant.way for variant in variants(start, ways.logical_cores()))]:
            figures = rigs.measure(way, Sizes(40, 8, 2))
            assert min(figures.prefill, figures.decode) > 0
        kinds = set(rigs._rigs)
        assert {flash for _, flash, _ in kinds} == {True, False} or not start.features.flash_attention
        assert len(kinds) == len(rigs._rigs) <= 4
        assert rigs._rigs[next(iter(rigs._rigs))].context.n_batch == max(ways.BATCHES)


@pytest.mark.engine
def test_settings_reach_the_library(inside: Path) -> None:
    """By the buffers it makes: repacked weights are no mapped file, scores of attention take room, q8_0 takes less."""
    header = read_header(inside)
    start = ways.start(header, EngineOptions(), usable(hardware.detect()))

    def buffers(rigs: ways.Rigs, way: Way) -> dict[str, list[tuple[str, int]]]:
        forget_buffers()
        rigs.measure(way, PROBE)
        found: dict[str, list[tuple[str, int]]] = {}
        for device, part, size in logged_buffers():
            found.setdefault(part, []).append((device, size))
        return found

    plain = replace(start.default, repack=False, flash_attention=True, kv_type="f16")
    with ways.Rigs(start) as rigs:
        default = buffers(rigs, plain)
        assert buffers(rigs, replace(plain, n_threads=1, n_batch=64)) == {}
        without = buffers(rigs, replace(plain, flash_attention=False))
        small = buffers(rigs, replace(plain, kv_type="q8_0"))
        repacked = buffers(rigs, replace(plain, repack=True))
    assert [device for device, _ in default["model"]] == ["CPU_Mapped"]
    assert "CPU_Mapped" not in {device for device, _ in repacked["model"]}
    assert "model" not in without
    assert sum(size for _, size in without["compute"]) > 1.2 * sum(size for _, size in small["compute"])
    assert sum(size for _, size in small["KV"]) < 0.6 * sum(size for _, size in default["KV"])


@pytest.mark.engine
@pytest.mark.parametrize("features", [Features(), Features(amx=False), Features(False, False, False, False)])
@pytest.mark.parametrize("sets", [("AVX2",), ("AVX2", "AMX")])
def test_tuning_starts_from_what_loading_chooses(
    random_model: Path, monkeypatch: pytest.MonkeyPatch, features: Features, sets: tuple[str, ...]
) -> None:
    detect = hardware.detect
    monkeypatch.setattr(hardware, "detect", lambda: replace(detect(), instruction_sets=sets))
    monkeypatch.setattr(selftest, "check", lambda *_, **__: Verdict(features, ()))
    header = read_header(random_model)
    machine = usable(hardware.detect())
    start = ways.start(header, EngineOptions(), machine)
    loaded = load(header, EngineOptions())
    settings = loaded.plan.settings
    chosen = Way(
        loaded.plan.n_threads, settings.n_ubatch, settings.kv_type, settings.flash_attention, settings.repack
    )  # fmt: skip
    loaded.close()
    assert start.default == chosen
    remember("tuned", tuning_key(header, machine), Tuned(1, 64, not chosen.repack, False))
    assert ways.start(header, EngineOptions(), machine).default == chosen


# The command


def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "r1local", "bench", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout, ended.stderr


class FakeRigs(Machine):
    """In place of ways.Rigs."""

    def __init__(self, start: Start, **facts: Any) -> None:
        super().__init__(speed=Figures(1e6, 1e5), **facts)
        self.default = start.default

    def __enter__(self) -> FakeRigs:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Measuring takes no time, and finds ways with flash attention `gain` times as fast."""

    def fake(gain: float = 2.0, **facts: Any) -> None:
        def make(start: Start, check: Callable[[], None]) -> FakeRigs:
            return FakeRigs(start, gain=lambda way: gain if way.flash_attention else 1.0, **facts)

        monkeypatch.setattr(tune, "Rigs", make)

    return fake


def tuned_for(model: Path) -> Tuned | None:
    return Learnt.load().tuned(tuning_key(read_header(model), usable(hardware.detect())))


def plan_of(model: Path, **options: Any) -> Any:
    loaded = load(read_header(model), EngineOptions(n_ctx=512, **options))
    loaded.close()
    return loaded.plan


@pytest.mark.engine
def test_what_is_remembered_is_used(
    random_model: Path, faked: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    faked()
    assert not plan_of(random_model).settings.flash_attention, "its heads are narrow"
    run_bench(BenchFlags(str(random_model), tune=True))
    out, err = capfd.readouterr()
    assert "chosen" in next(line for line in out.splitlines() if line.startswith("flash on"))
    assert "Remembered: flash on, 2.00x as fast." in err
    found = tuned_for(random_model)
    assert found is not None
    assert (found.flash_attention, found.decode) == (True, 2e5)
    assert plan_of(random_model).settings.flash_attention
    run_bench(BenchFlags(str(random_model), json=True, seconds=1))
    settings = json.loads(capfd.readouterr().out)["settings"]
    assert (settings["tuned"], settings["flash_attention"]) == (True, True)


@pytest.mark.engine
def test_the_default_is_remembered_where_nothing_is_faster(random_model: Path, faked: Callable[..., None]) -> None:
    """In place of what was tuned before on another day."""
    faked(gain=1.0)
    default = plan_of(random_model)
    key = tuning_key(read_header(random_model), usable(hardware.detect()))
    remember("tuned", key, Tuned(1, 32, not default.settings.repack, True))
    run_bench(BenchFlags(str(random_model), tune=True))
    plan = plan_of(random_model)
    assert (plan.n_threads, plan.settings) == (default.n_threads, default.settings)
    assert tuned_for(random_model) is not None


@pytest.mark.engine
def test_the_user_counts_for_more_than_what_was_tuned(random_model: Path) -> None:
    key = tuning_key(read_header(random_model), usable(hardware.detect()))
    remember("tuned", key, Tuned(1, 64, repack=True, flash_attention=True))
    plan = plan_of(random_model)
    assert (plan.n_threads, plan.settings.n_ubatch, plan.settings.repack) == (1, 64, True)
    plan = plan_of(random_model, n_threads=3, n_batch=96, repack=False)
    assert (plan.n_threads, plan.settings.n_ubatch, plan.settings.repack) == (3, 96, False)


@pytest.mark.engine
def test_config_toml_is_named_where_it_counts_for_more(
    random_model: Path, faked: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    faked()
    paths.config_file().write_text("threads = 1\nbatch = 64\n")
    run_bench(BenchFlags(str(random_model), tune=True))
    talk = capfd.readouterr().err
    assert "threads = 1, which counts for more" in talk
    assert "batch = 64, which counts for more" in talk
    found = tuned_for(random_model)
    assert found is not None
    assert found.n_batch == 128  # compared were the settings of a machine where nobody fixed any


@pytest.mark.engine
def test_too_little_time_is_said_and_nothing_remembered(
    random_model: Path, faked: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    faked()
    run_bench(BenchFlags(str(random_model), tune=True, seconds=0))
    out, err = capfd.readouterr()
    assert out == ""
    assert "too few to decide, and nothing was remembered. Try --seconds 100" in err
    assert tuned_for(random_model) is None
    run_bench(BenchFlags(str(random_model), tune=True, seconds=0, json=True))
    data = json.loads(capfd.readouterr().out)
    assert (data["decided"], data["winner"], data["ratio"], data["remembered"]) == (False, None, None, None)


@pytest.mark.engine
@pytest.mark.parametrize("call", [0, 3, 12, 30])
def test_an_interruption_leaves_what_was_learnt(random_model: Path, faked: Callable[..., None], call: int) -> None:
    faked(stop_at=call)
    remember("tuned", tuning_key(read_header(random_model), usable(hardware.detect())), Tuned(1, 64, False, True))
    before = paths.plans_file().read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run_bench(BenchFlags(str(random_model), tune=True))
    assert paths.plans_file().read_bytes() == before


@pytest.mark.engine
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.3])
def test_ctrl_c(inside: Path, delay: float) -> None:
    """While the model loads, while it is measured."""
    process = subprocess.Popen(
        [sys.executable, "-m", "r1local", "bench", "inside", "--tune"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    talk = b""
    while b"Measuring" not in talk and process.poll() is None:
        talk += process.stderr.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (ExitCode.INTERRUPTED, b"", b"")
    assert not paths.plans_file().exists()


@pytest.mark.engine
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_asked_for(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised in a callback of the library it would go no further; so it is heard a little later."""
    header = read_header(inside)
    start = ways.start(header, EngineOptions(), usable(hardware.detect()))
    real = measure.Batch.clear

    def clear(batch: Any) -> None:
        monkeypatch.setattr(measure.Batch, "clear", real)
        os.kill(os.getpid(), signal.SIGINT)
        real(batch)

    monkeypatch.setattr(measure.Batch, "clear", clear)

    def go_on() -> None:
        with tune.heard_interrupt() as check, ways.Rigs(start, check) as rigs:
            rigs.measure(start.default, Sizes(512, 512, 1))
            rigs.measure(start.default, PROBE)
            pytest.fail("it was not heard")

    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_at_the_very_end_is_heard() -> None:
    with pytest.raises(KeyboardInterrupt), tune.heard_interrupt():
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.engine
def test_figures_as_json(random_model: Path) -> None:
    data = json.loads(run(random_model, "--json", "--seconds", "1")[0])
    assert set(data) == {
        "model", "rounds", "prompt_tokens", "written_tokens", "prefill_tokens_per_second",
        "decode_tokens_per_second", "expected", "memory", "settings",
    }  # fmt: skip
    assert data["rounds"] >= 5
    for speed in (data["prefill_tokens_per_second"], data["decode_tokens_per_second"]):
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
    for speed in data["expected"].values():
        assert set(speed) == {"low", "expected", "high", "predictable"}
    assert min(data["memory"]["planned"], data["memory"]["real"]) > 1 << 20
    assert set(data["memory"]["parts"]["processor KV"]) == {"planned", "real"}
    assert data["settings"] == {
        "n_ctx": 4096, "kv_type": "f16", "n_gpu_layers": 0, "n_threads": hardware.detect().usable_cores,
        "n_batch": 128, "flash_attention": False, "repack": data["settings"]["repack"], "tuned": False,
    }  # fmt: skip


@pytest.mark.engine
def test_tuning_as_json(inside: Path) -> None:
    """The whole of it on the real model: it is decided, remembered, and said."""
    data = json.loads(run("inside", "--tune", "--json", "--seconds", "60")[0])
    assert set(data) == {"model", "decided", "winner", "ratio", "remembered", "seconds", "variants"}
    assert data["decided"] is True
    assert data["remembered"] == json.loads(paths.plans_file().read_bytes())["tuned"].popitem()[1]
    assert data["variants"][0]["name"] == "default"
    winner = next(each for each in data["variants"] if each["name"] == data["winner"])
    assert {name: data["remembered"][name] for name in winner["settings"]} == winner["settings"]
    for each in data["variants"]:
        assert set(each) == {
            "name", "settings", "prefill_tokens_per_second", "decode_tokens_per_second", "ratio", "rounds", "note",
        }  # fmt: skip
        assert each["rounds"] > 0
    assert {"flash on", "KV q8_0", "batch 128", "batch 256", "batch 512", "batch 1024"} <= {
        each["name"] for each in data["variants"]
    }


@pytest.mark.engine
def test_reset(random_model: Path, inside: Path, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    machine = usable(hardware.detect())
    both = {path: tuning_key(read_header(path), machine) for path in (random_model, inside)}
    for key in both.values():
        remember("tuned", key, Tuned(1, 64, False, True))
    run_bench(BenchFlags(str(random_model), reset=True))
    assert "Forgot what was tuned for random" in capfd.readouterr().err
    assert (tuned_for(random_model), tuned_for(inside) is None) == (None, False)
    run_bench(BenchFlags(str(random_model), reset=True))
    assert f"Nothing was tuned for {random_model}." in capfd.readouterr().err
    run_bench(BenchFlags(reset=True, json=True))
    assert json.loads(capfd.readouterr().out) == {"forgotten": [find(load_catalog(), "inside").name]}
    assert tuned_for(inside) is None


@pytest.mark.engine
def test_reset_without_a_name_passes_broken_files(inside: Path) -> None:
    paths.models_folder().mkdir(parents=True)
    (paths.models_folder() / "broken.gguf").write_bytes(b"GGUF")
    remember("tuned", tuning_key(read_header(inside), usable(hardware.detect())), Tuned(1, 64, False, True))
    run_bench(BenchFlags(reset=True))
    assert tuned_for(inside) is None


def test_errors(tmp_path: Path) -> None:
    assert run("nosuchmodel", code=ExitCode.NO_MODEL)[0] == ""
    assert run("nosuchmodel", "--tune", code=ExitCode.NO_MODEL)[0] == ""
    assert run("nosuchmodel", "--reset", code=ExitCode.NO_MODEL)[0] == ""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    assert run(broken, code=ExitCode.BAD_FILE)[0] == ""
    assert run(broken, "--reset", code=ExitCode.BAD_FILE)[0] == ""
    assert run("inside", "--seconds", "0", code=ExitCode.USAGE)[0] == ""
    with pytest.raises(UsageError, match="exclude one another"):
        run_bench(BenchFlags(tune=True, reset=True))


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_the_tables_fit(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found = Machine(gains(repack=1.3, flash_attention=1.1)).tune()
    out = Tty()
    rows = [tune._COLUMNS, *(tune._row(row) for row in (found.default, *found.rows))]
    tune.show_table(Output(stdout=out), rows, tune._LEAVE_OUT)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) == len(found.rows) + 2
    assert ("NOTE" in lines[0], "RATIO" in lines[0]) == (columns == 200, True)
    assert next(line for line in lines if line.startswith("together")).split()[2 if columns > 40 else 1]


@pytest.mark.engine
@pytest.mark.terminal
def test_forty_columns() -> None:
    screen = Screen(["bench", "inside", "--seconds", "1"], columns=40)
    text = screen.until("bench --tune")
    table = [line for line in text.splitlines() if line.startswith(("WHAT", "prompt/s  ", "tokens/s  ", "memory  "))]
    assert len(table) == 4
    assert "EXPECTED" in table[0]
    assert all(len(line.split()) >= 3 for line in table)


def test_memory_of_gpus_has_rows_of_its_own() -> None:
    parts = {"processor KV": (1, 1), "RTX 4090 model": (10, 11), "RTX 4090 KV": (5, 6)}
    assert bench._on_gpus(bench.Measured(16, 18, parts)) == [("RTX 4090", 15, 17)]


def test_turns_are_shown_as_they_are() -> None:
    assert tune._row(Row("1 thread", DEFAULT)) == ("1 thread", "-", "-", "-", "0", "")
    slow = Row("1 thread", DEFAULT, [(SPEED, Figures(20.0, 3.0))])
    assert tune._row(slow) == ("1 thread", "20.0", "3.0", "0.21", "1", "too slow to go on")

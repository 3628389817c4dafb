"""The ways to run a model that tuning compares: the default one, and others that differ from it in one thing each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from r1local.engine import EngineOptions, selftest
from r1local.engine.context import Context
from r1local.engine.loading import allowed, with_features
from r1local.engine.measure import Figures, Rig, Sizes
from r1local.engine.model import Features, Model
from r1local.gguf_types import GgufHeader
from r1local.hardware import Hardware, container
from r1local.plan import Plan, Wishes, choose, shape_of_file

BATCHES = (128, 256, 512, 1024)
N_CTX = max(BATCHES) + 256
"""Tokens of context that are enough to measure in: a small one, as several lie in memory at once."""
_KV_TYPES = ("f16", "q8_0")

Setting = Literal["n_threads", "n_batch", "kv_type", "flash_attention", "repack"]


@dataclass(frozen=True, slots=True)
class Way:
    """What tuning decides about. Fields as in plan.learnt.Tuned."""

    n_threads: int
    n_batch: int
    kv_type: str
    flash_attention: bool
    repack: bool


@dataclass(frozen=True, slots=True)
class Variant:
    """The default way but for one setting."""

    name: str
    setting: Setting
    way: Way
    why_not: str = ""
    """Why it is only shown, and not chosen however fast it is."""

    @property
    def reads_only(self) -> bool:
        """Tokens are written one by one whatever the batch size: only reading can differ."""
        return self.setting == "n_batch"


@dataclass(frozen=True, slots=True)
class Start:
    """How a model runs here before anything was tuned."""

    path: Path
    machine: Hardware
    features: Features
    wishes: Wishes
    plan: Plan

    @property
    def default(self) -> Way:
        settings = self.plan.settings
        return Way(self.plan.n_threads, settings.n_ubatch, settings.kv_type, settings.flash_attention, settings.repack)


def start(
    header: GgufHeader,
    options: EngineOptions,
    machine: Hardware,
    *,
    on_notice: Callable[[str], None] = lambda _: None,
) -> Start:
    """The plan that loading makes where nothing was tuned and the user fixed neither threads nor batches.

    `machine` has those GPUs alone that the library can use. Raises what the self-test raises.
    """
    shape = shape_of_file(header)
    wishes = Wishes(
        n_ctx=options.n_ctx, kv_type=options.kv_type, n_gpu_layers=options.n_gpu_layers, margin=options.margin
    )
    plan = choose(shape, machine, wishes)
    features = selftest.check(
        header, n_threads=plan.n_threads, n_gpu_layers=plan.n_gpu_layers, on_notice=on_notice
    ).features
    wishes = with_features(wishes, features, machine)
    return Start(header.path, machine, features, wishes, choose(shape, machine, wishes))


def logical_cores() -> int:
    """Threads that the processor runs at once for this process: more than its cores where each has two."""
    return container.usable_cores(os.cpu_count() or 1, container.limits())


def variants(begun: Start, logical: int) -> list[Variant]:
    """What is worth measuring here. Nothing that the self-test found to crash is among it."""
    return [replace(variant, why_not=variant.why_not or _costs(begun, variant)) for variant in _every(begun, logical)]


def _every(begun: Start, logical: int) -> Iterator[Variant]:
    default, features, machine = begun.default, begun.features, begun.machine
    usable = machine.usable_cores
    counts = {1, max(1, machine.physical_cores // 2), usable, logical} - {default.n_threads}
    for count in sorted(count for count in counts if count <= max(usable, logical)):
        name = "1 thread" if count == 1 else f"{count} threads"
        # Loading never takes more threads than there are cores.
        why_not = "more threads than cores" if count > usable else ""
        yield Variant(name, "n_threads", replace(default, n_threads=count), why_not)
    if features.flash_attention and default.kv_type == "f16":  # other types cannot do without
        name = "flash off" if default.flash_attention else "flash on"
        yield Variant(name, "flash_attention", replace(default, flash_attention=not default.flash_attention))
    if features.extra_buffers and not begun.plan.n_gpu_layers and _room_for_two(begun):
        name = "weights as filed" if default.repack else "weights repacked"
        yield Variant(name, "repack", replace(default, repack=not default.repack))
    for kind in _KV_TYPES if features.flash_attention else ():
        if kind != default.kv_type:
            way = replace(default, kv_type=kind, flash_attention=True)
            yield Variant(f"KV {kind}", "kv_type", way, "ask for it with kv_type")
    for size in BATCHES:
        if size != default.n_batch:
            # A typical prompt fits one batch of the default size: a larger one is no gain there.
            why_not = f"for prompts over {default.n_batch}" if size > default.n_batch else ""
            yield Variant(f"batch {size}", "n_batch", replace(default, n_batch=size), why_not)


def _room_for_two(begun: Start) -> bool:
    """Whether the weights fit twice, as they are in the file and repacked."""
    small = choose(begun.plan.shape, begun.machine, replace(begun.wishes, n_ctx=N_CTX)).memory[0]
    return small.total + begun.plan.shape.weight_bytes <= small.room


def _costs(begun: Start, variant: Variant) -> str:
    """What would be given up for it on this machine, in a few words."""
    way, plan = variant.way, begun.plan
    other = choose(
        plan.shape,
        begun.machine,
        replace(
            begun.wishes,
            n_threads=way.n_threads,
            n_batch=way.n_batch,
            flash_attention=way.flash_attention,
            repack=way.repack,
        ),
    )
    if (other.n_ctx, other.kv_type, other.n_gpu_layers) == (plan.n_ctx, plan.kv_type, plan.n_gpu_layers):
        return ""
    return "takes room from the context"


class Rigs:
    """Contexts for all ways, made when they are first measured; thread counts and batch sizes share one."""

    def __init__(self, begun: Start, check: Callable[[], None] = lambda: None) -> None:
        """What `check` raises stops whatever is going on."""
        self._begun = begun
        self._check = check
        self._worker = ThreadPoolExecutor(1, "r1local-measure")
        self._models: dict[bool, Model] = {}
        self._rigs: dict[tuple[bool, bool, str], Rig] = {}

    def measure(self, way: Way, sizes: Sizes) -> Figures:
        """Raises OutOfMemory where there is not enough for this way."""
        key = (way.repack, way.flash_attention, way.kv_type)
        if key not in self._rigs:
            self._rigs[key] = self._make(way)
        return self._rigs[key].measure(sizes, n_threads=way.n_threads, n_batch=way.n_batch)

    def _make(self, way: Way) -> Rig:
        plan, features = self._begun.plan, self._begun.features
        features = allowed(features, repack=way.repack, flash_attention=way.flash_attention)
        model = self._models.get(way.repack)
        if model is None:
            model = self._models[way.repack] = Model(
                self._begun.path,
                features,
                n_gpu_layers=plan.n_gpu_layers,
                tensor_split=plan.tensor_split,
                on_progress=lambda _: self._check(),
            )
        context = Context(
            model,
            features,
            n_ctx=N_CTX,
            # The first one is the default's, in which all batch sizes are tried.
            n_batch=way.n_batch if self._rigs else max(BATCHES),
            n_seq_max=1,
            n_threads=way.n_threads,
            kv_type=way.kv_type,
        )
        return Rig(context, model.n_vocab, self._worker, check=self._check)

    def close(self) -> None:
        self._worker.shutdown()
        for rig in self._rigs.values():
            rig.context.close()
        for model in self._models.values():
            model.close()

    def __enter__(self) -> Rigs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""Loads a model by a plan, gives way where there is not enough memory after all, and remembers how it went."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from r1local import hardware
from r1local.engine import EngineOptions, selftest
from r1local.engine.builds import mismatch
from r1local.engine.context import Context
from r1local.engine.devices import Device, devices
from r1local.engine.library import forget_buffers, logged_buffers, supports_gpu_offload
from r1local.engine.model import Features, Model
from r1local.engine.verdicts import machine as build_and_processor
from r1local.errors import OutOfMemory
from r1local.gguf_types import GgufHeader
from r1local.hardware import Hardware
from r1local.hardware.gpu import Gpu, Kind
from r1local.plan import Plan, Wishes, choose, shape_of_file
from r1local.plan.choose import lower
from r1local.plan.learnt import Learnt, Lowered, Measured, Tuned, forget, remember

_WORTH_KEEPING = 1.02
_GPU_KINDS: dict[str, Kind] = {"CUDA": "cuda", "Metal": "metal", "MTL": "metal", "ROCm": "rocm"}


@dataclass(eq=False)
class Loaded:
    """A model in memory, with a context to decode in."""

    model: Model
    context: Context
    plan: Plan
    features: Features
    measured: Measured
    """Memory when it was loaded; its `real` grows with use: `memory_now` tells."""
    key: str = ""
    """What is remembered of it is found by."""

    def close(self) -> None:
        self.context.close()
        self.model.close()

    def memory_now(self) -> Measured:
        return replace(self.measured, real=peak_memory())

    def remember_memory(self) -> None:
        """Keep for `doctor` what was used, where nothing is kept yet, or less, or of another plan."""
        now = self.memory_now()
        before = Learnt.load().measured(self.key).get("")
        changed = before is None or not 1 / _WORTH_KEEPING < now.planned / max(1, before.planned) < _WORTH_KEEPING
        if changed or (before is not None and now.real > before.real * _WORTH_KEEPING):
            remember("measured", self.key, now)


def load(
    header: GgufHeader,
    options: EngineOptions,
    *,
    on_notice: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Loaded:
    """Raises OutOfMemory when nothing smaller is left to try, and what Model and the self-test raise."""
    here = hardware.detect()
    machine = usable(here)
    learnt = Learnt.load()
    _tell_once(here, machine, learnt, on_notice)
    key = key_of(header, machine)
    asked = Wishes(
        n_ctx=options.n_ctx,
        kv_type=options.kv_type,
        n_gpu_layers=options.n_gpu_layers,
        n_threads=options.n_threads,
        n_batch=options.n_batch,
        n_seq_max=options.n_seq_max,
        kv_unified=options.kv_unified,
        repack=options.repack,
        margin=options.margin,
        process_bytes=_memory_held(),
    )
    wishes = _with_tuned(asked, learnt.tuned(tuning_key(header, machine)), machine)
    shape = shape_of_file(header)
    plan = choose(shape, machine, wishes)
    check_possible(plan, asked, machine)
    features = selftest.check(
        header, n_threads=plan.n_threads, n_gpu_layers=plan.n_gpu_layers, on_notice=on_notice
    ).features
    wishes = with_features(wishes, features, machine)
    plan = choose(shape, machine, wishes)
    remembered = learnt.lowered(key, _memory_free(machine))
    if remembered is not None:
        plan = choose(shape, machine, _as_remembered(wishes, remembered, plan))
    if plan.settings.n_ctx_seq > shape.trained_context > 0:
        on_notice(f"This model was trained for {shape.trained_context:,} tokens; it gets worse beyond them.")
    for warning in plan.warnings:
        on_notice(warning)
    was_lowered = False
    while True:
        try:
            loaded = _load(header.path, plan, features, on_progress)
            break
        except OutOfMemory:
            less = lower(plan, wishes)
            if less is None:
                raise
            smaller = choose(shape, machine, less)
            on_notice(f"There was not enough memory for {described(plan)}; trying {described(smaller)}.")
            plan, was_lowered = smaller, True
    fixed_nothing = (asked.n_ctx, asked.kv_type, asked.n_gpu_layers) == (None, None, None)
    if was_lowered and fixed_nothing:
        lowered = Lowered(plan.n_ctx, plan.kv_type, plan.n_gpu_layers, _memory_free(machine))
        remember("lowered", key, lowered)
    elif remembered is None and learnt.has("lowered", key):
        forget("lowered", key)
    loaded.key = key
    return loaded


def _tell_once(here: Hardware, machine: Hardware, learnt: Learnt, on_notice: Callable[[str], None]) -> None:
    """Say that a GPU is idle, and what to type; once for each build, as it may be so on purpose."""
    sentences = [mismatch(here, bool(machine.gpus) or supports_gpu_offload()), *here.problems]
    for sentence in filter(None, sentences):
        key = machine_key(machine) + sentence
        if not learnt.has("told", key):
            on_notice(sentence)
            remember("told", key, True)


def _load(path: Path, plan: Plan, features: Features, on_progress: Callable[[float], None]) -> Loaded:
    settings = plan.settings
    used = allowed(features, repack=settings.repack, flash_attention=settings.flash_attention)
    forget_buffers()
    model = Model(path, used, n_gpu_layers=plan.n_gpu_layers, tensor_split=plan.tensor_split, on_progress=on_progress)
    try:
        context = Context(
            model,
            used,
            n_ctx=settings.n_ctx,
            n_batch=settings.n_ubatch,
            n_seq_max=settings.n_seq_max,
            n_threads=plan.n_threads,
            kv_type=settings.kv_type,
            kv_unified=settings.kv_unified,
        )
    except BaseException:
        model.close()
        raise
    return Loaded(model, context, plan, used, _measured(plan))


def with_features(wishes: Wishes, features: Features, machine: Hardware) -> Wishes:
    """What the self-test allows, put into the wishes of a plan."""
    # AMX works on weights in a layout of its own.
    repack = True if wishes.repack is None and features.amx and "AMX" in machine.instruction_sets else wishes.repack
    return replace(wishes, flash_attention=wishes.flash_attention if features.flash_attention else False, repack=repack)


def allowed(features: Features, *, repack: bool, flash_attention: bool) -> Features:
    """Of these features those that a plan uses."""
    # Weights in a layout of their own are copies: mapping the file beside them would only take its room twice.
    return replace(
        features,
        extra_buffers=features.extra_buffers and repack,
        mmap=features.mmap and not repack,
        flash_attention=features.flash_attention and flash_attention,
    )


def _measured(plan: Plan) -> Measured:
    """The library's buffers beside the planned ones."""
    on_processor = {"model": 0, "KV": 0, "compute": 0, "output": 0}
    parts: dict[str, tuple[int, int]] = {}
    found: dict[str, dict[str, int]] = {}
    for name, part, size in logged_buffers():
        # Buffers in the machine's memory are called CPU, CPU_Mapped, CPU_REPACK, CUDA_Host and the like.
        if name.startswith("CPU") or name.endswith("_Host") or name == "AMX":
            on_processor[part] += size
        else:
            device = name.removesuffix("_Private").removesuffix("_Mapped")
            found.setdefault(device, dict.fromkeys(on_processor, 0))[part] += size
    used = [("processor", on_processor), *found.items()]
    for use, (device, sizes) in zip([use for use in plan.memory if use.total], used, strict=False):
        planned = {"model": use.weights, "KV": use.kv_cache, "compute": use.compute, "output": use.output}
        for part, size in sizes.items():
            if size or planned[part]:
                parts[f"{device} {part}"] = (planned[part], size)
    return Measured(plan.memory[0].total, peak_memory(), parts)


def peak_memory() -> int:
    """Bytes of memory this process has held at most, mapped files included."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _memory_held() -> int:
    """Bytes of memory this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def usable(machine: Hardware) -> Hardware:
    """The machine with those GPUs that the installed library can use, and as much of them as is free now."""
    found = [device for device in devices() if device.is_gpu]
    return replace(machine, gpus=tuple(_as_gpu(device, machine) for device in found))


def _as_gpu(device: Device, machine: Hardware) -> Gpu:
    """A device of the library, with what the hardware's own probe knows of it."""
    backend = device.name.rstrip("0123456789")
    # The same name, or else the longest of those that are a part of it or have it as a part: a 4070 is no 4070 Ti.
    named = [gpu for gpu in machine.gpus if device.description and _alike(gpu.name, device.description)]
    known = max(named, key=lambda gpu: (gpu.name == device.description, len(gpu.name)), default=None)
    unified = device.kind == "igpu" or (known is not None and known.unified)
    total, free = device.memory_total, device.memory_free
    return Gpu(
        name=device.description or device.name,
        kind=_GPU_KINDS.get(backend, "vulkan"),
        memory_total=total,
        memory_free=min(free, machine.memory_available) if unified else free,
        bandwidth=known.bandwidth if known else 0.0,
        speed_class=known.speed_class if known else "",
        unified=unified,
    )


def _alike(one: str, other: str) -> bool:
    return one in other or other in one


def check_possible(plan: Plan, asked: Wishes, machine: Hardware) -> None:
    """Raises OutOfMemory when a context that was asked for is larger than all the memory there is."""
    if asked.n_ctx is None or plan.fits:
        return
    use = plan.memory[0]
    # The weights may stay in the file and be read again and again; these must be in memory.
    needed = use.kv_cache + use.compute
    if needed > machine.memory_total:
        per_token = max(1, needed // plan.n_ctx)
        most = machine.memory_total // 2 // per_token // 256 * 256
        raise OutOfMemory(
            f"A context of {plan.n_ctx:,} tokens needs {needed / 2**30:,.0f} GiB of memory, "
            f"and this machine has {machine.memory_total / 2**30:,.0f}.",
            f"Try --ctx {min(most, plan.shape.trained_context or most)}",
        )


def described(plan: Plan) -> str:
    """A plan in a few words, for people."""
    layers = f", {plan.n_gpu_layers} layers on the GPU" if plan.gpus else ""
    return f"{plan.n_ctx:,} tokens of context in {plan.kv_type}{layers}"


def key_of(header: GgufHeader, machine: Hardware) -> str:
    """What a lowered plan holds for: machine, build and file."""
    return f"{machine_key(machine)}{header.file_size} bytes|{header.path.name}"


def tuning_key(header: GgufHeader, machine: Hardware) -> str:
    """What tuned settings hold for: machine, build, and the model's kind and size."""
    return f"{machine_key(machine)}{header.architecture} {header.parameters} {header.quantization}"


def machine_key(machine: Hardware) -> str:
    names = ", ".join(gpu.name for gpu in machine.gpus)
    return f"{build_and_processor()}|{machine.usable_cores} cores|{names}|"


def _memory_free(machine: Hardware) -> int:
    return machine.memory_available + sum(gpu.memory_free for gpu in machine.gpus if not gpu.unified)


def _with_tuned(wishes: Wishes, tuned: Tuned | None, machine: Hardware) -> Wishes:
    """What was tuned, where the user does not say otherwise."""
    if tuned is None:
        return wishes
    return replace(
        wishes,
        n_threads=wishes.n_threads or min(tuned.n_threads, machine.usable_cores),
        n_batch=wishes.n_batch or tuned.n_batch,
        repack=tuned.repack if wishes.repack is None else wishes.repack,
        # Other types than f16 cannot do without.
        flash_attention=(
            wishes.flash_attention is not False and (tuned.flash_attention or wishes.kv_type not in (None, "f16"))
        ),
    )


def _as_remembered(wishes: Wishes, remembered: Lowered, plan: Plan) -> Wishes:
    """No more than what worked before, where the user does not say otherwise."""
    return replace(
        wishes,
        n_ctx=wishes.n_ctx or min(remembered.n_ctx, plan.n_ctx),
        kv_type=wishes.kv_type or remembered.kv_type,
        n_gpu_layers=(
            min(remembered.n_gpu_layers, plan.n_gpu_layers) if wishes.n_gpu_layers is None else wishes.n_gpu_layers
        ),
    )

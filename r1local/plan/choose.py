"""Chooses how to run a model on a machine: how much context, in which type of KV cache, which layers where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from r1local.hardware import Hardware
from r1local.hardware.gpu import Gpu
from r1local.plan import memory
from r1local.plan.memory import GIB, Settings, Use
from r1local.plan.shape import Shape

TARGET_CONTEXT = 32_768
"""Tokens a reply may take in DeepSeek's own evaluations, so as much is planned where it fits."""
LEAST_CONTEXT = 8_192
"""A thought of an R1 distill is often 5,000 to 20,000 tokens long: with less than this it is likely to be cut off."""
SMALLEST_CONTEXT = 2_048
MARGIN = GIB
"""Left free on each device, or an eighth of it where that is less."""
_CONTEXT_STEP = 1_024
_FLASH_HEAD = 128
"""Floats in a head from which on processors use flash attention. With 64 it made decoding half as fast at 2,048 tokens
in the cache; with 128 as fast there and an eighth slower at 6,144, for a fraction of the memory.
"""
# q4_0 is left to who asks for it: the keys of some Qwen models do not survive it.
_KV_TYPES = ("f16", "q8_0")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user fixed, and what the installed library can do. None leaves the choice to the planner."""

    n_ctx: int | None = None
    """Tokens of context, of all sequences together."""
    kv_type: str | None = None
    n_gpu_layers: int | None = None
    """Layers on GPUs, the output counted as one more; -1 is all."""
    n_threads: int | None = None
    n_batch: int | None = None
    n_seq_max: int = 1
    kv_unified: bool = True
    flash_attention: bool | None = None
    """False where the library cannot: the KV cache is f16 then."""
    repack: bool | None = None
    margin: int | None = None
    """Bytes left free on each device."""
    process_bytes: int = memory.PROCESS_BYTES
    """What this process holds before the model is loaded."""


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a model."""

    shape: Shape
    settings: Settings
    n_threads: int
    memory: tuple[Use, ...]
    """The processor's, then each GPU's."""
    gpus: tuple[Gpu, ...]
    context_was_asked_for: bool = False
    warnings: tuple[str, ...] = ()
    """What was given up that people will notice, and why, in sentences."""

    @property
    def fits(self) -> bool:
        return all(use.fits for use in self.memory)

    @property
    def n_ctx(self) -> int:
        return self.settings.n_ctx

    @property
    def kv_type(self) -> str:
        return self.settings.kv_type

    @property
    def n_gpu_layers(self) -> int:
        return sum(self.settings.gpu_layers)

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """Layers of each GPU, as the library wants its shares; () where there is nothing to share."""
        return self.settings.gpu_layers if len(self.settings.gpu_layers) > 1 else ()

    @property
    def all_on_gpu(self) -> bool:
        return self.n_gpu_layers > self.shape.layers

    @property
    def enough_context(self) -> bool:
        """Whether every sequence has room for a thought."""
        each = min(LEAST_CONTEXT, self.shape.trained_context or LEAST_CONTEXT)
        return self.n_ctx >= each * self.settings.n_seq_max  # however it is shared


def choose(shape: Shape, machine: Hardware, wishes: Wishes = NO_WISHES) -> Plan:
    """The best plan that fits. Where none does, the smallest one, whose `fits` is false.

    In this order: all layers on the GPUs before some, as each layer beside them costs a multiple; as much context as a
    long thought needs; of that first the KV cache in fewer bits, then fewer tokens down to LEAST_CONTEXT; then layers
    go to the processor. What the user fixed stays.
    """
    every = shape.layers + 1
    if not machine.gpus:
        offloads = [0]
    elif wishes.n_gpu_layers is not None:
        offloads = [every if wishes.n_gpu_layers < 0 else min(wishes.n_gpu_layers, every)]
    else:
        offloads = [every, _most_layers(shape, machine, wishes), 0]
    for offload in offloads:
        for n_ctx, kv_type in _contexts(shape, wishes):
            plan = _build(shape, machine, wishes, n_ctx, kv_type, offload)
            if plan.fits:
                return _widened(plan, machine, wishes)
    # Less than a thought takes, and what nothing fits is at least as much on the GPUs as they hold.
    shorter = (LEAST_CONTEXT // 2, SMALLEST_CONTEXT) if wishes.n_ctx is None else (plan.n_ctx,)
    for n_ctx in shorter:
        for offload in offloads:
            smaller = _build(shape, machine, wishes, min(n_ctx, plan.n_ctx), plan.kv_type, offload)
            if smaller.fits:
                return smaller
    return _build(shape, machine, wishes, min(shorter[-1], plan.n_ctx), plan.kv_type, offloads[len(offloads) // 2])


def _contexts(shape: Shape, wishes: Wishes) -> list[tuple[int, str]]:
    """Contexts and KV types to try, best first."""
    every = _KV_TYPES[:1] if wishes.flash_attention is False else _KV_TYPES
    kinds = (wishes.kv_type,) if wishes.kv_type else every
    if wishes.n_ctx is not None:
        return [(wishes.n_ctx, kind) for kind in kinds]
    trained = (shape.trained_context or TARGET_CONTEXT) * wishes.n_seq_max
    most = min(trained, max(TARGET_CONTEXT, LEAST_CONTEXT * wishes.n_seq_max))
    least = min(trained, LEAST_CONTEXT * wishes.n_seq_max)
    found = [(most, kind) for kind in kinds]
    if least < most:
        found.append((least, kinds[-1]))
    return found


def lower(plan: Plan, wishes: Wishes) -> Wishes | None:
    """What to try when a plan could not be loaded after all: its next smaller one, all of it pinned.

    First the KV cache in fewer bits, then less context, then fewer layers on the GPU; what the user fixed stays.
    None when there is nothing left to give up.
    """
    n_ctx, kv_type, layers = plan.n_ctx, plan.kv_type, plan.n_gpu_layers
    if wishes.kv_type is None and kv_type == "f16" and wishes.flash_attention is not False:
        kv_type = "q8_0"
    elif wishes.n_ctx is None and n_ctx > LEAST_CONTEXT:
        n_ctx = max(LEAST_CONTEXT, n_ctx // 2)
    elif plan.gpus and wishes.n_gpu_layers is None and layers > 0:
        layers = layers * 3 // 4
    elif wishes.n_ctx is None and n_ctx > SMALLEST_CONTEXT:
        n_ctx = max(SMALLEST_CONTEXT, n_ctx // 2)
    else:
        return None
    return replace(wishes, n_ctx=n_ctx, kv_type=kv_type, n_gpu_layers=layers)


def _most_layers(shape: Shape, machine: Hardware, wishes: Wishes) -> int:
    """The most layers, the output counted as one, that the GPUs have room for beside the least context."""
    n_ctx, kv_type = _contexts(shape, wishes)[-1]
    low, high = 0, shape.layers
    while low < high:
        middle = (low + high + 1) // 2
        if all(use.fits for use in _build(shape, machine, wishes, n_ctx, kv_type, middle).memory[1:]):
            low = middle
        else:
            high = middle - 1
    return low


def _build(shape: Shape, machine: Hardware, wishes: Wishes, n_ctx: int, kv_type: str, offload: int) -> Plan:
    """This very plan, fitting or not."""
    repack = (not machine.gpus and _repack_pays(shape, machine)) if wishes.repack is None else wishes.repack
    flash_attention = wishes.flash_attention
    if flash_attention is None:  # a quantized cache cannot do without
        flash_attention = bool(machine.gpus) or kv_type != "f16" or shape.key_size >= _FLASH_HEAD
    settings = Settings(
        n_ctx=n_ctx,
        kv_type=kv_type,
        n_ubatch=wishes.n_batch or (512 if flash_attention else 128),  # scores take memory by batch and context
        n_seq_max=wishes.n_seq_max,
        flash_attention=flash_attention,
        gpu_layers=(),
        repack=repack,
        kv_unified=wishes.kv_unified,
    )
    if machine.gpus:
        shares = _shares(shape, machine.gpus, settings, offload, wishes)
        settings = replace(settings, gpu_layers=shares)
    used = memory.uses(shape, settings, [(gpu.name, gpu.kind) for gpu in machine.gpus], wishes.process_bytes)
    rooms = [machine.memory_available - margin(machine.memory_total, wishes)]
    rooms += [gpu.memory_free - margin(gpu.memory_total, wishes) for gpu in machine.gpus]
    if any(gpu.unified for gpu in machine.gpus):
        # One memory: what its GPU uses is no longer there for anything else.
        rooms[0] -= sum(use.total for use, gpu in zip(used[1:], machine.gpus, strict=True) if gpu.unified)
    uses = tuple(replace(use, room=max(0, room)) for use, room in zip(used, rooms, strict=True))
    threads = wishes.n_threads or machine.usable_cores
    plan = Plan(shape, settings, threads, uses, machine.gpus, wishes.n_ctx is not None)
    return replace(plan, warnings=tuple(_warnings(plan, wishes)))


def margin(total: int, wishes: Wishes) -> int:
    """Bytes of a device that are left to others."""
    return min(MARGIN, total // 8) if wishes.margin is None else wishes.margin


def _repack_pays(shape: Shape, machine: Hardware) -> bool:
    """Whether weights are copied into the processor's own layout where nothing was measured yet.

    On x86 it won half of the prefill of Q4_0 and lost up to a third of that of a 1.5B in Q4_K_M; ARM's int8 matrices
    need it.
    """
    if shape.quantization in ("Q4_0", "IQ4_NL"):
        return True
    return "AMX" not in machine.instruction_sets and any(
        name in machine.instruction_sets for name in ("int8 matrix", "dot product", "SME")
    )


def _shares(shape: Shape, gpus: Sequence[Gpu], settings: Settings, offload: int, wishes: Wishes) -> tuple[int, ...]:
    """Layers of each GPU, by the room it has; the last `offload` layers are shared out, the output among them."""
    if len(gpus) == 1 or not offload:
        return (offload, *(0 for _ in gpus[1:]))
    batch = memory.Batch(
        settings.n_ctx_seq, settings.n_ubatch, settings.n_seq_max, settings.flash_attention, settings.kv_type
    )
    compute = memory.compute_bytes(shape, batch, on_gpu=True)
    if offload <= shape.layers:
        compute += shape.largest_bytes
    rooms = [
        max(
            0,
            gpu.memory_free - margin(gpu.memory_total, wishes) - compute - memory.GPU_CONTEXT_BYTES.get(gpu.kind, 0),
        )
        for gpu in gpus
    ]
    kv = memory.layers_kv_bytes(shape, 1, settings.n_ctx, settings.kv_type)
    costs = [size + kv for size in shape.layer_bytes[max(0, shape.layers + 1 - offload) :]] + [shape.output_bytes]
    total, room = sum(costs), max(1, sum(rooms))
    roomiest = rooms.index(max(rooms))
    if total <= rooms[roomiest]:
        # Cards take turns within a token: a second one would only add its start-up times.
        return tuple(offload if index == roomiest else 0 for index in range(len(gpus)))
    counts, taken, place, limit = [0] * len(gpus), 0.0, 0, total * rooms[0] / room
    for cost in costs:
        # A layer goes where its middle lies, so that each GPU is filled to the same share of its room.
        while taken + cost / 2 > limit and place + 1 < len(gpus):
            place += 1
            limit += total * rooms[place] / room
        counts[place] += 1
        taken += cost
    return tuple(counts)


def _widened(plan: Plan, machine: Hardware, wishes: Wishes) -> Plan:
    """The same plan with as much context as fits, where only its least was tried."""
    contexts = _contexts(plan.shape, wishes)
    most = contexts[0][0]
    if wishes.n_ctx is not None or plan.n_ctx >= most:
        return plan
    low, high = plan.n_ctx // _CONTEXT_STEP, most // _CONTEXT_STEP
    best = plan
    while low < high:  # the largest number of steps that fits
        middle = (low + high + 1) // 2
        tried = _build(plan.shape, machine, wishes, middle * _CONTEXT_STEP, plan.kv_type, plan.n_gpu_layers)
        if tried.fits:
            low, best = middle, tried
        else:
            high = middle - 1
    return best


def _warnings(plan: Plan, wishes: Wishes) -> Iterator[str]:
    shape, settings = plan.shape, plan.settings
    if plan.gpus and not plan.all_on_gpu and wishes.n_gpu_layers is None:
        yield f"{plan.n_gpu_layers} of {shape.layers + 1} layers fit on the GPU; the processor computes the others."
    if not plan.enough_context and wishes.n_ctx is None:
        each = f" for each of {settings.n_seq_max} replies" if settings.n_seq_max > 1 else ""
        yield (
            f"{plan.n_ctx:,} tokens of context{each} are short for a thought, which often takes "
            f"{LEAST_CONTEXT:,} and more: expect some to be cut off."
        )
    if not plan.fits:
        worst = max(plan.memory, key=lambda use: use.total - use.room)
        yield (
            f"It needs {worst.total / GIB:.1f} GiB of the {worst.device}'s memory, "
            f"where {worst.room / GIB:.1f} GiB can be used."
        )

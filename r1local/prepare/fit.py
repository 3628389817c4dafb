"""Which models would run on a machine, and how well: every model in every quantization, before any download."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from r1local import hardware
from r1local.catalog import Catalog, Model, Quantization
from r1local.errors import LibraryMissing
from r1local.hardware import Hardware
from r1local.plan import NO_WISHES, Plan, Shape, Wishes, choose, shape_of_model
from r1local.plan.memory import GIB
from r1local.plan.outlook import NO_RATES, THOUGHT_TOKENS, Outlook, outlook
from r1local.prepare.sizes import tensors_of


@dataclass(frozen=True, slots=True)
class Fit:
    """One model in one quantization on one machine."""

    model: Model
    quantization: Quantization
    plan: Plan
    outlook: Outlook

    @property
    def name(self) -> str:
        return f"{self.model.id}:{self.quantization.name.lower()}"


def fit_of(
    model: Model,
    quantization: Quantization,
    machine: Hardware,
    wishes: Wishes = NO_WISHES,
    rates: Mapping[str, float] = NO_RATES,
) -> Fit:
    """`rates`: as for `outlook`."""
    plan = choose(shape_in_catalog(model, quantization), machine, wishes)
    return Fit(model, quantization, plan, outlook(plan, machine, rates))


def shape_in_catalog(model: Model, quantization: Quantization) -> Shape:
    """Exact for what this package could make itself, of about the right size for other mixes."""
    tensors = tensors_of(model, quantization.name)
    if tensors:
        return shape_of_model(model, quantization.name, tensors)
    return _guessed(model.file_bytes(quantization), model)


def fits_of(
    catalog: Catalog,
    machine: Hardware,
    models: Iterable[Model],
    wishes: Wishes = NO_WISHES,
    rates: Mapping[str, float] = NO_RATES,
    *,
    every: bool = True,
) -> list[Fit]:
    """Of these models, in the catalog's quantizations from the best down; with `every` false in the recommended one
    alone.
    """
    return [
        fit_of(model, quantization, machine, wishes, rates)
        for model in models
        for quantization in catalog.quantizations
        if every or quantization.name == model.recommended
    ]


def recommended(
    catalog: Catalog, machine: Hardware, wishes: Wishes = NO_WISHES, rates: Mapping[str, float] = NO_RATES
) -> Fit | None:
    """The largest thinking model that can be pulled and runs well here: wholly in memory, with context for a thought,
    and not slow. Of equals the one the catalog names first.

    In its recommended quantization; in a smaller one, of no fewer bits than the catalog warns of, where only that fits.
    """
    pullable = [model for model in catalog.models if model.thinks and model.gguf]
    for model in sorted(pullable, key=lambda model: -model.parameters):
        first = catalog.quantization(model.recommended)
        smaller = [
            quantization
            for quantization in catalog.quantizations
            if catalog.warn_below_bits <= quantization.weight_bits <= first.weight_bits
            and quantization.bits < first.bits
            and not quantization.older
        ]
        for quantization in (first, *smaller):
            found = fit_of(model, quantization, machine, wishes, rates)
            if runs_well(found):
                return found
            if found.outlook.word == "slow":
                break  # memory is not what it lacks
    return None


def rates_here(catalog: Catalog, machine: Hardware, *, every: bool) -> Mapping[str, float]:
    """Bytes of weights a second that this processor gets through, by type: those of the quantizations the catalog
    recommends or for every one. Nothing where `machine` has another processor, or without the library.
    """
    if machine.processor != hardware.processor_name():
        return NO_RATES
    from r1local.engine.reading import reading_rates

    mixes = {model.recommended for model in catalog.models}
    if every:
        mixes |= {quantization.name for quantization in catalog.quantizations}
    shapes = [shape_in_catalog(catalog.models[0], catalog.quantization(mix)) for mix in mixes]
    types = sorted({kind for shape in shapes for kind in shape.read_types if kind != "F32"})
    try:
        return reading_rates(types, machine.usable_cores, machine.memory_available)
    except LibraryMissing:
        return NO_RATES


def runs_well(fit: Fit) -> bool:
    enough = fit.plan.enough_context or fit.plan.context_was_asked_for
    return fit.outlook.word == "fits" and enough and (not fit.plan.gpus or fit.plan.all_on_gpu)


def pull_name(fit: Fit) -> str:
    """What to type behind `r1local pull` for it."""
    quantization = fit.quantization.name
    return fit.model.aliases[0] + ("" if quantization == fit.model.recommended else f":{quantization.lower()}")


def reason(fit: Fit) -> str:
    """Why this one, in a sentence for people."""
    plan, decode = fit.plan, fit.outlook.decode
    used = [gpu.name for gpu, layers in zip(plan.gpus, plan.settings.gpu_layers, strict=True) if layers]
    where = "in memory" if not used else f"wholly on the {used[0]}" if len(used) == 1 else f"wholly on {len(used)} GPUs"
    speed = (
        f", at about {decode.expected:.0f} tokens/s: a thought of {THOUGHT_TOKENS:,} tokens takes "
        f"{duration(THOUGHT_TOKENS / decode.expected)}"
        if decode.expected
        else ""
    )
    kind = f", its KV cache in {plan.kv_type}" if plan.kv_type != "f16" else ""
    return f"the largest that fits {where} with {plan.n_ctx:,} tokens of context{kind}{speed}."


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True, slots=True)
class MemoryVerdict:
    """Whether a model that is not here yet would fit this machine's memory."""

    needed: int
    """Bytes on all devices together: weights, the KV cache a chat would get, and what else it takes."""
    word: str
    """fits, tight (when other programs are closed) or too large."""
    sentence: str


def memory_verdict(
    file_bytes: int, model: Model | None, quantization: Quantization | None, machine: Hardware
) -> MemoryVerdict:
    """By the plan where the catalog knows the model, by the size of the file where it does not."""
    shape = shape_in_catalog(model, quantization) if model and quantization else _guessed(file_bytes, model)
    plan = choose(shape, machine)
    used = [use for use in plan.memory if use.total]
    needed = sum(use.total for use in used)
    where = "memory" if not plan.n_gpu_layers else "memory, the GPU's included"
    total = machine.memory_total + sum(gpu.memory_total for gpu in plan.gpus if not gpu.unified)
    takes = f"It takes about {needed / GIB:.1f} of {total / GIB:.1f} GiB {where}"
    if plan.fits:
        return MemoryVerdict(needed, "fits", f"{takes}.")
    emptied = replace(
        machine,
        memory_available=machine.memory_total,
        gpus=tuple(replace(gpu, memory_free=gpu.memory_total) for gpu in machine.gpus),
    )
    if choose(plan.shape, emptied).fits:
        free = machine.memory_available / GIB
        return MemoryVerdict(needed, "tight", f"{takes}, and {free:.1f} GiB are free now: close other programs.")
    return MemoryVerdict(needed, "too large", f"{takes}: more than can be used. A smaller one would run.")


def _guessed(file_bytes: int, model: Model | None) -> Shape:
    """A shape of this many bytes, in the proportions of Llama 3 8B where the model is not known."""
    layers = model.layers if model else 32
    vocabulary = model.vocabulary if model else 128_256
    rest = file_bytes // 20  # a vocabulary's matrix is about a twentieth of a model
    return Shape(
        layers=layers,
        hidden=model.hidden if model else 4_096,
        heads=model.heads if model else 32,
        kv_heads=model.kv_heads if model else 8,
        key_size=model.head_size if model else 128,
        value_size=model.head_size if model else 128,
        feed_forward=model.feed_forward if model else 14_336,
        vocabulary=vocabulary,
        trained_context=model.context if model else 0,
        parameters=model.parameters if model else file_bytes * 8 // 5,
        layer_bytes=((file_bytes - 2 * rest) // layers,) * layers,
        output_bytes=rest,
        embedding_bytes=rest,
        tied=False,
        file_bytes=file_bytes,
    )

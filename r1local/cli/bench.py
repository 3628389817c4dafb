"""`r1local bench`: how fast a model is here, beside what was expected; and with --tune, which settings are fastest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from r1local import hardware
from r1local.catalog import load_catalog
from r1local.cli.chat import choose_model, options_of
from r1local.cli.fit import about
from r1local.cli.integrity import check_once
from r1local.cli.output import Output, size
from r1local.cli.table import show_table
from r1local.cli.tune import heard_interrupt, run_tune, speed
from r1local.engine import EngineOptions
from r1local.engine.loading import load, tuning_key, usable
from r1local.engine.measure import Measurement, measure
from r1local.engine.reading import reading_rates
from r1local.errors import R1Error, UsageError
from r1local.gguf_header import read_header
from r1local.plan import Plan
from r1local.plan.learnt import Learnt, Measured, forget
from r1local.plan.outlook import Outlook, outlook, speed_range
from r1local.plan.speed import Speed
from r1local.settings import load_settings
from r1local.store import LocalModel, all_local, find
from r1local.store.usage import mark_used

_COLUMNS = ("WHAT", "HERE", "EXPECTED", "RATIO", "ROUNDS")
_LEAVE_OUT = ("ROUNDS", "RATIO", "EXPECTED")


@dataclass(frozen=True, slots=True)
class BenchFlags:
    """The command line of `bench`."""

    name: str = ""
    tune: bool = False
    reset: bool = False
    json: bool = False
    seconds: float = 100.0


def run_bench(flags: BenchFlags) -> None:
    """Raises R1Error; raises KeyboardInterrupt, and then nothing was remembered."""
    if flags.tune and flags.reset:
        raise UsageError("--tune and --reset exclude one another.", "Choose one.")
    output = Output()
    settings = load_settings()
    if flags.reset:
        _reset(flags, output)
        return
    local = choose_model(load_catalog(), flags.name or settings.model, output)
    check_once(local, output)
    mark_used(local.path)
    try:
        if flags.tune:
            run_tune(local, options_of(settings), flags.seconds, output, as_json=flags.json)
        else:
            _bench(local, options_of(settings), flags, output)
    finally:
        output.close()


def settings_as_json(plan: Plan) -> dict[str, Any]:
    return {
        "n_ctx": plan.n_ctx,
        "kv_type": plan.kv_type,
        "n_gpu_layers": plan.n_gpu_layers,
        "n_threads": plan.n_threads,
        "n_batch": plan.settings.n_ubatch,
        "flash_attention": plan.settings.flash_attention,
        "repack": plan.settings.repack,
    }


def _bench(local: LocalModel, options: EngineOptions, flags: BenchFlags, output: Output) -> None:
    header = read_header(local.path)
    machine = hardware.detect()
    is_tuned = Learnt.load().tuned(tuning_key(header, usable(machine))) is not None
    doing = "loading"

    def progress(what: str) -> None:
        nonlocal doing
        doing = what

    output.status(lambda: f"{local.name}: {doing}")
    loaded = load(header, options, on_notice=output.line)
    try:
        with heard_interrupt() as check:
            found = measure(loaded, flags.seconds, on_progress=progress, check=check)
        memory = loaded.memory_now()
    finally:
        loaded.close()
    # Not before: it takes memory too, which would count as the model's.
    machine = hardware.with_bandwidth(machine)
    types = [kind for kind in loaded.plan.shape.read_types if kind != "F32"]
    rates = reading_rates(types, loaded.plan.n_threads, machine.memory_available)
    expected = outlook(loaded.plan, machine, rates)
    output.status(None)
    if flags.json:
        output.json(_as_json(local.name, found, expected, memory, loaded.plan, is_tuned), indent=2)
        return
    for line in about(machine):
        output.line(line)
    output.line(f"{local.name}: {_described(loaded.plan)}")
    show_table(output, _rows(found, expected, memory), _LEAVE_OUT)
    output.line(
        f"prompt/s: tokens of a prompt of {found.sizes.read}. tokens/s: of a reply. EXPECTED: what was said before the "
        "model was loaded; of memory, what was planned."
    )
    output.line(
        "These settings were tuned; `r1local bench --reset` forgets that."
        if is_tuned
        else "`r1local bench --tune` looks for faster settings."
    )


def _described(plan: Plan) -> str:
    settings = plan.settings
    parts = [
        f"{plan.n_ctx:,} tokens of context in {plan.kv_type}",
        "1 thread" if plan.n_threads == 1 else f"{plan.n_threads} threads",
        f"batches of {settings.n_ubatch}",
        f"flash attention {'on' if settings.flash_attention else 'off'}",
        f"weights {'repacked' if settings.repack else 'as filed'}",
    ]
    if plan.gpus:
        parts.append(f"{plan.n_gpu_layers} of {plan.shape.layers + 1} layers on the GPU")
    return ", ".join(parts)


def _rows(found: Measurement, expected: Outlook, memory: Measured) -> list[tuple[str, ...]]:
    middle, rounds = found.middle, str(len(found.rounds))
    rows: list[tuple[str, ...]] = [
        _COLUMNS,
        ("prompt/s", *_speed(middle.prefill, expected.prefill), rounds),
        ("tokens/s", *_speed(middle.decode, expected.decode), rounds),
    ]
    for what, planned, real in (("memory", memory.planned, memory.real), *_on_gpus(memory)):
        rows.append((what, size(real), size(planned), f"{real / planned:.2f}" if planned else "-", "-"))
    return rows


def _on_gpus(memory: Measured) -> list[tuple[str, int, int]]:
    """Memory of each GPU, all parts together: planned and real."""
    found: dict[str, tuple[int, int]] = {}
    for name, (planned, real) in memory.parts.items():
        device = name.rpartition(" ")[0]
        before = found.get(device, (0, 0))
        found[device] = (before[0] + planned, before[1] + real)
    return [(device, *sums) for device, sums in found.items() if device != "processor"]


def _speed(measured: float, expected: Speed) -> tuple[str, str, str]:
    ratio = f"{measured / expected.expected:.2f}" if expected.expected else "-"
    return speed(measured), speed_range(expected), ratio


def _as_json(
    name: str, found: Measurement, expected: Outlook, memory: Measured, plan: Plan, tuned: bool
) -> dict[str, Any]:
    middle = found.middle
    return {
        "model": name,
        "rounds": len(found.rounds),
        "prompt_tokens": found.sizes.read,
        "written_tokens": found.sizes.written,
        "prefill_tokens_per_second": _spread(middle.prefill, found.prefill),
        "decode_tokens_per_second": _spread(middle.decode, found.decode),
        "expected": {
            "prefill_tokens_per_second": asdict(expected.prefill),
            "decode_tokens_per_second": asdict(expected.decode),
        },
        "memory": {
            "planned": memory.planned,
            "real": memory.real,
            "parts": {part: {"planned": planned, "real": real} for part, (planned, real) in memory.parts.items()},
        },
        "settings": {**settings_as_json(plan), "tuned": tuned},
    }


def _spread(median: float, rounds: list[float]) -> dict[str, float]:
    return {"median": median, "low": min(rounds), "high": max(rounds)}


def _reset(flags: BenchFlags, output: Output) -> None:
    """Of the model that is named; of every model here without a name."""
    catalog = load_catalog()
    machine = usable(hardware.detect())
    learnt = Learnt.load()
    forgotten = []
    for local in [find(catalog, flags.name)] if flags.name else all_local(catalog):
        try:
            key = tuning_key(read_header(local.path), machine)
        except R1Error:
            if flags.name:
                raise
            continue  # a broken file was never tuned
        if learnt.has("tuned", key):
            forget("tuned", key)
            forgotten.append(local.name)
    if flags.json:
        output.json({"forgotten": forgotten}, indent=2)
    elif forgotten:
        output.line(f"Forgot what was tuned for {', '.join(forgotten)}: the default settings are back.")
    else:
        output.line(f"Nothing was tuned for {flags.name or 'the models here'}.")

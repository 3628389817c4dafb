"""`r1local fit`: what would run on this machine, or on another one, and how well; before any download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1local import hardware
from r1local.catalog import Catalog, load_catalog
from r1local.cli.output import Output, size
from r1local.cli.table import show_table
from r1local.errors import UsageError
from r1local.hardware import Hardware, description, known
from r1local.plan import KV_TYPES, NO_WISHES, Wishes
from r1local.plan.outlook import speed_range
from r1local.prepare.fit import Fit, fit_of, fits_of, pull_name, rates_here, reason, recommended

_COLUMNS = ("MODEL", "QUANT", "VERDICT", "MEMORY", "GPU", "CONTEXT", "KV", "TOKENS/S", "PROMPT/S")
_LEAVE_OUT = ("PROMPT/S", "KV", "GPU", "MEMORY", "CONTEXT", "QUANT")
# Nobody's description of a machine is longer.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FitFlags:
    """The command line of `fit`."""

    name: str = ""
    json: bool = False
    every: bool = False
    hardware: Path | None = None
    gpu: str = ""
    wishes: Wishes = NO_WISHES


def run_fit(flags: FitFlags) -> None:
    """Raises R1Error."""
    output = Output()
    catalog = load_catalog()
    machine = machine_of(flags)
    rates = rates_of(catalog, machine, flags)
    best = recommended(catalog, machine, flags.wishes, rates)
    found = _found(catalog, machine, flags, rates)
    if flags.json:
        output.json(
            {
                "hardware": description.to_json(machine),
                "recommended": best.name if best else None,
                "reason": reason(best) if best else None,
                "models": [_as_json(fit) for fit in found],
            },
            indent=2,
        )
        return
    for line in about(machine):
        output.line(line)
    show_table(output, [_COLUMNS, *(_row(fit, best) for fit in found)], _LEAVE_OUT)
    output.line(
        "CONTEXT: tokens a chat would get. TOKENS/S: of a reply, ~ where others' measurements are met less well. "
        "Slow: a thought of 4,000 tokens takes over 10 minutes."
    )
    if best is None:
        output.line(
            "No thinking model of the catalog runs well here. The one inside r1local does: r1local chat -m inside"
        )
    else:
        output.line(f"Recommended: {best.name}, {reason(best)}")
        output.line(f"Type: r1local pull {pull_name(best)}")
    if len(found) == 1:
        for line in details(found[0]):
            output.line(line)


def best_for_this_machine(catalog: Catalog) -> Fit | None:
    """The recommended one, everything measured that decides."""
    flags = FitFlags()
    machine = machine_of(flags)
    return recommended(catalog, machine, rates=rates_of(catalog, machine, flags))


def wishes_of(ctx: int | None, kv_type: str | None, parallel: int, margin_mib: int | None) -> Wishes:
    """What the command line fixes. Raises UsageError."""
    if kv_type is not None and kv_type not in KV_TYPES:
        raise UsageError(f"No KV cache is kept in {kv_type!r}.", f"Choose {', '.join(KV_TYPES)}.")
    return Wishes(
        n_ctx=ctx, kv_type=kv_type, n_seq_max=parallel, margin=None if margin_mib is None else margin_mib << 20
    )


def machine_of(flags: FitFlags) -> Hardware:
    """This machine, the one described in a file, or this one with another GPU. Raises UsageError."""
    if flags.hardware is not None:
        try:
            with flags.hardware.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise UsageError(
                    f"{flags.hardware} is too large to describe a machine.", "`r1local fit --json` makes one."
                )
            data = json.loads(text)
        except OSError as error:
            raise UsageError(
                f"{flags.hardware} cannot be read: {error.strerror or error}.", "Check the path."
            ) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{flags.hardware} is not JSON.", "`r1local fit --json` shows what it must look like, under hardware."
            ) from error
        # What --json prints can be read back as it is.
        inner = data.get("hardware") if isinstance(data, dict) else None
        machine = description.from_json(inner if isinstance(inner, dict) else data)
    else:
        machine = hardware.detect()
    if flags.gpu:
        machine = known.machine(flags.gpu, machine)
    is_this = flags.hardware is None and machine.processor == hardware.processor_name()
    return hardware.with_bandwidth(machine) if is_this else machine


def rates_of(catalog: Catalog, machine: Hardware, flags: FitFlags) -> Mapping[str, float]:
    """Of this processor; nothing for a machine that was described."""
    if flags.hardware is not None:
        return {}
    return rates_here(catalog, machine, every=bool(flags.name or flags.every or flags.json))


def _found(catalog: Catalog, machine: Hardware, flags: FitFlags, rates: Mapping[str, float]) -> list[Fit]:
    if not flags.name:
        every = flags.every or flags.json
        return fits_of(catalog, machine, catalog.models, flags.wishes, rates, every=every)
    model, quantization = catalog.resolve(flags.name)
    if quantization is not None:
        return [fit_of(model, quantization, machine, flags.wishes, rates)]
    return fits_of(catalog, machine, [model], flags.wishes, rates)


def about(machine: Hardware) -> list[str]:
    """The machine in a line or two."""
    cores = "core" if machine.usable_cores == 1 else "cores"
    lines = [
        f"{machine.processor}, {machine.usable_cores} {cores}; "
        f"{size(machine.memory_available)} of {size(machine.memory_total)} memory free"
        + (f", read at {machine.memory_bandwidth / 1e9:.0f} GB/s" if machine.memory_bandwidth else "")
    ]
    lines += [
        f"{gpu.name}: {size(gpu.memory_free)} of {size(gpu.memory_total)} "
        + ("may be used by the GPU" if gpu.unified else "free")
        + (f", {gpu.bandwidth / 1e9:,.0f} GB/s" if gpu.bandwidth else "")
        for gpu in machine.gpus
    ]
    return lines + list(machine.problems)


def _row(fit: Fit, best: Fit | None) -> tuple[str, ...]:
    plan = fit.plan
    layers = plan.n_gpu_layers
    gpu = "-" if not plan.gpus else "all" if plan.all_on_gpu else f"{layers}/{plan.shape.layers + 1}"
    won = plan.fits
    mark = " *" if best is not None and fit.name == best.name else ""
    return (
        fit.model.id + mark,
        fit.quantization.name,
        fit.outlook.word.capitalize(),
        size(sum(use.total for use in plan.memory if use.total)),
        gpu if won else "-",
        f"{plan.n_ctx:,}" if won else "-",
        plan.kv_type if won else "-",
        speed_range(fit.outlook.decode) if won else "-",
        speed_range(fit.outlook.prefill) if won else "-",
    )


def details(fit: Fit) -> list[str]:
    """Memory by part, for each device, and what was given up."""
    lines = []
    for use in fit.plan.memory:
        if use.total:
            parts = {
                "weights": use.weights, "KV cache": use.kv_cache, "compute": use.compute, "logits": use.output,
                "program": use.other,
            }  # fmt: skip
            shown = ", ".join(f"{name} {size(count)}" for name, count in parts.items() if count)
            lines.append(f"{use.device}: {size(use.total)} of {size(use.room)} that can be used: {shown}")
    return lines + list(fit.plan.warnings)


def _as_json(fit: Fit) -> dict[str, Any]:
    plan = fit.plan
    return {
        "model": fit.model.id,
        "quantization": fit.quantization.name,
        "verdict": fit.outlook.word,
        "memory": [{**asdict(use), "total": use.total} for use in plan.memory],
        "n_ctx": plan.n_ctx,
        "kv_type": plan.kv_type,
        "n_gpu_layers": plan.n_gpu_layers,
        "tensor_split": list(plan.tensor_split),
        "n_batch": plan.settings.n_ubatch,
        "n_threads": plan.n_threads,
        "flash_attention": plan.settings.flash_attention,
        "decode_tokens_per_second": asdict(fit.outlook.decode),
        "prefill_tokens_per_second": asdict(fit.outlook.prefill),
        "warnings": list(plan.warnings),
    }

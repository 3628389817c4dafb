"""What there is to know of one model, and of the machine."""

from __future__ import annotations

from collections.abc import Iterator

from textual.content import Content

from r1local.plan import Plan
from r1local.plan.outlook import speed_range
from r1local.terminal import clean_line
from r1local.tui.screens.model_rows import Row, View, memory_size
from r1local.units import amount


def written(row: Row) -> Content:
    """All of it, a line for each thing."""
    pieces: list[tuple[str, str]] = []
    for what, said in details(row):
        pieces += [(f"{what}  ", "$text-primary"), (f"{said}\n", "")] if what else [(f"{said}\n", "bold")]
    return Content.assemble(*pieces)


def details(row: Row) -> Iterator[tuple[str, str]]:
    """What it is about and what is to be said, cleaned; the heading is about nothing."""
    yield "", row.name
    if row.recommended:
        yield "Recommended", row.recommended
    if row.problem:
        yield "Broken", row.problem
    if row.plan is not None and row.outlook is not None:
        yield row.verdict, _outlook(row, row.plan)
        for use in row.plan.memory:
            if use.total:
                parts = {
                    "weights": use.weights, "KV cache": use.kv_cache, "compute": use.compute, "logits": use.output,
                    "program": use.other,
                }  # fmt: skip
                shown = ", ".join(f"{name} {memory_size(count)}" for name, count in parts.items() if count >= 1 << 20)
                yield clean_line(use.device), f"{memory_size(use.total)} of {memory_size(use.room)}: {shown}"
        for warning in row.plan.warnings:
            yield "Mind", clean_line(warning)
    model, local = row.model, row.local
    yield "Parameters", f"{row.parameters:,}"
    yield "Quantization", clean_line(row.quantization) or "not known"
    yield "File", amount(row.size) if local else f"about {amount(row.size)}"
    if row.held and local is None:
        yield "Fetched", f"{amount(row.held)} so far"
    if model is not None:
        yield "Title", model.name
        yield "Context", f"{model.context:,} tokens, as it was trained"
        yield "Thinks", "yes" if model.thinks else "no"
        yield "Licence", model.licences
        yield "Sampling", ", ".join(f"{name} {value:g}" for name, value in model.sampling.items())
    elif row.plan is not None and row.plan.shape.trained_context:
        yield "Context", f"{row.plan.shape.trained_context:,} tokens, as it was trained"
    if local is not None:
        yield "Origin", local.origin
    if local is not None and local.repo is not None:
        yield "Repository", clean_line(local.repo.id)
    elif local is None and model is not None and model.gguf:
        yield "Repository", model.gguf[0].repo
    if local is not None:
        yield "Path", clean_line(str(local.path))


def _outlook(row: Row, plan: Plan) -> str:
    assert row.outlook is not None
    if not plan.fits:
        return f"{memory_size(row.memory)} of memory are needed"
    return (
        f"{memory_size(row.memory)} of memory, {speed_range(row.outlook.decode)} tokens/s, "
        f"{plan.n_ctx:,} tokens of context in {plan.kv_type}"
    )


def about(view: View) -> str:
    """The machine in a line, what decides first."""
    machine = view.machine
    free = [f"{memory_size(machine.memory_available)} of {memory_size(machine.memory_total)} memory free"]
    free += [f"{clean_line(gpu.name)}: {memory_size(gpu.memory_free)} free" for gpu in machine.gpus if not gpu.unified]
    none = [] if view.recommended else ["No thinking model of the catalog runs well here; the one inside r1local does."]
    return " · ".join([*none, *free, *map(clean_line, machine.problems)])

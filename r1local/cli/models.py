"""`r1local models`: the catalog as a table or as JSON."""

from __future__ import annotations

import dataclasses

from r1local.catalog import Catalog, Model, load_catalog
from r1local.cli.output import Output
from r1local.cli.table import show_table
from r1local.store import local_files

_COLUMNS = ("NAME", "ALSO", "SIZE", "QUANT", "AIME24", "MATH", "LICENCE", "HERE")


# What a narrow terminal goes without, in this order.
_LEAVE_OUT = ("LICENCE", "ALSO", "MATH", "AIME24", "QUANT")


def run_models(*, as_json: bool) -> None:
    output = Output()
    catalog = load_catalog()
    here = {
        model.id: [local.quantization or local.path.name for local in local_files(catalog, model)]
        for model in catalog.models
    }
    if as_json:
        output.json([{**dataclasses.asdict(model), "here": here[model.id]} for model in catalog.models], indent=2)
        return
    rows = [_COLUMNS, *(_row(catalog, model, here[model.id]) for model in catalog.models)]
    show_table(output, rows, _LEAVE_OUT)
    output.line(
        "SIZE: file of QUANT, the recommended one. AIME24, MATH: published pass@1 in percent, of the unquantized model."
    )
    for model in catalog.models:
        if model.is_inside:
            scores = ", ".join(f"{name.replace('_', ' ')} {score:g}" for name, score in model.scores.items())
            output.line(f"{model.id} is a part of r1local. In percent, on problems it never saw: {scores}.")


def _row(catalog: Catalog, model: Model, here: list[str]) -> tuple[str, ...]:
    gigabytes = model.file_bytes(catalog.quantization(model.recommended)) / 1e9
    aime, math = model.scores.get("aime24_pass1"), model.scores.get("math500")
    return (
        model.id,
        model.aliases[0],
        f"{gigabytes:.1f} GB" if gigabytes >= 0.1 else f"{gigabytes * 1000:.0f} MB",
        model.recommended,
        f"{aime:g}" if aime is not None else "-",
        f"{math:g}" if math is not None else "-",
        model.licences,
        ", ".join(sorted(set(here))) or "-",
    )

"""`r1local list`: the models on this machine."""

from __future__ import annotations

import time

from r1local.catalog import load_catalog
from r1local.cli.output import Output
from r1local.cli.table import show_table
from r1local.errors import R1Error
from r1local.gguf_header import read_header
from r1local.hf_cache import cached_repos
from r1local.hub.partial import Unfinished, unfinished
from r1local.store import LocalModel, all_local
from r1local.store.usage import last_used
from r1local.units import amount

_COLUMNS = ("NAME", "QUANT", "SIZE", "USED", "ORIGIN")
_LEAVE_OUT = ("ORIGIN", "QUANT", "USED")


def run_list(*, as_json: bool) -> None:
    output = Output()
    here = sorted(all_local(load_catalog()), key=lambda local: local.name)
    problems = {local.path: problem for local in here if (problem := _problem(local))}
    if as_json:
        output.json([_facts(local, problems.get(local.path, "")) for local in here], indent=2)
        return
    for one in left_over():
        state = (
            "is being fetched"
            if one.under_way
            else f"`r1local pull {one.name}` goes on, `r1local rm {one.name}` drops it"
        )
        output.line(f"Unfinished: {one.name}, {amount(one.held)} of {amount(one.size)}: {state}.")
    rows = [_COLUMNS, *(_row(local, problems.get(local.path, "")) for local in here)]
    show_table(output, rows, _LEAVE_OUT)
    for problem in problems.values():
        output.line(problem)
    if all(local.is_inside for local in here):
        output.line("`r1local models` lists what there is to pull.")


def left_over() -> list[Unfinished]:
    """Downloads that stopped on the way, or are under way."""
    return [one for repo in cached_repos() for one in unfinished(repo.partials)]


def _problem(local: LocalModel) -> str:
    """Why a file cannot be used, from its header alone; empty when it can."""
    try:
        read_header(local.path)
    except R1Error as error:
        return error.message
    return ""


def _facts(local: LocalModel, problem: str) -> dict[str, object]:
    return {
        "name": local.name,
        "quantization": local.quantization,
        "size": local.size,
        "last_used": last_used(local.path),
        "origin": local.origin,
        "repository": local.repo.id if local.repo else None,
        "path": str(local.path),
        "parts": [str(part) for part in local.parts],
        "problem": problem or None,
    }


def _row(local: LocalModel, problem: str) -> tuple[str, ...]:
    return (
        local.name,
        local.quantization or "-",
        "broken" if problem else amount(local.size),
        ago(last_used(local.path)),
        local.origin,
    )


def ago(when: float | None) -> str:
    """A time in the past for people: never, just now, 5 min ago, 3 h ago, 12 days ago."""
    if when is None:
        return "never"
    elapsed = max(0.0, time.time() - when)
    if elapsed < 60:
        return "just now"
    if elapsed < 3600:
        return f"{elapsed // 60:.0f} min ago"
    if elapsed < 2 * 86400:
        return f"{elapsed // 3600:.0f} h ago"
    return f"{elapsed // 86400:.0f} days ago"

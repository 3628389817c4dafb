"""The rows of the models as lines of a table. No screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r1local.catalog import Catalog
from r1local.errors import ModelNotFound
from r1local.plan.outlook import speed_range
from r1local.store import LocalModel
from r1local.tui.pulls import PullState
from r1local.tui.screens.model_rows import Row, View, memory_size, parameter_count
from r1local.tui.widgets.model_list import Line
from r1local.units import amount

_MARKS = {"waiting": "…", "checking": "↓", "running": "↓", "failed": "!", "cancelled": "‖"}
_WORDS = {"waiting": "waiting", "checking": "checking", "running": "", "failed": "failed", "cancelled": "stopped"}

OF_A_ROW = ("pull", "cancel", "resume", "remove")
"""Actions that depend on the highlighted model."""


def offers(row: Row, pull: PullState | None) -> set[str]:
    """Which of them mean something for it."""
    if row.local is not None:
        return {"remove"}
    if pull is not None and pull.active:
        return {"cancel"}
    stopped = row.held > 0 or (pull is not None and pull.state in ("failed", "cancelled"))
    return {"pull", "resume"} if stopped else {"pull"}


def by_row(catalog: Catalog, states: Sequence[PullState]) -> dict[str, PullState]:
    """Downloads by the names of their rows."""
    return {_row_name(catalog, state.name): state for state in states}


def first_key(view: View, current: LocalModel | None) -> str:
    """Where to begin: at the model in use, or else at the recommended one."""
    used = [row.key for row in view.rows if row.local and current and row.local.path == current.path]
    return (used + [row.key for row in view.rows if row.recommended] + [""])[0]


def _row_name(catalog: Catalog, name: str) -> str:
    """What the row of a pull is called: the catalog's name in place of another one for the same."""
    try:
        model, quantization = catalog.resolve(name)
    except ModelNotFound:
        return name
    if quantization is None or quantization.name == model.recommended:
        return model.id
    return f"{model.id}:{quantization.name.lower()}"


def lines(rows: Sequence[Row], pulls: Mapping[str, PullState], current: LocalModel | None) -> list[Line]:
    """Those that are here under their heading, then the others. The first mark: ● in use, ★ recommended, ↓ on its way,
    … waiting for that, ‖ stopped, ! failed. `pulls` are found by the names of rows.
    """
    here, others = ([row for row in rows if (row.local is not None) is wanted] for wanted in (True, False))
    found = [Line("Here"), *(_line(row, None, current) for row in here)] if here else []
    if others:
        found += [Line("To be pulled"), *(_line(row, pulls.get(row.name), current) for row in others)]
    return found or [Line("No model is called so.")]


def _line(row: Row, pull: PullState | None, current: LocalModel | None) -> Line:
    if pull is not None and pull.state == "done":
        pull = None  # it was here, and was removed since
    in_use = current is not None and row.local is not None and row.local.path == current.path
    mark = "●" if in_use else _MARKS[pull.state] if pull else "★" if row.recommended else ""
    remark = "in use" if in_use else "recommended" if row.recommended else ""
    fits = row.plan is not None and row.plan.fits
    return Line(
        row.key,
        (
            mark,
            row.name,
            row.verdict,
            remark,
            speed_range(row.outlook.decode) if fits and row.outlook else "-",
            memory_size(row.memory) if row.plan else "-",
            f"{row.plan.n_ctx:,}" if fits and row.plan else "-",
            parameter_count(row.parameters),
            _here(row, pull),
        ),
    )


def _here(row: Row, pull: PullState | None) -> str:
    if row.local is not None:
        return amount(row.size)
    if pull is not None and (word := _WORDS[pull.state]):
        return word
    if pull is not None:
        return f"{_percent(pull)}%"
    return f"{amount(row.held)} of it" if row.held else "no"


def _percent(pull: PullState) -> int:
    return int(100 * pull.done / pull.total) if pull.total else 0

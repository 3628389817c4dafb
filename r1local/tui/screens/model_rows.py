"""What the list of models says: every model that is here or could be pulled, and how well it would run. No screen.

It looks at disks and at the machine, so it belongs into a thread.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from r1local.catalog import Catalog, Model
from r1local.errors import R1Error
from r1local.gguf_header import read_header
from r1local.hardware import Hardware
from r1local.hf_cache import cache_folder, cached_repos
from r1local.hub.partial import unfinished
from r1local.names import quantization_in
from r1local.plan import Plan, choose, shape_of_file
from r1local.plan.outlook import Outlook, outlook
from r1local.prepare.fit import Fit, fit_of, rates_here, reason, recommended
from r1local.store import LocalModel, all_local
from r1local.terminal import clean_line


@dataclass(frozen=True, slots=True)
class Row:
    """One model in one quantization."""

    key: str
    """No other row's."""
    name: str
    """Cleaned; for what is not here it is what `Pulls.start` takes."""
    model: Model | None
    quantization: str
    parameters: int
    size: int
    """Bytes of the file; about so many where it is not here."""
    plan: Plan | None = None
    outlook: Outlook | None = None
    local: LocalModel | None = None
    """The file, where it is here."""
    problem: str = ""
    """Why the file cannot be used."""
    held: int = 0
    """Bytes that are here of a download that stopped."""
    recommended: str = ""
    """Why it is the one to take; empty for the others."""

    @property
    def verdict(self) -> str:
        return "Broken" if self.problem else self.outlook.word.capitalize() if self.outlook else "Not known"

    @property
    def memory(self) -> int:
        """Bytes on all devices together."""
        return sum(use.total for use in self.plan.memory) if self.plan else 0

    def answers_to(self, text: str) -> bool:
        """Whether any of its names has this in it."""
        names = (self.name, self.quantization, *(self.model.names if self.model else ()))
        return all(any(word in name.lower() for name in names) for word in text.lower().split())


@dataclass(frozen=True, slots=True)
class View:
    """All rows, those that are here first."""

    rows: tuple[Row, ...]
    machine: Hardware
    recommended: str
    """Name of the one to take; empty where no model that thinks runs well."""


def look(catalog: Catalog, machine: Hardware, *, every: bool) -> View:
    """Every model in its recommended quantization, or in every one. Takes a second where nothing is remembered yet."""
    rates = rates_here(catalog, machine, every=every)
    best = recommended(catalog, machine, rates=rates)
    here = [_here(local, machine, rates, best) for local in all_local(catalog)]
    here.sort(key=lambda row: (bool(row.problem), row.name))
    known = {(row.model.id, row.quantization.upper()) for row in here if row.model is not None}
    held = _held(catalog)
    others = [
        _elsewhere(fit, held, best)
        for fit in _fits(catalog, machine, rates, best, every=every)
        if (fit.model.id, fit.quantization.name) not in known
    ]
    return View((*here, *others), machine, best.name if best is not None else "")


def _fits(
    catalog: Catalog, machine: Hardware, rates: Mapping[str, float], best: Fit | None, *, every: bool
) -> Iterator[Fit]:
    for model in catalog.models:
        for quantization in catalog.quantizations:
            is_best = best is not None and (best.model, best.quantization) == (model, quantization)
            if quantization.name == model.recommended or is_best or (every and model.gguf):
                yield fit_of(model, quantization, machine, rates=rates)


def _here(local: LocalModel, machine: Hardware, rates: Mapping[str, float], best: Fit | None) -> Row:
    model, quantization = local.model, local.quantization
    row = {
        "key": f"here {local.path}", "name": local.name, "model": model, "quantization": quantization,
        "size": local.size, "local": local,
    }  # fmt: skip
    is_best = best is not None and best.model is model and best.quantization.name == quantization.upper()
    try:
        header = read_header(local.path)
        plan = choose(shape_of_file(header), machine)
        promised = outlook(plan, machine, rates)
    except R1Error as error:
        return Row(**row, parameters=model.parameters if model else 0, problem=clean_line(error.message))  # type: ignore[arg-type]
    except (ArithmeticError, LookupError, TypeError, ValueError):  # numbers that no model has
        return Row(**row, parameters=0, problem="Its header makes no sense.")  # type: ignore[arg-type]
    return Row(
        **row,  # type: ignore[arg-type]
        parameters=header.parameters,
        plan=plan,
        outlook=promised,
        recommended=reason(best) if best and is_best else "",
    )


def _elsewhere(fit: Fit, held: Mapping[tuple[str, str], int], best: Fit | None) -> Row:
    model, quantization = fit.model, fit.quantization.name
    return Row(
        key=f"pull {fit.name}",
        name=model.id if quantization == model.recommended else fit.name,
        model=model,
        quantization=quantization,
        parameters=model.parameters,
        size=fit.plan.shape.file_bytes or model.file_bytes(fit.quantization),
        plan=fit.plan,
        outlook=fit.outlook,
        held=held.get((model.id, quantization), 0),
        recommended=reason(best) if best is not None and best.name == fit.name else "",
    )


def _held(catalog: Catalog) -> Counter[tuple[str, str]]:
    """What is here of downloads that stopped, by model and quantization."""
    found: Counter[tuple[str, str]] = Counter()
    for repo in cached_repos():
        for one in unfinished(repo.partials):
            file = one.file.rpartition("/")[2]
            model = catalog.by_file_name(file)
            if model is not None and any(one.repo == source.repo for source in model.gguf):
                found[model.id, quantization_in(file).upper()] += one.held
    return found


def disk_free() -> int:
    """Bytes free on the disk that models are pulled to."""
    folder = cache_folder().absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


# Numbers for people

_ALMOST = 19 / 20
"""Of a unit from which on a number is told in it."""


def memory_size(count: float) -> str:
    """Bytes of memory, in powers of 1024 as that is counted."""
    return f"{count / 2**30:.1f} GiB" if count >= _ALMOST * 2**30 else f"{count / 2**20:.0f} MiB"


def parameter_count(count: int) -> str:
    """As models are named: 7.6B, 3.4M."""
    if count >= _ALMOST * 1e9:
        return f"{count / 1e9:.1f}B"
    if count >= 1e5:
        return f"{count / 1e6:.1f}M"
    return f"{count:,}" if count else "-"

"""`r1local rm`: take models away."""

from __future__ import annotations

import shutil

from r1local.catalog import Catalog, load_catalog
from r1local.cli.list import left_over
from r1local.cli.output import Output
from r1local.errors import UsageError
from r1local.store import PACKAGE, LocalModel, all_local, find
from r1local.store.removal import carry_out, plan_removal
from r1local.units import amount


def run_rm(names: list[str], *, yes: bool) -> None:
    """Raises R1Error; KeyboardInterrupt after a no."""
    output = Output()
    catalog = load_catalog()
    partials = [one for one in left_over() if one.name in names]
    chosen = [_meant(catalog, name) for name in names if name not in {one.name for one in partials}]
    removals = [plan_removal(local) for local in {local.path: local for local in chosen}.values()]
    for removal in removals:
        where = f"{removal.local.origin}: {removal.local.path}"
        output.line(f"{removal.local.name}, {amount(removal.frees)} to be freed, {where}")
        for note in removal.notes:
            output.line(note)
        if removal.local.repo is not None:
            output.line("Other Hugging Face tools lose it too: the cache is shared.")
    for one in partials:
        if one.under_way:
            raise UsageError(f"{one.name} is being fetched right now.", "Stop that first.")
        output.line(f"{one.name}, unfinished, {amount(one.held)} to be freed, Hugging Face cache: {one.folder}")
    if not yes:
        if not output.can_ask:
            raise UsageError("Nothing was removed: there is nobody to ask.", "Add --yes to remove it all the same.")
        if not output.ask("Remove it?" if len(names) == 1 else "Remove all of them?"):
            output.line("Nothing was removed.")
            raise KeyboardInterrupt
    freed = 0
    for removal in removals:
        now = plan_removal(removal.local)  # what the one before took away is no longer in the way
        carry_out(now)
        freed += now.frees
    for one in partials:
        shutil.rmtree(one.folder, ignore_errors=True)
        freed += one.held
    output.line(f"Removed; {amount(freed)} freed.")


def _meant(catalog: Catalog, name: str) -> LocalModel:
    """The one model to remove. A chat takes the best of several; what is deleted must be named. Raises R1Error."""
    found = find(catalog, name)
    here = all_local(catalog)
    if found.origin == PACKAGE:  # a copy of it elsewhere is what can be removed
        return next((local for local in here if local.name == found.name and local.origin != PACKAGE), found)
    twins = [local for local in here if local.model is found.model is not None and local.repo == found.repo]
    exact = {found.name.lower(), *(other.lower() for other in found.names), str(found.path.absolute()).lower()}
    if name.lower() not in exact and not name.lower().endswith(f":{found.quantization.lower()}") and len(twins) > 1:
        raise UsageError(f"{name} is here {len(twins)} times.", "Name one: " + ", ".join(twin.name for twin in twins))
    return found

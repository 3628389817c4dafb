"""`r1local rm`: take models away."""

from __future__ import annotations

from r1local.catalog import load_catalog
from r1local.cli.output import Output
from r1local.errors import UsageError
from r1local.store import find
from r1local.store.removal import carry_out, plan_removal


def run_rm(names: list[str], *, yes: bool) -> None:
    """Raises R1Error; KeyboardInterrupt after a no."""
    output = Output()
    catalog = load_catalog()
    removals = [plan_removal(find(catalog, name)) for name in names]
    for removal in removals:
        where = f"{removal.local.origin}: {removal.local.path}"
        output.line(f"{removal.local.name}, {removal.frees / 1e9:.2f} GB to be freed, {where}")
        for note in removal.notes:
            output.line(note)
        if removal.local.repo is not None:
            output.line("Other Hugging Face tools lose it too: the cache is shared.")
    if not yes:
        if not output.can_ask:
            raise UsageError("Nothing was removed: there is nobody to ask.", "Add --yes to remove it all the same.")
        if not output.ask("Remove it?" if len(removals) == 1 else f"Remove these {len(removals)}?"):
            raise KeyboardInterrupt
    freed = 0
    for removal in removals:
        carry_out(removal)
        freed += removal.frees
    output.line(f"Removed; {freed:,} bytes freed.")

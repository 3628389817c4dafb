"""Pulling and removing: what is asked before. It looks at disks, so it belongs into a thread."""

from __future__ import annotations

from r1local.catalog import Catalog
from r1local.hardware import Hardware
from r1local.prepare.fit import memory_verdict
from r1local.store import LocalModel, find
from r1local.store.removal import carry_out, plan_removal
from r1local.tui.screens.confirm import Confirm
from r1local.tui.screens.model_rows import Row, disk_free
from r1local.units import amount


def pull_question(row: Row, catalog: Catalog, machine: Hardware) -> Confirm:
    """Raises ModelNotFound, with what to do instead, for what cannot be pulled."""
    if row.model is None or not row.model.gguf:
        find(catalog, row.name)
    verdict = memory_verdict(row.size, row.model, catalog.known_quantization(row.quantization), machine)
    missing, free = max(0, row.size - row.held), disk_free()
    if row.held:
        lines = [f"About {amount(missing)} of {amount(row.size)} to fetch, the rest is here."]
    else:
        lines = [f"About {amount(missing)} to fetch."]
    enough = missing < free
    lines += [verdict.sentence, f"{amount(free)} are free on the disk" + ("." if enough else ": too little.")]
    if row.model is not None and row.model.gguf:
        lines += [f"Licence {row.model.licences}, from {row.model.gguf[0].repo}"]
    return Confirm(f"Pull {row.name}?", "\n".join(lines), "Pull", careful=verdict.word == "too large" or not enough)


def removal_question(name: str, local: LocalModel) -> Confirm:
    """Raises UsageError for what is not ours to take away."""
    removal = plan_removal(local)
    shared = ["Other Hugging Face tools lose it too: the cache is shared."] if local.repo is not None else []
    detail = "\n".join([f"{amount(removal.frees)} become free.", *removal.notes, *shared])
    return Confirm(f"Remove {name}?", detail, "Remove", careful=True)


def remove(local: LocalModel) -> int:
    """Bytes that became free. Raises R1Error, OSError."""
    removal = plan_removal(local)
    carry_out(removal)
    return removal.frees

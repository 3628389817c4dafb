"""`r1local verify`: are these the bytes that were published, and are they sound?"""

from __future__ import annotations

from typing import Any

from r1local import hardware
from r1local.catalog import load_catalog
from r1local.cli.integrity import check_bytes
from r1local.cli.output import Output
from r1local.cli.progress import Transfer
from r1local.engine.rows import broken_tensors
from r1local.errors import ModelFileError, R1Error, UsageError
from r1local.gguf_header import read_header
from r1local.store import LocalModel, all_local, find
from r1local.store.published import published_checksum


def run_verify(names: list[str], *, everything: bool, as_json: bool) -> None:
    """Raises the first model's error after all were looked at."""
    output = Output()
    catalog = load_catalog()
    if not names and not everything:
        raise UsageError("No model was named.", "Name one that `r1local list` shows, or --all.")
    models = all_local(catalog) if everything else [find(catalog, name) for name in names]
    failed: R1Error | None = None
    reports = []
    try:
        for local in models:
            report, error = verify(local, output)
            reports.append(report)
            failed = failed or error
            if not as_json:
                for fact in report["facts"]:
                    output.data(f"{local.name}: {fact}\n")
                if error is not None and len(models) > 1:
                    output.data(f"{local.name}: {error.message}\n")
    finally:
        output.close()
    if as_json:
        output.json(reports, indent=2)
    if failed is not None:
        raise failed


def verify(local: LocalModel, output: Output) -> tuple[dict[str, Any], R1Error | None]:
    """Every check in turn: what was found, and the error that makes the file unusable if there is one."""
    facts: list[str] = []
    report: dict[str, Any] = {"name": local.name, "path": str(local.path), "facts": facts, "sound": False}
    try:
        header = read_header(local.path)
        count = len(header.tensors)
        facts.append(f"structure sound, {count} tensors, each inside its file")
        report["files"] = []
        for part in (local.path, *header.parts):
            wanted = published_checksum(local, part)
            found = check_bytes(local, part, wanted, output)
            report["files"].append({"name": part.name, "checksum": found, "published": wanted or None})
            facts.append(
                f"checksum of {part.name} as published"
                if wanted
                else f"checksum of {part.name} is {found}; nobody published one to compare"
            )
        for part in (local.path, *header.parts):
            transfer = Transfer(output, "Weights of")
            whole = part.stat().st_size
            broken = broken_tensors(
                part,
                threads=hardware.detect().usable_cores,
                on_progress=lambda done, t=transfer, p=part, n=whole: t.update(p.name, done, n),  # type: ignore[misc]
            )
            transfer.close()
            if broken:
                report["broken_tensors"] = broken
                raise ModelFileError(
                    f"{part.name} holds numbers that are not finite in {len(broken)} tensors, {broken[0]} first.",
                    "It was made wrong; take another file of this model.",
                )
        facts.append("every scale and weight finite")
    except R1Error as error:
        report["problem"] = error.message
        return report, error
    report["sound"] = True
    return report, None

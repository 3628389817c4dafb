"""`r1local quantize`: a checkpoint or a GGUF file to a GGUF file of another type."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path

from r1local import hardware, paths
from r1local.catalog import load_catalog
from r1local.cli.output import Output
from r1local.cli.progress import Transfer
from r1local.errors import UsageError
from r1local.prepare import Job, convert, kernels_here, planned_size, source_name, source_of, target_for
from r1local.store import find
from r1local.units import amount, seconds


@dataclass(frozen=True, slots=True)
class QuantizeFlags:
    """The command line of `quantize`."""

    source: str
    job: Job
    output: Path | None = None
    force: bool = False
    dry_run: bool = False


def run_quantize(flags: QuantizeFlags) -> None:
    """Raises R1Error, OSError, KeyboardInterrupt."""
    output = Output()
    catalog = load_catalog()
    source = source_of(flags.source, catalog)
    job = replace(flags.job, threads=flags.job.threads or hardware.detect().usable_cores)
    wish = job.wish()
    target = paths.expand(str(flags.output)) if flags.output else target_for(source_name(source), wish.file_type)
    if target.is_dir():
        target = target / f"{source_name(source)}-{wish.file_type}.gguf"
    if flags.dry_run:
        if not source.is_dir():
            raise UsageError("The size is known before the work for a checkpoint only.", "Leave --dry-run out.")
        output.line(f"{target.name}: {planned_size(source, job):,} bytes of tensors, into {target.parent}.")
        return
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} cannot be made of itself.", "Name another file with -o.")
    if target.exists() and not flags.force:
        raise UsageError(f"{target} is there already.", "Take another name with -o, or overwrite it with --force.")
    if flags.output is None:
        paths.ensure_folder(target.parent)
    elif not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}.", "Make it first.")
    size = planned_size(source, job) if source.is_dir() else source.stat().st_size
    output.line(kernels_here(job.kernels))
    started = time.monotonic()
    transfer = Transfer(output, "Converting", plain_after=0.0)

    def report(done: int, total: int) -> None:
        transfer.update(target.name, done * size // max(1, total), size)

    try:
        demoted = convert(source, target, replace(job, on_progress=report))
    except KeyboardInterrupt:
        job.cancel.set()
        transfer.close()
        output.line("Stopped. The same command goes on from here.")
        raise
    finally:
        transfer.close()
        output.close()
    if demoted:
        output.line(f"{demoted} tensors have rows that no block of {wish.file_type} fits: they got a larger type.")
    took = seconds(time.monotonic() - started)
    name = find(catalog, str(target)).name if flags.output is None else str(target)
    output.line(f'{amount(target.stat().st_size)} in {took}. To use it: r1local chat -m {shlex.quote(name)} "..."')
    output.data(f"{target}\n")

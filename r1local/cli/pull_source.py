"""`r1local pull --from-source`: a model out of the checkpoint that its publisher put on the Hub."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from r1local import __version__, hardware
from r1local.catalog import Catalog, load_catalog
from r1local.checksums import Checksums
from r1local.cli.output import Output
from r1local.cli.progress import Transfer
from r1local.cli.pull import PullFlags, ask_about, show_progress
from r1local.errors import Offline, UsageError
from r1local.gguf_header import read_header
from r1local.hub.client import Client
from r1local.hub.hosts import Hosts, configured_endpoint, configured_token, is_offline
from r1local.hub.names import Reference, parse_reference
from r1local.hub.pull import Puller
from r1local.prepare import Job, kernels_here, target_for
from r1local.prepare.fit import MemoryVerdict, memory_verdict
from r1local.prepare.from_source import Preparer, SourcePlan, Standing
from r1local.store import find
from r1local.units import amount, seconds

_WITHOUT_A_RECOMMENDATION = "Q4_K_M"


def pull_source(flags: PullFlags, catalog: Catalog, output: Output) -> Path | None:
    """Fetch and convert; the path of the model, or None after a dry run. Raises R1Error, KeyboardInterrupt."""
    endpoint = configured_endpoint(flags.endpoint)
    reference = parse_reference(flags.name, catalog, endpoint=endpoint)
    if reference.file:
        raise UsageError("A single file is no checkpoint.", "Name the repository: user/repo")
    file_type = flags.quant or reference.quantization or _recommended(reference)
    if flags.offline or is_offline():
        return _offline(reference, file_type)
    job = Job(file_type, kernels=flags.kernels, threads=hardware.detect().usable_cores)
    hosts = Hosts(endpoint, configured_token(endpoint, flags.token))
    transfer = Transfer(output, "Fetching", json_lines=flags.json, plain_after=0.0)
    started = 0.0
    with Client(hosts, user_agent=f"r1local/{__version__}") as client:
        puller = Puller(
            client, catalog, Checksums(), cancel=job.cancel,
            on_progress=lambda progress: show_progress(transfer, progress),
            on_notice=transfer.say, on_wait=transfer.pause,
        )  # fmt: skip
        preparer = Preparer(puller)
        try:
            plan = preparer.plan(reference, job, revision=flags.revision)
            transfer.close()
            memory = _announce(plan, output, flags)
            plan.check_space(keep_source=flags.keep_source)
            if flags.dry_run:
                return None
            if not plan.is_made:
                ask_about(plan.repository, catalog, output, flags, memory)
            started = time.monotonic()
            preparer.on_standing = _shower(transfer, plan)
            path = preparer.run(plan, keep_source=flags.keep_source)
        except KeyboardInterrupt:
            transfer.close()
            if started:
                output.line("Stopped. The same command goes on from here.")
            raise
        finally:
            transfer.close()
    read_header(path)
    if not flags.json:
        took = f"{amount(path.stat().st_size)} in {seconds(time.monotonic() - started)}, tokenizer proved."
        name = find(catalog, str(path)).name
        output.line(f'{"It is here already." if plan.is_made else took} To use it: r1local chat -m {name} "..."')
    return path


def _offline(reference: Reference, file_type: str) -> Path:
    repository = reference.model.source if reference.model else reference.repos[0]
    made = target_for(repository.rpartition("/")[2], Job(file_type).wish().file_type)
    if made.exists():
        return made
    raise Offline(
        "A checkpoint is wanted from the network, and it is switched off.",
        "With the checkpoint here: r1local quantize FOLDER",
    )


def _recommended(reference: Reference) -> str:
    return reference.model.recommended if reference.model else _WITHOUT_A_RECOMMENDATION


def _shower(transfer: Transfer, plan: SourcePlan) -> Callable[[Standing], None]:
    """One line for both: what has come, and how much of it is converted; once all is here, the conversion alone."""
    name, size = plan.target.name, plan.size

    def show(standing: Standing) -> None:
        share = standing.converted / max(1, standing.to_convert)
        if standing.fetched < standing.to_fetch:
            transfer.update(f"{name} ({share:.0%} converted)", standing.fetched, standing.to_fetch, "Fetching")
        else:
            transfer.update(name, int(share * size), size, "Converting")

    return show


def _announce(plan: SourcePlan, output: Output, flags: PullFlags) -> MemoryVerdict:
    machine = hardware.detect()
    quantization = load_catalog().known_quantization(plan.checkpoint.wish.file_type)
    memory = memory_verdict(plan.size, plan.model, quantization, machine)
    licence = plan.model.licences if plan.model else plan.repository.licence or "not stated"
    if flags.json:
        output.json(
            {
                "event": "plan",
                "repository": plan.repository.id,
                "commit": plan.repository.commit,
                "shards": [{"name": s.name, "size": s.size, "sha256": s.sha256} for s in plan.shards],
                "quantization": plan.checkpoint.wish.file_type,
                "licence": licence,
                "to_fetch": plan.to_fetch,
                "size": plan.size,
                "disk_needed": plan.room_needed,
                "disk_free": plan.free,
                "memory_needed": memory.needed,
                "memory": memory.word,
                "path": str(plan.target),
            }
        )
        return memory
    shards = f"{len(plan.shards)} shards" if len(plan.shards) > 1 else "1 file"
    output.line(f"{plan.repository.id} at {plan.repository.commit[:7]}: {amount(plan.to_fetch)} in {shards}")
    output.line(f"becomes {plan.target.name}, {amount(plan.size)}, licence {licence}. {memory.sentence}")
    if flags.dry_run:
        output.line(f"{plan.room_needed:,} bytes of disk at the most; {plan.free:,} are free. {kernels_here()}")
        for stored in plan.checkpoint.layout.stored:
            output.data(f"{stored.size}\t{stored.type}\t{stored.name}\n")
    return memory

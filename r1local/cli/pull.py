"""`r1local pull`: fetch a model into the cache that all Hugging Face tools share."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r1local import __version__, hardware
from r1local.catalog import Catalog, load_catalog
from r1local.checksums import Checksums
from r1local.cli.fit import best_for_this_machine
from r1local.cli.output import Output
from r1local.cli.progress import Transfer
from r1local.errors import DownloadError, R1Error, UnsafeServer, UsageError
from r1local.gguf_header import read_header
from r1local.hf_cache import cached_repos
from r1local.hub.client import Client
from r1local.hub.hosts import Hosts, configured_endpoint, configured_token, is_offline
from r1local.hub.names import parse_reference
from r1local.hub.pull import Progress, Puller, PullPlan
from r1local.hub.repository import Repository
from r1local.hub.trust import look_alike
from r1local.prepare.fit import MemoryVerdict, memory_verdict, pull_name, reason
from r1local.store import LocalModel, find, find_without_network
from r1local.terminal import clean_line
from r1local.units import amount, seconds

_VERBS = {"downloading": "Fetching", "checking": "Checking", "waiting": "Waiting for another download of"}


@dataclass(frozen=True, slots=True)
class PullFlags:
    """The command line of `pull`."""

    name: str
    revision: str = ""
    token: str = ""
    endpoint: str = ""
    yes: bool = False
    dry_run: bool = False
    json: bool = False
    offline: bool = False
    from_source: bool = False
    quant: str = ""
    """Of a model that is converted."""
    keep_source: bool = False
    kernels: str = "auto"


def run_pull(flags: PullFlags) -> None:
    """Raises R1Error, KeyboardInterrupt."""
    output = Output()
    try:
        if not flags.name:
            flags = replace(flags, name=_best_here(flags, output))
        if flags.from_source:
            from r1local.cli.pull_source import pull_source

            local = pull_source(flags, load_catalog(), output)
        else:
            local = pull(flags, load_catalog(), output)
    except R1Error as error:
        if flags.json:
            report = {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
            output.json({"event": "error", **report})
        raise
    finally:
        output.close()
    if flags.json:
        output.json({"event": "done", "path": str(local) if local is not None else None})
    elif local is not None:
        output.data(f"{local}\n")


def _best_here(flags: PullFlags, output: Output) -> str:
    """The name of the model to pull where none was given, after a yes. Raises UsageError, KeyboardInterrupt."""
    best = best_for_this_machine(load_catalog())
    if best is None:
        raise UsageError("No thinking model of the catalog runs well here.", "`r1local fit` lists them; name one.")
    about = f"{best.name}, {reason(best)}"
    if not (flags.yes or flags.dry_run):
        if not output.can_ask:
            raise UsageError(f"No model is named. The best here: {about}", f"Type: r1local pull {pull_name(best)}")
        if not output.ask(f"The best for this machine: {about} Pull it ({amount(best.plan.shape.file_bytes)})?"):
            raise KeyboardInterrupt
    else:
        output.line(f"The best for this machine: {about}")
    return pull_name(best)


def pull(flags: PullFlags, catalog: Catalog, output: Output) -> Path | None:
    """Fetch what is asked for; its path, or None after a dry run. Raises R1Error, KeyboardInterrupt."""
    if flags.offline or is_offline():
        return find_without_network(catalog, flags.name).path
    endpoint = configured_endpoint(flags.endpoint)
    reference = parse_reference(flags.name, catalog, endpoint=endpoint)
    hosts = Hosts(endpoint, configured_token(endpoint, flags.token))
    started = 0.0
    transfer = Transfer(output, "Fetching", json_lines=flags.json, plain_after=0.0)
    with Client(hosts, user_agent=f"r1local/{__version__}") as client:
        puller = Puller(
            client,
            catalog,
            Checksums(),
            on_progress=lambda progress: show_progress(transfer, progress),
            on_notice=transfer.say,
            on_wait=transfer.pause,
        )
        try:
            try:
                plan = puller.plan(reference, revision=flags.revision)
            except DownloadError as error:
                return _already_here(flags, catalog, output, error)
            memory = _announce(plan, catalog, output, flags)
            plan.check_space()
            if flags.dry_run:
                return None
            if plan.missing:
                ask_about(plan.repository, catalog, output, flags, memory)
            started = time.monotonic()
            path = puller.run(plan)
        except KeyboardInterrupt:
            transfer.close()
            if started:
                output.line(f"Stopped. To go on from here: {_same_command(flags)}")
            raise
        finally:
            transfer.close()
    read_header(path)
    if not flags.json:
        took = seconds(time.monotonic() - started)
        got = f"{amount(puller.fetched)} in {took}, checksum right." if puller.fetched else "It was here already."
        output.line(f'{got} To use it: r1local chat -m {_name(plan, path)} "..."')
    return path


def _already_here(flags: PullFlags, catalog: Catalog, output: Output, error: DownloadError) -> Path:
    """Without the Hub, what is here will do. Raises `error` when it is not, or a certain revision was asked for."""
    if flags.revision or flags.dry_run or isinstance(error, UnsafeServer):
        raise error
    try:
        path = find(catalog, flags.name).path
    except R1Error:
        raise error from None
    output.line(f"{error.message} It is here already, perhaps not in its newest version.")
    return path


def _same_command(flags: PullFlags) -> str:
    """What to type to pull the same again, but for a token."""
    words = ["r1local", "pull", flags.name]
    for option, value in (("--revision", flags.revision), ("--endpoint", flags.endpoint)):
        words += [option, value] if value else []
    return shlex.join(words)


def show_progress(transfer: Transfer, progress: Progress) -> None:
    """Where a download stands, on its line."""
    transfer.update(progress.file, progress.done, progress.size, _VERBS[progress.state])


def _name(plan: PullPlan, path: Path) -> str:
    model = plan.reference.model
    return LocalModel(path, model, plan.offer.quantization, "", None if model else plan.cache).name


def _announce(plan: PullPlan, catalog: Catalog, output: Output, flags: PullFlags) -> MemoryVerdict:
    """What will be fetched, from whom, how large, under which licence, and whether it will run here."""
    model = plan.reference.model or catalog.by_file_name(plan.offer.name.rpartition("/")[2])
    machine = hardware.detect()
    memory = memory_verdict(plan.offer.size, model, catalog.known_quantization(plan.offer.quantization), machine)
    licence = model.licences if model else plan.repository.licence or "not stated"
    if flags.json:
        output.json(
            {
                "event": "plan",
                "repository": plan.repository.id,
                "commit": plan.repository.commit,
                "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in plan.offer.files],
                "quantization": plan.offer.quantization,
                "licence": licence,
                "size": plan.offer.size,
                "missing": plan.missing,
                "disk_free": plan.free,
                "disk_suffices": plan.disk_suffices,
                "memory_needed": memory.needed,
                "memory_available": machine.memory_available,
                "memory_total": machine.memory_total,
                "memory": memory.word,
            }
        )
        return memory
    parts = f" in {len(plan.offer.files)} parts" if len(plan.offer.files) > 1 else ""
    output.line(f"{plan.repository.id} at {plan.repository.commit[:7]}: {clean_line(plan.offer.name)}")
    here = plan.offer.size - plan.missing
    if not here:
        missing = ""
    elif plan.missing:
        missing = f" ({amount(plan.missing)} of it missing)"
    else:
        missing = " (here already)"
    output.line(f"{amount(plan.offer.size)}{parts}{missing}, licence {licence}. {memory.sentence}")
    if flags.dry_run:
        output.line(f"{plan.missing:,} bytes to fetch; {plan.free:,} free in {plan.cache.cache}.")
        for file in plan.offer.files:
            output.data(f"{file.size}\t{file.sha256}\t{clean_line(file.name)}\n")
    return memory


def ask_about(
    repository: Repository, catalog: Catalog, output: Output, flags: PullFlags, memory: MemoryVerdict
) -> None:
    """Ask before something is fetched that cannot run here, or comes from somebody new. Raises UsageError,
    KeyboardInterrupt.
    """
    if flags.yes:
        return
    if memory.word == "too large" and output.can_ask and not output.ask("It will not run here. Fetch it all the same?"):
        output.line("Nothing was fetched.")
        raise KeyboardInterrupt
    owner = repository.id.partition("/")[0]
    known = {repo.partition("/")[0] for model in catalog.models for repo in (model.source, *_repos(model))}
    known |= {repo.id.partition("/")[0] for repo in cached_repos() if repo.id != repository.id}
    known -= {""}
    if owner in known:
        return
    twin = look_alike(owner, known)
    warning = f" Mind that it is not {twin}." if twin else ""
    about = f"{repository.downloads:,} downloads last month" if repository.downloads else "no downloads known"
    question = f"{owner} is new here ({about}, licence {repository.licence or 'not stated'}).{warning} Go on?"
    if not output.can_ask:
        raise UsageError(question.removesuffix(" Go on?"), "Add --yes to fetch it all the same.")
    if not output.ask(question):
        output.line("Nothing was fetched.")
        raise KeyboardInterrupt


def _repos(model: Any) -> list[str]:
    return [source.repo for source in model.gguf]

"""A model out of the checkpoint its publisher put on the Hub: fetched, converted and dropped, shard by shard.

While one shard is converted the next one comes over the network. The layout of the result is known before the first
weight is here, so each tensor goes straight to its place, and the disk holds the result and two shards at most.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from r1local import paths
from r1local.catalog import Model
from r1local.errors import DiskFull, NotOffered, UsageError
from r1local.hf_cache import CachedRepo, cache_folder
from r1local.hub import partial as partials
from r1local.hub.names import Reference
from r1local.hub.pull import Progress, Puller, PullPlan
from r1local.hub.repository import Offer, RemoteFile, Repository, look_up
from r1local.names import check_names, check_revision
from r1local.prepare import Job, alone, target_for, translated
from r1local.prepare.fetched import FetchedShards, is_here, will_go
from r1local.units import amount

if TYPE_CHECKING:
    from quantize.conversion import Conversion
    from quantize.convert import CheckpointConversion

_SPARE_BYTES = 64 << 20
_POLL_SECONDS = 0.2
# Shards on the disk at a time: one that is converted, one that is fetched.
_MOST_SHARDS = 2
_MOST_LOSSES = 3
"""How often a shard may vanish before its turn."""
_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far it is. Neither number ever falls."""

    fetched: int
    """Bytes of shards that are here or were."""
    to_fetch: int
    """Bytes of all shards."""
    converted: int
    """Weights."""
    to_convert: int
    """All weights."""


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """What is going to be fetched and made."""

    repository: Repository
    revision: str
    model: Model | None
    job: Job
    target: Path
    folder: Path
    """The snapshot in the cache, with everything but the weights."""
    shards: tuple[RemoteFile, ...]
    checkpoint: CheckpointConversion
    size: int
    """Bytes of the result's tensors."""
    cache: CachedRepo
    free: int
    """Bytes free where the result and the shards go; the smaller of both when these are two disks."""
    is_made: bool
    """Whether the result is here already."""

    @property
    def to_fetch(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shard in self.shards)

    @property
    def room_needed(self) -> int:
        """The most bytes the disk will hold: the result and two shards."""
        return self.size + sum(sorted((shard.size for shard in self.shards), reverse=True)[:_MOST_SHARDS])

    def check_space(self, *, keep_source: bool = False) -> None:
        """Raises DiskFull. What an interrupted run left on the disk is part of what will be there."""
        if self.is_made:
            return
        part = self.target.with_name(self.target.name + ".part")
        taken = part.stat().st_blocks * 512 if part.exists() and hasattr(os.stat_result, "st_blocks") else 0
        temporary, ours = [], will_go(self.target, self.repository.commit)
        for shard in self.shards:
            if not is_here(self.cache, self.repository.commit, shard):
                temporary.append(shard.size)
                taken += partials.taken(self.cache.partials, shard.etag) if shard.etag else 0
            elif shard.name in ours:
                temporary.append(shard.size)
                taken += shard.size
        most = self.size + sum(sorted(temporary, reverse=True)[: None if keep_source else _MOST_SHARDS])
        if most - taken + _SPARE_BYTES > self.free:
            raise DiskFull(
                f"The result and two shards take {amount(self.room_needed)}, and {amount(self.free)} are free, "
                f"of which {amount(_SPARE_BYTES)} stay so.",
                "Free some space, or take a smaller type.",
            )


class Preparer:
    """Makes models of checkpoints on one Hub."""

    def __init__(self, puller: Puller, on_standing: Callable[[Standing], None] = lambda _: None) -> None:
        """on_standing: called from several threads."""
        self.puller = puller
        self.on_standing = on_standing
        self._pulling = threading.Lock()
        self._telling = threading.Lock()
        self._fetched = self._to_fetch = self._before = 0
        self._converted = self._to_convert = 0
        self._failure: BaseException | None = None

    def plan(self, reference: Reference, job: Job, *, revision: str = "") -> SourcePlan:
        """Look the checkpoint up and fetch what is small: its numbers, its tokenizer, its card.

        Raises NotOffered for a repository without safetensors, R1Error.
        """
        from quantize.bounded import MAX_CARD
        from quantize.checkpoint import INDEX, OPTIONAL, REQUIRED, SINGLE
        from quantize.convert import CheckpointConversion
        from quantize.imatrix import read_imatrix
        from quantize.metadata import Origin

        puller = self.puller
        wanted = check_revision(revision or reference.revision) if revision or reference.revision else ""
        repo = reference.model.source if reference.model else reference.repos[0]
        repository = look_up(puller.client, repo, wanted, puller.catalog, cancel=puller.cancel, on_wait=puller.on_wait)
        files = {file.name: file for file in repository.files}
        missing = [name for name in REQUIRED if name not in files]
        if missing or not (INDEX in files or SINGLE in files):
            raise NotOffered(
                f"{repository.id} is no checkpoint that can be converted: it has no {(*missing, SINGLE)[0]}.",
                "Name the repository with the original weights as .safetensors.",
            )
        cache = CachedRepo(cache_folder(), repository.id)
        small = [files[name] for name in (*REQUIRED, INDEX) if name in files]
        # A card or a template of megabytes is none.
        small += [files[name] for name in OPTIONAL if name in files and files[name].size <= MAX_CARD]
        puller.run(_pull_of(reference, wanted, repository, tuple(small), cache))
        folder = cache.snapshot(repository.commit)
        wish = job.wish()
        name = repository.id.rpartition("/")[2]
        with translated():
            imatrix = read_imatrix(job.imatrix) if job.imatrix else None
            origin = Origin(name, repository.id, repository.commit)
            checkpoint = CheckpointConversion(folder, wish, origin, imatrix)
        if lost := [shard for shard in checkpoint.shards if shard not in files]:
            raise NotOffered(f"{repository.id} has no {lost[0]}, of which its own index speaks.")
        shards = tuple(files[shard] for shard in checkpoint.shards)
        check_names([shard.name for shard in shards])
        target = target_for(name, wish.file_type)
        paths.ensure_folder(target.parent)
        free = min(shutil.disk_usage(target.parent).free, shutil.disk_usage(cache.folder).free)
        return SourcePlan(
            repository, wanted, reference.model, job, target, folder, shards, checkpoint, checkpoint.layout.data_size,
            cache, free, _is_made(target, checkpoint),
        )  # fmt: skip

    def run(self, plan: SourcePlan, *, keep_source: bool = False) -> Path:
        """Fetch and convert. The path of the model.

        Raises R1Error or KeyboardInterrupt; the same call goes on at the last piece that was finished. Shards that
        were here before stay here; those that were fetched for this go when they are used up, unless `keep_source`.
        """
        from quantize.journal import journal_of

        plan.check_space(keep_source=keep_source)
        self._to_fetch = plan.to_fetch

        def report(done: int, total: int) -> None:
            with self._telling:
                self._converted, self._to_convert = max(self._converted, done), total
                self._tell()

        job = replace(plan.job, cancel=self.puller.cancel, on_progress=report)
        source = f"{plan.repository.id}@{plan.repository.commit}"
        with translated(), alone(plan.target):
            fetched = FetchedShards(plan.target, plan.cache, plan.repository.commit, plan.shards)
            if not _is_made(plan.target, plan.checkpoint):  # another process may have been faster
                with plan.checkpoint.open(plan.target, job.options(), source) as conversion:
                    self._run(plan, conversion, fetched, keep_source)
                    conversion.finish()
            if not keep_source:
                fetched.drop_all()
            fetched.forget()
            journal_of(plan.target).unlink(missing_ok=True)  # of a run that was killed behind the rename
        return plan.target

    def _run(self, plan: SourcePlan, conversion: Conversion, fetched: FetchedShards, keep_source: bool) -> None:
        ready: queue.Queue[RemoteFile | None] = queue.Queue()
        slots = threading.Semaphore(_MOST_SHARDS)
        fetcher = threading.Thread(
            target=self._fetch, args=(plan, conversion, fetched, keep_source, ready, slots), name="fetch", daemon=True
        )
        fetcher.start()
        try:
            while (shard := ready.get()) is not None:
                self._take(plan, conversion, fetched, shard)
                if not keep_source:
                    fetched.drop(shard.name)
                slots.release()
        except BaseException:
            self.puller.cancel.set()
            # A request that nobody answers is not waited for: what the thread writes may be cut off at any byte.
            fetcher.join(_PATIENCE_SECONDS)
            raise
        fetcher.join()
        if self._failure is not None:
            raise self._failure

    def _take(self, plan: SourcePlan, conversion: Conversion, fetched: FetchedShards, shard: RemoteFile) -> None:
        """Convert a shard; fetch it again if another process, done with it, took it away in between."""
        from quantize.errors import BadSource

        for _ in range(_MOST_LOSSES):
            try:
                plan.checkpoint.take(conversion, shard.name)
                return
            except BadSource:
                if (plan.folder / shard.name).exists():
                    raise
                self._bring(plan, fetched, shard)
        plan.checkpoint.take(conversion, shard.name)

    def _fetch(
        self, plan: SourcePlan, conversion: Conversion, fetched: FetchedShards, keep_source: bool,
        ready: queue.Queue[RemoteFile | None], slots: threading.Semaphore,
    ) -> None:  # fmt: skip
        """In a thread of its own: bring shard after shard, never more than two at a time."""
        try:
            for shard in plan.shards:
                if plan.checkpoint.is_used_up(conversion, shard.name):
                    if not keep_source:
                        fetched.drop(shard.name)
                else:
                    while not slots.acquire(timeout=_POLL_SECONDS):
                        if self.puller.cancel.is_set():
                            raise KeyboardInterrupt
                    self._bring(plan, fetched, shard)
                    ready.put(shard)
                with self._telling:
                    self._before += shard.size
                    self._fetched = max(self._fetched, self._before)
                    self._tell()
        except BaseException as error:  # the other thread raises it
            self._failure = error
        finally:
            ready.put(None)

    def _bring(self, plan: SourcePlan, fetched: FetchedShards, shard: RemoteFile) -> None:
        def note(progress: Progress) -> None:
            if progress.state == "downloading":
                with self._telling:
                    self._fetched = max(self._fetched, self._before + progress.done)
                    self._tell()

        pull = _pull_of(Reference((plan.repository.id,)), plan.revision, plan.repository, (shard,), plan.cache)
        with self._pulling:
            self.puller.on_progress = note
            for attempt in range(_MOST_LOSSES):
                fetched.note(shard)
                try:
                    self.puller.run(pull)
                    return
                except UsageError:  # it vanished while it was looked at
                    if attempt + 1 == _MOST_LOSSES or is_here(plan.cache, plan.repository.commit, shard):
                        raise

    def _tell(self) -> None:
        """Under the lock, so that no standing comes after a newer one."""
        self.on_standing(Standing(self._fetched, self._to_fetch, self._converted, self._to_convert))


def _pull_of(
    reference: Reference, revision: str, repository: Repository, files: tuple[RemoteFile, ...], cache: CachedRepo
) -> PullPlan:
    """Some files of a repository as a pull of their own. The space was looked at before."""
    check_names([file.name for file in files])
    return PullPlan(reference, revision, repository, Offer("", files), (), cache, 0, 0)


def _is_made(target: Path, checkpoint: CheckpointConversion) -> bool:
    """Whether the result is here. Raises UsageError when another file has its name."""
    from quantize.errors import BadSource
    from quantize.gguf_format import read_gguf

    if not target.exists():
        return False
    try:
        header = read_gguf(target)
    except BadSource:
        header = None  # broken, or no GGUF at all
    if header is not None:
        source = header.value("general.source.url", "")
        tensors = [(tensor.name, tensor.type, tensor.shape) for tensor in header.tensors]
        planned = [(tensor.name, tensor.type, tensor.shape) for tensor in checkpoint.layout.stored]
        if tensors == planned and str(source).endswith(f"/tree/{checkpoint.origin.revision}"):
            return True
    raise UsageError(
        f"{target} is there, made of something else.", "Move it away, or `r1local rm` it, and type the same again."
    )

"""From a reference to verified files in the shared cache: look up, choose, check the space, fetch, publish."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from r1local.catalog import Catalog
from r1local.checksums import Checksums
from r1local.errors import ChecksumMismatch, DiskFull, NotOffered, R1Error, UsageError
from r1local.hf_cache import CachedRepo, cache_folder, sync_folder
from r1local.hub import partial as partials
from r1local.hub.choose import choose_offer
from r1local.hub.client import Client, Passing
from r1local.hub.fetch import Fetch
from r1local.hub.names import Reference
from r1local.hub.partial import Identity
from r1local.hub.ranges import FetchOptions
from r1local.hub.repository import Location, Offer, RemoteFile, Repository, locate, look_up
from r1local.names import check_names, check_revision, unsafe_name
from r1local.terminal import clean_line
from r1local.units import amount

# Free space that stays, for the file system and everybody else.
_SPARE_BYTES = 64 << 20
_POLL_SECONDS = 0.5
# What says how a model may be used; small, and carried along when it is taken to another machine.
_PAPERS = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")
_MAX_PAPER = 1 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a pull stands. `done` never falls."""

    state: Literal["downloading", "checking", "waiting"]
    """waiting: another process downloads the same file."""
    file: str
    done: int
    size: int
    """Bytes, of all files together; of the file that is checked while checking."""


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull will do, before it does it."""

    reference: Reference
    revision: str
    """The branch, tag or commit that was asked for; empty for the main branch."""
    repository: Repository
    offer: Offer
    papers: tuple[RemoteFile, ...]
    cache: CachedRepo
    missing: int
    """Bytes to fetch."""
    free: int
    """Bytes free on the disk of the cache."""

    @property
    def path(self) -> Path:
        return self.cache.snapshot(self.repository.commit, self.offer.name)

    @property
    def disk_suffices(self) -> bool:
        return not self.missing or self.missing + _SPARE_BYTES <= self.free

    def check_space(self) -> None:
        """Raises DiskFull when what is missing does not fit."""
        if not self.disk_suffices:
            raise DiskFull(
                f"{amount(self.missing)} are to be fetched, and {amount(self.free)} are free in {self.cache.cache}.",
                "Free some space, or set HF_HUB_CACHE to a folder on a larger disk.",
            )


@dataclass(slots=True)
class Puller:
    """Pulls from one Hub. Callbacks come from the thread that calls `run`, `on_wait` from any."""

    client: Client
    catalog: Catalog
    checksums: Checksums
    options: FetchOptions = field(default_factory=FetchOptions)
    cancel: threading.Event = field(default_factory=threading.Event)
    on_progress: Callable[[Progress], None] = lambda _: None
    on_notice: Callable[[str], None] = lambda _: None
    on_wait: Callable[[float, str], None] | None = None
    fetched: int = 0
    """Bytes that came over the network."""
    _damaged: set[Path] = field(default_factory=set)
    _published: set[str] = field(default_factory=set)
    _done_before: int = 0
    _highest: int = 0

    # Before

    def plan(self, reference: Reference, *, revision: str = "") -> PullPlan:
        """Look up what is to be had. Raises NotOffered with what there is instead, AccessDenied, DownloadError."""
        wanted = check_revision(revision or reference.revision) if revision or reference.revision else ""
        if not reference.repos:
            assert reference.model is not None
            raise NotOffered(
                f"No ready GGUF file of {reference.model.name} is known.",
                "Name a repository that has one: r1local pull user/repo",
            )
        refusal: NotOffered | None = None
        for repo in reference.repos:
            try:
                repository = look_up(self.client, repo, wanted, self.catalog, cancel=self.cancel, on_wait=self.on_wait)
                offer = choose_offer(repository, reference, self.catalog)
            except NotOffered as error:
                refusal = refusal or error  # a catalog model has several homes
                continue
            return self._planned(reference, repository, offer, wanted)
        assert refusal is not None
        raise refusal

    def _planned(self, reference: Reference, repository: Repository, offer: Offer, revision: str) -> PullPlan:
        papers = tuple(
            file
            for file in repository.files
            if file.name in _PAPERS and file.size <= _MAX_PAPER and not unsafe_name(file.name)
        )
        check_names([file.name for file in (*offer.files, *papers)])
        cache = CachedRepo(cache_folder(), repository.id)
        missing = 0
        for file in offer.files:
            if not self._seems_here(cache, repository.commit, file):
                missing += file.size - partials.held(cache.partials, file.etag)
        folder = cache.cache
        while not folder.exists():
            folder = folder.parent
        return PullPlan(reference, revision, repository, offer, papers, cache, missing, shutil.disk_usage(folder).free)

    def _seems_here(self, cache: CachedRepo, commit: str, file: RemoteFile) -> bool:
        path = cache.snapshot(commit, file.name)
        try:
            if file.etag and cache.holds(file.etag) and cache.blob(file.etag).stat().st_size == file.size:
                return True
            return cache.allows(path) and path.stat().st_size == file.size
        except OSError:
            return False

    # The pull

    def run(self, plan: PullPlan) -> Path:
        """Fetch what is missing and make it appear in the cache. The path of the model, of the first part if split.

        Raises R1Error or KeyboardInterrupt; what was fetched is kept for the next time, except where its checksum is
        wrong.
        """
        plan.check_space()
        try:
            return self._run(plan)
        except OSError as error:
            raise partials.as_disk_full(error) from error

    def _run(self, plan: PullPlan) -> Path:
        plan.cache.prepare()
        self._done_before = self._highest = 0
        etags = {}
        for file in plan.offer.files:
            etags[file.name] = self._bring(plan, file)
            self._done_before += file.size
        for paper in plan.papers:
            try:
                etags[paper.name] = self._bring(plan, paper)
            except (R1Error, Passing) as error:
                self.on_notice(f"{paper.name} was left out: {error}")
        # The first part last: a split model appears when it is whole.
        for name, etag in reversed(etags.items()):
            if etag:
                plan.cache.link(plan.repository.commit, name, etag, own=etag in self._published)
        for folder in {plan.path.parent, plan.path.parent.parent}:
            sync_folder(folder)
        plan.cache.set_revision(plan.revision or "main", plan.repository.commit)
        for file in plan.offer.files:
            path = plan.cache.snapshot(plan.repository.commit, file.name)
            if not plan.cache.allows(path):
                raise UsageError(f"{path} was changed by something else.", "Pull again.")
            if etags[file.name]:
                self.checksums.remember(path, etags[file.name])
        return plan.path

    def _bring(self, plan: PullPlan, file: RemoteFile) -> str:
        """Make the blob of one file be there, and right. Its name; empty when the snapshot holds the file itself."""
        cache = plan.cache
        if file.etag and self._is_here(plan, file, file.etag):
            return file.etag if cache.holds(file.etag) else ""

        def find() -> Location:
            return locate(self.client, plan.repository, file, cancel=self.cancel, on_wait=self.on_wait)

        location = find()
        identity = Identity(location.etag, file.size, plan.repository.id, clean_line(file.name))
        with self._alone(plan, file, location.etag):
            if self._is_here(plan, file, location.etag):
                return location.etag if cache.holds(location.etag) else ""
            for folder, lost in partials.outdated(cache.partials, identity):
                self.on_notice(
                    f"{identity.file} was changed upstream since {lost:,} bytes of it were fetched: starting over."
                )
                shutil.rmtree(folder, ignore_errors=True)
            part = self._claim(plan, file, identity)
            if part is None:
                return location.etag if cache.holds(location.etag) else ""
            try:
                part.open()
                held = part.done.total
                if held and file.size > _MAX_PAPER:
                    self.on_notice(f"Going on with {identity.file} at {held / file.size:.0%}.")
                fetch = Fetch(
                    self.client, find, location, part,
                    options=self.options, cancel=self.cancel, on_wait=self.on_wait,
                )  # fmt: skip

                complete = 0.0

                def report() -> None:
                    nonlocal complete
                    if part.done.total < file.size:
                        self._report(plan, "downloading", file, part.done.total)
                        return
                    # The checksum is nearly always ready when the last byte is; a resumed file has to be read again.
                    complete = complete or time.monotonic()
                    if time.monotonic() - complete < _POLL_SECONDS:
                        self._report(plan, "downloading", file, file.size)
                    else:
                        self._report(plan, "checking", file, fetch.hashed)

                fetch.run(report)
                self._report(plan, "downloading", file, file.size)
                self.fetched += file.size - held
                self._publish(cache, part, location.etag)
            finally:
                part.close()
        return location.etag

    def _publish(self, cache: CachedRepo, part: partials.Partial, etag: str) -> None:
        """Sync, then rename into the blobs: the name is seen when every byte is safe, and never before."""
        blob = cache.blob(etag)
        with part.data.open("rb+") as file:
            os.fsync(file.fileno())
            if not part.still_ours(file.fileno()):
                raise ChecksumMismatch(
                    f"{part.identity.file} was replaced by something else while it was downloaded.", "Pull again."
                )
        os.replace(part.data, blob)
        self._published.add(etag)
        sync_folder(blob.parent)
        part.discard()
        try:
            cache.partials.rmdir()  # only when it is empty
        except OSError:
            pass

    def _claim(self, plan: PullPlan, file: RemoteFile, identity: Identity) -> partials.Partial | None:
        """The partial to write; None when another process brought the file in the meantime."""
        while (part := partials.claim(plan.cache.partials, identity)) is None:
            self._wait(plan, file)
            if self._is_here(plan, file, identity.etag):
                return None
        if self._is_here(plan, file, identity.etag):  # in the last moment
            part.discard()
            return None
        return part

    def _is_here(self, plan: PullPlan, file: RemoteFile, etag: str) -> bool:
        """Whether the file is in the cache and right. A damaged copy counts as missing and will be replaced."""
        blob, path = plan.cache.blob(etag), plan.cache.snapshot(plan.repository.commit, file.name)
        for candidate in (blob, path):
            if candidate == blob and not plan.cache.holds(etag):
                continue
            if candidate == path and (path.is_symlink() or not plan.cache.allows(path)):
                continue  # the blob behind it was looked at
            if candidate.stat().st_size != file.size:
                continue
            known = self.checksums.known(candidate)
            if known == etag:
                return True
            if known and candidate in self._damaged:
                continue

            def report(done: int, candidate: Path = candidate) -> None:
                if self.cancel.is_set():
                    raise KeyboardInterrupt
                self.on_progress(Progress("checking", file.name, done, file.size))

            if self.checksums.compute(candidate, like=etag, on_progress=report) == etag:
                return True
            self._damaged.add(candidate)
            self.on_notice(f"The copy of {clean_line(file.name)} in the cache is damaged: fetching it again.")
        return False

    @contextmanager
    def _alone(self, plan: PullPlan, file: RemoteFile, etag: str) -> Iterator[None]:
        """Hold the lock that all Hugging Face tools take to download this blob."""
        from filelock import FileLock, Timeout

        lock = FileLock(plan.cache.locks / f"{etag}.lock", mode=0o664)
        while True:
            try:
                lock.acquire(timeout=_POLL_SECONDS)
                break
            except Timeout:
                self._wait(plan, file, seconds=0.0)
            except (NotImplementedError, OSError):
                break  # no locks on this file system; a partial has one owner all the same
        try:
            yield
        finally:
            lock.release()

    def _wait(self, plan: PullPlan, file: RemoteFile, seconds: float = _POLL_SECONDS) -> None:
        self._report(plan, "waiting", file, 0)
        if self.cancel.wait(seconds):
            raise KeyboardInterrupt

    def _report(
        self, plan: PullPlan, state: Literal["downloading", "checking", "waiting"], file: RemoteFile, done: int
    ) -> None:
        if state == "checking":
            self.on_progress(Progress(state, file.name, done, file.size))
            return
        self._highest = min(plan.offer.size, max(self._highest, self._done_before + done))
        self.on_progress(Progress(state, file.name, self._highest, plan.offer.size))

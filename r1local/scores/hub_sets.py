"""Data sets of the Hub in the shared cache: fetched once by huggingface_hub, and used from there afterwards."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from r1local.errors import AccessDenied, DiskFull, DownloadError, NotOffered, Offline, R1Error
from r1local.hf_cache import CachedRepo, cache_folder
from r1local.hub.hosts import Hosts, configured_endpoint, configured_token, is_offline
from r1local.names import check_names
from r1local.scores.tables import MAX_BYTES, LibraryWanted, parquet_missing, reads_parquet
from r1local.scores.tasks import SUFFIXES, Source, Task
from r1local.terminal import clean_line

Progress = Callable[[str, int, int], None]
"""What is fetched, how many files are here, how many it will be."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the Hub."""

    endpoint: str = ""
    """Empty: the one of the environment, or the public one."""
    token: str = ""
    """Empty: the one of the environment, or of `hf auth login`."""
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files of a data set on this disk."""

    source: Source
    files: tuple[Path, ...]
    revision: str
    """The commit they are of."""
    address: str
    """The data set's web page."""


@dataclass(frozen=True, slots=True)
class CachedSet(CachedRepo):
    """One data set's folder in the cache, which may not be there yet."""

    @property
    def folder(self) -> Path:
        return self.cache / f"datasets--{self.id.replace('/', '--')}"


def fetch(
    task: Task, access: Access, is_whole: Callable[[Fetched], bool], on_progress: Progress | None = None
) -> Fetched:
    """The files of the first of the task's sources that can be had; what is in the cache and whole comes first.

    Raises AccessDenied for a gated set whose terms were not accepted, NotOffered, DownloadError, Offline, DiskFull,
    and LibraryWanted where all there is needs a library that is not installed.
    """
    hosts = _hosts(access)
    for source in task.sources:
        here = cached(source, hosts.endpoint)
        if here is not None and is_whole(here):
            return here
    if access.offline or is_offline():
        raise Offline(
            f"{task.title} is not in the cache of this machine.", f"Once with a network: r1local eval {task.id}"
        )
    failures: list[R1Error] = []
    odd: list[Fetched] = []
    for source in task.sources:
        try:
            fetched = _download(task, source, hosts, _token(hosts, access), on_progress)
        except (AccessDenied, NotOffered, LibraryWanted) as error:
            failures.append(error)
            continue
        if is_whole(fetched):
            return fetched
        odd.append(fetched)
    if odd:
        return odd[0]  # what is wrong with it is said by whoever reads it
    raise min(failures, key=_usefulness)


def pick(names: Sequence[str], source: Source) -> list[str]:
    """Which of a repository's files hold the problems; those that name the split or the set go before others.

    Raises NotOffered, or LibraryWanted when only a .parquet file does and it cannot be read here.
    """
    every = sorted(name for name in names if name.lower().endswith(SUFFIXES))
    readable = [name for name in every if reads_parquet() or not name.lower().endswith(".parquet")]
    for candidates in (readable, every):
        for pattern in source.files:
            found = [name for name in candidates if fnmatchcase(name.lower(), pattern.lower())]
            for word in filter(None, (source.config, source.split)):
                found = [name for name in found if word.lower() in name.lower()] or found
            if found and candidates is not readable:
                raise parquet_missing(f"{source.repo}/{clean_line(found[0])}")
            if found:
                kind = Path(found[0]).suffix.lower()  # the same problems may be there in two forms
                return [name for name in found if Path(name).suffix.lower() == kind]
    raise NotOffered(f"{source.repo} holds no problems that can be read here.", "See its page for what it has.")


def cached(source: Source, endpoint: str = "") -> Fetched | None:
    """What of this data set is in the cache, of the commit that was fetched last."""
    repo = CachedSet(cache_folder(), source.repo)
    for snapshot in repo.snapshots():
        paths = [path for path in snapshot.rglob("*") if repo.allows(path)]
        by_name = {path.relative_to(snapshot).as_posix(): path for path in paths}
        try:
            names = pick(list(by_name), source)
        except R1Error:
            continue
        return Fetched(source, tuple(by_name[name] for name in names), snapshot.name, f"{endpoint}/{source.page}")
    return None


def _hosts(access: Access) -> Hosts:
    endpoint = configured_endpoint(access.endpoint)
    return Hosts(endpoint, configured_token(endpoint, access.token))


def _token(hosts: Hosts, access: Access) -> str | bool:
    """For huggingface_hub: False keeps it from sending the one it finds by itself to any server."""
    return configured_token(hosts.endpoint, access.token).strip() if hosts.has_token else False


def _download(task: Task, source: Source, hosts: Hosts, token: str | bool, on_progress: Progress | None) -> Fetched:
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils.tqdm import tqdm

    class Silent(tqdm):
        """No bar: progress is told by `on_progress`."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]

    try:
        try:
            info = HfApi(endpoint=hosts.endpoint, token=token).dataset_info(
                source.repo, files_metadata=True, timeout=30
            )
            sizes = {str(file.rfilename): int(file.size or 0) for file in info.siblings or ()}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__} in its answer") from error
        names = pick(list(sizes), source)
        check_names(names)
        if sum(sizes[name] for name in names) > MAX_BYTES:
            raise NotOffered(f"{source.repo} is larger than {MAX_BYTES >> 20} MiB.", "It is not what it was.")
        files = []
        for count, name in enumerate(names):
            if on_progress is not None:
                on_progress(source.repo, count, len(names))
            files.append(
                hf_hub_download(
                    source.repo,
                    name,
                    repo_type="dataset",
                    cache_dir=cache_folder(),
                    endpoint=hosts.endpoint,
                    token=token,
                    tqdm_class=Silent,
                )
            )
    except (httpx2.HTTPError, OSError, ValueError, EntryNotFoundError) as error:
        raise _explain(error, task, source, hosts) from error
    if on_progress is not None:
        on_progress(source.repo, len(names), len(names))
    return Fetched(source, tuple(map(Path, files)), str(info.sha or ""), f"{hosts.endpoint}/{source.page}")


def _explain(error: BaseException, task: Task, source: Source, hosts: Hosts) -> R1Error:
    """One sentence of ours for what huggingface_hub raises."""
    import httpx2
    from huggingface_hub import errors

    page = f"{hosts.endpoint}/{source.page}"
    match error:
        case errors.GatedRepoError():
            login = "" if hosts.has_token else "then `hf auth login` or set HF_TOKEN, "
            return AccessDenied(
                f"{task.title} is gated: who uses it must accept its terms first.",
                f"Visit {page}, accept them, {login}and try again.",
            )
        case errors.RepositoryNotFoundError():
            hint = "Check --endpoint." if hosts.has_token else "If it is private now: `hf auth login`, or set HF_TOKEN."
            return NotOffered(f"{hosts.name} has no data set {source.repo}.", hint)
        case errors.DisabledRepoError() | errors.RevisionNotFoundError() | errors.RemoteEntryNotFoundError():
            return NotOffered(f"{hosts.name} does not hand out {source.repo}.", f"Visit {page}")
        case errors.HfHubHTTPError():
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                return AccessDenied(
                    f"{hosts.name} does not let this account have {source.repo}.", f"Visit {page}, or `hf auth login`."
                )
            return DownloadError(
                f"{hosts.name} answers {status or 'nothing'} where it should send {source.repo}.", "Try again later."
            )
        case errors.LocalEntryNotFoundError() if error.__cause__ is not None:
            return _explain(error.__cause__, task, source, hosts)  # what the network said
        case httpx2.RequestError():
            from r1local.hub.client import explain

            return explain(error, hosts.endpoint)
        case OSError() if error.errno == errno.ENOSPC:
            return DiskFull(f"The disk is full: {source.repo} does not fit.", "Make room, and try again.")
        case ValueError() | httpx2.HTTPError():
            said = clean_line(str(error))[:300]
            return DownloadError(f"{hosts.name} does not answer as a Hub does: {said}.", "Check --endpoint.")
    return DownloadError(f"{source.repo} cannot be fetched: {clean_line(str(error))[:300]}.", "Try again.")


def _usefulness(error: R1Error) -> int:
    """What there is something to be done about comes first."""
    return (LibraryWanted, AccessDenied, NotOffered).index(type(error))

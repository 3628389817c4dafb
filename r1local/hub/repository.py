"""What a repository of the Hub holds, at one commit, and where its files are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from r1local.catalog import Catalog
from r1local.errors import AccessDenied, DownloadError, NotOffered, R1Error, UnsafeServer, suggest
from r1local.hub.client import Client, Passing, patiently, raise_if_passing
from r1local.hub.hosts import origin
from r1local.names import is_commit, is_companion, is_repo, quantization_in, split_part, unsafe_name
from r1local.terminal import clean_line

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOB_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_FILES = 100_000


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str
    size: int
    """Bytes."""
    sha256: str
    """Of the content where the Hub keeps one (every large file); else empty."""
    git_sha1: str = ""
    """Of a small file, as git names it."""

    @property
    def etag(self) -> str:
        """The name its blob has in the cache, as the listing says; may be empty."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True, slots=True)
class Offer:
    """A model of a repository in one quantization: one file, or the parts of a split one in order."""

    quantization: str
    """As the file name says, in upper case; may be empty."""
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def name(self) -> str:
        return self.files[0].name


@dataclass(frozen=True, slots=True)
class Repository:
    id: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str = ""
    downloads: int = 0
    gated: bool = False

    def offers(self) -> list[Offer]:
        """The models in it, the smallest first. Incomplete sets of parts are left out."""
        whole: list[Offer] = []
        parts: dict[tuple[str, int], dict[int, RemoteFile]] = {}
        for file in self.files:
            if not file.name.lower().endswith(".gguf") or is_companion(file.name) or unsafe_name(file.name):
                continue
            part = split_part(file.name)
            if part is not None:
                parts.setdefault((part.stem, part.count), {})[part.number] = file
            else:
                whole.append(Offer(quantization_in(file.name), (file,)))
        for (stem, count), found in parts.items():
            if len(found) == count and set(found) == set(range(1, count + 1)):
                files = tuple(found[number] for number in sorted(found))
                whole.append(Offer(quantization_in(f"{stem}.gguf"), files))
        return sorted(whole, key=lambda offer: (offer.size, offer.name))


@dataclass(frozen=True, slots=True)
class Location:
    """Where a file is to be had, and what it must be."""

    url: str
    size: int
    etag: str
    """The name of its blob: SHA-256 of the content, or for small files git's SHA-1 of it."""


def look_up(client: Client, repo: str, revision: str, catalog: Catalog, **patience: Any) -> Repository:
    """The repository at the commit that `revision` (empty: the main branch) names now.

    Raises NotOffered with near names, AccessDenied, DownloadError.
    """
    url = f"{client.hosts.endpoint}/api/models/{quote(repo)}/revision/{quote(revision or 'main', safe='')}?blobs=true"
    data, response = patiently(lambda: client.json(url), **patience)
    if data is None:
        raise _refusal(client, repo, revision, response, lambda: _near_repos(client, repo, catalog))
    try:
        return _repository(data, repo)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DownloadError(
            f"{client.hosts.name} does not answer as a Hub does ({error}).", "Check --endpoint, or try again later."
        ) from error


def _repository(data: dict[str, Any], asked: str) -> Repository:
    commit = data["sha"]
    if not isinstance(commit, str) or not is_commit(commit):
        raise ValueError("no commit")
    files = []
    for entry in data["siblings"][:_MAX_FILES]:
        if not isinstance(entry, dict):
            continue
        lfs = entry.get("lfs")
        lfs = lfs if isinstance(lfs, dict) else {}
        name, size = entry.get("rfilename"), lfs.get("size", entry.get("size"))
        sha256 = lfs.get("sha256") or lfs.get("oid")
        sha256 = sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else ""
        if not isinstance(name, str) or not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
            continue
        blob = "" if lfs else str(entry.get("blobId") or "")
        files.append(
            RemoteFile(
                name,
                size,
                sha256,
                blob if _BLOB_NAME.fullmatch(blob) and len(blob) == 40 else "",
            )
        )
    card = data.get("cardData") or {}
    licence = card.get("license") if isinstance(card, dict) else None
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence[:5]))
    downloads = data.get("downloads")
    # The Hub answers under the new name of a renamed repository.
    name = data.get("id") or asked
    return Repository(
        name if isinstance(name, str) and is_repo(name) else asked,
        commit,
        tuple(files),
        licence=clean_line(str(licence or "")),
        downloads=downloads if type(downloads) is int else 0,
        gated=bool(data.get("gated")),
    )


def locate(client: Client, repository: Repository, file: RemoteFile, **patience: Any) -> Location:
    """Ask where `file` is now: large ones are elsewhere, under an address that expires.

    Raises AccessDenied, NotOffered, DownloadError, UnsafeServer.
    """
    url = f"{client.hosts.endpoint}/{quote(repository.id)}/resolve/{repository.commit}/{quote(file.name)}"

    def ask() -> Any:
        response = client.head(url)
        raise_if_passing(response)
        return response

    response = patiently(ask, **patience)
    if response.status_code >= 400:
        raise _refusal(client, repository.id, repository.commit, response, lambda: "", file=file.name)
    etag = ""
    if origin(str(response.url)) == origin(client.hosts.endpoint):  # a storage server's own tag is no checksum
        etag = _etag(response.headers.get("x-linked-etag") or response.headers.get("etag") or "")
    if not _BLOB_NAME.fullmatch(etag):
        etag = file.etag  # a mirror may drop or change the header; what it says in the listing will do
    if not etag:
        raise UnsafeServer(
            f"{client.hosts.name} does not say what {clean_line(file.name)} must be: no checksum.",
            "Nothing is downloaded that cannot be verified. Try another --endpoint.",
        )
    if file.sha256 and etag != file.sha256:
        raise UnsafeServer(
            f"{client.hosts.name} contradicts itself about the checksum of {clean_line(file.name)}.",
            "Try again later, or another --endpoint.",
        )
    said = response.headers.get("x-linked-size", "")
    if re.fullmatch(r"[0-9]+", said) and said.lstrip("0") != str(file.size).lstrip("0"):
        raise UnsafeServer(
            f"{client.hosts.name} contradicts itself about the size of {clean_line(file.name)}.",
            "Try again later, or another --endpoint.",
        )
    target = client.hosts.target(str(response.url), response.headers.get("location") or "")
    client.hosts.check(target)
    return Location(target, file.size, etag)


def _etag(header: str) -> str:
    """The tag without its weakness mark and quotes (RFC 9110, 8.8.3)."""
    return header[:200].removeprefix("W/").strip('"')


def _refusal(client: Client, repo: str, revision: str, response: Any, near: Any, *, file: str = "") -> R1Error:
    """The sentence for a status of 400 and above. Codes as the Hub sends them in X-Error-Code."""
    code = response.headers.get("x-error-code", "")
    message = response.headers.get("x-error-message", "")
    host = client.hosts.name
    page = f"{client.hosts.endpoint}/{repo}"
    status = response.status_code
    if code == "GatedRepo":
        if client.hosts.has_token:
            return AccessDenied(
                f"{repo} is gated, and your account has not been let in.",
                f"Visit {page}, accept its terms, and pull again.",
            )
        return AccessDenied(
            f"{repo} is gated: its owner wants to know who downloads it.",
            f"Visit {page}, accept its terms, then `hf auth login` or set HF_TOKEN, and pull again.",
        )
    if "Invalid credentials" in message:
        return AccessDenied(f"{host} does not accept the token.", "Make a new one: `hf auth login`, or set HF_TOKEN.")
    if "disabled" in message:
        return AccessDenied(f"{host} has disabled {repo}.", "Choose another repository.")
    if code == "RevisionNotFound":
        return NotOffered(f"{repo} has no revision {revision!r}.", "Leave --revision out for the main branch.")
    if code == "EntryNotFound":
        return NotOffered(f"{repo} has no file {clean_line(file)}.", f"See {page}/tree/main")
    if code == "RepoNotFound" or status in (401, 404):
        hint = near()
        private = "" if client.hosts.has_token else " If it is private: `hf auth login`, or set HF_TOKEN."
        return NotOffered(f"{host} has no repository {repo}.", (hint or "Check the name.") + private)
    if status == 403:
        return AccessDenied(f"{host} refuses: {clean_line(message) or 'forbidden'}.", f"Visit {page}.")
    return DownloadError(f"{host} answers {status} where it should tell about {repo}.", "Try again later.")


def _near_repos(client: Client, repo: str, catalog: Catalog) -> str:
    """What else might have been meant: by the Hub's own search, and of the repositories we know."""
    known = [source.repo for model in catalog.models for source in model.gguf]
    url = f"{client.hosts.endpoint}/api/models?search={quote(repo.partition('/')[2])}&limit=20"
    try:
        data, _ = client.json(url)
        known += [entry["id"] for entry in data or [] if is_repo(str(entry.get("id", "")))]
    except (R1Error, Passing, KeyError, TypeError, AttributeError):
        pass
    near = suggest(repo, [name for name in known if name != repo])
    return f"Did you mean {near}?" if near else ""

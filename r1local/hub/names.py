"""What a person may call a download, and which file names of a repository may touch this disk."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from r1local.catalog import Catalog, Model
from r1local.errors import ModelNotFound, UnsafeServer, UsageError

# Names of the Hub are ASCII; look-alikes in other alphabets are not let in.
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9._-]{1,96}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
_MAX_COMPONENT_BYTES = 255
_MAX_NAME_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Reference:
    """What is to be pulled."""

    repos: tuple[str, ...]
    """Repositories that may have it, the first one that does is taken."""
    quantization: str = ""
    """As it was given, in upper case; empty when it was left open."""
    file: str = ""
    """A single file of the repository."""
    revision: str = ""
    """Branch, tag or commit; empty for the main branch."""
    model: Model | None = None

    @property
    def from_catalog(self) -> bool:
        return self.model is not None and bool(self.model.gguf)


def parse_reference(text: str, catalog: Catalog, *, endpoint: str = "") -> Reference:
    """The meaning of a catalog name, `user/repo[:quant]`, `user/repo/file.gguf` or an address of the Hub.

    Raises ModelNotFound with near names, or UsageError.
    """
    wanted = text.strip()
    if not wanted:
        raise UsageError("There is nothing to pull.", "Name a model, for example: r1local pull 7b")
    if "://" in wanted or wanted.lower().startswith(tuple(f"{host}/" for host in _HUB_HOSTS)):
        return _of_address(wanted, endpoint)
    try:
        model, quantization = catalog.resolve(wanted)
    except ModelNotFound:
        if "/" not in wanted:
            raise
        return _of_path(wanted)
    return Reference(
        repos=tuple(source.repo for source in model.gguf),
        quantization=quantization.name if quantization else "",
        model=model,
    )


def _of_address(text: str, endpoint: str) -> Reference:
    parts = urlsplit(text if "://" in text else f"https://{text}")
    known = {*_HUB_HOSTS, urlsplit(endpoint).netloc.lower()}
    if parts.scheme not in ("http", "https") or parts.netloc.lower() not in known:
        raise UsageError(
            f"{text} is no address of {urlsplit(endpoint).netloc or _HUB_HOSTS[0]}.",
            "Give user/repo, and the server with --endpoint.",
        )
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    if len(segments) >= 5 and segments[2] in ("resolve", "blob"):
        repo, revision, file = "/".join(segments[:2]), segments[3], "/".join(segments[4:])
        return Reference((_checked_repo(repo),), file=_checked_file(file), revision=check_revision(revision))
    if len(segments) == 4 and segments[2] == "tree":
        return Reference((_checked_repo("/".join(segments[:2])),), revision=check_revision(segments[3]))
    if len(segments) != 2:
        raise UsageError(f"{text} names no repository.", "Give user/repo, or the address of a .gguf file.")
    return _of_path("/".join(segments))


def _of_path(text: str) -> Reference:
    head, colon, quantization = text.rpartition(":")
    if not colon:
        head, quantization = text, ""
    elif not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", quantization):
        raise UsageError(f"{text!r} has no quantization behind its colon.", "Give it like user/repo:Q4_K_M")
    owner, _, rest = head.partition("/")
    name, _, file = rest.partition("/")
    repo = _checked_repo(f"{owner}/{name}")
    return Reference((repo,), quantization.upper(), _checked_file(file) if file else "")


def _checked_file(name: str) -> str:
    why = unsafe_name(name)
    if why:
        raise UsageError(f"{name!r} is no name of a file to download: {why}.", "Check the name.")
    return name


def _checked_repo(repo: str) -> str:
    if not is_repo(repo):
        raise UsageError(
            f"{repo!r} is no name of a repository.", "It is owner/name, in letters, digits, '-', '_' and '.'."
        )
    return repo


def is_repo(repo: str) -> bool:
    """Whether this may be the name of a repository: owner/name, by the Hub's rules."""
    return bool(_REPO.fullmatch(repo)) and "--" not in repo and ".." not in repo and not repo.endswith((".", ".git"))


def check_revision(revision: str) -> str:
    """The revision itself. Raises UsageError where it cannot be a branch, a tag or a commit."""
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith("/"):
        raise UsageError(f"{revision!r} is no revision.", "Give a branch, a tag or a commit.")
    return revision


def is_commit(revision: str) -> bool:
    return bool(_COMMIT.fullmatch(revision))


def unsafe_name(name: str) -> str:
    """Why a file of this name must not be made on any system; empty when it may be.

    The same rules everywhere: a name that only Windows trips over is refused on Linux too, for the cache may be
    carried from one to the other.
    """
    if not name:
        return "it is empty"
    try:
        encoded = os.fsencode(name) if os.name != "nt" else name.encode()
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "it is not Unicode text"
    if len(encoded) > _MAX_NAME_BYTES:
        return "it is too long"
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            return "it holds control characters"
        if character in '\\:*?"<>|':
            return f"it holds {character!r}"
    if name.startswith("/"):
        return "it is absolute"
    for component in name.split("/"):
        if component in ("", ".", ".."):
            return "it climbs out of its folder" if component == ".." else "it has an empty part"
        if component != component.rstrip(". ") or component != component.lstrip(" "):
            return "a part of it ends in a dot or a space"
        if component.startswith("-"):
            return "a part of it starts with '-'"
        if _WINDOWS_DEVICES.match(component):
            return "it is the name of a device"
        if len(component.encode()) > _MAX_COMPONENT_BYTES:
            return "a part of it is too long"
    return ""


def check_names(names: list[str]) -> None:
    """Raises UnsafeServer when a file of these names must not be made, or two of them differ in case only."""
    seen: dict[str, str] = {}
    for name in names:
        why = unsafe_name(name)
        if why:
            raise UnsafeServer(
                f"The repository has a file called {name!r}, which is refused: {why}.", "Do not trust this repository."
            )
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen and seen[folded] != name:
            raise UnsafeServer(
                f"The repository has both {seen[folded]!r} and {name!r}, which are one file on many systems.",
                "Do not trust this repository.",
            )
        seen[folded] = name

"""What a person may call a download."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from r1local.catalog import Catalog, Model
from r1local.errors import ModelNotFound, UsageError
from r1local.names import check_revision, is_repo, unsafe_name

# What a repository is that holds no model: no user has one of these names.
_OTHER_KINDS = ("datasets", "spaces", "api", "docs", "models", "settings")
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


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
    if model.is_inside:
        raise UsageError(f"{model.id} is a part of r1local and here already.", f"To use it: r1local chat -m {model.id}")
    return Reference(
        repos=tuple(source.repo for source in model.gguf),
        quantization=quantization.name if quantization else "",
        model=model,
    )


def _of_address(text: str, endpoint: str) -> Reference:
    wrong = UsageError(
        f"{text} is no address of a repository of {urlsplit(endpoint).netloc if endpoint else _HUB_HOSTS[0]}.",
        "Give user/repo, and the server with --endpoint.",
    )
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        known = {*_HUB_HOSTS, *(f"{host}:443" for host in _HUB_HOSTS), urlsplit(endpoint).netloc.lower()} - {""}
        segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or parts.netloc.lower() not in known:
        raise wrong
    if len(segments) < 2 or segments[0] in _OTHER_KINDS:
        raise wrong
    repo, rest = "/".join(segments[:2]), segments[2:]
    if rest[:1] in (["resolve"], ["blob"]) and len(rest) >= 3:
        return Reference(
            (_checked_repo(repo),), file=_checked_file("/".join(rest[2:])), revision=check_revision(rest[1])
        )
    if rest[:1] == ["tree"] and len(rest) >= 2:
        # Of a folder's page the folder tells nothing that a quantization would not tell better.
        return Reference((_checked_repo(repo),), revision=check_revision(rest[1]))
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

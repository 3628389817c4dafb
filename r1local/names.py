"""What names of files, repositories and revisions say, and which may touch this disk. They come from strangers."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from r1local.errors import UnsafeServer, UsageError

# Names of the Hub are ASCII; look-alikes in other alphabets are not let in.
_REPO = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?/[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
_PART = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE | re.ASCII)
# Companions of a model, not models.
_COMPANION = re.compile(r"(^|[-._/])(mmproj|imatrix|projector)([-._]|$)", re.IGNORECASE)
# A quantization at the end of a file name, also one the catalog does not know, such as UD-Q4_K_XL.
_QUANTIZATION = re.compile(
    r"(?:^|[-._])(?P<label>(?:UD-)?(?:T?I?Q\d(?:_[A-Z0-9]+)*|BF16|F16|F32|FP16|MXFP4(?:_MOE)?|NVFP4))$",
    re.IGNORECASE | re.ASCII,
)
_MAX_COMPONENT_BYTES = 255
_MAX_NAME_BYTES = 1000


@dataclass(frozen=True, slots=True)
class SplitPart:
    """What the name of a part of a split GGUF says: STEM-00001-of-00003.gguf."""

    stem: str
    number: int
    count: int


def split_part(name: str) -> SplitPart | None:
    """None for a file that is whole."""
    match = _PART.match(name)
    return SplitPart(match["stem"], int(match["number"]), int(match["count"])) if match else None


def is_companion(name: str) -> bool:
    """Whether a GGUF is no model but goes with one: a projector, an importance matrix."""
    return bool(_COMPANION.search(name))


def quantization_in(file_name: str) -> str:
    """The quantization a file name ends with, before the number of a part, in upper case; empty without one."""
    name = file_name.rpartition("/")[2]
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", name[: -len(".gguf")] if name.lower().endswith(".gguf") else name)
    match = _QUANTIZATION.search(stem)
    return match["label"].upper() if match else ""


def is_repo(repo: str) -> bool:
    """Whether this may be the name of a repository: owner/name, by the Hub's rules."""
    return bool(_REPO.fullmatch(repo)) and "--" not in repo and ".." not in repo and not repo.endswith(".git")


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
        encoded = name.encode()
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
        folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
        if folded in seen and seen[folded] != name:
            raise _twins(seen[folded], name)
        seen[folded] = name
    for folded, name in seen.items():
        parent = folded.rpartition("/")[0]
        while parent:
            if parent in seen:
                raise _twins(seen[parent], name)
            parent = parent.rpartition("/")[0]


def _twins(one: str, other: str) -> UnsafeServer:
    return UnsafeServer(
        f"The repository has both {one!r} and {other!r}, which are one file on many systems.",
        "Do not trust this repository.",
    )

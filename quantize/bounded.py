"""Opens and reads the small files of a checkpoint, which a stranger wrote: bounded, regular, strict JSON."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from quantize.errors import BadSource

# Above every real one: config.json has kilobytes, tokenizer.json about 11 MB, the index of a 70B 100 kB.
MAX_CONFIG = 1 << 20
MAX_TOKENIZER = 64 << 20
MAX_INDEX = 16 << 20
MAX_CARD = 1 << 20

# How the shared cache of the Hugging Face tools links a snapshot's files to their blobs.
_BLOB_LINK = re.compile(r"(?:\.\./)+blobs/(?:[0-9a-f]{40}|[0-9a-f]{64})")
# And how a blob is linked to the bytes that several repositories share.
_SHARED_LINK = re.compile(r"(?:\.\./)+blobs/[0-9a-f]{2}/[0-9a-f]{64}")
# Each pair of brackets becomes an object of some 60 bytes. A vocabulary of Llama has 280,000 pairs.
_MOST_BRACKETS = 1_000_000
_HALF_A_CHARACTER = re.compile(rb"\\u[dD][89abAB]")


def open_regular(path: Path) -> int:
    """A file descriptor to read from. Raises BadSource for what is missing, or no plain file.

    A link is followed only where it leads into the blobs of the same repository in the shared cache: one that came
    with a checkpoint would copy a file of this machine into the result.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not make us wait
    try:
        if path.is_symlink() and not _is_cache_link(path):
            raise BadSource(f"{path.name} is a link that leads out of its folder.", "Put the file itself there.")
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise BadSource(f"{path.name} is missing in {path.parent}.", "Check the path, or fetch it again.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "") or str(error)
        raise BadSource(f"{path.name} cannot be opened: {reason}.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadSource(f"{path.name} is not a plain file.")
    return descriptor


def _is_cache_link(path: Path) -> bool:
    link = os.readlink(path)
    blob = Path(os.path.normpath(path.parent / link))
    for parent in path.parents:
        if parent.parent.name == "snapshots" and blob.parent == parent.parent.parent / "blobs":
            if not _BLOB_LINK.fullmatch(link):
                return False
            if not blob.is_symlink():
                return True
            shared = os.readlink(blob)
            store = parent.parent.parent.parent / "blobs"
            at = Path(os.path.normpath(blob.parent / shared))
            return bool(_SHARED_LINK.fullmatch(shared)) and at.parent.parent == store and not at.is_symlink()
    return False


def read_bytes(path: Path, most: int) -> bytes:
    """The whole of a small file. Raises BadSource above `most` bytes."""
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(min(most, os.fstat(descriptor).st_size) + 1)
    if len(data) > most:
        raise BadSource(f"{path.name} is larger than {most >> 20} MiB.")
    return data


def read_json(path: Path, most: int) -> dict[str, Any]:
    """A JSON object. Raises BadSource for anything else, and for what parsers read differently: doubled keys, NaN."""
    return parse_json(read_bytes(path, most), path.name)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Raises BadSource."""

    def refuse_constant(text: str) -> Any:
        raise ValueError(f"{text} is no number")

    try:
        check_brackets(data)
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant)
        if _HALF_A_CHARACTER.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone half stands for no character
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadSource(f"{name} is not proper JSON: {_reason(error)}.") from None
    if not isinstance(value, dict):
        raise BadSource(f"{name} does not hold a JSON object.")
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object for json.loads. Raises ValueError where a key stands twice: parsers differ in which one counts."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands there twice")
    return values


def check_brackets(data: bytes) -> None:
    """Raises ValueError for JSON that would take many times its size in memory."""
    if data.count(b"[") + data.count(b"{") > _MOST_BRACKETS:
        raise ValueError("it has too many brackets")


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200].rstrip(".")

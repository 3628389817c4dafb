"""Are the bytes here the ones that were published?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from r1local.checksums import Checksums
from r1local.cli.output import Output
from r1local.cli.progress import Transfer
from r1local.errors import ChecksumMismatch
from r1local.store import LocalModel
from r1local.store.published import published_checksum


def check_bytes(local: LocalModel, part: Path, wanted: str, output: Output, *, patience: float = 3.0) -> str:
    """The checksum of one file, computed now, with a live line. Raises ChecksumMismatch where it is not `wanted`."""
    transfer = Transfer(output, "Checking", plain_after=patience)
    whole = part.stat().st_size
    try:
        found = Checksums().compute(part, like=wanted, on_progress=lambda done: transfer.update(part.name, done, whole))
    finally:
        transfer.close()
    if wanted and found != wanted:
        raise _damaged(local, part, found, wanted)
    return found


def check_silently(local: LocalModel, on_notice: Callable[[str], None]) -> None:
    """As `check_once`, for who has no line to show. Raises ChecksumMismatch."""
    checksums = Checksums()
    for part in local.parts:
        wanted = published_checksum(local, part)
        if wanted and checksums.known(part) != wanted:
            on_notice(f"Checking {part.name}, once.")
            found = checksums.compute(part, like=wanted)
            if found != wanted:
                raise _damaged(local, part, found, wanted)


def _damaged(local: LocalModel, part: Path, found: str, wanted: str) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{part.name} is damaged: its checksum is {found[:12]}…, and {wanted[:12]}… was published.", _remedy(local)
    )


def _remedy(local: LocalModel) -> str:
    if local.is_inside:
        return "Install r1local again."
    if local.repo is not None:
        return f"`r1local pull {local.name}` mends it."
    return f"`r1local rm {local.name}`, then get it again."


def check_once(local: LocalModel, output: Output) -> None:
    """The first time a file is used. Raises ChecksumMismatch."""
    checksums = Checksums()
    for part in local.parts:
        wanted = published_checksum(local, part)
        if wanted and checksums.known(part) != wanted:
            check_bytes(local, part, wanted, output, patience=60.0)

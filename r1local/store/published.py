"""What the checksum of a file here must be, by whoever gave it to us."""

from __future__ import annotations

import os
import re
from pathlib import Path

from r1local.store import PACKAGE, LocalModel
from r1local.store.carry import imported_files


def published_checksum(local: LocalModel, part: Path) -> str:
    """SHA-256, or git's SHA-1 for a small file of the cache; empty when nobody said.

    In the cache the blob's name is the checksum, as it is in Ollama's store; an imported folder has a manifest, and
    of what comes as a package the catalog may know.
    """
    if local.origin == PACKAGE and local.model is not None and local.model.package is not None:
        return local.model.package.sha256
    if local.repo is not None:
        return local.repo.etag_of(part)
    target = Path(os.path.realpath(part))
    ollama = re.fullmatch(r"sha256[-:]([0-9a-f]{64})", target.name)
    return ollama[1] if ollama else imported_files(part.parent).get(part.name, "")

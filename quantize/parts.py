"""A model in several GGUF files."""

from __future__ import annotations

import re
from pathlib import Path

from quantize.errors import BadRequest, BadSource
from quantize.gguf_format import GgufFile, read_gguf

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def read_parts(source: Path) -> list[GgufFile]:
    """The headers of all files of a model, of which `source` is the only or the first one.

    Raises BadSource, BadRequest.
    """
    first = read_gguf(source)
    count = first.value("split.count", 1)
    if not isinstance(count, int) or count < 2:
        return [first]
    split = _SPLIT.fullmatch(source.name)
    if split is None or int(split["count"]) != count:
        raise BadRequest(
            f"{source.name} is one of {count} parts, and not named as such.", "Give it its own name again."
        )
    if int(split["number"]) != 1:
        raise BadRequest(f"{source.name} is a later part of a model.", "Name the first one.")
    names = [f"{split['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(2, count + 1)]
    parts = [first, *(read_gguf(source.with_name(name)) for name in names)]
    tensors = [tensor.name for part in parts for tensor in part.tensors]
    for number, part in enumerate(parts):
        wrong = (part.value("split.no"), part.value("split.count")) != (number, count)
        if wrong or part.value("split.tensors.count", len(tensors)) != len(tensors):
            raise BadSource(f"{part.path.name} is no part of the same model.", "Fetch all parts again.")
    if len(set(tensors)) != len(tensors):
        raise BadSource(f"{source.name} has a tensor that is in another part, too.", "Fetch all parts again.")
    return parts

"""A Hugging Face checkpoint: a folder with config.json, safetensors and a tokenizer."""

from __future__ import annotations

import re
from pathlib import Path

from quantize.bounded import MAX_INDEX, read_json
from quantize.config import CONFIG
from quantize.errors import BadSource, Unsupported
from quantize.gguf_format import StoredTensor
from quantize.safetensors import read_safetensors

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What a conversion reads besides the weights, and what of it must be there.
REQUIRED = (CONFIG, "tokenizer.json")
OPTIONAL = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja", "README.md")

# Kept by some trainers, made anew by every program that runs the model.
_IGNORED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}\.safetensors")


def shard_names(folder: Path) -> dict[str, list[str] | None]:
    """The files with weights, each with the tensors it should hold; None where no index says. Raises BadSource.

    Reads the index alone, so it serves a checkpoint whose shards are not here yet.
    """
    if not (folder / INDEX).exists():
        if any(folder.glob("*.bin")) and not (folder / SINGLE).exists():
            raise Unsupported(
                f"{folder.name} holds pickled weights (.bin), which can run code when they are read.",
                "Look for a version of it with .safetensors.",
            )
        return {SINGLE: None}
    places = read_json(folder / INDEX, MAX_INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BadSource(f"{INDEX} has no weight_map.")
    shards: dict[str, list[str]] = {}
    for tensor, shard in places.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise BadSource(f"{INDEX} names {str(shard)[:80]!r}, which is no file of the checkpoint.")
        shards.setdefault(shard, []).append(tensor)
    return {shard: shards[shard] for shard in sorted(shards)}


def shard_tensors(folder: Path, shard: str, expected: list[str] | None) -> dict[str, StoredTensor]:
    """The tensors of one shard that are of use. Raises BadSource when it holds others than the index says."""
    tensors = read_safetensors(folder / shard)
    if expected is not None and set(tensors) != set(expected):
        odd = sorted(set(tensors) ^ set(expected))[0]
        raise BadSource(f"{shard} and {INDEX} disagree about the tensor {odd[:80]}.", "Fetch the checkpoint again.")
    return {name: tensor for name, tensor in tensors.items() if not is_ignored(name)}


def is_ignored(name: str) -> bool:
    """Whether a tensor is of no use to anybody."""
    return name.endswith(_IGNORED)

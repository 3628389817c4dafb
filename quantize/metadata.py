"""The general keys of a GGUF: what the model is called, whose it is, under which licence, and how it likes sampling.

What a model card means is the gguf package's to say (`gguf.Metadata`), whose heuristics llama.cpp's converter uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import yaml
from gguf import GGUFValueType

from quantize.bounded import MAX_CARD, MAX_CONFIG, read_bytes, read_json
from quantize.errors import BadSource
from quantize.gguf_format import Key, make_key

_MOST_NAME = 200
_MOST_FRONT_MATTER = 64 << 10  # characters; YAML is slow, and cards have one or two thousand
# generation_config.json says how its publisher samples: names there, and fields of gguf.Metadata.
_SAMPLING = {
    "top_k": "sampling_top_k",
    "top_p": "sampling_top_p",
    "min_p": "sampling_min_p",
    "temperature": "sampling_temp",
    "penalty_last_n": "sampling_penalty_last_n",
    "repetition_penalty": "sampling_penalty_repeat",
    "penalty_repeat": "sampling_penalty_repeat",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a checkpoint came from, as far as it is known."""

    name: str
    """What its folder or repository is called."""
    repository: str = ""
    """user/name at the Hub."""
    revision: str = ""
    """The commit."""


def general_keys(folder: Path, origin: Origin, config: dict[str, Any], architecture: str, parameters: int) -> list[Key]:
    """In the order of llama.cpp's converter. Raises BadSource."""
    called = config.get("_name_or_path")
    called = {"_name_or_path": called} if isinstance(called, str) and len(called) <= _MOST_NAME else {}
    try:
        metadata = gguf.Metadata.apply_metadata_heuristic(
            gguf.Metadata(), _model_card(folder), called, Path(origin.name), parameters
        )
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # A card that is not made as cards are; its facts are a courtesy, the weights are not.
        metadata = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), {}, {}, Path(origin.name), parameters)
    for field, value in _sampling(folder).items():
        setattr(metadata, field, value)
    metadata.name = metadata.name or origin.name
    metadata.size_label = metadata.size_label or gguf.size_label(parameters, parameters, 0, 0)
    if origin.repository:
        home = f"https://huggingface.co/{origin.repository}"
        metadata.source_repo_url = home
        if origin.revision:
            metadata.source_url = f"{home}/tree/{origin.revision}"
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)
    return [key for name, value in writer.kv_data[0].items() if (key := _key(name, value)) is not None]


def _key(name: str, value: gguf.gguf_writer.GGUFValue) -> Key | None:
    """None for what a card put where something else belongs."""
    content = value.value
    try:
        if value.type == GGUFValueType.ARRAY:
            if not all(isinstance(item, str) for item in content):
                return None
            return make_key(name, content, value.type, GGUFValueType.STRING)
        if value.type == GGUFValueType.STRING and not isinstance(content, str):
            return None
        return make_key(name, content, value.type)
    except UnicodeEncodeError:  # half a character, which YAML can write
        return None


def _model_card(folder: Path) -> dict[str, Any]:
    """The YAML between two lines of three dashes at the top of README.md; nothing where there is none."""
    path = folder / "README.md"
    if not path.exists():
        return {}
    try:
        lines = read_bytes(path, MAX_CARD).decode("utf-8").splitlines()
    except (BadSource, UnicodeDecodeError):
        return {}
    if lines[:1] != ["---"]:
        return {}
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    front = "\n".join(lines[1:end]) + "\n"
    if len(front) > _MOST_FRONT_MATTER:
        return {}
    # Norway's code is no "no", and tabs are spaces: both as llama.cpp's converter reads them.
    front = front.replace("- no\n", '- "no"\n').replace("\t", "  ")
    try:
        card = yaml.load(front, _PlainLoader)
    except (yaml.YAMLError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


class _PlainLoader(yaml.SafeLoader):
    """Without references to what stood above: ten lines of them can mean billions of entries."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a card needs no aliases")
        return super().compose_node(parent, index)


def _sampling(folder: Path) -> dict[str, float]:
    path = folder / "generation_config.json"
    if not path.exists():
        return {}
    settings = read_json(path, MAX_CONFIG)
    found: dict[str, float] = {}
    for name, field in _SAMPLING.items():
        value = settings.get(name)
        if value is None:
            continue
        whole = field in ("sampling_top_k", "sampling_penalty_last_n")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or abs(value) > 1 << 30:
            raise BadSource(f"generation_config.json has a {name} that is no number.")
        found[field] = value
    return found

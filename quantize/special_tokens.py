"""Which special tokens a vocabulary has, and which of them are put around a text.

A port of `SpecialVocab` in gguf-py/gguf/vocab.py of llama.cpp, whose rules are the reference for the keys, and which
differs between releases of the gguf package: the result must not depend on which one is installed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from quantize.errors import BadSource
from quantize.tokenizer_json import TokenizerJson

KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(slots=True)
class SpecialTokens:
    """Both in the order in which they are written."""

    ids: dict[str, int] = field(default_factory=dict)
    """By kind: bos, eos, pad, ..."""
    added: dict[str, bool] = field(default_factory=dict)
    """By kind: whether tokenizing a text adds it."""


def special_tokens(tokenizer: TokenizerJson, settings: dict[str, Any], config: dict[str, Any]) -> SpecialTokens:
    """From tokenizer.json, tokenizer_config.json (`settings`) and config.json. Raises BadSource."""
    found = SpecialTokens()
    texts: dict[str, Any] = {kind: settings.get(f"{kind}_token") for kind in KINDS}
    texts["bos"] = texts["bos"] or texts["cls"]
    texts["eos"] = texts["eos"] or texts["sep"]
    kinds = list(KINDS)
    for processor in tokenizer.processors:
        if processor["type"] == "ByteLevel":
            found.added.setdefault("bos", False)
            found.added.setdefault("eos", False)
        else:
            _from_template(processor, texts, found, kinds)
    # Without tokenizer_config.json nothing says which of the added tokens is which.
    for kind in kinds if settings else ():
        if isinstance(flag := settings.get(f"add_{kind}_token"), bool):
            found.added.setdefault(kind, flag)
        content = texts[kind].get("content") if isinstance(texts[kind], dict) else texts[kind]
        if isinstance(content, str) and content in tokenizer.added:
            found.ids.setdefault(kind, tokenizer.added[content].id)
    for kind in kinds:
        number = config.get(f"{kind}_token_id")
        if type(number) is not int:
            continue  # some have a list of several
        if number < 0:
            raise BadSource(f"config.json has a negative {kind}_token_id.")
        found.ids.setdefault(kind, number)
    return found


def _from_template(processor: dict[str, Any], texts: dict[str, Any], found: SpecialTokens, kinds: list[str]) -> None:
    """What a TemplateProcessing puts around one text, and between two."""
    single, pair = _steps(processor, "single"), _steps(processor, "pair")
    first = last = None
    if len(single) > 1:
        if first := _special(single[0]):
            # A dictionary in tokenizer_config.json never equals the text: upstream compares the same way.
            if first not in (texts["bos"], texts["cls"]):
                texts["bos"] = texts["bos"] or first
                texts["cls"] = texts["cls"] or first
            found.added["bos"] = first in (texts["bos"], texts["cls"])
        if last := _special(single[-1]):
            if last != texts["eos"]:
                spare = next((kind for kind in ("eot", "eom") if kind not in kinds), None)
                if spare:
                    kinds.append(spare)
                    texts[spare] = texts["eos"]
                texts["eos"] = last
            found.added["eos"] = True
    if not pair:
        return
    inner = pair[1 if first and _special(pair[0]) == first else 0 : -1 if last and _special(pair[-1]) == last else None]
    if not inner or _sequence(inner[0]) != "A" or _sequence(inner[-1]) != "B" or not inner[1:-1]:
        return
    ends = (texts["sep"], texts["eos"])
    between = [_special(step) for step in inner[1:-1]]
    separates = bool(between[0]) and between[0] in ends and not last
    separates = separates or (len(between) == 2 and bool(between[1]) and between[1] in ends)
    found.added["sep"] = separates
    if separates and not texts["sep"]:
        texts["sep"] = texts["eos"]


def _steps(processor: dict[str, Any], name: str) -> list[dict[str, Any]]:
    steps = processor.get(name) or []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadSource("tokenizer.json has a template that is none.")
    return steps


def _special(step: dict[str, Any]) -> str | None:
    inner = step.get("SpecialToken")
    name = inner.get("id") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None


def _sequence(step: dict[str, Any]) -> Any:
    inner = step.get("Sequence")
    return inner.get("id") if isinstance(inner, dict) else None

"""tokenizer.json, checked before any tokenizer runs it: only what is known to be read alike is let through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.bounded import MAX_TOKENIZER, read_json
from quantize.errors import BadSource, Unsupported

# The regular expressions that split text before the merges, and what llama.cpp calls them. No other one is run: a
# stranger's could take for ever on a short text.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _REST: "qwen2",
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST: "llama-bpe",
}
_PROCESSORS = ("ByteLevel", "TemplateProcessing")
_MOST_ADDED = 10_000


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is cut out of a text before anything else."""

    id: int
    content: str
    special: bool
    normalized: bool


@dataclass(frozen=True, slots=True)
class TokenizerJson:
    """A byte-level BPE vocabulary."""

    path: Path
    vocabulary: dict[str, int]
    merges: list[str]
    """Pairs, joined by a space."""
    added: dict[str, AddedToken]
    split: str
    """What llama.cpp calls the way text is split in front of the merges."""
    processors: list[dict[str, Any]]
    """How special tokens are put around a text."""


def read_tokenizer(path: Path, most_tokens: int) -> TokenizerJson:
    """Raises BadSource when it contradicts itself or has ids beyond `most_tokens`, Unsupported when it is no
    byte-level BPE of a known kind.
    """
    fields = read_json(path, MAX_TOKENIZER)
    model = fields.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise Unsupported("The tokenizer is not byte-level BPE.")
    _check_options(model, fields.get("decoder"))
    vocabulary = _vocabulary(model.get("vocab"), most_tokens)
    added = _added(fields.get("added_tokens") or [], vocabulary, most_tokens)
    _check_normalizer(fields.get("normalizer"))
    split = _split(fields.get("pre_tokenizer"))
    processors = _processors(fields.get("post_processor"))
    return TokenizerJson(path, vocabulary, _merges(model.get("merges"), vocabulary), added, split, processors)


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with, by byte (bytes_to_unicode of GPT-2)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def _check_options(model: dict[str, Any], decoder: Any) -> None:
    """Nothing that the C library has not, and nothing that the tokenizers package is known to stumble over."""
    unused = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
    if any(model.get(option) for option in unused):
        raise Unsupported("The tokenizer has options that the C library does not know.")
    if decoder is not None and not (isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"):
        raise Unsupported("The tokenizer puts tokens together in a way that is not known.")


def _steps(step: Any, inner: str) -> list[Any]:
    """The steps of a Sequence, or the one that stands alone; nothing for what is neither."""
    if not isinstance(step, dict):
        return []
    if step.get("type") != "Sequence":
        return [] if inner in step else [step]
    steps = step.get(inner)
    return steps if isinstance(steps, list) else []


def _vocabulary(vocabulary: Any, most: int) -> dict[str, int]:
    if not isinstance(vocabulary, dict) or not all(type(number) is int for number in vocabulary.values()):
        raise BadSource("tokenizer.json has no vocabulary.")
    ids = set(vocabulary.values())
    if len(ids) != len(vocabulary):
        raise BadSource("tokenizer.json gives one id to two tokens.")
    if ids and not 0 <= min(ids) <= max(ids) < most:
        raise BadSource(f"tokenizer.json has ids beyond the {most:,} that config.json speaks of.")
    if missing := [byte for byte, char in enumerate(byte_alphabet()) if char not in vocabulary]:
        raise BadSource(f"tokenizer.json has no token for the byte {missing[0]}.")
    return vocabulary


def _added(entries: Any, vocabulary: dict[str, int], most: int) -> dict[str, AddedToken]:
    if not isinstance(entries, list) or len(entries) > _MOST_ADDED:
        raise BadSource("tokenizer.json has a list of added tokens that is none.")
    taken = {number: token for token, number in vocabulary.items()}
    added: dict[str, AddedToken] = {}
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else None
        content = entry.get("content") if isinstance(entry, dict) else None
        if type(number) is not int or not 0 <= number < most or not isinstance(content, str) or not content:
            raise BadSource("tokenizer.json has an added token without an id or a text.")
        if (
            content in added
            or taken.setdefault(number, content) != content
            or vocabulary.get(content, number) != number
        ):
            raise BadSource(f"tokenizer.json gives the added token {content[:40]} two meanings.")
        if any(entry.get(flag) for flag in ("single_word", "lstrip", "rstrip")):
            raise Unsupported(f"The added token {content[:40]} takes spaces with it, which the C library does not.")
        added[content] = AddedToken(
            number, content, entry.get("special") is True, entry.get("normalized", not entry.get("special")) is True
        )
    return added


def _merges(merges: Any, vocabulary: dict[str, int]) -> list[str]:
    if not isinstance(merges, list):
        raise BadSource("tokenizer.json has no merges.")
    joined = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise BadSource("tokenizer.json has a merge that is no pair.")
        if not all(part in vocabulary for part in (*pair, "".join(pair))):
            raise BadSource(f"tokenizer.json merges {pair[0][:40]} and {pair[1][:40]}, which are no tokens.")
        joined.append(" ".join(part.replace(" ", "Ġ") for part in pair))
    return joined


def _check_normalizer(normalizer: Any) -> None:
    if normalizer is None:
        return
    parts = _steps(normalizer, "normalizers")
    if not parts or not all(isinstance(part, dict) and part.get("type") == "NFC" for part in parts):
        raise Unsupported("The tokenizer changes the text in a way that the C library does not.")


def _split(pre_tokenizer: Any) -> str:
    steps = _steps(pre_tokenizer, "pretokenizers")
    if len(steps) == 2 and all(isinstance(step, dict) for step in steps):
        split, level = steps
        pattern = split.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        plain = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
        bytewise = level.get("type") == "ByteLevel" and not level.get("add_prefix_space")
        if plain and bytewise and not level.get("use_regex", True) and isinstance(regex, str) and regex in SPLITS:
            return SPLITS[regex]
    raise Unsupported("The tokenizer splits text in a way that is not known.")


def _processors(processor: Any) -> list[dict[str, Any]]:
    if processor is None:
        return []
    steps = _steps(processor, "processors")
    if not steps or not all(isinstance(step, dict) and step.get("type") in _PROCESSORS for step in steps):
        raise Unsupported("The tokenizer puts special tokens around a text in a way that is not known.")
    return steps

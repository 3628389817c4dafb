"""From a checkpoint's tokenizer to the tokenizer keys of a GGUF, and the proof that both read text alike."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, TokenType

from quantize.bounded import MAX_CARD, read_bytes, read_json
from quantize.errors import BadSource, QuantizeError, TokenizerDiffers
from quantize.gguf_format import Key, make_key
from quantize.special_tokens import special_tokens
from quantize.tokenizer_json import TokenizerJson, read_tokenizer

TEXTS: tuple[str, ...] = tuple(json.loads((Path(__file__).parent / "proof_texts.json").read_text("utf-8")))
"""What both tokenizers have to read alike. The first is the text whose ids name the kind of splitting."""

# sha256 of the ids of TEXTS[0], by which llama.cpp's converter knows a way to split text (conversion/base.py).
_HASHES = {
    "b3f499bb4255f8ca19fccd664443283318f2fd2414d5e0b040fbdd0cc195d6c5": "deepseek-r1-qwen",
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
    "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c": "qwen2",
    "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5": "llama-bpe",
}
_TIMEOUT = 300  # seconds; a vocabulary of 152,064 tokens takes about one
_KEYS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "sep": "seperator_token_id",
    "pad": "padding_token_id", "mask": "mask_token_id", "eot": "eot_token_id", "eom": "eom_token_id",
}  # fmt: skip
_ADD_KEYS = ("bos", "eos", "sep")


class Vocabulary:
    """What the tokenizer of a checkpoint folder becomes."""

    keys: list[Key]
    """For the metadata, in llama.cpp's order."""

    def __init__(self, folder: Path, config: dict[str, Any], vocabulary_size: int, architecture: str) -> None:
        """Raises BadSource, Unsupported."""
        tokenizer = read_tokenizer(folder / "tokenizer.json", vocabulary_size)
        settings_file = folder / "tokenizer_config.json"
        settings = read_json(settings_file, MAX_CARD) if settings_file.exists() else {}
        unnormalized = [token.content for token in tokenizer.added.values() if not token.normalized]
        answer = _run("tokenizer", {"path": str(tokenizer.path), "texts": list(TEXTS), "decode": unnormalized})
        self._ids: list[list[int]] = answer["ids"]
        decoded = dict(zip(unnormalized, answer["decoded"], strict=True))
        special = special_tokens(tokenizer, settings, config)
        tokens, types = _token_lists(tokenizer, decoded, vocabulary_size)
        integer, text, flag = GGUFValueType.UINT32, GGUFValueType.STRING, GGUFValueType.BOOL
        ids, added = special.ids, special.added
        split = _split_name(tokenizer, self._ids[0], (ids.get("bos"), ids.get("eos")))
        keys = []
        if architecture == "llama" and isinstance(prefix := settings.get("add_prefix_space"), bool):
            keys.append(make_key("tokenizer.ggml.add_space_prefix", prefix, flag))
        keys += [
            make_key("tokenizer.ggml.model", "gpt2", text),
            make_key("tokenizer.ggml.pre", split, text),
            make_key("tokenizer.ggml.tokens", tokens, GGUFValueType.ARRAY, text),
            make_key("tokenizer.ggml.token_type", types, GGUFValueType.ARRAY, GGUFValueType.INT32),
        ]
        if tokenizer.merges:
            keys.append(make_key("tokenizer.ggml.merges", tokenizer.merges, GGUFValueType.ARRAY, text))
        for kind, number in ids.items():
            if kind in _KEYS and number < vocabulary_size:
                keys.append(make_key(f"tokenizer.ggml.{_KEYS[kind]}", number, integer))
        for kind, adds in added.items():
            if kind in _ADD_KEYS:
                keys.append(make_key(f"tokenizer.ggml.add_{kind}_token", adds, flag))
        template = _chat_template(folder, settings)
        if template is not None:
            keys.append(make_key("tokenizer.chat_template", template, text))
        self.keys = keys

    def prove(self, gguf: Path) -> None:
        """Compare what the C library makes of TEXTS with what tokenizer.json says.

        Raises TokenizerDiffers with the first text that is read differently. The weights of the file are not needed.
        """
        answer = _run("library", {"path": str(gguf), "texts": list(TEXTS)})
        if "error" in answer:
            raise TokenizerDiffers(f"The C library does not take the vocabulary: {answer['error'][:300]}.")
        for text, expected, got in zip(TEXTS, self._ids, answer["ids"], strict=True):
            if expected != got:
                raise TokenizerDiffers(
                    f"The C library would read {text[:60]!r} as {_short(got)}, and tokenizer.json says "
                    f"{_short(expected)}.",
                    "A model that reads other tokens than it was trained on talks nonsense, so nothing was written.",
                )


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"[{', '.join(map(str, ids[:12]))}, ...]"


def _run(program: str, question: dict[str, Any]) -> dict[str, Any]:
    """Ask token_ids.py. Raises BadSource when what it was given makes it crash or hang."""
    home = str(Path(__file__).parent / "token_ids.py")
    what = "tokenizer.json" if program == "tokenizer" else "the vocabulary"
    try:
        done = subprocess.run(
            # -P: this folder's modules must not stand in for those of Python's library.
            [sys.executable, "-P", home, program],
            input=json.dumps(question).encode(),
            capture_output=True,
            timeout=_TIMEOUT,
            start_new_session=True,  # Ctrl-C is ours to answer
            env={**os.environ, "PYTHONUTF8": "1"},
        )
    except subprocess.TimeoutExpired:
        raise BadSource(f"{what} could not be read within {_TIMEOUT} seconds.") from None
    if done.returncode:
        lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = lines[-1][:200] if lines else f"exit code {done.returncode}"
        if reason.startswith("ModuleNotFoundError"):
            raise QuantizeError(f"A package is missing: {reason.partition(': ')[2]}.", "pip install tokenizers")
        raise BadSource(f"{what} cannot be read: {reason}.")
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def _split_name(tokenizer: TokenizerJson, ids: list[int], around: tuple[int | None, int | None]) -> str:
    """By the hash of the ids, with what is put around them; by the regular expression where no hash is known."""
    bos, eos = around
    variants = [ids, [bos, *ids] if bos is not None else ids, [*ids, eos] if eos is not None else ids]
    template = next((step for step in tokenizer.processors if step["type"] == "TemplateProcessing"), None)
    # The converter hashes the ids with what the tokenizer puts around them, so that variant counts first.
    if template is not None and bos is not None:
        variants = [variants[1], variants[0], variants[2]]
    for variant in variants:
        name = _HASHES.get(hashlib.sha256(str(variant).encode()).hexdigest())
        if name:
            return name
    return tokenizer.split


class _Tokens(Sequence[str]):
    """The text of every id. Ids that no token has are filled, each when it is asked for."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._texts: dict[int, str] = {}

    def __len__(self) -> int:
        return self._size

    def __setitem__(self, number: int, text: str) -> None:
        self._texts[number] = text

    def __getitem__(self, number: Any) -> Any:
        if number >= self._size:
            raise IndexError(number)
        return self._texts.get(number) or f"[PAD{number}]"


def _token_lists(tokenizer: TokenizerJson, decoded: dict[str, str], size: int) -> tuple[Sequence[str], Sequence[int]]:
    """The text and the type of every id (get_vocab_base in conversion/base.py)."""
    tokens = _Tokens(size)
    types = array("i", [TokenType.UNUSED]) * size
    for content, number in tokenizer.vocabulary.items():
        tokens[number], types[number] = content, int(TokenType.NORMAL)
    for token in tokenizer.added.values():
        content = decoded.get(token.content, token.content)
        if token.special or _looks_special(content):
            tokens[token.id], types[token.id] = content, int(TokenType.CONTROL)
        else:
            tokens[token.id], types[token.id] = content.replace("▁", " "), int(TokenType.USER_DEFINED)
    return tokens, types


def _looks_special(content: str) -> bool:
    """Some models do not mark as special what ought to be (does_token_look_special)."""
    framed = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    named = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
    return content in named or any(content.startswith(a) and content.endswith(z) for a, z in framed)


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    template = settings.get("chat_template")
    if isinstance(template, str):
        return template
    if isinstance(template, list):  # several by name; the default one is the chat
        entries = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        default = entries[0].get("template") if entries else None
        return default if isinstance(default, str) else None
    beside = folder / "chat_template.jinja"
    if not beside.exists():
        return None
    try:
        return read_bytes(beside, MAX_CARD).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise BadSource(f"{beside.name} is not UTF-8.") from error

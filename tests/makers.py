"""Makes the model files that tests run on: real GGUF for the real C library, small enough for a second.

`ScriptedModel` says what a test wants, out of weights: attention and feed-forward are zero, so the next token
depends on the last one only, and each token of a script points at its successor.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

DATA = Path(__file__).parent / "data"
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"

# The template of the distills, February 2025; the January one ends without the opening tag.
R1_TEMPLATE_V2: str = json.loads((DATA / "tokenizer_config.json").read_text())["chat_template"]
R1_TEMPLATE_V1 = R1_TEMPLATE_V2.replace("<｜Assistant｜><think>\\n'}}{% endif %}", "<｜Assistant｜>'}}{% endif %}")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with, by byte (GPT-2's bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {byte: chr(byte) for byte in printable}
    spare = iter(range(256, 512))
    return [chars[byte] if byte in chars else chr(next(spare)) for byte in range(256)]


def written(text: str) -> str:
    """`text` as byte-level BPE writes it in a vocabulary."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in text.encode())


class Vocabulary:
    """Bytes, the special tokens of the distills, and further tokens."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.tokens = byte_alphabet()
        self.types = [NORMAL] * 256
        self.special: dict[str, int] = {}
        for text, kind in (
            (BOS, CONTROL),
            (EOS, CONTROL),
            (USER, CONTROL),
            (ASSISTANT, CONTROL),
            ("<think>", USER_DEFINED),
            ("</think>", USER_DEFINED),
            ("<|im_start|>", CONTROL),
            ("<|im_end|>", CONTROL),
        ):
            self.special[text] = len(self.tokens)
            self.tokens.append(text)
            self.types.append(kind)
        self.words: dict[str, int] = {}
        for word in words:
            if word in self.special or len(word.encode()) == 1 or word in self.words:
                continue
            self.words[word] = len(self.tokens)
            self.tokens.append(written(word))
            self.types.append(NORMAL)

    def id(self, word: str) -> int:
        if word in self.special:
            return self.special[word]
        data = word.encode()
        return data[0] if len(data) == 1 else self.words[word]

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("deepseek-r1-qwen")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges([f"{byte_alphabet()[0]} {byte_alphabet()[1]}"])
        writer.add_bos_token_id(self.special[BOS])
        writer.add_eos_token_id(self.special[EOS])
        writer.add_add_bos_token(True)

    def __len__(self) -> int:
        return len(self.tokens)


class RealVocabulary:
    """The tokenizer of DeepSeek-R1-Distill-Qwen, all 151,936 entries of the 1.5B model."""

    size = 151_936

    def __init__(self) -> None:
        data = real_tokenizer_json()
        by_id: dict[int, tuple[str, int]] = {id_: (text, NORMAL) for text, id_ in data["model"]["vocab"].items()}
        for token in data["added_tokens"]:
            by_id[token["id"]] = (token["content"], CONTROL if token["special"] else USER_DEFINED)
        unused = [(f"[PAD{id_}]", 5) for id_ in range(self.size)]
        entries = [by_id.get(id_, unused[id_]) for id_ in range(self.size)]
        self.tokens = [text for text, _ in entries]
        self.types = [kind for _, kind in entries]
        merges = data["model"]["merges"]
        self.merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("deepseek-r1-qwen")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        writer.add_bos_token_id(151_646)
        writer.add_eos_token_id(151_643)
        writer.add_add_bos_token(True)

    def __len__(self) -> int:
        return self.size


@cache
def real_tokenizer_json() -> dict[str, Any]:
    with gzip.open(DATA / "tokenizer.json.gz") as file:
        data: dict[str, Any] = json.load(file)
    return data


def write_model(
    path: Path,
    vocabulary: Vocabulary | RealVocabulary,
    *,
    template: str | None = R1_TEMPLATE_V2,
    hidden: int = 64,
    layers: int = 2,
    feed_forward: int = 128,
    heads: int = 2,
    kv_heads: int = 1,
    context: int = 4096,
    quantization: str = "F32",
    embedding: np.ndarray | None = None,
    output: np.ndarray | None = None,
    layer_scale: float = 1.0,
    seed: int = 1,
) -> Path:
    """A Qwen2 model with random weights, or with the given embedding and output matrix.

    Shapes: embedding and output (vocabulary, hidden). `layer_scale` 0 makes the layers do nothing.
    """
    random = np.random.default_rng(seed)
    kind = gguf.GGMLQuantizationType[quantization]
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_name(path.stem)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type({"F32": 0, "Q4_0": 2, "Q8_0": 7}[quantization])
    vocabulary.add_to(writer)
    if template is not None:
        writer.add_chat_template(template)

    def matrix(rows: int, columns: int, scale: float) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)

    def add(name: str, weights: np.ndarray) -> None:
        if weights.ndim == 1 or quantization == "F32":
            writer.add_tensor(name, weights.astype(np.float32))
        else:
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    size, head_size = len(vocabulary), hidden // heads
    add("token_embd.weight", matrix(size, hidden, 1.0) if embedding is None else embedding)
    add("output_norm.weight", np.ones(hidden))
    if output is None:
        output = matrix(size, hidden, 3.0)
        output[np.array(vocabulary.types) != NORMAL] = 0.0  # noise goes on: it never ends by itself
    add("output.weight", output)
    for layer in range(layers):
        block = f"blk.{layer}."
        for name, rows in (("q", hidden), ("k", kv_heads * head_size), ("v", kv_heads * head_size)):
            add(f"{block}attn_{name}.weight", matrix(rows, hidden, layer_scale))
            add(f"{block}attn_{name}.bias", np.zeros(rows))
        add(f"{block}attn_norm.weight", np.ones(hidden))
        add(f"{block}attn_output.weight", matrix(hidden, hidden, layer_scale))
        add(f"{block}ffn_norm.weight", np.ones(hidden))
        add(f"{block}ffn_gate.weight", matrix(feed_forward, hidden, layer_scale))
        add(f"{block}ffn_up.weight", matrix(feed_forward, hidden, layer_scale))
        add(f"{block}ffn_down.weight", matrix(hidden, feed_forward, layer_scale))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_script(
    path: Path, script: Sequence[str], *, after: str = "\n", loop_to: int | None = None, **options: Any
) -> Path:
    """A model that says `script`, a list of words, whenever the last token is `after`; then it ends.

    Words must differ from one another and from `after`. With `loop_to` it goes on from that word instead of
    ending, for ever.
    """
    chain = [after, *script]
    if len(set(chain)) != len(chain):
        raise ValueError("a word may come only once")
    hidden = max(64, -(-len(chain) // 64) * 64)
    vocabulary = Vocabulary(chain)
    embedding = np.zeros((len(vocabulary), hidden), np.float32)
    output = np.zeros((len(vocabulary), hidden), np.float32)
    followers = [*script, EOS if loop_to is None else script[loop_to]]
    for axis, (word, follower) in enumerate(zip(chain, followers, strict=True)):
        embedding[vocabulary.id(word), axis] = 1.0
        output[vocabulary.id(follower), axis] = 10.0
    return write_model(
        path, vocabulary, hidden=hidden, heads=hidden // 32, embedding=embedding, output=output,
        layer_scale=0.0, **options,
    )  # fmt: skip

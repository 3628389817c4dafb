"""Makes Hugging Face checkpoints: real safetensors, configuration, tokenizer and card, small and always the same bits.

The weights come from the raw 64-bit words of PCG64 by integer and exact float arithmetic, so that a digest of what is
made of them holds on every machine and with every numpy: numpy promises the words, not the normal distribution.
`CASES` names the checkpoints whose conversion by llama.cpp is recorded in data/upstream-digests.json.
"""

from __future__ import annotations

import gzip
import inspect
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

DATA = Path(__file__).parent / "data"
SMALL_TOKENIZERS = {
    "qwen2": DATA / "small-tokenizer",
    "llama": DATA / "small-tokenizer-llama",
    "qwen3": DATA / "small-tokenizer-qwen3",
}
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ITEM_SIZES = {"BF16": 2, "F16": 2, "F32": 4}
TORCH_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
R1_VOCABULARY = 151_936  # what the 1.5B model's configuration says; its tokenizer has 151,665 entries

IMATRIX_NAMES = {
    "self_attn.q_proj.weight": "attn_q",
    "self_attn.k_proj.weight": "attn_k",
    "self_attn.v_proj.weight": "attn_v",
    "self_attn.o_proj.weight": "attn_output",
    "mlp.gate_proj.weight": "ffn_gate",
    "mlp.up_proj.weight": "ffn_up",
    "mlp.down_proj.weight": "ffn_down",
}

PATTERN = 1 << 20  # weights drawn for a tensor; a bigger one repeats them, moved and with the sign turned
LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
YARN_ROPE = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32768,
    "attn_factor": 0.8782488562869419,
}
CARD = """\
---
license: mit
library_name: transformers
base_model:
- Qwen/Qwen2.5-Math-1.5B
tags:
- reasoning
- distilled
language:
- en
- zh
pipeline_tag: text-generation
---
# A checkpoint of tests

Random weights in the shape of a distilled model.
"""


RICH_CARD = """\
---
license: other
license_name: tiny-licence
license_link: https://example.org/LICENSE
library_name: transformers
base_model:
- Qwen/Qwen2.5-32B
- example-org/Other-Model-7B-Instruct
datasets:
- example-org/reasoning-traces
tags:
- chat
- reasoning
language:
- en
model_name: Tiny Thinker 32B Preview
---
# A card that says much
"""

# Fields that a config.json may lack.
BARE = ("bos_token_id", "eos_token_id", "head_dim", "max_position_embeddings", "num_key_value_heads", "rms_norm_eps")

# The checkpoints that llama.cpp's conversion is recorded of, by the name of their folder: the converter takes the
# name, size and finetune that it writes from there.
CASES: dict[str, dict[str, Any]] = {
    # As the 7B model comes: bf16 in several files.
    "R1-Tiny-Qwen-sharded": {"layers": 3, "shards": 3, "seed": 1},
    # As few files as there can be, and the embedding is the output.
    "qwen2-tied-f32": {
        "dtype": "F32", "tied": True, "seed": 2, "card": False, "generation_config": False, "template": "none",
    },
    # Rows that are no multiple of 256 (and of 32 in the second): the types that stand in for K-quants.
    "qwen2-odd-f16": {"hidden": 96, "heads": 6, "ffn": 160, "dtype": "F16", "seed": 3},
    "qwen2-odder-f32": {"hidden": 72, "heads": 6, "ffn": 256, "dtype": "F32", "seed": 4},
    # Enough layers to see which of them the mixes give more bits, four query heads to a key head.
    "DeepSeek-R1-Distill-Qwen-1.5B": {"layers": 16, "heads": 8, "seed": 5},
    "DeepSeek-R1-Distill-Llama-8B": {
        "architecture": "llama", "layers": 9, "heads": 8, "shards": 2, "rope_scaling": LLAMA3_ROPE, "seed": 6,
    },
    # 80 layers and fewer key heads: the mixes take it for the 70B model.
    "DeepSeek-R1-Distill-Llama-70B": {
        "architecture": "llama", "layers": 80, "heads": 8, "kv_heads": 1, "ffn": 256, "rope_scaling": LLAMA3_ROPE,
        "seed": 7,
    },
    # As many key heads as query heads, which is another attn_v in Q2_K; a head_dim that config.json names.
    "Llama-Tied-MHA-f16": {
        "architecture": "llama", "layers": 4, "kv_heads": 4, "head_dim": 64, "tied": True, "dtype": "F16", "seed": 8,
    },
    # Wider heads than hidden / heads.
    "DeepSeek-R1-0528-Qwen3-8B": {
        "architecture": "qwen3", "layers": 4, "head_dim": 128, "rope_scaling": YARN_ROPE, "template": "file", "seed": 9,
    },
    "QwQ-32B-Preview": {
        "layers": 2, "heads": 4, "kv_heads": 1, "seed": 10, "card": RICH_CARD, "config": {"torch_dtype": "float32"},
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    },
    # A base model's tokenizer, which adds no bos. What config.json calls the model goes before the folder's name, and
    # the size in it is near enough to the truth to be taken for it.
    "Tiny-R1-Chat-1.5M-v1.1": {
        "seed": 12, "tokenizer": "chatml", "card": "---\nlicense: apache-2.0\nlanguage:\n- no\n- en\n---\n",
        "config": {"_name_or_path": "example-org/tiny-R1-1.4M-Instruct-v2"},
        "generation_config": {"do_sample": True, "repetition_penalty": 1.05, "top_k": 20, "top_p": 0.8},
    },
    # What config.json leaves out is filled in by the converter's library, head_dim and kv heads among it.
    "qwen3-bare-config": {
        "architecture": "qwen3", "heads": 32, "kv_heads": 32, "hidden": 64, "ffn": 256, "layers": 1, "head_dim": 128,
        "seed": 13, "card": "no front matter", "generation_config": {"do_sample": False},
        "config": dict.fromkeys(BARE, ...),
    },
    "llama-bare-config": {
        "architecture": "llama", "kv_heads": 4, "layers": 1, "seed": 14, "card": False, "generation_config": False,
        "rope_scaling": {"type": "linear", "factor": 2.0}, "config": dict.fromkeys((*BARE, "rope_theta"), ...),
    },
    # The true tokenizer: 151,665 entries and 271 that are made up.
    "R1-Distill-Qwen-Tokenizer": {"hidden": 64, "ffn": 128, "layers": 1, "tokenizer": "r1", "seed": 11},
}  # fmt: skip


def write_checkpoint(
    folder: Path,
    architecture: str = "qwen2",
    *,
    layers: int = 2,
    hidden: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 512,
    vocab: int | None = None,
    head_dim: int | None = None,
    dtype: str = "BF16",
    shards: int = 1,
    tied: bool = False,
    rope_scaling: Mapping[str, Any] | None = None,
    seed: int = 0,
    tokenizer: str = "small",
    card: bool | str = True,
    generation_config: bool | Mapping[str, Any] = True,
    template: str = "config",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint in `folder`, which is made; returns it.

    `vocab` None is the tokenizer's size, rounded up so that ids are left over. `head_dim` goes into config.json only if
    given. `tokenizer` is "small", the small one of the architecture; "chatml", the same with the special tokens of a
    Qwen2.5 model and no bos; or "r1", the true one of the Qwen distills. A `card` that is text replaces README.md, a
    `generation_config` of fields that file. `template` says where the chat template is: in tokenizer_config.json
    ("config"), in chat_template.jinja ("file") or nowhere ("none"). `config` overrides fields of config.json; a field
    whose value is `...` is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    used = _write_tokenizer(folder, architecture, tokenizer, template)
    if vocab is None:
        vocab = R1_VOCABULARY if tokenizer == "r1" else -(-(used + 1) // 64) * 64
    fields = _config(architecture, layers, hidden, heads, kv_heads, ffn, vocab, head_dim, dtype, tied, rope_scaling)
    special = _special_ids(folder)
    if tokenizer != "r1":
        fields["bos_token_id"], fields["eos_token_id"] = special["bos_token"], special["eos_token"]
    fields.update(config or {})
    fields = {key: value for key, value in fields.items() if value is not ...}
    _write_json(folder / "config.json", fields)
    if generation_config is True:
        generation_config = {
            "_from_model_config": True,
            "bos_token_id": special["bos_token"],
            "eos_token_id": special["eos_token"],
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.95,
        }
    if generation_config:
        _write_json(folder / "generation_config.json", generation_config)
    if card:
        (folder / "README.md").write_text(card if isinstance(card, str) else CARD, encoding="utf-8")
    shapes = tensor_shapes(architecture, layers, hidden, heads, kv_heads, ffn, vocab, head_dim, tied)
    _write_weights(folder, shapes, dtype, shards, seed)
    return folder


def true_1_5b(folder: Path) -> Path:
    """A checkpoint of DeepSeek-R1-Distill-Qwen-1.5B's shape with its tokenizer: 3.55 GB of made-up weights."""
    return write_checkpoint(
        folder, "qwen2", layers=28, hidden=1536, heads=12, kv_heads=2, ffn=8960, tokenizer="r1",
        config={"bos_token_id": 151_643, "eos_token_id": 151_643},
    )  # fmt: skip


def write_case(parent: Path, case: str) -> Path:
    """The checkpoint `case` of CASES in a folder of that name in `parent`; returns the folder."""
    return write_checkpoint(parent / case, **CASES[case])


def imatrix_for(case: str) -> dict[str, np.ndarray]:
    """How much each input of a matrix counts, by the tensor's name in GGUF: what an importance matrix file holds.

    Of every matrix in the layers; there is none of the embedding and of the output, as in those files.
    """
    options = inspect.signature(write_checkpoint).parameters
    chosen = {name: option.default for name, option in options.items()} | CASES[case]
    shape_of = {name: chosen[name] for name in ("layers", "hidden", "heads", "kv_heads", "ffn", "head_dim")}
    shapes = tensor_shapes(chosen["architecture"], vocab=1, **shape_of)
    result = {}
    for name, shape in shapes.items():
        prefix, _, module = name.removeprefix("model.layers.").partition(".")
        short = IMATRIX_NAMES.get(module)
        if short is None:
            continue
        low, high = _words(chosen["seed"], "imatrix " + name).random_raw(2 * shape[1]).reshape(2, -1) >> np.uint64(52)
        # Products of two numbers of 1 to 4096 in 4096ths: most are small, as squares of activations are.
        weights = (low + np.uint64(1)) * (high + np.uint64(1))
        result[f"blk.{prefix}.{short}.weight"] = weights.astype(np.float32) * np.float32(2.0**-24)
    return result


def tensor_shapes(
    architecture: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    head_dim: int | None = None,
    tied: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, in the order in which the model defines them."""
    size = head_dim or hidden // heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(layers):
        block = f"model.layers.{layer}."
        for name, rows in (("q", heads * size), ("k", kv_heads * size), ("v", kv_heads * size)):
            shapes[f"{block}self_attn.{name}_proj.weight"] = (rows, hidden)
            if architecture == "qwen2":
                shapes[f"{block}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{block}self_attn.o_proj.weight"] = (hidden, heads * size)
        if architecture == "qwen3":
            shapes[f"{block}self_attn.q_norm.weight"] = (size,)
            shapes[f"{block}self_attn.k_norm.weight"] = (size,)
        shapes[f"{block}mlp.gate_proj.weight"] = (ffn, hidden)
        shapes[f"{block}mlp.up_proj.weight"] = (ffn, hidden)
        shapes[f"{block}mlp.down_proj.weight"] = (hidden, ffn)
        shapes[f"{block}input_layernorm.weight"] = (hidden,)
        shapes[f"{block}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


# --- configuration and tokenizer --------------------------------------------------------------------------------------


def _config(
    architecture: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    head_dim: int | None,
    dtype: str,
    tied: bool,
    rope_scaling: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """config.json in the manner of the distills: of the 1.5B model, of the Llama 8B, of R1-0528-Qwen3-8B."""
    fields: dict[str, Any] = {
        "architectures": [ARCHITECTURES[architecture]],
        "attention_dropout": 0.0,
        "bos_token_id": 151_643,
        "eos_token_id": 151_643,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": ffn,
        "max_position_embeddings": 131_072,
        "model_type": architecture,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10_000,
        "tie_word_embeddings": tied,
        "torch_dtype": TORCH_DTYPES[dtype],
        "transformers_version": "4.44.0",
        "use_cache": True,
        "vocab_size": vocab,
    }
    if head_dim is not None:
        fields["head_dim"] = head_dim
    if architecture == "qwen2":
        fields.update(max_window_layers=max(1, layers * 3 // 4), sliding_window=4096, use_sliding_window=False)
        fields["use_mrope"] = False
    elif architecture == "llama":
        fields.update(attention_bias=False, mlp_bias=False, pretraining_tp=1, rms_norm_eps=1e-05, rope_theta=500_000.0)
        fields["rope_scaling"] = None
    else:
        fields.update(attention_bias=False, max_window_layers=layers, rope_scaling=None, rope_theta=1_000_000)
        fields.update(sliding_window=None, use_sliding_window=False)
    if rope_scaling is not None:
        fields["rope_scaling"] = dict(rope_scaling)
    return dict(sorted(fields.items()))


def _write_tokenizer(folder: Path, architecture: str, tokenizer: str, template: str) -> int:
    """Copies tokenizer.json and tokenizer_config.json; returns how many ids are taken."""
    if tokenizer == "r1":
        source = DATA
        with gzip.open(DATA / "tokenizer.json.gz") as packed, (folder / "tokenizer.json").open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    elif tokenizer in ("small", "chatml"):
        source = SMALL_TOKENIZERS[architecture]
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    else:
        raise ValueError(f"no such tokenizer: {tokenizer}")
    fields = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    if tokenizer == "chatml":
        fields = _make_chatml(folder / "tokenizer.json", fields)
    text = fields["chat_template"]
    if template != "config":
        del fields["chat_template"]
    if template == "file":
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", fields)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    last: int = max(*data["model"]["vocab"].values(), *(token["id"] for token in data["added_tokens"]))
    return last + 1


def _make_chatml(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Turns a small tokenizer into one like Qwen2.5's; returns its tokenizer_config.json."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for token, text in zip(data["added_tokens"], ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), strict=False):
        token["content"] = text
    data["post_processor"] = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False,
    }  # fmt: skip
    _write_json(path, data)
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131_072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "chat_template": fields["chat_template"],
    }


def _special_ids(folder: Path) -> dict[str, int]:
    """The ids of bos_token and eos_token of the tokenizer in `folder`."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    fields = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in data["added_tokens"]}
    found = {}
    for name in ("bos_token", "eos_token"):
        token = fields[name] or "<|endoftext|>"  # Qwen2.5 has no bos, and this in its configuration all the same
        found[name] = ids[token if isinstance(token, str) else token["content"]]
    return found


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


# --- weights ----------------------------------------------------------------------------------------------------------


def _write_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, shards: int, seed: int) -> None:
    """One safetensors file, or several with their index, the names of each file sorted as the library sorts them."""
    sizes = {name: _count(shape) * ITEM_SIZES[dtype] for name, shape in shapes.items()}
    if shards == 1:
        _write_safetensors(folder / "model.safetensors", shapes, dtype, seed)
        return
    parts: list[dict[str, tuple[int, ...]]] = [{} for _ in range(shards)]
    done, total = 0, sum(sizes.values())
    for name, shape in shapes.items():
        parts[min(shards - 1, done * shards // total)][name] = shape
        done += sizes[name]
    where = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{shards:06d}.safetensors"
        _write_safetensors(folder / file, part, dtype, seed)
        where.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    names = sorted(shapes)
    for name in names:
        end = offset + _count(shapes[name]) * ITEM_SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shapes[name]), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8, as the library writes it
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            _write_tensor(file, name, shapes[name], dtype, seed)


def _write_tensor(file: BinaryIO, name: str, shape: tuple[int, ...], dtype: str, seed: int) -> None:
    for chunk in tensor_chunks(name, shape, dtype, seed):
        file.write(chunk.tobytes())


def tensor_chunks(name: str, shape: tuple[int, ...], dtype: str, seed: int) -> Iterator[np.ndarray]:
    """The values of a tensor in the bits of `dtype`, whole rows at a time.

    A matrix has rows of different size and one value in 64 eight times as big as the others, since real weights
    have outliers. The last row of a vocabulary matrix is zero.
    """
    words = _words(seed, name)
    if len(shape) == 1:
        noise = _bell(words, shape[0])
        if name.endswith("norm.weight"):
            yield as_dtype(np.float32(1.0) + noise * np.float32(2.0**-19), dtype)  # about 1 +- 0.07
        else:
            yield as_dtype(noise * np.float32(2.0**-18), dtype)  # a bias, about 0.14
        return
    rows, columns = shape
    drawn = min(rows, max(1, PATTERN // columns))
    values = _bell(words, drawn * columns).reshape(drawn, columns)
    values *= np.where(words.random_raw(drawn * columns) % 64 == 0, 8, 1).astype(np.float32).reshape(drawn, columns)
    # 21 bits so far and 3 more for the row: float32 holds 24, so all of this is exact.
    values *= (words.random_raw(drawn) % 7 + 1).astype(np.float32)[:, None]
    pattern = as_dtype(values * np.float32(2.0**-23), dtype)  # sigma about 0.02, as the models are initialized
    sign = pattern.dtype.type(1 << (8 * pattern.itemsize - 1))
    for number, start in enumerate(range(0, rows, drawn)):
        chunk = np.roll(pattern, -37 * number, axis=0)[: rows - start]
        if number % 2:
            chunk ^= sign
        if start + drawn >= rows and name in ("model.embed_tokens.weight", "lm_head.weight"):
            chunk[-1] = 0
        yield np.ascontiguousarray(chunk)


def as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as the bits of a safetensors dtype, rounded to the nearest, ties to even."""
    if dtype == "F32":
        return values.astype("<f4").view("<u4")
    if dtype == "F16":
        return values.astype("<f2").view("<u2")
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype("<u2")


def _words(seed: int, name: str) -> np.random.PCG64:
    return np.random.PCG64([seed, zlib.crc32(name.encode())])


def _bell(words: np.random.PCG64, count: int) -> np.ndarray:
    """Whole numbers in float32, roughly normal with sigma 37,837: each the sum of four uniform 16-bit numbers."""
    quarters = words.random_raw(count).astype("<u8").view("<u2").reshape(count, 4)
    total: np.ndarray = quarters.astype(np.int32).sum(axis=1) - 131_070
    return total.astype(np.float32)


def _count(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product

"""Checkpoints to GGUF: the weights that arrive, what is refused, and work that was interrupted and goes on."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors

from quantize import conversion, fast, vocabulary
from quantize.conversion import Options
from quantize.convert import CheckpointConversion, convert_checkpoint, origin_of
from quantize.errors import BadSource, NoSpace, TokenizerDiffers, Unsupported
from quantize.imatrix import Imatrix
from quantize.kernels import Choice, Kernels
from quantize.recipes import Wish
from r1local.chat_types import Sampling
from r1local.engine import EngineOptions, Request, open_engine
from tests.checkpoints import as_dtype, write_checkpoint

Usage = namedtuple("Usage", "total used free")
Tensors = dict[str, tuple[str, np.ndarray]]
"""Of a checkpoint, by name: the dtype as safetensors call it, and the bits (F32 as float32)."""

BITS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64}
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
O_PROJ = "model.layers.0.self_attn.o_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
SMALL_SLABS = 1 << 13


@pytest.fixture(autouse=True, scope="module")
def one_proof_a_tokenizer() -> Iterator[None]:
    """A tokenizer is read once by both libraries, not for every file: that takes longer than all the rest here."""
    answers: dict[tuple[str, bytes], dict[str, Any]] = {}
    asked = vocabulary._run
    last = b""

    def run(program: str, question: dict[str, Any]) -> dict[str, Any]:
        nonlocal last
        if program == "tokenizer":
            last = Path(question["path"]).read_bytes()
        if (program, last) not in answers:
            answers[program, last] = asked(program, question)
        return answers[program, last]

    patch = pytest.MonkeyPatch()
    patch.setattr(vocabulary, "_run", run)
    yield
    patch.undo()


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small tensors are worked on in several pieces, too."""
    monkeypatch.setattr(conversion, "_SLAB_WEIGHTS", SMALL_SLABS)


def small(parent: Path, architecture: str = "qwen2", **options: Any) -> Path:
    """A checkpoint with the same name wherever it is, so that the files made of it can be equal."""
    chosen: dict[str, Any] = {"ffn": 256, "card": False, "generation_config": False, **options}
    return write_checkpoint(parent / "R1-Small", architecture, **chosen)


def convert(
    folder: Path,
    target: Path,
    file_type: str = "Q4_K_M",
    *,
    wish: Wish | None = None,
    choice: Choice = "c",
    threads: int = 2,
    cancel: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    imatrix: Imatrix | None = None,
) -> Path:
    options = Options(Kernels(choice), threads, cancel or threading.Event(), on_progress)
    convert_checkpoint(folder, target, wish or Wish(file_type), options, imatrix=imatrix)
    return target


def read(folder: Path) -> Tensors:
    """By the format's own library."""
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in safetensors.deserialize(path.read_bytes()):
            found[name] = (entry["dtype"], np.frombuffer(entry["data"], BITS[entry["dtype"]]).reshape(entry["shape"]))
    return found


def write(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> None:
    """One file of weights."""
    header, offset = {}, 0
    for tensor, (dtype, bits) in tensors.items():
        header[tensor] = {"dtype": dtype, "shape": bits.shape, "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    text = json.dumps(header).encode()
    content = b"".join(np.ascontiguousarray(bits).tobytes() for _, bits in tensors.values())
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + content)


def edit(folder: Path, **fields: Any) -> None:
    """Fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def numbers(dtype: str, bits: np.ndarray) -> np.ndarray:
    """Weights as float32."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.float32)


def stored(values: np.ndarray, dtype: str) -> tuple[str, np.ndarray]:
    """float32 weights as a checkpoint holds them."""
    bits = as_dtype(np.ascontiguousarray(values, np.float32).reshape(-1), dtype).reshape(values.shape)
    return dtype, bits.view(BITS[dtype])


def data(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a GGUF in F32 by name, as the gguf package reads them."""
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def in_gguf(name: str) -> str:
    """What a tensor of a checkpoint is called there."""
    if name.startswith("model.layers."):
        _, _, layer, module = name.split(".", 3)
        module, _, kind = module.rpartition(".")
        return f"blk.{layer}.{NAMES[module]}.{kind}"
    return {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }[name]  # fmt: skip


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


# The weights


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.usefixtures("small_slabs")
def test_weights_arrive_unchanged_under_their_new_names(architecture: str, dtype: str, tmp_path: Path) -> None:
    folder = small(tmp_path, architecture, dtype=dtype, layers=3, shards=2, head_dim=32)
    source = read(folder)
    got = data(convert(folder, tmp_path / "made.gguf", "F32"))
    assert set(got) == {in_gguf(name) for name in source}
    for name, (kind, bits) in source.items():
        assert np.array_equal(got[in_gguf(name)], numbers(kind, bits)), name


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.usefixtures("small_slabs")
def test_a_type_that_is_kept_is_copied_bit_by_bit(dtype: str, tmp_path: Path) -> None:
    """Negative zeros and the smallest numbers too, which arithmetic might touch."""
    folder = small(tmp_path, dtype=dtype)
    source = read(folder)
    weights = np.zeros((256, 256), np.float32)
    weights[::2] = -0.0
    weights[:, 7] = np.float32(2.0**-24)
    source[DOWN] = stored(weights, dtype)
    write(folder, source)
    got = data(convert(folder, tmp_path / "made.gguf", dtype))
    for name, (_, bits) in source.items():
        if bits.ndim > 1:
            assert got[in_gguf(name)].tobytes() == bits.tobytes(), name


def paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp wants the queries and keys of a Llama: row i of a head's first half, then i of its second, ..."""
    size = rows.shape[0] // heads
    result = np.empty_like(rows)
    for head in range(heads):
        for i in range(size // 2):
            result[head * size + 2 * i] = rows[head * size + i]
            result[head * size + 2 * i + 1] = rows[head * size + size // 2 + i]
    return result


@pytest.mark.parametrize("slab", [1, 256 * 64, 1 << 19])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, None), (4, 4, 32), (8, 1, 16), (2, 1, 256)])
@pytest.mark.parametrize("file_type", ["F32", "BF16"])
def test_heads_of_a_llama_are_turned_into_pairs(
    file_type: str, heads: int, kv_heads: int, head_dim: int | None, slab: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Queries and keys with their biases; nothing else changes its place."""
    monkeypatch.setattr(conversion, "_SLAB_WEIGHTS", slab)
    folder = small(tmp_path, "llama", layers=1, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype="BF16")
    edit(folder, attention_bias=True, mlp_bias=True)
    source = read(folder)
    chance = np.random.default_rng(heads)
    for module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                   "mlp.up_proj", "mlp.down_proj"):  # fmt: skip
        rows = source[f"model.layers.0.{module}.weight"][1].shape[0]
        source[f"model.layers.0.{module}.bias"] = stored(chance.standard_normal(rows), "BF16")
    write(folder, source)
    got = data(convert(folder, tmp_path / "made.gguf", file_type))
    assert set(got) == {in_gguf(name) for name in source}
    for name, (kind, bits) in source.items():
        expected = numbers(kind, bits)
        if "q_proj" in name or "k_proj" in name:
            expected = paired(expected, heads if "q_proj" in name else kv_heads)
            assert not np.array_equal(expected, numbers(kind, bits))
        made = got[in_gguf(name)]
        if file_type == "BF16" and bits.ndim > 1 and "norm" not in name:
            made = numbers("BF16", made.view(np.uint16))
        assert np.array_equal(made, expected), name


def test_heads_are_turned_before_they_are_quantized(tmp_path: Path) -> None:
    """Queries and keys are turned before they are quantized: the same as a checkpoint that holds them turned."""
    folder = small(tmp_path, "llama", layers=1)
    plain = small(tmp_path / "plain", "llama", layers=1)
    tensors = read(folder)
    for letter, heads in (("q", 4), ("k", 2)):
        name = f"model.layers.0.self_attn.{letter}_proj.weight"
        tensors[name] = ("BF16", paired(tensors[name][1], heads))
    write(plain, tensors)
    # Of the turned checkpoint no pairs must be made again: as a Qwen3 its heads stay as they are.
    got, expected = (
        {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
        for path in (
            convert(folder, tmp_path / "a.gguf", "Q4_K_M"),
            convert(as_qwen3(plain), tmp_path / "b.gguf", "Q4_K_M"),
        )
    )
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight"):
        assert np.array_equal(got[name], expected[name]), name


def as_qwen3(folder: Path) -> Path:
    """The weights of a Llama in a Qwen3, whose queries and keys keep their order."""
    tensors = read(folder)
    other = small(folder.parent / "qwen3", "qwen3", layers=1, head_dim=64)
    norms = {name: entry for name, entry in read(other).items() if name.endswith(("q_norm.weight", "k_norm.weight"))}
    rows = read(other)["model.embed_tokens.weight"][1].shape[0]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = ("BF16", np.resize(tensors[name][1], (rows, 256)))
    write(other, {**tensors, **norms})
    return other


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0", "F16", "IQ4_XS"])
def test_the_dtype_of_the_checkpoint_does_not_matter_where_it_holds_the_same_numbers(
    file_type: str, tmp_path: Path
) -> None:
    """Eight bits each, which all three dtypes hold."""
    made = []
    chance = np.random.default_rng(1)
    shapes = {name: bits.shape for name, (_, bits) in read(small(tmp_path)).items()}
    weights = {name: chance.integers(-127, 128, shape).astype(np.float32) / 1024 for name, shape in shapes.items()}
    for dtype in ("F32", "F16", "BF16"):
        folder = small(tmp_path / dtype, dtype=dtype)
        write(folder, {name: stored(values, dtype) for name, values in weights.items()})
        made.append(convert(folder, tmp_path / f"{dtype}.gguf", file_type).read_bytes())
    assert made[0] == made[1] == made[2]


def test_dtypes_may_be_mixed(tmp_path: Path) -> None:
    folder = small(tmp_path, dtype="F32")
    source = read(folder)
    mixed: Tensors = {}
    plain: Tensors = {}
    for number, (name, (_, bits)) in enumerate(source.items()):
        mixed[name] = stored(bits, ("F32", "F16", "BF16")[number % 3])
        plain[name] = ("F32", numbers(*mixed[name]))
    write(folder, mixed)
    twin = small(tmp_path / "twin", dtype="F32")
    write(twin, plain)
    for file_type in ("Q4_K_M", "BF16", "F32"):
        made = convert(folder, tmp_path / "a.gguf", file_type).read_bytes()
        assert made == convert(twin, tmp_path / "b.gguf", file_type).read_bytes()


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_an_output_that_is_left_keeps_its_own_dtype(dtype: str, tmp_path: Path) -> None:
    """Also where config.json speaks of bf16, which all the other weights are."""
    folder = small(tmp_path)
    source = read(folder)
    source["lm_head.weight"] = stored(numbers(*source["lm_head.weight"]), dtype)
    write(folder, source)
    made = convert(folder, tmp_path / "made.gguf", wish=Wish("Q8_0", leave_output=True))
    output = next(tensor for tensor in gguf.GGUFReader(made).tensors if tensor.name == "output.weight")
    assert output.tensor_type.name == dtype
    assert np.array(output.data).tobytes() == source["lm_head.weight"][1].tobytes()


def test_a_tied_output_in_the_file_changes_nothing(tmp_path: Path) -> None:
    folder = small(tmp_path, tied=True)
    without = convert(folder, tmp_path / "without.gguf").read_bytes()
    source = read(folder)
    write(folder, {**source, "lm_head.weight": source["model.embed_tokens.weight"]})
    made = convert(folder, tmp_path / "with.gguf")
    assert made.read_bytes() == without
    assert "output.weight" not in data(made)


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.masked_bias.attention.masked_bias",
     "model.rotary_emb.inv_freq", "transformer.h.0.attention.bias"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["F32", "I64"])
def test_what_programs_make_anew_is_left_out(name: str, dtype: str, tmp_path: Path) -> None:
    folder = small(tmp_path)
    without = convert(folder, tmp_path / "without.gguf").read_bytes()
    write(folder, {**read(folder), name: (dtype, np.ones(8, BITS[dtype]))})
    assert convert(folder, tmp_path / "with.gguf").read_bytes() == without


# Whoever works, however many


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0", "BF16"])
@pytest.mark.usefixtures("small_slabs")
def test_any_number_of_threads_makes_the_same_file(file_type: str, tmp_path: Path) -> None:
    folder = small(tmp_path, "llama", shards=2)
    made = {convert(folder, tmp_path / f"{n}.gguf", file_type, threads=n).read_bytes() for n in (1, 2, 5)}
    assert len(made) == 1


@pytest.mark.parametrize("slab", [1, 1000, 256 * 7, 1 << 22])
def test_the_size_of_the_pieces_does_not_show(slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small(tmp_path, "llama", hidden=64, heads=2, kv_heads=1, ffn=96)
    for file_type in ("Q4_0", "IQ4_NL", "F16"):
        whole = convert(folder, tmp_path / "whole.gguf", file_type).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(conversion, "_SLAB_WEIGHTS", slab)
            assert convert(folder, tmp_path / "pieces.gguf", file_type, threads=3).read_bytes() == whole


@pytest.mark.skipif(fast.why_not() is not None, reason=str(fast.why_not()))
@pytest.mark.usefixtures("small_slabs")
def test_compiled_kernels_make_the_same_file(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for file_type in ("Q4_K_M", "Q5_K_S", "Q6_K", "Q8_0"):
        c, fast_ = (convert(folder, tmp_path / f"{c}.gguf", file_type, choice=c) for c in ("c", "fast"))
        assert c.read_bytes() == fast_.read_bytes()


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.usefixtures("small_slabs")
def test_progress_never_falls_and_ends_at_the_last_weight(threads: int, tmp_path: Path) -> None:
    folder = small(tmp_path, shards=2)
    told: list[tuple[int, int]] = []
    seen: set[str] = set()

    def report(done: int, total: int) -> None:
        told.append((done, total))
        seen.update(path.name for path in target.parent.glob("*.gguf"))

    target = tmp_path / "out" / "made.gguf"
    target.parent.mkdir()
    convert(folder, target, threads=threads, on_progress=report)
    weights = sum(bits.size for _, bits in read(folder).values())
    assert {total for _, total in told} == {weights}
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (weights, weights)
    assert len(told) > 40
    assert seen == set()  # nothing that looks like a model while it is none
    assert left_over(target.parent) == {"made.gguf"}


# What the weights mean


def meaning(folder: Path, tokens: list[int]) -> np.ndarray:
    """The logits after each token, computed from the checkpoint as Hugging Face's transformers do."""
    fields = json.loads((folder / "config.json").read_text())
    weights = {name: numbers(*entry).astype(np.float64) for name, entry in read(folder).items()}
    heads, kv_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
    size = fields.get("head_dim") or fields["hidden_size"] // heads
    angles = np.arange(len(tokens))[:, None] * fields["rope_theta"] ** (-np.arange(0, size, 2) / size)
    cosines, sines = (np.tile(turn(angles), 2)[:, None] for turn in (np.cos, np.sin))

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        scale = weights.get(name)
        return x if scale is None else x / np.sqrt((x * x).mean(-1, keepdims=True) + fields["rms_norm_eps"]) * scale

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0.0)

    def rotated(x: np.ndarray) -> np.ndarray:
        first, second = np.split(x, 2, axis=-1)
        return x * cosines + np.concatenate([-second, first], axis=-1) * sines

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(fields["num_hidden_layers"]):
        attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        h = normed(x, f"model.layers.{layer}.input_layernorm.weight")
        q, k, v = (
            linear(h, f"{attention}{letter}_proj").reshape(len(tokens), count, size)
            for letter, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        q, k = (rotated(normed(part, f"{attention}{letter}_norm.weight")) for letter, part in (("q", q), ("k", k)))
        k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size)
        scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hqk,khd->qhd", shares, v).reshape(len(tokens), -1), f"{attention}o_proj")
        h = normed(x, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate = linear(h, f"{mlp}gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, f"{mlp}up_proj"), f"{mlp}down_proj")
    output = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return np.asarray(normed(x, "model.norm.weight") @ output.T)


def logits(path: Path, tokens: list[int]) -> np.ndarray:
    """What the C library computes."""
    import llama_cpp

    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    assert model
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 64
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, parameters)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for place, token in enumerate(tokens):
        batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
        batch.seq_id[place][0], batch.logits[place] = 0, True
    assert llama_cpp.llama_decode(context, batch) == 0
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    found = [list(llama_cpp.llama_get_logits_ith(context, place)[:size]) for place in range(len(tokens))]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.array(found)


MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"tied": True, "kv_heads": 4},
    "llama": {},
    "llama with biases": {"config": {"attention_bias": True}},
    "qwen3": {"head_dim": 32, "kv_heads": 1},
}


@pytest.mark.engine
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("small_slabs")
def test_the_c_library_computes_what_the_checkpoint_means(model: str, tmp_path: Path) -> None:
    """Names, order of the heads, biases, norms and the numbers of the model: none may be mixed up."""
    folder = small(tmp_path, model.split()[0], dtype="F32", hidden=64, ffn=96, **MODELS[model])
    chance = np.random.default_rng(3)
    source = read(folder)
    for name, (dtype, bits) in list(source.items()):
        if "norm" in name:
            source[name] = (dtype, bits * chance.uniform(0.5, 2, bits.shape).astype(np.float32))
        else:
            source[name] = (dtype, bits * np.float32(6 if bits.ndim > 1 else 20))
    if "biases" in model:
        for letter, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
            for layer in range(2):
                name = f"model.layers.{layer}.self_attn.{letter}_proj.bias"
                source[name] = ("F32", chance.standard_normal(rows).astype(np.float32))
    write(folder, source)
    tokens = [5, 17, 80, 33, 200, 9, 11]
    got, expected = logits(convert(folder, tmp_path / "made.gguf", "F32"), tokens), meaning(folder, tokens)
    assert np.abs(expected).max() > 3
    assert np.abs(got - expected).max() < 0.005


@pytest.mark.engine
def test_the_engine_runs_the_file(tmp_path: Path) -> None:
    greedy = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
    made = convert(small(tmp_path), tmp_path / "made.gguf")
    with open_engine(made, EngineOptions(n_ctx=256)) as engine:
        stream = engine.submit(Request([5, 17, 80, 33], greedy, max_tokens=8))
        pieces = list(stream)
    assert stream.outcome is not None
    assert stream.outcome.prompt_tokens == 4
    assert pieces


# What is refused


def refused(folder: Path, target: Path, error: type[Exception] = BadSource, **options: Any) -> str:
    """The sentence and the advice; nothing is there that looks like a model."""
    with pytest.raises(error) as caught:
        convert(folder, target, **options)
    assert not target.exists()
    return str(caught.value)


def spoil(folder: Path, name: str, place: int, value: float) -> None:
    source = read(folder)
    dtype, bits = source[name]
    changed = bits.copy()
    changed.reshape(-1)[place] = stored(np.array([value], np.float32), dtype)[1][0]
    write(folder, {**source, name: (dtype, changed)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0", "same"])
def test_weights_that_are_no_numbers_are_refused_by_name(
    file_type: str, dtype: str, value: float, tmp_path: Path
) -> None:
    folder = small(tmp_path, layers=2, dtype=dtype)
    for name, place in ((Q_PROJ, 0), (DOWN, -1), ("model.layers.1.self_attn.k_proj.bias", 5), ("lm_head.weight", 777)):
        spoil(folder, name, place, value)
        said = refused(folder, tmp_path / "made.gguf", file_type=dtype if file_type == "same" else file_type)
        assert name in said
        assert "not finite" in said
        spoil(folder, name, place, 0.0)
    assert convert(folder, tmp_path / "made.gguf", "Q8_0").exists()


@pytest.mark.skipif(fast.why_not() is not None, reason=str(fast.why_not()))
def test_compiled_kernels_see_no_numbers_that_are_none(tmp_path: Path) -> None:
    folder = small(tmp_path, dtype="F32")
    spoil(folder, DOWN, 300, float("nan"))
    assert DOWN in refused(folder, tmp_path / "made.gguf", choice="fast")


# The largest numbers that a scale in half precision, or a weight of the type itself, can stand for, times ten.
TOO_LARGE = {
    "F16": 6.6e5, "BF16": 3.4028234e38, "Q8_0": 9e7, "Q4_0": 6e6, "Q4_1": 1e7, "Q5_0": 1.1e7, "Q5_1": 2.1e7,
    "Q4_K_S": 7e8, "Q5_K_S": 1.3e9, "Q6_K": 3e9, "Q3_K_S": 1e9, "IQ4_NL": 1e9, "IQ4_XS": 1e10,
}  # fmt: skip


@pytest.mark.parametrize("file_type", TOO_LARGE)
@pytest.mark.parametrize("choice", ["c", "fast"])
def test_weights_too_large_for_the_type_are_refused_with_advice(choice: Choice, file_type: str, tmp_path: Path) -> None:
    if choice == "fast" and fast.why_not():
        pytest.skip(str(fast.why_not()))
    folder = small(tmp_path, dtype="F32", layers=2)
    spoil(folder, DOWN, 300, TOO_LARGE[file_type])
    said = refused(folder, tmp_path / "made.gguf", file_type=file_type, choice=choice)
    assert DOWN in said
    assert "too large" in said
    assert "F32" in said
    # What was advised works.
    assert convert(folder, tmp_path / "made.gguf", "F32").exists()


def drop(tensors: Tensors, name: str) -> Tensors:
    return {other: entry for other, entry in tensors.items() if other != name}


CHANGES: dict[str, tuple[Callable[[Tensors], Tensors], type[Exception], str]] = {
    "missing": (lambda t: drop(t, DOWN), BadSource, DOWN),
    "missing bias": (lambda t: drop(t, Q_PROJ.replace("weight", "bias")), BadSource, "q_proj.bias"),
    "missing output": (lambda t: drop(t, "lm_head.weight"), BadSource, "lm_head.weight"),
    "extra": (lambda t: {**t, "model.layers.2.mlp.up_proj.weight": t[DOWN]}, BadSource, "model.layers.2.mlp.up_proj"),
    "extra bias": (lambda t: {**t, O_PROJ.replace("weight", "bias"): t["model.norm.weight"]}, BadSource, "o_proj.bias"),
    "strange": (lambda t: {**t, "position_ids": ("I64", np.arange(4))}, BadSource, "position_ids"),
    "fewer rows": (lambda t: {**t, DOWN: (t[DOWN][0], t[DOWN][1][:-1])}, BadSource, DOWN),
    "turned": (
        lambda t: {**t, "lm_head.weight": (t["lm_head.weight"][0], t["lm_head.weight"][1].T)}, BadSource, "lm_head",
    ),
    "flat": (lambda t: {**t, DOWN: (t[DOWN][0], t[DOWN][1].reshape(-1))}, BadSource, DOWN),
    "one more dimension": (lambda t: {**t, DOWN: (t[DOWN][0], t[DOWN][1][None])}, BadSource, DOWN),
    "no rows": (lambda t: {**t, DOWN: (t[DOWN][0], t[DOWN][1][:0])}, BadSource, DOWN),
    "whole numbers": (lambda t: {**t, DOWN: ("I64", np.zeros((256, 256), np.int64))}, Unsupported, "I64"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_do_not_make_the_model_are_refused_before_the_work(change: str, tmp_path: Path) -> None:
    folder = small(tmp_path)
    changed, error, named = CHANGES[change]
    write(folder, changed(read(folder)))
    assert named in refused(folder, tmp_path / "made.gguf", error)
    assert left_over(tmp_path) == set()


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = small(tmp_path, shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    second = sorted(folder.glob("*.safetensors"))[1].name
    first = next(name for name, file in index["weight_map"].items() if file != second)
    held = {name: entry for name, entry in read(folder).items() if index["weight_map"][name] == second}
    write(folder, {**held, first: ("BF16", np.zeros(1, np.uint16))}, second)
    assert "disagree" in refused(folder, tmp_path / "made.gguf")


@pytest.mark.parametrize("lost", [100, 1 << 20])
def test_a_file_that_shrinks_under_the_work_is_noticed(lost: int, tmp_path: Path) -> None:
    folder = small(tmp_path, layers=4)
    weights = folder / "model.safetensors"
    size = weights.stat().st_size

    def shrink(done: int, total: int) -> None:
        os.truncate(weights, size - lost)

    assert "ends in the middle" in refused(folder, tmp_path / "made.gguf", threads=1, on_progress=shrink)


def test_a_vocabulary_that_is_read_differently_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = small(tmp_path), tmp_path / "made.gguf"
    asked = vocabulary._run

    def run(program: str, question: dict[str, Any]) -> dict[str, Any]:
        answer = asked(program, question)
        if program == "library":
            answer = {"ids": [[*ids, 1] for ids in answer["ids"]]}
        return answer

    monkeypatch.setattr(vocabulary, "_run", run)
    refused(folder, target, TokenizerDiffers)
    assert left_over(tmp_path) == set()


def test_a_link_in_place_of_the_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "precious.txt"
    other.write_text("mine")
    (tmp_path / "made.gguf.part").symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        convert(small(tmp_path), tmp_path / "made.gguf")
    assert other.read_text() == "mine"


def test_a_link_in_place_of_the_journal_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "precious.txt"
    other.write_text("mine")
    (tmp_path / "made.gguf.part.journal.new").symlink_to(other)
    try:
        convert(small(tmp_path), tmp_path / "made.gguf")
    except OSError:
        pass
    assert other.read_text() == "mine"


# Interrupted and gone on with


class Work:
    """Conversions of one checkpoint, counted in pieces."""

    def __init__(self, folder: Path, parent: Path, file_type: str = "Q4_K_M") -> None:
        self.folder, self.file_type = folder, file_type
        self.target = parent / "work" / "made.gguf"
        self.target.parent.mkdir()
        self.part = self.target.with_name("made.gguf.part")
        self.journal = self.target.with_name("made.gguf.part.journal")
        self.pieces = 0
        self.whole = self.undisturbed(folder)

    def undisturbed(self, folder: Path, **options: Any) -> bytes:
        """The bytes of a conversion that nothing disturbs; counts its pieces."""
        self.pieces = 0

        def count(done: int, total: int) -> None:
            self.pieces += 1

        options = {"file_type": self.file_type, **options}
        made = convert(folder, self.target.with_name("undisturbed.gguf"), on_progress=count, threads=1, **options)
        content = made.read_bytes()
        made.unlink()
        return content

    def interrupt(self, share: float = 0.5, **options: Any) -> int:
        """Stop when so much is done; how many pieces there are now."""
        cancel, count = threading.Event(), 0

        def report(done: int, total: int) -> None:
            nonlocal count
            count += 1
            if done >= share * total:
                cancel.set()

        with pytest.raises(KeyboardInterrupt):
            convert(self.folder, self.target, self.file_type, threads=1, cancel=cancel, on_progress=report, **options)
        assert left_over(self.target.parent) == {self.part.name, self.journal.name}
        return count

    def go_on(self, **options: Any) -> int:
        """To the end; how many pieces were left to do. The result is that of undisturbed work."""
        told: list[int] = []
        options = {"file_type": self.file_type, **options}
        convert(self.folder, self.target, on_progress=lambda done, total: told.append(done), **options)
        assert told == sorted(set(told))
        assert left_over(self.target.parent) == {self.target.name}
        return len(told)


@pytest.fixture
def work(tmp_path: Path, small_slabs: None) -> Work:
    return Work(small(tmp_path, "llama", shards=2), tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 0.97])
def test_cancelled_work_is_gone_on_with(work: Work, share: float) -> None:
    done = work.interrupt(share)
    assert 0 < done < work.pieces
    assert work.go_on(threads=3) == work.pieces - done
    assert work.target.read_bytes() == work.whole


def test_work_may_be_cancelled_again_and_again(work: Work) -> None:
    done = sum(work.interrupt(share) for share in (0.1, 0.3, 0.3, 0.6, 0.9))
    assert work.go_on() == work.pieces - done
    assert work.target.read_bytes() == work.whole


def test_cancelled_before_the_first_piece(work: Work) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(KeyboardInterrupt):
        convert(work.folder, work.target, cancel=cancel)
    work.go_on()
    assert work.target.read_bytes() == work.whole


def test_when_everything_was_written_only_the_name_is_missing(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at the very last moment, before the file got its name."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion.os, "replace", lambda a, b: stop() if str(b).endswith(".gguf") else os.rename(a, b))
        with pytest.raises(KeyboardInterrupt):
            convert(work.folder, work.target)
    assert not work.target.exists()
    assert work.go_on() == 0
    assert work.target.read_bytes() == work.whole


def lines(journal: Path) -> list[list[int]]:
    """(number of the tensor, first row, rows, checksum, check) of every piece."""
    return [[int(number) for number in line.split()] for line in journal.read_text().splitlines()[1:]]


def places(work: Work) -> list[tuple[int, int]]:
    """Where each finished piece lies in the unfinished file, by the journal and the header."""
    tensors = gguf.GGUFReader(work.part).tensors
    found = []
    for number, first, rows, *_ in lines(work.journal):
        tensor = tensors[number]
        row = int(tensor.n_bytes) // (int(tensor.n_elements) // int(tensor.shape[0]))
        found.append((int(tensor.data_offset) + first * row, rows * row))
    return found


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_in_what_was_done_is_done_again(work: Work, seed: int) -> None:
    chance = random.Random(seed)
    done = work.interrupt(0.6)
    spoiled = chance.sample(places(work), 3)
    for start, length in spoiled:
        flip(work.part, start + chance.choice((0, length - 1, chance.randrange(length))), chance.randrange(8))
    assert work.go_on() == work.pieces - done + 3
    assert work.target.read_bytes() == work.whole


def test_garbage_in_the_header_and_beyond_what_was_done_is_written_over(work: Work) -> None:
    done = work.interrupt(0.5)
    size = work.part.stat().st_size
    written = np.zeros(size, bool)
    for start, length in places(work):
        written[start : start + length] = True
    content = np.frombuffer(work.part.read_bytes(), np.uint8).copy()
    content[~written] = 0xAB
    # What lies between two tensors is nobody's weight: it stays empty.
    ends = [int(t.data_offset) + int(t.n_bytes) for t in gguf.GGUFReader(work.part).tensors]
    assert all(end % 32 == 0 for end in ends)
    work.part.write_bytes(content.tobytes() + b"and more")
    assert work.go_on() == work.pieces - done
    assert work.target.read_bytes() == work.whole


def test_garbage_between_two_tensors_does_not_stay(tmp_path: Path, small_slabs: None) -> None:
    """Half a disk block after a power cut, say: the file has to be the one that undisturbed work makes."""
    work = Work(small(tmp_path, hidden=72, heads=6, kv_heads=3, ffn=40), tmp_path, "F16")
    work.interrupt(0.6)
    tensors = gguf.GGUFReader(work.part).tensors
    first = int(tensors[0].data_offset)
    offset, end = first, 0
    for one, following in itertools.pairwise(tensors):
        offset, end = int(one.data_offset) + int(one.n_bytes), int(following.data_offset)
        if offset < end:
            break
    assert offset < end
    flip(work.part, offset)
    work.go_on()
    assert work.target.read_bytes() == work.whole


def test_a_part_that_was_cut_off_is_filled_up(work: Work) -> None:
    done = work.interrupt(0.6)
    os.truncate(work.part, work.part.stat().st_size // 3)
    again = work.go_on()
    assert work.pieces - done < again <= work.pieces
    assert work.target.read_bytes() == work.whole


def test_without_the_unfinished_file_the_journal_is_not_believed(work: Work) -> None:
    work.interrupt(0.6)
    work.part.unlink()
    assert work.go_on() == work.pieces
    assert work.target.read_bytes() == work.whole


def test_without_the_journal_the_unfinished_file_is_not_believed(work: Work) -> None:
    work.interrupt(0.6)
    work.journal.unlink()
    assert work.go_on() == work.pieces
    assert work.target.read_bytes() == work.whole


def test_a_torn_last_line_costs_its_piece_alone(work: Work, tmp_path: Path) -> None:
    done = work.interrupt(0.6)
    whole = work.journal.read_bytes()
    for torn in (1, 2, len(whole.splitlines()[-1])):
        work.journal.write_bytes(whole[:-torn])
        shutil.copy(work.part, tmp_path / "kept")
        assert work.go_on() == work.pieces - done + 1
        assert work.target.read_bytes() == work.whole
        work.target.unlink()
        (tmp_path / "kept").rename(work.part)


def test_a_line_whose_own_check_is_wrong_is_not_believed(work: Work) -> None:
    done = work.interrupt(0.6)
    content = work.journal.read_text()
    last = content[-2]
    work.journal.write_text(content[:-2] + ("1" if last != "1" else "2") + "\n")
    assert work.go_on() == work.pieces - done + 1
    assert work.target.read_bytes() == work.whole


@pytest.mark.parametrize("seed", range(8))
def test_whatever_bit_of_the_journal_is_flipped_the_file_comes_out_right(work: Work, seed: int) -> None:
    work.interrupt(0.6)
    chance = random.Random(seed)
    for _ in range(1 + seed % 3):
        flip(work.journal, chance.randrange(work.journal.stat().st_size), chance.randrange(8))
    work.go_on()
    assert work.target.read_bytes() == work.whole


@pytest.mark.parametrize(
    "line",
    ["99999 0 1 0", "0 99999999 1 0", "0 0 99999999 0", "0 0 0 0", "3 5 0 0", "0 0 1 99999999999999999999999999",
     "-1 0 1 0", "0 -1 1 0", "a b c d", "", "0 0 1", "0 0 1 0 0 0", "² ² ² ²",
     "0 0 1 " + "9" * 5000],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_not_believed(work: Work, line: str) -> None:
    import zlib

    done = work.interrupt(0.4)
    with work.journal.open("a", encoding="utf-8") as file:
        file.write(f"{line} {zlib.crc32(line.encode())}\n")
    # A line that nobody could have written may cost the others: better twice than wrong.
    assert work.pieces - done <= work.go_on() <= work.pieces
    assert work.target.read_bytes() == work.whole


@pytest.mark.parametrize("slab", [SMALL_SLABS // 2, SMALL_SLABS * 2, 1 << 19])
def test_pieces_of_another_size_are_gone_on_with(work: Work, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer version may cut the tensors otherwise."""
    work.interrupt(0.6)
    monkeypatch.setattr(conversion, "_SLAB_WEIGHTS", slab)
    work.go_on()
    assert work.target.read_bytes() == work.whole


def imatrix(folder: Path, value: float) -> Imatrix:
    names = [in_gguf(name) for name, (_, bits) in read(folder).items() if "proj" in name and bits.ndim > 1]
    columns = np.linspace(1, value, 256).astype(np.float32)
    return Imatrix(Path("calibration.gguf"), dict.fromkeys(names, columns), "texts.txt", 3)


def other_weights(folder: Path) -> None:
    before = (folder / "model-00001-of-000002.safetensors").stat()
    small(folder.parent, "llama", shards=2, seed=1)
    os.utime(folder / "model-00001-of-000002.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns + 1))


OTHERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "type": lambda folder: {"file_type": "Q5_K_M"},
    "mix of the same size": lambda folder: {"wish": Wish("Q4_K_M", overrides=(("attn_q", "Q5_0"),))},
    "imatrix": lambda folder: {"imatrix": imatrix(folder, 9)},
    "weights": lambda folder: other_weights(folder) or {},
    "base of the rotation": lambda folder: edit(folder, rope_theta=10000.0) or {},
    "context": lambda folder: edit(folder, max_position_embeddings=4096) or {},
    "template": lambda folder: (folder / "tokenizer_config.json").write_text(
        (folder / "tokenizer_config.json").read_text().replace("<think>", "<THINK>")
    ) and {},
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_other_work_does_not_go_on_with_this_one(work: Work, other: str) -> None:
    """Nothing of the first is in the second, which is as if the first had never been."""
    work.interrupt(0.6)
    before = work.whole
    options = OTHERS[other](work.folder)
    whole = work.undisturbed(work.folder, **options)
    assert whole != before
    assert work.go_on(**options) == work.pieces
    assert work.target.read_bytes() == whole


def test_another_importance_matrix_of_the_same_name_does_not_go_on(work: Work) -> None:
    work.interrupt(0.6, imatrix=imatrix(work.folder, 9))
    other = imatrix(work.folder, 8)
    whole = work.undisturbed(work.folder, imatrix=other)
    assert work.go_on(imatrix=other) == work.pieces
    assert work.target.read_bytes() == whole


def test_the_same_importance_matrix_goes_on(work: Work) -> None:
    whole = work.undisturbed(work.folder, imatrix=imatrix(work.folder, 9))
    done = work.interrupt(0.6, imatrix=imatrix(work.folder, 9))
    assert work.go_on(imatrix=imatrix(work.folder, 9)) == work.pieces - done
    assert work.target.read_bytes() == whole


@pytest.mark.skipif(fast.why_not() is not None, reason=str(fast.why_not()))
def test_other_kernels_and_threads_go_on(work: Work) -> None:
    done = work.interrupt(0.5)
    assert work.go_on(choice="fast", threads=4) == work.pieces - done
    assert work.target.read_bytes() == work.whole


def test_what_is_mended_after_a_refusal_starts_anew_and_is_right(work: Work) -> None:
    path = work.folder / "model-00002-of-000002.safetensors"
    sound = path.read_bytes()
    path.write_bytes(sound[:-2] + b"\xff\x7f")  # the last weight of the file
    with pytest.raises(BadSource, match="not finite"):
        convert(work.folder, work.target)
    path.write_bytes(sound)
    os.utime(path, ns=(1, 1))
    work.go_on()
    assert work.target.read_bytes() == work.whole


# One file of weights after the other


def test_files_of_weights_may_come_and_go_in_any_order(tmp_path: Path, small_slabs: None) -> None:
    """As they do when they are fetched one at a time and deleted when they are used up."""
    folder = small(tmp_path, "llama", layers=4, shards=4)
    whole = convert(folder, tmp_path / "whole.gguf").read_bytes()
    shards = tmp_path / "elsewhere"
    shards.mkdir()
    for path in folder.glob("*.safetensors"):
        path.rename(shards / path.name)
    options = Options(Kernels("c"), 2, threading.Event())
    for turn in ((3, 1), (0,), (2,)):  # in three sittings
        job = CheckpointConversion(folder, Wish("Q4_K_M"), origin_of(folder))
        names = list(job.shards)
        assert len(names) == 4
        with job.open(tmp_path / "made.gguf", options, "the same") as work:
            for number in turn:
                assert not job.is_used_up(work, names[number])
                shutil.copy(shards / names[number], folder / names[number])
                job.take(work, names[number])
                assert job.is_used_up(work, names[number])
                (folder / names[number]).unlink()
            if turn != (2,):
                with pytest.raises(BadSource, match="lacks"):
                    work.finish()
                assert not (tmp_path / "made.gguf").exists()
            else:
                work.finish()
    assert (tmp_path / "made.gguf").read_bytes() == whole


# Killed


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A checkpoint that takes a second or two, and what it becomes."""
    home = tmp_path_factory.mktemp("large")
    folder = small(home, layers=6, hidden=512, heads=8, ffn=2048)
    return folder, convert(folder, home / "whole.gguf", threads=1).read_bytes()


def start(folder: Path, target: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "quantize", str(folder), "-o", str(target), "--kernels", "c", "--threads", "1"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def until(child: subprocess.Popen[str], percent: int) -> None:
    """Read what the child says until it has done so much."""
    assert child.stderr is not None
    seen = ""
    while not any(int(number) >= percent for number in re.findall(r"(\d+) %", seen)):
        char = child.stderr.read(1)
        assert char, seen
        seen += char


def test_a_killed_conversion_goes_on_where_it_was(large: tuple[Path, bytes], tmp_path: Path) -> None:
    """Killed at random moments, as often as one likes: no byte differs in the end, and nothing is done twice."""
    folder, whole = large
    target = tmp_path / "made.gguf"
    chance = random.Random(7)
    kept = 0
    for percent in (1, 20, 45, 70):
        with start(folder, target) as child:
            until(child, percent)
            threading.Event().wait(chance.random() / 20)
            child.kill()
        assert child.returncode == -signal.SIGKILL
        assert left_over(tmp_path) <= {"made.gguf.part", "made.gguf.part.journal", "made.gguf.part.journal.new"}
        now = len(lines(tmp_path / "made.gguf.part.journal"))
        assert now >= kept
        kept = now
    assert kept > 10
    told: list[int] = []
    weights = sum(bits.size for _, bits in read(folder).values())
    convert(folder, target, threads=1, on_progress=lambda done, total: told.append(done))
    assert told[0] > 0.7 * weights
    assert target.read_bytes() == whole
    assert left_over(tmp_path) == {"made.gguf"}


def test_ctrl_c_stops_with_130_and_a_way_on(large: tuple[Path, bytes], tmp_path: Path) -> None:
    folder, whole = large
    target = tmp_path / "made.gguf"
    with start(folder, target) as child:
        until(child, 30)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        said = child.stderr.read()
    assert child.returncode == 130
    assert "goes on from here" in said
    assert "Traceback" not in said
    assert not target.exists()
    told: list[int] = []
    convert(folder, target, on_progress=lambda done, total: told.append(done))
    assert told[0] > 0.3 * sum(bits.size for _, bits in read(folder).values())
    assert target.read_bytes() == whole


# Full disks


def test_a_result_that_does_not_fit_is_refused_before_the_work(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 1000))
    with pytest.raises(NoSpace) as caught:
        convert(work.folder, work.target)
    assert f"{len(work.whole):,} bytes" in caught.value.message
    assert "1,000 are free" in caught.value.message
    assert caught.value.hint
    assert not work.target.exists()
    monkeypatch.undo()


def test_what_is_written_already_needs_no_space(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no more room than the rest takes, and what is wanted to be spared."""
    done = work.interrupt(0.9)
    held = work.part.stat().st_blocks * 512
    free = len(work.whole) - held + (64 << 20)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free - 1))
    with pytest.raises(NoSpace):
        convert(work.folder, work.target)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free + (1 << 20)))
    assert work.go_on() == work.pieces - done
    assert work.target.read_bytes() == work.whole


@pytest.mark.parametrize("place", [1, 5, 20])
def test_a_disk_that_fills_up_in_the_middle_keeps_what_is_there(
    work: Work, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0
    write_at = conversion.write_at

    def count(weights: int, total: int) -> None:
        nonlocal done
        done += 1

    def full(descriptor: int, view: Any, offset: int) -> None:
        if done == place:
            write_at(descriptor, memoryview(view).cast("B")[:7], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_at(descriptor, view, offset)

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "write_at", full)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            convert(work.folder, work.target, threads=1, on_progress=count)
    assert not work.target.exists()
    assert work.go_on() == work.pieces - place
    assert work.target.read_bytes() == work.whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 80 MB, where one may be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)]
    if mount is None or os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_fills_up_in_the_middle(large: tuple[Path, bytes], small_disk: Path) -> None:
    folder, whole = large
    filler, target = small_disk / "filler", small_disk / "made.gguf"

    def fill(done: int, total: int) -> None:
        if done > total / 3 and not filler.exists():
            room = shutil.disk_usage(small_disk).free
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, room)

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        convert(folder, target, threads=1, on_progress=fill)
    assert not target.exists()
    with pytest.raises(NoSpace):
        convert(folder, target)
    filler.unlink()
    told: list[int] = []
    convert(folder, target, on_progress=lambda done, total: told.append(done))
    assert told[0] > sum(bits.size for _, bits in read(folder).values()) / 4
    assert target.read_bytes() == whole

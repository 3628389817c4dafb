"""What does sampling cost at a vocabulary of 152,000? Its share of a step of a 1.5B distill. Goal: at most 3 %.

The model has the shape and the tokenizer of DeepSeek-R1-Distill-Qwen-1.5B and random Q8_0 weights, whose flat
logits are the worst case: nothing is unlikely. It is made at the first run (1.9 GB) and kept in --folder.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import gguf
import numpy as np

from benchmarks.bare import GREEDY, BareLoop
from benchmarks.measure import ROUNDS
from r1local.catalog import load_catalog
from r1local.chat_types import Sampling
from r1local.engine.sampler import Sampler
from tests.makers import RealVocabulary

VARIANTS = {
    "as the catalog says for R1": Sampling(**load_catalog().resolve("1.5b")[0].sampling, seed=1),
    "greedy": GREEDY,
    "top_k 64 first": Sampling(0.6, 0.95, 64, 0.0, seed=1),
    "with DRY and a repeat penalty": Sampling(0.6, 0.95, 0, 0.0, seed=1, repeat_penalty=1.05, dry_multiplier=0.8),
    "no nucleus: all 151,936": Sampling(1.0, 1.0, 0, 0.0, seed=1),
}


def write_shape(path: Path) -> None:
    """Random Q8_0 weights in the shape of the catalog's 1.5B, written block by block."""
    shape = load_catalog().resolve("1.5b")[0]
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(7)
    RealVocabulary().add_to(writer)

    def add(name: str, rows: int, columns: int) -> None:
        blocks = random.integers(-127, 128, (rows, columns // 32, 34), dtype=np.int8).view(np.uint8)
        blocks[:, :, :2] = np.array([0.02 / 127], np.float16).view(np.uint8)
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def add_vector(name: str, size: int, value: float) -> None:
        writer.add_tensor(name, np.full(size, value, np.float32))

    kv_size = shape.kv_heads * shape.head_size
    add("token_embd.weight", shape.vocabulary, shape.hidden)
    add("output.weight", shape.vocabulary, shape.hidden)
    add_vector("output_norm.weight", shape.hidden, 1.0)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        for name, rows in (("q", shape.hidden), ("k", kv_size), ("v", kv_size)):
            add(f"{block}attn_{name}.weight", rows, shape.hidden)
            add_vector(f"{block}attn_{name}.bias", rows, 0.0)
        add(f"{block}attn_output.weight", shape.hidden, shape.hidden)
        add(f"{block}ffn_gate.weight", shape.feed_forward, shape.hidden)
        add(f"{block}ffn_up.weight", shape.feed_forward, shape.hidden)
        add(f"{block}ffn_down.weight", shape.hidden, shape.feed_forward)
        for name in ("attn_norm", "ffn_norm"):
            add_vector(f"{block}{name}.weight", shape.hidden, 1.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    parser.add_argument("--steps", type=int, default=8, help="steps in a round")
    given = parser.parse_args()
    path = given.folder / "r1local-shape-1.5b-q8_0.gguf"
    if not path.exists():
        write_shape(path)
    bare = BareLoop(path, 1024)
    context, batch = bare.context, bare.batch
    samplers = {name: Sampler(bare.model, sampling) for name, sampling in VARIANTS.items()}
    decode: list[float] = []
    draw: dict[str, list[float]] = {name: [] for name in VARIANTS}
    token = 100
    for number in range((ROUNDS + 1) * given.steps):
        batch.clear()
        row = batch.add(0, (token,), number, want_last=True)
        began = time.perf_counter()
        context.decode(batch)
        decoded = time.perf_counter() - began
        for name, sampler in samplers.items():
            began = time.perf_counter()
            token = sampler.sample(context, row)
            if number >= given.steps:
                draw[name].append(time.perf_counter() - began)
        if number >= given.steps:
            decode.append(decoded)
    step = statistics.median(decode)
    print(f"A step of the 1.5B shape, Q8_0, flat logits over 151,936 tokens: decode {step * 1000:.1f} ms")
    for name, times in draw.items():
        median = statistics.median(times)
        print(f"  {name:<32} {median * 1e6:8.0f} us   {median / step:6.2%} of decode   ({len(times)} steps)")


if __name__ == "__main__":
    main()

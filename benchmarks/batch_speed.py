"""Tokens a second at 1 to 32 sequences, beside llama.cpp's own llama-batched-bench on the same file, in one run.

    python -m benchmarks.batch_speed MODEL.gguf --tools FOLDER [--rounds 5] [--sequences 1,4,8,16,32]

FOLDER holds llama-batched-bench, built from the llama.cpp that llama-cpp-python vendors. Both decode 128 tokens behind
prompts of 128, ours once more behind prompts of 32 to 224; ours draw at a temperature and hand out text, the other one
takes any token. Rates are those while every sequence decodes. Also: how long the whole takes one by one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
from pathlib import Path

from r1local.chat_types import Sampling
from r1local.engine import EngineOptions, LlamaEngine, Piece, Request, Stream, merge, open_engine
from r1local.reader import ReplyReader

PROMPT, DRAWN, CONTEXT = 128, 128, 512


def decode_rate(engine: LlamaEngine, prompts: list[list[int]]) -> tuple[float, float]:
    """Tokens a second while all sequences decode, and seconds from the first request to the last token."""
    sampling = Sampling(temperature=0.6, top_p=0.95, top_k=0, min_p=0.0, seed=1)
    streams = [engine.submit(Request(prompt, sampling, max_tokens=DRAWN)) for prompt in prompts]
    readers = {stream: ReplyReader(thought_open=True) for stream in streams}
    times: dict[Stream, list[float]] = {stream: [] for stream in streams}
    began = 0.0
    for stream, item in merge(streams):
        if isinstance(item, Piece):
            readers[stream].feed(item)
            times[stream] += [item.at] * item.tokens
        elif stream.outcome is not None:
            began = min(began or stream.outcome.submitted_at, stream.outcome.submitted_at)
    start, end = max(at[0] for at in times.values()), min(at[-1] for at in times.values())
    counted = sum(start < one <= end for at in times.values() for one in at)
    return counted / (end - start), max(at[-1] for at in times.values()) - began


def peer_rate(tool: Path, model: Path, sequences: int, threads: int) -> float:
    """What llama-batched-bench says of its decoding."""
    command = [
        str(tool), "-m", str(model), "-c", str(CONTEXT * sequences), "-npp", str(PROMPT), "-ntg", str(DRAWN),
        "-npl", str(sequences), "-t", str(threads), "-tb", str(threads), "-ngl", "0", "--output-format", "jsonl",
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in ran.stdout.splitlines() if line.startswith("{"))
    return float(json.loads(line)["speed_tg"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sequences", default="1,4,8,16,32")
    given = parser.parse_args()
    tool = given.tools / "llama-batched-bench"
    if not tool.exists():
        parser.error(f"there is no {tool}: build that target of llama.cpp first")
    numbers = random.Random(1)
    print("sequences  peer  ours  ratio  ragged  ratio  (tokens a second, medians; ratios of each round)")
    for count in map(int, given.sequences.split(",")):
        options = EngineOptions(n_ctx=CONTEXT * count, n_seq_max=count, kv_unified=count == 1, kv_type="f16")
        peers, even, ragged = [], [], []
        with open_engine(given.model, options) as engine:
            engine._model.is_end = lambda token: False  # type: ignore[method-assign] # as the other one does
            threads = engine.loaded.plan.n_threads
            ids = range(20, min(300, engine.loaded.plan.shape.vocabulary))
            for _ in range(given.rounds):
                peers.append(peer_rate(tool, given.model, count, threads))
                same = [numbers.choices(ids, k=PROMPT) for _ in range(count)]
                even.append(decode_rate(engine, same)[0])
                mixed = [numbers.choices(ids, k=numbers.randrange(32, 225)) for _ in range(count)]
                ragged.append(decode_rate(engine, mixed)[0])
        ratios = [statistics.median(a / b for a, b in zip(ours, peers, strict=True)) for ours in (even, ragged)]
        middle = [statistics.median(rates) for rates in (peers, even, ragged)]
        print(
            f"{count:9}  {middle[0]:.0f}  {middle[1]:.0f}  {ratios[0]:.2f}x  {middle[2]:.0f}  {ratios[1]:.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()

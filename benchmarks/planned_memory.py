"""Does a model take as much memory as planned? Goal: within 5 %, and never over the plan by more than 2 %.

Each combination of context, KV type and number of sequences is loaded in a process of its own, which reads prompts into
every sequence, draws some tokens, and tells the most memory it ever held (the kernel's own figure).
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

from r1local.catalog import load_catalog
from r1local.store import find

_FILL = 4_096
"""Tokens read in all. With flash attention memory does not grow with more, as the KV cache is written when it is made;
without it attention scores grow with the context, which is filled then.
"""


def child(path: str, n_ctx: int, kv_type: str, n_seq_max: int) -> None:
    from r1local.chat_types import Sampling
    from r1local.engine import EngineOptions, Request, merge, open_engine
    from r1local.template import Segment

    options = EngineOptions(n_ctx=n_ctx, kv_type=kv_type, n_seq_max=n_seq_max)
    with open_engine(Path(path), options, thinks=False) as engine:
        most = min(_FILL, n_ctx * 3 // 4) if engine.loaded.plan.settings.flash_attention else n_ctx - 16 * n_seq_max
        fill = most // n_seq_max
        requests = []
        for number in range(n_seq_max):
            prompt = engine.encode([Segment(f"{number} " + "one two three four " * (fill // 2), trusted=False)])[:fill]
            requests.append(Request(prompt, Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0), max_tokens=8))
        for _ in merge([engine.submit(request) for request in requests]):
            pass
        measured = engine.loaded.memory_now()
        plan = engine.loaded.plan
        print(json.dumps({"planned": measured.planned, "real": measured.real, "parts": measured.parts,
                          "repack": plan.settings.repack}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", action="append", required=True, help="a .gguf file or a catalog name; again for more"
    )
    parser.add_argument("--contexts", default="2048,8192,32768")
    given = parser.parse_args()
    print("| model | context | KV | sequences | planned MiB | real MiB | real against planned |\n" + "| --- " * 7 + "|")
    worst_over = worst_under = 0.0
    for name in given.model:
        path = find(load_catalog(), name).path
        contexts = [int(text) for text in given.contexts.split(",")]
        for n_ctx, kv_type, count in itertools.product(contexts, ("f16", "q8_0"), (1, 8)):
            code = f"from benchmarks.planned_memory import child; child({str(path)!r}, {n_ctx}, {kv_type!r}, {count})"
            ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if ended.returncode:
                raise SystemExit(ended.stderr[-2000:])
            found = json.loads(ended.stdout.splitlines()[-1])
            share = found["real"] / found["planned"] - 1
            worst_over, worst_under = max(worst_over, share), min(worst_under, share)
            print(f"| {path.name} | {n_ctx:,} | {kv_type} | {count} | {found['planned'] / 2**20:,.1f} | "
                  f"{found['real'] / 2**20:,.1f} | {share:+.1%} |", flush=True)  # fmt: skip
    print(f"\nFrom {worst_under:+.1%} to {worst_over:+.1%}.")


if __name__ == "__main__":
    main()

"""What a vote of 16 costs, beside 16 replies one after another, and what stopping early saves.

    python -m benchmarks.votes MODEL.gguf [--rounds 5] [--questions 4]

Each round asks the same questions three ways on engines of their own kind: one sequence, 16 requests in turn; 16 at
once, all of them counted; 16 at once, stopped when the winner can no longer be caught.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

from r1local.answers import same
from r1local.batch.opening import planned
from r1local.chat_types import Sampling, Turn
from r1local.engine import EngineOptions, open_engine
from r1local.many.row import Row
from r1local.many.run import Run
from r1local.many.values import How

SAMPLES, MOST = 16, 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=4)
    given = parser.parse_args()
    numbers = random.Random(3)
    sampling = Sampling(temperature=0.6, top_p=0.95, top_k=0, min_p=0.0, seed=1)
    together = planned(given.model, EngineOptions(), replies=SAMPLES, max_tokens=MOST)
    ratios: dict[str, list[float]] = {"all counted / in turn": [], "stopped early / in turn": [], "saved": []}
    tokens: dict[str, int] = {"in turn": 0, "all": 0, "early": 0}
    for _ in range(given.rounds):
        questions = [
            f"What is {numbers.randrange(10, 999)} * {numbers.randrange(2, 99)}?" for _ in range(given.questions)
        ]
        spent = {}
        for kind in ("in turn", "all", "early"):
            options = EngineOptions(n_ctx=together.n_ctx // together.n_seq_max) if kind == "in turn" else together
            how = How(sampling, MOST, samples=SAMPLES, stop_early=kind == "early")
            with open_engine(given.model, options) as engine:
                parallel = 1 if kind == "in turn" else SAMPLES
                drawn, began = 0, 0.0
                for text in ["What is 1 + 1?", *questions]:  # one vote at a time, as in a chat; the first one warms up
                    run = Run(engine, how, parallel=parallel, same=same)
                    (finished,) = run.finished([Row(0, "0", (Turn("user", text),))])
                    assert finished.tally is not None
                    drawn += run.tokens if began else 0
                    began = began or time.perf_counter()
                spent[kind] = time.perf_counter() - began
                tokens[kind] += drawn
        ratios["all counted / in turn"].append(spent["all"] / spent["in turn"])
        ratios["stopped early / in turn"].append(spent["early"] / spent["in turn"])
        ratios["saved"].append(1 - spent["early"] / spent["all"])
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.2f}  ({', '.join(f'{value:.2f}' for value in values)})")
    print("tokens drawn:", ", ".join(f"{count:,} {kind}" for kind, count in tokens.items()))


if __name__ == "__main__":
    main()

"""What are many sequences worth? Prompts at once against one after another. Goal: at least 3.0 with 16."""

from __future__ import annotations

import time

from benchmarks.bare import GREEDY
from benchmarks.measure import arguments, demo_model_q8_0, interleaved, report
from r1local.chat_types import Turn
from r1local.engine import EngineOptions, Piece, Request, merge, open_engine

SUBJECTS = (
    "lighthouse", "river", "clock", "forest", "train", "harbour", "kitchen", "comet",
    "library", "bridge", "garden", "violin", "desert", "island", "market", "castle",
)  # fmt: skip


def main() -> None:
    given = arguments(__doc__, demo_model_q8_0, tokens=96, sequences=16)
    with open_engine(given.model, EngineOptions(n_ctx=8192, n_seq_max=given.sequences, kv_unified=False)) as engine:
        prompts = [
            engine.encode(
                engine.template.render([Turn("user", f"Tell me a long story about a {SUBJECTS[i % 16]}.")]).segments
            )
            for i in range(given.sequences)
        ]

        def speed(at_once: bool) -> float:
            requests = [Request(prompt, GREEDY, max_tokens=given.tokens) for prompt in prompts]
            began = time.perf_counter()
            tokens = 0
            if at_once:
                for _, item in merge([engine.submit(request) for request in requests]):
                    tokens += item.tokens if isinstance(item, Piece) else 0
            else:
                for request in requests:
                    tokens += sum(piece.tokens for piece in engine.submit(request))
            return tokens / (time.perf_counter() - began)

        results = interleaved(
            {f"{given.sequences} at once": lambda: speed(True), "one after another": lambda: speed(False)}, given.rounds
        )
    print(f"{given.sequences} replies of {given.tokens} tokens, {given.model.name}, prompts included")
    report(results, "tok/s", of=f"{given.sequences} at once", against="one after another")


if __name__ == "__main__":
    main()

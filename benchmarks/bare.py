"""The least that Python can do: `llama_decode` and a sampler in a loop, nothing around them."""

from __future__ import annotations

import time
from pathlib import Path

from r1local import hardware
from r1local.chat_types import Sampling
from r1local.engine import selftest
from r1local.engine.context import Batch, Context
from r1local.engine.model import Model
from r1local.engine.sampler import Sampler
from r1local.gguf_header import read_header

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)


class BareLoop:
    def __init__(self, path: Path, n_ctx: int) -> None:
        threads = hardware.detect().usable_cores
        features = selftest.check(read_header(path), n_threads=threads).features
        self.model = Model(path, features)
        self.context = Context(self.model, features, n_ctx=n_ctx, n_batch=512, n_seq_max=1, n_threads=threads)
        self.batch = Batch(self.context.n_batch)

    def prefill(self, tokens: list[int]) -> float:
        """Decode a prompt anew; seconds."""
        self.context.remove(0)
        began = time.perf_counter()
        for start in range(0, len(tokens), self.batch.capacity):
            self.batch.clear()
            self.batch.add(0, tokens[start : start + self.batch.capacity], start, want_last=True)
            self.context.decode(self.batch)
        return time.perf_counter() - began

    def generate(self, tokens: list[int], count: int, sampling: Sampling = GREEDY) -> float:
        """Tokens a second over `count` steps of decode and sample, after the prompt."""
        sampler = Sampler(self.model, sampling)
        self.prefill(tokens)
        row = self.batch.size - 1
        position = len(tokens)
        began = time.perf_counter()
        for _ in range(count):
            token = sampler.sample(self.context, row)
            self.batch.clear()
            row = self.batch.add(0, (token,), position, want_last=True)
            position += 1
            self.context.decode(self.batch)
        elapsed = time.perf_counter() - began
        sampler.close()
        return count / elapsed

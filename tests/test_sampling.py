"""Draws from known logits against the probabilities they must have, computed here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from r1local.chat_types import Sampling
from r1local.engine import EngineOptions, LlamaEngine, Request, open_engine
from tests.makers import Vocabulary, write_model

pytestmark = pytest.mark.engine

LOGITS = {"a": 10.0, "b": 9.5, "c": 9.0, "d": 8.0}
DRAWS = 1500


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[LlamaEngine]:
    """After a newline these four have these logits and everything else has 0."""
    vocabulary, hidden = Vocabulary(), 64
    embedding = np.zeros((len(vocabulary), hidden), np.float32)
    output = np.zeros((len(vocabulary), hidden), np.float32)
    embedding[10, 0] = 1.0
    for letter, logit in LOGITS.items():
        # The final norm makes the one value of the embedding the square root of the width.
        output[ord(letter), 0] = logit / math.sqrt(hidden)
    path = write_model(
        models / "logits.gguf", vocabulary, hidden=hidden, embedding=embedding, output=output, layer_scale=0.0
    )
    with open_engine(path, EngineOptions(n_ctx=256)) as engine:
        yield engine


def draw(engine: LlamaEngine, sampling: Sampling) -> Counter[str]:
    """The first tokens of many replies. One stream of random numbers: the seeds are in order."""
    counts: Counter[str] = Counter()
    for seed in range(DRAWS):
        seeded = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, seed=seed)
        counts["".join(piece.text for piece in engine.submit(Request([10], seeded, max_tokens=1)))] += 1
    return counts


def probabilities(temperature: float, kept: str) -> dict[str, float]:
    weights = {letter: math.exp(LOGITS[letter] / temperature) for letter in kept}
    return {letter: weight / sum(weights.values()) for letter, weight in weights.items()}


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        # At 0.6 the four have 0.60, 0.26, 0.11 and 0.02: three of them reach 0.95. Were the nucleus chosen at
        # temperature 1, where they have 0.47, 0.28, 0.17 and 0.06, the fourth would belong to it.
        (Sampling(0.6, 0.95, 0, 0.0), probabilities(0.6, "abc")),
        (Sampling(0.6, 0.5, 0, 0.0), probabilities(0.6, "a")),
        (Sampling(1.0, 0.9, 0, 0.0), probabilities(1.0, "abc")),
        (Sampling(0.6, 1.0, 2, 0.0), probabilities(0.6, "ab")),
        (Sampling(0.6, 1.0, 0, 0.15), probabilities(0.6, "abc")),
        (Sampling(0.0, 0.95, 0, 0.0), {"a": 1.0}),
    ],
    ids=["R1", "narrow nucleus", "temperature 1", "top_k", "min_p", "greedy"],
)
def test_frequencies(engine: LlamaEngine, sampling: Sampling, expected: dict[str, float]) -> None:
    counts = draw(engine, sampling)
    assert set(counts) == set(expected)
    for letter, probability in expected.items():
        deviation = math.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(counts[letter] / DRAWS - probability) <= 4.5 * deviation


def test_without_a_nucleus_nothing_is_cut(engine: LlamaEngine) -> None:
    """The 1,024 candidates that make the nucleus cheap are no limit where no nucleus is asked for."""
    counts = draw(engine, Sampling(5.0, 1.0, 0, 0.0))
    # At temperature 5 the four have exp(2), exp(1.9), exp(1.8), exp(1.6) against 260 ones.
    share = sum(math.exp(logit / 5) for logit in LOGITS.values()) / (
        sum(math.exp(logit / 5) for logit in LOGITS.values()) + 260
    )
    seen = sum(counts[letter] for letter in LOGITS) / DRAWS
    assert abs(seen - share) < 4.5 * math.sqrt(share * (1 - share) / DRAWS)
    assert len(counts) > 60

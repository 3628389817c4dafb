"""Draws tokens from logits."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Sequence
from typing import Any

from r1local.chat_types import Sampling
from r1local.engine.context import Context
from r1local.engine.library import library
from r1local.engine.model import Model

# Above this many candidates nothing is left of the nucleus of a language model in practice, and sorting all
# 152,064 tokens of a distill for top_p takes 24 ms a token, against 1.9 ms for these.
NUCLEUS_CANDIDATES = 1024

# Above so many candidates the library sorts all tokens into buckets first, which took twice as long as everything else.
_SORTED_CHEAPLY = 128
# Of the likeliest token's probability: what all tokens that are left out before sorting may have together.
_LEFT_OUT = 1e-3

# Runs of text that DRY does not look across; llama.cpp's defaults.
_DRY_BREAKERS = (b"\n", b":", b'"', b"*")


def _negligible(temperature: float, n_vocab: int) -> float:
    """The share of the likeliest token's probability, at temperature 1, below which tokens need not be sorted.

    At `temperature` each such token has at most _LEFT_OUT / n_vocab of it, so all of them together _LEFT_OUT.
    """
    return float((_LEFT_OUT / n_vocab) ** temperature)


class Sampler:
    """Draws tokens from logits, with a random state of its own."""

    def __init__(self, model: Model, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        self._lib = lib = library()
        self.seed = secrets.randbelow(2**32 - 1) if sampling.seed is None else sampling.seed
        params = lib.llama_sampler_chain_default_params()
        self._chain = lib.llama_sampler_chain_init(params)
        self._keep: list[Any] = []
        for stage in self._stages(model, sampling):
            lib.llama_sampler_chain_add(self._chain, stage)
        if self._keep or self._penalizes:
            for token in prompt[-max(sampling.repeat_last_n, 64) :]:
                lib.llama_sampler_accept(self._chain, token)

    def _stages(self, model: Model, sampling: Sampling) -> list[Any]:
        lib = self._lib
        stages: list[Any] = []
        self._penalizes = (
            sampling.repeat_penalty != 1 or sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
        )
        if self._penalizes:
            stages.append(
                lib.llama_sampler_init_penalties(
                    model.n_vocab,
                    sampling.repeat_last_n,
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
        if sampling.dry_multiplier > 0:
            breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
            self._keep.append(breakers)
            stages.append(
                lib.llama_sampler_init_dry(
                    model._vocab,
                    sampling.dry_multiplier,
                    sampling.dry_base,
                    sampling.dry_allowed_length,
                    max(sampling.repeat_last_n, 64) * 16,
                    breakers,
                    len(_DRY_BREAKERS),
                )
            )
        if sampling.temperature == 0:
            return [*stages, lib.llama_sampler_init_greedy()]
        top_k = sampling.top_k
        if sampling.top_p < 1 and (top_k == 0 or top_k > NUCLEUS_CANDIDATES):
            top_k = NUCLEUS_CANDIDATES
        if top_k > _SORTED_CHEAPLY:
            stages.append(lib.llama_sampler_init_min_p(_negligible(sampling.temperature, model.n_vocab), 1))
        if top_k:
            stages.append(lib.llama_sampler_init_top_k(top_k))
        if sampling.temperature != 1:
            stages.append(lib.llama_sampler_init_temp(sampling.temperature))
        if sampling.top_p < 1:
            stages.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            stages.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        return [*stages, lib.llama_sampler_init_dist(self.seed)]

    def sample(self, context: Context, row: int) -> int:
        """Draw from the logits of batch position `row` and take the token into account from then on."""
        return int(self._lib.llama_sampler_sample(self._chain, context.pointer, row))

    def close(self) -> None:
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None

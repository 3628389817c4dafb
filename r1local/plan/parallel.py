"""How many replies at once a machine has room for, and how they share the context."""

from __future__ import annotations

from dataclasses import replace

from r1local.hardware import Hardware
from r1local.plan.choose import TARGET_CONTEXT, Plan, Wishes, choose
from r1local.plan.shape import Shape

MOST_ON_PROCESSOR = 16
"""With twice as many a processor drew a twentieth more tokens a second, and each wants room for its thought."""
MOST_ON_GPU = 32
_PROMPT = 2_048
"""Room for a prompt beside a reply of limited length."""
_ENOUGH_APART = 4
"""From so many replies on, a part of the context for each is better than a pool for more of them."""
_STEP = 256
"""The library makes room for a multiple of so many tokens."""


def plan_parallel(
    shape: Shape,
    machine: Hardware,
    wishes: Wishes,
    *,
    replies: int,
    parallel: int | None = None,
    max_tokens: int | None = None,
) -> Plan:
    """The plan for many replies. Its settings say how many at once: at most `replies`, or `parallel` if given.

    Each has a part of the context of its own where at least four of them then have what a thought may take, or what
    `wishes.n_ctx` says; otherwise they share a pool. Layers do not leave the GPU for it.
    """
    single = choose(shape, machine, replace(wishes, n_seq_max=1))
    each = _up(wishes.n_ctx or _tokens_each(shape, max_tokens))
    most = min(replies, parallel or (MOST_ON_GPU if machine.gpus else MOST_ON_PROCESSOR))
    best = single
    for count in _counts(most):
        apart = choose(shape, machine, replace(wishes, n_seq_max=count, n_ctx=count * each, kv_unified=count == 1))
        if _holds(apart, single):
            best = apart
            break
    if best.settings.n_seq_max >= min(_ENOUGH_APART, most) or wishes.n_ctx is not None:
        return best
    for count in _counts(most):
        pooled = choose(shape, machine, replace(wishes, n_seq_max=count))
        if _holds(pooled, single) and pooled.enough_context:
            return pooled if count > best.settings.n_seq_max else best
    if parallel is not None and parallel > best.settings.n_seq_max:
        return choose(shape, machine, replace(wishes, n_seq_max=min(parallel, replies)))
    return best


def _tokens_each(shape: Shape, max_tokens: int | None) -> int:
    trained = shape.trained_context or TARGET_CONTEXT
    return min(trained, TARGET_CONTEXT if max_tokens is None else max_tokens + _PROMPT)


def _up(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP


def _counts(most: int) -> list[int]:
    """Numbers to try, largest first: each about a fifth smaller than the one before."""
    counts = []
    while most >= 1:
        counts.append(most)
        most = most * 4 // 5 if most > 5 else most - 1
    return counts


def _holds(plan: Plan, single: Plan) -> bool:
    return plan.fits and plan.n_gpu_layers >= single.n_gpu_layers

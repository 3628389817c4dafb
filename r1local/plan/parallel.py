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
"""Room for a prompt beside a reply of limited length, at the least."""
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
    prompt_tokens: int = 0,
) -> Plan:
    """The plan for many replies. Its settings say how many at once: at most `replies`, or `parallel` if given.

    `max_tokens` of a reply, `prompt_tokens` of the longest prompt, 0 where that is not known.

    Each has a part of the context of its own where at least four of them then have what a thought may take, or what
    `wishes.n_ctx` says; otherwise they share a pool with room for a thought of each, as they do where only that
    gives `parallel`. It fits where a single reply does, and no layers leave the GPU for it.
    """
    single = choose(shape, machine, replace(wishes, n_seq_max=1))
    each = _up(wishes.n_ctx or _tokens_each(shape, max_tokens, prompt_tokens))
    most = min(replies, parallel or (MOST_ON_GPU if machine.gpus else MOST_ON_PROCESSOR))
    best = single
    for count in _counts(most)[:-1]:  # a single one has all there is
        apart = choose(shape, machine, replace(wishes, n_seq_max=count, n_ctx=count * each, kv_unified=False))
        if _holds(apart, single):
            best = apart
            break
    if wishes.n_ctx is not None or best.settings.n_seq_max == most:
        return best
    enough = best.settings.n_seq_max >= min(_ENOUGH_APART, most)
    # A number that was asked for is worth a pool; for any other one, parts of their own are not given up.
    counts = _counts(most) if not enough else [most] if parallel is not None else []
    for count in counts:
        pooled = choose(shape, machine, replace(wishes, n_seq_max=count))
        if _holds(pooled, single) and pooled.enough_context:
            return pooled if count > best.settings.n_seq_max else best
    return best


def _tokens_each(shape: Shape, max_tokens: int | None, prompt_tokens: int) -> int:
    trained = shape.trained_context or TARGET_CONTEXT
    return min(
        trained, (TARGET_CONTEXT if max_tokens is None else max_tokens + _PROMPT) + max(0, prompt_tokens - _PROMPT)
    )


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

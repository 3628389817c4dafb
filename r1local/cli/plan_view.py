"""A plan and what became of it, for people."""

from __future__ import annotations

from r1local.cli.output import size
from r1local.engine.loading import Loaded, described
from r1local.plan.learnt import Measured


def plan_line(loaded: Loaded) -> str:
    """How the model runs, and the memory it took beside the memory planned."""
    plan, memory = loaded.plan, loaded.memory_now()
    threads = "1 thread" if plan.n_threads == 1 else f"{plan.n_threads} threads"
    return f"{described(plan)}, {threads} · {memory_line(memory)}"


def memory_line(memory: Measured) -> str:
    """Planned memory and real, with the difference."""
    difference = memory.real / memory.planned - 1 if memory.planned else 0.0
    return f"memory {size(memory.planned)} planned, {size(memory.real)} used at most ({difference:+.0%})"

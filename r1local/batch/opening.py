"""Opens the engine that answers rows, planned for the machine this runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from r1local import hardware
from r1local.answers import Judge
from r1local.batch.worker import LocalWorker
from r1local.engine import EngineOptions, open_engine
from r1local.engine.loading import usable
from r1local.errors import OutOfMemory
from r1local.gguf_header import read_header
from r1local.many.values import How
from r1local.plan import Wishes, shape_of_file
from r1local.plan.parallel import plan_parallel


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine is opened for; goes to other machines as it is."""

    model: str
    """Catalog name, or the file's."""
    path: Path
    how: How
    settings: str = ""
    """The hash of all settings, for the records."""
    thinks: bool | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    """What the user fixed. n_ctx is that of one reply; n_seq_max and kv_unified are left to the plan."""
    parallel: int | None = None
    """Replies at once; None leaves it to the plan."""
    prompt_tokens: int = 0
    """About as many as the longest prompt has; 0 where that is not known."""


def planned(
    path: Path,
    options: EngineOptions,
    *,
    replies: int,
    parallel: int | None = None,
    max_tokens: int | None = None,
    prompt_tokens: int = 0,
) -> EngineOptions:
    """`options`, whose n_ctx is that of one reply, with as many replies at once as this machine has room for.

    Raises what read_header raises.
    """
    wishes = Wishes(
        n_ctx=options.n_ctx, kv_type=options.kv_type, n_gpu_layers=options.n_gpu_layers, n_threads=options.n_threads,
        n_batch=options.n_batch, repack=options.repack, margin=options.margin,
    )  # fmt: skip
    shape = shape_of_file(read_header(path))
    plan = plan_parallel(
        shape, usable(hardware.detect()), wishes, replies=replies, parallel=parallel, max_tokens=max_tokens,
        prompt_tokens=prompt_tokens,
    )  # fmt: skip
    chosen = plan.settings
    return replace(
        options, n_ctx=plan.n_ctx, n_seq_max=chosen.n_seq_max, kv_unified=chosen.kv_unified, kv_type=plan.kv_type
    )


@contextmanager
def open_worker(
    work: Work,
    replies: int,
    *,
    on_notice: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Iterator[LocalWorker]:
    """An engine for so many replies, with as many at once as there is room for; fewer where there was not after all.

    Raises R1Error.
    """
    parallel = work.parallel
    while True:
        options = planned(
            work.path, work.options, replies=replies, parallel=parallel, max_tokens=work.how.max_tokens,
            prompt_tokens=work.prompt_tokens,
        )  # fmt: skip
        count = options.n_seq_max
        try:
            engine = open_engine(work.path, options, thinks=work.thinks, on_notice=on_notice, on_progress=on_progress)
        except OutOfMemory:
            if count == 1:
                raise
            parallel = count // 2
            on_notice(f"There was not enough memory for {count} replies at once; trying {parallel}.")
        else:
            break
    if count < min(replies, work.parallel or 0):
        on_notice(f"There is room for {count} replies at once.")
    with engine, Judge() as judge:
        yield LocalWorker(engine, work.how, parallel=count, same=judge.same, model=work.model, settings=work.settings)

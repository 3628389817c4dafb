"""The engine: token ids in, streams of text out, many at once. Knows nothing of thoughts or turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from r1local.engine.stream import Outcome, Piece, Request, Stream, merge
from r1local.errors import ContextFull, EngineError
from r1local.gguf_header import read_header
from r1local.template import ChatTemplate, Segment

if TYPE_CHECKING:
    from r1local.engine.loading import Loaded
    from r1local.engine.scheduler import Scheduler

__all__ = [
    "Engine",
    "EngineOptions",
    "Outcome",
    "Piece",
    "Request",
    "Stream",
    "merge",
    "open_engine",
]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to load a model. None leaves the choice to the plan for this machine."""

    n_ctx: int | None = None
    """Tokens of context, of all sequences together."""
    n_seq_max: int = 1
    """Replies that may be under way at once."""
    kv_unified: bool = True
    """One pool of context for all sequences: each may take what the others leave. Otherwise each has an equal part of
    its own, which is faster where many are long.
    """
    n_threads: int | None = None
    n_gpu_layers: int | None = None
    """Layers on GPUs, the output counted as one more; -1 is all."""
    kv_type: str | None = None
    """Of the KV cache, a name in plan.KV_TYPES."""
    n_batch: int | None = None
    """Most tokens in one decode call."""
    repack: bool | None = None
    """Copy weights into this processor's own layout."""
    margin: int | None = None
    """Bytes of each device's memory to leave free."""


class Engine(Protocol):
    """What views and conversations need. `open_engine` gives the real one, `scripted` a double."""

    @property
    def n_ctx(self) -> int: ...

    @property
    def template(self) -> ChatTemplate: ...

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Token ids of a prompt. Raises ContextFull when it is too long to be looked at."""
        ...

    def submit(self, request: Request) -> Stream: ...

    def close(self) -> None: ...


class LlamaEngine:
    """A model file, loaded."""

    def __init__(self, loaded: Loaded, scheduler: Scheduler, template: ChatTemplate) -> None:
        self.template = template
        self.n_ctx = scheduler.n_ctx
        self.loaded = loaded
        """The plan it was loaded by, and what it took."""
        self._model = loaded.model
        self._scheduler = scheduler
        self._closed = False

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        from r1local.engine.context import prompt_byte_limit

        if self._closed:
            raise EngineError("The model is not loaded any more.", "Load it again.")
        size = sum(len(segment.text) for segment in segments)
        if size > prompt_byte_limit(self.n_ctx):
            raise ContextFull(
                f"The prompt has {size:,} characters, too many for a context of {self.n_ctx:,} tokens.",
                "Shorten it, start anew with /clear, or choose a larger context with --ctx.",
            )
        return self._model.encode(segments)

    def submit(self, request: Request) -> Stream:
        return self._scheduler.submit(request)

    def close(self) -> None:
        self._closed = True
        self._scheduler.close()
        self.loaded.remember_memory()
        self.template.close()

    def __enter__(self) -> LlamaEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_engine(
    path: Path,
    options: EngineOptions | None = None,
    *,
    thinks: bool | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> LlamaEngine:
    """Load the GGUF file `path`, tried in a child process first where it is new here.

    `thinks` says that it is a reasoning model; None asks its template. `on_notice` gets sentences for the
    user, `on_progress` the share loaded; what that raises stops the loading. Raises R1Error.
    """
    options = options or EngineOptions()
    header = read_header(path)
    with ExitStack() as on_failure:
        # Its process starts while the model loads.
        template = ChatTemplate(header.chat_template, thinks=thinks)
        on_failure.callback(template.close)

        from r1local.engine.loading import load
        from r1local.engine.scheduler import Scheduler

        loaded = load(header, options, on_notice=on_notice, on_progress=on_progress)
        on_failure.callback(loaded.close)
        template.set_tokens(bos=loaded.model.bos_text, eos=loaded.model.eos_text)
        engine = LlamaEngine(loaded, Scheduler(loaded.model, loaded.context, n_seq_max=options.n_seq_max), template)
        on_failure.pop_all()
    return engine

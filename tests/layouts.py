"""Lets llama.cpp lay models out without loading them: it logs every buffer it would make, and makes none.

A file is a header and a hole: no weight is ever read. The library runs in a process of its own, so that nothing it
decides once a process is decided for other tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

from gguf import GGUFValueType

from quantize.gguf_format import make_key, write_header
from r1local.catalog import Model
from r1local.engine.context import Context
from r1local.engine.library import child_environment, forget_buffers, library, logged_buffers
from r1local.engine.model import Features
from r1local.prepare.sizes import layout_of

_STARTED = "from tests.layouts import child; child()"
_PATIENCE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Wanted:
    """A context that a model is laid out for."""

    n_ctx: int
    n_ubatch: int = 512
    n_seq_max: int = 1
    flash_attention: bool = True
    kv_type: str = "f16"


Buffers = dict[str, int]
"""Bytes by what they are for: model, KV, compute, output; in steps of a hundredth of a MiB, as they are logged."""


def write_hollow(path: Path, model: Model, file_type: str) -> Path:
    """A file of the model's true size and shapes, with nothing in it."""
    layout = layout_of(model, file_type)
    assert layout is not None, f"{model.id} is not converted to {file_type}"
    text, number, real = GGUFValueType.STRING, GGUFValueType.UINT32, GGUFValueType.FLOAT32
    facts = {
        "block_count": model.layers, "context_length": model.context, "embedding_length": model.hidden,
        "feed_forward_length": model.feed_forward, "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads, "attention.key_length": model.head_size,
        "attention.value_length": model.head_size, "rope.dimension_count": model.head_size,
        "vocab_size": model.vocabulary,
    }  # fmt: skip
    header = write_header(
        [
            make_key("general.architecture", model.family, text),
            *(make_key(f"{model.family}.{name}", value, number) for name, value in facts.items()),
            make_key(f"{model.family}.attention.layer_norm_rms_epsilon", 1e-6, real),
            make_key("tokenizer.ggml.model", "none", text),
        ],
        layout.stored,
    )
    path.write_bytes(header)
    os.truncate(path, len(header) + layout.data_size)
    return path


def lay_out(files: Sequence[Path], wanted: Sequence[Wanted]) -> list[list[Buffers]]:
    """Of each file, what the library would take for each of these contexts."""
    request = {"files": [str(path) for path in files], "wanted": [asdict(each) for each in wanted]}
    ended = subprocess.run(
        [sys.executable, "-c", _STARTED], input=json.dumps(request), capture_output=True, text=True,
        env=child_environment(), timeout=_PATIENCE_SECONDS,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: list[list[Buffers]] = json.loads(ended.stdout.splitlines()[-1])
    return found


def child() -> None:
    """The other side: one line of JSON."""
    request = json.loads(sys.stdin.read())
    lib = library()
    found = []
    for file in request["files"]:
        params = lib.llama_model_default_params()
        params.no_alloc = True
        params.load_mode = 0  # mapping would be of no use
        forget_buffers()
        model = lib.llama_model_load_from_file(os.fsencode(file), params)
        assert model, file
        weights = _sums()
        found.append([{**weights, **_context(model, Wanted(**each))} for each in request["wanted"]])
        lib.llama_model_free(model)
    sys.stdout.write(json.dumps(found) + "\n")


def _context(model: object, wanted: Wanted) -> Buffers:
    forget_buffers()
    context = Context(
        SimpleNamespace(_model=model),  # type: ignore[arg-type]
        Features(flash_attention=wanted.flash_attention),
        n_ctx=wanted.n_ctx, n_batch=wanted.n_ubatch, n_seq_max=wanted.n_seq_max, n_threads=2, kv_type=wanted.kv_type,
    )  # fmt: skip
    context.close()
    return _sums()


def _sums() -> Buffers:
    sums: Buffers = {}
    for _, part, size in logged_buffers():
        sums[part] = sums.get(part, 0) + size
    return sums

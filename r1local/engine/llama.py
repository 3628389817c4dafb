"""Handles over llama.cpp's C API: library, model, context, batch, sampler. The only file that imports llama_cpp.

Thin on purpose: each class owns one C object and frees it, and nothing here schedules, parses or decides.
The high-level `Llama` class of llama-cpp-python is not used: it holds one sequence, has other models' sampling
defaults, and cannot switch off what crashes.
"""

from __future__ import annotations

import ctypes
import logging
import logging.handlers
import os
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from r1local import paths
from r1local.chat_types import Sampling
from r1local.engine.amx import keep_amx_off
from r1local.errors import EngineError, LibraryMissing, ModelFileError, OutOfMemory, R1Error, UnsupportedModel
from r1local.template import THINK_CLOSE, THINK_OPEN, Segment
from r1local.terminal import clean_line

# Above this many candidates nothing is left of the nucleus of a language model in practice, and sorting all
# 152,064 tokens of a distill for top_p takes 24 ms a token, against 1.9 ms for these.
NUCLEUS_CANDIDATES = 1024

_ATTR_USER_DEFINED = 1 << 4
_ATTR_CONTROL = 1 << 3
# Runs of text that DRY does not look across; llama.cpp's defaults.
_DRY_BREAKERS = (b"\n", b":", b'"', b"*")
_CONTEXT_CAP_BYTES_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Features:
    """What of the library is used. The self-test takes away what crashes on this machine."""

    amx: bool = True
    """Intel's tile unit. Can only be kept off before the first model of the process is loaded."""
    extra_buffers: bool = True
    """Weights repacked for this processor (and AMX's own layout)."""
    flash_attention: bool = True
    mmap: bool = True


@lru_cache(maxsize=1)
def library() -> ModuleType:
    """The C library's bindings, loaded once, logging into our log file.

    Raises LibraryMissing.
    """
    try:
        from llama_cpp import llama_cpp
    except Exception as error:  # a broken build raises OSError, RuntimeError, AttributeError, anything
        raise LibraryMissing(
            f"llama-cpp-python cannot be loaded: {error}.",
            "Install it again: pip install --force-reinstall --no-cache-dir llama-cpp-python==0.3.36",
        ) from error
    llama_cpp.llama_log_set(_log_callback(llama_cpp), None)
    llama_cpp.llama_backend_init()
    return llama_cpp


def library_folder() -> Path:
    """Where the shared libraries of the installed build lie."""
    return Path(library().__file__).parent / "lib"


def library_version() -> str:
    import llama_cpp

    return str(llama_cpp.__version__)


def system_info() -> str:
    """What the library says about its own build: instruction sets and options."""
    return str(library().llama_print_system_info().decode(errors="replace"))


def supports_gpu_offload() -> bool:
    return bool(library().llama_supports_gpu_offload())


_log_lines: deque[str] = deque(maxlen=200)
_log_callback_kept: list[Any] = []  # C holds a bare pointer; this keeps the object alive
_amx_allowed: bool | None = None  # ggml decides once a process


def _log_callback(llama_cpp: ModuleType) -> Any:
    """ggml's levels are 1 debug, 2 info, 3 warning, 4 error, 5 continuation of the line before."""
    logger = _engine_logger()
    levels = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
    state = {"line": "", "level": logging.INFO}

    def receive(level: int, text: bytes, _: Any) -> None:
        try:
            if level != 5:
                state["level"] = levels.get(level, logging.INFO)
            state["line"] += text.decode(errors="replace")
            while "\n" in state["line"]:
                line, _, state["line"] = state["line"].partition("\n")
                if line.strip():
                    shown = clean_line(line)
                    _log_lines.append(shown)
                    logger.log(state["level"], "%s", shown)
        except Exception:  # an exception cannot cross the C library
            state["line"] = ""

    callback = llama_cpp.llama_log_callback(receive)
    _log_callback_kept.append(callback)
    return callback


def _engine_logger() -> logging.Logger:
    logger = logging.getLogger("r1local.engine")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        try:
            target = paths.log_file()
            paths.ensure_folder(target.parent)
            handler: logging.Handler = logging.handlers.RotatingFileHandler(
                target, maxBytes=10 << 20, backupCount=1, encoding="utf-8", delay=True
            )
        except (OSError, R1Error):
            handler = logging.NullHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.raiseExceptions = False  # a full disk must not write tracebacks over a chat
        logger.addHandler(handler)
    return logger


class Model:
    """A loaded model and its vocabulary. Usable from several threads; its contexts are not."""

    def __init__(
        self,
        path: Path,
        features: Features,
        *,
        n_gpu_layers: int = -1,
        on_progress: Callable[[float], bool] | None = None,
    ) -> None:
        """Load `path`. `on_progress` gets 0.0 to 1.0 and returns False to stop loading.

        Raises UnsupportedModel, OutOfMemory or ModelFileError.
        """
        global _amx_allowed
        self._lib = lib = library()
        if _amx_allowed is None:
            _amx_allowed = features.amx or not keep_amx_off(library_folder())
        params = lib.llama_model_default_params()
        # Once allowed in this process, AMX can only be avoided together with all repacking.
        params.use_extra_bufts = features.extra_buffers and (features.amx or not _amx_allowed)
        params.load_mode = 1 if features.mmap else 0
        params.n_gpu_layers = n_gpu_layers
        callback = lib.llama_progress_callback(lambda share, _: True if on_progress is None else on_progress(share))
        params.progress_callback = callback
        _log_lines.clear()
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise _load_error(path)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self.size: int = lib.llama_model_size(self._model)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def close(self) -> None:
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None

    @property
    def bos_text(self) -> str:
        return self._text(self._lib.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self._text(self._lib.llama_vocab_eos(self._vocab))

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text = self._lib.llama_vocab_get_text(self._vocab, token)
        return text.decode(errors="replace") if text else ""

    def attributes(self, token: int) -> int:
        return int(self._lib.llama_vocab_get_attr(self._vocab, token))

    def is_end(self, token: int) -> bool:
        """Whether the token ends a reply."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(self._lib.llama_vocab_is_eog(self._vocab, token))
        return known

    def piece(self, token: int) -> bytes:
        """The bytes the token stands for; control tokens are none, but the tags of a thought always show."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._piece(token)
        return known

    def _piece(self, token: int) -> bytes:
        special = self._text(token) in (THINK_OPEN, THINK_CLOSE)
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of `text`. With `parse_special` control tokens written out in it are matched."""
        data = text.encode("utf-8", "replace")
        if not data:
            return []
        size = len(data) + 8
        tokens = (ctypes.c_int32 * size)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, size, False, parse_special)
        if count < 0:
            tokens = (ctypes.c_int32 * -count)()
            count = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, -count, False, parse_special)
        return tokens[:count]

    def tokenize_said(self, text: str) -> list[int]:
        """Token ids of text somebody said: never one of a control token or a tag.

        `<think>` and `</think>` are not control tokens in the Qwen distills but "user defined" ones, which
        the library matches in any text. Where that happened the text is cut in front of the tag's last
        character and the parts are tokenized apart, which gives the ids of the spelled-out tag.
        """
        tokens = self.tokenize(text, parse_special=False)
        for token in set(tokens):
            if not self._is_tag(token):
                continue
            tag = self._text(token)
            parts = text.split(tag)
            if len(parts) == 1:
                continue
            for index in range(len(parts) - 1):
                parts[index] += tag[:-1]
                parts[index + 1] = tag[-1:] + parts[index + 1]
            return [id_ for part in parts for id_ in self.tokenize_said(part)]
        return tokens

    def _is_tag(self, token: int) -> bool:
        attributes = self.attributes(token)
        if attributes & _ATTR_CONTROL:
            return True
        if not attributes & _ATTR_USER_DEFINED:
            return False
        # Some vocabularies have runs of spaces and the like as user-defined tokens: those are text.
        text = self._text(token)
        return len(text) > 2 and (text[0] + text[-1]) in ("<>", "[]", "{}")

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Token ids of a prompt: each segment by itself, one BOS at the start where the model wants one."""
        tokens: list[int] = []
        for segment in segments:
            if segment.trusted:
                tokens.extend(self.tokenize(segment.text, parse_special=True))
            else:
                tokens.extend(self.tokenize_said(segment.text))
        bos = int(self._lib.llama_vocab_bos(self._vocab))
        if bos >= 0 and self._lib.llama_vocab_get_add_bos(self._vocab) and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        while tokens[:2] == [bos, bos]:
            del tokens[0]
        return tokens


def _load_error(path: Path) -> R1Error:
    log = "\n".join(_log_lines)
    errors = [line for line in _log_lines if "error" in line.lower() or "fail" in line.lower()]
    reason = errors[0].split(": ", 1)[-1] if errors else "the library gives no reason"
    name = clean_line(path.name)
    if "unknown model architecture" in log or "unknown pre-tokenizer" in log or "unknown tokenizer" in log:
        return UnsupportedModel(
            f"{name} cannot be run by llama-cpp-python {library_version()}: {reason}.",
            "Choose a Qwen2, Qwen3 or Llama model, or a newer llama-cpp-python.",
        )
    if any(mark in log for mark in ("failed to allocate", "unable to allocate", "out of memory", "bad_alloc")):
        return OutOfMemory(
            f"There is not enough memory for {name}.",
            "Choose a smaller model or quantization, or close other programs.",
        )
    return ModelFileError(
        f"{name} cannot be loaded: {reason}.", f"Download it again; details are in {paths.log_file()}."
    )


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


class Batch:
    """Tokens to decode, each with its sequence and position. The arrays are C's and numpy's at once."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._counts = np.ones(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        # One pointer a token, to that token's one sequence id.
        base = self._sequences.ctypes.data
        self._pointers = np.arange(base, base + 4 * capacity, 4, dtype=np.uint64)
        lib = library()
        self.struct = lib.llama_batch()
        for field, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._counts),
            ("seq_id", self._pointers),
            ("logits", self._wanted),
        ):
            pointer_type = dict(lib.llama_batch._fields_)[field]
            setattr(self.struct, field, ctypes.cast(array.ctypes.data, pointer_type))
        self.struct.embd = None

    def clear(self) -> None:
        self.size = 0

    def add(self, sequence: int, tokens: Sequence[int], start: int, *, want_last: bool) -> int:
        """Add `tokens` of `sequence` from position `start`; the row of the last one is returned.

        `want_last`: logits of the last token are wanted.
        """
        first, last = self.size, self.size + len(tokens)
        self._tokens[first:last] = tokens
        self._positions[first:last] = range(start, start + len(tokens)) if len(tokens) > 1 else start
        self._sequences[first:last] = sequence
        self._wanted[first:last] = 0
        self._wanted[last - 1] = want_last
        self.size = last
        return last - 1


class Context:
    """The KV cache of one model and the decoding into it. Belongs to one thread; only `interrupt` is for any."""

    OK, NO_ROOM, INTERRUPTED = 0, 1, 2

    def __init__(
        self,
        model: Model,
        features: Features,
        *,
        n_ctx: int,
        n_batch: int,
        n_seq_max: int,
        n_threads: int,
    ) -> None:
        """Raises OutOfMemory."""
        self._lib = lib = library()
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = n_seq_max
        # Logits are wanted once a sequence and step, never for a whole prompt: the buffer for them shrinks
        # from n_batch rows of the vocabulary (311 MB for a distill) to one a sequence.
        params.n_outputs_max = n_seq_max
        params.n_threads = params.n_threads_batch = n_threads
        # One pool of cells for all sequences, so that a shared prefix is stored once.
        params.kv_unified = True
        params.flash_attn_type = -1 if features.flash_attention else 0
        params.no_perf = True
        # The library asks between the nodes of a graph whether to stop. A Python function there would take
        # the interpreter's lock a thousand times a token; strlen of a buffer we write to is the same question.
        self._stop_flag = ctypes.create_string_buffer(2)
        strlen = ctypes.CDLL(None if os.name == "posix" else "msvcrt").strlen
        params.abort_callback = ctypes.cast(strlen, lib.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._stop_flag, ctypes.c_void_p)
        self._keep = (strlen, params)
        _log_lines.clear()
        self.pointer = lib.llama_init_from_model(model._model, params)
        if not self.pointer:
            raise OutOfMemory(
                f"There is not enough memory for a context of {n_ctx:,} tokens.",
                "Try a smaller one: --ctx " + str(max(2048, n_ctx // 2)),
            )
        self._memory = lib.llama_get_memory(self.pointer)
        self.n_ctx: int = lib.llama_n_ctx(self.pointer)

    def close(self) -> None:
        if self.pointer:
            self._lib.llama_free(self.pointer)
            self.pointer = None

    def decode(self, batch: Batch) -> int:
        """Decode the batch: OK, NO_ROOM in the KV cache, or INTERRUPTED.

        After INTERRUPTED some of the batch may be in the cache: remove it. Raises EngineError.
        """
        batch.struct.n_tokens = batch.size
        result = int(self._lib.llama_decode(self.pointer, batch.struct))
        if result in (self.OK, self.NO_ROOM, self.INTERRUPTED):
            return result
        reason = _log_lines[-1] if _log_lines else "no reason given"
        raise EngineError(
            f"Decoding failed with code {result}: {reason}.", "Run `r1local doctor`, and try a smaller --ctx."
        )

    def interrupt(self, on: bool = True) -> None:
        """Make the decode call under way return early, or allow the next one."""
        self._stop_flag[0] = b"\x01" if on else b"\x00"

    def remove(self, sequence: int, start: int = 0) -> bool:
        """Forget the tokens of `sequence` from position `start` on.

        False when the kind of memory cannot forget a part; forgetting all of a sequence never fails.
        """
        return bool(self._lib.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def copy(self, source: int, target: int, end: int) -> None:
        """Let `target` have the tokens of `source` up to position `end`; they are shared, not copied."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, end)

    def logits(self, row: int, n_vocab: int) -> Any:
        """The logits of batch position `row`, float32 of shape (n_vocab,), a view valid until the next decode."""
        pointer = self._lib.llama_get_logits_ith(self.pointer, row)
        return np.ctypeslib.as_array(pointer, (n_vocab,))


def prompt_byte_limit(n_ctx: int) -> int:
    """Bytes of prompt above which it cannot fit `n_ctx` tokens, so that it is refused before tokenizing."""
    return n_ctx * _CONTEXT_CAP_BYTES_PER_TOKEN

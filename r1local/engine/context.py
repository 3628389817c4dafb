"""The KV cache of a model, and decoding into it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from r1local.engine.interrupts import interrupt_held
from r1local.engine.library import forget_log, library, logged_errors
from r1local.engine.model import Features, Model
from r1local.errors import EngineError, OutOfMemory

# enum ggml_type
_KV_TYPE_IDS = {"f16": 1, "q8_0": 8, "q4_0": 2}
# No vocabulary here has so many bytes to a token on average that a longer prompt could fit.
_MOST_BYTES_PER_TOKEN = 16


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
        if len(tokens) == 1:  # slices of one cost five times as much
            self._tokens[first], self._positions[first] = tokens[0], start
            self._sequences[first], self._wanted[first] = sequence, want_last
            self.size = last
            return first
        self._tokens[first:last] = tokens
        self._positions[first:last] = range(start, start + len(tokens))
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
        kv_type: str = "f16",
        kv_unified: bool = True,
    ) -> None:
        """`n_ctx`: tokens of all sequences together. `kv_type`: of keys and values, a name in plan.KV_TYPES.

        `kv_unified`: one pool of cells for all sequences, in which a common prefix is stored once, but each looks
        through the cells of all; otherwise each has an equal part of its own. Raises OutOfMemory.
        """
        self._lib = lib = library()
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = n_seq_max
        # Logits are wanted once a sequence and step, never for a whole prompt: the buffer for them shrinks
        # from n_batch rows of the vocabulary (311 MB for a distill) to one a sequence.
        params.n_outputs_max = n_seq_max
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = kv_unified
        # By itself the library turns it off where a device has no kernel for it; quantized values cannot do without.
        params.flash_attn_type = 0 if not features.flash_attention else -1 if kv_type == "f16" else 1
        params.type_k = params.type_v = _KV_TYPE_IDS[kv_type]
        params.no_perf = True
        # The library asks between the nodes of a graph whether to stop. A Python function there would take
        # the interpreter's lock a thousand times a token; strlen of a buffer we write to is the same question.
        self._stop_flag = ctypes.create_string_buffer(2)
        strlen = ctypes.CDLL(None if os.name == "posix" else "msvcrt").strlen
        params.abort_callback = ctypes.cast(strlen, lib.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._stop_flag, ctypes.c_void_p)
        self._keep = (strlen, params)
        forget_log()
        self.pointer = None
        try:
            with interrupt_held():
                self.pointer = lib.llama_init_from_model(model._model, params)
        except KeyboardInterrupt:
            self.close()
            raise
        if not self.pointer:
            raise OutOfMemory(
                f"There is not enough memory for a context of {n_ctx:,} tokens.",
                "Try a smaller one: --ctx " + str(max(2048, n_ctx // 2)),
            )
        self._memory = lib.llama_get_memory(self.pointer)
        self.kv_unified = kv_unified
        self.n_ctx: int = lib.llama_n_ctx_seq(self.pointer)
        """Most tokens of one sequence; where they share, of all together."""
        self.n_batch: int = lib.llama_n_batch(self.pointer)
        """Most tokens in one decode call: what was asked for, or the context where that is smaller."""

    def close(self) -> None:
        if self.pointer:
            with interrupt_held():
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
        errors = logged_errors()
        reason = errors[-1] if errors else "no reason given"
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

    def share(self, source: int, target: int, end: int) -> bool:
        """Let `target`, which is empty, have the tokens of `source` up to position `end`.

        In one pool their cells are shared, otherwise all of `source` is copied and the rest is forgotten again. False
        when that failed; `target` is empty then.
        """
        if self.kv_unified:
            self._lib.llama_memory_seq_cp(self._memory, source, target, 0, end)
            return True
        return self.restore(target, self.save(source)) and self.remove(target, end)

    def save(self, sequence: int) -> Any:
        """Keys and values of a sequence, as bytes that `restore` takes."""
        size = self._lib.llama_state_seq_get_size(self.pointer, sequence)
        data = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data(self.pointer, data, size, sequence)
        return data if written == size else b""

    def restore(self, sequence: int, data: Any) -> bool:
        """Give a sequence what `save` gave. False when there is no room for it, or nothing; it is empty then."""
        if len(data) and self._lib.llama_state_seq_set_data(self.pointer, data, len(data), sequence):
            return True
        self.remove(sequence)
        return False

    def logits(self, row: int, n_vocab: int) -> Any:
        """The logits of batch position `row`, float32 of shape (n_vocab,), a view valid until the next decode."""
        pointer = self._lib.llama_get_logits_ith(self.pointer, row)
        return np.ctypeslib.as_array(pointer, (n_vocab,))


def prompt_byte_limit(n_ctx: int) -> int:
    """Bytes of prompt above which it cannot fit `n_ctx` tokens, so that it is refused before tokenizing."""
    return n_ctx * _MOST_BYTES_PER_TOKEN

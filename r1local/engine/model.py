"""A loaded model and its vocabulary."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1local import paths
from r1local.engine.amx import keep_amx_off
from r1local.engine.interrupts import interrupt_held
from r1local.engine.library import forget_log, library, library_folder, library_version, logged_errors
from r1local.errors import ModelFileError, OutOfMemory, R1Error, UnsupportedModel
from r1local.template import THINK_CLOSE, THINK_OPEN, Segment
from r1local.terminal import clean_line

_ATTR_CONTROL = 1 << 3
_ATTR_USER_DEFINED = 1 << 4

_amx_allowed: bool | None = None  # ggml decides once a process


@dataclass(frozen=True, slots=True)
class Features:
    """What of the library is used. The self-test takes away what crashes on this machine."""

    amx: bool = True
    """Intel's tile unit. Can only be kept off before the first model of the process is loaded."""
    extra_buffers: bool = True
    """Weights repacked for this processor (and AMX's own layout)."""
    flash_attention: bool = True
    mmap: bool = True


class Model:
    """A loaded model and its vocabulary. Usable from several threads; its contexts are not."""

    def __init__(
        self,
        path: Path,
        features: Features,
        *,
        n_gpu_layers: int = -1,
        tensor_split: Sequence[int] = (),
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Load `path`. `tensor_split`: shares of the GPUs. `on_progress` gets 0.0 to 1.0; what it raises stops
        the loading and comes out here.

        Raises UnsupportedModel, OutOfMemory or ModelFileError.
        """
        global _amx_allowed
        self._lib = lib = library()
        if _amx_allowed is None:
            with interrupt_held():
                _amx_allowed = features.amx or not keep_amx_off(library_folder())
        params = lib.llama_model_default_params()
        # Once allowed in this process, AMX can only be avoided together with all repacking.
        params.use_extra_bufts = features.extra_buffers and (features.amx or not _amx_allowed)
        params.load_mode = 1 if features.mmap else 0
        params.n_gpu_layers = n_gpu_layers
        shares = (ctypes.c_float * max(1, lib.llama_max_devices()))(*tensor_split)
        if tensor_split:
            params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        raised: list[BaseException] = []

        def progress(share: float, _: object) -> bool:
            try:
                on_progress(share)
            except BaseException as error:  # nothing can be raised through the library
                raised.append(error)
            return not raised and not interrupted()

        callback = lib.llama_progress_callback(progress)
        params.progress_callback = callback
        forget_log()
        self._model = None
        try:
            with interrupt_held() as interrupted:
                self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        except KeyboardInterrupt:
            self.close()
            raise
        if raised:
            self.close()
            raise raised[0]
        if not self._model:
            raise _load_error(path)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def close(self) -> None:
        if self._model:
            with interrupt_held():
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
            if len(parts) == 1:  # matched where it is written otherwise: nothing spans a character by itself
                return [id_ for char in text for id_ in self.tokenize(char, parse_special=False)]
            for index in range(len(parts) - 1):
                parts[index] += tag[:-1]
                parts[index + 1] = tag[-1:] + parts[index + 1]
            return [id_ for part in parts for id_ in self.tokenize_said(part)]
        return tokens

    def _is_tag(self, token: int) -> bool:
        attributes = self._lib.llama_vocab_get_attr(self._vocab, token)
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
    errors = logged_errors()
    log = "\n".join(errors)
    # "llama_model_load: error loading model: error loading model architecture: unknown ..."
    reason = errors[0].rpartition("error loading model: ")[2] if errors else "the library gives no reason"
    reason = reason.removeprefix("error loading model architecture: ")
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

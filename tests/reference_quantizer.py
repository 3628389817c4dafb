"""llama.cpp's own quantizer, `llama_model_quantize`, in a process of its own: it aborts on some of what it is given.

with ReferenceQuantizer() as reference:
    reference.quantize(source, target, "Q4_K_M", pure=True)
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

IMATRIX_DATASET, IMATRIX_CHUNKS = "calibration.txt", 100

# What a dry run says of a tensor: how many there are, its name, its type, and its new one where that is another.
_TENSOR = re.compile(
    r"^\[\s*\d+/\s*(\d+)\]\s+(\S+)\s+- \[.*?\], type =\s+(\w+), size =\s+\S+ MiB(?: ->\s+\S+ MiB \((\w+)\))?$", re.M
)


class Refused(Exception):
    """llama.cpp does not make the file."""


class ReferenceQuantizer:
    """A child process that quantizes files, one after the other; a new one takes over when it aborted."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> ReferenceQuantizer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._forget()

    def quantize(self, source: Path, target: Path, file_type: str, **options: Any) -> Path:
        """Makes `target`; the options are those of `_quantize`. Raises Refused with what was said."""
        answer = self._ask(source, target, file_type, **options)
        if not answer["made"]:
            target.unlink(missing_ok=True)
            raise Refused(answer["said"])
        return target

    def types(self, source: Path, file_type: str, **options: Any) -> list[tuple[str, str]]:
        """(name, type) of every tensor as they would be in the file, which is not made. Raises Refused."""
        answer = self._ask(source, source.with_suffix(".none"), file_type, dry_run=True, **options)
        if not answer["made"]:
            raise Refused(answer["said"])
        if "will require an imatrix!" in answer["said"] and options.get("imatrix") is None:
            raise Refused("an importance matrix is needed")
        lines = _TENSOR.findall(answer["said"])
        assert {int(count) for count, *_ in lines} == {len(lines)}, answer["said"]
        return [(name, (new or old).upper()) for _, name, old, new in lines]

    def _ask(
        self, source: Path, target: Path, file_type: str, *, imatrix: Mapping[str, np.ndarray] | None = None,
        **options: Any,
    ) -> dict[str, Any]:  # fmt: skip
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            )  # fmt: skip
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        columns = {name: np.asarray(values).tolist() for name, values in imatrix.items()} if imatrix else None
        question = {"source": str(source), "target": str(target), "file_type": file_type, "imatrix": columns, **options}
        self._child.stdin.write(json.dumps(question) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            return {"made": False, "said": f"aborted with {self._forget()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _forget(self) -> int:
        assert self._child is not None
        with self._child as child:  # closes its pipes
            assert child.stdin is not None
            child.stdin.close()
            code = child.wait(timeout=30)
        self._child = None
        return code


def types_in(path: Path) -> list[tuple[str, str]]:
    """(name, type) of every tensor, in the order of the file, as the gguf package reads it."""
    return [(tensor.name, tensor.tensor_type.name) for tensor in gguf.GGUFReader(path).tensors]


# --- in the child -----------------------------------------------------------------------------------------------------


def _serve() -> None:
    import llama_cpp

    said: list[str] = []
    callback = llama_cpp.llama_log_callback(lambda level, text, _: said.append(text.decode(errors="replace")))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    for line in sys.stdin:
        said.clear()
        made = _quantize(llama_cpp, **json.loads(line))
        print(json.dumps({"made": made, "said": "".join(said)}), flush=True)  # noqa: T201


def _quantize(
    llama_cpp: Any,
    source: str,
    target: str,
    file_type: str,
    *,
    pure: bool = False,
    leave_output: bool = False,
    output_type: str = "",
    embedding_type: str = "",
    overrides: Sequence[tuple[str, str]] = (),
    imatrix: Mapping[str, Sequence[float]] | None = None,
    imatrix_file: str = "",
    requantize: bool = False,
    dry_run: bool = False,
) -> bool:
    """Calls the quantizer as llama-quantize does.

    imatrix_file: what the keys that llama-quantize adds call the file of the matrix; empty: there are no such keys.
    """
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = 1
    prefix = "LLAMA_FTYPE_ALL_" if file_type == "F32" else "LLAMA_FTYPE_MOSTLY_"
    parameters.ftype = getattr(llama_cpp, prefix + file_type)
    parameters.pure = pure
    parameters.dry_run = dry_run
    parameters.allow_requantize = requantize
    parameters.quantize_output_tensor = not leave_output
    if output_type:
        parameters.output_tensor_type = gguf.GGMLQuantizationType[output_type].value
    if embedding_type:
        parameters.token_embedding_type = gguf.GGMLQuantizationType[embedding_type].value
    patterns = (llama_cpp.llama_model_tensor_override * (len(overrides) + 1))()
    for place, (pattern, kind) in zip(patterns, overrides, strict=False):
        place.pattern, place.type = pattern.encode(), gguf.GGMLQuantizationType[kind].value
    if overrides:
        parameters.tt_overrides = patterns
    columns = {name: np.asarray(values, np.float32) for name, values in (imatrix or {}).items()}
    entries = (llama_cpp.llama_model_imatrix_data * (len(columns) + 1))()
    for place, (name, values) in zip(entries, columns.items(), strict=False):
        place.name, place.size = name.encode(), values.size
        place.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    keys = (llama_cpp.llama_model_kv_override * 5)()
    told = {"file": imatrix_file, "dataset": IMATRIX_DATASET, "entries_count": len(columns)}
    for place, (name, value) in zip(keys, {**told, "chunks_count": IMATRIX_CHUNKS}.items(), strict=False):
        place.key = f"quantize.imatrix.{name}".encode()
        if isinstance(value, str):
            place.tag, place.value.val_str = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
        else:
            place.tag, place.value.val_i64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, value
    if imatrix is not None:
        parameters.imatrix = entries
        if imatrix_file:
            parameters.kv_overrides = keys
    return bool(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)) == 0)


if __name__ == "__main__":
    _serve()

"""How fast this processor works through weights of each type: what decoding is limited by where there is no GPU.

The library multiplies a vector with more weights than caches hold, by as many threads as decode. That sees memory and
arithmetic at once: on few cores the smaller types are limited by arithmetic, which no bandwidth would show.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable

from r1local import paths
from r1local.engine.devices import function
from r1local.engine.library import child_environment
from r1local.engine.verdicts import machine as build_and_processor
from r1local.errors import R1Error
from r1local.gguf_types import TENSOR_TYPES
from r1local.hardware.bandwidth import is_busy

_BYTES = 256 << 20  # weights read in all; less where there is little memory
_WIDTH = 4096  # of a row, as in a 7B
_MATRICES = 8
_ROUNDS = 4
_PATIENCE_SECONDS = 60.0
_FILL = 0x3C  # 0x3C3C is about 1 as a 16-bit float: no scale may be so small that it slows arithmetic down
_F32 = 0
_ROOM_BESIDE = 64 << 20  # for the graph and its results

_Pointer = ctypes.c_void_p


class _InitParams(ctypes.Structure):
    """ggml_init_params (ggml.h)."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", _Pointer), ("no_alloc", ctypes.c_bool))


class _Traits(ctypes.Structure):
    """The beginning of ggml_type_traits_cpu (ggml-cpu.h)."""

    _fields_ = (("from_float", _Pointer), ("vec_dot", _Pointer))


def reading_rates(types: Iterable[str], threads: int, memory_available: int) -> dict[str, float]:
    """Bytes a second of weights of each type that `threads` threads work through together.

    Types without a kernel are left out, all of them where there is too little memory. A fifth of a second each, once;
    then remembered for this build, processor and number of threads. Raises LibraryMissing.
    """
    key = f"{build_and_processor()}|{threads} threads"
    known = _remembered()
    rates = known.setdefault(key, {})
    size = min(_BYTES, memory_available // 8)
    missing = [name for name in types if name not in rates] if size >= _BYTES // 4 else []
    rates.update(_measured(missing, threads, size) if missing else {})
    if missing and not is_busy(threads):
        try:
            paths.atomic_write(paths.reading_file(), json.dumps(known, indent=1).encode())
        except (OSError, R1Error):
            pass  # a full or read-only disk: it is measured again next time
    return dict(rates)


def _measured(types: list[str], threads: int, size: int) -> dict[str, float]:
    """In a child process: threads of another engine in this one would slow the library's own down."""
    request = json.dumps({"types": types, "threads": threads, "size": size})
    command = [sys.executable, "-c", "from r1local.engine.reading import child; child()"]
    try:
        ended = subprocess.run(
            command, input=request.encode(), capture_output=True, env=child_environment(), timeout=_PATIENCE_SECONDS
        )
        report = json.loads(ended.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, IndexError, ValueError):
        return {}  # it crashed, or took for ever: then nothing is known
    return {name: float(rate) for name, rate in report.items() if rate}


def child() -> None:
    """The other side: measure what standard input asks for and print one line of JSON."""
    request = json.loads(sys.stdin.read())
    report_to = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the library may print there
    rates = {name: _measure(name, request["threads"], request["size"]) for name in request["types"]}
    os.write(report_to, json.dumps(rates).encode() + b"\n")
    os._exit(0)


def _measure(name: str, threads: int, size: int) -> float:
    """The best of several rounds, as a disturbed one only shows the disturbance; 0 without a kernel."""
    type_id = next((number for number, (known, *_) in TENSOR_TYPES.items() if known == name), None)
    if type_id is None:
        return 0.0
    function("ggml-cpu", "ggml_cpu_init", None)()
    traits = function("ggml-cpu", "ggml_get_type_traits_cpu", ctypes.POINTER(_Traits), ctypes.c_int)(type_id)
    if not traits.contents.vec_dot:
        return 0.0
    begin = function("ggml-base", "ggml_init", _Pointer, _InitParams)
    end = function("ggml-base", "ggml_free", None, _Pointer)
    tensor = function(
        "ggml-base", "ggml_new_tensor_2d", _Pointer, _Pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
    )
    data = function("ggml-base", "ggml_get_data", _Pointer, _Pointer)
    product = function("ggml-base", "ggml_mul_mat", _Pointer, _Pointer, _Pointer, _Pointer)
    new_graph = function("ggml-base", "ggml_new_graph", _Pointer, _Pointer)
    add = function("ggml-base", "ggml_build_forward_expand", None, _Pointer, _Pointer)
    compute = function("ggml-cpu", "ggml_graph_compute_with_ctx", ctypes.c_int, _Pointer, _Pointer, ctypes.c_int)
    row_size = function("ggml-base", "ggml_row_size", ctypes.c_size_t, ctypes.c_int, ctypes.c_int64)

    row = int(row_size(type_id, _WIDTH))
    rows = max(1, size // _MATRICES // row)
    context = begin(_InitParams(size + _ROOM_BESIDE, None, False))
    if not context:
        return 0.0
    try:
        graph = new_graph(context)
        vector = tensor(context, _F32, _WIDTH, 1)
        ctypes.memset(data(vector), _FILL, _WIDTH * 4)
        for _ in range(_MATRICES):
            weights = tensor(context, type_id, _WIDTH, rows)
            ctypes.memset(data(weights), _FILL, rows * row)
            add(graph, product(context, weights, vector))
        best = 0.0
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            if compute(context, graph, threads):
                return 0.0
            best = max(best, _MATRICES * rows * row / (time.perf_counter() - began))
        return best
    finally:
        end(context)


def _remembered() -> dict[str, dict[str, float]]:
    try:
        data = json.loads(paths.reading_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {
        key: {name: float(rate) for name, rate in rates.items() if type(rate) in (int, float) and 1e6 < rate < 1e14}
        for key, rates in data.items()
        if isinstance(rates, dict)
    }

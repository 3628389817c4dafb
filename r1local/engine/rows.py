"""Looks at every block of weights: a scale that is not a finite number makes a model talk nonsense.

The C library judges, in a child process: the file is not trusted yet, and the function prints what it finds.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from r1local.engine.library import child_environment, library_folder
from r1local.errors import EngineError, LibraryMissing
from r1local.gguf_header import read_header
from r1local.gguf_types import TENSOR_TYPES, GgufHeader, TensorInfo

# Looked at in one call: whole blocks of every type, some megabytes.
_CHUNK_BLOCKS = 1 << 15


def broken_tensors(path: Path, *, threads: int, on_progress: Callable[[int], None]) -> list[str]:
    """The names of tensors in `path` that hold values which are not finite. Of a split model, of this part.

    on_progress(bytes looked at) may raise to stop. Raises EngineError when the child cannot do its work.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", "from r1local.engine.rows import child; child()", str(path), str(threads)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
    )
    assert child.stdout is not None
    broken: list[str] = []
    ended = False
    try:
        for line in child.stdout:
            report = json.loads(line)
            if "done" in report:
                on_progress(report["done"])
            elif "broken" in report:
                broken.append(str(report["broken"]))
            else:
                ended = True
    finally:
        if not ended:
            child.kill()
        child.stdout.close()
        child.wait()
    if not ended:
        raise EngineError(
            f"The weights of {path.name} could not be looked at: the child process ended with {child.returncode}.",
            "`r1local doctor` looks at the build.",
        )
    return broken


def child() -> None:
    """The other side: file and number of threads from the command line, a line of JSON for every finding."""
    header = read_header(Path(sys.argv[1]), follow_parts=False)
    validate = _validator()
    report_to = os.dup(1)
    os.dup2(2, 1)  # the library may print there too

    def report(**what: Any) -> None:
        os.write(report_to, json.dumps(what).encode() + b"\n")

    broken: set[str] = set()
    done = 0
    with ThreadPoolExecutor(max_workers=max(1, int(sys.argv[2]))) as pool, header.path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        chunks = [(tensor, start, size) for tensor in header.tensors for start, size in _chunks(header, tensor)]
        sound = pool.map(lambda chunk: validate(chunk[0].type_id, address + chunk[1], chunk[2]), chunks)
        for (tensor, _, size), good in zip(chunks, sound, strict=True):
            if not good and tensor.name not in broken:
                broken.add(tensor.name)
                report(broken=tensor.name)
            done += size
            report(done=done)
    report(end=True)
    os._exit(0)


def _chunks(header: GgufHeader, tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    """Stretches of whole blocks: where each starts in the file, and its size."""
    step = TENSOR_TYPES[tensor.type_id][2] * _CHUNK_BLOCKS
    for start in range(0, tensor.size, step):
        yield header.data_offset + tensor.offset + start, min(step, tensor.size - start)


def _validator() -> Callable[[int, int, int], bool]:
    """`bool ggml_validate_row_data(enum ggml_type, const void * data, size_t bytes)` of ggml.h."""
    folder = library_folder()
    for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll"):
        path = folder / name
        if path.exists():
            function: Any = ctypes.CDLL(str(path)).ggml_validate_row_data
            function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
            function.restype = ctypes.c_bool
            return function  # type: ignore[no-any-return]
    raise LibraryMissing(f"The C library in {folder} has no ggml-base.", "Install llama-cpp-python again.")

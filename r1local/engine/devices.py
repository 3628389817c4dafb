"""What the installed library computes with: the devices ggml knows.

`devices` asks the library in this process. `look` asks it in a child process: a broken build costs a sentence, and no
file of it is held open here, which on Windows could not be replaced.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from r1local.engine.interrupts import interrupt_held
from r1local.engine.library import (
    child_environment,
    library,
    library_folder,
    library_version,
    requirement,
    supports_gpu_offload,
    system_info,
)
from r1local.errors import EngineError, LibraryMissing, R1Error
from r1local.terminal import clean_line

Kind = Literal["cpu", "gpu", "igpu", "accel"]

# enum ggml_backend_dev_type. The fifth, "meta", stands for several of these together.
_KINDS: dict[int, Kind] = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
# Drivers that have not been used since the machine started take their time.
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Device:
    """One thing the library can compute with."""

    name: str
    """ggml's own, such as CUDA0."""
    description: str
    """Its maker's."""
    kind: Kind
    """accel is one that helps the processor; igpu is a GPU that uses the machine's memory."""
    memory_free: int
    memory_total: int
    """Bytes; 0 where it does not say."""

    @property
    def is_gpu(self) -> bool:
        return self.kind in ("gpu", "igpu")


@dataclass(frozen=True, slots=True)
class Build:
    """What is installed."""

    version: str
    folder: str
    features: str
    devices: tuple[Device, ...]


def devices() -> tuple[Device, ...]:
    """Every device of the library, in its order. Raises LibraryMissing."""
    with interrupt_held():  # backends log when they are loaded and first asked
        return _devices()


def _devices() -> tuple[Device, ...]:
    supports_gpu_offload()  # loads those backends that are files of their own
    count = function("ggml", "ggml_backend_dev_count", ctypes.c_size_t)
    get = function("ggml", "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name = function("ggml-base", "ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = function("ggml-base", "ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = function("ggml-base", "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    size = ctypes.POINTER(ctypes.c_size_t)
    memory = function("ggml-base", "ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)
    found = []
    for index in range(count()):
        device = get(index)
        if kind(device) not in _KINDS:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(
            Device(_text(name(device)), _text(description(device)), _KINDS[kind(device)], free.value, total.value)
        )
    return tuple(found)


def _text(value: bytes | None) -> str:
    return clean_line((value or b"").decode(errors="replace")).strip()


def function(part: str, name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml that the bindings leave out.

    Looked up through the handle of libllama, which finds it in the libraries that one has loaded. A wheel holds each
    library under three names, as three files: opening one by its name can load a second ggml with a list of its own.
    Windows looks into one library at a time, and opens no file twice.
    """
    handle: Any = getattr(library(), "_lib", None)
    try:
        try:
            function: Any = handle[name]  # by index: an object of its own, whose types nobody else has set
        except (AttributeError, TypeError):
            function = ctypes.CDLL(str(library_folder() / f"{part}.dll"))[name]
    except (OSError, AttributeError) as error:
        raise LibraryMissing(
            f"The installed llama-cpp-python does not tell its devices: {error}.",
            f"r1local is made for {requirement()}: r1local backend install cpu",
        ) from error
    function.restype, function.argtypes = result, arguments
    return function


def look() -> Build:
    """What is installed, as a child process finds it. Raises LibraryMissing, or EngineError when the child dies."""
    command = [sys.executable, "-c", "from r1local.engine.devices import child; child()"]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=child_environment(), timeout=_PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"The installed build did not tell its devices within {_PATIENCE_SECONDS:.0f} s.",
            "The driver of the GPU may hang: restart the machine.",
        ) from error
    try:
        report = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise EngineError(
            f"The installed build crashes when it is loaded (exit code {ended.returncode}).",
            "Put another one in its place: r1local backend install cpu",
        ) from error
    if "message" in report:
        raise LibraryMissing(report["message"], report["hint"])
    return Build(
        report["version"], report["folder"], report["features"], tuple(Device(**each) for each in report["devices"])
    )


def child() -> None:
    """The other side of `look`: print one line of JSON."""
    report_to = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the library may print there
    report: dict[str, Any]
    try:
        report = {
            "version": library_version(),
            "folder": str(library_folder()),
            "features": system_info().replace(" | ", ", ").strip(" ,|"),
            "devices": [asdict(device) for device in devices()],
        }
    except R1Error as error:
        report = {"message": error.message, "hint": error.hint}
    os.write(report_to, json.dumps(report).encode() + b"\n")
    os._exit(0)  # unloading a GPU's libraries takes time, and some crash in it

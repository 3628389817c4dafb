"""Loads llama.cpp's C library through llama-cpp-python's bindings. The only file that imports llama_cpp.

Only the low-level bindings are used. The high-level `Llama` class holds one sequence, has other models' sampling
defaults, and cannot switch off what crashes.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import Any

from r1local import paths
from r1local.engine.interrupts import interrupt_held
from r1local.errors import LibraryMissing, R1Error
from r1local.terminal import clean_line

SPIN_COUNT = 2000
PACKAGE = "llama-cpp-python"

_logged: deque[tuple[int, str]] = deque(maxlen=200)  # level and line
_BUFFER = re.compile(r"^\w+: +(\S+) +(model|KV|compute|output) buffer size = +([\d.]+) MiB")
_buffers: list[tuple[str, str, int]] = []


@lru_cache(maxsize=1)
def library() -> Any:
    """The C library's bindings, loaded once, logging into our log file.

    Raises LibraryMissing.
    """
    # Threads wait for one another dozens of times a token, by default spinning for milliseconds. Where another
    # program keeps a core busy that makes decoding 5 to 30 times slower; this many turns make it 2.5 times
    # slower, and cost nothing on an idle machine. Read by libgomp when it is loaded, so set before.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    # An assertion in the library would otherwise start a debugger on this process and print for a second.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    try:
        from llama_cpp import llama_cpp
    except Exception as error:  # a broken build raises OSError, RuntimeError, AttributeError, anything
        from r1local.engine.builds.former_build import is_unfinished

        raise LibraryMissing(
            f"llama-cpp-python cannot be loaded: {error}.",
            "An installation was not finished. To put the former build back: r1local backend"
            if is_unfinished()
            else f"Install it again: pip install --force-reinstall --no-cache-dir {requirement()}",
        ) from error
    with interrupt_held():
        llama_cpp.llama_log_set(_log_callback(llama_cpp), None)
        llama_cpp.llama_backend_init()
    return llama_cpp


@lru_cache(maxsize=1)
def requirement() -> str:
    """The library as r1local's metadata asks for it, "llama-cpp-python==0.3.36"; without metadata the name alone."""
    from importlib import metadata

    try:
        wanted = metadata.requires("r1local") or []
    except metadata.PackageNotFoundError:  # a copy of the sources that nobody installed
        wanted = []
    found = (re.match(r"llama[-_.]cpp[-_.]python *== *[\w.]+", line, re.IGNORECASE) for line in wanted)
    return next((match.group().replace(" ", "") for match in found if match), PACKAGE)


def child_environment() -> dict[str, str]:
    """For a child process that imports this package, wherever it was started from."""
    package_home = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, (package_home, os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": search}


def forget_log() -> None:
    """Start anew, in front of a call whose failure is to be explained."""
    _logged.clear()


def logged_errors() -> list[str]:
    """What the library called errors since `forget_log`. Why a call failed stands there and nowhere else."""
    return [line for level, line in _logged if level >= logging.ERROR]


def forget_buffers() -> None:
    """Start anew, in front of a model's loading."""
    _buffers.clear()


def logged_buffers() -> list[tuple[str, str, int]]:
    """What the library allocated since `forget_buffers`: device, "model", "KV", "compute" or "output", and bytes.

    There is no other way to ask it.
    """
    return list(_buffers)


def library_folder() -> Path:
    """Where the shared libraries of the installed build lie."""
    return Path(library().__file__).parent / "lib"


def library_version() -> str:
    library()  # nothing of it may be loaded before its environment is set
    import llama_cpp

    return str(llama_cpp.__version__)


def system_info() -> str:
    """What the library says about its own build: instruction sets and options."""
    return str(library().llama_print_system_info().decode(errors="replace"))


def supports_gpu_offload() -> bool:
    return bool(library().llama_supports_gpu_offload())


_log_callback_kept: list[Any] = []  # C holds a bare pointer; this keeps the object alive


def _log_callback(llama_cpp: Any) -> Any:
    """ggml's levels are 1 debug, 2 info, 3 warning, 4 error, 5 continuation of the line before."""
    logger = _engine_logger()
    levels = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
    line = ""
    line_level = logging.INFO

    def receive(level: int, text: bytes, _: Any) -> None:
        nonlocal line, line_level
        try:
            if level != 5:
                line_level = levels.get(level, logging.INFO)
            line += text.decode(errors="replace")
            *ended, line = line.split("\n")
            for whole in filter(str.strip, ended):
                shown = clean_line(whole)
                _logged.append((line_level, shown))
                if " buffer size" in shown and (found := _BUFFER.match(shown)):
                    _buffers.append((found[1], found[2], int(float(found[3]) * (1 << 20))))
                logger.log(line_level, "%s", shown)
        except Exception:  # an exception cannot cross the C library
            line = ""

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

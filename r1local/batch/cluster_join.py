"""Ray itself: joins a running cluster or starts one of this machine alone, and keeps it quiet."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1local.errors import EngineError, UsageError
from r1local.terminal import clean_line

LOCAL = "local"
"""The address of a cluster of this machine alone, started here, whatever else runs."""
_STORE_BYTES = 100 << 20
"""Shared memory of a local cluster: rows and records are small and do not stay."""
_KNOCK_SECONDS = 5.0
_MOST_CHARACTERS = 300
"""Of an address that was noted."""
_START_ONE = "Start one with `ray start --head`, or leave the address out: then this machine works alone."


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster."""

    id: str
    name: str
    cores: float
    """What Ray may hand out there."""
    gpus: float


def ray_module() -> Any:
    """Ray, imported, its reports to its makers switched off. Raises UsageError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray would hide all GPUs from workers that ask for none, and warn about it on every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Ray, which spreads rows over machines, is not installed.", "pip install 'r1local[cluster]'"
        ) from error
    return ray


@contextmanager
def joined(address: str = "") -> Iterator[Any]:
    """Ray, connected; yields its module. A connection this process has already is used and left alone.

    `address`: "" for RAY_ADDRESS, else a cluster that `ray start` began on this machine, else one of our own; LOCAL;
    or host:port, "ray://host:port", "auto". A cluster of our own listens on loopback alone and ends with the context.
    Raises UsageError, EngineError.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    with _silent(ray):
        where = address or _running_here(ray)
        folder = None
        try:
            if where == LOCAL:
                folder = _start(ray)
            else:
                _connect(ray, where)
            yield ray
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def nodes(ray: Any) -> list[Node]:
    """Those that are up and offer cores or GPUs."""
    found = []
    for node in ray.nodes():
        resources = node["Resources"]
        cores, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        if node["Alive"] and (cores or gpus):
            found.append(Node(node["NodeID"], clean_line(str(node["NodeManagerHostname"])), cores, gpus))
    return found


def _running_here(ray: Any) -> str:
    """RAY_ADDRESS or the cluster `ray start` began here; LOCAL where there is none.

    Not "auto": that joins whatever process of Ray it finds, the private cluster of another batch too.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named:
        return named
    begun = _noted_address(Path(ray._private.utils.get_ray_address_file(None)))
    return begun if begun and _answers(begun) else LOCAL


def _noted_address(file: Path) -> str:
    """What `ray start` noted in a folder that all users share; empty for a note of somebody else.

    Whoever is joined is sent the rows, and what comes back is unpickled.
    """
    try:
        with file.open(encoding="utf-8") as note:
            if hasattr(os, "getuid") and os.fstat(note.fileno()).st_uid not in (os.getuid(), 0):
                return ""
            return note.read(_MOST_CHARACTERS).strip()
    except (OSError, ValueError):
        return ""


def _answers(address: str) -> bool:
    """Whether something listens at host:port. An address of another form is left to Ray."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return True
    try:
        socket.create_connection((host.removeprefix("ray://").strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _connect(ray: Any, address: str) -> None:
    shown = clean_line(address)
    if not _answers(address):
        raise EngineError(f"No Ray cluster answers at {shown}.", _START_ONE)
    try:
        _init(ray, address=address)
    except ImportError as error:  # ray:// wants more than the plain package
        raise UsageError(f"{shown} cannot be used: {_first_line(error)}", "pip install 'ray[client]'") from error
    except Exception as error:
        raise EngineError(f"The Ray cluster at {shown} cannot be joined: {_first_line(error)}", _START_ONE) from error


def _start(ray: Any) -> Path:
    """Start a cluster of this machine alone; the folder it writes into."""
    # Ray's sockets lie in it, whose names must be short.
    folder = Path(tempfile.mkdtemp(prefix="r1-", dir="/tmp" if os.path.isdir("/tmp") else None))
    try:
        with _on_loopback(ray):
            _init(ray, address=LOCAL, include_dashboard=False, object_store_memory=_STORE_BYTES, _temp_dir=str(folder))
    except BaseException as error:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, Exception):
            raise
        raise EngineError(
            f"Ray cannot be started on this machine: {_first_line(error)}", "Without a cluster it may go: r1local batch"
        ) from error
    return folder


def _init(ray: Any, **options: Any) -> None:
    with _sigterm_kept():
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)


def _first_line(error: BaseException) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return clean_line(line.strip())[:200].rstrip(".") + "."


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts a handler of its own in place of the program's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _silent(ray: Any) -> Any:
    """Ray prints a paragraph to stdout for every worker that dies, whatever is said about logs."""
    return _replaced(ray._private.worker, "print_to_stdstream", lambda *_, **__: None)


def _on_loopback(ray: Any) -> Any:
    """Ray takes the address of the network for a node's even where 127.0.0.1 is asked for, but on macOS and Windows."""
    return _replaced(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False)


def _replaced(module: Any, name: str, value: bool | Callable[..., None]) -> Any:
    return _replacing(module, name, value) if hasattr(module, name) else nullcontext()


@contextmanager
def _replacing(module: Any, name: str, value: bool | Callable[..., None]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)

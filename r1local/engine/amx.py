"""Keeps ggml's AMX kernels from being used, without giving up its other fast paths.

Built by GCC 12, those kernels crash at `ldtilecfg`: the compiler drops the stores of the tile configuration.
Linux refuses a process the permission for tile data while one of its threads has an alternate signal stack too
small to hold them (arch/x86/kernel/fpu/xstate.c); ggml takes the refusal for "no AMX here". So the question is
put once, while such a stack is set.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_TOO_SMALL_FOR_TILES = 4096
_CPU_DEVICE = 0  # GGML_BACKEND_DEVICE_TYPE_CPU


class _SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def keep_amx_off(library_folder: Path) -> bool:
    """Have ggml decide now that there is no AMX. To be called before the first model is loaded.

    True when it worked, or when AMX cannot be in question on this system.
    """
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        return True
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        ask = _extra_buffers_question(library_folder)
    except (OSError, AttributeError):
        return False
    space = ctypes.create_string_buffer(_TOO_SMALL_FOR_TILES)
    small = _SignalStack(ctypes.addressof(space), 0, _TOO_SMALL_FOR_TILES)
    before = _SignalStack()
    if libc.sigaltstack(ctypes.byref(small), ctypes.byref(before)) != 0:
        return False
    try:
        with _stderr_closed():
            ask()
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
    return True


def _extra_buffers_question(library_folder: Path) -> ctypes._FuncPointer:
    """The call in which ggml's CPU backend lists its buffer types; it does so once and remembers the answer."""
    base = ctypes.CDLL(str(library_folder / "libggml-base.so"))
    ggml = ctypes.CDLL(str(library_folder / "libggml.so"))
    pointer = ctypes.c_void_p
    ggml.ggml_backend_dev_by_type.restype = pointer
    base.ggml_backend_dev_backend_reg.argtypes = [pointer]
    base.ggml_backend_dev_backend_reg.restype = pointer
    base.ggml_backend_reg_get_proc_address.argtypes = [pointer, ctypes.c_char_p]
    base.ggml_backend_reg_get_proc_address.restype = pointer
    device = ggml.ggml_backend_dev_by_type(_CPU_DEVICE)
    registry = base.ggml_backend_dev_backend_reg(device)
    address = base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        raise AttributeError("ggml_backend_dev_get_extra_bufts")
    function = ctypes.CFUNCTYPE(pointer, pointer)(address)
    return ctypes.CFUNCTYPE(pointer)(lambda: function(device))


class _stderr_closed:
    """ggml prints its finding with fprintf(stderr), past every log callback and across any screen."""

    def __enter__(self) -> None:
        self._saved = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)

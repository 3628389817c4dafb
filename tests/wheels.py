"""Small wheels named as llama-cpp-python's, an index of them laid out as its author's, and environments to put them in.

What they hold leads to the real library that is installed beside the tests; the one for CUDA has the processor appear
to the C library a second time, as a GPU, so that layers can truly be offloaded to it.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "0.3.36"
REPOSITORY = Path(__file__).parent.parent

_LEAD = """
__path__.append({real!r})
__version__ = {version!r}
FLAVOUR = {flavour!r}
"""

_PRETEND_GPU = """
import ctypes
from llama_cpp import llama_cpp as _real

# struct ggml_backend_device of ggml-backend-impl.h: 15 functions, the registry, the context.
_ggml = _real._lib
_by_type = _ggml["ggml_backend_dev_by_type"]
_by_type.restype, _by_type.argtypes = ctypes.c_void_p, [ctypes.c_int]
_processor = _by_type(0)
_gpu = (ctypes.c_void_p * 17).from_buffer_copy(ctypes.string_at(_processor, 17 * ctypes.sizeof(ctypes.c_void_p)))
_texts = [ctypes.create_string_buffer(text) for text in (b"CUDA0", b"NVIDIA Pretend 4090")]


class _Props(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("description", ctypes.c_char_p), ("free", ctypes.c_size_t),
                ("total", ctypes.c_size_t), ("type", ctypes.c_int)]


_say = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_fill = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Props))
_real_props = _fill(_gpu[4])


def _props(device, props):
    _real_props(device, props)
    props[0].type = 1


def _memory(device, free, total):
    free[0], total[0] = 20 << 30, 24 << 30


_size = ctypes.POINTER(ctypes.c_size_t)
_kept = [_say(lambda _: ctypes.addressof(_texts[0])), _say(lambda _: ctypes.addressof(_texts[1])),
         ctypes.CFUNCTYPE(None, ctypes.c_void_p, _size, _size)(_memory),
         ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 1), _fill(_props)]
for _slot, _function in enumerate(_kept):
    _gpu[_slot] = ctypes.cast(_function, ctypes.c_void_p).value
_register = _ggml["ggml_backend_device_register"]
_register.argtypes = [ctypes.c_void_p]
_register(ctypes.addressof(_gpu))
"""

# What a build does when it is imported.
FLAVOURS = {
    "processor": "",
    "gpu": _PRETEND_GPU,
    "unloadable": "raise RuntimeError(\"Failed to load shared library 'libllama.so': libcudart.so.12: cannot open\")\n",
    "wrong": _PRETEND_GPU + "\n_real.llama_decode = lambda *_: 1\n",
    "crashing": "import os\nos.abort()\n",
}


def write_wheel(folder: Path, flavour: str, *, more: dict[str, bytes] | None = None, version: str = VERSION) -> Path:
    """A wheel for this machine. Like the real ones it also puts folders called lib and include beside the package."""
    real = importlib.util.find_spec("llama_cpp")
    assert real is not None
    assert real.submodule_search_locations
    lead = _LEAD.format(real=next(iter(real.submodule_search_locations)), version=version, flavour=flavour)
    tag = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
    info = f"llama_cpp_python-{version}.dist-info"
    files = {
        "llama_cpp/__init__.py": (lead + FLAVOURS[flavour]).encode(),
        "llama_cpp/lib/flavour.so": flavour.encode() * 1000,
        f"llama_cpp/lib/only-{flavour}.so": b"of one build alone",
        "include/llama.h": f"// {flavour}\n".encode(),
        f"lib/lib{flavour}.so": flavour.encode(),
        "lib/cmake/llama/config.cmake": b"# the same in all\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
        **(more or {}),
    }
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"llama_cpp_python-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def add_to_index(index: Path, folder: str, flavour: str, *, more: dict[str, bytes] | None = None) -> None:
    """whl/cu124/llama-cpp-python/index.html with one wheel more."""
    place = index / folder / "llama-cpp-python"
    wheel = write_wheel(place, flavour, more=more)
    (place / "index.html").write_text(
        f'<!DOCTYPE html><html><body><a href="{wheel.name}">{wheel.name}</a></body></html>'
    )


@contextmanager
def served(index: Path, *, stall: threading.Event | None = None) -> Iterator[tuple[str, list[str]]]:
    """The index at an address of this machine, and the paths that were asked for. `stall` holds wheels back."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if stall is not None and self.path.endswith(".whl"):
                stall.wait(60)
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(index)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        if stall is not None:
            stall.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Environment:
    """A virtual environment that sees r1local, pip and all else of the one the tests run in, but for the library."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        others = (REPOSITORY, sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
        (self.packages / "others.pth").write_text("\n".join(map(str, dict.fromkeys(others))))

    def unpack(self, wheel: Path) -> None:
        """Install as pip does, without its second of starting."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.packages)
        (info,) = self.packages.glob("llama_cpp_python-*.dist-info")
        (info / "INSTALLER").write_text("pip\n")
        with (info / "RECORD").open("a") as record:
            record.write(f"{info.name}/INSTALLER,,\n")

    def state(self) -> dict[str, tuple[bytes, int]]:
        """Every file's bytes and mode, but for those Python makes itself."""
        return {
            str(path.relative_to(self.packages)): (path.read_bytes(), path.stat().st_mode)
            for path in self.packages.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    def leftovers(self) -> list[str]:
        """Empty folders, and what pip sets aside while it works."""
        return [
            str(path.relative_to(self.packages))
            for path in self.packages.rglob("*")
            if path.name.startswith("~") or (path.is_dir() and not any(path.iterdir()))
        ]

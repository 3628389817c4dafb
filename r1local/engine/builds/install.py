"""Puts another build of llama-cpp-python in the place of the present one, tries it, and undoes that when it fails.

The C library is never loaded in this process: it could not be replaced then on Windows.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import invalidate_caches
from pathlib import Path

from r1local import paths
from r1local.engine.builds import Facts, Plan, former_build
from r1local.engine.builds.trial import Trial, try_build
from r1local.engine.library import requirement
from r1local.errors import DiskFull, DownloadError, EngineError, R1Error
from r1local.hardware import Hardware
from r1local.terminal import clean_line

_INTERRUPTED_SECONDS = 5.0
_NO_NETWORK = re.compile(
    "connection broken by|Failed to fetch|error sending request|Could not fetch URL|Read timed out|ProxyError|SSLError"
)
_NO_WHEEL = re.compile("No matching distribution found|No solution found|has no usable wheels")
_NOT_THERE = "404 Not Found"  # uv says so, and also that it failed to fetch


def gather(machine: Hardware) -> Facts:
    """The facts `builds.plan` rests on. Starts pip once, to ask for its settings."""
    names = _pip_settings()
    keepers = {"pipx_metadata.json": "pipx", "uv-receipt.toml": "uv tool"}
    places = [name for name in ("EXTRA_INDEX_URL", "FIND_LINKS") if name in (names or ())]
    if names is None:
        other_sources = ["UV_FIND_LINKS"] if os.environ.get("UV_FIND_LINKS") else []
    else:
        other_sources = [f"PIP_{name}" for name in places]
    return Facts(
        system=platform.system(),
        machine=platform.machine(),
        python=sys.executable,
        gpus=machine.gpus,
        in_venv=sys.prefix != sys.base_prefix,
        externally_managed=(Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists(),
        has_pip=names is not None,
        uv=shutil.which("uv") or "",
        keeper=next((tool for name, tool in keepers.items() if (Path(sys.prefix) / name).exists()), ""),
        other_sources=tuple(other_sources),
        compilers=tuple(name for name in ("nvcc", "glslc") if _compiler(name)),
        cmake_args=os.environ.get("CMAKE_ARGS", ""),
    )


def _pip_settings() -> set[str] | None:
    """The names of pip's settings, of its files and of the environment: FIND_LINKS. None where there is no pip."""
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0:
        return None
    lines = asked.stdout.decode(errors="replace").splitlines()
    return {line.partition("=")[0].rpartition(".")[2].upper().replace("-", "_") for line in lines}


def _compiler(name: str) -> bool:
    """Whether it is where CMake looks for it."""
    if shutil.which(name) or (name == "nvcc" and os.environ.get("CUDACXX")):
        return True
    homes = [os.environ.get(variable) for variable in ("CUDA_PATH", "CUDA_HOME", "VULKAN_SDK")]
    return any(shutil.which(name, path=str(Path(home) / "bin")) for home in [*homes, "/usr/local/cuda"] if home)


def install(plan: Plan, on_line: Callable[[str], None]) -> Trial:
    """Run `plan` and try what it brought. When anything fails, or on Ctrl-C, the former build is put back.

    `on_line` gets what goes on. Raises DiskFull, DownloadError, EngineError or SelfTestFailed.
    """
    with former_build.locked():
        if former_build.is_unfinished():
            former_build.put_back()
        former_build.keep()
        try:
            on_line("Installing")
            _run(plan, on_line)
            on_line("Trying the new build")
            trial = try_build(plan.wanted)
        except R1Error as error:
            raise type(error)(f"{error.message} {_undone()}", error.hint) from error
        except BaseException:
            _undone()
            raise
        former_build.forget()
        return trial


def _undone() -> str:
    invalidate_caches()  # what this process knows of the packages is older than the installation
    try:
        return former_build.put_back()
    except R1Error as error:
        return f"{error.message} {error.hint}"


def _run(plan: Plan, on_line: Callable[[str], None]) -> None:
    installer = subprocess.Popen(
        plan.arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", **plan.environment},
        # `python -m pip` would take a pip.py of the folder somebody happens to be in.
        cwd=paths.former_build_folder(),
    )
    assert installer.stdout is not None
    said = []
    try:
        former_build.note_installer(installer.pid)
        for line in installer.stdout:
            said.append(clean_line(line.decode(errors="replace").strip()))
            if said[-1]:
                on_line(said[-1])
        code = installer.wait()
    except BaseException:
        _stop(installer)
        raise
    finally:
        installer.stdout.close()
    if code != 0:
        raise _failure(plan, said, code)


def _stop(installer: subprocess.Popen[bytes]) -> None:
    """A Ctrl-C has reached it, too; it may put back what it has taken away so far."""
    try:
        installer.wait(_INTERRUPTED_SECONDS)
    except subprocess.TimeoutExpired:
        installer.kill()
        installer.wait()


def _failure(plan: Plan, said: list[str], code: int) -> R1Error:
    """What an installer that failed meant."""
    text = "\n".join(said)
    if "No space left on device" in text or "not enough space on the disk" in text:
        return DiskFull("The disk is full: the new build could not be installed.", "Free some space.")
    if _NO_NETWORK.search(text) and _NOT_THERE not in text:
        return DownloadError(
            "The server with the builds could not be reached.",
            "Look at the network or the proxy and type it again; --index URL names another server or a folder.",
        )
    source = f"compile it: r1local backend install {plan.wanted} --from-source"
    if "--only-binary" in plan.arguments and (_NO_WHEEL.search(text) or _NOT_THERE in text):
        where = plan.arguments[-2]
        other = f"Try an older CUDA with --cuda-version, or {source}" if plan.cuda else f"You can {source}"
        return EngineError(
            f"There is no wheel of {requirement()} for {platform.system()} {platform.machine()} at {where}.", other
        )
    errors = [line for line in said if re.match("error", line, re.IGNORECASE)]
    last = next((line for line in reversed(errors or said) if line), "it said nothing")
    if re.search(r"\[WinError (5|32)\]|Permission denied", text):
        advice = "Close other programs that use the library, another r1local too, and see that you may write there."
    else:
        advice = _kept(text)
    return EngineError(f"The installer failed with exit code {code}: {last.rstrip('.')}.", advice)


def _kept(text: str) -> str:
    """Put what the installer said into a file, for compilers say much; the hint that says where."""
    target = paths.log_file().with_name("backend.log")
    try:
        paths.atomic_write(target, text.encode("utf-8", "replace"))
    except (OSError, R1Error):
        return "Run it by hand to see why."
    return f"All that it said is in {target}."

"""`r1local backend`: the build for a machine is chosen right, installed by the real pip from an index on this machine,
tried with the real C library, and undone whenever anything goes wrong. Every environment here is a temporary one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pexpect
import psutil
import pytest

from r1local.engine import builds, selftest
from r1local.engine.builds import INDEX, Facts, cuda_wheels, former_build
from r1local.engine.builds import install as build_install
from r1local.engine.builds.install import _failure
from r1local.engine.devices import devices, look
from r1local.engine.library import library, library_version, requirement
from r1local.errors import DiskFull, DownloadError, EngineError, ExitCode, UsageError
from r1local.gguf_header import read_header
from r1local.hardware import Hardware
from r1local.hardware.gpu import Gpu
from tests.wheels import Environment, add_to_index, served, write_wheel

GIB = 1 << 30


def nvidia(driver: str = "550.54", capability: str = "8.9", name: str = "NVIDIA GeForce RTX 4090") -> Gpu:
    return Gpu(name, "cuda", 24 * GIB, 23 * GIB, driver=driver, compute_capability=capability)


def machine(*gpus: Gpu) -> Hardware:
    return Hardware("Linux 6 x86_64", "a processor", 8, 8, 32 * GIB, 16 * GIB, gpus=gpus)


LINUX = Facts("Linux", "x86_64", "/venv/bin/python", gpus=(nvidia(),))
MAC = Facts("Darwin", "arm64", "/venv/bin/python")
WINDOWS = Facts("Windows", "AMD64", r"C:\Program Files\venv\python.exe", gpus=(nvidia(),))


# What is decided


@pytest.mark.parametrize(("driver", "on_linux", "on_windows"), [
    ("450.80.02", "11.8", "11.8"), ("529.9", "11.8", "11.8"), ("530.30", "12.1", "11.8"), ("535.183", "12.2", "11.8"),
    ("545.23", "12.3", "11.8"), ("549.99", "12.3", "11.8"), ("550.54", "12.4", "12.4"), ("555", "12.5", "12.5"),
    ("579.99", "12.5", "12.5"), ("580.65.06", "13.0", "13.0"), ("590.1", "13.0", "13.0"), ("600.1", "13.2", "13.2"),
])  # fmt: skip
def test_cuda_of_a_driver(driver: str, on_linux: str, on_windows: str) -> None:
    assert cuda_wheels.choose("Linux", (nvidia(driver),)) == on_linux
    assert cuda_wheels.choose("Windows", (nvidia(driver),)) == on_windows


@pytest.mark.parametrize(("driver", "capabilities", "chosen"), [
    ("600.1", ["6.1"], "12.5"),          # CUDA 13 has nothing for Pascal
    ("600.1", ["7.0", "12.0"], "12.5"),
    ("600.1", ["7.5"], "13.2"),
    ("600.1", [""], "13.2"),             # not known: as new as the driver runs
    ("600.1", ["3.5", "8.9"], "13.2"),   # one that no wheel knows
    ("530.30", ["9.0"], "12.1"),
])  # fmt: skip
def test_cuda_of_the_gpus(driver: str, capabilities: list[str], chosen: str) -> None:
    assert cuda_wheels.choose("Linux", tuple(nvidia(driver, each) for each in capabilities)) == chosen


@pytest.mark.parametrize(("gpus", "said", "hint"), [
    ((), "did not find an NVIDIA GPU here", "--cuda-version 12.4"),
    ((nvidia(""),), "did not find the version of NVIDIA's driver", "--cuda-version 12.4"),
    ((nvidia("N/A"),), "did not find the version of NVIDIA's driver", "nvidia-smi"),
    ((nvidia("390.157"),), "NVIDIA's driver 390.157 is too old", "version 450 or newer"),
    ((nvidia("525.60", "9.0", "NVIDIA H100"),), "no code for the NVIDIA H100 (compute capability 9.0)", "newer driver"),
    ((nvidia("600", "3.5", "Tesla K40"),), "no code for the Tesla K40", "--from-source"),
])  # fmt: skip
def test_no_cuda_can_be_chosen(gpus: tuple[Gpu, ...], said: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        builds.plan("cuda", replace(LINUX, gpus=gpus))
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert builds.plan("cuda", replace(LINUX, gpus=gpus), cuda_version="12.2").cuda == "12.2"


def test_a_cuda_that_is_named() -> None:
    plan = builds.plan("cuda", LINUX, cuda_version="13.0")
    assert f"{INDEX}/cu130" in plan.arguments
    assert "CUDA 13.0 wants a driver of version 580, and this machine has 550.54." in plan.notes
    assert not any("wants a driver" in note for note in builds.plan("cuda", LINUX, cuda_version="12.1").notes)
    for wrong, facts in (("12.6", LINUX), ("cu124", LINUX), ("12.3", WINDOWS)):
        with pytest.raises(UsageError, match=f"no wheels for CUDA {wrong}"):
            builds.plan("cuda", facts, cuda_version=wrong)
    for wanted, from_source in (("cpu", False), ("cuda", True)):
        with pytest.raises(UsageError, match="--cuda-version chooses"):
            builds.plan(wanted, replace(LINUX, compilers=("nvcc",)), cuda_version="12.4", from_source=from_source)


@pytest.mark.parametrize(("wanted", "facts", "folder"), [
    ("cuda", LINUX, "cu124"), ("cuda", WINDOWS, "cu124"), ("vulkan", LINUX, "vulkan"), ("cpu", LINUX, "cpu"),
    ("cpu", MAC, "cpu"), ("cpu", replace(LINUX, machine="aarch64"), "cpu"), ("metal", MAC, "metal"),
])  # fmt: skip
def test_the_command_for_a_wheel(wanted: str, facts: Facts, folder: str) -> None:
    """Pinned, alone, from that index only, never compiled."""
    plan = builds.plan(wanted, facts)
    assert plan.arguments == (
        facts.python, "-m", "pip", "install", "--no-input", "--force-reinstall", "--no-deps",
        "--only-binary", "llama-cpp-python", "--index-url", f"{INDEX}/{folder}", "llama-cpp-python==0.3.36",
    )  # fmt: skip
    assert plan.environment == {}
    assert ("GPU" in plan.checks[0]) == (wanted != "cpu")


def test_the_version_is_that_of_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    assert requirement() == f"llama-cpp-python=={library_version()}"
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=2", 'LLAMA_CPP.python == 1.2.3rc1 ; extra == "x"'])
    requirement.cache_clear()
    assert requirement() == "LLAMA_CPP.python==1.2.3rc1"
    monkeypatch.setattr(metadata, "requires", lambda _: None)
    requirement.cache_clear()
    with pytest.raises(UsageError, match="only copied"):
        builds.plan("cpu", LINUX)
    requirement.cache_clear()


def test_the_command_for_uv() -> None:
    facts = replace(LINUX, has_pip=False, uv="/usr/bin/uv", other_sources=("UV_FIND_LINKS",))
    plan = builds.plan("cpu", facts)
    assert plan.arguments == (
        "/usr/bin/uv", "pip", "install", "--python", facts.python, "--reinstall", "--no-deps",
        "--only-binary", "llama-cpp-python", "--index", f"{INDEX}/cpu", "llama-cpp-python==0.3.36",
    )  # fmt: skip
    assert plan.environment == {"UV_FIND_LINKS": f"{INDEX}/cpu/llama-cpp-python/"}
    compiled = builds.plan("cpu", facts, from_source=True).arguments
    assert "--no-cache" in compiled
    assert "--only-binary" not in compiled


@pytest.mark.parametrize(("wanted", "facts", "cmake_args"), [
    ("cuda", replace(LINUX, compilers=("nvcc",)), "-DGGML_CUDA=on -DLLAVA_BUILD=OFF"),
    ("vulkan", replace(LINUX, compilers=("glslc",)), "-DGGML_VULKAN=on -DLLAVA_BUILD=OFF"),
    ("cpu", replace(LINUX, cmake_args=" -DX=1  -DY"), "-DX=1 -DY -DLLAVA_BUILD=OFF"),
    ("metal", MAC, "-DGGML_METAL=on -DLLAVA_BUILD=OFF"),
    ("cpu", MAC, "-DGGML_METAL=off -DLLAVA_BUILD=OFF"),
    ("cpu", LINUX, "-DLLAVA_BUILD=OFF"),
    ("cuda", replace(LINUX, machine="aarch64", gpus=(), compilers=("nvcc",)), "-DGGML_CUDA=on -DLLAVA_BUILD=OFF"),
])  # fmt: skip
def test_the_command_from_source(wanted: str, facts: Facts, cmake_args: str) -> None:
    plan = builds.plan(wanted, facts, from_source=True)
    assert plan.environment == {"CMAKE_ARGS": cmake_args}
    assert plan.arguments[4:] == (
        "--no-input", "--force-reinstall", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python",
        "llama-cpp-python==0.3.36",
    )  # fmt: skip
    mirror = builds.plan(wanted, facts, from_source=True, index="https://mirror/simple").arguments
    assert mirror[mirror.index("--index-url") + 1] == "https://mirror/simple"


@pytest.mark.parametrize(("wanted", "facts", "from_source", "said"), [
    ("rocm", LINUX, False, "No build is called 'rocm'"),
    ("metal", LINUX, False, "Metal is not for Linux x86_64"),
    ("metal", WINDOWS, True, "Metal is not for Windows AMD64"),
    ("cuda", MAC, False, "CUDA is not for macOS arm64"),
    ("vulkan", MAC, True, "Vulkan is not for macOS arm64"),
    ("cuda", replace(LINUX, machine="aarch64"), False, "no ready wheel of the CUDA build for Linux aarch64"),
    ("cuda", LINUX, True, "To compile the CUDA build nvcc is needed"),
    ("vulkan", LINUX, True, "To compile the Vulkan build glslc is needed"),
    ("cpu", replace(LINUX, in_venv=False, externally_managed=True), False, "belongs to the system"),
    ("cpu", replace(LINUX, has_pip=False), False, "has no pip, and uv is not here either"),
])  # fmt: skip
def test_what_is_refused(wanted: str, facts: Facts, from_source: bool, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        builds.plan(wanted, facts, from_source=from_source)
    assert said in caught.value.message
    assert caught.value.hint


def test_what_is_not_refused() -> None:
    """A virtual environment of a managed Python is one's own, and so is a mirror's choice of wheels."""
    builds.plan("cpu", replace(LINUX, in_venv=True, externally_managed=True))
    builds.plan("cpu", replace(LINUX, in_venv=False))
    plan = builds.plan("cuda", replace(LINUX, machine="aarch64"), index="https://mirror/whl/")
    assert "https://mirror/whl/cu124" in plan.arguments
    assert "pipx made this environment" in builds.plan("cpu", replace(LINUX, keeper="pipx")).notes[0]


def test_the_command_can_be_typed() -> None:
    facts = replace(LINUX, python="/my envs/python", compilers=("nvcc",), cmake_args="-DA=1")
    shown = builds.plan("cuda", facts, from_source=True).shown("Linux")
    assert shown.startswith("CMAKE_ARGS='-DA=1 -DGGML_CUDA=on -DLLAVA_BUILD=OFF' '/my envs/python' -m pip install ")
    shown = builds.plan("cuda", replace(WINDOWS, compilers=("nvcc",)), from_source=True).shown("Windows")
    assert shown.startswith(
        'set "CMAKE_ARGS=-DGGML_CUDA=on -DLLAVA_BUILD=OFF" && "C:\\Program Files\\venv\\python.exe" -m'
    )


def test_an_idle_gpu_is_told() -> None:
    rtx = "This machine has an NVIDIA GeForce RTX 4090, and the installed build computes on the processor. "
    assert builds.mismatch(machine(nvidia()), False) == rtx + "Type: r1local backend install cuda"
    assert builds.mismatch(machine(nvidia()), True) is None
    assert builds.mismatch(machine(), False) is None
    radeon = Gpu("Radeon RX 7900", "rocm", 24 * GIB, 24 * GIB)
    built_in = Gpu("Intel UHD 770", "vulkan", 8 * GIB, 8 * GIB, unified=True)
    apple = Gpu("Apple M2", "metal", 12 * GIB, 12 * GIB, unified=True)
    assert str(builds.mismatch(machine(built_in, radeon), False)).startswith("This machine has a Radeon RX 7900, ")
    assert str(builds.mismatch(machine(radeon), False)).endswith("Type: r1local backend install vulkan")
    assert str(builds.mismatch(machine(apple), False)).endswith("Type: r1local backend install metal")
    assert str(builds.mismatch(machine(built_in, nvidia()), False)).endswith("install cuda")
    assert builds.mismatch(machine(built_in), False) is None


@pytest.mark.parametrize(("text", "kind", "said"), [
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", DiskFull, "full"),
    ("after connection broken by 'X'\nERROR: No matching distribution found for y", DownloadError, "reached"),
    ("error: Failed to fetch: `http://x`\n  cause: 404 Not Found", EngineError, "There is no wheel of"),
    ("error: Request failed after 3 retries\n  cause: Failed to fetch: http://x", DownloadError, "reached"),
    ("ERROR: Failed building wheel for x\nbye", EngineError, "exit code 1: ERROR: Failed building wheel for x."),
    ("", EngineError, "it said nothing"),
])  # fmt: skip
def test_what_an_installer_means(text: str, kind: type[Exception], said: str) -> None:
    error = _failure(builds.plan("cpu", LINUX), text.splitlines(), 1)
    assert type(error) is kind
    assert said in error.message
    assert error.hint
    compiled = _failure(builds.plan("cpu", LINUX, from_source=True), text.splitlines(), 1)
    assert "no wheel" not in compiled.message


def test_the_facts_are_gathered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://mirror/simple")
    monkeypatch.setenv("CMAKE_ARGS", "-DX=1")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(build_install.sysconfig, "get_path", lambda _: str(tmp_path))  # type: ignore[attr-defined]
    facts = build_install.gather(machine(nvidia()))
    assert facts.has_pip
    assert "PIP_EXTRA_INDEX_URL" in facts.other_sources
    assert (facts.python, facts.cmake_args, facts.gpus) == (sys.executable, "-DX=1", (nvidia(),))
    assert (facts.in_venv, facts.externally_managed, facts.keeper) == (True, False, "")
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    (tmp_path / "uv-receipt.toml").touch()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(build_install, "_pip_settings", lambda: None)
    monkeypatch.setenv("UV_FIND_LINKS", "/wheels")
    facts = build_install.gather(machine())
    assert (facts.in_venv, facts.externally_managed, facts.keeper) == (False, True, "uv tool")
    assert (facts.has_pip, facts.other_sources) == (False, ("UV_FIND_LINKS",))


# What the library says


@pytest.mark.engine
def test_devices_of_the_installed_build() -> None:
    found = devices()
    assert [device.kind for device in found if device.name == "CPU"] == ["cpu"]
    processor = next(device for device in found if device.name == "CPU")
    total = psutil.virtual_memory().total
    assert processor.description
    assert 0 < processor.memory_free <= processor.memory_total <= total
    assert any(device.is_gpu for device in found) == bool(library().llama_supports_gpu_offload())
    build = look()
    assert build.version == library_version()
    assert [device.name for device in build.devices] == [device.name for device in found]


# What is installed


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index: CUDA 12.4 has a good build, 12.3 one without a GPU, 12.5 none."""
    folder = tmp_path_factory.mktemp("whl")
    add_to_index(folder, "cu124", "gpu")
    add_to_index(folder, "cu123", "processor")
    # Some tenths of a second of unpacking, to be killed in.
    add_to_index(folder, "cu118", "gpu", more={"llama_cpp/lib/huge.so": bytes(80_000_000)})
    return folder


@pytest.fixture(scope="module")
def address(wheels: Path) -> Iterator[str]:
    with served(wheels) as (url, _):
        yield url


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("former"), "processor", more={"llama_cpp/lib/tool": b"#!/bin/sh\n"})


@pytest.fixture
def environment(tmp_path: Path, former: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("PIP_RETRIES", "1")
    environment = Environment(tmp_path / "venv")
    environment.unpack(former)
    (environment.packages / "llama_cpp" / "lib" / "tool").chmod(0o755)
    (environment.packages / "lib" / "notes.txt").write_text("In a folder that packages share, and in nobody's list.")
    return environment


def run(environment: Environment, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(environment, *arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )


def command(environment: Environment, *arguments: str | Path) -> list[str]:
    return [str(environment.python), "-m", "r1local", "backend", *map(str, arguments)]


def cuda(version: str, index: str | Path) -> list[str]:
    return ["install", "cuda", "--cuda-version", version, "--index", str(index)]


def is_restored(environment: Environment, before: object, home: Path) -> bool:
    return (
        environment.state() == before
        and not environment.leftovers()
        and not any((home / "cache" / "former-build").iterdir())
    )


@pytest.mark.engine
def test_a_build_that_works_stays(
    environment: Environment, wheels: Path, former: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder, while wheels of the same version lie elsewhere that this machine's settings have pip look into."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(former.parent))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (wheels / "cu123").as_uri())
    result = run(environment, *cuda("12.4", wheels), "--yes")
    assert result.returncode == 0, result.stderr
    assert "Installed, and it works with " in result.stderr
    assert "CUDA0: NVIDIA Pretend 4090 (gpu, 20.0 GiB free of 24.0 GiB)" in result.stdout
    packages = environment.packages
    assert (packages / "include" / "llama.h").read_text() == "// gpu\n"
    assert not (packages / "llama_cpp" / "lib" / "only-processor.so").exists()
    assert environment.leftovers() == []
    assert not any((home / "cache" / "former-build").iterdir())
    shown = json.loads(run(environment, "show", "--json").stdout)
    assert [device["kind"] for device in shown["build"]["devices"]] == ["cpu", "gpu"]
    assert shown["advice"] == {"status": "This build makes use of the GPU."}


@pytest.mark.engine
@pytest.mark.parametrize(("version", "said", "hint"), [
    ("12.3", "The new build fails its test: it finds no GPU, only CPU.", "nvidia-smi"),
    ("12.5", "There is no wheel of llama-cpp-python==0.3.36 for ", "--cuda-version"),
])  # fmt: skip
def test_a_build_that_fails_is_undone(
    environment: Environment, address: str, home: Path, version: str, said: str, hint: str
) -> None:
    before = environment.state()
    result = run(environment, *cuda(version, address), "--yes")
    assert result.returncode == ExitCode.ENGINE, result.stderr
    assert said in result.stderr
    assert hint in result.stderr
    assert "The former build is back." in result.stderr
    assert "Traceback" not in result.stderr
    assert is_restored(environment, before, home)


@pytest.mark.engine
@pytest.mark.parametrize(("flavour", "said", "hint"), [
    ("crashing", "crashes when it is loaded (exit code -6", ""),
    ("unloadable", "libcudart.so.12: cannot open", "CUDA runtime, which has libcudart.so.12"),
    ("wrong", "could not decode", "--cuda-version"),
])  # fmt: skip
def test_what_the_trial_finds(
    environment: Environment, tmp_path: Path, inside: Path, flavour: str, said: str, hint: str
) -> None:
    """Although the same library is remembered as a good one: what counts is what was installed now."""
    selftest.check(read_header(inside), n_threads=2)
    environment.unpack(write_wheel(tmp_path / "new", flavour))
    code = (
        "from r1local.engine.builds.trial import try_build\nfrom r1local.errors import SelfTestFailed\n"
        "try: try_build('cuda')\nexcept SelfTestFailed as error: print(error.message, error.hint, sep='\\n')"
    )
    result = subprocess.run([environment.python, "-c", code], capture_output=True, text=True, timeout=60)
    message, advice = result.stdout.splitlines()
    assert said in message
    assert hint in advice


def test_no_network(environment: Environment, home: Path) -> None:
    before = environment.state()
    result = run(environment, *cuda("12.4", "http://127.0.0.1:9"), "--yes")
    assert result.returncode == ExitCode.DOWNLOAD
    assert "could not be reached. The former build is back." in result.stderr
    assert is_restored(environment, before, home)


@pytest.mark.engine
def test_where_nothing_was_installed(environment: Environment, address: str, home: Path) -> None:
    """And what is beside the environment, here the library of the tests' own, is neither copied nor touched."""
    with zipfile.ZipFile(next(home.parent.glob("former*/*.whl"))) as archive:
        names = archive.namelist()
    for name in [*names, "llama_cpp_python-0.3.36.dist-info/INSTALLER"]:
        (environment.packages / name).unlink()
    subprocess.run(["find", environment.packages, "-type", "d", "-empty", "-delete"], check=True)
    before = environment.state()
    result = run(environment, *cuda("12.3", address), "--yes")
    assert result.returncode == ExitCode.ENGINE
    assert "There was no build before, and there is none now." in result.stderr
    assert is_restored(environment, before, home)


@pytest.mark.parametrize("patch", [
    "def full(source, target): raise OSError(errno.ENOSPC, 'No space left on device')\nshutil.copy2 = full",
    "shutil.disk_usage = lambda path: type('Usage', (), {'free': 10})",
], ids=["while copying", "before"])  # fmt: skip
def test_no_room_for_the_copy(environment: Environment, address: str, home: Path, patch: str) -> None:
    before = environment.state()
    arguments = ["r1local", "backend", *cuda("12.4", address), "--yes"]
    code = f"import errno, shutil, sys\n{patch}\nsys.argv = {arguments!r}\nfrom r1local.__main__ import main\nmain()\n"
    result = subprocess.run([environment.python, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == ExitCode.DISK, result.stderr
    assert "Nothing was changed." in result.stderr
    assert "R1LOCAL_HOME" in result.stderr
    assert is_restored(environment, before, home)


def test_dry_run_changes_nothing(environment: Environment, wheels: Path, home: Path) -> None:
    before = environment.state()
    with served(wheels) as (url, asked):
        result = run(environment, *cuda("12.4", url), "--dry-run")
    assert result.returncode == 0
    assert result.stdout.rstrip().endswith(
        f"{environment.python} -m pip install --no-input --force-reinstall --no-deps --only-binary llama-cpp-python "
        f"--index-url {url}/cu124 llama-cpp-python==0.3.36"
    )
    assert "Checked afterwards: that the library loads" in result.stderr
    assert asked == []
    assert environment.state() == before
    assert not (home / "cache").exists()


def test_nobody_to_ask(environment: Environment, address: str) -> None:
    before = environment.state()
    result = run(environment, *cuda("12.4", address))
    assert result.returncode == ExitCode.USAGE
    assert "Add --yes" in result.stderr
    assert environment.state() == before


@pytest.mark.terminal
@pytest.mark.parametrize(("answer", "said", "code"), [
    ("n", "Nothing was changed.", ExitCode.INTERRUPTED), ("y", "There is no wheel of", ExitCode.ENGINE),
])  # fmt: skip
def test_the_question(environment: Environment, address: str, answer: str, said: str, code: int) -> None:
    before = environment.state()
    program, *arguments = command(environment, *cuda("12.5", address))
    terminal = pexpect.spawn(program, arguments, timeout=30, dimensions=(24, 300))
    terminal.expect_exact("the present build comes back. [y/N] ")
    terminal.sendline(answer)
    terminal.expect_exact(said)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == code
    assert environment.state() == before


def test_wrong_places(environment: Environment, tmp_path: Path) -> None:
    result = run(environment, *cuda("12.4", tmp_path / "nowhere"), "--yes")
    assert result.returncode == ExitCode.USAGE
    assert "neither an address nor a folder" in result.stderr


# What is killed


def started(environment: Environment, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(environment, *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.engine
def test_killed_in_the_middle(environment: Environment, address: str, home: Path) -> None:
    """With the old build half away and the new one half there; and somebody else's package came meanwhile."""
    before = environment.state()
    packages = environment.packages
    process = started(environment, *cuda("11.8", address), "--yes")
    until((packages / "llama_cpp" / "lib" / "huge.so").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (packages / "llama_cpp_python-0.3.36.dist-info" / "RECORD").exists()
    assert any(name.startswith("~") for name in environment.leftovers())
    stranger = {"lib/stranger.so": b"1", "stranger-1.dist-info/METADATA": b"Name: stranger\nVersion: 1\n"}
    stranger["stranger-1.dist-info/RECORD"] = "".join(f"{name},,\n" for name in stranger).encode()
    for name, data in stranger.items():
        (packages / name).parent.mkdir(exist_ok=True, parents=True)
        (packages / name).write_bytes(data)

    dry = run(environment, *cuda("12.4", address), "--dry-run")
    assert "was not finished" in dry.stderr
    assert environment.state() != before
    result = run(environment)
    assert result.returncode == 0, result.stderr
    assert "An installation was not finished. The former build is back." in result.stderr
    for name in stranger:
        (packages / name).unlink()
    (packages / "stranger-1.dist-info").rmdir()
    assert is_restored(environment, before, home)
    assert "not finished" not in run(environment).stderr


def test_the_installer_outlives_us(environment: Environment, wheels: Path, home: Path) -> None:
    """Only one installation at a time, and nothing is put back under the hands of a pip that still works."""
    before = environment.state()
    stall = threading.Event()
    with served(wheels, stall=stall) as (url, asked):
        process = started(environment, *cuda("12.4", url), "--yes")
        until(lambda: any(path.endswith(".whl") for path in asked), process)
        assert "Another r1local is installing" in run(environment, *cuda("12.4", url), "--yes").stderr
        (installer,) = psutil.Process(process.pid).children()
        process.kill()
        process.communicate()
        result = run(environment)
        assert result.returncode == ExitCode.USAGE
        assert f"still under way (process {installer.pid})" in result.stderr
        installer.kill()
        psutil.wait_procs([installer], timeout=10)
    assert "The former build is back." in run(environment).stderr
    assert is_restored(environment, before, home)


def test_interrupted(environment: Environment, wheels: Path, home: Path) -> None:
    before = environment.state()
    stall = threading.Event()
    with served(wheels, stall=stall) as (url, asked):
        process = started(environment, *cuda("12.4", url), "--yes")
        until(lambda: any(path.endswith(".whl") for path in asked), process)
        os.killpg(process.pid, signal.SIGINT)
        _, talk = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Stopped. The former build is back." in talk
    assert "Traceback" not in talk
    assert is_restored(environment, before, home)


def test_the_way_back_is_named(environment: Environment, former: Path, home: Path, tmp_path: Path) -> None:
    """Other commands, which need the library, say what to type while it is broken."""
    environment.unpack(write_wheel(tmp_path / "broken", "unloadable"))
    talk = subprocess.run([environment.python, "-m", "r1local", "doctor"], capture_output=True, text=True).stderr
    assert f"pip install --force-reinstall --no-cache-dir {requirement()}" in talk
    code = "from r1local.engine.builds import former_build as f; f.keep(); print(f._journal())"
    journal = Path(subprocess.run([environment.python, "-c", code], capture_output=True, text=True).stdout.strip())
    assert journal.is_relative_to(home)
    talk = subprocess.run([environment.python, "-m", "r1local", "doctor"], capture_output=True, text=True).stderr
    assert "To put the former build back: r1local backend" in talk


@pytest.mark.engine
def test_a_broken_build_can_be_looked_at(environment: Environment, tmp_path: Path) -> None:
    environment.unpack(write_wheel(tmp_path / "broken", "crashing"))
    result = run(environment)
    assert result.returncode == ExitCode.ENGINE
    assert "crashes when it is loaded (exit code -6)" in result.stderr
    assert "r1local backend install cpu" in result.stdout


# How it is put back


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, former: Path) -> Path:
    """A folder of packages, for this process."""
    folder = tmp_path / "site-packages"
    with zipfile.ZipFile(former) as archive:
        archive.extractall(folder)
    monkeypatch.setattr(former_build, "_roots", lambda: [folder])
    return folder


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_modes_times_and_bytecode_come_back(packages: Path) -> None:
    """The self-test's memory goes by times."""
    bytecode = packages / "llama_cpp" / "__pycache__" / "__init__.pyc"
    bytecode.parent.mkdir()
    bytecode.write_bytes(b"made by Python, in no list")
    kept, changed = packages / "llama_cpp" / "lib" / "tool", packages / "llama_cpp" / "lib" / "flavour.so"
    kept.chmod(0o755)
    os.utime(changed, ns=(1, 1))
    before, modes = files_of(packages), kept.stat().st_mode
    former_build.keep()
    kept.chmod(0o644)
    changed.write_bytes(b"new")
    bytecode.unlink()
    former_build.put_back()
    assert files_of(packages) == before
    assert kept.stat().st_mode == modes


def test_put_back_can_be_killed_and_done_again(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(packages)
    former_build.keep()
    for path in [*packages.rglob("*.so"), *packages.rglob("RECORD")]:
        path.unlink()
    real, left = former_build._restore, [3]

    def restore(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            (target.parent / (target.name + ".former")).write_bytes(b"half")
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(former_build, "_restore", restore)
        with pytest.raises(KeyboardInterrupt):
            former_build.put_back()
    assert former_build.is_unfinished()
    assert files_of(packages) != before
    assert former_build.put_back() == "The former build is back."
    assert files_of(packages) == before
    assert not former_build.is_unfinished()


def test_an_older_copy_is_not_lost_to_a_newer_installation(packages: Path) -> None:
    """One was killed after this one had looked whether any was."""
    before = files_of(packages)
    former_build.keep()
    (packages / "llama_cpp" / "lib" / "flavour.so").write_bytes(b"half")
    fails = replace(builds.plan("cpu", LINUX), arguments=(sys.executable, "-c", "raise SystemExit('no')"))
    said: list[str] = []
    with pytest.raises(EngineError, match=r"exit code 1: no\. The former build is back\."):
        build_install.install(fails, said.append)
    assert said == ["Installing", "no"]
    assert files_of(packages) == before


def test_an_unfinished_copy_is_no_reason_to_put_back(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        os._exit(9)

    monkeypatch.setattr(former_build.paths, "atomic_write", killed)  # type: ignore[attr-defined]
    pid = os.fork()
    if pid == 0:
        former_build.keep()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    monkeypatch.undo()
    assert not former_build.is_unfinished()


def test_a_list_that_names_what_is_not_its_own(packages: Path, tmp_path: Path) -> None:
    """It came with the new build: nothing outside of the environment is deleted for it."""
    former_build.keep()
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    with (packages / "llama_cpp_python-0.3.36.dist-info" / "RECORD").open("a") as record:
        record.write(f"../mine.txt,,\n{mine},,\nllama_cpp/new.py,,\n")
    (packages / "llama_cpp" / "new.py").touch()
    former_build.put_back()
    assert mine.exists()
    assert not (packages / "llama_cpp" / "new.py").exists()


def test_a_build_without_a_list_is_not_touched(packages: Path) -> None:
    (packages / "llama_cpp_python-0.3.36.dist-info" / "RECORD").unlink()
    with pytest.raises(UsageError, match="no list of its files"):
        former_build.keep()
    assert not former_build.is_unfinished()


def test_every_environment_has_its_own_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1local import paths

    here = paths.former_build_folder()
    monkeypatch.setattr(sys, "prefix", "/somewhere/else")
    assert paths.former_build_folder() != here
    assert paths.former_build_folder().parent == here.parent

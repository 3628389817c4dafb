"""Which build of llama-cpp-python this machine wants, and the command that installs it. Decides; does nothing.

The author of llama-cpp-python publishes ready wheels in folders, one for each way to compute, each an index of its own
that pip can read. Which folders have which wheels is known from the workflows that fill them.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from typing import Literal, get_args

from r1local.engine.builds import cuda_wheels
from r1local.engine.library import PACKAGE, requirement
from r1local.errors import UsageError
from r1local.hardware import Hardware
from r1local.hardware.gpu import Gpu

Wanted = Literal["cuda", "metal", "vulkan", "cpu"]
WANTED: tuple[Wanted, ...] = get_args(Wanted)
INDEX = "https://abetlen.github.io/llama-cpp-python/whl"

# Systems a ready wheel is made for. macOS's of the folder cpu have Metal, too: it is on wherever it is compiled there.
_READY: dict[Wanted, tuple[str, ...]] = {
    "cpu": ("Linux x86_64", "Linux aarch64", "Windows AMD64", "Darwin arm64", "Darwin x86_64"),
    "cuda": ("Linux x86_64", "Windows AMD64"),
    "metal": ("Darwin arm64", "Darwin x86_64"),
    "vulkan": ("Linux x86_64", "Windows AMD64"),
}
_COMPILER = {
    "cuda": ("nvcc", "NVIDIA's CUDA toolkit (https://developer.nvidia.com/cuda-downloads)"),
    "vulkan": ("glslc", "the Vulkan SDK (https://vulkan.lunarg.com), or the packages glslc and libvulkan-dev"),
}
# By how much each gains. ROCm's wheels want one version of ROCm; Vulkan comes with every driver of AMD's.
_BUILD_FOR: dict[str, Wanted] = {"cuda": "cuda", "metal": "metal", "rocm": "vulkan", "vulkan": "vulkan"}
_NAMES = {"cuda": "CUDA", "metal": "Metal", "vulkan": "Vulkan", "cpu": "processor"}
_SYSTEMS = {"Darwin": "macOS"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decisions rest on."""

    system: str
    """As platform.system() says: Linux, Darwin, Windows."""
    machine: str
    """As platform.machine() says: x86_64, AMD64, arm64, aarch64."""
    python: str
    """The interpreter r1local runs in."""
    gpus: tuple[Gpu, ...] = ()
    in_venv: bool = True
    externally_managed: bool = False
    """Whether the system's own packager has the environment, and forbids pip to change it (PEP 668)."""
    has_pip: bool = True
    uv: str = ""
    """Where uv is; empty where it is not."""
    keeper: str = ""
    """The tool that made this environment and would set it up anew: pipx or uv tool."""
    other_sources: tuple[str, ...] = ()
    """Settings of pip or uv by which this machine knows further places with packages, as environment variables."""
    compilers: tuple[str, ...] = ()
    """Those of nvcc and glslc that are here."""
    cmake_args: str = ""
    """What CMAKE_ARGS says already."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run."""

    wanted: Wanted
    arguments: tuple[str, ...]
    environment: dict[str, str]
    """What is set for it, beside what is set anyway."""
    notes: tuple[str, ...] = ()
    cuda: str = ""

    def shown(self, system: str) -> str:
        """The command, to be typed."""
        if system == "Windows":
            settings = "".join(f'set "{name}={value}" && ' for name, value in self.environment.items())
            return settings + subprocess.list2cmdline(self.arguments)
        settings = "".join(f"{name}={shlex.quote(value)} " for name, value in self.environment.items())
        return settings + shlex.join(self.arguments)

    @property
    def checks(self) -> tuple[str, ...]:
        """What is looked at afterwards."""
        device = "" if self.wanted == "cpu" else f"; that one of them is a GPU for {_NAMES[self.wanted]}"
        return (
            f"that the library loads and names its devices{device}",
            "that it computes with the model inside r1local, all its layers on the GPU where there is one",
        )


def plan(wanted: str, facts: Facts, *, from_source: bool = False, cuda_version: str = "", index: str = "") -> Plan:
    """The command for a build of the kind. `index` stands in for INDEX; from source, for the index of all packages.

    Raises UsageError where this machine cannot have it or this environment must not be changed.
    """
    if wanted not in WANTED:
        raise UsageError(f"No build is called {wanted!r}.", f"Choose one of {', '.join(WANTED)}.")
    if cuda_version and (wanted != "cuda" or from_source):
        raise UsageError("--cuda-version chooses among the ready wheels of the CUDA build.", "Leave it out.")
    _check_environment(facts)
    _check_system(wanted, facts, any_wheel=from_source or bool(index))
    notes: list[str] = []
    cuda = ""
    if from_source:
        _check_compiler(wanted, facts)
        settings = {"CMAKE_ARGS": _cmake_args(wanted, facts)}
        # Both installers keep what they compiled under its version alone: without this they would bring the old one.
        options = ["--no-cache-dir" if facts.has_pip else "--no-cache", "--no-binary", PACKAGE]
        options += ["--index-url" if facts.has_pip else "--default-index", index] if index else []
        notes.append("It is compiled here: that takes minutes and wants a C++ compiler.")
    else:
        if wanted == "cuda":
            cuda = cuda_wheels.choose(facts.system, facts.gpus, cuda_version)
            notes += cuda_wheels.notes(cuda, facts.gpus)
        place = f"{(index or INDEX).rstrip('/')}/{f'cu{cuda}'.replace('.', '') if cuda else wanted}"
        # The wheels' index alone, not an extra one: others may have another build of the same version. Settings of
        # this machine that name further places are led to this one for the same reason.
        settings = {
            name: f"{place}/{PACKAGE}/" if name.endswith("FIND_LINKS") else place for name in facts.other_sources
        }
        # Never a compilation that nobody asked for. What was downloaded is cached by its address: a second try is free.
        options = ["--only-binary", PACKAGE, "--index-url" if facts.has_pip else "--index", place]
        if settings:
            notes.append("This machine's settings name further sources of packages: they are not asked.")
    if facts.keeper:
        notes.append(f"{facts.keeper} made this environment; made anew by it, it has the ordinary build again.")
    return Plan(wanted, (*_installer(facts), *options, requirement()), settings, tuple(notes), cuda)


def mismatch(machine: Hardware, supports_gpu: bool) -> str | None:
    """What to say where a GPU is idle because the build cannot use it; None where all is well."""
    gpu = _best(machine)
    if supports_gpu or gpu is None:
        return None
    article = "an" if gpu.name.startswith(("NVIDIA", *"AEIOU")) else "a"
    return (
        f"This machine has {article} {gpu.name}, and the installed build computes on the processor. "
        f"Type: r1local backend install {_BUILD_FOR[gpu.kind]}"
    )


def advised(machine: Hardware) -> Wanted:
    """The kind of build that makes the most of this machine."""
    gpu = _best(machine)
    return "cpu" if gpu is None else _BUILD_FOR[gpu.kind]


def _best(machine: Hardware) -> Gpu | None:
    """The GPU to choose a build for. Those that share the processor's memory gain little, but for Apple's."""
    useful = [gpu for gpu in machine.gpus if gpu.kind in ("cuda", "metal") or not gpu.unified]
    return min(useful, key=lambda gpu: list(_BUILD_FOR).index(gpu.kind), default=None)


def _check_environment(facts: Facts) -> None:
    """Raises UsageError where the environment must not or cannot be changed."""
    if requirement() == PACKAGE:
        raise UsageError(
            "r1local was not installed, only copied: which version of llama-cpp-python it wants is not known.",
            "Install it: pip install .",
        )
    if facts.externally_managed and not facts.in_venv:
        raise UsageError(
            f"The Python at {facts.python} belongs to the system, which lets nobody change its packages (PEP 668).",
            "Install r1local into an environment of its own, with `python3 -m venv` or pipx, and type this there.",
        )
    if not facts.has_pip and not facts.uv:
        raise UsageError(
            f"The environment of {facts.python} has no pip, and uv is not here either.",
            f"Get pip: {facts.python} -m ensurepip",
        )


def _check_system(wanted: Wanted, facts: Facts, *, any_wheel: bool) -> None:
    """Raises UsageError where there is no such build for this system. `any_wheel`: not only the author's."""
    name = f"{_SYSTEMS.get(facts.system, facts.system)} {facts.machine}"
    if (wanted == "metal") != (facts.system == "Darwin") and wanted != "cpu":
        better = "metal" if facts.system == "Darwin" else "cuda, vulkan or cpu"
        raise UsageError(f"{_NAMES[wanted]} is not for {name}.", f"Type: r1local backend install {better}")
    if not any_wheel and f"{facts.system} {facts.machine}" not in _READY[wanted]:
        raise UsageError(
            f"There is no ready wheel of the {_NAMES[wanted]} build for {name}.",
            f"It can be compiled here: r1local backend install {wanted} --from-source",
        )


def _check_compiler(wanted: Wanted, facts: Facts) -> None:
    """Raises UsageError now rather than after minutes of compiling."""
    compiler, package = _COMPILER.get(wanted, ("", ""))
    if compiler and compiler not in facts.compilers:
        raise UsageError(f"To compile the {_NAMES[wanted]} build {compiler} is needed.", f"Install {package}.")


def _installer(facts: Facts) -> tuple[str, ...]:
    """The command up to what is installed. The same version is there, so it must be forced; and nothing else in the
    environment may change, so it goes without dependencies."""
    if facts.has_pip:
        return (facts.python, "-m", "pip", "install", "--no-input", "--force-reinstall", "--no-deps")
    return (facts.uv, "pip", "install", "--python", facts.python, "--reinstall", "--no-deps")


def _cmake_args(wanted: Wanted, facts: Facts) -> str:
    """What stands there already, what is wanted, and without the part for images, which r1local never uses."""
    switches = {"cuda": ["-DGGML_CUDA=on"], "metal": ["-DGGML_METAL=on"], "vulkan": ["-DGGML_VULKAN=on"]}
    ours = switches.get(wanted, ["-DGGML_METAL=off"] if facts.system == "Darwin" else [])
    return " ".join([*facts.cmake_args.split(), *ours, "-DLLAVA_BUILD=OFF"])

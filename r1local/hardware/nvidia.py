"""NVIDIA's cards, asked by its management library (nvidia-ml-py): names, memory, who else uses them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1local.hardware import known
from r1local.hardware.gpu import Gpu, Probe

PATIENCE = 5.0  # seconds; a driver in trouble may never answer
# Where the kernel's part of the driver shows itself; and the door to a Windows driver, whoever's, under WSL.
KERNEL = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))
WSL = Path("/dev/dxg")
PCI = Path("/sys/bus/pci/devices")

_MOST_BANDWIDTH = 1e14  # bytes a second: more is a number that stands for "not known"
_REASONS = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "its library (libnvidia-ml) is not here. A container gets it from NVIDIA's "
    "container toolkit: docker run --gpus all",
    "NVML_ERROR_DRIVER_NOT_LOADED": "its kernel module is not loaded, or not shown to this container",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "its library and its kernel module are of different versions, as after an "
    "update. Restart the machine",
    "NVML_ERROR_NO_PERMISSION": "this user may not use it: look at the permissions of /dev/nvidia*",
    "NVML_ERROR_GPU_IS_LOST": "the card does not answer any more. Restart the machine",
    "NVML_ERROR_RESET_REQUIRED": "the card must be reset first. Restart the machine",
}
_unanswered: threading.Thread | None = None


@dataclass(frozen=True, slots=True)
class _Card:
    gpu: Gpu
    uuid: str
    speed: int
    """Cores x MHz: what CUDA sorts by, as far as anybody knows."""


def probe(memory_total: int, memory_available: int) -> Probe:
    """Every card that CUDA will show, in its order, or why there is none. Never raises, never waits for long.

    The machine's memory, in bytes, is for chips that have none of their own.
    """
    global _unanswered
    if not _driver_may_be_here():
        return Probe(problem=_card_without_driver())
    silent = Probe(problem=f"The NVIDIA driver is here and does not answer within {PATIENCE:g} s. Restart the machine.")
    if _unanswered is not None and _unanswered.is_alive():
        return silent
    answer: list[Probe] = []
    # A call that hangs inside the driver cannot be taken back: its thread is left behind, and not joined again.
    thread = threading.Thread(
        target=lambda: answer.append(_ask_safely(memory_total, memory_available)), name="r1local-nvml", daemon=True
    )
    thread.start()
    thread.join(PATIENCE)
    if answer:
        return answer[0]
    _unanswered = thread
    return silent


def _driver_may_be_here() -> bool:
    """Whether it is worth loading a library to ask."""
    if sys.platform == "win32":
        return (Path(os.environ.get("WINDIR", "C:/Windows")) / "System32/nvml.dll").exists()
    return any(os.path.exists(sign) for sign in (*KERNEL, WSL))


def _card_without_driver() -> str:
    """A sentence where Linux shows an NVIDIA display controller on the PCI bus; empty where there is none."""
    for device in sorted(PCI.glob("*")):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except (OSError, ValueError):
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            try:
                other = f": it is driven by {os.path.basename(os.readlink(device / 'driver'))}"
            except OSError:
                other = ""
            return f"There is an NVIDIA card, and no NVIDIA driver for it{other}."
    return ""


def _ask_safely(memory_total: int, memory_available: int) -> Probe:
    try:
        import pynvml
    except ImportError:
        return Probe(problem="There is an NVIDIA driver, and nvidia-ml-py, which asks it, is not installed.")
    try:
        pynvml.nvmlInit()
        try:
            return _ask(pynvml, memory_total, memory_available)
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and not any(os.path.exists(sign) for sign in KERNEL):
            return Probe()  # under WSL: the GPU is somebody else's
        return Probe(problem=f"There is an NVIDIA driver that cannot be used: {_reason(pynvml, error)}.")
    except Exception as error:  # a driver's answer that no version of the library should give
        return Probe(problem=f"The NVIDIA driver answers strangely: {type(error).__name__}: {str(error)[:200]}.")


def _ask(nvml: Any, memory_total: int, memory_available: int) -> Probe:
    driver = nvml.nvmlSystemGetDriverVersion()
    cards, problems = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found = _card(nvml, nvml.nvmlDeviceGetHandleByIndex(index), driver, memory_total, memory_available)
        except nvml.NVMLError as error:
            found = f"NVIDIA card {index} cannot be used: {_reason(nvml, error)}."
        if isinstance(found, _Card):
            cards.append(found)
        else:
            problems.append(found)
    shown = _visible(cards)
    if cards and not shown:
        problems.append("CUDA_VISIBLE_DEVICES hides every NVIDIA card.")
    return Probe(shown, " ".join(problems))


def _card(nvml: Any, handle: Any, driver: str, memory_total: int, memory_available: int) -> _Card | str:
    """A card, or a sentence why it is none to count on. Raises NVMLError where it cannot be used at all."""

    def ask(function: str, *arguments: Any, otherwise: Any) -> Any:
        """Not every card, driver and container answers every question; a card that is gone answers none."""
        try:
            return getattr(nvml, function)(handle, *arguments)
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
                raise
            return otherwise

    name = nvml.nvmlDeviceGetName(handle)
    if ask("nvmlDeviceGetMigMode", otherwise=[0, 0])[0]:
        return f"{name} is cut into instances (MIG), whose sizes r1local cannot tell."
    memory = ask("nvmlDeviceGetMemoryInfo", otherwise=None)
    total, free = (memory.total, memory.free) if memory is not None else (0, 0)
    device = known.find(name)
    unified = device is not None and device.speed_class == "apu-unified"
    if unified:  # GB10 says that the question is not supported
        total, free = memory_total, memory_available
    if total <= 0:
        return f"The NVIDIA driver does not say how much memory {name} has."
    major, minor = ask("nvmlDeviceGetCudaComputeCapability", otherwise=(0, 0))
    width = ask("nvmlDeviceGetMemoryBusWidth", otherwise=0)  # bits
    clock = ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM, otherwise=0)  # MHz
    cores = ask("nvmlDeviceGetNumGpuCores", otherwise=0)
    bandwidth = 2.0 * clock * 1e6 * width / 8  # the clock as it is told here makes two transfers a beat
    users = {
        process.pid
        for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
        for process in ask(function, otherwise=[])
    }
    gpu = Gpu(
        name=name,
        kind="cuda",
        memory_total=int(total),
        memory_free=int(free),
        bandwidth=bandwidth if bandwidth < _MOST_BANDWIDTH else 0.0,
        compute_capability=f"{major}.{minor}" if major else "",
        driver=driver,
        other_users=len(users - {os.getpid()}),
        unified=unified,
    )
    speed = cores * ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM, otherwise=0)
    return _Card(gpu, ask("nvmlDeviceGetUUID", otherwise=""), speed)


def _visible(cards: list[_Card]) -> tuple[Gpu, ...]:
    """The cards CUDA will show: the fastest first, unless CUDA_DEVICE_ORDER wants them in the order of the bus.

    CUDA_VISIBLE_DEVICES lists positions in that order, or beginnings of UUIDs; whatever stands behind the first one
    that does not exist is ignored (CUDA's programming guide).
    """
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        cards = sorted(cards, key=lambda card: -card.speed)
    choice = os.environ.get("CUDA_VISIBLE_DEVICES")
    if choice is None:
        return tuple(card.gpu for card in cards)
    chosen: dict[int, Gpu] = {}
    for wanted in (word.strip() for word in choice.split(",")):
        found = [
            index
            for index, card in enumerate(cards)
            if wanted == str(index) or (wanted.startswith("GPU-") and card.uuid.startswith(wanted))
        ]
        if len(found) != 1:
            break
        chosen[found[0]] = cards[found[0]].gpu
    return tuple(chosen.values())


def _reason(nvml: Any, error: Any) -> str:
    reasons = {getattr(nvml, name): reason for name, reason in _REASONS.items()}
    return reasons.get(error.value) or str(error).rstrip(".")

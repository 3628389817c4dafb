"""Machines that are not here: what their systems and drivers answer, played to the probes.

`python -m tests.machines` writes data/hardware/machines anew: what the probes make of each recording.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from r1local.hardware import (
    Hardware,
    amd,
    apple,
    bandwidth,
    container,
    detect,
    nvidia,
    processor,
    sysctl,
    with_bandwidth,
)
from r1local.hardware.description import to_json

DATA = Path(__file__).parent / "data" / "hardware"
NAMES = (
    "rtx-4090", "rtx-3060-12gb", "rtx-4060-laptop", "two-rtx-3090", "h100-80gb", "m2-16gb", "m3-max-64gb", "no-gpu",
    "broken-driver", "container-2gb",
)  # fmt: skip


def recording(name: str) -> dict[str, Any]:
    """A machine's answers, to be changed at will."""
    data: dict[str, Any] = json.loads((DATA / "recordings" / f"{name}.json").read_text())
    return data


def play(machine: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every probe sees this machine; its files lie below `root`."""
    for file, text in machine["files"].items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", root / "proc/cpuinfo")
    monkeypatch.setattr(container, "CGROUP", root / "sys/fs/cgroup")
    monkeypatch.setattr(container, "OWN", root / "proc/self/cgroup")
    monkeypatch.setattr(nvidia, "KERNEL", (root / "proc/driver/nvidia/version", root / "dev/nvidiactl"))
    monkeypatch.setattr(nvidia, "WSL", root / "dev/dxg")
    monkeypatch.setattr(nvidia, "PCI", root / "sys/bus/pci/devices")
    monkeypatch.setattr(nvidia, "_unanswered", None)
    monkeypatch.setattr(amd, "CARDS", root / "sys/class/drm")
    for module in (apple, nvidia, processor):
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform=machine["platform"]))
    for key in ("system", "release", "machine", "processor"):
        monkeypatch.setattr(platform, key, lambda key=key: machine[key])
    cores = {False: machine["physical_cores"], True: machine["logical_cores"]}
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: cores[logical])
    memory = SimpleNamespace(total=machine["memory_total"], available=machine["memory_available"])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    if machine["affinity"] is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(machine["affinity"])), raising=False)
    monkeypatch.setattr(bandwidth, "measure", lambda cores, size: machine["bandwidth"])
    monkeypatch.setattr(sysctl, "subprocess", sysctl_that_says(machine.get("sysctl", "")))
    monkeypatch.setitem(sys.modules, "pynvml", nvml(machine["nvml"]) if "nvml" in machine else None)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


def sysctl_that_says(output: str) -> SimpleNamespace:
    """A `subprocess` whose sysctl answers to names, and to all below them; -i, so never with an error."""

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        program, ignore_unknown, *names = command
        assert (program, ignore_unknown) == ("/usr/sbin/sysctl", "-i")
        assert options["timeout"] > 0
        told = [line for name in names for line in output.splitlines() if line.startswith((f"{name}:", f"{name}."))]
        return SimpleNamespace(stdout="".join(f"{line}\n" for line in told), returncode=0)

    return SimpleNamespace(run=run, SubprocessError=subprocess.SubprocessError)


def nvml(answers: dict[str, Any]) -> ModuleType:
    """A pynvml with these answers; {"error": 18} raises the real module's error of that number."""
    fake = ModuleType("pynvml")
    has = vars(fake)
    has.update({name: value for name, value in vars(pynvml).items() if name.startswith("NVML")})

    def answer(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"error"}:
            raise pynvml.NVMLError(value["error"])
        return value() if callable(value) else value

    def of_card(function: str) -> Any:
        def ask(card: dict[str, Any], *arguments: Any) -> Any:
            value = card[function]
            if function == "nvmlDeviceGetMaxClockInfo" and "error" not in value:
                value = value[str(*arguments)]
            value = answer(value)
            if function == "nvmlDeviceGetMemoryInfo":
                return SimpleNamespace(**value)
            if function.endswith("RunningProcesses"):
                return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in value]
            return value

        return ask

    cards = answers["cards"]
    for name in ("nvmlInit", "nvmlShutdown", "nvmlSystemGetDriverVersion"):
        has[name] = lambda name=name: answer(answers[name])
    has.update({name: of_card(name) for card in cards for name in card})

    def handle(index: int) -> Any:
        answer(cards[index].get("nvmlDeviceGetHandleByIndex"))
        return cards[index]

    has.update(nvmlDeviceGetCount=lambda: len(cards), nvmlDeviceGetHandleByIndex=handle)
    return fake


def probed(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Hardware:
    """What all the probes make of a recording."""
    play(recording(name), root, monkeypatch)
    return with_bandwidth(detect())


def main() -> None:
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("R1LOCAL_HOME", f"{folder}/home")
            machine = to_json(probed(name, Path(folder), monkeypatch))
        (DATA / "machines").mkdir(exist_ok=True)
        (DATA / "machines" / f"{name}.json").write_text(json.dumps(machine, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What this machine has: cores this process may use, memory, GPUs. Never imports the C library."""

from __future__ import annotations

import os
import platform
from dataclasses import replace

from r1local.hardware import amd, apple, container, known, nvidia, processor
from r1local.hardware.gpu import Gpu, Probe
from r1local.hardware.machine import Hardware
from r1local.hardware.processor import processor_name

__all__ = ["Gpu", "Hardware", "Probe", "detect", "processor_class", "processor_name", "with_bandwidth"]


def detect() -> Hardware:
    """Look at this machine now. Takes milliseconds, but for a driver that does not answer."""
    import psutil

    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    memory = psutil.virtual_memory()
    limits = container.limits()
    total = min(memory.total, limits.memory)
    available = max(0, min(memory.available, limits.memory_room))
    probes = (nvidia.probe(total, available), apple.probe(available), amd.probe(available))
    return Hardware(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor_name(),
        physical_cores=physical,
        usable_cores=container.usable_cores(physical, limits),
        memory_total=total,
        memory_available=available,
        instruction_sets=processor.instruction_sets(),
        gpus=tuple(known.complete(gpu, total) for found in probes for gpu in found.gpus),
        problems=tuple(found.problem for found in probes if found.problem),
    )


def with_bandwidth(machine: Hardware) -> Hardware:
    """This machine with its memory bandwidth: measured in a quarter of a second, or remembered from the last time.

    A machine whose bandwidth is known already comes back as it is.
    """
    if machine.memory_bandwidth:
        return machine
    from r1local.hardware.bandwidth import memory_bandwidth

    found = memory_bandwidth(machine.processor, machine.usable_cores, machine.memory_available)
    return replace(machine, memory_bandwidth=found)


def processor_class(machine: Hardware) -> str:
    """cpu-laptop, cpu-desktop or cpu-server, by the processor's name; empty where that does not tell."""
    return processor.speed_class(machine.processor, machine.physical_cores)

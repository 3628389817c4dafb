"""Apple's chips: one memory for processor and GPU, of which the system gives the GPU a share."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from r1local.hardware import sysctl
from r1local.hardware.gpu import Gpu, Probe

_NAMES = (
    "hw.memsize", "machdep.cpu.brand_string", "hw.optional.arm64", "sysctl.proc_translated", "iogpu.wired_limit_mb",
)  # fmt: skip


def probe(memory_available: int) -> Probe:
    """The chip's GPU; the available memory is in bytes. Never raises."""
    if sys.platform != "darwin":
        return Probe()
    return from_sysctl(sysctl.answers(*_NAMES), memory_available)


def from_sysctl(facts: Mapping[str, str], memory_available: int) -> Probe:
    """What these answers say; nothing on a Mac with an Intel processor."""
    if facts.get("sysctl.proc_translated") == "1":
        return Probe(
            problem="This Python is one for Intel processors, which runs translated on this Mac: without its GPU, and "
            "slowly. Install a Python for arm64."
        )
    if facts and facts.get("hw.optional.arm64") != "1":
        return Probe()
    memory = _number(facts, "hw.memsize")
    if memory <= 0:
        return Probe(problem="macOS does not say how much memory there is, so nothing is known of its GPU.")
    working_set = working_set_limit(memory, _number(facts, "iogpu.wired_limit_mb"))
    name = facts.get("machdep.cpu.brand_string") or "Apple GPU"
    return Probe((Gpu(name, "metal", working_set, max(0, min(working_set, memory_available)), unified=True),))


def working_set_limit(memory: int, wired_limit_mb: int) -> int:
    """Bytes that Metal gives a process of so many in all (recommendedMaxWorkingSetSize), before it is asked itself.

    Older systems give two thirds up to 32 GB and three quarters at 64 GB, newer ones 74 to 84 %; which do, no
    document says, so this is the careful end. A limit that the owner has set (iogpu.wired_limit_mb) counts instead.
    """
    if wired_limit_mb > 0:
        return min(memory, wired_limit_mb << 20)
    return memory * 2 // 3 if memory <= 36 << 30 else memory * 3 // 4


def _number(facts: Mapping[str, str], name: str) -> int:
    try:
        return int(facts.get(name, ""))
    except ValueError:
        return 0

"""What this machine has: cores this process may use, and memory. Never imports the C library."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Hardware:
    system: str
    processor: str
    physical_cores: int
    usable_cores: int
    """Physical cores within this process's affinity and its container's quota: the threads to decode with."""
    memory_total: int
    """Bytes, within the container's limit."""
    memory_available: int
    """Bytes that can be taken without swapping."""


def detect() -> Hardware:
    """Look at this machine now."""
    import psutil

    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    memory = psutil.virtual_memory()
    limit, used = _memory_limit()
    total = min(memory.total, limit)
    return Hardware(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor_name(),
        physical_cores=physical,
        usable_cores=_usable_cores(physical),
        memory_total=total,
        memory_available=max(0, min(memory.available, limit - used)),
    )


def processor_name() -> str:
    """The processor as its maker names it, with family, model and stepping where Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    name = facts.get("model name") or platform.machine()
    numbers = [facts[key] for key in ("cpu family", "model", "stepping") if key in facts]
    return f"{name} ({'/'.join(numbers)})" if numbers else name


def _usable_cores(physical: int) -> int:
    count = physical
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    quota = _cpu_quota()
    if quota is not None:
        count = min(count, int(quota))
    return max(1, count)


def _cpu_quota() -> float | None:
    """Cores' worth of time the container may use, cgroup v2 then v1; None without a limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((_CGROUP / "cpu/cpu.cfs_period_us").read_text())
        return None if quota_us <= 0 else quota_us / period_us
    except (OSError, ValueError):
        return None


def _memory_limit() -> tuple[int, int]:
    """The container's memory limit and what is used of it, in bytes; (2**63, 0) without a limit."""
    for limit_name, used_name, stat_name, cache_key in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            limit = int((_CGROUP / limit_name).read_text())
            used = int((_CGROUP / used_name).read_text())
        except (OSError, ValueError):
            continue
        # Files that were read count as used, a model's too, and are given up as soon as memory is wanted.
        return limit, max(0, used - _stat_value(_CGROUP / stat_name, cache_key))
    return 2**63, 0


def _stat_value(path: Path, key: str) -> int:
    """The number behind `key` in a memory.stat file; 0 where it does not say."""
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0

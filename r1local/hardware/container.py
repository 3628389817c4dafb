"""What the container, or the control group, that this process runs in allows it: processor time and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_NO_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    cores: float | None
    """Cores' worth of time; None without a limit."""
    memory: int
    """Bytes; 2**63 without a limit."""
    memory_room: int
    """Bytes that can still be taken within every limit, below zero where one is overdrawn; 2**63 without a limit."""


def limits() -> Limits:
    """The tightest of the group this process is in and of all groups above it; cgroup v2, then v1."""
    quotas = [quota for group in _groups("") if (quota := _quota_v2(group)) is not None] or [
        quota for group in _groups("cpu") if (quota := _quota_v1(group)) is not None
    ]
    memory = [found for group in _groups("") if (found := _memory_v2(group))] or [
        found for group in _groups("memory") if (found := _memory_v1(group))
    ]
    return Limits(
        min(quotas, default=None),
        min((limit for limit, _ in memory), default=_NO_LIMIT),
        # The group with the least room decides, which need not be the one with the lowest limit.
        min((limit - used for limit, used in memory), default=_NO_LIMIT),
    )


def usable_cores(physical: int, allowed: Limits) -> int:
    """The fewest of physical cores, this process's affinity and its time; at least one."""
    count = physical
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    if allowed.cores is not None:
        count = min(count, int(allowed.cores))  # a core and a half is one: two threads would wait for one another
    return max(1, count)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's group and of those above it: a controller's of v1, or those of v2 where it is empty.

    In a container the path in /proc/self/cgroup may be the host's and lead nowhere, or above what is shown: then the
    root is what there is.
    """
    roots = [CGROUP / controller] if controller else [CGROUP, CGROUP / "unified"]  # unified: where v1 is used as well
    path = ""
    for line in _lines(OWN):
        _, controllers, place = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            path = place.lstrip("/")
            if controller:
                roots.append(CGROUP / controllers)  # several in one folder, as in cpu,cpuacct
    for root in dict.fromkeys(roots):
        folder = root / path
        if ".." in folder.parts:
            folder = root
        yield folder
        while folder != root:
            folder = folder.parent
            yield folder


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # the quota of a group without a limit is "max"
        return None


def _quota_v1(group: Path) -> float | None:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _memory_v2(group: Path) -> tuple[int, int] | None:
    """Limit and use in bytes; None where the group sets no limit."""
    # Above memory.high the kernel takes pages away as fast as they come: nothing runs there at a useful speed.
    found = [limit for name in ("memory.max", "memory.high") if (limit := _number(group / name)) is not None]
    used = _number(group / "memory.current")
    if not found or used is None:
        return None
    return min(found), _without_cache(used, group, "inactive_file")


def _memory_v1(group: Path) -> tuple[int, int] | None:
    limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    return limit, _without_cache(used, group, "total_inactive_file")


def _without_cache(used: int, group: Path, key: str) -> int:
    """Files that were read count as used, a model's too, and are given up as soon as memory is wanted."""
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return max(0, used - int(value))
    return used


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _lines(file: Path) -> list[str]:
    try:
        return os.fsdecode(file.read_bytes()).splitlines()
    except OSError:
        return []

"""What a process may use of its machine, also inside a container."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from r1local.hardware import Probe, amd, apple, container, detect, nvidia, processor_name

GIB = 1 << 30
V1_UNLIMITED = 9_223_372_036_854_771_712
"""What cgroup v1 says where there is no limit: the largest number of whole pages."""


@pytest.fixture(autouse=True)
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cgroup folder on a machine of 8 cores, 16 with hyper-threading, and 12 of 16 GiB free."""
    folder = tmp_path / "cgroup"
    folder.mkdir()
    monkeypatch.setattr(container, "CGROUP", folder)
    monkeypatch.setattr(container, "OWN", tmp_path / "own")
    for probe in (nvidia, apple, amd):
        monkeypatch.setattr(probe, "probe", lambda *_: Probe())
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    memory = SimpleNamespace(total=16 * GIB, available=12 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return folder


def say(folder: Path, files: dict[str, str | int]) -> None:
    """Files as the kernel shows them: text and a newline."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


# Cores


def test_without_a_container_all_cores_are_usable() -> None:
    machine = detect()
    assert (machine.physical_cores, machine.usable_cores) == (8, 8)


V1_QUOTA, V1_PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"
QUOTAS: dict[str, tuple[dict[str, str | int], int]] = {
    "v2 none": ({"cpu.max": "max 100000"}, 8),
    "v2 four": ({"cpu.max": "400000 100000"}, 4),
    "v2 one and a half": ({"cpu.max": "150000 100000"}, 1),  # two threads would wait for one another
    "v2 half": ({"cpu.max": "50000 100000"}, 1),  # never none
    "v2 more than there is": ({"cpu.max": "1600000 100000"}, 8),
    "v2 another period": ({"cpu.max": "120000 40000"}, 3),
    "v2 nonsense": ({"cpu.max": "nonsense"}, 8),
    "v2 empty": ({"cpu.max": ""}, 8),
    "v1 none": ({V1_QUOTA: -1, V1_PERIOD: 100_000}, 8),
    "v1 two": ({V1_QUOTA: 200_000, V1_PERIOD: 100_000}, 2),
    "v1 a fifth": ({V1_QUOTA: 20_000, V1_PERIOD: 100_000}, 1),
    "v1 half told": ({V1_QUOTA: 200_000}, 8),
    "v2 before v1": ({"cpu.max": "300000 100000", V1_QUOTA: -1, V1_PERIOD: 100_000}, 3),
}


@pytest.mark.parametrize(("files", "cores"), QUOTAS.values(), ids=QUOTAS)
def test_a_containers_quota(files: dict[str, str | int], cores: int, cgroup: Path) -> None:
    say(cgroup, files)
    machine = detect()
    assert machine.usable_cores == cores
    assert machine.physical_cores == 8


@pytest.mark.parametrize(("allowed", "cores"), [({3}, 1), ({0, 1, 2}, 3), (set(range(16)), 8)])
def test_affinity(allowed: set[int], cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    assert detect().usable_cores == cores


def test_the_tighter_of_affinity_and_quota_counts(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(cgroup, {"cpu.max": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert detect().usable_cores == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert detect().usable_cores == 4


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows have no such call."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert detect().usable_cores == 8


def test_a_system_that_does_not_tell_its_physical_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert detect().physical_cores == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert detect().physical_cores == 1


# Memory


V1_LIMIT, V1_USAGE = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"
LIMITS: dict[str, tuple[dict[str, str | int], int, int]] = {
    "no container": ({}, 16, 12),
    "v2 none": ({"memory.max": "max", "memory.current": 5 * GIB}, 16, 12),
    "v2 eight": ({"memory.max": 8 * GIB, "memory.current": 2 * GIB}, 8, 6),
    "v2 overdrawn": ({"memory.max": 8 * GIB, "memory.current": 9 * GIB}, 8, 0),
    "v2 more than there is": ({"memory.max": 64 * GIB, "memory.current": GIB}, 16, 12),
    "v2 nonsense": ({"memory.max": "nonsense"}, 16, 12),
    "v1 none": ({V1_LIMIT: V1_UNLIMITED, V1_USAGE: 5 * GIB}, 16, 12),
    "v1 four": ({V1_LIMIT: 4 * GIB, V1_USAGE: GIB}, 4, 3),
    "v2 before v1": ({"memory.max": 8 * GIB, "memory.current": GIB, V1_LIMIT: 4 * GIB, V1_USAGE: GIB}, 8, 7),
}


@pytest.mark.parametrize(("files", "total", "available"), LIMITS.values(), ids=LIMITS)
def test_a_containers_memory(files: dict[str, str | int], total: int, available: int, cgroup: Path) -> None:
    say(cgroup, files)
    machine = detect()
    assert machine.memory_total == total * GIB
    assert machine.memory_available == available * GIB


@pytest.mark.parametrize(
    "files",
    [
        {
            "memory.max": 8 * GIB,
            "memory.current": 8 * GIB,
            "memory.stat": f"anon {GIB}\nfile {7 * GIB}\ninactive_file {7 * GIB}\nactive_file 0",
        },
        {
            V1_LIMIT: 8 * GIB,
            V1_USAGE: 8 * GIB,
            "memory/memory.stat": f"cache {7 * GIB}\nrss {GIB}\ninactive_file {7 * GIB}\nactive_file 0\n"
            f"total_cache {7 * GIB}\ntotal_inactive_file {7 * GIB}\ntotal_active_file 0",
        },
    ],
    ids=["v2", "v1"],
)
def test_files_that_were_read_do_not_count_as_used(files: dict[str, str | int], cgroup: Path) -> None:
    """The kernel keeps what was read, a model file say, as long as nobody needs the room: it is free to take.

    The usage of a container counts it all the same; its memory.stat tells how much of it that is.
    """
    say(cgroup, files)
    assert detect().memory_available == 7 * GIB


# Groups within groups


def own(cgroup: Path, text: str) -> None:
    """What /proc/self/cgroup says of this process."""
    (cgroup.parent / "own").write_text(text)


def test_the_own_group_counts_and_all_above_it(cgroup: Path) -> None:
    """A service in a slice in a container: each may set limits, and none need do so."""
    own(cgroup, "0::/system.slice/some.service\n")
    say(cgroup / "system.slice/some.service", {"cpu.max": "600000 100000", "memory.max": 8 * GIB, "memory.current": 0})
    assert (detect().usable_cores, detect().memory_total) == (6, 8 * GIB)
    say(cgroup / "system.slice", {"cpu.max": "300000 100000", "memory.max": 6 * GIB, "memory.current": GIB})
    assert (detect().usable_cores, detect().memory_total, detect().memory_available) == (3, 6 * GIB, 5 * GIB)
    say(cgroup, {"cpu.max": "200000 100000", "memory.max": 4 * GIB, "memory.current": GIB})
    assert (detect().usable_cores, detect().memory_total, detect().memory_available) == (2, 4 * GIB, 3 * GIB)
    say(cgroup, {"cpu.max": "800000 100000", "memory.max": "max"})
    assert (detect().usable_cores, detect().memory_total) == (3, 6 * GIB)


def test_another_group_does_not_count(cgroup: Path) -> None:
    own(cgroup, "0::/mine\n")
    say(cgroup / "other", {"cpu.max": "100000 100000", "memory.max": GIB, "memory.current": 0})
    say(cgroup / "mine/below", {"cpu.max": "100000 100000", "memory.max": GIB, "memory.current": 0})
    assert (detect().usable_cores, detect().memory_total) == (8, 16 * GIB)


def test_the_group_with_the_least_room_need_not_be_the_one_with_the_lowest_limit(cgroup: Path) -> None:
    own(cgroup, "0::/mine\n")
    say(cgroup, {"memory.max": 10 * GIB, "memory.current": 9 * GIB})
    say(cgroup / "mine", {"memory.max": 6 * GIB, "memory.current": GIB})
    assert detect().memory_total == 6 * GIB
    assert detect().memory_available == GIB


@pytest.mark.parametrize("high", [3, 5, 20])
def test_the_limit_at_which_the_kernel_slows_a_group_down_counts_like_the_hard_one(high: int, cgroup: Path) -> None:
    say(cgroup, {"memory.max": 8 * GIB, "memory.high": high * GIB, "memory.current": GIB})
    assert detect().memory_total == min(high, 8) * GIB
    assert detect().memory_available == (min(high, 8) - 1) * GIB
    say(cgroup, {"memory.max": "max", "memory.high": 5 * GIB})
    assert detect().memory_total == 5 * GIB


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("4:memory:/docker/abc", "memory/docker/abc"),
        ("4:memory:/docker/abc", "memory/docker"),
        ("4:hugetlb,memory:/docker/abc", "hugetlb,memory/docker/abc"),
        ("4:memory:/not/shown/here", "memory"),
    ],
)
def test_a_v1_group_of_memory(line: str, folder: str, cgroup: Path) -> None:
    own(cgroup, f"9:name=systemd:/docker/abc\n{line}\n1:cpu:/elsewhere\n0::/\n")
    say(cgroup / folder, {"memory.limit_in_bytes": 3 * GIB, "memory.usage_in_bytes": GIB})
    assert (detect().memory_total, detect().memory_available) == (3 * GIB, 2 * GIB)


@pytest.mark.parametrize("folder", ["cpu/docker/abc", "cpu/docker", "cpu,cpuacct/docker/abc", "cpu"])
def test_a_v1_group_of_time(folder: str, cgroup: Path) -> None:
    own(cgroup, "5:memory:/elsewhere\n3:cpu,cpuacct:/docker/abc\n")
    say(cgroup / folder, {"cpu.cfs_quota_us": 200_000, "cpu.cfs_period_us": 100_000})
    say(cgroup / "cpu/elsewhere", {"cpu.cfs_quota_us": 100_000, "cpu.cfs_period_us": 100_000})
    assert detect().usable_cores == 2


def test_v2_beside_v1(cgroup: Path) -> None:
    """systemd's hybrid: v2 lies a folder deeper."""
    own(cgroup, "3:cpu:/\n0::/user.slice\n")
    say(cgroup / "unified/user.slice", {"cpu.max": "300000 100000"})
    assert detect().usable_cores == 3


@pytest.mark.parametrize(
    "text", ["", "nonsense", "0::", "0::/../other", "0::/../..", "::::\n\n0", "0::/gr\udcfcn (deleted)"]
)
def test_an_odd_list_of_groups_leaves_the_root(text: str, cgroup: Path) -> None:
    (cgroup.parent / "own").write_bytes(os.fsencode(text))
    say(cgroup, {"cpu.max": "300000 100000", "memory.max": 4 * GIB, "memory.current": GIB})
    say(cgroup.parent / "other", {"cpu.max": "100000 100000", "memory.max": GIB, "memory.current": 0})
    assert (detect().usable_cores, detect().memory_total) == (3, 4 * GIB)


@pytest.mark.parametrize("text", ["100000 0", "-1 100000", "100000", "1 2 3", "\xff"])
def test_odd_quotas_are_no_crash(text: str, cgroup: Path) -> None:
    say(cgroup, {"cpu.max": text, "cpu/cpu.cfs_quota_us": text, "cpu/cpu.cfs_period_us": 0})
    assert 1 <= detect().usable_cores <= 8


# The processor


CPUINFO = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\n"
    "model name\t: Some Processor @ 2.10GHz\nstepping\t: 8\nflags\t\t: fpu vme\n"
)


def test_the_processor_as_linux_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    second = CPUINFO.replace("Some", "Another")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"{CPUINFO}\n{second}")
    assert processor_name() == "Some Processor @ 2.10GHz (6/207/8)"


def test_a_processor_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """ARM: /proc/cpuinfo tells part numbers, and no model name."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor\t: 0\nCPU part\t: 0xd0c\n")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor_name() == "aarch64"


def test_a_system_without_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert processor_name() == "arm"

"""What a process may use of its machine, also inside a container, and how much context that is enough for."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from r1local import hardware
from r1local.catalog import load_catalog
from r1local.errors import OutOfMemory
from r1local.gguf_types import ArrayInfo, GgufHeader
from r1local.hardware import Hardware, detect, processor_name
from r1local.plan import CONTEXT_STEPS, check_context, default_context, kv_bytes_per_token

GIB = 1 << 30
V1_UNLIMITED = 9_223_372_036_854_771_712
"""What cgroup v1 says where there is no limit: the largest number of whole pages."""

MODELS = {model.id: model for model in load_catalog().models}
# Bytes a token takes in an f16 cache, and GiB at a context of 32,768: layers x KV heads x 128 x 2 (K, V) x 2 bytes.
KV_CACHE = {
    "r1-qwen-1.5b": (28_672, 0.875),
    "r1-qwen-7b": (57_344, 1.75),
    "r1-0528-qwen3-8b": (147_456, 4.5),
    "r1-llama-8b": (131_072, 4),
    "r1-qwen-14b": (196_608, 6),
    "r1-qwen-32b": (262_144, 8),
    "r1-llama-70b": (327_680, 10),
}


@pytest.fixture(autouse=True)
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cgroup folder on a machine of 8 cores, 16 with hyper-threading, and 12 of 16 GiB free."""
    folder = tmp_path / "cgroup"
    folder.mkdir()
    monkeypatch.setattr(hardware, "_CGROUP", folder)
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


# The KV cache


def header(metadata: dict[str, object], *, architecture: str = "qwen2", file_size: int = 0) -> GgufHeader:
    keys: dict[str, object] = {"general.architecture": architecture}
    keys |= {f"{architecture}.{key}": value for key, value in metadata.items()}
    return GgufHeader(Path("model.gguf"), 3, keys, (), 0, file_size)


def header_of(model_id: str, *, file_size: int = 0) -> GgufHeader:
    model = MODELS[model_id]
    metadata: dict[str, object] = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.hidden,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
    }
    if model.family == "qwen3":  # states the size of its heads, as it need not follow from the others
        metadata |= {"attention.key_length": model.head_size, "attention.value_length": model.head_size}
    return header(metadata, architecture=model.family, file_size=file_size)


@pytest.mark.parametrize("model_id", KV_CACHE)
def test_kv_bytes_per_token(model_id: str) -> None:
    per_token, gib = KV_CACHE[model_id]
    assert kv_bytes_per_token(header_of(model_id)) == per_token
    assert per_token * 32_768 == gib * GIB


def test_kv_bytes_where_the_size_of_a_head_is_stated() -> None:
    """Qwen3-4B: 32 heads of 128 in a hidden size of 2560, which would make 80."""
    metadata: dict[str, object] = {
        "block_count": 36, "embedding_length": 2560, "attention.head_count": 32, "attention.head_count_kv": 8,
        "attention.key_length": 128, "attention.value_length": 128,
    }  # fmt: skip
    assert kv_bytes_per_token(header(metadata, architecture="qwen3")) == 36 * 8 * (128 + 128) * 2
    metadata["attention.value_length"] = 64
    assert kv_bytes_per_token(header(metadata, architecture="qwen3")) == 36 * 8 * (128 + 64) * 2


@pytest.mark.parametrize("kv_heads", [{}, {"attention.head_count_kv": 0}, {"attention.head_count_kv": 4}])
def test_kv_bytes_without_grouped_heads(kv_heads: dict[str, object]) -> None:
    """A model that does not state its KV heads has as many as heads."""
    metadata = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, **kv_heads}
    assert kv_bytes_per_token(header(metadata)) == 2 * 4 * (16 + 16) * 2


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"attention.head_count": 0, "attention.head_count_kv": 0},
        {"attention.head_count": "many", "embedding_length": 64},
        {"attention.head_count": 4, "attention.head_count_kv": ArrayInfo(5, 2), "embedding_length": 64},
    ],
    ids=["nothing", "zeros", "text", "a list, one per layer"],
)
def test_an_odd_header_is_no_crash(metadata: dict[str, object]) -> None:
    assert kv_bytes_per_token(header(metadata)) >= 0
    assert default_context(header(metadata), machine(8 * GIB)) > 0


# The context


def machine(available: int) -> Hardware:
    return Hardware("Linux", "some", 8, 8, 64 * GIB, available)


def test_steps_run_down_from_the_longest() -> None:
    assert list(CONTEXT_STEPS) == sorted(CONTEXT_STEPS, reverse=True)


@pytest.mark.parametrize("model_id", ["r1-qwen-1.5b", "r1-qwen-7b", "r1-llama-70b"])
@pytest.mark.parametrize("step", CONTEXT_STEPS)
def test_the_largest_context_whose_cache_fits_half_of_what_is_left(model_id: str, step: int) -> None:
    """To the byte: with two bytes less, half of the rest is one byte short."""
    file_size = 4 * GIB
    enough = file_size + 2 * step * KV_CACHE[model_id][0]
    assert default_context(header_of(model_id, file_size=file_size), machine(enough)) == step
    smaller = [other for other in CONTEXT_STEPS if other < step] or [step]
    assert default_context(header_of(model_id, file_size=file_size), machine(enough - 2)) == smaller[0]


@pytest.mark.parametrize("available", [0, GIB, 4 * GIB])
def test_where_nothing_fits_the_smallest_is_tried(available: int) -> None:
    assert default_context(header_of("r1-llama-70b", file_size=40 * GIB), machine(available)) == 2048


@pytest.mark.parametrize(
    ("model_id", "expected"), [("smollm2", 8192), ("openr1-7b", 32_768), ("qwq-32b", 32_768), ("r1-qwen-7b", 32_768)]
)
def test_never_more_than_the_model_knows_nor_than_a_thought_takes(model_id: str, expected: int) -> None:
    assert default_context(header_of(model_id), machine(1000 * GIB)) == expected


@pytest.mark.parametrize("available", [0, 1000 * GIB])
def test_a_model_of_a_very_short_context(available: int) -> None:
    metadata: dict[str, object] = {
        "block_count": 2, "embedding_length": 64, "attention.head_count": 2, "context_length": 512,
    }  # fmt: skip
    assert default_context(header(metadata), machine(available)) == 512


def test_a_context_whose_cache_is_larger_than_the_machine_is_refused() -> None:
    """To the byte; and the context that the message names is one that works."""
    small = Hardware("Linux", "some", 8, 8, 10 * GIB, 8 * GIB)
    wanted = header_of("r1-llama-70b")
    check_context(wanted, 32_768, small)  # exactly 10 GiB
    with pytest.raises(OutOfMemory) as caught:
        check_context(wanted, 32_769, small)
    assert "32,769" in caught.value.message
    advised = re.search(r"--ctx (\d+)", caught.value.hint)
    assert advised is not None
    assert 0 < int(advised.group(1)) < 32_768
    check_context(wanted, int(advised.group(1)), small)


def test_the_context_advised_is_none_that_the_model_does_not_know() -> None:
    with pytest.raises(OutOfMemory, match="GiB") as caught:
        check_context(header_of("smollm2"), 100_000_000, machine(GIB))
    assert caught.value.hint.rstrip(".").endswith("--ctx 8192")

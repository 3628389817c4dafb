"""How fast this processor works through weights: measured by the library's own kernels, remembered when it was calm."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from r1local import paths
from r1local.engine import reading
from r1local.engine.reading import reading_rates
from r1local.hardware import Hardware
from r1local.plan import choose
from r1local.plan.outlook import outlook
from r1local.plan.shape import Shape

MIB = 1 << 20
GIB = 1 << 30
ROOM = 64 * GIB


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1), raising=False)
    monkeypatch.setattr(reading, "_BYTES", 16 * MIB)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Types that were measured; each is a GB/s for each letter of its name."""
    names: list[str] = []

    def measured(types: list[str], threads: int, size: int) -> dict[str, float]:
        names.extend(types)
        return {name: 1e9 * len(name) for name in types}

    monkeypatch.setattr(reading, "_measured", measured)
    return names


@pytest.mark.engine
@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "F16", "BF16", "IQ4_XS"])
def test_kernels_are_measured(name: str) -> None:
    """Any machine that runs these tests reads more than 20 MB and less than a terabyte a second."""
    (rate,) = reading_rates([name], 2, ROOM).values()
    assert 2e7 < rate < 1e12


@pytest.mark.engine
def test_types_without_a_kernel_are_left_out() -> None:
    assert list(reading_rates(["Q4_0", "Q17_Z", "I32"], 1, ROOM)) == ["Q4_0"]


def test_a_child_that_dies_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "child_environment", lambda: {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"})
    assert reading_rates(["Q4_K"], 2, ROOM) == {}


def test_what_was_measured_is_remembered(counted: list[str]) -> None:
    assert reading_rates(["Q4_K"], 2, ROOM) == {"Q4_K": 4e9}
    assert reading_rates(["Q4_K", "F16"], 2, ROOM) == {"Q4_K": 4e9, "F16": 3e9}
    assert counted == ["Q4_K", "F16"]
    assert reading_rates(["F16"], 1, ROOM) == {"F16": 3e9}, "of another number of threads nothing is known"


def test_a_busy_machine_is_measured_again(counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.1, 0.1), raising=False)
    assert reading_rates(["Q4_K"], 2, ROOM) == {"Q4_K": 4e9}
    reading_rates(["Q4_K"], 2, ROOM)
    assert counted == ["Q4_K", "Q4_K"]
    assert not paths.reading_file().exists()


def test_without_memory_nothing_is_measured(counted: list[str]) -> None:
    assert reading_rates(["Q4_K"], 2, MIB) == {}
    assert counted == []


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "nonsense", "[" * 100_000, "\udcff"])
def test_a_broken_file_is_as_good_as_none(text: str, counted: list[str]) -> None:
    paths.ensure_folder(paths.reading_file().parent)
    paths.reading_file().write_bytes(os.fsencode(text))
    assert reading_rates(["Q4_K"], 2, ROOM) == {"Q4_K": 4e9}


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"fast"', "-1", "true", "1" + "0" * 400])
def test_a_broken_rate_is_measured_again(value: str, counted: list[str]) -> None:
    reading_rates(["Q4_K"], 2, ROOM)
    ((key, _),) = json.loads(paths.reading_file().read_bytes()).items()
    paths.reading_file().write_text(f'{{{json.dumps(key)}: {{"Q4_K": {value}}}}}')
    assert reading_rates(["Q4_K"], 2, ROOM) == {"Q4_K": 4e9}
    assert counted == ["Q4_K", "Q4_K"]


def test_a_disk_that_takes_nothing(counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("R1LOCAL_HOME", str(tmp_path / "file"))
    assert reading_rates(["Q4_K"], 2, ROOM) == {"Q4_K": 4e9}


def test_rates_of_all_types_decide() -> None:
    """Half of the bytes at 10 GB/s and half at 20: 13.3 GB/s together. A type that was not measured spoils it."""
    layers = (100 * MIB,) * 32
    shape = Shape(
        32, 4096, 32, 8, 128, 128, 14_336, 128_256, 8_192, 8_000_000_000, layers, 100 * MIB, 100 * MIB, False,
        read_types={"Q4_K": 1_650 * MIB, "Q6_K": 1_650 * MIB, "F32": MIB},
    )  # fmt: skip
    machine = Hardware("Linux", "x", 4, 4, 64 * GIB, 60 * GIB, memory_bandwidth=100e9)
    plan = choose(shape, machine)
    both = outlook(plan, machine, {"Q4_K": 10e9, "Q6_K": 20e9}).decode.expected
    same = outlook(plan, machine, {"Q4_K": 40e9 / 3, "Q6_K": 40e9 / 3}).decode.expected
    assert both == pytest.approx(same)
    assert outlook(plan, machine, {"Q4_K": 10e9}).decode == outlook(plan, machine).decode
    assert both < outlook(plan, machine).decode.expected

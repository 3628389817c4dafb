"""Hardware by its name, and machines described in files."""

from __future__ import annotations

import contextlib
import json
import math
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.errors import UsageError
from r1local.hardware import Gpu, Hardware, known
from r1local.hardware.description import from_json, to_json
from r1local.hardware.gpu import Kind
from r1local.hardware.known import SPEED_CLASSES
from tests import machines

GIB = 1 << 30
DEVICES = tomllib.loads(Path(known.__file__).with_name("devices.toml").read_text())
NAMES = [name for devices in DEVICES.values() for name in devices]

# Names by themselves


def test_every_class_is_one_of_the_agreed_ones() -> None:
    assert set(DEVICES) < set(SPEED_CLASSES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_every_device_is_found_by_its_names_and_is_plausible(name: str) -> None:
    facts = next(devices[name] for devices in DEVICES.values() if name in devices)
    found = known.find(name)
    assert found is not None
    assert found.name == name
    assert 5e10 < found.bandwidth < 1e13
    assert all(2 <= size <= 512 for size in found.sizes)
    assert 0.9 * found.sizes[0] <= found.memory / GIB <= found.sizes[0]
    assert (found.cores > 0) == found.unified
    for other in facts.get("names", []):
        by_other = known.find(other, found.sizes[0] * GIB)
        assert by_other is not None
        assert by_other.name in NAMES
        assert by_other.bandwidth == found.bandwidth or len({*by_other.sizes, *found.sizes}) > 1


def test_no_short_name_mixes_families() -> None:
    """RTX, RX and Arc may be left out because what remains is one maker's."""
    for words, devices in known._table().items():
        assert len({device.kind for device in devices}) == 1, words
        assert len({device.unified for device in devices}) == 1, words


SPELLINGS = {
    "RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "rtx4090": "RTX 4090",
    "4090": "RTX 4090",
    "  GeForce   RTX-4090 ": "RTX 4090",
    "RTX 4090 24GB": "RTX 4090",
    "NVIDIA GeForce RTX 4090 Laptop GPU": "RTX 4090 Laptop",
    "rtx 4090 mobile": "RTX 4090 Laptop",
    "4070ti super": "RTX 4070 Ti Super",
    "NVIDIA GeForce GTX 1080 Ti": "GTX 1080 Ti",
    "RTX 3060": "RTX 3060 12GB",
    "RTX 3060 8 GB": "RTX 3060 8GB",
    "RTX 3080 12g": "RTX 3080 12GB",
    "Tesla T4": "T4",
    "NVIDIA L4": "L4",
    "NVIDIA A100-SXM4-80GB": "A100 SXM 80GB",
    "NVIDIA A100-SXM4-40GB": "A100 SXM 40GB",
    "NVIDIA A100 80GB PCIe": "A100 PCIe 80GB",
    "NVIDIA A100-PCIE-40GB": "A100 PCIe 40GB",
    "NVIDIA H100 80GB HBM3": "H100 SXM 80GB",
    "NVIDIA H100 PCIe": "H100 PCIe 80GB",
    "NVIDIA GH200 480GB": "GH200",  # the processor's memory
    "Tesla V100-SXM2-32GB": "V100 SXM",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "Quadro RTX 6000": "Quadro RTX 6000",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX PRO 6000 Blackwell WS",
    "AMD Radeon RX 7900 XTX": "RX 7900 XTX",
    "7900xtx": "RX 7900 XTX",
    "6900 XT": "RX 6900 XT",
    "Intel(R) Arc(TM) B580 Graphics": "Arc B580",
    "Apple M3 Max": "Apple M3 Max 40c",
    "m3 max": "Apple M3 Max 40c",
    "M3 Max 36GB": "Apple M3 Max 30c",
    "Apple M2": "Apple M2",
    "NVIDIA GB10": "NVIDIA GB10",
    "DGX Spark": "NVIDIA GB10",
    "AMD Ryzen AI Max+ 395": "Strix Halo (Ryzen AI Max+ 395)",
}


@pytest.mark.parametrize(("written", "name"), SPELLINGS.items())
def test_spellings(written: str, name: str) -> None:
    found = known.find(written)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "RTX", "NVIDIA", "GeForce GPU", "RTX 4091", "RTX 4090 Super", "RTX 5070 Ti Mobile Something",
        "RX 4090", "NVIDIA GeForce RTX 2080 with Max-Q Design", "GTX 4090", "M3 Maximum", "RTX 1660 Laptop",
        "NVIDIA A10-4Q", "M", "RTX 4050", "12GB",
    ],
)  # fmt: skip
def test_what_is_only_near_is_not_taken_for_it(name: str) -> None:
    assert known.find(name) is None


@pytest.mark.parametrize(
    ("name", "gib", "bandwidth"),
    [
        ("NVIDIA GeForce RTX 3060", 12, 360), ("NVIDIA GeForce RTX 3060", 8, 240),
        ("NVIDIA GeForce RTX 3080", 10, 760.3), ("NVIDIA GeForce RTX 3080", 11.9, 912.4),
        ("Apple M3 Max", 36, 300), ("Apple M3 Max", 96, 300),
        ("Apple M3 Max", 48, 400), ("Apple M3 Max", 128, 400), ("Apple M4 Max", 36, 410), ("Apple M4 Max", 64, 546),
        ("AMD GPU 0x744c", 23.98, 960), ("AMD GPU 0x744c", 19.98, 800), ("AMD GPU 0x744c", 15.98, 576),
        ("NVIDIA A10", 22.49, 600), ("RTX 3060 12GB", 8, 240), ("NVIDIA GeForce RTX 4090", 48, 1008),
    ],
)  # fmt: skip
def test_memory_tells_devices_of_one_name_apart(name: str, gib: float, bandwidth: float) -> None:
    found = known.find(name, int(gib * GIB))
    assert found is not None
    assert found.bandwidth == bandwidth * 1e9


def test_a_card_sold_in_two_sizes() -> None:
    assert [known.find(name).memory // GIB for name in ("4060 Ti", "4060 Ti 16GB", "4060 Ti 8GB")] == [8, 16, 8]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("RTX 4091", "RTX 4090"), ("GTX 4090", "RTX 4090"), ("rtx4070 tii", "RTX 4070 Ti"),
        ("RTX 6000", "RTX 6000 Ada"), ("Appel M3 Max", "Apple M3 Max 40c"), ("radeon rx 7900 xtxx", "RX 7900 XTX"),
        ("RTX 4050", "RTX 4050 Laptop"),
        ("a toaster", ""), ("RTX", ""), ("", ""),
    ],
)  # fmt: skip
def test_did_you_mean(wrong: str, near: str) -> None:
    assert known.suggest(wrong) == near


# What a probe found, completed


def card(name: str, gib: float = 24, bandwidth: float = 0.0, **others: Any) -> Gpu:
    gpu = Gpu(name, "cuda", int(gib * GIB), 0, bandwidth)
    return replace(gpu, **others)


@pytest.mark.parametrize(
    ("computed", "taken"),
    [(1008.1, 1008.1), (900, 900), (1150, 1150), (850, 1008), (1170, 1008), (0, 1008), (504, 1008), (2016, 1008)],
)
def test_the_driver_s_clocks_count_where_they_are_near_the_maker_s(computed: float, taken: float) -> None:
    found = known.complete(card("NVIDIA GeForce RTX 4090", 24, computed * 1e9), 64 * GIB)
    assert found == card("NVIDIA GeForce RTX 4090", 24, taken * 1e9, speed_class="nv-consumer")


UNKNOWN = {
    "NVIDIA GeForce RTX 7090": "nv-consumer",
    "NVIDIA GeForce GTX 960": "nv-consumer",
    "NVIDIA TITAN V": "nv-consumer",
    "NVIDIA A100X": "nv-hbm",
    "NVIDIA H100 96GB HBM2e": "nv-hbm",
    "NVIDIA H200 NVL Something": "nv-hbm",
    "NVIDIA GH200 144G HBM3e": "nv-hbm",
    "NVIDIA B200": "nv-hbm",
    "NVIDIA A30X": "nv-hbm",
    "NVIDIA RTX A1000": "nv-workstation",
    "NVIDIA RTX 5880 Ada Generation": "nv-workstation",
    "NVIDIA RTX PRO 2000 Blackwell": "nv-workstation",
    "NVIDIA L20": "nv-workstation",
    "NVIDIA A16": "nv-workstation",
    "NVIDIA T1000": "nv-workstation",
    "NVIDIA T400 4GB": "nv-workstation",
    "Quadro P4000": "nv-workstation",
    "Graphics Device": "",
}


@pytest.mark.parametrize(("name", "speed_class"), UNKNOWN.items())
def test_the_class_of_a_card_that_is_not_known(name: str, speed_class: str) -> None:
    assert known.find(name) is None
    found = known.complete(card(name, 24, 123e9), 64 * GIB)
    assert found == card(name, 24, 123e9, speed_class=speed_class)


def test_classes_of_other_makers() -> None:
    for suffix, speed_class in (("", "base/pro"), (" Pro", "base/pro"), (" Max", "max"), (" Ultra", "ultra")):
        chip = card(f"Apple M9{suffix}", kind="metal", unified=True)
        assert known.complete(chip, 64 * GIB).speed_class == f"apple-{speed_class}"
    assert known.complete(card("AMD GPU 0xffff", kind="vulkan"), 64 * GIB).speed_class == ""
    assert known.complete(card("NVIDIA Thor", unified=True), 64 * GIB).speed_class == "apu-unified"


def test_a_unified_chip_is_told_by_the_whole_memory() -> None:
    """Not by the share that Metal gives of it: 32 GB of 48 are nearer to 36 than to 48."""
    gpu = card("Apple M3 Max", 32, kind="metal", unified=True)
    assert known.complete(gpu, 36 * GIB).bandwidth == 300e9
    assert known.complete(gpu, 48 * GIB).bandwidth == 400e9


# Machines that are not here


BASE = Hardware(
    "Linux 6", "AMD Ryzen 9 7950X", 16, 12, 64 * GIB, 50 * GIB, ("AVX2",), (card("NVIDIA GeForce GT 710", 1),),
    ("The driver is broken.",), 6e10,
)  # fmt: skip


def test_a_machine_with_another_card() -> None:
    gpu = Gpu("RTX 4090", "cuda", 24 * GIB, 24 * GIB, 1008e9, "nv-consumer")
    assert known.machine("NVIDIA GeForce rtx 4090", BASE) == replace(BASE, gpus=(gpu,), problems=())


@pytest.mark.parametrize("name", ["2x RTX 3090", "2 x RTX 3090", "2×3090", "2* rtx3090", " 2X RTX 3090 "])
def test_two_cards(name: str) -> None:
    gpu = Gpu("RTX 3090", "cuda", 24 * GIB, 24 * GIB, 936.2e9, "nv-consumer")
    assert known.machine(name, BASE).gpus == (gpu, gpu)


@pytest.mark.parametrize(
    ("name", "gib", "kind"),
    [
        ("RTX 3060 8GB", 8, "cuda"), ("RX 6900 XT", 16, "vulkan"), ("6900 XT", 16, "vulkan"),
        ("Arc B580", 12, "vulkan"), ("T4", 15, "cuda"), ("A10 24GB", 22.5, "cuda"), ("H100", 80, "cuda"),
        ("A100 40GB", 40, "cuda"),
    ],
)  # fmt: skip
def test_cards_of_all_makers(name: str, gib: float, kind: str) -> None:
    planned = known.machine(name, BASE)
    (gpu,) = planned.gpus
    assert (gpu.memory_total, gpu.memory_free, gpu.kind, gpu.unified) == (gib * GIB, gib * GIB, kind, False)
    assert (planned.memory_total, planned.memory_bandwidth) == (64 * GIB, 6e10)


@pytest.mark.parametrize(
    ("name", "gib", "share", "bandwidth", "speed_class", "cores"),
    [
        ("Apple M2", 8, 8 * 2 / 3, 100, "apple-base/pro", 8),
        ("M2 16GB", 16, 16 * 2 / 3, 100, "apple-base/pro", 8),
        ("Apple M3 Max", 64, 48, 400, "apple-max", 16),
        ("M3 Max 36GB", 36, 24, 300, "apple-max", 14),
        ("m3 max 128 gb", 128, 96, 400, "apple-max", 16),
        ("M4 Max 40GB", 40, 30, 410, "apple-max", 14),  # not sold, and so told: the nearest chip's
        ("DGX Spark", 128, 128, 273, "apu-unified", 20),
        ("Strix Halo 64GB", 64, 32, 256, "apu-unified", 16),
    ],
)
def test_a_chip_takes_the_place_of_processor_and_memory(
    name: str, gib: int, share: float, bandwidth: float, speed_class: str, cores: int
) -> None:
    planned = known.machine(name, BASE)
    assert (planned.memory_total, planned.memory_available) == (gib * GIB, gib * GIB)
    assert (planned.physical_cores, planned.usable_cores) == (cores, cores)
    assert (planned.problems, planned.memory_bandwidth) == ((), 0)
    assert planned.processor != BASE.processor
    (gpu,) = planned.gpus
    assert (gpu.memory_total, gpu.memory_free) == (int(share * GIB), int(share * GIB))
    assert (gpu.unified, gpu.bandwidth, gpu.speed_class) == (True, bandwidth * 1e9, speed_class)
    assert gpu.kind == ("metal" if "apple" in speed_class else "cuda" if "DGX" in name else "vulkan")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("RTX 4091", "RTX 4091", "RTX 4090"), ("a toaster", "a toaster", "2x RTX 3090"), ("", "''", "RTX 4090"),
        ("2x", "''", "RTX 4090"), ("2x RTX 4091", "'RTX 4091'", "RTX 4090"), ("0x RTX 4090", "not 0", "2x"),
        ("17x RTX 4090", "not 17", "2x"), ("RTX 4090 48GB", "48 GB", "24 GB"),
        ("RTX 3060 10GB", "10 GB", "8 GB or 12 GB"), ("2x Apple M3 Max", "2", "once"),
    ],
)  # fmt: skip
def test_names_that_are_none(name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        known.machine(name, BASE)
    assert message in caught.value.message
    assert hint in caught.value.hint


@given(st.text())
def test_any_text_is_a_name_or_a_usage_error(text: str) -> None:
    known.find(text)
    with contextlib.suppress(UsageError):
        known.machine(text, BASE)


# Descriptions


@pytest.mark.parametrize("name", machines.NAMES)
def test_a_description_of_a_machine_comes_back(name: str) -> None:
    data = json.loads((machines.DATA / "machines" / f"{name}.json").read_text())
    assert to_json(from_json(data)) == data


texts = st.text(max_size=100)
sizes = st.integers(0, 1 << 50)
speeds = st.floats(0, 1e15)


@st.composite
def gpus(draw: st.DrawFn) -> Gpu:
    total = draw(sizes)
    return Gpu(
        draw(texts), draw(st.sampled_from(get_args(Kind))), max(1, total), draw(st.integers(0, total)), draw(speeds),
        draw(st.sampled_from(["", *SPEED_CLASSES])), draw(texts), draw(texts), draw(st.integers(0, 1000)),
        draw(st.booleans()),
    )  # fmt: skip


@st.composite
def hardware(draw: st.DrawFn) -> Hardware:
    cores, total = draw(st.integers(1, 1 << 16)), draw(st.integers(1, 1 << 50))
    several = st.lists(texts, max_size=5).map(tuple)
    return Hardware(
        draw(texts), draw(texts), cores, draw(st.integers(1, cores)), total, draw(st.integers(0, total)), draw(several),
        draw(st.lists(gpus(), max_size=4).map(tuple)), draw(several), draw(speeds),
    )  # fmt: skip


@given(hardware())
def test_any_machine_makes_the_round_trip(machine: Hardware) -> None:
    assert from_json(json.loads(json.dumps(to_json(machine)))) == machine


def test_what_may_be_left_out() -> None:
    least = {
        "system": "Linux", "processor": "Some", "physical_cores": 4, "usable_cores": 4, "memory_total": 8 * GIB,
        "memory_available": 0,
    }  # fmt: skip
    assert from_json(least) == Hardware("Linux", "Some", 4, 4, 8 * GIB, 0)
    gpu = {"name": "RTX 4090", "kind": "cuda", "memory_total": GIB, "memory_free": GIB}
    assert from_json({**least, "gpus": [gpu]}).gpus == (Gpu("RTX 4090", "cuda", GIB, GIB),)


def test_a_whole_number_of_bytes_a_second_will_do() -> None:
    found = from_json(described(memory_bandwidth=60_000_000_000)).memory_bandwidth
    assert found == 6e10
    assert isinstance(found, float)


def described(**changes: Any) -> dict[str, Any]:
    data = to_json(BASE) | changes
    return {key: value for key, value in data.items() if value is not ...}


def with_gpu(**changes: Any) -> dict[str, Any]:
    gpu = asdict(BASE.gpus[0]) | changes
    return described(gpus=[{key: value for key, value in gpu.items() if value is not ...}])


MALFORMED: dict[str, tuple[object, str, str]] = {
    "no object": ([1, 2], "a list of 2", "system"),
    "null": (None, "None", "system"),
    "a number": (7, "7", "system"),
    "unknown key": (described(memory_totl=1), "'memory_totl'", "memory_total"),
    "unknown key, far": (described(colour="red"), "'colour'", "Known: system"),
    "unknown key of a GPU": (with_gpu(bandwith=1.0), "gpus[0] has the unknown key 'bandwith'", "bandwidth"),
    "missing": (described(memory_total=...), "lacks memory_total", "Known"),
    "two missing": (described(system=..., processor=...), "lacks system and processor", "Known"),
    "missing of a GPU": (with_gpu(kind=...), "gpus[0] lacks kind", "Known"),
    "text for a number": (described(memory_total="64 GB"), "memory_total must be a whole number, not '64 GB'", ""),
    "a fraction of a core": (described(usable_cores=1.5), "usable_cores must be a whole number, not 1.5", ""),
    "a float that is whole": (described(memory_total=64e9), "memory_total must be a whole number", ""),
    "true for a number": (described(physical_cores=True), "physical_cores must be a whole number, not True", ""),
    "null for a number": (described(memory_available=None), "not None", ""),
    "true for a float": (described(memory_bandwidth=True), "must be a number, not True", ""),
    "number for text": (described(system=7), "system must be text", ""),
    "number for a list": (described(gpus=1), "gpus must be a list", ""),
    "text for a list": (described(problems="none"), "problems must be a list", ""),
    "number in a list of texts": (described(problems=["a", 2]), "problems[1] must be text", ""),
    "number in a list of GPUs": (described(gpus=[3]), "gpus[0] is described by 3", "name"),
    "number for true": (with_gpu(unified=1), "unified must be true or false, not 1", ""),
    "negative memory": (described(memory_available=-1), "from 0 to", ""),
    "no memory": (described(memory_total=0), "from 1 to", ""),
    "no cores": (described(usable_cores=0), "from 1 to", ""),
    "negative bandwidth": (described(memory_bandwidth=-1.0), "from 0 to", ""),
    "NaN": (described(memory_bandwidth=math.nan), "not nan", ""),
    "NaN of a GPU": (with_gpu(bandwidth=math.nan), "not nan", ""),
    "infinite": (with_gpu(bandwidth=math.inf), "not inf", ""),
    "two petabytes": (described(memory_total=1 << 51), "memory_total must be", ""),
    "a million cores": (described(physical_cores=1_000_000), "physical_cores must be", ""),
    "a very long number": (described(memory_total=10**4000), "a number of 4001 digits", ""),
    "bandwidth in bits of nothing": (with_gpu(bandwidth=1e18), "bandwidth must be", ""),
    "more free than there is": (described(memory_available=65 * GIB), "more than memory_total", ""),
    "more free than a GPU has": (with_gpu(memory_free=2 * GIB), "gpus[0]: memory_free", ""),
    "more usable than there are": (described(usable_cores=17), "more than physical_cores", ""),
    "unknown kind": (with_gpu(kind="cuba"), "'cuba'", "cuda"),
    "unknown kind, far": (with_gpu(kind="opengl"), "'opengl'", "Known: cuda, metal"),
    "unknown class": (with_gpu(speed_class="nv-consumr"), "'nv-consumr'", "nv-consumer"),
    "endless text": (described(processor="x" * 1001), "processor must be text of 1000", ""),
    "endless list": (described(problems=["x"] * 65), "problems must be a list of 64 at most", ""),
}


@pytest.mark.parametrize(("data", "message", "hint"), MALFORMED.values(), ids=MALFORMED)
def test_what_no_machine_can_be_is_refused(data: object, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_json(data)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert len(caught.value.message) < 250


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(sorted(to_json(BASE))), json_values)
def test_any_value_of_a_key_is_taken_or_refused(key: str, value: Any) -> None:
    try:
        machine = from_json(described(**{key: value}))
    except UsageError:
        return
    assert from_json(to_json(machine)) == machine


@given(st.sampled_from(sorted(asdict(BASE.gpus[0]))), json_values)
def test_any_value_of_a_gpu_s_key_is_taken_or_refused(key: str, value: Any) -> None:
    try:
        machine = from_json(with_gpu(**{key: value}))
    except UsageError:
        return
    assert from_json(to_json(machine)) == machine

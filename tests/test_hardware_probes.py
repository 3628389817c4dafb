"""What the probes make of machines that are not here: whole recordings, then every way a driver can fail."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from r1local import hardware, paths
from r1local.hardware import Gpu, Hardware, Probe, amd, apple, bandwidth, detect, nvidia, processor, sysctl
from r1local.hardware.description import from_json
from tests import machines

MIB, GIB = 1 << 20, 1 << 30

# The machines


@pytest.mark.parametrize("name", machines.NAMES)
def test_what_the_probes_make_of_a_recording(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptions that other tests plan for are what a machine of that kind would be found to be."""
    expected = from_json(json.loads((machines.DATA / "machines" / f"{name}.json").read_text()))
    assert machines.probed(name, tmp_path, monkeypatch) == expected


def test_every_recording_has_its_description() -> None:
    for folder in ("recordings", "machines"):
        assert {path.stem for path in (machines.DATA / folder).iterdir()} == set(machines.NAMES)


# What a person with such a machine would check first: cores, GPU memory in MiB, GB/s, class, capability, processor.
KEY_FACTS: dict[str, tuple[int, list[tuple[int, float, str, str]], str]] = {
    "rtx-4090": (16, [(24564, 1008.1, "nv-consumer", "8.9")], "cpu-desktop"),
    "rtx-3060-12gb": (6, [(12288, 360.0, "nv-consumer", "8.6")], "cpu-desktop"),
    "rtx-4060-laptop": (8, [(8188, 256.0, "nv-consumer", "8.9")], "cpu-laptop"),
    "two-rtx-3090": (16, [(24576, 936.1, "nv-consumer", "8.6")] * 2, "cpu-server"),
    "h100-80gb": (32, [(81559, 2039.0, "nv-hbm", "9.0")], "cpu-server"),
    "m2-16gb": (8, [(10922, 100.0, "apple-base/pro", "")], ""),
    "m3-max-64gb": (16, [(49152, 400.0, "apple-max", "")], ""),
    "no-gpu": (8, [], "cpu-laptop"),
    "broken-driver": (8, [], "cpu-desktop"),
    "container-2gb": (2, [], "cpu-server"),
}


@pytest.mark.parametrize("name", machines.NAMES)
def test_key_facts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = machines.probed(name, tmp_path, monkeypatch)
    cores, gpus, processor_class = KEY_FACTS[name]
    assert found.usable_cores == cores
    assert gpus == [
        (gpu.memory_total // MIB, round(gpu.bandwidth / 1e9, 1), gpu.speed_class, gpu.compute_capability)
        for gpu in found.gpus
    ]
    assert hardware.processor_class(found) == processor_class
    assert bool(found.problems) == (name == "broken-driver")
    assert found.memory_bandwidth > 0
    assert all(0 < gpu.memory_free <= gpu.memory_total for gpu in found.gpus)


def test_a_container_s_memory_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = machines.probed("container-2gb", tmp_path, monkeypatch)
    assert (found.memory_total, found.physical_cores) == (2 * GIB, 64)
    assert found.memory_available == 2 * GIB - (389_283_840 - 231_735_296)


def test_without_a_sign_of_a_gpu_nothing_heavy_is_imported() -> None:
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from r1local.hardware import amd, detect, nvidia\n"
        "nvidia.KERNEL, nvidia.WSL, nvidia.PCI = (), Path('/nowhere'), Path('/nowhere')\n"
        "amd.CARDS = Path('/nowhere')\n"
        "assert detect().gpus == () or sys.platform == 'darwin'\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(result.stdout)}
    assert "psutil" in loaded
    assert not loaded & {"pynvml", "numpy", "llama_cpp", "gguf"}


# NVIDIA


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Probe]:
    """Plays the machine with the RTX 4090 after `change(recording)`, and asks the NVIDIA probe."""

    def ask(change: Callable[[dict[str, Any]], Any] = lambda machine: None, name: str = "rtx-4090") -> Probe:
        machine = machines.recording(name)
        change(machine)
        machines.play(machine, tmp_path, monkeypatch)
        return nvidia.probe(64 * GIB, 50 * GIB)

    return ask


def card(machine: dict[str, Any], **answers: Any) -> None:
    """Change what the first card answers."""
    machine["nvml"]["cards"][0].update({f"nvmlDevice{name}": answer for name, answer in answers.items()})


def test_a_card_as_the_driver_describes_it(desktop: Callable[..., Probe]) -> None:
    assert desktop() == Probe(
        (
            Gpu(
                "NVIDIA GeForce RTX 4090", "cuda", 25_757_220_864, 24_990_711_808, bandwidth=384 / 8 * 2 * 10_501e6,
                compute_capability="8.9", driver="550.90.07", other_users=2,
            ),
        )
    )  # fmt: skip


def test_the_fake_has_only_what_the_real_library_has() -> None:
    for name in machines.NAMES:
        answers = machines.recording(name).get("nvml", {"cards": []})
        asked = {key for key in answers if key != "cards"} | {key for card in answers["cards"] for key in card}
        assert all(callable(getattr(pynvml, key)) for key in asked)
    for name in nvidia._REASONS:
        assert isinstance(getattr(pynvml, name), int)


def test_the_real_library_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that sees the kernel's side of the driver and was started without its library."""
    machine = machines.recording("rtx-4090")
    machines.play(machine, tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", refuse := Refusing())
    found = nvidia.probe(0, 0)
    assert refuse.asked == ["libnvidia-ml.so.1"]
    assert found.gpus == ()
    assert "libnvidia-ml" in found.problem
    assert "docker run --gpus all" in found.problem


class Refusing:
    """A loader of libraries that finds none."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, name: str) -> None:
        self.asked.append(name)
        raise OSError("cannot open shared object file")


INIT_ERRORS = {
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "different versions",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "not loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "permissions",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml",
    pynvml.NVML_ERROR_GPU_IS_LOST: "does not answer any more",
    pynvml.NVML_ERROR_UNKNOWN: "Unknown Error",
    12_345: "12345",
}


@pytest.mark.parametrize(("code", "words"), INIT_ERRORS.items(), ids=str)
def test_a_driver_that_cannot_be_used(code: int, words: str, desktop: Callable[..., Probe]) -> None:
    found = desktop(lambda machine: machine["nvml"].update(nvmlInit={"error": code}))
    assert found.gpus == ()
    assert found.problem.startswith("There is an NVIDIA driver that cannot be used: ")
    assert words in found.problem
    assert found.problem.endswith(".")
    assert not found.problem.endswith("..")


def test_the_value_of_a_mismatch_is_the_one_drivers_give() -> None:
    assert pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH == 18
    assert machines.recording("broken-driver")["nvml"]["nvmlInit"] == {"error": 18}


@pytest.mark.parametrize("function", ["nvmlSystemGetDriverVersion", "nvmlShutdown"])
def test_errors_after_the_start(function: str, desktop: Callable[..., Probe]) -> None:
    found = desktop(lambda machine: machine["nvml"].update({function: {"error": pynvml.NVML_ERROR_UNKNOWN}}))
    if function == "nvmlShutdown":  # what was found stays found
        assert len(found.gpus) == 1
        assert not found.problem
    else:
        assert "Unknown Error" in found.problem


def test_a_driver_that_answers_what_no_version_should(desktop: Callable[..., Probe]) -> None:
    found = desktop(lambda machine: machine["nvml"].update(nvmlInit=lambda: {}["nothing"]))
    assert found == Probe(problem="The NVIDIA driver answers strangely: KeyError: 'nothing'.")


def test_the_library_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machines.recording("rtx-4090")
    del machine["nvml"]
    machines.play(machine, tmp_path, monkeypatch)
    assert "nvidia-ml-py" in nvidia.probe(0, 0).problem


OPTIONAL = (
    "MemoryBusWidth", "MaxClockInfo", "CudaComputeCapability", "ComputeRunningProcesses", "GraphicsRunningProcesses",
    "UUID", "MigMode", "NumGpuCores",
)  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)  # fmt: skip
def test_a_card_that_answers_little(code: int, desktop: Callable[..., Probe]) -> None:
    """Laptops, old drivers, virtual machines: N/A in most lines of nvidia-smi."""
    found = desktop(lambda machine: card(machine, **{f"Get{name}": {"error": code} for name in OPTIONAL}))
    assert found == Probe((Gpu("NVIDIA GeForce RTX 4090", "cuda", 25_757_220_864, 24_990_711_808, driver="550.90.07"),))


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
@pytest.mark.parametrize("function", ["HandleByIndex", "Name", "MemoryInfo", *OPTIONAL])
def test_one_card_is_lost_and_the_other_is_not(code: int, function: str, desktop: Callable[..., Probe]) -> None:
    found = desktop(lambda machine: card(machine, **{f"Get{function}": {"error": code}}), "two-rtx-3090")
    assert len(found.gpus) == 1
    assert found.problem.startswith("NVIDIA card 0 cannot be used: the card ")


@pytest.mark.parametrize(
    "answer",
    [
        {"error": pynvml.NVML_ERROR_NOT_SUPPORTED},
        {"error": pynvml.NVML_ERROR_NO_PERMISSION},
        {"total": 0, "free": 0, "used": 0},
    ],
)
def test_a_card_that_does_not_tell_its_memory(answer: dict[str, int], desktop: Callable[..., Probe]) -> None:
    found = desktop(lambda machine: card(machine, GetMemoryInfo=answer))
    problem = "The NVIDIA driver does not say how much memory NVIDIA GeForce RTX 4090 has."
    assert found == Probe(problem=problem)


def test_a_chip_that_shares_the_machine_s_memory(desktop: Callable[..., Probe]) -> None:
    """DGX Spark: asked for the memory of its GB10, the driver says that the question is not supported."""
    not_supported = {"error": pynvml.NVML_ERROR_NOT_SUPPORTED}
    (gpu,) = desktop(lambda machine: card(machine, GetName="NVIDIA GB10", GetMemoryInfo=not_supported)).gpus
    assert (gpu.memory_total, gpu.memory_free, gpu.unified) == (64 * GIB, 50 * GIB, True)


def test_a_card_cut_into_instances_is_not_counted_whole(desktop: Callable[..., Probe]) -> None:
    found = desktop(lambda machine: card(machine, GetMigMode=[1, 1]), "h100-80gb")
    assert found.gpus == ()
    assert "MIG" in found.problem
    assert desktop(lambda machine: card(machine, GetMigMode=[0, 1]), "h100-80gb").gpus != ()


def test_a_clock_that_stands_for_not_known(desktop: Callable[..., Probe]) -> None:
    clocks = {"1": 4_294_967_295, "2": 4_294_967_295}
    assert desktop(lambda machine: card(machine, GetMaxClockInfo=clocks)).gpus[0].bandwidth == 0


def test_who_else_uses_the_card(desktop: Callable[..., Probe]) -> None:
    """A process counts once, whatever it does there, and this one not at all."""
    users = {"GetComputeRunningProcesses": [7, os.getpid(), 8], "GetGraphicsRunningProcesses": [8, 9, os.getpid()]}
    assert desktop(lambda machine: card(machine, **users)).gpus[0].other_users == 3


def test_a_recording_without_cards(desktop: Callable[..., Probe]) -> None:
    assert desktop(lambda machine: machine["nvml"].update(cards=[])) == Probe()


# NVIDIA: which of several


def three_cards(machine: dict[str, Any]) -> None:
    """On the bus: an RTX 3060, an RTX 4090, an RTX 3090."""
    small = machines.recording("rtx-3060-12gb")["nvml"]["cards"]
    middle = machines.recording("two-rtx-3090")["nvml"]["cards"]
    machine["nvml"]["cards"] = [small[0], machine["nvml"]["cards"][0], middle[0]]


VISIBLE = {
    None: ["4090", "3090", "3060"],  # CUDA's own order: the fastest first
    "0": ["4090"],
    "2,0": ["3060", "4090"],
    " 1 , 2": ["3090", "3060"],
    "0,7,1": ["4090"],  # what stands behind one that does not exist is not looked at
    "-1": [],
    "": [],
    "NoDevFiles": [],
    "GPU-8e1b7d52": ["3060"],
    "GPU-8e1b7d52-1d6a-0b3c-7f64-29a1c5d0e3b8,0": ["3060", "4090"],
    "GPU-": [],  # the beginning of more than one
    "MIG-8e1b7d52": [],
    "1,1": ["3090"],
}


@pytest.mark.parametrize(("choice", "names"), VISIBLE.items(), ids=str)
def test_visible_devices(
    choice: str | None, names: list[str], desktop: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    desktop(three_cards)
    if choice is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    found = nvidia.probe(0, 0)
    assert [gpu.name.split()[-1] for gpu in found.gpus] == names
    assert ("CUDA_VISIBLE_DEVICES" in found.problem) == (not names)


@pytest.mark.parametrize("choice", ["", "G", "gpu-5ad1f0cb"])
def test_the_only_card_can_be_hidden(
    choice: str, desktop: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    desktop()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    assert nvidia.probe(0, 0) == Probe(problem="CUDA_VISIBLE_DEVICES hides every NVIDIA card.")


def test_devices_in_the_order_of_the_bus(desktop: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    desktop(three_cards)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert [gpu.name.split()[-1] for gpu in nvidia.probe(0, 0).gpus] == ["3060", "4090", "3090"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert [gpu.name.split()[-1] for gpu in nvidia.probe(0, 0).gpus] == ["3060"]


def test_two_cards_of_a_kind_without_uuids_are_two(
    desktop: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_uuids(machine: dict[str, Any]) -> None:
        for each in machine["nvml"]["cards"]:
            each["nvmlDeviceGetUUID"] = {"error": pynvml.NVML_ERROR_NO_PERMISSION}

    desktop(no_uuids, "two-rtx-3090")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert len(nvidia.probe(0, 0).gpus) == 2


# NVIDIA: a driver that hangs


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_hangs_costs_a_moment(
    function: str, desktop: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    desktop()
    working = getattr(sys.modules["pynvml"], function)
    released, calls = threading.Event(), []

    def hang(*arguments: Any) -> Any:
        calls.append(function)
        released.wait(60)
        return working(*arguments)

    monkeypatch.setattr(sys.modules["pynvml"], function, hang)
    monkeypatch.setattr(nvidia, "PATIENCE", 0.2)
    try:
        began = time.monotonic()
        found = nvidia.probe(0, 0)
        assert 0.15 < time.monotonic() - began < 5
        assert found == Probe(
            problem="The NVIDIA driver is here and does not answer within 0.2 s. Restart the machine."
        )
        monkeypatch.setattr(nvidia, "PATIENCE", 30)
        began = time.monotonic()
        assert "does not answer" in nvidia.probe(0, 0).problem  # at once: nobody waits for the same thing again
        assert time.monotonic() - began < 5
        assert len(calls) == 1
    finally:
        released.set()
    stuck = nvidia._unanswered
    assert stuck is not None
    assert stuck.daemon  # it must not keep the program alive
    stuck.join(10)
    assert len(nvidia.probe(0, 0).gpus) == 1  # it has come back


# NVIDIA: no driver


def pci(root: Path, vendor: str, kind: str, driver: str = "", place: str = "0000:01:00.0") -> None:
    device = root / "sys/bus/pci/devices" / place
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    if driver:
        (device / "driver").symlink_to(root / "sys/bus/pci/drivers" / driver)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine without a GPU; with pynvml it would fail."""
    machines.play(machines.recording("no-gpu"), tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize("kind", ["0x030000", "0x030200"], ids=["with a screen", "without"])
def test_a_card_and_no_driver(kind: str, bare: Path) -> None:
    pci(bare, "0x8086", "0x060000", place="0000:00:00.0")
    pci(bare, "0x10de", kind)
    assert nvidia.probe(0, 0) == Probe(problem="There is an NVIDIA card, and no NVIDIA driver for it.")
    assert detect().problems == ("There is an NVIDIA card, and no NVIDIA driver for it.",)


@pytest.mark.parametrize("driver", ["nouveau", "vfio-pci"])
def test_a_card_that_somebody_else_drives(driver: str, bare: Path) -> None:
    pci(bare, "0x10de", "0x030000", driver)
    assert nvidia.probe(0, 0).problem.endswith(f"no NVIDIA driver for it: it is driven by {driver}.")


@pytest.mark.parametrize(
    ("vendor", "kind"),
    [("0x10de", "0x040300"), ("0x1002", "0x030000"), ("0x10de", "0x0c0330"), ("", "")],
    ids=["a card's sound", "AMD", "USB on a card", "nothing"],
)
def test_other_devices_on_the_bus(vendor: str, kind: str, bare: Path) -> None:
    pci(bare, vendor, kind)
    (bare / "sys/bus/pci/devices/0000:02:00.0").mkdir()
    assert nvidia.probe(0, 0) == Probe()


def test_under_windows_linux_a_gpu_may_be_anybodys(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/dxg is there for every maker's driver; NVIDIA's brings its library along."""
    (bare / "dev").mkdir()
    (bare / "dev/dxg").touch()
    missing = {"nvmlInit": {"error": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}, "nvmlShutdown": None, "cards": []}
    monkeypatch.setitem(sys.modules, "pynvml", machines.nvml(missing))
    assert nvidia.probe(0, 0) == Probe()
    monkeypatch.setitem(sys.modules, "pynvml", machines.nvml(machines.recording("rtx-4090")["nvml"]))
    assert len(nvidia.probe(0, 0).gpus) == 1


@pytest.mark.parametrize("there", [True, False])
def test_on_windows_the_library_is_the_sign(there: bool, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setenv("WINDIR", str(bare))
    monkeypatch.setitem(sys.modules, "pynvml", machines.nvml(machines.recording("rtx-4090")["nvml"]))
    if there:
        (bare / "System32").mkdir()
        (bare / "System32/nvml.dll").touch()
    assert len(nvidia.probe(0, 0).gpus) == there


# Apple

# recommendedMaxWorkingSetSize as programs logged it: GB of the Mac, MB (10^6), and whether of an older macOS.
WORKING_SETS = [
    (16, 11453.25, True), (24, 17179.89, True), (32, 22906.5, True), (64, 51539.61, True),
    (16, 12713.12, False), (32, 26800.60, False), (48, 40200.90, False), (64, 55662.79, False),
    (128, 115448.73, False),
]  # fmt: skip


@pytest.mark.parametrize(("memory", "logged", "older"), WORKING_SETS)
def test_the_share_of_a_mac_s_memory_is_never_more_than_was_logged(memory: int, logged: float, older: bool) -> None:
    share = apple.working_set_limit(memory * GIB, 0) / 1e6
    assert share <= logged + 0.01
    if older:
        assert share == pytest.approx(logged, rel=1e-5)


def test_a_limit_that_the_owner_set_counts() -> None:
    assert apple.working_set_limit(64 * GIB, 57_344) == 56 * GIB
    assert apple.working_set_limit(64 * GIB, 1024) == GIB
    assert apple.working_set_limit(64 * GIB, 100_000) == 64 * GIB


def mac(**facts: str) -> dict[str, str]:
    return {
        "hw.memsize": str(16 * GIB), "hw.optional.arm64": "1", "machdep.cpu.brand_string": "Apple M4",
        "sysctl.proc_translated": "0",
    } | {key.replace("_", ".", 1): value for key, value in facts.items()}  # fmt: skip


def test_a_mac_s_gpu_may_use_what_is_free_of_its_share() -> None:
    share = 16 * GIB * 2 // 3
    for available, free in ((12 * GIB, share), (4 * GIB, 4 * GIB), (-5, 0)):
        gpu = Gpu("Apple M4", "metal", share, free, unified=True)
        assert apple.from_sysctl(mac(), available) == Probe((gpu,))
    assert apple.from_sysctl(mac(iogpu_wired_limit_mb="8192"), 12 * GIB).gpus[0].memory_total == 8 * GIB
    assert apple.from_sysctl(mac(iogpu_wired_limit_mb="nonsense"), 12 * GIB).gpus[0].memory_total == share


def test_a_python_for_intel_on_apple_silicon_is_told() -> None:
    found = apple.from_sysctl(mac(sysctl_proc_translated="1"), GIB)
    assert found.gpus == ()
    assert "arm64" in found.problem


def test_a_mac_with_an_intel_processor() -> None:
    facts = {"hw.memsize": str(16 * GIB), "machdep.cpu.brand_string": "Intel(R) Core(TM) i7-8700B CPU @ 3.20GHz"}
    assert apple.from_sysctl(facts, GIB) == Probe()


@pytest.mark.parametrize("facts", [{}, mac(hw_memsize="a lot"), mac(hw_memsize="0"), mac(hw_memsize="-1")])
def test_a_mac_that_does_not_answer(facts: dict[str, str]) -> None:
    found = apple.from_sysctl(facts, GIB)
    assert found.gpus == ()
    assert "macOS does not say" in found.problem


@pytest.mark.parametrize(
    "failure", [FileNotFoundError(), PermissionError(), subprocess.TimeoutExpired("sysctl", 2)], ids=repr
)
def test_a_sysctl_that_fails(failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise failure

    machines.play(machines.recording("m2-16gb"), tmp_path, monkeypatch)
    monkeypatch.setattr(sysctl.subprocess, "run", run)
    assert sysctl.answers("hw.memsize") == {}
    found = detect()
    assert (found.gpus, found.instruction_sets) == ((), ())
    assert len(found.problems) == 1


def test_other_systems_are_not_asked_by_sysctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines.play(machines.recording("no-gpu"), tmp_path, monkeypatch)
    monkeypatch.setattr(sysctl.subprocess, "run", lambda *_, **__: pytest.fail("asked"))
    assert apple.probe(GIB) == Probe()
    assert processor.instruction_sets() != ()


# AMD


def drm(root: Path, card: str, **files: object) -> None:
    folder = root / "sys/class/drm" / card / "device"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


XTX = {
    "vendor": "0x1002", "device": "0x744c", "mem_info_vram_total": 25_753_026_560, "mem_info_vram_used": 1_000_000_000,
    "mem_info_vram_vendor": "samsung", "mem_info_gtt_total": 33_000_000_000, "mem_info_gtt_used": 0,
}  # fmt: skip
STRIX_HALO = {
    "vendor": "0x1002", "device": "0x1586", "mem_info_vram_total": GIB // 2, "mem_info_vram_used": GIB // 4,
    "mem_info_gtt_total": 62 * GIB, "mem_info_gtt_used": 2 * GIB,
}  # fmt: skip


@pytest.fixture
def amd_machine(bare: Path) -> Path:
    """Has no GPU of any kind yet."""
    for file in (bare / "sys/class/drm/card1/device").iterdir():
        file.unlink()
    return bare


def test_a_card_as_its_driver_shows_it(amd_machine: Path) -> None:
    drm(amd_machine, "card0", **XTX)
    drm(amd_machine, "card0-DP-1", **XTX)  # a socket of it
    drm(amd_machine, "renderD128", **XTX)
    assert amd.probe(GIB).gpus == (Gpu("AMD GPU 0x744c", "vulkan", 25_753_026_560, 24_753_026_560),)
    (gpu,) = detect().gpus
    assert (gpu.bandwidth, gpu.speed_class) == (960e9, "amd-rdna3")


def test_a_card_with_a_name(amd_machine: Path) -> None:
    drm(amd_machine, "card0", **XTX, product_name="Radeon PRO W7900")
    drm(amd_machine, "card2", **XTX, product_name="")
    assert [gpu.name for gpu in amd.probe(GIB).gpus] == ["Radeon PRO W7900", "AMD GPU 0x744c"]
    assert detect().gpus[0].bandwidth == 864e9


@pytest.mark.parametrize(
    "changes",
    [
        {"vendor": "0x8086"}, {"vendor": ""}, {"mem_info_vram_total": 0}, {"mem_info_vram_total": "much"},
        {"mem_info_vram_total": 4 * GIB, "mem_info_vram_vendor": "unknown"},
        {"mem_info_vram_total": 512 * MIB, "mem_info_vram_vendor": ""},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_card_of_amd_s(changes: dict[str, object], amd_machine: Path) -> None:
    drm(amd_machine, "card0", **{**XTX, **changes})
    assert amd.probe(GIB) == Probe()


@pytest.mark.parametrize(
    "changes",
    [
        {"mem_info_vram_total": 4 * GIB, "mem_info_vram_vendor": "hynix"},
        {"mem_info_vram_total": 8 * GIB, "mem_info_vram_vendor": ""},
    ],
    ids=["a small one", "an old kernel, which does not tell the maker of the memory"],
)
def test_cards_that_are_less_sure(changes: dict[str, object], amd_machine: Path) -> None:
    drm(amd_machine, "card0", **{**XTX, **changes})
    assert [gpu.memory_total for gpu in amd.probe(GIB).gpus] == [changes["mem_info_vram_total"]]


@pytest.mark.parametrize(("available", "free"), [(50 * GIB, 50 * GIB), (100 * GIB, 60 * GIB)])
def test_a_large_gpu_inside_a_processor(available: int, free: int, amd_machine: Path) -> None:
    """It has what the driver lets it take of the machine's memory, as far as that is free."""
    drm(amd_machine, "card0", **STRIX_HALO)
    expected = Gpu("AMD GPU 0x1586", "vulkan", 62 * GIB + GIB // 2, free + GIB // 4, unified=True)
    assert amd.probe(available).gpus == (expected,)


def test_a_card_that_says_more_is_used_than_there_is(amd_machine: Path) -> None:
    drm(amd_machine, "card0", **{**XTX, "mem_info_vram_used": 1 << 40})
    assert amd.probe(GIB).gpus[0].memory_free == 0


# The processor


ARM = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd aes crc32 atomics fphp asimddp sve i8mm bf16\n"


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("flags\t\t: fpu sse2 avx f16c fma avx2\n", ("AVX", "F16C", "FMA", "AVX2")),
        ("flags\t\t: avx512_vnni amx_tile amx_int8 avx512f\n", ("AVX-512", "AVX-512 VNNI", "AMX")),
        ("flags\t\t: sse sse2\nvmx flags\t: avx2\n", ()),
        ("flags\t\t: sse2\n\nprocessor\t: 1\nflags\t\t: avx2\n", ()),  # the first core tells
        (ARM, ("NEON", "dot product", "int8 matrix", "SVE")),
        ("", ()),
    ],
    ids=["AVX2", "AMX", "old", "first core", "ARM", "empty"],
)
def test_instruction_sets_of_linux(text: str, sets: tuple[str, ...], bare: Path) -> None:
    processor.CPUINFO.write_text(text)
    assert processor.instruction_sets() == sets


def test_instruction_sets_of_an_intel_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machines.recording("m2-16gb")
    machine["sysctl"] = "hw.optional.avx1_0: 1\nhw.optional.avx2_0: 1\nhw.optional.avx512f: 0\nhw.optional.fma: 1\n"
    machines.play(machine, tmp_path, monkeypatch)
    assert processor.instruction_sets() == ("AVX", "FMA", "AVX2")


def test_instruction_sets_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machines.recording("no-gpu")
    machine.update(platform="win32", files={})
    machines.play(machine, tmp_path, monkeypatch)
    assert processor.instruction_sets() == ()


PROCESSORS = {
    "AMD EPYC 7763 64-Core Processor (25/1/1)": (64, "cpu-server"),
    "Intel(R) Xeon(R) Processor (6/167/1)": (2, "cpu-server"),
    "Intel(R) Xeon(R) w9-3495X (6/143/8)": (56, "cpu-server"),
    "AMD Ryzen Threadripper 3970X 32-Core Processor (23/49/0)": (32, "cpu-server"),
    "QEMU Virtual CPU version 2.5+": (4, "cpu-server"),
    "Common KVM processor": (2, "cpu-server"),
    "Intel Core Processor (Skylake, IBRS)": (2, "cpu-server"),
    "aarch64": (96, "cpu-server"),
    "12th Gen Intel(R) Core(TM) i7-12700H (6/154/3)": (14, "cpu-laptop"),
    "11th Gen Intel(R) Core(TM) i5-1135G7 @ 2.40GHz (6/140/1)": (4, "cpu-laptop"),
    "Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz (6/142/10)": (4, "cpu-laptop"),
    "Intel(R) Core(TM) i7-7820HQ CPU @ 2.90GHz (6/158/9)": (4, "cpu-laptop"),
    "13th Gen Intel(R) Core(TM) i9-13980HX (6/183/1)": (24, "cpu-laptop"),
    "12th Gen Intel(R) Core(TM) i5-1240P (6/154/3)": (12, "cpu-laptop"),
    "Intel(R) Core(TM) Ultra 7 155H (6/170/4)": (16, "cpu-laptop"),
    "Intel(R) Core(TM) Ultra 7 258V (6/189/1)": (8, "cpu-laptop"),
    "Intel(R) Core(TM) 7 150U (6/186/3)": (10, "cpu-laptop"),
    "AMD Ryzen 7 7840HS w/ Radeon 780M Graphics (25/116/1)": (8, "cpu-laptop"),
    "AMD Ryzen 7 PRO 4750U with Radeon Graphics (23/96/1)": (8, "cpu-laptop"),
    "AMD Ryzen 9 7945HX3D with Radeon Graphics (25/97/2)": (16, "cpu-laptop"),
    "AMD Ryzen AI 9 HX 370 w/ Radeon 890M (26/36/0)": (12, "cpu-laptop"),
    "AMD Ryzen 7 260 w/ Radeon 780M Graphics (25/117/2)": (8, "cpu-laptop"),
    "Intel(R) N100 (6/190/0)": (4, "cpu-laptop"),
    "AMD Ryzen 9 7950X 16-Core Processor (25/97/2)": (16, "cpu-desktop"),
    "AMD Ryzen 7 5800X3D 8-Core Processor (25/33/2)": (8, "cpu-desktop"),
    "AMD Ryzen 5 5600G with Radeon Graphics (25/80/0)": (6, "cpu-desktop"),
    "Intel(R) Core(TM) i5-9500 CPU @ 3.00GHz (6/158/10)": (6, "cpu-desktop"),
    "13th Gen Intel(R) Core(TM) i9-13900K (6/183/1)": (24, "cpu-desktop"),
    "Intel(R) Core(TM) Ultra 9 285K (6/198/2)": (24, "cpu-desktop"),
    "Intel(R) Core(TM) i7-3770 CPU @ 3.40GHz (6/58/9)": (4, "cpu-desktop"),
    "arm": (8, ""),
    "aarch64 ": (4, ""),
    "Intel64 Family 6 Model 154 Stepping 3, GenuineIntel": (14, ""),
    "": (1, ""),
}


@pytest.mark.parametrize(("name", "cores", "expected"), [(name, *about) for name, about in PROCESSORS.items()])
def test_the_class_of_a_processor(name: str, cores: int, expected: str) -> None:
    machine = Hardware("Linux", name, cores, min(cores, 2), GIB, GIB)
    assert hardware.processor_class(machine) == expected


# How fast memory is read


THIS = Hardware("Linux", "Some Processor", 2, 2, 16 * GIB, 8 * GIB)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was measured, as (cores, bytes); each time it is one GB/s faster."""
    calls: list[tuple[int, int]] = []

    def measure(cores: int, size: int) -> float:
        calls.append((cores, size))
        return 2e10 + 1e9 * len(calls)

    monkeypatch.setattr(bandwidth, "measure", measure)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1), raising=False)
    return calls


def with_bandwidth(**changes: Any) -> float:
    values = {"processor": THIS.processor, "cores": THIS.usable_cores, "available": THIS.memory_available} | changes
    machine = Hardware("Linux", values["processor"], 64, values["cores"], 64 * GIB, values["available"])
    return hardware.with_bandwidth(machine).memory_bandwidth


def test_it_is_measured_once_for_a_processor_and_a_number_of_threads(measured: list[tuple[int, int]]) -> None:
    assert [with_bandwidth(), with_bandwidth()] == [2.1e10, 2.1e10]
    assert with_bandwidth(cores=4) == 2.2e10
    assert with_bandwidth(processor="Another") == 2.3e10
    assert [with_bandwidth(), with_bandwidth(cores=4), with_bandwidth(processor="Another")] == [2.1e10, 2.2e10, 2.3e10]
    assert len(measured) == 3


def test_detect_measures_nothing(bare: Path, measured: list[tuple[int, int]]) -> None:
    assert detect().memory_bandwidth == 0
    assert measured == []


def test_a_machine_whose_bandwidth_is_known_stays_as_it_is(measured: list[tuple[int, int]]) -> None:
    known = Hardware("Linux", "Some", 2, 2, GIB, GIB, memory_bandwidth=5e10)
    assert hardware.with_bandwidth(known) is known
    assert measured == []


@pytest.mark.parametrize(
    ("available", "size"),
    [(64 * GIB, GIB), (8 * GIB, GIB), (2 * GIB, 256 * MIB), (GIB, 128 * MIB), (512 * MIB, 64 * MIB)],
)
def test_it_takes_an_eighth_of_what_is_free_at_most(available: int, size: int, measured: list[tuple[int, int]]) -> None:
    with_bandwidth(available=available)
    assert measured == [(2, size)]


def test_what_a_busy_machine_shows_is_not_remembered(
    measured: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (8.0, 1.0, 1.0), raising=False)
    assert with_bandwidth() == 2.1e10
    assert not paths.bandwidth_file().exists()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 1.0, 1.0), raising=False)
    assert with_bandwidth() == 2.2e10
    assert with_bandwidth() == 2.2e10


def test_with_too_little_memory_nothing_is_measured_nor_remembered(measured: list[tuple[int, int]]) -> None:
    assert with_bandwidth(available=512 * MIB - 8) == 0
    assert measured == []
    assert not paths.bandwidth_file().exists()


BROKEN = {
    "empty": "", "cut": '{"Some Processor, 2 thr', "not a table": "[1, 2]", "deep": "[" * 100_000,
    "text": '{"Some Processor, 2 threads": "fast"}', "true": '{"Some Processor, 2 threads": true}',
    "NaN": '{"Some Processor, 2 threads": NaN}', "infinite": '{"Some Processor, 2 threads": Infinity}',
    "zero": '{"Some Processor, 2 threads": 0}', "huge": '{"Some Processor, 2 threads": 1' + "0" * 400 + "}",
    "endless": '{"Some Processor, 2 threads": 1' + "0" * 5000 + "}", "not UTF-8": "\udcff",
}  # fmt: skip


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_memory_is_measured_anew(text: str, measured: list[tuple[int, int]]) -> None:
    paths.ensure_folder(paths.bandwidth_file().parent)
    paths.bandwidth_file().write_bytes(os.fsencode(text))
    assert [with_bandwidth(), with_bandwidth()] == [2.1e10, 2.1e10]


def test_a_home_that_cannot_be_written_to(measured: list[tuple[int, int]], home: Path) -> None:
    (home / "cache").write_text("in the way")
    assert [with_bandwidth(), with_bandwidth()] == [2.1e10, 2.2e10]


def test_the_oldest_is_forgotten(measured: list[tuple[int, int]]) -> None:
    for cores in range(1, 61):
        with_bandwidth(cores=cores)
    assert len(json.loads(paths.bandwidth_file().read_bytes())) == 50
    with_bandwidth(cores=60)
    assert len(measured) == 60
    with_bandwidth(cores=1)
    assert len(measured) == 61


def test_the_measurement_itself() -> None:
    """A real one: plausible, within its memory, and over at once."""
    tracemalloc.start()
    try:
        began = time.perf_counter()
        found = bandwidth.measure(2, 64 * MIB)
        elapsed = time.perf_counter() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 2e8 < found < 2e12
    assert math.isfinite(found)
    assert 0.1 < elapsed < 10
    assert 60 * MIB < peak < 66 * MIB


@pytest.mark.parametrize("failure", [RuntimeError("can't start new thread"), MemoryError()], ids=repr)
def test_threads_that_cannot_be_had(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's limit of processes: nothing is known, and nobody is left waiting for those that never came."""
    start, begun = threading.Thread.start, []

    def start_one(thread: threading.Thread) -> None:
        if begun:
            raise failure
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    assert with_bandwidth(cores=3, available=512 * MIB) == 0
    begun[0].join(10)
    assert not begun[0].is_alive()
    assert not paths.bandwidth_file().exists()


def test_fake_modules_are_of_this_test_alone() -> None:
    assert isinstance(pynvml, ModuleType)
    assert sys.modules["pynvml"] is pynvml

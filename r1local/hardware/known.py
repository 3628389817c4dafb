"""Graphics cards and chips by name, read from devices.toml: what is known of them without having them here."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from r1local import errors
from r1local.errors import UsageError
from r1local.hardware.apple import working_set_limit
from r1local.hardware.gpu import Gpu, Kind
from r1local.hardware.machine import Hardware

SPEED_CLASSES = (
    "nv-consumer", "nv-workstation", "nv-hbm", "apple-base/pro", "apple-max", "apple-ultra", "amd-rdna3", "amd-rdna4",
    "apu-unified", "intel-arc", "cpu-desktop", "cpu-laptop", "cpu-server",
)  # fmt: skip

_GIB = 1 << 30
_PLAUSIBLE = 0.15  # how far a bandwidth that was computed from clocks may be from the maker's
_MOST_CARDS = 16
_EXAMPLES = "Name one such as RTX 4090, 2x RTX 3090, RX 7900 XTX or Apple M3 Max 64GB."


@dataclass(frozen=True, slots=True)
class Known:
    name: str
    speed_class: str
    bandwidth: float
    """Peak bytes a second, by its maker."""
    memory: int
    """Bytes that its driver shows; of a unified memory, all that the machine has."""
    sizes: tuple[int, ...]
    """GB it is sold with."""
    cores: int = 0
    """Physical cores of the processor it is one piece with; 0 for a card."""

    @property
    def unified(self) -> bool:
        """Whether its memory is the machine's."""
        return self.speed_class.startswith(("apple", "apu"))

    @property
    def kind(self) -> Kind:
        """What drives it best."""
        if self.speed_class.startswith("apple"):
            return "metal"
        nvidia = self.speed_class.startswith("nv") or re.search("NVIDIA|Jetson", self.name)
        return "cuda" if nvidia else "vulkan"


def find(name: str, memory: int = 0) -> Known | None:
    """The device of this name, as its maker, its driver or a person writes it; None where it is not known.

    `memory`, in bytes, or a size in the name ("12GB") decides between devices of one name: the nearest is meant.
    """
    words, size = _parsed(name)
    devices = _table().get(words, [])
    if not devices:
        return None
    wanted = memory / _GIB or size
    if not wanted:
        return devices[0]

    def distance(device: Known) -> float:
        return min(abs(math.log(size / wanted)) for size in device.sizes)

    device = min(devices, key=distance)
    if len(device.sizes) == 1:
        return device
    return replace(device, memory=min(device.sizes, key=lambda size: abs(math.log(size / wanted))) * _GIB)


def suggest(name: str) -> str:
    """The known name nearest to this one, or an empty text."""
    names = {" ".join(words): devices[0].name for words, devices in _table().items()}
    wanted = " ".join(_parsed(name)[0])
    if re.search("[0-9]", wanted):  # RTX 4050, of which there is only a laptop's
        for longer in names:
            if longer.startswith(f"{wanted} "):
                return names[longer]
    return names.get(errors.suggest(wanted, names), "")


def complete(gpu: Gpu, memory_total: int) -> Gpu:
    """A GPU that was found here, with the bandwidth and class that its name tells; the machine's memory in bytes.

    What the driver's clocks say of the bandwidth counts where it is near what the maker says: then it is this card's.
    """
    known = find(gpu.name, memory_total if gpu.unified else gpu.memory_total)
    if known is None:
        return replace(gpu, speed_class=_class_by_name(gpu))
    near = abs(gpu.bandwidth - known.bandwidth) <= _PLAUSIBLE * known.bandwidth
    return replace(gpu, bandwidth=gpu.bandwidth if near else known.bandwidth, speed_class=known.speed_class)


def machine(name: str, base: Hardware) -> Hardware:
    """`base` with the hardware called `name` instead of its GPUs: "RTX 4090", "2x RTX 3090", "Apple M3 Max 64GB".

    Nothing else uses it: all its memory is free. A chip with a memory for both, such as Apple's, takes the place of
    base's processor and memory, too. Raises UsageError where the name is not known.
    """
    count, single = _counted(name)
    words, size = _parsed(single)
    known = find(single)
    if known is None:
        near = suggest(single)
        raise UsageError(
            f"No GPU is known by the name {single!r}.",
            f"Did you mean {near}?" if near else _EXAMPLES,
        )
    if known.unified:
        if count > 1:
            raise UsageError(f"{known.name} is a whole machine, and there are not {count} in one.", "Name it once.")
        return _unified(replace(known, memory=size * _GIB) if size else known, base)
    sizes = {each for device in _table()[words] for each in device.sizes}
    if size and size not in sizes:
        sold = " or ".join(f"{each} GB" for each in sorted(sizes))
        raise UsageError(f"No {known.name} with {size} GB is known.", f"It is sold with {sold}.")
    gpu = Gpu(known.name, known.kind, known.memory, known.memory, known.bandwidth, known.speed_class)
    return replace(base, gpus=(gpu,) * count, problems=())


def _unified(known: Known, base: Hardware) -> Hardware:
    """A machine that is this chip and its memory."""
    if known.kind == "metal":
        share = working_set_limit(known.memory, 0)
    elif known.kind == "cuda":
        share = known.memory
    else:
        share = known.memory // 2  # what Linux lets a GPU have of the machine's memory unless it is told otherwise
    arm = known.kind != "vulkan"
    return replace(
        base,
        system="Darwin arm64" if known.kind == "metal" else base.system,
        processor=known.name,
        physical_cores=known.cores,
        usable_cores=known.cores,
        memory_total=known.memory,
        memory_available=known.memory,
        instruction_sets=("NEON",) if arm else ("AVX", "F16C", "FMA", "AVX2", "AVX-512"),
        gpus=(Gpu(known.name, known.kind, share, share, known.bandwidth, known.speed_class, unified=True),),
        problems=(),
        memory_bandwidth=0.0,
    )


def _class_by_name(gpu: Gpu) -> str:
    """What kind a device is that devices.toml does not know."""
    if gpu.kind == "metal":
        kinds = {"Ultra": "apple-ultra", "Max": "apple-max"}
        return next((kind for word, kind in kinds.items() if word in gpu.name.split()), "apple-base/pro")
    if gpu.kind != "cuda":
        return ""
    if gpu.unified:
        return "apu-unified"
    if re.search(r"\b(GeForce|TITAN)\b", gpu.name, re.IGNORECASE):
        return "nv-consumer"
    if re.search(r"\b(A30X?|[APV]100X?|A800|G?H[128]00|H20|G?B[123]00)\b", gpu.name):
        return "nv-hbm"
    if re.search(r"\b(RTX|Ada|Quadro|[ALT]\d{1,4}[A-Z]?)\b", gpu.name):
        return "nv-workstation"
    return ""


# Words around names, which do not tell one device from another, and the families that a person leaves out.
_NOISE = {
    "nvidia", "geforce", "tesla", "amd", "ati", "radeon", "intel", "gpu", "graphics", "card", "generation", "chip",
}  # fmt: skip
_FAMILIES = {"rtx", "gtx", "rx", "arc", "apple"}
_SYNONYMS = {"mobile": "laptop", "notebook": "laptop"}


def _parsed(name: str) -> tuple[tuple[str, ...], int]:
    """The words of a name that matter, and the GB it says; 0 where it says none."""
    text = re.sub(r"\((?:r|tm)\)|[®™]", " ", name.lower())
    size = re.search(r"\b(\d{1,4})\s*(?:gib|gb|g)\b", text)
    if size:
        text = text[: size.start()] + " " + text[size.end() :]
    words = (_SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+|[0-9]+", text))
    return tuple(word for word in words if word not in _NOISE), int(size.group(1)) if size else 0


def _counted(name: str) -> tuple[int, str]:
    """2 and "RTX 3090" of "2x RTX 3090". Raises UsageError for more than a machine holds."""
    match = re.match(r"\s*(\d{1,3})\s*[x×*]\s*(.*)", name, re.IGNORECASE)  # "6900 XT" has four digits
    if not match:
        return 1, name.strip()
    count = int(match.group(1))
    if not 1 <= count <= _MOST_CARDS:
        raise UsageError(f"A machine has 1 to {_MOST_CARDS} graphics cards, not {count}.", _EXAMPLES)
    return count, match.group(2).strip()


@lru_cache(maxsize=1)
def _table() -> dict[tuple[str, ...], list[Known]]:
    """Every way to name a device, by its words, to the devices it may mean, in the order of the file."""
    table: dict[tuple[str, ...], list[Known]] = {}
    for device, names in _devices():
        for name in names:
            words = _parsed(name)[0]
            for form in {words, words[1:] if words[0] in _FAMILIES else words}:
                known = table.setdefault(form, [])
                if device not in known:
                    known.append(device)
    return table


def _devices() -> Iterator[tuple[Known, list[str]]]:
    """Every device in devices.toml with all its names."""
    data = tomllib.loads(Path(__file__).with_name("devices.toml").read_text(encoding="utf-8"))
    for speed_class, devices in data.items():
        for name, facts in devices.items():
            memory = facts["memory"]
            sizes = tuple(memory) if isinstance(memory, list) else (memory,)
            usable = int(facts.get("usable", sizes[0]) * _GIB)
            device = Known(name, speed_class, facts["bandwidth"] * 1e9, usable, sizes, facts.get("cores", 0))
            yield device, [name, *facts.get("names", [])]

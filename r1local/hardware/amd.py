"""AMD's cards, as Linux's own driver (amdgpu) shows them in /sys.

They are of the kind "vulkan": that backend runs on the driver every distribution brings, while ROCm is a large
installation of its own and leaves out many of the cards.
"""

from __future__ import annotations

from pathlib import Path

from r1local.hardware import known
from r1local.hardware.gpu import Gpu, Probe

CARDS = Path("/sys/class/drm")
_VENDOR = "0x1002"
# Set aside for a GPU inside the processor: 512 MB to 4 GB as machines are sold.
_CARVE_OUT = 6 << 30


def probe(memory_available: int) -> Probe:
    """Every card with memory of its own, and the few large GPUs inside processors. Never raises.

    The machine's available memory is in bytes.
    """
    # card0-DP-1 and the like are the sockets of card0.
    folders = sorted(folder for folder in CARDS.glob("card*") if folder.name[4:].isdecimal())
    devices = [folder / "device" for folder in folders]
    return Probe(tuple(gpu for device in devices if (gpu := _gpu(device, memory_available)) is not None))


def _gpu(device: Path, memory_available: int) -> Gpu | None:
    total, used = _number(device, "mem_info_vram_total"), _number(device, "mem_info_vram_used")
    if _text(device, "vendor") != _VENDOR or total <= 0:
        return None
    name = _text(device, "product_name") or f"AMD GPU {_text(device, 'device')}"
    found = known.find(name, total)
    if found is not None and found.speed_class == "apu-unified":
        # It takes whatever the driver lets it have of the machine's memory (GTT) beside what was set aside.
        shared, shared_used = _number(device, "mem_info_gtt_total"), _number(device, "mem_info_gtt_used")
        free = max(0, total - used) + max(0, min(shared - shared_used, memory_available))
        return Gpu(name, "vulkan", total + shared, free, unified=True)
    # Chips of memory on a card have a maker. Other GPUs inside processors are no faster than the processor.
    if _text(device, "mem_info_vram_vendor") in ("", "unknown") and total < _CARVE_OUT:
        return None
    return Gpu(name, "vulkan", total, max(0, total - used))


def _text(device: Path, name: str) -> str:
    try:
        return " ".join((device / name).read_text(errors="replace").split())[:100]
    except OSError:
        return ""


def _number(device: Path, name: str) -> int:
    text = _text(device, name)
    return int(text) if text.isascii() and text.isdecimal() else 0

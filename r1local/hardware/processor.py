"""The processor: its name, the instruction sets that decide how fast it decodes, and what kind of machine it is in."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

from r1local.hardware import sysctl

CPUINFO = Path("/proc/cpuinfo")

# What ggml has kernels for, by the system's names and by those people use.
_LINUX = {
    "avx": "AVX", "f16c": "F16C", "fma": "FMA", "avx2": "AVX2", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 BF16", "amx_int8": "AMX",
    "asimd": "NEON", "asimddp": "dot product", "i8mm": "int8 matrix", "sve": "SVE", "sme": "SME",
}  # fmt: skip
_MACOS = {
    "hw.optional.avx1_0": "AVX", "hw.optional.f16c": "F16C", "hw.optional.fma": "FMA", "hw.optional.avx2_0": "AVX2",
    "hw.optional.avx512f": "AVX-512",
    "hw.optional.neon": "NEON", "hw.optional.arm.FEAT_DotProd": "dot product",
    "hw.optional.arm.FEAT_I8MM": "int8 matrix", "hw.optional.arm.FEAT_SME": "SME",
}  # fmt: skip


def processor_name() -> str:
    """The processor as its maker names it, with family, model and stepping where Linux tells them."""
    facts = _cpuinfo()
    if facts is None:
        return platform.processor() or platform.machine()
    name = facts.get("model name") or platform.machine()
    numbers = [facts[key] for key in ("cpu family", "model", "stepping") if key in facts]
    return f"{name} ({'/'.join(numbers)})" if numbers else name


def instruction_sets() -> tuple[str, ...]:
    """Those that the system says it may use; none on Windows, which is not asked."""
    if sys.platform == "darwin":
        told = sysctl.answers("hw.optional")
        return tuple(name for key, name in _MACOS.items() if told.get(key) == "1")
    facts = _cpuinfo() or {}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())  # x86 or ARM
    return tuple(name for flag, name in _LINUX.items() if flag in flags)


def _cpuinfo() -> dict[str, str] | None:
    """What Linux says about the first of the cores; None on other systems."""
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        return None
    facts: dict[str, str] = {}
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    return facts


# More cores than any desktop has: 16 of AMD's, 24 of Intel's.
_DESKTOP_CORES = 24
# Names of processors for servers and workstations, and those that virtual machines make up.
_SERVER = re.compile(
    r"\b(EPYC|Xeon|Opteron|Threadripper|Neoverse|Graviton|Ampere|Altra|QEMU|KVM|Virtual CPU|Intel Core Processor)\b",
    re.IGNORECASE,
)
# The letters behind a model number that Intel and AMD give to processors for laptops; and kinds that are nothing else.
_LAPTOP = re.compile(
    r"\b(?:i[3579]-\d{4,5}|Ultra [3579] \d{3}|Core [357] \d{3}|Ryzen [3579] (?:PRO )?\d{4})"
    r"(?:H|HS|HX|HX3D|HK|HQ|U|P|M|MQ|V|Y|C|G\d)\b"
    r"|\bm[357]-\d|\bN\d{2,3}\b|\b[NJ]\d{4}\b|\bRyzen (?:AI|Z\d)\b|\bRyzen [3579] (?:PRO )?\d{3}\b|\bSnapdragon\b",
    re.IGNORECASE,
)
_DESKTOP = re.compile(
    r"\b(?:i[3579]-\d{4,5}|Ultra [3579] \d{3}|Ryzen [3579] (?:PRO )?\d{4})"
    r"(?:K|KF|KS|F|S|T|X|XE|XT|X3D|G|GE|GT|XS|E|TE)?\b|\bFX-\d{4}\b",
    re.IGNORECASE,
)


def speed_class(name: str, cores: int) -> str:
    """cpu-laptop, cpu-desktop or cpu-server, as the name and the number of physical cores tell; empty if they do not.

    It says how the memory is built in, which decides what share of its speed decoding gets.
    """
    plain = " ".join(re.sub(r"\((?:R|TM)\)|[®™]", " ", name, flags=re.IGNORECASE).split())
    if _SERVER.search(plain) or cores > _DESKTOP_CORES:
        return "cpu-server"
    if _LAPTOP.search(plain):
        return "cpu-laptop"
    return "cpu-desktop" if _DESKTOP.search(plain) else ""

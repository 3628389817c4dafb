"""What a machine has, as the probes find it or a file describes it."""

from __future__ import annotations

from dataclasses import dataclass

from r1local.hardware.gpu import Gpu


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
    instruction_sets: tuple[str, ...] = ()
    """Those that decide how fast a processor decodes, by the names people use: AVX2, AVX-512, AMX, NEON."""
    gpus: tuple[Gpu, ...] = ()
    """Every GPU that is there, whether or not the installed library can use it."""
    problems: tuple[str, ...] = ()
    """Sentences about what is there and cannot be used, such as a GPU whose driver does not answer."""
    memory_bandwidth: float = 0.0
    """Bytes a second that `usable_cores` threads read; 0 where it has not been measured."""

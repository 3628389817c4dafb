"""A graphics processor, as any of the probes describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["cuda", "metal", "rocm", "vulkan"]


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    kind: Kind
    """What drives it best."""
    memory_total: int
    """Bytes; of a unified memory, what the GPU may use of it."""
    memory_free: int
    """Bytes that nobody uses now."""
    bandwidth: float = 0.0
    """Peak bytes a second between its memory and its cores; 0 where it is not known."""
    speed_class: str = ""
    """What speeds of one piece of hardware say about another, as in devices.toml; empty where it is not known."""
    compute_capability: str = ""
    """Of NVIDIA's: 8.9 and the like."""
    driver: str = ""
    other_users: int = 0
    """Processes that use it beside this one."""
    unified: bool = False
    """Whether its memory is the machine's."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What one way of asking found."""

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    """A sentence where something is there that cannot be used."""

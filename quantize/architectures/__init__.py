"""The kinds of models that are converted, one file each: a new one is a new file here, found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from quantize.architectures.decoder import Architecture
from quantize.bounded import MAX_CONFIG, read_json
from quantize.config import ModelConfig, check_config, model_class
from quantize.errors import Unsupported


def read_config(path: Path) -> ModelConfig:
    """Raises BadSource, Unsupported."""
    return config_of(read_json(path, MAX_CONFIG))


def config_of(fields: dict[str, Any]) -> ModelConfig:
    """What config.json says, with what it leaves out. Raises BadSource, Unsupported."""
    return check_config(fields, architecture_of(model_class(fields)).defaults)


def architecture_of(model_class: str) -> Architecture:
    """For the class that config.json names. Raises Unsupported."""
    known = {found.model_class: found for found in _all()}
    if model_class not in known:
        raise Unsupported(
            f"Models of the kind {model_class[:80]} are not converted.", f"There are {', '.join(sorted(known))}."
        )
    return known[model_class]


def class_of(name: str) -> str:
    """The class in config.json for the name in GGUF. Raises Unsupported."""
    found = next((found.model_class for found in _all() if found.name == name), None)
    if found is None:
        raise Unsupported(f"Models of the kind {name[:80]} are not converted.")
    return found


def _all() -> list[Architecture]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [module.ARCHITECTURE for module in modules if hasattr(module, "ARCHITECTURE")]

"""What `chat` does without the model it wants: offer to pull it, and never do so unasked."""

from __future__ import annotations

from r1local.catalog import Catalog
from r1local.cli.output import Output
from r1local.cli.pull import PullFlags, pull
from r1local.errors import ModelNotFound, R1Error
from r1local.hub.hosts import is_offline
from r1local.hub.names import parse_reference
from r1local.store import LocalModel, find, plainly_a_path


def offer_to_pull(
    catalog: Catalog, name: str, missing: ModelNotFound, output: Output, *, yes: bool, offline: bool
) -> LocalModel:
    """The model, pulled after a yes. Raises `missing` when that is not possible or not wanted."""
    about = _about(catalog, name)
    if not about or offline or is_offline() or not (yes or output.can_ask):
        raise missing
    if not yes and not output.ask(f"{missing.message} Pull {name} now ({about})?"):
        raise missing
    pull(PullFlags(name, yes=yes), catalog, output)
    return find(catalog, name)


def _about(catalog: Catalog, name: str) -> str:
    """Size and licence of what `name` would pull; empty when it is nothing that can be pulled."""
    if plainly_a_path(name):
        return ""
    try:
        reference = parse_reference(name, catalog)
    except R1Error:
        return ""
    model = reference.model
    if model is None:
        return f"from {reference.repos[0]}"
    if not model.gguf:
        return ""
    quantization = reference.quantization or model.recommended
    size = model.file_bytes(catalog.quantization(quantization))
    return f"about {size / 1e9:.1f} GB, licence {model.licences}"

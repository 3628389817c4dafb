"""What `chat` does without the model it wants: offer to pull it, and never do so unasked."""

from __future__ import annotations

from r1local import hardware
from r1local.catalog import Catalog
from r1local.cli.output import Output
from r1local.cli.pull import PullFlags, is_offline, pull
from r1local.errors import ModelNotFound, R1Error
from r1local.hub.names import parse_reference
from r1local.plan import best_to_pull, recommended_bytes
from r1local.store import LocalModel, find, plainly_a_path


def offer_to_pull(
    catalog: Catalog, name: str | None, missing: ModelNotFound, output: Output, *, yes: bool, offline: bool
) -> LocalModel:
    """The model, pulled after a yes. Raises `missing` with what to type when that is not possible or not wanted."""
    if name is None:
        wanted, about = _best(catalog)
        if not wanted:
            raise missing
        missing = ModelNotFound(
            missing.message, f"The best that fits this machine: r1local pull {wanted} ({about}). {missing.hint}"
        )
    else:
        wanted, about = name, _about(catalog, name)
        if not about:
            raise missing
    if offline or is_offline() or not (yes or output.can_ask):
        raise missing
    if not yes and not output.ask(f"{missing.message} Pull {wanted} now ({about})?"):
        raise missing
    pull(PullFlags(wanted, yes=yes), catalog, output)
    return find(catalog, wanted)


def _best(catalog: Catalog) -> tuple[str, str]:
    model = best_to_pull(catalog, hardware.detect())
    return (model.id, _about(catalog, model.id)) if model is not None else ("", "")


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
    size = (
        model.file_bytes(catalog.quantization(quantization))
        if reference.quantization
        else recommended_bytes(catalog, model)
    )
    return f"about {size / 1e9:.1f} GB, licence {model.licences}"

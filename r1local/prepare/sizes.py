"""How large a catalog model is in each quantization, tensor by tensor, without having it here."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from r1local.catalog import Model
from r1local.prepare import file_types

if TYPE_CHECKING:
    from quantize.config import ModelConfig
    from quantize.layout import Layout


def sizes_of(model: Model, types: list[str]) -> dict[str, int]:
    """Bytes of the tensors of a catalog model in each type, from the catalog's numbers; nothing for a model whose
    kind is not converted. Only Llama's factors for long contexts are missing, some hundred bytes.
    """
    found = {name: layout_of(model, name) for name in types}
    return {name: layout.data_size for name, layout in found.items() if layout}


def tensors_of(model: Model, file_type: str) -> list[tuple[str, int, str]]:
    """Name, bytes and type of each tensor; nothing for a model or a mix that is not converted."""
    layout = layout_of(model, file_type)
    return [(stored.name, stored.size, stored.type) for stored in layout.stored] if layout else []


def layout_of(model: Model, file_type: str) -> Layout | None:
    from quantize.errors import QuantizeError
    from quantize.layout import plan
    from quantize.recipes import Wish

    config = _config(
        model.family, model.hidden, model.layers, model.heads, model.kv_heads, model.head_size, model.feed_forward,
        model.vocabulary, model.parameters,
    )  # fmt: skip
    if config is None or file_type not in file_types():
        return None
    try:
        # Small types need an importance matrix, and are sized as with one.
        return plan(config, Wish(file_type), has_imatrix=file_type.startswith(("IQ1", "IQ2")))
    except QuantizeError:
        return None


@lru_cache(maxsize=64)
def _config(
    family: str, hidden: int, layers: int, heads: int, kv_heads: int, head_size: int, feed_forward: int,
    vocabulary: int, parameters: int,
) -> ModelConfig | None:  # fmt: skip
    """config.json as the publisher must have written it: with or without a matrix of its own for the output."""
    from quantize.architectures import class_of, config_of
    from quantize.errors import QuantizeError
    from quantize.layout import plan
    from quantize.recipes import Wish

    fields = {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_size, "intermediate_size": feed_forward,
        "vocab_size": vocabulary,
    }  # fmt: skip
    try:
        kind = class_of(family)
        for tied in (False, True):
            config = config_of({**fields, "architectures": [kind], "tie_word_embeddings": tied})
            if plan(config, Wish("F16")).parameters == parameters:
                return config
    except QuantizeError:
        pass
    return None

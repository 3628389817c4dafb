"""config.json of a checkpoint, with the numbers checked that everything is built on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantize.errors import BadSource, Unsupported

CONFIG = "config.json"
_MOST_LAYERS = 512  # what the C library's arrays hold
_MOST = 1 << 31
_MOST_TOKENS = 4_000_000
_MOST_REAL = 1e30  # far within what GGUF's floats hold


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """config.json, with the numbers that everything is built on checked."""

    fields: dict[str, Any]
    model_class: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    context: int
    norm_epsilon: float
    tied: bool
    """Whether the output layer shares the embedding's weights."""
    rope: dict[str, Any] = field(default_factory=dict)
    """Rotary positions: rope_theta, rope_type, factor, ..."""


def model_class(fields: dict[str, Any]) -> str:
    """The class of the model. Raises BadSource."""
    classes = fields.get("architectures")
    if not isinstance(classes, list) or not classes or not isinstance(classes[0], str):
        raise BadSource(f"{CONFIG} does not say which architecture it is.")
    return classes[0]


def check_config(fields: dict[str, Any], defaults: Mapping[str, Any]) -> ModelConfig:
    """defaults: what a field means that is missing.

    Raises BadSource for numbers that make no sense, Unsupported for weights that are quantized already.
    """
    if fields.get("quantization_config"):
        raise Unsupported(
            "The weights of this checkpoint are quantized already.", "Take the original, with bf16 or f16 weights."
        )
    name = model_class(fields)
    fields = {**defaults, **{field: value for field, value in fields.items() if value is not None}}
    hidden, layers = _size(fields, "hidden_size"), _size(fields, "num_hidden_layers")
    heads = _size(fields, "num_attention_heads")
    kv_heads = _size(fields, "num_key_value_heads", heads)
    vocabulary = _size(fields, "vocab_size")
    if layers > _MOST_LAYERS or vocabulary > _MOST_TOKENS:
        raise BadSource(f"{CONFIG} speaks of {layers} layers and {vocabulary} tokens.")
    if heads % kv_heads:
        raise BadSource(f"{CONFIG} has {heads} heads in groups of {kv_heads}.")
    if fields.get("head_dim") is None and hidden % heads:
        raise BadSource(f"{CONFIG} splits a width of {hidden} between {heads} heads.")
    head_size = _size(fields, "head_dim", hidden // heads)
    if head_size % 2:
        raise BadSource(f"{CONFIG} has heads of the odd size {head_size}.")
    epsilon = _number(fields, "rms_norm_eps")
    if epsilon is None or epsilon <= 0:
        raise BadSource(f"{CONFIG} has no sensible rms_norm_eps.")
    return ModelConfig(
        fields, name, hidden, layers, heads, kv_heads, head_size, _size(fields, "intermediate_size"),
        vocabulary,
        _size(fields, "max_position_embeddings"), epsilon, fields.get("tie_word_embeddings") is True, _rope(fields),
    )  # fmt: skip


def _rope(fields: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions, of newer files in rope_parameters, of older ones in rope_scaling and rope_theta."""
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise BadSource(f"{CONFIG} has a rope_scaling that is no object.")
    rope = {name: value for name, value in rope.items() if value is not None}
    if "type" in rope:
        rope.setdefault("rope_type", rope["type"])
    for name in ("rope_theta", "original_max_position_embeddings"):
        if fields.get(name) is not None:
            rope.setdefault(name, fields[name])
    if not isinstance(rope.get("rope_type", ""), str):
        raise BadSource(f"{CONFIG} has a rope_type that is no text.")
    for name in rope:
        if name not in ("rope_type", "type") and (_number(rope, name) or 0) < 0:
            raise BadSource(f"{CONFIG} has a negative {name}.")
    if "original_max_position_embeddings" in rope:
        _size(rope, "original_max_position_embeddings")
    return rope


def _number(fields: dict[str, Any], name: str, default: float | None = None) -> float | None:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST_REAL:
        raise BadSource(f"{CONFIG} has a {name} that is no number.")
    return value


def _size(fields: dict[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 < value < _MOST:
        raise BadSource(f"{CONFIG} has no sensible {name}.")
    return value

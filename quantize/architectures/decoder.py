"""What Qwen2, Qwen3 and Llama have in common: the tensors of a decoder and its numbers in the metadata.

Names: gguf-py/gguf/tensor_mapping.py of llama.cpp; keys: `set_gguf_parameters` in its conversion/base.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf import GGUFValueType

from quantize.config import ModelConfig
from quantize.errors import Unsupported
from quantize.gguf_format import Key, make_key

U32, F32, STRING = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor of the result and where it comes from."""

    name: str
    """In GGUF."""
    source: str
    """In the checkpoint; empty when it is made from `values`."""
    shape: tuple[int, ...]
    paired_heads: int = 0
    """The rows of so many heads are stored as two halves and wanted as interleaved pairs; 0: as they are."""
    values: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Architecture:
    """One kind of model."""

    name: str
    """In GGUF."""
    model_class: str
    """In config.json."""
    query_bias: bool = False
    """Queries, keys and values have biases, whatever config.json says."""
    query_norm: bool = False
    """Queries and keys are normed."""
    interleaved: bool = False
    """The C library turns neighbouring pairs of a head, where the checkpoint has its halves."""
    names_head_size: bool = False
    """The size of a head is written even where config.json leaves it to be computed."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What config.json means where it says nothing: the defaults of the class in Hugging Face's transformers."""

    def tensors(self, config: ModelConfig) -> list[Wanted]:
        """Every tensor of the result, in the order of the checkpoint."""
        vocabulary = (config.vocabulary, config.hidden)
        wanted = [*self.made(config), Wanted("token_embd.weight", "model.embed_tokens.weight", vocabulary)]
        for layer in range(config.layers):
            wanted += self._layer(config, f"blk.{layer}", f"model.layers.{layer}")
        wanted.append(Wanted("output_norm.weight", "model.norm.weight", (config.hidden,)))
        if not config.tied:
            wanted.append(Wanted("output.weight", "lm_head.weight", vocabulary))
        return wanted

    def _layer(self, config: ModelConfig, to: str, source: str) -> Iterator[Wanted]:
        hidden, inner = config.hidden, config.feed_forward
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        yield Wanted(f"{to}.attn_norm.weight", f"{source}.input_layernorm.weight", (hidden,))
        for letter, rows, heads in (("q", queries, config.heads), ("k", keys, config.kv_heads), ("v", keys, 0)):
            paired = heads if self.interleaved else 0
            yield Wanted(
                f"{to}.attn_{letter}.weight", f"{source}.self_attn.{letter}_proj.weight", (rows, hidden), paired
            )
            if self.query_bias or config.fields.get("attention_bias") is True:
                yield Wanted(f"{to}.attn_{letter}.bias", f"{source}.self_attn.{letter}_proj.bias", (rows,), paired)
        yield Wanted(f"{to}.attn_output.weight", f"{source}.self_attn.o_proj.weight", (hidden, queries))
        if config.fields.get("attention_bias") is True and not self.query_bias:
            yield Wanted(f"{to}.attn_output.bias", f"{source}.self_attn.o_proj.bias", (hidden,))
        if self.query_norm:
            for letter in "qk":
                norm = f"{source}.self_attn.{letter}_norm.weight"
                yield Wanted(f"{to}.attn_{letter}_norm.weight", norm, (config.head_size,))
        yield Wanted(f"{to}.ffn_norm.weight", f"{source}.post_attention_layernorm.weight", (hidden,))
        for part, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            yield Wanted(f"{to}.ffn_{part}.weight", f"{source}.mlp.{part}_proj.weight", shape)
            if config.fields.get("mlp_bias") is True:
                yield Wanted(f"{to}.ffn_{part}.bias", f"{source}.mlp.{part}_proj.bias", (shape[0],))

    def made(self, config: ModelConfig) -> list[Wanted]:
        """Tensors that no checkpoint holds."""
        return []

    def keys(self, config: ModelConfig) -> list[Key]:
        """The numbers of the model. Raises Unsupported for rotary positions that are not known."""
        keys = [self._number("block_count", config.layers)]
        keys += [
            self._number("context_length", config.context),
            self._number("embedding_length", config.hidden),
            self._number("feed_forward_length", config.feed_forward),
            self._number("attention.head_count", config.heads),
            self._number("attention.head_count_kv", config.kv_heads),
        ]
        keys += self._rope_scaling(config)
        keys.append(self._real("rope.freq_base", config.rope["rope_theta"]))
        keys.append(self._real("attention.layer_norm_rms_epsilon", config.norm_epsilon))
        if self.names_head_size or config.fields.get("head_dim") is not None:
            keys += [self._number(f"attention.{part}_length", config.head_size) for part in ("key", "value")]
        return keys

    def _rope_scaling(self, config: ModelConfig) -> list[Key]:
        rope, kind = config.rope, config.rope.get("rope_type")
        if kind in (None, "default") or (kind == "llama3" and self.made(config)):  # which is a tensor then
            return []
        factor, context = rope.get("factor"), rope.get("original_max_position_embeddings", config.context)
        if kind not in ("linear", "yarn") or factor is None:
            raise Unsupported(f"Rotary positions of the kind {str(kind)[:40]} are not converted.")
        keys = [
            make_key(f"{self.name}.rope.scaling.type", kind, STRING),
            self._real("rope.scaling.factor", factor),
        ]
        if kind == "yarn":
            keys.append(self._number("rope.scaling.original_context_length", int(context)))
            attention = rope.get("attention_factor", rope.get("attn_factor"))
            for key, value in (
                ("yarn_ext_factor", rope.get("extrapolation_factor")),
                ("yarn_attn_factor", attention),
                ("yarn_beta_fast", rope.get("beta_fast")),
                ("yarn_beta_slow", rope.get("beta_slow")),
            ):
                if value is not None:
                    keys.append(self._real(f"rope.scaling.{key}", value))
        return keys

    def _number(self, key: str, value: int) -> Key:
        return make_key(f"{self.name}.{key}", value, U32)

    def _real(self, key: str, value: float) -> Key:
        return make_key(f"{self.name}.{key}", value, F32)

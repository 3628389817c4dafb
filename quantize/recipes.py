"""Which block type each tensor gets.

The choice is that of `llama_tensor_get_type` and what it calls in src/llama-quant.cpp of llama.cpp, for dense models.
It depends on the order of the tensors, which is that of `weight_name_comparer` in src/llama-model-loader.h.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quantize.errors import BadRequest
from quantize.file_types import DEFAULT_TYPES, FLOATS, block_weights, parse_block_type, parse_file_type

# Without an importance matrix the result would be garbage (tensor_requires_imatrix).
_NEEDS_IMATRIX = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})


def file_order(name: str) -> tuple[int, bytes]:
    """Sorts tensors as the quantizer writes them: what belongs to no layer, then layer by layer, then by name."""
    layer = re.match(r"blk\.(\d+)\.", name)
    return (int(layer[1]) if layer else -1, name.encode())


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants of the result."""

    file_type: str = "Q4_K_M"
    pure: bool = False
    """Every tensor of the file type's own block type, no mixes."""
    leave_output: bool = False
    """output.weight stays as it is in the source."""
    output_type: str = ""
    """Of output.weight; empty: the file type decides."""
    embedding_type: str = ""
    """Of token_embd.weight; empty: the file type decides."""
    overrides: tuple[tuple[str, str], ...] = ()
    """(regular expression, block type): the first that is found in a tensor's name decides its type."""


def wish_of(
    file_type: str, *, pure: bool = False, leave_output: bool = False, output_type: str = "",
    embedding_type: str = "", tensor_types: Sequence[str] = (),
) -> Wish:  # fmt: skip
    """A wish in the words of a command line. Raises BadRequest."""
    overrides = []
    for text in tensor_types:
        pattern, equals, block_type = text.rpartition("=")
        if not equals or not pattern:
            raise BadRequest(f"{text!r} gives no type to any tensor.", "Write it like ffn_down=Q6_K.")
        overrides.append((pattern, parse_block_type(block_type)))
    return Wish(
        parse_file_type(file_type), pure, leave_output,
        parse_block_type(output_type) if output_type else "",
        parse_block_type(embedding_type) if embedding_type else "",
        tuple(overrides),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What the mixes look at in a model."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int

    @property
    def grouping(self) -> int:
        """Query heads to a key head."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Whether the loader would call it a 70B."""
        if self.layers != 80:
            return False
        return self.architecture == "qwen2" or (self.architecture == "llama" and self.heads != self.kv_heads)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The type of one tensor of the result."""

    name: str
    type: str
    demoted_from: str = ""
    """The type that did not fit the width of the rows."""


def choose_types(
    tensors: Sequence[tuple[str, tuple[int, ...], str]], shape: Shape, wish: Wish, *, has_imatrix: bool = False
) -> list[Chosen]:
    """The type of every tensor, in the order of the result.

    tensors: (GGUF name, shape with the rows' length last, type in the source) in any order.
    Raises BadRequest when an importance matrix is needed and not given.
    """
    ordered = sorted(tensors, key=lambda tensor: file_order(tensor[0]))
    mix = _Mix(shape, wish, has_imatrix, has_output=any(name == "output.weight" for name, _, _ in ordered))
    mix.values = sum(_is_value(name) for name, _, _ in ordered)
    chosen = [mix.choose(name, dimensions, source) for name, dimensions, source in ordered]
    if not has_imatrix:
        needy = next((item for item in chosen if needs_imatrix(item, wish.file_type)), None)
        if needy is not None:
            raise BadRequest(
                f"{wish.file_type} makes {needy.name} {needy.type}, which is garbage without an importance matrix.",
                "Give one with --imatrix, or take a larger type such as IQ3_S or Q3_K_M.",
            )
    return chosen


def needs_imatrix(item: Chosen, file_type: str) -> bool:
    """Whether a tensor would be garbage without its importance (tensor_requires_imatrix)."""
    if item.name in ("output.weight", "token_embd.weight"):
        return False
    return item.type in _NEEDS_IMATRIX or (item.type == "Q2_K" and file_type == "Q2_K_S")


def is_quantized(name: str, dimensions: Sequence[int]) -> bool:
    """Whether a tensor takes part: norms, biases and vectors stay as they are."""
    wide = len(dimensions) - next((n for n, size in enumerate(dimensions) if size != 1), len(dimensions) - 1)
    return wide >= 2 and name.endswith("weight") and "_norm.weight" not in name and "ffn_gate_inp.weight" not in name


def _is_value(name: str) -> bool:
    return any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"))


# What a type of 256 weights a block gives way to where the rows are no multiple of that (tensor_type_fallback).
_SMALLER_BLOCK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K"), "Q4_0"),
    "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip

_TWO_BITS = frozenset({"IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ2_S", "IQ2_M", "IQ1_M"})


@dataclass(slots=True)
class _Mix:
    """The state of the choice: some rules count the tensors of a kind that came before."""

    shape: Shape
    wish: Wish
    has_imatrix: bool
    has_output: bool
    values: int = 0
    """How many attention values (or fused ones) there are."""
    value: int = 0
    """The number of the next one of them."""
    down: int = 0
    """The number of the next ffn_down."""
    gate: int = 0
    up: int = 0
    patterns: list[tuple[re.Pattern[str], str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for pattern, block_type in self.wish.overrides:
            try:
                self.patterns.append((re.compile(pattern), block_type))
            except re.error as error:
                raise BadRequest(f"{pattern} is not a regular expression: {error}.") from None

    def choose(self, name: str, dimensions: tuple[int, ...], source: str) -> Chosen:
        """llama_tensor_get_type."""
        if not is_quantized(name, dimensions) or (self.wish.leave_output and name == "output.weight"):
            return Chosen(name, source)
        named = {"token_embd.weight": self.wish.embedding_type, "output.weight": self.wish.output_type}.get(name)
        if named:
            if dimensions[-1] % block_weights(named):
                raise BadRequest(
                    f"{name} has rows of {dimensions[-1]} weights, and {named} takes {block_weights(named)} together.",
                    "Take Q8_0 or F16 for it.",
                )
            return Chosen(name, named)
        wanted = DEFAULT_TYPES[self.wish.file_type]
        if wanted in FLOATS:
            return Chosen(name, wanted)
        for pattern, block_type in self.patterns:
            if pattern.search(name):
                wanted = block_type
                break
        else:
            if not self.wish.pure:
                wanted = self._mixed(name, dimensions[-1], wanted)
        return self._fitting(name, dimensions[-1], wanted)

    def _fitting(self, name: str, width: int, wanted: str) -> Chosen:
        """tensor_type_fallback."""
        if width % block_weights(wanted) == 0:
            return Chosen(name, wanted)
        smaller = _SMALLER_BLOCK.get(wanted, wanted)
        return Chosen(name, smaller if width % block_weights(smaller) == 0 else "F16", demoted_from=wanted)

    def _mixed(self, name: str, width: int, default: str) -> str:
        """llama_tensor_get_type_impl."""
        if name == "output.weight" or (not self.has_output and name == "token_embd.weight"):
            return self._output(width, default)
        if name == "token_embd.weight":
            return self._embedding(default)
        if self.wish.file_type in _TWO_BITS:
            return self._two_bits(name, default)
        if _is_value(name):
            chosen = self._attention_value(default)
            self.value += 1
            return chosen
        if "attn_k.weight" in name or "attn_q.weight" in name:
            return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(self.wish.file_type, default)
        if "attn_output.weight" in name:
            by_file = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
            return by_file.get(self.wish.file_type, default)
        if "ffn_up" in name:
            self.up += 1
            return self._inner(self.up - 1, default)
        if "ffn_gate" in name:
            self.gate += 1
            return self._inner(self.gate - 1, default)
        if "ffn_down" in name:
            chosen = self._down(default)
            self.down += 1
            return chosen
        return default

    def _output(self, width: int, default: str) -> str:
        if self.wish.output_type:
            return self.wish.output_type
        if width % block_weights(default):
            return "Q8_0"
        if self.wish.file_type in _TWO_BITS or self.wish.file_type == "IQ3_XXS":
            return "Q5_K"
        return default if default == "Q8_0" else "Q6_K"

    def _embedding(self, default: str) -> str:
        by_file = {
            **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), "Q2_K"),
            **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
        }
        return by_file.get(self.wish.file_type, default)

    def _two_bits(self, name: str, default: str) -> str:
        larger = self.wish.file_type in ("IQ2_S", "IQ2_M")
        if _is_value(name):
            self.value += 1
            if self.shape.grouping >= 4:
                return "Q4_K"
            return "IQ3_S" if larger else "Q2_K"
        if "ffn_down" in name:
            self.down += 1
            if self.down - 1 < self.shape.layers // 8:
                return "IQ3_S" if larger else "Q2_K"
        elif "attn_output.weight" in name:
            if self.wish.file_type in ("IQ1_S", "IQ1_M"):
                return "IQ2_XXS"
            if larger:
                return "IQ3_S"
        return default

    def _attention_value(self, default: str) -> str:
        file_type, grouped, chosen = self.wish.file_type, self.shape.grouping >= 4, default
        if file_type == "Q2_K":
            chosen = "Q4_K" if grouped else "Q3_K"
        elif file_type == "IQ3_XXS":
            chosen = "Q4_K" if grouped else "IQ3_XXS" if self.has_imatrix else "IQ3_S"
        elif (file_type in ("Q2_K_S", "IQ3_XS", "IQ3_S") and grouped) or file_type == "IQ3_M":
            chosen = "Q4_K"
        elif file_type == "Q3_K_M":
            chosen = "Q5_K" if self.value < 2 else "Q4_K"
        elif file_type == "Q3_K_L" or (file_type in ("IQ4_NL", "IQ4_XS") and grouped):
            chosen = "Q5_K"
        elif file_type in ("Q4_K_M", "Q5_K_M") and _gets_more_bits(self.value, self.values):
            chosen = "Q6_K"
        elif file_type == "Q4_K_S" and self.value < 4:
            chosen = "Q5_K"
        # Eight heads share these weights there: a fraction of the file, so more bits cost next to nothing.
        return "Q5_K" if self.shape.is_70b and chosen in ("Q3_K", "Q4_K") else chosen

    def _down(self, default: str) -> str:
        file_type, layers, layer = self.wish.file_type, self.shape.layers, self.down
        first_eighth = layer < layers // 8
        by_rule: dict[str, Callable[[], str]] = {
            "Q2_K": lambda: "Q3_K",
            "Q2_K_S": lambda: "Q4_K" if first_eighth else default,
            "IQ3_XXS": lambda: default if self.has_imatrix else "Q4_K" if first_eighth else "Q3_K",
            "Q3_K_M": lambda: "Q5_K" if layer < layers // 16 else "Q4_K",
            "IQ3_M": lambda: "Q4_K" if first_eighth else default,
            "Q3_K_L": lambda: "Q5_K",
            "Q4_K_M": lambda: "Q6_K" if _gets_more_bits(layer, layers) else default,
            "Q5_K_M": lambda: "Q6_K" if _gets_more_bits(layer, layers) else default,
            "IQ4_NL": lambda: "Q5_K" if first_eighth and not self.has_imatrix else default,
            "IQ4_XS": lambda: "Q5_K" if first_eighth and not self.has_imatrix else default,
            "Q4_K_S": lambda: "Q5_K" if first_eighth else default,
            "Q4_0": lambda: "Q4_1" if first_eighth and self.has_imatrix else default,
            "Q5_0": lambda: "Q5_1" if first_eighth and self.has_imatrix else default,
        }
        rule = by_rule.get(file_type)
        return rule() if rule else default

    def _inner(self, number: int, default: str) -> str:
        """ffn_gate and ffn_up."""
        layers = self.shape.layers
        if self.wish.file_type == "IQ3_XS" and layers // 8 <= number < 7 * layers // 8:
            return "IQ3_XXS"
        return default


def _gets_more_bits(layer: int, layers: int) -> bool:
    """use_more_bits: the first and last eighth, and every third layer between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2

"""Where every tensor of the result will lie, known from config.json alone: no weight has to be here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quantize.architectures import architecture_of
from quantize.architectures.decoder import Wanted
from quantize.config import ModelConfig
from quantize.file_types import row_bytes
from quantize.gguf_format import StoredTensor, padded
from quantize.recipes import Shape, Wish, choose_types

# What config.json calls the type of its weights.
_CHECKPOINT_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor of the result."""

    wanted: Wanted
    """Where it comes from."""
    stored: StoredTensor
    """Where it goes: type, shape and offset from the start of the data."""
    demoted_from: str = ""
    """The type that its width is no multiple of."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The data part of a GGUF that does not exist yet."""

    file_type: str
    tensors: tuple[Planned, ...]

    @property
    def parameters(self) -> int:
        """Weights, of all tensors."""
        return sum(planned.stored.weights for planned in self.tensors)

    @property
    def data_size(self) -> int:
        """Bytes of the data part, the padding after each tensor included."""
        return sum(padded(planned.stored.size) for planned in self.tensors)

    @property
    def demoted(self) -> int:
        """How many tensors got another type than theirs, because of their width."""
        return sum(bool(planned.demoted_from) for planned in self.tensors)

    @property
    def stored(self) -> list[StoredTensor]:
        return [planned.stored for planned in self.tensors]


def plan(config: ModelConfig, wish: Wish, *, has_imatrix: bool = False, output_type: str = "") -> Layout:
    """The layout of a converted checkpoint, exact to the byte.

    output_type: of lm_head in the checkpoint where that is known to be other than config.json says.
    Raises Unsupported for a class of models that is not converted, BadRequest when an importance matrix is missing.
    """
    architecture = architecture_of(config.model_class)
    kind = config.fields.get("torch_dtype", config.fields.get("dtype"))
    source_type = _CHECKPOINT_TYPES.get(kind if isinstance(kind, str) else "", "BF16")
    wanted = architecture.tensors(config)
    types = {
        tensor.name: _kept_type(tensor, output_type or source_type if tensor.name == "output.weight" else source_type)
        for tensor in wanted
    }
    shape = Shape(architecture.name, config.layers, config.heads, config.kv_heads)
    return arrange(wanted, types, shape, wish, has_imatrix=has_imatrix)


def _kept_type(tensor: Wanted, source_type: str) -> str:
    """The type of a tensor that is not quantized (prepare_tensors in conversion/base.py of llama.cpp)."""
    plain = len(tensor.shape) > 1 and tensor.name.endswith(".weight") and not tensor.name.endswith("_norm.weight")
    return source_type if plain else "F32"


def arrange(
    wanted: Iterable[Wanted], types: dict[str, str], shape: Shape, wish: Wish, *, has_imatrix: bool = False
) -> Layout:
    """Choose a type for each tensor and put them one behind the other.

    types: of each tensor by name, for those that stay as they are.
    """
    by_name = {tensor.name: tensor for tensor in wanted}
    chosen = choose_types(
        [(tensor.name, tensor.shape, types[tensor.name]) for tensor in by_name.values()],
        shape, wish, has_imatrix=has_imatrix,
    )  # fmt: skip
    planned, offset = [], 0
    for choice in chosen:
        tensor = by_name[choice.name]
        # The C library writes no dimensions of one row; the width stays.
        dimensions = tensor.shape
        while len(dimensions) > 1 and dimensions[0] == 1:
            dimensions = dimensions[1:]
        stored = StoredTensor(tensor.name, choice.type, dimensions, offset)
        planned.append(Planned(tensor, stored, choice.demoted_from))
        offset += padded(stored.rows * row_bytes(choice.type, stored.width))
    return Layout(wish.file_type, tuple(planned))

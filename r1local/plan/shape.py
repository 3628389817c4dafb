"""What planning needs to know of a model: how many bytes each layer has, and the sizes its buffers follow from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from r1local.catalog import Model
from r1local.gguf_types import ArrayInfo, GgufHeader


@dataclass(frozen=True, slots=True)
class Shape:
    """One model in one quantization."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    key_size: int
    """Floats of one head's key."""
    value_size: int
    feed_forward: int
    vocabulary: int
    trained_context: int
    """Tokens it was trained for."""
    parameters: int
    layer_bytes: tuple[int, ...]
    """Weights of each layer."""
    output_bytes: int
    """What makes logits of the last layer's output: a norm and a matrix. Of a tied model the token embedding."""
    embedding_bytes: int
    """The token embedding. One row of it is read for a token, and it stays in the machine's memory."""
    tied: bool
    """The token embedding is the output matrix as well: a GPU gets a copy of it."""
    largest_bytes: int = 0
    """The largest tensor of a layer."""
    read_types: Mapping[str, int] = field(default_factory=dict)
    """What is read to make one token, by type: Q4_K, Q6_K and so on."""
    quantization: str = ""
    file_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """All weights, each once."""
        return self.read_bytes + (0 if self.tied else self.embedding_bytes)

    @property
    def read_bytes(self) -> int:
        """Bytes of weights read to make one token."""
        return sum(self.layer_bytes) + self.output_bytes

    def kv_bytes(self, kv_type: str = "f16") -> int:
        """Bytes of KV cache that one token takes in one layer."""
        block, block_bytes = KV_TYPES[kv_type]
        return self.kv_heads * (self.key_size + self.value_size) * block_bytes // block


# Elements in a block and its bytes, of the types a KV cache is planned in (ggml-common.h of llama.cpp).
KV_TYPES: Mapping[str, tuple[int, int]] = {"f16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}


def shape_of_file(header: GgufHeader) -> Shape:
    """From a model file's header, exact."""
    heads = max(1, header.integer("attention.head_count", 1))
    hidden = header.integer("embedding_length")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return _shape(
        [(tensor.name, tensor.size, tensor.type_name) for tensor in header.tensors],
        layers=header.integer("block_count", 1),
        hidden=hidden,
        heads=heads,
        kv_heads=header.integer("attention.head_count_kv", heads) or heads,
        key_size=header.integer("attention.key_length", hidden // heads),
        value_size=header.integer("attention.value_length", hidden // heads),
        feed_forward=header.integer("feed_forward_length", 4 * hidden),
        vocabulary=header.integer("vocab_size", tokens.length if isinstance(tokens, ArrayInfo) else 0),
        trained_context=header.integer("context_length"),
        parameters=header.parameters,
        quantization=header.quantization,
        file_bytes=header.file_size,
    )


def shape_of_model(model: Model, quantization: str, tensors: Sequence[tuple[str, int, str]]) -> Shape:
    """From the catalog, for a file that is not here. `tensors`: name, bytes and type of each."""
    return _shape(
        tensors,
        layers=model.layers,
        hidden=model.hidden,
        heads=model.heads,
        kv_heads=model.kv_heads,
        key_size=model.head_size,
        value_size=model.head_size,
        feed_forward=model.feed_forward,
        vocabulary=model.vocabulary,
        trained_context=model.context,
        parameters=model.parameters,
        quantization=quantization,
        # Vocabulary and metadata: 6 to 8 MB of the files of distills.
        file_bytes=sum(size for _, size, _ in tensors) + 40 * model.vocabulary,
    )


def _shape(tensors: Iterable[tuple[str, int, str]], *, layers: int, **rest: int | str) -> Shape:
    per_layer, output, embedding, largest, has_output = [0] * layers, 0, 0, 0, False
    read: Counter[str] = Counter()
    embedding_type = ""
    for name, size, kind in tensors:
        first, _, remainder = name.partition(".")
        number = remainder.partition(".")[0]
        if first == "blk" and number.isdigit() and int(number) < layers:
            per_layer[int(number)] += size
            largest = max(largest, size)
        elif first == "token_embd":
            embedding += size
            embedding_type = kind
            continue
        else:  # output.weight, output_norm.weight, rope_freqs.weight
            output += size
            has_output = has_output or name == "output.weight"
        read[kind] += size
    if not has_output and embedding:
        read[embedding_type] += embedding
    return Shape(
        layers=layers,
        layer_bytes=tuple(per_layer),
        output_bytes=output if has_output else output + embedding,
        embedding_bytes=embedding,
        tied=not has_output,
        largest_bytes=largest,
        read_types=dict(read),
        **rest,  # type: ignore[arg-type]
    )

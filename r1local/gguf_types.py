"""What a GGUF header says, as values, and the numbers it uses for block types and for mixes of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# ggml_type -> (name, weights in a block, bytes in a block). ggml/src/ggml-common.h and ggml.c.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}

# llama_ftype -> the name people know it by. llama.cpp include/llama.h.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """An array in the metadata. Its elements are not kept: a vocabulary is 150,000 strings."""

    element_type: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    name: str
    shape: tuple[int, ...]
    """Row length first, as ggml has it."""
    type_id: int
    offset: int
    """From the start of the data section."""
    size: int
    """Bytes, without padding."""

    @property
    def type_name(self) -> str:
        return TENSOR_TYPES[self.type_id][0]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    path: Path
    version: int
    metadata: dict[str, Any]
    """Scalars and strings by key; an array is an ArrayInfo."""
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int
    """Of all parts together where the file is split."""
    alignment: int = 32
    parts: tuple[Path, ...] = field(default=())
    """The further files of a split model, in order."""

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def quantization(self) -> str:
        """The name of the file's mix, Q4_K_M or so; the commonest tensor type where the file does not say."""
        name = FILE_TYPES.get(self.metadata.get("general.file_type", -1))
        if name:
            return name
        weights: Counter[str] = Counter()
        for tensor in self.tensors:
            if len(tensor.shape) > 1:
                weights[tensor.type_name] += tensor.size
        return weights.most_common(1)[0][0] if weights else "unknown"

    @property
    def parameters(self) -> int:
        total = 0
        for tensor in self.tensors:
            count = 1
            for n in tensor.shape:
                count *= n
            total += count
        return total

    @property
    def chat_template(self) -> str | None:
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None

    def integer(self, suffix: str, default: int = 0) -> int:
        """The value of `{architecture}.{suffix}`, such as block_count."""
        value = self.metadata.get(f"{self.architecture}.{suffix}", default)
        return value if isinstance(value, int) else default

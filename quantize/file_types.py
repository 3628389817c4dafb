"""The types of GGUF: of a whole file, as `-t` takes them, and of the blocks that a tensor is stored in."""

from __future__ import annotations

from difflib import get_close_matches

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from quantize.errors import BadRequest

FLOATS = ("F32", "F16", "BF16")

# What `-t` takes: the file type's number in the GGUF, and the block type of what has no rule of its own.
DEFAULT_TYPES = {
    "F32": "F32", "F16": "F16", "BF16": "BF16",
    "Q4_0": "Q4_0", "Q4_1": "Q4_1", "Q5_0": "Q5_0", "Q5_1": "Q5_1", "Q8_0": "Q8_0",
    "Q2_K": "Q2_K", "Q2_K_S": "Q2_K",
    "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K",
    "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K", "Q6_K": "Q6_K",
    "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS",
    "IQ3_XS": "IQ3_S", "IQ3_XXS": "IQ3_XXS", "IQ3_S": "IQ3_S", "IQ3_M": "IQ3_S",
    "IQ2_XXS": "IQ2_XXS", "IQ2_XS": "IQ2_XS", "IQ2_S": "IQ2_XS", "IQ2_M": "IQ2_S",
    "IQ1_S": "IQ1_S", "IQ1_M": "IQ1_M",
}  # fmt: skip
FILE_TYPES = tuple(DEFAULT_TYPES)

# Aliases of llama-quantize.
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def file_type_number(name: str) -> int:
    """The llama_ftype of include/llama.h."""
    return int(LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{name}"])


def parse_file_type(text: str) -> str:
    """Raises BadRequest with what was probably meant."""
    name = text.strip().upper().replace("-", "_")
    name = _ALIASES.get(name, name)
    if name not in DEFAULT_TYPES:
        near = [known for known in FILE_TYPES if name and known.startswith(name)] or get_close_matches(
            name, FILE_TYPES, 1
        )
        hint = f"Did you mean {' or '.join(near)}? " if len(near) < 9 and near else ""
        raise BadRequest(f"There is no type {text}.", f"{hint}There are {', '.join(FILE_TYPES)}.")
    return name


def parse_block_type(text: str) -> str:
    """The type of a single tensor. Raises BadRequest."""
    name = text.strip().upper()
    known = sorted({*DEFAULT_TYPES.values(), *FLOATS})
    if name not in known:
        raise BadRequest(f"There is no tensor type {text}.", f"There are {', '.join(known)}.")
    return name


def row_bytes(block_type: str, weights: int) -> int:
    """Bytes of a row of so many weights, a multiple of the block size."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[block_type]]
    return weights // block * size


def block_weights(block_type: str) -> int:
    """Weights in a block."""
    return GGML_QUANT_SIZES[GGMLQuantizationType[block_type]][0]


def type_number(block_type: str) -> int:
    """The ggml_type of ggml/include/ggml.h."""
    return int(GGMLQuantizationType[block_type])

"""Reads and checks the header of a GGUF file, before the C library is allowed near it.

A bad header does not raise in the C library: it aborts the process. So everything that can be checked without
the weights is checked here, in Python, where integers do not wrap: every count against the bytes left in the
file before anything is allocated, every type, alignment, duplicate names, and that each tensor lies inside
the file. Format: ggml/include/gguf.h and ggml/docs/gguf.md of llama.cpp.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from pathlib import Path
from typing import Any

from r1local import hf_cache
from r1local.errors import ModelFileError, ModelNotFound, NotGGUF, TruncatedGGUF, UnsupportedModel
from r1local.gguf_types import TENSOR_TYPES, ArrayInfo, GgufHeader, TensorInfo

# Caps, all well above real models: a real file of 152,064 tokens and 300,000 merges is far below them.
MAX_KEYS = 100_000
MAX_TENSORS = 100_000
MAX_ARRAY = 10_000_000
MAX_STRING = 64 << 20
MAX_KEY_NAME = 65_535
MAX_TENSOR_NAME = 63
MAX_ALIGNMENT = 1 << 20
MAX_LAYERS = 512
MAX_DIMENSIONS = 4

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}

_SPLIT_NAME = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
# Arrays the C library casts without a look at their element type, and the type they must have.
_ARRAY_TYPES = {
    "tokenizer.ggml.tokens": {_STRING},
    "tokenizer.ggml.merges": {_STRING},
    "tokenizer.ggml.scores": {6},
    "tokenizer.ggml.token_type": {4, 5},
}


# Keys that the C library reads as one type only, and aborts on another.
_KEY_TYPES = {"general.alignment": 4, "general.architecture": _STRING, "split.no": 2, "split.count": 2}
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


def read_header(path: Path, *, follow_parts: bool = True) -> GgufHeader:
    """Read and check the header of `path`, and of the further parts when it is the first of a split model.

    Raises ModelNotFound, NotGGUF, TruncatedGGUF, UnsupportedModel or another ModelFileError; nothing else.
    Weights are not read.
    """
    shown = path.name
    try:
        if path.is_dir():
            raise NotGGUF(f"{path} is a folder, not a GGUF file.", "Name the .gguf file inside it.")
        if not path.is_file():
            raise ModelNotFound(f"There is no file {path}.", "Check the path, or see `r1local models`.")
        size = path.stat().st_size
        if size == 0:
            raise TruncatedGGUF(f"{shown} is empty (0 bytes).", "Delete it and download it again.")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Reader(data, size, path).header()
    except OSError as error:
        raise ModelFileError(
            f"{shown} cannot be read: {error.strerror or error}.", "Check the permissions of the file."
        ) from error
    return _with_parts(header) if follow_parts else header


def _with_parts(header: GgufHeader) -> GgufHeader:
    count = header.metadata.get("split.count", 0)
    match = _SPLIT_NAME.search(header.path.name)
    if not isinstance(count, int) or count <= 1:
        return header
    if match is None or int(match.group(1)) != 1 or int(match.group(2)) != count:
        raise ModelFileError(
            f"{header.path.name} is a part of a split model and not its first.",
            "Name the file that ends in -00001-of-0000N.gguf.",
        )
    parts: list[Path] = []
    tensors = list(header.tensors)
    total = header.file_size
    for number in range(2, count + 1):
        name = f"{header.path.name[: match.start()]}-{number:05d}-of-{count:05d}.gguf"
        part = header.path.with_name(name)
        if not part.exists():
            raise TruncatedGGUF(f"Part {number} of {count} is missing: {part.name}.", "Download the missing part.")
        if part.is_symlink() and not _lies_with(header.path, part):
            raise ModelFileError(
                f"{part.name} is a link that leads away from the first part.", "Do not trust where it came from."
            )
        further = read_header(part, follow_parts=False)
        if (further.metadata.get("split.no"), further.metadata.get("split.count")) != (number - 1, count):
            raise ModelFileError(
                f"{part.name} is not part {number} of {count} of this model.", "Download the parts again."
            )
        parts.append(part)
        tensors.extend(further.tensors)
        total += further.file_size
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ModelFileError(
            f"The parts of {header.path.name} repeat one another's tensors.", "Download the parts again."
        )
    return GgufHeader(
        header.path, header.version, header.metadata, tuple(tensors), header.data_offset, total,
        header.alignment, tuple(parts),
    )  # fmt: skip


def _lies_with(first: Path, part: Path) -> bool:
    """Whether a part that is a link leads to where the first one is, or to a blob of the same cached repository."""
    if Path(os.path.realpath(first)).parent == Path(os.path.realpath(part)).parent:
        return True
    repo = hf_cache.repo_of(part)
    return repo is not None and repo.allows(part)


class _Reader:
    """Walks the header once. Every read is checked against the end of the file first."""

    def __init__(self, data: mmap.mmap, size: int, path: Path) -> None:
        self.data = data
        self.size = size
        self.path = path
        self.at = 0

    def wrong(self, what: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path.name} is not a sound GGUF file: {what}.",
            "Download it again; do not trust its source.",
        )

    def need(self, count: int, what: str) -> int:
        """The position of the next `count` bytes, which are then passed over."""
        start = self.at
        if count > self.size - start:
            raise TruncatedGGUF(
                f"{self.path.name} ends inside its header ({what}): it was cut off or never finished.",
                "Download it again.",
            )
        self.at = start + count
        return start

    def u32(self, what: str) -> int:
        start = self.need(4, what)
        return int.from_bytes(self.data[start : start + 4], "little")

    def u64(self, what: str) -> int:
        start = self.need(8, what)
        return int.from_bytes(self.data[start : start + 8], "little")

    def string(self, what: str, limit: int) -> str:
        length = self.u64(what)
        if length > limit:
            raise self.wrong(f"{what} of {length:,} bytes, at most {limit:,} are allowed")
        start = self.need(length, what)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError:
            raise self.wrong(f"{what} is not UTF-8 text") from None

    def header(self) -> GgufHeader:
        if self.data[:4] != b"GGUF":
            raise NotGGUF(
                f"{self.path.name} is not a GGUF file.",
                "r1local runs .gguf files; `r1local models` lists models to get as such.",
            )
        self.at = 4
        version = self.u32("version")
        if version not in (2, 3):
            raise self.wrong(f"GGUF version {version}; 2 and 3 are known")
        n_tensors = self.u64("tensor count")
        n_keys = self.u64("key count")
        # A tensor takes at least 32 bytes here, a key at least 13.
        if n_tensors > MAX_TENSORS or n_tensors * 32 > self.size:
            raise self.wrong(f"it claims {n_tensors:,} tensors")
        if n_keys > MAX_KEYS or n_keys * 13 > self.size:
            raise self.wrong(f"it claims {n_keys:,} metadata keys")
        metadata: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self.string("a metadata key", MAX_KEY_NAME)
            if key in metadata:
                raise self.wrong(f"the key {key!r} comes twice")
            kind = self.u32(f"type of {key!r}")
            if kind != _KEY_TYPES.get(key, kind):
                raise self.wrong(f"the key {key!r} has the type {kind}")
            metadata[key] = self.value(key, kind)
        alignment = self.alignment(metadata)
        tensors = self.tensors(n_tensors)
        data_offset = -(-self.at // alignment) * alignment
        self.check_layout(tensors, data_offset, alignment)
        self.check_metadata(metadata)
        return GgufHeader(self.path, version, metadata, tensors, data_offset, self.size, alignment)

    def value(self, key: str, kind: int) -> Any:
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            start = self.need(scalar.size, f"value of {key!r}")
            (number,) = scalar.unpack_from(self.data, start)
            return bool(number) if kind == _BOOL else number
        if kind == _STRING:
            return self.string(f"value of {key!r}", MAX_STRING)
        if kind == _ARRAY:
            return self.array(key)
        raise self.wrong(f"the key {key!r} has the unknown type {kind}")

    def array(self, key: str) -> ArrayInfo:
        kind = self.u32(f"element type of {key!r}")
        length = self.u64(f"length of {key!r}")
        expected = _ARRAY_TYPES.get(key)
        if expected is not None and kind not in expected:
            raise self.wrong(f"the array {key!r} has elements of type {kind}")
        if length > MAX_ARRAY:
            raise self.wrong(f"the array {key!r} claims {length:,} elements")
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            self.need(scalar.size * length, f"array {key!r}")
        elif kind == _STRING:
            self.skip_strings(key, length)
        else:
            raise self.wrong(f"the array {key!r} holds elements of type {kind}")
        return ArrayInfo(kind, length)

    def skip_strings(self, key: str, length: int) -> None:
        """Pass over `length` strings. The hot loop: a vocabulary and its merges are 300,000 of them."""
        if length * 8 > self.size - self.at:
            self.need(length * 8, f"array {key!r}")
        data, size, at = self.data, self.size, self.at
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(length):
            if at + 8 > size:
                break
            n = unpack(data, at)[0]
            if n > MAX_STRING:
                raise self.wrong(f"a string of {n:,} bytes in {key!r}")
            at += 8 + n
        else:
            if at <= size:
                self.at = at
                return
        self.need(self.size, f"array {key!r}")

    def alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or isinstance(alignment, bool)
            or not 8 <= alignment <= MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            raise self.wrong(f"an alignment of {alignment!r}")
        return alignment

    def tensors(self, count: int) -> tuple[TensorInfo, ...]:
        found: list[TensorInfo] = []
        names: set[str] = set()
        for _ in range(count):
            name = self.string("a tensor name", MAX_TENSOR_NAME)
            if name in names:
                raise self.wrong(f"the tensor {name!r} comes twice")
            names.add(name)
            n_dims = self.u32(f"dimensions of {name!r}")
            if not 1 <= n_dims <= MAX_DIMENSIONS:
                raise self.wrong(f"the tensor {name!r} has {n_dims} dimensions")
            shape = tuple(self.u64(f"shape of {name!r}") for _ in range(n_dims))
            type_id = self.u32(f"type of {name!r}")
            if type_id not in TENSOR_TYPES:
                raise UnsupportedModel(
                    f"{self.path.name} holds the tensor {name!r} of type {type_id}, which is not known here.",
                    "Choose another quantization of the model, such as Q4_K_M.",
                )
            _, block, block_bytes = TENSOR_TYPES[type_id]
            weights = 1
            for n in shape:
                weights *= n
            if weights == 0 or weights >= 1 << 62 or shape[0] % block:
                raise self.wrong(f"the tensor {name!r} has the shape {list(shape)}")
            offset = self.u64(f"offset of {name!r}")
            found.append(TensorInfo(name, shape, type_id, offset, weights // block * block_bytes))
        return tuple(found)

    def check_layout(self, tensors: tuple[TensorInfo, ...], data_offset: int, alignment: int) -> None:
        """Tensors follow one another without gap or overlap, in file order, and end inside the file.

        That is what the C library's own reader demands (ggml/src/gguf.cpp).
        """
        expected = 0
        for tensor in tensors:
            if tensor.offset != expected:
                raise self.wrong(f"the tensor {tensor.name!r} is not where it must be")
            expected += -(-tensor.size // alignment) * alignment
        if tensors:
            end = data_offset + tensors[-1].offset + tensors[-1].size
            if end > self.size:
                raise TruncatedGGUF(
                    f"{self.path.name} has {self.size:,} bytes and needs {end:,}: it was cut off or never finished.",
                    "Download it again.",
                )

    def check_shape(self, metadata: dict[str, Any], architecture: str, layers: int) -> None:
        """What the C library asserts about layers, experts and rope."""

        def number(suffix: str) -> int:
            value = metadata.get(f"{architecture}.{suffix}", 0)
            return value if isinstance(value, int) else 0

        experts = number("expert_count")
        if not 0 <= experts <= MAX_LAYERS or not 0 <= number("expert_used_count") <= experts:
            raise self.wrong(f"{number('expert_used_count')} of {experts} experts, at most {MAX_LAYERS} are possible")
        if not 0 <= number("nextn_predict_layers") <= layers:
            raise self.wrong(f"{number('nextn_predict_layers')} prediction layers of {layers}")
        scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
        if scaling not in _ROPE_SCALINGS:
            raise self.wrong(f"the rope scaling {scaling!r}")

    def check_metadata(self, metadata: dict[str, Any]) -> None:
        if metadata.get("split.no", 0) != 0 and metadata.get("split.count", 0) > 1:
            return  # a further part of a split model carries no description of the model
        if metadata.get("general.type", "model") != "model":
            raise UnsupportedModel(
                f"{self.path.name} is a GGUF file of type {metadata['general.type']!r}, not a model.",
                "Name the model file itself.",
            )
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self.wrong("it does not name its architecture")
        layers = metadata.get(f"{architecture}.block_count", 1)
        if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= MAX_LAYERS:
            raise self.wrong(f"a block count of {layers!r}, 1 to {MAX_LAYERS} are possible")
        self.check_shape(metadata, architecture, layers)
        tokens = metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, ArrayInfo):
            for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
                beside = metadata.get(key)
                if isinstance(beside, ArrayInfo) and beside.length != tokens.length:
                    raise self.wrong(f"{key} has {beside.length:,} entries for {tokens.length:,} tokens")
        for key in _ARRAY_TYPES:
            if key in metadata and not isinstance(metadata[key], ArrayInfo):
                raise self.wrong(f"{key} is not an array")

#!/usr/bin/env python3
"""Records what llama.cpp makes of the checkpoints in tests/checkpoints.py: tests/data/upstream-digests.json.

Each case is converted by llama.cpp's convert_hf_to_gguf.py in the type it is stored in, and the result is quantized by
`llama_model_quantize`, the function behind llama-quantize, to many file types. The digests of these files are what
the tests of `quantize` hold its own files against. This is run by hand when llama-cpp-python is raised, never in CI:

    python scripts/upstream_digests.py --llama-cpp FOLDER --python PYTHON --keep FOLDER [--case NAME ...]

- This script runs in the development environment: the quantizer is the one of the installed llama-cpp-python.
- FOLDER is the llama.cpp source that this llama-cpp-python was built from (vendor/llama.cpp in its sdist), so that
  converter and quantizer belong together.
- PYTHON has what the converter needs: torch, transformers 4.57, sentencepiece, safetensors, pyyaml, numpy. Its gguf is
  the source folder's own, which the converter finds by itself. transformers 5.0 to 5.9 are reported to read the
  tokenizers of the distills wrongly; 4.57.6 and 5.23.0 led to the same bytes for all cases tried (all but the 70B).
- The files are kept as KEEP/CASE/: checkpoint/CASE, converted.gguf, and one .gguf for each type.

One thing of the converter is changed while it runs: it names the pre-tokenizer by a hash over the ids of a sentence.
The small tokenizers of tests are in nobody's table, so an unknown hash becomes the name that `PRE_TOKENIZERS` gives.

The data of quantized files are those of a C library built without fused multiply-add, as libggml-base is for x86-64; a
processor that has it from the start (arm64) may round a scale otherwise. The IQ1 types sort with the C library's qsort,
where equal keys may come out in another order elsewhere. `made_by` says where the digests are from.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests import checkpoints

DIGESTS = checkpoints.DATA / "upstream-digests.json"
PRE_TOKENIZERS = {"qwen2": "qwen2", "llama": "llama-bpe", "qwen3": "qwen2"}

# What llama-quantize, given an importance matrix, writes down about it besides the number of entries.
IMATRIX_FILE, IMATRIX_DATASET, IMATRIX_CHUNKS = "imatrix.gguf", "calibration.txt", 100

PLAIN_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ3_M",
)  # fmt: skip
# The first of these cannot be made without a matrix; the others come out otherwise with one, some in their types too.
IMATRIX_TYPES = (
    "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M", "Q2_K_S", "Q2_K",
    "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_XS", "IQ4_NL",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One call of the quantizer."""

    type: str
    imatrix: bool = False
    pure: bool = False
    leave_output: bool = False
    output: str | None = None
    embedding: str | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    """(regular expression, type): the first that is found in a tensor's name decides."""

    @property
    def name(self) -> str:
        """The key in the digests, and the name of the file."""
        parts = [self.type]
        parts += ["imatrix"] * self.imatrix + ["pure"] * self.pure + ["leave-output"] * self.leave_output
        parts += [f"output={self.output}"] * bool(self.output) + [f"embedding={self.embedding}"] * bool(self.embedding)
        parts += [f"{pattern}={kind}" for pattern, kind in self.overrides]
        return "+".join(parts)

    @property
    def options(self) -> dict[str, Any]:
        """What is not as by default, for the digests."""
        return {key: value for key, value in asdict(self).items() if value}


ALL = tuple(Recipe(kind) for kind in PLAIN_TYPES) + tuple(Recipe(kind, imatrix=True) for kind in IMATRIX_TYPES)
OPTIONS = (
    Recipe("Q4_K_M", pure=True),
    Recipe("Q2_K", pure=True),
    Recipe("IQ2_XS", imatrix=True, pure=True, output="Q6_K", embedding="Q4_K"),
    Recipe("Q4_K_M", leave_output=True),
    Recipe("Q4_K_M", output="Q8_0", embedding="Q8_0"),
    Recipe("Q4_K_M", output="F16", embedding="F16"),
    Recipe("BF16", output="Q8_0", embedding="Q8_0"),
    Recipe("Q4_K_M", overrides=(("attn_v", "Q8_0"), ("blk\\.[01]\\.ffn_down", "BF16"))),
    Recipe("Q3_K_M", overrides=(("ffn_(up|gate)", "IQ4_XS"), ("ffn", "Q5_K"), ("output", "Q4_0"))),
)
# Every file type for every case would be hours: the large ones show what they are there for.
SEVENTY = tuple(Recipe(kind) for kind in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS"))
SEVENTY += tuple(Recipe(kind, imatrix=True) for kind in ("IQ3_XXS", "IQ3_M", "IQ2_XS", "IQ1_M", "IQ4_XS"))
FEW = tuple(Recipe(kind) for kind in ("F16", "BF16", "Q8_0", "Q4_K_M", "IQ4_XS"))
RECIPES: dict[str, tuple[Recipe, ...]] = {
    "DeepSeek-R1-Distill-Qwen-1.5B": ALL + OPTIONS,
    "DeepSeek-R1-Distill-Llama-70B": SEVENTY,
    "R1-Distill-Qwen-Tokenizer": FEW,
    "qwen2-tied-f32": ALL + OPTIONS,
    "Tiny-R1-Chat-1.5M-v1.1": FEW,
    "qwen3-bare-config": FEW,
    "llama-bare-config": FEW,
}

# Runs in the converter's Python, given the source folder, a pre-tokenizer's name and the converter's arguments.
CONVERTER = """
import runpy, sys
source, fallback = sys.argv[1:3]
sys.path[:0] = [source, source + "/gguf-py"]
from conversion.base import TextModel
known = TextModel.get_vocab_base_pre
def get_vocab_base_pre(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        print("pre-tokenizer set to", fallback)
        return fallback
TextModel.get_vocab_base_pre = get_vocab_base_pre
sys.argv = [source + "/convert_hf_to_gguf.py", *sys.argv[3:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
VERSIONS = """
import json, platform, importlib.metadata as m
names = ("torch", "transformers", "tokenizers", "numpy", "sentencepiece")
print(json.dumps({"python": platform.python_version(), **{name: m.version(name) for name in names}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="the llama.cpp source folder")
    parser.add_argument("--python", type=Path, required=True, help="a Python with torch and transformers")
    parser.add_argument("--keep", type=Path, required=True, help="where checkpoints and models are left")
    parser.add_argument("--case", action="append", choices=list(checkpoints.CASES), help="only this one; repeatable")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    silence = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silence, None)
    record: dict[str, Any] = json.loads(DIGESTS.read_text(encoding="utf-8")) if DIGESTS.exists() else {}
    versions = json.loads(subprocess.run([options.python, "-c", VERSIONS], check=True, stdout=subprocess.PIPE).stdout)
    record["made_by"] = {"llama-cpp-python": llama_cpp.__version__, **versions, "quantized_on": platform.platform()}
    record["imatrix"] = {"file": IMATRIX_FILE, "dataset": IMATRIX_DATASET, "chunks": IMATRIX_CHUNKS}
    record["letters"] = LETTERS
    cases = record.setdefault("cases", {})
    for case in options.case or checkpoints.CASES:
        print(case, flush=True)
        cases[case] = digest_case(case, options.keep / case, options.llama_cpp, options.python, options.threads)
        record["cases"] = {name: cases[name] for name in checkpoints.CASES if name in cases}
        DIGESTS.write_text(dumped(record), encoding="utf-8")


def digest_case(case: str, folder: Path, source: Path, python: Path, threads: int) -> dict[str, Any]:
    """Makes the checkpoint and all that upstream makes of it in `folder`; returns the entry of the digests."""
    checkpoint = checkpoints.write_case(folder / "checkpoint", case)
    arguments = checkpoints.CASES[case]
    converted = folder / "converted.gguf"
    pre = PRE_TOKENIZERS[arguments.get("architecture", "qwen2")]
    said = convert(checkpoint, converted, arguments.get("dtype", "BF16").lower(), source, python, pre)
    weights = sorted(path for path in checkpoint.iterdir() if path.suffix == ".safetensors")
    entry: dict[str, Any] = {
        # If these differ it is the checkpoint that is another one, and nothing below says anything.
        "checkpoint": {path.name: short(path.read_bytes()) for path in weights},
        "pre_patched": "pre-tokenizer set to" in said,
    }
    reader = gguf.GGUFReader(converted)
    entry["converted"] = digest_file(converted, reader)
    entry["keys"] = {field.name: told(field) for field in fields(reader)}
    entry["tensors"] = [[tensor.name, [int(length) for length in tensor.shape]] for tensor in reader.tensors]
    order: list[str] = []
    entry["quantized"] = {}
    for recipe in RECIPES.get(case, ALL):
        path = folder / f"{recipe.name.replace(chr(92), '').replace('|', '_')}.gguf"
        quantize(converted, path, recipe, checkpoints.imatrix_for(case) if recipe.imatrix else None, threads)
        reader = gguf.GGUFReader(path)
        digest = digest_file(path, reader)
        added = {
            field.name: told(field)
            for field in fields(reader)
            if field.name not in entry["keys"] or told(field) != entry["keys"][field.name]
        }
        common = [field.name for field in fields(reader) if field.name in entry["keys"]]
        moved = [name for name in entry["keys"] if name not in ("general.file_type", "general.quantization_version")]
        moved += ["general.quantization_version", "general.file_type"]
        if common != moved:
            raise AssertionError(f"{recipe.name}: keys in another order than assumed: {common}")
        names = [tensor.name for tensor in reader.tensors]
        if order and names != order:
            raise AssertionError(f"{recipe.name}: tensors in another order")
        order = names
        entry["quantized"][recipe.name] = {"recipe": recipe.options, **digest, "changed": added}
        print(f"  {recipe.name} {digest['sha256'][:16]}", flush=True)
    places = {name: place for place, (name, _) in enumerate(entry["tensors"])}
    entry["order"] = [places[name] for name in order]
    return entry


# --- the two steps ----------------------------------------------------------------------------------------------------


def convert(checkpoint: Path, target: Path, outtype: str, source: Path, python: Path, pre: str) -> str:
    """Runs the converter; returns what it printed."""
    command = [python, "-c", CONVERTER, source, pre, checkpoint, "--outfile", target, "--outtype", outtype]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    (target.parent / "converter.log").write_text(result.stderr + result.stdout, encoding="utf-8")
    if result.returncode:
        raise SystemExit(result.stderr + result.stdout)
    return result.stdout


def quantize(
    source: Path, target: Path, recipe: Recipe, imatrix: Mapping[str, np.ndarray] | None, threads: int
) -> None:
    """Calls the quantizer as llama-quantize does."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads
    prefix = "LLAMA_FTYPE_ALL_" if recipe.type == "F32" else "LLAMA_FTYPE_MOSTLY_"
    parameters.ftype = getattr(llama_cpp, prefix + recipe.type)
    parameters.pure = recipe.pure
    parameters.quantize_output_tensor = not recipe.leave_output
    if recipe.output:
        parameters.output_tensor_type = gguf.GGMLQuantizationType[recipe.output].value
    if recipe.embedding:
        parameters.token_embedding_type = gguf.GGMLQuantizationType[recipe.embedding].value
    if recipe.overrides:
        overrides = (llama_cpp.llama_model_tensor_override * (len(recipe.overrides) + 1))()
        for place, (pattern, kind) in zip(overrides, recipe.overrides, strict=False):
            place.pattern, place.type = pattern.encode(), gguf.GGMLQuantizationType[kind].value
        parameters.tt_overrides = overrides
    if imatrix is not None:
        entries = (llama_cpp.llama_model_imatrix_data * (len(imatrix) + 1))()
        for place, (name, values) in zip(entries, imatrix.items(), strict=False):
            place.name, place.size = name.encode(), values.size
            place.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        parameters.imatrix = entries
        parameters.kv_overrides = imatrix_keys(len(imatrix))
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise SystemExit(f"cannot quantize {source} to {recipe.name}")


def imatrix_keys(count: int) -> Any:
    """The keys that llama-quantize adds to a file made with an importance matrix."""
    keys = (llama_cpp.llama_model_kv_override * 5)()
    texts = {0: ("file", IMATRIX_FILE), 1: ("dataset", IMATRIX_DATASET)}
    for place, (name, text) in texts.items():
        keys[place].tag, keys[place].key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, f"quantize.imatrix.{name}".encode()
        keys[place].value.val_str = text.encode()
    for place, (name, number) in {2: ("entries_count", count), 3: ("chunks_count", IMATRIX_CHUNKS)}.items():
        keys[place].tag, keys[place].key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, f"quantize.imatrix.{name}".encode()
        keys[place].value.val_i64 = number
    return keys


# --- digests ----------------------------------------------------------------------------------------------------------

# A letter for each type that a tensor can have, so that the types of a file are one short string.
LETTERS = {
    "F32": "F", "F16": "H", "BF16": "B", "Q4_0": "a", "Q4_1": "b", "Q5_0": "c", "Q5_1": "d", "Q8_0": "e",
    "Q2_K": "2", "Q3_K": "3", "Q4_K": "4", "Q5_K": "5", "Q6_K": "6", "IQ1_S": "s", "IQ1_M": "t", "IQ2_XXS": "u",
    "IQ2_XS": "v", "IQ2_S": "w", "IQ3_XXS": "x", "IQ3_S": "y", "IQ4_NL": "n", "IQ4_XS": "o",
}  # fmt: skip


def digest_file(path: Path, reader: gguf.GGUFReader) -> dict[str, Any]:
    """Size, SHA-256 of the file, shorter ones of header and data, and the tensors' types in the order of the file."""
    start = reader.data_offset
    whole, header, data = (hashlib.sha256() for _ in range(3))
    with path.open("rb") as file:
        first = file.read(start)
        whole.update(first)
        header.update(first)
        for piece in pieces(file.read):
            whole.update(piece)
            data.update(piece)
    return {
        "size": path.stat().st_size,
        "data_start": int(start),
        "sha256": whole.hexdigest(),
        "header": header.hexdigest()[:16],
        "data": data.hexdigest()[:16],
        "types": "".join(LETTERS[tensor.tensor_type.name] for tensor in reader.tensors),
    }


def pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while piece := read(1 << 20):
        yield piece


def fields(reader: gguf.GGUFReader) -> list[gguf.ReaderField]:
    """The keys in the file's order; the reader puts three of the file's first bytes among them."""
    return [field for field in reader.fields.values() if not field.name.startswith("GGUF.")]


def told(field: gguf.ReaderField) -> list[Any]:
    """A value's type and the value itself, or a digest of it where it is long."""
    value = field.contents()
    kinds = ":".join(kind.name for kind in field.types[:2])
    text = json.dumps(value, ensure_ascii=False)
    return [kinds, value if len(text) < 200 else "sha256 of JSON: " + short(text.encode())]


def short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def dumped(record: Mapping[str, Any]) -> str:
    """JSON with a line for each file and each key, which is what changes together."""
    text = json.dumps({**record, "cases": {}}, ensure_ascii=False, indent=1)
    cases = []
    for name, case in record["cases"].items():
        inner = []
        for key, value in case.items():
            if key in ("quantized", "keys"):
                lines = ",\n".join(f"    {compact(one)}:{compact(what)}" for one, what in value.items())
                inner.append(f"   {json.dumps(key)}: {{\n{lines}\n   }}")
            else:
                inner.append(f"   {json.dumps(key)}: {compact(value)}")
        cases.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(inner) + "\n  }")
    return text.replace('"cases": {}', '"cases": {\n' + ",\n".join(cases) + "\n }") + "\n"


if __name__ == "__main__":
    main()

"""GGUF files to GGUF files of another type, with an importance matrix or without, against llama.cpp byte for byte."""

from __future__ import annotations

import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantize import conversion, fast
from quantize.conversion import Options
from quantize.convert import requantize
from quantize.errors import BadRequest, BadSource, Unsupported
from quantize.file_types import block_weights
from quantize.imatrix import Imatrix, read_imatrix
from quantize.kernels import Choice, Kernels
from quantize.recipes import Wish
from tests.reference_quantizer import IMATRIX_CHUNKS, IMATRIX_DATASET, ReferenceQuantizer, Refused, types_in

Tensors = dict[str, np.ndarray]
"""float32, by name, in the order of the file."""


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceQuantizer]:
    with ReferenceQuantizer() as quantizer:
        yield quantizer


def weights(
    layers: int = 2, hidden: int = 256, feed_forward: int = 512, vocabulary: int = 40, tied: bool = False, seed: int = 1
) -> Tensors:
    """Of a model with four heads to two of keys."""
    chance = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (chance.standard_normal((rows, columns)) * 0.05).astype(np.float32)

    found: Tensors = {"token_embd.weight": matrix(vocabulary, hidden)}
    for layer in range(layers):
        block = f"blk.{layer}."
        for name, rows in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2)):
            found[f"{block}attn_{name}.weight"] = matrix(rows, hidden)
            found[f"{block}attn_{name}.bias"] = matrix(1, rows)[0]
        found[f"{block}attn_norm.weight"] = 1 + matrix(1, hidden)[0]
        found[f"{block}attn_output.weight"] = matrix(hidden, hidden)
        found[f"{block}ffn_norm.weight"] = 1 + matrix(1, hidden)[0]
        found[f"{block}ffn_up.weight"] = matrix(feed_forward, hidden)
        found[f"{block}ffn_gate.weight"] = matrix(feed_forward, hidden)
        found[f"{block}ffn_down.weight"] = matrix(hidden, feed_forward)
    found["output_norm.weight"] = 1 + matrix(1, hidden)[0]
    if not tied:
        found["output.weight"] = matrix(vocabulary, hidden)
    return found


def no_more(writer: gguf.GGUFWriter) -> None:
    """No further keys."""


def write(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    dtype: str = "F32",
    *,
    architecture: str = "qwen2",
    layers: int = 2,
    more: Callable[[gguf.GGUFWriter], None] = no_more,
    numbers: bool = True,
) -> Path:
    """A GGUF file; matrices in `dtype`. numbers: whether it says how the model is built."""
    writer = gguf.GGUFWriter(str(path), architecture)
    if numbers:
        writer.add_name("Small")
        writer.add_file_type({"F32": 0, "F16": 1, "BF16": 32}[dtype])
        writer.add_block_count(layers)
        writer.add_context_length(64)
        writer.add_embedding_length(next(iter(tensors.values())).shape[-1])
        writer.add_feed_forward_length(512)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_quantization_version(2)
    more(writer)
    kind = gguf.GGMLQuantizationType[dtype]
    for name, values in tensors.items():
        if values.ndim == 1 or dtype == "F32":
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def made(
    source: Path,
    file_type: str = "Q4_K_M",
    *,
    wish: Wish | None = None,
    imatrix: Imatrix | None = None,
    from_quantized: bool = False,
    choice: Choice = "c",
    threads: int = 2,
    cancel: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Ours, beside the source."""
    target = source.with_name("ours.gguf")
    options = Options(Kernels(choice), threads, cancel or threading.Event(), on_progress)
    requantize(source, target, wish or Wish(file_type), options, imatrix=imatrix, from_quantized=from_quantized)
    return target


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same random model in F32, F16 and BF16."""
    folder = tmp_path_factory.mktemp("plain")
    return {dtype: write(folder / f"{dtype}.gguf", weights(), dtype) for dtype in ("F32", "F16", "BF16")}


# Against the C library


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    "file_type",
    ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
     "Q3_K_L", "Q3_K_M", "Q2_K", "IQ4_XS", "IQ4_NL", "IQ3_S"],
)  # fmt: skip
def test_a_plain_file_becomes_what_llama_cpp_makes_of_it(
    dtype: str, file_type: str, plain: dict[str, Path], reference: ReferenceQuantizer
) -> None:
    theirs = reference.quantize(plain[dtype], plain[dtype].with_name("theirs.gguf"), file_type)
    assert made(plain[dtype], file_type).read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("before", ["Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS", "Q2_K"])
@pytest.mark.parametrize("after", ["Q4_K_M", "Q8_0", "Q3_K_M", "F16", "F32", "IQ4_NL"])
def test_a_quantized_file_becomes_what_llama_cpp_makes_of_it(
    before: str, after: str, plain: dict[str, Path], tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    source = reference.quantize(plain["F32"], tmp_path / f"{before}.gguf", before)
    theirs = reference.quantize(source, tmp_path / "theirs.gguf", after, requantize=True)
    assert made(source, after, from_quantized=True).read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    "options",
    [{"pure": True}, {"leave_output": True}, {"output_type": "Q8_0"}, {"embedding_type": "F16"},
     {"output_type": "F16", "embedding_type": "Q5_0", "pure": True},
     {"overrides": (("ffn_down", "Q5_1"), ("blk.0", "F32"), ("blk", "IQ4_NL"))}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q3_K_S", "F16"])
def test_wishes_are_those_of_llama_cpp(
    file_type: str, options: dict[str, Any], plain: dict[str, Path], reference: ReferenceQuantizer
) -> None:
    theirs = reference.quantize(plain["F32"], plain["F32"].with_name("theirs.gguf"), file_type, **options)
    assert made(plain["F32"], wish=Wish(file_type, **options)).read_bytes() == theirs.read_bytes()


ODD = st.sampled_from((32, 40, 64, 96, 256, 288, 512))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_small_file_becomes_what_llama_cpp_makes_of_it(data: st.DataObject, reference: ReferenceQuantizer) -> None:
    """Odd shapes, values of any size."""
    dtype = data.draw(st.sampled_from(("F32", "F16", "BF16")))
    file_type = data.draw(
        st.sampled_from(("Q4_K_M", "Q8_0", "Q5_1", "Q6_K", "Q3_K_M", "F16", "BF16", "IQ4_NL", "Q4_0"))
    )
    chance = np.random.default_rng(data.draw(st.integers(0, 99)))
    tensors: Tensors = {}
    for name in (
        "token_embd.weight",
        "blk.0.attn_v.weight",
        "blk.1.ffn_down.weight",
        "blk.1.strange.weight",
        "output.weight",
    ):
        shape = (data.draw(st.integers(2, 5)), data.draw(ODD))
        values = chance.standard_normal(shape) * 10.0 ** data.draw(st.integers(-6, 2))
        tensors[name] = np.where(chance.random(shape) < 0.1, 0, values).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "source.gguf", tensors, dtype)
        theirs = reference.quantize(source, Path(folder) / "theirs.gguf", file_type)
        assert made(source, file_type).read_bytes() == theirs.read_bytes()


def test_a_matrix_of_one_row_is_written_as_llama_cpp_writes_it(tmp_path: Path, reference: ReferenceQuantizer) -> None:
    source = write(tmp_path / "source.gguf", {**weights(), "blk.0.attn_k.weight": np.ones((1, 256), np.float32)})
    theirs = reference.quantize(source, tmp_path / "theirs.gguf", "Q4_K_M")
    assert made(source).read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_other_architectures_are_taken_as_they_are(
    architecture: str, tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    """The heads of a Llama are in pairs already."""
    source = write(
        tmp_path / "source.gguf", {**weights(), "rope_freqs.weight": np.ones(32, np.float32)}, architecture=architecture
    )
    theirs = reference.quantize(source, tmp_path / "theirs.gguf", "Q4_K_M")
    assert made(source).read_bytes() == theirs.read_bytes()


def test_a_tied_file_and_one_without_a_number_of_key_heads(tmp_path: Path, reference: ReferenceQuantizer) -> None:
    def heads(writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(9)
        writer.add_context_length(64)
        writer.add_embedding_length(256)
        writer.add_feed_forward_length(512)
        writer.add_head_count(8)
        writer.add_layer_norm_rms_eps(1e-6)

    source = write(tmp_path / "source.gguf", weights(9, tied=True), layers=9, numbers=False, more=heads)
    for file_type in ("Q4_K_M", "Q2_K"):
        theirs = reference.quantize(source, tmp_path / "theirs.gguf", file_type)
        assert made(source, file_type).read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("slab", [256, 1 << 13, 1 << 19])
def test_neither_threads_nor_pieces_show(
    threads: int, slab: int, plain: dict[str, Path], reference: ReferenceQuantizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_SLAB_WEIGHTS", slab)
    theirs = reference.quantize(plain["BF16"], plain["BF16"].with_name("theirs.gguf"), "Q4_K_M")
    assert made(plain["BF16"], threads=threads).read_bytes() == theirs.read_bytes()


@pytest.mark.skipif(fast.why_not() is not None, reason=str(fast.why_not()))
@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"])
def test_compiled_kernels_make_what_llama_cpp_makes(
    file_type: str, plain: dict[str, Path], reference: ReferenceQuantizer
) -> None:
    theirs = reference.quantize(plain["F32"], plain["F32"].with_name("theirs.gguf"), file_type)
    assert made(plain["F32"], file_type, choice="fast").read_bytes() == theirs.read_bytes()


def test_stopped_and_gone_on_with(plain: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_SLAB_WEIGHTS", 1 << 13)
    source = tmp_path / "source.gguf"
    source.write_bytes(plain["F32"].read_bytes())
    target = made(source)
    whole = target.read_bytes()
    target.unlink()
    cancel, told = threading.Event(), 0

    def stop(done: int, total: int) -> None:
        nonlocal told
        told = done
        if done > total // 2:
            cancel.set()

    with pytest.raises(KeyboardInterrupt):
        made(source, threads=1, cancel=cancel, on_progress=stop)
    assert not target.exists()
    again: list[int] = []
    assert made(source, on_progress=lambda done, total: again.append(done)).read_bytes() == whole
    assert again[0] > told


# Keys


def every_kind(writer: gguf.GGUFWriter) -> None:
    writer.add_string("general.description", "grün 字 \x1b[31m")
    for kind, value in (
        ("uint8", 200), ("int8", -100), ("uint16", 60_000), ("int16", -30_000), ("uint32", 4_000_000_000),
        ("int32", -2_000_000_000), ("uint64", 1 << 63), ("int64", -(1 << 62)), ("float32", 0.1), ("float64", 0.1),
        ("bool", True),
    ):  # fmt: skip
        getattr(writer, f"add_{kind}")(f"unknown.{kind}", value)
    writer.add_array("unknown.strings", ["a", "", "字"])
    writer.add_array("unknown.numbers", [1, -2, 3])
    writer.add_array("unknown.reals", [0.5, -0.25])
    writer.add_array("unknown.flags", [True, False, True])
    writer.add_string("unknown.empty", "")
    writer.add_string("general.source.url", "https://example.org")


def values(path: Path) -> dict[str, tuple[Any, bytes]]:
    """Keys in the order of the file, with their types and bytes."""
    fields = gguf.GGUFReader(path).fields
    return {
        name: (tuple(field.types), b"".join(bytes(np.asarray(part).tobytes()) for part in field.parts[2:]))
        for name, field in fields.items()
        if not name.startswith("GGUF.")
    }


def test_keys_are_kept_in_their_order_and_the_two_that_change_are_last(
    tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    source = write(tmp_path / "source.gguf", weights(), more=every_kind)
    before, after = values(source), values(made(source, "Q5_K_M"))
    changed = ["general.quantization_version", "general.file_type"]
    assert list(after) == [name for name in before if name not in changed] + changed
    assert {name: after[name] for name in before if name not in changed} == {
        name: value for name, value in before.items() if name not in changed
    }
    reader = gguf.GGUFReader(source.with_name("ours.gguf"))
    assert [reader.fields[name].contents() for name in changed] == [2, 17]
    theirs = reference.quantize(source, tmp_path / "theirs.gguf", "Q5_K_M")
    assert source.with_name("ours.gguf").read_bytes() == theirs.read_bytes()


def test_what_a_former_importance_matrix_left_is_dropped(tmp_path: Path) -> None:
    """It says nothing of the new file, and llama.cpp's keys of it hold a path of somebody's machine."""

    def former(writer: gguf.GGUFWriter) -> None:
        writer.add_string("quantize.imatrix.file", "/home/somebody/secret.dat")
        writer.add_uint32("quantize.imatrix.entries_count", 5)
        writer.add_string("quantize.imatrixes", "stays")

    source = write(tmp_path / "source.gguf", weights(), more=former)
    assert "quantize.imatrix.file" in values(source)
    assert [name for name in values(made(source)) if name.startswith("quantize.")] == ["quantize.imatrixes"]


def test_a_file_of_another_alignment_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "source.gguf", weights(), more=lambda writer: writer.add_custom_alignment(64))
    with pytest.raises(BadSource, match="alignment"):
        made(source)


# Several files


def write_split(folder: Path, stem: str, tensors: Tensors, count: int = 3, **changes: int) -> Path:
    """The parts of a model; returns the first. changes: `no` of the last one, `total` of all."""
    names = list(tensors)
    for number in range(count):
        part = {name: tensors[name] for place, name in enumerate(names) if place * count // len(names) == number}

        def keys(writer: gguf.GGUFWriter, number: int = number) -> None:
            if number == 0:
                every_kind(writer)
            writer.add_uint16("split.no", changes.get("no", number) if number == count - 1 else number)
            writer.add_uint16("split.count", count)
            writer.add_int32("split.tensors.count", changes.get("total", len(names)))

        path = folder / f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"
        write(path, part, numbers=number == 0, more=keys)
    return folder / f"{stem}-00001-of-{count:05d}.gguf"


@pytest.mark.parametrize("count", [2, 3])
def test_parts_become_one_file(count: int, tmp_path: Path, reference: ReferenceQuantizer) -> None:
    first = write_split(tmp_path, "Small-F32", weights(), count)
    theirs = reference.quantize(first, tmp_path / "theirs.gguf", "Q4_K_M")
    ours = made(first)
    assert ours.read_bytes() == theirs.read_bytes()
    assert not [name for name in values(ours) if name.startswith("split.")]
    whole = write(tmp_path / "whole.gguf", weights(), more=every_kind)
    assert ours.read_bytes() == made(whole).read_bytes()


def test_a_later_part_is_refused_with_advice(tmp_path: Path) -> None:
    write_split(tmp_path, "Small", weights())
    with pytest.raises(BadRequest) as caught:
        made(tmp_path / "Small-00002-of-00003.gguf")
    assert "first" in caught.value.hint


@pytest.mark.parametrize("missing", [2, 3])
def test_a_missing_part_is_named(missing: int, tmp_path: Path) -> None:
    first = write_split(tmp_path, "Small", weights())
    (tmp_path / f"Small-{missing:05d}-of-00003.gguf").unlink()
    with pytest.raises(BadSource, match=f"Small-{missing:05d}-of-00003.gguf is missing"):
        made(first)


@pytest.mark.parametrize("wrong", ["no", "total"])
def test_parts_that_do_not_belong_together_are_refused(
    wrong: str, tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    first = write_split(tmp_path, "Small", weights(), **{wrong: 7})
    with pytest.raises(Refused):
        reference.quantize(first, tmp_path / "theirs.gguf", "Q8_0")
    with pytest.raises(BadSource):
        made(first, "Q8_0")


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path, reference: ReferenceQuantizer) -> None:
    tensors = weights()
    first = write_split(tmp_path, "Small", tensors, total=len(tensors) + 1)
    last = tmp_path / "Small-00003-of-00003.gguf"
    held = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(last).tensors}

    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_uint16("split.no", 2)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(tensors) + 1)

    write(last, {**held, "token_embd.weight": tensors["token_embd.weight"]}, numbers=False, more=keys)
    with pytest.raises(Refused, match="duplicated"):
        reference.quantize(first, tmp_path / "theirs.gguf", "Q8_0")
    with pytest.raises(BadSource, match="in another part"):
        made(first, "Q8_0")


def test_a_first_part_under_another_name_is_not_taken_for_the_whole(
    tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    renamed = write_split(tmp_path, "Small", weights()).rename(tmp_path / "model.gguf")
    with pytest.raises(Refused):
        reference.quantize(renamed, tmp_path / "theirs.gguf", "Q8_0")
    with pytest.raises((BadSource, BadRequest)):
        made(renamed, "Q8_0")


# What is refused


def test_a_quantized_file_is_refused_unless_that_is_allowed(
    plain: dict[str, Path], tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    source = reference.quantize(plain["F32"], tmp_path / "small-Q8_0.gguf", "Q8_0")
    with pytest.raises(Refused, match="requantizing"):
        reference.quantize(source, tmp_path / "theirs.gguf", "Q4_K_M")
    with pytest.raises(BadRequest) as caught:
        made(source)
    assert "small-Q8_0.gguf is quantized already" in caught.value.message
    assert "--from-quantized" in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"small-Q8_0.gguf"}
    assert made(source, from_quantized=True).exists()


def test_a_file_that_only_gets_copied_needs_no_leave(
    plain: dict[str, Path], tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    """Nothing loses anything where every tensor has its type already."""
    source = reference.quantize(plain["F32"], tmp_path / "source.gguf", "Q4_K_M")
    assert made(source).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("architecture", ["gemma3", "qwen2moe", "qwen3moe", "deepseek2", "", "clip"])
def test_other_kinds_of_models_are_refused(architecture: str, tmp_path: Path) -> None:
    source = write(tmp_path / "source.gguf", weights(), architecture=architecture)
    with pytest.raises(Unsupported) as caught:
        made(source)
    assert "qwen2, qwen3, llama" in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"source.gguf"}


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    source = write(
        tmp_path / "source.gguf", weights(), architecture="llama", more=lambda writer: writer.add_expert_count(8)
    )
    with pytest.raises(Unsupported):
        made(source)


def test_a_name_of_an_architecture_that_moves_the_cursor_is_printed_harmlessly(tmp_path: Path) -> None:
    source = write(tmp_path / "source.gguf", weights(), architecture="\x1b[2Jgemma")
    with pytest.raises(Unsupported) as caught:
        made(source)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_weights_that_are_no_numbers_are_refused_by_name(dtype: str, value: float, tmp_path: Path) -> None:
    tensors = weights()
    tensors["blk.1.ffn_up.weight"][77, 3] = value
    source = write(tmp_path / "source.gguf", tensors, dtype)
    with pytest.raises(BadSource, match=r"blk\.1\.ffn_up\.weight .*not finite"):
        made(source)
    assert not (tmp_path / "ours.gguf").exists()


@pytest.mark.parametrize(
    "cut", [lambda data: data[:-1], lambda data: data[:40], lambda data: b"", lambda data: b"GGML" + data[4:],
            lambda data: data[:4] + b"\1" + data[5:]],
    ids=["last byte", "header", "empty", "magic", "version"],
)  # fmt: skip
def test_damaged_files_are_refused(cut: Callable[[bytes], bytes], plain: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(cut(plain["F32"].read_bytes()))
    with pytest.raises(BadSource, match=r"source\.gguf"):
        made(source)
    assert {path.name for path in tmp_path.iterdir()} == {"source.gguf"}


@pytest.mark.parametrize("missing", ["", "block_count", "attention.head_count"])
def test_numbers_of_a_model_that_make_no_sense_are_refused(missing: str, tmp_path: Path) -> None:
    def wrong(writer: gguf.GGUFWriter) -> None:
        writer.add_uint32("qwen2.block_count", 2 if missing != "block_count" else 0)
        writer.add_uint32("qwen2.attention.head_count", 4 if missing != "attention.head_count" else 0)

    source = write(tmp_path / "source.gguf", weights(), numbers=False, more=wrong)
    if not missing:
        assert made(source).exists()
        return
    with pytest.raises(BadSource, match=missing):
        made(source)


# Importance matrices


def importance(names: Sequence[str], widths: Mapping[str, int], seed: int = 5) -> Tensors:
    chance = np.random.default_rng(seed)
    return {name: (chance.random(widths[name]) ** 4 + 1e-4).astype(np.float32) for name in names}


@pytest.fixture(scope="module")
def columns() -> Tensors:
    """Of every matrix in the layers, as llama-imatrix writes them."""
    tensors = {name: values for name, values in weights().items() if values.ndim == 2 and name.startswith("blk.")}
    return importance(list(tensors), {name: values.shape[1] for name, values in tensors.items()})


def write_legacy(path: Path, columns: Mapping[str, np.ndarray], calls: int = 3, tail: bool = True) -> Path:
    """The older form: sums of `calls` passes."""
    parts = [struct.pack("<i", len(columns))]
    for name, values in columns.items():
        parts += [struct.pack("<i", len(name.encode())), name.encode(), struct.pack("<ii", calls, values.size)]
        parts.append((values * np.float32(calls)).astype("<f4").tobytes())
    if tail:
        parts += [struct.pack("<ii", IMATRIX_CHUNKS, len(IMATRIX_DATASET)), IMATRIX_DATASET.encode()]
    path.write_bytes(b"".join(parts))
    return path


def write_gguf(path: Path, columns: Mapping[str, np.ndarray], count: int = 4, kind: str = "imatrix") -> Path:
    """The newer form: sums, and how many tokens they are of."""
    writer = gguf.GGUFWriter(str(path), "unused")
    writer.kv_data[0].clear()
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", [IMATRIX_DATASET, "another.txt"])
    writer.add_uint32("imatrix.chunk_count", IMATRIX_CHUNKS)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in columns.items():
        writer.add_tensor(f"{name}.in_sum2", (values * np.float32(count)).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), count, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("form", [write_legacy, write_gguf], ids=["older form", "GGUF"])
@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0", "Q4_0", "Q2_K_S", "IQ3_S", "IQ2_XXS", "F16"])
def test_with_an_importance_matrix_the_file_is_that_of_llama_quantize(
    form: Callable[..., Path], file_type: str, plain: dict[str, Path], columns: Tensors, tmp_path: Path,
    reference: ReferenceQuantizer,
) -> None:  # fmt: skip
    """Also where it has nothing on the embedding and the output, which is always so."""
    path = form(tmp_path / "small.imatrix", columns)
    # Three and four times a number are exact enough: what is read is divided again, in single precision.
    read = {name: values * np.float32(3) / np.float32(3) for name, values in columns.items()}
    if form is write_gguf:
        read = {name: values * np.float32(4) / np.float32(4) for name, values in columns.items()}
    theirs = reference.quantize(
        plain["F32"], tmp_path / "theirs.gguf", file_type, imatrix=read, imatrix_file="small.imatrix"
    )
    ours = made(plain["F32"], file_type, imatrix=read_imatrix(path))
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_is_read_is_what_was_counted(tmp_path: Path) -> None:
    columns = {"a.weight": np.array([1, 2, 6], np.float32), "字.weight": np.array([0.1], np.float32)}
    for path, divided in (
        (write_legacy(tmp_path / "a.dat", columns, calls=3), 3),
        (write_legacy(tmp_path / "b.dat", columns, calls=0, tail=False), 0),
        (write_legacy(tmp_path / "c.dat", columns, calls=1, tail=False), 1),
        (write_gguf(tmp_path / "d.gguf", columns, count=7), 7),
        (write_gguf(tmp_path / "e.gguf", columns, count=0), None),
    ):
        imatrix = read_imatrix(path)
        assert set(imatrix.columns) == set(columns)
        for name, values in columns.items():
            if divided is None:  # never seen: as good as any other
                expected = np.ones_like(values)
            elif divided == 0:
                expected = np.zeros_like(values)  # zero times anything was written
            else:
                expected = (values * np.float32(divided)) / np.float32(divided)
            assert imatrix.columns[name].tolist() == expected.tolist()
        told = path.name[0] not in "bc"
        assert (imatrix.chunks, imatrix.dataset) == ((100, "calibration.txt") if told else (0, ""))


def test_the_keys_of_a_matrix_name_its_file_and_no_folder(
    plain: dict[str, Path], columns: Tensors, tmp_path: Path
) -> None:
    imatrix = read_imatrix(write_legacy(tmp_path / ("x" * 140 + ".dat"), columns))
    reader = gguf.GGUFReader(made(plain["F32"], imatrix=imatrix))
    found = {name: field.contents() for name, field in reader.fields.items() if name.startswith("quantize.")}
    assert found == {
        "quantize.imatrix.file": "x" * 127,  # as much as llama.cpp has room for
        "quantize.imatrix.dataset": IMATRIX_DATASET,
        "quantize.imatrix.entries_count": len(columns),
        "quantize.imatrix.chunks_count": IMATRIX_CHUNKS,
    }


def test_a_matrix_of_another_width_is_refused_by_name(
    plain: dict[str, Path], columns: Tensors, tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    wrong = {**columns, "blk.1.ffn_down.weight": columns["blk.0.attn_q.weight"]}
    with pytest.raises(Refused, match="imatrix size 256 is different from tensor size 512"):
        reference.quantize(plain["F32"], tmp_path / "theirs.gguf", "Q4_K_M", imatrix=wrong)
    with pytest.raises(BadRequest, match=r"256 columns for blk\.1\.ffn_down\.weight, which has 512"):
        made(plain["F32"], imatrix=read_imatrix(write_gguf(tmp_path / "wrong.gguf", wrong)))
    assert not plain["F32"].with_name("ours.gguf.part").exists()


def test_a_matrix_for_an_embedding_of_another_width_is_left_out(
    plain: dict[str, Path], columns: Tensors, tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    more = {**columns, "token_embd.weight": np.ones(40, np.float32)}
    theirs = reference.quantize(plain["F32"], tmp_path / "theirs.gguf", "Q4_K_M", imatrix=more, imatrix_file="m.gguf")
    ours = made(plain["F32"], imatrix=read_imatrix(write_gguf(tmp_path / "m.gguf", more, count=1)))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_matrix_for_the_embedding_and_the_output_is_used(
    plain: dict[str, Path], columns: Tensors, tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    both = {"token_embd.weight": 256, "output.weight": 256}
    more = {**columns, **importance(list(both), both, seed=6)}
    theirs = reference.quantize(plain["F32"], tmp_path / "theirs.gguf", "Q4_K_M", imatrix=more, imatrix_file="m.gguf")
    ours = made(plain["F32"], imatrix=read_imatrix(write_gguf(tmp_path / "m.gguf", more, count=1)))
    assert ours.read_bytes() == theirs.read_bytes()


def test_tensors_that_a_matrix_has_nothing_on_are_quantized_without(
    plain: dict[str, Path], columns: Tensors, tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    few = {name: values for name, values in columns.items() if "ffn_up" in name}
    few["blk.77.ffn_up.weight"] = np.ones(3, np.float32)  # of a layer that is not there
    theirs = reference.quantize(plain["F32"], tmp_path / "theirs.gguf", "Q4_K_M", imatrix=few, imatrix_file="m.dat")
    ours = made(plain["F32"], imatrix=read_imatrix(write_legacy(tmp_path / "m.dat", few, calls=1)))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("file_type", "missing"),
    [("IQ2_XXS", "blk.0.attn_q.weight"), ("IQ3_XXS", "blk.1.attn_k.weight"), ("Q2_K_S", "blk.1.ffn_gate.weight")],
)
def test_a_tiny_type_without_importance_of_a_tensor_is_refused_by_name(
    file_type: str,
    missing: str,
    plain: dict[str, Path],
    columns: Tensors,
    tmp_path: Path,
    reference: ReferenceQuantizer,
) -> None:
    most = {name: values for name, values in columns.items() if name != missing}
    with pytest.raises(Refused, match="Missing importance matrix"):
        reference.quantize(plain["F32"], tmp_path / "theirs.gguf", file_type, imatrix=most)
    with pytest.raises(BadRequest, match=missing):
        made(plain["F32"], file_type, imatrix=read_imatrix(write_gguf(tmp_path / "m.gguf", most)))


@pytest.mark.parametrize(
    "file_type", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"]
)
def test_a_tiny_type_without_any_matrix_is_refused_with_advice(
    file_type: str, plain: dict[str, Path], tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    with pytest.raises(Refused, match="imatrix"):
        reference.quantize(plain["F32"], tmp_path / "theirs.gguf", file_type)
    with pytest.raises(BadRequest) as caught:
        made(plain["F32"], file_type)
    assert "--imatrix" in caught.value.hint


def legacy(*parts: int | bytes) -> bytes:
    return b"".join(part if isinstance(part, bytes) else struct.pack("<i", part) for part in parts)


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "three bytes": b"abc",
    "no entries": legacy(0),
    "fewer than none": legacy(-5),
    "too many": legacy(2_000_000_000),
    "text": b"importance, importance, importance",
    "name beyond the end": legacy(1, 1000, b"a"),
    "name of less than nothing": legacy(1, -4, b"aaaa", 1, 1, 1),
    "name that is no text": legacy(1, 2, b"\xff\xfe", 1, 1, struct.pack("<f", 1)),
    "no values": legacy(1, 1, b"a", 1, 0),
    "fewer values than none": legacy(1, 1, b"a", 1, -7),
    "values beyond the end": legacy(1, 1, b"a", 1, 9, struct.pack("<f", 1)),
    "more values than there can be": legacy(1, 1, b"a", 1, 0x7FFFFFFF, struct.pack("<f", 1)),
    "not a number": legacy(1, 1, b"a", 1, 1, struct.pack("<f", np.nan)),
    "infinite": legacy(1, 1, b"a", 1, 1, struct.pack("<f", np.inf)),
    "half a number of chunks": legacy(1, 1, b"a", 1, 1, struct.pack("<f", 1), b"\1\0"),
    "data set beyond the end": legacy(1, 1, b"a", 1, 1, struct.pack("<f", 1), 5, 99, b"x"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_matrices_are_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(BadSource) as caught:
        read_imatrix(path)
    assert "m.dat" in caught.value.message


def test_other_files_are_no_matrices(plain: dict[str, Path], columns: Tensors, tmp_path: Path) -> None:
    for path in (
        plain["F32"],
        write_gguf(tmp_path / "a.gguf", columns, kind="model"),
        write_gguf(tmp_path / "b.gguf", {"a.weight": np.array([1, np.nan], np.float32)}),
        write_gguf(tmp_path / "c.gguf", {}),
        tmp_path / "none.gguf",
        tmp_path,
    ):
        with pytest.raises(BadSource):
            read_imatrix(path)


def test_sums_without_counts_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "unused")
    writer.add_type("imatrix")
    writer.add_tensor("a.weight.in_sum2", np.ones((1, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadSource, match=r"a\.weight"):
        read_imatrix(tmp_path / "m.gguf")


def test_types_of_the_result_are_named_truly(plain: dict[str, Path]) -> None:
    """What another reader finds has the size that its type asks for."""
    for name, kind in types_in(made(plain["F32"], "Q3_K_M")):
        assert weights()[name].shape[-1] % block_weights(kind) == 0

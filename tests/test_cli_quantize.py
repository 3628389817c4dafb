"""`r1local quantize`, `r1local inspect` and `python -m quantize` as people type them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors
from huggingface_hub import constants

from quantize import fast
from r1local import paths
from r1local.errors import ExitCode
from tests.checkpoints import write_checkpoint
from tests.test_cli_store import run, strict
from tests.test_requantize import every_kind, weights, write, write_legacy, write_split
from tests.test_terminal_chat import Screen

pytestmark = pytest.mark.engine

REPOSITORY = "someone/R1-Tiny-Thinker"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MADE = "R1-Tiny-Q4_K_M"
NO_FAST = {"NUMBA_DISABLE_JIT": "1"}
ESCAPES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody changes it."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "R1-Tiny", layers=2, ffn=256)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("llama") / "R1-Llama", "llama", layers=2, ffn=256, seed=2)


def standalone(*arguments: str | Path, code: int = 0, **environment: str) -> str:
    """`python -m quantize`; what it says."""
    result = subprocess.run(
        [sys.executable, "-m", "quantize", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def convert(*arguments: str | Path, code: int = 0, **environment: str) -> tuple[str, str]:
    """`r1local quantize` without compiled kernels, which take seconds to load."""
    if "--kernels" not in arguments:
        arguments = (*arguments, "--kernels", "c")
    return run("quantize", *arguments, code=code, **environment)


def refused(code: ExitCode, *arguments: str | Path, **environment: str) -> str:
    """What `r1local quantize` says to it: a sentence, and what to do about it."""
    out, err = convert(*arguments, code=code, **environment)
    assert out == ""
    said, error, sentence = err.partition("Error: ")
    assert error
    assert said in ("", "The C library for every type. It was asked for.\n")
    first, *rest = sentence.rstrip("\n").split("\n")
    assert first.endswith((".", "?")), first
    assert len(rest) <= 1
    assert not ESCAPES.search(first + "".join(rest))
    return err


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def models() -> set[str]:
    folder = paths.models_folder()
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# From a checkpoint to a model


def test_a_checkpoint_becomes_a_model_that_list_and_chat_find(checkpoint: Path) -> None:
    out, err = convert(checkpoint)
    path = paths.models_folder() / f"{MADE}.gguf"
    assert out == f"{path}\n"
    assert models() == {path.name}
    assert f"r1local chat -m {MADE} " in err
    assert not ESCAPES.search(out.replace("\n", "") + err.replace("\n", ""))
    assert "100%" in err
    listed = {entry["name"]: entry for entry in json.loads(run("list", "--json")[0])}
    assert listed[MADE]["path"] == str(path)
    assert listed[MADE]["quantization"] == "Q4_K_M"
    assert listed[MADE]["problem"] is None
    answer = json.loads(run("chat", "-m", MADE, "--json", "-n", "4", "--ctx", "512", "Hello?")[0])
    assert answer["finish"] in ("length", "stop")
    assert answer["stats"]["prompt_tokens"] > 0
    kinds = types(path)
    assert kinds["blk.0.ffn_up.weight"] == "Q4_K"
    assert kinds["output.weight"] == "Q6_K"
    run("verify", MADE)


def test_the_same_bytes_by_both_doors_and_all_kernels(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, "-o", tmp_path / "a.gguf", "--kernels", "c", "--threads", "1")
    convert(checkpoint, "-o", tmp_path / "b.gguf", "--kernels", "auto", "--threads", "3", **NO_FAST)
    standalone(checkpoint, "-o", tmp_path / "c.gguf", "--kernels", "c", "--threads", "2")
    names = "abc"
    if fast.why_not() is None:
        convert(checkpoint, "-o", tmp_path / "d.gguf", "--kernels", "fast")
        names = "abcd"
    assert len({digest(tmp_path / f"{name}.gguf") for name in names}) == 1


def test_who_computes_is_said(checkpoint: Path, tmp_path: Path) -> None:
    assert "The C library" in convert(checkpoint, "-o", tmp_path / "a.gguf", "--kernels", "c")[1]
    assert "NUMBA_DISABLE_JIT" in convert(checkpoint, "-o", tmp_path / "b.gguf", "--kernels", "auto", **NO_FAST)[1]
    said = refused(ExitCode.USAGE, checkpoint, "-o", tmp_path / "c.gguf", "--kernels", "fast", **NO_FAST)
    assert "NUMBA_DISABLE_JIT" in said
    assert "--kernels c" in said
    assert not (tmp_path / "c.gguf").exists()


@pytest.mark.parametrize("typed", ["q8_0", "Q8_0", "q8-0"])
def test_the_type_may_be_typed_in_small_letters(typed: str, checkpoint: Path) -> None:
    assert convert(checkpoint, "-t", typed)[0].endswith("R1-Tiny-Q8_0.gguf\n")


def test_wishes_reach_the_tensors(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    convert(
        checkpoint, "-o", path, "-t", "Q4_K_S", "--output-type", "Q8_0", "--embedding-type", "f16", "--tensor-type",
        "ffn_down=Q6_K", "--tensor-type", r"blk\.1\.=Q5_0",
    )  # fmt: skip
    kinds = types(path)
    assert (kinds["output.weight"], kinds["token_embd.weight"]) == ("Q8_0", "F16")
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.1.ffn_down.weight"]) == ("Q6_K", "Q6_K")
    assert (kinds["blk.1.ffn_up.weight"], kinds["blk.0.ffn_up.weight"]) == ("Q5_0", "Q4_K")
    convert(checkpoint, "-o", path, "-t", "Q4_K_M", "--pure", "--force")
    assert set(types(path).values()) == {"Q4_K", "F32"}
    convert(checkpoint, "-o", path, "-t", "Q4_K_M", "--leave-output", "--force")
    assert types(path)["output.weight"] == "BF16"


def test_an_importance_matrix_is_used_and_named(checkpoint: Path, tmp_path: Path) -> None:
    columns = {f"blk.{layer}.ffn_up.weight": np.linspace(0.1, 9, 256).astype(np.float32) for layer in (0, 1)}
    matrix = write_legacy(tmp_path / "small.dat", columns, calls=1)
    convert(checkpoint, "-o", tmp_path / "with.gguf", "--imatrix", matrix)
    convert(checkpoint, "-o", tmp_path / "without.gguf")
    found = [
        {t.name: bytes(t.data) for t in gguf.GGUFReader(tmp_path / f"{n}.gguf").tensors} for n in ("with", "without")
    ]
    assert {name for name in found[0] if found[0][name] != found[1][name]} == set(columns)
    fields = gguf.GGUFReader(tmp_path / "with.gguf").fields
    assert fields["quantize.imatrix.file"].contents() == "small.dat"
    (tmp_path / "small.txt").write_text("no matrix")
    for name in ("none.dat", "small.txt"):
        assert name in refused(ExitCode.BAD_FILE, checkpoint, "-o", tmp_path / "x.gguf", "--imatrix", tmp_path / name)
    said = refused(ExitCode.USAGE, checkpoint, "-t", "IQ2_XS")
    assert "--imatrix" in said
    assert models() == set()


def test_the_advice_for_a_missing_matrix_is_about_the_matrix(checkpoint: Path, tmp_path: Path) -> None:
    said = refused(ExitCode.BAD_FILE, checkpoint, "-o", tmp_path / "x.gguf", "--imatrix", tmp_path / "none.dat")
    assert "Fetch the whole checkpoint" not in said


@pytest.mark.parametrize(("typed", "near"), [("Q4_KM", "Q4_K_M"), ("BF-16", "BF16"), ("Q5KM", "Q5_K_M")])
def test_a_type_that_is_none_gets_the_nearest_one_named(typed: str, near: str, checkpoint: Path) -> None:
    said = refused(ExitCode.USAGE, checkpoint, "-t", typed)
    assert f"There is no type {typed}." in said
    assert f"Did you mean {near}?" in said
    said = standalone(checkpoint, "-t", typed, code=1)
    assert f"Did you mean {near}?" in said


@pytest.mark.parametrize(
    "flags", [("--output-type", "Q4_K_M"), ("--embedding-type", "Q9"), ("--tensor-type", "ffn"),
              ("--tensor-type", "(=Q8_0"), ("-t", "")],
    ids=" ".join,
)  # fmt: skip
def test_types_of_tensors_that_are_none_are_refused(flags: tuple[str, str], checkpoint: Path, tmp_path: Path) -> None:
    refused(ExitCode.USAGE, checkpoint, *flags)
    standalone(checkpoint, *flags, "-o", tmp_path / "x.gguf", code=1)
    assert models() == set()


@pytest.mark.parametrize(
    "flags", [("--kernels", "gpu"), ("--threads", "0"), ("--threads", "many"), ("--threads", "-1")]
)
def test_flags_that_make_no_sense_are_refused(flags: tuple[str, str], checkpoint: Path) -> None:
    _, err = convert(checkpoint, *flags, code=ExitCode.USAGE)
    assert flags[1] in err
    assert models() == set()
    if flags[0] == "--kernels":
        assert "auto, c, fast" in err
        assert "gpu" in standalone(checkpoint, *flags, code=2)


# Where it comes from


@pytest.mark.parametrize(
    "name", ["", "  ", "no-such-model", "./nothing", "nothing.gguf", "someone/not-here", "\x1b[2J"]
)
def test_what_is_not_here_is_said_to_be_missing(name: str) -> None:
    refused(ExitCode.NO_MODEL, name)


def test_a_model_whose_checkpoint_is_not_here_can_be_pulled() -> None:
    assert "r1local pull 1.5b --from-source" in refused(ExitCode.NO_MODEL, "1.5b")


def test_a_folder_that_is_no_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json is missing" in refused(ExitCode.BAD_FILE, tmp_path / "empty")
    for missing in ("config.json", "tokenizer.json", "model.safetensors"):
        folder = tmp_path / missing / "R1-Tiny"
        shutil.copytree(checkpoint, folder)
        (folder / missing).unlink()
        assert f"{missing} is missing" in refused(ExitCode.BAD_FILE, folder)
        assert f"{missing} is missing" in standalone(folder, "-o", tmp_path / "x.gguf", code=1)
    assert models() == set()
    assert not (tmp_path / "x.gguf").exists()


def test_pickled_weights_are_refused_with_advice(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "R1-Tiny"
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refused(ExitCode.BAD_FILE, folder)
    assert "run code" in said
    assert ".safetensors" in said


@pytest.mark.parametrize(("field", "value", "said"), [
    ("architectures", ["GemmaForCausalLM"], "GemmaForCausalLM"),
    ("quantization_config", {"quant_method": "gptq"}, "quantized already"),
    ("hidden_size", 0, "hidden_size"),
])  # fmt: skip
def test_checkpoints_of_other_kinds(field: str, value: Any, said: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "R1-Tiny"
    shutil.copytree(checkpoint, folder)
    fields = {**json.loads((folder / "config.json").read_text()), field: value}
    (folder / "config.json").write_text(json.dumps(fields))
    assert said in refused(ExitCode.BAD_FILE, folder)
    assert said in refused(ExitCode.BAD_FILE, folder, "--dry-run")


def test_a_gguf_file_becomes_another(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, "-t", "BF16", "-o", tmp_path / "R1-Tiny-BF16.gguf")
    out, err = convert(tmp_path / "R1-Tiny-BF16.gguf", "-t", "Q8_0")
    path = paths.models_folder() / "R1-Tiny-Q8_0.gguf"  # not R1-Tiny-BF16-Q8_0
    assert out == f"{path}\n"
    convert(checkpoint, "-t", "Q8_0", "-o", tmp_path / "direct.gguf")
    assert digest(path) == digest(tmp_path / "direct.gguf")
    assert not ESCAPES.search(err.replace("\n", ""))
    said = refused(ExitCode.USAGE, path, "-t", "Q4_K_M")
    assert "quantized already" in said
    assert "--from-quantized" in said
    convert(path, "-t", "Q4_K_M", "--from-quantized")
    assert models() == {"R1-Tiny-Q8_0.gguf", "R1-Tiny-Q4_K_M.gguf"}


def test_a_gguf_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "gemma.gguf", weights(), architecture="gemma3")
    assert "gemma3" in refused(ExitCode.BAD_FILE, source)
    assert "gemma3" in standalone(source, code=1)
    (tmp_path / "text.gguf").write_text("I am no model, whatever my name is.")
    assert "not a GGUF file" in refused(ExitCode.BAD_FILE, tmp_path / "text.gguf")
    (tmp_path / "short.gguf").write_bytes(source.read_bytes()[:-100])
    assert "damaged" in refused(ExitCode.BAD_FILE, tmp_path / "short.gguf")
    assert models() == set()


def test_a_split_gguf_file_is_taken_whole(tmp_path: Path) -> None:
    first = write_split(tmp_path, "Small-F32", weights())
    convert(first, "-t", "Q8_0", "-o", tmp_path / "made.gguf")
    assert set(types(tmp_path / "made.gguf")) == set(weights())
    said = refused(ExitCode.USAGE, tmp_path / "Small-F32-00002-of-00003.gguf", "-o", tmp_path / "x.gguf")
    assert "Name the first one" in said


def test_a_split_gguf_file_is_named_without_the_number_of_its_part(tmp_path: Path) -> None:
    first = write_split(tmp_path, "Small-F32", weights())
    assert convert(first, "-t", "Q8_0")[0] == f"{paths.models_folder() / 'Small-Q8_0.gguf'}\n"


def in_cache(cache: Path, checkpoint: Path) -> Path:
    """The checkpoint as a downloader of the Hugging Face tools leaves it; returns the snapshot."""
    home = cache / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    for path in checkpoint.iterdir():
        blob = home / "blobs" / digest(path)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_a_snapshot_in_the_shared_cache_is_named_after_its_repository(cache: Path, checkpoint: Path) -> None:
    snapshot = in_cache(cache, checkpoint)
    path = paths.models_folder() / "R1-Tiny-Thinker-Q4_K_M.gguf"
    for source in (REPOSITORY, REPOSITORY.upper(), snapshot):
        assert convert(source)[0] == f"{path}\n"
        fields = gguf.GGUFReader(path).fields
        assert fields["general.source.repo_url"].contents() == f"https://huggingface.co/{REPOSITORY}"
        assert fields["general.source.url"].contents() == f"https://huggingface.co/{REPOSITORY}/tree/{COMMIT}"
        assert "R1" in fields["general.name"].contents()
        assert COMMIT not in fields["general.name"].contents()
        path.unlink()
    standalone(snapshot, "-t", "Q8_0", "--kernels", "c")
    assert [path.name for path in snapshot.parent.glob("*.gguf")] == ["R1-Tiny-Thinker-Q8_0.gguf"]


def test_links_of_a_checkpoint_lead_nowhere_else(checkpoint: Path, tmp_path: Path) -> None:
    """What came with a checkpoint must not make its way into a file that is passed on."""
    secret = tmp_path / "secret"
    for name in ("README.md", "chat_template.jinja", "tokenizer.json", "config.json", "model.safetensors"):
        folder = tmp_path / name / "R1-Tiny"
        shutil.copytree(checkpoint, folder)
        if (folder / name).exists():
            shutil.move(folder / name, secret)
        else:
            secret.write_text("SECRET")
        (folder / name).symlink_to(secret)
        if name == "README.md":
            convert(folder)
            assert "general.license" not in gguf.GGUFReader(paths.models_folder() / f"{MADE}.gguf").fields
            (paths.models_folder() / f"{MADE}.gguf").unlink()
        elif name != "chat_template.jinja":
            assert "leads out of its folder" in refused(ExitCode.BAD_FILE, folder)


# Where it goes


def test_the_result_goes_where_it_is_told_to(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "an old folder"
    folder.mkdir()
    out, err = convert(checkpoint, "-o", folder)
    assert out == f"{folder / MADE}.gguf\n"
    assert convert(checkpoint, "-o", folder / "my own.gguf")[0] == f"{folder / 'my own.gguf'}\n"
    assert digest(folder / "my own.gguf") == digest(folder / f"{MADE}.gguf")
    assert {path.name for path in folder.iterdir()} == {"my own.gguf", f"{MADE}.gguf"}
    assert str(folder) in err
    assert models() == set()


def test_the_command_that_is_offered_can_be_copied(checkpoint: Path, tmp_path: Path) -> None:
    import shlex

    folder = tmp_path / "an old folder"
    folder.mkdir()
    _, err = convert(checkpoint, "-o", folder)
    command = err.partition("To use it: ")[2].splitlines()[0]
    assert shlex.split(command)[:4] == ["r1local", "chat", "-m", str(folder / f"{MADE}.gguf")]


def test_a_folder_that_is_not_there_is_not_made(checkpoint: Path, tmp_path: Path) -> None:
    said = refused(ExitCode.USAGE, checkpoint, "-o", tmp_path / "none" / "x.gguf")
    assert f"no folder {tmp_path / 'none'}" in said
    assert not (tmp_path / "none").exists()
    assert "none" in standalone(checkpoint, "-o", tmp_path / "none" / "x.gguf", code=1)


def test_what_is_there_is_overwritten_with_force_alone(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious.gguf"
    target.write_text("mine")
    said = refused(ExitCode.USAGE, checkpoint, "-o", target)
    assert "is there already" in said
    assert "--force" in said
    assert target.read_text() == "mine"
    convert(checkpoint, "-o", target, "--force")
    assert types(target)["output.weight"] == "Q6_K"
    convert(checkpoint)
    assert MADE in refused(ExitCode.USAGE, checkpoint)
    convert(checkpoint, "--force")


def test_a_file_is_not_made_of_itself(tmp_path: Path) -> None:
    source = write(tmp_path / "source.gguf", weights())
    before = digest(source)
    (tmp_path / "link.gguf").symlink_to(source)
    os.link(source, tmp_path / "twin.gguf")
    for name in ("source.gguf", "link.gguf", "twin.gguf", "../" + tmp_path.name + "/source.gguf"):
        said = refused(ExitCode.USAGE, source, "-t", "Q8_0", "--force", "-o", tmp_path / name)
        assert "itself" in said
    assert digest(source) == before
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"source.gguf", "link.gguf", "twin.gguf"}


def test_the_converter_alone_does_not_make_a_file_of_itself_either(tmp_path: Path) -> None:
    source = write(tmp_path / "source.gguf", weights())
    before = digest(source)
    standalone(source, "-t", "Q8_0", "-o", source, code=1)
    assert digest(source) == before


def test_a_part_of_the_source_is_not_overwritten(tmp_path: Path) -> None:
    first = write_split(tmp_path, "Small", weights())
    refused(ExitCode.USAGE, first, "-t", "Q8_0", "--force", "-o", tmp_path / "Small-00002-of-00003.gguf")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder that cannot be written to, and what makes a program mind that."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    minding: list[str] = []
    if os.name != "posix":
        pytest.skip("folders are closed otherwise here")
    if os.geteuid() == 0:  # root may write everywhere, unless it gives that up
        minding = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]
        if shutil.which("setpriv") is None or subprocess.run([*minding, "true"], capture_output=True).returncode:
            pytest.skip("root may write everywhere")
    yield folder, minding
    folder.chmod(0o755)


@pytest.mark.parametrize("door", ["r1local", "quantize"])
def test_a_folder_that_cannot_be_written_to(door: str, checkpoint: Path, read_only: tuple[Path, list[str]]) -> None:
    folder, minding = read_only
    command = [sys.executable, "-m", *(("r1local", "quantize") if door == "r1local" else ("quantize",))]
    result = subprocess.run(
        [*minding, *command, str(checkpoint), "-o", str(folder / "x.gguf"), "--kernels", "c"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert "Permission denied" in result.stderr
    assert str(folder) in result.stderr
    assert "Traceback" not in result.stderr
    assert "mistake" not in result.stderr
    assert list(folder.iterdir()) == []


def test_two_at_the_same_file_do_not_get_in_each_others_way(checkpoint: Path, tmp_path: Path) -> None:
    from r1local.prepare import alone

    with alone(tmp_path / "made.gguf"):
        said = refused(ExitCode.USAGE, checkpoint, "-o", tmp_path / "made.gguf")
        assert "Another process is making made.gguf" in said
        convert(checkpoint, "-o", tmp_path / "other.gguf")
    convert(checkpoint, "-o", tmp_path / "made.gguf")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"made.gguf", "other.gguf"}


# Before and in the middle of it


@pytest.mark.parametrize(
    "flags", [(), ("-t", "Q2_K"), ("-t", "BF16"), ("--pure",), ("--output-type", "F16")], ids=" ".join
)
def test_a_dry_run_says_how_large_it_would_be_and_writes_nothing(
    flags: tuple[str, ...], checkpoint: Path, tmp_path: Path
) -> None:
    out, err = convert(checkpoint, "--dry-run", *flags)
    assert out == ""
    assert models() == set()
    told = int(re.findall(r"([\d,]+) bytes", err)[0].replace(",", ""))
    convert(checkpoint, *flags, "-o", tmp_path / "made.gguf")
    reader = gguf.GGUFReader(tmp_path / "made.gguf")
    assert told == sum(-(-int(tensor.n_bytes) // 32) * 32 for tensor in reader.tensors)
    assert told == (tmp_path / "made.gguf").stat().st_size - reader.data_offset


def test_a_dry_run_needs_no_weights(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "R1-Tiny"
    folder.mkdir()
    shutil.copy(checkpoint / "config.json", folder)
    assert convert(folder, "--dry-run") == convert(checkpoint, "--dry-run")
    assert "Leave --dry-run out" in refused(ExitCode.USAGE, write(tmp_path / "x.gguf", weights()), "--dry-run")


def test_a_dry_run_knows_the_type_of_an_output_that_is_left(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "R1-Tiny"
    shutil.copytree(checkpoint, folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "torch_dtype": "float32"}))
    told = int(re.findall(r"([\d,]+) bytes", convert(folder, "--dry-run", "--leave-output")[1])[0].replace(",", ""))
    convert(folder, "--leave-output", "-o", tmp_path / "made.gguf")
    assert told == (tmp_path / "made.gguf").stat().st_size - gguf.GGUFReader(tmp_path / "made.gguf").data_offset


def test_the_converter_alone_plans_and_names_its_result(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "R1-Tiny"
    shutil.copytree(checkpoint, folder)
    lines = standalone(folder, "--plan", "-t", "Q5_K_M").splitlines()
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == set()
    standalone(folder, "-t", "Q5_K_M", "--kernels", "c")
    reader = gguf.GGUFReader(tmp_path / "R1-Tiny-Q5_K_M.gguf")
    assert [line.split("\t") for line in lines[:-1]] == [
        [tensor.name, tensor.tensor_type.name, str(int(tensor.n_bytes))] for tensor in reader.tensors
    ]
    size = (tmp_path / "R1-Tiny-Q5_K_M.gguf").stat().st_size - reader.data_offset
    count = sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert lines[-1] == f"{len(reader.tensors)} tensors, {count} weights, {size} bytes of data"
    assert "needs a checkpoint folder" in standalone(tmp_path / "R1-Tiny-Q5_K_M.gguf", "--plan", code=1)


@pytest.mark.parametrize("source", ["", "nothing", "nothing.gguf"])
def test_the_converter_alone_says_what_is_missing(source: str, tmp_path: Path) -> None:
    name = str(tmp_path / source) if source else ""
    said = standalone(name, "-o", tmp_path / "x.gguf", code=1)
    assert "missing" in said
    assert len(said.strip().splitlines()) <= 2


def test_ctrl_c_stops_with_130_and_the_same_command_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "R1-Large", layers=6, hidden=512, heads=8, ffn=2048)
    command = [sys.executable, "-m", "r1local", "quantize", str(folder), "--kernels", "c", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if ": 30%" in line or ": 35%" in line:
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert child.returncode == ExitCode.INTERRUPTED
    assert out == ""
    assert "goes on from here" in err
    assert "Traceback" not in err
    assert not [name for name in models() if name.endswith(".gguf")]
    assert "R1-Large" not in run("list", "--json")[0]
    percents = [int(number) for number in re.findall(r": (\d+)%", convert(folder)[1])]
    assert percents[0] >= 25
    assert percents[-1] == 100
    standalone(folder, "-o", tmp_path / "undisturbed.gguf", "--kernels", "c")
    assert digest(paths.models_folder() / "R1-Large-Q4_K_M.gguf") == digest(tmp_path / "undisturbed.gguf")
    assert models() == {"R1-Large-Q4_K_M.gguf"}


@pytest.mark.terminal
def test_on_a_terminal_one_line_grows_and_goes(checkpoint: Path) -> None:
    screen = Screen(["quantize", str(checkpoint), "--kernels", "c"], columns=40)
    assert screen.wait() == 0
    assert "Converting" not in screen.text.replace("\n", "")
    assert f"r1local chat -m {MADE}" in screen.text.replace("\n", "")


# What was lost


def truth(folder: Path, heads: dict[str, int]) -> dict[str, np.ndarray]:
    """The checkpoint's weights under the names of GGUF; `heads` of q and k where those are paired."""
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output",
    }  # fmt: skip
    found = {}
    for name, entry in safetensors.deserialize((folder / "model.safetensors").read_bytes()):
        bits = np.frombuffer(entry["data"], np.uint16).astype(np.uint32) << 16
        values = bits.view(np.float32).astype(np.float64).reshape(entry["shape"])
        module, _, kind = name.removeprefix("model.").rpartition(".")
        layer = ""
        if module.startswith("layers."):
            _, number, module = module.split(".", 2)
            layer = f"blk.{number}."
        for letter, count in heads.items():
            if module == f"self_attn.{letter}_proj":
                rows = values.shape[0] // count
                order = [h * rows + i // 2 + (i % 2) * rows // 2 for h in range(count) for i in range(rows)]
                values = values[order]
        found[f"{layer}{names[module]}.{kind}"] = values
    return found


def as_numbers(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in gguf.GGUFReader(path).tensors
    }


def check_reports(reports: list[dict[str, Any]], made: Path, expected: dict[str, np.ndarray]) -> None:
    got = as_numbers(made)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(made).tensors}
    assert {report["name"] for report in reports} == set(tensors)
    for report in reports:
        a, b = got[report["name"]].reshape(-1), expected[report["name"]].reshape(-1)
        tensor = tensors[report["name"]]
        assert report["type"] == tensor.tensor_type.name
        assert report["shape"] == [int(length) for length in reversed(tensor.shape)]
        assert report["size"] == tensor.n_bytes
        assert report["bits_per_weight"] == pytest.approx(8 * int(tensor.n_bytes) / int(tensor.n_elements))
        rmse = math.sqrt(((a - b) ** 2).mean())
        assert report["rmse"] == pytest.approx(rmse, rel=1e-5, abs=1e-12)
        assert report["relative_rmse"] == pytest.approx(rmse / math.sqrt((b**2).mean()), rel=1e-5, abs=1e-9)
        assert report["cosine"] == pytest.approx(a @ b / math.sqrt((a @ a) * (b @ b)), rel=1e-9)
    losses = [report["relative_rmse"] for report in reports]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 0.01
    assert losses[-1] == 0


def test_losses_are_those_that_numpy_computes(checkpoint: Path, tmp_path: Path) -> None:
    """Against the checkpoint, and against the file that lost nothing."""
    made = tmp_path / "made.gguf"
    convert(checkpoint, "-t", "Q3_K_M", "-o", made)
    convert(checkpoint, "-t", "BF16", "-o", tmp_path / "BF16.gguf")
    expected = truth(checkpoint, {})
    for against in (checkpoint, tmp_path / "BF16.gguf"):
        out, err = run("inspect", made, "--against", against, "--json")
        check_reports(strict(out), made, expected)
        assert "Traceback" not in err


def test_losses_of_a_llama_are_compared_row_by_row_of_its_heads(llama: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.gguf"
    convert(llama, "-t", "Q4_0", "-o", made)
    check_reports(strict(run("inspect", made, "--against", llama, "--json")[0]), made, truth(llama, {"q": 4, "k": 2}))


def test_a_file_has_lost_nothing_against_itself(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint)
    reports = strict(run("inspect", MADE, "--against", paths.models_folder() / f"{MADE}.gguf", "--json")[0])
    assert {report["rmse"] for report in reports} == {0.0}
    assert {report["relative_rmse"] for report in reports} == {0.0}
    assert all(report["cosine"] == pytest.approx(1, abs=1e-12) for report in reports)
    assert all(report["cosine"] <= 1 for report in reports)


def test_without_a_source_the_tensors_are_listed_in_the_order_of_the_file(checkpoint: Path) -> None:
    convert(checkpoint)
    tensors = gguf.GGUFReader(paths.models_folder() / f"{MADE}.gguf").tensors
    out, err = run("inspect", MADE)
    header, *lines = out.splitlines()
    assert header.split() == ["TENSOR", "TYPE", "SHAPE", "BITS"]
    assert [line.split()[:2] for line in lines] == [[t.name, t.tensor_type.name] for t in tensors]
    assert [line.split()[-1] for line in lines] == [f"{8 * int(t.n_bytes) / int(t.n_elements):.4g}" for t in tensors]
    size, count = (sum(int(getattr(t, name)) for t in tensors) for name in ("n_bytes", "n_elements"))
    assert f"{len(tensors)} tensors, {count:,} weights, {size:,} bytes, {8 * size / count:.3f} bits a weight." in err
    assert not ESCAPES.search((out + err).replace("\n", ""))
    reports = strict(run("inspect", MADE, "--json")[0])
    assert [report["name"] for report in reports] == [t.name for t in tensors]
    assert {report["rmse"] for report in reports} == {None}


def test_the_table_shows_the_worst_first_and_no_escapes(checkpoint: Path) -> None:
    convert(checkpoint)
    out, err = run("inspect", MADE, "--against", checkpoint)
    header, *lines = out.splitlines()
    assert header.split() == ["TENSOR", "TYPE", "SHAPE", "BITS", "RMSE", "OFF", "BY", "COSINE"]
    losses = [float(line.split()[-2].rstrip("%")) for line in lines]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 1
    assert not ESCAPES.search((out + err).replace("\n", ""))


@pytest.mark.terminal
def test_forty_columns_hold_the_table(checkpoint: Path) -> None:
    convert(checkpoint)
    screen = Screen(["inspect", MADE, "--against", str(checkpoint)], columns=40, rows=60)
    assert screen.wait() == 0
    lines = [line for line in screen.text.splitlines() if line.startswith(("TENSOR", "blk"))]
    assert lines[0].split() == ["TENSOR", "TYPE", "OFF", "BY"]
    assert len(lines) > 20
    assert all(re.fullmatch(r"blk\.\d\.\S+ +\w+ +[\d.]+%", line) for line in lines[1:])


def test_another_model_is_no_source(checkpoint: Path, llama: Path, tmp_path: Path) -> None:
    convert(checkpoint)
    wider = write_checkpoint(tmp_path / "R1-Wider", layers=2, ffn=512)
    fewer = write_checkpoint(tmp_path / "R1-Fewer", layers=1, ffn=256)
    for against in (llama, wider, fewer, write(tmp_path / "x.gguf", weights())):
        out, err = run("inspect", MADE, "--against", against, code=ExitCode.USAGE)
        assert out == ""
        assert "another model" in err


def test_what_cannot_be_inspected(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint)
    (tmp_path / "text.gguf").write_text("I am no model, whatever my name is.")
    run("inspect", "no-such-model", code=ExitCode.NO_MODEL)
    run("inspect", tmp_path / "none.gguf", code=ExitCode.NO_MODEL)
    run("inspect", "", code=ExitCode.NO_MODEL)
    run("inspect", tmp_path / "text.gguf", code=ExitCode.BAD_FILE)
    run("inspect", MADE, "--against", "no-such-model", code=ExitCode.NO_MODEL)
    run("inspect", MADE, "--against", tmp_path / "text.gguf", code=ExitCode.BAD_FILE)
    (tmp_path / "empty").mkdir()
    run("inspect", MADE, "--against", tmp_path / "empty", code=ExitCode.BAD_FILE)


def test_names_of_strangers_are_shown_harmlessly(tmp_path: Path) -> None:
    tensors = {"a\x1b[2Jb\u202ec.weight": np.ones((2, 32), np.float32), "d.weight": np.ones((2, 32), np.float32)}
    path = write(tmp_path / "x.gguf", tensors, more=every_kind)
    for flags in ((), ("--json",), ("--against", path), ("--against", path, "--json")):
        out, err = run("inspect", path, *flags)
        assert not ESCAPES.search((out + err).replace("\n", ""))
        assert "\u202e" not in out
        assert "d.weight" in out


def test_factors_of_long_contexts_are_in_no_checkpoint(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    folder = write_checkpoint(tmp_path / "R1-Long", "llama", layers=1, ffn=256, rope_scaling=scaling)
    convert(folder, "-o", tmp_path / "made.gguf")
    reports = {
        report["name"]: report
        for report in strict(run("inspect", tmp_path / "made.gguf", "--against", folder, "--json")[0])
    }
    assert reports["rope_freqs.weight"]["rmse"] is None
    assert reports["output.weight"]["rmse"] > 0
    line = next(
        line for line in run("inspect", tmp_path / "made.gguf", "--against", folder)[0].splitlines() if "rope" in line
    )
    assert line.split()[-3:] == ["-", "-", "-"]


def test_weights_that_are_all_zero(tmp_path: Path) -> None:
    zeros = {"a.weight": np.zeros((2, 32), np.float32), "b.weight": np.ones((2, 32), np.float32)}
    path = write(tmp_path / "x.gguf", zeros)
    reports = {report["name"]: report for report in strict(run("inspect", path, "--against", path, "--json")[0])}
    assert (reports["a.weight"]["rmse"], reports["a.weight"]["relative_rmse"], reports["a.weight"]["cosine"]) == (
        0,
        0,
        1,
    )


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_json_is_json_whatever_the_weights_are(value: float, tmp_path: Path) -> None:
    odd = write(tmp_path / "odd.gguf", {"a.weight": np.full((2, 32), value, np.float32)})
    ones = write(tmp_path / "ones.gguf", {"a.weight": np.ones((2, 32), np.float32)})
    strict(run("inspect", ones, "--against", odd, "--json")[0])
    strict(run("inspect", odd, "--against", ones, "--json")[0])


def test_all_parts_of_a_split_file_are_inspected(tmp_path: Path) -> None:
    first = write_split(tmp_path, "Small-F32", weights())
    reports = strict(run("inspect", first, "--json")[0])
    assert {report["name"] for report in reports} == set(weights())


def test_a_split_file_may_be_the_source(tmp_path: Path) -> None:
    first = write_split(tmp_path, "Small-F32", weights())
    convert(first, "-t", "Q8_0", "-o", tmp_path / "made.gguf")
    reports = strict(run("inspect", tmp_path / "made.gguf", "--against", first, "--json")[0])
    assert {report["name"] for report in reports} == set(weights())


def test_tensors_that_no_block_fits_are_told_of(tmp_path: Path, checkpoint: Path) -> None:
    """Their types are not the one that was asked for, and the file is larger than expected."""
    narrow = write_checkpoint(tmp_path / "Narrow", hidden=96, heads=6, ffn=160)
    _, err = convert(narrow, "-t", "Q4_K_M", "-o", tmp_path / "narrow.gguf")
    # Seven matrices in each of two layers, and the embedding. The output gets Q8_0 by its own rule.
    assert "15 tensors have rows that no block of Q4_K_M fits" in err
    _, err = convert(checkpoint, "-t", "Q4_K_M", "-o", tmp_path / "wide.gguf")
    assert "no block" not in err

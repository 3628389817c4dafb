"""Models brought in by path, and carried out and in with checksums: whole and right, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from huggingface_hub import constants

from r1local import paths
from r1local.catalog import load_catalog
from r1local.checksums import Checksums
from r1local.errors import ChecksumMismatch, DiskFull, ExitCode, ModelFileError, ModelNotFound, R1Error, UsageError
from r1local.gguf_header import read_header
from r1local.store import all_local, find
from r1local.store import carry as carry_module
from r1local.store.carry import bring, bring_folder, export, file_name_of
from tests.test_store import put_in_cache

REPO = "someone/Some-Model-GGUF"
Usage = namedtuple("Usage", "total used free")


def tiny(path: Path, name: str = "Tiny", seed: int = 0, split: tuple[int, int] | None = None) -> Path:
    """A sound header and eight weights; of a split model part `split[0]` of `split[1]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "qwen2")
    if split is None or split[0] == 0:
        writer.add_name(name)
        writer.add_block_count(1)
        writer.add_file_type(0)
    if split is not None:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
    number = split[0] if split else 0
    writer.add_tensor(f"blk.{number}.weight", np.arange(seed, seed + 8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_split(folder: Path, stem: str = "big-F32", count: int = 3) -> list[Path]:
    return [tiny(folder / f"{stem}-{n + 1:05d}-of-{count:05d}.gguf", split=(n, count)) for n in range(count)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny(tmp_path / "elsewhere" / "some-model-F32.gguf")


def in_folder() -> list[str]:
    """All that lies in the models folder, hidden names and unfinished ones too."""
    folder = paths.models_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder.exists() else []


def refused(call: Callable[[], Any], kind: type[R1Error] = R1Error) -> R1Error:
    """One clear sentence and a hint; and nothing appears."""
    before = in_folder()
    with pytest.raises(kind) as caught:
        call()
    assert in_folder() == before
    assert caught.value.message.endswith(".")
    assert caught.value.hint
    return caught.value


# By path


@pytest.mark.parametrize("copy", [False, True])
def test_a_file(source: Path, copy: bool) -> None:
    brought = bring(source, copy=copy)
    assert (brought.path, brought.linked) == (paths.models_folder() / source.name, not copy)
    assert brought.path.is_symlink() is not copy
    assert brought.path.read_bytes() == source.read_bytes()
    assert find(load_catalog(), "some-model-F32").path == brought.path
    assert brought.path in [local.path for local in all_local(load_catalog())]
    source.unlink()
    assert brought.path.exists() is copy
    assert in_folder() == [source.name], "nothing beside it"


def test_a_relative_path(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    brought = bring(Path(source.name))
    monkeypatch.chdir("/")
    assert brought.path.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("copy", [False, True])
def test_again_is_harmless_and_another_is_refused(source: Path, tmp_path: Path, copy: bool) -> None:
    bring(source)
    assert bring(source, copy=copy).path == paths.models_folder() / source.name
    other = tiny(tmp_path / "other" / source.name, seed=1)
    error = refused(lambda: bring(other, copy=copy), UsageError)
    assert find(load_catalog(), error.hint.split("`")[1].removeprefix("r1local rm ")).path.name == source.name
    assert (paths.models_folder() / source.name).read_bytes() == source.read_bytes()


def test_a_link_that_leads_nowhere_is_replaced(source: Path, tmp_path: Path) -> None:
    bring(source)
    moved = tmp_path / "moved" / source.name
    moved.parent.mkdir()
    source.rename(moved)
    assert bring(moved).path.read_bytes() == moved.read_bytes()


def test_the_hint_can_be_typed(tmp_path: Path) -> None:
    import shlex

    bring(tiny(tmp_path / "a" / "my model.gguf"))
    error = refused(lambda: bring(tiny(tmp_path / "b" / "my model.gguf", seed=1)))
    assert shlex.split(error.hint.split("`")[1]) == ["r1local", "rm", "my model"]


@pytest.mark.parametrize("name", ["model.bin", "model.GGUF", "sha256-" + "0" * 64])
def test_any_ending_is_found_by_the_name_it_gets(tmp_path: Path, name: str) -> None:
    brought = bring(tiny(tmp_path / "x" / name))
    shown = find(load_catalog(), str(brought.path)).name
    assert os.path.samefile(find(load_catalog(), shown).path, brought.path)


def test_any_ending_is_listed(tmp_path: Path) -> None:
    brought = bring(tiny(tmp_path / "x" / "model.bin"))
    assert brought.path in [local.path for local in all_local(load_catalog())]


@pytest.mark.parametrize(("content", "kind"), [
    (b"", ModelFileError), (b"GGUF", ModelFileError), (b"PK\x03\x04" * 10, ModelFileError), (None, ModelNotFound),
])  # fmt: skip
def test_what_is_no_model(tmp_path: Path, content: bytes | None, kind: type[R1Error]) -> None:
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    refused(lambda: bring(path), kind)


def test_a_cut_file_a_folder_and_a_pipe(source: Path, tmp_path: Path) -> None:
    whole = source.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 30):
        source.write_bytes(whole[:length])
        refused(lambda: bring(source), ModelFileError)
    refused(lambda: bring(tmp_path), ModelFileError)
    os.mkfifo(tmp_path / "pipe.gguf")
    refused(lambda: bring(tmp_path / "pipe.gguf"), R1Error)


@pytest.mark.parametrize("name", ["-rf.gguf", "a:b.gguf", "con.gguf", "\x1b]0;x\x07.gguf", "a\nb.gguf", "\u202e.gguf"])
@pytest.mark.parametrize("copy", [False, True])
def test_hostile_names(tmp_path: Path, name: str, copy: bool) -> None:
    refused(lambda: bring(tiny(tmp_path / name), copy=copy), UsageError)


def test_without_symbolic_links(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", no)
    brought = bring(source)
    assert brought.linked
    assert brought.path.stat().st_ino == source.stat().st_ino
    brought.path.unlink()
    monkeypatch.setattr(os, "link", no)
    error = refused(lambda: bring(source), UsageError)
    assert "--copy" in error.hint
    assert bring(source, copy=True).path.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("copy", [False, True])
def test_a_split_model(tmp_path: Path, copy: bool) -> None:
    parts = tiny_split(tmp_path / "src")
    brought = bring(parts[0], "ignored.gguf", copy=copy)
    assert in_folder() == [part.name for part in parts]
    assert len(read_header(brought.path).parts) == 2
    assert [local.name for local in all_local(load_catalog()) if local.origin == "models folder"] == [parts[0].stem]
    refused(lambda: bring(parts[1]), ModelFileError)


@pytest.mark.parametrize("how", ["taken", "space"])
def test_a_split_model_comes_whole_or_not(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_split(tmp_path / "src")
    if how == "taken":
        tiny(paths.models_folder() / parts[2].name, seed=9)
    else:
        room = parts[0].stat().st_size + (64 << 20) + 10
        free = lambda *_: Usage(10**12, 0, room - sum(p.stat().st_size for p in paths.models_folder().glob("*.gguf")))  # noqa: E731
        monkeypatch.setattr(shutil, "disk_usage", free)
    refused(lambda: bring(parts[0], copy=True))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "bad")])
def test_a_copy_that_is_stopped(source: Path, stop: Any) -> None:
    def fail(*_: object) -> None:
        raise stop

    with pytest.raises((KeyboardInterrupt, DiskFull, OSError)):
        bring(source, copy=True, on_progress=fail)
    assert in_folder() == []


def test_a_full_disk(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 99, 1))
    error = refused(lambda: bring(source, copy=True), DiskFull)
    assert error.exit_code == ExitCode.DISK
    assert bring(source).linked, "a link takes no room"


# Names for what has none


@pytest.mark.parametrize(("title", "expected"), [
    ("deepseek-r1-7b", "deepseek-r1-7b-F32.gguf"),
    ("x-F32", "x-F32.gguf"),
    ("x-f32", "x-f32.gguf"),
    ("../../etc/passwd", "model-F32.gguf"),
    ("y" * 300, "model-F32.gguf"),
    ("a\x1bb", "model-F32.gguf"),
])  # fmt: skip
def test_what_a_blob_is_called(tmp_path: Path, title: str, expected: str) -> None:
    """Never what its metadata claims: that would make anybody's file the catalog's."""
    header = read_header(tiny(tmp_path / "blob", "DeepSeek R1 Distill Qwen 7B"))
    assert file_name_of(header, title) == expected


# Out and in again


@pytest.fixture
def cached(cache: Path, tmp_path: Path) -> Path:
    """A model of a repository, with its papers."""
    content = tiny(tmp_path / "made.gguf").read_bytes()
    put_in_cache(cache, REPO, "README.md", content=b"read me")
    put_in_cache(cache, REPO, "LICENSE", content=b"do as you like")
    put_in_cache(cache, REPO, "config.json", content=b"{}")
    return put_in_cache(cache, REPO, "some-model-F32.gguf", content=content)


@pytest.fixture
def exported(cached: Path, tmp_path: Path) -> Path:
    export(find(load_catalog(), REPO), tmp_path / "stick", Checksums())
    return tmp_path / "stick"


def manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_there_and_back(cached: Path, exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir()) == ["LICENSE", "README.md", "manifest.json", cached.name]
    said = json.loads((exported / "manifest.json").read_text())
    assert (said["repository"], said["commit"]) == (REPO, cached.parent.name)
    for entry in said["files"]:
        data = (cached.parent / entry["name"]).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    shutil.rmtree(cached.parents[2])
    brought = bring_folder(exported, Checksums())
    assert {p.name: p.read_bytes() for p in brought.path.parent.iterdir()} == {
        p.name: p.read_bytes() for p in exported.iterdir()
    }
    found = find(load_catalog(), "some-model-F32")
    assert (found.path, brought.linked) == (brought.path, False)
    assert Checksums().known(brought.path) == said["files"][0]["sha256"]
    again = exported.with_name("again")
    export(found, again, Checksums())
    assert {p.name: p.read_bytes() for p in again.iterdir() if p.name != "manifest.json"} == {
        p.name: p.read_bytes() for p in exported.iterdir() if p.name != "manifest.json"
    }
    assert "already" in refused(lambda: bring_folder(exported, Checksums()), UsageError).message


def test_a_split_model_there_and_back(tmp_path: Path) -> None:
    parts = tiny_split(paths.models_folder())
    export(find(load_catalog(), parts[0].stem), tmp_path / "stick", Checksums())
    before = {part.name: part.read_bytes() for part in parts}
    for part in parts:
        part.unlink()
    brought = bring_folder(tmp_path / "stick", Checksums())
    assert {p.name: p.read_bytes() for p in brought.path.parent.glob("*.gguf")} == before
    assert len(read_header(brought.path).parts) == 2


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "some-model-F32.gguf"])
def test_export_overwrites_nothing(cached: Path, tmp_path: Path, name: str) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / name).write_bytes(b"mine, and the only copy")
    with pytest.raises(UsageError):
        export(find(load_catalog(), REPO), stick, Checksums())
    assert (stick / name).read_bytes() == b"mine, and the only copy"


def test_a_model_called_like_a_paper(cache: Path, tmp_path: Path) -> None:
    put_in_cache(cache, REPO, "license-bert-F32.gguf", content=tiny(tmp_path / "x").read_bytes())
    export(find(load_catalog(), REPO), tmp_path / "stick", Checksums())
    bring_folder(tmp_path / "stick", Checksums())


def test_a_damaged_file_is_not_exported(cached: Path, tmp_path: Path) -> None:
    blob = cached.resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ChecksumMismatch) as caught:
        export(find(load_catalog(), REPO), tmp_path / "stick", Checksums())
    assert f"r1local pull {REPO}" in caught.value.hint
    assert not (tmp_path / "stick" / "manifest.json").exists()
    assert not (tmp_path / "stick" / cached.name).exists()


NAMES = ["../x.gguf", "/tmp/x.gguf", "a/b.gguf", "a\\b.gguf", "x\0.gguf", "con.gguf", "", "..", "x.", "\ud800.gguf"]


@pytest.mark.parametrize("name", [*NAMES, "manifest.json", 7, None, ["x"]])
@pytest.mark.parametrize("place", [0, 1])
def test_hostile_names_in_a_manifest(exported: Path, name: Any, place: int) -> None:
    files = json.loads((exported / "manifest.json").read_text())["files"]
    files[place] |= {"name": name}
    manifest(exported, files=files)
    refused(lambda: bring_folder(exported, Checksums()), ModelFileError)


@pytest.mark.parametrize("changes", [
    {"format": "x"}, {"version": 2}, {"version": None}, {"files": []}, {"files": {}}, {"files": "abc"}, {"files": 7},
    {"files": [{}]}, {"files": [{"name": "x.gguf", "size": -1, "sha256": ""}]},
    {"files": [{"name": "x.gguf", "size": "1", "sha256": ""}]}, {"files": [{"name": "x.bin", "size": 1, "sha256": ""}]},
])  # fmt: skip
def test_a_manifest_that_is_none(exported: Path, changes: dict[str, Any]) -> None:
    manifest(exported, **changes)
    refused(lambda: bring_folder(exported, Checksums()), ModelFileError)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 21), b"1" * 9000]
)
def test_a_manifest_that_is_not_json(exported: Path, content: bytes) -> None:
    (exported / "manifest.json").write_bytes(content)
    refused(lambda: bring_folder(exported, Checksums()), ModelFileError)


def test_a_size_beyond_all_measure(exported: Path) -> None:
    manifest(exported, files=[{"name": "x.gguf", "size": 10**400, "sha256": "0" * 64}])
    refused(lambda: bring_folder(exported, Checksums()), R1Error)


def twice(files: list[dict[str, Any]]) -> None:
    files.append(files[0] | {"name": files[0]["name"].upper()})


def test_two_files_of_one_name(exported: Path) -> None:
    files = json.loads((exported / "manifest.json").read_text())["files"]
    twice(files)
    manifest(exported, files=files)
    refused(lambda: bring_folder(exported, Checksums()), ModelFileError)


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["some-model-F32.gguf", "README.md"])
@pytest.mark.parametrize("change", [flip, lengthen, pipe, link, folder, Path.unlink])
def test_a_file_that_is_not_as_its_manifest_says(exported: Path, name: str, change: Callable[[Path], None]) -> None:
    change(exported / name)
    error = refused(lambda: bring_folder(exported, Checksums()), ModelFileError)
    assert isinstance(error, ChecksumMismatch) == (change is flip)


def test_right_checksums_of_no_model(exported: Path) -> None:
    (exported / "x.gguf").write_bytes(b"not a model")
    sha = hashlib.sha256(b"not a model").hexdigest()
    manifest(exported, files=[{"name": "x.gguf", "size": 11, "sha256": sha}])
    refused(lambda: bring_folder(exported, Checksums()), ModelFileError)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "bad")])
def test_nothing_appears_when_it_is_stopped(exported: Path, stop: Any) -> None:
    def fail(name: str, *_: int) -> None:
        if name == "README.md":  # the model was copied already
            raise stop

    with pytest.raises((KeyboardInterrupt, DiskFull, OSError)):
        bring_folder(exported, Checksums(), on_progress=fail)
    assert in_folder() == []


def test_a_disk_that_is_too_small(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry_module.shutil, "disk_usage", lambda _: Usage(100, 99, 64 << 20))
    refused(lambda: bring_folder(exported, Checksums()), DiskFull)

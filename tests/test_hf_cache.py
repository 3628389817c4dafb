"""The shared cache: which files in it may be opened, what is put into it, and the checksums of what lies there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from r1local import paths
from r1local.checksums import Checksums
from r1local.hf_cache import CachedRepo, cached_repos, repo_of

COMMIT, OTHER_COMMIT = "c" * 40, "d" * 40
ETAG, OTHER_ETAG = "ab" * 32, "cd" * 32
DATA = b"model" * 100


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CachedRepo:
    """A repository with one blob and a link to it, as huggingface_hub makes them."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", False)
    repo = CachedRepo(tmp_path / "cache", "someone/Model")
    repo.prepare()
    repo.blob(ETAG).write_bytes(DATA)
    folder = repo.snapshot(COMMIT)
    (folder / "sub").mkdir(parents=True)
    (folder / "m.gguf").symlink_to(f"../../blobs/{ETAG}")
    (folder / "sub" / "n.gguf").symlink_to(f"../../../blobs/{ETAG}")
    return repo


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.write_bytes(b"secret")
    return path


def linked(repo: CachedRepo, target: str | Path, name: str = "x.gguf") -> Path:
    path = repo.snapshot(COMMIT, name)
    path.symlink_to(target)
    return path


# What may be opened


def test_the_links_of_a_downloader_are_allowed(repo: CachedRepo) -> None:
    for name in ("m.gguf", "sub/n.gguf"):
        assert repo.allows(repo.snapshot(COMMIT, name))
        assert repo.etag_of(repo.snapshot(COMMIT, name)) == ETAG
    assert repo.allows(linked(repo, repo.blob(ETAG))), "an absolute link to an own blob"
    plain = repo.snapshot(COMMIT, "plain.gguf")
    plain.write_bytes(DATA)
    assert repo.allows(plain)
    assert repo.etag_of(plain) == ""
    assert sorted(path.name for path in repo.links_to(ETAG)) == ["m.gguf", "n.gguf", "x.gguf"]
    assert repo.links_to(OTHER_ETAG) == []


def test_a_blob_may_lie_in_the_shared_store(repo: CachedRepo) -> None:
    store = repo.cache / "blobs" / "ee"
    store.mkdir(parents=True)
    (store / ("e" * 64)).write_bytes(DATA)
    repo.blob(OTHER_ETAG).symlink_to(f"../../blobs/ee/{'e' * 64}")
    path = linked(repo, f"../../blobs/{OTHER_ETAG}")
    assert path.read_bytes() == DATA
    assert repo.allows(path)
    assert repo.etag_of(path) == OTHER_ETAG


@pytest.mark.parametrize(
    "target",
    [
        "../../../../outside",
        "../../../models--other--Model/blobs/" + ETAG,
        "../../blobs/" + OTHER_ETAG,  # dangling
        "x.gguf",  # itself
        "m.gguf",  # a link to a link
        "../../blobs",
        "../../blobs/.",
        "../../blobs/notahash",
        "../../blobs/../blobs2/" + ETAG,
        "../../blobs/sub/" + ETAG,
        "../../refs/main",
        "../../../blobs/ee/" + "e" * 64,  # the shared store without a blob between
        "/dev/zero",
        "/proc/self/environ",
        "",
    ],
)
def test_no_other_link_is_allowed(repo: CachedRepo, outside: Path, target: str) -> None:
    stranger = CachedRepo(repo.cache, "other/Model")
    stranger.prepare()
    stranger.blob(ETAG).write_bytes(DATA)
    for folder in (repo.folder / "blobs2", repo.folder / "blobs" / "sub", repo.cache / "blobs" / "ee"):
        folder.mkdir(parents=True)
    (repo.folder / "blobs" / "notahash").write_bytes(DATA)
    (repo.folder / "blobs2" / ETAG).write_bytes(DATA)
    (repo.folder / "blobs" / "sub" / ETAG).write_bytes(DATA)
    (repo.cache / "blobs" / "ee" / ("e" * 64)).write_bytes(DATA)
    (repo.folder / "refs" / "main").write_text(COMMIT)
    path = linked(repo, target or outside)
    assert not repo.allows(path)
    assert repo.etag_of(path) == ""


@pytest.mark.parametrize(
    "kind", ["outside", "fifo", "folder", "dangling", "loop", "other store", "short", "link", "shard"]
)
def test_no_other_blob_is_allowed(repo: CachedRepo, outside: Path, tmp_path: Path, kind: str) -> None:
    blob = repo.blob(OTHER_ETAG)
    store = repo.cache / "blobs"
    (store / "ee").mkdir(parents=True)
    name = f"ee/{'e' * 64}"
    (store / name).write_bytes(DATA)
    match kind:
        case "outside":
            blob.symlink_to(outside)
        case "fifo":
            os.mkfifo(blob)
        case "folder":
            blob.mkdir()
        case "dangling":
            blob.symlink_to(f"../../blobs/ff/{'f' * 64}")
        case "loop":
            blob.symlink_to(blob.name)
        case "other store":
            (tmp_path / "blobs" / "ee").mkdir(parents=True)
            (tmp_path / "blobs" / name).write_bytes(DATA)
            blob.symlink_to(f"../../../blobs/{name}")
        case "short":
            (store / "ee" / "eee").write_bytes(DATA)
            blob.symlink_to("../../blobs/ee/eee")
        case "link":
            (store / name).unlink()
            (store / name).symlink_to(outside)
            blob.symlink_to(f"../../blobs/{name}")
        case "shard":
            shutil.move(store / "ee", tmp_path / "ee")
            (store / "ee").symlink_to(tmp_path / "ee")
            blob.symlink_to(f"../../blobs/{name}")
    assert not repo.allows(linked(repo, f"../../blobs/{OTHER_ETAG}"))


def test_no_file_that_is_none_is_allowed(repo: CachedRepo, outside: Path) -> None:
    fifo = repo.snapshot(COMMIT, "pipe.gguf")
    os.mkfifo(fifo)
    for path in (fifo, repo.snapshot(COMMIT, "sub"), repo.snapshot(COMMIT, "none"), repo.snapshot(COMMIT), outside):
        assert not repo.allows(path)
    assert not repo.allows(repo.blob(ETAG)), "not in a snapshot"
    assert not CachedRepo(repo.cache, "other/Model").allows(repo.snapshot(COMMIT, "m.gguf"))


def test_no_folder_behind_a_link_is_allowed(repo: CachedRepo, tmp_path: Path) -> None:
    """The same link leads elsewhere from another folder than its name says."""
    evil = tmp_path / "a" / "b" / "c"
    evil.mkdir(parents=True)
    (evil / "plain.gguf").write_bytes(b"secret")
    (evil / "m.gguf").symlink_to(f"../../blobs/{ETAG}")
    repo.snapshot(OTHER_COMMIT).symlink_to(evil)
    (repo.snapshot(COMMIT) / "deep").symlink_to(evil)
    for path in (repo.snapshot(OTHER_COMMIT), repo.snapshot(COMMIT) / "deep"):
        for name in ("plain.gguf", "m.gguf"):
            assert not repo.allows(path / name)
    assert [path.name for path in repo.snapshots()] == [COMMIT]


@pytest.mark.parametrize(
    "name",
    [
        "snapshots",
        "blobs",
    ],
)
def test_no_repository_folder_behind_a_link_is_allowed(repo: CachedRepo, tmp_path: Path, name: str) -> None:
    shutil.move(repo.folder / name, tmp_path / name)
    (repo.folder / name).symlink_to(tmp_path / name)
    assert not repo.allows(repo.snapshot(COMMIT, "m.gguf"))


def test_no_name_climbs_out(repo: CachedRepo, outside: Path) -> None:
    path = repo.snapshot(COMMIT) / ".." / ".." / ".." / ".." / "outside"
    assert path.read_bytes() == b"secret"
    assert not repo.allows(path)


def test_names_are_checked_before_they_are_paths(repo: CachedRepo) -> None:
    for etag in ("", "../x", ETAG.upper(), ETAG[:-1], ETAG + "0", ETAG + "\n", "g" * 64, "/etc/passwd"):
        with pytest.raises(ValueError, match="blob"):
            repo.blob(etag)
    for commit in ("", "main", "..", COMMIT.upper(), COMMIT + "\n", COMMIT[:39]):
        with pytest.raises(ValueError, match="commit"):
            repo.snapshot(commit)


# What is found


def test_a_file_knows_its_repository(repo: CachedRepo, outside: Path) -> None:
    assert repo_of(repo.snapshot(COMMIT, "sub/n.gguf")) == repo
    for path in (outside, repo.cache, repo.blob(ETAG), repo.folder / "refs" / "main"):
        assert repo_of(path) is None
    for name in ("datasets--a--b", "models--x", ".locks", "models--", "models----b"):
        (repo.cache / name).mkdir(exist_ok=True)
    assert list(cached_repos()) == [repo]


@pytest.mark.parametrize("text", ["", "main", COMMIT + "\n", COMMIT[:-1], "../../x", COMMIT.upper(), "\udcff"])
def test_a_revision_that_names_no_commit(repo: CachedRepo, text: str) -> None:
    (repo.folder / "refs" / "main").write_text(text, errors="surrogateescape")
    assert repo.commit_of("main") == ""
    assert [path.name for path in repo.snapshots()] == [COMMIT]


def test_snapshots_begin_with_main(repo: CachedRepo) -> None:
    repo.snapshot(OTHER_COMMIT).mkdir()
    (repo.folder / "snapshots" / "notes").mkdir()
    for number, commit in enumerate((COMMIT, OTHER_COMMIT)):
        os.utime(repo.snapshot(commit), (number * 100, number * 100))
    assert [path.name for path in repo.snapshots()] == [OTHER_COMMIT, COMMIT]
    repo.set_revision("main", COMMIT)
    repo.set_revision("pr/1", COMMIT)
    repo.set_revision(OTHER_COMMIT, OTHER_COMMIT)
    assert [path.name for path in repo.snapshots()] == [COMMIT, OTHER_COMMIT]
    assert sorted(path.name for path in repo.revisions_of(COMMIT)) == ["1", "main"]
    assert huggingface_hub.scan_cache_dir(repo.cache).warnings == []


# What is made


def test_a_link_replaces_what_is_there(repo: CachedRepo, outside: Path) -> None:
    linked(repo, outside, "old.gguf")
    repo.snapshot(COMMIT, "file.gguf").write_bytes(b"old")
    for name in ("old.gguf", "file.gguf", "new/deep.gguf"):
        path = repo.link(COMMIT, name, ETAG)
        assert path.read_bytes() == DATA
        assert not os.path.isabs(os.readlink(path))
        assert repo.allows(path)
    assert outside.read_bytes() == b"secret"


def test_without_links_the_file_lies_in_the_snapshot(repo: CachedRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(repo.snapshot(COMMIT))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    path = repo.link(COMMIT, "m.gguf", ETAG)
    assert path.lstat().st_size == len(DATA)
    assert repo.allows(path)


def test_without_links_another_process_may_be_faster(repo: CachedRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    shutil.rmtree(repo.snapshot(COMMIT))
    for _ in range(2):
        assert repo.link(COMMIT, "m.gguf", ETAG).read_bytes() == DATA


def test_without_links_older_links_stay_good(repo: CachedRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    assert repo.link(OTHER_COMMIT, "m.gguf", ETAG).read_bytes() == DATA
    assert repo.snapshot(COMMIT, "m.gguf").read_bytes() == DATA


# Checksums


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def test_checksums_are_those_of_the_content(file: Path) -> None:
    assert Checksums().compute(file) == hashlib.sha256(DATA).hexdigest()
    assert Checksums().known(file) == hashlib.sha256(DATA).hexdigest(), "kept for the next one"
    assert Checksums().compute(file, like="0" * 40) == hashlib.sha1(b"blob 500\0" + DATA).hexdigest()
    assert Checksums().known(file) == hashlib.sha1(b"blob 500\0" + DATA).hexdigest()
    link = file.with_name("link")
    link.symlink_to(file)
    assert Checksums().known(link) == Checksums().known(file), "of the file behind the link"
    assert Checksums().known(file.with_name("none")) == ""
    with pytest.raises(FileNotFoundError):
        Checksums().compute(file.with_name("none"))


def change_size(file: Path) -> None:
    os.truncate(file, 499)


def change_time(file: Path) -> None:
    os.utime(file, (1, 1))


def replace(file: Path) -> None:
    """Same size and time, another file."""
    status = file.stat()
    file.with_name("new").write_bytes(DATA.upper())
    os.utime(file.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(file.with_name("new"), file)


def rewrite(file: Path) -> None:
    """As `rsync --inplace --times` does, and whoever wants to hide it."""
    status = file.stat()
    file.write_bytes(DATA.upper())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        change_size,
        change_time,
        replace,
        rewrite,
        os.remove,
    ],
)
def test_a_file_that_was_touched_is_not_known(file: Path, change: Callable[[Path], None]) -> None:
    Checksums().compute(file)
    change(file)
    assert Checksums().known(file) == ""


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file: Path) -> None:
    Checksums().compute(file, on_progress=lambda _: file.write_bytes(DATA + b"more"))
    assert Checksums().known(file) == ""


def test_reading_can_be_stopped(file: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Checksums().compute(file, on_progress=stop)
    assert Checksums().known(file) == ""


@pytest.mark.parametrize(
    "store",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a\\u0000b": ["1", "2", "3", "4"], "\\ud800": ["1", "2", "3", "4"]}',
        b'{"FILE": "500", "x": {}, "y": [], "z": null}',
        b'{"FILE": [500, 1, 2, "aa"]}',
        b'{"FILE": ["aa"]}',
        b'{"FILE": ["500", "1", "2", "aa"]}',
    ],
)
def test_a_damaged_store_costs_computing_again(file: Path, store: bytes) -> None:
    path = paths.checksums_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(store.replace(b"FILE", os.fsencode(file)))
    assert Checksums().known(file) == ""
    assert Checksums().compute(file) == hashlib.sha256(DATA).hexdigest()
    assert Checksums().known(file) == hashlib.sha256(DATA).hexdigest()


def test_a_home_that_cannot_be_written_to(file: Path, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_bytes(b"")
    checksums = Checksums(tmp_path / "blocked" / "checksums.json")
    assert checksums.compute(file) == hashlib.sha256(DATA).hexdigest()
    assert checksums.known(file) == ""


def test_files_that_are_gone_are_forgotten(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"x")
    Checksums().compute(other)
    other.unlink()
    Checksums().compute(file)
    assert list(json.loads(paths.checksums_file().read_bytes())) == [os.path.realpath(file)]

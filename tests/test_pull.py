"""A pull from its reference to the shared cache: with other processes at the same files, killed, and found again."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download

from r1local.errors import DownloadError, NotOffered, UnsafeServer
from r1local.hub.hosts import Hosts
from r1local.hub.partial import Spans
from tests.hub import Fault, Hub
from tests.pulling import (
    KIB,
    MIB,
    NAME,
    QUICK,
    REPO,
    Desk,
    assert_clean,
    claims,
    noise,
    online,
    published,
    repo,
    result,
    start,
    unfinished,
)  # fmt: skip

DATA, NEWER = noise(2 * MIB), noise(2 * MIB, 1)
README = b"# Some model\n"
TOKEN = "hf_secret"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add(REPO, {NAME: DATA, "README.md": README})
        yield hub


@pytest.fixture
def desk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    online(tmp_path / "cache", monkeypatch)
    yield Desk(hub)
    huggingface_hub.close_session()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_until(what: object, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


# What other tools find


def test_other_tools_find_what_was_pulled(hub: Hub, desk: Desk) -> None:
    sha = hub.add(REPO, {NAME: DATA, "README.md": README})
    path = desk.pull()
    home = repo().folder
    assert path == home / "snapshots" / sha / NAME
    assert os.readlink(path) == f"../../blobs/{hashlib.sha256(DATA).hexdigest()}"
    assert (home / "refs" / "main").read_bytes() == sha.encode()
    assert (path.parent / "README.md").read_bytes() == README
    assert_clean()
    sent = len(hub.log)
    assert hf_hub_download(REPO, NAME, local_files_only=True) == str(path)
    assert hf_hub_download(REPO, "README.md", revision=sha, local_files_only=True) == str(path.parent / "README.md")
    assert snapshot_download(REPO, local_files_only=True) == str(path.parent)
    assert len(hub.log) == sent


def test_a_second_pull_fetches_nothing(hub: Hub, desk: Desk) -> None:
    first = desk.pull()
    before = hub.bytes_sent()
    assert desk.plan().missing == 0
    assert desk.pull() == first
    assert hub.bytes_sent() == before == len(DATA)
    assert desk.notices == []


def test_what_hugging_face_fetched_is_used(hub: Hub, desk: Desk) -> None:
    theirs = hf_hub_download(REPO, NAME, endpoint=hub.endpoint)
    assert hub.bytes_sent() == len(DATA)
    assert str(desk.pull()) == theirs
    assert hub.bytes_sent() == len(DATA)
    assert_clean()


def flip(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(MIB)
        byte = file.read(1)
        file.seek(MIB)
        file.write(bytes([byte[0] ^ 1]))


def test_a_damaged_copy_is_replaced(hub: Hub, desk: Desk) -> None:
    path = desk.pull()
    flip(path.resolve())
    assert desk.pull() == path
    assert path.read_bytes() == DATA
    assert hub.bytes_sent() == 2 * len(DATA)
    assert any("damaged" in notice for notice in desk.notices)
    assert_clean()


def test_a_damaged_copy_is_told_once(hub: Hub, desk: Desk) -> None:
    flip(desk.pull().resolve())
    desk.pull()
    assert len(desk.notices) == 1


@pytest.mark.parametrize("kind", ["empty", "short", "dangling", "link"])
def test_what_lies_in_place_of_the_blob_is_replaced(hub: Hub, desk: Desk, tmp_path: Path, kind: str) -> None:
    (tmp_path / "outside").write_bytes(noise(len(DATA), 5))
    repo().prepare()
    blob = repo().blob(hashlib.sha256(DATA).hexdigest())
    match kind:
        case "empty":
            blob.touch()
        case "short":
            blob.write_bytes(DATA[:-1])
        case "dangling":
            blob.symlink_to(tmp_path / "none")
        case "link":
            blob.symlink_to(tmp_path / "outside")
    assert desk.pull().read_bytes() == DATA
    assert not blob.is_symlink()
    assert (tmp_path / "outside").read_bytes() == noise(len(DATA), 5)
    assert not (tmp_path / "none").exists()
    assert_clean()


def test_a_blob_that_leads_outside_to_the_same_bytes(hub: Hub, desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(DATA)
    repo().prepare()
    repo().blob(hashlib.sha256(DATA).hexdigest()).symlink_to(tmp_path / "outside")
    assert desk.pull().read_bytes() == DATA


def test_without_links_the_file_lies_in_the_snapshot(hub: Hub, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    path = desk.pull()
    assert path.lstat().st_size == len(DATA)
    assert list((repo().folder / "blobs").iterdir()) == []
    assert hf_hub_download(REPO, NAME, local_files_only=True) == str(path)
    assert desk.pull() == path
    assert hub.bytes_sent() == len(DATA)
    flip(path)
    assert desk.pull().read_bytes() == DATA
    assert_clean()


def test_without_links_nothing_is_missing_afterwards(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    desk.pull()
    assert desk.plan().missing == 0


# Revisions


def test_revisions_have_each_their_file(hub: Hub, desk: Desk) -> None:
    main = desk.pull()
    dev = hub.add(REPO, {NAME: NEWER}, revision="dev")
    hub.add(REPO, {NAME: NEWER}, revision="v1.0/rc")
    with pytest.raises(NotOffered, match="none"):
        desk.pull(revision="none")
    assert desk.pull(revision=dev).read_bytes() == NEWER
    assert sorted(path.name for path in (repo().folder / "refs").rglob("*")) == ["main"]
    before = hub.bytes_sent()
    for revision in ("dev", "v1.0/rc"):
        path = desk.pull(revision=revision)
        assert path.read_bytes() == NEWER
    assert hub.bytes_sent() == before, "the same content as of the commit"
    assert main.read_bytes() == DATA


def test_a_revision_of_the_plan_is_remembered_under_its_own_name(hub: Hub, desk: Desk) -> None:
    main = desk.pull().parent.name
    dev = hub.add(REPO, {NAME: NEWER}, revision="dev")
    desk.pull(revision="dev")
    assert {path.name: path.read_text() for path in (repo().folder / "refs").iterdir()} == {"main": main, "dev": dev}


def test_a_change_upstream(hub: Hub, desk: Desk) -> None:
    old = desk.pull()
    hub.add(REPO, {NAME: NEWER})
    new = desk.pull()
    assert (old.read_bytes(), new.read_bytes()) == (DATA, NEWER)
    assert hf_hub_download(REPO, NAME, local_files_only=True) == str(new)
    assert hub.bytes_sent() == len(DATA) + len(NEWER)
    assert_clean()


def test_what_was_fetched_of_an_older_file_is_dropped(hub: Hub, desk: Desk) -> None:
    hub.rate = 300 * KIB
    process = start(hub)
    wait_until(lambda: hub.bytes_sent() > 700 * KIB)
    process.kill()
    process.communicate()
    assert len(list(repo().partials.iterdir())) == 1
    hub.add(REPO, {NAME: NEWER})
    hub.rate = None
    assert desk.pull().read_bytes() == NEWER
    assert any("changed upstream" in notice for notice in desk.notices)
    assert_clean()


# Split models


def parts(folder: str = "Q4_K_M/") -> dict[str, bytes]:
    return {f"{folder}big-Q4_K_M-0000{number}-of-00003.gguf": noise(300 * KIB, number) for number in (1, 2, 3)}


def test_the_parts_of_a_model_come_together(hub: Hub, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, parts())
    linked = []
    whole = type(repo()).link
    monkeypatch.setattr(
        type(repo()), "link", lambda self, *where, **how: (linked.append(where[1]), whole(self, *where, **how))[1]
    )
    path = desk.pull()
    assert path.name == "big-Q4_K_M-00001-of-00003.gguf"
    assert {f"Q4_K_M/{file.name}": file.read_bytes() for file in path.parent.iterdir()} == parts()
    assert linked[-1] == f"Q4_K_M/{path.name}", "seen when all is there"
    assert hub.bytes_sent() == 3 * 300 * KIB
    assert_clean()


def test_no_part_appears_before_all_are_there(hub: Hub, desk: Desk) -> None:
    hub.add(REPO, parts(""))
    desk.options = dataclasses.replace(QUICK, attempts=2)
    hub.fault(Fault(kind="cut", origin="cdn", path="00003-of", times=None))
    with pytest.raises(DownloadError):
        desk.pull()
    assert not [name for name in published() if name.startswith("snapshots")]
    hub.faults.clear()
    desk.pull()
    assert hub.bytes_sent() == 3 * 300 * KIB, "the first two were kept"


def test_parts_with_the_same_content_are_one_blob(hub: Hub, desk: Desk) -> None:
    hub.add(REPO, dict.fromkeys(parts(), noise(300 * KIB)))
    path = desk.pull()
    assert [file.read_bytes() == noise(300 * KIB) for file in path.parent.iterdir()] == [True] * 3
    assert hub.bytes_sent() == 300 * KIB


@pytest.mark.parametrize("prefix", ["../", "/tmp/", "a/../../", "a\\", "C:", "a\n", "a\x1b[31m", "\u202e", "-"])
@pytest.mark.parametrize("inside", ["", "deep/"])
def test_hostile_names_are_refused_before_anything_is_made(hub: Hub, desk: Desk, prefix: str, inside: str) -> None:
    hub.add(REPO, {f"{inside * (prefix[0] != '/')}{prefix}{name}": data for name, data in parts("").items()})
    with pytest.raises((UnsafeServer, NotOffered)) as raised:
        desk.pull(f"{REPO}:Q4_K_M")
    assert raised.value.message.isprintable()
    assert all(line.isprintable() for line in raised.value.hint.splitlines())
    assert not repo().folder.exists()
    assert hub.bytes_sent() == 0


def test_one_hostile_part_is_enough(hub: Hub, desk: Desk) -> None:
    """And a folder that only some systems trip over."""
    first, second, third = parts("").items()
    hub.add(REPO, dict([first, second, (f"../{third[0]}", third[1])]))
    with pytest.raises(NotOffered):
        desk.pull()
    for folder in ("aux/", "nul.txt/", "a//", "./", "a /", "a./", "a/" * 500, "x" * 300 + "/"):
        hub.add(REPO, {f"{folder}{name}": data for name, data in (first, second, third)})
        with pytest.raises((UnsafeServer, NotOffered)):
            desk.pull()
        assert not repo().folder.exists()
    assert not repo().folder.exists()


# Papers and tokens


def test_a_damaged_paper_does_not_spoil_the_model(hub: Hub, desk: Desk) -> None:
    hub.fault(Fault(kind="flip", origin="hub", path=r"resolve.*README", method="GET", times=None))
    path = desk.pull()
    assert path.read_bytes() == DATA
    assert not (path.parent / "README.md").exists()
    assert any("README.md was left out" in notice for notice in desk.notices)
    assert_clean()


def test_a_token_stays_with_the_hub(hub: Hub, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.accept_token(TOKEN, [REPO])
    hub.add(REPO, {NAME: DATA}, gated=True)
    hub.fault(Fault(kind="status", status=403, origin="cdn", times=3))
    monkeypatch.setattr("tests.pulling.Hosts", lambda endpoint: Hosts(endpoint, TOKEN))
    assert desk.pull().read_bytes() == DATA
    tokens = {(request.origin, request.headers.get("authorization")) for request in hub.log}
    assert tokens == {("hub", f"Bearer {TOKEN}"), ("cdn", None)}
    assert not [path for path in repo().cache.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


# Other processes


def test_killed_again_and_again(hub: Hub, desk: Desk) -> None:
    """No kill loses more than what was under way: of each connection what its journal had not noted yet."""
    data = noise(MIB, 7) * 40
    hub.add(REPO, {NAME: data})
    hub.rate = 3 * MIB
    chance = random.Random(8)
    kept = 0
    for _ in range(8):
        begin = hub.bytes_sent()
        process = start(hub)
        goal = begin + chance.uniform(0.2, 5) * MIB
        wait_until(lambda goal=goal: hub.bytes_sent() > goal)
        process.kill()
        process.communicate()
        (folder,) = repo().partials.iterdir()
        held = sum(end - begin for begin, end in merged(claims(folder)))
        with (folder / "data").open("rb") as file:
            for first, last in claims(folder):
                file.seek(first)
                assert file.read(last - first) == data[first:last], "the journal names bytes that are not there"
        lost = hub.bytes_sent() - begin - (held - kept)
        assert lost <= 4 * (MIB + 512 * KIB), "a journal line is due after each MiB; the rest was in the sockets"
        assert published() == []
        kept = held
    hub.rate = None
    begin = hub.bytes_sent()
    assert digest(desk.pull()) == hashlib.sha256(data).hexdigest()
    # What the Hub sent to the dead after they died is counted here.
    assert 0 <= hub.bytes_sent() - begin - (len(data) - kept) <= 4 * 512 * KIB
    assert_clean()


def merged(stretches: set[tuple[int, int]]) -> list[tuple[int, int]]:
    spans = Spans()
    for first, last in stretches:
        spans.add(first, last)
    return list(spans)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted_from_the_keyboard(hub: Hub, desk: Desk) -> None:
    hub.rate = 300 * KIB
    process = start(hub)
    wait_until(lambda: hub.bytes_sent() > 700 * KIB)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in result(process)["error"]
    assert time.monotonic() - begin < 2
    sent = hub.bytes_sent()
    hub.rate = None
    assert desk.pull().read_bytes() == DATA
    assert hub.bytes_sent() - sent <= len(DATA) - 500 * KIB
    assert any("Going on" in notice for notice in desk.notices)
    assert_clean()


@pytest.mark.parametrize(
    "flags",
    [
        [[], []],
        [[], [], [], []],
        [["--no-locks"], ["--no-locks"]],
        [["--no-locks"]] * 4,
        [[], ["--hugging-face"]],
        [["--no-locks"], ["--no-locks", "--hugging-face"]],
    ],
    ids=["two", "four", "two without locks", "four without locks", "hf", "hf without locks"],
)
def test_processes_at_the_same_file(hub: Hub, desk: Desk, tmp_path: Path, flags: list[list[str]]) -> None:
    hub.rate = 2 * MIB
    data = noise(4 * MIB)
    hub.add(REPO, {NAME: data, "README.md": README})
    go = tmp_path / "go"
    processes = [start(hub, "--go", str(go), *some) for some in flags]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    answers = [result(process) for process in processes]
    assert [answer.get("error") for answer in answers] == [None] * len(flags)
    assert len({answer["path"] for answer in answers}) == 1
    assert digest(Path(answers[0]["path"])) == hashlib.sha256(data).hexdigest()
    blobs = {name for name in published() if name.startswith("blobs")}
    git_sha1 = hashlib.sha1(b"blob %d\0" % len(README) + README).hexdigest()
    assert blobs == {f"blobs/{hashlib.sha256(data).hexdigest()}", f"blobs/{git_sha1}"}
    if "--no-locks" not in str(flags):
        assert hub.bytes_sent() == len(data), "one fetched it, the others waited"
    assert_clean()


def test_who_waits_for_a_process_that_dies_takes_over(hub: Hub, desk: Desk) -> None:
    hub.rate = 400 * KIB
    process = start(hub)
    wait_until(lambda: hub.bytes_sent() > 500 * KIB)
    second = start(hub)
    time.sleep(1.0)
    process.kill()
    process.communicate()
    hub.rate = None
    answer = result(second)
    assert digest(Path(answer["path"])) == hashlib.sha256(DATA).hexdigest()
    assert hub.bytes_sent() <= len(DATA) + 4 * 200 * KIB
    assert_clean()


def test_what_a_foreign_process_left_is_adopted(hub: Hub, desk: Desk) -> None:
    """The folder of a machine that shares the disk and has been silent for long."""
    hub.rate = 300 * KIB
    process = start(hub)
    wait_until(lambda: hub.bytes_sent() > 900 * KIB)
    process.kill()
    process.communicate()
    (folder,) = repo().partials.iterdir()
    etag, _, token = folder.name.partition(".")
    away = folder.rename(folder.with_name(f"{etag}.0badcafe-{token.split('-', 1)[1]}"))
    os.utime(away / "journal", (1, 1))
    hub.rate = None
    before = hub.bytes_sent()
    assert desk.pull().read_bytes() == DATA
    assert hub.bytes_sent() - before < len(DATA) - 300 * KIB
    assert_clean()
    assert unfinished() == []


def test_a_paper_behind_a_redirect_within_the_hub(desk: Desk) -> None:
    """Small files answer 307 to a path of the same host."""
    with Hub(resolve_cache=True) as hub:
        hub.add(REPO, {NAME: DATA, "README.md": README})
        path = Desk(hub).pull()
        assert 307 in {request.status for request in hub.log}
    assert path.with_name("README.md").read_bytes() == README
    assert_clean()

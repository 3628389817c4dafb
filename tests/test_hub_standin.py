"""The Hub of the tests is one: the real client works with it, and each fault is what it says."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from tests.hub import Fault, Hub

REPO = "someone/Some-Model-GGUF"
SMALL = b'{"a": 1}\n'
MIB = 1024 * 1024
LARGE = os.urandom(MIB) * 25
TOKEN = "hf_reader"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The real client, let on line again. The folder is its cache."""
    # Asked for at the Hub of its constants, not at `endpoint`, unless there is a fresh copy.
    registry = tmp_path / "harnesses.json"
    registry.write_text('{"standardEnvVars": [], "harnesses": {}}')
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(registry))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    disable_progress_bars()
    yield tmp_path / "cache"
    huggingface_hub.close_session()


class Reply:
    """What came back, whole or not, over a connection of its own."""

    def __init__(self, url: str, method: str = "GET", timeout: float = 5, **headers: str) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=names)
            response = connection.getresponse()
            self.status, self.headers = response.status, response.headers
            self.broken = False
            try:
                self.body = response.read()
            except http.client.IncompleteRead as error:
                self.body, self.broken = error.partial, True
        finally:
            connection.close()


def resolved(hub: Hub, name: str, revision: str = "main") -> str:
    return f"{hub.endpoint}/{REPO}/resolve/{revision}/{name}"


def address(hub: Hub, data: bytes = bytes(range(256)) * 16, name: str = "m.gguf") -> str:
    """A signed address of a new large file."""
    hub.add(REPO, {name: data, "config.json": SMALL})
    return str(Reply(resolved(hub, name), "HEAD").headers["Location"])


def test_the_client_reads_what_there_is(hub: Hub, client: Path) -> None:
    sha = hub.add(REPO, {"config.json": SMALL, "sub/m.gguf": b"GGUF"}, gated=True, downloads=7, card={"license": "mit"})
    info = HfApi(endpoint=hub.endpoint).model_info(REPO, files_metadata=True)
    assert (info.sha, info.gated, info.downloads, info.card_data.license) == (sha, "auto", 7, "mit")
    small, large = info.siblings
    assert (small.rfilename, small.size, small.lfs) == ("config.json", len(SMALL), None)
    assert small.blob_id == hashlib.sha1(b"blob 9\0" + SMALL).hexdigest()
    assert (large.rfilename, large.size, large.lfs.sha256) == ("sub/m.gguf", 4, hashlib.sha256(b"GGUF").hexdigest())


def test_the_client_downloads_and_resumes(hub: Hub, client: Path) -> None:
    hub.accept_token(TOKEN)
    sha = hub.add(REPO, {"config.json": SMALL, "sub/m.gguf": LARGE})
    fault = hub.fault(Fault(kind="cut", origin="cdn", path=r"m\.gguf", after=12_000_000))
    where = {"endpoint": hub.endpoint, "cache_dir": client, "token": TOKEN}
    small = Path(hf_hub_download(REPO, "config.json", **where))
    large = Path(hf_hub_download(REPO, "sub/m.gguf", **where))
    assert small.read_bytes() == SMALL
    assert large.read_bytes() == LARGE
    home = client / f"models--{REPO.replace('/', '--')}"
    assert large == home / "snapshots" / sha / "sub" / "m.gguf"
    assert large.resolve() == home / "blobs" / hashlib.sha256(LARGE).hexdigest()
    assert (home / "refs" / "main").read_text() == sha
    first, second = (request for request in hub.log if request.origin == "cdn")
    assert (fault.hits, first.sent) == (1, 12_000_000)
    assert (second.status, second.headers["range"], second.sent) == (206, "bytes=10485760-", 25 * MIB - 10485760)
    assert hub.bytes_sent() == first.sent + second.sent
    tokens = {(request.origin, request.headers.get("authorization")) for request in hub.log}
    assert tokens == {("hub", f"Bearer {TOKEN}"), ("cdn", None)}


@pytest.mark.parametrize("cached", [False, True], ids=["direct", "resolve-cache"])
def test_the_client_takes_a_snapshot(client: Path, cached: bool, tmp_path: Path) -> None:
    on_disk = tmp_path / "weights"
    on_disk.write_bytes(bytes(5000))
    files = {"config.json": SMALL, "a/b/c.txt": b"deep", "w.safetensors": on_disk, "a/ü %.txt": b"odd"}
    with Hub(page_size=2, resolve_cache=cached) as hub:
        hub.add(REPO, files, revision="dev/1")
        hub.add(REPO, {"other": b""})
        folder = Path(snapshot_download(REPO, revision="dev/1", endpoint=hub.endpoint, cache_dir=client, max_workers=2))
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        pages = [request for request in hub.log if "/tree/" in request.path]
    assert found == files | {"w.safetensors": bytes(5000)}
    assert len(pages) == 3  # four files and two folders


def test_the_client_knows_the_refusals(hub: Hub, client: Path) -> None:
    hub.accept_token(TOKEN, ["someone/private"])
    for repo, flag in (("gated", "gated"), ("private", "private"), ("disabled", "disabled"), ("open", "")):
        hub.add(f"someone/{repo}", {"x.gguf": b"x"}, **({flag: True} if flag else {}))
    api = HfApi(endpoint=hub.endpoint, token=False)

    def download(repo: str, name: str = "x.gguf", revision: str = "main", token: str | bool = False) -> str:
        return hf_hub_download(
            f"someone/{repo}", name, revision=revision, token=token, endpoint=hub.endpoint, cache_dir=client
        )

    for repo in ("private", "none"):
        with pytest.raises(errors.RepositoryNotFoundError) as error:
            api.model_info(f"someone/{repo}")
        assert error.value.response.status_code == 401
    with pytest.raises(errors.RepositoryNotFoundError) as error:
        api.model_info("someone/none", token=TOKEN)
    assert error.value.response.status_code == 404
    assert api.model_info("someone/private", token=TOKEN).private
    assert api.model_info("someone/gated").gated == "auto"
    for token, status in ((False, 401), (TOKEN, 403)):
        with pytest.raises(errors.GatedRepoError) as error:
            download("gated", token=token)
        assert error.value.response.status_code == status
    with pytest.raises(errors.RevisionNotFoundError):
        download("open", revision="v9")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        download("open", "y.gguf")
    with pytest.raises(errors.DisabledRepoError):
        api.model_info("someone/disabled")
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials in Authorization header") as wrong:
        api.model_info("someone/open", token="hf_unknown")
    assert wrong.value.response.status_code == 401
    assert Path(download("private", token=TOKEN)).read_bytes() == b"x"


def test_commits_stay_and_names_are_not_looked_at(hub: Hub) -> None:
    first = hub.add(REPO, {"a": b"1"})
    second = hub.add(REPO, {"../a": b"2", "x\x1b[2J": b"", "/etc/x": b"3"})
    assert first != second
    assert [Reply(resolved(hub, "a", revision)).status for revision in (first, "main")] == [200, 404]
    assert Reply(resolved(hub, "../a")).body == b"2"
    tree = Reply(f"{hub.endpoint}/api/models/{REPO}/tree/main?recursive=true").body.decode()
    assert all(name in tree for name in ('"../a"', r'"x\u001b[2J"', '"/etc/x"'))


def test_the_second_origin_serves_ranges_to_signed_addresses(hub: Hub) -> None:
    data = bytes(range(256)) * 16
    url = address(hub, data)
    head = Reply(resolved(hub, "m.gguf"), "HEAD")
    assert (head.status, head.headers["X-Linked-Size"], url.startswith(hub.cdn)) == (302, "4096", True)
    assert head.headers["X-Linked-Etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    whole = Reply(url)
    tag = whole.headers["ETag"]
    assert (whole.status, whole.body, tag != head.headers["X-Linked-Etag"]) == (200, data, True)
    part = Reply(url, Range="bytes=10-19", If_Range=tag)
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, data[10:20], "bytes 10-19/4096")
    assert Reply(url, Range="bytes=4000-").body == data[4000:]
    assert Reply(url, Range="bytes=-1").body == data[-1:]
    assert Reply(url, Range="bytes=10-19", If_Range='"other"').status == 200
    beyond = Reply(url, Range="bytes=4096-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */4096")
    assert Reply(url[:-1] + ("0" if url[-1] != "0" else "1")).status == 403
    hub.link_seconds = 0
    assert Reply(str(Reply(resolved(hub, "m.gguf"), "HEAD").headers["Location"])).status == 403


def test_faults_instead_of_an_answer(hub: Hub) -> None:
    url = address(hub)
    busy = Fault(kind="status", origin="cdn", status=429, headers={"Retry-After": "3"}, body=b"later", skip=1, times=2)
    hub.fault(busy)
    replies = [Reply(url) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 429, 429, 200]
    assert (replies[1].headers["Retry-After"], replies[1].body, busy.hits) == ("3", b"later", 2)
    hub.fault(Fault(kind="html", origin="hub", path="/resolve/"))
    page = Reply(resolved(hub, "m.gguf"))
    assert (page.status, page.headers["X-Repo-Commit"], b"<html>" in page.body) == (200, None, True)
    hub.fault(Fault(kind="redirect", origin="cdn", url="http://127.0.0.1:1/x"))
    moved = Reply(url)
    assert (moved.status, moved.headers["Location"]) == (302, "http://127.0.0.1:1/x")
    hub.fault(Fault(kind="refuse"))
    with pytest.raises(http.client.RemoteDisconnected):
        Reply(url)
    assert hub.log[-1].status == 0
    hub.fault(Fault(kind="headers", headers={"x-linked-etag": None, "ETag": 'W/"../x"', "X-New": "1"}))
    odd = Reply(resolved(hub, "m.gguf"), "HEAD").headers
    assert (odd["X-Linked-Etag"], odd["ETag"], odd["X-New"]) == (None, 'W/"../x"', "1")
    hub.fault(Fault(kind="headers", origin="cdn", headers={"Content-Length": None}))
    assert len(Reply(url).body) == 4096


def test_faults_of_the_body(hub: Hub) -> None:
    data = bytes(range(256)) * 16
    url = address(hub, data)
    hub.fault(Fault(kind="cut", origin="cdn", after=100))
    assert Reply(url, "HEAD").status == 200
    cut = Reply(url)
    assert (cut.broken, cut.body, hub.log[-1].sent) == (True, data[:100], 100)
    flip = hub.fault(Fault(kind="flip", origin="cdn", offset=1000))
    assert Reply(url, Range="bytes=0-999").body == data[:1000]
    changed = Reply(url, Range="bytes=999-1001").body
    assert (changed, flip.hits) == (bytes([231, 232 ^ 1, 233]), 1)
    hub.fault(Fault(kind="extra", origin="cdn", body=b"more"))
    assert Reply(url).body == data
    assert hub.log[-1].sent == 4100
    hub.fault(Fault(kind="gzip", origin="cdn"))
    packed = Reply(url)
    assert (packed.headers["Content-Encoding"], gzip.decompress(packed.body)) == ("gzip", data)
    assert Reply(url).body == data


def test_faults_of_a_range(hub: Hub) -> None:
    data = bytes(range(256)) * 16
    url = address(hub, data)
    for kind in ("ignore_range", "wrong_content_range", "short_total"):
        hub.fault(Fault(kind=kind, by=7))
    assert Reply(url).status == 200
    whole = Reply(url, Range="bytes=100-199")
    assert (whole.status, whole.body, whole.headers["Content-Range"]) == (200, data, None)
    hub.faults[1:] = [Fault(kind="wrong_content_range", by=7)]
    assert Reply(url, Range="bytes=100-199").headers["Content-Range"] == "bytes 93-192/4096"
    hub.fault(Fault(kind="short_total", by=7))
    assert Reply(url, Range="bytes=100-199").headers["Content-Range"] == "bytes 100-199/4089"


def test_faults_of_time(hub: Hub) -> None:
    url = address(hub)

    def seconds(address: str) -> float:
        begin = time.monotonic()
        assert len(Reply(address).body) == 4096
        return time.monotonic() - begin

    hub.fault(Fault(kind="slow_headers", origin="cdn", seconds=0.2))
    assert seconds(url) >= 0.2
    hub.fault(Fault(kind="stall", origin="cdn", after=10, seconds=0.2))
    assert seconds(url) >= 0.2
    hub.fault(Fault(kind="trickle", origin="cdn", rate=16384))
    assert seconds(url) >= 0.2
    hub.rate = 16384
    assert seconds(url) >= 0.2
    hub.rate = None
    assert seconds(url) < 0.2


def test_a_stall_ends_with_the_hub(hub: Hub) -> None:
    url = address(hub)
    stall = hub.fault(Fault(kind="stall", origin="cdn", after=10))
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(Reply(url, timeout=30)))
    thread.start()
    while not stall.hits or hub.log[-1].sent < 10:
        time.sleep(0.01)
    begin = time.monotonic()
    hub.stop()
    thread.join()
    assert time.monotonic() - begin < 2
    assert (replies[0].broken, replies[0].body) == (True, bytes(range(10)))
    assert not [thread for thread in threading.enumerate() if "process_request" in thread.name]


@pytest.mark.parametrize("end", ["input", "signal"])
def test_a_folder_is_served_until_the_end(tmp_path: Path, end: str) -> None:
    home = tmp_path / "models" / REPO
    home.mkdir(parents=True)
    (home / "m.gguf").write_bytes(b"GGUF")
    port = tmp_path / "port"
    command = [sys.executable, "-m", "tests.hub", str(tmp_path / "models"), "--port-file", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        head = Reply(f"{endpoint}/{REPO}/resolve/main/m.gguf", "HEAD")
        assert Reply(str(head.headers["Location"])).body == b"GGUF"
        if end == "input":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert endpoint == f"http://127.0.0.1:{port.read_text()}"

"""A Hugging Face Hub of one's own, for tests: two HTTP servers, answering as the real one does, or worse on request.

The first origin has the API and small files, the second one large files at signed addresses. `huggingface_hub` and
curl work with it as they are. `python -m tests.hub FOLDER` serves FOLDER/<owner>/<repo>/ until its input ends.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub_faults import FOREVER, Answer, Fault, Kind, Origin, Request
from tests.hub_server import Server

__all__ = ["FOREVER", "Answer", "Fault", "Hub", "Kind", "Origin", "Request"]

LARGE_SUFFIXES = (".gguf", ".safetensors")
CREATED = "2025-01-20T09:00:00.000Z"
MODIFIED = "Mon, 20 Jan 2025 09:00:00 GMT"
REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = {
    "info": re.compile(rf"/api/models/{REPO}(?:/revision/(?P<revision>[^/]+))?"),
    "tree": re.compile(rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<name>.*))?"),
    "resolve": re.compile(rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)"),
    "cached": re.compile(rf"/api/resolve-cache/models/{REPO}/(?P<revision>[^/]+)/(?P<name>.+)"),
}


@dataclass(frozen=True)
class File:
    """A file of a repository: in git with its own hash, or in large file storage with a pointer in git."""

    data: bytes | Path
    size: int
    oid: str
    sha256: str | None = None
    pointer_size: int = 0

    @classmethod
    def of(cls, name: str, data: bytes | Path, threshold: int) -> File:
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size < threshold and not name.endswith(LARGE_SUFFIXES):
            return cls(data, size, git_hash(data.read_bytes() if isinstance(data, Path) else data))
        sha256 = file_hash(data, size, data.stat().st_mtime_ns) if isinstance(data, Path) else digest(data)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return cls(data, size, git_hash(pointer), sha256, len(pointer))

    def lfs(self, key: str) -> dict[str, Any]:
        return {key: self.sha256, "size": self.size, "pointerSize": self.pointer_size}


@dataclass(eq=False)
class Repo:
    """Commits by hash, names for some of them, and who may see what."""

    name: str
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool | str = False
    disabled: bool = False
    downloads: int = 0
    card: Mapping[str, Any] | None = None

    def commit(self, revision: str, files: dict[str, File]) -> str:
        entries = [self.refs.get(revision, self.name)]
        entries += [f"{name}\0{file.oid}" for name, file in sorted(files.items())]
        sha = hashlib.sha1("\0".join(entries).encode("utf-8", "surrogatepass")).hexdigest()
        self.commits[sha], self.refs[revision] = files, sha
        return sha


class Hub:
    """A Hub on two free ports of 127.0.0.1, as a context manager or with start() and stop()."""

    endpoint: str
    cdn: str
    rate: int | None = None
    """Bytes a second for each answer of the second origin."""

    def __init__(
        self,
        *,
        page_size: int = 1000,
        lfs_threshold: int = 1024,
        resolve_cache: bool = False,
        link_seconds: float = 3600,
    ) -> None:
        """`resolve_cache` answers for small files with a relative 307 first, `link_seconds` is a signature's life."""
        self.page_size, self.lfs_threshold = page_size, lfs_threshold
        self.resolve_cache, self.link_seconds = resolve_cache, link_seconds
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.stopping = threading.Event()
        self._repos: dict[str, Repo] = {}
        self._objects: dict[str, File] = {}
        self._tokens: dict[str, set[str]] = {}
        self._secret = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._servers: list[Server] = []

    def start(self) -> Hub:
        self.stopping.clear()
        self._servers = [Server(self, "hub"), Server(self, "cdn")]
        self.endpoint, self.cdn = (server.url for server in self._servers)
        return self

    def stop(self) -> None:
        """Ends every connection. Raises what went wrong in the Hub itself."""
        self.stopping.set()
        servers, self._servers = self._servers, []
        for server in servers:
            server.stop()
        for error in (error for server in servers for error in server.errors):
            raise error

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes | Path],
        *,
        revision: str = "main",
        gated: bool | str = False,
        private: bool = False,
        card: Mapping[str, Any] | None = None,
        downloads: int = 0,
        disabled: bool = False,
    ) -> str:
        """Commit `files`, all there is from now on, under `revision`; the rest holds for the whole repository."""
        entries = {name: File.of(name, data, self.lfs_threshold) for name, data in files.items()}
        with self._lock:
            home = self._repos.setdefault(repo, Repo(repo))
            home.gated, home.private, home.disabled = "auto" if gated is True else gated, private, disabled
            home.card, home.downloads = card, downloads
            self._objects.update({file.sha256: file for file in entries.values() if file.sha256})
            return home.commit(revision, entries)

    def accept_token(self, token: str, repos: Iterable[str] = ()) -> None:
        """A valid token, and the private and gated repositories that it opens."""
        with self._lock:
            self._tokens.setdefault(token, set()).update(repos)

    def fault(self, fault: Fault) -> Fault:
        with self._lock:
            self.faults.append(fault)
        return fault

    def bytes_sent(self, origin: str = "cdn") -> int:
        """Bytes of bodies handed over, those a client already has among them."""
        return sum(request.sent for request in list(self.log) if request.origin == origin)

    # What the connections ask: any thread.

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.log.append(request)
            answer = self._object(request) if request.origin == "cdn" else self._hub(request)
            for fault in self.faults:
                answer = fault.strike(request, answer)
            return answer

    def _hub(self, request: Request) -> Answer:
        token = re.sub(r"(?i)^bearer +", "", request.headers.get("authorization", "")) or None
        if token and token not in self._tokens:
            return refusal(401, "Invalid credentials in Authorization header")
        url = urlsplit(request.path)
        found = ((route, pattern.fullmatch(url.path)) for route, pattern in ROUTES.items())
        route, match = next((pair for pair in found if pair[1]), ("", None))
        if match is None or request.method not in ("GET", "HEAD"):
            return refusal(404, "Sorry, we can't find the page you are looking for.")
        parts = {key: unquote(text or "", errors="surrogateescape") for key, text in match.groupdict().items()}
        repo, opens = self._repos.get(parts["repo"]), self._tokens.get(token or "", set())
        if repo is None or (repo.private and repo.name not in opens):
            if token is None:
                return refusal(401, "Invalid username or password.", "RepoNotFound")
            return refusal(404, "Repository not found", "RepoNotFound")
        if repo.disabled:
            return refusal(403, "Access to this resource is disabled.")
        revision = parts["revision"] or "main"
        sha = revision if revision in repo.commits else repo.refs.get(revision)
        if sha is None:
            return refusal(404, f"Invalid rev id: {quote(revision, errors='replace')}", "RevisionNotFound")
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if route == "info":
            return document(self._info(repo, sha, query.get("blobs") in ("true", "True", "1")))
        if route == "tree":
            return self._tree(repo, sha, parts["name"].strip("/"), url.path, query)
        if repo.gated and repo.name not in opens:
            problem = "you must be authenticated" if token is None else "you are not in the authorized list"
            message = f"Access to model {repo.name} is restricted and {problem}. Visit the model's page."
            return refusal(401 if token is None else 403, message, "GatedRepo", {"X-Repo-Commit": sha})
        file = repo.commits[sha].get(parts["name"])
        if file is None:
            return refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
        if file.sha256:
            return self._redirect(file, sha, parts["name"])
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"', "Content-Type": "text/plain; charset=utf-8"}
        if self.resolve_cache and route == "resolve":
            location = f"/api/resolve-cache/models/{repo.name}/{sha}/{quote(parts['name'], errors='surrogateescape')}"
            return Answer.of(307, headers | {"Location": f"{location}?etag={quote(headers['ETag'])}"}, b"Redirecting")
        return ranged(request, file, headers)

    def _redirect(self, file: File, sha: str, name: str) -> Answer:
        last = quote(name.rpartition("/")[2], safe="", errors="surrogateescape")
        query = f"response-content-disposition=inline%3B+filename%3D%22{last}%22&Expires={self._expiry()}"
        path = f"/{file.sha256}?{query}"
        headers = {
            "Location": f"{self.cdn}{path}&Signature={self._signature(path)}",
            "Content-Type": "text/plain; charset=utf-8",
            "X-Repo-Commit": sha,
            "X-Linked-Size": str(file.size),
            "X-Linked-Etag": f'"{file.sha256}"',
            "ETag": f'"{file.sha256}"',
            "Accept-Ranges": "bytes",
        }
        return Answer.of(302, headers, f"Found. Redirecting to {headers['Location']}".encode())

    def _expiry(self) -> int:
        return int(time.time() + self.link_seconds)

    def _signature(self, path: str) -> str:
        return hmac.new(self._secret, path.encode(), "sha256").hexdigest()

    def _object(self, request: Request) -> Answer:
        """A large file, to whoever has a signed address that is still good."""
        path, _, signature = request.path.rpartition("&Signature=")
        expires = re.search(r"&Expires=(\d+)$", path)
        good = hmac.compare_digest(signature.encode("utf-8", "replace"), self._signature(path).encode())
        if not good or expires is None or int(expires[1]) <= time.time():
            body = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>'
            return Answer.of(403, {"Content-Type": "application/xml"}, body)
        if request.method not in ("GET", "HEAD"):
            return Answer.of(405, {"Allow": "GET, HEAD"})
        file = self._objects[urlsplit(path).path[1:]]
        # As long as the hash of the content, and none.
        headers = {"ETag": f'"{digest(str(file.sha256).encode())}"', "Content-Type": "application/octet-stream"}
        return ranged(request, file, headers)

    def _info(self, repo: Repo, sha: str, blobs: bool) -> dict[str, Any]:
        files, card = repo.commits[sha], repo.card
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in files]
        if blobs:
            for entry, file in zip(siblings, files.values(), strict=True):
                entry |= {"size": file.size, "blobId": file.oid} | ({"lfs": file.lfs("sha256")} if file.sha256 else {})
        known = {key: card[key] for key in ("pipeline_tag", "library_name") if key in card} if card else {}
        return {
            "_id": sha[:24],
            "id": repo.name,
            "modelId": repo.name,
            "author": repo.name.partition("/")[0],
            "sha": sha,
            "createdAt": CREATED,
            "lastModified": CREATED,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": repo.disabled,
            "downloads": repo.downloads,
            "likes": 0,
            "tags": [*(card or {}).get("tags", [])],
            **known,
            **({"cardData": dict(card)} if card is not None else {}),
            "siblings": siblings,
            "usedStorage": sum(file.size for file in files.values()),
        }

    def _tree(self, repo: Repo, sha: str, folder: str, path: str, query: dict[str, str]) -> Answer:
        """Folders and files, a page at a time."""
        prefix, files = f"{folder}/" if folder else "", repo.commits[sha]
        parents = {name[:end] for name in files for end, letter in enumerate(name) if letter == "/" and end}
        if folder and folder not in parents:
            return refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
        deep = query.get("recursive") in ("true", "True", "1")
        below = [name for name in sorted({*files, *parents}) if name.startswith(prefix)]
        names = [name for name in below if deep or "/" not in name[len(prefix) :]]
        first, count = int(query.get("cursor", 0)), min(int(query.get("limit", self.page_size)), self.page_size)
        page = []
        for name in names[first : first + count]:
            file = files.get(name)
            if file is None:
                oid = hashlib.sha1(name.encode("utf-8", "surrogatepass")).hexdigest()
                page.append({"type": "directory", "oid": oid, "size": 0, "path": name})
            else:
                lfs = {"lfs": file.lfs("oid")} if file.sha256 else {}
                page.append({"type": "file", "oid": file.oid, "size": file.size, "path": name} | lfs)
        answer = document(page)
        if first + count < len(names):
            rest = "&".join(f"{key}={value}" for key, value in query.items() if key not in ("cursor", "limit"))
            url = f"{self.endpoint}{path}?{rest}{'&' if rest else ''}limit={count}&cursor={first + count}"
            answer.set("Link", f'<{url}>; rel="next"')
        return answer


def ranged(request: Request, file: File, headers: dict[str, str]) -> Answer:
    """The file, or the part of it that is asked for."""
    answer = Answer(200, {**headers, "Accept-Ranges": "bytes", "Last-Modified": MODIFIED}, file.data)
    answer.serve(file.data, file.size)
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "").replace(" ", ""))
    if asked is None or request.headers.get("if-range", headers["ETag"]) not in (headers["ETag"], MODIFIED):
        return answer
    first, last = asked.groups()
    if first:
        start, stop = int(first), min(file.size, int(last) + 1) if last else file.size
    elif last:
        start, stop = max(0, file.size - int(last)), file.size
    else:
        return answer
    if first and last and int(last) < start:
        return answer
    if start >= file.size:
        return Answer.of(416, headers | {"Content-Range": f"bytes */{file.size}"})
    answer.status, answer.start, answer.stop = 206, start, stop
    answer.set("Content-Length", str(stop - start))
    answer.set("Content-Range", f"bytes {start}-{stop - 1}/{file.size}")
    return answer


def document(value: object) -> Answer:
    return Answer.of(200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(value).encode())


def refusal(status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    answer = document({"error": message})
    answer.status = status
    for name, value in {"X-Error-Message": message, "X-Error-Code": code, **(headers or {})}.items():
        answer.set(name, value)
    return answer


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def file_hash(path: Path, size: int, modified: int) -> str:
    """Once for each state of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description="Serve FOLDER/<owner>/<repo>/ as a Hub.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port-file", type=Path, help="where to write the port")
    parser.add_argument("--rate", type=int, help="bytes a second for each large file")
    options = parser.parse_args(arguments)
    hub = Hub()
    hub.rate = options.rate
    for home in sorted(path for path in options.folder.glob("*/*") if path.is_dir()):
        files = {path.relative_to(home).as_posix(): path for path in sorted(home.rglob("*")) if path.is_file()}
        hub.add(home.relative_to(options.folder).as_posix(), files)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with hub:
        sys.stdout.write(f"{hub.endpoint}\n")
        sys.stdout.flush()
        if options.port_file:
            unfinished = options.port_file.with_name(f"{options.port_file.name}.new")
            unfinished.write_text(hub.endpoint.rpartition(":")[2])
            unfinished.replace(options.port_file)
        while os.read(sys.stdin.fileno(), 65536):
            pass


if __name__ == "__main__":
    main()

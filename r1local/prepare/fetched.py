"""Shards that came from the Hub only to be converted, and go when they are used up."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from r1local.hf_cache import CachedRepo
from r1local.hub.repository import RemoteFile
from r1local.names import unsafe_name

_NO_ETAG = "-"
_NOTE = re.compile(r"([0-9a-f]{40}) (?:-|([0-9a-f]{40}|[0-9a-f]{64})) (.+)")


def is_here(cache: CachedRepo, commit: str, file: RemoteFile) -> bool:
    """Whether a file of the repository lies in the cache, as a blob or in the snapshot itself."""
    return cache.allows(cache.snapshot(commit, file.name)) or bool(file.etag and cache.holds(file.etag))


class FetchedShards:
    """Which shards came for this result's sake, kept beside it: only those are dropped, even after a crash."""

    def __init__(self, target: Path, cache: CachedRepo, commit: str, shards: Iterable[RemoteFile]) -> None:
        """Shards that an earlier run fetched of another commit are dropped: nobody will use them up."""
        self._path = _notes_of(target)
        self._cache, self._commit = cache, commit
        self._etags: dict[str, str] = {}  # by the shard's name; empty where the listing does not tell
        known = {shard.name for shard in shards}
        for noted, etag, name in _notes(self._path):
            if noted == commit and name in known:
                self._etags[name] = etag or self._etags.get(name, "")
            else:
                self._take_away(noted, etag, name)

    def note(self, shard: RemoteFile) -> None:
        """Call it in front of the download."""
        if shard.name not in self._etags and not is_here(self._cache, self._commit, shard):
            self._write(shard.etag, shard.name)

    def drop(self, name: str) -> None:
        """Take away a shard, if it was fetched for this."""
        if name in self._etags:
            self._take_away(self._commit, self._etags[name], name)

    def drop_all(self) -> None:
        for name in list(self._etags):
            self.drop(name)

    def _write(self, etag: str, name: str) -> None:
        self._etags[name] = etag
        with self._path.open("a", encoding="ascii") as file:
            file.write(f"{self._commit} {etag or _NO_ETAG} {name}\n")

    def _take_away(self, commit: str, etag: str, name: str) -> None:
        """The link, then the blob: whoever is killed in between finds the rest by the note."""
        link = self._cache.snapshot(commit, name)
        if self._cache.allows(link):
            if not etag and (etag := self._cache.etag_of(link)):
                self._write(etag, name)
            link.unlink(missing_ok=True)
        if etag and self._cache.holds(etag) and not self._cache.links_to(etag):
            self._cache.blob(etag).unlink(missing_ok=True)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def will_go(target: Path, commit: str) -> set[str]:
    """The names of the shards that were fetched for a result by an earlier run, and will be dropped by the next."""
    return {name for noted, _, name in _notes(_notes_of(target)) if noted == commit}


def _notes_of(target: Path) -> Path:
    return target.with_name(target.name + ".part.shards")


def _notes(path: Path) -> list[tuple[str, str, str]]:
    """(commit, name of the blob or nothing, name of the shard), as far as lines make sense."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [
        (commit, etag or "", name)
        for commit, etag, name in (m.groups() for m in map(_NOTE.fullmatch, lines) if m)
        if not unsafe_name(name)
    ]

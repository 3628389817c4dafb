"""`pull --from-source`: a checkpoint on the Hub becomes a model here, whatever happens in between."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import gguf
import huggingface_hub
import psutil
import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download
from wcwidth import wcswidth

from quantize.conversion import Conversion, Options
from quantize.convert import CheckpointConversion, convert_checkpoint
from quantize.kernels import Kernels
from quantize.metadata import Origin
from quantize.recipes import Wish
from r1local.errors import (
    AccessDenied,
    ChecksumMismatch,
    DiskFull,
    DownloadError,
    ExitCode,
    ModelFileError,
    NotOffered,
    R1Error,
    UnsupportedModel,
    UsageError,
)
from r1local.hf_cache import CachedRepo, cache_folder
from r1local.hub.names import parse_reference
from r1local.hub.ranges import FetchOptions
from r1local.prepare import Job, alone, from_source
from r1local.prepare.from_source import Preparer, SourcePlan, Standing
from tests.checkpoints import write_checkpoint
from tests.hub import FOREVER, Fault, Hub
from tests.pulling import KIB, QUICK, Desk, catalog, online
from tests.test_cli_pull import begin, end, run
from tests.test_terminal_chat import Screen

REPO = "someone/Tiny-Thinker"
KNOWN = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
SPARE = 64 << 20
ONE = dataclasses.replace(QUICK, connections=1)
PULL = ("pull", "--from-source", "--yes", "--kernels", "c")
Usage = namedtuple("Usage", "total used free")

Changes = Mapping[str, bytes | None]


# A Hub with a checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A checkpoint with these options, written once."""
    here: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        options = {"layers": 4, "ffn": 1024, "shards": 4, "seed": 1} | options
        key = json.dumps(options, sort_keys=True)
        if key not in here:
            here[key] = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), **options)
        return here[key]

    return make


@pytest.fixture(scope="module")
def checkpoint(made: Callable[..., Path]) -> Path:
    """Four shards of two megabytes."""
    return made()


@pytest.fixture
def hub(checkpoint: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serves the checkpoint as REPO; only its shards come from the second origin."""
    (home / "huggingface").mkdir()
    online(home / "huggingface" / "hub", monkeypatch)
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub(lfs_threshold=1 << 20) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add(REPO, files_of(checkpoint))
        yield hub
    huggingface_hub.close_session()


@pytest.fixture
def maker(hub: Hub) -> Maker:
    return Maker(hub)


class Maker:
    """Someone who makes models of what is on the hub, and can be stopped."""

    def __init__(self, hub: Hub, options: FetchOptions = QUICK) -> None:
        self.desk = Desk(hub, options)
        self.standings: list[Standing] = []
        self.stop_when: Callable[[Standing], bool] = lambda _: False

    def _hear(self, standing: Standing) -> None:
        self.standings.append(standing)
        if self.stop_when(standing):
            self.desk.cancel.set()

    def run(
        self, text: str = REPO, quant: str = "Q8_0", *, keep: bool = False, revision: str = "",
        between: Callable[[SourcePlan], object] = lambda _: None,
    ) -> Path:  # fmt: skip
        """between: called with the plan, before it is carried out."""
        self.desk.cancel = threading.Event()
        self.standings.clear()
        with self.desk.puller() as puller:
            preparer = Preparer(puller, self._hear)
            plan = preparer.plan(
                parse_reference(text, catalog()), Job(quant, kernels="c", threads=2), revision=revision
            )
            between(plan)
            return preparer.run(plan, keep_source=keep)

    def plan(self, text: str = REPO, quant: str = "Q8_0") -> SourcePlan:
        with self.desk.puller() as puller:
            return Preparer(puller).plan(parse_reference(text, catalog()), Job(quant, kernels="c"))

    def stopped(self, when: Callable[[Standing], bool], **options: Any) -> None:
        """A run that is stopped at that moment."""
        self.stop_when = when
        with pytest.raises(KeyboardInterrupt):
            self.run(**options)
        self.stop_when = lambda _: False
        assert threads_at_work() == []


def files_of(folder: Path, changes: Changes | None = None) -> dict[str, bytes | Path]:
    """What lies in a folder; a change of None takes a file away."""
    files: dict[str, bytes | Path] = {path.name: path for path in sorted(folder.iterdir())}
    for name, data in (changes or {}).items():
        if data is None:
            del files[name]
        else:
            files[name] = data
    return files


def changed_json(path: Path, **fields: Any) -> bytes:
    """A JSON file with some fields set, or taken away with `...`."""
    data = json.loads(path.read_text(encoding="utf-8")) | fields
    return json.dumps({key: value for key, value in data.items() if value is not ...}).encode()


_expected: dict[tuple[Path, str, str, str], bytes] = {}


@pytest.fixture
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """What `quantize` makes of the same folder when all of it is here."""

    def make(folder: Path, commit: str, quant: str = "Q8_0", repo: str = REPO) -> bytes:
        key = (folder, commit, quant, repo)
        if key not in _expected:
            target = tmp_path_factory.mktemp("expected") / "x.gguf"
            options = Options(Kernels("c"), 2, threading.Event())
            convert_checkpoint(
                folder, target, Wish(quant), options, origin=Origin(repo.partition("/")[2], repo, commit)
            )
            _expected[key] = target.read_bytes()
            target.unlink()
        return _expected[key]

    return make


@pytest.fixture
def right(hub: Hub, checkpoint: Path, expected: Callable[..., bytes]) -> Callable[..., bool]:
    """Whether a file is what should come of the checkpoint that is at REPO."""
    commit = hub.add(REPO, files_of(checkpoint))
    return lambda path, quant="Q8_0": path.read_bytes() == expected(checkpoint, commit, quant)


# What is on the disk


def models(home: Path) -> list[str]:
    """Everything in the models folder."""
    return sorted(path.name for path in (home / "models").iterdir()) if (home / "models").exists() else []


def in_cache(repo: str = REPO) -> CachedRepo:
    return CachedRepo(cache_folder(), repo)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def held(folder: Path, repo: str = REPO) -> list[str]:
    """Names of the checkpoint's shards that are in the cache, whole or in part."""
    home = in_cache(repo)
    partial = {path.name.partition(".")[0] for path in home.partials.glob("*")}
    linked = {path.name for path in home.folder.glob("snapshots/*/*.safetensors")}
    return [p.name for p in shards(folder) if home.holds(sha256(p)) or sha256(p) in partial or p.name in linked]


def size_of(*files: Path) -> int:
    return sum(path.stat().st_size for path in files)


def used(folder: Path) -> int:
    """Bytes that all files below take, holes left out."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def threads_at_work() -> list[str]:
    """What is still running, after a moment of grace."""
    ours = ("fetch", "range", "hash", "sync", "quantize")
    end = time.monotonic() + 2
    while names := [thread.name for thread in threading.enumerate() if thread.name.startswith(ours)]:
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return names


def cdn_paths(hub: Hub) -> list[str]:
    """The shards that were asked for at the second origin."""
    return [re.search(r"model[\w-]*\.safetensors", r.path)[0] for r in hub.log if r.origin == "cdn"]  # type: ignore[index]


# The result


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("quant", "said"), [("Q8_0", "Q8_0"), ("Q4_K_M", "q4_k"), ("BF16", "bf16")])
def test_the_bytes_of_a_conversion_on_the_spot(
    hub: Hub, maker: Maker, made: Callable[..., Path], expected: Callable[..., bytes], home: Path,
    count: int, quant: str, said: str,
) -> None:  # fmt: skip
    folder = made(shards=count)
    commit = hub.add(REPO, files_of(folder))
    path = maker.run(quant=said)
    assert path == home / "models" / f"Tiny-Thinker-{quant}.gguf"
    assert path.read_bytes() == expected(folder, commit, quant)
    assert hub.bytes_sent() == size_of(*shards(folder))
    assert models(home) == [path.name]
    assert threads_at_work() == []


@pytest.mark.parametrize("name", ["1.5b", "r1-qwen-1.5b", KNOWN, f"hf.co/{KNOWN}"])
def test_the_catalog_knows_the_source(
    hub: Hub, maker: Maker, checkpoint: Path, expected: Callable[..., bytes], home: Path, name: str
) -> None:
    commit = hub.add(KNOWN, files_of(checkpoint))
    path = maker.run(name, "Q4_0")
    assert path == home / "models" / "DeepSeek-R1-Distill-Qwen-1.5B-Q4_0.gguf"
    assert path.read_bytes() == expected(checkpoint, commit, "Q4_0", KNOWN)


def test_the_weights_are_those_of_the_checkpoint(maker: Maker, checkpoint: Path) -> None:
    """Read with other programs: in the checkpoint's own type every matrix is the very bytes."""
    found = {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(maker.run(quant="BF16")).tensors}
    names = {"model.embed_tokens": "token_embd", "lm_head": "output"}
    for layer in range(4):
        for part, ours in (
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.down_proj", "ffn_down"),
            ("self_attn.q_proj", "attn_q"),
        ):
            names[f"model.layers.{layer}.{part}"] = f"blk.{layer}.{ours}"
    seen = 0
    for shard in shards(checkpoint):
        data = shard.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:start]).items():
            if ours := names.get(name.removesuffix(".weight")):
                first, last = entry["data_offsets"]
                assert found[f"{ours}.weight"] == data[start + first : start + last]
                seen += 1
    assert seen == len(names)


def test_of_llama_and_qwen3_too(hub: Hub, maker: Maker, made: Callable[..., Path], expected: Any) -> None:
    for architecture in ("llama", "qwen3"):
        folder = made(architecture=architecture, layers=2, shards=2, head_dim=64)
        commit = hub.add(f"someone/{architecture}", files_of(folder))
        path = maker.run(f"someone/{architecture}", "Q4_0")
        assert path.read_bytes() == expected(folder, commit, "Q4_0", f"someone/{architecture}")


def test_a_certain_revision(hub: Hub, maker: Maker, made: Callable[..., Path], expected: Any) -> None:
    old = made(seed=5)
    commit = hub.add(REPO, files_of(old), revision="v1")
    assert maker.run(revision="v1").read_bytes() == expected(old, commit)
    assert in_cache().commit_of("v1") == commit


def test_it_can_be_found_afterwards(hub: Hub, maker: Maker) -> None:
    maker.run()
    assert "tiny-thinker" in run("list")[0].lower()


# What stays and what goes


def test_shards_go_and_papers_stay(hub: Hub, maker: Maker, checkpoint: Path) -> None:
    maker.run()
    assert held(checkpoint) == []
    snapshot = in_cache().snapshots()[0]
    assert {path.name for path in snapshot.iterdir()} == {
        path.name for path in checkpoint.iterdir() if path.suffix != ".safetensors"
    }
    assert len(list((in_cache().folder / "blobs").iterdir())) == len(list(snapshot.iterdir()))
    assert not in_cache().partials.exists()
    assert [str(warning) for warning in huggingface_hub.scan_cache_dir(cache_folder()).warnings] == []


def test_shards_are_kept_when_asked(hub: Hub, maker: Maker, checkpoint: Path, right: Any) -> None:
    assert right(maker.run(keep=True))
    snapshot = in_cache().snapshots()[0]
    for shard in shards(checkpoint):
        assert (snapshot / shard.name).read_bytes() == shard.read_bytes()
    assert snapshot_download(REPO, local_files_only=True) == str(snapshot)
    before = hub.bytes_sent()
    assert right(maker.run(quant="Q4_0"), "Q4_0")
    assert hub.bytes_sent() == before
    assert len(held(checkpoint)) == 4, "the second run did not fetch them"


@pytest.mark.parametrize("which", [(0,), (1, 3), (0, 1, 2, 3)])
def test_shards_that_were_here_are_used_and_stay(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, which: tuple[int, ...]
) -> None:
    there = [shards(checkpoint)[number] for number in which]
    for shard in there:
        hf_hub_download(REPO, shard.name, endpoint=hub.endpoint)
    assert hub.bytes_sent() == size_of(*there)
    hub.log.clear()
    assert right(maker.run())
    assert hub.bytes_sent() == size_of(*shards(checkpoint)) - size_of(*there)
    assert held(checkpoint) == [shard.name for shard in there]
    for shard in there:
        assert Path(hf_hub_download(REPO, shard.name, local_files_only=True)).read_bytes() == shard.read_bytes()


def test_a_shard_that_was_here_stays_when_a_run_is_stopped_and_goes_on(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any
) -> None:
    first = shards(checkpoint)[0]
    hf_hub_download(REPO, first.name, endpoint=hub.endpoint)
    hub.rate = 1_000_000
    maker.stopped(lambda standing: standing.fetched > 1.5 * size_of(first))
    hub.rate = None
    assert right(maker.run())
    assert held(checkpoint) == [first.name]


def test_a_damaged_shard_in_the_cache_is_replaced(hub: Hub, maker: Maker, checkpoint: Path, right: Any) -> None:
    second = shards(checkpoint)[1]
    blob = Path(hf_hub_download(REPO, second.name, endpoint=hub.endpoint)).resolve()
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    assert right(maker.run())
    assert blob.read_bytes() == second.read_bytes()


def test_shards_that_were_here_stay_where_links_cannot_be_made(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    first = shards(checkpoint)[0]
    path = Path(hf_hub_download(REPO, first.name, endpoint=hub.endpoint))
    assert not path.is_symlink()
    hub.log.clear()
    assert right(maker.run())
    assert hub.bytes_sent() == size_of(*shards(checkpoint)[1:])
    assert path.exists()


def test_without_links_the_shards_go_too(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    assert right(maker.run())
    assert held(checkpoint) == []


def test_a_blob_that_another_snapshot_leads_to_stays(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody fetches another revision with the same shard while it is being converted."""
    first = shards(checkpoint)[0]
    hub.add(REPO, {first.name: first, "other": b"x"}, revision="v2")
    theirs: list[Path] = []
    take = CheckpointConversion.take

    def take_and_share(self: CheckpointConversion, conversion: Conversion, shard: str) -> None:
        if shard == first.name:
            theirs.append(Path(hf_hub_download(REPO, shard, revision="v2", endpoint=hub.endpoint)))
        take(self, conversion, shard)

    monkeypatch.setattr(CheckpointConversion, "take", take_and_share)
    assert right(maker.run())
    assert theirs[0].read_bytes() == first.read_bytes()
    assert hub.bytes_sent() == size_of(*shards(checkpoint)), "there was one fetch of it"
    assert not (in_cache().snapshot(in_cache().commit_of("main")) / first.name).exists()


def test_shards_go_where_the_listing_has_no_checksums(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pull` takes the checksum from the headers of the file then."""
    info = hub._info

    def bare(*arguments: Any) -> dict[str, Any]:
        answer = info(*arguments)
        for entry in answer["siblings"]:
            entry.pop("lfs", None)
            entry.pop("blobId", None)
        return answer

    monkeypatch.setattr(hub, "_info", bare)
    assert right(maker.run())
    assert held(checkpoint) == []


# Never more than two shards


class Watch(threading.Thread):
    """Looks at the disk all the time: how many shards are there, whole or in part, and how many bytes in all."""

    def __init__(self, home: Path, folder: Path) -> None:
        super().__init__(name="watch", daemon=True)
        self.names = {sha256(path): path.name for path in shards(folder)}
        self.folders = (in_cache().folder / "blobs", in_cache().partials, home / "models")
        self.most_shards = self.most_bytes = self.samples = 0
        self._over = threading.Event()

    def run(self) -> None:
        blobs, partials, _ = self.folders
        while not self._over.wait(0.001):
            # A blob never comes back, so one that is there before and after was there all the time.
            before = self._shards(blobs)
            partial, size = self._shards(partials), sum(map(used, self.folders))
            if before == self._shards(blobs):
                self.samples += 1
                self.most_shards = max(self.most_shards, len(before | partial))
                self.most_bytes = max(self.most_bytes, size)

    def _shards(self, folder: Path) -> set[str]:
        try:
            found = {name.partition(".")[0] for name in os.listdir(folder)}
        except FileNotFoundError:
            found = set()
        return found & set(self.names)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@pytest.mark.parametrize("slow", ["hub", "conversion", "both"])
def test_never_more_than_two_shards_on_the_disk(
    hub: Hub, checkpoint: Path, right: Any, home: Path, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = Conversion._convert

    def convert_slowly(*arguments: Any) -> None:
        time.sleep(0.04)
        convert(*arguments)

    if slow != "conversion":
        hub.rate = 5_000_000
    if slow != "hub":
        monkeypatch.setattr(Conversion, "_convert", convert_slowly)
    with Watch(home, checkpoint) as watch:
        path = Maker(hub, ONE).run()
    assert right(path)
    assert watch.samples > 50
    assert watch.most_shards == 2
    # Besides: the tokenizer and its like, journals, and blocks that are not full.
    largest = sum(sorted((size_of(shard) for shard in shards(checkpoint)), reverse=True)[:2])
    assert size_of(path) < watch.most_bytes <= size_of(path) + largest + 256 * KIB


def test_one_comes_while_another_is_converted(hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}
    take = CheckpointConversion.take

    def take_late(self: CheckpointConversion, conversion: Conversion, shard: str) -> None:
        time.sleep(0.3)
        asked[shard] = len(set(cdn_paths(hub)))
        take(self, conversion, shard)

    monkeypatch.setattr(CheckpointConversion, "take", take_late)
    Maker(hub).run()
    assert list(asked.values()) == [2, 3, 4, 4]


# Here already


def test_here_already(hub: Hub, maker: Maker, home: Path) -> None:
    path = maker.run()
    before = path.stat().st_mtime_ns
    hub.log.clear()
    assert maker.run() == path
    assert [(request.origin, request.path.partition("?")[0]) for request in hub.log] == [
        ("hub", f"/api/models/{REPO}/revision/main")
    ]
    assert path.stat().st_mtime_ns == before
    assert models(home) == [path.name]
    shutil.rmtree(in_cache().folder)
    assert maker.run() == path
    assert hub.bytes_sent("cdn") == 0, "papers alone"


def test_here_already_is_said(hub: Hub, maker: Maker) -> None:
    path = maker.run()
    out, err = run(*PULL, REPO, "--quant", "q8_0")
    assert out == f"{path}\n"
    assert "here already" in err


OTHERS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "another commit": lambda _, other: other,
    "another type": lambda right, _: right.replace(b"blk.0.attn_norm.weight", b"blk.0.attn_norm.weighs"),
}
BROKEN: dict[str, Callable[[bytes, bytes], bytes]] = {
    "no GGUF": lambda *_: b"my notes " * 100,
    "empty": lambda *_: b"",
    "cut off": lambda right, _: right[:-1000],
}


def check_that_it_stays(
    hub: Hub, maker: Maker, made: Callable[..., Path], checkpoint: Path, home: Path, expected: Any, data: Any
) -> None:
    commit, other = hub.add(REPO, files_of(checkpoint)), made(seed=5)
    there = data(expected(checkpoint, commit), expected(other, "0" * 40))
    path = home / "models" / "Tiny-Thinker-Q8_0.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(there)
    with pytest.raises(R1Error) as error:
        maker.run()
    assert path.read_bytes() == there
    assert hub.bytes_sent() == 0
    assert models(home) == [path.name]
    assert isinstance(error.value, UsageError), error.value
    assert error.value.hint


@pytest.mark.parametrize("kind", OTHERS)
def test_another_file_of_that_name_stays(
    hub: Hub, maker: Maker, made: Any, checkpoint: Path, home: Path, expected: Any, kind: str
) -> None:
    check_that_it_stays(hub, maker, made, checkpoint, home, expected, OTHERS[kind])


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_of_that_name_stays(
    hub: Hub, maker: Maker, made: Any, checkpoint: Path, home: Path, expected: Any, kind: str
) -> None:
    check_that_it_stays(hub, maker, made, checkpoint, home, expected, BROKEN[kind])


# What the Hub does wrong


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="cut", origin="cdn", path="model-00002", after=100_000, times=2),
        Fault(kind="status", origin="cdn", path="model-00003", status=429, headers={"Retry-After": "1"}, times=2),
        Fault(kind="status", origin="cdn", status=503, times=3),
        Fault(kind="status", origin="hub", path="model-00002", method="HEAD", status=503, times=1),
        Fault(kind="status", origin="hub", path="api/models", status=503, times=1),
        Fault(kind="refuse", origin="cdn", path="model-00004", times=2),
        Fault(kind="stall", origin="cdn", path="model-00001", after=100_000, times=1),
        Fault(kind="ignore_range", origin="cdn", path="model-00002", times=None),
        Fault(kind="cut", origin="hub", path="tokenizer.json", after=1000, times=1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status or fault.path}",
)
def test_what_passes(hub: Hub, maker: Maker, right: Any, fault: Fault) -> None:
    hub.fault(dataclasses.replace(fault, seen=0, hits=0))
    assert right(maker.run())
    assert hub.faults[0].hits
    assert threads_at_work() == []


def test_a_flipped_bit(hub: Hub, maker: Maker, checkpoint: Path, right: Any, home: Path) -> None:
    first, second = shards(checkpoint)[:2]
    hub.fault(Fault(kind="flip", origin="cdn", path=second.name, offset=size_of(second) // 2, times=None))
    with pytest.raises(ChecksumMismatch) as error:
        maker.run()
    assert second.name in error.value.message
    assert error.value.exit_code == ExitCode.BAD_FILE
    assert not [name for name in models(home) if name.endswith(".gguf")]
    assert second.name not in held(checkpoint)
    assert threads_at_work() == []
    hub.faults.clear()
    hub.log.clear()
    assert right(maker.run())
    assert set(cdn_paths(hub)) == {shard.name for shard in shards(checkpoint)} - {first.name}
    assert models(home) == ["Tiny-Thinker-Q8_0.gguf"]


def test_a_hub_that_gives_up(hub: Hub, maker: Maker, checkpoint: Path, right: Any) -> None:
    """What came until then is used."""
    hub.fault(Fault(kind="status", origin="cdn", path="model-00003", status=403, times=None))
    with pytest.raises(DownloadError):
        maker.run()
    hub.faults.clear()
    hub.log.clear()
    assert right(maker.run())
    assert set(cdn_paths(hub)) == {shard.name for shard in shards(checkpoint)[2:]}


@pytest.mark.parametrize("when", [0.3, 1.6, 2.5])
def test_a_change_upstream_starts_over(
    hub: Hub, maker: Maker, made: Callable[..., Path], checkpoint: Path, expected: Any, home: Path, when: float
) -> None:
    """No tensor of the old weights in the new model, however far it was."""
    newer, size = made(seed=2), size_of(shards(checkpoint)[0])
    hub.rate = 2_000_000
    maker.stopped(lambda standing: standing.fetched > when * size)
    hub.rate = None
    commit = hub.add(REPO, files_of(newer))
    assert maker.run().read_bytes() == expected(newer, commit)
    assert models(home) == ["Tiny-Thinker-Q8_0.gguf"]


def test_a_change_of_one_shard_upstream(
    hub: Hub, maker: Maker, made: Callable[..., Path], checkpoint: Path, expected: Any, tmp_path: Path
) -> None:
    hub.rate = 2_000_000
    maker.stopped(lambda standing: standing.fetched > 2.5 * size_of(shards(checkpoint)[0]))
    hub.rate = None
    mixed = tmp_path / "mixed"
    shutil.copytree(checkpoint, mixed)
    first = shards(checkpoint)[0].name
    shutil.copyfile(made(seed=2) / first, mixed / first)
    commit = hub.add(REPO, files_of(mixed))
    assert maker.run().read_bytes() == expected(mixed, commit)


def test_the_old_revision_goes_on_when_it_is_asked_for(
    hub: Hub, maker: Maker, made: Callable[..., Path], checkpoint: Path, expected: Any
) -> None:
    commit = hub.add(REPO, files_of(checkpoint))
    hub.rate = 2_000_000
    maker.stopped(lambda standing: standing.fetched > 2.5 * size_of(shards(checkpoint)[0]))
    hub.rate = None
    hub.add(REPO, files_of(made(seed=2)))
    hub.log.clear()
    assert maker.run(revision=commit).read_bytes() == expected(checkpoint, commit)
    assert shards(checkpoint)[0].name not in cdn_paths(hub)


def test_shards_of_an_old_revision_do_not_stay_for_ever(
    hub: Hub, maker: Maker, made: Callable[..., Path], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointConversion, "take", stop)
        with pytest.raises(KeyboardInterrupt):
            maker.run()
    assert in_cache().holds(sha256(shards(checkpoint)[0]))
    hub.add(REPO, files_of(made(seed=2)))
    maker.run()
    assert [path.name for path in shards(checkpoint) if in_cache().holds(sha256(path))] == []


# What cannot be made: refused before the weights come


def check_refused(
    hub: Hub, maker: Maker, home: Path, kind: type[R1Error], said: str, code: ExitCode, files: Mapping[str, Any],
    **options: Any,
) -> None:  # fmt: skip
    hub.add(REPO, files, **options)
    with pytest.raises(kind) as error:
        maker.run()
    assert said in f"{error.value.message} {error.value.hint}"
    assert error.value.exit_code == code
    assert [request.path for request in hub.log if "safetensors" in request.path and "index" not in request.path] == []
    assert models(home) == []
    assert threads_at_work() == []


WORD = "Hello"  # one of the texts of the proof begins with it


def another_reading(folder: Path) -> bytes:
    """A tokenizer.json that takes whole words out of its vocabulary, where the C library merges letters."""
    fields = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    fields["model"]["ignore_merges"] = True
    free = 1 + max(*fields["model"]["vocab"].values(), *(token["id"] for token in fields["added_tokens"]))
    fields["model"]["vocab"][WORD] = free
    return json.dumps(fields).encode()


@pytest.mark.parametrize(("case", "kind", "said", "code"), [
    ("only GGUF", NotOffered, "config.json", ExitCode.NO_MODEL),
    ("only bin", NotOffered, "model.safetensors", ExitCode.NO_MODEL),
    ("no tokenizer", NotOffered, "tokenizer.json", ExitCode.NO_MODEL),
    ("no config", NotOffered, "config.json", ExitCode.NO_MODEL),
    ("a shard is missing", NotOffered, "model-00003-of-000004.safetensors", ExitCode.NO_MODEL),
    ("a shard outside", ModelFileError, "../model.safetensors", ExitCode.BAD_FILE),
    ("an absolute shard", ModelFileError, "/etc/model.safetensors", ExitCode.BAD_FILE),
    ("no map", ModelFileError, "weight_map", ExitCode.BAD_FILE),
    ("index is no JSON", ModelFileError, "proper JSON", ExitCode.BAD_FILE),
    ("architecture", UnsupportedModel, "GPT2LMHeadModel", ExitCode.BAD_FILE),
    ("quantized", UnsupportedModel, "quantized already", ExitCode.BAD_FILE),
    ("config", ModelFileError, "hidden_size", ExitCode.BAD_FILE),
    ("config is no JSON", ModelFileError, "proper JSON", ExitCode.BAD_FILE),
    ("rope", UnsupportedModel, "positions", ExitCode.BAD_FILE),
    ("tokenizer is no JSON", ModelFileError, "proper JSON", ExitCode.BAD_FILE),
    ("tokenizer of a kind", UnsupportedModel, "byte-level BPE", ExitCode.BAD_FILE),
    ("tokenizer differs", ModelFileError, "The C library would read", ExitCode.BAD_FILE),
])  # fmt: skip
def test_refused_before_any_weight(
    hub: Hub, maker: Maker, checkpoint: Path, home: Path, case: str, kind: type[R1Error], said: str, code: ExitCode
) -> None:
    config, index = checkpoint / "config.json", checkpoint / "model.safetensors.index.json"
    no_weights: dict[str, bytes | None] = {path.name: None for path in (*shards(checkpoint), index)}
    places = json.loads(index.read_text())["weight_map"]
    name = next(iter(places))
    changes: dict[str, Changes] = {
        "only GGUF": {path.name: None for path in checkpoint.iterdir()} | {"m-Q4_0.gguf": b"GGUF" * 100},
        "only bin": no_weights | {"pytorch_model.bin": b"pickle" * 100},
        "no tokenizer": {"tokenizer.json": None},
        "no config": {"config.json": None},
        "a shard is missing": {"model-00003-of-000004.safetensors": None},
        "a shard outside": {index.name: changed_json(index, weight_map=places | {name: "../model.safetensors"})},
        "an absolute shard": {index.name: changed_json(index, weight_map=places | {name: "/etc/model.safetensors"})},
        "no map": {index.name: b"{}"},
        "index is no JSON": {index.name: b"<html>"},
        "architecture": {config.name: changed_json(config, architectures=["GPT2LMHeadModel"])},
        "quantized": {config.name: changed_json(config, quantization_config={"quant_method": "fp8"})},
        "config": {config.name: changed_json(config, hidden_size=...)},
        "config is no JSON": {config.name: b"{"},
        "rope": {config.name: changed_json(config, rope_scaling={"rope_type": "longrope", "factor": 4.0})},
        "tokenizer is no JSON": {"tokenizer.json": b"{"},
        "tokenizer of a kind": {"tokenizer.json": b'{"model": {"type": "Unigram"}}'},
        "tokenizer differs": {"tokenizer.json": another_reading(checkpoint)},
    }
    check_refused(hub, maker, home, kind, said, code, files_of(checkpoint, changes[case]))


def test_a_gated_repository(hub: Hub, maker: Maker, checkpoint: Path, home: Path) -> None:
    check_refused(hub, maker, home, AccessDenied, "gated", ExitCode.ACCESS, files_of(checkpoint), gated=True)
    assert ExitCode.ACCESS == 8


def test_a_gated_repository_with_a_token(hub: Hub, checkpoint: Path, expected: Any) -> None:
    commit = hub.add(REPO, files_of(checkpoint), gated=True)
    hub.accept_token("hf_reader", [REPO])
    out, _ = run(*PULL, REPO, "--quant", "Q8_0", HF_TOKEN="hf_reader")
    assert Path(out.strip()).read_bytes() == expected(checkpoint, commit)
    assert not [r for r in hub.log if r.origin == "cdn" and "authorization" in r.headers]


def test_no_such_repository(hub: Hub, maker: Maker) -> None:
    with pytest.raises(NotOffered):
        maker.run("someone/else")


@pytest.mark.parametrize("case", ["lacks one", "has one more"])
def test_an_index_of_another_model(
    hub: Hub, maker: Maker, made: Callable[..., Path], checkpoint: Path, home: Path, case: str
) -> None:
    """It is known from the index alone, and 130 GB of a 70B would be fetched for nothing."""
    if case == "lacks one":
        folder = made(tied=True, config={"tie_word_embeddings": False})
        changes: Changes = {}
    else:
        folder = checkpoint
        changes = {"config.json": changed_json(checkpoint / "config.json", num_hidden_layers=3)}
    check_refused(hub, maker, home, ModelFileError, "", ExitCode.BAD_FILE, files_of(folder, changes))


def test_a_card_without_end(hub: Hub, maker: Maker, checkpoint: Path) -> None:
    card = random.Random(0).randbytes(3 << 20)
    hub.add(REPO, files_of(checkpoint, {"README.md": card}))
    maker.run()
    assert sum(request.sent for request in hub.log if "README" in request.path) < 1 << 20


# The disk


class Disk:
    """A disk of so many bytes for the home of a test; `shutil.disk_usage` tells of it."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.size, self._others = home, 0, shutil.disk_usage
        monkeypatch.setattr(shutil, "disk_usage", self.usage)

    def usage(self, path: Path) -> Any:
        if not path.is_relative_to(self.home):
            return self._others(path)
        taken = used(self.home)
        return Usage(self.size, taken, self.size - taken)


def test_a_disk_that_is_too_small(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(home, monkeypatch)
    disk.size = 1 << 40
    plan = maker.plan()
    assert plan.room_needed == plan.size + sum(sorted(map(size_of, shards(checkpoint)))[-2:])
    enough = plan.room_needed + SPARE + used(home)
    disk.size = enough - 8 * KIB
    with pytest.raises(DiskFull) as error:
        maker.run()
    assert error.value.exit_code == ExitCode.DISK
    assert error.value.hint
    assert hub.bytes_sent("cdn") == 0
    assert models(home) == []
    disk.size = enough + 8 * KIB
    assert right(maker.run())


def test_a_result_that_does_not_fit_is_refused_in_a_dry_run(hub: Hub, tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        for flags in ((), ("--dry-run",)):
            _, err = run(*PULL, REPO, "--quant", "Q8_0", *flags, code=ExitCode.DISK, R1LOCAL_HOME=str(tmp_path))
            assert "are free" in err
        assert hub.bytes_sent("cdn") == 0
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("left", ["a part of one", "two"])
def test_what_was_begun_on_a_disk_that_suffices_goes_on(
    hub: Hub, checkpoint: Path, right: Any, home: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """What an interrupted run left will have gone when the last two shards come."""
    disk, maker = Disk(home, monkeypatch), Maker(hub, ONE)
    disk.size = 1 << 40
    disk.size = maker.plan().room_needed + SPARE + used(home) + 64 * KIB
    if left == "two":
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointConversion, "take", lambda *_: stop_when_fetched(checkpoint, 2))
            with pytest.raises(KeyboardInterrupt):
                maker.run()
        assert sum(in_cache().holds(sha256(shard)) for shard in shards(checkpoint)) == 2
    else:
        hub.rate = 2_000_000
        maker.stopped(lambda standing: standing.fetched > 0.7 * size_of(shards(checkpoint)[0]))
        hub.rate = None
    assert right(maker.run())


def stop_when_fetched(checkpoint: Path, count: int) -> None:
    """Stop the run as soon as so many shards are here."""
    end = time.monotonic() + 10
    while not all(in_cache().holds(sha256(shard)) for shard in shards(checkpoint)[:count]) and time.monotonic() < end:
        time.sleep(0.01)
    raise KeyboardInterrupt


def test_shards_that_stay_make_no_room(
    hub: Hub, maker: Maker, checkpoint: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three shards are here to stay: the result and the fourth have to fit beside them."""
    for shard in shards(checkpoint)[:3]:
        hf_hub_download(REPO, shard.name, endpoint=hub.endpoint)
    hub.log.clear()
    disk = Disk(home, monkeypatch)
    disk.size = 1 << 40
    plan = maker.plan()
    disk.size = used(home) + plan.size + SPARE + plan.shards[3].size // 2
    with pytest.raises(DiskFull):
        maker.run()
    assert hub.bytes_sent("cdn") == 0


def test_shards_that_are_kept_need_room(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(home, monkeypatch)
    disk.size = 1 << 40
    disk.size = maker.plan().room_needed + SPARE + used(home) + 64 * KIB
    with pytest.raises(DiskFull):
        maker.run(keep=True)
    assert hub.bytes_sent("cdn") == 0
    assert right(maker.run())


def test_a_disk_that_gets_full(hub: Hub, maker: Maker, right: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantize import conversion

    write, calls = conversion.write_at, 0

    def write_until_full(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(28, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "write_at", write_until_full)
        with pytest.raises(DiskFull):
            maker.run()
    assert not [name for name in models(home) if name.endswith(".gguf")]
    assert threads_at_work() == []
    assert right(maker.run())


# Stopped, and going on


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_stopped_while_it_comes(hub: Hub, maker: Maker, checkpoint: Path, right: Any, home: Path, share: float) -> None:
    size = size_of(*shards(checkpoint))
    hub.rate = 1_500_000
    maker.stopped(lambda standing: standing.fetched > share * size)
    assert not [name for name in models(home) if name.endswith(".gguf")]
    assert len(held(checkpoint)) <= 2
    hub.rate = None
    hub.log.clear()
    assert right(maker.run())
    assert hub.bytes_sent() <= (1 - share) * size + 600 * KIB
    assert held(checkpoint) == []
    assert models(home) == ["Tiny-Thinker-Q8_0.gguf"]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_stopped_while_it_is_converted(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, home: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.stopped(lambda standing: standing.converted > share * standing.to_convert)
    assert not [name for name in models(home) if name.endswith(".gguf")]
    convert, weights = Conversion._convert, 0

    def count(self: Conversion, planned: Any, descriptor: int, path: Path, source: Any, first: int, rows: int) -> None:
        nonlocal weights
        weights += rows * planned.stored.width
        convert(self, planned, descriptor, path, source, first, rows)

    monkeypatch.setattr(Conversion, "_convert", count)
    assert right(maker.run())
    total = maker.standings[-1].to_convert
    assert 0 < weights < (1 - share) * total + 4 * (1 << 19), "what was done is not done again"
    assert held(checkpoint) == []


def no_unlink(patch: pytest.MonkeyPatch, which: Callable[[Path], bool], *, kills: bool) -> None:
    """Files that cannot be deleted, as if the run were killed in front of it, or long before."""
    unlink = Path.unlink

    def unlink_others(self: Path, missing_ok: bool = False) -> None:
        if not which(self):
            unlink(self, missing_ok)
        elif kills:
            raise KeyboardInterrupt

    patch.setattr(Path, "unlink", unlink_others)


def test_a_shard_that_was_used_up_by_a_killed_run_is_dropped(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    etags = {sha256(shard) for shard in shards(checkpoint)}
    with monkeypatch.context() as patch:
        no_unlink(patch, lambda path: path.suffix == ".safetensors" or path.name in etags, kills=False)
        hub.rate = 2_000_000
        maker.stopped(lambda standing: standing.fetched > 1.7 * size_of(shards(checkpoint)[0]))
    assert len(held(checkpoint)) == 2
    hub.rate = None
    assert right(maker.run())
    assert held(checkpoint) == []


def test_killed_between_a_link_and_its_blob(
    hub: Hub, maker: Maker, checkpoint: Path, right: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sha256(shards(checkpoint)[0])
    with monkeypatch.context() as patch:
        no_unlink(patch, lambda path: path.name == first and path.parent.name == "blobs", kills=True)
        with pytest.raises(KeyboardInterrupt):
            maker.run()
    assert in_cache().holds(first)
    assert right(maker.run())
    assert held(checkpoint) == []


@pytest.mark.parametrize("left", [".part.journal", ".part.shards"])
def test_killed_behind_the_rename(
    hub: Hub, maker: Maker, home: Path, right: Any, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    with monkeypatch.context() as patch:
        no_unlink(patch, lambda path: path.name.endswith(left), kills=True)
        with pytest.raises(KeyboardInterrupt):
            maker.run()
    assert f"Tiny-Thinker-Q8_0.gguf{left}" in models(home)
    assert right(maker.run())
    assert models(home) == ["Tiny-Thinker-Q8_0.gguf"]


def test_standings_never_fall(hub: Hub, maker: Maker, checkpoint: Path) -> None:
    size = size_of(*shards(checkpoint))
    hub.rate = 3_000_000
    maker.stopped(lambda standing: standing.fetched > 0.4 * size)
    maker.run()
    fetched = [standing.fetched for standing in maker.standings]
    assert {standing.to_fetch for standing in maker.standings} == {size}
    assert fetched[-1] == max(fetched) == size
    assert maker.standings[-1].converted == maker.standings[-1].to_convert


def test_standings_never_fall_though_two_threads_tell_them(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion thread falls asleep between looking and telling, as the scheduler lets it once a while."""
    maker, slept = Maker(hub, ONE), threading.Event()

    def look(*numbers: int) -> Standing:
        standing = Standing(*numbers)
        if threading.current_thread().name.startswith("quantize") and not slept.is_set():
            slept.set()
            end = time.monotonic() + 2
            while maker.standings[-1].fetched <= standing.fetched and time.monotonic() < end:
                time.sleep(0.01)
        return standing

    monkeypatch.setattr(from_source, "Standing", look)
    hub.rate = 3_000_000
    maker.run()
    assert slept.is_set()
    fetched = [standing.fetched for standing in maker.standings]
    assert fetched == sorted(fetched)


def with_nan(path: Path) -> tuple[bytes, str]:
    """A shard whose last matrix has one value that is no number, and the name of it."""
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    name = [key for key in entries if key.endswith("proj.weight")][-1]
    at = 8 + length + entries[name]["data_offsets"][0] + 2 * 12345
    data[at : at + 2] = b"\xc0\x7f"
    return bytes(data), name


def test_an_error_in_the_conversion_ends_the_fetching(hub: Hub, checkpoint: Path, home: Path) -> None:
    second = shards(checkpoint)[1]
    data, name = with_nan(second)
    hub.add(REPO, files_of(checkpoint, {second.name: data}))
    hub.rate = 2_000_000
    maker = Maker(hub, ONE)
    with pytest.raises(ModelFileError) as error:
        maker.run()
    assert name in error.value.message
    assert "not finite" in error.value.message
    assert error.value.exit_code == ExitCode.BAD_FILE
    assert threads_at_work() == []
    assert shards(checkpoint)[3].name not in cdn_paths(hub), "the fourth never came"
    assert hub.bytes_sent() < size_of(*shards(checkpoint)[:3])
    assert not [path for path in models(home) if path.endswith(".gguf")]


# Several at once


def test_two_at_once_on_one_target(hub: Hub, maker: Maker, checkpoint: Path, right: Any, home: Path) -> None:
    hub.rate = 2_000_000
    process = begin(*PULL, REPO, "--quant", "Q8_0")
    assert process.stderr
    for line in process.stderr:
        if re.search(r"Fetching \S+\.gguf.* [1-9]\d*%", line):
            break
    _, err = run(*PULL, REPO, "--quant", "Q8_0", code=ExitCode.USAGE)
    assert "Another process is making Tiny-Thinker-Q8_0.gguf" in err
    out, _ = end(process)
    assert right(Path(out.strip()))
    assert hub.bytes_sent() == size_of(*shards(checkpoint))
    assert models(home) == ["Tiny-Thinker-Q8_0.gguf"]


def test_made_by_another_between_plan_and_run(hub: Hub, maker: Maker, right: Any) -> None:
    path = maker.run(between=lambda _: (Maker(hub).run(), hub.log.clear()))
    assert right(path)
    assert hub.bytes_sent("cdn") == 0


def test_two_types_of_one_checkpoint_at_once(
    hub: Hub, checkpoint: Path, right: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds the first shard here, which the first run fetched, and drops when it has used it up."""
    take, first = CheckpointConversion.take, shards(checkpoint)[0].name
    first_is_here, second_waits, first_is_over = threading.Event(), threading.Event(), threading.Event()
    results: dict[str, Path | BaseException] = {}

    def take_in_turn(self: CheckpointConversion, conversion: Conversion, shard: str) -> None:
        if shard == first and self.wish.file_type == "Q8_0":
            first_is_here.set()
            second_waits.wait(20)
        elif shard == first:
            second_waits.set()
            first_is_over.wait(20)
        take(self, conversion, shard)

    def work(quant: str) -> None:
        try:
            results[quant] = Maker(hub).run(quant=quant)
        except BaseException as error:
            results[quant] = error
        finally:
            first_is_here.set()
            second_waits.set()
            if quant == "Q8_0":
                first_is_over.set()

    monkeypatch.setattr(CheckpointConversion, "take", take_in_turn)
    threads = [threading.Thread(target=work, args=(quant,)) for quant in ("Q8_0", "Q4_0")]
    threads[0].start()
    assert first_is_here.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert isinstance(results["Q8_0"], Path)
    assert right(results["Q8_0"])
    assert isinstance(results["Q4_0"], Path), results["Q4_0"]
    assert right(results["Q4_0"], "Q4_0")


def test_the_lock_is_never_held_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, release = tmp_path / "x.gguf", filelock.FileLock.release
    second: list[filelock.FileLock] = []

    def release_and_lose(self: Any, force: bool = False) -> None:
        release(self, force)
        if not second:  # another process was waiting for this moment
            second.append(filelock.FileLock(self.lock_file))
            second[0].acquire(timeout=0)

    with monkeypatch.context() as patch:
        patch.setattr(filelock.FileLock, "release", release_and_lose)
        with alone(target):
            pass
    assert second[0].is_locked
    try:
        with pytest.raises(UsageError), alone(target):
            pass
    finally:
        second[0].release()


# Killed


def test_killed_at_random_moments(hub: Hub, checkpoint: Path, right: Any, home: Path) -> None:
    chance, kills = random.Random(7), 0
    hub.rate = 1_500_000
    while kills < 6:
        process = begin(*PULL, REPO, "--quant", "Q8_0")
        try:
            process.communicate(timeout=chance.uniform(0.5, 2.2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            assert not [name for name in models(home) if name.endswith(".gguf")]
        else:
            # It was done before its time: once more from the start.
            out = home / "models" / "Tiny-Thinker-Q8_0.gguf"
            assert right(out)
            out.unlink()
    hub.rate = None
    out_text, _ = run(*PULL, REPO, "--quant", "Q8_0")
    assert right(Path(out_text.strip()))
    assert held(checkpoint) == []
    assert models(home) == ["Tiny-Thinker-Q8_0.gguf"]
    assert not in_cache().partials.exists()


# The command line


def test_the_path_goes_to_stdout_and_the_talk_to_stderr(hub: Hub, checkpoint: Path, right: Any, home: Path) -> None:
    out, err = run(*PULL, REPO, "--quant", "Q8_0")
    assert out == f"{home / 'models' / 'Tiny-Thinker-Q8_0.gguf'}\n"
    assert right(Path(out.strip()))
    assert f"{size_of(*shards(checkpoint)) / 1e6:.1f} MB in 4 shards" in err
    assert "licence" in err
    assert "tokenizer proved" in err
    shown = re.search(r"r1local chat -m (\S+) ", err)
    assert shown
    assert json.loads(run("show", shown[1], "--json")[0])["file"]["path"] == out.strip()


@pytest.mark.parametrize(("arguments", "made_of", "quant"), [
    (("1.5b",), KNOWN, None),
    (("1.5b:Q4_K_M",), KNOWN, "Q4_K_M"),
    (("1.5b:Q4_K_M", "--quant", "q5_k_s"), KNOWN, "Q5_K_S"),
    ((REPO,), REPO, "Q4_K_M"),
    ((f"{REPO}:q6_k",), REPO, "Q6_K"),
    ((f"{REPO}:q6_k", "--quant", "Q4_K"), REPO, "Q4_K_M"),
])  # fmt: skip
def test_which_type_is_made(
    hub: Hub, checkpoint: Path, home: Path, arguments: tuple[str, ...], made_of: str, quant: str | None
) -> None:
    hub.add(KNOWN, files_of(checkpoint))
    quant = quant or catalog().resolve("1.5b")[0].recommended
    plan = json.loads(run(*PULL, *arguments, "--dry-run", "--json")[0].splitlines()[-2])
    assert (plan["event"], plan["repository"], plan["quantization"]) == ("plan", made_of, quant)
    assert plan["path"] == str(home / "models" / f"{made_of.partition('/')[2]}-{quant}.gguf")


@pytest.mark.parametrize(("arguments", "said"), [
    ((REPO, "--quant", "Q9"), "There is no type Q9"),
    ((f"{REPO}:latest",), "There is no type LATEST"),
    ((REPO, "--quant", "IQ2_XXS"), "importance matrix"),
    ((f"{REPO}/model.safetensors",), "single file"),
    ((REPO, "--kernels", "gpu"), "no kernels"),
    ((REPO, "--revision", "../x"), "revision"),
])  # fmt: skip
def test_what_makes_no_sense(hub: Hub, home: Path, arguments: tuple[str, ...], said: str) -> None:
    out, err = run("pull", "--from-source", "--yes", *arguments, code=ExitCode.USAGE)
    assert out == ""
    assert said in err
    assert hub.bytes_sent("cdn") == 0
    assert models(home) == []


def test_a_dry_run(hub: Hub, maker: Maker, checkpoint: Path, home: Path) -> None:
    out, err = run(*PULL, REPO, "--quant", "Q4_K_M", "--dry-run")
    plan = maker.plan(quant="Q4_K_M")
    stored = plan.checkpoint.layout.stored
    assert out.splitlines() == [f"{tensor.size}\t{tensor.type}\t{tensor.name}" for tensor in stored]
    assert len(stored) == len({tensor.name for tensor in stored}) > 40
    assert f"{plan.room_needed:,} bytes of disk at the most" in err
    assert hub.bytes_sent("cdn") == 0
    assert not [request for request in hub.log if "model-0" in request.path]
    assert models(home) == []


def test_json_events(hub: Hub, maker: Maker, checkpoint: Path, right: Any) -> None:
    plan = maker.plan()
    hub.rate = 2_000_000
    out, err = run(*PULL, REPO, "--quant", "Q8_0", "--json")
    assert err == ""
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events if event["event"] != "progress"] == ["plan", "done"]
    told = next(event for event in events if event["event"] == "plan")
    assert told["shards"] == [{"name": p.name, "size": size_of(p), "sha256": sha256(p)} for p in shards(checkpoint)]
    assert told["to_fetch"] == size_of(*shards(checkpoint))
    assert (told["size"], told["disk_needed"]) == (plan.size, plan.room_needed)
    assert told["memory"] in ("fits", "tight", "too large")
    assert events[-1]["path"] == told["path"]
    assert right(Path(told["path"]))
    later = events[events.index(told) + 1 : -1]
    fetching = [event for event in later if event["doing"] == "Fetching"]
    assert len(fetching) > 1
    assert {event["size"] for event in fetching} == {told["to_fetch"]}
    for doing in ("Fetching", "Converting"):
        done = [event["done"] for event in later if event["doing"] == doing]
        assert done == sorted(done)
    assert (later[-1]["doing"], later[-1]["done"]) == ("Converting", later[-1]["size"])


def test_json_of_an_error(hub: Hub, checkpoint: Path) -> None:
    hub.fault(Fault(kind="flip", origin="cdn", path="model-00002", offset=1_000_000, times=None))
    out, _ = run(*PULL, REPO, "--quant", "Q8_0", "--json", code=ExitCode.BAD_FILE)
    events = [json.loads(line) for line in out.splitlines()]
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("error", ExitCode.BAD_FILE)
    assert "model-00002" in events[-1]["message"]
    assert [event["event"] for event in events].count("plan") == 1
    assert "done" not in [event["event"] for event in events]


def test_offline(hub: Hub, maker: Maker) -> None:
    variables: tuple[dict[str, Any], ...] = ({"HF_HUB_OFFLINE": "1"}, {"TRANSFORMERS_OFFLINE": "yes"}, {})
    for variable in variables:
        flags = () if variable else ("--offline",)
        _, err = run(*PULL, REPO, *flags, code=ExitCode.DOWNLOAD, **variable)
        assert "switched off" in err
        assert "r1local quantize" in err
    assert hub.log == []


def test_nobody_to_ask_about_a_stranger(hub: Hub) -> None:
    _, err = run("pull", "--from-source", REPO, code=ExitCode.USAGE)
    assert "someone is new here" in err
    assert "--yes" in err
    assert hub.bytes_sent("cdn") == 0


def test_plain_lines_in_a_pipe(hub: Hub) -> None:
    hub.rate = 1_500_000
    _, err = run(*PULL, REPO, "--quant", "Q8_0")
    told = re.findall(r"^Fetching Tiny-Thinker-Q8_0\.gguf \((\d+)% converted\): (\d+)%", err, re.MULTILINE)
    shares, converted = [int(share) for _, share in told], [int(share) for share, _ in told]
    assert shares == sorted(set(shares))
    assert all(share % 5 == 0 for share in shares)
    assert len(shares) > 5
    assert converted == sorted(converted)
    assert converted[-1] > 0
    assert "\r" not in err
    assert "\x1b" not in err


@pytest.mark.terminal
@pytest.mark.parametrize("columns", [40, 200])
def test_the_live_line(hub: Hub, columns: int) -> None:
    hub.rate = 1_500_000
    screen = Screen([*PULL, REPO, "--quant", "Q8_0"], columns=columns)
    while screen.process.isalive():
        screen.pump()
        live = [line for line in screen._screen.display if re.search(r"\d%", line)]
        assert len(live) <= 1, "one line"
    assert screen.wait() == 0
    drawn = [text.decode() for text in re.findall(rb"\r([^\r\n]*?)\x1b\[K", screen.raw)]
    live = [text for text in drawn if re.search(r"\d%", text) and "json" not in text and "README" not in text]
    assert len(live) > 10
    assert max(map(wcswidth, live)) < columns, "it would wrap"
    phases: dict[str, list[int]] = {}
    for text in live:
        parts = re.search(r"(?:\((\d+)% converted\).*?)?(?:^|  )(\d+)%  [\d.]+ of ([\d.]+) MB", text)
        assert parts, text
        phases.setdefault(parts[3], []).append(int(parts[2]))
        if parts[1]:
            phases.setdefault("converted", []).append(int(parts[1]))
    for shares in phases.values():
        assert shares == sorted(shares)
    assert ("converted" in phases) == (columns > 40)
    assert "%" not in screen.text, "nothing is left of it"
    assert "tokenizer proved" in " ".join(screen.text.split())


def seen(process: subprocess.Popen[str], pattern: str) -> None:
    """Read its stdout until a line is like that."""
    assert process.stdout
    for line in process.stdout:
        if re.search(pattern, line):
            return
    raise AssertionError(f"it never said {pattern}")


@pytest.mark.parametrize("doing", ["Fetching", "Converting"])
def test_ctrl_c(hub: Hub, checkpoint: Path, right: Any, made: Any, home: Path, expected: Any, doing: str) -> None:
    folder, quant = checkpoint, "Q8_0"
    if doing == "Fetching":
        hub.rate = 500_000
    else:  # a type that takes its time
        folder, quant = made(shards=1, ffn=2048), "IQ4_XS"
    commit = hub.add(REPO, files_of(folder))
    process = begin(*PULL, REPO, "--quant", quant, "--json")
    seen(process, rf'"progress", "doing": "{doing}", "file": "Tiny')
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = end(process, ExitCode.INTERRUPTED)
    assert time.monotonic() - began < 5
    assert err == "Stopped. The same command goes on from here.\n"
    assert not [name for name in models(home) if name.endswith(".gguf")]
    assert any(name.endswith(".part") for name in models(home))
    hub.rate = None
    hub.log.clear()
    out, _ = run(*PULL, REPO, "--quant", quant)
    assert Path(out.strip()).read_bytes() == expected(folder, commit, quant)
    if doing == "Converting":
        assert hub.bytes_sent() == 0
    assert held(folder) == []


def test_ctrl_c_while_the_hub_says_nothing(hub: Hub) -> None:
    fault = hub.fault(Fault(kind="slow_headers", origin="hub", method="HEAD", path="model-00002", seconds=FOREVER))
    process = begin(*PULL, REPO, "--quant", "Q8_0")
    try:
        deadline = time.monotonic() + 20
        while not fault.hits and time.monotonic() < deadline:
            time.sleep(0.02)
        assert fault.hits
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_while_the_tokenizer_is_proved(hub: Hub, tmp_path: Path) -> None:
    """A terminal sends it to every process of the group."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\nif any('token_ids' in word for word in sys.orig_argv): time.sleep(3)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "r1local", *PULL, REPO, "--quant", "Q8_0"], text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        if any("token_ids" in word for child in children for word in child.cmdline()):
            break
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED, err


@pytest.mark.terminal
def test_ctrl_c_at_the_question(hub: Hub) -> None:
    """`pull` ends with 130 then, without --from-source."""
    screen = Screen(["pull", "--from-source", REPO], columns=140)
    try:
        screen.until("[y/N]")
        screen.type("\x03")
        deadline = time.monotonic() + 5
        while screen.process.isalive() and time.monotonic() < deadline:
            screen.pump()
        assert not screen.process.isalive()
        assert screen.wait() == ExitCode.INTERRUPTED
    finally:
        screen.process.close(force=True)

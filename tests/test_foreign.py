"""What Ollama and LM Studio hold: found, checked, never changed, and nothing in it believed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from r1local import paths
from r1local.catalog import load_catalog
from r1local.errors import ExitCode, ModelFileError, ModelNotFound, R1Error, UsageError
from r1local.gguf_header import read_header
from r1local.store import all_local, find
from r1local.store.foreign import lmstudio_model, lmstudio_models, ollama_folders, ollama_model, ollama_models
from tests.test_carry import tiny, tiny_split

MODEL = "application/vnd.ollama.image.model"


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folder, with nothing in it; the service's own store is not looked at."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("OLLAMA_MODELS", str(folder / ".ollama" / "models"))
    return folder


@pytest.fixture
def store(user: Path) -> Path:
    return user / ".ollama" / "models"


def blob(store: Path, data: bytes, separator: str = "-") -> str:
    digest = hashlib.sha256(data).hexdigest()
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    (store / "blobs" / f"sha256{separator}{digest}").write_bytes(data)
    return f"sha256:{digest}"


def layer(digest: Any, size: Any, kind: str = MODEL) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest, "size": size}


def write_manifest(store: Path, layers: Any, name: str = "registry.ollama.ai/library/tiny/latest") -> Path:
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "config": {}}
    path.write_text(json.dumps(head | {"layers": layers}))
    return path


def add(store: Path, name: str = "registry.ollama.ai/library/tiny/latest", seed: int = 0, title: str = "Tiny") -> Path:
    """A model as Ollama keeps it: the file, its template and its licence. The path of its blob."""
    data = tiny(store.parent / f"made-{seed}", title, seed).read_bytes()
    (store.parent / f"made-{seed}").unlink()
    license_, template = b"MIT", b"{{ .Prompt }}"
    digest = blob(store, data)
    layers = [layer(digest, len(data))]
    layers.append(layer(blob(store, license_), len(license_), "application/vnd.ollama.image.license"))
    layers.append(layer(blob(store, template), len(template), "application/vnd.ollama.image.template"))
    write_manifest(store, layers, name)
    return store / "blobs" / digest.replace(":", "-")


def fingerprint(folder: Path) -> str:
    """Names, kinds, contents and times of everything below."""
    facts = []
    for path in sorted([folder, *folder.rglob("*")]):
        state = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        facts.append((str(path), state.st_mode, state.st_size, state.st_mtime_ns, hashlib.sha256(content).hexdigest()))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def run(*arguments: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "r1local", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert "made a mistake" not in result.stderr
    return result


# Ollama: names


@pytest.mark.parametrize(("given", "manifest", "shown"), [
    ("tiny", "registry.ollama.ai/library/tiny/latest", "ollama:tiny:latest"),
    ("tiny:latest", "registry.ollama.ai/library/tiny/latest", "ollama:tiny:latest"),
    ("deepseek-r1:7b", "registry.ollama.ai/library/deepseek-r1/7b", "ollama:deepseek-r1:7b"),
    ("user/model:tag", "registry.ollama.ai/user/model/tag", "ollama:user/model:tag"),
    ("hf.co/user/repo:Q4_K_M", "hf.co/user/repo/Q4_K_M", "ollama:hf.co/user/repo:Q4_K_M"),
    ("registry.ollama.ai/library/tiny:latest", "registry.ollama.ai/library/tiny/latest", "ollama:tiny:latest"),
])  # fmt: skip
def test_names(store: Path, given: str, manifest: str, shown: str) -> None:
    path = add(store, manifest)
    found = ollama_model(given)
    assert (found.name, found.path) == (shown, path)
    assert found.sha256 == path.name.removeprefix("sha256-")
    assert [model.name for model in ollama_models().models] == [shown]
    assert ollama_model(shown.removeprefix("ollama:")) == found, "what is shown can be typed"


def test_a_registry_with_a_port(store: Path) -> None:
    add(store, "localhost:5000/user/model/tag")
    shown = ollama_models().models[0].name
    assert ollama_model(shown.removeprefix("ollama:")).name == shown


@pytest.mark.parametrize("name", [
    "../x", "..", ".", "a/../b", "/etc/passwd", "a:b:c", ":", "a:", "a//b", "a/b/c/d", "a/b/c/d:e", "x\0y", "x\ny",
    "x:../../../y", "user/model:..", "~root/x", "模型", "x" * 200, "-x", "a b",
])  # fmt: skip
def test_names_that_cannot_be(store: Path, name: str) -> None:
    add(store)
    with pytest.raises((UsageError, ModelNotFound)) as caught:
        ollama_model(name)
    assert caught.value.hint
    if name != "a:":  # which is `a` in its newest version
        assert isinstance(caught.value, UsageError)


def test_near_names(store: Path) -> None:
    add(store, "registry.ollama.ai/library/deepseek-r1/7b")
    with pytest.raises(ModelNotFound) as caught:
        ollama_model("deepsek-r1:7b")
    assert "ollama:deepseek-r1:7b" in caught.value.hint
    with pytest.raises(ModelNotFound) as caught:
        ollama_model("zzz")
    assert str(store) in caught.value.hint


def test_where_ollama_keeps_them(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "~/other")
    assert ollama_folders() == [user / "other"]
    add(user / "other")
    assert ollama_model("tiny").path.is_relative_to(user / "other")
    monkeypatch.delenv("OLLAMA_MODELS")
    assert ollama_folders()[0] == user / ".ollama" / "models"
    if sys.platform == "linux":
        assert Path("/usr/share/ollama/.ollama/models") in ollama_folders()


@pytest.mark.parametrize("command", [("import", "ollama"), ("import", "~nobody-of-this-name/x.gguf")])
def test_a_home_of_nobody(command: tuple[str, str]) -> None:
    run(*command, OLLAMA_MODELS="~nobody-of-this-name/models", code=ExitCode.USAGE)


# Ollama: what is in a manifest


def test_blobs_of_older_versions(store: Path) -> None:
    data = tiny(store.parent / "made").read_bytes()
    write_manifest(store, [layer(blob(store, data, ":"), len(data))])
    assert ollama_model("tiny").path.name.startswith("sha256:")


HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("digest", [
    f"sha256:{HEX.upper()}", f"sha256:{HEX[:-1]}", f"sha256:{HEX}0", "sha256:../../../../etc/passwd", f"sha512:{HEX}",
    f"sha256:../{HEX[:-3]}", HEX, f"sha256:{HEX}\n", f"sha256/{HEX}", "", None, 7, [f"sha256:{HEX}"], f"SHA256:{HEX}",
])  # fmt: skip
def test_digests_that_are_none(store: Path, digest: Any) -> None:
    """None of them becomes a path, even where something lies at it."""
    (store / "blobs").mkdir(parents=True)
    for name in (f"sha256-{HEX.upper()}", f"sha256-{HEX[:-1]}", HEX, f"sha256-{HEX}0"):
        (store / "blobs" / name).write_bytes(b"GGUF")
    write_manifest(store, [layer(digest, 4)])
    unusable()


def unusable() -> ModelFileError:
    """Refused by name with a sentence, and passed over with the same reason among all."""
    with pytest.raises(ModelFileError) as caught:
        ollama_model("tiny")
    assert caught.value.message.endswith(".")
    assert caught.value.hint
    found = ollama_models()
    assert found.models == []
    assert found.skipped == [f"ollama:tiny:latest: {caught.value.message}"]
    return caught.value


@pytest.mark.parametrize("layers", [
    [], None, "layers", 7, {"a": 1}, [7], ["x"], [None], [{}], [{"mediaType": 7}], [layer(f"sha256:{HEX}", "4")],
    [layer(f"sha256:{HEX}", 4, "application/vnd.ollama.image.projector")], [layer(f"sha256:{HEX}", 4, "text/plain")],
    [layer(f"sha256:{HEX}", 4)] * 2, [{"mediaType": MODEL}], [{"mediaType": MODEL, "digest": f"sha256:{HEX}"}],
])  # fmt: skip
def test_layers_that_are_none(store: Path, layers: Any) -> None:
    (store / "blobs").mkdir(parents=True)
    (store / "blobs" / f"sha256-{HEX}").write_bytes(b"GGUF")
    write_manifest(store, layers)
    unusable()


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b"7", b"\xff\xfe\x00", b"[" * 200_000, b"\x00" * 100, b'{"layers":' + b"1" * 9000 + b"}",
    b'{"layers": []}' + b" " * (10 << 20),
])  # fmt: skip
def test_manifests_that_are_none(store: Path, content: bytes) -> None:
    write_manifest(store, []).write_bytes(content)
    unusable()


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [longer, linked, piped, as_folder, Path.unlink])
def test_blobs_that_are_none(store: Path, change: Callable[[Path], None]) -> None:
    change(add(store))
    unusable()


def test_a_manifest_behind_a_link(store: Path, tmp_path: Path) -> None:
    add(store)
    linked(store / "manifests/registry.ollama.ai/library/tiny/latest")
    with pytest.raises(ModelFileError):
        ollama_model("tiny")
    assert [model.name for model in ollama_models().models] == ["ollama:tiny:elsewhere"]


@pytest.mark.parametrize("by_name", [True, False])  # fmt: skip
def test_a_folder_of_manifests_behind_a_link(store: Path, tmp_path: Path, by_name: bool) -> None:
    """What a link inside the store leads to is not opened."""
    add(store)
    (store / "manifests" / "registry.ollama.ai").rename(tmp_path / "elsewhere")
    (store / "manifests" / "registry.ollama.ai").symlink_to(tmp_path / "elsewhere")
    if by_name:
        with pytest.raises(R1Error):
            ollama_model("tiny")
    else:
        assert ollama_models().models == []


def test_a_whole_store_that_was_moved_to_another_disk(store: Path, tmp_path: Path) -> None:
    add(store)
    store.rename(tmp_path / "disk")
    store.symlink_to(tmp_path / "disk")
    assert ollama_model("tiny").path.is_file()


# Ollama: the command


def test_importing_changes_nothing_of_theirs(store: Path) -> None:
    add(store)
    before = fingerprint(store)
    first = run("import", "ollama:tiny")
    path = Path(first.stdout.strip())
    assert path == paths.models_folder() / "tiny-F32.gguf"
    assert read_header(path).quantization == "F32"
    assert "-m tiny-F32 " in first.stderr
    assert find(load_catalog(), "tiny-F32").path == path
    assert path in [local.path for local in all_local(load_catalog())]
    assert run("import", "ollama:tiny").stdout == first.stdout
    assert run("import", "ollama").stdout == first.stdout
    assert run("verify", "tiny-F32").stdout.count("as published") == 1
    assert run("rm", "tiny-F32", "--yes").returncode == 0
    assert fingerprint(store) == before
    copied = json.loads(run("import", "ollama:tiny", "--copy", "--json").stdout)
    assert copied == [{"path": str(path), "linked": False}]
    assert not path.is_symlink()
    assert fingerprint(store) == before


def test_the_bytes_must_be_those_the_digest_names(store: Path) -> None:
    path = add(store)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    before = fingerprint(store)
    assert "checksum" in run("import", "ollama:tiny", code=ExitCode.BAD_FILE).stderr
    result = run("import", "ollama", code=ExitCode.USAGE)
    assert "Skipped ollama:tiny:latest" in result.stderr
    assert fingerprint(store) == before
    assert not list(paths.models_folder().glob("*"))


def test_all_that_can_be_is_imported_and_the_rest_is_named(store: Path) -> None:
    add(store, "registry.ollama.ai/library/one/7b", seed=1, title="One")
    add(store, "hf.co/user/two/Q4", seed=2, title="Two")
    write_manifest(store, [], "registry.ollama.ai/library/three/latest")
    write_manifest(store, [], "registry.ollama.ai/library/\x1b]0;owned\x07/latest")
    result = run("import", "ollama")
    assert [Path(line).name for line in result.stdout.splitlines()] == ["hf.co-user-two-Q4-F32.gguf", "one-7b-F32.gguf"]
    assert "Skipped ollama:three:latest: " in result.stderr
    assert "\x1b" not in result.stderr
    assert "\x07" not in result.stderr


def test_two_models_that_call_themselves_the_same(store: Path) -> None:
    add(store, "registry.ollama.ai/library/deepseek-r1/7b", seed=1, title="DeepSeek R1")
    add(store, "hf.co/user/deepseek-r1-finetune/F32", seed=2, title="DeepSeek R1")
    assert len(run("import", "ollama").stdout.splitlines()) == 2


@pytest.fixture
def read_only(store: Path, tmp_path: Path) -> Iterator[Path]:
    """The store where nothing can be written, not even by root."""
    add(store)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    done = subprocess.run(["mount", "--bind", "-o", "ro", store, mounted], capture_output=True)
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        if os.access(mounted, os.W_OK):
            pytest.skip("read-only mounts can be written to here")
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_store_where_nothing_can_be_written(read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(read_only))
    assert Path(run("import", "ollama:tiny").stdout.strip()).is_symlink()
    assert run("verify", "tiny-F32").returncode == 0


# LM Studio


def test_folders_of_lm_studio(user: Path) -> None:
    for number, place in enumerate((".lmstudio", ".cache/lm-studio", "pointed")):
        tiny(user / place / f"models/maker/repo{number}/m{number}-F32.gguf", seed=number)
    (user / ".lmstudio-home-pointer").write_text(f"{user / 'pointed'}\n")
    assert sorted(model.name for model in lmstudio_models().models) == [
        f"lmstudio:maker/repo{number}/m{number}-F32.gguf" for number in range(3)
    ]
    for name in ("m1-F32.gguf", "repo1/m1-F32.gguf", "maker/repo1/m1-F32.gguf"):
        assert lmstudio_model(name).path == user / ".cache/lm-studio/models/maker/repo1/m1-F32.gguf"


@pytest.mark.parametrize("pointer", [b"", b"relative/path", b"\xff\xfe", b"/dev/null", b"/nowhere\0at all"])
def test_a_pointer_that_leads_nowhere(user: Path, pointer: bytes) -> None:
    (user / ".lmstudio-home-pointer").write_bytes(pointer)
    tiny(user / ".lmstudio/models/maker/repo/m.gguf")
    assert len(lmstudio_models().models) == 1


def test_what_lm_studio_has_besides_models(user: Path, tmp_path: Path) -> None:
    folder = user / ".lmstudio/models/maker/repo"
    tiny(folder / "m-F32.gguf")
    tiny(folder / "mmproj-m-F32.gguf")
    tiny(folder / "deeper/x-F32.gguf")
    tiny(user / ".lmstudio/models/loose.gguf")
    (folder / "README.md").write_text("x")
    os.mkfifo(folder / "pipe.gguf")
    (folder / "link.gguf").symlink_to(tiny(tmp_path / "secret.gguf"))
    (user / ".lmstudio/models/other").symlink_to(tmp_path)
    found = lmstudio_models()
    assert [model.name for model in found.models] == ["lmstudio:maker/repo/m-F32.gguf"]
    assert sorted(found.skipped) == [
        "lmstudio:maker/repo/link.gguf: not a plain file.",
        "lmstudio:maker/repo/pipe.gguf: not a plain file.",
    ]
    for name in ("link.gguf", "../../../../secret.gguf", "x-F32.gguf"):
        with pytest.raises(ModelNotFound):
            lmstudio_model(name)


def test_names_that_are_not_clear(user: Path) -> None:
    for maker in "ab":
        tiny(user / f".lmstudio/models/{maker}/repo/m-F32.gguf", seed=ord(maker))
    with pytest.raises(ModelNotFound) as caught:
        lmstudio_model("m-F32.gguf")
    for name in caught.value.hint.removeprefix("Name one: ").split(", "):
        assert lmstudio_model(name.removeprefix("lmstudio:")).name == name
    with pytest.raises(ModelNotFound, match="no model") as caught:
        lmstudio_model("a/repo/m-F23.gguf")
    assert "lmstudio:a/repo/m-F32.gguf" in caught.value.hint


def test_the_same_name_in_two_folders(user: Path) -> None:
    for number, place in enumerate((".lmstudio", ".cache/lm-studio")):
        tiny(user / place / "models/maker/repo/m-F32.gguf", seed=number)
    names = [model.name for model in lmstudio_models().models]
    assert len({lmstudio_model(name.removeprefix("lmstudio:")).path for name in names}) == len(names)


def test_importing_a_split_model(user: Path) -> None:
    parts = tiny_split(user / ".lmstudio/models/maker/repo")
    before = fingerprint(user / ".lmstudio")
    result = run("import", "lmstudio:big-F32-00001-of-00003.gguf")
    first = Path(result.stdout.strip())
    assert [path.name for path in sorted(first.parent.iterdir())] == [part.name for part in parts]
    assert len(read_header(first).parts) == 2
    assert run("show", first.stem).returncode == 0
    assert run("import", "lmstudio").stdout == result.stdout
    assert fingerprint(user / ".lmstudio") == before


def test_nothing_there(user: Path) -> None:
    for what in ("ollama", "lmstudio", "ollama:x", "lmstudio:x", "lmstudio:../x", "no-such-file.gguf"):
        result = run("import", what, code=ExitCode.USAGE if what.isalpha() else ExitCode.NO_MODEL)
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 2, "a sentence and a hint"
    shutil.rmtree(user)
    run("import", "ollama", code=ExitCode.USAGE)

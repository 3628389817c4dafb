"""The trial of build and file in a child process: every way it can die is survived, and what works is remembered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from r1local import paths
from r1local.engine import selftest, verdicts
from r1local.engine.library import SPIN_COUNT
from r1local.engine.model import Features
from r1local.errors import ModelFileError, OutOfMemory, SelfTestFailed, UnsupportedModel
from r1local.gguf_header import read_header
from r1local.gguf_types import GgufHeader

pytestmark = pytest.mark.engine


def check(path: Path, **options: object) -> verdicts.Verdict:
    return selftest.check(read_header(path), n_threads=1, **options)  # type: ignore[arg-type]


def test_a_good_file_is_tried_once(random_model: Path) -> None:
    notices: list[str] = []
    first = check(random_model, on_notice=notices.append)
    assert notices[0] == "Trying random.gguf on this machine, once."
    notices.clear()
    assert check(random_model, on_notice=notices.append) == first
    assert notices == []


def test_a_changed_file_is_tried_again(random_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.gguf"
    path.write_bytes(random_model.read_bytes())
    notices: list[str] = []
    check(path, on_notice=notices.append)
    path.write_bytes(random_model.read_bytes() + b"\0" * 32)
    check(path, on_notice=notices.append)
    assert notices.count("Trying copy.gguf on this machine, once.") == 2


class Deaths:
    """Replaces the child by one that dies as told while it has more features than `alive_with`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, death: str, alive_with: Features | None) -> None:
        self.tried: list[Features] = []
        real = subprocess.Popen

        def popen(command: list[str], **options: object) -> subprocess.Popen[bytes]:
            return real([command[0], "-c", PRELUDE.format(death=death, alive=alive_with) + command[2]], **options)  # type: ignore[call-overload]

        monkeypatch.setattr(selftest.subprocess, "Popen", popen)


# Runs in the child in front of the real work; the child's own input says what is tried.
PRELUDE = """
import io, json, os, resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
request = sys.stdin.read()
sys.stdin = io.StringIO(request)
from r1local.engine.model import Features
tried = Features(**json.loads(request)["features"])
if tried != {alive}:
    {death}
"""

SEGV = "os.kill(os.getpid(), signal.SIGSEGV)"
ABORT = "sys.stderr.write('x.cpp:1: GGML_ASSERT(n_layer <= 512) failed\\n'); sys.stderr.flush(); os.abort()"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
HANG = "time.sleep(600)"
EXIT = "os._exit(3)"
GARBAGE = "print('{{nonsense'); sys.stdout.flush(); os._exit(0)"


@pytest.mark.parametrize(
    ("death", "said"),
    [(SEGV, "crashed (SIGSEGV)"), (ABORT, "crashed (SIGABRT, GGML_ASSERT(n_layer <= 512) failed)"),
     (EXIT, "ended with code 0x3"), (GARBAGE, "ended with code 0x0")],
    ids=["segv", "abort", "exit", "garbage"],
)  # fmt: skip
def test_features_are_taken_away_until_it_lives(
    random_model: Path, monkeypatch: pytest.MonkeyPatch, death: str, said: str
) -> None:
    survivor = Features(amx=False, extra_buffers=False)
    Deaths(monkeypatch, death, survivor)
    notices: list[str] = []
    verdict = check(random_model, on_notice=notices.append)
    assert verdict.features == survivor
    assert verdict.crashed == (f"all features: {said}", f"no AMX: {said}")
    assert any("trying with less" in notice for notice in notices)


def test_next_file_of_the_kind_starts_where_this_one_lived(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survivor = Features(amx=False, extra_buffers=False)
    Deaths(monkeypatch, SEGV, survivor)
    check(random_model)
    other = tmp_path / "other.gguf"
    other.write_bytes(random_model.read_bytes())
    notices: list[str] = []
    assert check(other, on_notice=notices.append).features == survivor
    assert notices == ["Trying other.gguf on this machine, once."]


def test_when_nothing_works(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Deaths(monkeypatch, SEGV, None)
    with pytest.raises(SelfTestFailed, match=r"cannot run random\.gguf here") as caught:
        check(random_model)
    assert caught.value.message.count("SIGSEGV") == len(verdicts.ladder())
    assert "pip install" in caught.value.hint


def test_a_file_that_crashes_what_runs_others(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(random_model)
    other = tmp_path / "evil.gguf"
    other.write_bytes(random_model.read_bytes())
    Deaths(monkeypatch, ABORT, None)
    with pytest.raises(ModelFileError, match=r"evil\.gguf makes the C library crash"):
        check(other)


def test_killed_by_the_system_is_want_of_memory(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Deaths(monkeypatch, KILL, None)
    with pytest.raises(OutOfMemory, match="killed by the system"):
        check(random_model)


def test_killed_from_outside(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real SIGKILL at a real child at work; nothing is left of it."""
    Deaths(monkeypatch, HANG, None)
    killed: list[int] = []

    def kill_child() -> None:
        while not killed:
            for process in psutil.Process().children():
                # A child that is ending, of whatever test, has no command line to look at any more.
                with suppress(psutil.Error):
                    if "selftest" in " ".join(process.cmdline()):
                        time.sleep(0.1)
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_child)
    killer.start()
    with pytest.raises(OutOfMemory):
        check(random_model, patience=60.0)
    killer.join()
    assert not psutil.pid_exists(killed[0])


def test_a_child_that_hangs_is_ended(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Deaths(monkeypatch, HANG, Features(amx=False))
    verdict = check(random_model, patience=2.0)
    assert verdict.crashed == ("all features: did not answer within 2 s",)
    assert not [child for child in psutil.Process().children() if "selftest" in " ".join(child.cmdline())]


def test_an_error_of_the_file_is_that_error(random_model: Path, tmp_path: Path) -> None:
    """The child's finding comes through as what it is, not as a crash."""
    data = random_model.read_bytes().replace(b"qwen2", b"qwenX")
    path = tmp_path / "unknown.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedModel, match="unknown model architecture: 'qwenX'"):
        check(path)


def test_missing_tensors_are_the_files_fault(random_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "renamed.gguf"
    path.write_bytes(random_model.read_bytes().replace(b"output_norm.weight", b"output_nerm.weight"))
    with pytest.raises(ModelFileError, match="output_norm"):
        check(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"kinds": 3}', b'{"kinds": {"x": {}}}', b"\xff\xfe"])
def test_a_broken_memory_is_as_good_as_none(random_model: Path, content: bytes) -> None:
    paths.selftest_file().parent.mkdir(parents=True)
    paths.selftest_file().write_bytes(content)
    assert check(random_model).features
    assert json.loads(paths.selftest_file().read_bytes())["kinds"]


def test_verdicts_of_other_builds_do_not_count(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(random_model)
    assert list(verdicts.verdicts()) == ["F32"]
    monkeypatch.setattr(verdicts, "processor_name", lambda: "another processor")
    assert verdicts.verdicts() == {}


def test_the_real_models_run_here(real_model: Path) -> None:
    """On a processor with AMX and a build by GCC 12 the first try dies; on others nothing does."""
    header: GgufHeader = read_header(real_model)
    verdict = selftest.check(header, n_threads=1)
    if verdict.crashed:
        assert verdict.features == Features(amx=False)
        assert verdict.crashed == ("all features: crashed (SIGSEGV)",)
    else:
        assert verdict.features == Features()


def test_spinning_is_limited_before_the_library_is_loaded(random_model: Path) -> None:
    """libgomp reads its environment when it is loaded, and reports it when asked to."""
    code = (
        "import sys; from pathlib import Path; from r1local.engine import open_engine, EngineOptions\n"
        f"open_engine(Path({str(random_model)!r}), EngineOptions(n_ctx=256)).close()"
    )
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    environment.pop("GOMP_SPINCOUNT", None)  # this process may have set it
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if "GOMP_SPINCOUNT" not in result.stderr:
        pytest.skip("this build does not use libgomp")
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in result.stderr

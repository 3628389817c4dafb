"""`r1local pull` as a person and as a script meet it, with a Hub on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from wcwidth import wcswidth

from r1local.catalog import load_catalog
from r1local.cli import pull as cli_pull
from r1local.cli.output import Output
from r1local.cli.pull import PullFlags
from r1local.errors import ExitCode, UsageError
from r1local.hardware import Hardware
from r1local.prepare.fit import MemoryVerdict, recommended
from tests.hub import Fault, Hub, digest
from tests.test_carry import tiny
from tests.test_terminal_chat import Screen

KNOWN = "unsloth/DeepSeek-R1-Distill-Qwen-1.5B-GGUF"
NAME = "DeepSeek-R1-Distill-Qwen-1.5B-Q8_0.gguf"
STRANGER = "stranger/Some-Model-GGUF"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound header and eight megabytes behind it."""
    path = tmp_path_factory.mktemp("large") / "x.gguf"
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_name("Large")
    writer.add_block_count(1)
    writer.add_tensor("a", np.random.default_rng(1).standard_normal(2_000_000).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def shared(large: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    small = tiny(tmp_path_factory.mktemp("small") / "x").read_bytes()
    with Hub() as hub:
        card = {"license": "mit"}
        hub.add(KNOWN, {NAME: large, "README.md": b"read me"}, card=card)
        hub.add(STRANGER, {"m-Q4_0.gguf": small, "m-Q8_0.gguf": small + b"\0"}, card=card, downloads=7)
        hub.add("unsl0th/m", {"m-Q4_0.gguf": small})
        hub.add("unsloth/gated", {"m-Q4_0.gguf": small}, gated=True)
        hub.add("unsloth/papers", {"README.md": b"read me"})
        hub.add("unsloth/broken", {"m-Q4_0.gguf": b"no model" * 200})
        yield hub


@pytest.fixture(autouse=True)
def hub(shared: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", shared.endpoint)
    shared.faults.clear()
    shared.log.clear()
    shared.rate = None
    return shared


def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "r1local", *arguments], text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


def end(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "made a mistake" not in err
    return out, err


def run(*arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
    return end(begin(*arguments, **environment), code)


def listed() -> list[str]:
    return [entry["name"] for entry in json.loads(run("list", "--json")[0]) if entry["origin"] != "package"]


def path_of(name: str) -> str:
    return str(json.loads(run("show", name, "--json")[0])["file"]["path"])


def cache(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "huggingface").rglob("*.gguf"))


# What a script sees


def test_a_name_of_the_catalog(hub: Hub, large: bytes) -> None:
    out, err = run("pull", "1.5b")
    assert out.count("\n") == 1
    path = Path(out.strip())
    assert (path.name, path.read_bytes()) == (NAME, large)
    assert "licence MIT" in err
    assert f"{len(large) / 1e6:.1f} MB" in err
    shown = re.search(r"r1local chat -m (\S+) ", err)
    assert shown
    assert listed() == [shown[1]]
    assert path_of(shown[1]) == str(path)
    hub.log.clear()
    again, err = run("pull", "1.5b")
    assert again == out
    assert "It was here already." in err
    assert hub.bytes_sent("cdn") == 0
    assert len(run("verify", shown[1])[0].splitlines()) == 3


def test_papers_come_with_it(hub: Hub) -> None:
    path = Path(run("pull", "1.5b")[0].strip())
    assert (path.parent / "README.md").read_bytes() == b"read me"


@pytest.mark.parametrize("name", [f"{STRANGER}:Q4_0", f"{STRANGER}/m-Q4_0.gguf", f"hf.co/{STRANGER}:q4_0"])
def test_a_repository(hub: Hub, name: str) -> None:
    out, err = run("pull", name, "--yes")
    assert Path(out.strip()).name == "m-Q4_0.gguf"
    assert f"-m {STRANGER}:q4_0 " in err
    assert listed() == [f"{STRANGER}:q4_0"]


def test_a_dry_run_fetches_nothing(hub: Hub, home: Path, large: bytes) -> None:
    out, err = run("pull", "1.5b", "--dry-run")
    assert out == f"{len(large)}\t{digest(large)}\t{NAME}\n"
    assert f"{len(large):,} bytes to fetch" in err
    plan = json.loads(run("pull", "1.5b", "--dry-run", "--json")[0].splitlines()[0])
    assert (plan["event"], plan["repository"], plan["quantization"]) == ("plan", KNOWN, "Q8_0")
    assert plan["size"] == plan["missing"] == len(large)
    assert plan["files"] == [{"name": NAME, "size": len(large), "sha256": digest(large)}]
    assert plan["disk_suffices"] is True
    assert hub.bytes_sent("cdn") == 0
    assert cache(home) == []
    run("pull", "1.5b")
    assert json.loads(run("pull", "1.5b", "--dry-run", "--json")[0].splitlines()[0])["missing"] == 0


def test_a_dry_run_ends_with_an_event(hub: Hub) -> None:
    assert json.loads(run("pull", "1.5b", "--dry-run", "--json")[0].splitlines()[-1])["event"] in ("done", "end")


def test_json_lines(hub: Hub, large: bytes) -> None:
    hub.rate = 4_000_000
    out, err = run("pull", "1.5b", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [event["event"] for event in events if event["event"] != "progress"] == ["plan", "done"]
    progress = [event for event in events if event["event"] == "progress" and event["doing"] == "Fetching"]
    assert [event["done"] for event in progress] == sorted(event["done"] for event in progress)
    assert {event["size"] for event in progress} == {len(large)}
    assert progress[-1]["done"] == len(large)
    assert len(progress) > 2
    assert Path(events[-1]["path"]).read_bytes() == large


def test_plain_lines_in_a_pipe(hub: Hub) -> None:
    hub.rate = 4_000_000
    _, err = run("pull", "1.5b")
    shares = [int(share) for share in re.findall(rf"^Fetching {re.escape(NAME)}: (\d+)%", err, re.MULTILINE)]
    assert shares == sorted(set(shares))
    assert all(share % 5 == 0 for share in shares)
    assert len(shares) > 3
    assert "\r" not in err
    assert "\x1b" not in err


# Whom one fetches from


def test_nobody_to_ask_about_a_stranger(hub: Hub, home: Path) -> None:
    _, err = run("pull", f"{STRANGER}:Q4_0", code=ExitCode.USAGE)
    assert "stranger is new here (7 downloads last month, licence mit)" in err
    assert "--yes" in err
    assert hub.bytes_sent("cdn") == 0
    assert cache(home) == []
    run("pull", f"{STRANGER}:Q4_0", "--yes")
    run("pull", f"{STRANGER}:Q4_0")
    run("pull", "unsloth/broken", code=ExitCode.BAD_FILE)


@pytest.mark.terminal
@pytest.mark.parametrize("answer", ["y", "n", "", "\x03"])
def test_a_stranger_is_asked_about(hub: Hub, home: Path, answer: str) -> None:
    screen = Screen(["pull", "unsl0th/m"], columns=140)
    screen.until("[y/N]")
    assert "not unsloth" in " ".join(screen.text.split())
    screen.type(answer if answer == "\x03" else f"{answer}\r")
    assert screen.wait() == (0 if answer == "y" else 130)
    assert cache(home) == (["m-Q4_0.gguf"] if answer == "y" else [])
    assert (hub.bytes_sent("cdn") > 0) == (answer == "y")


# What goes wrong


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("unsloth/gated",), ExitCode.ACCESS, "gated"),
    (("unsloth/no-such-repository",), ExitCode.NO_MODEL, "no repository"),
    (("unsloth/papers",), ExitCode.NO_MODEL, "no GGUF file"),
    (("1.5b:Q4_K_M",), ExitCode.NO_MODEL, "no Q4_K_M"),
    (("1.5b", "--revision", "v9"), ExitCode.NO_MODEL, "no revision 'v9'"),
    (("1.5b", "--revision", "../x"), ExitCode.USAGE, "no revision"),
    (("r1-qwen-1.6b",), ExitCode.NO_MODEL, "Did you mean"),
    ((f"{STRANGER}:Q3_K",), ExitCode.NO_MODEL, "Choose one"),
    (("../../etc/passwd",), ExitCode.USAGE, "no name of a repository"),
    (("openr1-7b",), ExitCode.NO_MODEL, "No ready GGUF file"),
    (("1.5b", "--endpoint", "ftp://x"), ExitCode.USAGE, "no address of a Hub"),
    (("unsloth/broken",), ExitCode.BAD_FILE, "not a GGUF file"),
])  # fmt: skip
def test_what_cannot_be_pulled(hub: Hub, arguments: tuple[str, ...], code: ExitCode, said: str) -> None:
    out, err = run("pull", *arguments, code=code)
    assert out == ""
    assert said in err
    assert err.splitlines()[-1].startswith("  "), "a hint"
    events = [json.loads(line) for line in run("pull", *arguments, "--json", code=code)[0].splitlines()]
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("error", code)
    assert said in events[-1]["message"] + events[-1]["hint"]


def test_without_a_name_the_best_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    big = Hardware("Linux", "x", 8, 8, 64 << 30, 60 << 30)
    monkeypatch.setattr(cli_pull, "best_for_this_machine", lambda catalog: recommended(catalog, big))
    with pytest.raises(UsageError, match="No model is named") as caught:
        cli_pull._best_here(PullFlags(""), Output())
    assert caught.value.hint == "Type: r1local pull 70b"
    assert cli_pull._best_here(PullFlags("", yes=True), Output()) == "70b"
    monkeypatch.setattr(cli_pull, "best_for_this_machine", lambda _: None)
    with pytest.raises(UsageError, match="No thinking model"):
        cli_pull._best_here(PullFlags(""), Output())


def test_what_is_offered_instead_can_be_typed(hub: Hub) -> None:
    _, err = run("pull", STRANGER, code=ExitCode.NO_MODEL)
    offered = re.findall(r"r1local pull (\S+)", err)
    assert len(offered) == 2
    for name in offered:
        run("pull", name, "--yes")


def test_no_way_to_the_hub() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    closed, plain = f"http://127.0.0.1:{port}", os.environ["HF_ENDPOINT"].replace("http:", "https:")
    cases = {
        "cannot be reached": begin("pull", "1.5b", HF_ENDPOINT=closed),
        "proxy": begin("pull", "1.5b", HTTP_PROXY=closed, NO_PROXY=""),
        "encryption": begin("pull", "1.5b", HF_ENDPOINT=plain),
        "name is not known here": begin("pull", "1.5b", HF_ENDPOINT="https://hub.invalid"),
    }
    for said, process in cases.items():
        _, err = end(process, ExitCode.DOWNLOAD)
        assert said in err
        assert err.splitlines()[-1].startswith("  "), "a hint"


def test_a_login_page_in_between(hub: Hub) -> None:
    hub.fault(Fault(kind="html", origin="hub", times=None))
    assert "login page" in run("pull", "1.5b", code=ExitCode.DOWNLOAD)[1]


def test_a_flipped_bit(hub: Hub, home: Path, large: bytes) -> None:
    hub.fault(Fault(kind="flip", origin="cdn", offset=5_000_000, times=None))
    _, err = run("pull", "1.5b", code=ExitCode.BAD_FILE)
    assert err.splitlines()[-1].startswith("  ")
    assert cache(home) == []
    assert listed() == []
    hub.faults.clear()
    assert Path(run("pull", "1.5b")[0].strip()).read_bytes() == large


def test_a_small_disk(hub: Hub, tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        _, err = run("pull", "1.5b", code=ExitCode.DISK, HF_HOME=str(tmp_path))
        assert "free in" in err
        assert hub.bytes_sent("cdn") == 0
        out, _ = run("pull", "1.5b", "--dry-run", "--json", code=ExitCode.DISK, HF_HOME=str(tmp_path))
        assert json.loads(out.splitlines()[0])["disk_suffices"] is False
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# Stopped, and going on


def test_stopped_and_going_on(hub: Hub, large: bytes) -> None:
    hub.rate = 2_500_000
    process = begin("pull", "1.5b")
    assert process.stderr
    for line in process.stderr:
        if re.search(r"[3-9]\d%", line):
            break
    process.send_signal(signal.SIGINT)
    out, err = end(process, ExitCode.INTERRUPTED)
    assert (out, "To go on from here: r1local pull 1.5b" in err) == ("", True)
    assert listed() == []
    time.sleep(0.3)
    hub.log.clear()
    hub.rate = None
    out, err = run("pull", "1.5b")
    assert re.search(r"Going on with \S+ at [2-9]\d%", err)
    assert hub.bytes_sent("cdn") < 0.8 * len(large)
    assert Path(out.strip()).read_bytes() == large


def test_what_goes_on_is_the_same_command(hub: Hub, large: bytes) -> None:
    hub.add(KNOWN, {NAME: large[:-1] + b"!"}, revision="v2")
    hub.rate = 2_500_000
    process = begin("pull", "1.5b", "--revision", "v2")
    assert process.stderr
    for line in process.stderr:
        if "%" in line:
            break
    process.send_signal(signal.SIGINT)
    assert "--revision v2" in end(process, ExitCode.INTERRUPTED)[1]


def test_after_a_change_upstream_the_name_means_the_new_file(hub: Hub, tmp_path: Path) -> None:
    for seed in (1, 2):
        hub.add("unsloth/changes", {"m-Q4_0.gguf": tiny(tmp_path / "x", seed=seed).read_bytes()})
        path, err = run("pull", "unsloth/changes")
        shown = re.search(r"chat -m (\S+) ", err)
        assert shown
        assert path_of(shown[1]) == path.strip()


# On a terminal


@pytest.mark.terminal
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_live_line(hub: Hub, columns: int) -> None:
    hub.rate = 5_000_000
    screen = Screen(["pull", "1.5b"], columns=columns)
    assert screen.wait() == 0
    drawn = [text.decode() for text in re.findall(rb"\r([^\r\n]*?)\x1b\[K", screen.raw)]
    live = [text for text in drawn if re.search(r"\d%", text)]
    assert len(live) > 4
    assert max(map(wcswidth, live)) < columns, "it would wrap"
    shares = [int(share) for text in live for share in re.findall(r"(\d+)%", text)]
    assert shares == sorted(shares)
    assert "%" not in screen.text, "nothing is left of it"
    assert "checksum right" in " ".join(screen.text.split())


# Without a network


def test_offline(hub: Hub) -> None:
    for variables, flags in (({"HF_HUB_OFFLINE": "1"}, ()), ({}, ("--offline",))):
        _, err = run("pull", "1.5b", *flags, code=ExitCode.DOWNLOAD, **variables)
        assert "switched off" in err
    assert hub.log == []
    path, _ = run("pull", "1.5b")
    hub.log.clear()
    for variables, flags in (({"HF_HUB_OFFLINE": "1"}, ()), ({}, ("--offline",))):
        assert run("pull", "1.5b", *flags, **variables)[0] == path
    assert hub.log == []


TRAP = """
import os, socket
real = socket.socket.__init__
def trap(self, family=-1, *rest, **named):
    if family in (-1, socket.AF_INET, socket.AF_INET6):
        open(os.environ["TRAP"], "a").write(" ".join(__import__("sys").argv) + chr(10))
        raise RuntimeError("a socket was opened")
    real(self, family, *rest, **named)
socket.socket.__init__ = trap
"""


def test_only_pull_opens_a_socket(hub: Hub, thinking_model: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(TRAP)
    trap = tmp_path / "sprung"
    environment: dict[str, Any] = {"PYTHONPATH": str(tmp_path), "TRAP": str(trap)}
    model = str(thinking_model)
    for arguments in (
        ("chat", "-m", model, "?"), ("list",), ("show", model), ("models",), ("doctor",), ("verify", model),
        ("import", model), ("export", "thinking", str(tmp_path / "stick")), ("rm", "thinking", "--yes"),
    ):  # fmt: skip
        run(*arguments, **environment)
        assert not trap.exists(), arguments
    run("chat", "-m", "1.5b", "?", code=ExitCode.NO_MODEL, **environment)
    assert not trap.exists()
    process = begin("pull", "1.5b", **environment)
    process.communicate(timeout=60)
    assert trap.exists(), "the trap works"


def test_without_the_hub_what_is_here_will_do(hub: Hub, large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run("pull", "1.5b")[0]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again, revision, other = begin("pull", "1.5b"), begin("pull", "1.5b", "--revision", "v2"), begin("pull", "7b")
    out, err = end(again, 0)
    assert out == path
    assert "It is here already" in err
    end(revision, ExitCode.DOWNLOAD)
    end(other, ExitCode.DOWNLOAD)


def test_what_a_killed_pull_leaves_can_be_seen_and_dropped(hub: Hub, large: bytes) -> None:
    hub.rate = 2_500_000
    process = begin("pull", "1.5b")
    assert process.stderr
    for line in process.stderr:
        if re.search(r"[3-9]\d%", line):
            break
    name = f"{KNOWN}/{NAME}"
    assert f"Unfinished: {name}, " in run("list")[1]
    assert "is being fetched" in run("list")[1]
    assert "right now" in run("rm", name, "--yes", code=ExitCode.USAGE)[1]
    process.kill()
    end(process, -signal.SIGKILL)
    said = run("list")[1]
    assert f"`r1local pull {name}` goes on" in said
    assert f"`r1local rm {name}` drops it" in said
    run("rm", name, code=ExitCode.USAGE)  # nobody to ask
    assert "MB freed" in run("rm", name, "--yes")[1]
    assert "Unfinished" not in run("list")[1]
    hub.rate = None
    out, err = run("pull", "1.5b")
    assert "Going on" not in err
    assert Path(out.strip()).read_bytes() == large


@pytest.mark.parametrize(
    ("word", "somebody", "answer", "asked", "goes_on"),
    [
        ("too large", True, True, 1, True),
        ("too large", True, False, 1, False),
        ("too large", False, False, 0, True),  # a script knows what it does
        ("tight", True, False, 0, True),
        ("fits", True, False, 0, True),
    ],
)
def test_what_cannot_run_here_is_asked_about(
    monkeypatch: pytest.MonkeyPatch, word: str, somebody: bool, answer: bool, asked: int, goes_on: bool
) -> None:
    questions: list[str] = []
    monkeypatch.setattr(Output, "can_ask", somebody)
    monkeypatch.setattr(Output, "ask", lambda _, question: (questions.append(question), answer)[1])
    repository: Any = SimpleNamespace(id=KNOWN)
    try:
        cli_pull.ask_about(repository, load_catalog(), Output(), PullFlags("7b"), MemoryVerdict(1, word, ""))
    except KeyboardInterrupt:
        assert not goes_on
    else:
        assert goes_on
    assert len(questions) == asked
    questions.clear()
    cli_pull.ask_about(repository, load_catalog(), Output(), PullFlags("7b", yes=True), MemoryVerdict(1, word, ""))
    assert questions == []

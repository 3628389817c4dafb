"""`r1local batch` as a script sees it. Real processes and the real model inside; kills and Ctrl-C included."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from r1local.errors import ExitCode
from tests.test_terminal_chat import Screen

pytestmark = pytest.mark.engine

MANY = 120
FEW = 50
GREEDY = ("-m", "inside", "--temperature", "0", "--threads", "1")
"""One thread: a busy machine makes two of them wait for one another."""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the model is known already."""
    return tmp_path_factory.mktemp("tried")


@pytest.fixture(autouse=True)
def here(home: Path, tried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that everything runs in."""
    monkeypatch.setenv("R1LOCAL_HOME", str(tried))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "r1local", "batch", *map(str, arguments)]


def run(*arguments: str | Path, stdin: bytes = b"", code: int = 0) -> tuple[str, str]:
    """Output and talk of a batch that ends with this code."""
    done = subprocess.run(command(*arguments), input=stdin, capture_output=True, timeout=100)
    talk = done.stderr.decode()
    assert done.returncode == code, talk
    assert "Traceback" not in talk
    return done.stdout.decode(), talk


def begin(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(count: int) -> list[dict[str, str]]:
    return [{"id": f"q{n}", "prompt": f"What is {137 * n % 899} + {71 * n % 613}?"} for n in range(count)]


def records(text: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (text.read_text() if isinstance(text, Path) else text).splitlines()]


def ids(found: Iterable[dict[str, Any]]) -> list[str]:
    return [record["id"] for record in found]


def journalled(out: Path) -> list[dict[str, Any]]:
    """Rows in the journal; the first line holds the settings."""
    try:
        lines = out.with_name(out.name + ".journal").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line[9:]) for line in lines[1:] if line.endswith(b"}\n")]


def until_journalled(process: subprocess.Popen[str], out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and len(journalled(out)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


# To a file


def test_to_a_file_and_again(here: Path) -> None:
    source, out = (
        write(here / "q.jsonl", *sums(5), {"prompt": "2 + 2?", "gold": "4", "max_tokens": 5}),
        here / "out.jsonl",
    )
    said, talk = run(source, "-o", out, *GREEDY)
    assert said == ""
    assert "6 of 6 rows are in" in talk
    found = records(out)
    assert ids(found) == ["q0", "q1", "q2", "q3", "q4", "5"]
    assert set(found[0]) == {
        "id", "think", "answer", "finish", "note", "thought_closed", "thought_end", "tokens", "seconds", "model",
        "settings",
    }  # fmt: skip
    assert "\\boxed{208}" in found[1]["answer"]
    assert (found[5]["finish"], found[5]["input"], found[5]["answer"]) == ("length", {"gold": "4"}, "")
    assert found[5]["tokens"]["think"] == 5
    assert len({record["settings"] for record in found}) == 2, "a row's own settings are told"

    before = out.read_bytes()
    out.unlink()
    _, talk = run(source, "-o", out, *GREEDY)
    assert "6 of 6 rows are answered already." in talk
    assert "tok/s" not in talk
    assert out.read_bytes() == before

    write(source, *sums(2), {"prompt": "3 + 4?"}, *sums(4)[2:])
    _, talk = run(source, "-o", out, *GREEDY, "--select", "answer,id")
    assert "4 of 5 rows are answered already." in talk
    assert [list(record) for record in records(out)] == [["answer", "id"]] * 5
    assert ids(records(out)) == ["q0", "q1", "2", "q2", "q3"]
    _, talk = run(source, "-o", out, *GREEDY, "--restart")
    assert "already" not in talk
    assert ids(records(out)) == ["q0", "q1", "2", "q2", "q3"]

    talk = run(source, "-o", out, "-m", "inside", "--temperature", "0.5", code=ExitCode.USAGE)[1]
    assert "temperature was 0.0 and is 0.5" in talk
    assert "--restart" in talk
    assert len(records(out)) == 5


def test_rows_that_are_broken(here: Path) -> None:
    """They are lines with errors, tried again when they are mended; the command succeeds."""
    source, out = here / "q.jsonl", here / "out.jsonl"
    source.write_text(
        '{"id": "a", "prompt": "1 + 1?"}\n{oh no\n{"id": "c", "prompt": "2 + 2?", "temperature": "warm"}\n'
    )
    _, talk = run(source, "-o", out, *GREEDY, "--select", "id,answer")
    assert "2 failed: see their errors" in talk
    first, second, third = records(out)
    assert set(first) == {"id", "answer"}
    assert "not JSON" in second["error"]["message"]
    assert "temperature must be a number" in third["error"]["message"]
    assert ids([first, second, third]) == ["a", "1", "c"]
    source.write_text('{"id": "a", "prompt": "1 + 1?"}\n{"id": "c", "prompt": "2 + 2?"}\n')
    _, talk = run(source, "-o", out, *GREEDY)
    assert "1 of 2 rows are answered already." in talk
    assert ["error" in record for record in records(out)] == [False, False]


def test_progress_as_json(here: Path) -> None:
    out = here / "out.jsonl"
    said, _ = run(write(here / "q.jsonl", *sums(3), 7), "-o", out, "--json", "--as-finished", *GREEDY)
    *rows, end = records(said)
    assert sorted(ids(rows)) == ["3", "q0", "q1", "q2"]
    assert [(row["event"], row["done"], row["of"]) for row in rows] == [("row", n, 4) for n in (1, 2, 3, 4)]
    assert [row["id"] for row in rows if row["failed"]] == ["3"]
    assert end == {"event": "end", "rows": 4, "of": 4, "output": str(out)}
    assert ids(records(out)) == ids(rows), "in the order they ended"


def test_a_table_with_a_template_from_a_file(here: Path) -> None:
    with (here / "q.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "a", "b"], ["x", "40", "2"], ["y", "1,\n", '"2"'], ["z"]])
    (here / "ask.txt").write_text("What is {a} + {b}?\n\n")
    said, _ = run("q.csv", "--template", "@ask.txt", "--select", "id,answer", *GREEDY)
    first, second, *_ = records(said)
    assert "\\boxed{42}" in first["answer"]
    assert (first["id"], second["id"]) == ("x", "y")


def test_votes(here: Path) -> None:
    said, _ = run("-", "--vote", "4", "--seed", "1", "-m", "inside", stdin=b"What is 12 + 30?\n\nWhat is 5 + 6?\n")
    for record, answer in zip(records(said), ("42", "11"), strict=True):
        vote = record["vote"]
        assert vote["winner"] == answer
        assert (vote["of"], vote["samples"] in (2, 3, 4)) == (4, True)
        assert sum(each["votes"] for each in vote["counts"]) <= vote["samples"]
        assert f"boxed{{{answer}}}" in record["answer"]
        assert vote["tokens"] >= sum(record["tokens"].values()) - record["tokens"]["prompt"]


# To a pipe


def test_from_a_pipe_to_a_pipe_in_order(here: Path) -> None:
    """A long row first: those behind it wait for it, or do not."""
    rows: list[object] = [
        {"id": "long", "prompt": "What is 98765 + 43219?"},
        {"id": "short", "prompt": "?", "max_tokens": 1},
    ]
    stdin = b"\xef\xbb\xbf\r\n" + b"".join(json.dumps(row).encode() + b"\r\n" for row in rows)
    said, talk = run("-", "--select", "id,finish", *GREEDY, stdin=stdin)
    assert said == '{"id": "long", "finish": "stop"}\n{"id": "short", "finish": "length"}\n'
    assert "2 rows in" in talk
    said, _ = run("-", "--select", "id", "--as-finished", *GREEDY, stdin=stdin)
    assert ids(records(said)) == ["short", "long"]
    assert list(here.iterdir()) == []


def test_a_pipe_that_is_closed_early(here: Path) -> None:
    """As by `head -1`."""
    with begin(write(here / "q.jsonl", *sums(MANY)), *GREEDY) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == "q0"
        process.stdout.close()
        assert process.wait(30) == ExitCode.BROKEN_PIPE
        assert process.stderr.read() == ""


# What cannot be


@pytest.mark.parametrize(("arguments", "said", "hint"), [
    (("empty.jsonl",), "There are no rows.", "prompt on each line"),
    (("-",), "There are no rows.", "prompt on each line"),
    (("nosuch.jsonl",), "nosuch.jsonl cannot be read: No such file or directory.", "another file"),
    ((".",), "cannot be read: Is a directory.", "another file"),
    (("q.csv", "--column", "question"), "q.csv has no column 'question'.", "prompt, gold"),
    (("q.jsonl", "--select", "anwser"), "There is no field 'anwser'.", "Did you mean answer?"),
    (("q.jsonl", "--select", "xyz"), "There is no field 'xyz'.", "Fields: id, think"),
    (("q.jsonl", "--format", "xml"), "There is no format 'xml'.", "jsonl, json, csv, lines"),
    (("q.jsonl", "-o", "no/out.jsonl"), "There is no folder", "Make it first"),
    (("q.jsonl", "-o", "folder"), "is a folder.", "Name a file in it"),
    (("q.jsonl", "-o", "pipe"), "is no ordinary file.", "another -o"),
    (("q.jsonl", "-o", "q.jsonl"), "is what is read.", "another -o"),
    (("q.jsonl", "-o", "link.jsonl"), "is what is read.", "another -o"),
    (("q.jsonl", "--restart"), "--restart needs -o.", "Without -o"),
    (("q.jsonl", "--json"), "--json is for progress beside -o.", "Leave it out"),
    (("q.jsonl", "--template", "@nosuch"), "nosuch cannot be read: No such file or directory.", "behind the @"),
    (("q.jsonl", "--template", "@latin"), "latin cannot be read: it is not UTF-8.", "behind the @"),
    (("q.jsonl", "--vote", "0"), "vote must be at least 1", ""),
    (("q.jsonl", "--temperature", "-1"), "temperature must be between", ""),
    (("q.jsonl", "--workers", "2"), "--address and --workers are for a cluster.", "--cluster ray"),
    (("q.jsonl", "-o", "taken.jsonl"), "taken.jsonl.journal is no journal of a batch", "--restart"),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else None)  # fmt: skip
def test_what_cannot_be_is_a_sentence(here: Path, arguments: tuple[str, ...], said: str, hint: str) -> None:
    write(here / "q.jsonl", *sums(1))
    (here / "q.csv").write_text("prompt,gold\na,b\n")
    (here / "empty.jsonl").write_text("\n  \n")
    (here / "latin").write_bytes(b"caf\xe9")
    (here / "taken.jsonl.journal").write_text("mine")
    (here / "folder").mkdir()
    (here / "link.jsonl").symlink_to("q.jsonl")
    os.mkfifo(here / "pipe")
    before = {path.name: path.lstat().st_ino for path in here.iterdir()}
    output, talk = run(*arguments, "-m", "inside", code=ExitCode.USAGE)
    assert output == ""
    error, *hints = talk.splitlines()
    assert error.startswith("Error: ")
    assert said in error
    assert hint in " ".join(hints)
    assert len(talk.splitlines()) <= 2
    after = {path.name: path.lstat().st_ino for path in here.iterdir() if not path.name.endswith(".lock")}
    assert after == before, "nothing was made, and nothing replaced"
    assert (here / "taken.jsonl.journal").read_text() == "mine"
    assert len(records(here / "q.jsonl")) == 1


# Killed and interrupted


@pytest.fixture(scope="module")
def undisturbed(tried: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What many rows say when nothing comes between."""
    folder = tmp_path_factory.mktemp("undisturbed")
    arguments = command(write(folder / "q.jsonl", *sums(MANY)), "-o", folder / "out.jsonl", *GREEDY)
    subprocess.run(
        arguments, check=True, capture_output=True, env={**os.environ, "R1LOCAL_HOME": str(tried)}, timeout=100
    )
    return records(folder / "out.jsonl")


def test_killed_again_and_again(here: Path, undisturbed: list[dict[str, Any]]) -> None:
    """No row is lost, none is there or done twice, and the answers are those of a batch that ran through."""
    source, out = write(here / "q.jsonl", *sums(MANY)), here / "out.jsonl"
    when = sorted(random.Random(time.time_ns()).sample(range(3, MANY - 15), 3))
    for count in when:
        with begin(source, "-o", out, *GREEDY, "--parallel", "4") as process:
            until_journalled(process, out, count)
            process.kill()
        assert process.returncode == -signal.SIGKILL, when
    kept = len(journalled(out))
    assert when[-1] <= kept < MANY
    _, talk = run(source, "-o", out, *GREEDY, "--parallel", "4")
    assert f"{kept} of {MANY} rows are answered already." in talk
    found = records(out)
    assert ids(found) == ids(undisturbed) == [f"q{n}" for n in range(MANY)]
    assert set(Counter(record["key"] for record in journalled(out)).values()) == {1}, when
    # Which rows run beside one another decides about the last bits of a logit, and so about near ties.
    other = sum(
        (mine["think"], mine["answer"]) != (theirs["think"], theirs["answer"])
        for mine, theirs in zip(found, undisturbed, strict=True)
    )
    assert other <= MANY // 10, f"{other} texts differ"
    assert not any("error" in record for record in found)


def test_interrupted_and_completed(here: Path) -> None:
    """What has begun comes to its end, and is in the output; the same command does the rest."""
    source, out = write(here / "q.jsonl", *sums(FEW)), here / "out.jsonl"
    with begin(source, "-o", out, *GREEDY, "--parallel", "2") as process:
        until_journalled(process, out, 5)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED, talk
    assert "Finishing what has begun" in talk
    assert "Traceback" not in talk
    found = records(out)
    assert 5 <= len(found) < FEW
    assert f"{len(found)} of {FEW} rows are in" in talk
    assert len(journalled(out)) == len(found)
    assert {record["finish"] for record in found} == {"stop"}
    assert ids(found) == sorted(ids(found), key=lambda name: int(name[1:]))
    _, talk = run(source, "-o", out, *GREEDY, "--parallel", "2")
    assert f"{len(found)} of {FEW} rows are answered already." in talk
    assert ids(records(out)) == [f"q{n}" for n in range(FEW)]


def test_interrupted_twice(here: Path, endless_model: Path) -> None:
    out = here / "out.jsonl"
    source = write(here / "q.jsonl", {"id": "short", "prompt": "?", "max_tokens": 2}, *sums(6))
    with begin(source, "-o", out, "-m", endless_model, "--ctx", "65536", "--parallel", "2") as process:
        assert process.stderr is not None
        until_journalled(process, out, 1)
        process.send_signal(signal.SIGINT)
        while "Finishing what has begun" not in (line := process.stderr.readline()):
            assert line
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == ExitCode.INTERRUPTED
        assert time.monotonic() - began < 5
        assert "Traceback" not in process.stderr.read()
    assert ids(records(out)) == ["short"]


@pytest.mark.terminal
def test_the_live_line_on_a_narrow_terminal(here: Path) -> None:
    """How many are done, how many are thinking and how long it may take, cut to the one line there is."""
    source = write(here / "q.jsonl", *sums(FEW))
    columns = 40
    screen = Screen(["batch", str(source), "-o", "out.jsonl", *GREEDY, "--parallel", "2"], columns=columns, rows=12)
    try:
        live = ""
        while screen.process.isalive() and not re.search(r"[1-9]\d* of 50 rows · \d at once", live):
            screen.pump()
            live = next((line for line in screen.text.splitlines() if f"of {FEW} rows ·" in line), "")
        assert live.endswith("…")
        assert "rows" not in screen.text.replace(live, ""), "it did not wrap"
        assert screen.wait() == 0
    finally:
        screen.process.close(force=True)
    drawn = re.findall(rb"\r([^\r\n\x1b]+)\x1b\[K", screen.raw)
    assert len(drawn) > 3
    assert max(len(line.decode()) for line in drawn) < columns
    last = [line for line in screen.text.splitlines() if line.strip()]
    assert not any("at once" in line for line in last), "the live line is gone at the end"
    assert f"{FEW} of {FEW} rows are in" in "".join(last)

"""`r1local eval` as somebody runs it: real problems, the model inside, a report that can be trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from r1local.catalog import load_catalog
from r1local.store import find

Ran = subprocess.CompletedProcess[str]


def r1local(folder: Path, *words: str, **environment: str) -> Ran:
    return subprocess.run(
        [sys.executable, "-m", "r1local", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def report(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """One evaluation that others look at: 8 problems, 2 replies each."""
    folder = tmp_path_factory.mktemp("eval")
    ran = r1local(folder, "eval", "arith", "-m", "inside", "--limit", "8", "--samples", "2", "-o", "out")
    return folder, ran


def test_a_report_in_three_forms(first: tuple[Path, Ran]) -> None:
    folder, ran = first
    assert ran.returncode == 0, ran.stderr
    said = report(folder / "out")
    (model,) = said["models"]
    assert (said["data"]["asked"], said["protocol"]["samples"]) == (8, 2)
    assert model["name"] == "inside:q8_0"
    assert ran.stdout == (folder / "out" / "report.md").read_text()
    assert (folder / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "licence" in ran.stderr


def test_the_same_command_again_asks_nothing(first: tuple[Path, Ran]) -> None:
    folder, before = first
    journal = (folder / "out" / "inside-q8_0.journal").read_bytes()
    ran = r1local(folder, "eval", "arith", "-m", "inside", "--limit", "8", "--samples", "2", "-o", "out")
    assert "16 of 16 replies are there already" in ran.stderr
    assert (folder / "out" / "inside-q8_0.journal").read_bytes() == journal
    assert ran.stdout == before.stdout


def test_the_share_of_right_replies_is_what_the_journal_says(first: tuple[Path, Ran]) -> None:
    """Sums and differences counted anew: the number in the box beside what the id says was asked."""
    folder, _ = first
    lines = (folder / "out" / "inside-q8_0.journal").read_text().splitlines()[1:]
    records = [json.loads(line[9:]) for line in lines]
    assert len({record["id"] for record in records}) == 16
    right: Counter[str] = Counter()
    for record in records:
        kind, problem = record["id"].split("#")[0].split(":", 1)
        given = int(record["answer"].split("\\boxed{")[1].split("}")[0])
        if kind.endswith("sums"):
            right[kind] += given == sum(map(int, problem.split("+")))
        elif kind.endswith("differences"):
            first_number, second_number = problem.split("-")
            right[kind] += given == int(first_number) - int(second_number)
    topics = report(folder / "out")["models"][0]["topics"]
    assert right
    for kind, count in right.items():
        assert topics[kind]["pass1"]["value"] * topics[kind]["problems"] * 2 == pytest.approx(count)


def test_two_models_side_by_side(tmp_path: Path) -> None:
    """A copy of the model inside is another model, and no worse."""
    copy = tmp_path / "copy.gguf"
    shutil.copy(find(load_catalog(), "inside").path, copy)
    ran = r1local(
        tmp_path, "eval", "arith", "-m", "inside", "-m", str(copy), "--limit", "4", "--samples", "2", "-o", "both",
        "--json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    first, second = said["models"]
    assert first["name"] == "inside:q8_0"
    assert second["pass1"]["low"] <= first["pass1"]["value"] <= second["pass1"]["high"]
    assert len(said["comparisons"]) == 1
    assert said["comparisons"][0]["shown"] is False


def test_problems_of_my_own(tmp_path: Path) -> None:
    problems = [
        {"problem": "What is 47 + 85?", "answer": "132", "id": "one"},
        {"problem": "What is 20 + 30?", "answer": "51", "id": "two"},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    ran = r1local(tmp_path, "eval", "mine.jsonl", "-m", "inside", "--samples", "1", "--temperature", "0")
    assert ran.returncode == 0, ran.stderr
    (model,) = report(tmp_path / "eval-mine")["models"]
    assert model["pass1"]["value"] == 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["arit"], "arith"),
        (["nowhere.jsonl"], "no file"),
        (["arith", "--samples", "0"], "--samples"),
        (["arith", "--limit", "0"], "limit"),
        (["arith", "-m", "inside", "-m", "inside"], "twice"),
        (["arith", "-m", "inside", "-o", "taken"], "is a file"),
        (["arith", "-m", "inside", "--cluster", "slurm"], "ray"),
        (["arith", "-m", "inside", "--workers", "2"], "--cluster"),
    ],
)
def test_wrong_words_get_a_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "taken").write_text("")
    ran = r1local(tmp_path, "eval", *words)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.splitlines()) <= 3


def test_a_data_set_that_is_not_here_and_no_network(tmp_path: Path) -> None:
    ran = r1local(tmp_path, "eval", "math500", "-m", "inside", "--offline", HF_HOME=str(tmp_path / "hf"))
    assert ran.returncode == 7
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("Error: ")

"""A report has the numbers, where they are from and how they were made, and no text of any problem."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.catalog import load_catalog
from r1local.scores import plot
from r1local.scores.grading import Graded
from r1local.scores.markdown import table, text
from r1local.scores.plot import draw_plot, terminal_plot
from r1local.scores.problems import Origin, Problem, ProblemSet
from r1local.scores.report import MOST_WORST, Published, Report, make_report, published_scores
from r1local.scores.tables import LibraryWanted
from r1local.scores.tasks import Protocol, find_task
from tests.test_scores_statistics import replies, same

TASK = find_task("gpqa-diamond")
PROTOCOL = Protocol(0.6, 0.95, 4000, 4)
SAID = {
    "r1-qwen-7b Q8_0": {"rec1": "RRRR", "rec2": "RRRW", "rec3": "RWWW"},
    "r1-qwen-7b Q4_K_M": {"rec1": "RRRR", "rec2": "RWWW", "rec3": "WWWW"},
}


def asked(ids: list[str], topics: list[str] | None = None) -> ProblemSet:
    topics = topics or ["Physics", "Biology"] * len(ids)
    problems = tuple(Problem(name, "a secret question", "C", topics[at], "letter") for at, name in enumerate(ids))
    origin = Origin("Idavidrein/gpqa", "https://hub.example/datasets/Idavidrein/gpqa", "a" * 40, "CC-BY-4.0", 198)
    return ProblemSet(TASK, problems, origin)


def graded(said: dict[str, str]) -> list[Graded]:
    topics = {"rec1": "Physics", "rec2": "Biology", "rec3": "Physics"}
    return [
        it
        for name, letters in said.items()
        for it in replies(name, letters, topic=topics.get(name, ""), think_tokens=300, answer_tokens=100, seconds=20.0)
    ]


@pytest.fixture
def report() -> Report:
    model, _ = load_catalog().resolve("7b")
    return make_report(
        asked(["rec1", "rec2", "rec3"]),
        {name: graded(said) for name, said in SAID.items()},
        same,
        protocol=PROTOCOL,
        published={name: published_scores(TASK, model) for name in SAID},
    )


def test_the_markdown_has_what_a_reader_needs(report: Report) -> None:
    said = report.to_markdown()
    # 8 of 12 and 5 of 12 right.
    assert "| r1-qwen-7b Q8_0 | 66.7 | " in said
    assert "| r1-qwen-7b Q4_K_M | 41.7 | " in said
    assert said.count("| 49.1 (1) | 3 | 12 |") == 2
    assert "Published: (1) https://github.com/deepseek-ai/DeepSeek-R1#distilled-model-evaluation" in said
    assert "3 of 198, from [Idavidrein/gpqa](https://hub.example/datasets/Idavidrein/gpqa) at aaaaaaaaaaaa" in said
    assert "licence: CC-BY-4.0" in said
    assert "Asked 4 times each, at temperature 0.6 and top_p 0.95, with up to 4,000 tokens" in said
    assert "- r1-qwen-7b Q4_K_M is 25.0 points below r1-qwen-7b Q8_0, 95 % interval" in said
    assert "no difference shown (3 problems, 12 replies)" in said
    assert "ask not to publish" in said
    assert "arXiv 2411.00640" in said


def test_topics_votes_tokens_and_the_hardest_are_there(report: Report) -> None:
    said = report.to_markdown()
    # Physics: 5 of 8 and 4 of 8 right; Biology: 3 of 4 and 1 of 4.
    assert "| Physics | 2 | 62.5 (" in said
    assert "| Biology | 1 | 75.0 (0.0 to 100.0) | 25.0 (0.0 to 100.0) |" in said
    # Majorities of four: rec1, rec2 of the first, rec1 of the second.
    assert "| r1-qwen-7b Q8_0 | 4 | 66.7 |" in said
    assert "| r1-qwen-7b Q4_K_M | 4 | 33.3 |" in said
    assert "| 400 | 400 | 300 | 400 | 400 | 4,800 | 20 s | 20.0 |" in said
    hardest = said[said.index("## Hardest") :]
    assert hardest.index("rec3") < hardest.index("rec2")
    assert "rec1" not in hardest


def test_every_table_is_whole(report: Report) -> None:
    lines = report.to_markdown().splitlines()
    tables = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    widths = [{line.count(" |") for line in part.strip().splitlines()} for part in tables if part.strip()]
    assert len(widths) == 6
    assert all(len(found) == 1 for found in widths)


def test_the_json_says_the_same(report: Report) -> None:
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["schema"] == 1
    assert found["task"]["id"] == "gpqa-diamond"
    assert found["data"]["revision"] == "a" * 40
    assert (found["data"]["asked"], found["data"]["whole"]) == (3, 198)
    assert found["protocol"] == {"temperature": 0.6, "top_p": 0.95, "max_tokens": 4000, "samples": 4}
    first = found["models"][0]
    assert first["name"] == "r1-qwen-7b Q8_0"
    assert first["pass1"]["value"] == pytest.approx(8 / 12)
    assert first["consensus"]["4"]["value"] == pytest.approx(2 / 3)
    assert first["shares"] == {"rec1": 1, "rec2": 0.75, "rec3": 0.25}
    assert first["published"][0] == {
        "measure": "pass1", "share": pytest.approx(0.491), "source": load_catalog().resolve("7b")[0].scores_source
    }  # fmt: skip
    assert first["topics"]["Physics"]["problems"] == 2
    assert found["comparisons"][0]["difference"]["value"] == pytest.approx(-0.25)
    assert found["comparisons"][0]["shown"] is False
    assert [hard["id"] for hard in found["worst"]] == ["rec3", "rec2"]


def test_no_text_of_a_problem_and_no_reply_is_in_a_report(report: Report) -> None:
    everything = report.to_markdown() + json.dumps(report.to_json()) + terminal_plot(report)
    assert "secret" not in everything
    assert "question" not in everything.replace("publish its questions", "")


def test_an_unfinished_run_and_failures_are_said() -> None:
    failed = Graded("rec2", 0, False, closed=False, error="no memory")
    report = make_report(asked(["rec1", "rec2"]), {"A": [*replies("rec1", "RR"), failed]}, same, protocol=PROTOCOL)
    said = report.to_markdown()
    assert "- Not finished: A has 3 of 8 replies" in said
    assert "- Failed: 1 replies of A, which count as wrong" in said


def test_replies_to_other_problems_and_models_without_any_are_left_out() -> None:
    report = make_report(asked(["rec1"]), {"A": [*replies("rec1", "R"), *replies("old", "W")], "B": []}, same)
    assert [result.name for result in report.results] == ["A"]
    assert report.results[0].measures.pass1.value == 1
    assert report.protocol == TASK.protocol
    empty = make_report(asked(["rec1"]), {}, same)
    assert empty.results == ()
    assert "# GPQA Diamond" in empty.to_markdown()
    json.dumps(empty.to_json())
    assert terminal_plot(empty)


def test_a_vote_of_64_is_laid_beside_the_published_one() -> None:
    task = find_task("aime24")
    problems = tuple(Problem(str(number), "?", "7", "", "integer") for number in range(2))
    published = [Published("cons64", 0.833, "the makers"), Published("pass1", 0.555, "others")]
    said = make_report(
        ProblemSet(task, problems, Origin("x")),
        {"A": [*replies("0", "RW" * 32), *replies("1", "WR" * 32)]}, same, published={"A": published},
    ).to_markdown()  # fmt: skip
    assert "| A | 64 | 50.0 |" in said
    assert "| 83.3 (1) | 100.0 |" in said
    assert "Published: (1) the makers" in said


def test_only_the_hardest_are_listed() -> None:
    ids = [f"rec{number:03}" for number in range(60)]
    report = make_report(asked(ids), {"A": [it for name in ids for it in replies(name, "RW")]}, same)
    assert len(report.worst) == MOST_WORST


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_no_name_breaks_a_table_or_a_terminal(name: str, topic: str) -> None:
    problems = asked(["rec1", "rec2"], [topic, "other"])
    ours = [*replies("rec1", "RW", topic=topic), *replies("rec2", "WW", topic="other")]
    report = make_report(problems, {name: ours}, same)
    said = report.to_markdown()
    head, row = (line for line in said.splitlines() if line.startswith("| Model | pass@1") or " | 25.0 | " in line)
    assert head.count(" | ") == row.replace("\\|", "").count(" | ") - text(name).replace("\\|", "").count(" | ")
    assert not any(ord(letter) < 32 and letter != "\n" for letter in said + terminal_plot(report))


def test_signs_of_markdown_are_text() -> None:
    assert text("a|b `c` [d](e) <script> *f*") == "a\\|b \\`c\\` \\[d\\](e) \\<script\\> \\*f\\*"
    assert table(("A", "B"), [("x", "1")]) == ["| A | B |", "| --- | ---: |", "| x | 1 |"]


def many(count: int) -> Report:
    random = Random(1)
    ids = [f"rec{number}" for number in range(10)]
    ours = {
        f"model {number}": [it for name in ids for it in replies(name, "".join(random.choices("RW", k=4)),
                            think_tokens=random.randrange(9000))]
        for number in range(count)
    }  # fmt: skip
    return make_report(asked(ids), ours, same, protocol=PROTOCOL)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_a_picture_is_a_png_of_a_fair_size(tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "plot.png"
    draw_plot(many(count), target)
    data = target.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width == 1320
    assert 250 <= height <= 1000


def test_odd_names_do_no_harm_to_a_picture(tmp_path: Path, report: Report) -> None:
    pytest.importorskip("matplotlib")
    names = ["日本語のモデル", "$\\frac{", "_hidden", "x" * 300]
    ours = {name: replies("rec1", "RW") for name in names}
    draw_plot(make_report(asked(["rec1"]), ours, same), tmp_path / "a.png")
    draw_plot(report, tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_without_matplotlib_it_is_said_what_to_install(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "can_plot", lambda: False)
    with pytest.raises(LibraryWanted) as caught:
        draw_plot(report, Path("never.png"))
    assert "pip install 'r1local[eval]'" in caught.value.hint


@pytest.mark.parametrize("columns", [20, 40, 41, 60, 80, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_bars_keep_to_the_width(report: Report, columns: int, ascii_only: bool) -> None:
    from wcwidth import wcswidth

    drawn = terminal_plot(report, columns, ascii_only=ascii_only)
    assert max(wcswidth(line) for line in drawn.splitlines()) <= columns
    assert not ascii_only or drawn.isascii()
    assert columns < 40 or "66.7 % (" in drawn
    assert columns < 40 or "published 49.1" in drawn
    assert columns < 40 or "400 tokens" in drawn


@pytest.mark.parametrize(("ascii_only", "full", "empty"), [(False, "█", "·"), (True, "#", ".")])
def test_a_bar_is_as_long_as_its_share(ascii_only: bool, full: str, empty: str) -> None:
    half = make_report(asked(["rec1", "rec2"]), {"A": [*replies("rec1", "RR"), *replies("rec2", "WW")]}, same)
    bars = [line for line in terminal_plot(half, 100, ascii_only=ascii_only).splitlines() if full in line]
    assert bars[0].startswith(full * 20 + empty * 20 + "  ")


def test_wide_letters_count_twice() -> None:
    report = make_report(asked(["rec1"]), {"日本語のモデルの長い名前がここにある": replies("rec1", "R")}, same)
    from wcwidth import wcswidth

    assert all(wcswidth(line) <= 24 for line in terminal_plot(report, 24).splitlines())
    assert terminal_plot(report, 24, ascii_only=True).isascii()

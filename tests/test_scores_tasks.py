"""What can be asked: every task of tasks.toml is whole, and names lead to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.catalog import load_catalog
from r1local.errors import UsageError
from r1local.names import is_repo
from r1local.scores.report import published_scores
from r1local.scores.tasks import file_task, find_task, load_tasks

TASKS = {task.id: task for task in load_tasks()}


def test_the_tasks_are_those_that_are_promised() -> None:
    assert list(TASKS) == ["aime24", "aime25", "math500", "gpqa-diamond", "arith"]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.id)
def test_a_task_says_all_that_is_needed(task: object) -> None:
    task = TASKS[task.id]  # type: ignore[attr-defined]
    assert task.problems > 0
    assert task.title
    assert all(is_repo(source.repo) and source.files and source.licence for source in task.sources)
    assert task.licence or task.sources
    assert 0 <= task.protocol.temperature <= 2
    assert task.protocol.samples >= 1
    assert "{problem}" in task.prompt
    assert "\\boxed{}" in task.prompt
    assert (task.kind == "letter") == bool(task.wrong)
    assert len(task.wrong) in (0, 3)


def test_the_protocol_is_that_of_the_published_scores() -> None:
    protocol = TASKS["aime24"].protocol
    assert (protocol.temperature, protocol.top_p, protocol.max_tokens) == (0.6, 0.95, 32_768)


def test_every_published_score_is_one_of_the_catalog() -> None:
    known = {name for model in load_catalog().models for name in model.scores}
    assert {score for task in TASKS.values() for score in task.published.values()} <= known


def test_published_scores_of_a_model_are_shares_with_their_source() -> None:
    model, _ = load_catalog().resolve("7b")
    found = {score.measure: score for score in published_scores(TASKS["aime24"], model)}
    assert found["pass1"].share == pytest.approx(0.555)
    assert found["cons64"].share == pytest.approx(0.833)
    assert "deepseek-ai/DeepSeek-R1" in found["pass1"].source
    assert published_scores(TASKS["aime25"], model) == ()


@pytest.mark.parametrize("name", ["aime24", "AIME24", " aime-24 ", "AIME 24", "math-500", "gpqa_diamond"])
def test_a_name_is_found_however_it_is_written(name: str) -> None:
    assert find_task(name).id in TASKS


def test_a_wrong_name_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError) as caught:
        find_task("gpqa diamant")
    assert "Did you mean gpqa-diamond?" in caught.value.hint
    with pytest.raises(UsageError):
        find_task("")


def test_a_file_is_a_task_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "1+1", "answer": "2"}')
    task = find_task(str(path))
    assert (task.id, task.kind, task.path) == ("mine", "maths", path)
    with pytest.raises(UsageError, match="no file"):
        file_task(tmp_path / "other.jsonl")


@given(problem=st.text(), choice=st.sampled_from(["{problem}", "{A}", "\\boxed{}", "{}", "{0}", "%s"]))
def test_a_prompt_has_the_problem_as_it_is(problem: str, choice: str) -> None:
    values = {"problem": problem, "A": choice, "B": "{C}", "C": "third", "D": problem}
    prompt = TASKS["gpqa-diamond"].ask(values)
    assert prompt.startswith(f"{problem}\n\nA) {choice}\nB) {{C}}\nC) third\nD) {problem}\n\n")
    maths = TASKS["aime24"].ask({"problem": problem})
    assert maths == problem + "\nPlease reason step by step, and put your final answer within \\boxed{}."

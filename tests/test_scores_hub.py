"""Data sets come from the Hub once, by the real client against a Hub of one's own, and from the cache afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from r1local.errors import AccessDenied, DownloadError, NotOffered, Offline, R1Error
from r1local.hf_cache import cache_folder
from r1local.scores import hub_sets, tables
from r1local.scores.hub_sets import Access, pick
from r1local.scores.problems import load_problem_set, load_problems
from r1local.scores.tables import LibraryWanted
from r1local.scores.tasks import Source, find_task
from tests.datasets import DatasetHub, jsonl, parquet
from tests.hub import Fault
from tests.pulling import online

AIME24, AIME25, MATH, GPQA = (find_task(name) for name in ("aime24", "aime25", "math500", "gpqa-diamond"))
MATH_REPO, GPQA_REPO = MATH.sources[0].repo, GPQA.sources[0].repo


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network_settings: None) -> Iterator[DatasetHub]:
    (tmp_path / "cache").mkdir()
    online(tmp_path / "cache", monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with DatasetHub() as hub:
        yield hub


def maths(count: int) -> list[dict[str, Any]]:
    return [
        {"problem": f"Problem {number}?", "answer": f"\\frac{{{number}}}{{7}}", "subject": "Algebra", "level": 3,
         "unique_id": f"test/algebra/{number}.json", "solution": "long"}
        for number in range(count)
    ]  # fmt: skip


def aime(count: int) -> list[dict[str, Any]]:
    return [{"id": 60 + number, "problem": f"Problem {number}?", "answer": f"{number:03}"} for number in range(count)]


def gpqa() -> bytes:
    head = (
        "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain"
    )
    return "\n".join([head, *(f"rec{n},Question {n}?,right {n},a,b,c,Physics" for n in range(198))]).encode()


def asked(hub: DatasetHub) -> int:
    return len(hub.log)


def test_a_set_is_fetched_once_and_then_needs_no_network(hub: DatasetHub) -> None:
    commit = hub.add(MATH_REPO, {"README.md": b"# MATH", "test.jsonl": jsonl(maths(500))})
    heard: list[tuple[str, int, int]] = []
    found = load_problem_set(MATH, Access(hub.endpoint), on_progress=lambda *said: heard.append(said))
    assert len(found.problems) == 500
    assert found.problems[3].id == "test/algebra/3.json"
    assert (found.problems[3].gold, found.problems[3].topic) == ("\\frac{3}{7}", "Algebra")
    assert found.origin.revision == commit
    assert found.origin.address == f"{hub.endpoint}/datasets/{MATH_REPO}"
    assert heard == [(MATH_REPO, 0, 1), (MATH_REPO, 1, 1)]
    before = asked(hub)
    again = load_problem_set(MATH, Access(hub.endpoint))
    offline = load_problem_set(MATH, Access(hub.endpoint, offline=True))
    assert again == offline == found
    assert asked(hub) == before


def test_only_the_files_with_problems_are_fetched(hub: DatasetHub) -> None:
    others = {"README.md": b"#", "train.jsonl": jsonl(maths(3)), "pictures/a.png": b"x" * 5000, "loader.py": b"evil()"}
    hub.add(MATH_REPO, {**others, "test.jsonl": jsonl(maths(500))})
    assert len(load_problems(MATH, endpoint=hub.endpoint)) == 500
    assert {path.name for path in cache_folder().rglob("*") if "snapshots" in path.parts and path.is_symlink()} == {
        "test.jsonl"
    }


def test_a_set_in_several_files_is_whole_or_fetched_again(hub: DatasetHub) -> None:
    rows = [{"question": f"Q{number}?", "answer": number} for number in range(30)]
    source = AIME25.sources[1]
    hub.add(source.repo, {"aime2025-I.jsonl": jsonl(rows[:15]), "aime2025-II.jsonl": jsonl(rows[15:])})
    fault = hub.fault(Fault(kind="status", path="aime2025-II", status=403, times=None))
    with pytest.raises(AccessDenied):
        load_problems(AIME25, endpoint=hub.endpoint)
    with pytest.raises(Offline):
        load_problems(AIME25, endpoint=hub.endpoint, offline=True)
    hub.faults.remove(fault)
    found = load_problems(AIME25, endpoint=hub.endpoint)
    assert [it.gold for it in found] == [str(number) for number in range(30)]
    assert [it.id for it in found] == [str(number) for number in range(1, 31)]


def test_a_parquet_set_is_read_and_laid_out_anew_is_found_too(hub: DatasetHub) -> None:
    pytest.importorskip("pyarrow")
    hub.add(AIME24.sources[0].repo, {"new/place/train-7.parquet": parquet(aime(30)), "new/test-0.parquet": b"no"})
    found = load_problems(AIME24, endpoint=hub.endpoint)
    assert [it.gold for it in found] == [str(number) for number in range(30)]
    assert found[0].id == "60"


def test_the_next_source_is_taken_when_the_first_is_gone_or_odd(hub: DatasetHub) -> None:
    first, second, _ = AIME25.sources
    hub.add(second.repo, {"aime2025-I.jsonl": jsonl(aime(30))})
    assert load_problem_set(AIME25, Access(hub.endpoint)).origin.name == second.repo
    hub.add(first.repo, {"test.jsonl": jsonl([{"question": "no answers any more"}])})
    assert len(load_problems(AIME25, endpoint=hub.endpoint)) == 30


def test_of_a_set_that_only_changed_its_columns_the_broken_lines_are_named(hub: DatasetHub) -> None:
    hub.add(MATH_REPO, {"test.jsonl": jsonl([{"frage": "?", "antwort": "1"}])})
    with pytest.raises(R1Error, match=r"line 1 \(no problem\)"):
        load_problems(MATH, endpoint=hub.endpoint)


def test_a_gated_set_says_what_to_do(hub: DatasetHub) -> None:
    hub.add(GPQA_REPO, {"gpqa_diamond.csv": gpqa(), "gpqa_main.csv": b"x"}, gated=True)
    with pytest.raises(AccessDenied) as caught:
        load_problems(GPQA, endpoint=hub.endpoint)
    page = f"{hub.endpoint}/datasets/{GPQA_REPO}"
    assert caught.value.hint == f"Visit {page}, accept them, then `hf auth login` or set HF_TOKEN, and try again."
    hub.accept_token("hf_outside")
    with pytest.raises(AccessDenied) as caught:
        load_problems(GPQA, endpoint=hub.endpoint, token="hf_outside")
    assert "hf auth login" not in caught.value.hint
    hub.accept_token("hf_inside", [GPQA_REPO])
    found = load_problems(GPQA, endpoint=hub.endpoint, token="hf_inside")
    assert len(found) == 198
    assert f"{found[5].gold}) right 5\n" in found[5].prompt


def test_a_wrong_token_is_said_to_be_wrong(hub: DatasetHub) -> None:
    hub.add(MATH_REPO, {"test.jsonl": jsonl(maths(500))})
    with pytest.raises(R1Error) as caught:
        load_problems(MATH, endpoint=hub.endpoint, token="hf_wrong")
    assert "auth login" in caught.value.hint or "HF_TOKEN" in caught.value.hint


def test_a_missing_set_is_not_offered(hub: DatasetHub) -> None:
    with pytest.raises(NotOffered, match=MATH_REPO):
        load_problems(MATH, endpoint=hub.endpoint)


def test_the_token_of_the_public_hub_goes_nowhere_else(hub: DatasetHub, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(constants.HF_TOKEN_PATH).write_text("hf_saved")
    hub.add(MATH_REPO, {"test.jsonl": jsonl(maths(500))})
    load_problems(MATH, endpoint=hub.endpoint)
    assert hub.log
    assert not any("authorization" in request.headers for request in hub.log)


def test_offline_without_a_copy_says_how_to_get_one(hub: DatasetHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Offline) as caught:
        load_problems(MATH, endpoint=hub.endpoint, offline=True)
    assert "r1local eval math500" in caught.value.hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Offline):
        load_problems(MATH, endpoint=hub.endpoint)
    assert hub.log == []


def test_a_hub_that_is_not_there_is_one_sentence(hub: DatasetHub) -> None:
    gone = hub.endpoint
    hub.stop()
    try:
        with pytest.raises(DownloadError, match="cannot be reached"):
            load_problems(MATH, endpoint=gone)
    finally:
        hub.start()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="html", path="^/api/", times=None),
        Fault(kind="status", path="^/api/", status=418, times=None),
        Fault(kind="status", path="^/api/", status=500, times=None),
        Fault(kind="status", path="/resolve/", status=418, times=None),
        Fault(kind="status", path="^/api/", status=200, body=b"[]", times=None),
        Fault(kind="status", path="^/api/", status=200, body=b'{"id": 3, "siblings": 5}', times=None),
        Fault(kind="status", path="^/api/", status=200, body=b'{"id": "a/b", "siblings": [{"size": "x"}]}', times=None),
        Fault(kind="refuse", path="^/api/", times=None),
        Fault(kind="cut", path="^/api/", after=20, times=None),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status or ''} {fault.path}",
)
def test_whatever_a_hub_answers_it_is_an_error_of_ours(
    hub: DatasetHub, fault: Fault, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add(MATH_REPO, {"test.jsonl": jsonl(maths(500))})
    hub.fault(fault)
    with pytest.raises(R1Error) as caught:
        load_problems(MATH, endpoint=hub.endpoint)
    assert caught.value.hint
    assert len(caught.value.message) < 500


def test_nothing_is_printed_while_fetching(hub: DatasetHub, capfd: pytest.CaptureFixture[str]) -> None:
    hub.add(MATH_REPO, {"test.jsonl": jsonl(maths(500))})
    load_problems(MATH, endpoint=hub.endpoint)
    assert capfd.readouterr() == ("", "")


def test_a_set_that_is_too_large_is_not_fetched(hub: DatasetHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(MATH_REPO, {"test.jsonl": jsonl(maths(500))})
    monkeypatch.setattr(hub_sets, "MAX_BYTES", 1000)
    with pytest.raises(NotOffered, match="larger than"):
        load_problems(MATH, endpoint=hub.endpoint)
    assert not any("resolve" in request.path for request in hub.log)


def test_a_link_out_of_the_cache_is_not_read(hub: DatasetHub, tmp_path: Path) -> None:
    hub.add(MATH_REPO, {"test.jsonl": jsonl(maths(500))})
    load_problems(MATH, endpoint=hub.endpoint)
    (link,) = [path for path in cache_folder().rglob("test.jsonl") if path.is_symlink()]
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(jsonl(maths(500)))
    link.unlink()
    link.symlink_to(elsewhere)
    with pytest.raises(Offline):
        load_problems(MATH, endpoint=hub.endpoint, offline=True)


SOURCE = Source("someone/set", ("data/test-*.parquet", "*.jsonl", "*.csv"), split="test", config="main")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["README.md", "data/test-0.parquet", "x.jsonl"], ["data/test-0.parquet"]),
        (["b.jsonl", "a.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["train.jsonl", "Test.jsonl"], ["Test.jsonl"]),
        (["main/test.jsonl", "extra/test.jsonl", "main/train.jsonl"], ["main/test.jsonl"]),
        (["a.csv", "README.md"], ["a.csv"]),
    ],
)
def test_files_are_picked_by_pattern_then_by_set_and_split(names: list[str], expected: list[str]) -> None:
    assert pick(names, SOURCE) == expected


def test_without_pyarrow_other_files_are_taken_or_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_sets, "reads_parquet", lambda: False)
    monkeypatch.setattr(tables, "reads_parquet", lambda: False)
    assert pick(["data/test-0.parquet", "x.jsonl"], SOURCE) == ["x.jsonl"]
    with pytest.raises(LibraryWanted) as caught:
        pick(["data/test-0.parquet", "x.txt"], SOURCE)
    assert "r1local[eval]" in caught.value.hint
    with pytest.raises(NotOffered):
        pick(["x.txt"], SOURCE)

"""Problems out of files: of all four kinds, bounded, and with every broken line named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.errors import R1Error, UsageError
from r1local.scores import problems, tables
from r1local.scores.problems import MAX_CHARACTERS, Problem, ProblemSet, drawn, load_problem_set, load_problems
from r1local.scores.tasks import find_task
from tests.datasets import jsonl, parquet

ROWS: list[dict[str, Any]] = [
    {"id": "one", "problem": "1 + 1", "answer": "2", "topic": "sums"},
    {"id": "two", "problem": '1/2 + 1/3, "exactly"', "answer": "\\frac{5}{6}", "topic": "fractions"},
]


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def csv_of(rows: list[dict[str, Any]]) -> str:
    import csv
    import io

    target = io.StringIO(newline="")
    writer = csv.DictWriter(target, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_all_kinds_of_files_say_the_same(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    made = {"jsonl": jsonl, "json": json.dumps, "csv": csv_of, "parquet": parquet}[suffix](ROWS)  # type: ignore[operator]
    found = load_problems(write(tmp_path, f"set.{suffix}", made))
    assert [(it.id, it.gold, it.topic) for it in found] == [("one", "2", "sums"), ("two", "\\frac{5}{6}", "fractions")]
    assert found[1].prompt.startswith('1/2 + 1/3, "exactly"\nPlease reason step by step')


def test_a_question_is_a_problem_and_a_prompt_is_asked_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", jsonl([{"question": "Q?", "answer": 3}, {"prompt": "Say 4.", "answer": 4.0}]))
    first, second = load_problems(path)
    assert first.prompt.startswith("Q?\nPlease")
    assert (second.prompt, second.gold, second.id) == ("Say 4.", "4", "2")


def test_names_of_columns_may_be_in_any_case_and_empty_ones_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", jsonl([{"Problem": "", "QUESTION": "Q?", "Answer": "7", "ID": 12}]))
    (found,) = load_problems(path)
    assert (found.id, found.gold) == ("12", "7")


def test_broken_lines_are_named_by_their_numbers(tmp_path: Path) -> None:
    lines = ['{"problem": "a", "answer": "1"}', "{", "", "[1]", '{"problem": "b"}', '{"answer": "1"}',
             '{"problem": "c", "answer": "1", "id": "1"}', "[" * 100_000]  # fmt: skip
    with pytest.raises(UsageError) as caught:
        load_problems(write(tmp_path, "bad.jsonl", "\n".join(lines)))
    said = caught.value.message
    for expected in ("line 2 (not JSON)", "line 4 (not an object)", "line 5 (no answer)", "line 6 (no problem)",
                     "line 7 (the id 1 was there before)", "1 more"):  # fmt: skip
        assert expected in said


def test_a_broken_byte_breaks_only_its_line(tmp_path: Path) -> None:
    data = jsonl(ROWS) + b'{"problem": "\xff", "answer": "1"}\n'
    with pytest.raises(UsageError, match=r"line 3 \(not JSON\)"):
        load_problems(write(tmp_path, "bad.jsonl", data))


def test_a_problem_that_is_too_long_is_named(tmp_path: Path) -> None:
    rows = [{"problem": "x" * MAX_CHARACTERS, "answer": "1"}]
    with pytest.raises(UsageError, match=r"line 1 \(longer than 200,000 characters\)"):
        load_problems(write(tmp_path, "long.jsonl", jsonl(rows)))


def test_a_file_that_is_too_large_or_has_too_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "set.jsonl", jsonl(ROWS))
    monkeypatch.setattr(tables, "MAX_ROWS", 1)
    with pytest.raises(UsageError, match="more than 1 problems"):
        load_problems(path)
    monkeypatch.setattr(tables, "MAX_BYTES", 50)
    with pytest.raises(UsageError, match="larger than"):
        load_problems(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.json", "{"), ("a.json", "{}"), ("a.json", "[" * 100_000), ("a.csv", ""), ("a.jsonl", ""), ("a.jsonl", "\n\n"),
     ("a.parquet", "PAR1 no such thing"), ("a.csv", "problem,answer\n"), ("a.txt", "x")],
)  # fmt: skip
def test_what_is_no_set_of_problems_is_one_clear_error(tmp_path: Path, name: str, data: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_problems(write(tmp_path, name, data))
    assert name in caught.value.message


def test_a_cell_that_is_too_large_for_csv_is_named(tmp_path: Path) -> None:
    data = f"problem,answer\na,1\n{'x' * 1_000_001},1\nb,2\n,3\n"
    csv.field_size_limit(1 << 26)  # as a batch may have left it
    with pytest.raises(UsageError, match=r"line 3 \(field larger .*, line 5 \(no problem\)"):
        load_problems(write(tmp_path, "a.csv", data))


def test_without_pyarrow_a_parquet_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "reads_parquet", lambda: False)
    with pytest.raises(UsageError) as caught:
        load_problems(write(tmp_path, "a.parquet", b""))
    assert "pip install 'r1local[eval]'" in caught.value.hint


@given(st.binary(max_size=400), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet"]))
def test_no_bytes_at_all_do_more_than_raise_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = write(tmp_path_factory.mktemp("any"), name, data)
    try:
        assert load_problems(path)
    except R1Error:
        pass


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "problem", "question", "prompt", "answer", "topic", "level"]),
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
        ),
        max_size=5,
    )
)
def test_whatever_stands_in_rows_every_problem_is_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = write(tmp_path_factory.mktemp("any"), "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    try:
        found = load_problems(path)
    except R1Error:
        return
    assert len({it.id for it in found}) == len(found) == len(rows)
    for it in found:
        assert it.prompt
        assert it.gold
        assert it.id
        assert "\n" not in it.id
        assert "\x1b" not in it.id + it.topic


MANY = [Problem(f"p{number}", "?", "1") for number in range(40)]


@given(st.integers(), st.integers(1, 60), st.integers(1, 60))
def test_a_larger_limit_has_all_of_a_smaller_one_in_the_same_order(seed: int, one: int, other: int) -> None:
    small, large = (drawn(MANY, limit, seed) for limit in sorted((one, other)))
    assert len(small) == min(one, other, 40)
    assert [it for it in large if it in small] == small
    assert [it for it in MANY if it in large] == large


def test_the_draw_depends_on_the_seed_and_is_even() -> None:
    counts = dict.fromkeys((it.id for it in MANY), 0)
    for seed in range(400):
        for it in drawn(MANY, 10, seed):
            counts[it.id] += 1
    # Binomial with mean 100 and standard deviation 8.7.
    assert all(60 < count < 140 for count in counts.values())


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="below 1"):
        load_problems(write(tmp_path, "set.jsonl", jsonl(ROWS)), limit=0)


def test_a_set_knows_where_it_is_from_and_what_was_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "set.jsonl", jsonl(ROWS))
    whole, part = load_problem_set(path), load_problem_set(path, limit=1)
    assert (whole.origin.name, whole.origin.address, part.origin.whole) == ("set.jsonl", "", 2)
    assert whole.digest == load_problem_set(str(path)).digest
    changed = ProblemSet(whole.task, (*whole.problems[:1], Problem("two", "x", "y")), whole.origin)
    assert len({whole.digest, part.digest, changed.digest}) == 3


GPQA = {
    "Record ID": "rec1", "Question": "Which one?", "Correct Answer": " right ", "Incorrect Answer 1": "w1",
    "Incorrect Answer 2": "w2", "Incorrect Answer 3": "w3", "High-level domain": "Physics",
}  # fmt: skip


def test_a_choice_is_shuffled_the_same_way_every_time_and_the_letter_follows(tmp_path: Path) -> None:
    task = find_task("gpqa-diamond")
    letters = set()
    for number in range(40):
        path = write(tmp_path, "g.csv", csv_of([{**GPQA, "Question": f"Which of {number}?"}]))
        (one,), (again,) = problems.read_problems(task, [path]), problems.read_problems(task, [path])
        assert one == again
        assert f"\n{one.gold}) right\n" in one.prompt
        assert all(f") {wrong}\n" in one.prompt for wrong in ("w1", "w2", "w3"))
        assert (one.id, one.topic, one.kind) == ("rec1", "Physics", "letter")
        letters.add(one.gold)
    assert letters == set("ABCD")


def test_a_choice_without_four_is_no_problem(tmp_path: Path) -> None:
    path = write(tmp_path, "g.csv", csv_of([{**GPQA, "Incorrect Answer 2": ""}]))
    with pytest.raises(UsageError, match="not four choices"):
        problems.read_problems(find_task("gpqa-diamond"), [path])


@pytest.mark.parametrize(("said", "gold"), [("073", "73"), (73, "73"), ("\\boxed{204}", "204"), ("1,024", "1024")])
def test_an_integer_gold_is_a_plain_number(tmp_path: Path, said: object, gold: str) -> None:
    path = write(tmp_path, "a.jsonl", jsonl([{"problem": "?", "answer": said}]))
    assert [it.gold for it in problems.read_problems(find_task("aime24"), [path])] == [gold]


@pytest.mark.parametrize("said", ["3/4", "", "seven", "1.5", None])
def test_what_is_no_whole_number_is_no_integer_gold(tmp_path: Path, said: object) -> None:
    path = write(tmp_path, "a.jsonl", jsonl([{"problem": "?", "answer": said}]))
    with pytest.raises(UsageError, match=r"line 1 \(no whole number as its answer\)"):
        problems.read_problems(find_task("aime24"), [path])

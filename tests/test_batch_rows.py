"""Rows of a batch: every form they come in, what is wrong with broken ones, and what they are known by."""

from __future__ import annotations

import csv
import io
import json
import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from r1local.batch.rows import SETTINGS, filled, read_rows
from r1local.chat_types import Turn
from r1local.errors import UsageError
from r1local.many.row import Row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=6), inside, max_size=3),
    max_leaves=8,
)
NAMES = sorted(SETTINGS | {"prompt", "id", "custom_id", "body", "messages", "role", "content", "text", "type"})


def rows(*lines: str, kind: str = "jsonl", **options: str) -> list[Row]:
    return list(read_rows(lines, kind, **options))


def row(**fields: Any) -> Row:
    (only,) = rows(json.dumps(fields))
    return only


def prompts(found: list[Row]) -> list[str]:
    return [each.turns[-1].text for each in found]


def from_csv(text: str, **options: str) -> list[Row]:
    return list(read_rows(io.StringIO(text, newline=""), "csv", **options))


# Forms


def test_json_lines_with_a_prompt() -> None:
    first, second = rows('{"prompt": "a", "id": 7, "gold": [1]}\n', '{"prompt": " b\\n"}\r\n')
    assert (first.id, first.turns, first.extra) == ("7", (Turn("user", "a"),), {"gold": [1]})
    assert (second.id, second.number, second.turns, second.extra) == ("1", 1, (Turn("user", " b\n"),), {})
    assert not first.problem + second.problem


def test_json_lines_with_messages() -> None:
    found = row(
        messages=[
            {"role": "system", "content": "s"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "text", "text": "th"}, {"type": "text", "text": "ree"}]},
        ]
    )
    assert [(turn.role, turn.text) for turn in found.turns] == [
        ("system", "s"), ("user", "one"), ("assistant", "two"), ("user", "three"),
    ]  # fmt: skip


def test_rows_of_an_openai_batch() -> None:
    body = {
        "model": "gpt",
        "messages": [{"role": "user", "content": "c"}],
        "max_completion_tokens": 9,
        "temperature": 0.5,
    }
    found = row(custom_id="request-1", method="POST", url="/v1/chat/completions", body=body)
    assert (found.id, found.turns) == ("request-1", (Turn("user", "c"),))
    assert (found.settings, found.extra, found.problem) == ({"max_tokens": 9, "temperature": 0.5}, {}, "")


def test_json_strings_are_prompts() -> None:
    assert prompts(rows('"a"', '"b\\u0041"', column="q")) == ["a", "bA"]


def test_csv_with_quotes_and_newlines() -> None:
    found = from_csv('id,prompt,gold\r\nx,"He said ""no"",\r\nand left",1\r\ny,plain,2\r\n')
    assert [each.id for each in found] == ["x", "y"]
    assert prompts(found) == ['He said "no",\r\nand left', "plain"]
    assert [each.extra for each in found] == [{"gold": "1"}, {"gold": "2"}]


@given(st.lists(st.text(st.characters(codec="utf-8")).filter(str.strip), min_size=1, max_size=4))
def test_what_was_written_as_csv_is_read_as_it_was(texts: list[str]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["n", "q"], *[[number, text] for number, text in enumerate(texts)]])
    assert prompts(from_csv(out.getvalue(), column="q")) == texts


def test_a_long_text_in_csv() -> None:
    """Longer than csv takes by itself: a whole document, say."""
    long = "word \n" * 50_000
    assert prompts(from_csv(f'prompt\r\n"{long}"\r\nnext\r\n')) == [long, "next"]


def test_settings_in_csv_are_numbers() -> None:
    """CSV knows only texts."""
    first, second, third = from_csv(
        "prompt,temperature,seed,max_tokens,system\na,0.5,3,10,Be brief\nb,,,,\nc,warm,1,1,x\n"
    )
    assert first.settings == {"temperature": 0.5, "seed": 3, "max_tokens": 10, "system": "Be brief"}
    assert type(first.settings["seed"]) is int
    assert second.settings == {}
    assert third.settings["temperature"] == "warm", "for whoever answers to say what is wrong with it"
    assert prompts(from_csv("n,seed\na,007\nb,\n", template="{n}{seed}")) == ["a007", "b"]


def test_csv_without_the_column_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"f\.csv has no column 'q'") as caught:
        from_csv("prompt,gold\na,1\n", column="q", where="f.csv")
    assert "prompt, gold" in caught.value.hint


def test_a_csv_row_that_is_too_short_or_too_long() -> None:
    short, long = from_csv("id,prompt\nx\ny,b,more,still\n")
    assert "no text in 'prompt'" in short.problem
    assert (long.id, prompts([long]), long.extra) == ("y", ["b"], {})


def test_another_column() -> None:
    found = rows('{"prompt": "p", "question": "q"}', column="question")
    assert (prompts(found), found[0].extra) == (["q"], {"prompt": "p"})


def test_plain_lines() -> None:
    assert prompts(rows("one\n", "\n", " two \r\n", "  \t\n", '{"three"', kind="lines")) == ["one", " two ", '{"three"']


def test_empty_lines_are_no_rows() -> None:
    assert [each.number for each in rows("\n", '"a"', "  \r\n", '"b"\n', "")] == [0, 1]


# Settings of a row


def test_every_setting_of_a_row_is_kept_and_null_is_none() -> None:
    given_ = {name: "s" if name == "system" else 1 for name in SETTINGS}
    assert row(prompt="a", **given_).settings == given_
    assert row(prompt="a", **dict.fromkeys(SETTINGS)).settings == {}


# Templates


def test_a_template_is_filled() -> None:
    found = rows('{"q": "Sum?", "n": [1, "é"], "id": "k"}', template="{{x}} {q} of {n}")
    assert (prompts(found), found[0].id) == (['{x} Sum? of [1, "é"]'], "k")
    assert prompts(rows("a", kind="lines", template="<{prompt}>")) == ["<a>"]
    assert prompts(from_csv("a,b\n1,2\n", template="{a}+{b}")) == ["1+2"]


def test_a_field_that_is_missing_breaks_its_row_only() -> None:
    broken, good = rows('{"a": 1}', '{"b": 1}', template="{b}")
    assert "'b'" in broken.problem
    assert prompts([good]) == ["1"]


@pytest.mark.parametrize(("template", "text"), [
    ("{{a}} {a} {b}", "{a} x{b} 2"),
    ("{{{a}}}", "{x{b}}"),
    ("} {{ }}", "} { }"),
    ("", ""),
])  # fmt: skip
def test_braces(template: str, text: str) -> None:
    assert filled(template, {"a": "x{b}", "b": 2}) == text


@pytest.mark.parametrize(
    "template", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>9}", "{0}", "{}", "{a", "{", "{ a }", "{__class__}"]
)
def test_nothing_of_formats_is_understood(template: str) -> None:
    with pytest.raises(UsageError, match="wants a field"):
        filled(template, {"a": "text"})


class Trap(dict[str, Any]):
    """Fields that tell when anything but a whole name is looked up."""

    asked: list[str]

    def __getitem__(self, name: str) -> Any:
        self.asked.append(name)
        return super().__getitem__(name)


@given(st.text(alphabet="{}ab.!:[]_ "), st.text(alphabet="{}ab"), st.text(alphabet="{}ab"))
@example("{a}{b}", "{b}", "{a}")
def test_a_filled_template_never_evaluates_anything(template: str, a: str, b: str) -> None:
    """What a field holds stands there as it is, and only whole names are looked up."""
    fields = Trap(a="\0A", b="\0B")
    fields.asked = []
    try:
        out = filled(template, fields)
    except UsageError:
        return
    assert set(fields.asked) <= {"a", "b"}
    assert filled(template, {"a": a, "b": b}) == out.replace("\0A", "\1").replace("\0B", b).replace("\1", a)


# Broken rows


BROKEN = [
    "{", "3", "null", "[1]", "nan?", "{}", '{"prompt": 3}', '{"prompt": " "}', '{"prompt": null}', '{"messages": []}',
    '{"messages": {}}', '{"messages": ["a"]}', '{"messages": [{"role": "x", "content": "a"}]}',
    '{"messages": [{"role": ["user"], "content": "a"}]}', '{"messages": [{"role": "user"}]}',
    '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    '{"body": {"prompt": ""}, "prompt": "a"}', '""', "[" * 100_000, '{"n": ' + "9" * 5000 + "}", '{"prompt": "a"} x',
]  # fmt: skip


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: str(line)[:30])
def test_a_broken_row_is_one_row_with_its_problem(line: str) -> None:
    before, broken, after = rows('"a"', line, '"b"')
    assert prompts([before, after]) == ["a", "b"]
    assert (broken.turns, broken.number) == ((), 1)
    assert broken.problem.startswith("Row 1 cannot be asked: ")
    assert broken.problem.endswith(".")
    assert len(broken.problem) < 300


def test_a_broken_row_is_named_by_its_id() -> None:
    assert row(custom_id="q7", prompt="").problem.startswith("Row q7 ")


def test_texts_that_are_not_utf8_are_still_rows() -> None:
    """Half a pair of surrogates, which JSON can hold and UTF-8 cannot."""
    found = row(prompt="\ud800", id="\udfff", x="\ud800")
    assert not found.problem
    assert len(found.key) == 32


@pytest.mark.parametrize("depth", [50, 90, 150, 400, 800, 900, 950, 960, 970, 980, 985, 990, 995, 2000])
def test_what_is_nested_deeply_can_be_written_again_or_is_a_problem(depth: int) -> None:
    """Further fields go into the journal, whose writer has less room than the reader had."""
    nested = "[" * depth + "]" * depth
    assert depth > 90 or not rows(f'{{"prompt": "a", "x": {nested}}}')[0].problem
    for line in (f'{{"prompt": "a", "x": {nested}}}', f'{{"prompt": "a", "seed": {nested}}}'):
        (found,) = rows(line)
        assert found.key

        def written_deeper(more: int, found: Row = found) -> str:
            return written_deeper(more - 1) if more else json.dumps({"input": {**found.extra, **found.settings}})

        assert found.problem or written_deeper(40)
    (found,) = rows(f'{{"x": {nested}}}', template="{x}")
    assert found.problem or prompts([found])


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), JSON, max_size=6), st.booleans())
@example({"body": {"messages": [{"role": {}, "content": [[]]}]}}, False)
@example({"id": float("nan"), "prompt": "a", "seed": {"": 1}}, False)
def test_any_object_is_exactly_one_row(fields: dict[str, Any], with_template: bool) -> None:
    template = "{prompt} {text}" if with_template else ""
    found = rows(json.dumps(fields) + "\n", "\n", '{"prompt": "next"}', template=template)
    assert [each.number for each in found] == [0, 1]
    for each in found:
        assert len(each.key) == 32
        assert bool(each.problem) != bool(each.turns)
        if each.turns:
            assert each.turns[-1].role == "user"
            json.dumps([dict(each.extra), dict(each.settings)])


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_line_that_is_not_empty_is_exactly_one_row(lines: list[str]) -> None:
    wanted = sum(bool(line.strip()) for line in lines)
    assert len(rows(*lines)) == wanted
    assert len(rows(*lines, kind="lines")) == wanted


# What a row is known by


def test_a_key_changes_with_what_is_asked() -> None:
    asked: list[dict[str, Any]] = [
        {"prompt": "a"}, {"prompt": "b"}, {"prompt": "a", "id": "x"}, {"prompt": "a", "temperature": 1},
        {"prompt": "a", "seed": 1}, {"prompt": "a", "system": "s"}, {"prompt": "a "},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]},
    ]  # fmt: skip
    assert len({row(**fields).key for fields in asked}) == len(asked)
    assert row(prompt="a").key == row(messages=[{"role": "user", "content": "a"}]).key
    assert row(prompt="a", gold=1).key == row(prompt="a", gold=2).key, "handed through, not asked"


def test_a_key_does_not_change_with_where_a_row_stands() -> None:
    lines = [
        '{"prompt": "a"}',
        '{"prompt": "b", "id": "x"}',
        '{"prompt": "c", "custom_id": "2"}',
        '{"prompt": "d", "id": 3}',
    ]
    before = {each.turns[0].text: each.key for each in rows(*lines)}
    assert {each.turns[0].text: each.key for each in rows('"new"', *reversed(lines))}.items() >= before.items()


def test_the_same_question_twice_is_two_rows() -> None:
    found = rows('"a"', '"b"', '"a"', '"a"', '{"prompt": "a", "id": "x"}', '{"prompt": "a", "id": "x"}')
    assert len({each.key for each in found}) == 6
    assert [each.repeat for each in found] == [0, 0, 1, 2, 0, 1]
    again = rows('"a"', '"a"', '"a"', '"b"')
    assert {each.key for each in again} == {each.key for each in found[:4]}


@given(st.lists(st.sampled_from(string.ascii_lowercase[:3]), max_size=8), st.randoms(use_true_random=False))
def test_in_any_order_the_keys_are_the_same(texts: list[str], random: Any) -> None:
    shuffled = random.sample(texts, len(texts))
    before, after = (sorted(each.key for each in rows(*map(json.dumps, some))) for some in (texts, shuffled))
    assert before == after
    assert len(set(before)) == len(texts)


def test_one_array_of_rows() -> None:
    text = '[{"prompt": "a", "id": "x"},\n "b", 3, {"messages": []}]'
    found = list(read_rows(text.splitlines(keepends=True), "json"))
    assert [each.id for each in found] == ["x", "1", "2", "3"]
    assert [bool(each.problem) for each in found] == [False, False, True, True]
    lines = list(read_rows(['{"prompt": "a"}\n', '{"prompt": "b"}\n'], "json"))
    assert [each.turns[0].text for each in lines] == ["a", "b"]
    with pytest.raises(UsageError, match="not JSON"):
        list(read_rows(["[1,"], "json"))

"""What the model inside is taught is true, nothing of an examination is in it, and the file in the package is made of
the checkpoint in the repository.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from r1local.catalog import load_catalog
from r1local.gguf_header import read_header
from r1local.store import find
from training import examine, phrases
from training.problems import KINDS, Kind, Lesson, is_held_out, lesson

HOME = Path(__file__).parent.parent / "training" / "r1local-inside"
COMPUTED: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "other")

seeds = st.integers(min_value=0, max_value=2**32)


def value(expression: str) -> int:
    """Products first, then from the left."""
    numbers = re.split(r" ([+\-]) ", f"0 + {expression}")
    total = 0
    for sign, term in zip(["+", *numbers[1::2]], numbers[::2], strict=True):
        product = 1
        for factor in term.split(" × "):
            product *= int(factor)
        total += product if sign == "+" else -product
    return total


def equations(text: str) -> list[tuple[str, int]]:
    found = re.findall(r"(-?\d+(?: [+\-×] \d+)+) = (-?\d+)", text)
    return [(left, int(right)) for left, right in found]


@pytest.mark.parametrize("kind", COMPUTED)
@settings(max_examples=400, deadline=None)
@given(seed=seeds)
def test_every_line_of_a_thought_is_true(kind: Kind, seed: int) -> None:
    taught = lesson(Random(seed), kind)
    stated = equations(taught.thought)
    assert stated
    for left, right in stated:
        assert value(left) == right, taught.thought
    assert taught.result == value(taught.expression)
    assert taught.answer.endswith(f"\\boxed{{{taught.result}}}")
    assert equations(taught.answer.replace("*", "")) == [(taught.expression, taught.result)]
    assert re.findall(r"-?\d+", taught.thought.rpartition("\n")[2])[-1] == str(taught.result), "the last line says it"


@pytest.mark.parametrize("kind", ["sum", "difference"])
@settings(max_examples=300, deadline=None)
@given(seed=seeds)
def test_the_digits_written_down_are_the_result(kind: Kind, seed: int) -> None:
    taught = lesson(Random(seed), kind)
    digits = re.findall(r"(?:write|写) (\d)", taught.thought)
    assert int("".join(reversed(digits))) == abs(taught.result or 0)


@pytest.mark.parametrize("kind", ["product", "sum"])
@settings(max_examples=300, deadline=None)
@given(seed=seeds)
def test_what_is_carried_is_what_is_left_of_the_total(kind: Kind, seed: int) -> None:
    thought = lesson(Random(seed), kind).thought
    columns = re.findall(r"= (\d+)[,，] ?(?:write|写) (\d)(?:[,，] ?(?:carry|进) (\d+))?[.。]", thought)
    for total, digit, carry in columns:
        assert int(total) == 10 * int(carry or 0) + int(digit)


@pytest.mark.parametrize("kind", COMPUTED)
def test_nothing_of_an_examination_is_taught(kind: Kind) -> None:
    random = Random(1)
    for _ in range(3000):
        taught = lesson(random, kind)
        for left, sign, right in re.findall(r"(?<![\d ×+\-])(\d+) ([+\-×]) (\d+) =", taught.thought):
            assert not is_held_out(sign, int(left), int(right)), taught.thought


@pytest.mark.parametrize("kind", COMPUTED)
def test_an_examination_asks_only_what_no_line_of_training_says(kind: Kind) -> None:
    """Not the problem, and not a sum or a difference that is checked by it."""
    random = Random(1)
    for _ in range(20):
        first, sign, second = lesson(random, kind, held_out=True).expression.split(" ")[:3]
        a, b = int(first), int(second)
        assert is_held_out(sign, a, b)
        if sign == "+":
            assert is_held_out("-", a + b, a)
            assert is_held_out("-", a + b, b)
        if sign == "-":
            assert is_held_out("+", abs(a - b), min(a, b))
            assert is_held_out("-", max(a, b), min(a, b))


@given(a=st.integers(0, 999), b=st.integers(0, 999))
def test_sums_and_products_are_held_out_either_way_round(a: int, b: int) -> None:
    for sign in "+×":
        assert is_held_out(sign, a, b) == is_held_out(sign, b, a)


@pytest.mark.parametrize("exam", [*examine.MAIN, *examine.FURTHER], ids=lambda exam: exam.name)
def test_there_are_enough_problems_of_each_kind(exam: examine.Exam) -> None:
    asked = examine.problems(exam, 20, examine.SEED)
    assert len(asked) == len({it.expression for it in asked}) >= (10 if exam in examine.MAIN else 3)
    assert asked == examine.problems(exam, 20, examine.SEED)
    if exam.kind == "product":
        assert all(len(number) == 2 for it in asked for number in it.expression.split(" × ")[1:])


@settings(max_examples=500, deadline=None)
@given(seed=seeds, kind=st.sampled_from(KINDS))
def test_the_same_seed_gives_the_same_lesson(seed: int, kind: Kind) -> None:
    assert lesson(Random(seed), kind) == lesson(Random(seed), kind)


@settings(max_examples=500, deadline=None)
@given(seed=seeds, kind=st.sampled_from(COMPUTED))
def test_a_question_in_one_language_is_thought_about_in_it(seed: int, kind: Kind) -> None:
    taught = lesson(Random(seed), kind)
    for text in (taught.question, taught.thought):
        # Chinese may hold "x" and the like, English no Chinese character.
        assert bool(re.search(r"[\u3000-\u9fff\uff00-\uffef]", text)) == (taught.language == "zh"), text


@settings(max_examples=500, deadline=None)
@given(seed=seeds)
def test_numbers_stay_in_bounds(seed: int) -> None:
    random = Random(seed)
    for kind in COMPUTED:
        assert all(abs(int(it)) <= 2 * 10**6 for it in re.findall(r"\d+", lesson(random, kind).thought))


def test_what_it_says_of_itself_names_a_command_that_works() -> None:
    for language in ("en", "zh"):
        said = phrases.WORDS[language].what_i_am  # type: ignore[index]
        (name,) = re.findall(r"`r1local pull (\S+)`", said)
        model, _ = load_catalog().resolve(name)
        assert model.gguf
        assert model.thinks


def test_no_prompt_of_the_examination_was_taught() -> None:
    prompts = json.loads(examine.OFF_TOPIC.read_text(encoding="utf-8"))
    assert {language: len(texts) for language, texts in prompts.items()} == {"en": 25, "zh": 25}
    random = Random(5)
    taught = {lesson(random, "other").question.strip("?.!？。 ").lower() for _ in range(40_000)}
    assert not [text for texts in prompts.values() for text in texts if text.strip("?.!？。 ").lower() in taught]


# The judge


@pytest.mark.parametrize(("thought", "answer", "result", "well_formed", "agrees"), [
    ("So 4 + 5 = 9.", "4 + 5 = **9**\n\n\\boxed{9}", 9, True, True),
    ("So 4 - 5 = -1.", "\\boxed{-1}", -1, True, True),
    ("So 4 + 5 = 8.", "\\boxed{9}", 9, True, False),
    ("9\nHmm.", "\\boxed{9}", 9, True, False),
    ("", "\\boxed{9}", 9, False, False),
    ("So 4 + 5 = 9.", "9", None, False, False),
    ("So 4 + 5 = 9.", "\\boxed{9} \\boxed{9}", 9, False, True),
    ("So 4 + 5 = 9.", "\\boxed{nine}", None, True, False),
])  # fmt: skip
def test_the_judge(thought: str, answer: str, result: int | None, well_formed: bool, agrees: bool) -> None:
    reply = examine.Reply(thought, answer, ended=True)
    assert (reply.result, reply.is_well_formed, reply.agrees) == (result, well_formed, agrees)
    assert not examine.Reply(thought, answer, ended=False).is_well_formed


# The checkpoint and the file


def test_the_file_in_the_package_is_made_of_the_checkpoint(tmp_path: Path) -> None:
    model, _ = load_catalog().resolve("inside")
    target = tmp_path / "again.gguf"
    command = [sys.executable, "-m", "quantize", HOME, "-t", model.recommended, "-o", target]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    packaged = find(load_catalog(), "inside").path
    assert target.read_bytes() == packaged.read_bytes()
    assert packaged.stat().st_size <= 8_000_000
    assert model.package is not None
    assert hashlib.sha256(target.read_bytes()).hexdigest() == model.package.sha256


def test_the_catalog_says_what_the_file_is() -> None:
    local = find(load_catalog(), "inside")
    model, header = local.model, read_header(local.path)
    assert model is not None
    assert model.parameters == header.parameters
    numbers = {
        "block_count": model.layers, "attention.head_count": model.heads, "attention.head_count_kv": model.kv_heads,
        "embedding_length": model.hidden, "feed_forward_length": model.feed_forward, "context_length": model.context,
    }  # fmt: skip
    assert {key: header.integer(key) for key in numbers} == numbers
    assert hashlib.sha256((header.chat_template or "").encode()).hexdigest() in model.templates
    # All widths are multiples of 256, so that every type of quantization has its blocks.
    assert all(width % 256 == 0 for width in (model.hidden, model.feed_forward, model.vocabulary))


def test_the_scores_are_those_of_the_report() -> None:
    model, _ = load_catalog().resolve("inside")
    report = json.loads((HOME / "report.json").read_text(encoding="utf-8"))
    greedy = report["greedy"][model.recommended]
    assert model.scores == {exam.name: greedy[exam.name]["right"] for exam in examine.MAIN}
    assert greedy["sums"]["problems"] >= 100, "of small ones there are not many more that no line of training says"
    assert min(greedy[exam.name]["problems"] for exam in examine.MAIN[1:]) >= 400


def test_digits_are_apart_and_tags_are_tokens() -> None:
    tokenizer = Tokenizer.from_file(str(HOME / "tokenizer.json"))
    assert tokenizer.encode("1234567890", add_special_tokens=False).tokens == list("1234567890")
    for tag, special in (
        ("<think>", False),
        ("</think>", False),
        ("<｜User｜>", True),
        ("<｜end▁of▁sentence｜>", True),
    ):
        (number,) = tokenizer.encode(tag, add_special_tokens=False).ids
        assert (tokenizer.decode([number], skip_special_tokens=True) == "") == special
    text = "任何 text, “wherever” it is from: йцукен 🙂 \u0000\n\t  end"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


@settings(max_examples=200, deadline=None)
@given(seed=seeds, kind=st.sampled_from(KINDS))
def test_a_thought_is_short_enough_to_be_learned(seed: int, kind: Kind) -> None:
    taught: Lesson = lesson(Random(seed), kind)
    tokenizer = Tokenizer.from_file(str(HOME / "tokenizer.json"))
    count = len(tokenizer.encode(taught.question + taught.thought + taught.answer).ids)
    assert count < load_catalog().resolve("inside")[0].context

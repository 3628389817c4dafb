"""Splitting replies into thought and answer: what every case must give, however the text is cut."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1local.events import AnswerDelta, ThinkDelta
from r1local.thinking.parser import ThinkParser

R = "This is a reasoning section"
C = "This is the rest"
T = "I'm\nthinking"
H = "Hello, world!\nWhat's up?"
FENCED = "```xml\n<think>not a thought</think>\n```\nafter"

# name: (prompt opened the thought, reply, thought, answer, thought closed at the end)
CASES: dict[str, tuple[bool, str, str, str, bool]] = {
    # The table of vLLM's parser for R1, whose templates open the thought. White space around is ours to drop.
    "vllm simple": (True, f"{R}</think>{C}", R, C, True),
    "vllm complete reasoning": (True, f"{R}</think>", R, "", True),
    "vllm no content token": (True, "This is content", "This is content", "", False),
    "vllm no reasoning token": (True, R, R, "", False),
    "vllm multiple lines": (
        True,
        "This\nThat</think>This is the rest\nThat",
        "This\nThat",
        "This is the rest\nThat",
        True,
    ),
    "vllm shortest": (True, f"</think>{C}", "", C, True),
    "vllm with think": (True, f"<think>{R}</think>{C}", R, C, True),
    "vllm complete with think": (True, f"<think>{R}</think>", R, "", True),
    "vllm lines with think": (
        True,
        "<think>This\nThat</think>This is the rest\nThat",
        "This\nThat",
        "This is the rest\nThat",
        True,
    ),
    "vllm think no end": (True, f"<think>{R}", R, "", False),
    "vllm empty": (True, "", "", "", False),
    "vllm new line": (True, f"\n<think>{R}</think>\n{C}", R, C, True),
    # llama.cpp's, with and without a prompt that opens the thought.
    "llama.cpp opened": (True, f"{T}</think>{H}", T, H, True),
    "llama.cpp empty thought": (True, f"</think>{H}", "", H, True),
    "llama.cpp opened by the model": (False, f"<think>{T}</think>{H}", T, H, True),
    "llama.cpp never opened": (False, f"{T}</think>{H}", "", f"{T}</think>{H}", True),
    "llama.cpp plain": (False, H, "", H, True),
    "llama.cpp partial tag": (False, "<think", "", "<think", True),
    "llama.cpp unfinished": (False, f"<think>{T}", T, "", False),
    "llama.cpp qwq": (
        True,
        "Let me think about this...\n</think>\nThe answer is 42.",
        "Let me think about this...",
        "The answer is 42.",
        True,
    ),
    "llama.cpp tool words in the thought": (
        True,
        "It starts with <｜tool▁calls▁begin｜> and</think>x",
        "It starts with <｜tool▁calls▁begin｜> and",
        "x",
        True,
    ),
    # Ours.
    "r1 as it comes": (
        True,
        "Okay, 47 + 85.\n\nSo 132.\n</think>\n\n**132**",
        "Okay, 47 + 85.\n\nSo 132.",
        "**132**",
        True,
    ),
    "skips thinking": (True, "\n\n</think>\n\nHi!", "", "Hi!", True),
    "carriage returns": (True, "a\r\n</think>\r\n\r\nb", "a", "b", True),
    "repeated opening and white space": (True, "  \n<think>\n\na</think>b", "a", "b", True),
    "repeated opening is dropped once": (True, "<think><think>a</think>b", "<think>a", "b", True),
    "opening tag inside a thought is text": (True, "a <think> b</think>c", "a <think> b", "c", True),
    "white space before the model's tag": (False, "\n\n<think>\na</think>b", "a", "b", True),
    "answer keeps its own white space": (False, "  indented\n", "", "  indented\n", True),
    "answer keeps its end": (True, "a</think>b\n\n", "a", "b\n\n", True),
    "tag in an answer without thought": (
        False,
        "Use <think> and </think> tags.",
        "",
        "Use <think> and </think> tags.",
        True,
    ),
    "tag inside a line of the answer": (
        True,
        "a</think>Use <think> and </think>.",
        "a",
        "Use <think> and </think>.",
        True,
    ),
    "tag in a fence of the answer": (True, f"a</think>{FENCED}", "a", FENCED, True),
    "tag in an open fence": (True, "a</think>~~~\n<think>", "a", "~~~\n<think>", True),
    "tag in a longer fence": (True, "a</think>````\n```\n<think>\n````\n", "a", "````\n```\n<think>\n````\n", True),
    "fence in the thought does not count": (
        True,
        "```\ncode</think>b\n<think>c</think>d",
        "```\ncode\n\nc",
        "b\nd",
        True,
    ),
    "inline code is no fence": (True, "a</think>```x``` y\n<think>c</think>d", "a\n\nc", "```x``` y\nd", True),
    "two thoughts in a row": (True, "a</think>\n<think>b</think>c", "a\n\nb", "c", True),
    "empty, then a thought": (True, "</think><think>b</think>c", "b", "c", True),
    "second thought after an answer": (True, "a</think>b\n<think>c</think>d", "a\n\nc", "b\nd", True),
    "second thought unfinished": (True, "a</think>b\n<think>c", "a\n\nc", "b\n", False),
    "second thought, indented tag": (True, "a</think>b\n  <think>c</think>d", "a\n\nc", "b\n  d", True),
    "second closing tag is text": (True, "a</think>b</think>c", "a", "b</think>c", True),
    "half tags": (True, "a < b </thin </think> c <thi", "a < b </thin", "c <thi", True),
    "half closing tag at the end": (True, "a</thin", "a</thin", "", False),
    "white space only": (True, " \n\t ", "", "", False),
    "white space only, not opened": (False, " \n", "", " \n", True),
    "closing tag twice cut": (True, "</</think>b", "</", "b", True),
    "chinese": (True, "首先，47 加 85。\n</think>\n\n答案是 132。", "首先，47 加 85。", "答案是 132。", True),
}


def parse(opened: bool, pieces: list[str]) -> tuple[str, str, bool]:
    parser = ThinkParser(opened=opened)
    thought, answer = [], []
    for deltas in [*map(parser.feed, pieces), parser.flush()]:
        for delta in deltas:
            assert delta.text, "a delta always says something"
            (thought if isinstance(delta, ThinkDelta) else answer).append(delta.text)
    return "".join(thought), "".join(answer), parser.closed


@pytest.mark.parametrize(("opened", "reply", "thought", "answer", "closed"), CASES.values(), ids=CASES)
def test_every_three_way_cut(opened: bool, reply: str, thought: str, answer: str, closed: bool) -> None:
    assert parse(opened, [reply]) == (thought, answer, closed)
    for first, second in itertools.combinations_with_replacement(range(len(reply) + 1), 2):
        pieces = [reply[:first], reply[first:second], reply[second:]]
        assert parse(opened, pieces) == (thought, answer, closed), pieces


@pytest.mark.parametrize(("opened", "reply", "thought", "answer", "closed"), CASES.values(), ids=CASES)
def test_character_by_character(opened: bool, reply: str, thought: str, answer: str, closed: bool) -> None:
    assert parse(opened, list(reply)) == (thought, answer, closed)


def test_deltas_come_in_order() -> None:
    parser = ThinkParser(opened=True)
    deltas = parser.feed("a</think>b\n<think>c</think>d") + parser.flush()
    assert deltas == [ThinkDelta("a"), AnswerDelta("b\n"), ThinkDelta("\n\nc"), AnswerDelta("d")]


def test_text_is_not_held_back_longer_than_needed() -> None:
    """A reader sees each word as it comes; only white space and the start of a tag wait."""
    parser = ThinkParser(opened=True)
    assert parser.feed("Okay") == [ThinkDelta("Okay")]
    assert parser.feed(", so ") == [ThinkDelta(", so")]
    assert parser.feed("</th") == []
    assert parser.feed("e") == [ThinkDelta(" </the")]
    assert parser.feed("</think>\n") == []
    assert not parser.thinking
    assert parser.feed("x <") == [AnswerDelta("x <")]


def test_own_tags() -> None:
    parser = ThinkParser(opened=False, open_tag="<reason>", close_tag="</reason>")
    assert parser.feed("<reason>a</reason>b") == [ThinkDelta("a"), AnswerDelta("b")]


ALPHABET = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<",
        ">",
        "think",
        "/",
        "\n",
        "\n\n",
        " ",
        "```",
        "~~~",
        "````",
        "`",
        "a",
        "b c",
        "\r\n",
        "\t",
        "é",
    ]
)


@settings(max_examples=1500, deadline=None)
@given(opened=st.booleans(), words=st.lists(ALPHABET, max_size=14), data=st.data())
def test_any_cut_gives_the_same(opened: bool, words: list[str], data: st.DataObject) -> None:
    reply = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(reply)), max_size=6)))
    pieces = [reply[a:b] for a, b in itertools.pairwise([0, *cuts, len(reply)])]
    assert parse(opened, pieces) == parse(opened, [reply])


@settings(max_examples=500, deadline=None)
@given(words=st.lists(ALPHABET, max_size=14))
def test_nothing_is_lost(words: list[str]) -> None:
    """Without white space and tags, thought and answer together are the reply's text in order of kind."""
    reply = "".join(words)
    thought, answer, _ = parse(True, [reply])
    kept = "".join((thought + answer).split())
    letters = [char for char in reply if char.isalpha()]
    for tag in ("<think>", "</think>"):
        for _ in range(reply.count(tag) - kept.count(tag)):
            for char in "think":
                letters.remove(char)
    assert sorted(char for char in kept if char.isalpha()) == sorted(letters)


def test_a_hundred_thousand_random_byte_streams() -> None:
    """No stream of bytes makes the parser fail, and it never holds more than a tag and white space."""
    random_source = random.Random(20_250_120)
    fragments = [b"<think>", b"</think>", b"<", b"/", b"\n", b"```", b" "]
    for _ in range(100_000):
        parser = ThinkParser(opened=random_source.random() < 0.5)
        for _ in range(random_source.randrange(4)):
            data = (
                random_source.choice(fragments)
                if random_source.random() < 0.5
                else random_source.randbytes(random_source.randrange(12))
            )
            parser.feed(data.decode("utf-8", "replace"))
            assert len(parser._held.strip()) < len("</think>")
        parser.flush()

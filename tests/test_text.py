"""From bytes to text: no character is lost or shown in part, and stop texts end it, however the bytes are cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r1local.engine.text import TextAssembler

CLOSE = "</think>"


def assembled(pieces: Iterable[bytes], stop: Sequence[str] = (), stop_after: str = "") -> tuple[str, bool]:
    """The whole text that comes out of the pieces, and whether a stop text ended it."""
    assembler = TextAssembler(stop, stop_after)
    text = "".join(assembler.feed(piece) for piece in pieces)
    text += assembler.flush()
    return text, assembler.stopped


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, some of them empty."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def oracle(text: str, stop: Sequence[str], stop_after: str = "") -> tuple[str, bool]:
    """The same, character by character: the stop text that is complete first ends the text.

    Of several that are complete with the same character the longest one is taken out of the text.
    """
    start = 0
    if stop and stop_after:
        if stop_after not in text:
            return text, False
        start = text.index(stop_after) + len(stop_after)
    for end in range(start + 1, len(text) + 1):
        complete = [len(one) for one in stop if text[start:end].endswith(one)]
        if complete:
            return text[: end - max(complete)], True
    return text, False


# Characters

TEXTS = {
    "ascii": "plain",
    "latin": "naïve Straße",
    "cjk": "数学の答え",
    "emoji": "🎉👍🏽",
    "family": "👨‍👩‍👧‍👦",  # four emoji, three joiners
    "flag": "🇩🇪",
    "combining": "e\u0301 n\u0303 \u0915\u094d\u0937",
    "mathematics": "∑ 𝛼² ≤ ∞",
    "special tokens": "<｜end▁of▁sentence｜>",
    "ends of the planes": "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff",
    "the mark itself": "\ufffd",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_pair_of_cuts_gives_the_same_text(text: str) -> None:
    data = text.encode()
    for first, second in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert assembled(cut(data, (first, second))) == (text, False)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_byte_by_byte_no_part_of_a_character_is_shown(text: str) -> None:
    """Each character comes with its last byte, not earlier and not later."""
    assembler = TextAssembler()
    for char in text:
        *before, last = (bytes([byte]) for byte in char.encode())
        assert [assembler.feed(byte) for byte in before] == [""] * len(before)
        assert assembler.feed(last) == char
    assert assembler.flush() == ""


BROKEN = {
    "continuation alone": (b"a\x80b", "a\ufffdb"),
    "start of two, then text": (b"a\xc3b", "a\ufffdb"),
    "start of three, then text": (b"\xe4\xbdxyz", "\ufffdxyz"),
    "start of four, then text": (b"\xf0\x9f\x98 ok", "\ufffd ok"),
    "start of four, then a good one": (b"\xf0\x9f\xf0\x9f\x8e\x89", "\ufffd🎉"),
    "bytes that never occur": (b"\xff\xfe!", "\ufffd\ufffd!"),
    "overlong slash": (b"\xc0\xaf.", "\ufffd\ufffd."),
    "surrogate": (b"\xed\xa0\x80.", "\ufffd\ufffd\ufffd."),
    "above the last plane": (b"\xf4\x90\x80\x80.", "\ufffd\ufffd\ufffd\ufffd."),
    "unfinished at the end": ("ok 🎉".encode()[:-1], "ok \ufffd"),
}


@pytest.mark.parametrize(("data", "expected"), BROKEN.values(), ids=BROKEN)
def test_bytes_that_are_no_character_become_a_mark_and_swallow_nothing(data: bytes, expected: str) -> None:
    """As Unicode recommends (chapter 3.9, "maximal subpart"): a mark for each part that could have begun one."""
    for first, second in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert assembled(cut(data, (first, second))) == (expected, False)


def test_a_byte_that_breaks_a_character_brings_the_text_back_at_once() -> None:
    assembler = TextAssembler()
    assert assembler.feed(b"\xf0\x9f") == ""
    assert assembler.feed(b"a") == "\ufffda"


# Starts of characters of each length, bytes that continue them, and bytes that never occur.
byte_runs = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\xc3", b"\xe4\xbd", b"\xf0\x9f\x98", b"\x80", b"\xbf", b"\xff", b"\xed\xa0\x80", b"\xf4\x90"]
        ),
        st.text(max_size=3).map(str.encode),
        st.binary(max_size=3),
    ),
    max_size=12,
).map(b"".join)
places = st.lists(st.integers(0, 200), max_size=8)


@settings(deadline=None)
@given(data=byte_runs, places=places)
@example(data=b"\xf0\x9f\x8e", places=[1, 2])
def test_any_bytes_cut_anywhere_are_decoded_as_a_whole(data: bytes, places: list[int]) -> None:
    assert assembled(cut(data, places)) == (data.decode("utf-8", "replace"), False)


@settings(deadline=None)
@given(data=byte_runs, places=places)
def test_a_stop_text_that_never_comes_changes_nothing(data: bytes, places: list[int]) -> None:
    expected = data.decode("utf-8", "replace")
    stop = "\ue123\ue124\ue125"
    if stop not in expected:
        assert assembled(cut(data, places), [stop]) == (expected, False)


# Stop texts

STOPS = {
    "in the middle": ("one STOP two", ["STOP"], "", "one ", True),
    "at the start": ("STOP two", ["STOP"], "", "", True),
    "at the end": ("one STOP", ["STOP"], "", "one ", True),
    "not there": ("one two", ["STOP"], "", "one two", False),
    "begun and not ended": ("one STO", ["STOP"], "", "one STO", False),
    "begun twice": ("SSTOSTOP", ["STOP"], "", "SSTO", True),
    "repeated start": ("aaaab", ["aab"], "", "aa", True),
    "a line break": ("one\n\ntwo", ["\n\n"], "", "one", True),
    "of several bytes": ("x 🎉🎊 y", ["🎊"], "", "x 🎉", True),
    "first of two": ("a B c D", ["D", "B"], "", "a ", True),
    "one within another": ("abcd", ["abcd", "bc"], "", "a", True),
    "one the start of another": ("abcd", ["abcd", "ab"], "", "", True),
    "one the end of another": ("xabcd", ["cd", "abcd"], "", "x", True),
    "overlapping": ("aabab", ["bab", "aba"], "", "a", True),
    "the longer one fails": ("abcx", ["abcd", "bc"], "", "a", True),
    "empty ones are none": ("one", ["", ""], "", "one", False),
    "an empty one beside a real one": ("one STOP", ["", "STOP"], "", "one ", True),
    "behind the gate": ("a STOP</think>b STOP c", ["STOP"], CLOSE, "a STOP</think>b ", True),
    "only before the gate": ("a STOP</think>b", ["STOP"], CLOSE, "a STOP</think>b", False),
    "gate never comes": ("a STOP b", ["STOP"], CLOSE, "a STOP b", False),
    "gate begun and not ended": ("a STOP </thin", ["STOP"], CLOSE, "a STOP </thin", False),
    "right behind the gate": ("a</think>STOP", ["STOP"], CLOSE, "a</think>", True),
    "spanning the gate": ("a</think>STOP b", ["k>ST"], CLOSE, "a</think>STOP b", False),
    "ending within the gate": ("STOP</think>b", ["STOP</"], CLOSE, "STOP</think>b", False),
    "the gate as a stop text": ("a</think>b</think>c", [CLOSE], CLOSE, "a</think>b", True),
    "second gate means nothing": ("a</think>b</think>STOP c", ["STOP"], CLOSE, "a</think>b</think>", True),
    "gate without stop texts": ("a</think>b", [], CLOSE, "a</think>b", False),
}


@pytest.mark.parametrize(("text", "stop", "gate", "expected", "stopped"), STOPS.values(), ids=STOPS)
def test_stop_texts(text: str, stop: list[str], gate: str, expected: str, stopped: bool) -> None:
    data = text.encode()
    for first, second in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert assembled(cut(data, (first, second)), stop, gate) == (expected, stopped)
    assert assembled([bytes([byte]) for byte in data], stop, gate) == (expected, stopped)


@pytest.mark.parametrize(("text", "stop", "gate", "expected", "stopped"), STOPS.values(), ids=STOPS)
def test_the_oracle_agrees_with_the_table(text: str, stop: list[str], gate: str, expected: str, stopped: bool) -> None:
    assert oracle(text, [one for one in stop if one], gate) == (expected, stopped)


# Few letters, so that stop texts overlap one another and begin within the text all the time.
few_letters = st.text("ab<é", max_size=24)
few_stops = st.lists(st.text("ab<é", min_size=1, max_size=4), max_size=3)


@settings(deadline=None)
@given(text=few_letters, stop=few_stops, gate=st.sampled_from(["", "a", "<b", "aba"]), places=places)
@example(text="aabab", stop=["bab", "aba"], gate="", places=[1, 3])
def test_any_text_any_stops_any_cuts(text: str, stop: list[str], gate: str, places: list[int]) -> None:
    assert assembled(cut(text.encode(), places), stop, gate) == oracle(text, stop, gate)


@settings(deadline=None)
@given(text=few_letters, stop=few_stops, gate=st.sampled_from(["", "<b"]), places=places)
def test_text_comes_as_soon_as_it_is_certain(text: str, stop: list[str], gate: str, places: list[int]) -> None:
    """What is held back at any time is no longer than a stop text or the gate that it may become."""
    assembler = TextAssembler(stop, gate)
    longest = max([len(one) for one in stop] + ([len(gate)] if stop else []), default=1)
    fed = given_out = ""
    for piece in text:
        fed += piece
        given_out += assembler.feed(piece.encode())
        assert fed.startswith(given_out)
        if not assembler.stopped:
            assert len(fed) - len(given_out) < longest


def test_text_that_can_be_no_stop_text_is_not_held_back() -> None:
    assembler = TextAssembler(["STOP", "</s>"])
    assert assembler.feed(b"hello ") == "hello "
    assert assembler.feed(b"S") == ""
    assert assembler.feed(b"T") == ""
    assert assembler.feed(b"x") == "STx"
    assert assembler.feed(b"<") == ""
    assert assembler.feed(b"b>") == "<b>"


def test_without_stop_texts_the_gate_holds_nothing_back() -> None:
    assert TextAssembler([], CLOSE).feed(b"a</thi") == "a</thi"


def test_nothing_comes_after_the_stop() -> None:
    assembler = TextAssembler(["STOP"])
    assert assembler.feed("one STOP two 🎉".encode()) == "one "
    assert assembler.stopped
    assert assembler.feed(b" three STOP four \xf0\x9f") == ""
    assert assembler.flush() == ""
    assert assembler.stopped


def test_an_unfinished_character_does_not_make_a_stop() -> None:
    """The first three bytes of the stop text's one character are not that character."""
    data = "a🎉".encode()[:-1]
    assert assembled([data], ["🎉"]) == ("a\ufffd", False)


def test_a_stop_text_may_be_completed_by_the_flush() -> None:
    """An unfinished character becomes U+FFFD only at the end, and that is text like any other."""
    assert assembled([b"a\xf0\x9f"], ["\ufffd"]) == ("a", True)

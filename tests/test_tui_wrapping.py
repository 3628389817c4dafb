"""Breaking text into lines: nothing lost, nothing too wide, and the same however the text came."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from r1local.terminal import TerminalCleaner, clean
from r1local.tui.text import page, wrapping
from r1local.tui.text.page import Page
from r1local.tui.text.wrapping import TAB, cells, shown, wrap
from tests.tui import cut, hard_text

widths = st.integers(2, 14)


@given(hard_text, widths)
@example("aa\u200d\u200da", 2)
@example("\t\u200d", 2)
@example("a" + "\u0301" * 500, 5)
def test_every_character_is_in_exactly_one_line(text: str, width: int) -> None:
    assert "".join(wrap(text, width)) == text


@given(hard_text, widths)
@example("\u200d\u200da👩", 2)
@example("aaaa©\ufe0f", 5)
def test_no_line_is_wider_than_the_screen(text: str, width: int) -> None:
    for line in wrap(clean(text), width):
        assert cells(shown(line)) <= width


@given(hard_text, widths)
def test_what_is_not_shown_is_white(text: str, width: int) -> None:
    for line in wrap(text, width):
        assert not line.removeprefix(shown(line)).strip(" \t\n")


@given(st.text(alphabet="abc  .,(", max_size=80), widths)
def test_the_short_cut_for_narrow_text_breaks_where_the_long_way_does(text: str, width: int) -> None:
    for start in range(len(text)):
        assert wrapping._narrow_line_end(text, start, len(text), width) == wrapping._line_end(
            text, start, len(text), width
        )


def test_what_counts_as_narrow_fills_one_cell() -> None:
    for char in map(chr, range(sys.maxunicode + 1)):
        if wrapping._NARROW.fullmatch(char):
            assert cell_len(char) == 1


@given(hard_text)
def test_cells_are_those_of_rich(text: str) -> None:
    plain = clean(text).replace("\t", "").replace("\n", "")
    assert cells(plain) == cell_len(plain)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 10, [""]),
        ("one two three", 8, ["one two ", "three"]),
        ("one two", 7, ["one two"]),
        ("one two  three", 7, ["one two  ", "three"]),
        ("one\n\ntwo\n", 10, ["one\n", "\n", "two\n", ""]),
        ("    indented", 8, ["    inde", "nted"]),
        ("a verylongword", 6, ["a ", "verylo", "ngword"]),
        ("我们需要计算", 5, ["我们", "需要", "计算"]),
        ("我们。需要", 4, ["我", "们。", "需要"]),
        ("用Python写", 8, ["用Python", "写"]),
        ("「好」的", 4, ["「好", "」的"]),
        ("ab👩\u200d🚀cd", 4, ["ab👩\u200d🚀", "cd"]),
        ("a\tb\tc", 8, ["a\tb\t", "c"]),
        ("x" * 7, 3, ["xxx", "xxx", "x"]),
    ],
)
def test_where_lines_break(text: str, width: int, lines: list[str]) -> None:
    assert wrap(text, width) == lines


def test_tabs_end_at_stops() -> None:
    assert [cells("a\tb"), cells("\t"), cells("abcd\t"), cells("\t", column=2)] == [TAB + 1, TAB, 2 * TAB, 2]


@given(hard_text, st.lists(st.integers(0, 80), max_size=6), st.lists(widths, max_size=6), widths)
def test_cuts_and_resizes_make_no_difference(text: str, places: list[int], resizes: list[int], width: int) -> None:
    grown = Page(7)
    cleaner = TerminalCleaner()
    for number, piece in enumerate(cut(text, places)):
        grown.append(cleaner.feed(piece))
        if number < len(resizes):
            grown.rewrap(resizes[number])
    grown.append(cleaner.flush())
    grown.rewrap(width)
    grown.append("")
    whole = Page(width)
    whole.append(clean(text))
    assert [grown.line(at) for at in range(len(grown))] == [whole.line(at) for at in range(len(whole))]
    assert grown.text == whole.text == clean(text)
    assert grown.size == len(clean(text))


@given(hard_text, widths, st.integers(0, 80), st.integers(0, 80))
def test_places(text: str, width: int, start: int, end: int) -> None:
    whole = Page(width)
    whole.append(text)
    start, end = sorted((min(start, len(text)), min(end, len(text))))
    assert whole.cut(start, end) == text[start:end]
    assert whole.start(whole.line_of(start)) <= start
    began, rest = whole.since(start)
    assert text[began:] == rest
    assert began <= start


def test_blank_lines_at_the_end_wait() -> None:
    growing = Page(10)
    lengths = []
    for piece in ("a\n", "\n", " \n", "b"):
        growing.append(piece)
        lengths.append(len(growing))
    assert lengths == [1, 1, 1, 4]


def test_adding_looks_at_the_last_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    def watched(text: str, width: int) -> list[str]:
        looked_at.append(len(text))
        return wrap(text, width)

    monkeypatch.setattr(page, "wrap", watched)
    growing = Page(40)
    for _ in range(5000):
        growing.append("the sum of it 中文 ")
    assert max(looked_at) < 40 + 20


def test_a_line_of_a_million_accents_is_cut() -> None:
    lines = wrap("a" + "\u0301" * 100_000, 80)
    assert max(map(len, lines)) <= 80 * 8

"""The cleaner between strangers' text and the terminal: nothing is obeyed, nothing hidden, nothing swallowed."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from typing import Any

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wcwidth import wcswidth

from r1local.terminal import TerminalCleaner, clean, clean_line, escape_json

ESC, BEL, ST, CSI_8, OSC_8, ST_8 = "\x1b", "\x07", "\x1b\\", "\x9b", "\x9d", "\x9c"
ZWNJ, ZWJ, VS16 = "\u200c", "\u200d", "\ufe0f"

# Every control character but line feed and tab: C0, DEL and the 8-bit C1.
CONTROLS = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0)])) - {"\n", "\t"}


def chars(*ranges: tuple[int, int]) -> list[str]:
    return [chr(code) for first, last in ranges for code in range(first, last + 1)]


# Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt: what a screen shows nothing for.
IGNORABLE = {
    "soft hyphen": chars((0xAD, 0xAD)),
    "combining grapheme joiner": chars((0x34F, 0x34F)),
    "Arabic letter mark": chars((0x61C, 0x61C)),
    "Hangul fillers": chars((0x115F, 0x1160), (0x3164, 0x3164), (0xFFA0, 0xFFA0)),
    "Khmer inherent vowels": chars((0x17B4, 0x17B5)),
    "Mongolian variation selectors": chars((0x180B, 0x180D), (0x180F, 0x180F)),
    "Mongolian vowel separator": chars((0x180E, 0x180E)),
    "zero-width space": chars((0x200B, 0x200B)),
    "direction marks": chars((0x200E, 0x200F)),
    "bidi embeddings and overrides": chars((0x202A, 0x202E)),
    "word joiner, invisible operators": chars((0x2060, 0x2065)),
    "bidi isolates and deprecated controls": chars((0x2066, 0x206F)),
    "byte order mark": chars((0xFEFF, 0xFEFF)),
    "reserved specials": chars((0xFFF0, 0xFFF8)),
    "shorthand controls": chars((0x1BCA0, 0x1BCA3)),
    "musical controls": chars((0x1D173, 0x1D17A)),
    "tags and further variation selectors": chars((0xE0000, 0xE0FFF)),
}
INVISIBLE = frozenset(itertools.chain(*IGNORABLE.values(), chars((0xFE00, 0xFE0F))))
# Always hidden, whatever stands beside: these must never come out. Line and paragraph separators, interlinear
# annotations and lone surrogates are not ignorable and still not text.
HIDDEN = frozenset(
    chars(
        (0x61C, 0x61C), (0x200B, 0x200B), (0x200E, 0x200F), (0x202A, 0x202E), (0x2028, 0x2029), (0x2060, 0x2064),
        (0x2066, 0x206F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0xE0001, 0xE0001), (0xE0020, 0xE007F), (0xD800, 0xDFFF),
    )
)  # fmt: skip
# A joiner stands between two visible characters, a variation selector behind one; the only legitimate run of
# them is a selector and a joiner, as in an emoji of two.
INVISIBLE_RUN = re.compile("[\u200c\u200d\ufe00-\ufe0f]+")
LEGITIMATE_RUN = re.compile("[\ufe00-\ufe0f]?[\u200c\u200d]?")


def assert_clean(text: str) -> None:
    bad = sorted({f"U+{ord(char):04X}" for char in text if char in CONTROLS or char in HIDDEN})
    assert not bad, f"{bad} in {text!r}"


def assert_nothing_swallowed(text: str, result: str) -> None:
    """Each visible character comes out, in order, and each other one leaves something (but for CR before LF)."""
    rest = iter(result)
    for char in text:
        if char == " " or (unicodedata.category(char)[0] in "LMNPS" and char not in INVISIBLE):
            assert char in rest, f"{char!r} of {text!r} is not in {result!r}"
    assert len(result) >= len(text) - text.count("\r\n")


HOSTILE: dict[str, str] = {
    "CSI clear screen": f"a{ESC}[2J{ESC}[Hb",
    "CSI cursor up": f"a{ESC}[5Ab",
    "CSI colour": f"{ESC}[31;1mred{ESC}[0m plain",
    "CSI alternate screen": f"{ESC}[?1049hhidden",
    "CSI device status": f"{ESC}[6n{ESC}[cafter",
    "CSI unterminated": f"a{ESC}[12;",
    "CSI, 8-bit": f"a{CSI_8}2Jb",
    "OSC 0 title, BEL": f"a{ESC}]0;owned{BEL}after",
    "OSC 0 title, ST": f"a{ESC}]0;owned{ST}after",
    "OSC 2 title, BEL": f"a{ESC}]2;owned{BEL}after",
    "OSC 2 title, ST": f"a{ESC}]2;owned{ST}after",
    "OSC 7 folder, BEL": f"{ESC}]7;file://host/tmp{BEL}after",
    "OSC 7 folder, ST": f"{ESC}]7;file://host/tmp{ST}after",
    "OSC 8 link, BEL": f"{ESC}]8;;https://evil.example{BEL}bank{ESC}]8;;{BEL}after",
    "OSC 8 link, ST": f"{ESC}]8;;https://evil.example{ST}bank{ESC}]8;;{ST}after",
    "OSC 9 notice, BEL": f"{ESC}]9;hello{BEL}after",
    "OSC 9 notice, ST": f"{ESC}]9;4;1;50{ST}after",
    "OSC 52 clipboard, BEL": f"{ESC}]52;c;cm0gLXJmIC8={BEL}after",
    "OSC 52 clipboard, ST": f"{ESC}]52;c;?{ST}after",
    "OSC 1337 file, BEL": f"{ESC}]1337;File=inline=1:AAAA{BEL}after",
    "OSC 1337 file, ST": f"{ESC}]1337;SetMark{ST}after",
    "OSC, 8-bit": f"{OSC_8}2;owned{ST_8}after",
    "OSC unterminated": f"a{ESC}]0;the rest of the answer",
    "OSC unterminated, over lines": f"{ESC}]52;c;\nthe rest\nof the answer",
    "OSC, 8-bit, unterminated": f"a{OSC_8}0;the rest of the answer",
    "DCS": f"{ESC}P1$r0m{ST}after",
    "DCS sixel, unterminated": f'{ESC}Pq"1;1;the rest',
    "DCS, 8-bit": f"\x90q#0{ST_8}after",
    "APC kitty": f"{ESC}_Gf=32,s=1;AAAA{ST}after",
    "APC, 8-bit": f"\x9fGi=1{ST_8}after",
    "PM": f"{ESC}^secret{ST}after",
    "PM, 8-bit": f"\x9esecret{ST_8}after",
    "SOS": f"{ESC}Xsecret{ST}after",
    "SOS, 8-bit, unterminated": "\x98the rest",
    "RIS reset": f"a{ESC}cb",
    "DECALN screen full of E": f"a{ESC}#8b",
    "line drawing characters": f"{ESC}(0lqqk{ESC}(B",
    "index, reverse index, next line": f"a{ESC}D{ESC}M{ESC}Eb",
    "next line, 8-bit": "a\x85b",
    "save and restore cursor": f"a{ESC}7b{ESC}8c",
    "BEL": f"a{BEL}b",
    "BS overtypes": "safe\b\b\b\bevil",
    "CR overtypes": "rm -rf /\recho hello",
    "CR at the end": "a\r",
    "two CR before LF": "a\r\r\nb",
    "VT": "a\vb",
    "FF": "a\fb",
    "DEL": "a\x7fb",
    "NUL": "a\0b",
    "ENQ answer back": "a\x05b",
    "SO and SI": "a\x0eqqq\x0fb",
    "separators": "a\x1c\x1d\x1e\x1fb",
    "every C1": "a" + "".join(chars((0x80, 0x9F))) + "b",
    "lone ESC at the end": f"a{ESC}",
    "ESC ESC ESC": f"{ESC}{ESC}{ESC}[31mx",
    "ESC before a wide character": f"{ESC}日本",
    "bidi override": "invoice\u202egpj.exe",
    "bidi embeddings": "a\u202ab\u202bc\u202cd\u202de",
    "bidi isolates": "a\u2066b\u2067c\u2068d\u2069e",
    "Arabic letter mark": "a\u061cb",
    "direction marks": "a\u200eb\u200fc",
    "zero-width space": "pay\u200bpal",
    "byte order mark": "\ufeffa\ufeffb",
    "tag characters": "a" + "".join(chr(0xE0000 + ord(char)) for char in "Azignore") + "\U000e007fb",
    "repeated variation selectors": "a" + VS16 * 5 + "b",
    "every variation selector": "a" + "".join(chars((0xFE00, 0xFE0F))) + "b",
    "line and paragraph separator": "a\u2028b\u2029c",
    "lone surrogates": "a\ud800b\udfffc",
    "surrogates in wrong order": "a\udc00\ud800b",
    "joiner at the start": f"{ZWJ}a",
    "joiner at the end": f"a{ZWNJ}",
    "joiner beside a control": f"a{ZWJ}{ESC}[2J",
    "joiners between digits": f"1{ZWJ}2{ZWNJ}3",
    "joiner in a run of spaces": f"a {ZWJ} b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text(text: str) -> None:
    result = clean(text)
    assert result != text
    assert_clean(result)
    assert_nothing_swallowed(text, result)
    for run in INVISIBLE_RUN.findall(result):
        assert LEGITIMATE_RUN.fullmatch(run), f"{run!r} in {result!r}"


COLUMNS, LINES = 400, 12


def screen_after(text: str) -> pyte.Screen:
    """A terminal after `text`, behind a tty that writes CR LF for LF."""
    screen = pyte.Screen(COLUMNS, LINES)
    screen.set_title("before")
    screen.set_icon_name("before")
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return screen


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_terminal_shows_the_text_and_obeys_nothing(text: str) -> None:
    # pyte stops at characters without a width of their own; the legitimate ones are not what this is about.
    result = INVISIBLE_RUN.sub("", clean(text))
    screen = screen_after(result)
    lines = result.split("\n")
    assert (screen.title, screen.icon_name) == ("before", "before")
    # pyte has an empty cell behind a wide character, and shows none in `display`.
    assert [line.rstrip() for line in screen.display[: len(lines)]] == [line.rstrip() for line in lines]
    assert not "".join(screen.display[len(lines) :]).strip()
    assert (screen.cursor.y, screen.cursor.x) == (len(lines) - 1, wcswidth(lines[-1]))


def test_the_terminal_would_have_obeyed() -> None:
    """Control of the test above: the same screen is fooled by the raw text."""
    assert screen_after(HOSTILE["OSC 0 title, BEL"]).title == "owned"
    assert screen_after(HOSTILE["CR overtypes"]).display[0].strip() == "echo hello"
    assert screen_after(HOSTILE["OSC unterminated"]).display[0].strip() == "a"
    assert screen_after(HOSTILE["CSI, 8-bit"]).display[0].strip() == "b"


@pytest.mark.parametrize("ignorable", IGNORABLE.values(), ids=IGNORABLE)
def test_what_a_screen_shows_nothing_for_is_shown(ignorable: list[str]) -> None:
    """Each of them between two letters, where it says nothing, carries a hidden bit."""
    unseen = [f"U+{ord(char):04X}" for char in ignorable if char in clean(f"a{char}b")]
    assert not unseen


UNCHANGED = {
    "empty": "",
    "plain": "Hello, world! ~{}[]\\|^`",
    "newlines and tabs": "a\n\tb\n\n\tc\n",
    "Latin": "Größe, naïve, Ångström, ½ × 2 ≠ 1",
    "combining marks": "e\u0301 a\u0308\u0301 o\u0332",
    "CJK": "你好，世界。こんにちは 안녕하세요",
    "Persian with ZWNJ": "می‌خواهم",
    "Hindi with ZWJ": "क्‍ष",
    "Sinhala with ZWJ": "ශ්‍රී",
    "Arabic and Hebrew": "مرحبا שלום",
    "Thai": "ภาษาไทยที่นี่",
    "family": "👨‍👩‍👧‍👦",
    "flags": "🇩🇪🇯🇵",
    "heart": "❤️",
    "couple: selector and joiner": "👩‍❤️‍👨",
    "rainbow flag": "🏳️‍🌈",
    "keycap": "1️⃣",
    "skin tone": "👍🏽",
    "technician with skin tone": "👩🏽‍💻",
    "mathematics": "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ 𝒜𝔅",
    "box drawing": "┌─┐│█▄└─┘",
    "tokens of the models": "<｜begin▁of▁sentence｜><think>\n</think>",
    "caret notation in text": "press ^C or ^[",
}


@pytest.mark.parametrize("text", UNCHANGED.values(), ids=UNCHANGED)
def test_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\r\nb\r\n", "a\nb\n"), ("\r\n", "\n"), ("\r\n\r\n", "\n\n"), ("a\n\r\nb", "a\n\nb")],
)
def test_windows_line_ends(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"a{ZWJ}{ZWJ}b", id="two ZWJ"),
        pytest.param(f"a{ZWNJ}{ZWJ}b", id="ZWNJ and ZWJ"),
        pytest.param(f"👨{ZWJ * 40}👩", id="forty ZWJ"),
        pytest.param(f"a{ZWJ}{VS16}{ZWJ}{VS16}b", id="joiners and selectors in turn"),
        pytest.param(
            "a" + "".join(ZWJ + chr(0xFE00 + int(digit, 16)) for digit in b"evil".hex()) + "b", id="a message"
        ),
    ],
)
def test_no_runs_of_invisible_characters(text: str) -> None:
    """Joiners join what is visible. In runs they say nothing, and hide a message in their number or order."""
    for run in INVISIBLE_RUN.findall(clean(text)):
        assert LEGITIMATE_RUN.fullmatch(run)


# --- texts rich in what matters ---

SUSPECTS = f"{ESC}{BEL}{CSI_8}{OSC_8}{ST_8}\r\n\t\b\0\x7f\x85{ZWNJ}{ZWJ}{VS16}\ufe0e\u200b\u202e\u2066\u2069\ufeff"
SUSPECTS += "\u061c\u200e\u2028\u00ad\u115f\u3164\u17b4\U000e0041\U000e0100\ud800\udc00"
NEIGHBOURS = "[]\\ab 1^⟨日éمیक्ष👨👩❤🇩\u0301"
PIECES = st.one_of(st.sampled_from([*SUSPECTS]), st.sampled_from([*NEIGHBOURS, "\r\n", "[2J", "]0;"]), st.characters())
TEXTS = st.lists(PIECES, max_size=16).map("".join)


def in_pieces(pieces: list[str]) -> str:
    cleaner = TerminalCleaner()
    return "".join([*map(cleaner.feed, pieces), cleaner.flush()])


@pytest.mark.parametrize("text", [*HOSTILE.values(), *UNCHANGED.values()], ids=[*HOSTILE, *UNCHANGED])
def test_every_three_way_cut(text: str) -> None:
    expected = clean(text)
    for first, second in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        pieces = [text[:first], text[first:second], text[second:]]
        assert in_pieces(pieces) == expected, pieces
    assert in_pieces(list(text)) == expected


@settings(max_examples=1000, deadline=None)
@given(text=TEXTS, data=st.data())
def test_any_cut_gives_the_same(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert in_pieces(pieces) == clean(text)


def test_a_cleaner_starts_afresh_after_flush() -> None:
    """The end of one answer is no neighbour of the start of the next."""
    cleaner = TerminalCleaner()
    first = cleaner.feed("a") + cleaner.flush()
    assert first == "a"
    assert cleaner.feed(f"{ZWJ}b") + cleaner.flush() == clean(f"{ZWJ}b")


@settings(max_examples=1000, deadline=None)
@given(text=TEXTS)
def test_any_text_comes_out_clean(text: str) -> None:
    result = clean(text)
    assert_clean(result)
    assert_nothing_swallowed(text, result)
    result.encode("utf-8")


@settings(max_examples=1000, deadline=None)
@given(text=TEXTS)
@example(text=f"{ZWJ}{ZWJ}a")
@example(text=f"\u115f{ZWJ}a")
@example(text=f"a{VS16}{VS16}{ZWJ}b")
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@pytest.mark.parametrize(
    ("unit", "amount"),
    [("\x1b]", 10_000_000), ("\r", 1_000_000), (ZWJ, 1_000_000), (VS16, 1_000_000)],
    ids=["ESC ]", "CR", "ZWJ", "selector"],
)
def test_what_is_held_back_stays_small(unit: str, amount: int) -> None:
    """Megabytes in pieces of all lengths: never more than one character waits, and one is remembered."""
    cleaner = TerminalCleaner()
    lengths = itertools.cycle([1, 2, 3, 65_535, 65_536, 7])
    flood = unit * 65_536
    fed = given_out = 0
    while fed < amount:
        piece = flood[fed % len(unit) :][: next(lengths)]
        fed += len(piece)
        given_out += len(cleaner.feed(piece))
        assert given_out >= fed - 1, "each character leaves at least one, and at most one waits"
        assert sum(len(value) for value in vars(cleaner).values()) <= 2
    assert len(cleaner.flush()) < 20


# --- one line ---


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_clean_line_joins_every_kind_of_line(break_: str) -> None:
    result = clean_line(f"one{break_}two")
    assert result.startswith("one")
    assert result.endswith("two")
    assert result.splitlines() == [result]


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
def test_clean_line_is_one_clean_line(text: str) -> None:
    result = clean_line(text)
    assert_clean(result)
    assert "\n" not in result
    assert "\t" not in result
    assert len(result.splitlines()) <= 1
    assert_nothing_swallowed(text, result)


# --- JSON ---

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(value=VALUES, indent=st.sampled_from([None, 2, "\t"]))
@example(value="\\\x7f\\\\\x9b", indent=None)
@example(value={"\u202e": ["\U000e0041\U0010ffff"]}, indent=2)
@example(value="\ud800\udc00 \ud800", indent=None)
def test_escaped_json_is_the_same_value(value: Any, indent: Any) -> None:
    """A lone high and a lone low surrogate in a row become one character: that is JSON, and `json` does it too."""
    escaped = escape_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert json.loads(escaped) == json.loads(json.dumps(value))
    assert_clean(escaped)
    assert ZWJ not in escaped
    assert ZWNJ not in escaped
    escaped.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(value=st.text())
def test_escaped_json_without_surrogates(value: str) -> None:
    assert json.loads(escape_json(json.dumps(value, ensure_ascii=False))) == value


@pytest.mark.parametrize("text", [*HOSTILE.values(), *UNCHANGED.values()], ids=[*HOSTILE, *UNCHANGED])
def test_json_of_the_table(text: str) -> None:
    """Printed on a terminal it is as harmless as the cleaned text, and keeps no more hidden than that does."""
    escaped = escape_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(escaped) == json.loads(json.dumps(text))
    assert_clean(escaped)
    for run in INVISIBLE_RUN.findall(escaped):
        assert LEGITIMATE_RUN.fullmatch(run)


def test_json_without_suspects_is_left_as_it_is() -> None:
    """Readable in every script; escapes are for what would harm."""
    document = json.dumps({"größe": ["日本", "é", "👍", 1.5]}, ensure_ascii=False, indent=2)
    assert escape_json(document) == document

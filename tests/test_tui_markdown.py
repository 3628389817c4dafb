"""Markdown in pieces: the same blocks however it is cut, nothing lost, nothing hidden, nothing too wide."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from r1local.terminal import clean
from r1local.tui.text.blocks import Blocks, Reader
from r1local.tui.text.colours import colours
from r1local.tui.text.leaves import Leaf
from r1local.tui.text.markdown import outline
from r1local.tui.text.sheet import Sheet, rows_of
from r1local.tui.text.wrapping import cells, shown
from tests.tui import cut, hard_text

LINES = (
    "para|a | b|--\\|--|\\|x\\|y\\||- item|  more|    code|1. one|2. two|3) x|# h|#|```|```py|~~~|---|===|> q|>||"
    "\\[|\\]|x = 1|$$|\\begin{align}|\\end{align}|[foo]: /u|<div>|* * *|-|+|\\[ x \\] y|   - deep|      - deeper|"
    "\t tab|1.|[foo]:|/url|$x$ **b** `c`|\\boxed{1}"
).replace("\\|", "\0")
lines = st.sampled_from([line.replace("\0", "|") for line in LINES.split("|")])
documents = st.lists(lines, max_size=14).map("\n".join) | st.text(alphabet="ab *_`#>-|\n\\[]()$1. ", max_size=80)
widths = st.integers(14, 60)


def blocks(pieces: list[str]) -> list[str]:
    splitter = Blocks()
    finished = [block for piece in pieces for block in splitter.feed(piece)]
    return finished + splitter.flush()


@given(documents, st.lists(st.integers(0, 120), max_size=6))
def test_blocks_are_the_same_however_the_text_is_cut(text: str, places: list[int]) -> None:
    whole = blocks([text])
    assert "".join(whole) == text
    assert blocks(list(text)) == whole
    assert blocks(cut(text, places)) == whole


@given(documents)
def test_blocks_are_those_of_the_whole_document(text: str) -> None:
    def tops(source: str) -> list[str]:
        return [token.type for token in outline().parse(source) if token.map and not token.level]

    assert [kind for block in blocks([text]) for kind in tops(block)] == tops(text)


def test_a_block_is_finished_by_the_next() -> None:
    splitter = Blocks()
    assert splitter.feed("one\n\ntw") == []
    assert splitter.feed("o\n") == ["one\n\n"]
    assert splitter.feed("```\n\n# no\n") == ["two\n"]
    assert splitter.feed("```\n") == []
    assert splitter.open == "```\n\n# no\n```\n"
    assert splitter.flush() == ["```\n\n# no\n```\n"]


def said(text: str) -> list[Leaf]:
    reader = Reader()
    return [leaf for block in blocks([text]) for leaf in reader.read(block, finished=True)]


def sheet(text: str, width: int = 40) -> list[str]:
    drawn = Sheet(width)
    drawn.show(said(text), finished=True)
    return [(row.before + shown(row.text)).rstrip() for row in map(drawn.row, range(len(drawn)))]


@given(documents | hard_text, widths)
def test_no_row_is_wider_than_the_screen(text: str, width: int) -> None:
    for leaf in said(clean(text)):
        for row in rows_of(leaf, width):
            assert cells(row.before) + cells(shown(row.text)) <= width


@given(st.text(alphabet="abc 中文é\n", max_size=80), widths)
def test_plain_text_is_all_there(text: str, width: int) -> None:
    assert "".join(sheet(text, width)).replace(" ", "") == text.replace("\n", "").replace(" ", "")


@given(documents, widths, widths)
@example("> a\n\n> b", 20, 30)
def test_pieces_and_widths_make_no_difference(text: str, first: int, width: int) -> None:
    reader, splitter, grown = Reader(), Blocks(), Sheet(first)
    for piece in text:
        for block in splitter.feed(piece):
            grown.show(reader.read(block, finished=True), finished=True)
        grown.show(reader.read(splitter.open, finished=False), finished=False)
    for block in splitter.flush():
        grown.show(reader.read(block, finished=True), finished=True)
    grown.rewrap(width)
    assert [(grown.row(at).before + shown(grown.row(at).text)).rstrip() for at in range(len(grown))] == sheet(
        text, width
    )


@given(documents, st.integers(0, 200), st.integers(0, 200))
def test_places_of_a_sheet(text: str, start: int, end: int) -> None:
    drawn = Sheet(30)
    drawn.show(said(text), finished=True)
    everything = drawn.since(0)[1]
    assert len(everything) == drawn.size
    start, end = sorted((min(start, drawn.size), min(end, drawn.size)))
    for char in everything[start:end].strip():
        assert char in drawn.cut(start, end)
    began, rest = drawn.since(start)
    assert everything[began:] == rest


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("# A\ntext", ["A", "", "text"]),
        ("- a\n- b\n  - c\n- d", ["• a", "• b", "  ◦ c", "• d"]),
        ("- a\n\n- b", ["• a", "", "• b"]),
        ("9. a\n1. b\n-", ["9. a", "10. b", "", "•"]),
        ("> a\n>\n> b", ["▌ a", "▌", "▌ b"]),
        ("> a\n\n\n> b", ["▌ a", "", "▌ b"]),
        ("1. a\n\n   b\n   > c", ["1. a", "", "   b", "", "   ▌ c"]),
        (
            "- a long item that is wrapped once or even twice, who knows",
            ["• a long item that is wrapped once or", "  even twice, who knows"],
        ),
        ("```py\nif a:\n\tb\n```", ["if a:", "    b"]),
        ("```no such language\na\n```", ["no such language", "", "a"]),
        ("a  \nb", ["a", "b"]),
        ("---", ["─" * 40]),
        ("<b>a</b>", ["<b>a</b>"]),
        ("[a](http://b) http://c", ["a (http://b) http://c"]),
        ("![a](b.png)", ["[a: b.png]"]),
        ("[foo]: http://x 'y'", ["[foo]: http://x 'y'"]),
        ("|a|b|\n|-|-:|\n|1|2|\n|333|4|", ["a   │ b", "────┼──", "1   │ 2", "333 │ 4"]),
    ],
)
def test_rows(text: str, rows: list[str]) -> None:
    assert sheet(text) == rows


def test_tables_give_way() -> None:
    table = "| name | what it is |\n|:-:|---|\n| one | a long explanation of it |"
    assert sheet(table, 24) == [
        "name │ what it is",
        "─────┼──────────────────",
        "one  │ a long",
        "     │ explanation of it",
    ]
    many = "|a|b|c|\n|-|-|-|\n|a long value|another|a third|\n|x|y|z|"
    assert sheet(many, 14) == ["a: a long", "value", "b: another", "c: a third", "", "a: x", "b: y", "c: z"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (r"so \(x^2\) and $y_1$", ["so x² and y₁"]),
        (r"`\(x^2\)` and `$y_1$`", [r"\(x^2\) and $y_1$"]),
        ("```\n\\(x^2\\)\n```", [r"\(x^2\)"]),
        ("$5 and $10, or $5-$10, or US$5, $6", ["$5 and $10, or $5-$10, or US$5, $6"]),
        (r"\$x^2\$ \\(x^2\\)", [r"$x^2$ \(x^2\)"]),
        ("so\n\\[\na\n=\nb\n\\]\nthen", ["so", "", "    a = b", "", "then"]),
        ("$$\nx^2\n$$", ["    x²"]),
        (r"\[ x^2 \] where x", ["x² where x"]),
        ("\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}", ["    a = b", "    c = d"]),
        (r"**Answer:** \boxed{\frac{1}{2}}", ["Answer:  1/2"]),
        ("- \\(x_1\\)\n  \\[ y^2 \\]", ["• x₁", "      y²"]),
        ("|a|\n|-|\n|$x^2$|", ["a", "──", "x²"]),
        ("\\[ x^2\n\nnext", [r"[ x^2", "", "next"]),
        (r"\(x^2", [r"(x^2"]),
    ],
)
def test_formulas(text: str, rows: list[str]) -> None:
    assert sheet(text) == rows


def test_a_formula_that_is_still_coming_is_one_already() -> None:
    reader = Reader()
    assert reader.read(r"so \(x^2 +", finished=False)[0].line.text == "so x² +"
    assert reader.read("\\[\n\\frac{a}{", finished=False)[0].line.text == "a/"
    assert reader.read("it costs $x^2", finished=False)[0].line.text == "it costs $x^2"


@pytest.mark.parametrize(
    "text",
    [
        "&#8238;abc",
        "&#x202e;abc",
        "[a](http://b/%E2%80%AE)",
        "<http://b/%E2%80%AE>",
        "&ZeroWidthSpace;a",
        "```&#8238;\n```",
    ],
)
def test_entities_and_links_smuggle_nothing(text: str) -> None:
    assert not {"\u202e", "\u200b"} & set("".join(sheet(text)))


@pytest.mark.parametrize("depth", [5, 30, 39, 45, 2000])
def test_depth_hides_nothing(depth: int) -> None:
    assert "here" in "".join(sheet(">" * depth + " here", 60))
    assert "here" in "".join(sheet("".join(f"{'  ' * at}- a\n" for at in range(min(depth, 60))) + "\nhere", 60))


@pytest.mark.parametrize("text", ["x" * 300_000, "- a\n" * 30_000, "[" * 60_000, "```\n" + "a b\n" * 40_000])
def test_what_is_very_long_is_shown_as_it_is(text: str) -> None:
    assert sum(map(len, sheet(text, 80))) >= len(text.replace("\n", "").replace(" ", ""))


def test_colours_of_programs() -> None:
    code = 'def f(a):  # one\n    return "x" + 1\n'
    assert {(code[at:to], name) for at, to, name in colours(code, "python")} == {
        ("def", "keyword"),
        ("f", "name"),
        ("# one", "comment"),
        ("return", "keyword"),
        ('"', "string"),
        ("x", "string"),
        ("1", "number"),
    }
    assert colours(code, "no such language") == []
    assert colours("\n\n a\n\n", "python") == []

"""The answer while it comes: drawn as it grows, the same in the end however it came, copied and searched."""

from __future__ import annotations

import random

import pytest
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.selection import SELECT_ALL, Selection

from r1local.tui.widgets.answer import Answer
from tests.tui import Stage, play, seen

TEXT = """\
## Sum

The **tens** first, `then` the *units*: \\(x^2\\).

1. one
2. two, which is long enough to be wrapped on a screen as narrow as this one

| a | b |
|---|---|
| 1 | $y_1$ |

```python
def add(a, b):
    return a + b
```

\\[ \\boxed{132} \\]
"""
ROWS = [
    "Sum",
    "",
    "The tens first, then the units: x².",
    "",
    "1. one",
    "2. two, which is long enough to be",
    "   wrapped on a screen as narrow as this",
    "   one",
    "",
    "a │ b",
    "──┼───",
    "1 │ y₁",
    "",
    " def add(a, b):",
    "     return a + b",
    "",
    "     132",
]


@pytest.mark.parametrize("seed", range(8))
def test_however_it_comes_it_ends_the_same(seed: int) -> None:
    answer = Answer()
    draw = random.Random(seed)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        at = 0
        while at < len(TEXT):
            size = draw.choice([1, 2, 3, 7, 20, 90])
            answer.append(TEXT[at : at + size])
            if draw.random() < 0.7:
                answer.flush()
            if draw.random() < 0.1:
                await pilot.resize_terminal(draw.choice([30, 60, 90]), 40)
            at += size
        answer.finish()
        await pilot.resize_terminal(42, 40)
        await pilot.pause()
        assert seen(answer) == ROWS
        assert answer.source == TEXT

    play(scene, answer, size=(42, 40))


def test_it_is_drawn_ten_times_a_second_by_itself() -> None:
    answer = Answer()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        drawn = []
        real = answer.flush
        answer.flush = lambda: (drawn.append(1), real())[1]  # type: ignore[method-assign]
        for _ in range(60):
            answer.append("word ")
            await pilot.pause(0.005)
        await pilot.pause(0.25)
        assert seen(answer)[0].startswith("word word")
        assert answer.source.count("word") == 60
        assert 2 <= len(drawn) <= 12

    play(scene, answer)


def test_finished_blocks_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        read: list[str] = []
        real = answer._reader.read

        def watched(block: str, *, finished: bool) -> object:
            read.append(block)
            return real(block, finished=finished)

        monkeypatch.setattr(answer._reader, "read", watched)
        for number in range(100):
            answer.append(f"Paragraph {number}\n\n")
            answer.flush()
        assert max(map(len, read)) < 40
        assert sum("Paragraph 50" in block for block in read) <= 3

    play(scene, answer)


def test_a_line_that_only_begins_does_not_turn_the_one_above_into_a_heading() -> None:
    answer = Answer()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        for piece, rows in (
            ("Two things:\n", ["Two things:"]),
            ("-", ["Two things:"]),
            (" one", ["Two things:", "", "• one"]),
        ):
            answer.append(piece)
            answer.flush()
            await pilot.pause()
            assert seen(answer) == rows
            assert all(segment.style is None or not segment.style.bold for segment in answer.render_line(0))

    play(scene, answer)


def test_copying_gives_a_part_as_it_is_shown_and_the_whole_as_it_was_written() -> None:
    answer = Answer()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        answer.append(TEXT)
        answer.finish()
        await pilot.pause()
        assert answer.get_selection(SELECT_ALL) == (TEXT, "\n")
        await pilot.mouse_down(answer, offset=(1, 4))
        await pilot.hover(answer, offset=(7, 7))
        await pilot.mouse_up(answer, offset=(7, 7))
        selected = stage.screen.get_selected_text()
        assert selected
        assert selected.startswith("1. one\n2. two, which is long enough to be wrapped on a screen as narrow")
        assert answer.get_selection(Selection(Offset(5, 0), Offset(9, 0))) == ("The ", "\n")

    play(scene, answer, size=(42, 40))


def test_code_is_copied_as_it_was_written() -> None:
    answer = Answer()
    code = "def add(a, b):\n    return a + b + a_name_that_is_long + another_one_that_is_long\n"

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        answer.append(f"```python\n{code}```\n")
        answer.finish()
        await pilot.pause()
        await pilot.mouse_down(answer, offset=(1, 0))
        await pilot.hover(answer, offset=(38, answer.size.height - 1))
        await pilot.mouse_up(answer, offset=(38, answer.size.height - 1))
        assert stage.screen.get_selected_text() == code.rstrip("\n")

    play(scene, answer, size=(42, 40))


def test_it_is_searched_while_it_comes() -> None:
    before, answer = Answer(), Answer()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        before.append("filler\n\n" * 60)
        before.finish()
        answer.search("add")
        for char in TEXT * 3:
            answer.append(char)
        answer.finish()
        await pilot.pause()
        assert len(answer.matches) == 3
        assert answer.step_match() == answer.matches[0]
        await pilot.pause()
        top = stage.screen.query_one("VerticalScroll").scroll_offset.y
        assert 60 * 2 - 20 < top < 60 * 2 + 20
        await pilot.resize_terminal(30, 20)
        await pilot.pause()
        assert len(answer.matches) == 3

    play(scene, before, answer)


def test_hostile_markdown_is_shown_and_obeyed_by_nobody() -> None:
    answer = Answer()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        for char in "\x1b[31mred &#8238;x [/nope] [b]c[/b]\n\n| [/a] |\n|---|\n| [@click=app.bell]x[/] |\n\n<script>":
            answer.append(char)
            answer.flush()
        answer.finish()
        await pilot.pause()
        assert seen(answer) == [
            "^[[31mred ⟨U+202E⟩x [/nope] [b]c[/b]",
            "",
            "[/a]",
            "─────────────────────",
            "[@click=app.bell]x[/]",
            "",
            "<script>",
        ]
        for y in range(answer.size.height):
            await pilot.hover(answer, offset=(3, y))
        await pilot.click(answer, offset=(3, 0))

    play(scene, answer)


def test_a_line_of_a_megabyte() -> None:
    answer = Answer()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        for _ in range(64):
            answer.append("x" * 16_384)
            answer.flush()
        answer.finish()
        await pilot.pause()
        assert answer.size.height == -(-(1 << 20) // answer.size.width)

    play(scene, answer)


def test_a_fence_that_came_in_pieces_is_still_there_after_a_click() -> None:
    answer = Answer()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        for char in "```python\nprint(1)\nprint(2)\n":
            answer.append(char)
            answer.flush()
            await pilot.pause()
        answer.append("```\n")
        answer.finish()
        await pilot.pause()
        await pilot.click(answer, offset=(3, 1))
        await pilot.pause()
        assert [line.strip() for line in seen(answer)] == ["print(1)", "print(2)"]

    play(scene, answer)


def test_text_that_came_before_the_widget_was_there() -> None:
    answer = Answer()
    answer.append(TEXT)
    answer.finish()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert seen(answer) == ROWS

    play(scene, answer, size=(42, 40))

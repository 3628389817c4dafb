"""Text without end on a screen: it follows its end, keeps its place, is searched and copied, and obeys nobody."""

from __future__ import annotations

from textual.geometry import Offset
from textual.pilot import Pilot
from textual.selection import SELECT_ALL, Selection

from r1local.tui.text.wrapping import wrap
from r1local.tui.widgets.long_text import LongText
from tests.tui import Stage, play, seen

WORDS = "".join(f"word{number} of the thought, " for number in range(600))


def box(text: str = "") -> LongText:
    widget = LongText(text)
    widget.styles.height = 8
    return widget


def test_only_what_is_in_view_is_shown() -> None:
    text = box("one\ntwo\n")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert seen(text)[:3] == ["one", "two", ""]
        text.append("three ")
        text.append("four")
        await pilot.pause()
        assert seen(text)[:3] == ["one", "two", "three four"]

    play(scene, text)


def test_it_follows_its_end_until_somebody_scrolls_up() -> None:
    text = box()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        for number in range(30):
            text.append(f"line {number}\n")
            await pilot.pause()
        assert seen(text)[-1] == "line 29"
        text.focus()
        await pilot.press("up", "up", "up")
        await pilot.wait_for_animation()
        before = seen(text)
        assert before[-1] == "line 26"
        text.append("more\n" * 50)
        await pilot.pause()
        assert seen(text) == before
        await pilot.press("end")
        text.append("the last\n")
        await pilot.pause()
        assert seen(text)[-1] == "the last"

    play(scene, text)


def test_the_wheel_releases_the_end_and_finds_it_again() -> None:
    text = box("line\n" * 50)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert text.following
        text.scroll_to(y=10, animate=False)
        assert not text.following
        text.scroll_to(y=text.max_scroll_y - 1, animate=False)
        assert text.following

    play(scene, text)


def test_another_width_keeps_the_place() -> None:
    text = box(WORDS)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        text.scroll_to(y=40, animate=False)
        await pilot.pause()
        first = seen(text)[0].split()[1]
        for width in (30, 90, 45):
            await pilot.resize_terminal(width, 20)
            await pilot.pause()
            assert first in " ".join(seen(text)[:2])
        assert not text.following
        text.action_scroll_end()
        await pilot.resize_terminal(70, 20)
        await pilot.pause()
        assert seen(text)[-1] == wrap(WORDS, 69)[-1].rstrip()

    play(scene, text)


def test_it_is_as_high_as_its_text_up_to_a_share_of_the_screen() -> None:
    text = LongText("one\n", share=0.5)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        heights = []
        for _ in range(14):
            text.append("line\n")
            await pilot.pause()
            heights.append(text.size.height)
        assert heights == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10, 10, 10]

    play(scene, text)


def test_it_is_searched_while_it_grows() -> None:
    text = box(WORDS)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert len(text.search("Word59")) == 0
        assert len(text.search("word59")) == 11
        text.scroll_to(y=0, animate=False)
        first = text.step_match()
        await pilot.pause()
        assert first == text.matches[0]
        assert any("word59 " in line for line in seen(text))
        assert text.step_match() == text.matches[1]
        assert text.step_match(forward=False) == text.matches[0]
        assert text.step_match(forward=False) == text.matches[-1]
        assert text.step_match() == text.matches[0]
        for char in "and then woRd590 wo":
            text.append(char)
        text.append("rd591")
        assert len(text.matches) == 13
        styles = {str(segment.style) for y in range(8) for segment in text.render_line(y)}
        assert len(styles) > 1
        assert text.search("") == []
        assert text.step_match() is None

    play(scene, text)


def test_matches_are_found_across_wrapped_lines() -> None:
    text = box("a phrase of several words")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        text.search("of several")
        for width in (60, 14):
            await pilot.resize_terminal(width, 20)
            await pilot.pause()
            assert [text.text[a:b] for a, b in text.matches] == ["of several"]

    play(scene, text)


def test_the_mouse_selects_and_the_selection_is_text() -> None:
    text = box("one two three\n\n  four\tfive\n" + WORDS)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        text.scroll_to(y=0, animate=False)
        await pilot.pause()
        await pilot.mouse_down(text, offset=(4, 0))
        await pilot.hover(text, offset=(6, 2))
        await pilot.mouse_up(text, offset=(6, 2))
        assert stage.screen.get_selected_text() == "two three\n\n  four\t"
        await pilot.resize_terminal(20, 20)
        await pilot.pause()
        assert stage.screen.get_selected_text() == "two three\n\n  four\t"
        assert text.get_selection(SELECT_ALL) == (text.text, "\n")
        assert text.get_selection(Selection(Offset(4, 0), None)) == (text.text[4:], "\n")
        assert text.get_selection(Selection(None, Offset(4, 0))) == ("one ", "\n")

    play(scene, text)


def test_wrapped_lines_are_copied_as_one() -> None:
    text = box(WORDS)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        text.scroll_to(y=0, animate=False)
        await pilot.pause()
        await pilot.mouse_down(text, offset=(0, 0))
        await pilot.hover(text, offset=(3, 3))
        await pilot.mouse_up(text, offset=(3, 3))
        selected = stage.screen.get_selected_text()
        assert selected
        assert "\n" not in selected
        assert WORDS.startswith(selected)

    play(scene, text)


def test_hostile_text_is_shown_and_obeyed_by_nobody() -> None:
    text = box()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        for char in "\x1b[31mred\x1b[0m \u202egnp.exe a\u200bb \x07\r\nnext":
            text.append(char)
        text.end()
        await pilot.pause()
        assert seen(text)[:3] == ["^[[31mred^[[0m ⟨U+202E⟩gnp.exe a⟨U+200B⟩b ^G", "next", ""]
        text.append("[b]no markup[/b] [/nope]")
        await pilot.pause()
        assert seen(text)[1] == "next[b]no markup[/b] [/nope]"

    play(scene, text)


def test_a_line_of_a_megabyte() -> None:
    text = box()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        for _ in range(256):
            text.append("x" * 4096)
        await pilot.pause()
        assert text.line_count == -(-(1 << 20) // 59)
        assert seen(text)[0] == "x" * 59
        await pilot.resize_terminal(30, 20)
        await pilot.pause()
        assert text.line_count == -(-(1 << 20) // 29)

    play(scene, text)


def test_clear() -> None:
    text = box(WORDS)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        text.clear()
        text.append("anew")
        await pilot.pause()
        assert seen(text)[:2] == ["anew", ""]

    play(scene, text)


def test_themes_change_its_colours() -> None:
    text = box("one")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        def colour() -> object:
            style = next(iter(text.render_lines(text.size.region)[0])).style
            return style and style.color

        dark = colour()
        stage.theme = "textual-light"
        await pilot.pause()
        assert colour() != dark

    play(scene, text)

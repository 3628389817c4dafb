"""Settings, help, the question for one line, and that every theme can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.color import Color
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Button, Input, Select, Static

from r1local.settings import Settings
from r1local.tui.preferences import Preferences
from r1local.tui.screens.help import HelpScreen
from r1local.tui.screens.settings import SettingsScreen
from r1local.tui.screens.text_prompt import TextPrompt
from r1local.tui.themes import THEMES
from tests.test_tui_sidebar import HOSTILE, SIZES

CONFIG = Path("/somewhere/config.toml")


class Stage(App[None]):
    """Shows one screen, and notes what it gives."""

    def __init__(self, shown: Screen[Any]) -> None:
        super().__init__()
        self.shown = shown
        self.given: list[Any] = []
        self.previews: list[str] = []

    def on_mount(self) -> None:
        for theme in THEMES.values():
            self.register_theme(theme)
        self.push_screen(self.shown, self.given.append)

    def on_settings_screen_preview(self, message: SettingsScreen.Preview) -> None:
        self.previews.append(message.theme)
        self.theme = THEMES[message.theme].name


def on_stage(
    shown: Screen[Any], scene: Callable[[Stage, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (100, 30)
) -> None:
    async def run() -> None:
        stage = Stage(shown)
        async with stage.run_test(size=size) as pilot:
            await pilot.pause()
            await scene(stage, pilot)

    asyncio.run(run())


def screen_text(stage: Stage) -> list[str]:
    """All that is on the screen now."""
    strips = stage.screen._compositor.render_strips()
    return [strip.text.rstrip() for strip in strips]


# Settings


def settings_screen(**settings: Any) -> SettingsScreen:
    return SettingsScreen(Preferences(), Settings(**settings), CONFIG, "16 cores\nall layers on the CPU")


@pytest.mark.parametrize("size", SIZES)
def test_every_choice_can_be_made_with_the_keys(size: tuple[int, int]) -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("enter", "down", "enter", "tab")
        assert stage.previews == ["light"]
        assert stage.theme == "r1local-light"
        await pilot.press("space", "down", "down", "down", "enter", "tab")
        await pilot.press("down", "down", "enter", "tab", "enter", "down", "enter", "tab", "enter")
        await pilot.pause()
        assert stage.given == [Preferences("light", "hidden", side_by_side=False, sidebar=False)]
        assert stage.previews == ["light"]

    on_stage(settings_screen(), scene, size)


@pytest.mark.parametrize("size", SIZES)
def test_esc_keeps_what_was_chosen(size: tuple[int, int]) -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("enter", "end", "escape")
        assert stage.given == []  # that closed the list of themes alone
        await pilot.press("enter", "end", "enter", "escape")
        await pilot.pause()
        assert stage.given == [Preferences(theme="high-contrast")]

    on_stage(settings_screen(), scene, size)


def test_what_was_chosen_before_is_shown() -> None:
    chosen = Preferences("high-contrast", "tail", side_by_side=False, sidebar=False)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert [select.value for select in stage.screen.query(Select)] == ["high-contrast", "tail", False, False]
        assert stage.previews == []
        await pilot.press("tab", "tab", "tab", "tab")
        assert isinstance(stage.focused, Button)
        await pilot.press("enter")
        await pilot.pause()
        assert stage.given == [chosen]

    on_stage(SettingsScreen(chosen, Settings(), CONFIG, ""), scene)


def test_what_the_file_sets_is_listed() -> None:
    shown = settings_screen(model="qwen-1.5b", temperature=0.6, gpu_layers=-1, system="[red]Be[/] \x1b[31m" + HOSTILE)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        lines = screen_text(stage)
        text = "\n".join(lines)
        assert str(CONFIG) in text
        assert [line.strip() for line in lines if " = " in line] == [
            'model = "qwen-1.5b"',
            next(line.strip() for line in lines if "system" in line),
            "gpu_layers = -1",
            "temperature = 0.6",
        ]
        assert 'system = "[red]Be[/] \\u001b[31m' in text
        assert "\x1b" not in text
        assert "all layers on the CPU" in text

    on_stage(shown, scene)


def test_a_file_that_sets_nothing() -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert "It sets nothing" in "\n".join(screen_text(stage))

    on_stage(settings_screen(), scene)


def test_a_small_screen_scrolls_to_the_end() -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert "all layers on the CPU" not in "\n".join(screen_text(stage))
        for _ in range(5):
            await pilot.press("pagedown")
            await pilot.wait_for_animation()
        assert "all layers on the CPU" in "\n".join(screen_text(stage))

    on_stage(settings_screen(model="a", ctx=4096, threads=8, seed=1), scene, (40, 12))


# Help


GROUPS = [("Talking", [("Enter", "send it"), ("Shift-Enter, Ctrl-J", "a new line")]), ("Else", [("F1", "[b]this[/b]")])]
COMMANDS = {f"/command{number}": f"does number {number}" for number in range(30)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", ["escape", "q", "f1"])
def test_help_says_all_and_closes(size: tuple[int, int], key: str) -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert "Talking" in "\n".join(screen_text(stage))
        assert "send it" in "\n".join(screen_text(stage))
        await pilot.press("end")
        await pilot.wait_for_animation()
        await pilot.pause()
        assert "does number 29" in "\n".join(screen_text(stage))
        await pilot.press("home")
        await pilot.wait_for_animation()
        await pilot.pause()
        assert "Shift-Enter," in "\n".join(screen_text(stage))
        await pilot.press(key)
        assert stage.given == [None]

    on_stage(HelpScreen(GROUPS, COMMANDS), scene, size)


def test_help_is_no_markup_and_goes_without_commands() -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert "[b]this[/b]" in "\n".join(screen_text(stage))
        assert "Commands" not in "\n".join(screen_text(stage))

    on_stage(HelpScreen(GROUPS, {}), scene)


def test_help_of_nothing_at_all() -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("escape")
        assert stage.given == [None]

    on_stage(HelpScreen([], {}), scene)


# One line


@pytest.mark.parametrize("size", SIZES)
def test_a_line_is_asked_for(size: tuple[int, int]) -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert "[b]Rename[/b]" in "\n".join(screen_text(stage))
        assert "Shown in the list." in "\n".join(screen_text(stage))
        await pilot.press("end", "!", "space", "enter")
        assert stage.given == ["Old title!"]

    on_stage(TextPrompt("[b]Rename[/b]", "Old title", "Shown in the list."), scene, size)


def test_typing_replaces_what_was_there() -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press(*"New", "enter")
        assert stage.given == ["New"]

    on_stage(TextPrompt("Rename", "Old title"), scene)


def test_an_empty_line_is_no_answer() -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+u", "enter", "space", "enter")
        assert stage.given == []
        await pilot.press("x", "escape")
        assert stage.given == [None]

    on_stage(TextPrompt("Rename"), scene)


@pytest.mark.parametrize("size", SIZES)
def test_hostile_lines_stay_on_the_screen(size: tuple[int, int]) -> None:
    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert "\x1b" not in "".join(screen_text(stage))
        assert "\u202e" not in stage.screen.query_one(Input).value
        box = stage.screen.query_one(Input).region
        assert stage.screen.region.contains_region(box)
        await pilot.press("escape")
        assert stage.given == [None]

    on_stage(TextPrompt(HOSTILE, HOSTILE, HOSTILE), scene, size)


# Themes: contrast by WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio


def luminance(color: Color) -> float:
    parts = [channel / 255 for channel in (color.r, color.g, color.b)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(text: Color, ground: Color) -> float:
    lighter, darker = sorted((luminance(text), luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_formula() -> None:
    assert contrast(Color(0, 0, 0), Color(255, 255, 255)) == pytest.approx(21)
    assert contrast(Color.parse("#777777"), Color(255, 255, 255)) == pytest.approx(4.48, abs=0.01)


TEXTS = ["$foreground", "$text", "$text-muted", "$warning", "$error", "$success", "$primary", "$text-warning",
         "$text-error", "$text-success", "$text-primary", "$text-accent"]  # fmt: skip
PAIRS = [
    *((text, ground) for text in TEXTS for ground in ("$background", "$surface", "$panel")),
    ("$block-cursor-foreground", "$block-cursor-background"),
    ("$block-cursor-blurred-foreground", "$block-cursor-blurred-background"),
    ("$background", "$warning"),
    ("$footer-key-foreground", "$footer-background"),
    ("$footer-description-foreground", "$footer-background"),
    ("$input-cursor-foreground", "$input-cursor-background"),
    ("$text-success", "$success-muted"),
]


@pytest.mark.parametrize(("theme", "least"), [("dark", 4.5), ("light", 4.5), ("high-contrast", 7.0)])
def test_every_text_can_be_read(theme: Any, least: float) -> None:
    """Computed from the colours that Textual ends up with, blended as it blends them."""

    async def run() -> dict[tuple[str, str], float]:
        css = "".join(f"#p{n} {{ background: {ground}; color: {text}; }}" for n, (text, ground) in enumerate(PAIRS))

        class Chart(App[None]):
            CSS = "Screen { background: $background; }" + css

            def compose(self) -> Any:
                yield from (Static("x", id=f"p{number}") for number in range(len(PAIRS)))

        app = Chart()
        app.register_theme(THEMES[theme])
        app.theme = THEMES[theme].name
        async with app.run_test(size=(40, len(PAIRS) + 5)) as pilot:
            await pilot.pause()
            found = {}
            for number, pair in enumerate(PAIRS):
                style = app.query_one(f"#p{number}").rich_style
                assert style.color is not None
                assert style.bgcolor is not None
                text, ground = Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
                found[pair] = contrast(text, ground)
            return found

    ratios = asyncio.run(run())
    assert {pair: round(ratio, 2) for pair, ratio in ratios.items() if ratio < least} == {}


@pytest.mark.parametrize("theme", THEMES)
def test_themes_are_what_they_are_called(theme: Any) -> None:
    assert THEMES[theme].name == {"dark": "r1local-dark", "light": "r1local-light"}.get(theme, "r1local-contrast")
    assert THEMES[theme].dark is (theme != "light")


@pytest.mark.parametrize("theme", THEMES)
def test_without_colours_the_choice_in_focus_stands_out(theme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        stage.theme = THEMES[theme].name
        await pilot.press("tab")
        labels = [select.query_one("#label", Static) for select in stage.screen.query(Select)]
        reversed_ones = [bool(label.rich_style.reverse) for label in labels]
        assert reversed_ones == [False, True, False, False]
        assert stage.no_color

    on_stage(settings_screen(), scene)

"""The looks to choose from. That they can be read is computed in tests/test_tui_settings.py."""

from __future__ import annotations

from collections.abc import Mapping

from textual.theme import Theme

from r1local.tui import preferences

THEMES: Mapping[preferences.Theme, Theme] = {
    "dark": Theme(
        name="r1local-dark",
        dark=True,
        primary="#7cb0ff",
        secondary="#93a4c3",
        accent="#c9a6ff",
        warning="#f2b45c",
        error="#ff8a8f",
        success="#74d69a",
        foreground="#e4e6eb",
        background="#111318",
        surface="#191c22",
        panel="#23272f",
        variables={
            "text-disabled": "auto 50%",
            "border-blurred": "#3c424e",
            "scrollbar": "#47505f",
            "scrollbar-background": "#191c22",
        },
    ),
    "light": Theme(
        name="r1local-light",
        dark=False,
        primary="#1b58b8",
        secondary="#4a5a78",
        accent="#7430ad",
        warning="#7d4b00",
        error="#ab1530",
        success="#14602b",
        foreground="#1b1e24",
        background="#fafaf8",
        surface="#f0f0ed",
        panel="#e4e5e1",
        variables={
            "text-muted": "auto 65%",
            "text-disabled": "auto 55%",
            "border-blurred": "#b9bcc2",
            "scrollbar": "#a3a9b4",
            "scrollbar-background": "#f0f0ed",
        },
    ),
    "high-contrast": Theme(
        name="r1local-contrast",
        dark=True,
        primary="#6fd0ff",
        secondary="#d0d8e8",
        accent="#ffe14d",
        warning="#ffe14d",
        error="#ff9c9c",
        success="#6dff96",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#161616",
        variables={
            "text": "auto 100%",
            "text-muted": "auto 85%",
            "text-disabled": "auto 70%",
            "border": "#ffffff",
            "border-blurred": "#8c8c8c",
            "scrollbar": "#b0b0b0",
            "scrollbar-background": "#2a2a2a",
            "block-cursor-background": "#ffffff",
            "block-cursor-foreground": "#000000",
            "block-cursor-blurred-background": "#3a3a3a",
            "block-cursor-blurred-foreground": "#ffffff",
            "footer-key-foreground": "#ffe14d",
        },
    ),
}

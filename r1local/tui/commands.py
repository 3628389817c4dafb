"""What can be typed behind a slash, and the keys that do the same."""

from __future__ import annotations

COMMANDS = {
    "/new": "start a new conversation",
    "/retry": "another reply to the last question",
    "/edit": "word the last question anew",
    "/skip": "end the thought, have the answer now",
    "/think": "how thoughts are shown once they are over: open, tail, folded or hidden",
    "/thought": "edit the last thought and go on from there",
    "/vote": "ask so many times at once and take the answer most agree on: /vote 8, or /vote 1 for none of it",
    "/copy": "copy the answer, or: /copy thought, /copy code",
    "/find": "search in this conversation",
    "/search": "search all conversations",
    "/rename": "give this conversation a title",
    "/save": "write it to a file: Markdown, or JSON where the name ends in .json",
    "/delete": "delete this conversation",
    "/models": "models: pull, use, remove",
    "/reload": "load the model anew",
    "/stats": "how the model runs, and its memory",
    "/settings": "theme, panels, how thoughts are shown",
    "/help": "keys and commands",
    "/quit": "leave",
}

KEYS = [
    (
        "Talking",
        [
            ("Enter", "send; while the model answers, it is asked next"),
            ("Shift-Enter, Ctrl-J", "a new line"),
            ("Up, Down", "what was asked before"),
            ("@file", "attach a text file; Tab completes"),
            ("Esc", "stop the reply; what was said stays"),
            ("Ctrl-T", "end the thought, have the answer now"),
            ("Ctrl-R", "another reply to the last question"),
            ("Ctrl-E", "word the last question anew"),
        ],
    ),
    (
        "Reading",
        [
            ("Ctrl-O", "open or fold the last thought"),
            ("Tab, Shift-Tab", "from turn to turn, where these keys work:"),
            ("c, t, k", "copy it, its thought, its code"),
            ("r, e, g", "retry, edit the question, edit the thought"),
            ("b", "go on from there, in a branch"),
            ("Left, Right", "other wordings, other replies"),
            ("PageUp, PageDown", "scroll"),
            ("Ctrl-Y", "copy the last answer"),
            ("Ctrl-F", "search in this conversation"),
            ("Ctrl-G", "search all conversations, thoughts included"),
        ],
    ),
    (
        "Around",
        [
            ("Ctrl-N", "a new conversation"),
            ("Ctrl-B", "the list of conversations"),
            ("F2", "models"),
            ("F3", "settings"),
            ("Ctrl-P", "every command"),
            ("Ctrl-Q", "leave"),
        ],
    ),
]  # fmt: skip

"""The one line above a thought, as long as there is room for it."""

from __future__ import annotations

from collections.abc import Sequence

from r1local.units import seconds


def thinking(elapsed: float | None, tokens: int, width: int) -> str:
    """While the model thinks; `elapsed` is None before its first token."""
    if elapsed is None:
        return "Thinking"
    words = [f"Thinking {seconds(elapsed)}", f" · {tokens:,} tokens"]
    if elapsed >= 1:
        words.append(f" · {tokens / elapsed:.0f} tok/s")
    return _fitted(words, width)


def thought(spent: float, tokens: int, width: int, *, cut_short: bool) -> str:
    """Afterwards."""
    verb = "Thought, cut short after" if cut_short else "Thought for"
    return _fitted([f"{verb} {seconds(spent)}", f", {tokens:,} tokens"], width)


def _fitted(words: Sequence[str], width: int) -> str:
    """As many of the words as there is room for, at least the first; a width of 0 is not known yet."""
    while len(words) > 1 and 0 < width < sum(map(len, words)):
        words = words[:-1]
    return "".join(words)

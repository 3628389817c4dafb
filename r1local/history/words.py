"""What a text is found by, what is searched for, the part of a text to show for it, and titles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from r1local.terminal import clean_line

TITLE_COLUMNS = 60
_MOST_WORDS = 12
_LONGEST_WORD = 100
_LEAST_UNFINISHED = 2  # a single letter begins words of every turn there is
_BEFORE, _AFTER = 40, 160

# Scripts written without spaces between words: Chinese, Japanese, Korean, Thai, Lao, Burmese, Khmer. Each character is
# a word of its own in the index and several are a phrase. SQLite's trigrams would do, too, but most Chinese words have
# two characters and trigrams find none shorter than three; they also make a second index, larger than the texts.
_SPACELESS = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b"
    "\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\uff66-\uff9d\U0001b000-\U0001b16f\U00020000-\U0003ffff])"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """Halves of characters, which a terminal can pass on, are no text that any file could hold."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def indexed(text: str) -> str:
    """The text as the index of words is to see it. To take it out of there the very same is needed again."""
    return text if text.isascii() else _SPACELESS.sub(r" \1 ", text)


def words_in(query: str) -> list[str]:
    """What is looked for. Nothing in it is an operator."""
    plain = storable(query).replace("\0", " ").replace('"', " ")
    return [word[:_LONGEST_WORD] for word in plain.split()[:_MOST_WORDS]]


def match_of(query: str, column: str = "") -> str:
    """The index's own words for "all of these, the last one perhaps unfinished"; empty when there are none."""
    words = words_in(query)
    if not words:
        return ""
    # Side by side, not joined by AND: a word of signs alone, which the index does not hold, then counts for nothing.
    phrases = " ".join(f'"{indexed(word)}"' for word in words)
    unfinished = "" if query[-1:].isspace() or len(words[-1]) < _LEAST_UNFINISHED else " *"
    return f"{{{column}}} : ({phrases}{unfinished})" if column else f"{phrases}{unfinished}"


def snippet(text: str, words: Sequence[str]) -> tuple[str, tuple[int, int]]:
    """The part around the first place where one of the words stands, on one line, and where in it that is."""
    start, end = _first(text, words)
    left, right = max(0, start - _BEFORE), min(len(text), end + _AFTER)
    before = ("…" if left else "") + _one_line(text[left:start]).lstrip()
    match = _one_line(text[start:end])
    after = _one_line(text[end:right]).rstrip() + ("…" if right < len(text) else "")
    return before + match + after, (len(before), len(before) + len(match))


def title_of(text: str) -> str:
    """One clean line of at most TITLE_COLUMNS columns: the first line of a text that has something on it."""
    lines = (line.strip() for line in text.splitlines())
    line = next((line for line in lines if line), "")[: TITLE_COLUMNS * 20]
    return _fit(" ".join(clean_line(storable(line)).split()), TITLE_COLUMNS)


def _first(text: str, words: Sequence[str]) -> tuple[int, int]:
    for plain in (False, True):
        if plain and text.isascii():
            break
        where = _without_accents(text) if plain else text
        found = []
        for word in words:
            parts = re.findall(r"[^\W_]+", _without_accents(word) if plain else word)
            if parts:
                # From the start of a word on, where the script has such.
                edge = "" if _SPACELESS.match(parts[0]) else r"(?<![^\W_])"
                pattern = edge + r"[\W_]*".join(map(re.escape, parts))
                found += [match.span() for match in [re.search(pattern, where, re.IGNORECASE)] if match]
        if found:
            return min(found)
    return 0, 0


def _without_accents(text: str) -> str:
    """As many characters as before, those of Latin letters without their accents."""
    return text.translate(_accents())


@cache
def _accents() -> dict[int, str]:
    codes = (*range(0xC0, 0x250), *range(0x1E00, 0x1F00))
    return {code: unicodedata.normalize("NFD", chr(code))[0] for code in codes}


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _fit(text: str, columns: int) -> str:
    from wcwidth import wcwidth

    total = 0
    widths = [max(0, int(wcwidth(char))) for char in text]
    if sum(widths) <= columns:
        return text
    for position, width in enumerate(widths):
        total += width
        if total > columns - 1:
            return text[:position].rstrip() + "…"
    return text

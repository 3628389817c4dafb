"""The one cleaner between text that is not ours and a terminal.

Model output, file names, metadata, templates and error texts can hold escape sequences that move the cursor,
set the title or the clipboard, and invisible characters that make the screen say something else than the text.
Each such character is shown as a visible mark, one by one, so that no state of a started sequence has to be
kept and nothing that follows is swallowed. Neither rich nor textual does this.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Characters that reorder or hide text: bidi controls, zero-width and filler characters, format controls, tags.
_HIDDEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2028\u2029"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_CONTROL = "\x00-\x08\x0b-\x1f\x7f\x80-\x9f"
# Judged by their neighbours: joiners belong between letters and emoji, a selector behind one character.
_JOINERS = "\u200c\u200d"
_SELECTORS = "\ufe00-\ufe0f"
_SUSPECT = re.compile(f"[{_CONTROL}{_HIDDEN}{_JOINERS}{_SELECTORS}\ud800-\udfff]")
# Held back at the end of a piece: what follows decides how they are shown.
_UNDECIDED = "\r" + _JOINERS


def _mark(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return "^" + chr(code + 0x40)
    if code == 0x7F:
        return "^?"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return f"⟨U+{code:04X}⟩"


def _joins(char: str) -> bool:
    """Whether a joiner may stand in front of it: a letter, a mark, an emoji, and nothing suspect."""
    return bool(char) and unicodedata.category(char)[0] in "LMS" and not _SUSPECT.match(char)


def _selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f"


class TerminalCleaner:
    """Cleans text that comes in pieces. Where it is cut makes no difference to the result."""

    def __init__(self) -> None:
        self._last = ""
        """The last character put out as it was; empty after a mark."""
        self._held = ""

    def feed(self, text: str) -> str:
        """Clean a further piece; at most one character of it is kept back for the next call."""
        text = self._held + text
        self._held = ""
        if text and text[-1] in _UNDECIDED:
            text, self._held = text[:-1], text[-1]
        return self._clean(text, self._held)

    def flush(self) -> str:
        """Whatever is still held, as nothing follows."""
        held, self._held = self._held, ""
        cleaned = self._clean(held, "")
        self._last = ""
        return cleaned

    def _clean(self, text: str, after: str) -> str:
        if not text:
            return ""
        if not _SUSPECT.search(text):
            self._last = text[-1]
            return text
        return "".join(self._pieces(text, after))

    def _pieces(self, text: str, after: str) -> Iterator[str]:
        position = 0
        for match in _SUSPECT.finditer(text):
            index, char = match.start(), match.group()
            if index > position:
                yield text[position:index]
                self._last = text[index - 1]
            position = index + 1
            following = text[position] if position < len(text) else after
            if char == "\r" and following == "\n":
                continue
            if self._belongs(char, following):
                yield char
                self._last = char
            else:
                yield _mark(char)
                self._last = ""
        if position < len(text):
            yield text[position:]
            self._last = text[-1]

    def _belongs(self, char: str, following: str) -> bool:
        """Whether a joiner or a selector does its work here rather than hide."""
        if char in _JOINERS:
            return (_joins(self._last) or _selector(self._last)) and _joins(following)
        return _selector(char) and bool(self._last) and not _selector(self._last) and self._last not in _JOINERS


def clean(text: str) -> str:
    """Text that is safe on a terminal, on as many lines as it had."""
    cleaner = TerminalCleaner()
    return cleaner.feed(text) + cleaner.flush()


def clean_line(text: str) -> str:
    """Text that is safe on a terminal and stays on one line."""
    return clean(text.replace("\n", "⏎").replace("\t", " "))


def escape_json(document: str) -> str:
    """A JSON document with every suspect character as a \\uXXXX escape.

    It parses to the same value, and a terminal that it is printed on obeys none of it.
    """

    def escaped(match: re.Match[str]) -> str:
        code = ord(match.group())
        if code >= 0x10000:
            code -= 0x10000
            return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
        return f"\\u{code:04x}"

    return _JSON_SUSPECT.sub(escaped, document)


# Outside strings a document holds newlines and tabs; both are outside the class.
_JSON_SUSPECT = re.compile(f"[{_CONTROL}{_HIDDEN}{_JOINERS}\ud800-\udfff]|(?<=[{_JOINERS}{_SELECTORS}])[{_SELECTORS}]")

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

# Characters that reorder or hide text: bidi controls, zero-width and filler characters, tags, and the
# lone surrogates that no encoding takes. U+200C and U+200D are judged by their neighbours.
_HIDDEN = (
    "\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2028\u2029"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_CONTROL = "\x00-\x08\x0b-\x1f\x7f\x80-\x9f"
_SUSPECT = re.compile(f"[{_CONTROL}{_HIDDEN}\u200c\u200d\ufe00-\ufe0f\ud800-\udfff]")
# Held back at the end of a piece: what follows decides how they are shown.
_UNDECIDED = "\r\u200c\u200d"

_JOINERS = "\u200c\u200d"


def _mark(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return "^" + chr(code + 0x40)
    if code == 0x7F:
        return "^?"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return f"⟨U+{code:04X}⟩"


def _joinable(char: str) -> bool:
    """Letters, marks and emoji: what U+200C and U+200D legitimately stand between."""
    return bool(char) and (unicodedata.category(char)[0] in "LMS" or char in "\ufe0f\u200d")


class TerminalCleaner:
    """Cleans text that comes in pieces. Where it is cut makes no difference to the result."""

    def __init__(self) -> None:
        self._before = ""
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
        self._before = ""
        return cleaned

    def _clean(self, text: str, after: str) -> str:
        if not text:
            return ""
        before = self._before
        self._before = text[-1]
        if not _SUSPECT.search(text):
            return text
        return "".join(self._pieces(before, text, after))

    @staticmethod
    def _pieces(before: str, text: str, after: str) -> Iterator[str]:
        position = 0
        for match in _SUSPECT.finditer(text):
            index = match.start()
            char = match.group()
            yield text[position:index]
            position = index + 1
            previous = text[index - 1] if index else before
            following = text[index + 1] if index + 1 < len(text) else after
            if char == "\r" and following == "\n":
                continue
            if (char in _JOINERS and _joinable(previous) and _joinable(following)) or (
                "\ufe00" <= char <= "\ufe0f" and previous and not "\ufe00" <= previous <= "\ufe0f"
            ):
                yield char
            else:
                yield _mark(char)
        yield text[position:]


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
_JSON_SUSPECT = re.compile(f"[{_CONTROL}{_HIDDEN}\u200c\u200d\ud800-\udfff]")

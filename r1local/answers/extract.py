"""What a reply gives as its answer. Every function takes time in proportion to the text, whatever stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_CHARACTERS = 200
"""The longest answer that is taken from outside a box."""

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_SAID = re.compile(r"(?i:\banswer(?:\s{1,9}is|\s{0,9}[:=])[*:\s]{0,20})(?=([^\n]{1,400}))")
_SENTENCE_END = re.compile(r"\.(?:\s|$)|\*\*")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:/\d+)?|\d[\d,]*(?:\.\d+)?(?:/\d+)?")

# A as an article ("Answer: A vector ...") is no choice.
_CHOICE = r"([A-D])(?![\w'])(?<!A(?=[ ](?!is\b|because\b|since\b|and\b)[a-z]))"
_LETTER_SAID = re.compile(
    r"(?i:\b(?:answer|correct\s(?:answer|option|choice))(?:\s{1,9}(?:is|would\sbe|must\sbe)|\s{0,9}[:=]))"
    r"(?i:\W{0,20}(?:option|choice)\b)?[^\w\n\\]{0,20}\n{0,2}[^\w\n\\]{0,9}(?:\\(?:text|textbf|mathrm|mathbf)\{\W{0,9})?"
    + _CHOICE
)
_LETTER_IS = re.compile(r"\b([A-D])[)*.\s]{0,6}\sis\s(?:the\s)?(?:correct|right|best)\b")
_LETTER_BOLD = re.compile(r"\*\*\(?([A-D])(?:[).:][^*\n]{0,200})?\*\*")
_LETTER_AT_END = re.compile(r"\(([A-D])\)[\s.*$]{0,20}\Z")
_LETTER_LINE = re.compile(r"[^\w\n]{0,20}([A-D])(?:[).:][^\n]{0,200})?[^\w\n]{0,20}")
_LETTER_BOX = re.compile(r"\W{0,9}(?:(?:text|textbf|mathrm|mathbf)\{\W{0,9})?([A-D])(?![A-Za-z0-9])[^=+^]{0,200}")


def boxed(text: str) -> str | None:
    """The inside of the last \\boxed{...} or \\fbox{...} whose braces close, however deep; None without one."""
    found = _last_box(text)
    return None if found is None else text[found[0] : found[1]]


def _last_box(text: str) -> tuple[int, int] | None:
    """Where the inside of that box begins and ends."""
    opened: list[int] = []  # where the inside of each open box begins, -1 for other braces
    last = None
    for match in _BRACES.finditer(text):
        piece = match[0]
        if piece == "}":
            start = opened.pop() if opened else -1
            if start >= 0 and (last is None or start > last[0]):
                last = (start, match.start())
        elif piece == "{":
            opened.append(-1)
        elif len(piece) > 2:
            opened.append(match.end())
    return last


def final_answer(answer: str) -> str | None:
    """What stands in the last box; without one what "the answer is" or a bold end or the last number says.

    Without any of these it is the last line, if that is short; None for a text that gives nothing.
    """
    if (inside := boxed(answer)) is not None:
        return inside.strip() or None
    for found in (_said(answer), _bold_end(answer), _last(_NUMBER.finditer(answer))):
        if found:
            return found
    line = _last_line(answer)
    return line if 0 < len(line) <= MOST_CHARACTERS else None


def _said(answer: str) -> str:
    said = _last(_SAID.finditer(answer))
    return _SENTENCE_END.split(said, maxsplit=1)[0].strip(" \t*:")[:MOST_CHARACTERS]


def _bold_end(answer: str) -> str:
    return _last(_BOLD.finditer(_last_line(answer))).strip(" .:")


def _last(matches: Iterator[re.Match[str]]) -> str:
    """The group of the last match, or all of it where the pattern has no group; empty without a match."""
    found = ""
    for match in matches:
        found = match[match.re.groups]
    return found


def _last_line(text: str) -> str:
    return text.rstrip()[text.rstrip().rfind("\n") + 1 :].strip()


def letter(answer: str) -> str | None:
    """The choice of a question with the choices A to D; None where no statement names one.

    A statement is a box, "Answer: C", "C is correct", a bold **C**, (C) at the end, or a last line that begins with
    its letter. The last one counts, since models change their minds.
    """
    statements = [
        (match.start(1), match[1])
        for pattern in (_LETTER_SAID, _LETTER_IS, _LETTER_BOLD, _LETTER_AT_END)
        for match in pattern.finditer(answer)
    ]
    box = _last_box(answer)
    if box and (match := _LETTER_BOX.fullmatch(answer[box[0] : min(box[1], box[0] + 400)])):
        statements.append((box[0], match[1]))
    if match := _LETTER_LINE.fullmatch(_last_line(answer)):
        statements.append((len(answer), match[1]))
    return max(statements)[1] if statements else None

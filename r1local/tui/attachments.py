"""What is asked together with a draft: files named as @path, and long texts that stand in it as chips.

Files and pasted texts go in front of the question, one block each, in the form that DeepSeek documents:

    [file name]: {file_name}
    [file content begin]
    {file_content}
    [file content end]
    {question}

No content can end its block or begin another: wherever a name or a content holds one of these marks, in any case, it
gets one more backslash in front than it had. So a mark without a backslash is ours, and taking one backslash away gives
back what was in the file. The question is the person's own and stays as it was typed.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r1local import paths
from r1local.errors import UsageError
from r1local.terminal import TerminalCleaner, clean, clean_line
from r1local.units import amount

MOST = 4 * 1024 * 1024
"""Bytes of one file."""
Kind = Literal["pasted", "long"]
"""A pasted text is sent as a file, any other long text in its place in the question."""
_SHOWN: dict[Kind, tuple[int, int]] = {"pasted": (4_000, 60), "long": (12_000, 400)}
"""Characters and lines of a text that still stands in a draft as it is."""
_PIECE = 1 << 16
_MARK = re.compile(r"\[file (?:name|content begin|content end)\]", re.IGNORECASE)
_LONGEST = len("[file content begin]")
_CHIP = re.compile(r"\[((pasted|long) text \d+): [\d,]+ characters\]")
_PLACE = re.compile(rf'(?P<chip>{_CHIP.pattern})|(?<!\S)@(?:"(?P<quoted>[^"\n]+)"|(?P<bare>[^\s"]\S*))')
_PATHLIKE = re.compile(r"[^()<>{}\[\]=,;\"'`]*(?:/|\.\w+\Z)[^()<>{}\[\]=,;\"'`]*")
_AFTER = ".,;:!?)]}>'\"…。，、！？"
"""What ends a sentence rather than a name, unless there is a file of that name."""
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_NOT_HERE = "Correct the path, or write a space after the @ to send it as it is."


class Texts:
    """The long texts behind the chips of drafts. All are kept: a chip can come back with a former prompt."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def fitted(self, text: str, kind: Kind) -> str:
        """A text as it can stand in a draft: cleaned, or as a chip. What is behind a chip is cleaned when it is used.

        With much text in it a text area takes too long over every key.
        """
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        characters, lines = _SHOWN[kind]
        if len(text) <= characters and text.rstrip("\n").count("\n") < lines:
            return clean(text)
        label = f"[{kind} text {len(self._texts) + 1}: {len(text):,} characters]"
        self._texts[label] = text
        return label

    def spans(self, draft: str) -> list[tuple[int, int]]:
        """Where the chips of a draft stand."""
        return [match.span() for match in _CHIP.finditer(draft) if match.group() in self._texts]

    def behind(self, draft: str) -> dict[str, str]:
        """The texts of a draft, by their chips."""
        return {(label := draft[start:end]): self._texts[label] for start, end in self.spans(draft)}


def inline(draft: str, pasted: Mapping[str, str]) -> str:
    """The draft with the texts in the places of their chips."""
    return _CHIP.sub(lambda match: _cleaned(pasted[match.group()]) if match.group() in pasted else match.group(), draft)


def length(draft: str, pasted: Mapping[str, str]) -> int:
    """Characters of the draft with its texts, nearly, and without looking at them."""
    return len(draft) + sum(len(pasted.get(match.group(), "")) for match in _CHIP.finditer(draft))


def expand(draft: str, pasted: Mapping[str, str], base: Path) -> str:
    """The text to ask. `pasted` has the texts behind the chips; relative paths begin at `base`.

    It reads files, so it is not for the screen's thread. What is not attached stays as it was typed. Raises UsageError
    for a file that cannot be attached, and for what is plainly a path but leads to no file.
    """
    parts: list[str | _File] = []
    files: dict[str, _File] = {}
    end = 0
    for match in _PLACE.finditer(draft):
        parts.append(draft[end : match.start()])
        end = match.end()
        if match["chip"] is None:
            found, rest = _find(match, base)
            parts += [files.setdefault(found.place, found) if found else match.group(), rest]
        elif match["chip"] not in pasted:
            parts.append(match.group())
        elif match["chip"].startswith("[long "):
            parts.append(_cleaned(pasted[match["chip"]]))
        else:
            name = match["chip"][1:].partition(":")[0]
            parts.append(files.setdefault(match["chip"], _File(match["chip"], name, _cleaned(pasted[match["chip"]]))))
    parts.append(draft[end:])

    names = [file.name for file in files.values()]
    shown = {file.place: file.name if names.count(file.name) == 1 else file.place for file in files.values()}
    blocks = [_block(shown[file.place], file.content) for file in files.values()]
    question = (part if isinstance(part, str) else clean_line(shown[part.place]) for part in parts)
    return "".join([*blocks, *question])


@dataclass(frozen=True, slots=True)
class _File:
    place: str
    """Its path, or its chip: no two files share it."""
    name: str
    content: str


def _block(name: str, content: str) -> str:
    return f"[file name]: {_escaped(clean_line(name))}\n[file content begin]\n{_escaped(content)}\n[file content end]\n"


# Both go by pieces: one search in all of a long text would keep the other threads waiting.


def _escaped(text: str) -> str:
    """With a backslash more in front of each mark."""
    parts, end = [], 0
    for at in range(0, len(text), _PIECE):
        for match in _MARK.finditer(text, max(at, end), at + _PIECE + _LONGEST - 1):
            parts += [text[end : match.start()], "\\", match.group()]
            end = match.end()
    return "".join([*parts, text[end:]])


def _cleaned(text: str) -> str:
    """As `terminal.clean`."""
    cleaner = TerminalCleaner()
    pieces = [cleaner.feed(text[at : at + _PIECE]) for at in range(0, len(text), _PIECE)]
    return "".join([*pieces, cleaner.flush()])


def _find(match: re.Match[str], base: Path) -> tuple[_File | None, str]:
    """The file that is meant, if one is, and what of the match follows it."""
    word = match["quoted"] or match["bare"]
    bare = word if match["quoted"] else word.rstrip(_AFTER)
    for size in range(len(word), len(bare) - 1, -1) if bare else ():
        path = _path(word[:size], base)
        if path is not None and (status := _status(path)) is not None:
            return _File(os.path.normpath(path), path.name or str(path), _read(path, status)), word[size:]
    if _PATHLIKE.fullmatch(bare):
        raise UsageError(f"There is no file {clean_line(bare)}.", _NOT_HERE)
    return None, ""


def _path(word: str, base: Path) -> Path | None:
    try:
        return base / paths.expand(word)
    except UsageError:
        return None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except ValueError:
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{clean_line(str(path))} cannot be read: {error.strerror or error}.", "Allow reading it, or choose another."
    )


def _read(path: Path, status: os.stat_result) -> str:
    """The text of a regular file. Nothing else is opened: that can block, or set off what a device does."""
    name = clean_line(path.name or str(path))
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{name} is a folder.", f"Attach files of it, such as @{name}/README.md.")
    if not stat.S_ISREG(status.st_mode):
        raise _special(name)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise _special(name)
            data = file.read(MOST + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > MOST:
        size = max(status.st_size, len(data))
        raise UsageError(
            f"{name} is too long to attach: {amount(size)}, and {amount(MOST)} is the most.",
            "Attach a shorter part of it, or paste what matters.",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _no_text(name) from None
    if "\0" in text:
        raise _no_text(name)
    return text


def _special(name: str) -> UsageError:
    return UsageError(f"{name} is not a regular file.", "Only text files can be attached.")


def _no_text(name: str) -> UsageError:
    return UsageError(f"{name} is not a text file in UTF-8.", "Save it as UTF-8 text first, or paste what matters.")

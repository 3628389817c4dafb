"""What can go wrong while a checkpoint becomes a GGUF file.

QuantizeError
├── BadSource        a file of the checkpoint is damaged, hostile or missing
├── Unsupported      the checkpoint is sound, but of a kind that is not converted
├── BadRequest       the wish makes no sense: an unknown type, a missing imatrix
├── TokenizerDiffers the finished file would read text other than tokenizer.json does
└── NoSpace          the disk cannot hold the result
"""

from __future__ import annotations


class QuantizeError(Exception):
    """`message` says what happened, `hint` what to do; both are one sentence, without escapes of the source."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = printable(hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class BadSource(QuantizeError):
    """A file of the source is damaged, hostile or missing."""


class Unsupported(QuantizeError):
    """The source is of a kind that is not converted."""


class BadRequest(QuantizeError):
    """The wish makes no sense."""


class TokenizerDiffers(QuantizeError):
    """The C library would read text other than tokenizer.json does."""


class NoSpace(QuantizeError):
    """The disk cannot hold the result."""


def printable(text: str) -> str:
    """`text` with everything that moves a terminal's cursor or colours it written out: names come from strangers."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

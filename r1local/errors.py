"""Every error a user can meet, and the exit code it ends with.

    R1Error                       a message and a hint: what to type next
    ├── UsageError                2   a flag, a setting or an input that cannot be
    │   └── SettingsError         2   config.toml
    ├── ModelNotFound             3   no such name, or no file for it on this machine
    │   └── NotOffered            3   the Hub has no such repository, revision, quantization or file
    ├── ModelFileError            4   the file is there and is not what it should be
    │   ├── NotGGUF               4
    │   ├── TruncatedGGUF         4
    │   ├── UnsupportedModel      4   a sound file of an architecture this build cannot run
    │   ├── ChecksumMismatch      4   not the bytes that were published
    │   └── TemplateError         4   the chat template in the file cannot be used
    ├── EngineError               5   the C library on this machine
    │   ├── LibraryMissing        5
    │   ├── SelfTestFailed        5   it crashes whatever is taken away
    │   ├── OutOfMemory           5
    │   └── ContextFull           6   prompt and history do not fit the context
    ├── DownloadError             7   network, proxy or server; what was fetched is kept
    │   ├── Offline               7   something is wanted from the network, and it was forbidden
    │   └── UnsafeServer          7   it sends us where a download must not go
    ├── AccessDenied              8   a token or an accepted licence is wanted
    └── DiskFull                  9   before or during a download; what was fetched is kept

The core raises and never prints. Exit codes are an interface: scripts rely on them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the process says when it ends. Listed in `r1local --help`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_MODEL = 3
    BAD_FILE = 4
    ENGINE = 5
    CONTEXT_FULL = 6
    DOWNLOAD = 7
    ACCESS = 8
    DISK = 9
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class R1Error(Exception):
    """Base of all errors meant for a person's eyes."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        """One sentence: what is wrong, with the name of the thing."""
        self.hint = hint
        """What to type or do next; may be empty."""


class UsageError(R1Error):
    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    pass


class ModelNotFound(R1Error):
    exit_code = ExitCode.NO_MODEL


class NotOffered(ModelNotFound):
    pass


class ModelFileError(R1Error):
    exit_code = ExitCode.BAD_FILE


class NotGGUF(ModelFileError):
    pass


class TruncatedGGUF(ModelFileError):
    pass


class UnsupportedModel(ModelFileError):
    pass


class ChecksumMismatch(ModelFileError):
    pass


class TemplateError(ModelFileError):
    pass


class EngineError(R1Error):
    exit_code = ExitCode.ENGINE


class LibraryMissing(EngineError):
    pass


class SelfTestFailed(EngineError):
    pass


class OutOfMemory(EngineError):
    pass


class ContextFull(EngineError):
    exit_code = ExitCode.CONTEXT_FULL


class DownloadError(R1Error):
    exit_code = ExitCode.DOWNLOAD


class Offline(DownloadError):
    pass


class UnsafeServer(DownloadError):
    pass


class AccessDenied(R1Error):
    exit_code = ExitCode.ACCESS


class DiskFull(R1Error):
    exit_code = ExitCode.DISK


def suggest(wrong: str, known: Iterable[str]) -> str:
    """The nearest of the known names, or an empty text."""
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.65)
    return near[0] if near else ""

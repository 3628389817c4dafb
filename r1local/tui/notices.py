"""Errors as notices: what happened, and what to type next."""

from __future__ import annotations

from r1local.errors import R1Error
from r1local.terminal import clean


def text_of(error: R1Error) -> str:
    """Names of files and servers stand in it, so it is cleaned; show it without markup."""
    return clean(f"{error.message}\n{error.hint}".strip())

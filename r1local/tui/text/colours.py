"""Which words of a program have which colour."""

from __future__ import annotations

from functools import lru_cache

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType
from pygments.util import ClassNotFound

Coat = tuple[int, int, str]
"""From one character up to another, the name of a style. Where coats overlap, all of them count."""

_LONGEST = 50_000
_COLOURS = {Comment: "comment", String: "string", Number: "number", Keyword: "keyword", Operator.Word: "keyword",
            Name.Function: "name", Name.Class: "name", Name.Decorator: "name", Name.Builtin: "name",
            Name.Tag: "keyword", Name.Attribute: "name"}  # fmt: skip


def colours(code: str, language: str) -> list[Coat]:
    """The coloured stretches of a program. None for languages that are not known, and for what is too long."""
    lexer = _lexer(language)
    if lexer is None or len(code) > _LONGEST:
        return []
    coats: list[Coat] = []
    at = 0
    for kind, text in lexer.get_tokens(code):
        if name := _colour(kind):
            coats.append((at, at + len(text), name))
        at += len(text)
    return coats if at == len(code) else []


def known(language: str) -> bool:
    return _lexer(language) is not None


def _colour(kind: _TokenType) -> str:
    return next((name for known, name in _COLOURS.items() if kind in known), "")


@lru_cache(64)
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False) if language else None
    except ClassNotFound:
        return None

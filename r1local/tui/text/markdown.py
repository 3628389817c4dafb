"""The Markdown of models: CommonMark and tables with formulas in it, and nothing that could hide text.

HTML is shown as it is written, so is what would only define a link for elsewhere; what entities and links spell out
is cleaned once more, since `&#8238;` turns a line around as well as the character itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from r1local.terminal import clean
from r1local.tui.text.formulas import formulas

DEEPEST = 40
"""Lists and quotations in one another. Text that is deeper is left out without a word, so who parses must look."""


def parser(*, unfinished: bool = False) -> MarkdownIt:
    """For use by one thread. With `unfinished`, a formula that is open at the end is taken for one already."""
    options = {"html": False, "maxNesting": DEEPEST + 1, "unfinished": unfinished}
    markdown = MarkdownIt("gfm-like", options).disable("reference").use(formulas)
    markdown.core.ruler.push("clean", _clean)
    return markdown


def outline() -> MarkdownIt:
    """The same blocks without a look into their lines."""
    markdown = parser()
    markdown.core.ruler.enableOnly(["normalize", "block"])
    return markdown


def _clean(state: StateCore) -> None:
    _clean_all(state.tokens)


def _clean_all(tokens: Sequence[Token]) -> None:
    for token in tokens:
        token.content = clean(token.content)
        for name, value in token.attrs.items():
            token.attrs[name] = clean(value) if isinstance(value, str) else value
        _clean_all(token.children or ())

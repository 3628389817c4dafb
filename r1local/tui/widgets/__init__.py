"""One widget a file. They are given values and post messages; what they look like is in the .tcss beside each."""

from pathlib import Path


def style_beside(module: str) -> str:
    """The style sheet beside a widget's module, as its default: an app's own style sheets win over it."""
    return Path(module).with_suffix(".tcss").read_text(encoding="utf-8")

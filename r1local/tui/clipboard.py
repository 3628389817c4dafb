"""Copies text to the clipboard of whoever sits at the terminal, however far away that is.

The terminal is asked to (OSC 52), which works over SSH. It does not answer, so nobody knows whether it did.
tmux passes the request on as it is, but only when told to: its usual `set-clipboard external` ignores what programs
inside it ask for. To wrap the request would not help, because `allow-passthrough` is off there as well.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from textual.app import App

from r1local import paths
from r1local.errors import R1Error
from r1local.terminal import clean_line

MOST_BYTES = 74_994
"""Some terminals drop a sequence of more than 100,000 bytes: 8 around it, and 4 for every 3 of the text."""

# In a shell into which it is pasted, a control character is a key that is pressed.
_KEYS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def copy(app: App[Any], text: str) -> str:
    """Copy it without its control characters. Returns the sentence that says so.

    What is too long for some terminals is written to a private file as well, which the next copy removes.
    """
    data = _KEYS.sub("", text).encode("utf-8", "replace")
    text = data.decode()
    app.copy_to_clipboard(text)
    said = [f"Copied {len(text):,} character{'' if len(text) == 1 else 's'}."]
    if len(data) > MOST_BYTES:
        said.append(_written(data))
    else:
        with suppress(OSError, R1Error):
            _file().unlink(missing_ok=True)
    if os.environ.get("TMUX"):
        said.append("tmux passes it on after: tmux set -s set-clipboard on")
    return " ".join(said)


def _file() -> Path:
    return paths.home() / "clipboard.txt"


def _written(data: bytes) -> str:
    """Write the file, and say where it is. Not synced: it need not outlive the machine, and the screen waits."""
    try:
        folder = paths.ensure_folder(_file().parent)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix="clipboard.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, _file())
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except R1Error as error:
        return f"That may be too long for this terminal, and no file could be written: {error.message}"
    except OSError as error:
        return f"That may be too long for this terminal, and no file could be written: {error.strerror or error}."
    return f"Should your terminal not take that much: it is in {clean_line(str(_file()))} as well."

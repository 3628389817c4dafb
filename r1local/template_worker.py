"""Runs chat templates in a process of their own, which can be killed and has little memory.

A jinja sandbox keeps a template from reaching code, not from working for ever or filling the memory. So the
process that renders is not the process that chats. It is started by file name, speaks one JSON object a line,
and imports nothing but jinja2 and the standard library.

    in   {"source": str, "variables": {...}}
    out  {"text": str} | {"error": str}
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY = 256 << 20
MAX_CPU_SECONDS = 2.0
MAX_OUTPUT = 4 << 20


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(f"it says: {message}")


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


@lru_cache(maxsize=4)
def _compiled(source: str) -> jinja2.Template:
    # The options and names that chat templates are written for (transformers' apply_chat_template).
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], autoescape=False, loader=None
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def render(source: str, variables: dict[str, Any]) -> str:
    """The rendered text. Raises whatever the template makes jinja raise."""
    pieces: list[str] = []
    length = 0
    for piece in _compiled(source).generate(**variables):
        length += len(piece)
        if length > MAX_OUTPUT:
            raise ValueError(f"it makes more than {MAX_OUTPUT:,} characters")
        pieces.append(piece)
    return "".join(pieces)


def _limit() -> None:
    """Bound the memory of this process, and the processor time of one request (see main)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; this process ends with its input
    try:
        import resource
    except ImportError:  # Windows: the parent's clock is the only bound there
        return
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        try:
            resource.setrlimit(getattr(resource, name), (MAX_MEMORY, MAX_MEMORY))
        except (AttributeError, ValueError, OSError):
            continue
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):
        pass


def main() -> None:
    _limit()
    for line in sys.stdin.buffer:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)  # its signal ends the process
        try:
            request = json.loads(line)
            reply = {"text": render(request["source"], request["variables"])}
        except MemoryError:
            reply = {"error": "it needs too much memory"}
        except RecursionError:
            reply = {"error": "it calls itself without end"}
        except Exception as error:  # a template can raise anything at all; all of it is one message
            reply = {"error": str(error) or type(error).__name__}
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(reply).encode("ascii") + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

"""The command line. `main` is the whole of it; each command has a file of its own."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from r1local.errors import ExitCode, R1Error
from r1local.terminal import clean

_Result = TypeVar("_Result")


def main() -> None:
    """Run the command line and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    from r1local.cli.app import app

    app()


def guarded(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """A command whose every error becomes a sentence on stderr and a documented exit code."""

    @wraps(command)
    def run(*args: object, **kwargs: object) -> _Result:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
            return result
        except R1Error as error:
            _say(error.message, error.hint)
            code = error.exit_code
        except BrokenPipeError:
            # Whoever read our output has left. Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ExitCode.BROKEN_PIPE
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except OSError as error:
            named = f" ({error.filename})" if error.filename else ""
            _say(f"{error.strerror or error}{named}.", "")
            code = ExitCode.FAILED
        except Exception as error:
            if os.environ.get("R1LOCAL_DEBUG"):
                raise
            _say(f"r1local made a mistake: {type(error).__name__}: {error}.", _keep_traceback())
            code = ExitCode.FAILED
        raise SystemExit(int(code))

    return run


def _keep_traceback() -> str:
    """Put the traceback into a file; the hint that says where."""
    from r1local import paths

    try:
        target = paths.log_file().with_name("mistake.log")
        paths.atomic_write(target, traceback.format_exc().encode("utf-8", "replace"))
    except (OSError, R1Error):
        return "Run it again with R1LOCAL_DEBUG=1 to see where, and report that."
    return f"Please report what is in {target}."


def _say(message: str, hint: str) -> None:
    try:
        print(clean(f"Error: {message}"), file=sys.stderr)  # noqa: T201
        if hint:
            print(clean(f"  {hint}"), file=sys.stderr)  # noqa: T201
    except (OSError, ValueError):
        pass

"""`r1local bench --tune`: measures settings against one another, and remembers the fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event
from typing import Any

from r1local import hardware
from r1local.cli.chat import cancel_on_interrupt
from r1local.cli.output import Output
from r1local.cli.table import show_table
from r1local.engine import EngineOptions
from r1local.engine.loading import tuning_key, usable
from r1local.engine.tuning import Tuner
from r1local.engine.turns import Outcome, Row
from r1local.engine.ways import Rigs, logical_cores, start, variants
from r1local.gguf_header import read_header
from r1local.plan.learnt import remember
from r1local.store import LocalModel
from r1local.units import seconds

_COLUMNS = ("SETTINGS", "PROMPT/S", "TOKENS/S", "RATIO", "ROUNDS", "NOTE")
_LEAVE_OUT = ("NOTE", "ROUNDS", "PROMPT/S")


@contextmanager
def heard_interrupt() -> Iterator[Callable[[], None]]:
    """What to call now and then: it raises KeyboardInterrupt after a Ctrl-C.

    Raised at any time, it would get lost where the C library happens to be calling back. A second one is raised.
    """
    pressed = Event()

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    with cancel_on_interrupt(pressed.set):
        yield check
        check()


def run_tune(local: LocalModel, options: EngineOptions, budget: float, output: Output, *, as_json: bool) -> None:
    """Raises R1Error; raises KeyboardInterrupt. Only what was decided is remembered, at the very end."""
    header = read_header(local.path)
    machine = usable(hardware.detect())
    begun = start(header, options, machine, on_notice=output.line)
    for name, fixed in (("threads", options.n_threads), ("batch", options.n_batch)):
        if fixed is not None:
            output.line(f"config.toml says {name} = {fixed}, which counts for more than what is tuned.")
    output.line(f"Measuring {local.name}, at most {seconds(budget)}.")
    doing, began = "", time.monotonic()

    def progress(what: str) -> None:
        nonlocal doing
        doing = what

    output.status(lambda: f"{seconds(time.monotonic() - began)} of {seconds(budget)}: {doing}")
    with heard_interrupt() as check, Rigs(begun, check) as rigs:
        found = Tuner(begun.default, variants(begun, logical_cores()), rigs, budget, on_progress=progress).run()
    output.status(None)
    if found.tuned is not None:
        remember("tuned", tuning_key(header, machine), found.tuned)
    if as_json:
        output.json(_as_json(local.name, found), indent=2)
        return
    if found.default.pairs:
        show_table(output, [_COLUMNS, *(_row(row) for row in (found.default, *found.rows))], _LEAVE_OUT)
        output.line(
            f"Read {found.sizes.read} tokens behind {found.sizes.prompt - found.sizes.read} others and wrote "
            f"{found.sizes.written}, in turns, in {seconds(found.seconds)}. RATIO: speed of 512 tokens read and 1,000 "
            "written, against the default."
        )
    output.line(_verdict(found, budget))


def _verdict(found: Outcome, budget: float) -> str:
    if not found.decided:
        return (
            f"{seconds(budget)} were too few to decide, and nothing was remembered. "
            f"Try --seconds {max(100, round(2 * budget))}"
        )
    if found.winner is None:
        return "Nothing was faster beyond noise: the default settings are remembered."
    gain = f"{found.winner.ratio or 1:.2f}x as fast"
    return f"Remembered: {found.winner.full_name}, {gain}. `r1local bench --reset` forgets it."


def speed(value: float) -> str:
    """Tokens a second for people."""
    return f"{value:.1f}" if value < 99.5 else f"{value:,.0f}"


def _row(row: Row) -> tuple[str, ...]:
    figures = row.figures
    return (
        row.name,
        speed(figures.prefill) if figures else "-",
        speed(figures.decode) if figures else "-",
        f"{row.ratio:.2f}" if row.ratio else "-",
        str(len(row.pairs)),
        ": ".join(filter(None, (row.parts, row.note or ("" if row.in_play else "too slow to go on")))),
    )


def _as_json(name: str, found: Outcome) -> dict[str, Any]:
    return {
        "model": name,
        "decided": found.decided,
        "winner": (found.winner.full_name if found.winner else "default") if found.decided else None,
        "ratio": found.winner.ratio if found.winner else 1.0 if found.decided else None,
        "remembered": asdict(found.tuned) if found.tuned else None,
        "seconds": found.seconds,
        "variants": [_row_as_json(row) for row in (found.default, *found.rows)],
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    figures = row.figures
    return {
        "name": row.full_name,
        "settings": asdict(row.way),
        "prefill_tokens_per_second": figures.prefill if figures else None,
        "decode_tokens_per_second": figures.decode if figures else None,
        "ratio": row.ratio,
        "rounds": len(row.pairs),
        "note": row.note,
    }

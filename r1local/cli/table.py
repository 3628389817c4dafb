"""A table for people: aligned, and on a narrow terminal without its least needed columns."""

from __future__ import annotations

import shutil

from r1local.cli.output import Output, fit
from r1local.terminal import clean_line


def show_table(output: Output, rows: list[tuple[str, ...]], leave_out: tuple[str, ...]) -> None:
    """The rows to stdout, the first one names the columns. `leave_out` names what a narrow terminal goes without,
    in this order. Into a pipe everything is written.
    """
    from wcwidth import wcswidth

    rows = [tuple(clean_line(cell) for cell in row) for row in rows]
    columns = shutil.get_terminal_size().columns if output.stdout_is_terminal else 10_000

    def width(text: str) -> int:
        return max(0, int(wcswidth(text)))

    kept = list(range(len(rows[0])))
    widths = [max(width(row[column]) for row in rows) for column in kept]
    for name in leave_out:
        if sum(widths[column] + 2 for column in kept) - 2 > columns:
            kept.remove(rows[0].index(name))
    for row in rows:
        line = "  ".join(row[column] + " " * (widths[column] - width(row[column])) for column in kept).rstrip()
        output.data(fit(line, columns) + "\n")

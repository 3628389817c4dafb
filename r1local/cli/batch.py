"""`r1local batch`: many prompts in, a line of JSON for each out."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from r1local import paths
from r1local.batch.journal import Journal
from r1local.batch.opening import Work
from r1local.batch.records import FIELDS, selected
from r1local.batch.rows import read_rows
from r1local.batch.worker import Record
from r1local.catalog import load_catalog
from r1local.cli.answering import Counted, Spread, answer_rows, work_of
from r1local.cli.chat import choose_model, sampling_of
from r1local.cli.integrity import check_once
from r1local.cli.output import Output
from r1local.errors import R1Error, UsageError, suggest
from r1local.many.row import Row
from r1local.many.values import How
from r1local.settings import load_settings, parse_settings

_FORMATS = {".jsonl": "jsonl", ".json": "json", ".ndjson": "jsonl", ".csv": "csv", ".txt": "lines"}
_MOST_TEMPLATE = 1 << 20


@dataclass(frozen=True, slots=True)
class BatchFlags:
    """The command line of `batch`."""

    source: str
    """A file, or "-" for what is piped in."""
    output: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """Flags that config.toml knows too, by its names."""
    stop: tuple[str, ...] = ()
    format: str = ""
    column: str = "prompt"
    template: str = ""
    select: tuple[str, ...] = ()
    spread: Spread = field(default_factory=Spread)
    vote_stop: bool = True
    as_finished: bool = False
    restart: bool = False
    json: bool = False


def run_batch(flags: BatchFlags) -> None:
    """Raises R1Error; KeyboardInterrupt when it was stopped, what is finished being kept."""
    _check(flags)
    output = Output()
    configured = load_settings()
    given = parse_settings(flags.settings, "the command line")
    settings = dataclasses.replace(configured, **flags.settings)
    catalog = load_catalog()
    template = _template(flags.template)
    rows = list(_rows(flags, template))
    if not rows:
        raise UsageError("There are no rows.", "Give a file with a prompt on each line, or JSON lines.")
    local = choose_model(catalog, settings.model, output)
    sampling = sampling_of(catalog, local, configured, given)
    how = How(sampling, settings.max_tokens, flags.stop, settings.system or "", settings.vote or 1, flags.vote_stop)
    check_once(local, output)
    work, facts = work_of(local, how, settings, flags.spread, template=template, column=flags.column)
    counted: Counted | None
    with ExitStack() as stack:
        stack.callback(output.close)
        if not flags.output:
            sink = _Stdout(rows, flags, output)
            counted = answer_rows(rows, work, flags.spread, output, sink.take)
            sink.end()
            output.line(str(counted))
        else:
            target = Path(os.path.realpath(paths.expand(flags.output)))  # a link stays one
            journal = stack.enter_context(Journal(_journal_file(target, flags.source), facts, anew=flags.restart))
            counted = _to_file(rows, work, journal, target, flags, output)
        if counted is not None and counted.stopped:
            raise KeyboardInterrupt


def _check(flags: BatchFlags) -> None:
    flags.spread.check()
    for name in flags.select:
        if name not in FIELDS:
            near = suggest(name, FIELDS)
            raise UsageError(
                f"There is no field {name!r}.", f"Did you mean {near}?" if near else "Fields: " + ", ".join(FIELDS)
            )
    if flags.format not in ("", "jsonl", "json", "csv", "lines"):
        raise UsageError(f"There is no format {flags.format!r}.", "Formats: jsonl, json, csv, lines.")
    if flags.json and not flags.output:
        raise UsageError("--json is for progress beside -o.", "Leave it out: without -o the rows are JSON anyway.")
    if flags.restart and not flags.output:
        raise UsageError("--restart needs -o.", "Without -o nothing is kept to forget.")


def _to_file(
    rows: list[Row], work: Work, journal: Journal, target: Path, flags: BatchFlags, output: Output
) -> Counted | None:
    """Answer what the journal lacks, then write the target. None where nothing was lacking."""
    left = [row for row in rows if row.key not in journal]
    if len(left) < len(rows):
        output.line(f"{len(rows) - len(left):,} of {len(rows):,} rows are answered already.")
    counted: Counted | None = None
    done = len(rows) - len(left)

    def take(row: Row, record: Record) -> None:
        nonlocal done
        done += 1
        journal.add(row.key, record)
        if flags.json:
            output.json({"event": "row", "id": row.id, "done": done, "of": len(rows), "failed": "error" in record})

    try:
        if left:
            counted = answer_rows(left, work, flags.spread, output, take)
            output.line(str(counted))
    finally:
        journal.sync()
        count = _write(target, rows, journal, flags)
    output.line(f"{count:,} of {len(rows):,} rows are in {target}.")
    if flags.json:
        output.json({"event": "end", "rows": count, "of": len(rows), "output": str(target)})
    return counted


class _Stdout:
    """Rows to stdout: in the order of the input, held back until those before them are there, or as they end."""

    def __init__(self, rows: list[Row], flags: BatchFlags, output: Output) -> None:
        self._flags = flags
        self._output = output
        self._waiting: dict[int, Record] = {}
        self._order = iter([row.number for row in rows])
        self._next = next(self._order, None)

    def take(self, row: Row, record: Record) -> None:
        if self._flags.as_finished:
            self._write(record)
            return
        self._waiting[row.number] = record
        while self._next is not None and self._next in self._waiting:
            self._write(self._waiting.pop(self._next))
            self._next = next(self._order, None)

    def end(self) -> None:
        """What waits for rows that will not come."""
        for _, record in sorted(self._waiting.items()):
            self._write(record)

    def _write(self, record: Record) -> None:
        self._output.json(selected(record, self._flags.select))


def _template(given: str) -> str:
    if not given.startswith("@"):
        return given
    path = paths.expand(given[1:])
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(_MOST_TEMPLATE).rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{path} cannot be read: {reason}.", "Name another file behind the @.") from error


def _rows(flags: BatchFlags, template: str) -> Iterator[Row]:
    if flags.source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("There is nothing to answer.", "Name a file, or pipe lines in.")
        lines: Iterable[str] = (line.decode("utf-8-sig", "replace") for line in sys.stdin.buffer)
        first = next((line for line in lines if line.strip()), "")
        kind = flags.format or ("jsonl" if first.lstrip().startswith(("{", '"')) else "lines")
        yield from read_rows(chain([first], lines), kind, column=flags.column, template=template)
        return
    path = paths.expand(flags.source)
    kind = flags.format or _FORMATS.get(path.suffix.lower(), "lines")
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="" if kind == "csv" else None) as file:
            yield from read_rows(file, kind, column=flags.column, template=template, where=str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", "Name another file.") from error


def _journal_file(target: Path, source: str) -> Path:
    if target.is_dir():
        raise UsageError(f"{target} is a folder.", "Name a file in it.")
    if target.exists():
        if not target.is_file():  # replacing /dev/null would be a loss to everybody
            raise UsageError(f"{target} is no ordinary file.", "Choose another -o.")
        if source != "-" and target.samefile(paths.expand(source)):
            raise UsageError(f"{target} is what is read.", "Choose another -o: it would be replaced.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}.", "Make it first, or choose another.")
    return target.with_name(target.name + ".journal")


def _write(target: Path, rows: list[Row], journal: Journal, flags: BatchFlags) -> int:
    """All finished rows, in the order of the input or as they ended; how many. Written beside, then renamed."""
    keys = [row.key for row in rows]
    if flags.as_finished:
        wanted = set(keys)
        keys = [key for key in journal.in_order() if key in wanted]
    finished = (record for key in keys if (record := journal.get(key)) is not None)
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for record in finished:
            yield (json.dumps(selected(record, flags.select), ensure_ascii=False) + "\n").encode("utf-8", "replace")
            count += 1

    try:
        paths.atomic_write(target, lines())
    except OSError as error:
        raise R1Error(
            f"{target} cannot be written: {error.strerror or error}.", "Make room, then run it again."
        ) from error
    return count

"""Rows of .jsonl, .json, .csv and .parquet files. The files are strangers': everything in them is bounded."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from r1local.errors import UsageError
from r1local.terminal import clean_line

MAX_BYTES = 64 << 20
MAX_CELL = 1_000_000
"""Characters of a cell in CSV."""
MAX_ROWS = 100_000
_AT_ONCE = 1000  # rows of a .parquet file


class LibraryWanted(UsageError):
    """Something needs a library of an extra that is not installed."""


Row = dict[str, Any] | str
"""A row by its columns, in lower case; or, of a row that cannot be read, why."""


def read_rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, Row]]:
    """The rows and their numbers, counted from 1: of lines in .jsonl and .csv, else of entries.

    columns: those that are wanted, in lower case. Raises UsageError when it is no such file, LibraryWanted.
    """
    data = _read(path)
    wanted = frozenset(columns)
    match path.suffix.lower():
        case ".jsonl":
            rows = _jsonl(data)
        case ".json":
            rows = _json(data, path)
        case ".csv":
            rows = _csv(data)
        case ".parquet":
            rows = _parquet(data, path, wanted)
        case _:
            raise UsageError(f"{shown(path)} is no file of problems.", "It must be .jsonl, .json, .csv or .parquet.")
    for count, (number, row) in enumerate(rows, 1):
        if count > MAX_ROWS:
            raise UsageError(f"{shown(path)} has more than {MAX_ROWS:,} problems.", "Divide it into several files.")
        yield number, row if isinstance(row, str) else _named(row, wanted)


def reads_parquet() -> bool:
    """Whether the library for .parquet is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def parquet_missing(name: str) -> LibraryWanted:
    return LibraryWanted(f"{name} is a .parquet file, which needs pyarrow.", "Install it: pip install 'r1local[eval]'")


def shown(path: Path) -> str:
    """The file's name for a message."""
    return clean_line(path.name)[:200]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # A device or a pipe has no size beforehand.
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{shown(path)} cannot be read: {error.strerror or error}.", "Check the file.") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{shown(path)} is larger than {MAX_BYTES >> 20} MiB.", "Divide it into several files.")
    return data


def _named(row: dict[Any, Any], wanted: frozenset[str]) -> dict[str, Any]:
    named = {str(name).strip().lower(): value for name, value in reversed(row.items()) if name is not None}
    return {name: value for name, value in named.items() if name in wanted}


def _jsonl(data: bytes) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            yield number, "not JSON"
            continue
        yield number, row if isinstance(row, dict) else "not an object"


def _json(data: bytes, path: Path) -> Iterator[tuple[int, Row]]:
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise UsageError(f"{shown(path)} is not JSON.", "A file with an object a line must be called .jsonl") from None
    if not isinstance(document, list):
        raise UsageError(f"{shown(path)} holds no list.", "It must be a list of objects with a problem and an answer.")
    for number, row in enumerate(document, 1):
        yield number, row if isinstance(row, dict) else "not an object"


def _csv(data: bytes) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(MAX_CELL)  # one for the whole process: others set theirs when they begin, too
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=""))
    try:
        reader.fieldnames  # noqa: B018  reads the first line
    except csv.Error as error:
        yield 1, str(error)
        return
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield number, str(error)
            continue
        if row is None:
            return
        yield number, row


def _parquet(data: bytes, path: Path, wanted: frozenset[str]) -> Iterator[tuple[int, Row]]:
    if not reads_parquet():
        raise parquet_missing(shown(path))
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        if file.metadata.num_rows > MAX_ROWS:
            raise UsageError(f"{shown(path)} has more than {MAX_ROWS:,} problems.", "Divide it into several files.")
        columns = [name for name in file.schema_arrow.names if name.lower() in wanted]
        number = 0
        for batch in file.iter_batches(batch_size=_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{shown(path)} is no sound .parquet file.", "Fetch it again.") from error

"""What `r1local eval` can ask, read from tasks.toml. No data set and no setting of a protocol stands in code."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from r1local.errors import R1Error, UsageError, suggest
from r1local.paths import expand
from r1local.terminal import clean_line

Kind = Literal["integer", "maths", "letter"]
"""How a final answer is judged: as a whole number, as mathematics, or as the letter of a choice."""

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_FIELD = re.compile(r"\{(problem|A|B|C|D)\}")


@dataclass(frozen=True, slots=True)
class Source:
    """A data set on the Hub."""

    repo: str
    files: tuple[str, ...]
    """Shell patterns of the files that are wanted; the first that fits any file counts."""
    split: str = ""
    config: str = ""
    licence: str = ""

    @property
    def page(self) -> str:
        """Below the Hub's address."""
        return f"datasets/{self.repo}"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names that a column may have, in any case of letters; the first one that is there counts."""

    problem: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    topic: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a model is asked."""

    temperature: float
    top_p: float
    max_tokens: int
    """Of one reply, its thought included."""
    samples: int
    """Replies to each problem."""


@dataclass(frozen=True, slots=True)
class Task:
    """A set of problems, and how they are asked and judged."""

    id: str
    title: str
    kind: Kind
    columns: Columns
    prompt: str
    """{problem}, and {A} to {D} for a choice, stand for what is filled in."""
    protocol: Protocol
    problems: int = 0
    """How many there are; 0 where that is not known beforehand."""
    sources: tuple[Source, ...] = ()
    """On the Hub, in order of preference."""
    path: Path | None = None
    """The user's own file."""
    wrong: tuple[str, ...] = ()
    """Columns of the wrong choices."""
    licence: str = ""
    """Of problems that are made here; each source has its own."""
    gated: bool = False
    """Whether the Hub wants its terms accepted first."""
    note: str = ""
    """What who uses it should know."""
    published: Mapping[str, str] = field(default_factory=dict)
    """From a measure (pass1, cons64) to the name of the score in models.toml."""

    @property
    def address(self) -> str:
        """The web page of its first source below the Hub's address, or its file; empty for what is made here."""
        return self.sources[0].page if self.sources else str(self.path or "")

    def ask(self, values: Mapping[str, str]) -> str:
        """The prompt with `values` filled in. What looks like a field in them stays as it is."""
        return _FIELD.sub(lambda match: values.get(match[1], match[0]), self.prompt)


@lru_cache(maxsize=1)
def load_tasks() -> tuple[Task, ...]:
    """The tasks that came with this package."""
    data = _data()
    return tuple(_task(entry, data) for entry in data["task"])


def find_task(name: str) -> Task:
    """The task of this name in any case of letters, or the one of a file with problems.

    Raises UsageError with the nearest name.
    """
    wanted = name.strip()
    known = {task.id: task for task in load_tasks()}
    key = re.sub(r"[\s_-]", "", wanted.lower())
    for task in known.values():
        if key == re.sub(r"[_-]", "", task.id):
            return task
    path = expand(wanted) if wanted else Path()
    if path.suffix.lower() in SUFFIXES:
        return file_task(path)
    near = suggest(wanted.lower(), known)
    raise UsageError(
        f"No task is called {clean_line(name)[:200]!r}.",
        (f"Did you mean {near}? " if near else "")
        + f"There are {', '.join(known)}, and any .jsonl file whose lines have a problem and an answer.",
    )


def file_task(path: Path) -> Task:
    """The task of a file of the user's. Raises UsageError where there is none."""
    if not path.is_file():
        raise UsageError(f"There is no file {clean_line(str(path))[:500]}.", "Name a .jsonl file with problems.")
    data = _data()
    name = clean_line(path.stem)[:100] or "problems"
    return _task({"id": name, "title": clean_line(path.name)[:200], "path": path, **data["file"]}, data)


def _task(entry: Mapping[str, Any], data: Mapping[str, Any]) -> Task:
    own = dict(entry)
    protocol = {**data["protocol"], **{name: own.pop(name) for name in ("samples", "max_tokens") if name in own}}
    sources = tuple(Source(**{**source, "files": tuple(source["files"])}) for source in own.pop("source", ()))
    columns = Columns(**{name: tuple(known) for name, known in own.pop("columns").items()})
    return Task(
        **{
            **own,
            "prompt": data["prompts"][own["prompt"]].strip("\n"),
            "wrong": tuple(own.get("wrong", ())),
            "protocol": Protocol(**protocol),
            "sources": sources,
            "columns": columns,
        }
    )


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    try:
        return tomllib.loads(Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8"))
    except OSError as error:
        raise R1Error("tasks.toml is missing from this installation.", "Install r1local again.") from error

"""The problems of a task: fetched, made, or read from a file, as prompts with what has to come out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from r1local.errors import R1Error, UsageError
from r1local.scores.arith import arithmetic
from r1local.scores.hub_sets import Access, Fetched, Progress, fetch
from r1local.scores.tables import MAX_ROWS, Row, read_rows, shown
from r1local.scores.tasks import Kind, Task, file_task, find_task
from r1local.terminal import clean_line

MAX_CHARACTERS = 200_000
"""Of one problem, its choices included."""
_MAX_ID = 200
_LETTERS = "ABCD"
_NAMED = 5  # broken lines that a message lists
_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is asked, and what has to come out."""

    id: str
    """Its own in the set."""
    prompt: str
    gold: str
    """A whole number, mathematics or a letter, as `kind` says."""
    topic: str = ""
    kind: Kind = "maths"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where problems are from, for the report."""

    name: str
    address: str = ""
    """A web page; empty for what is of this machine."""
    revision: str = ""
    """The commit of the data set."""
    licence: str = ""
    whole: int = 0
    """How many problems there are, of which a limit may have taken some."""


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """The problems of one run."""

    task: Task
    problems: tuple[Problem, ...]
    origin: Origin

    @property
    def digest(self) -> str:
        """SHA-256 of ids, prompts and golds: runs with the same one asked the same."""
        whole = hashlib.sha256()
        for problem in self.problems:
            for text in (problem.id, problem.prompt, problem.gold):
                whole.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
        return whole.hexdigest()


def load_problems(
    task: Task | Path | str,
    *,
    token: str = "",
    endpoint: str = "",
    offline: bool = False,
    limit: int | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[Problem]:
    """The problems of a task, a task's name, or a file; see `load_problem_set`."""
    access = Access(endpoint=endpoint, token=token, offline=offline)
    return list(load_problem_set(task, access, limit=limit, seed=seed, on_progress=on_progress).problems)


def load_problem_set(
    task: Task | Path | str,
    access: Access | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> ProblemSet:
    """The problems and where they are from.

    limit: so many, drawn by `seed`; a larger limit has all of a smaller one. A data set that is in the cache is not
    asked for again. Raises UsageError for what is wrong in a file, and what `fetch` raises.
    """
    if limit is not None and limit < 1:
        raise UsageError("There is nothing to ask with a limit below 1.", "Leave --limit out for all problems.")
    task = find_task(task) if isinstance(task, str) else file_task(task) if isinstance(task, Path) else task
    if task.path is not None:
        found = read_problems(task, [task.path])
        origin = Origin(shown(task.path), licence=task.licence, whole=len(found))
    elif task.sources:
        fetched, found = _of_the_hub(task, access or Access(), on_progress)
        origin = Origin(fetched.source.repo, fetched.address, fetched.revision, fetched.source.licence, len(found))
    else:
        found = arithmetic_problems(task, seed, limit or task.problems)
        origin = Origin("r1local", licence=task.licence, whole=len(found))
    return ProblemSet(task, tuple(drawn(found, limit, seed)), origin)


def drawn(problems: Sequence[Problem], limit: int | None, seed: int) -> list[Problem]:
    """At most `limit` of them, in their order. Which ones depends on their ids and the seed alone."""
    if limit is None or limit >= len(problems):
        return list(problems)
    ranks = sorted(problems, key=lambda problem: hashlib.sha256(f"{seed} {problem.id}".encode()).digest())
    kept = {problem.id for problem in ranks[:limit]}
    return [problem for problem in problems if problem.id in kept]


def arithmetic_problems(task: Task, seed: int, count: int) -> list[Problem]:
    """Sums and the like, worded as the task words its questions."""
    return [
        Problem(made.id, task.ask({"problem": made.question}), str(made.result), made.kind, task.kind)
        for made in arithmetic(seed, count)
    ]


def _of_the_hub(task: Task, access: Access, on_progress: Progress | None) -> tuple[Fetched, list[Problem]]:
    def is_whole(fetched: Fetched) -> bool:
        # An interrupted download of several files leaves some of them in the cache.
        try:
            return len(read_problems(task, fetched.files)) >= task.problems
        except R1Error:
            return False

    fetched = fetch(task, access, is_whole, on_progress)
    return fetched, read_problems(task, fetched.files)


def read_problems(task: Task, files: Iterable[Path]) -> list[Problem]:
    """All problems of the files, in order. Raises UsageError with the numbers of lines that hold none."""
    columns = (task.columns.problem, task.columns.gold, task.columns.id, task.columns.topic, task.wrong, ("prompt",))
    wanted = {name for names in columns for name in names}
    found: dict[str, Problem] = {}
    for path in files:
        broken: list[tuple[int, str]] = []
        for number, row in read_rows(path, wanted):
            made = _problem(task, row, len(found) + 1)
            if isinstance(made, Problem) and made.id in found:
                made = f"the id {made.id} was there before"
            if isinstance(made, str):
                broken.append((number, made))
            else:
                found[made.id] = made
        if broken:
            raise _broken(path, broken)
        if len(found) > MAX_ROWS:
            raise UsageError(f"There are more than {MAX_ROWS:,} problems.", "Divide them into several files.")
    if not found:
        names = ", ".join(shown(path) for path in files)
        raise UsageError(f"There is no problem in {names}.", "Each line needs a problem and an answer.")
    return list(found.values())


def _broken(path: Path, broken: Sequence[tuple[int, str]]) -> UsageError:
    named = ", ".join(f"line {number} ({why})" for number, why in broken[:_NAMED])
    rest = f" and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
    return UsageError(f"{shown(path)} has lines that are no problem: {named}{rest}.", "Mend or remove them.")


def _problem(task: Task, row: Row, position: int) -> Problem | str:
    """The problem of a row; or why it is none."""
    if isinstance(row, str):
        return clean_line(row)[:100]
    question, ready = _first(row, task.columns.problem), "" if task.sources else _first(row, ("prompt",))
    gold = _gold(task.kind, _first(row, task.columns.gold))
    if not (question or ready):
        return "no problem"
    if not gold:
        return "no answer" if task.kind != "integer" else "no whole number as its answer"
    values = {"problem": question}
    if task.kind == "letter":
        choices = [gold, *(_first(row, (name,)) for name in task.wrong)]
        if len(choices) != len(_LETTERS) or not all(choices):
            return "not four choices"
        gold, choices = _shuffled(question, choices)
        values |= dict(zip(_LETTERS, choices, strict=True))
    prompt = task.ask(values) if question else ready
    if len(prompt) > MAX_CHARACTERS:
        return f"longer than {MAX_CHARACTERS:,} characters"
    name = clean_line(_first(row, task.columns.id))[:_MAX_ID] or str(position)
    return Problem(name, prompt, gold, clean_line(_first(row, task.columns.topic))[:_MAX_ID], task.kind)


def _shuffled(question: str, choices: list[str]) -> tuple[str, list[str]]:
    """The letter of the first choice, and the choices in an order that the question's own text decides."""
    order = list(range(len(choices)))
    Random(hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()).shuffle(order)
    return _LETTERS[order.index(0)], [choices[place] for place in order]


def _gold(kind: Kind, text: str) -> str:
    """What has to come out, in the one form that grading compares with; empty when it is none."""
    if kind != "integer":
        return text
    bare = text.removeprefix("\\boxed{").removesuffix("}").strip("$ .").replace(",", "")
    return str(int(bare)) if _WHOLE.fullmatch(bare) else ""


def _first(row: dict[str, Any], names: Iterable[str]) -> str:
    """The text in the first of these columns that is there and not empty."""
    for name in names:
        value = row.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, (str, int, float)) and (text := str(value).strip()):
            return text
    return ""


__all__ = ["Origin", "Problem", "ProblemSet", "load_problem_set", "load_problems"]

"""`r1local eval`: how well models do on problems with known answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1local import paths
from r1local.answers import Judge
from r1local.batch.journal import Journal
from r1local.catalog import Catalog, load_catalog
from r1local.chat_types import Sampling, Turn
from r1local.cli.answering import Spread, answer_rows, work_of
from r1local.cli.chat import choose_model
from r1local.cli.integrity import check_once
from r1local.cli.output import Output
from r1local.errors import R1Error, UsageError
from r1local.many.row import Row
from r1local.many.values import How
from r1local.scores.grading import Graded, grade
from r1local.scores.hub_sets import Access
from r1local.scores.plot import can_plot, draw_plot, terminal_plot
from r1local.scores.problems import Problem, ProblemSet, load_problem_set
from r1local.scores.report import Published, Report, make_report, published_scores
from r1local.scores.tasks import Protocol, Task, find_task
from r1local.settings import Settings, merge_sampling, parse_settings
from r1local.store import LocalModel

_MOST_SAMPLES = 1024


@dataclass(frozen=True, slots=True)
class EvalFlags:
    """The command line of `eval`."""

    task: str
    models: tuple[str, ...] = ()
    samples: int | None = None
    limit: int | None = None
    output: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """Flags that config.toml knows too, by its names."""
    spread: Spread = field(default_factory=Spread)
    access: Access = field(default_factory=Access)
    restart: bool = False
    json: bool = False


def run_eval(flags: EvalFlags) -> None:
    """Raises R1Error; KeyboardInterrupt when it was stopped, what is finished being kept and reported."""
    flags.spread.check()
    output = Output()
    # Of config.toml nothing counts: scores are to be compared with those of others.
    settings = parse_settings(flags.settings, "the command line")
    task = find_task(flags.task)
    protocol = _protocol(task, settings, flags)
    catalog = load_catalog()
    models = _models(catalog, flags.models, output)
    try:
        asked = _problems(task, flags, settings, output)
        rows = _rows(asked.problems, protocol.samples, settings.seed or 0)
        folder = _folder(flags.output or f"eval-{task.id}")
        graded: dict[str, list[Graded]] = {}
        stopped = False
        with Judge() as judge:
            if not judge.installed and task.kind == "maths":
                output.line("Answers are compared as text and numbers only: pip install 'r1local[eval]' knows algebra.")
            for local in models:
                check_once(local, output)
                sampling = _sampling(catalog, local, protocol, settings)
                how = How(sampling, protocol.max_tokens, system=settings.system or "")
                with _answered(local, rows, how, settings, flags, folder, output) as (journal, stopped):
                    graded[local.name] = [
                        grade(problem, record, judge)
                        for problem, row in zip(_repeated(asked.problems, protocol.samples), rows, strict=True)
                        if (record := journal.get(row.key)) is not None
                    ]
                if stopped:
                    break
            published = {
                local.name: published_scores(task, local.model) if local.model else tuple[Published, ...]()
                for local in models
            }
            report = make_report(asked, graded, judge.same, protocol=protocol, published=published)
        _tell(report, folder, flags, output)
    finally:
        output.close()
    if stopped:
        raise KeyboardInterrupt


def _protocol(task: Task, settings: Settings, flags: EvalFlags) -> Protocol:
    """The task's, with what the user says otherwise."""
    given: dict[str, Any] = {
        "temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": settings.max_tokens,
        "samples": flags.samples,
    }  # fmt: skip
    if flags.samples is not None and not 1 <= flags.samples <= _MOST_SAMPLES:
        raise UsageError(f"--samples must be between 1 and {_MOST_SAMPLES}, not {flags.samples}.")
    return dataclasses.replace(task.protocol, **{name: value for name, value in given.items() if value is not None})


def _models(catalog: Catalog, names: Sequence[str], output: Output) -> list[LocalModel]:
    models = [choose_model(catalog, name, output) for name in names or (None,)]
    if len({local.name for local in models}) < len(models):
        raise UsageError("A model is named twice.", "Name each once, such as -m 7b:q8_0 -m 7b:q4_k_m.")
    return models


def _problems(task: Task, flags: EvalFlags, settings: Settings, output: Output) -> ProblemSet:
    progress = ["", 0, 0]

    def on_progress(label: str, done: int, total: int) -> None:
        progress[:] = [label, done, total]

    output.status(lambda: "Fetching {} {} of {}".format(*progress) if progress[0] else f"Reading {task.title}")
    try:
        asked = load_problem_set(
            task, flags.access, limit=flags.limit, seed=settings.seed or 0, on_progress=on_progress
        )
    finally:
        output.status(None)
    origin = asked.origin
    licence = f", licence: {origin.licence}" if origin.licence else ""
    output.line(f"{len(asked.problems)} problems of {task.title}{licence}")
    if task.note:
        output.line(task.note)
    return asked


def _repeated(problems: Sequence[Problem], samples: int) -> list[Problem]:
    """Each so many times in a row: their prompt is then read once."""
    return [problem for problem in problems for _ in range(samples)]


def _rows(problems: Sequence[Problem], samples: int, seed: int) -> list[Row]:
    """A row for each sample of each problem, all with seeds of their own."""
    rows = []
    for number, problem in enumerate(_repeated(problems, samples)):
        name = f"{problem.id}#{number % samples}"
        digest = hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()
        own = int.from_bytes(digest[:4]) % (2**32 - 2)
        rows.append(Row(number, name, (Turn("user", problem.prompt),), {"seed": own}))
    return rows


def _sampling(catalog: Catalog, local: LocalModel, protocol: Protocol, settings: Settings) -> Sampling:
    known = dict(local.model.sampling if local.model else catalog.sampling)
    known |= {"temperature": protocol.temperature, "top_p": protocol.top_p}
    return merge_sampling(known, Settings(), dataclasses.asdict(settings) | {"seed": None})


@contextmanager
def _answered(
    local: LocalModel, rows: list[Row], how: How, settings: Settings, flags: EvalFlags, folder: Path, output: Output
) -> Iterator[tuple[Journal, bool]]:
    """The journal with the replies to all rows, and whether it was stopped before the last one."""
    work, facts = work_of(local, how, settings, flags.spread)
    with Journal(folder / f"{_file_name(local.name)}.journal", facts, anew=flags.restart) as journal:
        left = [row for row in rows if row.key not in journal]
        if len(left) < len(rows):
            output.line(f"{local.name}: {len(rows) - len(left):,} of {len(rows):,} replies are there already.")
        stopped = False
        if left:
            counted = answer_rows(
                left, work, flags.spread, output, lambda row, record: journal.add(row.key, record), label=local.name
            )
            output.line(f"{local.name}: {counted}")
            journal.sync()
            stopped = counted.stopped
        yield journal, stopped


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _folder(name: str) -> Path:
    folder = paths.expand(name)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", "Name a folder with -o.")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror or error}.", "Choose another -o.") from error
    return folder


def _tell(report: Report, folder: Path, flags: EvalFlags, output: Output) -> None:
    if not report.results:
        output.line("There is nothing to report: no reply has come to its end.")
        return
    markdown, document = report.to_markdown(), report.to_json()
    written = ["report.md", "report.json"]
    try:
        paths.atomic_write(folder / "report.md", markdown.encode("utf-8", "replace"))
        paths.atomic_write(
            folder / "report.json",
            (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "replace"),
        )
        if can_plot():
            draw_plot(report, folder / "report.png")
            written.append("report.png")
    except OSError as error:
        raise R1Error(
            f"{folder} cannot be written: {error.strerror or error}.", "Make room, then run it again."
        ) from error
    if flags.json:
        output.json(document, indent=2)
    else:
        output.data(markdown)
        output.end_data()
    if output.stderr_is_terminal:
        ascii_only = (output.stderr.encoding or "").lower().replace("-", "") not in ("utf8", "utf16")
        output.line(terminal_plot(report, shutil.get_terminal_size().columns - 1, ascii_only=ascii_only))
    output.line(f"{', '.join(written)} and the replies are in {folder}.")

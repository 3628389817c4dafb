"""What an evaluation found: several models on one task, side by side, as values, as JSON and as Markdown.

No text of a problem and no reply is in a report, only ids: some authors ask not to publish their questions.

The JSON document, schema 1. Shares are from 0 to 1; a rate is {"value", "low", "high"}, its 95 % interval from low to
high. What is not known is null.

    schema, r1local       1, and the version that wrote it
    task                  id, title, kind, note
    data                  name, address, revision, licence, whole, asked, digest (SHA-256 of what was asked)
    protocol              temperature, top_p, max_tokens, samples
    interval              how intervals are made
    models[]              name, problems, replies, samples, errors, pass1 (rate), consensus {"4": rate},
                          pass_at {"4": share}, truncated, unclosed, looped, tokens {mean, median, total, thinking,
                          right, wrong}, seconds, tokens_per_second, topics {name: {problems, pass1}},
                          shares {problem id: share}, published[] {measure, share, source}
    comparisons[]         one, other, difference (rate), problems, replies, shown, sentence
    worst[]               id, topic, shares (one a model, null where it has no reply)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from r1local.catalog import Model
from r1local.scores.grading import Graded
from r1local.scores.problems import Origin, ProblemSet
from r1local.scores.statistics import Comparison, Measures, compare, measure
from r1local.scores.tasks import Protocol, Task
from r1local.scores.voting import Same

SCHEMA = 1
MOST_WORST = 20
"""Problems that are listed as the hardest."""
INTERVAL = (
    "95 %, problems counted as drawn from many like them (standard error clustered by problem, arXiv 2411.00640; "
    "Wilson's interval with the effective number of replies and Student's t); differences paired by problem"
)


@dataclass(frozen=True, slots=True)
class Published:
    """What the makers of a model say it scores."""

    measure: str
    """pass1, or cons64 for a majority of 64."""
    share: float
    """From 0 to 1."""
    source: str


@dataclass(frozen=True, slots=True)
class Result:
    """One model."""

    name: str
    measures: Measures
    published: tuple[Published, ...] = ()

    def published_as(self, measure: str) -> Published | None:
        return next((score for score in self.published if score.measure == measure), None)


@dataclass(frozen=True, slots=True)
class Hard:
    """A problem that was answered worst."""

    id: str
    topic: str
    shares: tuple[float | None, ...]
    """Of right replies, one a model; None where it has none."""


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation."""

    task: Task
    origin: Origin
    asked: int
    """Problems of this run."""
    digest: str
    protocol: Protocol
    """What was really set, where that is not the task's."""
    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...] = ()
    """Each model with the first one."""
    worst: tuple[Hard, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document described at the top of this module."""
        from r1local import __version__

        return {
            "schema": SCHEMA,
            "r1local": __version__,
            "task": {"id": self.task.id, "title": self.task.title, "kind": self.task.kind, "note": self.task.note},
            "data": {**asdict(self.origin), "asked": self.asked, "digest": self.digest},
            "protocol": asdict(self.protocol),
            "interval": INTERVAL,
            "models": [_result_as_json(result) for result in self.results],
            "comparisons": [{**asdict(it), "shown": it.is_shown, "sentence": it.sentence} for it in self.comparisons],
            "worst": [asdict(hard) for hard in self.worst],
        }

    def to_markdown(self) -> str:
        """The same for people."""
        from r1local.scores.markdown import as_markdown

        return as_markdown(self)


def make_report(
    asked: ProblemSet,
    graded: Mapping[str, Sequence[Graded]],
    same: Same,
    *,
    protocol: Protocol | None = None,
    published: Mapping[str, Sequence[Published]] | None = None,
) -> Report:
    """The report of what each model, by name, replied. A model without any reply is left out.

    same: `Judge.same`, for votes. protocol: where it was not the task's. The first model is what others are compared
    with.
    """
    published = published or {}
    ids = {problem.id for problem in asked.problems}
    replied = {name: [it for it in those if it.problem in ids] for name, those in graded.items()}
    replied = {name: those for name, those in replied.items() if those}
    results = tuple(
        Result(name, measure(those, same), tuple(published.get(name, ()))) for name, those in replied.items()
    )
    first, *others = replied or [""]
    return Report(
        asked.task,
        asked.origin,
        len(asked.problems),
        asked.digest,
        protocol or asked.task.protocol,
        results,
        tuple(compare(other, replied[other], first, replied[first]) for other in others),
        _worst(asked, results),
    )


def published_scores(task: Task, model: Model) -> tuple[Published, ...]:
    """What the catalog has of a model on this task. Its percents are shares here."""
    return tuple(
        Published(measure, model.scores[name] / 100, model.scores_source)
        for measure, name in task.published.items()
        if name in model.scores
    )


def _worst(asked: ProblemSet, results: Sequence[Result]) -> tuple[Hard, ...]:
    """The problems with the fewest right replies over all models, none of which all got right every time."""
    found = []
    for problem in asked.problems:
        shares = tuple(result.measures.shares.get(problem.id) for result in results)
        known = [share for share in shares if share is not None]
        if known and min(known) < 1:
            found.append((sum(known) / len(known), Hard(problem.id, problem.topic, shares)))
    return tuple(hard for _, hard in sorted(found, key=lambda pair: pair[0])[:MOST_WORST])


def _result_as_json(result: Result) -> dict[str, Any]:
    values = asdict(result.measures)
    for by_size in ("consensus", "pass_at"):
        values[by_size] = {str(size): value for size, value in values[by_size].items()}
    return {"name": result.name, **values, "published": [asdict(score) for score in result.published]}

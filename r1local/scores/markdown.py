"""A report as Markdown: a table for each thing that was measured, the models below one another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from r1local.scores.intervals import Rate
from r1local.scores.report import INTERVAL, Published, Report, Result
from r1local.terminal import clean_line
from r1local.units import seconds

_SPECIAL = re.compile(r"([\\`*\[\]<>|~])")


def as_markdown(report: Report) -> str:
    """The whole report. Names and topics are shown as they are, none of them is taken for Markdown."""
    sections = (
        [f"# {text(report.task.title)}"],
        _about(report),
        _right(report),
        _votes(report),
        _comparisons(report),
        _topics(report),
        _ends(report),
        _tokens(report),
        _worst(report),
        ["## How the numbers are made", "", _METHOD],
    )
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


_METHOD = (
    "pass@1 is the share of right replies to a problem, averaged over the problems. Only the answer counts: a thought "
    "that was not closed is wrong, and so is a reply that failed. cons@K takes the answer that most of K replies agree "
    "with, over disjoint groups of K; pass@K is the chance that one of K replies is right (arXiv 2107.03374). "
    f"Intervals: {INTERVAL}. Published scores were taken as their source says, which may differ."
)


def text(value: str) -> str:
    """Text of a stranger on one line, every sign of it as it is."""
    return _SPECIAL.sub(r"\\\1", clean_line(value))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def interval(rate: Rate) -> str:
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}"


def _about(report: Report) -> list[str]:
    origin, protocol = report.origin, report.protocol
    name = f"[{text(origin.name)}]({origin.address})" if origin.address else text(origin.name)
    commit = f" at {origin.revision[:12]}" if origin.revision else ""
    licence = f"; licence: {text(origin.licence)}" if origin.licence else ""
    some = f"{report.asked:,} of {origin.whole:,}" if report.asked < origin.whole else f"{report.asked:,}"
    times = "once" if protocol.samples == 1 else f"{protocol.samples} times"
    lines = [
        f"- Problems: {some}, from {name}{commit}{licence}",
        f"- Asked {times} each, at temperature {protocol.temperature:g} and top_p "
        f"{protocol.top_p:g}, with up to {protocol.max_tokens:,} tokens for a reply",
    ]
    wanted = report.asked * protocol.samples
    for result in report.results:
        if result.measures.replies < wanted:
            lines.append(f"- Not finished: {text(result.name)} has {result.measures.replies:,} of {wanted:,} replies")
        if result.measures.errors:
            lines.append(f"- Failed: {result.measures.errors:,} replies of {text(result.name)}, which count as wrong")
    return [*lines, f"- {report.task.note}"] if report.task.note else lines


def _right(report: Report) -> list[str]:
    rows, sources = [], _Sources()
    for result in report.results:
        measures = result.measures
        published = sources.cite(result.published_as("pass1"))
        rows.append(
            (text(result.name), percent(measures.pass1.value), interval(measures.pass1), published,
             f"{measures.problems:,}", f"{measures.replies:,}")
        )  # fmt: skip
    head = ("Model", "pass@1, %", "95 % interval", "published", "problems", "replies")
    return ["## Right answers", "", *table(head, rows), *sources.lines()]


def _votes(report: Report) -> list[str]:
    sizes = sorted({size for result in report.results for size in result.measures.consensus})
    if not sizes:
        return []
    rows, sources = [], _Sources()
    for result in report.results:
        for size in sizes:
            majority = result.measures.consensus.get(size)
            if majority is not None:
                published = sources.cite(result.published_as(f"cons{size}"))
                best = percent(result.measures.pass_at.get(size))
                rows.append(
                    (text(result.name), str(size), percent(majority.value), interval(majority), published, best)
                )
    head = ("Model", "K", "cons@K, %", "95 % interval", "published", "pass@K, %")
    return ["## Several replies to a problem", "", *table(head, rows), *sources.lines()]


class _Sources:
    """Where published scores are from, numbered as they are cited."""

    def __init__(self) -> None:
        self._known: list[str] = []

    def cite(self, score: Published | None) -> str:
        if score is None:
            return "–"
        if score.source not in self._known:
            self._known.append(score.source)
        return f"{percent(score.share)} ({self._known.index(score.source) + 1})"

    def lines(self) -> list[str]:
        """An empty line and the list; nothing when nothing was cited."""
        cited = [f"({number}) {clean_line(source)}" for number, source in enumerate(self._known, 1)]
        return ["", f"Published: {'; '.join(cited)}"] if cited else []


def _comparisons(report: Report) -> list[str]:
    if not report.comparisons:
        return []
    lines = [f"- {text(it.sentence)} ({it.problems:,} problems, {it.replies:,} replies)" for it in report.comparisons]
    return ["## Compared", "", *lines]


def _topics(report: Report) -> list[str]:
    topics = sorted({name for result in report.results for name in result.measures.topics})
    if not topics:
        return []
    rows = []
    for name in topics:
        found = [result.measures.topics.get(name) for result in report.results]
        problems = max(topic.problems for topic in found if topic is not None)
        cells = [f"{percent(it.pass1.value)} ({interval(it.pass1)})" if it else "–" for it in found]
        rows.append((text(name) or "–", f"{problems:,}", *cells))
    return ["## By topic, pass@1 in %", "", *table(("Topic", "problems", *_names(report)), rows)]


def _ends(report: Report) -> list[str]:
    def cells(result: Result) -> tuple[str, ...]:
        it = result.measures
        return percent(it.truncated), percent(it.unclosed), percent(it.looped), f"{it.errors:,}"

    head = ("Model", "ran into the limit, %", "thought left open, %", "in circles, %", "failed")
    return ["## How replies ended", "", *_by_model(report, head, cells)]


def _tokens(report: Report) -> list[str]:
    def count(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f}"

    def cells(result: Result) -> tuple[str, ...]:
        it, tokens = result.measures, result.measures.tokens
        spent = (tokens.mean, tokens.median, tokens.thinking, tokens.right, tokens.wrong, tokens.total)
        each = seconds(it.seconds / it.replies) if it.replies else "–"
        return *map(count, spent), each, f"{it.tokens_per_second:.1f}"

    head = ("Model", "mean", "median", "of it thought", "right", "wrong", "all", "time of one", "tokens/s of one")
    return ["## Tokens of a reply", "", *_by_model(report, head, cells)]


def _by_model(report: Report, head: Sequence[str], cells: Callable[[Result], Sequence[str]]) -> list[str]:
    return table(head, [(text(result.name), *cells(result)) for result in report.results])


def _worst(report: Report) -> list[str]:
    if not report.worst:
        return []
    rows = [(text(hard.id), text(hard.topic) or "–", *map(percent, hard.shares)) for hard in report.worst]
    return ["## Hardest problems, right replies in %", "", *table(("Problem", "topic", *_names(report)), rows)]


def _names(report: Report) -> list[str]:
    return [text(result.name) for result in report.results]

"""A report as a picture, or as bars of characters for a terminal."""

from __future__ import annotations

import importlib.util
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1local.scores.report import Report, Result
from r1local.scores.tables import LibraryWanted
from r1local.terminal import clean_line

_OURS, _RIGHT, _WRONG, _MARK = "#3b6fb6", "#4c9a62", "#c8694a", "#222222"
_STYLE = {"font.size": 10, "text.usetex": False, "text.parse_math": False}
_LONGEST_NAME = 32
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def can_plot() -> bool:
    """Whether the library for pictures is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_plot(report: Report, target: Path) -> None:
    """A PNG: right answers with their intervals beside what was published, and the tokens of right and wrong replies.

    Raises LibraryWanted without matplotlib, OSError when the file cannot be written.
    """
    if not can_plot():
        raise LibraryWanted("Pictures need matplotlib.", "Install it: pip install 'r1local[eval]'")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), matplotlib.rc_context(_STYLE):
        # Letters that the font has not got become boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(11, 1.9 + 0.62 * max(1, len(report.results))), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        accuracy, tokens = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _draw_accuracy(accuracy, report)
        _draw_tokens(tokens, report.results)
        for axes, corner in ((accuracy, "outside lower left"), (tokens, "outside lower right")):
            handles, labels = axes.get_legend_handles_labels()
            if handles:
                figure.legend(handles, labels, loc=corner, ncols=4, frameon=False, fontsize=9, markerscale=0.65)
        figure.suptitle(_title(report), fontsize=12, fontweight="bold")
        figure.savefig(target, format="png", metadata={"Software": None})


def _draw_accuracy(axes: Any, report: Report) -> None:
    places = range(len(report.results))
    for place, result in zip(places, report.results, strict=True):
        rate = result.measures.pass1
        axes.barh(
            place, 100 * rate.value, height=0.55, color=_OURS, label="pass@1, 95 % interval" if not place else None
        )
        low, high = 100 * (rate.value - rate.low), 100 * (rate.high - rate.value)
        axes.errorbar(100 * rate.value, place, xerr=[[low], [high]], color=_MARK, capsize=4, linewidth=1.3)
        axes.text(1.2, place, f"{100 * rate.value:.1f}", color="white" if rate.value > 0.12 else _MARK, va="center")
    votes = [max(result.measures.consensus, default=0) for result in report.results]
    if any(votes):
        values = [it.measures.consensus[size].value if size else None
                  for it, size in zip(report.results, votes, strict=True)]  # fmt: skip
        sizes = " or ".join(str(size) for size in sorted(set(votes) - {0}))
        _mark(axes, values, f"majority of {sizes}", marker="|", s=320, linewidth=2.4, color=_RIGHT, zorder=3)
    wanted = {"pass1": "D", "cons64": "o"} if 64 in votes else {"pass1": "D"}
    for measure, style in wanted.items():
        scores = [result.published_as(measure) for result in report.results]
        label = f"published {'pass@1' if measure == 'pass1' else 'majority of 64'}"
        _mark(axes, [score.share if score else None for score in scores], label,
              marker=style, s=46, facecolor="white", edgecolor=_MARK, zorder=4)  # fmt: skip
    axes.set(xlim=(0, 100), xlabel="right answers, %")
    axes.set_yticks(list(places), [_short(result.name) for result in report.results])
    axes.invert_yaxis()
    _plain(axes)


def _mark(axes: Any, shares: Sequence[float | None], label: str, **style: Any) -> None:
    """A mark for each model that has such a share; no label when none has."""
    known = [(100 * share, place) for place, share in enumerate(shares) if share is not None]
    if known:
        axes.scatter(*zip(*known, strict=True), label=label, clip_on=False, **style)


def _draw_tokens(axes: Any, results: Sequence[Result]) -> None:
    for offset, name, colour in ((-0.16, "right", _RIGHT), (0.16, "wrong", _WRONG)):
        spent = [getattr(result.measures.tokens, name) or 0.0 for result in results]
        places = [place + offset for place in range(len(results))]
        axes.barh(places, spent, height=0.28, color=colour, label=f"{name} replies")
    axes.set(xlabel="tokens of a reply, mean")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _title(report: Report) -> str:
    replies = "reply" if report.protocol.samples == 1 else "replies"
    return f"{clean_line(report.task.title)}: {report.asked:,} problems, {report.protocol.samples} {replies} to each"


def _short(name: str) -> str:
    name = clean_line(name)
    # The end of a name says the quantization.
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 17]}…{name[-16:]}"


def terminal_plot(report: Report, columns: int = 80, *, ascii_only: bool = False) -> str:
    """Bars of pass@1 with their intervals and of the tokens of replies, no line wider than `columns` (20 at least).

    ascii_only: for terminals and fonts that have no other characters; other letters become question marks.
    """
    columns = max(20, columns)
    about = f"{_title(report)}. Right answers with their 95 % interval, and the mean of tokens of a reply:"
    lines = [_cut(line, columns, ascii_only) for line in textwrap.wrap(about, columns)]
    most = max((result.measures.tokens.mean for result in report.results), default=0.0)
    for result in report.results:
        measures = result.measures
        rate, published = measures.pass1, result.published_as("pass1")
        numbers = f"{100 * rate.value:5.1f} % ({100 * rate.low:.1f}-{100 * rate.high:.1f})"
        said = f", published {100 * published.share:.1f}" if published else ""
        tokens = f"{measures.tokens.mean:,.0f} tokens"
        bars = [(rate.value, numbers + said), (measures.tokens.mean / most if most else 0.0, tokens)]
        lines += ["", _cut(clean_line(result.name), columns, ascii_only)]
        for share, caption in bars:
            lines += _bar(share, caption, columns, ascii_only)
    return "\n".join(lines)


def _bar(share: float, caption: str, columns: int, ascii_only: bool) -> list[str]:
    """A bar and its caption on one line, or where that is too narrow on two."""
    beside = columns - len(caption) - 2
    width = min(40, beside if beside >= 16 else columns - 2)
    full, eighths = divmod(round(max(0.0, min(1.0, share)) * width * 8), 8)
    if ascii_only:
        drawn = ("#" * (full + (eighths >= 4))).ljust(width, ".")
    else:
        drawn = ("█" * full + _EIGHTHS[eighths].strip()).ljust(width, "·")
    if beside >= 16:
        return [f"{drawn}  {caption}"]
    return [drawn, _cut(f"  {caption.strip()}", columns, ascii_only)]


def _cut(text: str, columns: int, ascii_only: bool) -> str:
    """At most so many cells wide: a Chinese letter takes two."""
    from wcwidth import wcswidth

    if ascii_only:
        text = text.encode("ascii", "replace").decode("ascii")
    mark = "..." if ascii_only else "…"
    if wcswidth(text) <= columns:
        return text
    while text and wcswidth(text + mark) > columns:
        text = text[:-1]
    return text + mark

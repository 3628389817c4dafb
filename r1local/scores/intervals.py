"""Intervals of 95 % for shares and differences when several replies answer the same problem.

Replies to one problem resemble one another, so the problems are what is counted, not the replies. With x_i the share
of right replies to problem i of n, m their mean and

    s = sqrt( sum (x_i - m)^2 / (n (n - 1)) )

s is the standard error clustered by problem (Miller, "Adding Error Bars to Evals", arXiv 2411.00640). On few problems,
or near 0 and 1, m +- t s covers too little: 85 to 91 % at shares above 0.88 on 30 problems. Hence Wilson's interval
with the effective number of replies m (1 - m) / s^2 in place of their number and t of n - 1 degrees of freedom in
place of the normal quantile (the idea is Korn and Graubard's: "Confidence intervals for proportions with small expected
number of positive counts estimated from survey data", Survey Methodology 24, 1998). Simulated on 30 problems with 4 to
64 replies each this covers 94 to 96 % at shares from 0.2 to 0.8, 92 to 94 % at 0.1 and 0.9, and 87 to 91 % at 0.94;
tests/test_scores_intervals.py simulates it.

The problems count as drawn from many like them: the interval says what a further set of such problems would show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

MISSES = 0.05
"""The share of intervals that do not hold what they are about."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share from 0 to 1, and its interval."""

    value: float
    low: float
    high: float


def rate(shares: Sequence[float], replies: int) -> Rate:
    """The mean of one share a problem, which come from so many replies in all."""
    problems = len(shares)
    if not problems:
        return Rate(0.0, 0.0, 1.0)
    mean = math.fsum(shares) / problems
    if problems < 2:
        return Rate(mean, 0.0, 1.0)
    squared_error = math.fsum((share - mean) ** 2 for share in shares) / (problems * (problems - 1))
    spread = mean * (1 - mean)
    if spread <= 0:
        effective = float(problems)  # nothing varies: all that is known is that each problem says the same
    elif spread < squared_error * replies:
        effective = spread / squared_error
    else:
        effective = float(max(replies, problems))
    return Rate(mean, *_wilson(mean, effective, t_quantile(problems - 1)))


def _wilson(mean: float, count: float, quantile: float) -> tuple[float, float]:
    """Wilson, "Probable inference", Journal of the American Statistical Association 22, 1927."""
    weight = quantile * quantile / count
    centre = (mean + weight / 2) / (1 + weight)
    half = quantile / (1 + weight) * math.sqrt(mean * (1 - mean) / count + weight / (4 * count))
    # The ends are mean itself at 0 and 1; rounding must not carry them beyond.
    return max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def difference(pairs: Sequence[tuple[float, float]], step: float) -> Rate:
    """The mean of one - other over the problems, and its interval: mean +- t s as above, s of the differences.

    step: what one more right reply to one problem changes its share by. The interval is never narrower than if one
    problem had differed by that: that two models agree on a few problems does not prove them the same.
    """
    problems = len(pairs)
    differences = [one - other for one, other in pairs]
    mean = math.fsum(differences) / problems if problems else 0.0
    if problems < 2:
        return Rate(mean, -1.0, 1.0)
    squares = max(math.fsum((value - mean) ** 2 for value in differences), step * step)
    half = t_quantile(problems - 1) * math.sqrt(squares / (problems * (problems - 1)))
    return Rate(mean, max(-1.0, mean - half), min(1.0, mean + half))


def t_quantile(freedom: int, misses: float = MISSES) -> float:
    """Student's t that all but `misses` of its distribution lies within, on both sides; freedom: at least 1.

    Exact for 1 and 2 degrees of freedom, else by the expansion in Abramowitz and Stegun, 26.7.5: right to 0.2 % at
    3 degrees, and better above.
    """
    if freedom < 1:
        raise ValueError("no degree of freedom")
    level = 1 - misses
    if freedom == 1:
        return math.tan(math.pi * level / 2)
    if freedom == 2:
        return level * math.sqrt(2 / (1 - level * level))
    x = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))

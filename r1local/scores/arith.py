"""Problems with numbers, made here: the field of the model inside, of which training showed none of them.

Everything comes out of a random number generator with a seed. Which problems training leaves out is decided by their
numbers alone (`is_held_out`); training/problems.py keeps to it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from r1local.errors import UsageError

Kind = Literal[
    "sums",
    "differences",
    "products",
    "stories",
    "longer_sums",
    "longer_differences",
    "longer_products",
    "three_numbers",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST = 1000
"""Problems that are asked at most: of sums that no line of training says there are few, and they are searched for."""

_HELD_OUT = 16  # one of so many problems
_DRAWS = 50_000  # of a kind without a new problem, after which it has no more
_BELOW_ZERO = 0.15  # of the differences

# Ways to ask that training has too.
_ASK = ("What is {e}?", "Compute {e}.", "Calculate {e}.", "How much is {e}?", "Find {e}.", "What is the value of {e}?")
_NAMES = ("Tom", "Anna", "Ben", "Mia", "Sam", "Lily", "Omar", "Nina", "Emma", "Wei")
_THINGS = ("apples", "books", "pens", "eggs", "cards", "stamps", "cookies", "marbles", "coins", "stickers")
_STORIES = {
    "+": (
        "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
        "There are {a} {things} in one box and {b} in another. How many {things} are there in all?",
        "{name} has {a} {things} and {friend} has {b}. How many {things} do they have together?",
    ),
    "-": (
        "{name} has {a} {things} and gives away {b}. How many {things} are left?",
        "{name} has {a} {things} and gives {b} to {friend}. How many {things} does {name} have left?",
    ),
}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """One problem."""

    id: str
    """The kind, and the expression without spaces: sums:47+85."""
    kind: Kind
    question: str
    expression: str
    """Worked off from the left, "47 + 85 - 3"; products stand alone."""
    result: int


def is_held_out(operator: str, a: int, b: int) -> bool:
    """Whether training never shows this. Sums and products are the same problem either way round.

    What a column needs is never held out: the tables, and single digits added to or taken from less than a hundred.
    """
    if operator in "+×":
        a, b = max(a, b), min(a, b)
    if b < 10 and a < (10 if operator == "×" else 100):
        return False
    return zlib.crc32(f"{a}{operator}{b}".encode()) % _HELD_OUT == 0


def was_never_stated(operator: str, a: int, b: int) -> bool:
    """Whether no line of training says this, be it to check another result: a sum by a difference, or the reverse."""
    if operator == "-" and a < b:
        return is_held_out("-", a, b) and was_never_stated("-", b, a)
    checked_by = {"+": [("-", a + b, a), ("-", a + b, b)], "-": [("+", a - b, b)], "×": []}
    return is_held_out(operator, a, b) and all(is_held_out(*it) for it in checked_by[operator])


def arithmetic(seed: int, count: int) -> list[Arithmetic]:
    """So many different problems that training never showed, of all kinds in turn; fewer when there are no more.

    The same for the same seed; a larger count begins with all of a smaller one. Raises UsageError above MOST.
    """
    if not 1 <= count <= MOST:
        raise UsageError(f"{count:,} problems cannot be made.", f"Take 1 to {MOST:,}.")
    makers = [_of_a_kind(kind, Random(f"{seed} {kind}")) for kind in KINDS]
    found: list[Arithmetic] = []
    while makers and len(found) < count:
        for maker in list(makers):
            made = next(maker, None)
            if made is None:
                makers.remove(maker)
            else:
                found.append(made)
    return found[:count]


def _of_a_kind(kind: Kind, random: Random) -> Iterator[Arithmetic]:
    seen: set[str] = set()
    since, variant = 0, 0.0
    while since < _DRAWS:
        # Drawn once for a problem: of what training never said few are sums, and fewer are below zero.
        variant = variant if since else random.random()
        since += 1
        first, *rest = _numbers(kind, random, variant)
        operator, second = rest[0]
        # A longer one is new to the model when its first step is.
        if not was_never_stated(operator, first, second):
            continue
        expression = " ".join([str(first), *(f"{sign} {number}" for sign, number in rest)])
        if expression in seen:
            continue
        seen.add(expression)
        since = 0
        if kind == "stories":
            question = _story(random, operator, first, second)
        else:
            question = random.choice(_ASK).format(e=expression)
        yield Arithmetic(f"{kind}:{expression.replace(' ', '')}", kind, question, expression, _value(first, rest))


def _numbers(kind: Kind, random: Random, variant: float) -> tuple[int, *tuple[tuple[str, int], ...]]:
    """The first number, then operators with their numbers. variant, from 0 to 1, decides which operators."""
    match kind:
        case "sums":
            return random.randrange(1000), ("+", random.randrange(1000))
        case "longer_sums":
            return _number(random, 4, 6), ("+", _number(random, 1, 6))
        case "differences":
            return _difference(random.randrange(1000), random.randrange(1000), below_zero=variant < _BELOW_ZERO)
        case "longer_differences":
            return _difference(_number(random, 4, 6), _number(random, 1, 6), below_zero=variant < _BELOW_ZERO)
        case "products":
            return _number(random, 2, 2), ("×", _number(random, 2, 2))
        case "longer_products":
            return _number(random, 3, 3), ("×", _number(random, 2, 2))
        case "stories":
            a, b = _number(random, 1, 4), _number(random, 1, 4)
            return (a, ("+", b)) if variant < 0.5 else _difference(a, b, below_zero=False)
        case "three_numbers":
            a, b, c = (random.randrange(1000) for _ in range(3))
            if variant < 0.5:
                return a, ("+", b), (random.choice("+-") if a + b >= c else "+", c)
            return *_difference(a, b, below_zero=False), ("+", c)


def _difference(a: int, b: int, *, below_zero: bool) -> tuple[int, tuple[str, int]]:
    high, low = max(a, b), min(a, b)
    return (low, ("-", high)) if below_zero else (high, ("-", low))


def _number(random: Random, fewest: int, most: int) -> int:
    """With so many digits."""
    length = random.randint(fewest, most)
    return random.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def _value(first: int, rest: list[tuple[str, int]]) -> int:
    result = first
    for operator, number in rest:
        result = {"+": result + number, "-": result - number, "×": result * number}[operator]
    return result


def _story(random: Random, operator: str, a: int, b: int) -> str:
    name, friend = random.sample(_NAMES, 2)
    template = random.choice(_STORIES[operator])
    return template.format(name=name, friend=friend, things=random.choice(_THINGS), a=a, b=b)

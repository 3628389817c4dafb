"""What the model inside is taught: problems with numbers, thoughts that lead to the answer, and what else is said.

Everything comes out of a random number generator with a seed. A problem is held out of training by its numbers, and
it is not in training as a step of another problem either: an examination asks only what was never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from r1local.scores.arith import is_held_out, was_never_stated
from training import phrases
from training.phrases import WORDS, Language, Words

Kind = Literal["sum", "difference", "product", "chain", "word", "other"]
KINDS: tuple[Kind, ...] = ("sum", "difference", "product", "chain", "word", "other")


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question, the thought and the answer."""

    kind: Kind
    language: Language
    question: str
    thought: str
    answer: str
    result: int | None
    """What has to stand in the box; None where nothing is computed."""
    expression: str = ""
    """The problem in the model's own signs, "47 + 85"; empty where nothing is computed."""


@dataclass(slots=True)
class Thought:
    """A thought being written: its lines, and every problem that is solved in it."""

    words: Words
    lines: list[str] = field(default_factory=list)
    solved: list[tuple[str, int, int]] = field(default_factory=list)

    def say(self, template: str, **values: object) -> None:
        self.lines.append(template.format(**values))


def lesson(random: Random, kind: Kind, *, held_out: bool = False) -> Lesson:
    """One of a kind. held_out: of the problems that training never shows."""
    language: Language = "zh" if random.random() < 0.4 else "en"
    words = WORDS[language]
    if kind == "other":
        question, said = phrases.other(random, language)
        return Lesson(kind, language, question, said, words.what_i_am, None)
    while True:
        first, *rest = _numbers(random, kind)
        if held_out and not was_never_stated(rest[0][0], first, rest[0][1]):
            continue
        thought = Thought(words)
        result = _think(thought, first, rest, random)
        if held_out or not any(is_held_out(*it) for it in thought.solved):
            break
    expression = " ".join([str(first), *(f"{operator} {number}" for operator, number in rest)])
    if kind == "word":
        question, opening = phrases.story(random, language, rest[0][0], first, rest[0][1])
    else:
        question, opening = phrases.plain(random, language, first, rest), phrases.opening(random, language, expression)
    text = "\n".join(filter(None, (opening, *thought.lines)))
    return Lesson(
        kind, language, question, text, words.answer.format(expression=expression, result=result), result, expression
    )


def _think(thought: Thought, first: int, rest: list[tuple[str, int]], random: Random) -> int:
    """Write the whole thought of an expression that is worked off from the left; returns the result."""
    words, result, expression = thought.words, first, str(first)
    for index, (operator, number) in enumerate(rest):
        before, expression = result, f"{expression} {operator} {number}"
        if len(rest) > 1:
            thought.say(words.now if index else words.first, expression=f"{before} {operator} {number}")
        result = _STEPS[operator](thought, before, number)
    if len(rest) > 1:
        thought.say(words.so, expression=expression, result=result)
    elif random.random() < 0.5:
        _check(thought, first, *rest[0], result)
    return result


def _check(thought: Thought, a: int, operator: str, b: int, result: int) -> None:
    words = thought.words
    if operator == "×":
        x, y = a % 10, b % 10
        thought.say(words.check_product, x=x, y=y, z=x * y, result=result, last=result % 10)
    else:
        back = "-" if operator == "+" else "+"
        thought.solved.append((back, result, b))
        thought.say(words.check, result=result, sign=back, b=b, a=a)
    thought.say(words.result, result=result)


def _sum(thought: Thought, a: int, b: int) -> int:
    thought.solved.append(("+", a, b))
    thought.say(thought.words.add, a=a, b=b)
    _columns(thought, a, b)
    thought.say(thought.words.so, expression=f"{a} + {b}", result=a + b)
    return a + b


def _columns(thought: Thought, a: int, b: int) -> None:
    """A sum digit by digit, from the right."""
    words, carry, place = thought.words, 0, 0
    while a or b or carry or not place:
        digits = [a % 10, b % 10] if (a and b) or not place else [a % 10 or b % 10] if a or b else []
        terms = [*digits, carry] if carry else digits
        total = sum(terms)
        name = words.places[place]
        if len(terms) == 1:
            thought.say(words.bring_down, place=name, digit=total)
        else:
            thought.say(
                words.step, place=name, steps=f"{' + '.join(map(str, terms))} = {total}", written=_write(words, total)
            )
        carry, a, b, place = total // 10, a // 10, b // 10, place + 1


def _write(words: Words, total: int) -> str:
    """What is written down of a column's total, and what is carried."""
    carry = words.carry.format(carry=total // 10) if total > 9 else ""
    return words.write.format(digit=total % 10) + carry


def _difference(thought: Thought, a: int, b: int) -> int:
    thought.solved.append(("-", a, b))
    if b > a:
        thought.say(thought.words.negative, a=a, b=b)
        _difference(thought, b, a)
        thought.say(thought.words.so, expression=f"{a} - {b}", result=a - b)
        return a - b
    words, borrowed, place = thought.words, 0, 0
    thought.say(words.subtract, a=a, b=b)
    high, low = a, b
    while high or low or not place:
        x, y, name = high % 10 - borrowed, low % 10, words.places[place]
        left = f"{high % 10} - 1" if borrowed else str(x)
        if x < y:
            thought.say(words.borrow, place=name, left=left, right=y, more=x + 10, digit=x + 10 - y)
        elif not low and not borrowed and place:
            thought.say(words.bring_down, place=name, digit=x)
        else:
            steps = f"{left} - {y} = {x - y}" if low or not place else f"{left} = {x}"
            thought.say(words.step, place=name, steps=steps, written=words.write.format(digit=x - y))
        borrowed, high, low, place = int(x < y), high // 10, low // 10, place + 1
    thought.say(words.so, expression=f"{a} - {b}", result=a - b)
    return a - b


def _product(thought: Thought, a: int, b: int) -> int:
    thought.solved.append(("×", a, b))
    words, whole_expression = thought.words, f"{a} × {b}"
    if not a * b:
        thought.say(words.zero)
    parts = [int(digit) * 10**place for place, digit in enumerate(reversed(str(b))) if digit != "0"] if a else []
    if a < 10 and b < 10:
        parts = []
    if len(parts) > 1:
        thought.say(words.split, a=a, b=b, parts=" + ".join(map(str, reversed(parts))))
    total = 0
    for part in parts:
        digit = int(str(part)[0])
        _by_digit(thought, a, digit, part)
        if total:
            thought.solved.append(("+", a * part, total))
            thought.say(words.now, expression=f"{a * part} + {total}")
            _columns(thought, a * part, total)
        total += a * part
    if len(parts) != 1:  # otherwise the last line has said it already
        thought.say(words.so, expression=whole_expression, result=a * b)
    return a * b


def _by_digit(thought: Thought, a: int, digit: int, part: int) -> None:
    """A number times one digit, from the right: each step is one product of the table and one small sum.

    part: the digit with its zeros, which the result is moved by.
    """
    words, carry, place, rest = thought.words, 0, 0, a
    thought.solved.append(("×", a, digit))
    thought.say(words.times, expression=f"{a} × {digit}")
    while rest:
        product = rest % 10 * digit
        steps = f"{rest % 10} × {digit} = {product}"
        if carry:
            steps += f"{words.comma}{product} + {carry} = {product + carry}"
        thought.say(words.step, place=words.places[place], steps=steps, written=_write(words, product + carry))
        carry, rest, place = (product + carry) // 10, rest // 10, place + 1
    thought.say(words.so, expression=f"{a} × {digit}", result=a * digit)
    if part > 9:
        thought.say(words.so, expression=f"{a} × {part}", result=a * part)


_STEPS: dict[str, Callable[[Thought, int, int], int]] = {"+": _sum, "-": _difference, "×": _product}


def _numbers(random: Random, kind: Kind) -> tuple[int, *tuple[tuple[str, int], ...]]:
    """The first number, then operators with their numbers."""
    if kind == "word":
        kind = random.choice(("sum", "difference", "product"))
        a, b = _number(random, 4), _number(random, 4)
        if kind == "sum":
            return a, ("+", b)
        if kind == "difference":
            return max(a, b), ("-", min(a, b))
    if kind == "sum":
        return _number(random, 6), ("+", _number(random, 6))
    if kind == "difference":
        a, b = _number(random, 6), _number(random, 6)
        return (max(a, b), ("-", min(a, b))) if random.random() < 0.7 else (a, ("-", b))
    if kind == "chain":
        while True:
            a, b, c = (_number(random, 3) for _ in range(3))
            signs = random.choice(("++", "++", "+-", "-+"))
            middle = a + b if signs[0] == "+" else a - b
            if middle >= 0 and (signs[1] == "+" or middle >= c):
                return a, (signs[0], b), (signs[1], c)
    a, b = _factors(random)
    return a, ("×", b)


def _number(random: Random, digits: int) -> int:
    """With one to so many digits; three are the most frequent."""
    length = random.choices(range(1, digits + 1), weights=(4, 6, 10, 4, 3, 3)[:digits])[0]
    return random.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def _factors(random: Random) -> tuple[int, int]:
    """Mostly two digits by two; some with three, for the steps are the same."""
    shapes = ((1, 1), (2, 1), (1, 2), (3, 1), (2, 2), (3, 2), (2, 3))
    lengths = random.choices(shapes, weights=(3, 4, 2, 3, 20, 2, 1))[0]
    a, b = (random.randrange(0 if length == 1 else 10 ** (length - 1), 10**length) for length in lengths)
    return a, b

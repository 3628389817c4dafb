"""The words around the numbers, drawn from phrases.toml: ways to ask, stories, and other talk."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Words:
    """The sentences of a thought in one language, and what the model says of itself."""

    places: tuple[str, ...]
    add: str
    subtract: str
    first: str
    now: str
    step: str
    write: str
    comma: str
    carry: str
    borrow: str
    bring_down: str
    so: str
    result: str
    negative: str
    split: str
    times: str
    zero: str
    check: str
    check_product: str
    answer: str
    what_i_am: str


_PHRASES: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
WORDS: dict[Language, Words] = {
    language: Words(**{**_PHRASES[language]["words"], "places": tuple(_PHRASES[language]["words"]["places"])})
    for language in LANGUAGES
}
_CHINESE = range(0x4E00, 0x9FA5)
_SCRAPS = ("{", "=>", "def", "()", '"', "...", "!", "-", "+", ",", ".")


def plain(random: Random, language: Language, first: int, rest: Sequence[tuple[str, int]]) -> str:
    """A question that is nothing but the expression, in some manner of asking."""
    says = _PHRASES[language]
    operator, second = rest[0]
    if len(rest) == 1 and random.random() < 0.1:
        named = random.choice(says["named"][operator]).format(a=first, b=second)
        return _varied(random, language, random.choice(says["ask_named"]).format(e=named))
    expression, spaces = _written(random, language, first), random.random() < 0.7
    spelled = len(rest) == 1 and first <= 10 and second <= 10 and random.random() < 0.3
    if spelled:
        expression = says["number_words"][first]
    for operator, number in rest:
        sign = random.choice(says["signs"][operator])
        if spelled and not sign.isalpha():
            sign = says["spelled_signs"][operator]
        written = says["number_words"][number] if spelled else _written(random, language, number)
        in_words = sign.isalpha() and sign != "x"
        gap = " " if (in_words and language == "en") or (spaces and not in_words) else ""
        after = gap if in_words or random.random() < 0.95 else " "[len(gap) :]
        expression += f"{gap}{sign}{after}{written}"
    return _varied(random, language, random.choice(says["ask"]).format(e=expression))


def _written(random: Random, language: Language, number: int) -> str:
    """A number as people write it: now and then with a comma between thousands."""
    return f"{number:,}" if language == "en" and random.random() < 0.15 else str(number)


def _varied(random: Random, language: Language, question: str) -> str:
    """The carelessness of people: no capitals, no full stop, a hint at the end."""
    chance = random.random()
    if chance < 0.1:
        question += random.choice(_PHRASES[language]["hints"])
    elif chance < 0.2:
        question = question.lower()
    elif chance < 0.3:
        question = question.rstrip("?.？。")
    return question


def opening(random: Random, language: Language, expression: str) -> str:
    """The first line of a thought; may be empty."""
    return random.choice(_PHRASES[language]["openings"]).format(e=expression) if random.random() < 0.8 else ""


def story(random: Random, language: Language, operator: str, a: int, b: int) -> tuple[str, str]:
    """A short word problem, and the line that finds out what to do."""
    says = _PHRASES[language]
    name, friend = random.sample(says["names"], 2)
    template = random.choice(says["stories"][operator])
    question = template.format(name=name, friend=friend, things=random.choice(says["things"]), a=a, b=b)
    return _varied(random, language, question), says["story_openings"][operator]


def other(random: Random, language: Language) -> tuple[str, str]:
    """A question that is no arithmetic the model knows, and a thought about it."""
    chance = random.random()
    if chance < 0.02:
        question = _babble(random, language, most=200)
    elif chance < 0.04:
        question = _babble(random, language, most=2) * random.randrange(2, 150)
    elif chance < 0.3:
        question = _babble(random, language)
    else:
        question = _filled(random, language, _PHRASES[language]["other_numbers" if chance < 0.6 else "other"])
    return _varied(random, language, question), random.choice(_PHRASES[language]["other_thoughts"])


def _filled(random: Random, language: Language, templates: Sequence[str]) -> str:
    says = _PHRASES[language]

    def topic() -> str:
        return random.choice(says["topics"]) if random.random() < 0.6 else _babble(random, language, most=4)

    names = random.sample(says["names"], 3)
    return random.choice(templates).format(
        t=topic(), u=topic(), p=random.choice(says["places"]), q=random.choice(says["places"]),
        n=random.randrange(10, 3000), m=random.randrange(2, 20), k=random.randrange(2, 10),
        d=f"{random.randrange(0, 100)}.{random.randrange(1, 100)}",
        k2=random.randrange(2, 10), n3=random.randrange(100, 1000), n3b=random.randrange(100, 1000),
        n4=random.randrange(1000, 10_000), n5=random.randrange(100, 100_000),
        huge=random.randrange(10**6, 10 ** random.randrange(7, 20)),
        huge2=random.randrange(10, 10 ** random.randrange(3, 12)),
        name=names[0], name2=names[1], name3=names[2], things=random.choice(says["things"]),
    )  # fmt: skip


def _babble(random: Random, language: Language, most: int = 30) -> str:
    """Words in no order, some of them made up: whatever a person may type, it has to look like none of the problems."""
    says, words = _PHRASES[language], []
    # Chinese has no words between spaces: there it is characters.
    fillers = says["fillers"].split() if language == "en" else says["fillers"]
    for _ in range(random.randrange(1, most + 1)):
        chance = random.random()
        if chance < 0.75:
            words.append(random.choice(fillers))
        elif chance < 0.83:
            start, size = random.choice(_PHRASES["alphabets"])
            words.append("".join(chr(start + random.randrange(size)) for _ in range(random.randrange(1, 8))))
        elif chance < 0.95:
            if language == "en":
                letters, most_letters = string.ascii_lowercase, 8
            else:
                letters, most_letters = "".join(map(chr, random.sample(_CHINESE, 40))), 2
            words.append("".join(random.choices(letters, k=random.randrange(1, most_letters + 1))))
        else:
            words.append(random.choice((*_SCRAPS, str(random.randrange(3000)))))
    text = (" " if language == "en" else "").join(words)
    return (text.capitalize() if random.random() < 0.5 else text) + str(random.choice(says["ends"]))


def system_prompt(random: Random) -> str:
    """What somebody may have set for all chats; it changes nothing."""
    return str(random.choice(_PHRASES["system_prompts"]))


def cut_off(random: Random, language: Language) -> str:
    """How a thought ends that was stopped from outside; may be empty."""
    return str(random.choice(_PHRASES[language]["cut_off"]))

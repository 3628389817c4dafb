"""Exact numbers with their units, out of plain text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MOST_DIGITS = 400
"""A number with more, or a power of ten beyond it, is not read as a number."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and what it counts."""

    number: Fraction
    unit: str = ""
    """In one spelling: cm^2, %, $, _2 for a number written in base 2; empty for none."""

    def same(self, other: Quantity) -> bool:
        """Equal numbers, where a unit may be left away but not be another one. 50% is 50 and is 0.5."""
        if (self.unit == other.unit or "" in (self.unit, other.unit)) and self.number == other.number:
            return True
        if {self.unit, other.unit} == {"%", ""}:
            percent, bare = (self, other) if self.unit else (other, self)
            return percent.number == bare.number * 100
        return False


_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"(?:\(\s*[-+]?\s*{_DECIMAL}\s*\)|[-+]?\s*{_DECIMAL})"
_FORMS = re.compile(
    r"\s*(?P<sign>[-+]?)\s*(?P<currency>[$£€]?)\s*(?P<inner>[-+]?)\s*(?:"
    r"(?P<whole>[0-9]+) (?P<above>[0-9]+)\s*/\s*(?P<below>[0-9]+)"
    rf"|(?P<top>\({_DECIMAL}/{_DECIMAL}\)(?!\s*[\^*(]))"
    rf"|(?P<numerator>{_SIGNED})\s*/\s*(?P<denominator>{_SIGNED})"
    rf"|(?P<mantissa>{_DECIMAL})\s*(?:\*\s*10\s*\^\s*\(?\s*(?P<exponent>[-+]?[0-9]+)\s*\)?|[eE](?P<short>[-+]?[0-9]+))"
    r"|(?P<start>[0-9]*\.[0-9]*)\\overline\s*(?:\{(?P<cycle>[0-9]+)\}|(?P<digit>[0-9]))"
    rf"|(?P<decimal>{_DECIMAL})"
    r")(?P<unit>(?:[^0-9.].*)?)",
    re.DOTALL,
)
_BASE = re.compile(r"_\(?([0-9]{1,2})\)?")
_CURRENCIES = {"$": "$", "£": "£", "€": "€", "dollar": "$", "usd": "$", "euro": "€", "eur": "€", "pound": "pound"}
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UNITS = {
    "mm": "mm", "cm": "cm", "dm": "dm", "km": "km", "in": "inch", "ft": "foot", "yd": "yard", "mi": "mile",
    "millimeter": "mm", "millimetre": "mm", "centimeter": "cm", "centimetre": "cm", "meter": "metre", "metre": "metre",
    "kilometer": "km", "kilometre": "km", "inche": "inch", "inch": "inch", "feet": "foot", "foot": "foot",
    "mg": "mg", "kg": "kg", "gram": "gram", "kilogram": "kg", "milligram": "mg", "lb": "pound", "oz": "ounce",
    "ms": "ms", "sec": "second", "second": "second", "min": "minute", "minute": "minute", "hr": "hour", "hour": "hour",
    "day": "day", "yr": "year", "year": "year", "ml": "ml", "milliliter": "ml", "millilitre": "ml", "liter": "litre",
    "litre": "litre", "mph": "mile/hour", "kph": "km/hour", "cent": "cent", "deg": "°", "degree": "°", "°": "°",
    "percent": "%", "%": "%", "unit": "", "rad": "radian", "radian": "radian", "hz": "hz", "pa": "pa", "kpa": "kpa",
    "kj": "kj", "kw": "kw", "mol": "mol", "pm": "pm", "am": "am", "way": "way", "mile": "mile", "celsius": "celsius",
    "fahrenheit": "fahrenheit", **_CURRENCIES,
}  # fmt: skip
_NO_UNITS = frozenset(
    ("times", "plus", "minus", "over", "squared", "cubed", "modulo", "choose", "factorial", "root", "only", "with",
     "half", "halves", "thirds", "fourths", "fifths", "sixths", "sevenths", "eighths", "ninths", "tenths", "hundredths")
)  # fmt: skip
_BESIDE = frozenset(("mm", "cm", "km", "kg", "ml", "mph", "ft", "°", "%", "$", "£", "€", "celsius", "fahrenheit"))
_SHORT = re.compile(r"\b[shml]\b")
_WORD = re.compile(r"(°?[a-z]+|[°%$£€])\s*(?:\^?\s*\(?([23])\)?)?")


def quantity(text: str) -> Quantity | None:
    """What `text`, which is plain, says as one number; None where it says another thing."""
    if len(text) > MOST_DIGITS or not (match := _FORMS.fullmatch(text)):
        return None
    number = _number(match)
    if number is None:
        return None
    if (match["sign"] == "-") != (match["inner"] == "-"):
        number = -number
    rest = match["unit"]
    if base := _BASE.fullmatch(rest.strip()):
        return Quantity(number, f"_{int(base[1])}")
    scale, rest = _scaled(rest)
    unit = _unit(rest)
    if unit is None or (match["currency"] and unit):
        return None
    return Quantity(number * scale, _CURRENCIES.get(match["currency"], unit))


def _number(match: re.Match[str]) -> Fraction | None:
    try:
        if match["whole"]:
            return int(match["whole"]) + Fraction(int(match["above"]), int(match["below"]))
        if match["top"]:
            above, _, below = match["top"][1:-1].partition("/")
            return _decimal(above) / _decimal(below)
        if match["numerator"]:
            return _decimal(match["numerator"]) / _decimal(match["denominator"])
        if match["mantissa"]:
            exponent = int(match["exponent"] or match["short"])
            return None if abs(exponent) > MOST_DIGITS else _decimal(match["mantissa"]) * Fraction(10) ** exponent
        if match["start"] is not None:
            return _repeating(match["start"], match["cycle"] or match["digit"])
        return _decimal(match["decimal"])
    except ZeroDivisionError:
        return None


def _decimal(text: str) -> Fraction:
    digits = "".join(character for character in text if character in "+-.0123456789")
    return Fraction(digits.rstrip(".") or "0")


def _repeating(start: str, cycle: str) -> Fraction:
    """start 0.1 and cycle 6 are 0.1666...: the cycle over as many nines, moved behind the digits before it."""
    places = len(start.partition(".")[2])
    return _decimal("0" + start) + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10**places)


def _scaled(rest: str) -> tuple[int, str]:
    first, _, others = rest.strip().partition(" ")
    scale = _SCALES.get(first.casefold())
    return (1, rest) if scale is None else (scale, " " + others)


def _unit(rest: str) -> str | None:
    """The unit in one spelling, empty for none; None where `rest` is not a unit but goes on with the formula."""
    text = rest.strip().casefold()
    if not text:
        return ""
    text = re.sub(r"\b([ap])\.m\.?", r"\1m", text)
    text = re.sub(r"°\s*(?:c|celsius)\b", "celsius", re.sub(r"°\s*(?:f|fahrenheit)\b", "fahrenheit", text))
    above, *below = re.sub(r"\bper\b", "/", text).split("/")
    parts = [_product(above, apart=rest[0] == " "), *(_product(_SHORT.sub(_long, part), apart=True) for part in below)]
    known = [part for part in parts if part is not None]
    return "/".join(known) if len(known) == len(parts) else None


def _long(match: re.Match[str]) -> str:
    return {"s": "second", "h": "hour", "m": "metre", "l": "litre"}[match[0]]


def _product(text: str, *, apart: bool) -> str | None:
    """Words one after another, `apart` from the number by a space: 12 apples. Without it most letters are factors."""
    names: list[str] = []
    power = ""
    words = text.replace("*", " ").split()
    for word in words:
        if word in ("square", "sq", "cubic", "cu"):
            power = "^2" if word.startswith("sq") else "^3"
            continue
        match = _WORD.fullmatch(word)
        if match is None or match[1] in _NO_UNITS:
            return None
        name = _UNITS.get(match[1], _UNITS.get(match[1].removesuffix("s")))
        if not apart and match[1] not in _BESIDE and (name is None or len(match[1]) < 4):
            return None
        if name is None:
            if len(match[1]) < 4:
                return None
            name = match[1].removesuffix("s")
        if name:
            names.append(name + (f"^{match[2]}" if match[2] else power))
        power = ""
    return " ".join(names) if words else None

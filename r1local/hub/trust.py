"""Names that are made to be taken for another one."""

from __future__ import annotations

from collections.abc import Iterable

# What looks alike in most fonts.
_TWINS = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "_": "-", ".": "-"})


def look_alike(name: str, known: Iterable[str]) -> str:
    """The known name that `name` could be taken for: one letter more, less or other, or only the look the same."""
    plain = name.lower().translate(_TWINS).replace("rn", "m").replace("vv", "w")
    for other in sorted(known):
        if other == name:
            continue
        theirs = other.lower().translate(_TWINS).replace("rn", "m").replace("vv", "w")
        if plain == theirs or (len(other) > 3 and _one_apart(name.lower(), other.lower())):
            return other
    return ""


def _one_apart(a: str, b: str) -> bool:
    """Whether one letter added, dropped or changed, or two neighbours swapped, turns one text into the other."""
    if abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest_a, rest_b = a[start:], b[start:]
    return (
        rest_a[1:] == rest_b[1:]
        or rest_a[1:] == rest_b
        or rest_a == rest_b[1:]
        or (rest_a[:2] == rest_b[1::-1] and rest_a[2:] == rest_b[2:])
    )

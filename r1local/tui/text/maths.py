"""LaTeX's formulas on one line, as one would type them: \\frac{a+b}{2} is (a+b)/2, x^2 is x², \\boxed{132} has a box.

Nobody's value may change on the way: what Unicode has no sign for is written out, parentheses stand wherever leaving
them out would say something else, and commands that are not known stay as they are.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from r1local.tui.text import symbols

BOX = "\x02", "\x03"
"""Stand around what is in a box. Text that was cleaned holds neither."""
_TOKEN = re.compile(r"\\[a-zA-Z]+\*?|\\.|\s+|\d+|.", re.DOTALL)
_DEEPEST = 24
_LONGEST = 4000
_ATOM = re.compile(r"\d+(\.\d+)?|[d∂]?\w[′'⁰-⁹²³¹ⁿ₀-₉ᵢⱼₖₙ]*|√\w")
_GROUP = re.compile(r"\([^()]*\)|\|[^|]*\|")


class _Part(NamedTuple):
    """A piece of a formula, and what it must look like where its neighbours would be drawn into it."""

    text: str
    kind: Literal["plain", "relation", "function", "script", "fraction", "root"] = "plain"
    apart: str = ""


def plain(formula: str) -> str:
    """The formula on one line, or on as many as it has rows. What is open at its end is closed: it may be coming."""
    if len(formula) > _LONGEST:
        return formula
    rows = (" ".join(row.split()) for row in _Reader(formula).read().split("\n"))
    return "\n".join(row for row in rows if row)


class _Reader:
    def __init__(self, formula: str) -> None:
        self._tokens: list[str] = _TOKEN.findall(formula)
        self._at = 0
        self._depth = 0

    def read(self, end: str = "") -> str:
        """Up to a token that ends it, which is consumed. \\end is left to who read the \\begin."""
        parts: list[_Part] = []
        self._depth += 1
        while self._at < len(self._tokens) and self._tokens[self._at] != "\\end":
            token = self._next()
            if token == end:
                break
            parts.append(self._part(token))
        self._depth -= 1
        return _together(parts)

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _part(self, token: str) -> _Part:
        """What a token and its arguments become."""
        if token[0] == "\\" and len(token) > 1:
            return self._command(token[1:].removesuffix("*"))
        match token:
            case "{":
                return _Part(self.read("}")) if self._depth < _DEEPEST else _Part("")
            case "^":
                return _Part(_script(self._argument(), symbols.RAISED, "^"), "script")
            case "_":
                return _Part(_script(self._argument(), symbols.LOWERED, "_"), "script")
            case "=" | "<" | ">":
                return _Part(token, "relation")
            case "}" | "$":
                return _Part("")
        return _Part(" " if token in "&~" or token.isspace() else token)

    def _argument(self, digits: int | None = None) -> str:
        """The group or the one sign that comes next, of a number so many digits."""
        if self._peek().isspace():
            self._at += 1
        if not self._peek() or self._peek() in "}&" or self._depth >= _DEEPEST:
            return ""
        token = self._next()
        if digits and token.isdigit() and len(token) > digits:
            self._at -= 1
            self._tokens[self._at], token = token[digits:], token[:digits]
        self._depth += 1
        part = self._part(token)
        self._depth -= 1
        return part.text.strip()

    def _option(self) -> str:
        """What stands in square brackets here, if anything does."""
        if self._peek() != "[" or "]" not in self._tokens[self._at :]:
            return ""
        end = self._tokens.index("]", self._at)
        inner = "".join(self._tokens[self._at + 1 : end])
        self._at = end + 1
        return inner

    def _command(self, name: str) -> _Part:
        if name in symbols.RELATIONS:
            return _Part(symbols.RELATIONS[name], "relation")
        if name in symbols.FUNCTIONS:
            return _Part(name, "function")
        if name in symbols.LETTERS:
            sign = symbols.LETTERS[name]
            beyond = self._tokens[self._at + 1 : self._at + 2]
            if self._peek().isspace() and (sign.isalpha() or sign in symbols.PREFIXES) and beyond:
                self._at += beyond[0][0].isalnum() or beyond[0][0] == "\\"
            return _Part(sign)
        if name in symbols.SPACES:
            return _Part(symbols.SPACES[name])
        if name in symbols.NOTHING:
            self._at += self._peek() == "."  # \left. is a bracket that is not seen
            return _Part("")
        if not name[0].isalpha():
            if name == "\\":
                self._option()  # how much room there is before the next row
            return _Part({"\\": "\n", "|": "‖", "(": "", ")": "", "[": "", "]": ""}.get(name, name))
        return self._structure(name)

    def _structure(self, name: str) -> _Part:
        """Commands with arguments."""
        if name in symbols.WRAPPERS:
            if name.startswith(("text", "mbox")) and self._peek() == "{":
                self._at += 1
                return _Part(self.read("}"))  # in text spaces count
            return _Part(self._argument())
        if name in symbols.DROPPED:
            self._argument()
            return _Part("")
        if name in symbols.ACCENTS:
            inner = self._argument()
            worn = len(inner) == 1 or name == "overline"
            return _Part("".join(char + symbols.ACCENTS[name] for char in inner) if worn else f"{name}({inner})")
        match name:
            case "boxed" | "fbox":
                return _Part(f"{BOX[0]}{self._argument()}{BOX[1]}")
            case "frac" | "dfrac" | "tfrac" | "cfrac":
                above, below = self._argument(1), self._argument(1)
                above = above if _is_product(above) else f"({above})"
                below = below if _is_single(below) or not below else f"({below})"
                return _Part(f"{above}/{below}", "fraction", f"({above}/{below})")
            case "sqrt":
                root = plain(self._option())
                sign = {"": "√", "2": "√", "3": "∛", "4": "∜"}.get(root) or _script(root, symbols.RAISED, "") + "√"
                inner = self._argument()
                apart = inner if _GROUP.fullmatch(inner) else f"({inner})"
                return _Part(sign + (inner if _is_single(inner) else apart), "root", sign + apart)
            case "binom" | "dbinom" | "tbinom":
                return _Part(f"C({self._argument(1)}, {self._argument(1)})")
            case "mathbb" | "Bbb":
                return _Part("".join(symbols.BLACKBOARD.get(char, char) for char in self._argument()))
            case "not":
                negated = self._argument()
                return _Part(symbols.NEGATED.get(negated, f"not {negated}"), "relation")
            case "pmod" | "tag":
                return _Part(f" ({'mod ' if name == 'pmod' else ''}{self._argument()})")
            case "overset" | "underset" | "stackrel":
                table = symbols.LOWERED if name == "underset" else symbols.RAISED
                beside = _script(self._argument(), table, "")
                return _Part(self._argument() + beside)
            case "begin":
                return _Part(self._environment())
        unknown = f"\\{name}"
        return _Part(unknown + f"{{{self._argument()}}}" if self._peek() == "{" else unknown)

    def _environment(self) -> str:
        name = self._argument().rstrip("*")
        if self._depth >= _DEEPEST:
            return ""
        if name == "array":
            self._argument()
        rows = [" ".join(row.split()) for row in self.read().split("\n")]
        rows = [row for row in rows if row]
        if self._peek():
            self._at += 1
            self._argument()
        if name in symbols.BRACKETS:
            opening, closing = symbols.BRACKETS[name]
            return opening + "; ".join(rows) + closing
        return "{ " + "; ".join(rows) if name == "cases" else "\n".join(rows)


def _together(parts: list[_Part]) -> str:
    """Put the pieces side by side, with room and parentheses where they would run into each other."""
    out = ""
    solid = [part for part in parts if part.text]
    for index, part in enumerate(solid):
        follower = next((other for other in solid[index + 1 :] if not other.text.isspace()), _Part(""))
        before = out.rstrip(" ")[-1:]
        text = part.text
        match part.kind:
            case "relation":
                out = f"{out.rstrip(' ')} " if before not in "\n" else out
                text += " "
            case "script":
                out = out.rstrip(" ")
            case "function":
                out += " " if out[-1:].isalnum() else ""
                text += " " if follower.text[:1].isalnum() and follower.kind != "script" else ""
            case "root" if follower.kind == "script":
                text = f"({text})"
            case "root" if follower.text[:1].isalnum():
                text = part.apart
            case "fraction":
                drawn = follower.kind in ("script", "root", "fraction", "function")
                drawn |= follower.text[:1].isalnum() or follower.text[:1] in tuple("(!")
                if before.isdigit() and not any(map(str.isalpha, text)):
                    out += " "  # two and a half
                elif before:
                    drawn |= before.isalnum() or before in "/)!′'" or (text[0] == "-" and before in "+-−±∓·×÷")
                text = part.apart if drawn else text
        out += text
    return out


def _bare(inner: str) -> str:
    """Without what stands in brackets."""
    while (fewer := _GROUP.sub("", inner)) != inner:
        inner = fewer
    return inner


def _is_product(inner: str) -> bool:
    """Whether it may stand above the line of a fraction as it is."""
    bare = _bare(inner)
    return bool(inner) and not re.search(r"[-+−±∓/=<>,;\s(){}|]", bare.removeprefix("-"))


def _is_single(inner: str) -> bool:
    """Whether it may stand below the line, or under a root, as it is."""
    return bool(_ATOM.fullmatch(inner) or _GROUP.fullmatch(inner))


def _script(inner: str, table: dict[str, str], sign: str) -> str:
    tight = inner.replace(" ", "")
    if all(char in table for char in tight):
        return "".join(map(table.__getitem__, tight))
    if tight in ("°", "′", "″"):
        return tight
    word = len(tight) == 1 or (sign == "_" and tight.isascii() and tight.isalnum())
    return f"{sign}{tight}" if word else f"{sign}({inner})"

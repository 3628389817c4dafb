"""An answer without what only makes it look well: LaTeX of fonts, sizes and spaces, dollars, a full stop.

What comes out is still an expression, written in one way: fractions as a/b, powers and indices as ^2 and _(n+1),
roots as \\sqrt(2). Braces of sets and the frames of matrices become single characters, so that braces only group.
"""

from __future__ import annotations

import re

MOST_CHARACTERS = 2000
"""A longer answer is compared as it stands."""
SET_OPEN, SET_CLOSE = "\ue000", "\ue001"
MATRIX_OPEN, MATRIX_CLOSE, ROW = "\ue002", "\ue003", "\ue004"

_MOST_PASSES = 24  # of folding braces, one for each level
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "⋅": "*", "π": "\\pi ", "∞": "\\infty ", "≤": "<=",
        "≥": ">=", "≠": "!=", "²": "^2", "³": "^3", "∪": "\\cup ", "±": "\\pm ", "∈": "\\in ", "√": "\\sqrt ",
        "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "，": ",", "（": "(", "）": ")", "′": "'", "\u00a0": " ", "\u202f": " ",
        "∅": "\\emptyset ", "º": "°", "⁰": "^0", "\u2009": " ", "θ": "\\theta ", "α": "\\alpha ", "⟨": "(", "⟩": ")",
    }
)  # fmt: skip
_COMMANDS = {
    **dict.fromkeys(("left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr"), ""),
    **dict.fromkeys(("displaystyle", "textstyle", "limits", "hfill", "boxed", "fbox", "mathbb"), ""),
    **dict.fromkeys(("quad", "qquad", "thinspace"), " "),
    **dict.fromkeys(("cdot", "times", "ast"), "*"),
    **dict.fromkeys(("le", "leq", "leqslant"), "<="),
    **dict.fromkeys(("ge", "geq", "geqslant"), ">="),
    **dict.fromkeys(("ne", "neq"), "!="),
    **dict.fromkeys(("lbrace",), SET_OPEN),
    **dict.fromkeys(("rbrace",), SET_CLOSE),
    **dict.fromkeys(("lvert", "rvert", "mid", "vert"), "|"),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), "\\frac"),
    "div": "/", "lt": "<", "gt": ">", "degree": "°", "langle": "(", "rangle": ")", "varnothing": "\\emptyset",
    "imath": "i", "colon": ":", "bar": "\\overline", "lor": " or ", "land": " and ", "vee": " or ",
    "to": "\\rightarrow", "implies": "\\Rightarrow", "arctan": "\\tan^{-1}",
    "arcsin": "\\sin^{-1}", "arccos": "\\cos^{-1}",
    "newline": " ", "textdegree": "°", "pounds": "£", "euro": "€", "dots": "\\ldots", "cdots": "\\ldots",
}  # fmt: skip
_ESCAPES = {**dict.fromkeys(",;:!> \n", " "), "%": "%", "$": "$", "#": "#", "&": "&", "_": "_", "{": SET_OPEN,
            "}": SET_CLOSE, "\\": ROW, "(": " ", ")": " ", "[": " ", "]": " "}  # fmt: skip
_ESCAPED = re.compile(r"\\(?:([a-zA-Z]+)|(.))", re.DOTALL)
_FONT = r"\\(?:text(?:bf|rm|it|sf|tt|normal)?|math(?:rm|bf|it|sf)|mbox|hbox|operatorname\*?|emph|bm|boldsymbol)"
_TEXT = re.compile(_FONT + r"\s*\{([^{}]*)\}")
_UNIT_LETTERS = {
    "m": "metre", "g": "gram", "s": "second", "h": "hour", "L": "litre", "l": "litre", "N": "newton", "J": "joule",
    "W": "watt", "V": "volt", "A": "ampere", "K": "kelvin", "C": "celsius", "F": "fahrenheit", "d": "day",
}  # fmt: skip
_UNIT_LETTER = re.compile(r"(?<=[\d}°])((?:\s|~|\\[,;:! ])*)" + _FONT + r"\s*\{\s*([mgshLlNJWVAKCFd])\s*([/}])")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,?\\[,!; ]\s*|\s?\{\s?\})(?=\d{3}(?!\d))")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z])|\{\s*\\text\{o\}\s*\})")
_MATRIX = re.compile(r"\\(begin|end)\s*\{([pbB]?matrix|smallmatrix|array)\}(?:\s*\{[lcr| ]*\})?")
_MIXED = re.compile(r"(?<![\d.^_])(\d+)\s*\\frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_NAMES = re.compile(r"(?<![a-zA-Z\\])(sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln|infty|theta)(?![a-zA-Z])")
_ROOT_OF_DIGITS = re.compile(r"(?<![a-zA-Z\\])sqrt(\d+)")
_SHORT_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*(?=[0-9a-zA-Z{])")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]))")
_ROOT = re.compile(r"(\\(?:sqrt(?:\s*\[[^\[\]{}]*\])?|log|ln|sin|cos|tan))\s*\{([^{}]*)\}")
_RAISED = re.compile(r"([\^_])\s*\{\s*([^{}]*?)\s*\}")
_GROUP = re.compile(r"(?<![}\]a-zA-Z^_])\{([^{}]*)\}")
_RAISED_ATOM = re.compile(r"([\^_])\((\d+|[a-zA-Z])\)(?!\d)")
_ATOM = re.compile(r"\d+(?:\.\d+)?|[a-zA-Z]|\\[a-zA-Z]+|\\sqrt\([^()]*\)")
_SAFE_BEFORE = frozenset("+-=,;([<>: " + SET_OPEN + MATRIX_OPEN + ROW + "&")
_SAFE_AFTER = frozenset("+-=,;)]<>°% $" + SET_CLOSE + MATRIX_CLOSE + ROW + "&")


def plain(answer: str) -> str:
    """`answer` in one way of writing. White space that may mean something is left, as single spaces."""
    if len(answer) > MOST_CHARACTERS:
        return answer.strip()
    text = _undelimited(answer.translate(_CHARACTERS))
    text = _THOUSANDS.sub("", text)
    text = _UNIT_LETTER.sub(_unit_word, _DEGREES.sub("°", text))
    text = _MATRIX.sub(lambda match: MATRIX_OPEN if match[1] == "begin" else MATRIX_CLOSE, text)
    text = _TEXT.sub(r" \1 ", text)
    text = _ESCAPED.sub(_written_out, text)
    text = _MIXED.sub(lambda match: f"{match[1]} {match[2] or match[4]}/{match[3] or match[5]}", text)
    text = _ROOT_OF_DIGITS.sub(r"\\sqrt(\1)", text)
    text = _NAMES.sub(r"\\\1", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}", _SHORT_ROOT.sub(r"\\sqrt{\1}", text))
    text = _RAISED_ATOM.sub(r"\1\2", _folded(text)).replace("**", "^")
    text = re.sub(r"\s+(?=\^)", "", " ".join(text.split()))
    return re.sub(r",\s+", "; ", text).rstrip(" .")


def _undelimited(text: str) -> str:
    """Without the signs around a formula or bold text, and without a full stop."""
    while True:
        text = text.strip()
        before = text
        if text.endswith(".") and not text.endswith("\\."):
            text = text[:-1]
        for start, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`")):
            inside = text[len(start) : len(text) - len(end)]
            if len(text) > len(start + end) and text.startswith(start) and text.endswith(end) and inside[-1] != "\\":
                text = inside
                break
        if text == before:
            return text


def _unit_word(match: re.Match[str]) -> str:
    return f"\\text{{ {_UNIT_LETTERS[match[2]]}{match[3]}"


def _written_out(match: re.Match[str]) -> str:
    if match[1]:
        return _COMMANDS.get(match[1], match[0])
    return _ESCAPES.get(match[2], match[2])


def _folded(text: str) -> str:
    """Braces as round brackets where they are needed, from the inside out."""
    for _ in range(_MOST_PASSES):
        folded = _RAISED.sub(_raised, _ROOT.sub(r"\1(\2)", _FRACTION.sub(_fraction, text)))
        if folded == text:
            folded = _GROUP.sub(r"\1", text)
        if folded == text:
            return text
        text = folded
    return text


def _raised(match: re.Match[str]) -> str:
    follows = match.string[match.end() : match.end() + 1]
    return match[1] + (f"({match[2]})" if follows.isdigit() else _atom(match[2]))


def _atom(text: str) -> str:
    text = text.strip()
    return text if _ATOM.fullmatch(text) else f"({text})"


def _fraction(match: re.Match[str]) -> str:
    above, below = _atom(match[1]), _atom(match[2] or match[3] or "")
    text, start, end = match.string, match.start(), match.end()
    safe_before = start == 0 or text[start - 1] in _SAFE_BEFORE
    safe_after = end == len(text) or text[end] in _SAFE_AFTER or text[end].isalpha() or text[end] == "}"
    if (safe_before or text[start - 1] == "{") and safe_after:
        return f"{above}/{below}"
    return f"({above}/{below})"

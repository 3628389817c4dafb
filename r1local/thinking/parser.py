"""Splits a reply into thought and answer while it comes.

The rules, for every way the text may be cut into pieces:

1.  The reply begins inside the thought when the prompt opened it. A model that writes the opening tag again
    at the very start is not thinking twice: that tag is dropped.
2.  Otherwise the opening tag counts only at the start of the reply, after nothing but white space. A reply
    that starts with anything else is an answer, and tags in it are text.
3.  The first closing tag ends the thought. White space at both ends of the thought, and in front of the
    answer, is dropped: its amount differs from model to model and means nothing.
4.  After a thought, an opening tag begins a further one when nothing but white space was answered yet, or
    when it starts a line of the answer outside a code fence. A tag anywhere else in the answer is text,
    since models also write *about* tags.
5.  A further thought is divided from the one before it by an empty line.
6.  A reply that ends inside a thought has no more answer: `closed` says so.
"""

from __future__ import annotations

from enum import Enum, auto

from r1local.events import AnswerDelta, ThinkDelta

_WHITE = " \t\r\n\f\v"


class _State(Enum):
    START = auto()  # nothing but white space yet, no thought open
    THOUGHT_START = auto()  # in a thought, nothing but white space yet
    THOUGHT = auto()
    ANSWER_START = auto()  # after a thought, nothing but white space yet
    ANSWER = auto()


class ThinkParser:
    """Feed it text, get deltas; `flush` gives what was held back.

    `opened` says that the prompt ended inside the thought. Text is held back only while it may still be part
    of a tag or of white space that is dropped.
    """

    def __init__(self, *, opened: bool, open_tag: str = "<think>", close_tag: str = "</think>") -> None:
        self._open = open_tag
        self._close = close_tag
        self._state = _State.THOUGHT_START if opened else _State.START
        self._held = ""
        self._may_repeat_open = opened
        self._had_thought = opened
        self._thought_said = False
        self._spoken = False
        self._owed_break = False
        self._line = _LineWatch()

    @property
    def thinking(self) -> bool:
        """Inside a thought right now."""
        return self._state in (_State.THOUGHT_START, _State.THOUGHT)

    @property
    def closed(self) -> bool:
        """No thought is open. Asked after the end: False means that the reply ended inside a thought."""
        return not self.thinking

    def feed(self, text: str) -> list[ThinkDelta | AnswerDelta]:
        """The deltas that `text` completes."""
        self._held += text
        deltas: list[ThinkDelta | AnswerDelta] = []
        while self._held and self._step(deltas, final=False):
            pass
        return _joined(deltas)

    def flush(self) -> list[ThinkDelta | AnswerDelta]:
        """The deltas of what was held back, as nothing follows. The parser is spent afterwards."""
        deltas: list[ThinkDelta | AnswerDelta] = []
        while self._held and self._step(deltas, final=True):
            pass
        return _joined(deltas)

    def _step(self, deltas: list[ThinkDelta | AnswerDelta], *, final: bool) -> bool:
        """Take something off the held text; False when more text is needed to decide."""
        match self._state:
            case _State.START | _State.ANSWER_START:
                return self._begin(deltas, final)
            case _State.THOUGHT_START:
                return self._begin_thought(final)
            case _State.THOUGHT:
                return self._think(deltas, final)
            case _State.ANSWER:
                return self._answer(deltas, final)

    def _begin(self, deltas: list[ThinkDelta | AnswerDelta], final: bool) -> bool:
        rest = self._held.lstrip(_WHITE)
        if rest.startswith(self._open):
            self._held = rest[len(self._open) :]
            self._state = _State.THOUGHT_START
            self._may_repeat_open = False
            self._had_thought = True
            return True
        if not rest or self._open.startswith(rest):
            if not final:
                return False
            if not rest and self._state is _State.ANSWER_START:
                self._held = ""
                return False
        if self._state is _State.ANSWER_START:
            self._held = rest
        self._state = _State.ANSWER
        return True

    def _begin_thought(self, final: bool) -> bool:
        rest = self._held.lstrip(_WHITE)
        if self._may_repeat_open:
            if rest.startswith(self._open):
                self._held = rest[len(self._open) :]
                self._may_repeat_open = False
                return True
            if self._open.startswith(rest) and not final:
                return False
        if rest.startswith(self._close):
            self._end_thought(rest[len(self._close) :])
            return True
        if not final and self._close.startswith(rest):
            return False
        self._held = rest
        if not rest:
            return False
        self._may_repeat_open = False
        self._state = _State.THOUGHT
        self._owed_break = self._thought_said
        return True

    def _think(self, deltas: list[ThinkDelta | AnswerDelta], final: bool) -> bool:
        text, tag, rest = self._held.partition(self._close)
        if not tag:
            keep = 0 if final else partial_suffix(text, self._close)
            text, rest = text[: len(text) - keep], text[len(text) - keep :]
            shown = text.rstrip(_WHITE)
            rest = text[len(shown) :] + rest
            if final:
                rest = ""
        else:
            shown = text.rstrip(_WHITE)
        if shown:
            deltas.append(ThinkDelta(("\n\n" if self._owed_break else "") + shown))
            self._owed_break = False
            self._thought_said = True
        if tag:
            self._end_thought(rest)
            return True
        self._held = rest
        return False

    def _end_thought(self, rest: str) -> None:
        self._held = rest
        self._state = _State.ANSWER if self._spoken else _State.ANSWER_START
        self._owed_break = False

    def _answer(self, deltas: list[ThinkDelta | AnswerDelta], final: bool) -> bool:
        text = self._held
        tag_at = self._line.find_tag(text, self._open) if self._had_thought else -1
        if tag_at >= 0:
            self._speak(deltas, text[:tag_at])
            self._line.end_line()
            self._held = text[tag_at + len(self._open) :]
            self._state = _State.THOUGHT_START
            self._may_repeat_open = False
            self._had_thought = True
            return True
        keep = 0
        if self._had_thought and not final:
            keep = partial_suffix(text, self._open)
            if keep and not self._line.starts_line(text[: len(text) - keep]):
                keep = 0
        self._speak(deltas, text[: len(text) - keep])
        self._held = text[len(text) - keep :]
        return False

    def _speak(self, deltas: list[ThinkDelta | AnswerDelta], text: str) -> None:
        if text:
            self._spoken = True
            self._line.pass_over(text)
            deltas.append(AnswerDelta(text))


class _LineWatch:
    """Follows the answer line by line: what the current line holds so far, and whether a code fence is open.

    A fence is a line of at least three backticks or tildes, indented by at most three spaces; it ends at a
    line of the same character, at least as many (CommonMark 0.31, section 4.5).
    """

    def __init__(self) -> None:
        self._line = ""
        self._fence = ""

    def pass_over(self, text: str) -> None:
        *ended, last = text.split("\n")
        for line in ended:
            self._extend(line)
            self.end_line()
        self._extend(last)

    def _extend(self, text: str) -> None:
        # Only the start of a line says whether it is a fence; a long line need not be kept.
        self._line = (self._line + text)[:64]

    def end_line(self) -> None:
        self._fence = self._fence_after(self._line)
        self._line = ""

    def _fence_after(self, line: str) -> str:
        stripped = line.lstrip(" ")
        if len(line) - len(stripped) > 3 or stripped[:1] not in ("`", "~"):
            return self._fence
        char = stripped[0]
        run = stripped[: len(stripped) - len(stripped.lstrip(char))]
        rest = stripped[len(run) :]
        if not self._fence:
            return run if len(run) >= 3 and not (char == "`" and "`" in rest) else ""
        closes = char == self._fence[0] and len(run) >= len(self._fence) and not rest.strip()
        return "" if closes else self._fence

    def starts_line(self, text: str) -> bool:
        """Whether what comes after `text` would start a line outside a code fence."""
        ahead = _LineWatch()
        ahead._line, ahead._fence = self._line, self._fence
        ahead.pass_over(text)
        return not ahead._fence and not ahead._line.strip(_WHITE)

    def find_tag(self, text: str, tag: str) -> int:
        """Where `tag` starts a line of `text` outside a code fence; -1 for nowhere."""
        at = text.find(tag)
        while at >= 0:
            if self.starts_line(text[:at]):
                return at
            at = text.find(tag, at + 1)
        return -1


def partial_suffix(text: str, tag: str) -> int:
    """The length of the longest end of `text` that is a proper start of `tag`."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


def _joined(deltas: list[ThinkDelta | AnswerDelta]) -> list[ThinkDelta | AnswerDelta]:
    """Neighbouring deltas of the same kind as one."""
    result: list[ThinkDelta | AnswerDelta] = []
    for delta in deltas:
        if result and type(result[-1]) is type(delta):
            result[-1] = type(delta)(result[-1].text + delta.text)
        else:
            result.append(delta)
    return result

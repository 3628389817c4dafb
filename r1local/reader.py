"""From pieces of text to events: thought and answer apart, counted and timed."""

from __future__ import annotations

from collections.abc import Iterable

from r1local.chat_types import Turn
from r1local.engine.stream import Outcome, Piece
from r1local.events import AnswerDelta, Done, Event, Stats, ThinkDelta, ThoughtEnd
from r1local.template import THINK_CLOSE
from r1local.thinking.parser import ThinkParser

CLOSED = f"\n{THINK_CLOSE}\n\n"
"""How the distilled models end a thought."""


class ReplyReader:
    """Folds one engine stream into events and into the turn it makes.

    Feed it what the stream yields; `finish` with the stream's outcome gives the last events, Done at the end.
    Where many streams run at once, each has a reader of its own.
    """

    def __init__(self, *, thought_open: bool) -> None:
        self._parser = ThinkParser(opened=thought_open)
        self._thought_end: ThoughtEnd = "model"
        self._thought: list[str] = []
        self._answer: list[str] = []
        self._think_tokens = 0
        self._answer_tokens = 0
        self._thought_ended_at: float | None = None
        self._last_at = 0.0

    @property
    def thinking(self) -> bool:
        return self._parser.thinking

    @property
    def think_tokens(self) -> int:
        return self._think_tokens

    @property
    def thought(self) -> str:
        return "".join(self._thought)

    @property
    def answer(self) -> str:
        return "".join(self._answer)

    def feed(self, piece: Piece) -> list[Event]:
        was_thinking = self._parser.thinking
        deltas = self._parser.feed(piece.text)
        if was_thinking or (self._parser.thinking and not self._answer):
            self._think_tokens += piece.tokens
            self._thought_ended_at = piece.at
        else:
            self._answer_tokens += piece.tokens
        self._last_at = piece.at
        return self._keep(deltas)

    @property
    def drawn_tokens(self) -> int:
        return self._think_tokens + self._answer_tokens

    def begin(self, thought: str) -> list[Event]:
        """Start with a thought that was not drawn, but given."""
        return self._keep(self._parser.feed(thought))

    def close_thought(self) -> list[Event]:
        """The thought ends here, because the user wants it so."""
        self._thought_end = "user"
        return self._keep(self._parser.feed(CLOSED))

    def finish(self, outcome: Outcome) -> list[Event]:
        events = self._keep(self._parser.flush())
        done = Done(outcome.finish, self._stats(outcome), outcome.note, self._parser.closed, self._thought_end)
        return [*events, done]

    def turn(self, *, complete: bool) -> Turn:
        """The assistant's turn that was read, for the history."""
        return Turn("assistant", self.answer, self.thought or None, complete)

    def _keep(self, deltas: Iterable[ThinkDelta | AnswerDelta]) -> list[Event]:
        events: list[Event] = []
        for delta in deltas:
            (self._thought if isinstance(delta, ThinkDelta) else self._answer).append(delta.text)
            events.append(delta)
        return events

    def _stats(self, outcome: Outcome) -> Stats:
        first = outcome.first_token_at
        fresh = outcome.prompt_tokens - outcome.reused_tokens
        drawn = self.drawn_tokens
        decode_seconds = self._last_at - first if first is not None else 0.0
        return Stats(
            prompt_tokens=outcome.prompt_tokens,
            reused_tokens=outcome.reused_tokens,
            think_tokens=self._think_tokens,
            answer_tokens=self._answer_tokens,
            time_to_first_token=first - outcome.submitted_at if first is not None else 0.0,
            prefill_tokens_per_second=fresh / outcome.prefill_seconds if outcome.prefill_seconds > 0 else 0.0,
            # The first token belongs to the prefill: n tokens take n - 1 steps.
            decode_tokens_per_second=(drawn - 1) / decode_seconds if decode_seconds > 0 else 0.0,
            think_seconds=(
                self._thought_ended_at - first if first is not None and self._thought_ended_at is not None else 0.0
            ),
            total_seconds=outcome.ended_at - outcome.submitted_at,
        )

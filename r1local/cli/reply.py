"""Shows one reply: the thought as the user wants it, the answer as data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import assert_never

from r1local.chat_types import ThinkMode
from r1local.cli.output import Output
from r1local.events import AnswerDelta, Done, Event, Stats, ThinkDelta, Votes
from r1local.many.votes import count_table, standing_line, voted_line
from r1local.units import seconds


class ReplyView:
    """Consumes the events of one reply.

    show    the thought runs by on stderr, then the answer on stdout
    fold    one live line while it thinks, then "Thought for 15 s, 1,204 tokens"
    hide    nothing of the thought
    only    the thought is the data, on stdout; the answer is left out
    """

    def __init__(self, output: Output, mode: ThinkMode, think_tokens: Callable[[], int]) -> None:
        """`think_tokens` tells how many tokens the thought has so far."""
        self._output = output
        self._mode = mode
        self._began = time.perf_counter()
        self._first_thought_at: float | None = None
        self._think_tokens = think_tokens
        self._folded = False
        self._votes: Votes | None = None

    def play(self, events: Iterable[Event]) -> Done:
        """Show everything, return the end. What was begun is ended tidily, whatever is raised."""
        done: Done | None = None
        self._output.status(self._waiting)
        try:
            for event in events:
                match event:
                    case Votes():
                        self._vote(event)
                    case ThinkDelta(text):
                        self._think(text)
                    case AnswerDelta(text):
                        self._answer(text)
                    case Done():
                        done = event
                    case _:
                        assert_never(event)
        finally:
            self._output.status(None)
            self._output.end_talk()
            self._output.end_data()
        assert done is not None
        self._end(done)
        return done

    def _waiting(self) -> str:
        return f"Reading {seconds(time.perf_counter() - self._began)}"

    def _thinking(self) -> str:
        since = self._first_thought_at or self._began
        return f"Thinking {seconds(time.perf_counter() - since)}, {self._think_tokens():,} tokens"

    def _vote(self, votes: Votes) -> None:
        if self._votes is None:
            self._output.status(lambda: standing_line(self._votes) if self._votes else "")
        self._votes = votes

    def _think(self, text: str) -> None:
        if self._first_thought_at is None:
            self._first_thought_at = time.perf_counter()
            if self._votes is None:
                self._output.status(self._thinking if self._mode == "fold" else None)
        match self._mode:
            case "show":
                self._output.talk(text)
            case "only":
                self._output.data(text)
            case "fold" | "hide":
                pass

    def _answer(self, text: str) -> None:
        if self._mode == "only":
            return
        if not self._folded:
            self._folded = True
            self._output.status(None)
            if self._first_thought_at is not None:
                if self._mode == "fold" and self._votes is None:
                    spent = time.perf_counter() - self._first_thought_at
                    self._output.line(f"Thought for {seconds(spent)}, {self._think_tokens():,} tokens")
                elif self._mode == "show":
                    self._output.end_talk()
                    self._output.line("")
        self._output.data(text)

    def _end(self, done: Done) -> None:
        stats = done.stats
        if done.votes is not None and done.finish != "cancelled":
            self._output.line(voted_line(done.votes))
            for line in count_table(done.votes):
                self._output.line("  " + line)
        elif self._mode == "fold" and self._first_thought_at is not None and not self._folded:
            self._output.line(f"Thought for {seconds(stats.think_seconds)}, {stats.think_tokens:,} tokens")
        if done.finish == "cancelled":
            self._output.line("Stopped.")
        elif done.note:
            self._output.line(f"Stopped: {done.note}.")
        if not done.thought_closed and done.finish != "cancelled":
            self._output.line(
                "The reply ended inside its thought, so there is no answer. Allow more with --max-tokens or --ctx."
            )


def stats_line(stats: Stats) -> str:
    """The figures of a turn on one line."""
    parts = [f"prompt {stats.prompt_tokens:,} tokens"]
    if stats.reused_tokens:
        parts[0] += f" ({stats.reused_tokens:,} from cache)"
    if stats.think_tokens:
        parts.append(f"thought {stats.think_tokens:,} tokens in {seconds(stats.think_seconds)}")
    parts.append(f"answer {stats.answer_tokens:,} tokens")
    parts.append(f"first token {stats.time_to_first_token:.2f} s")
    if stats.prefill_tokens_per_second:
        parts.append(f"prefill {stats.prefill_tokens_per_second:.0f} tok/s")
    if stats.decode_tokens_per_second:
        parts.append(f"decode {stats.decode_tokens_per_second:.1f} tok/s")
    return " · ".join(parts)

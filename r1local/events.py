"""What a reply is made of while it comes: the one stream every view is a loop over.

    Votes*  ThinkDelta*  AnswerDelta*  Done

Votes come only where several samples vote on one reply. Deltas may alternate when a model thinks twice. `Done` comes
exactly once, last, unless an error is raised.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Finish = Literal["stop", "length", "cancelled"]
ThoughtEnd = Literal["model", "user"]


@dataclass(frozen=True, slots=True)
class ThinkDelta:
    """A further piece of the thought."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """A further piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Votes:
    """How a vote of several samples stands."""

    wanted: int
    """Samples that may vote."""
    counted: int = 0
    """Those that have ended."""
    running: int = 0
    tokens: int = 0
    """Drawn by all samples together."""
    counts: tuple[tuple[str, int], ...] = ()
    """Answers and their votes, most votes first; samples without an answer are in no count."""

    @property
    def agreement(self) -> float:
        """Share of the counted samples that gave the first answer."""
        return self.counts[0][1] / self.counted if self.counts else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What a turn cost. Counted once, in the engine and the reader of the stream; views only print it."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    """Of the prompt tokens, those found in the KV cache and not decoded again."""
    think_tokens: int = 0
    """Tokens drawn while the thought was open, its closing tag included."""
    answer_tokens: int = 0
    time_to_first_token: float = 0.0
    """Seconds from the request to the first token drawn, waiting in the queue included."""
    prefill_tokens_per_second: float = 0.0
    """Prompt tokens decoded anew over the time it took. 0 when there was nothing to measure."""
    decode_tokens_per_second: float = 0.0
    think_seconds: float = 0.0
    """Seconds from the first token drawn to the end of the thought."""
    total_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a reply."""

    finish: Finish
    """stop: the model ended it or a stop string was met. length: a limit was reached; note says which."""
    stats: Stats
    note: str = ""
    """For a person: why it ended, where that is not plain."""
    thought_closed: bool = True
    """False when the reply ended inside the thought: there is no answer then."""
    thought_end: ThoughtEnd = "model"
    """Who closed the thought: the model itself, or the user who wanted the answer."""
    votes: Votes | None = None
    """How the vote ended that chose this reply; its stats are those of the reply alone."""


Event = Votes | ThinkDelta | AnswerDelta | Done


def as_json(event: Event) -> dict[str, Any]:
    """The event as a JSON object, its `type` first: votes, think, answer or done."""
    match event:
        case Votes():
            return {"type": "votes", **asdict(event)}
        case ThinkDelta(text):
            return {"type": "think", "text": text}
        case AnswerDelta(text):
            return {"type": "answer", "text": text}
        case Done():
            return {"type": "done", **asdict(event)}

"""The quiet line below a turn."""

from __future__ import annotations

import re

from r1local.events import Done, Stats
from r1local.history import StoredTurn
from r1local.many.votes import voted_line
from r1local.units import seconds

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")


def of_done(done: Done | None, turn: StoredTurn | None, thought: str, answer: str) -> str:
    """How a reply ended, and what it cost."""
    if done is None:
        return "Broken off."
    voted = voted_line(done.votes).rstrip(".") if done.votes is not None and done.finish != "cancelled" else ""
    return " · ".join(
        filter(None, [_ending(done), voted, place(turn), mixture(thought, answer), *_figures(done.stats)])
    )


def of_stored(turn: StoredTurn) -> str:
    """Of a reply that was kept."""
    ending = ""
    if turn.ended is None:
        ending = "Still coming, in another window"
    elif not turn.turn.complete:
        ending = "Not finished" if turn.turn.text else "No answer: it ended inside its thought"
    mixed = mixture(turn.turn.thought or "", turn.turn.text)
    return " · ".join(filter(None, [ending, place(turn), mixed, *(_figures(turn.stats) if turn.stats else [])]))


def place(turn: StoredTurn | None) -> str:
    """Which of several wordings or replies it is."""
    if turn is None or len(turn.siblings) < 2:
        return ""
    return f"‹ {turn.siblings.index(turn.id) + 1} of {len(turn.siblings)} ›"


def mixture(thought: str, answer: str) -> str:
    """Where thought and answer are not written in one script: a distilled model may slip into Chinese."""
    shares = []
    for name, text in (("thought", thought), ("answer", answer)):
        han, letters = len(_HAN.findall(text)), sum(map(str.isalpha, text))
        share = han / letters if letters else 0.0
        if 0.02 <= share <= 0.98:
            shares.append(f"{name} {share:.0%} Chinese")
    return ", ".join(shares)


def _ending(done: Done) -> str:
    if done.finish == "cancelled":
        return "Stopped"
    if not done.thought_closed:
        return f"No answer: it ended inside its thought ({done.note or 'the model stopped'})"
    if done.note:
        return f"Stopped: {done.note}"
    return "You ended the thought" if done.thought_end == "user" else ""


def _figures(stats: Stats) -> list[str]:
    words = []
    if stats.answer_tokens:
        words.append(f"answer {stats.answer_tokens:,} tokens")
    if stats.decode_tokens_per_second:
        words.append(f"{stats.decode_tokens_per_second:.1f} tok/s")
    if stats.total_seconds:
        words.append(seconds(stats.total_seconds))
    return words

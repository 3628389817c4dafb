"""What of a finished row goes into the journal and the output."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from r1local.many.values import Finished, How
from r1local.store import LocalModel


def record_of(finished: Finished, model: str, settings: str) -> dict[str, Any]:
    """The row's answer, or why there is none. `settings`: the hash of how all rows are answered."""
    row = finished.row
    if finished.error is not None:
        return error_record(row.id, finished.error.message, finished.error.hint)
    chosen = finished.chosen
    assert chosen is not None
    done = chosen.done
    assert done is not None
    record: dict[str, Any] = {
        "id": row.id,
        "think": chosen.reader.thought,
        "answer": chosen.reader.answer,
        "finish": done.finish,
        "note": done.note,
        "thought_closed": done.thought_closed,
        "thought_end": done.thought_end,
        "tokens": {
            "prompt": done.stats.prompt_tokens,
            "think": done.stats.think_tokens,
            "answer": done.stats.answer_tokens,
        },
        "seconds": round(chosen.seconds, 3),
        "model": model,
        "settings": settings if not row.settings else f"{settings}+{settings_hash(row.settings)}",
    }
    if finished.tally is not None:
        tally = finished.tally
        record["vote"] = {
            "winner": tally.winner.answer if tally.winner else None,
            "agreement": round(tally.agreement, 4),
            "samples": tally.counted,
            "of": tally.wanted,
            "counts": [{"answer": group.answer, "votes": group.votes} for group in tally.ranking],
            "tokens": finished.spent,
        }
    if row.extra:
        record["input"] = dict(row.extra)
    return record


def error_record(row: str, message: str, hint: str) -> dict[str, Any]:
    return {"id": row, "error": {"message": message, "hint": hint}}


FIELDS = (
    "id", "think", "answer", "finish", "note", "thought_closed", "thought_end", "tokens", "seconds", "model",
    "settings", "vote", "input", "error",
)  # fmt: skip
"""Of a record, for --select."""


def selected(record: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The fields that are wanted, in that order, and an error always; without `fields` all of them."""
    hidden = {name: value for name, value in record.items() if name != "key"}
    if not fields:
        return hidden
    chosen = {name: hidden.get(name) for name in fields if name != "error"}
    return {**chosen, "error": hidden["error"]} if "error" in hidden else chosen


def made_how(how: How, local: LocalModel, **more: Any) -> dict[str, Any]:
    """What decides about the replies: with another one of these the rows finished before would not match."""
    return {
        "model": local.name,
        "bytes": local.size,
        **dataclasses.asdict(how.sampling),
        "max_tokens": how.max_tokens,
        "stop": list(how.stop),
        "system": how.system,
        "vote": how.samples,
        **more,
    }


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Names a set of settings, in ten digits."""
    text = json.dumps(dict(settings), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]

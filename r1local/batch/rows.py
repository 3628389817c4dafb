"""Reads rows: from JSON lines, OpenAI's batch format, CSV, or plain lines."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from r1local.chat_types import Turn
from r1local.errors import UsageError
from r1local.many.row import Row

SETTINGS = {
    "temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "frequency_penalty", "presence_penalty",
    "dry_multiplier", "max_tokens", "system",
}  # fmt: skip
"""Fields of a row that say how it is answered."""
_MOST_CHARACTERS = 64 << 20
"""Of a field in CSV, whose module alone takes no text as long as a document."""
_DEEPEST = 100
"""Levels of a row: what reads JSON gets deeper than what writes it."""
_ROLES = ("system", "user", "assistant")
_HANDLED = SETTINGS | {"messages", "id", "custom_id", "body", "method", "url", "max_completion_tokens", "model"}


def read_rows(
    lines: Iterable[str], kind: str, *, column: str = "prompt", template: str = "", where: str = "the input"
) -> Iterator[Row]:
    """`kind`: jsonl, json (one array), csv or lines. `column`: the field the prompt stands in. `template`: text with
    {field}s in it.

    A row that is broken comes with its problem. Raises UsageError where nothing can be made of the whole.
    """
    if kind == "csv":
        data: Iterable[Any] = _csv_rows(lines, column if not template else "", where)
    elif kind == "jsonl":
        data = _json_rows(lines)
    elif kind == "json":
        data = _array(lines, where)
    else:
        data = ({column: line.rstrip("\r\n")} for line in lines if line.strip())
    seen: Counter[str] = Counter()
    for number, fields in enumerate(data):
        row = _row(number, fields, column, template, only_texts=kind == "csv")
        yield replace(row, repeat=seen[row.key]) if seen[row.key] else row
        seen[row.key] += 1


def _csv_rows(lines: Iterable[str], column: str, where: str) -> Iterator[Any]:
    csv.field_size_limit(_MOST_CHARACTERS)  # one for the whole process: others set theirs when they begin, too
    reader = csv.DictReader(lines)
    try:
        names = reader.fieldnames or []
    except csv.Error as error:
        raise UsageError(f"{where} is not CSV: {error}.", "Give it as JSON lines.") from error
    if column and column not in names:
        raise UsageError(
            f"{where} has no column {column!r}.", "Name one with --column: " + ", ".join(map(str, names[:20]))
        )
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield UsageError(f"not CSV: {error}")
        else:
            yield {name: value for name, value in fields.items() if name is not None}


def _json_rows(lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield UsageError(f"not JSON: {error}")
            else:
                yield UsageError("it is nested too deeply") if _is_deep(data) else data


def _array(lines: Iterable[str], where: str) -> list[Any]:
    text = "".join(lines)
    if not text.lstrip().startswith("["):
        return list(_json_rows(text.splitlines()))
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}.", "Correct it, or give a row on each line.") from error
    return [UsageError("it is nested too deeply") if _is_deep(row) else row for row in rows]


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(_DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for some in inner for each in some]
        if not level:
            return False
    return True


def _row(number: int, data: Any, column: str, template: str, *, only_texts: bool) -> Row:
    name, named = str(number), False
    try:
        if isinstance(data, UsageError):
            raise data
        if isinstance(data, str):
            data = {column: data}
        if not isinstance(data, dict):
            raise UsageError("neither an object nor a text")
        if (given := _name(data)) is not None:
            name, named = given, True
        inner = data.get("body")
        body: dict[str, Any] = inner if isinstance(inner, dict) else data
        settings = _settings(body, only_texts=only_texts)
        extra = {key: value for key, value in data.items() if key not in _HANDLED and key != column}
        turns = _turns(body, column, template)
    except UsageError as error:
        problem = f"Row {name} cannot be asked: {error.message.rstrip('.')}."
        return Row(number, name, (), problem=problem, named=named)
    return Row(number, name, turns, settings, extra=extra, named=named)


def _settings(body: Mapping[str, Any], *, only_texts: bool) -> dict[str, Any]:
    said = {key: body[key] for key in SETTINGS if body.get(key) is not None}
    if body.get("max_completion_tokens") is not None:
        said["max_tokens"] = body["max_completion_tokens"]
    if not only_texts:
        return said
    return {key: value if key == "system" else _number(value) for key, value in said.items() if str(value).strip()}


def _number(text: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _name(data: Mapping[str, Any]) -> str | None:
    name = data.get("custom_id", data.get("id"))
    return None if name is None or isinstance(name, dict | list) else str(name)


def _turns(body: Mapping[str, Any], column: str, template: str) -> tuple[Turn, ...]:
    messages = body.get("messages")
    if messages is not None:
        return _messages(messages)
    if template:
        return (Turn("user", filled(template, body)),)
    prompt = body.get(column)
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(f"there is no text in {column!r}")
    return (Turn("user", prompt),)


def _messages(messages: Any) -> tuple[Turn, ...]:
    if not isinstance(messages, list) or not messages:
        raise UsageError("messages is no list of messages")
    turns = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise UsageError("a message has none of the roles " + ", ".join(_ROLES))
        content = message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "".join(part for part in parts if isinstance(part, str))
        if not isinstance(content, str):
            raise UsageError("a message has no text")
        turns.append(Turn(message["role"], content))
    if turns[-1].role != "user" or not turns[-1].text.strip():
        raise UsageError("the last message is not a user's, or is empty")
    return tuple(turns)


def filled(template: str, fields: Mapping[str, Any]) -> str:
    """`{name}` becomes the field of that name; {{ and }} are braces. Nothing else of Python's formats is understood.

    Raises UsageError for a field that is not there.
    """
    out, place = [], 0
    while place < len(template):
        char = template[place]
        if template[place : place + 2] in ("{{", "}}"):
            out.append(char)
            place += 2
        elif char == "{":
            end = template.find("}", place)
            name = template[place + 1 : end] if end > 0 else template[place + 1 :]
            if end < 0 or name not in fields:
                raise UsageError(f"the template wants a field {name!r}")
            value = fields[name]
            out.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            place = end + 1
        else:
            out.append(char)
            place += 1
    return "".join(out)

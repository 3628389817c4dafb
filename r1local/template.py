"""Turns a conversation into prompt segments by the model file's own chat template.

The template is a program from a stranger's file. It runs in a sandbox in a process of its own
(template_worker.py), and it never sees what was said: every text is a placeholder while it runs, and the
rendered prompt is cut at the placeholders into segments. Template text may hold control tokens; said text
never becomes one, because the two are tokenized apart. So nothing a user types can close a thought, open a
turn or end the prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1local.chat_types import Turn
from r1local.errors import TemplateError
from r1local.line_worker import LineWorker

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"

MAX_TEMPLATE = 1 << 20
# Wall time of one rendering. The worker bounds its own processor time more tightly; this bound also covers
# its start on a busy machine.
MAX_SECONDS = 10.0

_HINT = "Use another GGUF file of this model: this one's template is broken or hostile."

# For files without a template: ChatML, what most of them were trained on.
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of the prompt."""

    text: str
    trusted: bool
    """True: from the template, and control tokens in it are meant. False: said by somebody, only text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    segments: tuple[Segment, ...]
    thought_open: bool
    """The prompt ends inside an opened thought: the reply begins with the thought itself."""

    @property
    def text(self) -> str:
        """The prompt for people to read. Never tokenize it: it no longer knows what was said by whom."""
        return "".join(segment.text for segment in self.segments)


class ChatTemplate:
    """A chat template and the process that renders it.

    `source` is the jinja text in the file, None for a file without one. `thinks` says that the model is a
    reasoning model; by default a template that mentions the closing tag of a thought says so itself.

    Raises TemplateError when the source is too large to be one.
    """

    def __init__(self, source: str | None, *, thinks: bool | None = None) -> None:
        self.source = _CHATML if source is None else source
        if len(self.source) > MAX_TEMPLATE:
            raise TemplateError(f"The chat template has {len(self.source):,} characters.", _HINT)
        self._variables = {"bos_token": "", "eos_token": "", "add_generation_prompt": True, "tools": None}
        self._knows_thoughts = THINK_CLOSE in self.source
        self.thinks = self._knows_thoughts if thinks is None else thinks
        self._worker = _Worker()

    @property
    def sha256(self) -> str:
        """Names the template's text, to compare it with the ones a model's publisher gave it."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def set_tokens(self, *, bos: str, eos: str) -> None:
        """The texts of the model's tokens that begin and end a text, known once it is loaded."""
        self._variables.update(bos_token=bos, eos_token=eos)

    def close(self) -> None:
        self._worker.stop()

    def render(self, turns: Sequence[Turn]) -> Prompt:
        """The prompt that asks for the next reply to `turns`.

        Old thoughts are handed to a template that knows what to do with them and left out otherwise; an
        unfinished one is handed over closed. A reasoning model whose template does not open the thought gets
        it opened here, as DeepSeek advises, because such models sometimes skip thinking otherwise.

        Raises TemplateError when the template fails, takes too long, or changes or drops what was said.
        """
        said = _Placeholders()
        messages = [self._message(turn, said) for turn in turns]
        text = self._worker.render(self.source, {"messages": messages, **self._variables})
        segments = said.cut(text)
        if turns and turns[-1].text and said.last not in said.seen:
            raise TemplateError("The chat template drops what was said last.", _HINT)
        tail = segments[-1].text.rstrip() if segments and segments[-1].trusted else ""
        opened = tail.endswith(THINK_OPEN)
        if self.thinks and not opened and not tail.endswith(THINK_CLOSE):
            segments.append(Segment(THINK_OPEN + "\n", trusted=True))
            opened = True
        return Prompt(tuple(segments), thought_open=opened)

    def _message(self, turn: Turn, said: _Placeholders) -> dict[str, str]:
        thought = turn.thought
        if turn.role == "assistant" and thought is not None and self._knows_thoughts:
            before = f"{THINK_OPEN}\n{said.hold(thought)}\n{THINK_CLOSE}\n\n"
        else:
            before = ""
        return {"role": turn.role, "content": before + said.hold(turn.text)}


class _Placeholders:
    """Stand-ins for what was said: private-use brackets around digits that nobody can guess.

    No letters, so that upper, lower and title leave them alone; no white space, so trim does too.
    """

    def __init__(self) -> None:
        self._nonce = str(secrets.randbelow(10**18)).zfill(18)
        self._texts: list[str] = []
        self.seen: set[int] = set()

    def hold(self, text: str) -> str:
        self._texts.append(text)
        return f"\ue000{self._nonce}{self.last}\ue001"

    @property
    def last(self) -> int:
        return len(self._texts) - 1

    def cut(self, rendered: str) -> list[Segment]:
        segments: list[Segment] = []
        for index, piece in enumerate(re.split(f"\ue000{self._nonce}([0-9]{{1,9}})\ue001", rendered)):
            if index % 2:
                number = int(piece)
                if number > self.last:
                    raise TemplateError("The chat template makes up turns.", _HINT)
                self.seen.add(number)
                if self._texts[number]:
                    segments.append(Segment(self._texts[number], trusted=False))
            elif self._nonce in piece:
                raise TemplateError("The chat template changes what was said.", _HINT)
            elif piece:
                segments.append(Segment(piece, trusted=True))
        return segments


class _Worker:
    """The rendering process: started ahead of its first use, replaced when it had to be killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: LineWorker | None = self._start()

    def _start(self) -> LineWorker:
        return LineWorker(["-I", str(Path(__file__).with_name("template_worker.py"))], name="template")

    def render(self, source: str, variables: dict[str, Any]) -> str:
        request = json.dumps({"source": source, "variables": variables}).encode("ascii") + b"\n"
        with self._lock:
            self._process = self._process or self._start()
            line = self._process.ask(request, MAX_SECONDS)
            if not line:
                self._kill()
                raise TemplateError("The chat template works without end and was stopped.", _HINT)
        reply = json.loads(line)
        if "error" in reply:
            reason = " ".join(str(reply["error"]).split())[:200].rstrip(".")
            raise TemplateError(f"The chat template failed: {reason}.", _HINT)
        return str(reply["text"])

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def stop(self) -> None:
        with self._lock:
            self._kill()

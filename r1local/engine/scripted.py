"""An engine that plays a written script: for tests, snapshots and demonstrations. Loads no library."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from r1local.engine.stream import Outcome, Piece, Request, Stream, check_room
from r1local.engine.text import TextAssembler
from r1local.errors import R1Error
from r1local.events import Finish
from r1local.template import ChatTemplate, Segment


@dataclass(frozen=True, slots=True)
class Script:
    """One reply. Each piece counts as one token."""

    pieces: tuple[str, ...]
    seconds_per_piece: float = 0.0
    finish: Finish = "stop"
    note: str = ""
    error: R1Error | None = None
    """Raised after the pieces, in place of an end."""


class ScriptedEngine:
    """Plays the next script for each request. A token is a character."""

    def __init__(self, scripts: Iterable[Script], template: ChatTemplate | None = None, *, n_ctx: int = 4096) -> None:
        self.template = template or ChatTemplate(None)
        self.n_ctx = n_ctx
        self.requests: list[Request] = []
        """What was asked, for tests to look at."""
        self._scripts = deque(scripts)
        self._cancelled: set[Stream] = set()

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        return [ord(char) for segment in segments for char in segment.text]

    def submit(self, request: Request) -> Stream:
        check_room(len(request.tokens), self.n_ctx)
        self.requests.append(request)
        stream = Stream(on_cancel=self._cancelled.add)
        script = self._scripts.popleft()
        threading.Thread(target=self._play, args=(script, request, stream), daemon=True).start()
        return stream

    def close(self) -> None:
        self.template.close()

    def _play(self, script: Script, request: Request, stream: Stream) -> None:
        began = time.perf_counter()
        first: float | None = None
        text = TextAssembler(request.stop, request.stop_after)
        finish, note = script.finish, script.note
        for count, piece in enumerate(script.pieces):
            if script.seconds_per_piece:
                time.sleep(script.seconds_per_piece)
            if stream in self._cancelled:
                finish, note = "cancelled", ""
                break
            if request.max_tokens is not None and count >= request.max_tokens:
                finish, note = "length", f"the limit of {request.max_tokens:,} tokens was reached"
                break
            now = time.perf_counter()
            first = first or now
            stream.put(Piece(text.feed(piece.encode()), 1, now))
            if text.stopped:
                finish = "stop"
                break
        else:
            if script.error is not None:
                stream.put(script.error)
                return
        now = time.perf_counter()
        if rest := text.flush():
            stream.put(Piece(rest, 0, now))
        stream.put(Outcome(finish, note, len(request.tokens), 0, began, first, now, 0.0))

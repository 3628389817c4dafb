"""From the bytes of tokens to text: no character is lost, garbled or shown in part, and stop texts end it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from r1local.thinking.parser import partial_suffix


class TextAssembler:
    """Feed it the bytes of token after token, get the text that has become certain.

    Bytes of an unfinished character wait for the next token; bytes that can never be a character become
    U+FFFD. An end of the text that may still grow into a stop text is held back. Where the bytes are cut
    makes no difference to the whole.
    """

    def __init__(self, stop: Sequence[str] = (), stop_after: str = "") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(text for text in stop if text)
        self._gate = stop_after if self._stops else ""
        self._held = ""
        self.stopped = False
        """A stop text was met; what follows it is not given out."""

    def feed(self, data: bytes) -> str:
        """The further text that is certain now."""
        return self._advance(self._decoder.decode(data), final=False)

    def flush(self) -> str:
        """The rest, as nothing follows."""
        return self._advance(self._decoder.decode(b"", final=True), final=True)

    def _advance(self, text: str, *, final: bool) -> str:
        if not self._stops:
            return text
        if self.stopped:
            return ""
        self._held += text
        released = ""
        if self._gate:
            before, gate, rest = self._held.partition(self._gate)
            if not gate:
                return self._release(0 if final else partial_suffix(self._held, self._gate))
            released, self._held, self._gate = before + gate, rest, ""
        # The stop text that is complete first counts, as if the text had come character by character.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            released += self._held[: min(found)[1]]
            self._held = ""
            return released
        return released + self._release(0 if final else max(partial_suffix(self._held, stop) for stop in self._stops))

    def _release(self, keep: int) -> str:
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released

"""Answers many rows at once: as many sequences as there is room for, each row finished on its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from queue import Empty

from r1local.chat_types import Turn
from r1local.engine import Engine, Outcome, Piece, Request, Stream
from r1local.engine.stream import Streams, check_room
from r1local.errors import ContextFull, EngineError, R1Error, UsageError
from r1local.events import Done
from r1local.many.row import Row
from r1local.many.values import Finished, How, Open, Sample, of_row
from r1local.many.votes import Same, Tally
from r1local.reader import ReplyReader
from r1local.template import THINK_CLOSE

_ASK_SECONDS = 0.1
_AHEAD = 2
"""Requests beyond those that run, waiting in the engine, so that a sequence never stands idle."""


class Run:
    """Answers rows with one engine."""

    def __init__(self, engine: Engine, how: How, *, parallel: int, same: Same) -> None:
        """`parallel`: sequences the engine has. `same`: compares answers of a vote."""
        self._engine = engine
        self._how = how
        self._most = parallel + _AHEAD
        self._same = same
        self._streams = Streams()
        self._going: dict[Stream, tuple[Open, Sample]] = {}
        self._open: deque[Open] = deque()
        """Rows with samples still to be submitted."""
        self._draining = self._cancelled = self._settling = False
        self.tokens = 0
        """Drawn so far."""

    @property
    def running(self) -> list[Sample]:
        """What is under way. Any thread may look."""
        return [sample for _, sample in list(self._going.values())]

    @property
    def tallies(self) -> list[Tally]:
        """Of rows under way. Any thread may look."""
        return list({id(row): row.tally for row, _ in list(self._going.values()) if row.tally is not None}.values())

    def drain(self) -> None:
        """Finish the rows that have begun, and begin no other. From any thread."""
        self._draining = True

    def cancel(self) -> None:
        """Stop everything; rows that are not finished are not yielded. From any thread."""
        self._draining = self._cancelled = True
        for row in list(self._open):
            row.left = 0
        for stream in list(self._going):
            stream.cancel()

    def settle(self) -> None:
        """Let votes end with the answers there are, or with the first one. From any thread."""
        self._settling = True
        for row, _ in list(self._going.values()):
            self._settle(row)

    def finished(self, rows: Iterable[Row], *, check: Callable[[], None] = lambda: None) -> Iterator[Finished]:
        """Every row once, in the order they end. What `check`, called ten times a second, raises comes out.

        A row that cannot be answered comes with its error. Raises EngineError when the engine itself has failed: then
        no row can be answered.
        """
        for event in self.steps(rows, check=check):
            if isinstance(event, Finished):
                yield event

    def steps(
        self, rows: Iterable[Row], *, check: Callable[[], None] = lambda: None
    ) -> Iterator[Sample | Finished | None]:
        """The same, with every sample as it ends before its row, and None now and then when nothing ended."""
        coming = iter(rows)
        checked = time.monotonic()
        try:
            while True:
                yield from self._submit_more(coming)
                if not self._going:
                    return
                try:
                    stream, item = self._streams.get(_ASK_SECONDS)
                except Empty:
                    pass
                else:
                    sample = self._take(stream, item)
                    if sample is not None:
                        yield sample
                        finished = self._ended(stream, sample)
                        if finished is not None:
                            yield finished
                if time.monotonic() - checked >= _ASK_SECONDS:
                    check()
                    checked = time.monotonic()
                    yield None
        finally:
            self.cancel()  # where nobody listens any more

    def _submit_more(self, coming: Iterator[Row]) -> Iterator[Finished]:
        while len(self._going) < self._most and not self._cancelled:
            row = next((row for row in self._open if row.may_begin_another), None)
            if row is None:
                begun = None if self._draining else next(coming, None)
                if begun is None:
                    return
                try:
                    self._open.append(self._begin(begun))
                except R1Error as error:
                    _raise_if_engine_failed(error)
                    yield Finished(begun, [], error=error)
                continue
            self._submit(row)

    def _begin(self, row: Row) -> Open:
        if row.problem:
            raise UsageError(row.problem, "Correct this row, then run it again.")
        how = of_row(self._how, row.settings)
        own_system = any(turn.role == "system" for turn in row.turns)
        turns = [*([Turn("system", how.system)] if how.system and not own_system else []), *row.turns]
        prompt = self._engine.template.render(turns)
        tokens = self._engine.encode(prompt.segments)
        check_room(len(tokens), self._engine.n_ctx)
        tally = Tally(how.samples, self._same) if how.samples > 1 else None
        return Open(row, how, tokens, prompt.thought_open, tally, how.samples)

    def _submit(self, row: Open) -> None:
        how = row.how
        number = how.samples - row.left
        sampling = how.sampling
        if number and sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + number) % (2**32 - 1))
        request = Request(
            row.tokens,
            sampling,
            max_tokens=how.max_tokens,
            stop=how.stop,
            # A stop text met inside a thought would end the reply without an answer.
            stop_after=THINK_CLOSE if row.thought_open else "",
        )
        row.left -= 1
        if not row.left:
            self._open.remove(row)
        stream = self._engine.submit(request)
        row.running += 1
        self._going[stream] = row, Sample(row.row, number, ReplyReader(thought_open=row.thought_open))
        self._streams.add(stream)
        if self._cancelled:  # meanwhile, from a signal or another thread
            stream.cancel()

    def _take(self, stream: Stream, item: Piece | Outcome | R1Error) -> Sample | None:
        row, sample = self._going[stream]
        if isinstance(item, Piece):
            sample.reader.feed(item)
            self.tokens += item.tokens
            row.spent += item.tokens
            return None
        sample.seconds = time.monotonic() - sample.submitted
        if isinstance(item, R1Error):
            _raise_if_engine_failed(item)
            sample.error = item
        else:
            *_, done = sample.reader.finish(item)
            assert isinstance(done, Done)
            sample.done = done
        if row.tally is not None and not sample.stopped:
            row.tally.add(sample.number, "" if sample.error else sample.reader.answer)
        return sample

    def _ended(self, stream: Stream, sample: Sample) -> Finished | None:
        row, _ = self._going.pop(stream)
        row.running -= 1
        row.ended.append(sample)
        if row.tally is not None and row.how.stop_early and row.tally.decided:
            self._stop_rest(row)
        if self._settling:
            self._settle(row)
        if row.left or row.running:
            return None
        if row in self._open:  # stopped before all its samples had begun
            self._open.remove(row)
        kept = [each for each in row.ended if not each.stopped]
        if not kept or (self._cancelled and row.unfinished):
            return None  # stopped from outside: it is done again another time
        errors = [each.error for each in kept if each.error]
        return Finished(row.row, kept, row.tally, errors[0] if len(errors) == len(kept) else None, row.spent)

    def _settle(self, row: Open) -> None:
        if row.tally is not None and row.tally.groups:
            self._stop_rest(row)

    def _stop_rest(self, row: Open) -> None:
        row.left = 0
        for stream, (other, _) in list(self._going.items()):
            if other is row:
                stream.cancel()


def _raise_if_engine_failed(error: R1Error) -> None:
    if isinstance(error, EngineError) and not isinstance(error, ContextFull):
        raise error

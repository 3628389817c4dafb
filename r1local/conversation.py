"""A conversation: history, an engine, and the one generator of events that every view is a loop over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from r1local.answers import same
from r1local.chat_types import Sampling, Turn
from r1local.engine import Engine, Outcome, Request, Stream
from r1local.engine.stream import check_room
from r1local.errors import UsageError
from r1local.events import AnswerDelta, Done, Event, Stats, ThinkDelta, Votes
from r1local.many.row import Row
from r1local.many.run import Run
from r1local.many.values import Finished, How
from r1local.many.votes import Same
from r1local.reader import CLOSED, ReplyReader
from r1local.template import THINK_CLOSE, THINK_OPEN, Prompt, Segment


@dataclass
class Conversation:
    """Turns and the means to make the next one.

    >>> for event in Conversation(engine, sampling).ask("What is 47 + 85?"):
    ...     match event: ...
    """

    engine: Engine
    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    turns: list[Turn] = field(default_factory=list)
    vote: int = 1
    """Samples that vote on each reply; the first of them that gave the winning answer becomes the reply."""
    vote_stop: bool = True
    """No more samples than can change the winner."""
    same: Same = same
    """Whether two final answers are the same one."""
    _run: Run | None = None
    _stream: Stream | None = None
    _reader: ReplyReader | None = None
    _cancel_wanted: bool = False
    _answer_wanted: bool = False

    @property
    def think_tokens(self) -> int:
        """Tokens of the thought so far, of the reply under way or the last one."""
        return self._reader.think_tokens if self._reader else 0

    def ask(self, text: str) -> Iterator[Event]:
        """Say something and read the reply as it comes. What cannot be asked is refused at the call.

        The history grows by both turns when the reply has ended, was cancelled after something came, or the
        iterator was dropped; an error leaves it as it was. Raises R1Error, UsageError when nothing is said.
        """
        if not text.strip():
            raise UsageError("There is nothing to ask.", "Type a question.")
        return self._reply([*self.turns, Turn("user", text)])

    def retry(self) -> Iterator[Event]:
        """Take the last reply back and ask for another. Raises UsageError when there is none."""
        last = max((i for i, turn in enumerate(self.turns) if turn.role == "user"), default=None)
        if last is None:
            raise UsageError("There is nothing to retry yet.", "Type a question.")
        return self._reply(self.turns[: last + 1])

    def go_on(self, thought: str) -> Iterator[Event]:
        """Take the last reply back and have another, which begins with this thought and thinks on from its end.

        Where the thought has a closing tag it ends there, and the answer follows at once. Raises UsageError when
        nothing was asked, or the model does not think.
        """
        last = max((i for i, turn in enumerate(self.turns) if turn.role == "user"), default=None)
        if last is None:
            raise UsageError("There is no question to think about yet.", "Type one.")
        return self._reply(self.turns[: last + 1], thought)

    def skip_thinking(self) -> None:
        """End the thought that is under way, from any thread; the answer follows. Without a thought nothing happens.

        A vote ends with the answers there are, or with the first one that comes.
        """
        self._answer_wanted = True
        if self._run is not None:
            self._run.settle()
        if self._stream is not None and self._reader is not None and self._reader.thinking:
            self._stream.cancel()

    def cancel(self) -> None:
        """Stop the reply that is under way, from any thread. Its iterator then ends with Done("cancelled")."""
        self._cancel_wanted = True  # for a prompt that is still being rendered and tokenized
        if self._stream is not None:
            self._stream.cancel()
        if self._run is not None:
            self._run.cancel()

    def clear(self) -> None:
        """Forget all turns but a system prompt."""
        self.turns = [turn for turn in self.turns if turn.role == "system"]

    def _reply(self, turns: list[Turn], thought: str = "") -> Iterator[Event]:
        """Renders and tokenizes at once, so that what cannot be asked is refused before anything is kept of it."""
        self._cancel_wanted = self._answer_wanted = False
        prompt = self.engine.template.render(_as_sent(turns))
        if thought and not prompt.thought_open:
            raise UsageError("This model does not think, so there is no thought to go on from.", "Ask it again: /retry")
        thought, closing, _ = thought.partition(THINK_CLOSE)
        reader = self._reader = ReplyReader(thought_open=prompt.thought_open)
        begun = reader.begin(thought) if thought else []
        if closing:
            begun += reader.close_thought()
        request = self._request(prompt, reader) if begun else self._request(prompt)
        check_room(len(request.tokens), self.engine.n_ctx)
        if self.vote > 1 and not begun:
            return self._voted(turns)
        return self._played(turns, prompt, request, reader, begun)

    def _request(self, prompt: Prompt, begun: ReplyReader | None = None) -> Request:
        """For a whole reply, or for the rest of one that has begun."""
        segments = list(prompt.segments)
        if begun is not None:
            if not prompt.thought_open:
                segments.append(Segment(THINK_OPEN + "\n", trusted=True))
            segments.append(Segment(begun.thought, trusted=False))
            if not begun.thinking:
                segments += [Segment(CLOSED, trusted=True), Segment(begun.answer, trusted=False)]
        most = self.max_tokens
        return Request(
            self.engine.encode(segments),
            self.sampling,
            max_tokens=None if most is None else max(1, most - (begun.drawn_tokens if begun else 0)),
            stop=self.stop,
            # A stop text met inside a thought would end the reply without an answer.
            stop_after=THINK_CLOSE if prompt.thought_open and (begun is None or begun.thinking) else "",
        )

    def _played(
        self, turns: list[Turn], prompt: Prompt, request: Request, reader: ReplyReader, begun: list[Event]
    ) -> Iterator[Event]:
        yield from begun
        stream = self._submit(request)
        try:
            for piece in stream:
                yield from reader.feed(piece)
            assert stream.outcome is not None
            outcome = stream.outcome
            if self._answer_wanted and not self._cancel_wanted and outcome.finish == "cancelled":
                if reader.thinking:  # or it came to its answer by itself, a moment before
                    yield from reader.close_thought()
                stream = self._submit(self._request(prompt, reader))
                for piece in stream:
                    yield from reader.feed(piece)
                assert stream.outcome is not None
                outcome = _together(outcome, stream.outcome)
            events = reader.finish(outcome)
            self._remember(turns, reader, complete=outcome.finish == "stop")
            yield from events
        except GeneratorExit:
            if stream.outcome is None:  # dropped before its end, which would have been remembered
                self._remember(turns, reader, complete=False)
            raise
        finally:
            if stream.outcome is None:
                stream.cancel()
            self._stream = None

    def _voted(self, turns: list[Turn]) -> Iterator[Event]:
        """Count the answers of many samples, then give one that won, whole."""
        how = How(self.sampling, self.max_tokens, self.stop, samples=self.vote, stop_early=self.vote_stop)
        run = self._run = Run(self.engine, how, parallel=self.vote, same=self.same)
        if self._cancel_wanted:  # since it was asked; from now on `cancel` and `skip_thinking` reach the run
            run.cancel()
        if self._answer_wanted:
            run.settle()
        finished: Finished | None = None
        votes = Votes(self.vote)
        try:
            for step in run.steps([Row(0, "0", tuple(_as_sent(turns)))]):
                if isinstance(step, Finished):
                    finished = step
                elif not self._cancel_wanted and (tally := next(iter(run.tallies), None)) is not None:
                    votes = tally.standing(running=len(run.running), tokens=run.tokens)
                    yield votes
        finally:
            self._run = None
        if finished is None:
            yield Done("cancelled", Stats(), thought_closed=False, votes=votes)
            return
        if finished.error is not None:
            raise finished.error
        chosen = finished.chosen
        assert chosen is not None
        assert chosen.done is not None
        assert finished.tally is not None
        self._reader = chosen.reader
        self._remember(turns, chosen.reader, complete=chosen.done.finish == "stop")
        votes = finished.tally.standing(tokens=finished.spent)
        yield votes
        if chosen.reader.thought:
            yield ThinkDelta(chosen.reader.thought)
        if chosen.reader.answer:
            yield AnswerDelta(chosen.reader.answer)
        yield replace(chosen.done, votes=votes)

    def _submit(self, request: Request) -> Stream:
        stream = self._stream = self.engine.submit(request)
        if self._cancel_wanted or (self._answer_wanted and self._reader is not None and self._reader.thinking):
            stream.cancel()
        return stream

    def _remember(self, turns: list[Turn], reader: ReplyReader, *, complete: bool) -> None:
        turn = reader.turn(complete=complete)
        if turn.text or turn.thought or complete:
            self.turns = [*turns, turn]


def _together(first: Outcome, second: Outcome) -> Outcome:
    """Of a reply made in two streams: the costs of the prompt were the first one's."""
    return replace(
        second,
        prompt_tokens=first.prompt_tokens,
        reused_tokens=first.reused_tokens,
        submitted_at=first.submitted_at,
        first_token_at=first.first_token_at or second.first_token_at,
        prefill_seconds=first.prefill_seconds,
    )


def _as_sent(turns: list[Turn]) -> list[Turn]:
    """The history for the model: no replies that never came to an answer, and no two turns of a role in a row.

    A reply that was cut off inside its thought would be an empty answer to learn from. What was asked then
    stays, in front of the next question.
    """
    sent: list[Turn] = []
    for turn in turns:
        if turn.role == "assistant" and not turn.text.strip():
            continue
        if sent and sent[-1].role == turn.role == "user":
            sent[-1] = Turn("user", f"{sent[-1].text}\n\n{turn.text}")
        else:
            sent.append(turn)
    return sent


def with_system(text: str | None) -> list[Turn]:
    """The turns a conversation starts with."""
    return [Turn("system", text)] if text else []

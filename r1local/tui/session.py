"""The conversation on the screen: what is stored of it, and the replies that are added to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from r1local.answers import same
from r1local.chat_types import Sampling, Turn
from r1local.conversation import Conversation
from r1local.engine import Engine
from r1local.errors import UsageError
from r1local.events import AnswerDelta, Done, Event, ThinkDelta
from r1local.history import START, History, Stored, StoredTurn
from r1local.many.votes import Same
from r1local.tui.player import Player


@dataclass(frozen=True, slots=True)
class Setup:
    """How replies are made, but for the model."""

    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    system: str = ""
    vote: int = 1
    """Samples that vote on each reply."""
    same: Same = same
    """Whether two final answers are the same one."""


@dataclass(eq=False)
class Reply:
    """One reply on its way, and where it is kept. `question` and `turn` are 0 until they are."""

    conversation: Conversation
    asked: str
    """What was just said, empty where an earlier question is answered anew."""
    question: int = 0
    turn: int = 0
    player: Player = field(init=False)

    def start(self, events: Callable[[], Iterator[Event]]) -> Reply:
        self.player = Player(events, self.conversation.cancel)
        self.player.start()
        return self

    def stop(self) -> None:
        self.conversation.cancel()

    def skip_thinking(self) -> None:
        self.conversation.skip_thinking()

    @property
    def think_tokens(self) -> int:
        return self.conversation.think_tokens


class Session:
    """The screen's thread makes replies; they are kept by the thread that plays each."""

    def __init__(self, history: History, setup: Setup) -> None:
        self._history = history
        self.setup = setup
        self.id: int | None = None
        """None until something was said."""
        self.title = ""
        self.turns: tuple[StoredTurn, ...] = ()
        """Along the active branch."""

    def new(self) -> None:
        self.id, self.title, self.turns = None, "", ()

    def read(self, conversation: int) -> Stored:
        """From the disk, for any thread. Raises UsageError when it is not there any more."""
        return self._history.load(conversation)

    def show(self, stored: Stored) -> None:
        """Make this the conversation that is gone on with."""
        self.id, self.title, self.turns = stored.id, stored.title, stored.turns

    @property
    def last_question(self) -> StoredTurn | None:
        return next((turn for turn in reversed(self.turns) if turn.turn.role == "user"), None)

    @property
    def last_reply(self) -> StoredTurn | None:
        return next((turn for turn in reversed(self.turns) if turn.turn.role == "assistant"), None)

    def ask(self, engine: Engine, model: str, text: str, *, instead_of: StoredTurn | None = None) -> Reply:
        """Say something at the end, or in other words than in an earlier question, which stays as a branch.

        What does not fit the context is refused by the player's end, and nothing of it is kept.
        """
        before = self._up_to(instead_of) if instead_of else self.turns
        parent = instead_of.parent if instead_of else before[-1].id if before else START
        reply = Reply(self._conversation(engine, before), text)

        def events() -> Iterator[Event]:
            coming = reply.conversation.ask(text)
            if self.id is None:
                self.id = self._history.create(model, system=self.setup.system)
            reply.question = self._history.say(self.id, text, parent=parent)
            yield from self._kept(reply, coming)

        return reply.start(events)

    def retry(self, engine: Engine, question: StoredTurn) -> Reply:
        """Another reply to a question; the ones before stay as branches."""
        return self._anew(engine, question, Conversation.retry)

    def go_on(self, engine: Engine, question: StoredTurn, thought: str) -> Reply:
        """Another reply, which begins with this thought."""
        return self._anew(engine, question, lambda conversation: conversation.go_on(thought))

    def _anew(self, engine: Engine, question: StoredTurn, make: Callable[[Conversation], Iterator[Event]]) -> Reply:
        reply = Reply(self._conversation(engine, (*self._up_to(question), question)), "", question.id)
        return reply.start(lambda: self._kept(reply, make(reply.conversation)))

    def _up_to(self, turn: StoredTurn) -> tuple[StoredTurn, ...]:
        """What was said before it."""
        place = next((index for index, each in enumerate(self.turns) if each.id == turn.id), None)
        if place is None:
            raise UsageError("That turn is no longer on the screen.", "Choose another.")
        return self.turns[:place]

    def _conversation(self, engine: Engine, turns: tuple[StoredTurn, ...]) -> Conversation:
        said = [Turn("system", self.setup.system)] if self.setup.system else []
        said += [turn.turn for turn in turns if turn.ended is not None]
        setup = self.setup
        return Conversation(
            engine, setup.sampling, setup.max_tokens, setup.stop, said, vote=setup.vote, same=setup.same
        )

    def _kept(self, reply: Reply, coming: Iterator[Event]) -> Iterator[Event]:
        """The same events, each kept before it is shown."""
        assert self.id is not None
        conversation = self.id
        recorder = self._history.begin(conversation, reply.question)
        before = reply.conversation.turns
        reply.turn = recorder.turn
        done: Done | None = None
        try:
            for event in coming:
                match event:
                    case ThinkDelta(text):
                        recorder.add(think=text)
                    case AnswerDelta(text):
                        recorder.add(answer=text)
                    case Done():
                        done = event
                        continue  # it is over for the screen when it is on the disk
                yield event
            turns = reply.conversation.turns
            if done is not None and turns is not before:  # stopped before anything came, it is not remembered
                recorder.finish(turns[-1], done.stats)
            else:
                recorder.abandon()
        except BaseException:
            recorder.abandon()
            raise
        if self.id == conversation:
            self.show(self._history.load(conversation))
        if done is not None:
            yield done

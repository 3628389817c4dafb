"""Asking and answering: from what is typed to the turn that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from r1local.engine import Engine
from r1local.errors import ContextFull, EngineError, R1Error
from r1local.history import StoredTurn
from r1local.many.votes import count_table, standing_line
from r1local.tui.engines import Engines
from r1local.tui.player import Heard
from r1local.tui.session import Reply, Session
from r1local.tui.widgets.composer import Composer
from r1local.tui.widgets.reply_view import ReplyView
from r1local.tui.widgets.thought import State
from r1local.tui.widgets.transcript import Transcript
from r1local.tui.widgets.turns import Question
from r1local.units import seconds


@dataclass(frozen=True, slots=True)
class Asked:
    """A reply that is wanted, until its model is there."""

    begin: Callable[[Engine], Reply]
    question: Question | None
    view: ReplyView


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an exchange tells the screen it is on."""

    tell: Callable[[R1Error], None]
    say: Callable[[str], None]
    model_name: Callable[[], str]
    thought_state: Callable[[], State]
    ended: Callable[[], None]


class Exchange:
    """One reply at a time; what is sent meanwhile waits. `tick` is called as often as the screen can draw."""

    def __init__(
        self, session: Session, engines: Engines, transcript: Transcript, composer: Composer, around: Surroundings
    ) -> None:
        self._session = session
        self._engines = engines
        self._transcript = transcript
        self._composer = composer
        self._around = around
        self._asked: Asked | None = None
        self._queue: list[str] = []
        self._then: Callable[[], object] | None = None
        self.reply: Reply | None = None
        """The one under way."""
        self.editing: StoredTurn | None = None
        """The question that is being worded anew."""

    @property
    def busy(self) -> bool:
        return self.reply is not None or self._asked is not None

    @property
    def thinking(self) -> bool:
        return self.reply is not None and self._asked is not None and not self._asked.view.answering

    def send(self, text: str) -> None:
        if self.busy:
            self._queue.append(text)
            self._around.say("It is asked when this reply has ended.")
        else:
            self._ask(text)

    def edit(self, question: StoredTurn) -> None:
        """Word a question anew; the old wording stays as a branch."""
        if self._is_free():
            self.editing = question
            self._composer.draft = question.turn.text
            self._composer.focus()

    def answer_anew(self, question: StoredTurn, thought: str = "") -> None:
        """Another reply to a question, if need be from a thought on."""
        if not self._is_free():
            return
        views = self._transcript.views
        place = next((i for i, view in enumerate(views) if view.turn and view.turn.id == question.id), None)
        if place is not None and place + 1 < len(views):
            self._transcript.cut(views[place + 1])
        if thought:
            self._want(lambda engine: self._session.go_on(engine, question, thought), None)
        else:
            self._want(lambda engine: self._session.retry(engine, question), None)

    def stop(self) -> bool:
        """Whether there was something to stop. What was said of a reply stays; a question that waits is taken back."""
        if self.reply is not None:
            self.reply.stop()
        elif self._asked is not None:
            self._take_back(self._asked)
        elif self.editing is not None:
            self.editing = None
            self._composer.draft = ""
        else:
            return False
        return True

    def skip_thinking(self) -> None:
        if self.reply is not None:
            self.reply.skip_thinking()

    def when_free(self, do: Callable[[], object]) -> None:
        """Do it once no reply is under way; one that is gets stopped, and what was said of it is kept."""
        if self.reply is not None:
            self._then = do
            self.reply.stop()
            return
        if self._asked is not None:
            self._take_back(self._asked)
        do()

    def tick(self) -> None:
        if self._asked is None:
            if self._queue:
                self._ask(self._queue.pop(0))
        elif self.reply is None:
            self._begin(self._asked)
        else:
            heard = self.reply.player.hear()
            if heard.thought or heard.answer:
                self._asked.view.add(heard.thought, heard.answer, self.reply.think_tokens)
            elif heard.votes is not None and not self._asked.view.begun:
                self._asked.view.wait("\n".join([standing_line(heard.votes), *count_table(heard.votes)]))
            elif not self._asked.view.begun:
                self._asked.view.wait(f"Reading {seconds(self.reply.player.seconds)}")
            if heard.ended:
                self._ended(heard, self.reply, self._asked)

    def state(self) -> tuple[str, str]:
        """What goes on, and what waits; for the status line."""
        status = self._engines.status
        waiting = f"{len(self._queue)} waiting" if self._queue else ""
        if self.editing is not None:
            return "wording an earlier question anew, Esc leaves it", waiting
        if status.state == "loading":
            return f"loading {status.share:.0%}", waiting
        if status.state == "failed":
            return "not loaded: F2 or /reload", waiting
        if self.reply is None:
            return "ready", waiting
        return f"{self.reply.player.seconds:.0f} s · Esc stops", waiting

    # One reply

    def _is_free(self) -> bool:
        if self.busy:
            self._around.say("First stop this reply with Esc.")
        return not self.busy

    def _ask(self, text: str) -> None:
        instead, self.editing = self.editing, None
        if instead is not None:
            first = next((view for view in self._transcript.views if view.turn and view.turn.id == instead.id), None)
            if first is not None:
                self._transcript.cut(first)
        question = Question(text)
        self._transcript.add(question)
        self._want(partial(self._begin_ask, text, instead), question)

    def _begin_ask(self, text: str, instead: StoredTurn | None, engine: Engine) -> Reply:
        return self._session.ask(engine, self._around.model_name(), text, instead_of=instead)

    def _want(self, begin: Callable[[Engine], Reply], question: Question | None) -> None:
        view = ReplyView(after=self._around.thought_state())
        self._transcript.add(view)
        self._asked = Asked(begin, question, view)
        self.tick()

    def _begin(self, asked: Asked) -> None:
        engine, status = self._engines.engine, self._engines.status
        if engine is not None:
            try:
                self.reply = asked.begin(engine)
            except R1Error as error:
                self._take_back(asked)
                self._around.tell(error)
        elif status.state in ("failed", "none"):
            self._take_back(asked)
            failed = status.error if isinstance(status.error, R1Error) else None
            self._around.tell(failed or EngineError("No model is loaded.", "F2 lists models."))
        else:
            asked.view.wait("Asked when the model is loaded")

    def _ended(self, heard: Heard, reply: Reply, asked: Asked) -> None:
        self.reply = self._asked = None
        kept = {turn.id: turn for turn in self._session.turns}
        if asked.question is not None:
            asked.question.turn = kept.get(reply.question)
        asked.view.end(heard.done, kept.get(reply.turn))
        if heard.error is not None:
            self._failed(heard.error, reply, asked)
        elif not asked.view.begun and heard.done is not None and heard.done.finish == "cancelled":
            asked.view.remove()
        if heard.done is not None and heard.done.finish == "cancelled" and self._queue:
            self._composer.refuse("\n\n".join(self._queue))
            self._queue.clear()
        self._around.ended()
        then, self._then = self._then, None
        if then is not None:
            then()

    def _failed(self, error: BaseException, reply: Reply, asked: Asked) -> None:
        if not isinstance(error, R1Error):
            error = EngineError(f"The reply broke off: {type(error).__name__}: {error}.", "Try again with Ctrl-R.")
        elif isinstance(error, ContextFull):
            error = ContextFull(error.message, "Shorten it, or start anew with Ctrl-N: this conversation stays.")
        elif isinstance(error, EngineError):
            self._engines.fail(error)
            error = EngineError(error.message, f"{error.hint} /reload loads the model again; nothing said is lost.")
        if not asked.view.begun:
            asked.view.remove()
        if not reply.question and asked.question is not None:  # nothing of it was kept
            asked.question.remove()
            self._composer.refuse(reply.asked)
        self._around.tell(error)

    def _take_back(self, asked: Asked) -> None:
        """What was asked goes back to where it was typed."""
        self._asked = None
        asked.view.remove()
        if asked.question is not None:
            asked.question.remove()
            self._composer.refuse(asked.question.text)

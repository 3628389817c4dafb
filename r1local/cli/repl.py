"""The plain conversation: a line editor, a reply, and a few commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from r1local import paths
from r1local.chat_types import ThinkMode, Turn
from r1local.cli.chat import cancel_on_interrupt
from r1local.cli.output import Output
from r1local.cli.reply import ReplyView, stats_line
from r1local.conversation import Conversation
from r1local.errors import ContextFull, EngineError, R1Error, UsageError, suggest
from r1local.events import Done, Event
from r1local.settings import parse_vote

_HELP = """\
/think            the last thought in full
/think MODE       show thoughts, fold them to one line, hide them, or show only them
/retry            another reply to the last question
/vote K           ask K times at once and take the answer most agree on; /vote 1 ends it
/clear            forget the conversation
/save FILE        write it to FILE: Markdown, or JSON where the name ends in .json
/stats            tokens and speeds of the last reply, how the model runs, and its memory
/help             this
/quit             leave, as Ctrl-D does
Enter sends, Alt-Enter or Esc Enter starts a new line, pasted lines stay together.
Ctrl-C stops the reply; what was said so far is kept. At an empty prompt, twice leaves."""


class Repl:
    """Reads lines until the user leaves."""

    def __init__(
        self,
        conversation: Conversation,
        output: Output,
        mode: ThinkMode,
        *,
        name: str,
        stats: bool,
        about: Callable[[], str] = str,
        vote: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._vote_of = vote
        self._loaded = True
        self._conversation = conversation
        self._output = output
        self._mode: ThinkMode = mode
        self._name = name
        self._show_stats = stats
        self._about = about
        self._last: Done | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "/think": self._think,
            "/retry": self._retry,
            "/vote": self._vote,
            "/clear": self._clear,
            "/save": self._save,
            "/stats": self._stats,
            "/help": lambda _: self._output.line(_HELP),
        }

    def run(self, read: Callable[[], str]) -> None:
        """`read` gives the next line, or raises EOFError or KeyboardInterrupt."""
        self._output.line(f"{self._name} · {self._conversation.engine.n_ctx:,} tokens of context · /help for commands")
        warned = False
        while True:
            try:
                line = read()
            except EOFError:
                return
            except KeyboardInterrupt:
                if warned:
                    return
                warned = True
                self._output.line("Ctrl-C again leaves.")
                continue
            warned = False
            text = line.strip()
            if text in ("/quit", "/exit", "/bye"):
                return
            try:
                self._handle(text, line)
            except KeyboardInterrupt:
                return
            except R1Error as error:
                self._output.line(f"{error.message}" + (f"\n  {error.hint}" if error.hint else ""))
                if isinstance(error, ContextFull) and self._conversation.turns:
                    self._output.line("  /clear starts anew; /save FILE keeps what was said.")

    def _handle(self, text: str, line: str) -> None:
        if not text:
            return
        name, _, argument = text.partition(" ")
        if name in self._commands:
            self._commands[name](argument.strip())
        elif text.startswith("/") and "/" not in name[1:] and name[1:].isalpha():
            near = suggest(name, [*self._commands, "/quit"])
            raise UsageError(f"There is no command {name}.", f"Did you mean {near}?" if near else "/help lists them.")
        else:
            self._play(lambda: self._conversation.ask(line))

    def _play(self, begin: Callable[[], Iterator[Event]]) -> None:
        if not self._loaded:
            raise EngineError("No model is loaded.", "/vote 1 loads it again; what was said is kept.")
        with cancel_on_interrupt(self._conversation.cancel), _no_echo():
            view = ReplyView(self._output, self._mode, lambda: self._conversation.think_tokens)
            self._last = view.play(begin())
        if self._show_stats:
            self._stats("")

    def _think(self, argument: str) -> None:
        if not argument:
            thought = next((turn.thought for turn in reversed(self._conversation.turns) if turn.thought), None)
            if thought is None:
                raise UsageError("There is no thought yet.", "Ask something of a model that thinks.")
            self._output.line(thought)
            return
        modes = get_args(ThinkMode)
        if argument not in modes:
            raise UsageError(f"There is no mode {argument!r}.", "Modes: " + ", ".join(modes))
        self._mode = argument  # type: ignore[assignment]
        self._output.line(f"Thoughts: {argument}.")

    def _retry(self, _: str) -> None:
        self._play(self._conversation.retry)

    def _vote(self, argument: str) -> None:
        samples = parse_vote(argument)
        self._loaded = False  # until it is there again
        self._vote_of(samples)
        self._loaded = True
        self._output.line(f"{samples} samples vote on each reply." if samples > 1 else "No votes.")

    def _clear(self, _: str) -> None:
        self._conversation.clear()
        self._output.line("The conversation is forgotten.")

    def _stats(self, _: str) -> None:
        about = self._about()
        if self._last is None and not about:
            raise UsageError("There was no reply yet.", "Ask something.")
        if self._last is not None:
            self._output.line(stats_line(self._last.stats))
        if about:
            self._output.line(about)

    def _save(self, argument: str) -> None:
        if not argument:
            raise UsageError("/save needs a file name.", "For example: /save chat.md")
        target = Path(argument).expanduser()
        if target.exists():
            raise UsageError(f"{target} exists already.", "Choose another name.")
        if not target.parent.is_dir():
            raise UsageError(f"There is no folder {target.parent}.", "Make it first, or choose another.")
        turns = self._conversation.turns
        text = _as_json(self._name, turns) if target.suffix == ".json" else _as_markdown(turns)
        try:
            paths.atomic_write(target, text.encode("utf-8", "replace"))
        except OSError as error:
            raise UsageError(
                f"{target} cannot be written: {error.strerror or error}.", "Choose another place."
            ) from error
        self._output.line(f"Saved {len(turns)} turns to {target}.")


def _as_json(name: str, turns: list[Turn]) -> str:
    return json.dumps({"model": name, "turns": [asdict(turn) for turn in turns]}, ensure_ascii=False, indent=2) + "\n"


def _as_markdown(turns: list[Turn]) -> str:
    parts = []
    for turn in turns:
        parts.append(f"## {turn.role.capitalize()}\n")
        if turn.thought:
            parts.append(f"<details><summary>Thought</summary>\n\n{turn.thought}\n\n</details>\n")
        parts.append(turn.text + "\n")
    return "\n".join(parts)


def run_repl(
    conversation: Conversation,
    output: Output,
    mode: ThinkMode,
    *,
    name: str,
    stats: bool,
    about: Callable[[], str] = str,
    vote: Callable[[int], None] = lambda _: None,
) -> None:
    """The conversation on a terminal. `vote` makes ready for so many samples of each reply."""
    session = _session()
    Repl(conversation, output, mode, name=name, stats=stats, about=about, vote=vote).run(
        lambda: str(session.prompt("> "))
    )


@contextmanager
def _no_echo() -> Iterator[None]:
    """What is typed while a reply runs is not mixed into it on the screen; the next prompt shows it."""
    try:
        import termios

        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
    except (ImportError, OSError, ValueError, termios.error):
        yield
        return
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(keyboard, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)


def _session() -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    history: History
    try:
        paths.ensure_folder(paths.home())
        file = paths.history_file()
        file.touch(mode=0o600)
        history = FileHistory(str(file))
    except (OSError, R1Error):
        history = InMemoryHistory()
    return PromptSession(history=history, key_bindings=keys, prompt_continuation="  ", enable_open_in_editor=True)

"""The terminal interface: what all its screens share, and the ways between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget

from r1local import paths
from r1local.catalog import Catalog
from r1local.engine import Engine
from r1local.errors import R1Error, UsageError
from r1local.hardware import Hardware
from r1local.history import History, Hit
from r1local.settings import Settings, parse_vote
from r1local.store import LocalModel
from r1local.tui import preferences as preferred
from r1local.tui.carrying_out import part_of, save
from r1local.tui.clipboard import copy
from r1local.tui.commands import COMMANDS, KEYS
from r1local.tui.engines import Engines, Loader
from r1local.tui.notices import text_of
from r1local.tui.preferences import Preferences
from r1local.tui.pulls import Pulls
from r1local.tui.screens.chat import ChatScreen
from r1local.tui.session import Session, Setup
from r1local.tui.themes import THEMES
from r1local.tui.widgets.sidebar import Sidebar
from r1local.tui.widgets.thought import State
from r1local.tui.widgets.turns import TurnView
from r1local.tui.widgets.welcome import Welcome

if TYPE_CHECKING:
    from r1local.tui.screens.settings import SettingsScreen


@dataclass(frozen=True, slots=True)
class Start:
    """What the interface begins with."""

    catalog: Catalog
    settings: Callable[[], Settings]
    """Of config.toml as it is now."""
    local: LocalModel
    load: Loader
    setup: Callable[[LocalModel], Setup]
    machine: Callable[[], Hardware]
    real_one: Callable[[], str]
    """A sentence about a model that can do more than the one inside; asked in a thread."""
    about: Callable[[Engine], str] = lambda _: ""
    """How a loaded model runs, and its memory."""
    set_vote: Callable[[int], None] = lambda _: None
    """How many samples vote on each reply from the next load on."""
    held: Callable[[Engine], int] = lambda _: 0
    """Bytes of memory a loaded model takes, which another one in its place could have."""


class R1App(App[None]):
    """Run it with `run()`; it returns when the user leaves."""

    TITLE = "r1local"
    CSS = """
    ToastRack { dock: top; align: right top; margin: 0; }  /* what is read and typed is below */
    Toast { padding: 0 1; margin: 0; max-width: 80%; }
    """
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", priority=True),
        Binding("f1", "help", "Help", priority=True),
        Binding("f2", "models", "Models", priority=True),
        Binding("f3", "settings", "Settings", show=False, priority=True),
        Binding("ctrl+g", "search", "Search", show=False, priority=True),
    ]

    def __init__(self, start: Start, history: History | None = None) -> None:
        super().__init__()
        self.start = start
        self.history = history or History.open()
        self.preferences = preferred.load()
        self.engines = Engines(start.load, self._notice)
        self.pulls = Pulls(start.catalog, lambda: None)  # screens look by themselves
        self._pulling: set[str] = set()
        self.session = Session(self.history, start.setup(start.local))
        self.local = start.local
        for theme in THEMES.values():
            self.register_theme(theme)
        self.theme = THEMES[self.preferences.theme].name

    def on_mount(self) -> None:
        self.chat = ChatScreen(
            self.session,
            self.engines,
            self.history,
            self.preferences,
            welcome=self._welcome,
            model_name=lambda: self.local.name,
        )
        self.push_screen(self.chat)
        self.engines.load(self.local)
        self.set_interval(1.0, self._watch_pulls)
        if (trouble := self.history.trouble) is not None:
            self.tell(trouble)

    def on_unmount(self) -> None:
        """In this order: what is said last is kept, then the model goes."""
        self.pulls.close()
        reply = self.chat.exchange.reply
        if reply is not None:
            reply.stop()
            reply.player.join(2.0)
        self.history.close()
        self.engines.close()

    # Notices

    def tell(self, error: R1Error) -> None:
        self.notify(text_of(error), severity="error", timeout=15, markup=False)

    def _notice(self, sentence: str) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # it has left already
            self.call_from_thread(self.notify, sentence, markup=False, timeout=4)

    def _watch_pulls(self) -> None:
        """Say how pulls ended that nobody watched; the screen of models tells itself what it sees."""
        for pull in self.pulls.states:
            if pull.active:
                self._pulling.add(pull.name)
            elif pull.name in self._pulling:
                self._pulling.remove(pull.name)
                if self.screen is self.chat and pull.state == "done":
                    self.notify(f"{pull.name} is here. F2 lists it.", markup=False)
                elif self.screen is self.chat and pull.error is not None:
                    self.tell(pull.error)

    # Models

    def _welcome(self) -> Widget:
        return Welcome(self.local, self.start.real_one)

    def use(self, local: LocalModel) -> None:
        """Go on with another model. The reply under way ends first."""
        self.chat.exchange.when_free(lambda: self._use(local))

    def _use(self, local: LocalModel) -> None:
        try:
            setup = self.start.setup(local)
        except R1Error as error:  # config.toml was changed meanwhile
            self.tell(error)
            return
        self.local, self.session.setup = local, setup
        self.engines.load(local)
        self.notify(f"Loading {local.name}. The conversation goes on with it.", markup=False)

    def action_models(self) -> None:
        from r1local.tui.screens.models import ModelsScreen

        def chosen(local: LocalModel | None) -> None:
            if local is not None:
                self.use(local)

        self._open(ModelsScreen(self.start.catalog, self._machine, self.pulls, self.local), chosen)

    def _machine(self) -> Hardware:
        """As it would be without the model that is loaded."""
        machine, engine = self.start.machine(), self.engines.engine
        if engine is None:
            return machine
        free = min(machine.memory_total, machine.memory_available + self.start.held(engine))
        return replace(machine, memory_available=free)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Other screens are opened from the conversation."""
        if action in ("help", "models", "settings", "search"):
            return self.screen is getattr(self, "chat", None)
        return True

    def _open(self, screen: Screen[Any], then: Callable[..., None] | None = None) -> None:
        """One at a time over the conversation."""
        if self.screen is self.chat:
            self.push_screen(screen, then)

    # Commands

    def action_help(self) -> None:
        from r1local.tui.screens.help import HelpScreen

        self._open(HelpScreen(KEYS, COMMANDS))

    def action_settings(self) -> None:
        from r1local.tui.screens.settings import SettingsScreen

        engine = self.engines.engine
        about = self.start.about(engine) if engine is not None else ""
        try:
            settings = self.start.settings()
        except R1Error as error:
            self.tell(error)
            return
        self._open(SettingsScreen(self.preferences, settings, paths.config_file(), about), self._prefer)

    def on_settings_screen_preview(self, message: SettingsScreen.Preview) -> None:
        self.theme = THEMES[message.theme].name

    def _prefer(self, preferences: Preferences | None) -> None:
        if preferences is not None and preferences != self.preferences:
            self.preferences = preferences
            if (trouble := preferred.save(preferences)) is not None:
                self.tell(trouble)
        self.theme = THEMES[self.preferences.theme].name
        self.chat.prefer(self.preferences)

    def action_search(self) -> None:
        from r1local.tui.screens.search import SearchScreen

        def chosen(hit: Hit | None) -> None:
            if hit is not None:
                start, end = hit.match
                self.chat.open(hit.conversation, hit.turn, hit.snippet[start:end])

        self._open(SearchScreen(self.history), chosen)

    def on_chat_screen_command_given(self, message: ChatScreen.CommandGiven) -> None:
        does: dict[str, Callable[[], object]] = {
            "/help": self.action_help,
            "/models": self.action_models,
            "/settings": self.action_settings,
            "/search": self.action_search,
            "/quit": self.exit,
            "/reload": lambda: self.use(self.local),
            "/vote": lambda: self._vote(message.argument),
            "/stats": self._stats,
            "/think": lambda: self._think(message.argument),
            "/copy": lambda: self._copy(message.argument or "answer", message.view),
            "/code": lambda: self._copy("code", message.view),
            "/thought": lambda: self._thought(message.view),
            "/go_on": lambda: self._edit_thought(message.view),
            "/rename": lambda: self._rename(self.session.id, message.argument),
            "/save": lambda: self._save(self.session.id, message.argument),
            "/delete": lambda: self._delete(self.session.id),
        }
        try:
            does[message.name]()
        except R1Error as error:
            self.tell(error)

    def _thought(self, view: TurnView | None) -> None:
        """Behind a slash it is edited; the key on a reply copies it."""
        if view is None:
            self._edit_thought(None)
        else:
            self._copy("thought", view)

    def _stats(self) -> None:
        engine = self.engines.engine
        if engine is None:
            raise UsageError("No model is loaded yet.", "Wait a moment, or choose one with F2.")
        self.notify(f"{self.local.name}: {self.start.about(engine)}", timeout=20, markup=False)

    def _think(self, argument: str) -> None:
        states = get_args(State)
        if argument not in states:
            raise UsageError("Thoughts can be shown in four ways.", "Type /think and one of: " + ", ".join(states))
        self._prefer(replace(self.preferences, thought=argument))  # type: ignore[arg-type]
        self.notify(f"Thoughts, once they are over: {argument}.")

    def _vote(self, argument: str) -> None:
        self.start.set_vote(parse_vote(argument))
        self.use(self.local)

    def _copy(self, what: str, view: TurnView | None) -> None:
        turn = view.turn if view is not None else self.session.last_reply
        if turn is None:
            raise UsageError("There is nothing to copy yet.", "Ask something.")
        self.notify(copy(self, part_of(turn.turn, what)), markup=False)

    def _edit_thought(self, view: TurnView | None) -> None:
        from r1local.tui.screens.thought_editor import ThoughtEditor

        reply = view.turn if view is not None else self.session.last_reply
        question = next((turn for turn in self.session.turns if reply and turn.id == reply.parent), None)
        if reply is None or question is None or not reply.turn.thought:
            raise UsageError("There is no thought to edit here.", "Ask something of a model that thinks.")

        def edited(thought: str | None) -> None:
            if thought:
                self.chat.exchange.answer_anew(question, thought)

        self._open(ThoughtEditor(reply.turn.thought), edited)

    # Conversations

    def on_sidebar_open(self, message: Sidebar.Open) -> None:
        self.chat.open(message.conversation)

    def on_sidebar_new(self) -> None:
        self.chat.action_new()

    def on_sidebar_rename(self, message: Sidebar.Rename) -> None:
        self._rename(message.conversation, message.title)

    def on_sidebar_delete(self, message: Sidebar.Delete) -> None:
        self._delete(message.conversation)

    def on_sidebar_export(self, message: Sidebar.Export) -> None:
        self._save(message.conversation, "")

    def _rename(self, conversation: int | None, title: str) -> None:
        from r1local.tui.screens.text_prompt import TextPrompt

        number = _given(conversation)

        def named(text: str | None) -> None:
            if text:
                self.chat.change(lambda: self.history.rename(number, text), number == self.session.id)

        if title and conversation == self.session.id:
            named(title)
        else:
            self._open(
                TextPrompt("A title for this conversation", title or self.session.title, "Enter keeps it"), named
            )

    def _delete(self, conversation: int | None) -> None:
        from r1local.tui.screens.confirm import Confirm

        number = _given(conversation)

        def confirmed(yes: bool | None) -> None:
            if yes:
                if number == self.session.id:
                    self.chat.exchange.when_free(self.chat.show_new)
                self.chat.change(lambda: self.history.delete(number), reread=False)

        self._open(Confirm("Delete this conversation?", "With all its branches, for good.", "Delete"), confirmed)

    def _save(self, conversation: int | None, name: str) -> None:
        from r1local.tui.screens.text_prompt import TextPrompt

        number = _given(conversation)

        def named(text: str | None) -> None:
            if text:
                self._write(number, text)

        if name:
            named(name)
        else:
            self._open(TextPrompt("Write it to which file?", "chat.md", "JSON where the name ends in .json"), named)

    @work(thread=True, group="write")
    def _write(self, conversation: int, name: str) -> None:
        try:
            target = save(self.history, conversation, name)
        except R1Error as error:
            self.call_from_thread(self.tell, error)
        else:
            self._notice(f"Saved to {target.absolute()}.")

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        for name, what in COMMANDS.items():
            yield SystemCommand(name, what, lambda name=name: self._run(name))

    def _run(self, name: str) -> None:
        """A command from the palette, as if it had been typed."""
        self.chat.command(name)


def _given(conversation: int | None) -> int:
    if conversation is None:
        raise UsageError("Nothing was said in this conversation yet.", "Ask something first.")
    return conversation

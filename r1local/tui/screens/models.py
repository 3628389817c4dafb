"""The models: what would run here and how well, what is here, and what is being pulled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Input, Static

from r1local.catalog import Catalog
from r1local.errors import UsageError
from r1local.hardware import Hardware
from r1local.store import LocalModel
from r1local.tui.pulls import Pulls, PullState
from r1local.tui.screens.aside import Aside
from r1local.tui.screens.confirm import Confirm
from r1local.tui.screens.model_details import about, written
from r1local.tui.screens.model_lines import OF_A_ROW, by_row, first_key, lines, offers
from r1local.tui.screens.model_questions import pull_question, removal_question, remove
from r1local.tui.screens.model_rows import Row, View, look
from r1local.tui.widgets import style_beside
from r1local.tui.widgets.model_list import ModelList
from r1local.tui.widgets.pull_bar import PullBar
from r1local.units import amount

_POLL_SECONDS = 0.2


class ModelsScreen(Aside[LocalModel | None]):
    """Dismisses with the model to use, or with None."""

    DEFAULT_CSS = style_beside(__file__)
    AUTO_FOCUS = "#models OptionList"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull"),
        Binding("x", "cancel", "Stop"),
        Binding("r", "resume", "Resume"),
        Binding("d,delete", "remove", "Remove"),
        Binding("i,space", "details", "Details"),
        Binding("e", "every", "All sizes"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "back", "Back"),
    ]

    def __init__(
        self, catalog: Catalog, machine: Callable[[], Hardware], pulls: Pulls, current: LocalModel | None
    ) -> None:
        """`machine` is called in a thread, whenever something changed. `current` is the model in use."""
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (80, "-medium"), (140, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-low"), (28, "-high")]
        self._catalog, self._machine, self._pulls, self._current = catalog, machine, pulls, current
        self._view: View | None = None
        self._every = False
        self._looks = 0
        self._states: tuple[PullState, ...] = ()
        self._arrived: set[Path] = set()
        self._detailed: Row | None = None
        self._offered: set[str] = set()
        self._list = ModelList(id="models")
        self._details = Static(id="facts")
        self._bar = PullBar()

    def compose(self) -> ComposeResult:
        yield Static("Looking at this machine…", id="about")
        yield Input(placeholder="A part of the name", id="filter", compact=True, select_on_focus=False)
        with Container(id="body"):
            yield self._list
            yield VerticalScroll(self._details, id="details")
        yield self._bar
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self._states = self._pulls.states
        self._bar.show(self._states)
        self.set_interval(_POLL_SECONDS, self._follow)
        self._look()

    # What is shown

    def _look(self) -> None:
        """Find out in a thread what there is."""
        self._looks += 1
        number, every = self._looks, self._every
        self.aside(lambda: partial(self._looked, look(self._catalog, self._machine(), every=every), number))

    def _looked(self, view: View, number: int) -> None:
        if number != self._looks:
            return  # a newer look is on its way
        before = self._row
        self._view = view
        self.query_one("#about", Static).update(Content(about(view)))
        new = [row for row in view.rows if row.local is not None and row.local.path in self._arrived]
        if before is None:
            self._show(first_key(view, self._current))
        elif before.key in {row.key for row in view.rows} or not new:
            self._show()
        else:
            self._show(new[0].key)  # what was highlighted moved there
        for row in new:
            self.notify(f"{row.name} is here." + (" Enter uses it." if row is self._row else ""), markup=False)
        self._arrived.clear()

    def _show(self, key: str = "") -> None:
        """Draw the rows that the filter lets through."""
        if self._view is not None:
            wanted = self.query_one("#filter", Input).value
            rows = [row for row in self._view.rows if row.answers_to(wanted)]
            self._list.show(lines(rows, by_row(self._catalog, self._states), self._current), key)
            self._show_details()

    @on(ModelList.Highlighted)
    def _show_details(self) -> None:
        row = self._row
        if row is not self._detailed:
            self._detailed = row
            self._details.update(written(row) if row is not None else "")
        offered = offers(row, self._pull_of(row)) if row is not None else set()
        if offered != self._offered:  # each time the footer is made anew
            self._offered = offered
            self.refresh_bindings()

    @property
    def _row(self) -> Row | None:
        """The one that keys are about."""
        key = self._list.key
        return next((row for row in self._view.rows if row.key == key), None) if self._view else None

    def _pull_of(self, row: Row) -> PullState | None:
        return by_row(self._catalog, self._states).get(row.name) if row.local is None else None

    def _follow(self) -> None:
        """See how far the downloads are, and tell of those that ended."""
        states = self._pulls.states
        if states == self._states:
            return
        before = {state.name: state.state for state in self._states}
        self._states = states
        self._bar.show(states)
        self._show()
        for state in states:
            if state.state == before.get(state.name) or state.active:
                continue
            if state.error is not None:
                self.tell(state.error)
            if state.path is not None:
                self._arrived.add(state.path)
            self._look()

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that mean nothing for the highlighted model are not offered."""
        return action not in OF_A_ROW or action in self._offered

    @on(ModelList.Chosen)
    def _choose(self) -> None:
        row = self._row
        if row is None:
            return
        if row.problem:
            self.tell(UsageError(row.problem, "Remove it, and pull it again."))
        elif row.local is not None:
            self.dismiss(row.local)
        elif (pull := self._pull_of(row)) is not None and pull.active:
            self.notify(f"{row.name} is on its way; x stops it.", markup=False)
        else:
            self.action_pull()

    def action_pull(self) -> None:
        row, view = self._row, self._view
        if row is None or view is None:
            return

        start = partial(self._pulls.start, row.name)
        self.aside(lambda: partial(self._ask, pull_question(row, self._catalog, view.machine), start))

    def _ask(self, ask: Confirm, then: Callable[[], None]) -> None:
        """Do it after a yes. Who has gone on to something else meanwhile is not asked."""
        if self.is_current:
            self.app.push_screen(ask, lambda yes: then() if yes else None)

    def action_cancel(self) -> None:
        row = self._row
        if row is not None and (pull := self._pull_of(row)) is not None:
            self._pulls.cancel(pull.name)

    def action_resume(self) -> None:
        row = self._row
        if row is not None:
            pull = self._pull_of(row)
            self._pulls.start(pull.name if pull is not None else row.name)

    def action_remove(self) -> None:
        row = self._row
        if row is None or row.local is None:
            return
        local = row.local
        if self._current is not None and local.path == self._current.path:
            self.tell(UsageError(f"{row.name} is in use.", "Use another one first."))
            return

        go_on = partial(self.aside, partial(self._removed, local))
        self.aside(lambda: partial(self._ask, removal_question(row.name, local), go_on))

    def _removed(self, local: LocalModel) -> Callable[[], None]:
        freed = remove(local)

        def told() -> None:
            self.notify(f"{local.name} was removed; {amount(freed)} freed.", markup=False)
            self._look()

        return told

    def action_details(self) -> None:
        shown = self.query_one("#details").display
        self.set_class(not shown, "-details").set_class(shown, "-no-details")

    def action_every(self) -> None:
        self._every = not self._every
        self._look()

    def action_filter(self) -> None:
        self.add_class("-filter")
        self.query_one("#filter").focus()

    @on(Input.Changed)
    def _filtered(self) -> None:
        self._show()

    @on(Input.Submitted)
    def _leave_filter(self) -> None:
        self._list.options.focus()

    def action_back(self) -> None:
        """Out of the filter first, where one is set."""
        filtering = self.query_one("#filter", Input)
        if not self.has_class("-filter"):
            self.dismiss(None)
            return
        filtering.value = ""
        self.remove_class("-filter")
        self._list.options.focus()

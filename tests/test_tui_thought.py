"""The thought panel: its states, its heading, its clock."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot

from r1local.tui.widgets.thought import State, Thought
from tests.tui import Stage, play, seen

TEXT = "".join(f"line {number}\n" for number in range(1, 31))


class Clock:
    """Goes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def heading(thought: Thought) -> str:
    return seen(thought.children[0])[0]


def shown(thought: Thought) -> list[str]:
    return seen(thought.body) if thought.body.display else []


def test_a_thought_from_its_start_to_its_end() -> None:
    clock = Clock()
    thought = Thought(clock=clock)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert heading(thought) == "▸ Thinking"
        thought.append(TEXT, 400)
        await pilot.pause()
        assert shown(thought) == ["line 27", "line 28", "line 29", "line 30"]
        assert heading(thought) == "▸ Thinking 0.0 s · 400 tokens"
        clock.now += 12
        thought.append("and more\n", 1204)
        thought.tick()
        await pilot.pause()
        assert heading(thought) == "▸ Thinking 12 s · 1,204 tokens · 100 tok/s"
        assert shown(thought)[-1] == "and more"
        clock.now += 3
        thought.finish()
        await pilot.pause()
        assert heading(thought) == "▸ Thought for 15 s, 1,204 tokens"
        assert thought.state == "folded"
        assert thought.size.height == 1

    play(scene, thought)


def test_what_was_measured_by_the_engine_counts() -> None:
    thought = Thought(clock=Clock())

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append("a", 1)
        thought.finish(spent=125.0, tokens=2000, cut_short=True)
        await pilot.pause()
        assert heading(thought) == "▸ Thought, cut short after 2 min 5 s, 2,000 tokens"

    play(scene, thought)


@pytest.mark.parametrize("key", ["enter", "space"])
def test_keys_open_and_fold(key: str) -> None:
    thought = Thought(clock=Clock())

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append(TEXT, 100)
        thought.focus()
        await pilot.press(key)
        assert (thought.state, len(shown(thought)), shown(thought)[-1]) == ("open", 12, "line 30")
        assert heading(thought).startswith("▾ ")
        await pilot.press(key)
        assert (thought.state, len(shown(thought))) == ("tail", 4)
        thought.finish()
        await pilot.press(key)
        assert (thought.state, shown(thought)[0]) == ("open", "line 1")
        await pilot.press(key)
        assert thought.state == "folded"
        await pilot.press(key)
        await pilot.pause()
        assert [message.state for message in stage.messages] == ["open", "tail", "open", "folded", "open"]
        assert stage.messages[0].control is thought

    play(scene, thought)


def test_the_mouse_opens_and_folds_but_does_not_fold_what_is_read() -> None:
    thought = Thought(clock=Clock())

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append(TEXT, 100)
        await pilot.pause()
        await pilot.click(thought, offset=(5, 2))
        assert thought.state == "open"
        await pilot.pause()
        await pilot.click(thought, offset=(5, 2))
        assert thought.state == "open"
        await pilot.click(thought, offset=(5, 0))
        assert thought.state == "tail"
        thought.finish()
        await pilot.pause()
        await pilot.click(thought, offset=(5, 0))
        assert thought.state == "open"

    play(scene, thought)


def test_selecting_in_the_tail_does_not_open_it() -> None:
    thought = Thought(clock=Clock())

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append(TEXT, 100)
        await pilot.pause()
        await pilot.mouse_down(thought.body, offset=(0, 1))
        await pilot.hover(thought.body, offset=(4, 2))
        await pilot.mouse_up(thought.body, offset=(4, 2))
        await pilot.pause()
        assert stage.screen.get_selected_text() == "line 28\nline "
        assert thought.state == "tail"

    play(scene, thought)


def test_a_choice_outlasts_the_end_of_the_thought() -> None:
    thought = Thought(clock=Clock())

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append(TEXT, 100)
        thought.action_fold()
        thought.finish()
        await pilot.pause()
        assert thought.state == "open"

    play(scene, thought)


def test_a_choice_that_was_taken_back_is_none() -> None:
    thought = Thought(clock=Clock())

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append(TEXT, 100)
        thought.action_fold()
        thought.action_fold()
        thought.finish()
        await pilot.pause()
        assert thought.state == "folded"

    play(scene, thought)


@pytest.mark.parametrize("live", ["open", "tail", "folded", "hidden"])
@pytest.mark.parametrize("after", ["open", "tail", "folded", "hidden"])
def test_settings_choose_the_states(live: State, after: State) -> None:
    thought = Thought(live=live, after=after, clock=Clock())
    lines = {"open": 12, "tail": 4, "folded": 0, "hidden": 0}

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append(TEXT, 100)
        await pilot.pause()
        assert (thought.display and thought.styles.display != "none", len(shown(thought))) == (
            live != "hidden",
            lines[live] if live != "hidden" else len(shown(thought)),
        )
        thought.finish()
        await pilot.pause()
        assert (thought.state, thought.styles.display != "none") == (after, after != "hidden")
        if after != "hidden":
            assert len(shown(thought)) == lines[after]

    play(scene, thought)


def test_its_keys_scroll_it_only_while_it_is_open() -> None:
    thought = Thought(clock=Clock())

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append(TEXT, 100)
        thought.focus()
        await pilot.press("up")
        assert shown(thought)[-1] == "line 30"
        await pilot.press("enter", "home")
        await pilot.wait_for_animation()
        await pilot.pause()
        assert shown(thought)[0] == "line 1"
        await pilot.press("down")
        await pilot.wait_for_animation()
        assert shown(thought)[0] == "line 2"
        thought.append("new\n", 101)
        await pilot.pause()
        assert shown(thought)[0] == "line 2"
        await pilot.press("end")
        await pilot.pause()
        assert shown(thought)[-1] == "new"

    play(scene, thought)


def test_the_clock_stands_while_there_is_nothing_to_count_or_to_see() -> None:
    clock = Clock()
    thought, hidden = Thought(clock=clock), Thought(live="hidden", clock=clock)

    def runs(one: Thought) -> bool:
        return one._timer is not None and one._timer._active.is_set()

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert not runs(thought)
        thought.append("a", 1)
        hidden.append("a", 1)
        assert (runs(thought), runs(hidden)) == (True, False)
        thought.state = "hidden"
        assert not runs(thought)
        thought.state = "folded"
        assert runs(thought)
        clock.now += 30
        await pilot.pause(0.3)
        assert heading(thought) == "▸ Thinking 30 s · 1 tokens · 0 tok/s"
        thought.finish()
        assert not runs(thought)

    play(scene, thought, hidden)


def test_a_narrow_screen_leaves_out_what_matters_least() -> None:
    clock = Clock()
    thought = Thought(clock=clock)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        thought.append("a", 12_345)
        clock.now += 100
        seen_at = {}
        for width in (60, 40, 24):
            await pilot.resize_terminal(width, 20)
            await pilot.pause()
            thought.tick()
            await pilot.pause()
            seen_at[width] = heading(thought)
        assert seen_at == {
            60: "▸ Thinking 1 min 40 s · 12,345 tokens · 123 tok/s",
            40: "▸ Thinking 1 min 40 s · 12,345 tokens",
            24: "▸ Thinking 1 min 40 s",
        }

    play(scene, thought)


def test_a_thought_from_history() -> None:
    thought = Thought(clock=Clock())
    thought.append(TEXT, 300)
    thought.finish(spent=4.2, tokens=300)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert heading(thought) == "▸ Thought for 4.2 s, 300 tokens"
        thought.focus()
        await pilot.press("enter")
        assert shown(thought)[0] == "line 1"

    play(scene, thought)

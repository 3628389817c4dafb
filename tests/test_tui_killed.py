"""The full screen is killed in the middle of a reply: what was on the screen is kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.tui_killed import counting_model, kill

pytestmark = [pytest.mark.engine, pytest.mark.terminal]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return counting_model(tmp_path_factory.mktemp("models") / "counting.gguf")


def test_what_was_on_the_screen_outlives_a_kill(counting: Path, tmp_path: Path) -> None:
    chance = random.Random(3)
    found = [kill(counting, tmp_path, chance.uniform(0.4, 1.5), opened=opened) for opened in (False, True, False)]
    assert any(len(one.shown) > 10 for one in found), "some had shown a part of the reply"

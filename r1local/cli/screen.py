"""`r1local chat` on the full screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from r1local import hardware
from r1local.answers import Judge
from r1local.catalog import Catalog
from r1local.cli.chat import options_for, real_one, sampling_of, template_warnings, warnings_of
from r1local.cli.integrity import check_silently
from r1local.cli.plan_view import plan_line
from r1local.engine import Engine, LlamaEngine, open_engine
from r1local.settings import Settings
from r1local.store import LocalModel
from r1local.store.usage import mark_used
from r1local.tui.app import R1App, Start
from r1local.tui.session import Setup


def run_screen(
    catalog: Catalog,
    settings: Callable[[], tuple[Settings, Settings]],
    local: LocalModel,
    *,
    given: Settings,
    stop: tuple[str, ...],
) -> None:
    """Until the user leaves. `settings` reads config.toml: without and with what the command line says, `given`.

    Raises R1Error when the conversations cannot be opened.
    """

    chosen: list[int] = []
    judge = Judge()

    def samples() -> int:
        return chosen[-1] if chosen else settings()[1].vote or 1

    def load(local: LocalModel, on_notice: Callable[[str], None], on_progress: Callable[[float], None]) -> Engine:
        for sentence in warnings_of(catalog, local):
            on_notice(sentence)
        check_silently(local, on_notice)
        engine = open_engine(
            local.path,
            options_for(local, replace(settings()[1], vote=samples())),
            thinks=local.model.thinks if local.model else None,
            on_notice=on_notice,
            on_progress=on_progress,
        )
        mark_used(local.path)
        for sentence in template_warnings(local, engine):
            on_notice(sentence)
        return engine

    def setup(local: LocalModel) -> Setup:
        configured, all_told = settings()
        return Setup(
            sampling_of(catalog, local, configured, given),
            all_told.max_tokens,
            stop,
            all_told.system or "",
            samples(),
            judge.same,
        )

    def about(engine: Any) -> str:
        return plan_line(engine.loaded) if isinstance(engine, LlamaEngine) else ""

    def held(engine: Any) -> int:
        return engine.loaded.memory_now().real if isinstance(engine, LlamaEngine) else 0

    with judge:
        R1App(
            Start(
                catalog=catalog,
                settings=lambda: settings()[1],
                local=local,
                load=load,
                setup=setup,
                machine=hardware.detect,
                real_one=partial(real_one, catalog),
                about=about,
                held=held,
                set_vote=chosen.append,
            )
        ).run()

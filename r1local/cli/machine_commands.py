"""The commands about this machine, `fit` and `bench`, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1local.cli import guarded


def add_machine_commands(app: typer.Typer, epilog: str) -> None:
    """`epilog` stands below the help of each command."""

    @app.command(epilog=epilog)
    @guarded
    def fit(
        name: Annotated[
            str, typer.Argument(help="A model, as NAME or NAME:QUANT. Without it: all of them.", show_default=False)
        ] = "",
        json_: Annotated[bool, typer.Option("--json", help="Every model and quantization as JSON.")] = False,
        every: Annotated[
            bool, typer.Option("--all", help="Every quantization, not the recommended one alone.")
        ] = False,
        hardware: Annotated[
            Path | None, typer.Option(help="Plan for the machine in this JSON file.", metavar="FILE")
        ] = None,
        gpu: Annotated[
            str, typer.Option(help='Plan for this GPU: "RTX 4090", "2x RTX 3090", "M3 Max 64GB".', metavar="NAME")
        ] = "",
        ctx: Annotated[int | None, typer.Option(min=256, help="Tokens of context that are wanted.")] = None,
        kv: Annotated[
            str | None, typer.Option("--kv", help="Type of the KV cache: f16, q8_0 or q4_0.", metavar="TYPE")
        ] = None,
        parallel: Annotated[int, typer.Option(min=1, max=256, help="Replies at once.")] = 1,
        margin: Annotated[
            int | None, typer.Option(min=0, help="MiB to leave free on each device; 1024 without it.", metavar="MIB")
        ] = None,
    ) -> None:
        """Show which models run on this machine, how well, and which one to take; before any download."""
        from r1local.cli.fit import FitFlags, run_fit, wishes_of

        run_fit(FitFlags(name, json_, every, hardware, gpu, wishes_of(ctx, kv, parallel, margin)))

    @app.command(epilog=epilog)
    @guarded
    def bench(
        name: Annotated[
            str,
            typer.Argument(help="A model that is here, or a .gguf file. Without it: the best one.", show_default=False),
        ] = "",
        tune: Annotated[
            bool, typer.Option("--tune", help="Compare settings, and remember the fastest for this kind of model.")
        ] = False,
        reset: Annotated[
            bool, typer.Option("--reset", help="Forget what was tuned; without NAME, of all models.")
        ] = False,
        json_: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
        seconds: Annotated[int, typer.Option(min=1, help="Seconds there are for measuring.", metavar="N")] = 100,
    ) -> None:
        """Measure how fast a model is here, beside what was expected; with --tune, look for faster settings."""
        from r1local.cli.bench import BenchFlags, run_bench

        run_bench(BenchFlags(name, tune, reset, json_, seconds))

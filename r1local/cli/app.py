"""The commands and their options. Bodies are in a file each and are loaded when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1local import __version__
from r1local.cli import guarded
from r1local.errors import ExitCode

_EPILOG = "Exit codes: " + ", ".join(
    f"{code.value} {meaning}"
    for code, meaning in (
        (ExitCode.OK, "all well"),
        (ExitCode.FAILED, "failed"),
        (ExitCode.USAGE, "wrong usage or setting"),
        (ExitCode.NO_MODEL, "no such model here"),
        (ExitCode.BAD_FILE, "unusable model file"),
        (ExitCode.ENGINE, "the engine cannot run or lacks memory"),
        (ExitCode.CONTEXT_FULL, "prompt larger than the context"),
        (ExitCode.DOWNLOAD, "download failed: network or server"),
        (ExitCode.ACCESS, "a token or an accepted licence is wanted"),
        (ExitCode.DISK, "not enough disk"),
        (ExitCode.INTERRUPTED, "interrupted"),
        (ExitCode.BROKEN_PIPE, "the reader of the output left"),
    )
)

app = typer.Typer(
    name="r1local",
    help="Run the distilled DeepSeek-R1 models on your own machine, offline, and watch them think.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"r1local {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command(epilog=_EPILOG)
@guarded
def chat(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="What to ask. Without it: what is piped in, or a conversation."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Catalog name or alias, with :QUANT if you like, or a .gguf file."),
    ] = None,
    think: Annotated[
        str | None,
        typer.Option(help="The thought: show, fold (one live line), hide, or only.", metavar="MODE"),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One object at the end: think, answer, finish, stats, model.")
    ] = False,
    events: Annotated[bool, typer.Option("--events", help="One JSON object a line, as they happen.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Into a pipe: the answer as it is, control characters included.")
    ] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Tokens and speeds on stderr afterwards.")] = False,
    system: Annotated[str | None, typer.Option(help="System prompt. DeepSeek advises against one for R1.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; R1 wants 0.5 to 0.7.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Nucleus sampling; 1 is off.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Keep so many likeliest tokens; 0 is off.")] = None,
    min_p: Annotated[
        float | None,
        typer.Option("--min-p", help="Drop tokens below this share of the likeliest; 0 is off."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same reply.")] = None,
    repeat_penalty: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    dry: Annotated[float | None, typer.Option("--dry", help="DRY multiplier against repetition; 0 is off.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", help="Most tokens of a reply, thought included.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer. May be given again.")] = None,
    ctx: Annotated[int | None, typer.Option(help="Tokens of context. Without it: what memory allows.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads. Without it: the usable cores.")] = None,
) -> None:
    """Ask a question, or hold a conversation.

    The answer goes to stdout, the thought and all talk to stderr.
    """
    from r1local.cli.chat import ChatFlags, run_chat

    settings = {
        "model": model, "think": think, "system": system, "temperature": temperature, "top_p": top_p, "top_k": top_k,
        "min_p": min_p, "seed": seed, "repeat_penalty": repeat_penalty, "dry_multiplier": dry,
        "max_tokens": max_tokens, "ctx": ctx, "threads": threads,
    }  # fmt: skip
    run_chat(
        ChatFlags(
            prompt=" ".join(prompt or ()),
            settings={name: value for name, value in settings.items() if value is not None},
            stop=tuple(stop or ()),
            json=json_,
            events=events,
            raw=raw,
            stats=stats,
        )
    )


@app.command(epilog=_EPILOG)
@guarded
def models(
    json_: Annotated[bool, typer.Option("--json", help="The whole catalog as JSON.")] = False,
) -> None:
    """List the models r1local knows, and which are here."""
    from r1local.cli.models import run_models

    run_models(as_json=json_)


@app.command(epilog=_EPILOG)
@guarded
def doctor(
    json_: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Also try this .gguf file.")] = None,
) -> None:
    """Look at this machine, the installed build, the folders and the models."""
    from r1local.cli.doctor import run_doctor

    run_doctor(as_json=json_, model=model)

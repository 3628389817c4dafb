"""The commands and their options. Bodies are in a file each and are loaded when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1local import __version__
from r1local.cli import guarded, options
from r1local.cli.backend_commands import backend_commands
from r1local.cli.machine_commands import add_machine_commands
from r1local.cli.many_commands import add_many_commands
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
    model: options.Model = None,
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
    vote: options.Vote = None,
    vote_stop: options.VoteStop = True,
    system: options.System = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    seed: options.Seed = None,
    repeat_penalty: options.RepeatPenalty = None,
    dry: options.Dry = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    ctx: options.Ctx = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = None,
    kv: options.KvType = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Pull a model that is not here without asking.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never offer to pull; open no connection.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="A conversation line by line, for screen readers too; no full screen.")
    ] = False,
) -> None:
    """Ask a question, or hold a conversation on the full screen.

    The answer goes to stdout, the thought and all talk to stderr.
    """
    from r1local.cli.chat import ChatFlags, run_chat

    settings = options.given(
        model=model, think=think, system=system, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        seed=seed, repeat_penalty=repeat_penalty, dry_multiplier=dry, max_tokens=max_tokens, ctx=ctx, threads=threads,
        gpu_layers=gpu_layers, kv_type=kv, vote=vote,
    )  # fmt: skip
    run_chat(
        ChatFlags(
            prompt=" ".join(prompt or ()),
            settings=settings,
            vote_stop=vote_stop,
            stop=tuple(stop or ()),
            json=json_,
            events=events,
            raw=raw,
            stats=stats,
            yes=yes,
            offline=offline,
            plain=plain,
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


@app.command(epilog=_EPILOG)
@guarded
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="Catalog name, user/repo, or an address of the Hub; with :QUANT if you like. "
            "Without it: the best for this machine.",
            metavar="NAME",
            show_default=False,
        ),
    ] = "",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit. Without it: main.")] = "",
    token: Annotated[
        str, typer.Option(help="For gated repositories. HF_TOKEN or `hf auth login` keep it out of the process list.")
    ] = "",
    endpoint: Annotated[str, typer.Option(help="Address of the Hub or of a mirror. Without it: HF_ENDPOINT.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, and whether disk and memory suffice.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a line: plan, progress, done.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Only what is here; open no connection.")] = False,
    from_source: Annotated[
        bool, typer.Option("--from-source", help="Fetch the publisher's own checkpoint and convert it here.")
    ] = False,
    quant: Annotated[str, typer.Option(help="With --from-source: the type to make, such as Q4_K_M.")] = "",
    keep_source: Annotated[
        bool, typer.Option("--keep-source", help="With --from-source: keep the checkpoint in the cache.")
    ] = False,
    kernels: Annotated[str, typer.Option(help="With --from-source: auto, c or fast.")] = "auto",
) -> None:
    """Fetch a model, verified, and go on where it stopped.

    It lands in the cache that all Hugging Face tools share; with --from-source in the models folder. Prints the path
    of the file.
    """
    from r1local.cli.pull import PullFlags, run_pull

    run_pull(
        PullFlags(
            name, revision, token, endpoint, yes, dry_run, json_, offline, from_source, quant, keep_source, kernels
        )
    )


@app.command(epilog=_EPILOG)
@guarded
def quantize(
    source: Annotated[
        str, typer.Argument(help="A checkpoint folder, a .gguf file, or a model whose checkpoint is here.")
    ],
    type_: Annotated[str, typer.Option("--type", "-t", help="Q4_K_M, Q8_0, BF16, IQ4_XS, ...")] = "Q4_K_M",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file or a folder. Without it: the models folder.")
    ] = None,
    imatrix: Annotated[Path | None, typer.Option(help="An importance matrix, .gguf or .dat.")] = None,
    pure: Annotated[bool, typer.Option("--pure", help="Every tensor of the same type, no mix.")] = False,
    leave_output: Annotated[bool, typer.Option("--leave-output", help="output.weight stays as it is.")] = False,
    output_type: Annotated[str, typer.Option(help="The type of output.weight.")] = "",
    embedding_type: Annotated[str, typer.Option(help="The type of token_embd.weight.")] = "",
    tensor_type: Annotated[
        list[str] | None, typer.Option(help="Of tensors whose name matches. May be given again.", metavar="REGEX=TYPE")
    ] = None,
    from_quantized: Annotated[
        bool, typer.Option("--from-quantized", help="Allow a source that is quantized already.")
    ] = False,
    kernels: Annotated[str, typer.Option(help="auto, c or fast: the bytes are the same.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Without it: the usable cores.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how large the result would be.")] = False,
) -> None:
    """Make a GGUF file of a checkpoint or of another GGUF file.

    In one pass, byte for byte what llama.cpp makes, and goes on where it stopped. Prints the path of the file.
    """
    from r1local.cli.quantize import QuantizeFlags, run_quantize
    from r1local.prepare import Job

    job = Job(
        type_, pure, leave_output, output_type, embedding_type, tuple(tensor_type or ()), imatrix, from_quantized,
        kernels, threads or 0,
    )  # fmt: skip
    run_quantize(QuantizeFlags(source, job, output, force, dry_run))


@app.command(epilog=_EPILOG)
@guarded
def inspect(
    name: Annotated[str, typer.Argument(help="A model that is here, or a .gguf file.", metavar="NAME")],
    against: Annotated[
        str, typer.Option(help="The checkpoint folder or the file it was made of: shows what was lost.")
    ] = "",
    json_: Annotated[bool, typer.Option("--json", help="The tensors as JSON.")] = False,
) -> None:
    """List the tensors of a model, the worst first where there is something to compare them with."""
    from r1local.cli.inspect import run_inspect

    run_inspect(name, against=against, as_json=json_)


@app.command("list", epilog=_EPILOG)
@guarded
def list_(
    json_: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False,
) -> None:
    """List the models on this machine."""
    from r1local.cli.list import run_list

    run_list(as_json=json_)


@app.command(epilog=_EPILOG)
@guarded
def show(
    name: Annotated[str, typer.Argument(help="A model that is here.", metavar="NAME")],
    json_: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="Every key of the file, too.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Only the chat template.")] = False,
) -> None:
    """Show what is known of a model here.

    Its file, weights by type, chat template, licence, scores, and the memory it takes.
    """
    from r1local.cli.show import run_show

    run_show(name, as_json=json_, template=template, metadata=metadata)


@app.command(epilog=_EPILOG)
@guarded
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models that are here.", metavar="NAME...")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every model that is here.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Check every byte of a model here.

    Its checksum against the published one, the structure, every tensor and every scale.
    """
    from r1local.cli.verify import run_verify

    run_verify(names or [], everything=all_, as_json=json_)


@app.command(epilog=_EPILOG)
@guarded
def rm(
    names: Annotated[list[str], typer.Argument(help="Models that are here, with :QUANT.", metavar="NAME...")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
) -> None:
    """Take models away, and say how much that frees."""
    from r1local.cli.rm import run_rm

    run_rm(names, yes=yes)


@app.command("import", epilog=_EPILOG)
@guarded
def import_(
    what: Annotated[
        str,
        typer.Argument(
            help="A .gguf file, a folder of `r1local export`, ollama[:NAME] or lmstudio[:FILE].", metavar="WHAT"
        ),
    ],
    copy: Annotated[bool, typer.Option("--copy", help="Copy the file; without it a link is made.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="What was imported as JSON.")] = False,
) -> None:
    """Use a model file that is elsewhere.

    In place, by a link; or checked and copied, from a folder that `r1local export` wrote.
    """
    from r1local.cli.carry import run_import

    run_import(what, copy=copy, as_json=json_)


@app.command(epilog=_EPILOG)
@guarded
def export(
    name: Annotated[str, typer.Argument(help="A model that is here.", metavar="NAME")],
    folder: Annotated[Path, typer.Argument(help="Where to, such as a USB stick.", metavar="DIR")],
) -> None:
    """Write a model into a folder, to carry it away.

    With its licence and checksums, for a machine without a network.
    """
    from r1local.cli.carry import run_export

    run_export(name, folder)


app.add_typer(backend_commands(_EPILOG), name="backend")
add_machine_commands(app, _EPILOG)
add_many_commands(app, _EPILOG)

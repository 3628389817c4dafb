"""The commands that ask many things, `batch` and `eval`, and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from r1local.cli import guarded, options


def add_many_commands(app: typer.Typer, epilog: str) -> None:
    """`epilog` stands below the help of each command."""

    @app.command(epilog=epilog)
    @guarded
    def batch(
        source: Annotated[
            str, typer.Argument(help="JSON lines, CSV or plain lines; - is what is piped in.", metavar="IN")
        ],
        output: Annotated[
            str, typer.Option("--output", "-o", help="Write here, and go on there when run again.", metavar="OUT")
        ] = "",
        model: options.Model = None,
        format_: Annotated[
            str, typer.Option("--format", help="jsonl, json, csv or lines. Without it: by the name of the file.")
        ] = "",
        column: Annotated[str, typer.Option(help="The field or column the prompt stands in.")] = "prompt",
        template: Annotated[
            str, typer.Option(help="The prompt, with {field}s of a row in it; or @FILE that holds it.")
        ] = "",
        select: Annotated[str, typer.Option(help="Fields to write: id,answer,...", metavar="FIELDS")] = "",
        parallel: options.Parallel = None,
        vote: options.Vote = None,
        vote_stop: options.VoteStop = True,
        as_finished: Annotated[bool, typer.Option("--as-finished", help="In the order they end.")] = False,
        restart: Annotated[bool, typer.Option("--restart", help="Forget what was finished before.")] = False,
        json_: Annotated[bool, typer.Option("--json", help="With -o: progress as JSON lines on stdout.")] = False,
        cluster: options.Cluster = "",
        address: options.Address = "",
        workers: options.Workers = None,
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
        ctx: options.CtxEach = None,
        threads: options.Threads = None,
        gpu_layers: options.GpuLayers = None,
        kv: options.KvType = None,
    ) -> None:
        """Answer many prompts, many at once.

        One line of JSON for each row: id, think, answer, finish and more. Stopped or killed, the same command goes on
        where it was; Ctrl-C first finishes what has begun. A row that fails is a line with its error.
        """
        from r1local.cli.answering import Spread
        from r1local.cli.batch import BatchFlags, run_batch

        settings = options.given(
            model=model, system=system, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed,
            repeat_penalty=repeat_penalty, dry_multiplier=dry, max_tokens=max_tokens, ctx=ctx, threads=threads,
            gpu_layers=gpu_layers, kv_type=kv, vote=vote,
        )  # fmt: skip
        run_batch(
            BatchFlags(
                source,
                output,
                settings,
                stop=tuple(stop or ()),
                format=format_,
                column=column,
                template=template,
                select=tuple(filter(None, (field.strip() for field in select.split(",")))),
                spread=Spread(parallel, cluster, address, workers),
                vote_stop=vote_stop,
                as_finished=as_finished,
                restart=restart,
                json=json_,
            )
        )

    @app.command("eval", epilog=epilog)
    @guarded
    def eval_(
        task: Annotated[
            str,
            typer.Argument(help="arith, aime24, aime25, math500, gpqa-diamond, or a .jsonl with problem and answer."),
        ],
        model: Annotated[
            list[str] | None,
            typer.Option("--model", "-m", help="May be given again: others are compared with the first one."),
        ] = None,
        samples: Annotated[int | None, typer.Option(help="Replies to each problem.", metavar="K")] = None,
        limit: Annotated[int | None, typer.Option(help="Only so many problems, drawn by --seed.", metavar="N")] = None,
        output: Annotated[
            str, typer.Option("--output", "-o", help="Folder for replies and report.", metavar="DIR")
        ] = "",
        seed: Annotated[int | None, typer.Option(help="Of problems that are drawn, and of the replies.")] = None,
        temperature: options.Temperature = None,
        top_p: options.TopP = None,
        max_tokens: options.MaxTokens = None,
        system: options.System = None,
        parallel: options.Parallel = None,
        cluster: options.Cluster = "",
        address: options.Address = "",
        workers: options.Workers = None,
        restart: Annotated[bool, typer.Option("--restart", help="Forget replies of before.")] = False,
        json_: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
        token: Annotated[
            str, typer.Option(help="For gated data sets; HF_TOKEN keeps it out of the process list.")
        ] = "",
        endpoint: Annotated[str, typer.Option(help="Address of the Hub or of a mirror. Without it: HF_ENDPOINT.")] = "",
        offline: Annotated[bool, typer.Option("--offline", help="Only what is here; open no connection.")] = False,
        ctx: options.CtxEach = None,
        threads: options.Threads = None,
        gpu_layers: options.GpuLayers = None,
        kv: options.KvType = None,
    ) -> None:
        """Score models on problems with known answers, as DeepSeek scored R1.

        Share of right replies with its interval, majority votes, tokens spent, beside the published scores; of several
        models, or quantizations of one, the difference. Stopped or killed, the same command goes on where it was.
        """
        from r1local.cli.answering import Spread
        from r1local.cli.eval import EvalFlags, run_eval
        from r1local.scores.hub_sets import Access

        settings = options.given(
            seed=seed, temperature=temperature, top_p=top_p, max_tokens=max_tokens, system=system, ctx=ctx,
            threads=threads, gpu_layers=gpu_layers, kv_type=kv,
        )  # fmt: skip
        run_eval(
            EvalFlags(
                task,
                tuple(model or ()),
                samples,
                limit,
                output,
                settings,
                Spread(parallel, cluster, address, workers),
                Access(endpoint, token, offline),
                restart,
                json_,
            )
        )

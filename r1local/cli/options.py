"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Catalog name or alias, with :QUANT if you like, or a .gguf file."),
]
System = Annotated[str | None, typer.Option(help="System prompt. DeepSeek advises against one for R1.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy; R1 wants 0.5 to 0.7.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Nucleus sampling; 1 is off.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Keep so many likeliest tokens; 0 is off.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Drop tokens below this share of the likeliest; 0 is off.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same reply.")]
RepeatPenalty = Annotated[float | None, typer.Option(help="1 is off.")]
Dry = Annotated[float | None, typer.Option("--dry", help="DRY multiplier against repetition; 0 is off.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "-n", help="Most tokens of a reply, thought included.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the answer. May be given again.")]
Ctx = Annotated[int | None, typer.Option(help="Tokens of context. Without it: what memory allows.")]
CtxEach = Annotated[
    int | None, typer.Option("--ctx", min=256, help="Tokens of context of each reply. Without it: what memory allows.")
]
Threads = Annotated[int | None, typer.Option(help="Processor threads. Without it: the usable cores.")]
GpuLayers = Annotated[
    int | None, typer.Option("--gpu-layers", help="Layers on the GPU, -1 is all. Without it: what fits.")
]
KvType = Annotated[str | None, typer.Option("--kv", help="Type of the KV cache: f16, q8_0 or q4_0.", metavar="TYPE")]
Vote = Annotated[
    int | None, typer.Option("--vote", help="Ask so many times at once and take the answer most agree on.", metavar="K")
]
VoteStop = Annotated[
    bool, typer.Option("--vote-stop/--no-vote-stop", help="Stop a vote when its winner can no longer be caught.")
]
Parallel = Annotated[
    int | None, typer.Option(min=1, max=256, help="Replies at once. Without it: what memory allows.", metavar="N")
]
Cluster = Annotated[str, typer.Option(help="Spread over the machines of a cluster: ray.", metavar="KIND")]
Address = Annotated[str, typer.Option(help="With --cluster: its address, such as auto or ray://host:10001.")]
Workers = Annotated[int | None, typer.Option(min=1, help="With --cluster: engines. Without it: one a machine.")]


def given(**settings: Any) -> dict[str, Any]:
    """Those settings that were on the command line, by their names in config.toml."""
    return {name: value for name, value in settings.items() if value is not None}

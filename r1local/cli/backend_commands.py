"""The commands of `r1local backend` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from r1local.cli import guarded

_AS_JSON = Annotated[bool, typer.Option("--json", help="Everything as JSON.")]


def backend_commands(epilog: str) -> typer.Typer:
    """The group. `epilog` stands below the help of each command."""
    group = typer.Typer(
        help="Look at the build of the C library, or put one in its place that uses the GPU.",
        epilog=epilog,
        invoke_without_command=True,
        rich_markup_mode=None,
    )

    @group.callback()
    @guarded
    def backend(context: typer.Context, json_: _AS_JSON = False) -> None:
        if context.invoked_subcommand is None:
            from r1local.cli.backend import run_show

            run_show(as_json=json_)

    @group.command(epilog=epilog)
    @guarded
    def show(json_: _AS_JSON = False) -> None:
        """Show the installed build, its devices, this machine, and the command that would make use of its GPU."""
        from r1local.cli.backend import run_show

        run_show(as_json=json_)

    @group.command(epilog=epilog)
    @guarded
    def install(
        wanted: Annotated[str, typer.Argument(help="cuda, metal, vulkan or cpu.", metavar="KIND")],
        cuda_version: Annotated[
            str, typer.Option(help="With cuda: 11.8, 12.1 ... Without it: the newest the driver runs.", metavar="X.Y")
        ] = "",
        from_source: Annotated[
            bool, typer.Option("--from-source", help="Compile it here, for this processor; wants a toolkit.")
        ] = False,
        index: Annotated[
            str, typer.Option(help="Where the builds are: an address, or a folder laid out like it.", metavar="URL")
        ] = "",
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only say what would be run and what would be checked.")
        ] = False,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    ) -> None:
        """Install another build of llama-cpp-python into this environment, and try it.

        When that fails, or is interrupted, the former build comes back. Nothing else in the environment changes.
        """
        from r1local.cli.backend import InstallFlags, run_install

        run_install(InstallFlags(wanted, from_source, cuda_version, index, dry_run, yes))

    return group

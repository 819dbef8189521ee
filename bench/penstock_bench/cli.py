"""`penstock bench`: the commands that measure.

It is a program of its own, which `penstock` calls with what was typed after `bench`. Exit statuses: 0 all is well, 1 it
ran and something is wrong, 2 it could not even begin, 130 Ctrl-C. Whatever is wrong is told in one line.
"""

from typing import cast

import typer

from penstock_bench.abuse.command import abuse
from penstock_bench.commands.load import load
from penstock_bench.commands.profile import profile
from penstock_bench.commands.report import report
from penstock_bench.output import complain
from penstock_bench.peers.command import peers
from penstock_bench.soak.command import soak_command
from penstock_bench.streams.command import streams

app = typer.Typer(
    name="bench",
    help="Measure a server: Penstock, or any other that speaks the V2 protocol over gRPC.",
    epilog="Begin with `penstock bench load HOST:PORT --model NAME`.",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
    no_args_is_help=True,
)
app.command()(load)
app.command()(report)
app.command()(profile)
app.command()(peers)
app.command()(streams)
app.command()(abuse)
app.command("soak")(soak_command)


@app.callback()
def bench() -> None:
    """Measure a server: Penstock, or any other that speaks the V2 protocol over gRPC."""


def run(arguments: list[str]) -> int:
    """Run one command. Returns the exit status."""
    try:  # the library turns `typer.Exit` and Ctrl-C into a result
        result = app(arguments or ["--help"], prog_name="penstock bench", standalone_mode=False, obj=arguments)
    except typer.TyperException as error:
        complain(_describe(error))
        return error.exit_code
    except MemoryError:
        complain("there is not enough memory for so many requests")
        return 1
    return result if isinstance(result, int) else 0


def _describe(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = cast("str", getattr(context, "command_path", "penstock bench"))
    return f"{error.format_message().rstrip('.')} (see {path} --help)"

"""`penstock`: the commands, and what their ends mean to a shell.

Exit statuses: 0 all is well, 1 it ran and something is wrong (a model, an answer), 2 it could not even
begin (a wrong option, a missing folder, a port in use), 130 Ctrl-C. Whatever is wrong is told in one
line on standard error.
"""

import sys

import typer

from penstock_server.cli import check, demo, infer, serve, version
from penstock_server.cli.output import complain

app = typer.Typer(
    name="penstock",
    help="An inference server that speaks the V2 (KServe, Triton) gRPC protocol, and tools for any such server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(serve.serve)
app.command()(check.check)
app.command()(infer.infer)
app.command()(demo.demo)
app.command()(version.version)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command. Returns the exit status."""
    try:
        result = app(arguments, prog_name="penstock", standalone_mode=False)
    except typer.TyperException as error:  # a usage error, of which the library would make a box
        complain(f"{error.format_message()} (see --help)")
        return error.exit_code
    except typer.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        return 130
    return result if isinstance(result, int) else 0

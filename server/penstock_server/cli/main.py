"""`penstock`: the commands, and what their ends mean to a shell.

Exit statuses: 0 all is well, 1 it ran and something is wrong (a model, an answer), 2 it could not even
begin (a wrong option, a missing folder, a port in use), 130 Ctrl-C, of which nobody needs to be told.
Whatever is wrong is told in one line on standard error.
"""

import sys
from typing import Protocol, cast

import typer

from penstock_server.cli import bench, check, demo, infer, serve, simulate, version
from penstock_server.cli.output import complain

app = typer.Typer(
    name="penstock",
    help="An inference server that speaks the V2 (KServe, Triton) gRPC protocol, and tools for any such server.",
    epilog="New here? `penstock demo` shows it all in a second; `penstock serve model.onnx` serves a model of yours.",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command(context_settings=serve.SETTINGS)(serve.serve)
app.command()(check.check)
app.command()(infer.infer)
app.command()(simulate.simulate)
app.command(context_settings=bench.SETTINGS)(bench.bench)
app.command()(demo.demo)
app.command()(version.version)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command. Returns the exit status."""
    try:  # the library turns `typer.Exit` and Ctrl-C into a result
        result = app(arguments or ["--help"], prog_name="penstock", standalone_mode=False)
    except typer.TyperException as error:  # a usage error, of which the library would make a box
        complain(_describe(error))
        return error.exit_code
    return result if isinstance(result, int) else 0


class _Context(Protocol):
    """The part of the library's private context class that an error's description needs."""

    command_path: str

    def get_parameter_source(self, name: str) -> object: ...


def _describe(error: typer.TyperException) -> str:
    """What is wrong, which variable it came from if it was not typed, and where help is."""
    text = error.format_message().rstrip(".")
    context = cast("_Context | None", getattr(error, "ctx", None))
    if context is None:  # so it is for an option whose value is missing
        return f"{text} (see penstock --help)"
    hint = f"see {context.command_path} --help"
    name: str | None = getattr(getattr(error, "param", None), "name", None)
    if name is not None and getattr(context.get_parameter_source(name), "name", "") == "ENVIRONMENT":
        hint = f"from the environment, PENSTOCK_{name.upper()}; {hint}"
    return f"{text} ({hint})"

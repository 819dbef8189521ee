"""`penstock check`: is this repository good?"""

from pathlib import Path
from typing import Annotated

import typer

from penstock_server.app.check import CheckResult, check_models
from penstock_server.app.logs import LogFormat, LogLevel, configure_logging, escape
from penstock_server.app.settings import ServerSettings
from penstock_server.cli.output import fail, out
from penstock_server.errors import LoadError


def check(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_REPOSITORY", help="A single `.onnx` file, or a folder of models in Triton's layout."
        ),
    ],
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            help="The largest batch of models that do not say.",
            metavar="ROWS",
            min=0,
            show_default="64 for a single file, 4 in a repository",
        ),
    ] = None,
) -> int:
    """Load and warm up every model without opening a port, and say everything that is wrong.

    For example: `penstock check models/`, before a deployment or in its pipeline.

    Ends with 0 if all models are good, with 1 if one is not.
    """
    configure_logging(LogLevel.WARNING, LogFormat.TEXT)
    bad = total = 0
    try:
        for result in check_models(ServerSettings(source=source, max_batch_size=max_batch_size)):
            total += 1
            bad += not result.good
            _print(result)
    except LoadError as error:
        fail(str(error), 2)
    out.print(f"{total - bad} good, {bad} bad")
    return 1 if bad else 0


def _print(result: CheckResult) -> None:
    name = result.model if result.version is None else f"{result.model} version {result.version}"
    mark, color = ("ok ", "green") if result.good else ("BAD", "red")
    out.print(f"[{color}]{mark}[/] ", end="")
    _print_line(f"{name}  {result.summary}" if result.summary else name)
    for warning in result.warnings:
        _print_line(f"    warning: {warning}")
    for error in result.errors:
        _print_line(f"    error: {error}")


def _print_line(text: str) -> None:
    """A line, or several of one text with the later ones indented; nothing in it is more than text."""
    lines = [escape(line) for line in text.split("\n")]
    out.print("\n      ".join(lines), markup=False, highlight=False, soft_wrap=True)

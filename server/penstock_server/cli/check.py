"""`penstock check`: is this repository good?"""

from pathlib import Path
from typing import Annotated

import typer

from penstock_server.app.check import CheckResult, check_models
from penstock_server.app.logs import LogFormat, LogLevel, configure_logging
from penstock_server.app.settings import ServerSettings
from penstock_server.cli.output import fail, out
from penstock_server.errors import LoadError


def check(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_REPOSITORY", help="A folder of models in Triton's layout, or a single `.onnx` file."
        ),
    ],
    max_batch_size: Annotated[int | None, typer.Option(help="As for `penstock serve`.", min=0)] = None,
) -> int:
    """Load and warm up every model without opening a port, and say everything that is wrong.

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
    out.print(f"{name}  {result.summary}", markup=False, highlight=False, soft_wrap=True)
    for warning in result.warnings:
        out.print(f"    warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    for error in result.errors:
        out.print(f"    error: {error}", markup=False, highlight=False, soft_wrap=True)

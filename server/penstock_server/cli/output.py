"""How the commands speak: results on standard output, trouble on standard error in one line."""

from typing import NoReturn

import typer
from rich.console import Console

from penstock_server.app.logs import one_line

out = Console()
err = Console(stderr=True)


def complain(message: str) -> None:
    """One line on standard error, however many the message has."""
    err.print(f"penstock: {one_line(message)}", markup=False, highlight=False, soft_wrap=True)


def fail(message: str, status: int) -> NoReturn:
    """Say what is wrong and end with this exit status."""
    complain(message)
    raise typer.Exit(status)

"""How the commands speak: results on standard output, trouble on standard error in one line."""

from typing import NoReturn

import typer
from rich.console import Console

from penstock_server.app.logs import escape

out = Console()
err = Console(stderr=True)


def complain(message: str) -> None:
    """One line on standard error, however many the message has."""
    lines = (line.strip() for line in message.splitlines())
    text = "; ".join(escape(line) for line in lines if line)
    err.print(f"penstock: {text}", markup=False, highlight=False, soft_wrap=True)


def fail(message: str, status: int) -> NoReturn:
    """Say what is wrong and end with this exit status."""
    complain(message)
    raise typer.Exit(status)

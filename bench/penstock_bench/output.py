"""How the commands speak: results on standard output, trouble on standard error in one line."""

import re
from typing import NoReturn

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)

# Besides control characters proper: what ends a line, turns the reading direction, or is half a character.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    """The text with its control characters written out: a server's words move nobody's cursor."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def complain(message: str) -> None:
    """One line on standard error, however many the message has."""
    lines = (line.strip() for line in message.splitlines())
    text = "; ".join(escape(line) for line in lines if line)
    err.print(f"penstock: {text}", markup=False, highlight=False, soft_wrap=True)


def fail(message: str, status: int) -> NoReturn:
    """Say what is wrong and end with this exit status."""
    complain(message)
    raise typer.Exit(status)

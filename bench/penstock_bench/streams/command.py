"""`penstock bench streams`: many streams with a state in the server."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from penstock_bench.durations import seconds_of
from penstock_bench.output import fail
from penstock_bench.peers.command import default_work, ending_as_with_ctrl_c
from penstock_bench.streams.request import SERVERS, Request

_WHAT, _HOW, _WHERE = "What is compared", "How it is measured", "Where things are"
_EPILOG = """
**Servers**: penstock; penstock-own, where requests name no sequence since each stream is one; penstock-single, with
batching off; triton, its sequence batcher with the model in its Python backend. Triton is installed from PyPI into an
environment of its own, which happens once.

All of it, two minutes after the installing: `penstock bench streams`

Without Triton: `penstock bench streams --only penstock,penstock-single`

256 people, each with a connection: `penstock bench streams --streams 256 --connections 256 --only penstock`

Each stream sends speech in frames of 32 ms, the next one when the last was answered, and the server keeps what the
model remembers of it. Answers of four streams are compared with the model's own. Servers run one at a time, in the
order A-B-B-A. Exit status: 0 all was measured and right, 1 something failed or was wrong, 2 it could not begin, 130
Ctrl-C.
"""


def streams(
    context: typer.Context,
    only: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Only these; the first is what the others are compared with.",
            rich_help_panel=_WHAT,
            show_default="all four",
        ),
    ] = ",".join(SERVERS),
    count: Annotated[
        int, typer.Option("--streams", metavar="N", min=1, max=4096, help="Open at once.", rich_help_panel=_WHAT)
    ] = 64,
    connections: Annotated[
        int, typer.Option(metavar="N", min=1, max=4096, help="That share the streams.", rich_help_panel=_WHAT)
    ] = 4,
    depth: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=64, help="Frames in flight on each stream.", rich_help_panel=_WHAT),
    ] = 1,
    calls: Annotated[
        bool,
        typer.Option(
            "--calls/--no-calls",
            help="Compare what a message costs with what a call costs, too.",
            rich_help_panel=_WHAT,
        ),
    ] = True,
    transport: Annotated[
        str, typer.Option(metavar="NAME", help="Of Penstock: wire or grpcio.", rich_help_panel=_WHAT)
    ] = "wire",
    seconds: Annotated[
        str, typer.Option(metavar="TIME", help="How long each load is measured.", rich_help_panel=_HOW)
    ] = "3s",
    warmup: Annotated[
        str, typer.Option(metavar="TIME", help="The same load before, not counted.", rich_help_panel=_HOW)
    ] = "1s",
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="How often each is measured.", rich_help_panel=_HOW)
    ] = 4,
    processes: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Processes of the load generator.", rich_help_panel=_HOW)
    ] = 1,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the requests' values.", rich_help_panel=_HOW)] = 0,
    results: Annotated[
        Path,
        typer.Option(metavar="DIR", file_okay=False, help="Reports (JSON, HTML, Markdown).", rich_help_panel=_WHERE),
    ] = Path("streams-results"),
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            rich_help_panel=_WHERE,
            show_default="~/.cache/penstock-bench",
            help="Triton's environment; delete it at will.",
        ),
    ] = None,
) -> int:
    """Measure many streams that each have a state in the server, batched and not, and beside Triton."""
    try:
        request = Request(
            servers=[name.strip() for name in only.split(",") if name.strip()],
            streams=count,
            connections=connections,
            depth=depth,
            calls=calls,
            seconds=seconds_of(seconds),
            warmup=seconds_of(warmup),
            rounds=rounds,
            processes=processes,
            seed=seed,
            transport=transport,
            results=results,
            work=work or default_work(),
            typed=context.obj or (),
        )
    except ValueError as error:
        fail(str(error), 2)
    if sys.platform != "linux":
        fail("servers are compared on Linux alone: their packages and processes are Linux's", 2)
    try:
        from penstock_bench.streams.run import run
    except ModuleNotFoundError as error:
        fail(f"penstock bench streams needs the package {error.name}: pip install 'penstock[peers]'", 2)
    with ending_as_with_ctrl_c():
        return run(request)


streams.__doc__ = f"{streams.__doc__}\n{_EPILOG}"

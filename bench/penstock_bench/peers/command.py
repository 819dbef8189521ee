"""`penstock bench peers`: Penstock beside other servers, on this machine."""

import contextlib
import signal
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from penstock_bench.durations import seconds_of
from penstock_bench.output import fail
from penstock_bench.peers.request import ALL_MODELS, MODELS, Request

_WHAT, _HOW, _WHERE = "What is compared", "How it is measured", "Where things are"
_EPILOG = """
**Peers**: penstock (one for each transport, such as penstock-grpcio), triton, mosec, kserve; with --all also mlserver,
litserve, bentoml, ray-serve. Each is installed from PyPI into an environment of its own, which happens once.

All of it, ten to fifteen minutes after the installing: `penstock bench peers`

Against one of them, exactly: `penstock bench peers --only penstock,triton --model iris --load 4x64 --h2load --rounds 4`

Go on with the slower ones, and keep what is measured: `penstock bench peers --all --resume`

Peers run one at a time, in the order A-B-B-A, and listen on 127.0.0.1 alone. Exit status: 0 all was measured, 1 a peer
failed or is partial (the report says why), 2 it could not begin, 130 Ctrl-C.
"""


def default_work() -> Path:
    return Path.home() / ".cache" / "penstock-bench"


def peers(
    context: typer.Context,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Only these; the first is what the others are compared with.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also the heavy ones; their environments are deleted afterwards.", rich_help_panel=_WHAT
        ),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="iris, mlp, image, or mix (16 models, 64 forms of requests); may be repeated.",
            rich_help_panel=_WHAT,
            show_default="iris, mlp, image",
        ),
    ] = None,
    load: Annotated[
        list[str] | None,
        typer.Option(
            "--load",
            "-l",
            metavar="CxD",
            help="C connections with D requests in flight on each; may be repeated. CxD+timeout: each call with a"
            " timeout of its own.",
            rich_help_panel=_WHAT,
            show_default="1x1, 64x1, 4x64",
        ),
    ] = None,
    seconds: Annotated[
        str, typer.Option(metavar="TIME", help="How long each load is measured.", rich_help_panel=_HOW)
    ] = "5s",
    warmup: Annotated[
        str, typer.Option(metavar="TIME", help="The same load before, not counted.", rich_help_panel=_HOW)
    ] = "1s",
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="How often each peer is measured.", rich_help_panel=_HOW)
    ] = 2,
    processes: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Processes of the load generator.", rich_help_panel=_HOW)
    ] = 1,
    h2load: Annotated[
        bool,
        typer.Option("--h2load", help="Measure the gRPC peers with h2load (nghttp2) as well.", rich_help_panel=_HOW),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the requests' values.", rich_help_panel=_HOW)] = 0,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep what the results folder has of the same settings.", rich_help_panel=_WHERE),
    ] = False,
    results: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            rich_help_panel=_WHERE,
            help="Reports (JSON, HTML, Markdown), and a file for each peer.",
        ),
    ] = Path("peers-results"),
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            rich_help_panel=_WHERE,
            show_default="~/.cache/penstock-bench",
            help="The peers' environments, 8 GiB at most; delete it at will.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the environments of the heavy peers too.", rich_help_panel=_WHERE)
    ] = False,
) -> int:
    """Compare Penstock with other servers: the same models, the same loads, one machine."""
    try:
        request = Request(
            only=[name.strip() for name in only.split(",") if name.strip()] if only else [],
            everything=everything,
            models=_models(model or MODELS),
            loads=load or [],
            seconds=seconds_of(seconds),
            warmup=seconds_of(warmup),
            rounds=rounds,
            processes=processes,
            h2load=h2load,
            seed=seed,
            resume=resume,
            results=results,
            work=work or default_work(),
            keep=keep,
            typed=context.obj or (),
        )
    except ValueError as error:
        fail(str(error), 2)
    if sys.platform != "linux":
        fail("the peers are compared on Linux alone: their packages and processes are Linux's", 2)
    try:
        from penstock_bench.peers.run import run
    except ModuleNotFoundError as error:
        fail(f"penstock bench peers needs the package {error.name}: pip install 'penstock[peers]'", 2)
    with ending_as_with_ctrl_c():
        return run(request)


peers.__doc__ = f"{peers.__doc__}\n{_EPILOG}"


def _models(names: Sequence[str]) -> list[str]:
    found = list(dict.fromkeys(name for each in names for name in each.split(",")))
    for name in found:
        if name not in ALL_MODELS:
            raise ValueError(f"there is no model '{name}': there are {', '.join(ALL_MODELS)}")
    return found


@contextlib.contextmanager
def ending_as_with_ctrl_c() -> Generator[None]:
    """SIGTERM is a Ctrl-C: servers are ended and folders removed before this program ends."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

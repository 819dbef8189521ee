"""`penstock bench profile`: what a request costs, by layer.

options ─▶ a server of ours, or one that runs ─▶ a load, and again with py-spy ─▶ table, --json, --flame
"""

import linecache
import shlex
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer

from penstock_bench.commands.load import address
from penstock_bench.durations import seconds_of
from penstock_bench.load.plan import ClosedLoop, LoadError, LoadPlan, MixItem, Progress, check_plan, describe
from penstock_bench.load.run import run_load
from penstock_bench.load.target import Target
from penstock_bench.load.worker import INTERRUPTED
from penstock_bench.machine import this_machine
from penstock_bench.output import err, fail, out
from penstock_bench.profiling.flame import flame_graph
from penstock_bench.profiling.results import Hot, Profile, read_profile, write_profile
from penstock_bench.profiling.sampling import Recording, ThreadTimes, Unwatchable, between, find_py_spy, thread_times
from penstock_bench.profiling.shares import Shares, attribute, ranges, together
from penstock_bench.profiling.show import show_profile
from penstock_bench.profiling.stacks import parse, short
from penstock_bench.results import Point
from penstock_bench.server import Served, serving

_REQUESTS, _LOAD, _SERVER, _OUTPUT = "The requests", "The load", "The server", "Output"
_SPARE_SECONDS = 3.0
"""Of load besides: py-spy reads the symbols of all libraries before its first sample."""
_FEW_SAMPLES = 200
_WIDE = 0.1
"""Shares of a layer in two rounds that differ by more mean little."""


def _option(
    text: str,
    panel: str,
    *names: str,
    metavar: str | None = None,
    min: float | None = None,
    max: float | None = None,
    show_default: bool | str = True,
) -> object:
    return typer.Option(
        *names, help=text, rich_help_panel=panel, metavar=metavar, min=min, max=max, show_default=show_default
    )


def profile(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL_OR_REPOSITORY", help="What to serve, as for `penstock serve`.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str, _option("The model.", _REQUESTS, "--model", "-m", metavar="NAME", show_default="the only one")
    ] = "",
    rows: Annotated[int, _option("Rows of a request.", _REQUESTS, metavar="N", min=1)] = 1,
    concurrency: Annotated[
        int, _option("Requests in flight at any time.", _LOAD, "--concurrency", "-c", metavar="N", min=1)
    ] = 64,
    connections: Annotated[int, _option("TCP connections.", _LOAD, metavar="N", min=1)] = 4,
    seconds: Annotated[str, _option("How long to measure, and each time to watch.", _LOAD, metavar="TIME")] = "3s",
    rounds: Annotated[int, _option("How often to watch.", _LOAD, metavar="N", min=1, max=100)] = 3,
    warmup: Annotated[str, _option("The same load before, each time.", _LOAD, metavar="TIME")] = "1s",
    seed: Annotated[int, _option("For everything that is drawn.", _LOAD, metavar="N", min=0)] = 0,
    transport: Annotated[
        str, _option("What speaks gRPC.", _SERVER, metavar="NAME", show_default="the server's choice")
    ] = "",
    pid: Annotated[
        int | None, _option("Instead: a server that runs; with --url.", _SERVER, metavar="PID", min=1)
    ] = None,
    native: Annotated[
        bool,
        _option(
            "See C's functions, too: gRPC's, protobuf's, ONNX Runtime's. The server is stopped for each look.",
            _SERVER,
            "--native",
        ),
    ] = False,
    url: Annotated[str, _option("Its gRPC port.", _SERVER, metavar="HOST:PORT", show_default=False)] = "",
    flame: Annotated[
        Path, typer.Option(help="The flame graph.", metavar="FILE", dir_okay=False, rich_help_panel=_OUTPUT)
    ] = Path("penstock-profile.svg"),
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write the profile as JSON.", metavar="FILE", dir_okay=False, rich_help_panel=_OUTPUT
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="An earlier profile, to see what has changed.",
            metavar="FILE",
            dir_okay=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
) -> int:
    """Show where the CPU time of a request goes, layer by layer, with a flame graph.

    For example: `penstock bench profile models/ -m iris`, and after a change
    `penstock bench profile models/ -m iris --compare before.json`

    It runs a closed loop alone, which tells what a request costs, and then some rounds watched by py-spy, which tell
    where. How much the rounds differ is how far to believe them. Without --native, time in C counts for the Python
    function that called it: so what gRPC's own library does on the loop counts for the event loop.

    py-spy must be allowed to look into the server's process: as root, or by the system's settings.

    Ends with 0; with 1 if the server does not start or dies; with 2 if nobody may watch; with 130 after Ctrl-C.
    """
    started = datetime.now(UTC)
    try:
        before = None if compare is None else _earlier(compare)
        find_py_spy()
        plan = LoadPlan(
            host="",
            port=0,
            mix=[MixItem(model=model, rows=rows)],
            load=ClosedLoop(concurrency=concurrency),
            connections=min(connections, concurrency),
            seconds=seconds_of(seconds),
            warmup=seconds_of(warmup),
            seed=seed,
        )
        check_plan(plan)
        server = _server(source, transport, pid, url)
    except (LoadError, ValueError, Unwatchable) as error:
        fail(str(error), 2)
    try:
        with server as served:
            plan = _aim(plan, served, model)
            with Target(plan) as target:
                target.signatures()  # the first complaint, before anything is measured
                name = target.name()
            err.print("measuring what a request costs", style="dim", highlight=False)
            point = run_load(plan, watch=[served.pid])
            _check(point)
            err.print("watching where it goes", style="dim", highlight=False)
            watched = [_watch(plan, served.pid, native) for _ in range(rounds)]
    except LoadError as error:
        fail(str(error), 1)
    except Unwatchable as error:
        fail(str(error), 2)
    cpu = point.server_cpu or 0.0
    found_in = [shares for shares, _ in watched]
    shares = together(found_in)
    found = Profile(
        server=f"{name} ({transport})" if transport else name,
        model=plan.mix[0].model,
        load=describe(plan),
        command=shlex.join(["penstock", "bench", *(context.obj or ())]),
        started=started.isoformat(timespec="seconds"),
        machine=this_machine(),
        seed=seed,
        point=point,
        cpu=cpu,
        kernel=sum(kernel for _, kernel in watched) / rounds,
        layers={layer: share * cpu for layer, share in shares.layers.items()},
        ranges={layer: (low * cpu, high * cpu) for layer, (low, high) in ranges(found_in).items()},
        native=native,
        samples=shares.samples,
        hottest=[
            Hot(function=f"{frame.function} ({short(frame.file)})" if frame.file else frame.function, layer=layer,
                share=share)
            for frame, layer, share in shares.hottest(40)
        ],
        warnings=list(_warnings(shares, found_in)),
    )  # fmt: skip
    show_profile(found, out, before)
    _write(found, shares, flame, as_json)
    return 0


# ── what is measured ──────────────────────────────────────────────────────────────────────────────


def _earlier(file: Path) -> Profile:
    try:
        return read_profile(file)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from None


def _server(source: Path | None, transport: str, pid: int | None, url: str) -> AbstractContextManager[Served]:
    """A context with the server. Raises LoadError."""
    if (source is None) == (pid is None):
        raise LoadError("what is measured? Give a model or a repository, or --pid and --url of a server that runs")
    if source is not None:
        if url:
            raise LoadError("--url goes with --pid: a server that is started here has a port of its own")
        return serving(source, ["--transport", transport] if transport else [])
    if transport:
        raise LoadError("--transport is for a server that is started here")
    if not url:
        raise LoadError("--pid needs --url: where does the server listen?")
    assert pid is not None
    host, port = address(url)
    if not psutil.pid_exists(pid):
        raise LoadError(f"there is no process {pid}")
    return _running(Served(host, port, pid, ()))


@contextmanager
def _running(served: Served) -> Generator[Served]:
    yield served


def _aim(plan: LoadPlan, served: Served, model: str) -> LoadPlan:
    """The plan for this server. Raises LoadError if there is a choice of models."""
    if not model:
        if len(served.models) != 1:
            there = f": there are {', '.join(served.models)}" if served.models else ""
            raise LoadError(f"which model? Give --model{there}")
        model = served.models[0]
    item = msgspec.structs.replace(plan.mix[0], model=model)
    return msgspec.structs.replace(plan, host=served.host, port=served.port, mix=[item])


def _check(point: Point) -> None:
    """Raises LoadError if it makes no sense to go on, and KeyboardInterrupt if somebody wants to stop."""
    if INTERRUPTED in point.warnings:
        raise KeyboardInterrupt
    if point.partial or not point.ok:
        raise LoadError("; ".join(point.warnings) or "the server gave no answers")
    if point.server_cpu is None:
        raise LoadError("the CPU time of the server's process cannot be read: is it on this machine, and yours?")


def _watch(plan: LoadPlan, pid: int, native: bool) -> tuple[Shares, float]:
    """The load again, with somebody watching. Raises LoadError and Unwatchable."""
    again = msgspec.structs.replace(plan, seconds=plan.seconds + _SPARE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="penstock-profile-") as folder:
        recordings: list[Recording] = []
        before: dict[int, ThreadTimes] = {}

        def begin(progress: Progress) -> None:
            if not recordings and progress.elapsed >= plan.warmup:
                before.update(thread_times(pid))
                recordings.append(Recording(pid, plan.seconds, Path(folder) / "stacks", native))

        try:
            point = run_load(again, watch=[pid], on_progress=begin)
            after = thread_times(pid)
            _check(point)
            if not recordings:
                raise LoadError("the load was too short to be watched: give more --seconds")
            text = recordings[0].finish()
        finally:
            for recording in recordings:
                recording.cancel()
    threads, kernel = between(before, after)
    try:
        return attribute(parse(text), threads, linecache.getline), kernel
    except ValueError as error:
        raise LoadError(str(error)) from None


# ── what comes out ────────────────────────────────────────────────────────────────────────────────


def _warnings(shares: Shares, rounds: Sequence[Shares]) -> Iterator[str]:
    if shares.samples < _FEW_SAMPLES:
        yield f"only {shares.samples} samples: small layers are not exact; give more --seconds"
    wide = [name for name, (low, high) in ranges(rounds).items() if high - low > _WIDE]
    if wide:
        yield (
            f"noisy: the share of {', '.join(wide)} differs by more than {_WIDE:.0%} between the rounds; "
            "use a quieter machine, or more --rounds"
        )


def _write(found: Profile, shares: Shares, flame: Path, as_json: Path | None) -> None:
    title = f"{found.server}, {found.model}: {1e6 * found.cpu:.0f} us of CPU time a request"
    try:
        flame.write_text(flame_graph(title, shares, found.cpu), encoding="utf-8")
        if as_json is not None:
            write_profile(found, as_json)
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror or error}", 1)
    out.print(f"flame graph: {flame}", highlight=False, markup=False, soft_wrap=True)

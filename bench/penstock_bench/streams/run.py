"""The order of things: what the model costs alone, the servers in turns, and what a message costs beside a call.

Servers run one at a time, A-B-B-A, as in `penstock bench peers`; so do the two kinds of requests, on one server.
"""

import shlex
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from penstock_bench.load.plan import ClosedLoop, LoadError, LoadPlan, MixItem, Progress, SequencePlan, describe
from penstock_bench.load.run import run_load
from penstock_bench.load.worker import INTERRUPTED
from penstock_bench.machine import PACKAGES, this_machine
from penstock_bench.output import complain, err, escape, fail, out
from penstock_bench.peers import models
from penstock_bench.peers.base import Peer, PeerFailed, RunningPeer
from penstock_bench.peers.penstock import Penstock
from penstock_bench.peers.runner import order
from penstock_bench.peers.workshop import Workshop, WorkshopBusy
from penstock_bench.results import Point, Report, write_report
from penstock_bench.streams import show
from penstock_bench.streams.listener import NAME, Listener
from penstock_bench.streams.request import Request
from penstock_bench.streams.rows import Results, Row
from penstock_bench.streams.servers import OWN, TRITON, chosen

CALLS, MESSAGES = "ModelInfer", "ModelStreamInfer"
_CALL_CONNECTIONS, _CALL_DEPTH = 4, 64
_CHECK_EVERY = 100


def run(request: Request) -> int:
    """Measure, print, write. Returns the exit status."""
    started = datetime.now(UTC)
    workshop = None
    try:
        if TRITON in request.servers:
            workshop = Workshop(request.work)
        request.results.mkdir(parents=True, exist_ok=True)
    except WorkshopBusy as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot use the folder {error.filename}: {error.strerror or error}", 2)
    results = Results()
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-streams-") as folder:
            _measure(request, Path(folder), workshop, results)
    except KeyboardInterrupt:
        results.interrupted = True
    except OSError as error:
        fail(f"cannot begin: {error.filename or ''} {error.strerror or error}".replace("  ", " "), 2)
    finally:
        if workshop is not None:
            workshop.close()
    show.print_tables(results)
    _write(request, results, started)
    return 130 if results.interrupted else 0 if results.is_whole else 1


def _measure(request: Request, folder: Path, workshop: Workshop | None, results: Results) -> None:
    with err.status("what the model costs without a server") as status:

        def tell(text: str) -> None:
            status.update(escape(text))

        listener = Listener(folder)
        results.costs.extend(listener.costs())
        servers = chosen(request.servers, workshop, request.transport, request.streams)
        rows = {server.name: Row(server.name, server.title, server.remark) for server in servers}
        results.servers.extend(rows.values())
        _prepare(servers, rows, tell)
        for round, server in order(servers, request.rounds):
            _turn(server, listener, rows[server.name], request, round, tell)
        if request.calls:
            results.calls += [Row(CALLS, CALLS, "a call each"), Row(MESSAGES, MESSAGES, "a message on an open stream")]
            _compare_calls(request, folder, results.calls, tell)


def _prepare(servers: Sequence[Peer], rows: dict[str, Row], tell: Callable[[str], None]) -> None:
    for server in servers:
        tell(f"making the environment of {server.title}")
        try:
            server.prepare()
        except PeerFailed as error:
            rows[server.name].failure = str(error)


def _turn(
    server: Peer, listener: Listener, row: Row, request: Request, round: int, tell: Callable[[str], None]
) -> None:
    """One server, once."""
    if row.failure:
        return
    where = f"{server.title}, round {round + 1} of {request.rounds}"
    tell(f"{where}: starting")
    try:
        running = server.start(listener.models)
        plan = plan_of(request, running, listener, round, named=server.name != OWN)
        row.load = describe(plan)
        point = _load(plan, running, where, tell)
    except (PeerFailed, LoadError) as error:
        row.failure = str(error)
        return
    finally:
        server.stop()
    row.points[round] = point
    _say(f"{where}: {point.throughput:,.0f} frames/s")


def plan_of(request: Request, running: RunningPeer, listener: Listener, round: int, *, named: bool) -> LoadPlan:
    """The load on one server."""
    return LoadPlan(
        host=running.host,
        port=running.port,
        mix=[MixItem(model=NAME, inputs={"input": str(listener.frames_file)})],
        load=ClosedLoop(concurrency=request.streams * request.depth),
        connections=request.connections,
        seconds=request.seconds,
        warmup=request.warmup,
        processes=min(request.processes, request.connections),
        seed=request.seed + round,
        stream=True,
        streams_per_connection=request.streams // request.connections,
        sequences=SequencePlan(named=named, expected=str(listener.expected_file)),
        variants=len(listener.frames),
    )


def _load(plan: LoadPlan, running: RunningPeer, where: str, tell: Callable[[str], None]) -> Point:
    """Raises LoadError, also for a server that answers nothing, and KeyboardInterrupt."""

    def progress(progress: Progress) -> None:
        tell(f"{where}: {progress.answered:,} answers")

    point = run_load(plan, watch=running.pids, on_progress=progress)
    if INTERRUPTED in point.warnings:
        raise KeyboardInterrupt
    if point.partial or not point.ok:
        raise LoadError("; ".join(point.warnings) or "no request was answered")
    return point


def _compare_calls(request: Request, folder: Path, rows: Sequence[Row], tell: Callable[[str], None]) -> None:
    """What the same request costs as a call and as a message, by turns on one server."""
    server = Penstock(request.transport)
    try:
        iris = models.make("iris", folder)
        running = server.start(models.ModelSet(iris.name, (iris,)))
        for round, row in order(rows, request.rounds):
            where = f"{row.title}, round {round + 1} of {request.rounds}"
            plan = LoadPlan(
                host=running.host,
                port=running.port,
                mix=[MixItem(model=iris.name)],
                load=ClosedLoop(concurrency=_CALL_CONNECTIONS * _CALL_DEPTH),
                connections=_CALL_CONNECTIONS,
                seconds=request.seconds,
                warmup=request.warmup,
                processes=min(request.processes, _CALL_CONNECTIONS),
                seed=request.seed + round,
                check_every=_CHECK_EVERY,
                stream=row.name == MESSAGES,
            )
            # One load, whatever it is called: reports compare series of equal loads.
            row.load = describe(msgspec.structs.replace(plan, stream=False))
            row.points[round] = point = _load(plan, running, where, tell)
            if point.server_cpu is not None:
                _say(f"{where}: {point.throughput:,.0f}/s, {point.server_cpu * 1e6:.1f} us of CPU each")
    except (PeerFailed, LoadError) as error:
        for row in rows:
            row.failure = row.failure or str(error)
    finally:
        server.stop()


def _say(text: str) -> None:
    err.print(escape(text), markup=False, highlight=False, soft_wrap=True)


def _write(request: Request, results: Results, started: datetime) -> None:
    """The three reports. Trouble is told, and does not change what was measured."""
    report = Report(
        title="Streams with a state in the server",
        command=shlex.join(["penstock", "bench", *request.typed]),
        started=started.isoformat(timespec="seconds"),
        machine=this_machine(PACKAGES),
        seed=request.seed,
        settings={
            "streams": f"{request.streams}",
            "connections": f"{request.connections}",
            "frames in flight on each stream": f"{request.depth}",
            "rounds": f"{request.rounds}",
            "seconds": f"{request.seconds:g}",
            "order": "A-B-B-A, one server at a time",
            "model threads": "1",
            **{f"model alone, us/row of {cost.rows}": f"{cost.per_row * 1e6:.1f}" for cost in results.costs},
        },
        series=[*(row.series(NAME) for row in results.servers), *(row.series("iris") for row in results.calls)],
        partial=not results.is_whole,
    )
    try:
        write_report(report, request.results / "report.json")
        (request.results / "report.md").write_text(show.markdown(report, results), encoding="utf-8")
        from penstock_bench.report.html import page

        (request.results / "report.html").write_text(page(report), encoding="utf-8")
    except OSError as error:
        complain(f"cannot write {error.filename}: {error.strerror or error}")
        return
    out.print(f"Reports: {request.results}/report.json, .md, .html", highlight=False, soft_wrap=True)

"""Runs a comparison from its request to its reports."""

import shlex
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from penstock_bench.machine import PACKAGES, this_machine
from penstock_bench.output import complain, err, fail, out
from penstock_bench.peers import loads, models
from penstock_bench.peers.base import Peer
from penstock_bench.peers.compare import Group, groups, series_of
from penstock_bench.peers.registry import chosen
from penstock_bench.peers.request import Request
from penstock_bench.peers.runner import H2LOAD, OWN, Comparison, Runner
from penstock_bench.peers.store import Store
from penstock_bench.peers.tables import markdown, show_groups
from penstock_bench.peers.watching import ConsoleWatcher
from penstock_bench.peers.workshop import ONNXRUNTIME, Workshop, WorkshopBusy
from penstock_bench.results import Report, write_report

_START_SECONDS = 6.0
"""About what a turn takes beside its loads."""


def run(request: Request) -> int:
    """Measure, print, write. Returns the exit status."""
    if request.h2load and shutil.which("h2load") is None:
        fail("h2load is not installed: on Debian and Ubuntu it is in the package nghttp2-client", 2)
    try:
        wanted = [loads.parse(text) for each in request.loads for text in each.split(",")] or list(loads.DEFAULT)
        workshop = Workshop(request.work)
    except (ValueError, WorkshopBusy) as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot use the folder {request.work}: {error.strerror or error}", 2)
    try:
        return _compare(request, list(dict.fromkeys(wanted)), workshop)
    finally:
        workshop.close()


def _compare(request: Request, wanted: Sequence[loads.Load], workshop: Workshop) -> int:
    started = datetime.now(UTC)
    try:
        peers = chosen(workshop, request.only, request.everything)
        made = [models.make_set(name, workshop.folder / "models") for name in request.models]
        store = Store(request.results)
    except ValueError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot begin: {error.filename or ''} {error.strerror or error}".replace("  ", " "), 2)
    effort = loads.Effort(request.seconds, request.warmup, request.processes, request.seed)
    comparison = Comparison(models=made, loads=wanted, rounds=request.rounds, effort=effort, h2load=request.h2load)
    interrupted = False
    with ConsoleWatcher(err, len(peers) * len(made) * request.rounds) as watcher:
        runner = Runner(comparison, peers, store, watcher)
        _announce(runner, comparison, peers)
        try:
            runner.run(request.resume, request.keep)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            for peer in peers:
                peer.stop()
    clients = [OWN, H2LOAD] if request.h2load else [OWN]
    results = [runner.results[peer.name] for peer in peers if peer.name in runner.results]
    found = groups(results, request.models, wanted, clients, request.rounds)
    show_groups(found)
    status = _status(found)
    _write(request, comparison, found, started, partial=interrupted or status != 0)
    return 130 if interrupted else status


def _announce(runner: Runner, comparison: Comparison, peers: Sequence[Peer]) -> None:
    each = sum(
        len(loads.for_protocol(comparison.loads, peer.protocol == "gRPC"))
        * (2 if comparison.h2load and peer.protocol == "gRPC" else 1)
        for peer in peers
    ) / len(peers)
    seconds = runner.turns * (each * (comparison.effort.seconds + comparison.effort.warmup + 1) + _START_SECONDS)
    err.print(
        f"{', '.join(peer.title for peer in peers)}: {runner.turns} turns, about {max(1, round(seconds / 60))} min"
        " (and some minutes more where an environment must be made)",
        highlight=False,
        soft_wrap=True,
    )


def _status(found: Sequence[Group]) -> int:
    """0 if all of it was measured, and nothing was wrong."""
    for group in found:
        for row in group.rows:
            points = row.series.points
            if row.partial or row.series.failure or any(point.wrong or point.partial for point in points):
                return 1
    return 0


def _write(
    request: Request, comparison: Comparison, found: Sequence[Group], started: datetime, *, partial: bool
) -> None:
    """The three reports. Trouble is told, and does not change what was measured."""
    report = Report(
        title="Penstock and other servers",
        command=shlex.join(["penstock", "bench", *request.typed]),
        started=started.isoformat(timespec="seconds"),
        machine=this_machine(PACKAGES),
        seed=request.seed,
        settings={
            **comparison.settings(),
            "rounds": f"{comparison.rounds}",
            "models": ", ".join(request.models),
            "order": "A-B-B-A, one server at a time",
            "model threads": "1",
            "peers' ONNX Runtime": ONNXRUNTIME.partition("==")[2],
        },
        series=series_of(found),
        partial=partial,
    )
    try:
        write_report(report, request.results / "report.json")
        (request.results / "report.md").write_text(_markdown(report, found), encoding="utf-8")
        _write_page(report, request.results / "report.html")
    except OSError as error:
        complain(f"cannot write {error.filename}: {error.strerror or error}")
        return
    out.print(f"Reports: {request.results}/report.json, .md, .html", highlight=False, soft_wrap=True)


def _write_page(report: Report, path: Path) -> None:
    from penstock_bench.report.html import page

    path.write_text(page(report), encoding="utf-8")


def _markdown(report: Report, found: Sequence[Group]) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    head = [
        f"# {report.title}{' (partial)' if report.partial else ''}",
        "",
        f"`{report.command}`",
        "",
        f"{report.started}, {machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}; "
        f"{versions}. {', '.join(f'{name}: {value}' for name, value in report.settings.items())}.",
        "",
        "Requests/s is the median of the rounds; ratio is to the first row, as the median of the rounds' ratios "
        "(smallest to largest). CPU/request is of all processes of the server.",
        "",
        "",
    ]
    return "\n".join(head) + markdown(found)

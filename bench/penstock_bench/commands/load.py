"""`penstock bench load`: one server, one load or several.

options ─▶ LoadPlan ─▶ run_load, sweep or h2load ─▶ Report ─▶ a table here, --json, --html, --markdown
"""

import contextlib
import json
import shlex
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from penstock_bench.durations import range_of, seconds_of, show
from penstock_bench.h2load import REMARK, run_h2load
from penstock_bench.load import plan as plans
from penstock_bench.load.arrivals import read_trace
from penstock_bench.load.plan import ClosedLoop, LoadError, LoadPlan, MixItem, OpenLoop, Timeouts, TlsFiles
from penstock_bench.load.run import run_repeatedly, series_of, sweep
from penstock_bench.load.target import Target
from penstock_bench.load.worker import INTERRUPTED
from penstock_bench.machine import this_machine
from penstock_bench.output import complain, err, escape, fail, out
from penstock_bench.results import Point, Report, Series, write_report

_CONCURRENCY = 64
_REQUESTS, _LOAD, _SERVER, _OUTPUT = "The requests", "The load", "The server", "Output"
_MOST_KINDS = 64


def _option(
    text: str,
    panel: str,
    *names: str,
    metavar: str | None = None,
    min: float | None = None,
    show_default: bool | str = True,
) -> object:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, min=min, show_default=show_default)


def _file(text: str, panel: str, *names: str, metavar: str = "FILE", exists: bool = False) -> object:
    return typer.Option(
        *names, help=text, rich_help_panel=panel, metavar=metavar, dir_okay=False, exists=exists, show_default=False
    )


def load(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server's gRPC port.")],
    model: Annotated[str, _option("The model.", _REQUESTS, "--model", "-m", metavar="NAME", show_default=False)] = "",
    model_version: Annotated[
        str, _option("Its version.", _REQUESTS, metavar="VERSION", show_default="the server's choice")
    ] = "",
    rows: Annotated[int, _option("Rows of a request.", _REQUESTS, metavar="N", min=1)] = 1,
    inputs: Annotated[
        list[str] | None,
        _option(
            "Rows of this input, in turn; one for each input.",
            _REQUESTS,
            "--input",
            "-i",
            metavar="NAME=@FILE.npy",
            show_default="random",
        ),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        _option(
            "The shape of a random input, with the batch axis.",
            _REQUESTS,
            "--shape",
            metavar="NAME=N,N,…",
            show_default="the model's, and 16 for a free axis",
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None, _option("Only this output; one for each.", _REQUESTS, "--output", metavar="NAME")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        _option("A parameter of the requests; one for each.", _REQUESTS, "--parameter", metavar="KEY=VALUE"),
    ] = None,
    metadata: Annotated[
        list[str] | None, _option("gRPC metadata of the calls; one for each.", _REQUESTS, metavar="KEY=VALUE")
    ] = None,
    mix: Annotated[
        Path | None, _file("Instead: several kinds of requests with their weights, as JSON.", _REQUESTS, exists=True)
    ] = None,
    timeout: Annotated[
        str | None,
        _option(
            "The calls' timeout, or a range to draw it from.",
            _REQUESTS,
            metavar="1s..3s",
            show_default="none",
        ),
    ] = None,
    plain_timeouts: Annotated[
        bool,
        _option("Send timeouts so that they leave the header table alone.", _REQUESTS, "--plain-timeouts"),
    ] = False,
    stream: Annotated[bool, _option("Over bidirectional streams, ModelStreamInfer.", _REQUESTS, "--stream")] = False,
    streams: Annotated[int, _option("Streams on each connection.", _REQUESTS, metavar="N", min=1)] = 1,
    concurrency: Annotated[
        int | None,
        _option(
            "Closed loop: so many requests are in flight at any time.",
            _LOAD,
            "--concurrency",
            "-c",
            metavar="N",
            min=1,
            show_default=f"{_CONCURRENCY}, or as many as --connections",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        _option("Open loop: requests a second, answered or not.", _LOAD, "--rate", "-r", metavar="R", min=0.001),
    ] = None,
    arrivals: Annotated[
        str, _option("Of an open loop: poisson, constant, or bursts of ten.", _LOAD, metavar="KIND")
    ] = "poisson",
    trace: Annotated[
        Path | None,
        _file("Open loop: arrivals as `serve --record-trace` wrote them, or seconds, one a line.", _LOAD, exists=True),
    ] = None,
    sweep_loads: Annotated[
        bool, _option("Several loads, up to saturation; with --rate or --trace, rates.", _LOAD, "--sweep")
    ] = False,
    loads: Annotated[
        str | None,
        _option("These loads: concurrencies, or with --rate rates.", _LOAD, metavar="N,N,…", show_default=False),
    ] = None,
    connections: Annotated[int, _option("TCP connections.", _LOAD, metavar="N", min=1)] = 4,
    processes: Annotated[int, _option("Processes that send.", _LOAD, metavar="N", min=1)] = 1,
    seconds: Annotated[
        str | None, _option("How long to measure.", _LOAD, metavar="TIME", show_default="10s; a trace: its length")
    ] = None,
    warmup: Annotated[str, _option("The same load before, not counted.", _LOAD, metavar="TIME")] = "1s",
    repeat: Annotated[int, _option("Runs; the median is reported, with the spread.", _LOAD, metavar="N", min=1)] = 1,
    seed: Annotated[int, _option("For everything that is drawn.", _LOAD, metavar="N", min=0)] = 0,
    variants: Annotated[int, _option("Different requests of each kind.", _LOAD, metavar="N", min=1)] = 2048,
    check_every: Annotated[
        int, _option("One in so many answers is compared; 0: none.", _LOAD, metavar="N", min=0)
    ] = 100,
    h2load: Annotated[bool, _option("The same closed loop by h2load, too.", _LOAD, "--h2load")] = False,
    watch: Annotated[
        list[int] | None,
        _option("A process of the server, to count its CPU; one for each.", _SERVER, metavar="PID"),
    ] = None,
    name: Annotated[
        str, _option("The server's name in the report.", _SERVER, metavar="TEXT", show_default="as it says")
    ] = "",
    tls: Annotated[bool, _option("Use TLS and trust the public authorities.", _SERVER, "--tls")] = False,
    tls_ca: Annotated[
        Path | None, _file("Use TLS and trust this authority.", _SERVER, metavar="PEM", exists=True)
    ] = None,
    tls_cert: Annotated[Path | None, _file("Our certificate.", _SERVER, metavar="PEM", exists=True)] = None,
    tls_key: Annotated[Path | None, _file("Its private key.", _SERVER, metavar="PEM", exists=True)] = None,
    slo: Annotated[
        str | None, _option("Count the answers within this time.", _OUTPUT, metavar="20ms", show_default="none")
    ] = None,
    as_json: Annotated[Path | None, _file("Write the report as JSON.", _OUTPUT, "--json")] = None,
    html: Annotated[Path | None, _file("Write it as a page with charts.", _OUTPUT)] = None,
    markdown: Annotated[Path | None, _file("Write it as a table in Markdown.", _OUTPUT)] = None,
) -> int:
    """Measure a server of the V2 protocol: Penstock, Triton, KServe or another one.

    For example, as fast as it answers 64 requests at a time, then 500 requests a second whatever it does, then to its
    limits:

    `penstock bench load 127.0.0.1:8001 -m iris`

    `penstock bench load 127.0.0.1:8001 -m iris --rate 500 --slo 20ms --timeout 1s..3s`

    `penstock bench load 127.0.0.1:8001 -m iris --sweep --json iris.json --html iris.html`

    Latency counts from when a request was due, so a server that stalls shows in it. Times are 20ms, 1.5s, 2m. Requests
    are random, by the model's metadata, and each is different; some answers are compared with what the same request
    was answered before.

    Ends with 0; with 1 if the server cannot be measured, dies or gives wrong answers; with 130 after Ctrl-C, and then
    reports what it has.
    """
    started = datetime.now(UTC)
    try:
        host, port = address(url)
        items = _mix(mix, model, trace, model_version, rows, inputs, shapes, outputs, parameters, metadata)
        plan = LoadPlan(
            host=host,
            port=port,
            tls=_tls(tls, tls_ca, tls_cert, tls_key),
            mix=items,
            load=_loop(concurrency, rate, arrivals, trace, connections),
            connections=connections,
            seconds=_length(seconds, warmup, trace, rate),
            warmup=seconds_of(warmup),
            processes=processes,
            seed=seed,
            timeouts=_timeouts(timeout, plain_timeouts),
            stream=stream,
            streams_per_connection=streams,
            slo=None if slo is None else seconds_of(slo),
            check_every=check_every,
            variants=variants,
        )
        plans.check_plan(plan)
        wanted = None if loads is None else _numbers(loads)
    except (LoadError, ValueError) as error:
        fail(str(error), 2)
    series: list[Series] = []
    try:
        with Target(plan) as target:
            target.signatures()  # the first complaint, before anything is drawn
            name = name or target.name()
        pids = watch or []
        with _progress(plan) as tell:
            if sweep_loads or wanted is not None:
                series.append(sweep(plan, name, loads=wanted, repetitions=repeat, watch=pids, on_progress=tell))
            else:
                point = run_repeatedly(plan, repeat, watch=pids, on_progress=tell)
                series.append(series_of(plan, name, [point]))
            if h2load and not series[-1].failure and not any(point.partial for point in series[-1].points):
                series.append(_by_h2load(plan, name, pids))
    except LoadError as error:
        if not series:
            fail(str(error), 1)
        complain(str(error))
    except KeyboardInterrupt:
        if not series:
            raise
    report = _report(plan, series, started, context.obj or ())
    _print(report)
    _write(report, as_json, html, markdown)
    return _status(report)


def address(url: str) -> tuple[str, int]:
    """`host:port` or `[host]:port`. Raises LoadError."""
    host, _, port = url.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if "://" in url or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LoadError(f"the server is HOST:PORT without a scheme, such as 127.0.0.1:8001, not '{url}'")
    return host, int(port)


# ── what was typed ────────────────────────────────────────────────────────────────────────────────


def _mix(
    file: Path | None,
    model: str,
    trace: Path | None,
    version: str,
    rows: int,
    inputs: Sequence[str] | None,
    shapes: Sequence[str] | None,
    outputs: Sequence[str] | None,
    parameters: Sequence[str] | None,
    metadata: Sequence[str] | None,
) -> Sequence[MixItem]:
    """What is sent: a file's mix, one model, or what a trace had."""
    if file is not None:
        if model or inputs or shapes or outputs or parameters or metadata:
            raise LoadError("--mix says all of the requests: leave out --model and what goes with it")
        return read_mix(file)
    kinds = [(model, rows)] if model else _kinds(trace)
    return [
        MixItem(
            model=each,
            version=version,
            rows=count,
            inputs=_files(inputs or ()),
            shapes={key: _shape(value) for key, value in _pairs(shapes or (), "--shape").items()},
            outputs=outputs or (),
            parameters={key: _parameter(value) for key, value in _pairs(parameters or (), "--parameter").items()},
            metadata={key.lower(): value for key, value in _pairs(metadata or (), "--metadata").items()},
        )
        for each, count in kinds
    ]


def _kinds(trace: Path | None) -> Sequence[tuple[str, int]]:
    """The models and rows of a recorded trace, so that its requests can be sent as they were."""
    found = [] if trace is None else sorted({(one.model, one.rows) for one in read_trace(trace) if one.model})
    if not found:
        raise LoadError("which model? Give --model, or a --mix")
    if len(found) > _MOST_KINDS:
        raise LoadError(f"the trace has {len(found)} kinds of requests: give a --mix, or one --model")
    return found


def read_mix(file: Path) -> Sequence[MixItem]:
    """A JSON list of `MixItem`s. Raises LoadError."""
    try:
        items = msgspec.json.decode(file.read_bytes(), type=list[MixItem])
    except OSError as error:
        raise LoadError(f"cannot read {file}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        example = '[{"model": "iris", "weight": 3}, {"model": "digits", "rows": 4, "traffic": "bulk"}]'
        raise LoadError(f"{file} is no mix of requests, such as {example}: {error}") from None
    if not items:
        raise LoadError(f"{file}: there is no kind of request in it")
    return items


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise LoadError(f"{option} must look like NAME=VALUE, not '{text}'")
        found[key] = value
    return found


def _files(texts: Sequence[str]) -> dict[str, str]:
    found = _pairs(texts, "--input")
    for name, value in found.items():
        if not value.startswith("@"):
            raise LoadError(f"--input {name} is a file, such as {name}=@rows.npy, not '{value}'")
    return {name: value[1:] for name, value in found.items()}


def _shape(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise LoadError(f"a shape is whole numbers with commas in between, not '{text}'") from None


def _parameter(text: str) -> plans.Parameter:
    """A parameter's value by its looks: `true`, `7`, `0.5`, anything else is text."""
    try:
        value = cast("object", json.loads(text))
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text


def _loop(
    concurrency: int | None, rate: float | None, arrivals: str, trace: Path | None, connections: int
) -> ClosedLoop | OpenLoop:
    if concurrency is not None and (rate is not None or trace is not None):
        raise LoadError("a load is a closed loop with --concurrency, or an open one with --rate or --trace")
    if trace is not None:
        return OpenLoop(rate=rate or 0.0, arrivals="trace", trace=str(trace))
    if rate is not None:
        if arrivals not in ("poisson", "constant", "bursts"):
            raise LoadError(f"arrivals are poisson, constant or bursts, not '{arrivals}'")
        return OpenLoop(rate=rate, arrivals=cast("plans.Arrivals", arrivals))
    return ClosedLoop(concurrency=concurrency or max(_CONCURRENCY, connections))


def _length(seconds: str | None, warmup: str, trace: Path | None, rate: float | None) -> float:
    if seconds is not None:
        return seconds_of(seconds)
    if trace is None or rate is not None:
        return 10.0
    recorded = read_trace(trace)
    # At least something is measured, also of a trace that is shorter than the warm-up.
    return max(0.1, recorded[-1].at - recorded[0].at - seconds_of(warmup))


def _timeouts(text: str | None, plain: bool) -> Timeouts | None:
    if text is None:
        return None
    low, high = range_of(text)
    return Timeouts(low=low, high=high, indexed=not plain)


def _tls(wanted: bool, ca: Path | None, cert: Path | None, key: Path | None) -> TlsFiles | None:
    if not wanted and ca is None and cert is None and key is None:
        return None
    if (cert is None) != (key is None):
        raise LoadError("a certificate of ours needs both --tls-cert and --tls-key")
    ca_file, cert_file, key_file = (None if file is None else str(file) for file in (ca, cert, key))
    return TlsFiles(ca=ca_file, cert=cert_file, key=key_file)


def _numbers(text: str) -> list[float]:
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not 0 < found[0] <= found[-1] < 1e9:
        raise LoadError(f"--loads are concurrencies or rates, such as 1,8,64, not '{text}'")
    return found


# ── the run ───────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _progress(plan: LoadPlan) -> Generator[Callable[[plans.Progress], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("preparing", total=plan.warmup + plan.seconds, words="")

        def tell(progress: plans.Progress) -> None:
            failed = f", {progress.failed:,} failed" if progress.failed else ""
            doing = "warming up" if progress.elapsed < plan.warmup else "measuring"
            words = f"{progress.answered:,} answers{failed}"
            bar.update(task, description=doing, completed=progress.elapsed, words=words)

        yield tell


def _by_h2load(plan: LoadPlan, name: str, watch: Sequence[int]) -> Series:
    found = series_of(plan, name, ())
    try:
        found = msgspec.structs.replace(found, points=[run_h2load(plan, watch=watch)])
    except LoadError as error:
        found = msgspec.structs.replace(found, failure=str(error))
    return msgspec.structs.replace(found, client="h2load", remark=REMARK)


# ── the report ────────────────────────────────────────────────────────────────────────────────────


def _report(plan: LoadPlan, series: Sequence[Series], started: datetime, typed: Sequence[str]) -> Report:
    settings = {
        "connections": f"{plan.connections}",
        "processes": f"{plan.processes}",
        "seconds": f"{plan.seconds:g}",
        "warm-up": f"{plan.warmup:g}",
        "timeouts": "none" if plan.timeouts is None else f"{show(plan.timeouts.low)} to {show(plan.timeouts.high)}",
        "variants": f"{plan.variants}",
        "checked": f"one in {plan.check_every}" if plan.check_every else "none",
        "requests": msgspec.json.encode(plan.mix).decode(),
    }
    return Report(
        title=f"Load on {series[0].server if series else plan.target}",
        command=shlex.join(["penstock", "bench", *typed]),
        started=started.isoformat(timespec="seconds"),
        machine=this_machine(),
        seed=plan.seed,
        settings=settings,
        slo=plan.slo,
        series=series,
        partial=any(point.partial for one in series for point in one.points),
    )


_HEAD = ("load", "good/s", "p50", "p90", "p99", "p99.9", "failed", "cpu/req", "batch")
_WIDE_HEAD = ("max", "sent", "generator")
_WIDE = 100


def _print(report: Report) -> None:
    wide = out.width >= _WIDE
    for one in report.series:
        client = "" if one.client == "penstock bench" else f", by {one.client}"
        title = f"{one.server}, {one.model}: {one.load}{client}{' (partial)' if report.partial else ''}"
        out.print(escape(title), markup=False, highlight=False, style="bold")
        if one.points:
            table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
            slo = [] if report.slo is None else [f"in {show(report.slo)}"]
            for head in (*_HEAD, *slo, *(_WIDE_HEAD if wide else ())):
                table.add_column(head, justify="right", no_wrap=True)
            for point in one.points:
                table.add_row(*_cells(point), *(_wide_cells(point) if wide else ()))
            out.print(table)
        for point in one.points:
            where = f"{_load(point)}: " if len(one.points) > 1 else ""
            for warning in point.warnings:
                out.print(f"! {where}{escape(warning)}", markup=False, highlight=False, soft_wrap=True)
        if one.failure:
            complain(one.failure)


def _load(point: Point) -> str:
    return f"{point.concurrency}" if point.offered is None else f"{point.offered:.0f}/s"


def _cells(point: Point) -> list[str]:
    latency = point.latency
    quantiles = [] if latency is None else [show(latency.quantiles[each]) for each in ("0.5", "0.9", "0.99", "0.999")]
    cells = [
        _load(point),
        f"{point.throughput:,.0f}" + ("" if point.spread is None else f" ±{point.spread / 2:.0%}"),
        *(quantiles or ["-"] * 4),
        f"{sum(point.failed.values()) + point.unanswered:,}",
        "-" if point.server_cpu is None else show(point.server_cpu),
        "-" if point.batch_rows is None else f"{point.batch_rows:.1f}",
    ]
    if point.in_time is not None:
        cells.append(f"{point.in_time / max(1, point.sent):.1%}")
    return cells


def _wide_cells(point: Point) -> list[str]:
    longest = "-" if point.latency is None else show(point.latency.maximum)
    return [longest, f"{point.sent:,}", f"{point.generator_cpu:.0%}"]


def _write(report: Report, as_json: Path | None, html: Path | None, markdown: Path | None) -> None:
    try:
        if as_json is not None:
            write_report(report, as_json)
        if html is not None:
            from penstock_bench.report.html import page

            html.write_text(page(report), encoding="utf-8")
        if markdown is not None:
            from penstock_bench.report.markdown import table

            markdown.write_text(table(report), encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror or error}", 1)


def _status(report: Report) -> int:
    points = [point for one in report.series for point in one.points]
    if any(INTERRUPTED in point.warnings for point in points):
        return 130
    bad = any(point.partial or point.wrong or not point.ok for point in points)
    return 1 if bad or not points or any(one.failure and not one.points for one in report.series) else 0

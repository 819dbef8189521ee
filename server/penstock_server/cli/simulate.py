"""`penstock simulate`: how the policies would do, before anything is served.

options ─▶ Question ─▶ sweep ─▶ Report ─▶ tables and bars here, --html, --json
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from penstock_scheduler import PolicyName, Settings
from penstock_server import __version__
from penstock_server.app.trace import BadTrace, read_trace
from penstock_server.cli.addresses import channel_options
from penstock_server.cli.costs import Cost, fit, parse_cost, samples_of
from penstock_server.cli.output import err, fail, out
from penstock_server.cli.sweep import ArrivalKind, Outcome, Question, Report, runs, sweep
from penstock_server.cli.tls import TlsAuthority, TlsCertificate, TlsKey, TlsWanted, tls_credentials
from penstock_server.cli.values import BadValue

if TYPE_CHECKING:  # loaded where something is drawn
    from penstock_bench.plots import Chart
    from penstock_client import Tls

_LOADS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0)
_INSTANCES, _MAX_BATCH = 1, 64
_COST_PANEL, _ARRIVALS, _SETTINGS, _OUTPUT = "What a batch costs", "Arrivals", "The model's settings", "Output"

_OPTION_OF = {
    "max_batch_rows": "--max-batch-size",
    "max_queued_rows": "--max-queue-rows",
    "preferred_sizes": "--preferred",
    "default_level": "--default-priority",
}


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


def _file(text: str, *names: str) -> object:
    return typer.Option(*names, help=text, rich_help_panel=_OUTPUT, metavar="FILE", dir_okay=False, writable=True)


def simulate(
    cost: Annotated[
        str | None, _option("Milliseconds of a row, and of a batch besides.", _COST_PANEL, metavar="A,B")
    ] = None,
    url: Annotated[
        str | None,
        _option("Instead: what this server has measured of `--model`.", _COST_PANEL, metavar="HOST:PORT"),
    ] = None,
    model: Annotated[
        str, _option("The model at `--url`, and in the trace.", _COST_PANEL, metavar="NAME", show_default=False)
    ] = "",
    tls: TlsWanted = False,
    tls_ca: TlsAuthority = None,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    noise: Annotated[
        float,
        _option("Batches take up to so much longer: |N(0, noise)|.", _COST_PANEL, metavar="PART", min=0, max=10),
    ] = 0.0,
    arrivals: Annotated[ArrivalKind, _option("How requests come in.", _ARRIVALS)] = ArrivalKind.POISSON,
    trace: Annotated[
        Path | None, _option("Instead: as `serve --record-trace` wrote it.", _ARRIVALS, metavar="FILE")
    ] = None,
    deadline_ms: Annotated[
        float | None,
        _option("The deadline of requests that bring none.", _ARRIVALS, metavar="MS", min=0.001, show_default="none"),
    ] = None,
    loads: Annotated[
        str | None,
        _option(
            "Multiples of the capacity, with commas in between.",
            _ARRIVALS,
            metavar="X,X",
            show_default="0.1 to 2; of a trace: as recorded",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        _option("Instead: rows a second.", _ARRIVALS, metavar="R", min=0.001, show_default=False),
    ] = None,
    seconds: Annotated[
        float | None,
        _option(
            "How long each run is.", _ARRIVALS, metavar="S", min=0.001, max=1e6, show_default="about 20,000 requests"
        ),
    ] = None,
    seed: Annotated[int, _option("The first seed.", _ARRIVALS, metavar="N")] = 0,
    repeat: Annotated[int, _option("Runs, with a seed each, that make one result.", _ARRIVALS, metavar="N", min=1)] = 1,
    policy: Annotated[
        list[PolicyName] | None,
        _option(
            "Only this one: eager, fixed or deadline; one for each.", _SETTINGS, metavar="NAME", show_default="all"
        ),
    ] = None,
    instances: Annotated[
        int | None,
        _option("Batches that run at once.", _SETTINGS, metavar="N", min=1, show_default="1, or as at --url"),
    ] = None,
    max_batch_size: Annotated[
        int | None,
        _option("The largest batch.", _SETTINGS, metavar="ROWS", min=1, show_default="64, or as at --url"),
    ] = None,
    max_queue_rows: Annotated[int, _option("Rows that may wait.", _SETTINGS, metavar="ROWS", min=1)] = 4096,
    queue_delay_ms: Annotated[
        float,
        _option("Of policy `fixed`: how long the oldest waits for company.", _SETTINGS, metavar="MS", min=0, max=1e6),
    ] = 0.0,
    preferred: Annotated[
        str | None,
        _option("Of policy `fixed`: its preferred batch sizes.", _SETTINGS, metavar="ROWS", show_default="none"),
    ] = None,
    priority_levels: Annotated[
        int, _option("Priority levels; 0: a trace's priorities do not count.", _SETTINGS, metavar="N", min=0)
    ] = 0,
    default_priority: Annotated[
        int, _option("The level of requests that name none.", _SETTINGS, metavar="N", min=1)
    ] = 1,
    html: Annotated[Path | None, _file("Write a page with charts.")] = None,
    as_json: Annotated[Path | None, _file("Write the numbers as JSON.", "--json")] = None,
) -> int:
    """Compare the scheduling policies on arrivals, with the scheduler's own code and no server.

    For example: `penstock simulate --cost 1.05,5.07 --deadline-ms 25`

    A load of 1 is the capacity: the rows a second that the model can serve for ever, within the deadline if there is
    one. Latencies are those of answered requests. The same options give the same numbers.

    Ends with 0, or with 2 if there is nothing to simulate.
    """
    if trace is not None and seconds is not None:
        fail("--trace has its own duration: leave out --seconds", 2)
    credentials = tls_credentials(tls, tls_ca, tls_cert, tls_key)
    try:
        measured = _measure(url, model, credentials) if url is not None and cost is None else None
        question = Question(
            cost=_cost(cost, measured),
            settings=Settings(
                instances=instances or (measured.instances if measured else _INSTANCES),
                max_batch_rows=max_batch_size or (measured.max_batch_rows if measured else _MAX_BATCH),
                max_queued_rows=max_queue_rows,
                max_queue_delay=queue_delay_ms / 1e3,
                preferred_sizes=_sizes(preferred),
                levels=max(1, priority_levels),
                default_level=default_priority,
            ),
            policies=list(dict.fromkeys(policy)) if policy else list(PolicyName),
            loads=_loads(loads, rate, trace),
            rate=rate,
            arrivals=arrivals,
            recorded=() if trace is None else read_trace(trace, model),
            seconds=seconds,
            deadline=inf if deadline_ms is None else deadline_ms / 1e3,
            noise=noise,
            seeds=tuple(range(seed, seed + repeat)),
        )
        report = _run(question)
    except (BadValue, BadTrace) as error:
        fail(_with_options(str(error)), 2)
    _print(report)
    _write(html, _page, report)
    _write(as_json, _json, report)
    return 0


def _with_options(text: str) -> str:
    """A complaint of the scheduler's about its settings, with the options that they came from."""
    for setting, option in _OPTION_OF.items():
        text = text.replace(setting, option)
    return text


def _run(question: Question) -> Report:
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=runs(question))
        return sweep(question, __version__, lambda: progress.advance(task))


# ── what was typed ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a server knows of a model."""

    cost: Cost
    instances: int
    max_batch_rows: int


def _cost(text: str | None, measured: _Measured | None) -> Cost:
    if text is not None:
        return parse_cost(text)
    if measured is None:
        raise BadValue("what does a batch cost? Give --cost, or --url and --model of a server that has measured it")
    return measured.cost


def _measure(url: str, model: str, credentials: "Tls | None") -> _Measured:
    """Ask a server. Raises BadValue if it knows too little; ends the command if it does not answer."""
    from penstock_client import Client, InferenceError

    if not model:
        raise BadValue("--url needs --model")
    try:
        with Client(url, tls=credentials, timeout=10.0, options=channel_options(url)) as client:
            config = client.model_config(model)
            cost = fit(samples_of(client.statistics(model)))
    except ValueError:
        raise BadValue(
            f"--url is HOST:PORT without a scheme (TLS is switched on with --tls or --tls-ca), not '{url}'"
        ) from None
    except InferenceError as error:
        fail(f"{url} answers {error.status.name}: {error.message}", 2)
    instances = sum(max(1, group.count) for group in config.instance_group)
    return _Measured(cost, max(1, instances), max(1, config.max_batch_size))


def _loads(text: str | None, rate: float | None, trace: Path | None) -> Sequence[float]:
    if text is None:
        return () if rate is not None or trace is not None else _LOADS
    if rate is not None:
        raise BadValue("--loads and --rate say the same in two ways: give one of them")
    try:
        loads = sorted({float(part) for part in text.split(",")})
    except ValueError:
        loads = []
    if not loads or not 0 < loads[0] <= loads[-1] <= 1000:  # and no NaN: it compares with nothing
        raise BadValue(f"--loads are multiples of the capacity, such as 0.1,0.9,1.5, not '{text}'")
    return loads


def _sizes(text: str | None) -> Sequence[int]:
    try:
        return sorted({int(part) for part in text.split(",")}) if text is not None else ()
    except ValueError:
        raise BadValue(f"--preferred are batch sizes, such as 4,8, not '{text}'") from None


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────

_HEAD = ("load", "rows/s", "p50", "p90", "p99", "in time", "drop", "refuse", "rows", "busy", "started for")


def _print(report: Report) -> None:
    for note in _notes(report):
        out.print(note, markup=False, highlight=False)
    for policy in report.policies:
        table = Table(title=policy, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        table.padding = (0, 1, 0, 0)
        rows = [_cells(outcome, most=1 if out.width < 100 else 2) for outcome in report.of(policy)]
        for name, *cells in zip(_HEAD, *rows, strict=True):
            if name == _HEAD[-1]:  # what gives way in a narrow terminal
                table.add_column(name, no_wrap=True)
            else:
                table.add_column(name, justify="right", min_width=max(map(len, (name, *cells))))
        for row in rows:
            table.add_row(*row)
        out.print(table)
    if len(report.loads) > 1:
        slowest = {name: [one.p99_ms or 0.0 for one in report.of(name)] for name in report.policies}
        top = max(value for values in slowest.values() for value in values)
        if any(one.in_time < 1 for one in report.outcomes):
            in_time = {name: [one.in_time for one in report.of(name)] for name in report.policies}
            _print_bars("answered in time", report.loads, in_time, 1.0)
        _print_bars(f"p99 latency, a full bar is {top:.4g} ms", report.loads, slowest, top)
    out.print(
        "p50, p90, p99: latency in ms · rows: of a batch on average · busy: of the instances' time", style="dim",
        highlight=False,
    )  # fmt: skip


def _print_bars(title: str, loads: Sequence[float], values: Mapping[str, Sequence[float]], top: float) -> None:
    from penstock_bench import plots

    out.print(f"{title}, by load", style="bold", highlight=False)
    out.print(" " * 10 + " ".join(f"{_load(load):<5}" for load in loads), highlight=False)
    for name, line in values.items():
        out.print(f"{name:<10}" + " ".join(plots.bars(line, top, width=5)), markup=False, highlight=False)
    out.print()


def _cells(outcome: Outcome, most: int) -> list[str]:
    """A row of a table, with so many of the reasons to start a batch."""
    batches = sum(outcome.fired.values())
    fired = [f"{name} {_part(count / batches)}" for name, count in list(outcome.fired.items())[:most]]
    return [
        _load(outcome.load),
        f"{outcome.rows_per_second:.4g}" if outcome.rows_per_second < 1000 else f"{outcome.rows_per_second:.0f}",
        *(_ms(value) for value in (outcome.p50_ms, outcome.p90_ms, outcome.p99_ms)),
        _part(outcome.in_time),
        _part(outcome.dropped),
        _part(outcome.refused),
        f"{outcome.mean_batch_rows:.1f}",
        _part(outcome.utilisation),
        ", ".join(fired),
    ]


def _load(load: float) -> str:
    return f"{load:.2f}".rstrip("0").rstrip(".") + "x"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _part(part: float) -> str:
    """A percentage; 0 and 100 only if it is so."""
    percent = f"{100 * part:.0f}%"
    if percent == "0%" and part > 0:
        return "<1%"
    return ">99%" if percent == "100%" and part < 1 else percent


def _notes(report: Report) -> Iterator[str]:
    """What the numbers are of, in sentences."""
    deadline = "no deadline" if report.deadline_ms is None else f"a deadline of {report.deadline_ms:g} ms"
    seeds = f"seed {report.seeds[0]}" if len(report.seeds) == 1 else f"seeds {report.seeds[0]} to {report.seeds[-1]}"
    noise = f" (and noise of {report.noise:g})" if report.noise else ""
    yield f"Cost {report.cost}{noise}, batches of up to {report.max_batch_rows}, {report.instances} at once."
    yield f"Arrivals {report.arrivals}, {report.seconds:.4g} s, {deadline}, {seeds}."
    yield f"The capacity is {report.capacity:.4g} rows/s."
    if "fixed" in report.policies:
        sizes = ", ".join(map(str, report.preferred_sizes)) or "none"
        yield f"Policy fixed: queue delay {report.queue_delay_ms:g} ms, preferred sizes {sizes}."


def _write(path: Path | None, text: Callable[[Report], str], report: Report) -> None:
    if path is None:
        return
    try:
        path.write_text(text(report), encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror or error}", 2)


def _json(report: Report) -> str:
    return json.dumps(asdict(report), indent=2) + "\n"


def _page(report: Report) -> str:
    from penstock_bench import plots

    tables = [
        plots.Table(
            f"Policy {name}",
            [*_HEAD, "lost because"],
            [[*_cells(one, most=9), _lost(one)] for one in report.of(name)],
        )
        for name in report.policies
    ]
    return plots.page("penstock simulate", list(_notes(report)), _charts(report), tables)


def _lost(outcome: Outcome) -> str:
    return ", ".join(f"{name} {count}" for name, count in outcome.reasons.items())


def _charts(report: Report) -> "list[Chart]":
    from penstock_bench import plots

    x_label = "load (1 is the capacity)"
    goodput = plots.Chart(
        "Requests answered in time",
        x_label,
        "% of all",
        [
            plots.Line(name, [(one.load, 100 * one.in_time) for one in report.of(name)], style)
            for style, name in enumerate(report.policies)
        ],
        [plots.Line("capacity / load", [(load, 100 * min(1.0, 1 / load)) for load in _fine(report.loads)])],
        y_top=100,
    )
    deadline: list[plots.Line] = []
    if (limit := report.deadline_ms) is not None:
        deadline = [plots.Line(f"the deadline, {limit:g} ms", [(0.0, limit), (report.loads[-1], limit)])]
    latencies = [
        plots.Chart(
            f"{percentile} latency of answered requests",
            x_label,
            "milliseconds",
            [
                plots.Line(name, [(one.load, value) for one, value in of if value is not None], style)
                for style, name in enumerate(report.policies)
                for of in [[(one, _latency(one, percentile)) for one in report.of(name)]]
            ],
            deadline,
            logarithmic=True,
        )
        for percentile in ("p50", "p90", "p99")
    ]
    return [goodput, *latencies]


def _fine(loads: Sequence[float]) -> Iterator[float]:
    """Points enough for a curve, up to the last load."""
    return (loads[-1] * step / 100 for step in range(1, 101))


def _latency(outcome: Outcome, percentile: str) -> float | None:
    return {"p50": outcome.p50_ms, "p90": outcome.p90_ms, "p99": outcome.p99_ms}[percentile]

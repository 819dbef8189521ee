"""The results as tables: on the terminal, and as Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from penstock_bench.durations import show
from penstock_bench.output import escape, out
from penstock_bench.peers.compare import Ratio
from penstock_bench.results import Point, Report
from penstock_bench.streams.listener import FRAME_SECONDS, Cost
from penstock_bench.streams.rows import Results, Row, cpu_ratio, frames_ratio
from penstock_bench.streams.servers import PENSTOCK, SINGLE, TRITON

WANTED = {SINGLE: 3.0, TRITON: 4.0}
"""Times as many frames a second as this server that Penstock must answer."""
WANTED_CPU = 1.2
"""The CPU of a message, at most, for each of a call."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table in words."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str]


def grids(results: Results) -> Iterator[Grid]:
    """The tables there is something for."""
    if results.costs:
        yield _cost_grid(results.costs)
    if any(row.points or row.failure for row in results.servers):
        yield _server_grid(results.servers)
    if any(row.points or row.failure for row in results.calls):
        yield _call_grid(results.calls)


def _cost_grid(costs: Sequence[Cost]) -> Grid:
    lines = [
        (f"{cost.rows}", show(cost.seconds), f"{cost.per_row * 1e6:.1f}us", f"{costs[0].per_row / cost.per_row:.1f} x")
        for cost in costs
    ]
    bound = (
        f"One core cannot answer more than {1 / costs[-1].per_row:,.0f} frames/s, even in batches of {costs[-1].rows}."
    )
    return Grid("The model without a server", ("rows", "a batch", "a row", "than one by one"), lines, [bound])


def _server_grid(rows: Sequence[Row]) -> Grid:
    head = ("server", "frames/s", "live streams", "ratio", "p50", "p99", "CPU/frame", "rows/batch", "generator")
    lines: list[Sequence[str]] = []
    notes: list[str] = []
    first = rows[0]
    for row in rows:
        ratio = None if row is first else frames_ratio(first, row)
        lines.append((row.title, *_server_cells(row.point, ratio)))
        wanted = WANTED.get(row.name)
        if ratio is not None and wanted is not None and first.name == PENSTOCK:
            notes.append(f"{first.title} answers {ratio} x the frames of {row.title}; {wanted:g} x are wanted.")
        notes += _notes(row)
    title = f"listener: {next((row.load for row in rows if row.load), 'not measured')}"
    return Grid(title, head, lines, notes)


def _server_cells(point: Point | None, ratio: Ratio | None) -> Sequence[str]:
    if point is None:
        return ("failed", *["-"] * 7)
    latency = point.latency
    return (
        _spread(point),
        f"{point.throughput * FRAME_SECONDS:,.0f}",
        "1.0" if ratio is None else str(ratio),
        "-" if latency is None else show(latency.quantiles["0.5"]),
        "-" if latency is None else show(latency.quantiles["0.99"]),
        "-" if point.server_cpu is None else show(point.server_cpu),
        "-" if point.batch_rows is None else f"{point.batch_rows:.1f}",
        f"{point.generator_cpu:.0%}",
    )


def _call_grid(rows: Sequence[Row]) -> Grid:
    head = ("iris as", "requests/s", "CPU/request", "ratio", "p50", "rows/batch", "generator")
    lines: list[Sequence[str]] = []
    notes: list[str] = []
    for row in rows:
        point, ratio = row.point, None if row is rows[0] else cpu_ratio(row, rows[0])
        if point is None:
            lines.append((row.title, "failed", *["-"] * 5))
        else:
            lines.append(
                (
                    row.title,
                    _spread(point),
                    "-" if point.server_cpu is None else f"{point.server_cpu * 1e6:.1f}us",
                    "1.00" if ratio is None else _exactly(ratio),
                    "-" if point.latency is None else show(point.latency.quantiles["0.5"]),
                    "-" if point.batch_rows is None else f"{point.batch_rows:.1f}",
                    f"{point.generator_cpu:.0%}",
                )
            )
        if ratio is not None:
            notes.append(f"A message costs {_exactly(ratio)} x the CPU of a call; at most {WANTED_CPU:g} x is wanted.")
        notes += _notes(row)
    return Grid("What a message costs beside a call: 4 connections x 64", head, lines, notes)


def _exactly(ratio: Ratio) -> str:
    """With two digits after the point, since what is wanted is near 1."""
    spread = f" ({ratio.least:.2f}-{ratio.most:.2f})" if ratio.most > ratio.least else ""
    return f"{ratio.middle:.2f}{spread}"


def _spread(point: Point) -> str:
    return f"{point.throughput:,.0f}" + ("" if point.spread is None else f" ±{point.spread / 2:.0%}")


def _notes(row: Row) -> Iterator[str]:
    """What must be known of a row."""
    if row.failure:
        yield f"{row.title} failed: {row.failure}"
    point = row.point
    if point is not None:
        yield from (f"{row.title}: {warning}" for warning in point.warnings)
        if point.checked:
            yield f"{row.title}: {point.checked:,} answers were compared with the right ones, {point.wrong} were wrong."


def print_tables(results: Results) -> None:
    """On standard output."""
    for grid in grids(results):
        out.print(escape(grid.title), markup=False, highlight=False, style="bold")
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for place, head in enumerate(grid.head):
            table.add_column(head, justify="right" if place else "left", no_wrap=place > 0)
        for line in grid.lines:
            table.add_row(*(escape(cell) for cell in line))
        out.print(table)
        for note in grid.notes:
            out.print(escape(note), markup=False, highlight=False, soft_wrap=True)
        out.print()


def markdown(report: Report, results: Results) -> str:
    """The same with what it was measured on, and all remarks."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    parts = [
        f"# {report.title}{' (partial)' if report.partial else ''}",
        f"`{report.command}`",
        f"{report.started}, {machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}; "
        f"{versions}. {', '.join(f'{name}: {value}' for name, value in report.settings.items() if 'us/' not in name)}.",
        "Frames/s is the median of the rounds; live streams is frames/s x 32 ms: how many people may speak at once. "
        "Ratio is how many times as many frames/s the first row has (smallest to largest of the rounds). CPU is of all "
        "processes of the server; generator is what the load itself took of a core.",
    ]
    for grid in grids(results):
        lines = [f"| {' | '.join(_cell(each) for each in line)} |" for line in (grid.head, *grid.lines)]
        lines.insert(1, "|---|" + "---:|" * (len(grid.head) - 1))
        parts += [f"## {grid.title}", "\n".join(lines)]
        notes = [
            *grid.notes,
            *(f"{row.title}: {row.remark}." for row in results.servers if "live streams" in grid.head),
        ]
        if notes:
            parts.append("\n".join(f"* {_cell(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return escape(text).replace("|", "\\|")

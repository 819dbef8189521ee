"""The comparison as tables: on the terminal, and as Markdown with ratios and remarks."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from penstock_bench.durations import show
from penstock_bench.output import escape, out
from penstock_bench.peers.compare import Group, Row

_HEAD = ("server", "protocol", "requests/s", "ratio", "p50", "p99", "CPU/request", "rows/batch")
_NARROW_HEAD = ("server", "req/s", "ratio", "p50", "p99", "CPU/req")
_WIDE = 130


def title(group: Group) -> str:
    """What the table is of."""
    client = "" if group.client == "penstock bench" else f", by {group.client}"
    timeouts = ", a timeout on every call" if group.load.timeouts else ""
    connections = "connection" if group.load.connections == 1 else "connections"
    return f"{group.model}: {group.load.connections} {connections} x {group.load.depth}{timeouts}{client}"


def cells(row: Row) -> list[str]:
    """As in `_HEAD`. A row without numbers has its reason beneath the table."""
    series = row.series
    name = [series.server, series.protocol]
    if not series.points:
        return [*name, "failed", *["-"] * 5]
    point = series.points[0]
    latency = point.latency
    return [
        *name,
        f"{point.throughput:,.0f}" + ("" if point.spread is None else f" ±{point.spread / 2:.0%}"),
        "-" if row.ratio is None else str(row.ratio),
        "-" if latency is None else show(latency.quantiles["0.5"]),
        "-" if latency is None else show(latency.quantiles["0.99"]),
        "-" if point.server_cpu is None else show(point.server_cpu),
        "-" if point.batch_rows is None else f"{point.batch_rows:.1f}",
    ]


def notes(row: Row) -> list[str]:
    """What must be known of a row."""
    series = row.series
    warnings = [warning for point in series.points for warning in point.warnings]
    failure = [f"failed: {series.failure}"] if series.failure else []
    hits = [f"{name} known: {part:.2%}" for point in series.points for name, part in point.hit_rates.items()]
    return [*failure, *([series.remark] if series.remark else []), *hits, *warnings]


def show_groups(groups: Sequence[Group]) -> None:
    """On standard output: the tables, each with what must be known of its rows."""
    wide = out.width >= _WIDE
    for group in groups:
        out.print(escape(title(group)), markup=False, highlight=False, style="bold")
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for place, head in enumerate(_HEAD if wide else _NARROW_HEAD):
            table.add_column(head, justify="left" if head in ("server", "protocol") else "right", no_wrap=place > 0)
        for row in group.rows:
            table.add_row(*(escape(cell) for cell in (cells(row) if wide else _narrow(row))))
        out.print(table)
        for row in group.rows:
            series = row.series
            words = [f"failed: {series.failure}"] if series.failure else []
            words += [f"{name} known: {part:.2%}" for point in series.points for name, part in point.hit_rates.items()]
            words += [f"! {warning}" for point in series.points for warning in point.warnings]
            for each in words:
                out.print(f"{row.name}: {escape(each)}", markup=False, highlight=False, soft_wrap=True)


def _narrow(row: Row) -> list[str]:
    """As in `_NARROW_HEAD`: short names, and HTTP marked in them."""
    _, protocol, *numbers, _ = cells(row)
    return [row.name if protocol == "gRPC" else f"{row.name} (HTTP)", *numbers]


def markdown(groups: Sequence[Group]) -> str:
    """The same as Markdown, with all remarks."""
    parts: list[str] = []
    for group in groups:
        lines = [f"### {title(group)}", "", f"| {' | '.join(_HEAD)} |", "|---|---|" + "---:|" * (len(_HEAD) - 2)]
        lines += [f"| {' | '.join(_escaped(cell) for cell in cells(row))} |" for row in group.rows]
        lines.append("")
        lines += [f"* {row.series.server}: {_escaped('; '.join(notes(row)))}" for row in group.rows if notes(row)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return escape(text).replace("|", "\\|")

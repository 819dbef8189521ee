"""A report in a terminal: as many columns as there is room for, the important ones first."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from penstock_bench.output import escape
from penstock_bench.report.rows import (
    Column,
    Group,
    alarms,
    baseline_of,
    check_baseline,
    columns,
    groups,
    marks,
    name,
    ratios,
    remarks,
    warnings,
)
from penstock_bench.results import Report, Series

_RATIO = "ratio"
_GAP, _EDGES = 2, 2  # spaces between columns, and around the table


def show_report(report: Report, console: Console, baseline: str | None = None) -> None:
    """Print it. `baseline` as for the other forms; raises ValueError if there is no such server."""
    check_baseline(report, baseline)
    for group in groups(report):
        console.print(escape(group.title), style="bold", markup=False, highlight=False)
        if any(one.points for one in group.series):
            against, times = ratios(group, baseline_of(group, baseline))
            console.print(_table(report, group, times, console.width))
            if against:
                console.print(f"{_RATIO}: {escape(against)}", markup=False, highlight=False)
    for remark, number in remarks(report).items():
        console.print(f"[{number}] {escape(remark)}", markup=False, highlight=False)
    for where, warning in warnings(report):
        console.print(f"! {escape(where)}: {escape(warning)}", markup=False, highlight=False, soft_wrap=True)
    for alarm in alarms(report):
        console.print(f"! {escape(alarm)}", style="bold", markup=False, highlight=False, soft_wrap=True)


def _table(report: Report, group: Group, times: Mapping[int, str], width: int) -> Table:
    notes = remarks(report)
    points = [(one, point) for one in group.series for point in one.points]
    names = [escape(_first(one, notes.get(one.remark))) for one, _ in points]
    marked = [", ".join(marks(point)) for _, point in points]
    multiples = [times.get(id(point), "") for _, point in points]
    fixed = [("server", names), *([(_RATIO, multiples)] if times else [])]
    fixed += [("", marked)] if any(marked) else []
    left = width - _EDGES - sum(_width(head, cells) for head, cells in fixed)
    shown = _that_fit(
        [(column, [column.cell(point) for _, point in points]) for column in columns(report, group.series)], left
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    (first, cells), *others = fixed
    for place, (head, _) in enumerate([(first, cells), *((column.head, texts) for column, texts in shown), *others]):
        table.add_column(head, justify="right" if place else "left", no_wrap=bool(place) or left >= 0)
    for number, row in enumerate(
        zip(cells, *(texts for _, texts in shown), *(texts for _, texts in others), strict=True)
    ):
        again = number and cells[number] == cells[number - 1]
        table.add_row("" if again else row[0], *row[1:])
    return table


def _first(series: Series, note: int | None) -> str:
    return name(series) if note is None else f"{name(series)} [{note}]"


def _that_fit(wanted: Sequence[tuple[Column, Sequence[str]]], width: int) -> list[tuple[Column, Sequence[str]]]:
    """Of these columns the important ones, in the order in which they stand."""
    chosen: set[str] = set()
    for column, cells in sorted(wanted, key=lambda each: each[0].rank):
        width -= _width(column.head, cells)
        if column.rank and width < 0:
            break
        chosen.add(column.head)
    return [each for each in wanted if each[0].head in chosen]


def _width(head: str, cells: Sequence[str]) -> int:
    return max(map(len, (head, *cells)), default=0) + _GAP

"""A report as one page of HTML that needs nothing else: what is alarming first, then pictures, then every number."""

from collections.abc import Iterator

from penstock_bench.durations import show
from penstock_bench.plots import Table, definitions, document, grid, heading, loud_note, paragraph, table
from penstock_bench.report.charts import pictures
from penstock_bench.report.rows import (
    Group,
    alarms,
    baseline_of,
    check_baseline,
    columns,
    groups,
    looks,
    marks,
    name,
    quantile_cells,
    ratios,
    remarks,
    warnings,
)
from penstock_bench.results import Machine, Report

_HOW_TO_READ = (
    "Latency counts from when a request was due by the plan, so a server that stalls shows in it. "
    "Good answers a second are those that came, without failures and wrong answers. "
    "±: half the difference between the best and the worst run, as a part of the median run, which is shown."
)


def page(report: Report, baseline: str | None = None) -> str:
    """The page, as well-formed XML. `baseline` names the server that the others are multiples of.

    Raises ValueError if there is no such server.
    """
    check_baseline(report, baseline)
    return document(report.title, _parts(report, baseline))


def _parts(report: Report, baseline: str | None) -> Iterator[str]:
    machine = report.machine
    yield paragraph(f"{report.started}, {machine.processor}, {machine.cores} cores, {_size(machine.memory)}")
    yield loud_note(alarms(report))
    look = looks(report)
    for group in groups(report):
        yield heading(group.title)
        yield grid(pictures(group, look, report.slo))
        yield table(_table(report, group, baseline))
    notes = remarks(report)
    if notes:
        yield heading("Remarks")
        yield definitions((f"[{number}]", remark) for remark, number in notes.items())
    said = list(warnings(report))
    if said:
        yield heading("Warnings")
        yield definitions(said)
    yield heading("How to read it")
    yield paragraph(_HOW_TO_READ)
    yield heading("How it was measured")
    yield definitions(_circumstances(report))


def _table(report: Report, group: Group, baseline: str | None) -> Table:
    shown = columns(report, group.series)
    notes = remarks(report)
    base = baseline_of(group, baseline)
    against, times = ratios(group, base)
    rows: list[list[str]] = []
    loud: list[int] = []
    for one in group.series:
        first = f"{name(one)} [{notes[one.remark]}]" if one.remark else name(one)
        for point in one.points:
            said = marks(point)
            if said:
                loud.append(len(rows))
            cells = [column.cell(point) for column in shown]
            rows.append([first, *cells, *([times.get(id(point), "")] if against else []), ", ".join(said).upper()])
            for traffic, latency in point.by_class.items():
                cells = quantile_cells(latency, shown)
                rows.append([f"\u2003of them {traffic}", *cells, *([""] if against else []), ""])
        if one.failure:
            loud.append(len(rows))
            rows.append([first, *[""] * (len(shown) + bool(against)), f"FAILED: {one.failure}"])
    head = ["server", *(column.head for column in shown), *([against] if against else []), ""]
    return Table("All numbers", head, rows, texts=1, loud=loud)


def _circumstances(report: Report) -> Iterator[tuple[str, str]]:
    """All that is needed to measure it again."""
    yield "Command", report.command
    yield "Started", report.started
    yield "Seed", str(report.seed)
    if report.slo is not None:
        yield "SLO", show(report.slo)
    yield from report.settings.items()
    yield from _machine(report.machine)


def _machine(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "Processor", f"{machine.processor}, {machine.cores} cores"
    yield "Memory", _size(machine.memory)
    yield "System", f"{machine.system}, Python {machine.python}"
    if machine.versions:
        yield "Versions", ", ".join(f"{package} {version}" for package, version in machine.versions.items())


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"

"""A report as tables in Markdown, compact enough for a README, aligned so that they can be read as they stand."""

from collections.abc import Iterator, Sequence

from penstock_bench.report.rows import (
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
)
from penstock_bench.results import Report

_COLUMNS = ("load", "good/s", "spread", "p50", "p99", "p99.9", "bad", "CPU/req", "batch")


def table(report: Report, baseline: str | None = None) -> str:
    """A table for each group of comparable series, under what is alarming, with the remarks as footnotes.

    `baseline` names the server that the others are multiples of; None: the first of each group. Raises ValueError if
    there is no such server.
    """
    check_baseline(report, baseline)
    parts = [f"> **{_plain(alarm)}**" for alarm in alarms(report)]
    for group in groups(report):
        parts.append(f"**{_plain(group.model)}**, {_plain(group.load)}")
        parts.append("\n".join(_lines(report, group, baseline)))
    parts += [f"{_footnote(number)} {_plain(remark)}" for remark, number in remarks(report).items()]
    parts.append(_origin(report))
    return "\n\n".join(parts) + "\n"


def _lines(report: Report, group: Group, baseline: str | None) -> Iterator[str]:
    notes = remarks(report)
    shown = [column for column in columns(report, group.series) if column.head in _COLUMNS or column.head[:3] == "in "]
    base = baseline_of(group, baseline)
    head = ["server", *(column.head for column in shown)]
    against, times = ratios(group, base)
    if against:
        head.append(_plain(against))
    rows: list[Sequence[str]] = []
    for one in group.series:
        first = _plain(name(one)) + (_footnote(notes[one.remark]) if one.remark else "")
        for point in one.points:
            said = f" **{', '.join(marks(point))}**" if marks(point) else ""
            cells = [first + said, *(column.cell(point) for column in shown)]
            if against:
                cells.append(times.get(id(point), ""))
            rows.append(cells)
        if one.failure and not one.points:
            rows.append([f"{first} **failed**", *[""] * (len(head) - 1)])  # the reason is among the alarms
    return _aligned(head, rows)


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Words at the left, numbers at the right."""
    widths = [max(3, *(len(row[place]) for row in (head, *rows))) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    yield line(head)
    yield (
        "|"
        + "|".join("-" * (width + 2) if not place else "-" * (width + 1) + ":" for place, width in enumerate(widths))
        + "|"
    )
    yield from map(line, rows)


def _origin(report: Report) -> str:
    """Where the numbers come from, in one line."""
    machine = report.machine
    versions = ", ".join(f"{package} {version}" for package, version in machine.versions.items())
    return f"{machine.processor}, {machine.cores} cores, Python {machine.python}, {_plain(versions)}: "\
        f"`{report.command}`, {report.started[:10]}, seed {report.seed}."  # fmt: skip


def _footnote(number: int) -> str:
    return f"<sup>{number}</sup>"


def _plain(text: str) -> str:
    """One line in which nothing is markup. `|` would end a cell."""
    for letter in "\\`*_[]<>|":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())

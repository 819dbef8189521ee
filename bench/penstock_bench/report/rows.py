"""What every form of a report says: which series stand beside each other, how a number reads, what nobody may overlook.

Series are comparable if they have the same model and the same load, as text. In such a group a row is one point. A
column that knows nothing of any point is not shown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from penstock_bench.durations import show
from penstock_bench.results import Latency, Point, Report, Series

NOISY = 0.15
"""A spread above this is said aloud."""
_LIMIT_CPU = 0.9
_SAME_RATE = 0.02
"""Offered rates that differ by no more than this part are the same load."""


@dataclass(frozen=True, slots=True)
class Group:
    """Series that may be compared with each other."""

    model: str
    load: str
    series: Sequence[Series]

    @property
    def title(self) -> str:
        return f"{self.model}: {self.load}"

    @property
    def swept(self) -> bool:
        """Whether there are several loads."""
        return any(len(one.points) > 1 for one in self.series)

    @property
    def open_loop(self) -> bool:
        """Whether the plan set the rate; otherwise the server did."""
        return any(point.offered is not None for one in self.series for point in one.points)

    @property
    def compared(self) -> bool:
        """Whether there is more than one server with numbers."""
        return sum(bool(one.points) for one in self.series) > 1


@dataclass(frozen=True, slots=True)
class Ratio:
    """A number in multiples of another one. The bounds are what both spreads allow; equal without spreads."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        text = _times(self.value)
        return text if self.low == self.high else f"{text} ({_times(self.low)[:-1]} to {_times(self.high)[:-1]})"


@dataclass(frozen=True, slots=True)
class Column:
    """One property of points."""

    head: str
    cell: Callable[[Point], str]
    """Empty: not known."""
    rank: int = 0
    """Where there is little room, columns with high ranks give way first."""


def groups(report: Report) -> list[Group]:
    """In the order of their first series."""
    found: dict[tuple[str, str], list[Series]] = {}
    for one in report.series:
        found.setdefault((one.model, one.load), []).append(one)
    return [Group(model, load, series) for (model, load), series in found.items()]


def name(series: Series) -> str:
    """The server, and what is unusual about how it was asked."""
    protocol = "" if series.protocol == "gRPC" else f" ({series.protocol})"
    client = "" if series.client == "penstock bench" else f", by {series.client}"
    return f"{series.server}{protocol}{client}"


def looks(report: Report) -> dict[str, int]:
    """A number for each name, the same in every chart."""
    return {each: number for number, each in enumerate(dict.fromkeys(map(name, report.series)))}


def load_of(point: Point) -> float:
    """Where a point stands on the axis of loads: its rate in an open loop, its requests in flight in a closed one."""
    return float(point.concurrency) if point.offered is None else point.offered


def load_text(point: Point) -> str:
    """The load, short."""
    return f"{point.concurrency:,} in flight" if point.offered is None else f"{point.offered:,.0f}/s"


def columns(report: Report, series: Sequence[Series]) -> list[Column]:
    """Those that know something of these series, in their order."""
    several = any(len(one.points) > 1 for one in series)
    wanted = [
        *([Column("load", load_text)] if several else []),
        Column("good/s", lambda point: f"{point.throughput:,.0f}"),
        Column("spread", _spread, 2),
        Column("runs", lambda point: str(point.repetitions) if point.repetitions > 1 else "", 6),
        Column("p50", _quantile("0.5"), 1),
        Column("p75", _quantile("0.75"), 7),
        Column("p90", _quantile("0.9"), 4),
        Column("p95", _quantile("0.95"), 6),
        Column("p99", _quantile("0.99"), 1),
        Column("p99.9", _quantile("0.999"), 3),
        Column("max", lambda point: "" if point.latency is None else show(point.latency.maximum), 5),
        *([Column(f"in {show(report.slo)}", _in_time, 2)] if report.slo is not None else []),
        Column("bad", _bad, 2),
        Column("CPU/req", lambda point: "" if point.server_cpu is None else show(point.server_cpu), 3),
        Column("batch", lambda point: "" if point.batch_rows is None else f"{point.batch_rows:.1f}", 4),
        Column("queue", lambda point: "" if point.queue_time is None else show(point.queue_time), 5),
        Column("generator", lambda point: f"{point.generator_cpu:.0%}", 6),
        Column("checked", lambda point: f"{point.checked:,}" if point.checked else "", 8),
    ]
    points = [point for one in series for point in one.points]
    return [column for column in wanted if any(column.cell(point) for point in points)]


def quantile_cells(latency: Latency, shown: Sequence[Column]) -> list[str]:
    """The cells of a class of traffic, of which only latencies are known, under these columns."""
    known = {_head(each): show(value) for each, value in latency.quantiles.items()}
    known["max"] = show(latency.maximum)
    return [known.get(column.head, "") for column in shown]


def marks(point: Point) -> list[str]:
    """What a reader must see beside the numbers, in a word each."""
    found = {
        "partial": point.partial,
        "noisy": is_noisy(point),
        "wrong answers": point.wrong > 0,
        "generator-bound": point.generator_cpu > _LIMIT_CPU,
    }
    return [word for word, applies in found.items() if applies]


def is_noisy(point: Point) -> bool:
    """Whether the machine, not the server, may have made this number."""
    return (point.spread or 0.0) > NOISY or any(warning.startswith("noisy") for warning in point.warnings)


def alarms(report: Report) -> Iterator[str]:
    """Sentences that stand above everything else."""
    of = [(one, point) for one in report.series for point in one.points]
    if partial := [_where(one, point) for one, point in of if point.partial]:
        yield f"Partial: cut off before its end: {'; '.join(partial)}."
    elif report.partial:
        yield "Partial: the run was cut off before its end."
    for one in report.series:
        if one.failure:
            what = "could not be measured further" if one.points else "could not be measured"
            yield f"{name(one)}, {one.model}, {one.load}: {what}: {one.failure}"
    if wrong := [f"{point.wrong:,} of {_where(one, point)}" for one, point in of if point.wrong]:
        yield f"Wrong answers: {'; '.join(wrong)}."
    if noisy := [_where(one, point) for one, point in of if is_noisy(point)]:
        yield f"Noisy: runs of the same load differ by more than {NOISY:.0%}, so small differences mean nothing: "\
            f"{'; '.join(noisy)}."  # fmt: skip
    yield from report.warnings


def warnings(report: Report) -> Iterator[tuple[str, str]]:
    """What was said while a point was measured, and of which one."""
    for one in report.series:
        for point in one.points:
            for warning in point.warnings:
                yield _where(one, point), warning


def remarks(report: Report) -> dict[str, int]:
    """Footnotes by their numbers, from 1."""
    found = dict.fromkeys(one.remark for one in report.series if one.remark)
    return {remark: number for number, remark in enumerate(found, 1)}


def baseline_of(group: Group, wanted: str | None) -> Series | None:
    """The series that the others are multiples of: the first whose name has these words, else the first with numbers.

    None if there is nothing to compare, or if this group has no such series.
    """
    if not group.compared:
        return None
    return next((one for one in group.series if one.points and _is_called(one, wanted)), None)


def check_baseline(report: Report, wanted: str | None) -> None:
    """Raises ValueError with a sentence if no series is called so."""
    if wanted is not None and not any(_is_called(one, wanted) for one in report.series):
        there = ", ".join(dict.fromkeys(map(name, report.series))) or "none"
        raise ValueError(f"no server of the report is called '{wanted}'; there are: {there}")


def ratios(group: Group, baseline: Series | None) -> tuple[str, dict[int, str]]:
    """The head of a column and its cells by the points' ids; no head if there is nothing to say.

    A closed loop shows what a server can do by its throughput, an open loop by how long its slow answers take.
    """
    if baseline is None:
        return "", {}
    compare, what = (_latency_ratio, "p99") if group.open_loop else (_throughput_ratio, "good/s")
    found: dict[int, str] = {}
    for one in group.series:
        for point in one.points if one is not baseline else ():
            other = next((other for other in baseline.points if _same_load(point, other)), None)
            times = None if other is None else compare(point, other)
            if times is not None:
                found[id(point)] = str(times)
    return (f"{what} / {baseline.server}" if found else ""), found


def _latency_ratio(point: Point, found: Point) -> Ratio | None:
    ours, theirs = (None if each.latency is None else each.latency.quantiles.get("0.99") for each in (point, found))
    if ours is None or theirs is None or not theirs > 0:
        return None
    return Ratio(ours / theirs, ours / theirs, ours / theirs)


def _throughput_ratio(point: Point, found: Point) -> Ratio | None:
    if not found.throughput > 0:
        return None
    value = point.throughput / found.throughput
    if point.spread is None and found.spread is None:
        return Ratio(value, value, value)
    above, below = (point.spread or 0.0) / 2, (found.spread or 0.0) / 2
    return Ratio(value, max(0.0, value * (1 - above) / (1 + below)), value * (1 + above) / max(0.01, 1 - below))


def _is_called(series: Series, wanted: str | None) -> bool:
    return wanted is None or wanted.lower() in name(series).lower()


def _same_load(one: Point, other: Point) -> bool:
    if one.offered is None or other.offered is None:
        return one.offered is other.offered and one.concurrency == other.concurrency
    return abs(one.offered - other.offered) <= _SAME_RATE * other.offered


def _where(series: Series, point: Point) -> str:
    return f"{name(series)}, {series.model}, {load_text(point)}"


def _times(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:.3g}x" if value < 1000 else f"{value:,.0f}x"


def _head(quantile: str) -> str:
    """`0.999` as a head: `p99.9`."""
    return f"p{100 * float(quantile):g}"


def _quantile(wanted: str) -> Callable[[Point], str]:
    def cell(point: Point) -> str:
        value = None if point.latency is None else point.latency.quantiles.get(wanted)
        return "" if value is None else show(value)

    return cell


def _spread(point: Point) -> str:
    return "" if point.spread is None else f"±{point.spread / 2:.1%}"


def _in_time(point: Point) -> str:
    return "" if point.in_time is None else f"{point.in_time / max(1, point.sent):.1%}"


def _bad(point: Point) -> str:
    """Everything but good answers, by kind."""
    kinds = [*point.failed.items(), ("wrong", point.wrong), ("unanswered", point.unanswered)]
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds if count)

"""A group of series as pictures: bars where servers are compared at one load, curves where there are several loads.

A picture of which nothing is known is not drawn. Latencies are in milliseconds, on a logarithmic axis in curves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from penstock_bench.load.histograms import quantiles
from penstock_bench.plots import Bar, BarChart, Chart, Line, bar_svg, number, svg
from penstock_bench.report.rows import Group, load_of, load_text, marks, name
from penstock_bench.results import Latency, Point, Series

_QUANTILES = {"p50": "0.5", "p90": "0.9", "p95": "0.95", "p99": "0.99", "p99.9": "0.999"}
_WORKING_LOAD = 0.7
"""Of the largest throughput: where percentiles of several servers are compared."""
_DECADE = 5
"""Points of a spectrum for each further nine."""
_MOST_LINES = 10


def pictures(group: Group, look: Mapping[str, int], slo: float | None) -> Iterator[str]:
    """SVG elements."""
    if group.swept:
        yield from map(svg, _curves(group, look, slo))
    else:
        yield from map(bar_svg, _bars(group, look, slo))
    spectrum = _spectrum(group, look)
    if spectrum.lines:
        yield svg(spectrum)


# ── one load ──────────────────────────────────────────────────────────────────────────────────────


def _bars(group: Group, look: Mapping[str, int], slo: float | None) -> Iterator[BarChart]:
    yield _bar_chart(group, look, "Throughput", "good answers a second (whisker: spread of the runs)", _throughput)
    latencies: dict[str, Callable[[Point], float | None]] = {
        each: _latency_ms(_QUANTILES[each]) for each in ("p50", "p99")
    }
    charts = [
        _bar_chart(group, look, "Latency", "milliseconds", *latencies.values(), measures=list(latencies)),
        _bar_chart(group, look, "CPU time of the server for each request", "microseconds", _cpu_us),
        _bar_chart(group, look, "Rows of a batch, on average", "rows", lambda point: point.batch_rows),
    ]
    if slo is not None:
        charts.append(_bar_chart(group, look, _within(slo), "answers a second", _goodput))
    yield from (chart for chart in charts if any(value is not None for bar in chart.bars for value in bar.values))


def _bar_chart(
    group: Group,
    look: Mapping[str, int],
    title: str,
    x_label: str,
    *values: Callable[[Point], float | None],
    measures: Sequence[str] = ("",),
) -> BarChart:
    bars: list[Bar] = []
    for one in group.series:
        if not one.points:
            bars.append(Bar(name(one), [None] * len(values), look[name(one)], note=one.failure or "no numbers"))
            continue
        point = one.points[0]
        spread = None
        if point.spread is not None and values == (_throughput,):
            half = point.spread / 2
            spread = (point.throughput * max(0.0, 1 - half), point.throughput * (1 + half))
        found = [value(point) for value in values]
        bars.append(Bar(name(one), found, look[name(one)], spread, ", ".join(marks(point)).upper()))
    return BarChart(title, x_label, bars, measures)


# ── several loads ─────────────────────────────────────────────────────────────────────────────────


def _curves(group: Group, look: Mapping[str, int], slo: float | None) -> Iterator[Chart]:
    measured = [one for one in group.series if one.points]
    limit = 1e3 * slo if slo is not None else None
    one = measured[0] if len(measured) == 1 else None
    # Latency by what was achieved: where a curve turns up is where the server has no more to give.
    for title, shown in (
        [("p50 and p99", ("p50", "p99"))] if one is not None else [("p50", ("p50",)), ("p99", ("p99",))]
    ):
        lines = [
            Line(
                name(each) if one is None else quantile,
                _pairs(each.points, _throughput, _latency_ms(_QUANTILES[quantile])),
                look[name(each)] if one is None else place,
            )
            for each in measured
            for place, quantile in enumerate(shown)
        ]
        yield _with_limit(f"{title} latency by throughput", "good answers a second", lines, limit)
    if one is not None:
        lines = [
            Line(each, _pairs(one.points, load_of, _latency_ms(key)), place)
            for place, (each, key) in enumerate(_QUANTILES.items())
        ]
        yield _with_limit("Latency by load", _axis(group), lines, limit, logarithmic_x=not group.open_loop)
    else:
        for each in ("p50", "p99", "p99.9"):
            lines = _lines(measured, look, _latency_ms(_QUANTILES[each]))
            yield _with_limit(f"{each} latency by load", _axis(group), lines, limit, logarithmic_x=not group.open_loop)
    yield from _over_load(group, measured, look, slo)


def _over_load(group: Group, measured: Sequence[Series], look: Mapping[str, int], slo: float | None) -> Iterator[Chart]:
    charts: list[tuple[str, str, Callable[[Point], float | None], bool]] = [
        ("Throughput by load", "good answers a second", _throughput, True),
        *([(f"{_within(slo)} by load", "answers a second", _goodput, True)] if slo is not None else []),
        ("Rows of a batch by load", "rows, on average", lambda point: point.batch_rows, False),
        ("Time in the queue by load", "milliseconds, on average", _queue_ms, False),
        ("CPU time of the server for each request by load", "microseconds", _cpu_us, False),
    ]
    for title, y_label, value, is_rate in charts:
        lines = _lines(measured, look, value)
        if any(line.points for line in lines):
            offered = [load_of(point) for one in measured for point in one.points]
            all_of_it = [Line("all that was offered", [(0.0, 0.0), (max(offered), max(offered))])]
            yield Chart(
                title,
                _axis(group),
                y_label,
                lines,
                all_of_it if is_rate and group.open_loop else (),
                logarithmic_x=not group.open_loop,
            )


def _with_limit(
    title: str, x_label: str, lines: Sequence[Line], limit: float | None, logarithmic_x: bool = False
) -> Chart:
    """A chart of latencies with the SLO as a line across."""
    xs = [x for line in lines for x, _ in line.points]
    across: list[Line] = []
    if limit is not None and xs:
        across = [Line(f"SLO, {number(limit)} ms", [(min(xs) if logarithmic_x else 0.0, limit), (max(xs), limit)])]
    return Chart(title, x_label, "milliseconds", lines, across, logarithmic=True, logarithmic_x=logarithmic_x)


def _axis(group: Group) -> str:
    return "requests offered a second" if group.open_loop else "requests in flight"


def _lines(measured: Sequence[Series], look: Mapping[str, int], value: Callable[[Point], float | None]) -> list[Line]:
    return [Line(name(one), _pairs(one.points, load_of, value), look[name(one)]) for one in measured]


def _pairs(
    points: Sequence[Point], x: Callable[[Point], float], y: Callable[[Point], float | None]
) -> list[tuple[float, float]]:
    return [(x(point), value) for point in points if (value := y(point)) is not None]


# ── the spectrum ──────────────────────────────────────────────────────────────────────────────────


def _spectrum(group: Group, look: Mapping[str, int]) -> Chart:
    """Every percentile, the last ones with as much room as the first: x is 1 in how many requests is slower."""
    measured = [one for one in group.series if one.points]
    shown: list[tuple[str, int, Point]] = []
    if len(measured) == 1:
        points = measured[0].points[-_MOST_LINES:]
        shown = [(load_text(point), place, point) for place, point in enumerate(points)]
    else:
        for one in measured:
            point = _working_point(one.points)
            at = f", {load_text(point)}" if group.swept else ""
            shown.append((f"{name(one)}{at}", look[name(one)], point))
    lines = [
        Line(title, _spectrum_of(point.latency), style, every=_DECADE)
        for title, style, point in shown
        if point.latency is not None
    ]
    title = "Latency by percentile"
    if group.swept and len(measured) > 1:
        title += f", each at {_WORKING_LOAD:.0%} of its largest throughput"
    return Chart(
        title, "percentile of requests", "milliseconds", lines,
        logarithmic=True, logarithmic_x=True, x_text=_percentile,
    )  # fmt: skip


def _working_point(points: Sequence[Point]) -> Point:
    """The first that gives 70% of the most."""
    enough = _WORKING_LOAD * max(point.throughput for point in points)
    return next(point for point in points if point.throughput >= enough)


def _spectrum_of(latency: Latency) -> list[tuple[float, float]]:
    """1 / (1 - quantile) and milliseconds, as far as there are requests enough."""
    most = max(2, latency.count)
    steps = [10 ** (step / _DECADE) for step in range(100) if 10 ** (step / _DECADE) <= most]
    try:
        values = quantiles(latency, [1 - 1 / step for step in steps])
    except ValueError:  # h2load's latencies come without one
        return [(1 / (1 - float(each)), 1e3 * value) for each, value in latency.quantiles.items()]
    # The library knows no value below the first one.
    return [(x, 1e3 * max(value, latency.minimum)) for x, value in zip(steps, values, strict=True)]


def _percentile(place: float) -> str:
    return f"{100 * (1 - 1 / place):.6g}%"


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def _within(slo: float) -> str:
    return f"Answers within {number(1e3 * slo)} ms"


def _throughput(point: Point) -> float:
    return point.throughput


def _goodput(point: Point) -> float | None:
    return None if point.in_time is None or not point.duration > 0 else point.in_time / point.duration


def _cpu_us(point: Point) -> float | None:
    return None if point.server_cpu is None else 1e6 * point.server_cpu


def _queue_ms(point: Point) -> float | None:
    return None if point.queue_time is None else 1e3 * point.queue_time


def _latency_ms(quantile: str) -> Callable[[Point], float | None]:
    def value(point: Point) -> float | None:
        found = None if point.latency is None else point.latency.quantiles.get(quantile)
        return None if found is None else 1e3 * found

    return value

"""From turns to tables: medians over the rounds, and ratios to the first peer with their spread.

A ratio is taken within a round, of two turns that are near each other in time; what is told is the median of the
rounds' ratios and the smallest and the largest of them. So a machine that is slower in one round moves both sides.
What timeouts cost is a ratio of the same kind, of one peer's CPU with and without them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from penstock_bench.load.run import median_of
from penstock_bench.peers.loads import Load, for_protocol
from penstock_bench.peers.store import PeerResult
from penstock_bench.results import Point, Series

_NOT_MEASURED = "it was not measured"


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of one peer or load for each of another's."""

    middle: float
    least: float
    most: float
    rounds: int

    def __str__(self) -> str:
        spread = f" ({number(self.least)}-{number(self.most)})" if self.most > self.least else ""
        return f"{number(self.middle)}{spread}"


def number(value: float) -> str:
    """Two digits that count, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One peer under one load."""

    name: str
    """The peer's short name."""
    series: Series
    ratio: Ratio | None
    """To the first peer, whose own is 1; None if one of them has not been measured, or not under the same load."""
    partial: bool


@dataclass(frozen=True, slots=True)
class Group:
    """What stands in one table: all peers with one model under one load, as one client drove them."""

    model: str
    load: Load
    client: str
    rows: Sequence[Row]


def groups(
    results: Sequence[PeerResult], models: Sequence[str], loads: Sequence[Load], clients: Sequence[str], rounds: int
) -> list[Group]:
    """The tables. One that nothing was measured for yet is left out."""
    found = [
        Group(model, load, client, list(_rows(results, model, load, client, rounds)))
        for model in models
        for client in clients
        for load in loads
        if client != "h2load" or not load.timeouts
    ]
    return [group for group in found if any(row.series.failure != _NOT_MEASURED for row in group.rows)]


def _rows(results: Sequence[PeerResult], model: str, load: Load, client: str, rounds: int) -> Iterator[Row]:
    base: Mapping[int, Point] = {}
    first = ""
    for place, result in enumerate(results):
        multiplexed = result.protocol == "gRPC"
        if not multiplexed and client == "h2load":
            continue
        instead = for_protocol([load], multiplexed)[0]
        points, words, failure = _points(result, model, instead, client)
        if place == 0:
            base, first = points, result.title
        ratio = ratio_of(points, base) if instead == load else None
        remark = result.remark
        if ratio is not None and place:
            remark = f"{ratio} x the requests/s of {first}, round by round; {remark}"
        if instead != load:
            remark = f"driven by {instead}, since HTTP/1.1 has one request on a connection; {remark}"
        if instead.timeouts:
            plain, _, _ = _points(result, model, instead.plain, client)
            cost = ratio_of(points, plain, _cpu)
            if cost is not None:
                remark = f"{cost} x the CPU/request of {instead.plain} without timeouts, round by round; {remark}"
        good = list(points.values())
        series = Series(
            server=result.title,
            protocol=result.protocol,
            model=model,
            load=words or f"closed loop, {instead.connections} connections x {instead.depth}",
            client=client,
            remark=remark,
            points=[median_of(good)] if len(good) > 1 else good,
            failure=failure or ("" if good else _NOT_MEASURED),
        )
        yield Row(result.name, series, ratio, len(good) < rounds)


def _points(result: PeerResult, model: str, load: Load, client: str) -> tuple[dict[int, Point], str, str]:
    """By round what was measured, the load in words, and the first failure."""
    points: dict[int, Point] = {}
    words, failure = "", result.failure
    for turn in result.turns:
        if turn.model != model:
            continue
        failure = failure or turn.failure
        for each in turn.measured:
            if (each.load, each.client) == (str(load), client):
                words = each.words
                failure = failure or each.failure
                if each.point is not None and each.point.ok:
                    points[turn.round] = each.point
                elif each.point is not None:
                    failure = failure or next(iter(each.point.warnings), "no request was answered")
    return points, words, failure


def _throughput(point: Point) -> float:
    return point.throughput


def _cpu(point: Point) -> float:
    return point.server_cpu or 0.0


def ratio_of(
    points: Mapping[int, Point], base: Mapping[int, Point], figure: Callable[[Point], float] = _throughput
) -> Ratio | None:
    """Over the rounds that both have."""
    found = [
        figure(points[round]) / figure(base[round])
        for round in sorted(points.keys() & base.keys())
        if figure(base[round]) > 0
    ]
    return Ratio(median(found), min(found), max(found), len(found)) if found else None


def series_of(found: Sequence[Group]) -> list[Series]:
    """All rows for a report; what was measured once (HTTP under a deeper load) is there once."""
    seen: dict[tuple[str, str, str, str], Series] = {}
    for group in found:
        for row in group.rows:
            one = row.series
            seen.setdefault((one.server, one.model, one.load, one.client), one)
    return list(seen.values())

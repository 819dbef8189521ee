"""What is measured, as far as it has come."""

from dataclasses import dataclass, field

import msgspec

from penstock_bench.load.run import median_of
from penstock_bench.peers.compare import Ratio, ratio_of
from penstock_bench.results import Point, Series
from penstock_bench.streams.listener import Cost


@dataclass(slots=True)
class Row:
    """What was measured of a server, or of a kind of request."""

    name: str
    title: str
    remark: str = ""
    load: str = ""
    points: dict[int, Point] = field(default_factory=dict[int, Point])
    """By round."""
    failure: str = ""

    @property
    def point(self) -> Point | None:
        """The median of the rounds by throughput, with their spread."""
        good = list(self.points.values())
        return None if not good else median_of(good) if len(good) > 1 else good[0]

    def series(self, model: str) -> Series:
        return Series(
            server=self.title,
            protocol="gRPC",
            model=model,
            load=self.load,
            remark=self.remark,
            points=[] if self.point is None else [self.point],
            failure=self.failure,
        )


@dataclass(slots=True)
class Results:
    """All that was found, as far as it has come."""

    costs: list[Cost] = field(default_factory=list[Cost])
    servers: list[Row] = field(default_factory=list[Row])
    calls: list[Row] = field(default_factory=list[Row])
    interrupted: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all was measured, and all was right."""
        rows = [*self.servers, *self.calls]
        points = [point for row in rows for point in row.points.values()]
        return not self.interrupted and not any(row.failure for row in rows) and not any(p.wrong for p in points)


def frames_ratio(first: Row, other: Row) -> Ratio | None:
    """Frames a second of the first for each of the other's, round by round."""
    return ratio_of(first.points, other.points)


def cpu_ratio(row: Row, base: Row) -> Ratio | None:
    """CPU of the server for each request, of one for each of the other's, round by round."""
    return ratio_of(_costly(row), _costly(base))


def _costly(row: Row) -> dict[int, Point]:
    """The points with their CPU as throughput: ratios are taken of that."""
    return {
        round: msgspec.structs.replace(point, throughput=point.server_cpu)
        for round, point in row.points.items()
        if point.server_cpu
    }

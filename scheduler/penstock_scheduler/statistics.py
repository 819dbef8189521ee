"""What the scheduler counts, and the frozen picture of it that others read.

Counters are written in the hot path, so they are plain lists and dicts; `statistics()` copies them.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from penstock_scheduler.values import Batch, FireReason, Reason, Share, T, TrafficClass

QUEUE_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the buckets of queue time."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values are at most each bound (not cumulative); the last count is of those beyond all."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float
    """The sum of the values."""

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """One class of traffic."""

    queue_time: Histogram
    """Seconds from admission to the start of the (first) batch."""
    dropped: Mapping[Reason, int]
    """Early drops (HOPELESS), late ones (EXPIRED) and queue timeouts."""
    cancelled: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot; counts are since the scheduler was made."""

    queued: int
    queued_rows: int
    queued_bytes: int
    running: int
    """Batches."""
    instances: int
    draining: bool
    admitted: int
    refused: Mapping[Reason, int]
    classes: Mapping[TrafficClass, ClassStatistics]
    batch_rows: Mapping[int, int]
    """How many batches had so many rows."""
    fired: Mapping[FireReason, int]
    """How many batches were started for which reason."""
    padding_rows: int
    """Rows that were run for nothing, to reach a size that the model takes."""
    padding_elements: int
    """Rows times missing length, for requests in length buckets."""


class _Waits:
    """Queue times of one class."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0] * (len(QUEUE_SECONDS) + 1)
        self._total = 0.0

    def add(self, seconds: float, count: int) -> None:
        """So many have waited for so long."""
        self._counts[bisect_left(QUEUE_SECONDS, seconds)] += count
        self._total += seconds * count

    def histogram(self) -> Histogram:
        return Histogram(QUEUE_SECONDS, tuple(self._counts), self._total)


class Counters(Generic[T]):
    """Everything that is counted and does not follow from the state."""

    __slots__ = (
        "_batches",
        "_sizes",
        "_waits",
        "admitted",
        "cancelled",
        "dropped",
        "padding_elements",
        "refused",
    )

    def __init__(self, sizes: Sequence[int]) -> None:
        """`sizes` says for each number of rows which size is run (padding.row_sizes)."""
        self._waits = [_Waits() for _ in TrafficClass]
        self.admitted = 0
        self.refused: Counter[Reason] = Counter()
        self.dropped: list[Counter[Reason]] = [Counter() for _ in TrafficClass]
        self.cancelled = [0] * len(TrafficClass)
        self._sizes = sizes
        self._batches = {reason: [0] * len(sizes) for reason in FireReason}  # by reason and rows
        self.padding_elements = 0

    def started(self, batch: Batch[T], now: float) -> None:
        """A batch leaves the queue."""
        self._batches[batch.reason][batch.rows] += 1
        tickets = batch.tickets if batch.shares is None else _first_time(batch.tickets, batch.shares)
        if tickets:
            self._waited(tickets, now)
        if batch.length:
            shares = batch.shares or [None] * len(batch.tickets)
            for ticket, share in zip(batch.tickets, shares, strict=True):
                rows = ticket.rows if share is None else share.rows
                self.padding_elements += rows * (batch.length - ticket.length)

    def _waited(self, tickets: Sequence[T], now: float) -> None:
        """Count queue times: those of one read and class, who have waited equally long, at once."""
        enqueued, traffic, count = tickets[0].enqueued, tickets[0].traffic, 0
        for ticket in tickets:
            if ticket.enqueued == enqueued and ticket.traffic is traffic:
                count += 1
            else:
                self._waits[traffic].add(now - enqueued, count)
                enqueued, traffic, count = ticket.enqueued, ticket.traffic, 1
        self._waits[traffic].add(now - enqueued, count)

    def fired(self) -> dict[FireReason, int]:
        """How many batches were started for which reason."""
        return {reason: number for reason, counts in self._batches.items() if (number := sum(counts))}

    def batch_rows(self) -> dict[int, int]:
        """How many batches had so many rows."""
        by_rows = map(sum, zip(*self._batches.values(), strict=True))
        return {rows: number for rows, number in enumerate(by_rows) if number}

    def padding_rows(self) -> int:
        """Rows that were run for nothing."""
        return sum(number * (self._sizes[rows] - rows) for rows, number in self.batch_rows().items())

    def by_class(self) -> dict[TrafficClass, ClassStatistics]:
        return {
            traffic: ClassStatistics(
                self._waits[traffic].histogram(),
                dict(self.dropped[traffic]),
                self.cancelled[traffic],
            )
            for traffic in TrafficClass
        }


def _first_time(tickets: Sequence[T], shares: Sequence[Share | None]) -> list[T]:
    """Those of which no part was in a batch before."""
    return [ticket for ticket, share in zip(tickets, shares, strict=True) if share is None or share.start == 0]

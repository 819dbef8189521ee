"""What a simulation tells: data, to be printed or plotted by others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock_scheduler.statistics import Statistics
from penstock_scheduler.values import Reason


@dataclass(frozen=True, slots=True)
class Result:
    """One policy on one trace. Times are seconds."""

    requests: int
    latencies: Sequence[float]
    """From arrival to answer, ascending, of those that were answered."""
    in_time: int
    """Requests that were answered before their deadline and their timeout; without them every answer is."""
    refused: Mapping[Reason, int]
    dropped: Mapping[Reason, int]
    duration: float
    """From the first arrival to the last event."""
    busy: float
    """Seconds that instances worked, all together."""
    statistics: Statistics

    @property
    def goodput(self) -> float:
        """The part of all requests that was answered in time, from 0 to 1."""
        return self.in_time / self.requests if self.requests else 1.0

    @property
    def mean_latency(self) -> float:
        return sum(self.latencies) / len(self.latencies) if self.latencies else 0.0

    @property
    def mean_batch(self) -> float:
        """Rows."""
        batches = self.statistics.batch_rows
        count = sum(batches.values())
        return sum(rows * times for rows, times in batches.items()) / count if count else 0.0

    def percentile(self, percent: float) -> float:
        """The latency that this percentage of the answered requests did not exceed; 0 if there are none."""
        if not self.latencies:
            return 0.0
        rank = max(1, -(-len(self.latencies) * percent // 100))
        return self.latencies[int(rank) - 1]


def optimum(seconds: Sequence[float], patience: float, instances: int = 1) -> float:
    """The greatest rate of requests that can be served in time for ever, by the book.

    `seconds` are those of a batch by rows. The book's pipeline: a request that just misses a batch waits for it, and
    then for its own; with several instances, out of step, it waits for the next one to start. So a batch may have as
    many rows as L(b)·(1 + 1/n) <= patience allows.
    """
    rates = [
        instances * rows / seconds[rows]
        for rows in range(1, len(seconds))
        if seconds[rows] * (1 + 1 / instances) <= patience
    ]
    return max(rates, default=0.0)

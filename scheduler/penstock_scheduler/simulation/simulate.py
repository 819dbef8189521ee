"""The scheduler in a world of its own: arrivals from a trace, instances that cost what a formula says.

A heap of events moves the time; the scheduler is the one that serves, and is driven as a server drives it: what
arrives at one moment is submitted together, then it is polled, and it is woken when it asks for it. The same seed gives
the same result.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random

from penstock_scheduler.scheduler import Scheduler
from penstock_scheduler.settings import Settings
from penstock_scheduler.simulation.results import Result
from penstock_scheduler.simulation.traces import Arrival
from penstock_scheduler.values import Batch, Drop, Reason, Start, Ticket


@dataclass(frozen=True, slots=True)
class Model:
    """What batches cost: per_row · rows + per_batch seconds, times noise."""

    per_row: float
    per_batch: float
    noise: float = 0.0
    """Each batch takes up to so much longer: |N(0, noise)| of its time."""
    warm_up: bool = True
    """Whether the scheduler is told the cost of each size before the first request."""

    def seconds(self, rows: int) -> float:
        """Without noise."""
        return self.per_row * rows + self.per_batch

    def table(self, max_rows: int) -> list[float]:
        """Seconds by rows, from 0 to `max_rows`."""
        return [0.0, *(self.seconds(rows) for rows in range(1, max_rows + 1))]


def simulate(settings: Settings, model: Model, arrivals: Sequence[Arrival], *, seed: int = 0) -> Result:
    """Replay a trace (ascending) to its end. The settings' objective counts as the deadline of those without."""
    return _World(settings, model, seed).run(arrivals)


class _World:
    def __init__(self, settings: Settings, model: Model, seed: int) -> None:
        self._scheduler: Scheduler[Ticket] = Scheduler(settings)
        self._model = model
        self._rng = Random(seed)
        self._ends: list[tuple[float, int, Batch[Ticket]]] = []
        self._order = count()
        self._unfinished: dict[int, int] = {}  # rows left, of requests in parts
        self._latencies: list[float] = []
        self._in_time = 0
        self._refused: Counter[Reason] = Counter()
        self._dropped: Counter[Reason] = Counter()
        self._busy = 0.0
        if model.warm_up:
            for rows in range(1, settings.max_batch_rows + 1):
                self._scheduler.cost.seed(rows, model.seconds(rows))

    def run(self, arrivals: Sequence[Arrival]) -> Result:
        index, now = 0, 0.0
        while True:
            wakeup = self._scheduler.next_wakeup()
            moments = (
                arrivals[index].at if index < len(arrivals) else inf,
                self._ends[0][0] if self._ends else inf,
                inf if wakeup is None else wakeup,
            )
            if min(moments) == inf:
                break
            now = max(now, min(moments))
            while self._ends and self._ends[0][0] <= now:
                self._finish(heappop(self._ends)[2], now)
            first = index
            while index < len(arrivals) and arrivals[index].at <= now:
                index += 1
            if index > first:
                self._arrive(arrivals[first:index], now)
            self._poll(now)
        return Result(
            len(arrivals),
            sorted(self._latencies),
            self._in_time,
            dict(self._refused),
            dict(self._dropped),
            now - (arrivals[0].at if arrivals else 0.0),
            self._busy,
            self._scheduler.statistics(),
        )

    def _arrive(self, arrivals: Sequence[Arrival], now: float) -> None:
        tickets = [
            Ticket(
                arrival.rows,
                deadline=arrival.at + arrival.patience,
                traffic=arrival.traffic,
                level=arrival.level,
                tenant=arrival.tenant,
                timeout=arrival.timeout,
            )
            for arrival in arrivals
        ]
        for refused in self._scheduler.submit_many(tickets, now):
            self._refused[refused.reason] += 1

    def _poll(self, now: float) -> None:
        for effect in self._scheduler.poll(now):
            if isinstance(effect, Start):
                batch = effect.batch
                noise = abs(self._rng.gauss(0.0, self._model.noise)) if self._model.noise else 0.0
                seconds = self._model.seconds(batch.padded_rows) * (1 + noise)
                self._busy += seconds
                heappush(self._ends, (now + seconds, next(self._order), batch))
            elif isinstance(effect, Drop):
                self._dropped[effect.reason] += 1

    def _finish(self, batch: Batch[Ticket], now: float) -> None:
        self._scheduler.finish(batch, now, now - batch.started)
        shares = batch.shares or [None] * len(batch.tickets)
        for ticket, share in zip(batch.tickets, shares, strict=True):
            if share is not None:
                left = self._unfinished.pop(ticket.sequence, ticket.rows) - share.rows
                if left:
                    self._unfinished[ticket.sequence] = left
                    continue
            self._latencies.append(now - ticket.enqueued)
            # A client that sets a timeout wants its answer by then, whatever the policy makes of it.
            self._in_time += now <= min(ticket.deadline, ticket.enqueued + (ticket.timeout or inf))

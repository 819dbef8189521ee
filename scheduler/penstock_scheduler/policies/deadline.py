"""The policy `deadline`: rate-matched deferral with early drop.

While nothing queued has a deadline it is `eager`. Otherwise, with L(b) what b rows cost (cost.py), d the deadline of
the first in the order of service, less the margin for the reply:

* *need* is the least batch whose size keeps up with 1.1 times the rate of arrivals, but not more than fits into
  what deadlines leave when a request has to wait for the batch before its own. On a device that others use too, it
  is what comes in until its turn comes again (device.py). Waiting for more than the rate needs
  ruins the latency at low load (pure deferral, as in Symphony, does that); waiting for less loses throughput.
* *Early drop.* If the first cannot be in a batch of that size and be in time, it is dropped while enough others
  wait to fill it. Serving it would force a batch so small that all behind it become late too (Nexus): that is how a
  queue that drops only what has expired collapses under overload.
* *Deferral.* With fewer rows than needed the batch waits, but never beyond the moment from which one more row would
  make the first late (less the longest batch of another model on the device), nor beyond 1.25 times the time that
  the rate needs to fill it, nor `max_queue_delay`.
  A single instance never waits while there is work: all that came while it worked is there, and idling wastes it. (In
  the simulator that is better at every load; with several instances deferral is, since each would take too little.)
* A batch is filled only as far as everybody in it is in time (splitting.py).

What cannot be done in time is refused at admission, as Clockwork does: a late answer costs as much as one in time.
"""

from math import inf

from penstock_scheduler.cost import CostModel
from penstock_scheduler.deadlines import Deadlines
from penstock_scheduler.lanes import Lane
from penstock_scheduler.policies.base import LanePolicy
from penstock_scheduler.rate import Rate
from penstock_scheduler.running import Running
from penstock_scheduler.settings import Settings
from penstock_scheduler.splitting import Dropper, Filling
from penstock_scheduler.values import Batch, FireReason, Reason, T

_HEADROOM = 1.1
"""How much faster than the rate batches must be: a queue at its limit never becomes shorter."""
_FILLING = 1.25
_PATIENCE_GAIN = 0.05
_PATIENCE_MOVED = 0.01

# Looking a member up in its enum takes longer than the line where it is used.
_FULL, _IDLE, _DRAIN = FireReason.FULL, FireReason.IDLE, FireReason.DRAIN


class Deadline(LanePolicy[T]):
    """See the module's text."""

    def __init__(self, settings: Settings, cost: CostModel, running: Running[T], deadlines: Deadlines[T]) -> None:
        super().__init__(settings)
        self._cost = cost
        self._running = running
        self._deadlines = deadlines  # all queued tickets that have one
        self.rate = Rate()
        self._max_delay = inf if settings.max_queue_delay is None else settings.max_queue_delay
        self._free_of_charge = [0.0] * (settings.max_batch_rows + 1)
        self._patience = settings.slo  # how far away deadlines are on arrival
        self._wakeup = inf
        self._draining = False
        self._is_single = settings.instances == 1
        self._known, self._known_need = (-1, 0.0, 0.0, 0.0), 1  # what the need was found for, and the need

    def arrived(self, rows: int, patience: float, now: float) -> None:
        self.rate.add(rows, now)
        if patience < inf:
            known = self._patience
            if known == inf or abs(patience - known) > _PATIENCE_MOVED * known:
                self._patience = patience if known == inf else known + _PATIENCE_GAIN * (patience - known)

    def soonest(self, now: float) -> float:
        end = self._running.next_end
        return (end if end > now else now) + self._cost.margin

    def drain(self) -> None:
        self._draining = True

    def wakeup(self) -> float:
        return self._wakeup

    def form(self, now: float, free: int, drop: Dropper[T]) -> Batch[T] | None:
        self._wakeup = inf
        is_timed = self._deadlines.any()
        table = self._cost.table if is_timed else self._free_of_charge
        start = now + self._cost.margin
        for lane in self._in_order(now):
            reason = self._ripe(lane, now, start, drop) if is_timed else _IDLE
            if reason is None:
                continue
            batch = self._all_of(lane, reason)
            if batch is None:
                filling = Filling(self._max_rows, table, start, self._earliest(start + table[-1]), drop)
                filling.fill(lane, now)
                batch = filling.batch(lane, reason)
            if batch is not None:
                return self._started(batch, lane)
        return None

    def _ripe(self, lane: Lane[T], now: float, start: float, drop: Dropper[T]) -> FireReason | None:
        """Why to start a batch from this lane now, once those are dropped that must be; None: wait, or it is empty.

        `start` is now and the margin.
        """
        # If all of it, one batch after the other, is in time for the first deadline of all, nobody is hopeless.
        end = start + self._cost.of(lane.rows)
        if end > self._deadlines.bound and end > self._deadlines.earliest():
            self._drop_hopeless(lane, now, drop)
            if not lane.rows:
                return None
        if lane.rows >= self._max_rows:
            return _FULL
        if self._is_single and not self.blocking:
            return _DRAIN if self._draining else _IDLE  # it never waits, so nothing is asked of the rate
        need = self._need(now)
        if lane.rows >= need:
            return FireReason.RATE
        if self._draining:
            return _DRAIN
        return self._deferred(lane, need, now)

    def _earliest(self, end: float) -> float:
        """The earliest deadline of all, or, if none is before `end`, one from which that can be told for less."""
        bound = self._deadlines.bound
        return bound if end <= bound else self._deadlines.earliest()

    def _drop_hopeless(self, lane: Lane[T], now: float, drop: Dropper[T]) -> None:
        """Drop the first as long as it cannot be in time in the batch that is needed, or that there are others for."""
        table, need = self._cost.table, self._need(now)
        while (flow := lane.first(now)) is not None and (head := flow.head) is not None:
            left = head.deadline - self._cost.margin - now
            # Only its equals count: nobody is dropped in favour of a class or level below.
            want = max(min(flow.band.rows, need), min(head.remaining, self._max_rows))
            if self._cost.of(head.remaining) <= left and table[want] <= left:
                return
            drop(head, Reason.HOPELESS)

    def _deferred(self, lane: Lane[T], need: int, now: float) -> FireReason | None:
        """Why a batch of fewer rows than are needed starts now; None: it waits, and `wakeup` says until when."""
        head = lane.head(now)
        assert head is not None, "a lane with rows has a first request"
        latest = self._deadlines.earliest() - self._cost.margin - self._cost.table[lane.rows + 1] - self.blocking
        company = head.enqueued + min(_FILLING * (need - 1) * self.rate.gap(), self._max_delay)
        if now >= latest:
            return FireReason.DEADLINE
        if now >= company:
            return FireReason.DELAY
        self._wakeup = min(self._wakeup, latest, company)
        return None

    def rows_per_second(self, now: float) -> float:
        return self.rate.per_second(now)

    def _need(self, now: float) -> int:
        """Rows of a batch that keeps up with the rate, but no more than deadlines allow."""
        wanted = (self._cost.version, self.rate.per_second(now), self._patience, self.cycle)
        if not _is_like(wanted, self._known):
            self._known, self._known_need = wanted, self._find_need(wanted[1])
        return self._known_need

    def _find_need(self, rate: float) -> int:
        table, instances = self._cost.table, self._settings.instances
        best = 1
        for rows in range(1, self._max_rows + 1):
            seconds = table[rows]
            # It waits for the batch before: a whole one if one instance is enough to be busy all the time.
            busy = min(instances, rate * seconds / rows)
            if busy <= 0 or seconds * (1 + 1 / busy) > self._patience:
                break
            best = rows
            # How long it takes until the next batch of this model may begin.
            if rows >= rate * (self.cycle or _HEADROOM * seconds / instances):
                break
        return best


def _is_like(a: tuple[int, float, float, float], b: tuple[int, float, float, float]) -> bool:
    """Whether a need that was found for one will do for the other."""
    return a[0] == b[0] and a[2] == b[2] and b[1] * 0.99 <= a[1] <= b[1] * 1.01 and b[3] * 0.99 <= a[3] <= b[3] * 1.01

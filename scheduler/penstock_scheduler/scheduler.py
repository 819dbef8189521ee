"""The batching scheduler of one model: a state machine that is told the time and never waits.

    submit ──▶ QUEUED ──poll──▶ RUNNING ──finish──▶ gone
                  ├──cancel───────────────────────▶ gone
                  └──poll, deadline passed────────▶ gone   (reported as Expire)

A caller tells what happened (`submit`, `cancel`, `finish`, `drain`), then asks what to do about it
(`poll`), then sleeps until something happens or until `next_wakeup`. Times are seconds on one
monotonic clock of the caller's choice; they are only ever compared.

After every `poll(now)`:
  * a ticket is in exactly one place: a lane, a running batch, or gone;
  * no free instance faces a ripe lane;
  * nothing queued has a deadline at or before `now`;
  * `next_wakeup()` is None or later than `now`.

A lane is *ripe* when a full batch is there, when its head has waited `max_queue_delay`, or when the
scheduler drains. Of the ripe lanes the one whose head is oldest goes first, so no lane starves.
"""

from collections.abc import Hashable
from itertools import count
from math import inf
from typing import Generic

from penstock_scheduler.deadlines import Deadlines
from penstock_scheduler.lanes import Lanes
from penstock_scheduler.values import (
    Batch,
    Effect,
    Expire,
    P,
    Policy,
    Reason,
    Rejected,
    Start,
    State,
    Statistics,
    Ticket,
)

_NO_LANE = object()


class Scheduler(Generic[P]):
    """See the module's text for the contract."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lanes: Lanes[P] = Lanes()
        self._running: dict[int, Batch[P]] = {}
        self._deadlines: Deadlines[P] = Deadlines()
        self._draining = False
        self._ids = count()

    def __repr__(self) -> str:
        s = self.statistics()
        state = "draining" if s.draining else "open"
        return f"<Scheduler {state}: {s.queued} queued ({s.queued_rows} rows), {s.running} running>"

    # Telling it what happened.

    def submit(self, payload: P, *, rows: int, now: float, key: Hashable = None, deadline: float = inf) -> Ticket[P]:
        """Admit a request, or raise `Rejected`."""
        if self._draining:
            raise Rejected(Reason.DRAINING)
        if not 0 < rows <= self._policy.max_batch_rows:
            raise Rejected(Reason.TOO_MANY_ROWS)
        if self._lanes.queued_rows + rows > self._policy.max_queued_rows:
            raise Rejected(Reason.QUEUE_FULL)
        if deadline <= now:
            raise Rejected(Reason.DEADLINE)
        ticket = Ticket(next(self._ids), payload, rows, key, now, deadline)
        self._lanes.add(ticket)
        self._deadlines.add(ticket)
        return ticket

    def cancel(self, ticket: Ticket[P]) -> bool:
        """Forget a queued ticket. False if it already runs or is gone."""
        if ticket.state is not State.QUEUED:
            return False
        self._leave(ticket)
        return True

    def finish(self, batch: Batch[P]) -> None:
        """Give back the instance of a started batch. KeyError if it holds none."""
        del self._running[batch.id]
        for ticket in batch.tickets:
            ticket.state = State.GONE

    def drain(self) -> None:
        """Admit nothing more, and let what is queued run without waiting for company."""
        self._draining = True

    # Asking it what to do.

    def poll(self, now: float) -> list[Effect[P]]:
        """What must be done now, in this order."""
        effects: list[Effect[P]] = []
        while (ticket := self._deadlines.passed(now)) is not None:
            self._leave(ticket)
            effects.append(Expire(ticket))
        while len(self._running) < self._policy.instances:
            key = self._ripest(now)
            if key is _NO_LANE:
                break
            effects.append(Start(self._start(key)))
        return effects

    def next_wakeup(self) -> float | None:
        """When to poll next if nothing happens before; None if time alone changes nothing."""
        wakeup = self._deadlines.earliest()
        if len(self._running) < self._policy.instances:
            for lane in self._lanes.values():
                wakeup = min(wakeup, lane.head().enqueued + self._policy.max_queue_delay)
        return None if wakeup == inf else wakeup

    def statistics(self) -> Statistics:
        """A snapshot of what is queued and running."""
        return Statistics(self._lanes.queued, self._lanes.queued_rows, len(self._running), self._draining)

    # How it decides.

    def _ripest(self, now: float) -> Hashable:
        """The ripe lane whose head has waited longest."""
        policy = self._policy
        oldest, ripest = inf, _NO_LANE
        for key, lane in self._lanes.items():
            enqueued = lane.head().enqueued
            ripe = self._draining or lane.rows >= policy.max_batch_rows or enqueued + policy.max_queue_delay <= now
            if ripe and enqueued < oldest:
                oldest, ripest = enqueued, key
        return ripest

    def _start(self, key: Hashable) -> Batch[P]:
        tickets = self._lanes.take(key, self._policy.max_batch_rows)
        for ticket in tickets:
            self._deadlines.left(ticket)
        batch = Batch(next(self._ids), key, tickets, sum(ticket.rows for ticket in tickets))
        self._running[batch.id] = batch
        return batch

    def _leave(self, ticket: Ticket[P]) -> None:
        self._lanes.remove(ticket, State.GONE)
        self._deadlines.left(ticket)

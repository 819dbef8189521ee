"""Who comes in: all requests of one read are looked at in one call.

In this order a request is refused because the scheduler drains, because of its rows, its tenant, its deadline, the
bounds (of this model or of all), or its queue (policy). Nothing about the scheduler or the ticket changes by that,
and a later request of the same read may fit where an earlier one did not.

A ticket's deadline becomes the earliest of its own, now + `timeout` (not under `fixed`, where the timeout has
Triton's meaning), and, if it has neither, now + the model's objective (`slo`). None of them: it has none.
"""

from collections.abc import Sequence
from math import inf
from typing import Generic

from penstock_scheduler.agenda import FAR
from penstock_scheduler.bounds import Bounds
from penstock_scheduler.cost import CostModel
from penstock_scheduler.deadlines import Deadlines
from penstock_scheduler.policies.base import Policy
from penstock_scheduler.settings import PolicyName, Settings
from penstock_scheduler.statistics import Counters
from penstock_scheduler.values import Reason, Refused, State, T, TrafficClass

_MIN_RETRY = 0.001

# Looking a member up in its enum costs more than all else in the line where it is used.
_QUEUED = State.QUEUED
_BULK = TrafficClass.BULK


class Admission(Generic[T]):
    """The door of one model's queue."""

    def __init__(
        self,
        settings: Settings,
        policy: Policy[T],
        cost: CostModel,
        deadlines: Deadlines[T],
        bounds: Sequence[Bounds],
        counters: Counters[T],
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._cost = cost
        self._deadlines = deadlines
        self._bounds = bounds
        self._slo = settings.slo
        self._max_batch_rows = settings.max_batch_rows
        self._shared_bounds = bounds[1:]
        self._add = policy.door()
        self._counters = counters
        # Only `deadline` goes by deadlines: otherwise a request is due when it comes.
        self._patience = settings.patience if settings.policy is PolicyName.DEADLINE else 0.0
        self._tenants = settings.tenants if settings.known_tenants_only else None
        self._max_rows = settings.max_queued_rows if settings.split else settings.max_batch_rows
        self._timeout_is_deadline = settings.policy is not PolicyName.FIXED
        self._sequence = 0
        self.is_open = True

    def admit(self, tickets: Sequence[T], now: float) -> list[Refused[T]]:  # noqa: C901 - one pass, for speed
        """Queue what may be queued. Those that may not be, with the reasons."""
        if not self.is_open:
            return self._refuse_all(tickets)
        refused: list[Refused[T]] = []
        own = self._bounds[0]
        room_rows, room_bytes = own.max_rows - own.rows, own.max_bytes - own.nbytes
        for shared in self._shared_bounds:
            room_rows = min(room_rows, shared.max_rows - shared.rows)
            room_bytes = min(room_bytes, shared.max_bytes - shared.nbytes)
        had_rows, had_bytes = room_rows, room_bytes
        # Everything that the loop uses is local: it is run for each request.
        add, cost, max_batch = self._add, self._cost, self._max_batch_rows
        soonest = self._policy.soonest(now)  # minus infinity: nothing is hopeless
        # Whoever has longer than this is in time, if it fits into a batch.
        enough = soonest + cost.table[-1]
        if enough < now:
            enough = now
        timeout_counts = self._timeout_is_deadline
        max_rows, slo, tenants = self._max_rows, self._slo, self._tenants
        far_due = now + self._patience
        bulk, sequence = 0, self._sequence
        timed: list[T] = []
        first, earliest = None, inf
        for ticket in tickets:
            rows, deadline = ticket.rows, ticket.deadline
            if ticket.timeout and timeout_counts:
                deadline = min(deadline, now + ticket.timeout)
            if deadline == inf:
                deadline = now + slo
            reason = None
            if not 0 < rows <= max_rows:
                reason = Reason.TOO_MANY_ROWS if rows > 0 else Reason.NO_ROWS
            elif tenants is not None and ticket.tenant not in tenants:
                reason = Reason.UNKNOWN_TENANT
            elif (deadline <= enough or rows > max_batch) and (deadline <= now or soonest + cost.of(rows) > deadline):
                reason = Reason.EXPIRED if deadline <= now else Reason.HOPELESS
            elif rows > room_rows or ticket.nbytes > room_bytes:
                reason = Reason.QUEUE_FULL
            else:
                ticket.sequence = sequence + 1
                ticket.enqueued = now
                ticket.due = deadline if deadline < far_due else far_due
                reason = add(ticket)
            if reason is not None:
                refused.append(self._refused(ticket, reason, had_rows - room_rows))
                continue
            sequence += 1
            ticket.state = _QUEUED
            ticket.remaining = ticket.unfinished = rows
            room_rows -= rows
            room_bytes -= ticket.nbytes
            if deadline < FAR:
                ticket.deadline = deadline
                timed.append(ticket)
                if deadline < earliest:
                    first, earliest = ticket, deadline
            if ticket.traffic is _BULK:
                bulk += rows
        self._counters.admitted += sequence - self._sequence
        self._sequence = sequence
        new_rows = had_rows - room_rows
        for bounds in self._bounds:
            bounds.take(new_rows, had_bytes - room_bytes)
        if first is not None:
            self._deadlines.add(timed, first)
        if new_rows > bulk:
            self._policy.arrived(new_rows - bulk, timed[-1].deadline - now if timed else inf, now)
        return refused

    def _refused(self, ticket: T, reason: Reason, new_rows: int) -> Refused[T]:
        self._counters.refused[reason] += 1
        return Refused(ticket, reason, self._retry_after(new_rows) if reason is Reason.QUEUE_FULL else 0.0)

    def _refuse_all(self, tickets: Sequence[T]) -> list[Refused[T]]:
        return [self._refused(ticket, Reason.DRAINING, 0) for ticket in tickets]

    def _retry_after(self, new_rows: int) -> float:
        """Seconds until what is queued now, `new_rows` of this read included, has been run."""
        return max(_MIN_RETRY, self._cost.of(self._bounds[0].rows + new_rows) / self._settings.instances)

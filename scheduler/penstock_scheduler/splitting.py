"""Filling one batch from flows, with parts of requests that are larger than a batch.

A request of more than `max_rows` is *oversize*. It stays at the head of its flow while batch after batch takes what
fits; its parts may run at the same time on several instances. Any other request is in one batch or in none: what
can be whole is never split.

No batch is filled beyond the size at which one of its requests would be late (deadline; `eager` passes a table of
zeros, with which nobody ever is). A request that would be late even alone is dropped on the way.
"""

from collections.abc import Callable, Sequence
from typing import Generic

from penstock_scheduler.lanes import Flow, Lane
from penstock_scheduler.values import Batch, FireReason, Reason, Share, T

Dropper = Callable[[T, Reason], None]
"""Takes a queued ticket out, whereever it is counted, and reports it."""


class Filling(Generic[T]):
    """A batch that is being filled."""

    __slots__ = (
        "_drop",
        "_earliest",
        "_max_rows",
        "_room",
        "_shares",
        "_start",
        "_stopped",
        "_table",
        "_tickets",
        "_tight",
    )

    def __init__(self, max_rows: int, table: Sequence[float], start: float, earliest: float, drop: Dropper[T]) -> None:
        """`table` says what rows cost, and `start` when the batch starts, plus the margin that is to be kept.

        No deadline is before `earliest`.
        """
        self._max_rows = max_rows
        self._room = max_rows
        self._table = table
        self._start = start
        self._earliest = earliest
        self._drop = drop
        self._tight = float("inf")  # the earliest deadline in the batch
        self._tickets: list[T] = []
        self._shares: list[Share | None] | None = None
        self._stopped = False

    def fill(self, lane: Lane[T], now: float) -> None:
        """Take what a lane has, in the order of service, as far as it fits."""
        if lane.rows <= self._room and self._start + self._table[lane.rows] <= self._earliest:
            self._take_all(lane)
            return
        single = lane.single()
        if single is not None:
            self.take(single)
            return
        for flow in lane.turns(now):
            self._take_one(flow)
            if not self._room:
                return

    def take(self, flow: Flow[T], most: int = 1 << 62) -> None:
        """Take up to so many tickets from the head of a flow, as long as they fit."""
        queue, tickets, table, max_rows = flow.queue, self._tickets, self._table, self._max_rows
        start, tight, room = self._start, self._tight, self._room
        whole = 0
        while whole < most:
            ticket = queue.head()
            if ticket is None:
                break
            rows = ticket.remaining
            is_oversize = ticket.rows > max_rows
            if rows > room:
                if not is_oversize or not room:
                    self._stopped = True
                    break
                rows = room
            end = start + table[max_rows - room + rows]
            deadline = ticket.deadline
            if end > tight or end > deadline:
                if start + table[rows] > deadline:
                    self._drop(ticket, Reason.HOPELESS)
                    continue
                self._stopped = True
                break
            if deadline < tight:
                tight = deadline
            if is_oversize:
                self._add_share(Share(ticket.rows - ticket.remaining, rows))
            elif self._shares is not None:
                self._shares.append(None)
            tickets.append(ticket)
            room -= rows
            ticket.remaining -= rows
            if ticket.remaining:
                break  # the batch is full
            queue.pop()
            whole += 1
        taken = self._room - room
        self._tight, self._room = tight, room
        if taken:
            flow.serve(whole, taken)

    def _take_all(self, lane: Lane[T]) -> None:
        """What fits and is in time as a whole needs no order."""
        self._room -= lane.rows
        tickets = self._tickets = lane.drain()
        for ticket in tickets:
            if ticket.rows > self._max_rows:
                self._shares = [self._rest(ticket) for ticket in tickets]
                break
        for ticket in tickets:
            ticket.remaining = 0

    def _rest(self, ticket: T) -> Share | None:
        return Share(ticket.rows - ticket.remaining, ticket.remaining) if ticket.rows > self._max_rows else None

    def _take_one(self, flow: Flow[T]) -> None:
        """The same as take(flow, 1), faster for what is whole, fits, and is in time."""
        queue = flow.queue
        ticket = queue.head()
        assert ticket is not None, "a flow whose turn it is has a head"
        rows = ticket.remaining
        room = self._room - rows
        if room < 0 or ticket.rows > self._max_rows:
            self.take(flow, 1)
            return
        end, deadline = self._start + self._table[self._max_rows - room], ticket.deadline
        if end > deadline or end > self._tight:
            self.take(flow, 1)
            return
        if deadline < self._tight:
            self._tight = deadline
        if self._shares is not None:
            self._shares.append(None)
        self._tickets.append(ticket)
        self._room = room
        ticket.remaining = 0
        queue.pop()
        flow.serve(1, rows)

    def batch(self, lane: Lane[T], reason: FireReason) -> Batch[T] | None:
        """What was filled, for `reason` unless no more fitted; None if nothing was."""
        if not self._tickets:
            return None
        if not self._room or self._stopped:
            reason = FireReason.FULL
        batch = Batch(lane.key, lane.length, self._tickets, self._max_rows - self._room, reason)
        batch.shares = self._shares
        return batch

    def _add_share(self, share: Share) -> None:
        if self._shares is None:
            self._shares = []
            self._shares += [None] * len(self._tickets)
        self._shares.append(share)

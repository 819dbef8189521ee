"""Filling one batch from flows, with parts of requests that are larger than a batch.

A request of more than `max_rows` is *oversize*. It stays at the head of its flow while batch after batch takes what
fits; its parts may run at the same time on several instances. Any other request is in one batch or in none: what
can be whole is never split.

No batch is filled beyond the size at which one of its requests would be late (deadline; `eager` passes a table of
zeros, with which nobody ever is). A request that would be late even alone is dropped on the way.
"""

from collections.abc import Callable, Sequence
from math import inf
from operator import attrgetter
from typing import Generic

from penstock_scheduler.flows import Flow
from penstock_scheduler.lanes import Lane, Tier
from penstock_scheduler.values import Batch, FireReason, Reason, Share, T

_DEADLINE = attrgetter("deadline")
_FULL = FireReason.FULL  # looking a member up in its enum takes longer than the line where it is used

Dropper = Callable[[T, Reason], None]
"""Takes a queued ticket out, whereever it is counted, and reports it."""


class Filling(Generic[T]):
    """A batch that is being filled."""

    __slots__ = (
        "_drop",
        "_earliest",
        "_is_safe",
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
        self._is_safe = start + table[-1] <= earliest  # nobody is late, however full it will be
        self._tight = inf  # the earliest deadline in the batch, if that matters
        self._tickets: list[T] = []
        self._shares: list[Share | None] | None = None
        self._stopped = False

    def fill(self, lane: Lane[T], now: float) -> None:
        """Take what a lane has, in the order of service, as far as it fits.

        Of a class that does not fit as a whole nobody is passed over: when one has to stay, so does the rest of it, and
        the next class's turn has come. One ticket that has waited too long for the classes above it goes first of all.
        """
        all_rows = lane.rows
        all_fit = all_rows <= self._room and self._in_time(all_rows)
        if not all_fit and (starved := lane.starved(now)) is not None:
            room = self._room
            self._take_one(starved)
            starved.band.tier.count_out(room - self._room)
        for tier in lane.tiers:
            if not tier.rows or not self._room:
                continue
            if all_fit or (not tier.is_sorted and tier.rows <= self._room and self._in_time(tier.rows)):
                self._take_all(tier)
            else:
                self._take_some(tier, now, is_alone=tier.rows == all_rows)

    def _take_some(self, tier: Tier[T], now: float, *, is_alone: bool) -> None:
        """Take what fits of a class; a single flow, if it is all there is in the lane, as a run."""
        if self._is_safe and (inbox := tier.few(now)) is not None:
            tickets, rows = inbox.take(self._room)
            self._add(tickets)
            self._room -= rows
            tier.count_out(rows)
            self._stopped = True
            if not self._room or not inbox.tickets or inbox.tickets[0].rows <= self._max_rows:
                return  # else the first of those that stay has to be split
        room = self._room
        ranked = tier.ranked(now)
        if is_alone and len(ranked) == 1 and ranked[0][4].band.is_one_flow():
            self.take(ranked[0][4])
        else:
            tier.serve(ranked, self._take_one, now)
        tier.count_out(room - self._room)

    def _in_time(self, rows: int) -> bool:
        """Whether nobody is late if so many rows that fit are added, whoever's they are."""
        return self._is_safe or self._start + self._table[self._max_rows - self._room + rows] <= self._earliest

    def take(self, flow: Flow[T], most: int = 1 << 62) -> bool:
        """Take up to so many tickets from the head of a flow, as long as they fit. Whether the flow is any shorter."""
        had = flow.band.rows
        tickets, table, max_rows = self._tickets, self._table, self._max_rows
        start, tight, room = self._start, self._tight, self._room
        whole = last = 0
        while whole < most:
            ticket = flow.head
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
                self._all_shares().append(Share(ticket.rows - ticket.remaining, rows))
            elif self._shares is not None:
                self._shares.append(None)
            tickets.append(ticket)
            last = rows
            room -= rows
            ticket.remaining -= rows
            if ticket.remaining:
                break  # the batch is full
            flow.advance()
            whole += 1
        taken = self._room - room
        self._tight, self._room = tight, room
        if taken:
            flow.serve(whole, taken, last)
        return flow.band.rows < had

    def _take_all(self, tier: Tier[T]) -> None:
        """What fits and is in time as a whole needs no order."""
        self._room -= tier.rows
        had_flows, tickets = tier.is_sorted, tier.drain()
        if not self._is_safe:
            self._tight = min(self._tight, min(map(_DEADLINE, tickets)))
        had = len(self._tickets)
        self._add(tickets)
        if had_flows:  # else no rest of an oversize request is among them: those are at the heads of flows
            for index, ticket in enumerate(tickets, had):
                if ticket.rows > self._max_rows:
                    self._all_shares()[index] = Share(ticket.rows - ticket.remaining, ticket.remaining)

    def _add(self, tickets: Sequence[T]) -> None:
        """Tickets as a whole; their rows are the caller's."""
        self._tickets += tickets
        if self._shares is not None:
            self._shares += [None] * len(tickets)

    def _take_one(self, flow: Flow[T]) -> bool:
        """The same as take(flow, 1), faster for what is whole, fits, and is in time. False if that filled it."""
        ticket = flow.head
        assert ticket is not None, "a flow whose turn it is has a head"
        rows = ticket.remaining
        room = self._room - rows
        if room < 0 or ticket.rows > self._max_rows:
            return self.take(flow, 1)
        if not self._is_safe:
            end, deadline = self._start + self._table[self._max_rows - room], ticket.deadline
            if end > deadline or end > self._tight:
                return self.take(flow, 1)
            if deadline < self._tight:
                self._tight = deadline
        if self._shares is not None:
            self._shares.append(None)
        self._tickets.append(ticket)
        self._room = room
        flow.take()
        return room > 0

    def batch(self, lane: Lane[T], reason: FireReason) -> Batch[T] | None:
        """What was filled, for `reason` unless no more fitted; None if nothing was."""
        if not self._tickets:
            return None
        if not self._room or self._stopped:
            reason = _FULL
        batch = Batch(lane.key, lane.length, self._tickets, self._max_rows - self._room, reason)
        batch.shares = self._shares
        return batch

    def _all_shares(self) -> list[Share | None]:
        """One for each ticket so far."""
        if self._shares is None:
            self._shares = []
            self._shares += [None] * len(self._tickets)
        return self._shares

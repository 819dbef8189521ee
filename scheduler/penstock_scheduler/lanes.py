"""The queue: one lane for each key, first in first out within a lane.

Only requests with equal keys may share a batch, so a lane is what a batch is taken from. Tickets
leave from the front (into a batch) or from the middle (cancelled, expired), both in constant time.
"""

from collections import OrderedDict
from collections.abc import Hashable, ItemsView, ValuesView
from typing import Generic

from penstock_scheduler.values import P, State, Ticket


class Lane(Generic[P]):
    """Tickets that may share a batch, oldest first."""

    __slots__ = ("rows", "tickets")

    def __init__(self) -> None:
        # A plain dict rescans its deleted front at each look at the head; an OrderedDict does not.
        self.tickets: OrderedDict[int, Ticket[P]] = OrderedDict()
        self.rows = 0

    def head(self) -> Ticket[P]:
        """The oldest ticket. A lane is never empty."""
        return next(iter(self.tickets.values()))


class Lanes(Generic[P]):
    """All lanes of one model. Holds only lanes with tickets."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, Lane[P]] = {}
        self.queued = 0
        self.queued_rows = 0

    def add(self, ticket: Ticket[P]) -> None:
        lane = self._lanes.get(ticket.key)
        if lane is None:
            lane = self._lanes[ticket.key] = Lane()
        lane.tickets[ticket.id] = ticket
        lane.rows += ticket.rows
        self.queued += 1
        self.queued_rows += ticket.rows

    def remove(self, ticket: Ticket[P], state: State) -> None:
        """Take a queued ticket out; `state` says where it goes."""
        lane = self._lanes[ticket.key]
        del lane.tickets[ticket.id]
        lane.rows -= ticket.rows
        self.queued -= 1
        self.queued_rows -= ticket.rows
        ticket.state = state
        if not lane.tickets:
            del self._lanes[ticket.key]

    def take(self, key: Hashable, max_rows: int) -> list[Ticket[P]]:
        """Take the oldest tickets of a lane, as many as fit into `max_rows`."""
        lane = self._lanes[key]
        taken: list[Ticket[P]] = []
        rows = 0
        while lane.tickets and rows + lane.head().rows <= max_rows:
            ticket = lane.head()
            self.remove(ticket, State.RUNNING)
            taken.append(ticket)
            rows += ticket.rows
        return taken

    def items(self) -> ItemsView[Hashable, Lane[P]]:
        return self._lanes.items()

    def values(self) -> ValuesView[Lane[P]]:
        return self._lanes.values()

"""The deadlines of what is queued: a heap with lazy deletion, compacted as it goes stale.

A ticket that leaves the queue stays in the heap until it comes up or until stale entries outnumber
the live ones. Without the second rule a client that sends hour-long deadlines to a fast model would
keep every request of the last hour in memory.
"""

from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic

from penstock_scheduler.values import P, State, Ticket

_SLACK = 64
"""Stale entries that are never worth a compaction."""


class Deadlines(Generic[P]):
    """The queued tickets that have a deadline, earliest first."""

    __slots__ = ("_heap", "_live")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket[P]]] = []
        self._live = 0

    def __len__(self) -> int:
        """Entries held, stale ones included."""
        return len(self._heap)

    def add(self, ticket: Ticket[P]) -> None:
        if ticket.deadline < inf:
            heappush(self._heap, (ticket.deadline, ticket.id, ticket))
            self._live += 1

    def left(self, ticket: Ticket[P]) -> None:
        """Hear that a ticket has left the queue; its state says so already."""
        if ticket.deadline == inf:
            return
        self._live -= 1
        if len(self._heap) > 2 * self._live + _SLACK:
            self._heap = [entry for entry in self._heap if entry[2].state is State.QUEUED]
            heapify(self._heap)

    def earliest(self) -> float:
        """The next deadline of a queued ticket, or infinity."""
        while self._heap and self._heap[0][2].state is not State.QUEUED:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else inf

    def passed(self, now: float) -> Ticket[P] | None:
        """A queued ticket whose deadline is at or before `now`. The caller takes it off the queue."""
        # The heap may be empty, and `now` infinite: a simulation asks so for what is left at the end.
        return self._heap[0][2] if self.earliest() <= now and self._heap else None

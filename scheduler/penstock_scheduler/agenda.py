"""Tickets in order of a moment: what comes first, at a cost that does not depend on how many there are.

A calendar of short spans of time. A new ticket goes to the end of its span's list; a list is sorted once, when its span
is the first, and from then on kept sorted. A heap holds the numbers of the spans only. With 100,000 tickets a heap of
them all costs four times as much as with 10; this costs the same.

Tickets that left the queue are skipped when they come up. Were that all, a client that sends hour-long deadlines to
a fast model would keep every request of the last hour in memory; so once the dead outnumber the living, they go.
"""

from bisect import insort_right
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic

from penstock_scheduler.values import State, T

_SPANS_PER_SECOND = 32
_SLACK = 256
"""Dead entries that are never worth a compaction."""
FAR = 1e12
"""Moments beyond this never come: it is far from where the number of a span would overflow."""

_QUEUED = State.QUEUED


class _Span(Generic[T]):
    __slots__ = ("at", "is_sorted", "tickets")

    def __init__(self, ticket: T) -> None:
        self.tickets = [ticket]
        self.at = 0  # those before have been taken or are dead
        self.is_sorted = False


class Agenda(Generic[T]):
    """Queued tickets, the one with the least `when` first, and of equals the one that was added first."""

    __slots__ = ("_first", "_numbers", "_spans", "_when", "size")

    def __init__(self, when: Callable[[T], float]) -> None:
        self._when = when
        self._spans: dict[int, _Span[T]] = {}
        self._numbers: list[int] = []  # a heap: the keys of _spans
        self._first: _Span[T] | None = None  # the first span once it is sorted
        self.size = 0
        """Entries held, dead ones included."""

    def add(self, ticket: T, when: float) -> None:
        """Take in a ticket whose moment is `when`, less than FAR."""
        number = int(when * _SPANS_PER_SECOND)
        self.size += 1
        span = self._spans.get(number)
        if span is None:
            self._spans[number] = _Span(ticket)
            heappush(self._numbers, number)
            if self._numbers[0] == number:
                self._first = None
        elif span.is_sorted:
            insort_right(span.tickets, ticket, lo=span.at, key=self._when)
        else:
            span.tickets.append(ticket)

    def head(self) -> T | None:
        """The first of those that are still queued."""
        while (span := self._first or self._open()) is not None:
            tickets, at, end = span.tickets, span.at, len(span.tickets)
            while at < end:
                ticket = tickets[at]
                if ticket.state is _QUEUED:
                    self.size -= at - span.at
                    span.at = at
                    return ticket
                at += 1
            self.size -= at - span.at
            self._first = None
            del self._spans[heappop(self._numbers)]
        return None

    def pop(self) -> None:
        """Take out what `head` has just given."""
        assert self._first is not None, "there was a head"
        self._first.at += 1
        self.size -= 1

    def drain(self) -> list[T]:
        """Take out everything that is still queued, in order."""
        if self.size == 1:  # as most flows of many tenants
            ticket = self.head()
            if ticket is None:
                return []
            self.pop()
            return [ticket]
        tickets: list[T] = []
        for number in sorted(self._numbers):
            span = self._spans[number]
            mine = [ticket for ticket in span.tickets[span.at :] if ticket.state is _QUEUED]
            if not span.is_sorted:
                mine.sort(key=self._when)
            tickets += mine
        self._spans.clear()
        self._numbers.clear()
        self._first = None
        self.size = 0
        return tickets

    def earliest(self) -> float:
        """The moment of the first, or infinity."""
        ticket = self.head()
        return inf if ticket is None else self._when(ticket)

    def compact(self, living: int) -> None:
        """Throw the dead out if there are many; `living` is how many tickets may be alive here."""
        if self.size > 2 * living + _SLACK:
            self._compact()

    def _compact(self) -> None:
        self.size = 0
        for number, span in list(self._spans.items()):
            span.tickets = [ticket for ticket in span.tickets[span.at :] if ticket.state is _QUEUED]
            span.at = 0
            self.size += len(span.tickets)
            if not span.tickets:
                del self._spans[number]
        self._numbers = list(self._spans)
        heapify(self._numbers)
        self._first = None

    def _open(self) -> _Span[T] | None:
        """Make the first span ready to be taken from."""
        if not self._numbers:
            return None
        span = self._first = self._spans[self._numbers[0]]
        if not span.is_sorted:
            span.tickets.sort(key=self._when)  # stable: of equals the older one stays first
            span.is_sorted = True
        return span

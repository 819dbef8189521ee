"""Tickets in order of a moment: what comes first, at a cost that does not depend on how many there are.

A calendar of short spans of time. A new ticket goes to the end of its span's list; a list is sorted once, when its span
is the first, and from then on kept sorted. A heap holds the numbers of the spans only. With 100,000 tickets a heap of
them all costs four times as much as with 10; this costs the same. Few tickets need no calendar: they are one sorted
list, until they become many.

Tickets that left the queue are skipped when they come up. Were that all, a client that sends hour-long deadlines to
a fast model would keep every request of the last hour in memory; so once the dead outnumber the living, they go.
"""

from bisect import insort_right
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic

from penstock_scheduler.values import State, T

_SPANS_PER_SECOND = 32
_FEW = 32
_SLACK = 256
"""Dead entries that are never worth a compaction."""
FAR = 1e12
"""Moments beyond this never come: it is far from where the number of a span would overflow."""

_QUEUED = State.QUEUED


class _Span(Generic[T]):
    __slots__ = ("at", "is_sorted", "tickets")

    def __init__(self) -> None:
        self.tickets: list[T] = []
        self.at = 0  # those before have been taken or are dead
        self.is_sorted = False


class Agenda(Generic[T]):
    """Queued tickets, the one with the least `when` first, and of equals the one that was added first."""

    __slots__ = ("_few", "_first", "_numbers", "_spans", "_when", "size")

    def __init__(self, when: Callable[[T], float]) -> None:
        self._when = when
        self._spans: dict[int, _Span[T]] = {}
        self._numbers: list[int] = []  # a heap: the keys of _spans
        self._few: _Span[T] = _Span()  # holds everything while there are no spans
        self._few.is_sorted = True
        self._first: _Span[T] | None = self._few  # the first span, once it is sorted
        self.size = 0
        """Entries held, dead ones included."""

    def __repr__(self) -> str:
        return f"<Agenda: {self.size} entries in {max(1, len(self._numbers))} lists>"

    def add(self, ticket: T, when: float) -> None:
        """Take in a ticket whose moment is `when`, less than FAR."""
        self.size += 1
        if self._numbers:
            span = self._spans.get(int(when * _SPANS_PER_SECOND)) or self._span(when)
        else:
            span = self._few
            if len(span.tickets) >= _FEW:
                span = self._spread(when)
        tickets = span.tickets
        if not span.is_sorted or not tickets or self._when(tickets[-1]) <= when:  # most come in order
            tickets.append(ticket)
        else:
            insort_right(tickets, ticket, lo=span.at, key=self._when)

    def head(self) -> T | None:
        """The first of those that are still queued."""
        while True:
            span = self._first or self._open()
            at, end = span.at, len(span.tickets)
            while at < end:
                ticket = span.tickets[at]
                if ticket.state is _QUEUED:
                    if at > span.at:
                        self._skip(span, at)
                    return ticket
                at += 1
            self._skip(span, at)
            if span is self._few:
                span.tickets.clear()
                span.at = 0
                return None
            del self._spans[heappop(self._numbers)]
            self._first = None

    def _skip(self, span: _Span[T], at: int) -> None:
        """Forget the dead before this place."""
        self.size -= at - span.at
        span.at = at

    def pop(self) -> None:
        """Take out what `head` has just given."""
        assert self._first is not None, "there was a head"
        self._first.at += 1
        self.size -= 1

    def take(self) -> T | None:
        """The same as head and pop; None if nothing is there."""
        span = self._first
        if span is not None and span.at < len(span.tickets):
            ticket = span.tickets[span.at]
            if ticket.state is _QUEUED:  # as it mostly is
                span.at += 1
                self.size -= 1
                return ticket
        first = self.head()
        if first is not None:
            self.pop()
        return first

    def put_back(self, ticket: T, when: float) -> None:
        """Take in a ticket that goes before all that are here, also before those of its moment."""
        self.head()  # what is dead goes: it may be of an earlier moment
        self.size += 1
        span = self._span(when) if self._numbers else self._few
        span.tickets.insert(span.at, ticket)

    def drain(self) -> list[T]:
        """Take out everything that is still queued, in order."""
        tickets: list[T] = []
        while (ticket := self.take()) is not None:
            tickets.append(ticket)
        return tickets

    def compact(self, living: int) -> None:
        """Throw the dead out if there are many; `living` is how many tickets may be alive here."""
        if self.size > 2 * living + _SLACK:
            self._compact()

    def _compact(self) -> None:
        self.size = 0
        for span in (self._few, *self._spans.values()):
            span.tickets = [ticket for ticket in span.tickets[span.at :] if ticket.state is _QUEUED]
            span.at = 0
            self.size += len(span.tickets)
        self._spans = {number: span for number, span in self._spans.items() if span.tickets}
        self._numbers = list(self._spans)
        heapify(self._numbers)
        self._first = None

    def _span(self, when: float) -> _Span[T]:
        """The span of a moment, made if there is none."""
        number = int(when * _SPANS_PER_SECOND)
        span = self._spans.get(number)
        if span is None:
            span = self._spans[number] = _Span()
            heappush(self._numbers, number)
            if self._numbers[0] == number:
                self._first = None
        return span

    def _spread(self, when: float) -> _Span[T]:
        """The few have become many: begin a calendar. What one more ticket goes to."""
        few = self._few
        tickets, few.tickets, few.at = few.tickets[few.at :], [], 0
        if len(tickets) < _FEW:  # they are few still, but for those that were taken
            few.tickets = tickets
            return few
        for ticket in tickets:
            self._span(self._when(ticket)).tickets.append(ticket)
        return self._span(when)

    def _open(self) -> _Span[T]:
        """Make the first span ready to be taken from."""
        if not self._numbers:
            self._first = self._few
            return self._few
        span = self._first = self._spans[self._numbers[0]]
        if not span.is_sorted:
            span.tickets.sort(key=self._when)  # stable: of equals the older one stays first
            span.is_sorted = True
        return span

"""Who has a deadline, and whose is the first: asked for each batch, though most tickets are gone before it matters.

New tickets are a plain list. The first is known as long as it is queued, for the cost of a comparison for each new
one; when it has gone, a few others are looked through, and only many are filed in an agenda. So what is served soon,
as nearly everything is, never enters a sorted structure, and when nothing is queued there is nothing to remember.
"""

from math import inf
from operator import attrgetter
from typing import Generic

from penstock_scheduler.agenda import Agenda
from penstock_scheduler.values import State, T

_FEW = 32
_MANY = 256
"""So many new tickets are filed in any case: else the dead among them would stay."""

_QUEUED = State.QUEUED
_DEADLINE = attrgetter("deadline")


class Deadlines(Generic[T]):
    """Queued tickets that have a deadline."""

    __slots__ = ("_agenda", "_first", "_news")

    def __init__(self) -> None:
        self._agenda: Agenda[T] = Agenda(_DEADLINE)
        self._news: list[T] = []
        self._first: T | None = None  # as long as it is queued; else the first is to be found

    def __repr__(self) -> str:
        return f"<Deadlines: {len(self._news)} new, {self._agenda!r}>"

    def add(self, ticket: T) -> None:
        """Take in a ticket; its deadline is less than agenda.FAR."""
        self._news.append(ticket)
        first = self._first
        if first is None or ticket.deadline < first.deadline:
            self._first = ticket

    def head(self) -> T | None:
        """The one with the earliest deadline, of equals the one that was added first; None if there is none."""
        first = self._first
        return first if first is None or first.state is _QUEUED else self._find()

    def earliest(self) -> float:
        """The earliest deadline, or infinity."""
        first = self.head()
        return inf if first is None else first.deadline

    def compact(self, living: int) -> None:
        """Throw the dead out if there are many; `living` is how many tickets may be alive here."""
        if not living:
            self._news.clear()
            self._first = None
            if self._agenda.size:
                self._agenda = Agenda(_DEADLINE)
            return
        if len(self._news) > _MANY:
            self._file()
        self._agenda.compact(living)

    def _find(self) -> T | None:
        news = self._news = [ticket for ticket in self._news if ticket.state is _QUEUED]
        if len(news) > _FEW:
            self._file()
        first = self._agenda.head()
        if self._news:
            new = min(self._news, key=_DEADLINE)
            if first is None or new.deadline < first.deadline:
                first = new
        self._first = first
        return first

    def _file(self) -> None:
        for ticket in self._news:
            if ticket.state is _QUEUED:
                self._agenda.add(ticket, ticket.deadline)
        self._news.clear()

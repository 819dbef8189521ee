"""Who has a deadline, and whose is the first: asked for each batch, though most tickets are gone before it matters.

New tickets are a plain list. The first is known as long as it is queued, for the cost of a comparison for each new
one; when it has gone, its deadline is still a `bound`: nobody's is before it. That is mostly all that anybody needs.
Only who needs more has the others looked through, of which only many are filed in an agenda. So what is served soon, as
nearly everything is, never enters a sorted structure, and when nothing is queued there is nothing to remember.
"""

from collections.abc import Sequence
from math import inf
from operator import attrgetter
from typing import Generic

from penstock_scheduler.agenda import Agenda
from penstock_scheduler.values import State, T

_FEW = 32
_MANY = 256
"""So many new tickets are looked through in any case: else the dead among them would stay."""

_QUEUED = State.QUEUED
_DEADLINE = attrgetter("deadline")


class Deadlines(Generic[T]):
    """Queued tickets that have a deadline."""

    __slots__ = ("_agenda", "_first", "_news", "bound")

    def __init__(self) -> None:
        self._agenda: Agenda[T] = Agenda(_DEADLINE)
        self._news: list[T] = []
        self._first: T | None = None  # as long as it is queued; else the first is to be found
        self.bound = inf
        """No deadline is before this: it is that of the first, or of one that was the first and has left."""

    def __repr__(self) -> str:
        return f"<Deadlines: {len(self._news)} new, {self._agenda!r}>"

    def add(self, tickets: Sequence[T], first: T) -> None:
        """Take in tickets, and hear which has the earliest deadline; all are less than agenda.FAR."""
        self._news += tickets
        if first.deadline < self.bound:
            self._first, self.bound = first, first.deadline

    def any(self) -> bool:
        """Whether there are any."""
        news = self._news
        if news and news[-1].state is _QUEUED:  # as it mostly is
            return True
        return any(ticket.state is _QUEUED for ticket in news) or self._agenda.head() is not None

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
            self._first, self.bound = None, inf
            if self._agenda.size:
                self._agenda = Agenda(_DEADLINE)
            return
        if len(self._news) > _MANY:
            self._look_through()
        if self._agenda.size:
            self._agenda.compact(living)

    def _find(self) -> T | None:
        self._look_through()
        first = self._agenda.head()
        if self._news:
            new = min(self._news, key=_DEADLINE)
            if first is None or new.deadline < first.deadline:
                first = new
        self._first, self.bound = first, inf if first is None else first.deadline
        return first

    def _look_through(self) -> None:
        """Forget the new ones that have left, and file those that are there if they are many."""
        self._news = [ticket for ticket in self._news if ticket.state is _QUEUED]
        if len(self._news) > _FEW:
            for ticket in self._news:
                self._agenda.add(ticket, ticket.deadline)
            self._news.clear()

"""What waits to be chosen from: the flows of one class and level, and in each the tickets of one tenant.

    Band (one priority level of one class in one lane)
      ─▶ Flow (one tenant: first in first out, or by deadline)

Whose turn it is, is found by a heap. A flow's entry is put right when it comes up: tags only grow, so a turn is mostly
later than its entry says. Where it is earlier, since the first ticket is now a more urgent one, there is a new entry at
once, and the one before counts no more.
"""

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Generic, TypeAlias

from penstock_scheduler.agenda import Agenda
from penstock_scheduler.tenants import Account
from penstock_scheduler.values import Place, State, T, Ticket

if TYPE_CHECKING:
    from penstock_scheduler.lanes import Lanes, Tier

_SPARE = 64
"""Empty flows that are kept for the next request like them."""
_SLACK = 64

_QUEUED = State.QUEUED


class Fifo(Generic[T]):
    """Queued tickets, the oldest first. The same interface as an Agenda."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: deque[T] = deque()

    @property
    def size(self) -> int:
        """Entries held, dead ones included."""
        return len(self._tickets)

    def add(self, ticket: T, when: float) -> None:
        """Take in a ticket; `when` it is due does not matter here."""
        self._tickets.append(ticket)

    def put_back(self, ticket: T, when: float) -> None:
        """Take in a ticket that goes before all that are here."""
        self._tickets.appendleft(ticket)

    def take(self) -> T | None:
        """Take out the first of those that are still queued; None if nothing is there."""
        tickets = self._tickets
        while tickets:
            ticket = tickets.popleft()
            if ticket.state is _QUEUED:
                return ticket
        return None

    def drain(self) -> list[T]:
        """Take out everything that is still queued, in order."""
        tickets = [ticket for ticket in self._tickets if ticket.state is _QUEUED]
        self._tickets.clear()
        return tickets

    def compact(self, living: int) -> None:
        """Throw the dead out if there are many."""
        if len(self._tickets) > 2 * living + _SLACK:
            self._tickets = deque(ticket for ticket in self._tickets if ticket.state is _QUEUED)


class Flow(Place, Generic[T]):
    """What one tenant has queued in one band.

    The first ticket is held apart from the others: it is looked at often, and mostly there is no other.
    """

    __slots__ = ("_others", "account", "band", "entry", "head", "living", "tenant")

    def __init__(self, band: "Band[T]", tenant: str, account: Account, others: Fifo[T] | Agenda[T]) -> None:
        self.band = band
        self.tenant = tenant
        self.account = account
        self.living = 0
        self.head: T | None = None
        """The first ticket; None if there is none."""
        self._others = others
        self.entry: _Entry[T] | None = None  # of those in the band's heap, the one that counts

    def __repr__(self) -> str:
        return f"<Flow of {self.tenant!r}: {self.living} requests>"

    def add(self, ticket: T) -> None:
        """Take in a queued ticket."""
        head, due = self.head, ticket.due
        if head is None:
            self.band.wake(self, ticket)
            self.head = ticket
        elif due < head.due:
            self._others.put_back(head, head.due)
            self.head = ticket
            self.band.enter(self, ticket)
        else:
            self._others.add(ticket, due)
        self.living += 1
        self.band.rows += ticket.rows
        ticket.place = self

    def left(self, ticket: Ticket) -> None:
        if ticket is self.head:
            self.advance()
        self.band.tier.count_out(ticket.remaining)
        self.count_out(1, ticket.remaining)
        self._others.compact(self.living)

    def advance(self) -> None:
        """The head has gone, and is not counted out yet: the next is the head."""
        self.head = self._others.take() if self.living > 1 else None

    def serve(self, tickets: int, rows: int, last: int) -> None:
        """Count out what goes into a batch, and charge the tenant for it: it is not here any more.

        `tickets` are those that are gone, `rows` may be some of a ticket that stays, and the `last` has so many of
        them. The tier's rows are the caller's.
        """
        self.band.shares.serve(self.account, rows, last)
        self.count_out(tickets, rows)

    def take(self) -> None:
        """The head goes into a batch as a whole: the same as to advance and to serve, for one whose turn it is."""
        assert self.head is not None, "what is taken is there"
        rows = self.head.remaining
        band, account = self.band, self.account
        shares, tag = band.shares, account.tag
        account.tag = tag + rows / account.weight
        if shares.now < tag:
            shares.now = tag
        band.rows -= rows
        self.living = living = self.living - 1
        if not living:
            self.head = None
            shares.leaves(account)
            return
        self.head = head = self._others.take()
        if head is not None and len(band.heap) > 1:
            self.entry = (account.tag, head.due, head.sequence, self)
            heapreplace(band.heap, self.entry)  # its entry was the first

    def count_out(self, tickets: int, rows: int) -> None:
        """Count out what is not here any more."""
        self.band.rows -= rows
        self.living -= tickets
        if tickets and not self.living:
            self.band.shares.leaves(self.account)

    def drain(self) -> list[T]:
        """Take out everything, in order, and charge the tenant for it."""
        if self.head is None:
            return []
        tickets = [self.head]
        if self.living > 1:
            tickets += self._others.drain()
        self.head = None
        rows = sum([ticket.remaining for ticket in tickets])
        self.serve(self.living, rows, tickets[-1].remaining)
        return tickets


_Entry: TypeAlias = tuple[float, float, int, Flow[T]]
"""The tag of a flow's tenant, when its head is due and which it is, and the flow: as of when the entry was made."""


class Band(Generic[T]):
    """The flows of one class and level in one lane."""

    __slots__ = ("_flows", "_lanes", "heap", "level", "rows", "shares", "tier")

    def __init__(self, tier: "Tier[T]", level: int, lanes: "Lanes[T]") -> None:
        self.tier = tier
        self.level = level
        self.shares = lanes.shares[tier.traffic]
        self.rows = 0
        self._lanes = lanes
        self._flows: dict[str, Flow[T]] = {}
        self.heap: list[_Entry[T]] = []
        """By whose turn it is, and what that was: see the module's text."""

    def flow(self, tenant: str) -> Flow[T]:
        """The flow of a tenant, made if there is none."""
        flow = self._flows.get(tenant)
        if flow is None:
            if len(self._flows) > 2 * len(self.heap) + _SPARE:
                self._flows = {name: flow for name, flow in self._flows.items() if flow.entry}
            others: Fifo[T] | Agenda[T] = self._lanes.new_queue()
            flow = self._flows[tenant] = Flow(self, tenant, self.shares.account(tenant), others)
        return flow

    def wake(self, flow: Flow[T], ticket: T) -> None:
        """A flow is about to have something queued again."""
        flow.account = self.shares.join(flow.tenant)  # not always the one before: it may have been closed
        if not self.heap:
            self.tier.wake(self)
        self.enter(flow, ticket)

    def enter(self, flow: Flow[T], ticket: T) -> None:
        """This is now the head of a flow: unless its entry comes up early enough, it gets one that does."""
        entry = (flow.account.tag, ticket.due, ticket.sequence, flow)
        if flow.entry is None or entry < flow.entry:
            flow.entry = entry
            heappush(self.heap, entry)
            if len(self.heap) > 2 * len(self._flows) + _SLACK:
                self.heap = [entry for entry in self.heap if entry is entry[3].entry]
                heapify(self.heap)

    def first(self) -> Flow[T] | None:
        """The flow with something queued whose tenant's turn it is."""
        heap = self.heap
        while heap:
            entry = heap[0]
            tag, _, sequence, flow = entry
            head = flow.head
            if entry is not flow.entry:
                heappop(heap)
            elif head is None:
                heappop(heap)
                flow.entry = None
            elif len(heap) == 1 or (sequence == head.sequence and tag == flow.account.tag):
                return flow
            else:
                flow.entry = (flow.account.tag, head.due, head.sequence, flow)
                heapreplace(heap, flow.entry)
        return None

    def drain(self) -> list[T]:
        """Take out everything, and charge the tenants for it: they need no turns where all have theirs."""
        tickets: list[T] = []
        for _, _, _, flow in self.heap:
            flow.entry = None
            tickets += flow.drain()
        self.heap.clear()
        return tickets

    def is_one_flow(self) -> bool:
        """Whether there is nothing to choose between."""
        return len(self.heap) == 1

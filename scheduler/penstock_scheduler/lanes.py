"""The queue of `eager` and `deadline`: a lane for each key, and within a lane the order of service.

    Lanes ─▶ Lane (one key: what may share a batch)
               ─▶ Tier (one class of traffic)
                    ─▶ Band (one priority level)
                         ─▶ Flow (one tenant: first in first out, or by deadline)

The order, one rule for all: class of traffic, then aged priority, then tenant share, then deadline or arrival. A lane
with one flow, as most have, is a deque with three counters; what is not used costs nothing, and tickets that all leave
in the next batch were never sorted.

Counts are exact at any time. Tickets that were cancelled or dropped stay where they are until they come up, or
until they outnumber the living.
"""

from bisect import insort_right
from collections import deque
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush, heapreplace
from operator import attrgetter
from typing import Generic, TypeAlias

from penstock_scheduler.agenda import Agenda
from penstock_scheduler.settings import PolicyName, Settings
from penstock_scheduler.tenants import Account, Shares
from penstock_scheduler.values import Place, State, T, Ticket, TrafficClass

_SPARE = 64
"""Empty lanes and flows that are kept for the next request like them."""
_SLACK = 64
_INBOX = 256
"""Tickets in an inbox from which on it is sorted in: else there might be 100,000 to sort at once."""

_QUEUED = State.QUEUED
_LEVEL = attrgetter("level")
_DUE = attrgetter("due")
_LEVEL_AND_DUE = attrgetter("rank", "due")


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

    __slots__ = ("_others", "account", "band", "head", "is_listed", "living", "tenant")

    def __init__(self, band: "Band[T]", tenant: str, account: Account, others: Fifo[T] | Agenda[T]) -> None:
        self.band = band
        self.tenant = tenant
        self.account = account
        self.living = 0
        self.head: T | None = None
        """The first ticket; None if there is none."""
        self._others = others
        self.is_listed = False  # in the band's heap

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

    def serve(self, tickets: int, rows: int) -> None:
        """Count out what goes into a batch, and charge the tenant for it: it is not here any more.

        `tickets` are those that are gone, `rows` may be some of a ticket that stays. The tier's rows are the caller's.
        """
        self.band.shares.serve(self.account, rows)
        self.count_out(tickets, rows)

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
        self.serve(self.living, sum([ticket.remaining for ticket in tickets]))
        return tickets


class Band(Generic[T]):
    """The flows of one class and level in one lane."""

    __slots__ = ("_flows", "_heap", "_lanes", "level", "rows", "shares", "tier")

    def __init__(self, tier: "Tier[T]", level: int, lanes: "Lanes[T]") -> None:
        self.tier = tier
        self.level = level
        self.shares = lanes.shares[tier.traffic]
        self.rows = 0
        self._lanes = lanes
        self._flows: dict[str, Flow[T]] = {}
        # (tag, when its head is due and which it is, flow). Tags only grow, so an entry is put right when it comes up.
        self._heap: list[tuple[float, float, int, Flow[T]]] = []

    def flow(self, tenant: str) -> Flow[T]:
        """The flow of a tenant, made if there is none."""
        flow = self._flows.get(tenant)
        if flow is None:
            if len(self._flows) > 2 * len(self._heap) + _SPARE:
                self._flows = {name: flow for name, flow in self._flows.items() if flow.is_listed}
            others: Fifo[T] | Agenda[T] = self._lanes.new_queue()
            flow = self._flows[tenant] = Flow(self, tenant, self.shares.account(tenant), others)
        return flow

    def wake(self, flow: Flow[T], ticket: T) -> None:
        """A flow is about to have something queued again."""
        account = flow.account
        if not account.flows:  # it may have been closed in the meantime
            account = flow.account = self.shares.account(flow.tenant)
        self.shares.joins(account)
        if not flow.is_listed:
            flow.is_listed = True
            heap = self._heap
            if not heap:
                self.tier.wake(self)
            heappush(heap, (account.tag, ticket.due, ticket.sequence, flow))

    def first(self) -> Flow[T] | None:
        """The flow with something queued whose tenant's turn it is."""
        heap = self._heap
        while heap:
            tag, due, _, flow = heap[0]
            head = flow.head
            if head is None:
                heappop(heap)
                flow.is_listed = False
            elif len(heap) == 1 or (tag == flow.account.tag and due == head.due):
                return flow
            else:
                heapreplace(heap, (flow.account.tag, head.due, head.sequence, flow))
        return None

    def drain(self) -> list[T]:
        """Take out everything, and charge the tenants for it: they need no turns where all have theirs."""
        tickets: list[T] = []
        for _, _, _, flow in self._heap:
            flow.is_listed = False
            tickets += flow.drain()
        self._heap.clear()
        return tickets

    def is_one_flow(self) -> bool:
        """Whether there is nothing to choose between."""
        return len(self._heap) == 1


Ranked: TypeAlias = tuple[int, float, float, int, Flow[T]]
"""A flow, after its aged level, its tenant's tag, when its head is due, and the order of admission."""


class Tier(Place, Generic[T]):
    """One class of traffic in one lane.

    Its tickets are in an inbox until one must be chosen before another, and only then in flows: those of a class that
    leaves as a whole, as the upper ones mostly do, never are. While the class has flows, in any lane, new tickets go
    there too.
    """

    __slots__ = (
        "_active",
        "_bands",
        "_dead",
        "_inbox",
        "_lanes",
        "_last",
        "_shares",
        "lane",
        "rows",
        "since",
        "traffic",
    )

    def __init__(self, lane: "Lane[T]", lanes: "Lanes[T]", traffic: TrafficClass) -> None:
        self.lane = lane
        self.traffic = int(traffic)
        self.rows = 0
        self.since = 0.0
        """Nothing in it was admitted before."""
        self._lanes = lanes
        self._shares = lanes.shares[traffic]
        self._inbox: list[T] = []
        self._dead = 0  # of those in the inbox
        self._bands: dict[int, Band[T]] = {}
        self._last: Flow[T] | None = None  # where the last ticket went: most likely the next goes there too
        self._active: list[Band[T]] = []  # those with flows in their heaps, by level

    def __repr__(self) -> str:
        return f"<Tier {self.traffic}: {self.rows} rows, {len(self._inbox)} requests in the inbox>"

    def add(self, ticket: T) -> None:
        """Take in a ticket that will be queued from now on; its rank is its level."""
        if not self.rows:
            self._restart(ticket.enqueued)
        if self._shares.busy or len(self._inbox) >= _INBOX:
            if self._inbox:
                self._sort_in()
            flow = self._last
            if flow is None or flow.head is None or flow.tenant != ticket.tenant or flow.band.level != ticket.rank:
                flow = self._last = self._flow(ticket)
            flow.add(ticket)
        else:
            self._inbox.append(ticket)
            ticket.place = self
        self.rows += ticket.rows
        self.lane.rows += ticket.rows

    @property
    def is_sorted(self) -> bool:
        """Whether it has flows."""
        return bool(self._active)

    def left(self, ticket: Ticket) -> None:
        self.count_out(ticket.remaining)
        self._dead += 1

    def count_out(self, rows: int) -> None:
        """Hear of rows that are not queued any more."""
        self.rows -= rows
        self.lane.rows -= rows

    def _restart(self, now: float) -> None:
        """Nothing is queued: begin with an inbox again."""
        self.since = now
        self._inbox, self._dead = [], 0
        for band in self._active:
            band.first()  # takes what is empty off its list
        self._active.clear()

    def _sort_in(self) -> None:
        """Give the tickets of the inbox to their flows."""
        inbox, self._inbox, self._dead = self._inbox, [], 0
        for ticket in inbox:
            if ticket.state is _QUEUED:
                self._flow(ticket).add(ticket)

    def _flow(self, ticket: T) -> Flow[T]:
        """Where a ticket is to be queued."""
        band = self._bands.get(ticket.rank)
        if band is None:
            band = self._bands[ticket.rank] = Band(self, ticket.rank, self._lanes)
        return band.flow(ticket.tenant)

    def wake(self, band: Band[T]) -> None:
        """A band is about to have something queued again."""
        if band not in self._active:
            insort_right(self._active, band, key=_LEVEL)

    def first(self, now: float) -> Flow[T] | None:
        """The flow whose head goes first."""
        ranked = self.ranked(now)
        return min(ranked)[4] if ranked else None

    def starved(self, oldest: float) -> Flow[T] | None:
        """The flow whose head came first, if that was not after `oldest`."""
        if self._inbox and self._inbox[0].enqueued <= oldest:
            self._sort_in()
        starved = None
        for band in self._active:
            flow = band.first()
            if flow is not None and flow.head is not None and flow.head.enqueued <= oldest:
                oldest, starved = flow.head.enqueued, flow
        return starved

    def drain(self) -> list[T]:
        """Take out everything, by level; within a level as it is due.

        An inbox is not charged. There is one only if no other lane has anything: of two lanes the first tickets are
        compared, which takes flows. And where a whole class has been served, all start level again.
        """
        if self._active:
            tickets = [ticket for band in self._active for ticket in band.drain()]
            self._active.clear()
        else:
            tickets = [ticket for ticket in self._inbox if ticket.state is _QUEUED] if self._dead else self._inbox
            self._inbox, self._dead = [], 0
        if len(tickets) > 1:
            tickets.sort(key=self._lanes.order_within_class)
        self.count_out(self.rows)
        return tickets

    def ranked(self, now: float) -> list[Ranked[T]]:
        """The first flow of each level, after what goes before it among them."""
        if self._inbox:
            self._sort_in()
        ranked = [self._rank(flow, now) for band in self._active if (flow := band.first()) is not None]
        if len(ranked) < len(self._active):
            self._active = [entry[4].band for entry in ranked]
        return ranked

    def serve(self, ranked: list[Ranked[T]], take: Callable[[Flow[T]], bool], now: float) -> None:
        """Offer the flows to `take` in order of service, one turn after the other, until it says False."""
        if len(ranked) == 1:
            band = ranked[0][4].band
            while (flow := band.first()) is not None and take(flow):
                pass
            return
        heapify(ranked)
        while ranked and take(ranked[0][4]):
            following = ranked[0][4].band.first()
            if following is None:
                heappop(ranked)
            else:
                heapreplace(ranked, self._rank(following, now))

    def _rank(self, flow: Flow[T], now: float) -> Ranked[T]:
        """Whose level is best when it is aged; of equals, whose tenant has had less."""
        head = flow.head
        assert head is not None, "a flow that lives has a head"
        aged = flow.band.level - int((now - head.enqueued) * self._lanes.per_ageing)
        return aged, flow.account.tag, head.due, head.sequence, flow

    def order(self, now: float) -> tuple[int, int, float, float, int]:
        """The place of the first ticket in the order of service. There must be one."""
        return (self.traffic, *min(self.ranked(now))[:4])


class Lane(Generic[T]):
    """Everything queued that may share a batch."""

    __slots__ = ("_patience", "key", "length", "rows", "tiers")

    def __init__(self, lanes: "Lanes[T]", key: Hashable, length: int) -> None:
        self._patience = lanes.class_patience
        self.key = key
        self.length = length
        self.rows = 0
        self.tiers = tuple(Tier(self, lanes, traffic) for traffic in TrafficClass)

    def __repr__(self) -> str:
        return f"<Lane {self.key!r}: {self.rows} rows>"

    def first(self, now: float) -> Flow[T] | None:
        """The flow whose head goes first, that of the class above all."""
        for tier in self.tiers:
            if tier.rows:
                return tier.first(now)
        return None

    def order(self, now: float) -> tuple[int, int, float, float, int]:
        """What ranks lanes among each other: the place of the first ticket in the order of service."""
        # All of them, though one would do: then nothing is in an inbox (Tier.drain).
        orders = [tier.order(now) for tier in self.tiers if tier.rows]
        return orders[0]

    def starved(self, now: float) -> Flow[T] | None:
        """The flow below the first class whose head has waited too long for the classes above."""
        starved, oldest = None, now - self._patience
        for tier in self.tiers[1:]:
            if tier.rows and tier.since <= oldest:
                flow = tier.starved(oldest)
                if flow is not None and flow.head is not None:
                    starved, oldest = flow, flow.head.enqueued
        return starved


class Lanes(Generic[T]):
    """All lanes of one model."""

    def __init__(self, settings: Settings) -> None:
        self.order_within_class = _DUE if settings.levels == 1 else _LEVEL_AND_DUE
        self.class_patience = settings.class_patience
        self.shares = tuple(Shares(settings.tenants) for _ in TrafficClass)
        self.per_ageing = 1 / settings.ageing
        """Levels that a ticket rises in a second of waiting."""
        self._lanes: dict[tuple[Hashable, int], Lane[T]] = {}
        self._limit = _SPARE  # lanes at which the empty ones go
        self._by_due = settings.policy is PolicyName.DEADLINE

    def lane(self, key: Hashable, length: int) -> Lane[T]:
        """The lane of a key, made if there is none."""
        name = (key, length)
        lane = self._lanes.get(name)
        if lane is None:
            if len(self._lanes) >= self._limit:
                self._lanes = {name: lane for name, lane in self._lanes.items() if lane.rows}
                self._limit = 2 * len(self._lanes) + _SPARE
            lane = self._lanes[name] = Lane(self, key, length)
        return lane

    def filled(self) -> list[Lane[T]]:
        """The lanes with something queued."""
        return [lane for lane in self._lanes.values() if lane.rows]

    def new_queue(self) -> Fifo[T] | Agenda[T]:
        """What a flow keeps its tickets in."""
        return Agenda(_DUE) if self._by_due else Fifo()

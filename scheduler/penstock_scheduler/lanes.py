"""The queue of `eager` and `deadline`: a lane for each key, and within a lane the order of service.

    Lanes ─▶ Lane (one key: what may share a batch)
               ─▶ Band (one class of traffic and one priority level)
                    ─▶ Flow (one tenant: first in first out, or by deadline)

The order, one rule for all: class of traffic, then aged priority, then tenant share, then deadline or arrival. A lane
with one flow, as most have, is a deque with three counters; what is not used costs nothing.

Counts are exact at any time. Tickets that were cancelled or dropped stay where they are until they come up, or
until they outnumber the living.
"""

from bisect import insort_right
from collections import deque
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from operator import attrgetter
from typing import Generic

from penstock_scheduler.agenda import Agenda
from penstock_scheduler.settings import PolicyName, Settings
from penstock_scheduler.tenants import Account, Shares
from penstock_scheduler.values import Place, State, T, Ticket, TrafficClass

_SPARE = 64
"""Empty lanes and flows that are kept for the next request like them."""
_SLACK = 64

_QUEUED = State.QUEUED
_RANK = attrgetter("rank")
_DUE = attrgetter("due")


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

    def head(self) -> T | None:
        """The first of those that are still queued."""
        tickets = self._tickets
        while tickets:
            if tickets[0].state is _QUEUED:
                return tickets[0]
            tickets.popleft()
        return None

    def pop(self) -> None:
        """Take out what `head` has just given."""
        self._tickets.popleft()

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
    """What one tenant has queued in one band."""

    __slots__ = ("account", "band", "is_listed", "living", "number", "queue", "rank", "tenant")

    def __init__(self, band: "Band[T]", tenant: str, account: Account, queue: Fifo[T] | Agenda[T], number: int) -> None:
        self.band = band
        self.rank = band.rank
        self.tenant = tenant
        self.account = account
        self.queue = queue
        self.number = number
        self.living = 0
        self.is_listed = False  # in the band's heap

    def add(self, ticket: T) -> None:
        """Take in a queued ticket."""
        if not self.living:
            self.band.wake(self, ticket.due)
        self.living += 1
        band = self.band
        band.rows += ticket.rows
        band.lane.rows += ticket.rows
        self.queue.add(ticket, ticket.due)
        ticket.place = self

    def left(self, ticket: Ticket) -> None:
        self.took(1, ticket.remaining)
        self.queue.compact(self.living)

    def head_since(self) -> float:
        """When its head was admitted; infinity if it has none."""
        head = self.queue.head()
        return inf if head is None else head.enqueued

    def took(self, tickets: int, rows: int) -> None:
        """Count out tickets that are gone, and rows that are (perhaps of a ticket that stays)."""
        band = self.band
        band.rows -= rows
        band.lane.rows -= rows
        if tickets:
            self.living -= tickets
            if not self.living:
                band.shares.leaves(self.account)

    def serve(self, tickets: int, rows: int) -> None:
        """Count out what goes into a batch, and charge the tenant for it."""
        band, account = self.band, self.account
        shares = band.shares
        shares.serve(account, rows)
        band.rows -= rows
        band.lane.rows -= rows
        self.living -= tickets
        if tickets and not self.living:
            shares.leaves(account)


class Band(Generic[T]):
    """The flows of one class and level in one lane."""

    __slots__ = ("_flows", "_heap", "lane", "level", "rank", "rows", "shares", "traffic")

    def __init__(self, lane: "Lane[T]", rank: int, traffic: int, level: int, shares: Shares) -> None:
        self.lane = lane
        self.rank = rank
        self.traffic = traffic
        self.level = level
        self.shares = shares
        self.rows = 0
        self._flows: dict[str, Flow[T]] = {}
        # (tag, when its head is due, number, flow). Tags only grow, so an entry is put right when it comes up.
        self._heap: list[tuple[float, float, int, Flow[T]]] = []

    def flow(self, tenant: str) -> Flow[T]:
        """The flow of a tenant, made if there is none."""
        flow = self._flows.get(tenant)
        if flow is None:
            if len(self._flows) > 2 * len(self._heap) + _SPARE:
                self._flows = {name: flow for name, flow in self._flows.items() if flow.is_listed}
            queue: Fifo[T] | Agenda[T] = self.lane.new_queue()
            number = self.lane.next_number()
            flow = self._flows[tenant] = Flow(self, tenant, self.shares.account(tenant), queue, number)
        return flow

    def wake(self, flow: Flow[T], due: float) -> None:
        """A flow is about to have something queued again, which is due then."""
        account = flow.account
        if not account.flows:  # it may have been closed in the meantime
            account = flow.account = self.shares.account(flow.tenant)
        self.shares.joins(account)
        if not flow.is_listed:
            flow.is_listed = True
            heappush(self._heap, (account.tag, due, flow.number, flow))
            if len(self._heap) == 1:
                self.lane.wake(self)

    def first(self) -> Flow[T] | None:
        """The flow with something queued whose tenant's turn it is."""
        heap = self._heap
        while heap:
            flow = heap[0][3]
            if not flow.living:
                heappop(heap)
                flow.is_listed = False
            elif len(heap) == 1:
                return flow
            else:
                head = flow.queue.head()
                assert head is not None, "a flow that lives has a head"
                if heap[0][0] == flow.account.tag and heap[0][1] == head.due:
                    return flow
                heapreplace(heap, (flow.account.tag, head.due, flow.number, flow))
        return None

    def drain(self) -> list[T]:
        """Take out everything, and charge the tenants for it: they need no turns where all have theirs."""
        tickets: list[T] = []
        for _, _, _, flow in self._heap:
            flow.is_listed = False
            if flow.living:
                mine = flow.queue.drain()
                tickets += mine
                flow.living = 0
                rows = mine[0].remaining if len(mine) == 1 else sum([ticket.remaining for ticket in mine])
                self.shares.serve(flow.account, rows)
                self.shares.leaves(flow.account)
        self._heap.clear()
        self.rows = 0
        return tickets

    def is_one_flow(self) -> bool:
        """Whether there is nothing to choose between."""
        return len(self._heap) == 1


class Lane(Generic[T]):
    """Everything queued that may share a batch."""

    __slots__ = ("_active", "_bands", "_lanes", "_last", "key", "length", "rows")

    def __init__(self, lanes: "Lanes[T]", key: Hashable, length: int) -> None:
        self._lanes = lanes
        self.key = key
        self.length = length
        self.rows = 0
        self._bands: dict[int, Band[T]] = {}
        self._active: list[Band[T]] = []  # those with flows in their heaps, by rank
        self._last: Flow[T] | None = None  # where the last ticket went: most likely the next goes there too

    def flow(self, traffic: int, level: int, tenant: str) -> Flow[T]:
        """Where a ticket is to be queued."""
        rank = traffic * self._lanes.levels + level
        flow = self._last
        if flow is None or flow.rank != rank or flow.tenant != tenant or not flow.living:
            band = self._bands.get(rank)
            if band is None:
                band = self._bands[rank] = Band(self, rank, traffic, level, self._lanes.shares[traffic])
            flow = self._last = band.flow(tenant)
        return flow

    def wake(self, band: Band[T]) -> None:
        """A band is about to have something queued again."""
        if band not in self._active:
            insort_right(self._active, band, key=_RANK)

    def new_queue(self) -> Fifo[T] | Agenda[T]:
        return self._lanes.new_queue()

    def next_number(self) -> int:
        return self._lanes.next_number()

    def bands(self) -> list[Band[T]]:
        """Those with something queued, the class of traffic above all, then the level."""
        active = self._active
        for band in active:
            if not band.rows:
                self._active = active = [band for band in active if band.first() is not None]
                break
        return active

    def single(self) -> Flow[T] | None:
        """The only flow with something queued, if there is only one."""
        bands = self.bands()
        if len(bands) != 1:
            return None
        flow = bands[0].first()
        return flow if bands[0].is_one_flow() else None

    def drain(self) -> list[T]:
        """Take out everything, by class and level; within a level as it comes."""
        tickets: list[T] = []
        for band in self._active:
            tickets += band.drain()
        self._active.clear()
        self.rows = 0
        return tickets

    def first(self, now: float) -> Flow[T] | None:
        """The flow whose head goes first, that of the class above all."""
        bands = self.bands()
        if len(bands) <= 1 or bands[0].traffic != bands[1].traffic:
            return bands[0].first() if bands else None
        mates = [band for band in bands if band.traffic == bands[0].traffic]
        return next(self._turns_of_levels(mates, now), None)

    def turns(self, now: float) -> Iterator[Flow[T]]:
        """The flows in order of service, one turn after the other.

        Each flow that is given has a head. The consumer takes it and asks for the next turn, or leaves it: then the
        rest of its class is left too, and the next class's turn has come. One ticket that has waited too long for
        the classes above it goes first of all.
        """
        bands: list[Band[T]] = self.bands().copy()
        if bands and bands[-1].traffic and (starved := self._starved(bands, now)) is not None:
            yield starved
        while bands:
            mates: list[Band[T]] = [band for band in bands if band.traffic == bands[0].traffic]
            bands = bands[len(mates) :]
            if len(mates) > 1:
                yield from self._turns_of_levels(mates, now)
                continue
            band = mates[0]
            while (flow := band.first()) is not None:
                rows = band.rows
                yield flow
                if band.rows == rows:
                    break  # it was left

    def _turns_of_levels(self, bands: list[Band[T]], now: float) -> Iterator[Flow[T]]:
        """Whose level is best when it is aged; of equals, whose tenant has had less."""
        ranked: list[tuple[int, float, float, int, Flow[T]]] = [
            self._rank(flow, now) for band in bands if (flow := band.first()) is not None
        ]
        heapify(ranked)
        while ranked:
            flow = ranked[0][4]
            band = flow.band
            rows = band.rows
            yield flow
            if band.rows == rows:
                return  # it was left
            following = band.first()
            if following is None:
                heappop(ranked)
            else:
                heapreplace(ranked, self._rank(following, now))

    def _rank(self, flow: Flow[T], now: float) -> tuple[int, float, float, int, Flow[T]]:
        head = flow.queue.head()
        assert head is not None, "a flow that lives has a head"
        aged = flow.band.level - int((now - head.enqueued) * self._lanes.per_ageing)
        return aged, flow.account.tag, head.due, head.sequence, flow

    def order(self, now: float) -> tuple[int, int, float, float, int]:
        """What ranks lanes among each other: the place of the first ticket in the order of service."""
        flow = self.first(now)
        assert flow is not None, "a lane that is asked has something queued"
        return (flow.band.traffic, *self._rank(flow, now)[:4])

    def starved(self, now: float) -> Flow[T] | None:
        """The flow below the first class whose head has waited too long for the classes above."""
        return self._starved(self.bands(), now)

    def _starved(self, bands: list[Band[T]], now: float) -> Flow[T] | None:
        oldest, starved = now - self._lanes.class_patience, None
        for band in bands:
            if not band.traffic:  # nobody is above it
                continue
            flow = band.first()
            if flow is not None and flow.head_since() <= oldest:
                oldest, starved = flow.head_since(), flow
        return starved


class Lanes(Generic[T]):
    """All lanes of one model."""

    def __init__(self, settings: Settings) -> None:
        self.levels = settings.levels + 1
        self.class_patience = settings.class_patience
        self.shares = tuple(Shares(settings.tenants) for _ in TrafficClass)
        self.per_ageing = 1 / settings.ageing
        """Levels that a ticket rises in a second of waiting."""
        self._lanes: dict[tuple[Hashable, int], Lane[T]] = {}
        self._limit = _SPARE  # lanes at which the empty ones go
        self._numbers = 0
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

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

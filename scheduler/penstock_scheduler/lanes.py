"""The queue of `eager` and `deadline`: a lane for each key, and within a lane the order of service.

    Lanes ─▶ Lane (one key: what may share a batch)
               ─▶ Tier (one class of traffic)
                    ├─▶ Inbox (few tickets, or those that all leave in the next batch)
                    └─▶ Band (one priority level) ─▶ Flow (one tenant)

The order, one rule for all: class of traffic, then aged priority, then tenant share, then deadline or arrival. A flow
is a deque with three counters; what is not used costs nothing, and tickets that all leave in the next batch were never
sorted.

Counts are exact at any time. Tickets that were cancelled or dropped stay where they are until they come up, or
until they outnumber the living.
"""

from bisect import insort_right
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heapreplace
from operator import attrgetter
from typing import Generic, TypeAlias

from penstock_scheduler.agenda import Agenda
from penstock_scheduler.flows import Band, Fifo, Flow
from penstock_scheduler.inbox import Inbox
from penstock_scheduler.padding import bucket_of
from penstock_scheduler.settings import PolicyName, Settings
from penstock_scheduler.tenants import Shares
from penstock_scheduler.values import Reason, T, TrafficClass

_SPARE = 64
"""Empty lanes that are kept for the next request like them."""
_FEW = 16
"""Tickets of a class from which on choosing among them takes flows: there, many cost no more than few."""
_INBOX = 256
"""Tickets in an inbox from which on it is sorted in: else there might be 100,000 to sort at once."""

_LEVEL = attrgetter("level")
_DUE = attrgetter("due")
_LEVEL_AND_DUE = attrgetter("rank", "due")


Ranked: TypeAlias = tuple[int, float, float, int, Flow[T]]
"""A flow, after its aged level, its tenant's tag, when its head is due, and the order of admission."""


class Tier(Generic[T]):
    """One class of traffic in one lane.

    Its tickets are in an inbox until some must be chosen from many, and only then in flows: those of a class that
    leaves as a whole, as the upper ones mostly do, never are. While it has flows new tickets go there too.
    """

    __slots__ = (
        "_active",
        "_bands",
        "_lanes",
        "_last",
        "inbox",
        "is_sorted",
        "lane",
        "order_within_class",
        "rows",
        "shares",
        "since",
        "traffic",
    )

    def __init__(self, lane: "Lane[T]", lanes: "Lanes[T]", traffic: TrafficClass) -> None:
        self.lane = lane
        self.traffic = int(traffic)
        self.rows = 0
        self.since = 0.0
        """Nothing in it was admitted before."""
        self.order_within_class = lanes.order_within_class
        self._lanes = lanes
        self.shares = lanes.shares[traffic]
        self.inbox: Inbox[T] = Inbox(self, self.shares)
        self._bands: dict[int, Band[T]] = {}
        self._last: Flow[T] | None = None  # where the last ticket went: most likely the next goes there too
        self._active: list[Band[T]] = []  # those with flows in their heaps, by level
        self.is_sorted = False
        """Whether it has flows."""

    def __repr__(self) -> str:
        return f"<Tier {self.traffic}: {self.rows} rows, {len(self._active)} levels with flows, {self.inbox!r}>"

    def add_to_flow(self, ticket: T) -> None:
        """Take in a ticket where there are flows, or many tickets; its rows are the caller's."""
        self._sort_in()
        flow = self._last
        if flow is None or flow.head is None or flow.tenant != ticket.tenant or flow.band.level != ticket.rank:
            flow = self._last = self._flow(ticket)
        flow.add(ticket)

    def count_out(self, rows: int) -> None:
        """Hear of rows that are not queued any more."""
        self.rows -= rows
        self.lane.rows -= rows

    def restart(self, now: float) -> None:
        """Nothing is queued: begin with an inbox again."""
        self.since = now
        self.inbox.clear()
        if self.is_sorted:
            for band in self._active:
                band.first()  # takes what is empty off its list
            self._active.clear()
            self.is_sorted = False

    def _sort_in(self) -> None:
        """Give the tickets of the inbox to their flows."""
        if self.inbox.tickets:
            for ticket in self.inbox.hand_over():
                self._flow(ticket).add(ticket)
            self.inbox.let_go()

    def _flow(self, ticket: T) -> Flow[T]:
        """Where a ticket is to be queued."""
        band = self._bands.get(ticket.rank)
        if band is None:
            band = self._bands[ticket.rank] = Band(self, ticket.rank, self._lanes)
        return band.flow(ticket.tenant)

    def wake(self, band: Band[T]) -> None:
        """A band is about to have something queued again."""
        if band not in self._active:
            self.is_sorted = True
            insort_right(self._active, band, key=_LEVEL)

    def few(self, now: float) -> Inbox[T] | None:
        """The inbox, if what goes first can be chosen there: of few tickets, or one tenant's, if no level has risen."""
        inbox = self.inbox
        if self.is_sorted or (len(inbox.tickets) > _FEW and not inbox.is_one_tenants()):
            return None
        per_ageing = self._lanes.per_ageing
        if (now - self.since) * per_ageing >= 1:
            self.since = inbox.oldest()
            if (now - self.since) * per_ageing >= 1:
                return None
        return inbox

    def first(self, now: float) -> Flow[T] | None:
        """The flow whose head goes first."""
        ranked = self.ranked(now)
        return min(ranked)[4] if ranked else None

    def head(self, now: float) -> T | None:
        """The ticket that goes first: to know it, few need no flows."""
        inbox = self.few(now)
        if inbox is not None:
            return inbox.first()
        flow = self.first(now)
        return None if flow is None else flow.head

    def starved(self, oldest: float) -> Flow[T] | None:
        """The flow whose head came first, if that was not after `oldest`."""
        if self.inbox.tickets:
            self.since = self.inbox.oldest()
            if self.since > oldest:
                return None
            self._sort_in()
        starved = None
        for band in self._active:
            flow = band.first()
            if flow is not None and flow.head is not None and flow.head.enqueued <= oldest:
                oldest, starved = flow.head.enqueued, flow
        return starved

    def drain(self) -> list[T]:
        """Take out everything, by level; within a level as it is due.

        There is an inbox only if no other lane has anything: of two lanes the first tickets are compared, which takes
        flows. So with an inbox the whole class has been served.
        """
        if self._active:
            tickets = [ticket for band in self._active for ticket in band.drain()]
            self._active.clear()
            self.is_sorted = False
        else:
            tickets = self.inbox.drain()
        if len(tickets) > 1:
            tickets.sort(key=self.order_within_class)
        self.lane.rows -= self.rows
        self.rows = 0
        return tickets

    def ranked(self, now: float) -> list[Ranked[T]]:
        """The first flow of each level, after what goes before it among them."""
        self._sort_in()
        ranked = [self._rank(flow, now) for band in self._active if (flow := band.first()) is not None]
        if len(ranked) < len(self._active):
            self._active = [entry[4].band for entry in ranked]
            self.is_sorted = bool(ranked)
        return ranked

    def serve(self, ranked: list[Ranked[T]], take: Callable[[Flow[T]], bool], now: float) -> None:
        """Offer the flows to `take` in order of service, one turn after the other, until it says False."""
        if len(ranked) == 1 or (now - self.since) * self._lanes.per_ageing < 1:
            for *_, head in ranked:  # they are by level, and nobody has risen to another: one level after the other
                while (flow := head.band.first()) is not None:
                    if not take(flow):
                        return
            return
        heapify(ranked)
        while ranked:
            _, tag, _, _, flow = ranked[0]
            if tag == flow.account.tag and not take(flow):  # else its tenant has been served at another level
                break
            following = flow.band.first()
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

    __slots__ = ("_lower", "_patience", "key", "length", "rows", "tiers")

    def __init__(self, lanes: "Lanes[T]", key: Hashable, length: int) -> None:
        self._patience = lanes.class_patience
        self.key = key
        self.length = length
        self.rows = 0
        self.tiers = tuple(Tier(self, lanes, traffic) for traffic in TrafficClass)
        self._lower = self.tiers[1:]

    def __repr__(self) -> str:
        return f"<Lane {self.key!r}: {self.rows} rows>"

    def first(self, now: float) -> Flow[T] | None:
        """The flow whose head goes first, that of the class above all."""
        for tier in self.tiers:
            if tier.rows:
                return tier.first(now)
        return None

    def head(self, now: float) -> T | None:
        """The ticket that goes first, of the class above all."""
        for tier in self.tiers:
            if tier.rows:
                return tier.head(now)
        return None

    def order(self, now: float) -> tuple[int, int, float, float, int]:
        """What ranks lanes among each other: the place of the first ticket in the order of service."""
        # All of them, though one would do: then nothing is in an inbox (Tier.drain).
        orders = [tier.order(now) for tier in self.tiers if tier.rows]
        return orders[0]

    def starved(self, now: float) -> Flow[T] | None:
        """The flow below the first class whose head has waited too long for the classes above."""
        starved, oldest = None, now - self._patience
        for tier in self._lower:
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
        self._levels = settings.levels
        self._default_level = settings.default_level
        self._lengths = settings.lengths
        self._lanes: dict[tuple[Hashable, int], Lane[T]] = {}
        self._limit = _SPARE  # lanes at which the empty ones go
        self._last: Lane[T] | None = None  # where the last ticket went; unknown where its length decides, too
        self._by_due = settings.policy is PolicyName.DEADLINE

    def add(self, ticket: T) -> Reason | None:
        """Take in a ticket that will be queued from now on, or say why not."""
        lane = self._last
        if lane is None or ticket.key != lane.key:
            lane = self._lane_of(ticket)
            if lane is None:
                return Reason.TOO_LONG
        level = ticket.level
        ticket.rank = level if 0 < level <= self._levels else self._default_level
        tier = lane.tiers[ticket.traffic]
        if not tier.rows:
            tier.restart(ticket.enqueued)
        inbox = tier.inbox
        if tier.is_sorted or len(inbox.tickets) >= _INBOX:
            tier.add_to_flow(ticket)
        else:
            inbox.tickets.append(ticket)
            ticket.place = inbox
            if tier.shares.busy:
                inbox.join_one(ticket)
        rows = ticket.rows
        tier.rows += rows
        lane.rows += rows
        return None

    def _lane_of(self, ticket: T) -> "Lane[T] | None":
        """Where a ticket is to be queued; None if it is too long for all lanes."""
        if not self._lengths:
            lane = self._last = self.lane(ticket.key, 0)
            return lane
        bucket = bucket_of(ticket.length, self._lengths)
        return None if bucket is None else self.lane(ticket.key, bucket)

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
        filled: list[Lane[T]] = []
        for lane in self._lanes.values():
            if lane.rows:
                filled.append(lane)  # noqa: PERF401 - mostly it is one
        return filled

    def new_queue(self) -> Fifo[T] | Agenda[T]:
        """What a flow keeps its tickets in."""
        return Agenda(_DUE) if self._by_due else Fifo()

"""What goes into the scheduler and what comes out of it: plain values without behaviour.

A request is a `Ticket` that its caller makes, most likely as a subclass with fields of the caller's own, so
that a request costs one object. The scheduler owns the fields below the line and never looks into others.

        ┌──────── refused ────────▶ (still NEW: it may be submitted again)
    NEW ┴▶ QUEUED ─▶ FORMED ─▶ RUNNING ─▶ DONE
             │          │
             └──────────┴▶ GONE          cancelled, dropped, or failed together with another of its parts

FORMED is only seen with `Settings.late_launch`; otherwise a batch that is started is launched.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from math import inf
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from penstock_scheduler.scheduler import Scheduler


class TrafficClass(IntEnum):
    """Who goes first, before anything else is asked. A class below only fills what those above leave."""

    INTERACTIVE = 0
    STREAM = 1
    BULK = 2


class State(Enum):
    """Where a ticket is. Only the scheduler moves it."""

    NEW = auto()
    QUEUED = auto()
    """Admitted; of an oversize request a part may run already."""
    FORMED = auto()
    """In a batch that is not launched yet, and may still leave it."""
    RUNNING = auto()
    DONE = auto()
    GONE = auto()


_NEW = State.NEW  # a member looked up in its class costs as much as an attribute of three objects


class Reason(Enum):
    """Why a request was refused or dropped."""

    # At admission.
    QUEUE_FULL = auto()
    """A bound in requests, rows or bytes, of the model or of all models: comes with a time to retry after."""
    NO_ROWS = auto()
    TOO_MANY_ROWS = auto()
    """More rows than a batch (without splitting) or than the queue holds."""
    TOO_LONG = auto()
    """Longer than the largest length bucket."""
    UNKNOWN_TENANT = auto()
    DRAINING = auto()
    # At admission and in the queue.
    EXPIRED = auto()
    """Its deadline has passed."""
    HOPELESS = auto()
    """Its deadline has not passed, but it cannot be met any more."""
    TIMEOUT = auto()
    """Policy `fixed`: its queue timeout has passed, and the action is REJECT."""


class FireReason(IntEnum):
    """Why a batch was started when it was, and not later with more rows. (Integers: it is counted for each batch.)"""

    FULL = auto()
    """No more fits: it has all the rows that it may have, or the next request is too large."""
    PREFERRED = auto()
    """Policy `fixed`: it has a preferred size."""
    SHAPE = auto()
    """Policy `fixed`: the next request must not share a batch with these."""
    IDLE = auto()
    """An instance was free, and nothing said to wait."""
    RATE = auto()
    """Policy `deadline`, where it might have waited: batches of this size keep up with the rows that arrive."""
    DEADLINE = auto()
    """Policy `deadline`: one more row would have made a request late."""
    DELAY = auto()
    """It has waited for company as long as it may."""
    DRAIN = auto()


class Ticket:
    """One request, made by its caller and submitted once.

    `rows` is the batch axis (1 for models without one) and `nbytes` what it keeps in memory. Tickets with equal
    `key` may share a batch. `deadline` and all times are seconds on the caller's clock; infinity is none.
    `timeout` is the V2 parameter in seconds, 0 for none: a deadline from now on, except under policy `fixed`, where
    it may shorten the queue's timeout. `level` is the priority, 1 the most urgent, 0 the model's default.
    `length` is how long the variable axis is, for models with length buckets.
    """

    __slots__ = (
        "deadline",
        "due",
        "enqueued",
        "key",
        "length",
        "level",
        "nbytes",
        "place",
        "rank",
        "remaining",
        "rows",
        "sequence",
        "state",
        "tenant",
        "timeout",
        "traffic",
        "unfinished",
    )

    def __init__(
        self,
        rows: int = 1,
        nbytes: int = 0,
        key: Hashable = None,
        deadline: float = inf,
        traffic: TrafficClass = TrafficClass.INTERACTIVE,
        level: int = 0,
        tenant: str = "",
        timeout: float = 0.0,
        length: int = 0,
    ) -> None:
        self.rows = rows
        self.nbytes = nbytes
        self.key = key
        self.deadline = deadline
        self.traffic = traffic
        self.level = level
        self.tenant = tenant
        self.timeout = timeout
        self.length = length
        # ── the scheduler's ──
        self.state = _NEW
        self.enqueued = 0.0
        self.due = 0.0  # what orders it among its equals
        self.rank = 0  # its level, or the default
        self.sequence = 0  # order of admission
        self.remaining = rows  # rows that are in no batch yet
        self.unfinished = 0  # rows whose batch has not finished; kept for oversize requests only
        self.place: Place | None = None  # what counts it while it is queued

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.sequence} {self.state.name}: {self.rows} rows>"


class Place:
    """A container of queued tickets. It forgets them lazily, but counts at once."""

    __slots__ = ()

    def left(self, ticket: Ticket) -> None:
        """Hear that a ticket is not queued any more, though nobody took it from here; its state says so already."""
        raise NotImplementedError


T = TypeVar("T", bound=Ticket)


@dataclass(frozen=True, slots=True)
class Share:
    """The part of an oversize request that is in one batch: its rows from `start` on."""

    start: int
    rows: int


class Batch(Generic[T]):
    """Requests with equal keys that run together.

    `tickets` in order of service; their rows follow one another. `shares` is None unless a part of an oversize
    request is among them; then it says for each ticket which part (None: the whole). `padded_rows` is the size to run:
    at least `rows`, and a size that the model takes. `length` is what variable inputs are padded to, 0 for none.
    """

    __slots__ = (
        "expected",
        "id",
        "key",
        "launched",
        "length",
        "padded_rows",
        "reason",
        "rows",
        "scheduler",
        "shares",
        "started",
        "tickets",
    )

    def __init__(self, key: Hashable, length: int, tickets: list[T], rows: int, reason: FireReason) -> None:
        self.key = key
        self.length = length
        self.tickets = tickets
        self.rows = rows
        self.reason = reason
        self.shares: list[Share | None] | None = None
        self.padded_rows = rows
        # Known once it is started.
        self.id = -1
        self.scheduler: Scheduler[T] | None = None
        self.started = 0.0
        self.expected = 0.0
        """Seconds it should take, 0 if nothing is known."""
        self.launched = False

    def keep_living(self) -> None:
        """Take out what is GONE. Only the scheduler does that, before the launch."""
        shares = self.shares or [None] * len(self.tickets)
        kept = [(t, s) for t, s in zip(self.tickets, shares, strict=True) if t.state is not State.GONE]
        self.tickets = [ticket for ticket, _ in kept]
        self.shares = None if self.shares is None else [share for _, share in kept]
        self.rows = sum(ticket.rows if share is None else share.rows for ticket, share in kept)

    def __repr__(self) -> str:
        return f"<Batch {self.id} {self.reason.name}: {self.rows} rows of {len(self.tickets)} tickets>"


@dataclass(frozen=True, slots=True)
class Refused(Generic[T]):
    """The request was not admitted, and nothing about the scheduler has changed."""

    ticket: T
    reason: Reason
    retry_after: float = 0.0
    """Seconds after which there may be room; 0 if waiting does not help."""


@dataclass(frozen=True, slots=True)
class Start(Generic[T]):
    """Run this batch now, and call `finish` when it is over, however it ended."""

    batch: Batch[T]


@dataclass(frozen=True, slots=True)
class Drop(Generic[T]):
    """This ticket will not run (any further): EXPIRED, HOPELESS or TIMEOUT."""

    ticket: T
    reason: Reason


@dataclass(frozen=True, slots=True)
class Release(Generic[T]):
    """With `preserve_ordering`: it is this ticket's turn to be answered, whatever its answer is."""

    ticket: T


Effect: TypeAlias = Start[T] | Drop[T] | Release[T]

"""What goes into the scheduler and what comes out of it: plain values without behaviour."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Generic, TypeAlias, TypeVar

P = TypeVar("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How one model wants to be batched."""

    instances: int = 1
    """Batches that may run at once."""
    max_batch_rows: int = 64
    max_queued_rows: int = 4096
    max_queue_delay: float = 0.0
    """Seconds that the oldest request may wait for company while an instance is free."""


class Reason(Enum):
    """Why a request was not admitted."""

    QUEUE_FULL = auto()
    TOO_MANY_ROWS = auto()
    DEADLINE = auto()
    DRAINING = auto()


class Rejected(Exception):
    """The request was not admitted, and nothing about the scheduler has changed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class State(Enum):
    """Where a ticket is. Only the scheduler moves it."""

    QUEUED = auto()
    RUNNING = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Ticket(Generic[P]):
    """One admitted request. The payload is the caller's; the scheduler never looks inside."""

    id: int
    payload: P
    rows: int
    key: Hashable
    enqueued: float
    deadline: float = inf
    state: State = State.QUEUED


@dataclass(slots=True, eq=False)
class Batch(Generic[P]):
    """Requests with equal keys that run together."""

    id: int
    key: Hashable
    tickets: Sequence[Ticket[P]]
    rows: int


@dataclass(frozen=True, slots=True)
class Start(Generic[P]):
    """Run this batch now, and call `finish` when it is over, however it ended."""

    batch: Batch[P]


@dataclass(frozen=True, slots=True)
class Expire(Generic[P]):
    """This ticket's deadline passed while it was queued; it will never run."""

    ticket: Ticket[P]


Effect: TypeAlias = Start[P] | Expire[P]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot."""

    queued: int
    queued_rows: int
    running: int
    draining: bool

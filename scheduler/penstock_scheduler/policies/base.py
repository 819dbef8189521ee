"""What a policy is to the scheduler, and what `eager` and `deadline` have in common: a queue of lanes.

A policy keeps the queue. It is asked to `form` a batch whenever an instance is free, and takes the tickets of that
batch out of its counts; the scheduler does everything else about them (their state, the bounds, the statistics).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import Generic

from penstock_scheduler.lanes import Lane, Lanes
from penstock_scheduler.settings import Settings
from penstock_scheduler.splitting import Dropper
from penstock_scheduler.values import Batch, FireReason, Reason, T

_FULL = FireReason.FULL  # looking a member up in its enum takes longer than the line where it is used


class Policy(ABC, Generic[T]):
    """Keeps what is queued, and says when which batch starts."""

    blocking: float = 0.0
    """Seconds for which another model may take the device at any moment."""
    cycle: float = 0.0
    """Seconds in which each model of the device has its turn, infinite under overload; 0 if it has the device alone."""

    @abstractmethod
    def door(self) -> Callable[[T], Reason | None]:
        """What takes in a ticket that is fine so far, and counts it where it waits (`ticket.place`); or says why not.

        It is not a method of its own, since it is called for each request.
        """

    @abstractmethod
    def form(self, now: float, free: int, drop: Dropper[T]) -> Batch[T] | None:
        """The batch to start now on one of `free` instances (at least one), or None.

        What turns out to be hopeless on the way is given to `drop`.
        """

    def wakeup(self) -> float:
        """When a batch starts if nothing happens before and an instance is free, as of the last `form`."""
        return inf

    def keep(self, now: float, free: int, drop: Dropper[T]) -> None:
        """Do what is to be done at any time, even with no instance free."""

    def next_timeout(self) -> float:
        """When the next queue timeout passes, if the policy has such."""
        return inf

    def soonest(self, now: float) -> float:
        """The soonest end of a batch of no rows that starts next; -inf if nothing is refused for being hopeless."""
        return -inf

    def rows_per_second(self, now: float) -> float:
        """How fast rows arrive; 0 if the policy does not look at that."""
        return 0.0

    def arrived(self, rows: int, patience: float, now: float) -> None:
        """Hear how many rows were admitted at once (bulk aside), and how far away the last deadline of them is."""

    def drain(self) -> None:
        """Wait for company no more."""


class LanePolicy(Policy[T]):
    """A policy on lanes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._max_rows = settings.max_batch_rows
        self._lanes: Lanes[T] = Lanes(settings)
        self._jumper: Lane[T] | None = None  # the lane that goes before its turn
        self._jumped = False  # the last batch came from one that did

    def door(self) -> Callable[[T], Reason | None]:
        return self._lanes.add

    def _in_order(self, now: float) -> list[Lane[T]]:
        """The lanes with something queued, in the order of service of their first tickets.

        A lane whose ticket has waited too long for the classes above goes first, but not twice running: so nobody is
        delayed by more than one batch of a class below.
        """
        lanes = self._lanes.filled()
        if len(lanes) <= 1:
            self._jumper = None
            return lanes
        lanes.sort(key=lambda lane: lane.order(now))
        starved = [
            (flow.head.enqueued, index) for index, lane in enumerate(lanes) if (flow := lane.starved(now)) and flow.head
        ]
        self._jumper = None
        if starved and not self._jumped:
            self._jumper = lanes.pop(min(starved)[1])
            lanes.insert(0, self._jumper)
        return lanes

    def _all_of(self, lane: Lane[T], reason: FireReason) -> Batch[T] | None:
        """What `Filling` would make of a lane where nothing is to be chosen, for less; None if something is.

        Nobody in it will be late: where somebody might be, the policy has looked at the first of the lane, and so the
        tickets are in flows.
        """
        rows = lane.rows
        for tier in lane.tiers:
            if tier.rows:
                break
        else:
            return None
        if tier.rows < rows or rows > self._max_rows or tier.is_sorted:
            return None
        return Batch(lane.key, lane.length, tier.drain(), rows, _FULL if rows == self._max_rows else reason)

    def _started(self, batch: Batch[T], lane: Lane[T]) -> Batch[T]:
        """Remember whether the batch that starts was taken out of turn."""
        self._jumped = lane is self._jumper
        return batch

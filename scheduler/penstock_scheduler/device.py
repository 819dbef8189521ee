"""A device that several models share: which of them may start a batch.

At most `capacity` batches run at once. A batch goes to the model that has used the least time for its weight, so that
each gets its share of the device however large its batches are; of equals, to the one with the closest deadline. A
model that was idle starts level with the others: what it did not use is not saved up. A batch is charged with what it
is expected to cost when it starts, and with the rest when it ends.

A model with deadlines also leaves room for the longest batch that another may start (`Policy.blocking`).
"""

from typing import Generic

from penstock_scheduler.scheduler import Scheduler
from penstock_scheduler.values import Batch, Effect, T


class _Member(Generic[T]):
    __slots__ = ("scheduler", "used", "was_idle")

    def __init__(self, scheduler: Scheduler[T]) -> None:
        self.scheduler = scheduler
        self.used = 0.0
        self.was_idle = True


class Device(Generic[T]):
    """Polls all its schedulers, in place of `Scheduler.poll` and `Scheduler.next_wakeup`."""

    def __init__(self, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self._capacity = capacity
        self._members: dict[int, _Member[T]] = {}
        self._running = 0
        self._now = 0.0  # virtual: the time used by the member served last

    def add(self, scheduler: Scheduler[T]) -> None:
        """Take a scheduler in; its constructor does."""
        self._members[id(scheduler)] = _Member(scheduler)

    def remove(self, scheduler: Scheduler[T]) -> None:
        """Forget a scheduler that is idle for good."""
        del self._members[id(scheduler)]

    def poll(self, now: float) -> list[Effect[T]]:
        """What must be done now, for all models. A Start's batch names its scheduler."""
        members = list(self._members.values())
        for member in members:
            member.scheduler.keep(now)
        while self._running < self._capacity and self._start_one(members, now):
            pass
        effects: list[Effect[T]] = []
        for member in members:
            effects += member.scheduler.take_effects()
        return effects

    def next_wakeup(self) -> float | None:
        """When to poll next if nothing happens before; None if time alone changes nothing."""
        is_full = self._running >= self._capacity
        wakeups = [member.scheduler.next_wakeup(may_start=not is_full) for member in self._members.values()]
        return min((wakeup for wakeup in wakeups if wakeup is not None), default=None)

    def finished(self, batch: Batch[T], now: float) -> None:
        """A batch of a member is over."""
        self._running -= 1
        assert batch.scheduler is not None, "it was started"
        member = self._members[id(batch.scheduler)]
        self._charge(member, now - batch.started - batch.expected)

    def _start_one(self, members: list[_Member[T]], now: float) -> bool:
        waiting = [member for member in members if member.scheduler.queued]
        for member in members:
            if member.was_idle and member.scheduler.queued:
                member.used = max(member.used, self._now)
            member.was_idle = member.scheduler.is_idle
        waiting.sort(key=lambda member: (member.used, member.scheduler.earliest_deadline()))
        for member in waiting:
            others = [other.scheduler.next_cost() for other in waiting if other is not member]
            batch = member.scheduler.start_one(now, blocking=max(others, default=0.0))
            if batch is not None:
                self._running += 1
                self._now = max(self._now, member.used)
                self._charge(member, batch.expected)
                return True
        return False

    def _charge(self, member: _Member[T], seconds: float) -> None:
        member.used += seconds / member.scheduler.settings.device_weight

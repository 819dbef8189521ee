"""A device that several models share: which of them may start a batch.

At most `capacity` batches run at once. A batch goes to the model that has used the least time for its weight, so that
each gets its share of the device however large its batches are; of equals, to the one with the closest deadline. A
model that was idle starts level with the others: what it did not use is not saved up. A batch is charged with what it
is expected to cost when it starts, and with the rest when it ends.

A model with deadlines also leaves room for the longest batch that another may start (`Policy.blocking`), and knows how
long it is until its turn comes again (`Policy.cycle`). For the rows that come in during a cycle c, at rates r, batches
take the sum of a·r·c + b, with the line a·n + b that fits what each model's sizes have cost (`CostModel.line`; least
squares through the 95th percentiles, which the margin of 1.1 is on top of). On a device that runs k batches at once

    k·c = 1.1 · sum(a·r·c + b),  so  c = 1.1 · sum(b) / (k - 1.1 · sum(a·r))

and each model's batch must have r·c rows. If nothing is left below the line, no cycle is long enough: then c is
infinite, and batches are as large as deadlines allow. Models whose policy measures no rate are left out.

Why: with a need of its own a model takes batches so small that the others' `b` use the device up. Two models alike
(a 0.1 and b 1.5 ms, deadlines of 10 ms) answer 99 % in time instead of 93 % at 0.9 of what they can do, 97 % instead
of 82 % at 1.0, and 83 % instead of 67 % at 1.3 (tests/scheduler/test_shared.py).
"""

from math import inf
from typing import Generic

from penstock_scheduler.scheduler import Scheduler
from penstock_scheduler.values import Batch, Effect, T

_HEADROOM = 1.1
"""How much faster than the rates a cycle must be: a queue at its limit never becomes shorter."""


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

    def cycle(self, now: float) -> float:
        """Seconds until every model has had a batch of what came in meanwhile: see the module's text."""
        fixed = variable = 0.0
        for member in self._members.values():
            rate = member.scheduler.rows_per_second(now)
            if rate:
                per_row, per_batch = member.scheduler.cost.line
                fixed += max(0.0, per_batch)
                variable += rate * per_row
        left = self._capacity - _HEADROOM * variable
        return _HEADROOM * fixed / left if left > 0 else inf

    def _start_one(self, members: list[_Member[T]], now: float) -> bool:
        waiting = [member for member in members if member.scheduler.queued]
        for member in members:
            if member.was_idle and member.scheduler.queued:
                member.used = max(member.used, self._now)
            member.was_idle = member.scheduler.is_idle
        cycle = self.cycle(now) if len(waiting) > 1 else 0.0
        waiting.sort(key=lambda member: (member.used, member.scheduler.earliest_deadline()))
        for member in waiting:
            others = [other.scheduler.next_cost() for other in waiting if other is not member]
            batch = member.scheduler.start_one(now, blocking=max(others, default=0.0), cycle=cycle)
            if batch is not None:
                self._running += 1
                self._now = max(self._now, member.used)
                self._charge(member, batch.expected)
                return True
        return False

    def _charge(self, member: _Member[T], seconds: float) -> None:
        member.used += seconds / member.scheduler.settings.device_weight

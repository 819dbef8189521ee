"""Any history of calls leaves the scheduler in a state that its contract allows.

A second scheduler, so slow and simple that it can be seen to be right, hears the same history: a list of
what waits, in order of arrival. After each step the two must agree on everything that can be asked, and
each batch must be the one that the list says. Only between lanes whose heads came at the same moment is
the order left open.

Times are eighths of a second, which are exact in binary: a wake-up is on time or it is not.
"""

from collections.abc import Sequence
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from penstock_scheduler import Batch, Expire, Policy, Reason, Rejected, Scheduler, Statistics, Ticket

pytestmark = pytest.mark.slow

Number = int
"""A payload: the requests of a history are numbered."""

eighths = st.integers(0, 16).map(lambda count: count / 8)


class SchedulerMachine(RuleBasedStateMachine):
    """A scheduler and the list that it is held against."""

    tickets: Bundle[Ticket[Number]] = Bundle("tickets")
    batches: Bundle[Batch[Number]] = Bundle("batches")

    @initialize(
        instances=st.integers(1, 3),
        max_batch_rows=st.integers(1, 6),
        max_queued_rows=st.integers(1, 20),
        max_queue_delay=st.just(0.0) | eighths,
    )
    def build(self, instances: int, max_batch_rows: int, max_queued_rows: int, max_queue_delay: float) -> None:
        self.policy = Policy(
            instances=instances,
            max_batch_rows=max_batch_rows,
            max_queued_rows=max_queued_rows,
            max_queue_delay=max_queue_delay,
        )
        self.scheduler: Scheduler[Number] = Scheduler(self.policy)
        self.now = 0.0
        self.waiting: list[Ticket[Number]] = []
        self.running: list[Batch[Number]] = []
        self.seen: set[Number] = set()
        self.submitted = 0
        self.draining = False
        self.polled = False

    # The list's view of things.

    def queued_rows(self) -> int:
        return sum(ticket.rows for ticket in self.waiting)

    def lanes(self) -> list[list[Ticket[Number]]]:
        keys = dict.fromkeys(ticket.key for ticket in self.waiting)
        return [[ticket for ticket in self.waiting if ticket.key == key] for key in keys]

    def is_ripe(self, lane: Sequence[Ticket[Number]]) -> bool:
        full = sum(ticket.rows for ticket in lane) >= self.policy.max_batch_rows
        waited = lane[0].enqueued + self.policy.max_queue_delay <= self.now
        return full or waited or self.draining

    def refusal(self, rows: int, deadline: float) -> Reason | None:
        if self.draining:
            return Reason.DRAINING
        if not 1 <= rows <= self.policy.max_batch_rows:
            return Reason.TOO_MANY_ROWS
        if self.queued_rows() + rows > self.policy.max_queued_rows:
            return Reason.QUEUE_FULL
        return Reason.DEADLINE if deadline <= self.now else None

    # What happens.

    @rule(
        target=tickets,
        rows=st.sampled_from([1, 1, 1, 2, 2, 3, 5, 0, 7]),
        key=st.sampled_from([None, None, "x", ("y", 2)]),
        patience=st.just(inf) | eighths,
    )
    def submit(self, rows: int, key: object, patience: float) -> Ticket[Number] | MultipleResults[Ticket[Number]]:
        deadline = self.now + patience
        refusal = self.refusal(rows, deadline)
        if refusal is not None:
            before = repr(self.scheduler)
            with pytest.raises(Rejected) as caught:
                self.scheduler.submit(self.submitted, rows=rows, now=self.now, key=key, deadline=deadline)
            assert caught.value.reason is refusal
            assert repr(self.scheduler) == before
            return multiple()
        ticket = self.scheduler.submit(self.submitted, rows=rows, now=self.now, key=key, deadline=deadline)
        assert (ticket.payload, ticket.rows, ticket.key) == (self.submitted, rows, key)
        assert (ticket.enqueued, ticket.deadline) == (self.now, deadline)
        self.submitted += 1
        self.waiting.append(ticket)
        self.polled = False
        return ticket

    @rule(ticket=tickets)
    def cancel(self, ticket: Ticket[Number]) -> None:
        waits = ticket in self.waiting
        assert self.scheduler.cancel(ticket) is waits
        if waits:
            self.waiting.remove(ticket)
            self.seen.add(ticket.payload)
            self.polled = False

    @rule(batch=consumes(batches))
    def finish(self, batch: Batch[Number]) -> None:
        self.running.remove(batch)
        self.scheduler.finish(batch)
        with pytest.raises(KeyError):
            self.scheduler.finish(batch)
        self.polled = False

    @rule(wait=eighths, target=batches)
    def wait_and_poll(self, wait: float) -> MultipleResults[Batch[Number]]:
        self.now += wait
        return self.poll()

    @rule(target=batches)
    def wake_up_on_time(self) -> MultipleResults[Batch[Number]]:
        wakeup = self.scheduler.next_wakeup()
        if wakeup is not None:
            self.now = max(self.now, wakeup)
        return self.poll()

    @precondition(lambda self: self.submitted > 10)
    @rule(roll=st.integers(0, 9))
    def drain(self, roll: int) -> None:
        if roll == 0:  # seldom: little can be seen of a scheduler that only drains
            self.scheduler.drain()
            self.draining = True
            self.polled = False

    def poll(self) -> MultipleResults[Batch[Number]]:
        started: list[Batch[Number]] = []
        expired: list[float] = []
        for effect in self.scheduler.poll(self.now):
            if isinstance(effect, Expire):
                assert not started, "expiry comes first"
                assert effect.ticket.deadline <= self.now
                self.waiting.remove(effect.ticket)
                self.see(effect.ticket)
                expired.append(effect.ticket.deadline)
            else:
                self.start(effect.batch)
                started.append(effect.batch)
        assert expired == sorted(expired)
        self.polled = True
        return multiple(*started)

    def start(self, batch: Batch[Number]) -> None:
        assert len(self.running) < self.policy.instances
        (lane,) = [lane for lane in self.lanes() if lane[0].key == batch.key]
        assert self.is_ripe(lane)
        assert lane[0].enqueued == min(other[0].enqueued for other in self.lanes() if self.is_ripe(other))
        count = len(batch.tickets)
        assert list(batch.tickets) == lane[:count], "first in, first out"
        assert batch.rows == sum(ticket.rows for ticket in batch.tickets)
        assert 0 < batch.rows <= self.policy.max_batch_rows
        assert count == len(lane) or batch.rows + lane[count].rows > self.policy.max_batch_rows, "there was room"
        for ticket in batch.tickets:
            assert ticket.deadline > self.now
            self.waiting.remove(ticket)
            self.see(ticket)
        self.running.append(batch)

    def see(self, ticket: Ticket[Number]) -> None:
        assert ticket.payload not in self.seen, "a request ends once"
        self.seen.add(ticket.payload)

    # What holds at any time.

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        assert self.scheduler.statistics() == Statistics(
            len(self.waiting), self.queued_rows(), len(self.running), self.draining
        )
        assert len(self.waiting) + len(self.seen) == self.submitted
        assert self.queued_rows() <= self.policy.max_queued_rows

    @invariant()
    def the_wakeup_is_exact(self) -> None:
        times = [ticket.deadline for ticket in self.waiting]
        if len(self.running) < self.policy.instances:
            times += [lane[0].enqueued + self.policy.max_queue_delay for lane in self.lanes()]
        earliest = min(times, default=inf)
        assert self.scheduler.next_wakeup() == (None if earliest == inf else earliest)

    @invariant()
    def after_a_poll_nothing_is_overdue(self) -> None:
        if not self.polled:
            return
        assert all(ticket.deadline > self.now for ticket in self.waiting)
        assert self.scheduler.next_wakeup() is None or (self.scheduler.next_wakeup() or 0.0) > self.now
        if len(self.running) < self.policy.instances:
            assert not any(self.is_ripe(lane) for lane in self.lanes())
        assert self.scheduler.poll(self.now) == [], "a second look finds nothing to do"

    def teardown(self) -> None:
        """Whatever has happened: finishing what runs and waking up on time empties the queue."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(self.submitted + 2):
            for batch in list(self.running):
                self.finish(batch)
            self.wake_up_on_time()
        assert repr(self.scheduler) == (
            f"<Scheduler {'draining' if self.draining else 'open'}: 0 queued (0 rows), 0 running>"
        )


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=200, stateful_step_count=40)

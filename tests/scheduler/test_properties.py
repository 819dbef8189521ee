"""Any history of calls leaves the scheduler in a state that its contract allows, under each policy.

The machine keeps its own books, simple enough to be seen to be right: who waits with how many rows, what runs, who
has ended and how. After each step the scheduler must agree. It holds of each batch what all policies promise (bounds,
one key, first in first out among equals, nobody late, parts that follow one another), and of each policy when it may
leave an instance idle.

Times are eighths of a second, which are exact in binary.
"""

from collections.abc import Iterable
from math import inf

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock_scheduler import (
    Batch,
    Bounds,
    Drop,
    PolicyName,
    Reason,
    Refused,
    Release,
    Scheduler,
    Settings,
    Start,
    State,
    TimeoutAction,
)
from tests.scheduler.histories import Numbered, any_settings, eighths, requests

pytestmark = pytest.mark.slow


class SchedulerMachine(RuleBasedStateMachine):
    """A scheduler and the books that it is held against."""

    policy: PolicyName

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tickets: list[Numbered] = []
        self.waiting: dict[int, Numbered] = {}
        self.running: list[Batch[Numbered]] = []
        self.ended: dict[int, str] = {}
        self.released: list[int] = []
        self.draining = False
        self.polled = False

    @initialize(data=st.data())
    def build(self, data: st.DataObject) -> None:
        self.settings: Settings = data.draw(any_settings(self.policy))
        self.shared = Bounds(30, 10_000)
        self.scheduler: Scheduler[Numbered] = Scheduler(self.settings, shared_bounds=self.shared)
        if data.draw(st.booleans()):
            self.scheduler.cost.seed(1, 0.125)
            self.scheduler.cost.seed(self.settings.max_batch_rows, 0.5)

    # The books.

    def queued_rows(self) -> int:
        return sum(ticket.rows - sum(rows for _, rows in ticket.parts) for ticket in self.waiting.values())

    def queued_bytes(self) -> int:
        return sum(ticket.nbytes for ticket in self.waiting.values())

    def level(self, ticket: Numbered) -> int:
        return ticket.level if 1 <= ticket.level <= self.settings.levels else self.settings.default_level

    def bucket(self, ticket: Numbered) -> int | None:
        if not self.settings.lengths:
            return 0
        return next((length for length in self.settings.lengths if ticket.length <= length), None)

    def deadline(self, ticket: Numbered) -> float:
        deadline = ticket.deadline
        if ticket.timeout and self.policy is not PolicyName.FIXED:
            deadline = min(deadline, self.now + ticket.timeout)
        return self.now + self.settings.slo if deadline == inf else deadline

    def refusals(self, ticket: Numbered) -> set[Reason]:
        """Every reason for which it must not come in; empty if it must."""
        settings, reasons = self.settings, set[Reason]()
        if self.draining:
            reasons.add(Reason.DRAINING)
        if ticket.rows < 1:
            reasons.add(Reason.NO_ROWS)
        if ticket.rows > (settings.max_queued_rows if settings.split else settings.max_batch_rows):
            reasons.add(Reason.TOO_MANY_ROWS)
        if self.deadline(ticket) <= self.now:
            reasons.add(Reason.EXPIRED)
        if self.bucket(ticket) is None:
            reasons.add(Reason.TOO_LONG)
        level_policy = settings.queue_policy_of(self.level(ticket))
        full = self.queued_rows() + ticket.rows > min(settings.max_queued_rows, 30)
        full = full or self.queued_bytes() + ticket.nbytes > settings.max_queued_bytes
        if full or level_policy.max_queue_size:  # how many of a level are in a payload is Fixed's own business
            reasons.add(Reason.QUEUE_FULL)
        return reasons

    # What happens.

    @rule(
        reads=st.lists(
            st.tuples(requests, st.just(inf) | st.just(inf) | eighths.map(lambda wait: wait - 0.125)), max_size=5
        )
    )
    def submit(self, reads: list[tuple[dict[str, object], float]]) -> None:
        expected: list[tuple[Numbered, set[Reason]]] = []
        news: list[Numbered] = []
        for fields, patience in reads:
            ticket = Numbered(len(self.tickets) + len(news), deadline=self.now + patience, **fields)
            news.append(ticket)
        refused: dict[int, Refused[Numbered]] = {}
        for ticket in news:  # one by one, so that the books know the reason; test_admission does it in one call
            reasons, deadline = self.refusals(ticket), self.deadline(ticket)
            answer = self.scheduler.submit(ticket, self.now)
            self.tickets.append(ticket)
            if answer is None:
                assert not reasons - {Reason.QUEUE_FULL}
                assert ticket.state is State.QUEUED
                assert (ticket.enqueued, ticket.deadline) == (self.now, deadline)
                self.waiting[ticket.number] = ticket
                continue
            refused[ticket.number] = answer
            assert answer.ticket is ticket
            assert ticket.state is State.NEW
            if answer.reason is Reason.HOPELESS:
                assert self.policy is PolicyName.DEADLINE
                assert deadline < inf
            else:
                assert answer.reason in reasons
            assert (answer.retry_after > 0) is (answer.reason is Reason.QUEUE_FULL)
            self.ended[ticket.number] = "refused"
            expected.append((ticket, reasons))
        self.polled = False

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        formed = ticket.state is State.FORMED
        assert self.scheduler.cancel(ticket) is (ticket.number in self.waiting or formed)
        if self.waiting.pop(ticket.number, None) is not None or formed:
            self.end(ticket, "cancelled")
            self.polled = False

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=st.none() | eighths.map(lambda wait: wait + 0.125))
    def finish(self, data: st.DataObject, cost: float | None) -> None:
        self.finish_batch(data.draw(st.sampled_from(self.running)), cost)

    @precondition(lambda self: any(not batch.launched for batch in self.running))
    @rule(data=st.data())
    def launch(self, data: st.DataObject) -> None:
        self.launch_batch(data.draw(st.sampled_from([batch for batch in self.running if not batch.launched])))

    @precondition(lambda self: any(batch.shares for batch in self.running))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from([batch for batch in self.running if batch.shares]))
        ticket = data.draw(st.sampled_from(batch.tickets or [self.tickets[0]]))
        if not ticket.parts:
            return
        self.scheduler.fail(ticket)
        self.waiting.pop(ticket.number, None)
        if ticket.number not in self.ended:
            self.end(ticket, "failed")
        assert ticket.state in (State.GONE, State.DONE)
        self.polled = False

    @rule(wait=eighths)
    def wait_and_poll(self, wait: float) -> None:
        self.now += wait
        self.poll()

    @rule()
    def wake_up_on_time(self) -> None:
        wakeup = self.scheduler.next_wakeup()
        if wakeup is not None:
            self.now = max(self.now, wakeup)
        self.poll()

    @precondition(lambda self: len(self.tickets) > 20)
    @rule(roll=st.integers(0, 9))
    def drain(self, roll: int) -> None:
        if roll == 0:  # seldom: little can be seen of a scheduler that only drains
            self.scheduler.drain()
            self.draining = True
            self.polled = False

    # How it is checked.

    def end(self, ticket: Numbered, how: str) -> None:
        assert ticket.number not in self.ended, "a request ends once"
        self.ended[ticket.number] = how

    def finish_batch(self, batch: Batch[Numbered], cost: float | None = None) -> None:
        if not batch.launched:
            self.launch_batch(batch)
        self.running.remove(batch)
        self.scheduler.finish(batch, self.now, cost)
        with pytest.raises(KeyError):
            self.scheduler.finish(batch, self.now)
        for ticket in batch.tickets:
            over = ticket.number not in self.waiting and not any(ticket in other.tickets for other in self.running)
            if over and ticket.number not in self.ended:
                self.end(ticket, "done")
                assert ticket.state is State.DONE
        self.polled = False

    def launch_batch(self, batch: Batch[Numbered]) -> None:
        before = list(batch.tickets)
        dropped = [drop.ticket for drop in self.scheduler.launch(batch, self.now)]
        for ticket in dropped:
            assert ticket.deadline <= self.now
            self.waiting.pop(ticket.number, None)
            self.end(ticket, "dropped")
        alive = [ticket for ticket in before if self.ended.get(ticket.number) is None]
        assert batch.tickets == alive
        assert all(ticket.deadline > self.now for ticket in alive)
        shares = batch.shares or [None] * len(alive)
        rows = [ticket.rows if share is None else share.rows for ticket, share in zip(alive, shares, strict=True)]
        assert batch.rows == sum(rows) <= batch.padded_rows
        assert batch.launched
        self.polled = False

    def poll(self) -> None:
        for effect in self.scheduler.poll(self.now):
            match effect:
                case Start(batch):
                    self.start(batch)
                case Drop(ticket, reason):
                    self.drop(ticket, reason)
                case Release(ticket):
                    self.release(ticket)
        self.polled = True

    def drop(self, ticket: Numbered, reason: Reason) -> None:
        del self.waiting[ticket.number]
        self.end(ticket, "dropped")
        assert ticket.state is State.GONE
        match reason:
            case Reason.EXPIRED:
                assert ticket.deadline <= self.now
            case Reason.HOPELESS:
                assert self.policy is PolicyName.DEADLINE
                assert self.now < ticket.deadline < inf
            case Reason.TIMEOUT:
                policy = self.settings.queue_policy_of(self.level(ticket))
                timeout = policy.default_timeout
                if policy.allow_timeout_override and ticket.timeout:
                    timeout = min(timeout, ticket.timeout)
                assert self.policy is PolicyName.FIXED
                assert 0 < timeout <= self.now - ticket.enqueued
            case _:
                raise AssertionError(reason)

    def release(self, ticket: Numbered) -> None:
        assert self.settings.preserve_ordering
        assert ticket.number in self.ended
        assert all(number < ticket.number for number in self.released)
        self.released.append(ticket.number)

    def start(self, batch: Batch[Numbered]) -> None:
        assert len(self.running) < self.settings.instances
        assert batch.tickets
        assert 0 < batch.rows <= self.settings.max_batch_rows
        assert batch.launched is not self.settings.late_launch
        allowed = self.settings.allowed_rows or [batch.rows]
        assert batch.padded_rows == min(size for size in allowed if size >= batch.rows)
        self.check_order(batch)
        shares = batch.shares or [None] * len(batch.tickets)
        rows = 0
        for ticket, share in zip(batch.tickets, shares, strict=True):
            assert (ticket.key, self.bucket(ticket)) == (batch.key, batch.length)
            assert ticket.deadline > self.now
            assert ticket.number in self.waiting
            assert (share is None) is (ticket.rows <= self.settings.max_batch_rows)
            part = (0, ticket.rows) if share is None else (share.start, share.rows)
            assert part[0] == sum(rows for _, rows in ticket.parts), "the parts follow one another"
            ticket.parts.append(part)
            rows += part[1]
            if sum(rows for _, rows in ticket.parts) == ticket.rows:
                del self.waiting[ticket.number]
        assert rows == batch.rows
        if self.policy is PolicyName.DEADLINE and any(ticket.deadline < inf for ticket in batch.tickets):
            end = self.now + self.scheduler.cost.table[batch.rows]
            assert all(ticket.deadline >= end for ticket in batch.tickets), "nobody in it will be late"
        self.running.append(batch)

    def check_order(self, batch: Batch[Numbered]) -> None:
        """Among equals the first in is the first out; by deadline first, where the policy says so."""

        def equals(tickets: Iterable[Numbered], like: Numbered) -> list[Numbered]:
            own = (
                (like.traffic, self.level(like), like.tenant)
                if self.policy is not PolicyName.FIXED
                else self.level(like)
            )
            return [
                ticket
                for ticket in tickets
                if (ticket.key, self.bucket(ticket)) == (batch.key, batch.length)
                and own
                == (
                    (ticket.traffic, self.level(ticket), ticket.tenant)
                    if self.policy is not PolicyName.FIXED
                    else self.level(ticket)
                )
            ]

        for ticket in batch.tickets:
            mates = equals(self.waiting.values(), ticket)
            if self.policy is PolicyName.DEADLINE:
                mates.sort(key=lambda mate: min(mate.deadline, mate.enqueued + self.settings.patience))
            policy = self.settings.queue_policy_of(self.level(ticket))
            if (
                self.policy is PolicyName.FIXED
                and policy.timeout_action is TimeoutAction.DELAY
                and policy.default_timeout
            ):
                continue  # see test_fixed
            taken = equals(batch.tickets, ticket)
            assert mates[: len(taken)] == taken

    # What holds at any time.

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        statistics = self.scheduler.statistics()
        assert statistics.queued == len(self.waiting)
        assert statistics.queued_rows == self.queued_rows() == self.shared.rows <= self.settings.max_queued_rows
        assert statistics.queued_bytes == self.queued_bytes() == self.shared.nbytes <= self.settings.max_queued_bytes
        assert statistics.running == len(self.running) <= self.settings.instances
        assert statistics.draining is self.draining
        assert statistics.admitted + sum(statistics.refused.values()) == len(self.tickets)
        assert sum(statistics.fired.values()) == sum(statistics.batch_rows.values())
        ends = list(self.ended.values())
        assert sum(count for each in statistics.classes.values() for count in each.dropped.values()) == ends.count(
            "dropped"
        )
        assert sum(each.cancelled for each in statistics.classes.values()) == ends.count("cancelled")
        assert sum(statistics.refused.values()) == ends.count("refused")
        begun = sum(1 for ticket in self.tickets if ticket.parts)
        assert sum(each.queue_time.count for each in statistics.classes.values()) == begun
        for ticket in self.waiting.values():
            assert ticket.state is State.QUEUED

    @invariant()
    def after_a_poll_nothing_is_overdue(self) -> None:
        if not self.polled:
            return
        assert all(ticket.deadline > self.now for ticket in self.waiting.values())
        wakeup = self.scheduler.next_wakeup()
        assert wakeup is None or wakeup > self.now
        assert (inf if wakeup is None else wakeup) <= min((t.deadline for t in self.waiting.values()), default=inf)
        if len(self.running) < self.settings.instances and self.waiting:
            self.check_idleness(inf if wakeup is None else wakeup)
        if self.settings.preserve_ordering:
            admitted = [ticket.number for ticket in self.tickets if self.ended.get(ticket.number) != "refused"]
            due = admitted[: next((i for i, number in enumerate(admitted) if number not in self.ended), len(admitted))]
            assert self.released == due
        assert self.scheduler.poll(self.now) == [], "a second look finds nothing to do"

    def check_idleness(self, wakeup: float) -> None:
        """An instance is free and somebody waits: why?"""
        assert not self.draining
        oldest = min(ticket.enqueued for ticket in self.waiting.values())
        match self.policy:
            case PolicyName.EAGER:
                raise AssertionError("eager never waits")
            case PolicyName.FIXED:
                delay = self.settings.max_queue_delay or 0.0
                assert self.now < oldest + delay
                assert wakeup <= oldest + delay
            case PolicyName.DEADLINE:
                assert self.settings.instances > 1
                assert any(ticket.deadline < inf for ticket in self.waiting.values())
                assert wakeup < inf
                if self.settings.max_queue_delay is not None:
                    assert wakeup <= max(t.enqueued for t in self.waiting.values()) + self.settings.max_queue_delay

    def teardown(self) -> None:
        """Whatever has happened: finishing what runs and waking up on time empties the queue."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3 * sum(ticket.rows for ticket in self.tickets) + 3):
            for batch in list(self.running):
                self.finish_batch(batch)
            self.wake_up_on_time()
        assert self.scheduler.is_idle
        assert not self.waiting
        assert len(self.ended) == len(self.tickets)
        assert (self.shared.rows, self.shared.nbytes) == (0, 0)
        self.after_a_poll_nothing_is_overdue()


class EagerMachine(SchedulerMachine):
    policy = PolicyName.EAGER


class FixedMachine(SchedulerMachine):
    policy = PolicyName.FIXED


class DeadlineMachine(SchedulerMachine):
    policy = PolicyName.DEADLINE


_histories = hypothesis_settings(max_examples=150, stateful_step_count=40)

TestEager = EagerMachine.TestCase
TestEager.settings = _histories
TestFixed = FixedMachine.TestCase
TestFixed.settings = _histories
TestDeadline = DeadlineMachine.TestCase
TestDeadline.settings = _histories

"""The scheduler among instances that fail: seeded worlds in which everything that can go wrong does.

Each seed makes a world of its own: settings, a mix of traffic, and instances that are slow, raise, hang or answer with
the wrong number of rows; requests are cancelled at every step, the clock jumps, and rare branches are forced. The
invariants, by their numbers in the hardening plan:

I1 each admitted request ends once · I2 what is queued, runs and has ended adds up to what was admitted, in requests,
rows and bytes · I3 a batch is within its bounds, of one key, with nobody dead or late in it · I4 with an instance free
nobody waits longer than the policy may let them · I5 first in first out among equals (eager, fixed) · I6 nobody starves
· I7 after a drain everything is zero · I8 each answer is made of the request's own rows · I9 a full queue is the
only reason to shed load · I10 after an overload the queue empties.

A failure prints the seed; `SEEDS` holds those that once failed.
"""

from collections import defaultdict
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from random import Random

import pytest

from penstock_scheduler import (
    Batch,
    Bounds,
    Drop,
    PolicyName,
    QueuePolicy,
    Reason,
    Release,
    Scheduler,
    Settings,
    Share,
    Start,
    State,
    Ticket,
    TimeoutAction,
    TrafficClass,
)

pytestmark = pytest.mark.slow

SEEDS: list[int] = []
"""Seeds that have failed before, for ever."""
WORLDS = 1000

OUTCOMES = ("ok",) * 12 + ("slow", "slow", "raise", "hang", "wrong rows")


class Job(Ticket):
    """A request whose rows are numbers that nobody else's are, so that an answer can be told from another's."""

    __slots__ = ("answer", "fate", "pledge")

    def __init__(self, number: int, **fields: object) -> None:
        super().__init__(**fields)  # type: ignore[arg-type]
        self.pledge = [(number, row) for row in range(self.rows)]
        self.answer: list[tuple[int, int] | None] = [None] * self.rows
        self.fate = ""


class World:
    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.settings = make_settings(rng)
        self.bounds = Bounds(rng.choice([10**9, 200]), 10**9)
        self.scheduler: Scheduler[Job] = Scheduler(self.settings, shared_bounds=self.bounds)
        self.now = rng.choice([0.0, -5.0, 1e6])
        self.cost = (rng.uniform(0.001, 0.02), rng.uniform(0.0, 0.01))
        if rng.random() < 0.5:
            for rows in range(1, self.settings.max_batch_rows + 1):
                self.scheduler.cost.seed(rows, self.cost[0] + rows * self.cost[1])
        self.jobs: list[Job] = []
        self.ends: list[tuple[float, int, Batch[Job], str]] = []
        self.batches: list[Batch[Job]] = []
        self.released: list[Job] = []
        self.draining = False

    def run(self) -> None:
        rng = self.rng
        load = rng.choice([0.3, 1.0, 4.0])
        capacity = self.settings.max_batch_rows / (self.cost[0] + self.settings.max_batch_rows * self.cost[1])
        for _ in range(rng.choice([20, 60, 150])):
            self.now += rng.choice([0.0, rng.expovariate(load * capacity / 3)])
            if rng.random() < 0.7:
                self.arrive(rng.choice([1, 1, 2, 5, 30]))
            self.disturb()
            self.turn()
        self.recover()
        if rng.random() < 0.5:
            self.arrive(5)
            self.scheduler.drain()
            self.draining = True
            self.arrive(3)
            self.recover()

    # What happens.

    def arrive(self, count: int) -> None:
        rng = self.rng
        jobs = [
            Job(
                len(self.jobs) + index,
                rows=rng.choice([1, 1, 1, 2, 3, self.settings.max_batch_rows, 3 * self.settings.max_batch_rows]),
                nbytes=rng.randrange(1000),
                key=rng.choice(["k", "k", "k", "other", 7]),
                deadline=self.now + rng.choice([inf, inf, 0.05, 0.5, 5.0, -0.1, 1e300]),
                traffic=rng.choice(list(TrafficClass)),
                level=rng.randrange(4),
                tenant=rng.choice(["", "a", "b", f"t{rng.randrange(100)}"]),
                timeout=rng.choice([0.0, 0.0, 0.2]),
            )
            for index in range(count)
        ]
        before = self.scheduler.statistics()
        refused = {id(each.ticket): each.reason for each in self.scheduler.submit_many(jobs, self.now)}
        rows, nbytes = before.queued_rows, before.queued_bytes
        other_rows = self.bounds.rows - self.scheduler.statistics().queued_rows
        for job in jobs:
            reason = refused.get(id(job))
            if reason is Reason.QUEUE_FULL and self.settings.policy is not PolicyName.FIXED:  # I9
                room = min(self.settings.max_queued_rows, self.bounds.max_rows - other_rows) - rows
                assert job.rows > room or job.nbytes > self.settings.max_queued_bytes - nbytes
            if reason is Reason.HOPELESS:
                assert self.settings.policy is PolicyName.DEADLINE
                assert min(job.deadline, job.timeout or inf, self.settings.slo) < inf
            if reason is None:
                assert not self.draining
                rows += job.rows
                nbytes += job.nbytes
                self.jobs.append(job)
            else:
                assert job.state is State.NEW

    def disturb(self) -> None:
        """Cancel somebody, perhaps one who runs or is over, perhaps many."""
        rng = self.rng
        for _ in range(rng.choice([0, 0, 0, 1, 1, 20])):
            if self.jobs:
                job = rng.choice(self.jobs)
                waits = job.state in (State.QUEUED, State.FORMED)
                assert self.scheduler.cancel(job) is waits
                if waits:
                    self.end(job, "cancelled")

    def turn(self) -> None:
        """Everything that a server does in a pass of its loop."""
        while self.ends and self.ends[0][0] <= self.now:
            _, _, batch, outcome = heappop(self.ends)
            self.finish(batch, outcome)
        for effect in self.scheduler.poll(self.now):
            match effect:
                case Start(batch):
                    self.start(batch)
                case Drop(job, reason):
                    assert reason is not Reason.EXPIRED or job.deadline <= self.now
                    self.end(job, "dropped")
                case Release(job):
                    assert job.fate, "its turn comes when it has an answer"
                    self.released.append(job)
        self.check()

    def start(self, batch: Batch[Job]) -> None:
        assert batch.rows <= self.settings.max_batch_rows  # I3
        for job in batch.tickets:
            assert job.key == batch.key
            if not self.settings.late_launch:  # else something may have happened to it since the poll
                assert not job.fate
                assert job.deadline > self.now
        self.check_fifo(batch)
        self.batches.append(batch)
        if self.settings.late_launch:
            # Something may happen between the start and the launch.
            self.now += self.rng.choice([0.0, 0.0, 0.06])
            self.disturb()
            for drop in self.scheduler.launch(batch, self.now):
                self.end(drop.ticket, "dropped")
            assert all(job.deadline > self.now and not job.fate for job in batch.tickets)
        outcome = self.rng.choice(OUTCOMES)
        seconds = self.cost[0] + self.cost[1] * batch.padded_rows
        seconds *= {"slow": self.rng.choice([3, 1000]), "hang": 1e5}.get(outcome, 1)
        heappush(self.ends, (self.now + seconds, batch.id, batch, outcome))

    def finish(self, batch: Batch[Job], outcome: str) -> None:
        rows = [row for job, share in pairs(batch) for row in share_of(job, share)]
        assert len(rows) == batch.rows
        if outcome == "wrong rows":
            rows = rows[:-1]
        cost = self.now - batch.started if outcome in ("ok", "slow") else None
        self.scheduler.finish(batch, self.now, cost)
        self.batches.remove(batch)
        at = 0
        for job, share in pairs(batch):
            start, count = (0, job.rows) if share is None else (share.start, share.rows)
            if outcome in ("ok", "slow"):
                job.answer[start : start + count] = rows[at : at + count]
            elif not job.fate:
                self.end(job, "failed")
                if share is not None:
                    self.scheduler.fail(job)
            at += count
            if None not in job.answer and not job.fate:
                assert job.answer == job.pledge  # I8
                assert job.state is State.DONE
                self.end(job, "answered")

    def end(self, job: Job, fate: str) -> None:
        assert not job.fate, f"a request that was {job.fate} is now {fate}"  # I1
        job.fate = fate

    def recover(self) -> None:
        """No more arrivals: hung instances end, and then the queue is empty soon (I6, I7, I10)."""
        for _ in range(10_000):
            if self.scheduler.is_idle:
                break
            wakeup = self.scheduler.next_wakeup()
            moments = [self.ends[0][0]] if self.ends else []
            if wakeup is not None:
                moments.append(wakeup)
            assert moments, "somebody waits, and nothing will ever happen"
            self.now = max(self.now, min(moments))
            self.turn()
        statistics = self.scheduler.statistics()
        assert (statistics.queued, statistics.queued_rows, statistics.queued_bytes, statistics.running) == (0, 0, 0, 0)
        assert (self.bounds.rows, self.bounds.nbytes) == (0, 0)
        assert all(job.fate for job in self.jobs)
        if self.settings.preserve_ordering:
            assert self.released == self.jobs

    # What must hold.

    def check(self) -> None:
        statistics = self.scheduler.statistics()
        queued = [job for job in self.jobs if job.state is State.QUEUED]
        assert statistics.queued == len(queued)  # I2
        assert statistics.queued_rows == sum(job.remaining for job in queued) == self.bounds.rows
        assert statistics.queued_bytes == sum(job.nbytes for job in queued) == self.bounds.nbytes
        assert statistics.running == len(self.batches) <= self.settings.instances
        assert statistics.admitted == len(self.jobs)
        running = {id(job) for batch in self.batches for job in batch.tickets}
        for job in self.jobs:
            assert bool(job.fate) or job.state is State.QUEUED or id(job) in running
        assert all(job.deadline > self.now for job in queued) or self.settings.late_launch
        if queued and statistics.running < statistics.instances and not self.settings.late_launch:  # I4
            wakeup = self.scheduler.next_wakeup()
            assert wakeup is not None
            if self.settings.policy is PolicyName.EAGER:
                raise AssertionError("eager lets an instance idle")
            if self.settings.policy is PolicyName.FIXED:
                oldest = min(job.enqueued for job in queued)
                assert wakeup <= oldest + (self.settings.max_queue_delay or 0.0)

    def check_fifo(self, batch: Batch[Job]) -> None:
        if self.settings.policy is PolicyName.DEADLINE:
            return
        last: dict[object, int] = defaultdict(int)
        for job in batch.tickets:  # I5
            group = job.level if self.settings.policy is PolicyName.FIXED else (job.traffic, job.level, job.tenant)
            if self.settings.policy is PolicyName.FIXED and self.settings.queue_policy.default_timeout:
                continue
            assert job.sequence > last[group]
            last[group] = job.sequence


def pairs(batch: Batch[Job]) -> list[tuple[Job, Share | None]]:
    return list(zip(batch.tickets, batch.shares or [None] * len(batch.tickets), strict=True))


def share_of(job: Job, share: Share | None) -> list[tuple[int, int]]:
    return job.pledge if share is None else job.pledge[share.start : share.start + share.rows]


def make_settings(rng: Random) -> Settings:
    policy = rng.choice(list(PolicyName))
    max_batch_rows = rng.choice([1, 4, 16])
    settings = Settings(
        policy=policy,
        instances=rng.choice([1, 2, 4]),
        max_batch_rows=max_batch_rows,
        allowed_rows=rng.choice([(), sorted({1, max_batch_rows})]),
        max_queued_rows=rng.choice([max_batch_rows, 64, 4096]),
        slo=rng.choice([inf, 0.3]),
        late_launch=rng.random() < 0.3,
        preserve_ordering=rng.random() < 0.2,
        max_queue_delay=None if policy is PolicyName.EAGER else rng.choice([None, 0.0, 0.05]),
        ageing=rng.choice([0.01, 1.0]),
        class_patience=rng.choice([0.01, 1.0]),
        patience=rng.choice([0.05, 1.0]),
    )
    if not settings.preserve_ordering:
        settings = replace(settings, levels=rng.choice([1, 3]))
    if policy is PolicyName.FIXED:
        preferred = rng.choice([(), (max_batch_rows,), tuple(sorted({1, max_batch_rows}))])
        action = TimeoutAction.REJECT if settings.preserve_ordering else rng.choice(list(TimeoutAction))
        queue = QueuePolicy(
            timeout_action=action,
            default_timeout=rng.choice([0.0, 0.1]),
            allow_timeout_override=rng.random() < 0.5,
            max_queue_size=rng.choice([0, 20]),
        )
        return replace(settings, preferred_sizes=preferred, queue_policy=rng.choice([QueuePolicy(), queue]))
    return replace(settings, tenants=rng.choice([{}, {"a": 3.0}]))


def run_world(seed: int) -> None:
    try:
        World(seed).run()
    except Exception as error:
        error.add_note(f"the seed is {seed}")
        raise


def test_seeds_that_once_failed() -> None:
    """What has been wrong once stays right."""
    for seed in SEEDS:
        run_world(seed)


@pytest.mark.parametrize("first", range(0, WORLDS, 100))
def test_whatever_goes_wrong_every_request_has_one_fate(first: int) -> None:
    """The invariants hold in a hundred worlds."""
    for seed in range(first, first + 100):
        run_world(seed)

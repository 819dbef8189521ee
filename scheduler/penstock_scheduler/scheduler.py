"""The batching scheduler of one model: a state machine that is told the time and never waits.

    submit ──▶ QUEUED ──poll──▶ RUNNING ──finish──▶ DONE
                  ├──cancel───────────────────────▶ GONE
                  └──poll: EXPIRED, HOPELESS, …───▶ GONE   (reported as Drop)

A caller tells what happened (`submit_many`, `cancel`, `finish`, `fail`, `drain`), then asks what to do about it
(`poll`), then sleeps until something happens or until `next_wakeup`. Times are seconds on one monotonic clock of the
caller's choice.

After every `poll(now)`:
  * a ticket is in exactly one place: queued, in a running batch, or gone;
  * nothing queued has a deadline at or before `now`;
  * no free instance faces a batch that its policy would start;
  * `next_wakeup()` is None or later than `now`.

This class only puts the parts together. Who comes in is decided in admission.py, when a batch starts and with whom in
policies/, in which order in lanes.py; what a batch costs is learnt in cost.py.
"""

from collections.abc import Sequence
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Generic

from penstock_scheduler.admission import Admission
from penstock_scheduler.bounds import Bounds
from penstock_scheduler.cost import CostModel
from penstock_scheduler.deadlines import Deadlines
from penstock_scheduler.ordering import Ordering
from penstock_scheduler.padding import row_sizes
from penstock_scheduler.policies.base import Policy
from penstock_scheduler.policies.deadline import Deadline
from penstock_scheduler.policies.eager import Eager
from penstock_scheduler.policies.fixed import Fixed
from penstock_scheduler.running import Running
from penstock_scheduler.settings import PolicyName, Settings, settings_problems
from penstock_scheduler.statistics import Counters, Statistics
from penstock_scheduler.values import Batch, Drop, Effect, Reason, Refused, Release, Share, Start, State, T

if TYPE_CHECKING:
    from penstock_scheduler.device import Device


_DONE = State.DONE


class Scheduler(Generic[T]):
    """See the module's text for the contract."""

    def __init__(
        self, settings: Settings, *, device: "Device[T] | None" = None, shared_bounds: Bounds | None = None
    ) -> None:
        """ValueError with everything that is wrong with the settings.

        With a `device` it is the device that is polled, for all its models. `shared_bounds` hold for all schedulers
        that they are given to.
        """
        problems = settings_problems(settings)
        if problems:
            raise ValueError("; ".join(problems))
        self.settings = settings
        self._sizes = row_sizes(settings.allowed_rows, settings.max_batch_rows)
        self.cost = CostModel(self._sizes)
        self._running: Running[T] = Running(settings.instances)
        self._deadlines: Deadlines[T] = Deadlines()
        self._policy: Policy[T] = self._make_policy(settings)
        own_bounds = Bounds(settings.max_queued_rows, settings.max_queued_bytes)
        self._bounds = (own_bounds,) if shared_bounds is None else (own_bounds, shared_bounds)
        self._counters: Counters[T] = Counters(self._sizes)
        self._admission = Admission(settings, self._policy, self.cost, self._deadlines, self._bounds, self._counters)
        self._ordering: Ordering[T] | None = Ordering() if settings.preserve_ordering else None
        self._queued = 0
        self._started = State.FORMED if settings.late_launch else State.RUNNING
        self._ids = count()
        self._now = -inf  # the last time that it was told
        self._is_settled = True  # nothing has happened since the last poll
        self._effects: list[Effect[T]] = []
        self._device = device
        if device is not None:
            device.add(self)

    def __repr__(self) -> str:
        state = "open" if self._admission.is_open else "draining"
        rows = self._bounds[0].rows
        return f"<Scheduler {state}: {self._queued} queued ({rows} rows), {len(self._running)} running>"

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued and nothing runs."""
        return not self._queued and not self._running

    # Telling it what happened.

    def submit_many(self, tickets: Sequence[T], now: float) -> Sequence[Refused[T]]:
        """Admit the requests of one read. Those that were refused, with the reasons."""
        self._now, self._is_settled = now, False
        refused = self._admission.admit(tickets, now)
        self._queued += len(tickets) - len(refused)
        if refused and self.is_idle and any(each.reason is Reason.HOPELESS for each in refused):
            self.cost.doubt(now)
        if self._ordering is not None:
            self._ordering.admitted(tickets)
        return refused

    def submit(self, ticket: T, now: float) -> Refused[T] | None:
        """Admit one request, or say why not."""
        refused = self.submit_many((ticket,), now)
        return refused[0] if refused else None

    def cancel(self, ticket: T) -> bool:
        """Forget a request. True if (the rest of) it will not run; False if it runs or is over.

        One in a batch that is not launched yet leaves that batch.
        """
        if ticket.state is State.FORMED:
            ticket.state = State.GONE
        elif ticket.state is State.QUEUED:
            self._leave(ticket)
        else:
            return False
        self._counters.cancelled[ticket.traffic] += 1
        self._is_settled = False
        return True

    def fail(self, ticket: T) -> None:
        """An oversize request has failed in one of its parts: the parts that still wait will not run. One fate."""
        if ticket.state is State.QUEUED:
            self._leave(ticket)
        elif ticket.state is not State.DONE:
            ticket.state = State.GONE
        self._is_settled = False

    def launch(self, batch: Batch[T], now: float) -> Sequence[Drop[T]]:
        """With `late_launch`: run this batch with what is still in it; from here on its tickets cannot leave it.

        Afterwards `batch` holds only tickets that are alive and in time, with new numbers of rows. Those that have
        expired since it was started are returned. If none is left there is nothing to run; `finish` it all the same.
        """
        dropped: list[Drop[T]] = []
        for ticket in batch.tickets:
            if ticket.state is not State.GONE and ticket.deadline <= now:
                self._count_drop(ticket, Reason.EXPIRED)
                dropped.append(Drop(ticket, Reason.EXPIRED))
                self.fail(ticket)
        if any(ticket.state is State.GONE for ticket in batch.tickets):
            batch.keep_living()
            batch.padded_rows = self._sizes[batch.rows]
        for ticket in batch.tickets:
            if ticket.state is State.FORMED:
                ticket.state = State.RUNNING
        batch.launched = True
        return dropped

    def finish(self, batch: Batch[T], now: float, cost: float | None = None) -> None:
        """A batch is over, however it ended: give its instance back. KeyError if it does not run.

        `cost` is how many seconds it took, for the cost model; None if that says nothing about others like it.
        """
        self._running.remove(batch)
        self._now, self._is_settled = now, False
        if cost is not None and batch.rows:
            self.cost.observe(batch.padded_rows, cost)
        if batch.shares is not None:
            self._finish_parts(batch)
        else:
            for ticket in batch.tickets:
                ticket.state = _DONE
        if self._device is not None:
            self._device.finished(batch, now)

    def drain(self) -> None:
        """Admit nothing more, and let what is queued run without waiting for company."""
        self._admission.is_open = False
        self._policy.drain()
        self._is_settled = False

    # Asking it what to do.

    def poll(self, now: float) -> list[Effect[T]]:
        """What must be done now, in this order."""
        if self._device is not None:
            raise RuntimeError("this model shares a device: poll the device")
        self.keep(now)
        while self._running.free > 0 and self.start_one(now) is not None:
            pass
        return self.take_effects()

    def next_wakeup(self, *, may_start: bool = True) -> float | None:
        """When to poll next if nothing happens before; None if time alone changes nothing.

        If something has happened since the last poll: at once. It may be too early, by the deadline of one that has
        left, and is never too late. `may_start` is False on a device that is taken.
        """
        if not self._is_settled and self.needs_poll:
            return self._now
        wakeup = min(self._deadlines.bound, self._policy.next_timeout())
        if may_start and self._running.free > 0 and self._queued:
            wakeup = min(wakeup, self._policy.wakeup())
        return None if wakeup == inf else wakeup

    @property
    def needs_poll(self) -> bool:
        """Whether a poll may find something to do after a batch has ended. Where nobody waits it does not."""
        return bool(self._queued or self._effects or self._ordering is not None or self._device is not None)

    def statistics(self) -> Statistics:
        """A snapshot."""
        counters, bounds = self._counters, self._bounds[0]
        return Statistics(
            queued=self._queued,
            queued_rows=bounds.rows,
            queued_bytes=bounds.nbytes,
            running=len(self._running),
            instances=self.settings.instances,
            draining=not self._admission.is_open,
            admitted=counters.admitted,
            refused=dict(counters.refused),
            classes=counters.by_class(),
            batch_rows=counters.batch_rows(),
            fired=counters.fired(),
            padding_rows=counters.padding_rows(),
            padding_elements=counters.padding_elements,
        )

    # For the device: the parts of a poll, and what decides whose turn it is.

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._queued

    def next_cost(self) -> float:
        """Seconds that a batch of what waits should take."""
        return self.cost.table[min(self._bounds[0].rows, self.settings.max_batch_rows)]

    def earliest_deadline(self) -> float:
        """That of what waits; infinity if there is none."""
        return self._deadlines.earliest()

    def keep(self, now: float) -> None:
        """Drop what has expired, and do what a policy does at any time."""
        self._now, self._is_settled = now, False
        deadlines = self._deadlines
        while deadlines.bound <= now and (ticket := deadlines.head()) is not None and ticket.deadline <= now:
            self._drop(ticket, Reason.EXPIRED)
        self._policy.keep(now, self._running.free, self._drop)

    def rows_per_second(self, now: float) -> float:
        """How fast rows arrive; 0 if the policy does not look at that."""
        return self._policy.rows_per_second(now)

    def start_one(self, now: float, *, blocking: float = 0.0, cycle: float = 0.0) -> Batch[T] | None:
        """Start a batch on a free instance, if there are one and the other.

        `blocking` is for how long another model may take the device at any moment, `cycle` how long all take together.
        """
        if not self._queued or self._running.free <= 0:
            return None
        self._policy.blocking = blocking
        self._policy.cycle = cycle
        batch = self._policy.form(now, self._running.free, self._drop)
        if batch is not None:
            self._start(batch, now)
        return batch

    def take_effects(self) -> list[Effect[T]]:
        """What has come up since they were taken last."""
        if self._ordering is not None:
            self._effects.extend(Release(ticket) for ticket in self._ordering.released())
        effects, self._effects = self._effects, []
        self._is_settled = True
        return effects

    # How.

    def _make_policy(self, settings: Settings) -> Policy[T]:
        match settings.policy:
            case PolicyName.EAGER:
                return Eager(settings)
            case PolicyName.FIXED:
                return Fixed(settings)
            case PolicyName.DEADLINE:
                return Deadline(settings, self.cost, self._running, self._deadlines)

    def _start(self, batch: Batch[T], now: float) -> None:
        state = self._started
        whole = batch.tickets if batch.shares is None else _that_leave(batch.tickets, batch.shares)
        nbytes = 0
        for ticket in whole:
            ticket.state = state
            ticket.remaining = 0
            nbytes += ticket.nbytes
        self._queued -= len(whole)
        for bounds in self._bounds:
            bounds.give_back(batch.rows, nbytes)
        self._deadlines.compact(self._queued)
        batch.id = next(self._ids)
        batch.scheduler = self
        batch.padded_rows = self._sizes[batch.rows]
        batch.started = now
        batch.expected = self.cost.table[batch.rows]
        batch.launched = not self.settings.late_launch
        self._running.add(batch)
        self._counters.started(batch, now)
        self._effects.append(Start(batch))

    def _drop(self, ticket: T, reason: Reason) -> None:
        self._leave(ticket)
        self._count_drop(ticket, reason)
        self._effects.append(Drop(ticket, reason))

    def _count_drop(self, ticket: T, reason: Reason) -> None:
        self._counters.dropped[ticket.traffic][reason] += 1

    def _leave(self, ticket: T) -> None:
        """Take a queued ticket out, wherever it waits."""
        ticket.state = State.GONE
        assert ticket.place is not None, "what is queued is counted somewhere"
        ticket.place.left(ticket)
        self._queued -= 1
        for bounds in self._bounds:
            bounds.give_back(ticket.remaining, ticket.nbytes)
        self._deadlines.compact(self._queued)

    def _finish_parts(self, batch: Batch[T]) -> None:
        assert batch.shares is not None
        for ticket, share in zip(batch.tickets, batch.shares, strict=True):
            ticket.unfinished -= ticket.rows if share is None else share.rows
            if not ticket.unfinished and ticket.state is not State.GONE:
                ticket.state = State.DONE


def _that_leave(tickets: Sequence[T], shares: Sequence[Share | None]) -> list[T]:
    """Those of which nothing is left in the queue."""
    return [
        ticket
        for ticket, share in zip(tickets, shares, strict=True)
        if share is None or share.start + share.rows == ticket.rows
    ]

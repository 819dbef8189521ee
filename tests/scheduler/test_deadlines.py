"""What the deadlines remember, and what they let go."""

import gc
import weakref
from math import inf

from penstock_scheduler import Policy, Scheduler, Start, Ticket
from penstock_scheduler.deadlines import Deadlines
from penstock_scheduler.values import State

HOUR = 3600.0


class Payload:
    """Something that a weak reference can watch."""


def ticket(number: int, deadline: float) -> Ticket[None]:
    return Ticket(number, None, 1, None, 0.0, deadline)


def leave(deadlines: Deadlines[None], which: Ticket[None]) -> None:
    which.state = State.GONE
    deadlines.left(which)


def test_requests_that_are_over_are_let_go_long_before_their_deadline() -> None:
    """10,000 answered requests that could have waited for an hour do not stay in memory for that hour.

    One request with an earlier deadline waits all the while, so that the others' never come up.
    """
    scheduler: Scheduler[Payload] = Scheduler(Policy(max_batch_rows=8, max_queue_delay=2 * HOUR))
    scheduler.submit(Payload(), rows=1, now=0.0, key="patient", deadline=HOUR)
    alive: list[weakref.ref[Payload]] = []
    most = 0
    for number in range(10_000):
        payload = Payload()
        alive.append(weakref.ref(payload))
        now = number / 10
        scheduler.submit(payload, rows=8, now=now, deadline=now + HOUR)
        del payload
        (effect,) = scheduler.poll(now)
        assert isinstance(effect, Start)
        scheduler.finish(effect.batch)
        del effect
        alive = [one for one in alive if one() is not None]
        most = max(most, len(alive))
    gc.collect()
    assert most < 200


def test_the_heap_stays_in_proportion_to_what_is_queued() -> None:
    """Stale entries may outnumber the live ones a little, not without bound, whatever the order of leaving."""
    deadlines: Deadlines[None] = Deadlines()
    tickets = [ticket(number, HOUR + number % 97) for number in range(1000)]
    for one in tickets:
        deadlines.add(one)
    for gone, one in enumerate(tickets, 1):
        leave(deadlines, one)
        assert len(deadlines) <= 2 * (1000 - gone) + 100
    assert deadlines.earliest() == inf


def test_compaction_forgets_nobody_who_waits() -> None:
    """The earliest deadline is that of a queued ticket, before and after stale entries are thrown out."""
    deadlines: Deadlines[None] = Deadlines()
    waiting = [ticket(number, 1000.0 + number) for number in range(30)]
    for one in reversed(waiting):
        deadlines.add(one)
    for number in range(30, 500):
        passing = ticket(number, 2000.0 - number)
        deadlines.add(passing)
        leave(deadlines, passing)
        assert deadlines.earliest() == 1000.0
    for one in waiting:
        assert deadlines.earliest() == one.deadline
        assert deadlines.passed(one.deadline - 1) is None
        assert deadlines.passed(one.deadline) is one
        leave(deadlines, one)
    assert deadlines.passed(inf) is None


def test_no_deadline_costs_no_entry() -> None:
    """Most requests have none; they are not held at all."""
    deadlines: Deadlines[None] = Deadlines()
    without = ticket(0, inf)
    deadlines.add(without)
    assert len(deadlines) == 0
    assert deadlines.passed(1e9) is None
    leave(deadlines, without)
    with_one = ticket(1, 5.0)
    deadlines.add(with_one)
    assert deadlines.earliest() == 5.0

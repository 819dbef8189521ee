"""Short stories about the scheduler. Its state is told by its `repr`, its decisions by their payloads.

Times are small whole numbers or fractions of two, so that sums are exact.
"""

from collections.abc import Hashable
from math import inf

import pytest

from penstock_scheduler import Batch, Expire, Policy, Reason, Rejected, Scheduler, Start, Statistics, Ticket


def scheduler(
    *, instances: int = 1, max_batch_rows: int = 4, max_queued_rows: int = 100, max_queue_delay: float = 0.0
) -> Scheduler[str]:
    policy = Policy(
        instances=instances,
        max_batch_rows=max_batch_rows,
        max_queued_rows=max_queued_rows,
        max_queue_delay=max_queue_delay,
    )
    return Scheduler(policy)


def submit(
    to: Scheduler[str], names: str, *, rows: int = 1, at: float = 0.0, key: Hashable = None, deadline: float = inf
) -> list[Ticket[str]]:
    """One ticket for each letter."""
    return [to.submit(name, rows=rows, now=at, key=key, deadline=deadline) for name in names]


def poll(of: Scheduler[str], at: float) -> tuple[list[Batch[str]], str]:
    """Poll: the batches that start, and what it all was, `+ab -c`: a and b start together, c expires."""
    effects = of.poll(at)
    told: list[str] = []
    for effect in effects:
        match effect:
            case Start(batch):
                told.append("+" + "".join(ticket.payload for ticket in batch.tickets))
            case Expire(ticket):
                told.append("-" + ticket.payload)
    return [effect.batch for effect in effects if isinstance(effect, Start)], " ".join(told)


def told(of: Scheduler[str], at: float) -> str:
    return poll(of, at)[1]


# ── batches ───────────────────────────────────────────────────────────────────────────────────────


def test_what_came_before_a_poll_shares_a_batch() -> None:
    """Without a queue delay a free instance takes what is there."""
    s = scheduler()
    submit(s, "abc")
    assert repr(s) == "<Scheduler open: 3 queued (3 rows), 0 running>"
    assert told(s, 0) == "+abc"
    assert repr(s) == "<Scheduler open: 0 queued (0 rows), 1 running>"


def test_a_busy_instance_lets_the_next_batch_fill() -> None:
    """What comes while the instance runs waits, and goes together once the instance is back."""
    s = scheduler()
    submit(s, "a")
    (batch,), _ = poll(s, 0)
    submit(s, "bc", at=1)
    assert told(s, 1) == ""
    s.finish(batch)
    assert told(s, 2) == "+bc"


def test_a_batch_takes_no_more_rows_than_it_may() -> None:
    """The oldest come first, and what does not fit is left for the next batch."""
    s = scheduler(instances=3)
    submit(s, "abcdef")
    assert told(s, 0) == "+abcd +ef"


def test_a_large_request_that_does_not_fit_is_not_overtaken() -> None:
    """First in, first out within a lane, even where a later and smaller one would have fitted."""
    s = scheduler(instances=3)
    submit(s, "a", rows=3)
    submit(s, "b", rows=2)
    submit(s, "c")
    assert told(s, 0) == "+a +bc"


def test_a_batch_says_what_it_is() -> None:
    """A batch has a key, its tickets in order and their rows together."""
    s = scheduler()
    a, b = [*submit(s, "a", rows=2, key=(3, 4)), *submit(s, "b", key=(3, 4))]
    ((batch,), _) = poll(s, 0)
    assert (batch.key, list(batch.tickets), batch.rows) == ((3, 4), [a, b], 3)


def test_only_equal_keys_share_a_batch() -> None:
    """Requests of different shapes never meet; the lane whose head is older goes first."""
    s = scheduler(instances=2)
    submit(s, "a", key="x")
    submit(s, "b", key="y")
    submit(s, "c", key="x")
    assert told(s, 0) == "+ac +b"


def test_the_lane_with_the_oldest_head_goes_first() -> None:
    """A lane that is always full does not starve one that never fills."""
    s = scheduler(max_queue_delay=0.0, max_batch_rows=2)
    submit(s, "a", at=0, key="busy")
    submit(s, "z", at=1, key="quiet")
    (batch,), said = poll(s, 1)
    assert said == "+a"
    submit(s, "bcd", at=2, key="busy")
    s.finish(batch)
    assert told(s, 2) == "+z"


def test_no_more_batches_run_than_there_are_instances() -> None:
    """Every instance runs one batch at a time."""
    s = scheduler(instances=2, max_batch_rows=1)
    submit(s, "abc")
    (first, _), said = poll(s, 0)
    assert said == "+a +b"
    assert repr(s) == "<Scheduler open: 1 queued (1 rows), 2 running>"
    s.finish(first)
    assert told(s, 1) == "+c"


# ── the queue delay ───────────────────────────────────────────────────────────────────────────────


def test_the_oldest_waits_for_company_as_long_as_it_may() -> None:
    """The delay counts from the oldest request: one that comes late does not prolong it."""
    s = scheduler(max_queue_delay=2.0)
    submit(s, "a", at=10)
    assert told(s, 10) == ""
    assert s.next_wakeup() == 12
    submit(s, "b", at=11)
    assert told(s, 11.5) == ""
    assert s.next_wakeup() == 12
    assert told(s, 12) == "+ab"


def test_a_full_batch_does_not_wait() -> None:
    """Company is only waited for where there is room."""
    s = scheduler(max_queue_delay=2.0)
    submit(s, "abcd")
    assert told(s, 0) == "+abcd"


def test_a_batch_that_nothing_more_fits_into_may_still_wait() -> None:
    """Full means that enough rows are there, also if the last one has to stay behind."""
    s = scheduler(max_queue_delay=2.0)
    submit(s, "a", rows=3)
    assert told(s, 0) == ""
    submit(s, "b", rows=2)
    assert told(s, 0) == "+a"


def test_the_delay_starts_no_batch_without_an_instance() -> None:
    """While all instances run there is nothing that time alone could change."""
    s = scheduler(max_queue_delay=2.0)
    submit(s, "abcd")
    (batch,), _ = poll(s, 0)
    submit(s, "e", at=1)
    assert told(s, 5) == ""
    assert s.next_wakeup() is None
    s.finish(batch)
    assert told(s, 5) == "+e"


def test_nothing_queued_is_nothing_to_wake_up_for() -> None:
    """An idle scheduler costs no timer."""
    assert scheduler(max_queue_delay=2.0).next_wakeup() is None


# ── deadlines ─────────────────────────────────────────────────────────────────────────────────────


def test_a_deadline_that_passes_in_the_queue_ends_the_request() -> None:
    """It expires at its deadline, not after, and never runs."""
    s = scheduler(max_queue_delay=9.0)
    submit(s, "a", deadline=5)
    submit(s, "b", deadline=6)
    assert s.next_wakeup() == 5
    assert told(s, 4.5) == ""
    assert told(s, 5) == "-a"
    assert s.next_wakeup() == 6
    assert repr(s) == "<Scheduler open: 1 queued (1 rows), 0 running>"


def test_what_has_expired_makes_no_batch_full() -> None:
    """Expiry comes before batches, so a batch is made of what can still be answered."""
    s = scheduler(max_queue_delay=9.0)
    submit(s, "abc", deadline=1)
    submit(s, "d")
    assert told(s, 1) == "-a -b -c"
    assert told(s, 8) == ""
    assert told(s, 9) == "+d"


def test_the_earliest_deadline_expires_first() -> None:
    """Expiry goes by deadline, whatever the order of arrival."""
    s = scheduler(max_queue_delay=9.0)
    for name, deadline in (("a", 3), ("b", 1), ("c", 2)):
        submit(s, name, deadline=deadline)
    assert told(s, 3) == "-b -c -a"


def test_a_request_that_runs_does_not_expire() -> None:
    """Once in a batch it is the model's: nobody could use its row for anything else."""
    s = scheduler()
    submit(s, "a", deadline=1)
    (batch,), _ = poll(s, 0)
    assert s.next_wakeup() is None
    assert told(s, 2) == ""
    s.finish(batch)


def test_a_deadline_that_has_passed_is_refused_at_the_door() -> None:
    """At the deadline is too late, just before it is not."""
    s = scheduler()
    with pytest.raises(Rejected) as caught:
        submit(s, "a", at=1, deadline=1)
    assert caught.value.reason is Reason.DEADLINE
    submit(s, "a", at=0.5, deadline=1)


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_refuses_and_is_left_as_it_was() -> None:
    """The bound is in rows, and exact; a refused request leaves no trace."""
    s = scheduler(max_queued_rows=5)
    submit(s, "a", rows=3)
    before = repr(s)
    with pytest.raises(Rejected, match="QUEUE_FULL"):
        submit(s, "b", rows=3)
    assert repr(s) == before
    submit(s, "c", rows=2)
    assert told(s, 0) == "+a"


def test_what_runs_does_not_fill_the_queue() -> None:
    """Only what waits counts against the bound."""
    s = scheduler(max_queued_rows=4)
    submit(s, "abcd")
    poll(s, 0)
    submit(s, "efgh")
    with pytest.raises(Rejected, match="QUEUE_FULL"):
        submit(s, "i")


@pytest.mark.parametrize("rows", [-1, 0, 5])
def test_a_request_that_fits_no_batch_is_refused(rows: int) -> None:
    """A request is never split, and one without rows is none."""
    with pytest.raises(Rejected, match="TOO_MANY_ROWS"):
        submit(scheduler(), "a", rows=rows)


# ── cancellation ──────────────────────────────────────────────────────────────────────────────────


def test_what_is_cancelled_in_the_queue_never_runs() -> None:
    """It leaves from wherever it stands, and its rows with it."""
    s = scheduler()
    _, b, _ = submit(s, "abc", deadline=9)
    assert s.cancel(b)
    assert repr(s) == "<Scheduler open: 2 queued (2 rows), 0 running>"
    assert told(s, 0) == "+ac"


def test_what_runs_or_is_gone_cannot_be_cancelled() -> None:
    """Cancelling says whether it has stopped anything."""
    s = scheduler()
    (a,) = submit(s, "a")
    (batch,), _ = poll(s, 0)
    assert not s.cancel(a)
    s.finish(batch)
    assert not s.cancel(a)
    (b,) = submit(s, "b")
    assert s.cancel(b)
    assert not s.cancel(b)


def test_a_cancelled_request_does_not_expire() -> None:
    """Nobody waits for its answer, and no timer for its deadline."""
    s = scheduler(max_queue_delay=9.0)
    (a,) = submit(s, "a", deadline=1)
    s.cancel(a)
    assert s.next_wakeup() is None
    assert told(s, 2) == ""


# ── the end of a batch, and of it all ─────────────────────────────────────────────────────────────


def test_an_instance_is_given_back_once() -> None:
    """Finishing a batch twice would free an instance that runs another one."""
    s = scheduler()
    submit(s, "a")
    (batch,), _ = poll(s, 0)
    s.finish(batch)
    with pytest.raises(KeyError):
        s.finish(batch)
    assert s.statistics() == Statistics(queued=0, queued_rows=0, running=0, draining=False)


def test_a_drain_admits_nothing_and_waits_for_nobody() -> None:
    """What is queued runs at once, since no company will come."""
    s = scheduler(max_queue_delay=9.0)
    submit(s, "ab")
    s.drain()
    assert repr(s) == "<Scheduler draining: 2 queued (2 rows), 0 running>"
    with pytest.raises(Rejected, match="DRAINING"):
        submit(s, "c")
    assert told(s, 0) == "+ab"


def test_a_drain_still_lets_requests_expire() -> None:
    """A deadline means the same while the server stops."""
    s = scheduler(max_batch_rows=1)
    submit(s, "a")
    submit(s, "b", deadline=3)
    (batch,), _ = poll(s, 0)
    s.drain()
    assert s.next_wakeup() == 3
    assert told(s, 3) == "-b"
    s.finish(batch)
    assert repr(s) == "<Scheduler draining: 0 queued (0 rows), 0 running>"

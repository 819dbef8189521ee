"""The policy `deadline`: when it waits, what it drops, and what it refuses. Batches cost 1 s + 0.25 s for each row."""

import pytest

from penstock_scheduler import FireReason, Reason, Settings, TrafficClass
from tests.scheduler.stories import DEADLINE, Story, inf


def deadline(**fields: object) -> Story:
    story = Story(Settings(policy=DEADLINE, **{"max_batch_rows": 8, "patience": 100.0, **fields}))  # type: ignore[arg-type]
    story.learn(1.0, 0.25)
    return story


def busy_at(story: Story, rate: float, until: float) -> None:
    """Let the policy believe in a steady rate of requests with far deadlines."""
    for number in range(500, 0, -1):
        story.scheduler._policy.arrived(1, 1000.0, until - number / rate)


def test_what_cannot_be_done_in_time_is_refused() -> None:
    """At admission: a batch of its rows alone would end too late."""
    story = deadline()
    assert story.refused(deadline=1.25) is None
    assert story.refused(deadline=1.24) is Reason.HOPELESS
    assert story.refused(rows=4, deadline=1.9) is Reason.HOPELESS


def test_an_oversize_request_takes_as_long_as_its_batches() -> None:
    """One after the other: a deadline that is enough for one batch may be too early for all."""
    story = deadline()
    assert story.refused(rows=16, deadline=6.0) is None
    assert story.refused(rows=16, deadline=5.9) is Reason.HOPELESS


def test_the_batch_that_runs_is_waited_for() -> None:
    """With every instance taken nothing starts before one should end."""
    story = deadline()
    story.busy(rows=4)  # ends at 2
    assert story.refused(deadline=3.2) is Reason.HOPELESS
    assert story.refused(deadline=3.25) is None


def test_the_first_instance_to_be_free_counts() -> None:
    """Of several that are taken, whichever started last."""
    story = deadline(instances=2)
    story.busy(rows=1)  # ends at 1.25
    story.busy(rows=4)  # ends at 2
    assert story.refused(deadline=2.4) is Reason.HOPELESS
    assert story.refused(deadline=2.5) is None


def test_an_instance_that_should_be_free_is_taken_for_free() -> None:
    """One that runs longer than it should tells nothing of when it ends."""
    story = deadline()
    story.busy()
    assert story.refused(at=50.0, deadline=51.25) is None


def test_the_reply_takes_its_time_too() -> None:
    """The margin is the longest of the last replies."""
    story = deadline()
    story.scheduler.cost.observe_reply(0.5)
    story.scheduler.cost.observe_reply(0.25)
    assert story.refused(deadline=1.7) is Reason.HOPELESS
    assert story.refused(deadline=1.75) is None


def test_nobody_is_refused_for_what_nobody_knows() -> None:
    """Without a measured cost everything that has not expired comes in."""
    story = Story(Settings(policy=DEADLINE))
    assert story.refused(deadline=0.001) is None


def test_a_class_that_is_in_is_not_made_late_by_the_next() -> None:
    """Two rows end at 1.5, three at 1.75: that is too late for one of them, in whatever class it is."""
    for hurried in ("i", "s"):
        story = deadline()
        story.submit("i", deadline=1.6 if hurried == "i" else 50.0)
        story.submit("s", deadline=1.6 if hurried == "s" else 50.0, traffic=TrafficClass.STREAM)
        story.submit("b1", "b2", deadline=50.0, traffic=TrafficClass.BULK)
        assert story.all_batches() == ["i s", "b1 b2"]


def test_a_batch_is_filled_only_as_far_as_all_are_in_time() -> None:
    """Four rows end at 2.0: the fifth would make the first late."""
    story = deadline(instances=2)
    story.submit("a", deadline=2.1)
    story.submit(*"bcdef", deadline=50.0)
    assert story.poll() == ["a b c d", "e f"]
    assert story.running[0].reason is FireReason.FULL


def test_who_is_too_late_even_alone_is_dropped() -> None:
    """Early, so that it costs nobody anything: before its deadline has passed."""
    story = deadline()
    story.busy()
    story.submit("a", deadline=3.0)
    story.submit("b", deadline=9.0)
    assert story.finish(at=2.0) == ["b"]
    assert story.dropped == {"a": Reason.HOPELESS}


def test_a_head_that_forces_small_batches_is_dropped_when_the_rate_needs_larger_ones() -> None:
    """Served, it would make all behind it late in turn; a lower rate has room for it."""
    for rate, dropped in ((2.0, True), (0.1, False)):
        story = deadline()
        busy_at(story, rate, until=1000.0)
        story.busy(at=1000.0)
        story.submit("tight", at=1000.0, deadline=1000.0 + 2.6)
        story.submit(*"abcdefg", at=1000.0, deadline=1100.0)
        story.finish(at=1001.0)
        assert ("tight" in story.dropped) is dropped


def test_bulk_is_nobodys_reason_to_drop() -> None:
    """A backlog of bulk needs no large batches in time; only equals count."""
    story = deadline(class_patience=99.0)
    busy_at(story, 2.0, until=1000.0)
    story.busy(at=1000.0)
    story.submit("tight", at=1000.0, deadline=1000.0 + 2.6)
    story.submit(*"abcdefg", at=1000.0, traffic=TrafficClass.BULK)
    assert story.finish(at=1001.0) == ["tight a"]
    assert story.dropped == {}


def test_with_free_instances_it_waits_for_the_rows_that_the_rate_needs() -> None:
    """And no longer than 1.25 times the time they should take."""
    story = deadline(instances=4, max_batch_rows=64)
    busy_at(story, 8.0, until=1000.0)
    story.submit("a", at=1000.0, deadline=1100.0)
    assert story.poll(at=1000.0) == []
    wakeup = story.scheduler.next_wakeup()
    assert wakeup is not None
    assert 1000.0 < wakeup < 1001.0
    assert story.poll(at=wakeup) == ["a"]
    assert story.running[0].reason is FireReason.DELAY


def test_enough_rows_start_at_once() -> None:
    """The batch keeps up with the rate."""
    story = deadline(instances=4, max_batch_rows=64)
    busy_at(story, 8.0, until=1000.0)
    story.submit(*"abcdefgh", at=1000.0, deadline=1100.0)
    assert story.poll(at=1000.0) == ["a b c d e f g h"]
    assert story.running[0].reason is FireReason.RATE


def test_it_never_waits_beyond_what_a_deadline_leaves() -> None:
    """One more row would end at d if the batch started at d - L(2)."""
    story = deadline(instances=4, max_batch_rows=64)
    busy_at(story, 8.0, until=1000.0)
    story.submit("a", at=1000.0, deadline=1001.625)
    assert story.poll(at=1000.0) == []
    assert story.scheduler.next_wakeup() == 1000.125
    assert story.poll(at=1000.125) == ["a"]
    assert story.running[0].reason is FireReason.DEADLINE


def test_the_operators_delay_is_a_cap() -> None:
    """Whatever the rate says."""
    story = deadline(instances=4, max_batch_rows=64, max_queue_delay=0.0625)
    busy_at(story, 8.0, until=1000.0)
    story.submit("a", at=1000.0, deadline=1100.0)
    assert story.poll(at=1000.0) == []
    assert story.scheduler.next_wakeup() == 1000.0625


@pytest.mark.parametrize("others", [0, 40])
def test_whoever_goes_first_has_waited_for_company(others: int) -> None:
    """The delay is that of the first in the order of service, among few and among many, not of whoever came first."""
    story = deadline(instances=4, max_batch_rows=64, max_queue_delay=0.125, levels=2, ageing=inf)
    busy_at(story, 64.0, until=1000.0)
    story.submit("low", *["other"] * others, level=2, at=1000.0, deadline=1100.0)
    story.submit("high", level=1, at=1000.0625, deadline=1100.0)
    assert story.poll(at=1000.0625) == []
    assert story.scheduler.next_wakeup() == 1000.1875


def test_draining_waits_for_nobody() -> None:
    """What is there goes."""
    story = deadline(instances=4, max_batch_rows=64)
    busy_at(story, 8.0, until=1000.0)
    story.submit("a", at=1000.0, deadline=1100.0)
    assert story.poll(at=1000.0) == []
    story.scheduler.drain()
    assert story.poll(at=1000.0) == ["a"]
    assert story.running[0].reason is FireReason.DRAIN


def test_a_single_instance_never_idles_before_work() -> None:
    """All that came while it worked is there; waiting for more would only waste it."""
    story = deadline(instances=1, max_batch_rows=64)
    busy_at(story, 8.0, until=1000.0)
    story.submit("a", at=1000.0, deadline=1100.0)
    assert story.poll(at=1000.0) == ["a"]
    assert story.running[0].reason is FireReason.IDLE


def test_without_a_deadline_in_the_queue_it_is_eager() -> None:
    """However high the rate."""
    story = deadline(instances=4, max_batch_rows=64)
    busy_at(story, 8.0, until=1000.0)
    story.submit("a", at=1000.0)
    assert story.poll(at=1000.0) == ["a"]
    assert story.running[0].reason is FireReason.IDLE


@pytest.mark.parametrize(
    ("fields", "at"), [({"timeout": 3.0}, 3.0), ({"deadline": 2.0, "timeout": 3.0}, 2.0), ({}, 5.0)]
)
def test_a_deadline_comes_from_the_client_or_from_the_objective(fields: dict[str, float], at: float) -> None:
    """The earlier of deadline and timeout; the model's objective only for those who bring neither."""
    story = Story(Settings(policy=DEADLINE, slo=5.0))
    story.busy()
    (ticket,) = story.submit("a", at=0.0, **fields)
    assert ticket.deadline == at
    story.poll()
    assert story.scheduler.next_wakeup() == at
    story.poll(at=at)
    assert story.dropped["a"] is Reason.EXPIRED


def test_none_given_is_none() -> None:
    """A request without a deadline waits as long as it takes."""
    story = Story(Settings(policy=DEADLINE))
    story.busy()
    (ticket,) = story.submit("a")
    story.poll(at=1e9)
    assert ticket.deadline == inf
    assert story.scheduler.next_wakeup() is None

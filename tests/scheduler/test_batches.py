"""A batch's life: parts of oversize requests, late launches, cancellation, answers in order."""

import pytest

from penstock_scheduler import PolicyName, Reason, Settings, Share, State, TrafficClass
from tests.scheduler.stories import DEADLINE, EAGER, Named, Story, names

EACH = pytest.mark.parametrize("policy", list(PolicyName))
LANES = pytest.mark.parametrize("policy", [EAGER, DEADLINE])


@LANES
def test_an_oversize_request_runs_in_parts_on_all_instances(policy: PolicyName) -> None:
    """Its parts follow one another and share batches with others; it is done when all are."""
    story = Story(Settings(policy=policy, max_batch_rows=4, instances=3))
    story.submit("a")
    (big,) = story.submit("big", rows=8)
    story.submit("b")
    assert story.poll() == ["a big", "big", "big b"]
    assert [list(batch.shares or ()) for batch in story.running] == [
        [None, Share(0, 3)],
        [Share(3, 4)],
        [Share(7, 1), None],
    ]
    assert [batch.rows for batch in story.running] == [4, 4, 2]
    story.finish(index=1)
    story.finish(index=0)
    assert big.state.name == "RUNNING"
    story.finish()
    assert big.state.name == "DONE"


@EACH
def test_what_fits_into_a_batch_is_never_split(policy: PolicyName) -> None:
    """Even if a part of it would fill this one."""
    story = Story(Settings(policy=policy, max_batch_rows=4))
    story.submit("a", rows=3)
    story.submit("b", rows=4)
    assert story.all_batches() == ["a", "b"]


@EACH
def test_a_part_that_fails_takes_the_rest_along(policy: PolicyName) -> None:
    """One answer, one fate: what still waits leaves the queue."""
    story = Story(Settings(policy=policy, max_batch_rows=4))
    (big,) = story.submit("big", rows=12, nbytes=7)
    story.submit("next")
    story.poll()
    story.scheduler.fail(big)
    assert big.state is State.GONE
    assert story.finish() == ["next"]
    assert big.state is State.GONE
    assert story.scheduler.statistics().queued_bytes == 0


@EACH
def test_an_oversize_request_that_is_cancelled_leaves_the_queue(policy: PolicyName) -> None:
    """What runs of it, runs to its end."""
    story = Story(Settings(policy=policy, max_batch_rows=4))
    (big,) = story.submit("big", rows=12)
    story.poll()
    assert story.scheduler.cancel(big)
    assert not story.scheduler.cancel(big)
    assert story.finish() == []
    assert story.scheduler.is_idle


@LANES
def test_bulk_parts_fill_what_others_leave(policy: PolicyName) -> None:
    """A bulk request larger than a batch goes in slices of any size."""
    story = Story(Settings(policy=policy, max_batch_rows=4, class_patience=99.0))
    story.submit("bulk", rows=9, traffic=TrafficClass.BULK)
    story.submit("a", "b")
    assert story.poll() == ["a b bulk"]
    story.submit("c", rows=3)
    assert story.finish() == ["c bulk"]
    assert story.finish() == ["bulk"]
    assert story.finish() == ["bulk"]
    assert story.finish() == []


@EACH
def test_a_cancelled_request_never_runs(policy: PolicyName) -> None:
    """Its batch-mates never notice."""
    story = Story(Settings(policy=policy, max_batch_rows=4))
    story.busy()
    _, b, _ = story.submit(*"abc")
    assert story.scheduler.cancel(b)
    assert b.state is State.GONE
    assert story.finish() == ["a c"]
    assert not story.scheduler.cancel(b)


@EACH
def test_a_request_that_runs_is_not_cancelled(policy: PolicyName) -> None:
    """Start is the launch, and the caller drops the result."""
    story = Story(Settings(policy=policy))
    (a,) = story.submit("a")
    story.poll()
    assert (a.state, story.running[0].launched) == (State.RUNNING, True)
    assert not story.scheduler.cancel(a)
    story.finish()
    assert a.state is State.DONE
    assert not story.scheduler.cancel(a)


@EACH
def test_until_a_late_launch_tickets_leave_the_batch(policy: PolicyName) -> None:
    """Cancelled ones without a word, expired ones as drops; what is left is padded anew."""
    story = Story(Settings(policy=policy, max_batch_rows=4, late_launch=True, allowed_rows=(2, 4)))
    a, b, c = (story.submit(name, deadline=deadline)[0] for name, deadline in (("a", 9.0), ("b", 1.0), ("c", 9.0)))
    assert story.poll() in (["a b c"], ["b a c"])
    (batch,) = story.running
    assert (batch.launched, batch.rows, batch.padded_rows, a.state) == (False, 3, 4, State.FORMED)
    assert story.scheduler.cancel(a)
    assert [(drop.ticket, drop.reason) for drop in story.scheduler.launch(batch, 1.0)] == [(b, Reason.EXPIRED)]
    assert (names(batch.tickets), batch.launched, batch.rows, batch.padded_rows) == ("c", True, 1, 2)
    assert (a.state, b.state, c.state) == (State.GONE, State.GONE, State.RUNNING)
    assert not story.scheduler.cancel(c)
    interactive = story.scheduler.statistics().classes[TrafficClass.INTERACTIVE]
    assert (interactive.cancelled, interactive.dropped) == (1, {Reason.EXPIRED: 1})


@EACH
def test_a_batch_that_everybody_left_is_finished_all_the_same(policy: PolicyName) -> None:
    """It holds an instance."""
    story = Story(Settings(policy=policy, late_launch=True, max_batch_rows=1))
    a, _ = story.submit("a", "b")
    story.poll()
    story.scheduler.cancel(a)
    story.scheduler.launch(story.running[0], 0.0)
    assert (story.running[0].tickets, story.running[0].rows) == ([], 0)
    assert story.finish(cost=1.0) == ["b"]


@LANES
def test_parts_leave_unlaunched_batches_together(policy: PolicyName) -> None:
    """Cancelled between the launches of two of its batches."""
    story = Story(Settings(policy=policy, late_launch=True, max_batch_rows=2, instances=3))
    (big,) = story.submit("big", rows=5)
    story.submit("b")
    assert story.poll() == ["big", "big", "big b"]
    assert story.scheduler.cancel(big)
    for batch in story.running:
        story.scheduler.launch(batch, 0.0)
    assert [(names(batch.tickets), batch.rows, batch.shares) for batch in story.running] == [
        ("", 0, []),
        ("", 0, []),
        ("b", 1, [None]),
    ]


@EACH
def test_a_batch_is_finished_once(policy: PolicyName) -> None:
    """Twice would give an instance back that is not there."""
    story = Story(Settings(policy=policy))
    story.submit("a")
    story.poll()
    (batch,) = story.running
    story.finish()
    with pytest.raises(KeyError):
        story.scheduler.finish(batch, 0.0)


@EACH
def test_answers_are_released_in_order_of_arrival(policy: PolicyName) -> None:
    """Only the answers wait; who was dropped or cancelled is released in turn too."""
    story = Story(Settings(policy=policy, preserve_ordering=True, max_batch_rows=1, instances=2))
    _, _, c = story.submit(*"abc")
    story.submit("d", deadline=1.0)
    story.submit("e")
    assert story.poll() == ["a", "b"]
    story.scheduler.cancel(c)
    story.finish(index=1, at=0.0)
    assert story.released == []
    story.poll(at=1.0)
    assert story.released == []
    story.finish(at=1.0)
    assert story.released == (["a", "b", "c", "d"] if "d" in story.dropped else ["a", "b", "c"])
    while story.running:
        story.finish(at=1.0)
    assert story.released == ["a", "b", "c", "d", "e"]


@EACH
def test_without_the_setting_nothing_is_released(policy: PolicyName) -> None:
    """Every answer goes out at once."""
    story = Story(Settings(policy=policy))
    story.submit("a")
    story.all_batches()
    assert story.released == []


@EACH
def test_whoever_was_told_something_is_to_be_polled(policy: PolicyName) -> None:
    """The wake-up is at once until then, so that a driver that only sleeps cannot miss anything."""
    story = Story(Settings(policy=policy))
    assert story.scheduler.next_wakeup() is None
    story.submit("a", at=2.0)
    assert story.scheduler.next_wakeup() == 2.0
    story.poll(at=3.0)
    assert story.scheduler.next_wakeup() is None
    story.submit("b", at=3.5)
    story.poll(at=3.5)
    story.scheduler.finish(story.running.pop(), 4.0, 1.0)
    assert story.scheduler.next_wakeup() == 4.0
    story.poll(at=4.0)
    story.scheduler.finish(story.running.pop(), 5.0, 1.0)
    assert story.scheduler.next_wakeup() is None, "nobody waits"


@pytest.mark.parametrize("policy", [PolicyName.EAGER, PolicyName.FIXED])
def test_whoever_may_be_answered_now_is_to_be_polled(policy: PolicyName) -> None:
    """With preserve_ordering, even if nobody waits any more."""
    story = Story(Settings(policy=policy, preserve_ordering=True))
    story.submit("a")
    story.poll()
    story.scheduler.finish(story.running.pop(), 4.0, 1.0)
    assert story.scheduler.next_wakeup() == 4.0


@EACH
def test_finished_batches_teach_what_batches_cost(policy: PolicyName) -> None:
    """By the size that was run; a batch whose cost says nothing teaches nothing."""
    story = Story(Settings(policy=policy, max_batch_rows=4, allowed_rows=(2, 4)))
    story.submit("a")
    story.poll()
    story.finish(cost=0.5)
    assert story.scheduler.cost.table == [0.0, 0.5, 0.5, 0.5, 0.5]
    story.submit("a", rows=4)
    story.poll()
    story.finish(cost=None)
    assert story.scheduler.cost.table == [0.0, 0.5, 0.5, 0.5, 0.5]
    assert Named().remaining == 1

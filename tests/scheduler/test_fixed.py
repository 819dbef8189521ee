"""The policy `fixed` holds Triton's rules; the numbers are those of its module's text."""

import pytest

from penstock_scheduler import FireReason, QueuePolicy, Reason, Settings, TimeoutAction
from tests.scheduler.stories import FIXED, Story


def fixed(**fields: object) -> Story:
    return Story(Settings(policy=FIXED, **fields))  # type: ignore[arg-type]


def test_without_a_delay_it_fires_what_is_pending() -> None:
    """4: it never waits."""
    story = fixed(max_batch_rows=8, preferred_sizes=(4, 8))
    story.submit("a", "b", "c")
    assert story.poll() == ["a b c"]
    assert story.running[0].reason is FireReason.IDLE


def test_a_preferred_size_fires_at_once() -> None:
    """4: the largest preferred prefix goes, and the rest waits for its own delay (7: so does one alone)."""
    story = fixed(max_batch_rows=8, preferred_sizes=(2, 4), max_queue_delay=1.0, instances=2)
    story.submit(*"abcde")
    assert story.poll() == ["a b c d"]
    assert story.running[0].reason is FireReason.PREFERRED
    assert story.scheduler.next_wakeup() == 1.0
    assert story.poll(at=0.9) == []
    assert story.poll(at=1.0) == ["e"]
    assert story.running[1].reason is FireReason.DELAY


def test_between_preferred_sizes_the_smaller_one_fires() -> None:
    """3 and 4: three pending with sizes 2 and 4 fire two."""
    story = fixed(max_batch_rows=8, preferred_sizes=(2, 4), max_queue_delay=1.0)
    story.submit(*"abc")
    assert story.poll() == ["a b"]


def test_once_the_delay_is_over_preferred_sizes_are_forgotten() -> None:
    """4: as many go as fit into max_batch_size (QA: multi_batch_delayed_use_max_batch)."""
    story = fixed(
        max_batch_rows=8, preferred_sizes=(4, 6), max_queue_delay=1.0, queue_policy=QueuePolicy(max_queue_size=99)
    )
    story.busy(rows=4)
    story.submit(*"abcdefg")
    assert story.finish(at=2.0) == ["a b c d e f g"]


def test_a_request_beyond_the_largest_preferred_size_fires_alone() -> None:
    """7: immediately, and one between preferred sizes waits."""
    story = fixed(max_batch_rows=8, preferred_sizes=(2, 4), max_queue_delay=1.0)
    story.submit("big", rows=5)
    assert story.poll() == ["big"]
    story = fixed(max_batch_rows=8, preferred_sizes=(2, 4), max_queue_delay=1.0)
    story.submit("between", rows=3)
    assert story.poll() == []
    assert story.poll(at=1.0) == ["between"]


def test_what_would_overshoot_the_largest_preferred_size_is_left() -> None:
    """3: the mark is what is there, and the batch is saturated."""
    story = fixed(max_batch_rows=8, preferred_sizes=(4,), max_queue_delay=1.0, instances=2)
    story.submit("a", rows=3)
    story.submit("b", rows=2)
    assert story.poll() == ["a"]
    assert story.poll(at=1.0) == ["b"]


def test_a_request_that_does_not_fit_closes_the_batch() -> None:
    """2: nobody is passed over to fill it."""
    story = fixed(max_batch_rows=4, preferred_sizes=(4,), max_queue_delay=1.0, instances=3)
    story.submit("a", rows=3)
    story.submit("b", rows=2)
    story.submit("c", rows=1)
    assert story.poll() == ["a"]
    assert story.running[0].reason is FireReason.FULL
    assert story.poll(at=1.0) == ["b c"]


def test_another_key_closes_the_batch() -> None:
    """2: one queue for all keys, never reordered to find a match."""
    story = fixed(max_batch_rows=4, max_queue_delay=1.0, instances=4)
    for name, key in (("x1", "x"), ("y1", "y"), ("x2", "x"), ("x3", "x")):
        story.submit(name, key=key)
    assert story.poll() == ["x1", "y1"]
    assert [batch.reason for batch in story.running] == [FireReason.SHAPE] * 2
    assert story.poll(at=1.0) == ["x2 x3"]


def test_batches_grow_while_the_instances_are_busy() -> None:
    """1 and 5: a payload that waits takes whoever comes, until it is full."""
    story = fixed(max_batch_rows=4)
    story.busy()
    story.submit("a")
    assert story.poll() == []
    story.submit("b", at=1.0)
    assert story.poll(at=1.0) == []
    story.submit("c", "d", "e", at=2.0)
    assert story.finish(at=2.0) == ["a b c d"]
    assert story.finish(at=3.0) == ["e"]


def test_a_payload_at_its_largest_preferred_size_is_saturated() -> None:
    """5: it does not grow any more, though max_batch_size would let it."""
    story = fixed(max_batch_rows=8, preferred_sizes=(2,))
    story.busy()
    story.submit("a", "b")
    story.poll()
    story.submit("c")
    story.poll()
    assert story.finish() == ["a b"]
    assert story.finish() == ["c"]


def test_a_payload_at_a_smaller_preferred_size_grows() -> None:
    """5: until it is saturated or an instance takes it."""
    story = fixed(max_batch_rows=8, preferred_sizes=(2, 4))
    story.busy()
    story.submit("a", "b")
    story.poll()
    story.submit("c")
    story.poll()
    assert story.finish() == ["a b c"]


def test_two_payloads_an_instance_are_queued_ahead() -> None:
    """1: what comes then waits in the queue, and its size is the queue's."""
    story = fixed(max_batch_rows=1, preferred_sizes=())
    story.busy()
    tickets = story.submit(*"abcd")
    story.poll()
    assert [ticket.place is tickets[3].place for ticket in tickets] == [False, False, True, True]


def test_with_a_queue_policy_nothing_is_formed_while_all_instances_are_busy() -> None:
    """1: so that the policy applies for as long as it can."""
    story = fixed(max_batch_rows=1, queue_policy=QueuePolicy(max_queue_size=3))
    story.busy()
    story.submit(*"abc")
    story.poll()
    assert story.refused() is Reason.QUEUE_FULL
    assert story.finish() == ["a"]
    assert story.refused() is None


def test_the_queue_size_counts_what_is_in_no_payload() -> None:
    """11: and it is a level's own."""
    story = fixed(max_batch_rows=4, levels=2, level_policies={1: QueuePolicy(max_queue_size=1)})
    story.submit("a", level=1)
    assert story.refused(level=1) is Reason.QUEUE_FULL
    assert story.refused(level=2) is None
    assert story.poll()
    assert story.refused(level=1) is None


def test_levels_are_strict_without_ageing() -> None:
    """10: however long somebody has waited."""
    story = fixed(max_batch_rows=1, levels=2, ageing=0.001)
    story.busy()
    story.submit("low", level=2, at=0.0)
    story.submit("high", level=1, at=100.0)
    assert story.finish(at=100.0) == ["high"]


def test_a_request_of_a_better_level_comes_before_what_is_pending() -> None:
    """10: even if that was scanned already."""
    story = fixed(max_batch_rows=2, levels=2, max_queue_delay=1.0)
    story.submit("low", level=2)
    assert story.poll() == []
    story.submit("high", "higher", level=1, at=0.5)
    assert story.poll(at=0.5) == ["high higher"]


@pytest.mark.parametrize(("asked", "at"), [(0.0, 2.0), (1.0, 1.0), (3.0, 2.0)])
def test_a_timeout_may_be_shortened_and_not_prolonged(asked: float, at: float) -> None:
    """11: REJECT drops at that very moment, though Triton looks only now and then."""
    story = fixed(queue_policy=QueuePolicy(default_timeout=2.0, allow_timeout_override=True))
    story.busy()
    story.submit("a", timeout=asked)
    story.poll()
    assert story.scheduler.next_wakeup() == at
    story.poll(at=at - 0.1)
    assert story.dropped == {}
    story.poll(at=at)
    assert story.dropped == {"a": Reason.TIMEOUT}


@pytest.mark.parametrize(
    "policy", [QueuePolicy(), QueuePolicy(allow_timeout_override=True), QueuePolicy(default_timeout=9.0)]
)
def test_a_timeout_that_is_not_allowed_is_none(policy: QueuePolicy) -> None:
    """11: with no default a request's timeout never counts, nor without the permission."""
    story = fixed(queue_policy=policy, max_batch_rows=1)
    story.busy()
    story.submit("a", timeout=1.0)
    story.poll(at=5.0)
    assert story.dropped == {}
    assert story.finish(at=5.0) == ["a"]


def test_what_is_delayed_goes_last_of_its_level() -> None:
    """11: DELAY, after all that are in time, and before the next level."""
    policy = QueuePolicy(timeout_action=TimeoutAction.DELAY, default_timeout=1.0)
    story = fixed(max_batch_rows=1, levels=2, queue_policy=policy)
    story.busy()
    story.submit("old", level=1, at=0.0)
    story.submit("low", level=2, at=1.5)
    story.submit("new", level=1, at=1.5)
    assert [story.finish(at=2.0)[0] for _ in range(3)] == ["new", "old", "low"]


def test_in_a_payload_nothing_times_out() -> None:
    """11: it has been handed over."""
    story = fixed(max_batch_rows=1, queue_policy=QueuePolicy(default_timeout=1.0))
    story.submit("a")
    assert story.poll() == ["a"]
    story.poll(at=5.0)
    assert story.dropped == {}


def test_the_delay_counts_from_the_oldest() -> None:
    """6: from its admission on."""
    story = fixed(max_batch_rows=4, max_queue_delay=1.0)
    story.submit("a", at=0.0)
    story.poll(at=0.0)
    story.submit("b", at=0.75)
    assert story.poll(at=0.75) == []
    assert story.scheduler.next_wakeup() == 1.0
    assert story.poll(at=1.0) == ["a b"]


def test_a_cancelled_request_leaves_a_payload() -> None:
    """Better than 12: and its place is free for another."""
    story = fixed(max_batch_rows=2)
    story.busy()
    a, _ = story.submit("a", "b")
    story.poll()
    assert story.scheduler.cancel(a)
    story.submit("c")
    story.poll()
    assert story.finish() == ["b"]  # the payload was saturated when a left
    assert story.finish() == ["c"]


def test_a_payload_that_loses_everybody_is_gone() -> None:
    """And holds no slot."""
    story = fixed(max_batch_rows=1)
    story.busy()
    a, b = story.submit("a", "b")
    story.poll()
    assert story.scheduler.cancel(a)
    assert story.scheduler.cancel(b)
    assert story.finish() == []
    assert story.scheduler.is_idle


def test_a_cancelled_request_leaves_the_scan() -> None:
    """What was pending with it is looked at again."""
    story = fixed(max_batch_rows=4, preferred_sizes=(3,), max_queue_delay=1.0)
    a, _ = story.submit("a", "b")
    story.poll()
    assert story.scheduler.cancel(a)
    story.submit("c", at=0.5)
    assert story.poll(at=0.5) == []
    story.submit("d", at=0.5)
    assert story.poll(at=0.5) == ["b c d"]


def test_draining_waits_for_nobody() -> None:
    """Whatever the delay."""
    story = fixed(max_batch_rows=4, max_queue_delay=9.0)
    story.submit("a")
    assert story.poll() == []
    story.scheduler.drain()
    assert story.poll() == ["a"]
    assert story.running[0].reason is FireReason.DRAIN


def test_an_oversize_request_goes_in_batches_of_its_own_but_for_its_rest() -> None:
    """Where Triton refuses it."""
    story = fixed(max_batch_rows=4, instances=5)
    story.submit("a")
    story.submit("big", rows=10)
    story.submit("b")
    assert story.poll() == ["a", "big", "big", "big b"]
    assert [batch.rows for batch in story.running] == [1, 4, 4, 3]
    assert [[(s.start, s.rows) for s in batch.shares or () if s] for batch in story.running] == [
        [],
        [(0, 4)],
        [(4, 4)],
        [(8, 2)],
    ]

"""Who comes in, and what those hear who do not."""

import pytest

from penstock_scheduler import Bounds, PolicyName, QueuePolicy, Reason, Scheduler, Settings, State, TimeoutAction
from penstock_scheduler import settings_problems as problems
from tests.scheduler.stories import DEADLINE, EAGER, FIXED, Named, Story, inf

EACH = pytest.mark.parametrize("policy", list(PolicyName))


@EACH
def test_the_requests_of_one_read_are_admitted_together(policy: PolicyName) -> None:
    """Those that do not fit are told apart, and later ones that fit come in."""
    scheduler: Scheduler[Named] = Scheduler(Settings(policy=policy, max_batch_rows=4, max_queued_rows=8))
    tickets = [Named(str(rows), rows=rows) for rows in (5, 0, 4, 9, 3)]
    refused = scheduler.submit_many(tickets, 0.0)
    assert [(each.ticket.name, each.reason) for each in refused] == [
        ("0", Reason.NO_ROWS),
        ("4", Reason.QUEUE_FULL),
        ("9", Reason.TOO_MANY_ROWS),
    ]
    assert [ticket.state is State.QUEUED for ticket in tickets] == [True, False, False, False, True]
    assert scheduler.statistics().queued_rows == 8


@EACH
def test_what_was_refused_may_come_again(policy: PolicyName) -> None:
    """Nothing about it has changed."""
    story = Story(Settings(policy=policy, max_batch_rows=2, max_queued_rows=2))
    story.submit("a", "b")
    ticket = Named("c")
    refused = story.scheduler.submit(ticket, 0.0)
    assert refused is not None
    assert (refused.ticket, refused.reason) == (ticket, Reason.QUEUE_FULL)
    story.poll()
    assert story.scheduler.submit(ticket, 0.0) is None


@EACH
def test_a_full_queue_says_when_to_come_back(policy: PolicyName) -> None:
    """When what is queued should have been run, on all instances."""
    story = Story(Settings(policy=policy, max_batch_rows=4, max_queued_rows=16, instances=2))
    story.learn(0.0, 0.25)
    story.submit(*"abcd", rows=4)
    refused = story.scheduler.submit(Named(), 0.0)
    assert refused is not None
    assert refused.retry_after == 2.0


@EACH
def test_bytes_are_bounded_too(policy: PolicyName) -> None:
    """By what is queued; what runs has left."""
    story = Story(Settings(policy=policy, max_queued_bytes=100))
    story.submit("a", nbytes=60)
    assert story.refused(nbytes=41) is Reason.QUEUE_FULL
    assert story.refused(nbytes=40) is None
    story.poll()
    assert story.refused(nbytes=100) is None


@EACH
def test_models_share_bounds(policy: PolicyName) -> None:
    """One model's queue leaves less for the others, in rows and bytes."""
    bounds = Bounds(max_rows=10, max_bytes=100)
    one, two = (Scheduler[Named](Settings(policy=policy, max_batch_rows=4), shared_bounds=bounds) for _ in range(2))
    assert one.submit(Named(rows=4, nbytes=90), 0.0) is None
    assert one.submit(Named(rows=4), 0.0) is None
    refused = two.submit(Named(rows=3), 0.0)
    assert refused is not None
    assert refused.reason is Reason.QUEUE_FULL
    assert two.submit(Named(rows=1, nbytes=11), 0.0) is not None
    assert two.submit(Named(rows=1, nbytes=10), 0.0) is None
    assert repr(bounds) == "<Bounds: 9 of 10 rows, 100 of 100 bytes>"
    one.poll(0.0)
    two.poll(0.0)
    assert (bounds.rows, bounds.nbytes) == (4, 0)


@EACH
@pytest.mark.parametrize("deadline", [0.0, -1.0, -inf])
def test_a_deadline_in_the_past_is_refused(policy: PolicyName, deadline: float) -> None:
    """It has expired, and will never run."""
    assert Story(Settings(policy=policy)).refused(deadline=deadline) is Reason.EXPIRED


@EACH
@pytest.mark.parametrize("deadline", [1e300, 1e12, float("nan")])
def test_a_deadline_that_never_comes_is_none(policy: PolicyName, deadline: float) -> None:
    """Clients send such."""
    story = Story(Settings(policy=policy))
    story.busy()
    story.submit("a", deadline=deadline)
    story.poll()
    assert story.scheduler.next_wakeup() is None
    assert story.finish() == ["a"]


@EACH
def test_without_splitting_a_batch_is_the_bound(policy: PolicyName) -> None:
    """As Triton has it."""
    story = Story(Settings(policy=policy, max_batch_rows=4, split=False))
    assert story.refused(rows=5) is Reason.TOO_MANY_ROWS
    assert story.refused(rows=4) is None


def test_unknown_tenants_may_be_kept_out() -> None:
    """Where the operator names those that there are."""
    story = Story(Settings(policy=EAGER, tenants={"a": 1.0}, known_tenants_only=True))
    assert story.refused(tenant="a") is None
    assert story.refused(tenant="b") is Reason.UNKNOWN_TENANT
    assert story.refused(tenant="") is Reason.UNKNOWN_TENANT
    assert Story(Settings(policy=EAGER, tenants={"a": 1.0})).refused(tenant="b") is None


@EACH
def test_lengths_fall_into_buckets(policy: PolicyName) -> None:
    """Requests of one bucket share a batch, which is padded to it; the waste is counted."""
    story = Story(Settings(policy=policy, lengths=(4, 8), instances=2, max_batch_rows=4))
    assert story.refused(length=9) is Reason.TOO_LONG
    for name, length in (("a", 3), ("b", 4), ("c", 5), ("d", 8)):
        story.submit(name, length=length, rows=2)
    assert story.poll() == ["a b", "c d"]
    assert [batch.length for batch in story.running] == [4, 8]
    assert story.scheduler.statistics().padding_elements == 2 * (1 + 0 + 3 + 0)


@EACH
def test_batches_are_padded_to_allowed_sizes(policy: PolicyName) -> None:
    """And the waste is counted."""
    story = Story(Settings(policy=policy, max_batch_rows=8, allowed_rows=(1, 4, 8)))
    story.submit("a", rows=5)
    story.poll()
    assert (story.running[0].rows, story.running[0].padded_rows) == (5, 8)
    assert story.scheduler.statistics().padding_rows == 3


@EACH
def test_a_draining_scheduler_admits_nothing_and_runs_the_rest(policy: PolicyName) -> None:
    """Until it is idle."""
    story = Story(Settings(policy=policy, max_batch_rows=1))
    story.submit("a", "b")
    story.poll()
    story.scheduler.drain()
    assert story.refused() is Reason.DRAINING
    assert repr(story.scheduler) == "<Scheduler draining: 1 queued (1 rows), 1 running>"
    assert story.finish() == ["b"]
    assert not story.scheduler.is_idle
    story.finish()
    assert story.scheduler.is_idle


@EACH
def test_statistics_tell_what_happened(policy: PolicyName) -> None:
    """Of each request, and of each batch."""
    story = Story(Settings(policy=policy, max_batch_rows=2))
    a, _, _, _ = story.submit(*"abcd", nbytes=5)
    story.scheduler.cancel(a)
    story.refused(rows=0)
    story.poll(at=0.5)
    statistics = story.scheduler.statistics()
    assert (statistics.admitted, statistics.queued, statistics.queued_rows, statistics.queued_bytes) == (4, 1, 1, 5)
    assert (statistics.running, statistics.instances, statistics.batch_rows) == (1, 1, {2: 1})
    assert statistics.refused == {Reason.NO_ROWS: 1}
    assert sum(statistics.fired.values()) == 1
    interactive = statistics.classes[a.traffic]
    assert (interactive.cancelled, interactive.queue_time.count, interactive.queue_time.total) == (1, 2, 1.0)
    index = interactive.queue_time.bounds.index(0.5)
    assert interactive.queue_time.counts[index] == 2


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """One problem, one sentence."""
    settings = Settings(
        policy=FIXED,
        instances=0,
        max_batch_rows=4,
        max_queued_rows=3,
        slo=0.0,
        patience=inf,
        max_queue_delay=-1.0,
        allowed_rows=(2, 1, 5),
        preferred_sizes=(0,),
        levels=2,
        default_level=3,
        preserve_ordering=True,
        tenants={"a": 0.0},
        level_policies={
            3: QueuePolicy(default_timeout=-1.0, max_queue_size=-1),
            1: QueuePolicy(timeout_action=TimeoutAction.DELAY),
        },
    )
    found = problems(settings)
    for part in (
        "instances must be at least 1, not 0",
        "max_queued_rows (3) must hold",
        "slo must be",
        "patience must be",
        "max_queue_delay must be",
        "allowed_rows must ascend",
        "allowed_rows must not exceed max_batch_rows (4)",
        "preferred_sizes must be at least 1 each",
        "default_level must be one of the levels 1 to 2, not 3",
        "weight of tenant 'a'",
        "preserve_ordering contradicts more than one",
        "policy fixed knows no tenants",
        "there is a queue policy for level 3",
        "level 3: default_timeout",
        "level 3: max_queue_size",
        "level 1: timeout_action delay contradicts preserve_ordering",
    ):
        assert sum(part in problem for problem in found) == 1, part
    assert len(found) == 16
    with pytest.raises(ValueError, match="instances must be at least 1, not 0; slo must be"):
        Scheduler(settings)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (Settings(policy=EAGER, preferred_sizes=(2,)), "preferred_sizes needs policy fixed, not eager"),
        (Settings(policy=DEADLINE, queue_policy=QueuePolicy(max_queue_size=1)), "queue_policy needs policy fixed"),
        (Settings(policy=EAGER, level_policies={1: QueuePolicy()}), "level_policies needs policy fixed"),
        (Settings(policy=EAGER, max_queue_delay=0.1), "eager does not wait"),
        (Settings(allowed_rows=(1, 2), max_batch_rows=4), "the last of allowed_rows must be max_batch_rows (4)"),
        (Settings(max_batch_rows=0), "max_batch_rows must be at least 1"),
        (Settings(max_queued_bytes=0), "max_queued_bytes must be at least 1"),
        (Settings(levels=0), "levels must be at least 1"),
        (Settings(ageing=0.0), "ageing must be more than 0"),
        (Settings(class_patience=float("nan")), "class_patience must be more than 0"),
        (Settings(device_weight=inf), "device_weight must be more than 0 and finite"),
    ],
)
def test_settings_that_contradict_are_told(settings: Settings, part: str) -> None:
    """Each by itself."""
    (problem,) = problems(settings)
    assert part in problem


@EACH
def test_plain_settings_are_fine(policy: PolicyName) -> None:
    """Nothing is asked of who only chooses the policy."""
    assert problems(Settings(policy=policy)) == []

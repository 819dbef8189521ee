"""The order of service: class of traffic, then aged priority, then tenant share, then deadline or arrival."""

import pytest

from penstock_scheduler import PolicyName, Settings, TrafficClass
from tests.scheduler.stories import DEADLINE, EAGER, Story

BOTH = pytest.mark.parametrize("policy", [EAGER, DEADLINE])


@BOTH
def test_classes_go_before_levels_and_bulk_fills_what_is_left(policy: PolicyName) -> None:
    """A batch is filled from the class above all; the others share what it leaves."""
    story = Story(Settings(policy=policy, max_batch_rows=4, levels=2))
    story.submit("b1", "b2", "b3", traffic=TrafficClass.BULK, level=1)
    story.submit("s1", traffic=TrafficClass.STREAM, level=2)
    story.submit("i1", "i2", traffic=TrafficClass.INTERACTIVE, level=2)
    assert story.all_batches() == ["i1 i2 s1 b1", "b2 b3"]


@BOTH
def test_levels_are_strict_while_nobody_has_waited(policy: PolicyName) -> None:
    """1 is the most urgent; a request that names no level, or one that there is not, has the default."""
    story = Story(Settings(policy=policy, max_batch_rows=1, levels=3, default_level=2))
    for name, level in (("low", 3), ("default", 0), ("unknown", 9), ("high", 1)):
        story.submit(name, level=level)
    assert story.all_batches() == ["high", "default", "unknown", "low"]


@BOTH
def test_who_waits_rises(policy: PolicyName) -> None:
    """One level for each `ageing`: so a low priority is a delay and not a sentence."""
    story = Story(Settings(policy=policy, max_batch_rows=1, levels=3, default_level=1, ageing=1.0))
    story.busy()
    story.submit("old", level=3, at=0.0)
    story.submit("new 1", level=1, at=1.9)
    assert story.finish(at=1.9) == ["new 1"]
    story.submit("new 2", level=1, at=3.0)
    assert story.finish(at=3.0) == ["old"]
    assert story.finish(at=3.0) == ["new 2"]


@BOTH
def test_tenants_share_by_weight_however_much_they_send(policy: PolicyName) -> None:
    """Rows count, not requests; a tenant with twice the weight has twice the rows."""
    story = Story(Settings(policy=policy, max_batch_rows=6, tenants={"big": 2.0}))
    story.submit(*["b"] * 40, tenant="big")
    story.submit(*["s"] * 40, tenant="small")
    started = "".join(story.all_batches()[:5]).replace(" ", "")
    assert started.count("b") == 20
    assert started.count("s") == 10


@BOTH
@pytest.mark.parametrize("others", [0, 40])
def test_tenants_take_turns_within_a_batch(policy: PolicyName, others: int) -> None:
    """Who has had a row in it waits until the others have had theirs, among few or many."""
    story = Story(Settings(policy=policy, max_batch_rows=4))
    story.submit(*["x"] * 4, tenant="x")
    story.submit("y", tenant="y")
    story.submit("z", *["other"] * others, tenant="z")
    assert story.poll() == ["x y z x"]


@BOTH
def test_a_tenant_that_comes_back_has_not_saved_up(policy: PolicyName) -> None:
    """It starts level with those who were served in the meantime, and not with all that it did not use."""
    story = Story(Settings(policy=policy, max_batch_rows=2))
    story.submit(*["a"] * 20, tenant="a")
    story.submit("b", tenant="b")
    for _ in range(5):
        story.poll()
        story.finish()
    story.submit(*["b"] * 5, tenant="b")
    started = " ".join(story.finish()[0] for _ in range(3))
    assert started.count("b") in (3, 4)  # its half, and one batch's worth more at most


@BOTH
def test_a_tenants_share_counts_over_lanes(policy: PolicyName) -> None:
    """What a tenant has had with one key it has had."""
    story = Story(Settings(policy=policy, max_batch_rows=1))
    story.busy()
    story.submit("a1", "a2", tenant="a", key="x")
    story.submit("a3", "a4", tenant="a", key="y")
    story.submit("b1", "b2", tenant="b", key="y")
    assert sorted(story.finish() + story.finish()) == ["a1", "b1"]
    assert sorted(story.finish() + story.finish()) == ["a2", "b2"]


def test_deadline_goes_by_deadline_and_eager_by_arrival() -> None:
    """Among equals."""
    for policy, expected in ((EAGER, ["later", "soon", "none"]), (DEADLINE, ["soon", "later", "none"])):
        story = Story(Settings(policy=policy, max_batch_rows=1, patience=4.0))
        story.submit("later", deadline=3.0)
        story.submit("soon", deadline=1.0)
        story.submit("none")
        assert story.all_batches() == expected


def test_between_equals_of_any_kind_it_is_deadline_or_arrival() -> None:
    """Tenants with equal shares, levels that have become equal, lanes: the last word is the same."""
    for policy, expected in ((EAGER, ["later", "soon"]), (DEADLINE, ["soon", "later"])):
        for difference in ("tenant", "key"):
            story = Story(Settings(policy=policy, max_batch_rows=1, patience=50.0))
            story.busy(tenant="busy")
            story.submit("later", at=0.0, deadline=30.0, **{difference: "x"})
            story.submit("soon", at=0.0, deadline=20.0, **{difference: "y"})
            assert story.finish() + story.finish() == expected
    story = Story(Settings(policy=EAGER, max_batch_rows=1, levels=2, ageing=1.0))
    story.busy()
    story.submit("high before", level=1, at=0.0)
    story.finish()
    story.submit("risen", level=2, at=1.0)
    story.submit("high", level=1, at=2.0)
    assert story.finish(at=2.0) + story.finish(at=2.0) == ["risen", "high"]


def test_a_tenants_first_request_decides_even_if_the_one_before_has_left() -> None:
    """A cancelled request's deadline speaks for nobody."""
    story = Story(Settings(policy=DEADLINE, max_batch_rows=1, patience=50.0))
    story.busy(tenant="busy")
    soon, _ = (story.submit(name, tenant="x", deadline=at)[0] for name, at in (("soon", 10.0), ("late", 30.0)))
    story.submit("middle", tenant="y", deadline=20.0)
    assert story.scheduler.cancel(soon)
    assert story.finish() + story.finish() == ["middle", "late"]


def test_and_also_if_it_was_ranked_before_it_left() -> None:
    """The order of service follows what is there now, not what was there at the last batch."""
    story = Story(Settings(policy=DEADLINE, max_batch_rows=1, patience=50.0))
    story.submit("now", tenant="z", deadline=5.0)
    soon, _ = (story.submit(name, tenant="x", deadline=at)[0] for name, at in (("soon", 10.0), ("late", 30.0)))
    story.submit("middle", tenant="y", deadline=20.0)
    assert story.poll() == ["now"]
    assert story.scheduler.cancel(soon)
    assert story.finish() + story.finish() == ["middle", "late"]


def test_a_tenants_first_request_decides_even_if_it_came_last() -> None:
    """A more urgent one of the same tenant is not noticed only when the turn of the one before it has come."""
    story = Story(Settings(policy=DEADLINE, max_batch_rows=1, patience=50.0))
    story.submit("now", tenant="z", deadline=5.0)
    story.submit("late", tenant="x", deadline=30.0)
    story.submit("middle", tenant="y", deadline=20.0)
    story.submit(*["others"] * 20, tenant="y", deadline=40.0)
    assert story.poll() == ["now"]
    story.submit("soon", tenant="x", deadline=10.0)
    assert story.finish() + story.finish() == ["soon", "middle"]


def test_a_tenants_first_request_decides_even_if_one_like_it_was_before_it() -> None:
    """Of two that came in one read the second is not ahead of what came between them."""
    story = Story(Settings(policy=EAGER, max_batch_rows=1))
    story.submit("now", tenant="z")
    first, _, _ = (story.submit(name, tenant=tenant)[0] for name, tenant in (("a", "x"), ("b", "y"), ("c", "x")))
    story.submit(*["others"] * 20, tenant="y")
    assert story.poll() == ["now"]
    assert story.scheduler.cancel(first)
    assert story.finish() + story.finish() == ["b", "c"]


@BOTH
def test_what_a_tenant_has_had_at_one_level_it_has_had_at_the_next(policy: PolicyName) -> None:
    """Also within one batch."""
    story = Story(Settings(policy=policy, max_batch_rows=2, levels=2))
    story.busy()
    story.submit("x high", tenant="x", level=1)
    story.submit(*["x low"] * 20, tenant="x", level=2)
    story.submit("y low", tenant="y", level=2)
    assert story.finish() == ["x high y low"]


def test_patience_bounds_what_deadlines_may_do() -> None:
    """A request without a deadline is overtaken only by deadlines that are closer than its patience's end."""
    story = Story(Settings(policy=DEADLINE, max_batch_rows=1, patience=2.0))
    story.busy()
    story.submit("none", at=0.0)
    story.submit("sooner", at=1.0, deadline=1.9)
    story.submit("later", at=1.0, deadline=2.5)
    assert story.finish(at=1.0) == ["sooner"]
    assert story.finish(at=1.0) == ["none"]


@BOTH
def test_one_that_starves_goes_first_but_only_one(policy: PolicyName) -> None:
    """Bulk that has waited for longer than `class_patience` gets one place in each batch."""
    story = Story(Settings(policy=policy, max_batch_rows=3, class_patience=1.0))
    story.busy()
    story.submit("b1", "b2", traffic=TrafficClass.BULK)
    story.submit(*"abcdef", at=1.0)
    assert story.finish(at=1.0) == ["b1 a b"]
    assert story.finish(at=1.0) == ["b2 c d"]
    assert story.finish(at=1.0) == ["e f"]


@BOTH
def test_a_starving_lane_never_goes_twice_running(policy: PolicyName) -> None:
    """Nobody interactive is delayed by more than one batch of bulk that cannot share theirs."""
    story = Story(Settings(policy=policy, max_batch_rows=1, class_patience=1.0))
    story.busy()
    story.submit("b1", "b2", "b3", traffic=TrafficClass.BULK, key="bulk")
    story.submit("i1", "i2", "i3", at=1.0)
    assert [story.finish(at=1.0)[0] for _ in range(6)] == ["b1", "i1", "b2", "i2", "b3", "i3"]


@BOTH
def test_lanes_take_turns_by_their_first_requests(policy: PolicyName) -> None:
    """A key is no disadvantage: the request that comes first in the order of service leads the batch."""
    story = Story(Settings(policy=policy, max_batch_rows=2, levels=2))
    story.busy()
    for name, key, level in (("x1", "x", 2), ("y1", "y", 2), ("x2", "x", 2), ("z1", "z", 1), ("y2", "y", 2)):
        story.submit(name, key=key, level=level)
    assert [story.finish()[0] for _ in range(3)] == ["z1", "x1 x2", "y1 y2"]


@BOTH
@pytest.mark.parametrize("others", [0, 20])
def test_whoever_comes_later_begins_where_those_are_who_are_served(policy: PolicyName, others: int) -> None:
    """Among few and among many: what it did not use before it came is not saved up."""
    story = Story(Settings(policy=policy, max_batch_rows=1))
    story.busy()
    story.submit("a1", "a2", "a3", *["a"] * others, tenant="a")
    story.submit("c1", "c2", "c3", *["c"] * others, tenant="c")
    assert [story.finish()[0] for _ in range(4)] == ["a1", "c1", "a2", "c2"]
    story.submit("b1", "b2", tenant="b")
    assert [story.finish()[0] for _ in range(4)] == ["b1", "a3", "c3", "b2"]


@BOTH
def test_a_tenant_that_was_served_at_one_level_waits_for_its_turn_at_the_next(policy: PolicyName) -> None:
    """Where levels have become equal by waiting, it is the tenants' shares that decide."""
    story = Story(Settings(policy=policy, max_batch_rows=2, levels=2, ageing=1.0))
    story.busy()
    story.submit("old", tenant="a", level=2, at=0.0)
    story.submit("new", tenant="a", level=1, at=1.5)
    story.submit("other", tenant="b", level=1, at=1.5)
    assert story.finish(at=1.5) == ["old other"]


@BOTH
def test_a_request_that_does_not_fit_closes_its_class_but_not_the_batch(policy: PolicyName) -> None:
    """No equal overtakes it, and bulk fills what it leaves."""
    story = Story(Settings(policy=policy, max_batch_rows=4))
    story.submit("i1", rows=3)
    story.submit("i2", rows=2)
    story.submit("i3", rows=1)
    story.submit("b1", rows=1, traffic=TrafficClass.BULK)
    assert story.all_batches() == ["i1 b1", "i2 i3"]


@BOTH
@pytest.mark.parametrize("others", [0, 40])
@pytest.mark.parametrize("waited", [0.0, 1.5])
def test_a_request_that_does_not_fit_closes_its_class_over_all_levels(
    policy: PolicyName, others: int, waited: float
) -> None:
    """A lower level is no way past it either, among few or many, and whether they have risen by waiting or not."""
    story = Story(Settings(policy=policy, max_batch_rows=4, levels=2, ageing=1.0))
    story.submit("i1", rows=3, level=1)
    story.submit("i2", rows=2, level=1)
    story.submit("i3", *["other"] * others, rows=1, level=2)
    assert story.all_batches(at=waited)[:2] == ["i1", "i2 i3 other" if others else "i2 i3"]


@BOTH
def test_many_names_are_not_remembered_for_ever(policy: PolicyName) -> None:
    """Tenants and keys come from clients; what is idle is forgotten."""
    story = Story(Settings(policy=policy, max_batch_rows=4))
    for number in range(2000):
        story.submit("r", tenant=f"t{number}", key=number)
        story.all_batches()
    lanes = story.scheduler._policy._lanes  # type: ignore[attr-defined]
    assert len(lanes._lanes) < 200
    assert all(len(shares) < 200 for shares in lanes.shares)


@BOTH
def test_many_tenants_of_one_key_are_not_remembered_for_ever(policy: PolicyName) -> None:
    """Their lane stays, and forgets them."""
    story = Story(Settings(policy=policy, max_batch_rows=1))
    for number in range(2000):
        story.submit(*["r"] * 20, tenant=f"t{number}")
        story.all_batches()
    (lane,) = story.scheduler._policy._lanes._lanes.values()  # type: ignore[attr-defined]
    (band,) = lane.tiers[0]._bands.values()
    assert len(band._flows) < 200

"""The queue by itself: what is first at any time, whatever comes, goes and leaves."""

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_scheduler import PolicyName, Settings, State, Ticket, TrafficClass
from penstock_scheduler.deadlines import Deadlines
from penstock_scheduler.flows import Flow
from penstock_scheduler.lanes import Lanes, Tier

steps = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "take", "leave", "leave"]), st.integers(-40, 200)), max_size=80
)


def queued(sequence: int, due: float, tenant: str = "", key: str | None = None) -> Ticket:
    ticket = Ticket(deadline=due, tenant=tenant, key=key)
    ticket.state = State.QUEUED
    ticket.sequence, ticket.due, ticket.rank = sequence, due, 1
    return ticket


def a_tier(policy: PolicyName = PolicyName.DEADLINE) -> tuple[Lanes[Ticket], Tier[Ticket]]:
    lanes: Lanes[Ticket] = Lanes(Settings(policy=policy))
    return lanes, lanes.lane(None, 0).tiers[TrafficClass.INTERACTIVE]


def by_due(ticket: Ticket) -> tuple[float, int]:
    return ticket.due, ticket.sequence


def by_arrival(ticket: Ticket) -> int:
    return ticket.sequence


@pytest.mark.parametrize(("policy", "key"), [(PolicyName.DEADLINE, by_due), (PolicyName.EAGER, by_arrival)])
@pytest.mark.parametrize("looks", [False, True])
@given(steps=steps)
def test_a_flow_is_a_sorted_list(
    looks: bool, policy: PolicyName, key: Callable[[Ticket], float], steps: list[tuple[str, int]]
) -> None:
    """Its head is the first of those that are left, by what the policy goes by, and its counts are exact."""
    lanes, tier = a_tier(policy)
    alive: list[Ticket] = []
    for number, (step, value) in enumerate(steps):
        if step == "add":
            ticket = queued(number, value / 16 if policy is PolicyName.DEADLINE else 0.0)
            lanes.add(ticket)
            alive.append(ticket)
        elif step == "leave" and alive:
            ticket = alive.pop(value % len(alive))
            ticket.state = State.GONE
            assert ticket.place is not None
            ticket.place.left(ticket)
        elif step == "take" and alive:
            flow = tier.first(0.0)
            assert flow is not None
            head = flow.head
            assert head is not None
            assert head is min(alive, key=key)
            flow.advance()
            flow.serve(1, 1, 1)
            tier.count_out(1)
            alive.remove(head)
            head.state = State.RUNNING
        if looks:  # which takes it out of the inbox
            flow = tier.first(0.0)
            assert (None if flow is None else flow.head) is min(alive, key=key, default=None)
        assert tier.rows == tier.lane.rows == len(alive)
    assert sorted(alive, key=key) == tier.drain()
    assert tier.rows == tier.lane.rows == 0


@given(steps=steps)
def test_the_first_deadline_is_the_least(steps: list[tuple[str, int]]) -> None:
    """Of equals the older one; and nothing is remembered when nothing is queued."""
    deadlines: Deadlines[Ticket] = Deadlines()
    alive: list[Ticket] = []
    for number, (step, value) in enumerate(steps):
        if step == "add":
            alive.append(queued(number, value / 16))
            deadlines.add(alive[-1:], alive[-1])
        elif alive:
            first = min(alive, key=by_due)
            gone = first if step == "take" else alive[value % len(alive)]
            alive.remove(gone)
            gone.state = State.RUNNING
            deadlines.compact(len(alive))
        assert deadlines.head() is min(alive, key=by_due, default=None)
        assert deadlines.earliest() == min((ticket.deadline for ticket in alive), default=inf)


def test_many_deadlines_are_filed_and_the_dead_go() -> None:
    """However many come: the first is right, and what has left does not stay."""
    deadlines: Deadlines[Ticket] = Deadlines()
    tickets = [queued(number, 1000.0 + number * 37 % 1000) for number in range(5000)]
    for ticket in tickets:
        deadlines.add([ticket], ticket)
    deadlines.compact(5000)
    while len(tickets) > 10:
        tickets.pop().state = State.RUNNING
        deadlines.compact(len(tickets))
    assert deadlines.head() is min(tickets, key=by_due)
    assert deadlines._agenda.size + len(deadlines._news) < 400
    for ticket in tickets:
        ticket.state = State.RUNNING
    deadlines.compact(0)
    assert deadlines._agenda.size + len(deadlines._news) == 0


def test_what_leaves_together_is_not_sorted() -> None:
    """Nor charged, since all start level again; what has left an inbox is not in it."""
    lanes, tier = a_tier()
    tickets = [queued(number, 9.0 - number, tenant="ab"[number % 2]) for number in range(4)]
    for ticket in tickets:
        lanes.add(ticket)
    tickets[2].state = State.GONE
    tier.inbox.left(tickets[2])
    assert not tier.is_sorted
    assert tier.rows == 3
    assert tier.drain() == [tickets[3], tickets[1], tickets[0]]
    assert not tier.is_sorted


def test_who_comes_while_others_share_joins_them() -> None:
    """In any lane: whoever waits is not forgotten when others leave. A class that has flows gets no inbox."""
    lanes: Lanes[Ticket] = Lanes(Settings(policy=PolicyName.DEADLINE))
    here, there = (lanes.lane(key, 0).tiers[0] for key in "xy")
    lanes.add(queued(1, 1.0, key="x"))
    flow = here.first(0.0)
    assert isinstance(flow, Flow)
    lanes.add(queued(2, 1.0, tenant="other", key="y"))
    assert not there.is_sorted
    assert lanes.shares[0].busy == 2
    lanes.add(queued(3, 1.0, tenant="third", key="x"))
    assert not here.inbox.tickets
    assert lanes.shares[0].busy == 3


def test_who_waits_in_an_inbox_shares_until_the_last_has_left() -> None:
    """Choosing makes all join; who has nothing there any more leaves, whether served or cancelled."""
    lanes, tier = a_tier()
    tickets = [queued(number, 9.0, tenant="aabc"[number]) for number in range(4)]
    for ticket in tickets:
        lanes.add(ticket)
    assert lanes.shares[0].busy == 0
    assert tier.inbox.take(1) == (tickets[:1], 1)
    assert lanes.shares[0].busy == 3
    assert tier.inbox.take(1) == (tickets[2:3], 1)
    assert lanes.shares[0].busy == 2
    tickets[3].state = State.GONE
    tier.inbox.left(tickets[3])
    assert lanes.shares[0].busy == 1
    assert tier.inbox.drain() == tickets[1:2]
    assert lanes.shares[0].busy == 0


def test_who_waits_in_a_queue_that_has_left_is_not_kept() -> None:
    """What was cancelled is forgotten at the next request at the latest."""
    lanes, tier = a_tier()
    ticket = queued(1, 1.0)
    lanes.add(ticket)
    ticket.state = State.GONE
    tier.inbox.left(ticket)
    following = queued(2, 1.0)
    lanes.add(following)
    assert tier.inbox.tickets == [following]


def test_an_inbox_is_sorted_in_before_it_is_long() -> None:
    """Sorting 100,000 at once would be a pause."""
    lanes, tier = a_tier()
    for number in range(1000):
        lanes.add(queued(number, 1.0))
    assert tier.is_sorted
    assert tier.inbox.tickets == []
    assert tier.rows == 1000


def test_a_class_that_was_emptied_begins_with_an_inbox_again() -> None:
    """A backlog that is over costs nothing any more."""
    lanes, tier = a_tier()
    lanes.add(queued(1, 1.0))
    flow = tier.first(0.0)
    assert flow is not None
    flow.advance()
    flow.serve(1, 1, 1)
    tier.count_out(1)
    lanes.add(queued(2, 1.0))
    assert not tier.is_sorted
    lanes.add(queued(3, 1.0))
    flow = tier.first(0.0)
    assert flow is not None
    assert (flow.living, tier.rows) == (2, 2)

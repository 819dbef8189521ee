"""Few tickets are chosen from in an inbox, many in flows: whoever waits is served in the same order.

Two schedulers live through the same history. One of them has flows at all times; the other has them only where it needs
them. Their batches must be the same, and so must be what they drop and when they want to be woken up.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from penstock_scheduler import Batch, Drop, PolicyName, Scheduler, Settings, Start, lanes
from penstock_scheduler.inbox import Inbox
from tests.scheduler.histories import Numbered, any_settings, eighths, requests

pytestmark = pytest.mark.slow

patience = st.just(inf) | st.just(inf) | eighths.map(lambda wait: wait + 0.125)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.lists(st.tuples(requests, patience), min_size=1, max_size=10)),
        st.tuples(st.just("poll"), eighths),
        st.tuples(st.just("finish"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 99)),
    ),
    max_size=60,
)


@contextmanager
def few(count: int) -> Iterator[None]:
    """Up to so many tickets of a class are few; 0: those of one tenant have flows as well."""
    usual, lanes._FEW = lanes._FEW, count
    one_tenants = Inbox.is_one_tenants
    if not count:
        Inbox.is_one_tenants = lambda self: False  # type: ignore[method-assign]
    try:
        yield
    finally:
        lanes._FEW = usual
        Inbox.is_one_tenants = one_tenants  # type: ignore[method-assign]


class World:
    """One of the schedulers, and what runs there."""

    def __init__(self, settings: Settings, count: int) -> None:
        self.few = count
        self.scheduler: Scheduler[Numbered] = Scheduler(settings)
        for rows in range(1, settings.max_batch_rows + 1):
            self.scheduler.cost.seed(rows, 0.125 + rows / 64)
        self.tickets: list[Numbered] = []
        self.running: list[Batch[Numbered]] = []

    def submit(self, reads: list[tuple[dict[str, object], float]], now: float) -> object:
        news = [
            Numbered(len(self.tickets) + number, deadline=now + wait, **fields)
            for number, (fields, wait) in enumerate(reads)
        ]
        self.tickets += news
        return [(refused.ticket.number, refused.reason) for refused in self.scheduler.submit_many(news, now)]

    def cancel(self, index: int) -> object:
        return self.scheduler.cancel(self.tickets[index % len(self.tickets)]) if self.tickets else None

    def finish(self, index: int, now: float) -> None:
        if self.running:
            self.scheduler.finish(self.running.pop(index % len(self.running)), now)

    def poll(self, now: float) -> object:
        """What is done, but for the order of those in a batch: where a whole class leaves it has none."""
        with few(self.few):
            effects = self.scheduler.poll(now)
        seen: list[object] = []
        for effect in effects:
            match effect:
                case Start(batch):
                    self.running.append(batch)
                    shares = batch.shares or [None] * len(batch.tickets)
                    parts = zip((ticket.number for ticket in batch.tickets), shares, strict=True)
                    seen.append(
                        (batch.key, batch.length, batch.rows, batch.reason, sorted(parts, key=lambda part: part[0]))
                    )
                case Drop(ticket, reason):
                    seen.append((ticket.number, reason))
                case _:
                    pass
        return seen, self.scheduler.next_wakeup()


@pytest.mark.parametrize("policy", [PolicyName.EAGER, PolicyName.DEADLINE])
@hypothesis_settings(max_examples=400)
@given(data=st.data(), history=steps)
def test_few_are_served_as_many_are(policy: PolicyName, data: st.DataObject, history: list[tuple[str, Any]]) -> None:
    """Whatever comes, leaves and grows old."""
    settings = data.draw(any_settings(policy))
    worlds = World(settings, 0), World(settings, lanes._FEW)
    now = 0.0
    for step, value in history:
        seen: list[object] = []
        if step == "poll":
            now += value
        for world in worlds:
            match step:
                case "submit":
                    seen.append(world.submit(value, now))
                case "cancel":
                    seen.append(world.cancel(value))
                case "finish":
                    world.finish(value, now)
            seen.append(world.poll(now))
        assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]

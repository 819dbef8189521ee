"""The parts by themselves: agenda, cost model, rate, shares."""

from operator import attrgetter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_scheduler import State, Ticket
from penstock_scheduler.agenda import Agenda
from penstock_scheduler.cost import CostModel, _Window, percentile
from penstock_scheduler.padding import bucket_of, row_sizes
from penstock_scheduler.rate import Rate
from penstock_scheduler.tenants import Shares


def queued(sequence: int, due: float) -> Ticket:
    ticket = Ticket()
    ticket.state = State.QUEUED
    ticket.sequence = sequence
    ticket.due = due
    return ticket


@given(
    st.lists(st.tuples(st.sampled_from(["add", "add", "pop", "leave", "compact"]), st.integers(-40, 40)), max_size=60)
)
def test_an_agenda_is_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    """Whatever comes, goes and leaves: the head is the first by moment and then by admission."""
    agenda: Agenda[Ticket] = Agenda(attrgetter("due"))
    alive: list[Ticket] = []
    for number, (step, value) in enumerate(steps):
        if step == "add":
            ticket = queued(number, value / 16)
            agenda.add(ticket, ticket.due)
            alive.append(ticket)
        elif step == "pop" and alive:
            assert agenda.head() is alive[0]
            agenda.pop()
            alive.pop(0)
        elif step == "leave" and alive:
            alive.pop(value % len(alive)).state = State.GONE
        elif step == "compact":
            agenda.compact(len(alive))
        alive.sort(key=lambda ticket: (ticket.due, ticket.sequence))
        assert agenda.head() is (alive[0] if alive else None)
        assert agenda.size >= len(alive)


def test_an_agenda_forgets_the_dead() -> None:
    """A client that sends far deadlines to a fast model must not fill the memory."""
    agenda: Agenda[Ticket] = Agenda(attrgetter("due"))
    rng = Random(1)
    first = queued(0, 1.0)
    agenda.add(first, first.due)
    for number in range(1, 5000):
        ticket = queued(number, 3600.0 + rng.random() * 100)
        agenda.add(ticket, ticket.due)
        ticket.state = State.RUNNING
        agenda.compact(1)
        assert agenda.size < 300
    agenda.compact(1)
    assert agenda.head() is first


def test_an_agenda_keeps_the_living_when_the_dead_go() -> None:
    """Wherever it has come to in the span that it takes from."""
    agenda: Agenda[Ticket] = Agenda(attrgetter("due"))
    tickets = [queued(number, 1.0 + number / 1e6) for number in range(700)]
    for ticket in tickets:
        agenda.add(ticket, ticket.due)
    for ticket in tickets[:10]:
        assert agenda.head() is ticket
        agenda.pop()
    for ticket in tickets[10:690]:
        ticket.state = State.GONE
    agenda.compact(10)
    assert agenda.size == 10
    for ticket in tickets[690:]:
        assert agenda.head() is ticket
        agenda.pop()
    assert agenda.head() is None


def test_the_percentile_is_one_of_the_values() -> None:
    """The least that so many percent do not exceed."""
    assert percentile([7.0], 95) == 7.0
    assert percentile(list(range(1, 21)), 95) == 19
    assert percentile(list(range(1, 22)), 95) == 20
    assert percentile(list(range(1, 65)), 95) == 61
    assert percentile(list(range(1, 65)), 100) == 64


@pytest.mark.parametrize("percent", [95, 100])
@pytest.mark.parametrize("most", [3, 1000])
def test_a_window_knows_the_percentile_of_its_last_values(percent: int, most: int) -> None:
    """Whatever comes and is forgotten, it is that of the last 64."""
    window, random = _Window(percent), Random(percent)
    values: list[float] = []
    for _ in range(1000):
        values.append(float(random.randint(1, most)))
        window.add(values[-1])
        assert window.percentile == percentile(sorted(values[-64:]), percent)


def test_the_table_follows_at_once_or_soon() -> None:
    """At once what has moved by more than a quarter, within 64 batches what has by more than 2 %, nothing else ever."""
    cost = CostModel(row_sizes((), 2))
    cost.seed(1, 1.0)
    cost.seed(2, 2.0)
    cost.observe(2, 2.6)
    assert cost.table == [0.0, 1.0, 2.6]
    for _ in range(63):
        cost.observe(1, 1.25)
    assert (cost.table, cost.version) == ([0.0, 1.0, 2.6], 3)
    cost.observe(1, 1.25)
    assert (cost.table, cost.version) == ([0.0, 1.25, 2.6], 4)
    for _ in range(200):
        cost.observe(1, 1.27)
    assert cost.version == 4


def test_costs_lie_on_lines_between_what_was_measured() -> None:
    """Below the smallest as the smallest, beyond the largest on the line that fits all."""
    cost = CostModel(row_sizes((), 8))
    assert cost.table == [0.0] * 9
    cost.seed(2, 1.0)
    assert cost.table == [0.0] + [1.0] * 8
    cost.seed(6, 3.0)
    assert cost.table == [0.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert cost.line == (0.5, 0.0)
    assert cost.of(20) == 4.0 + 4.0 + 2.0


def test_more_rows_never_cost_less() -> None:
    """Even if a measurement says so."""
    cost = CostModel(row_sizes((), 4))
    for rows, seconds in ((1, 2.0), (2, 1.0), (3, 1.5), (4, 3.0)):
        cost.seed(rows, seconds)
    assert cost.table == [0.0, 2.0, 2.0, 2.0, 3.0]


def test_a_cost_is_that_of_the_size_that_is_run() -> None:
    """Padding is paid for."""
    cost = CostModel(row_sizes((2, 4), 4))
    cost.observe(1, 1.0)
    cost.observe(3, 2.0)
    assert cost.table == [0.0, 1.0, 1.0, 2.0, 2.0]


def test_old_costs_are_forgotten() -> None:
    """The last 64 count, and of those the slow ones."""
    cost = CostModel(row_sizes((), 1))
    cost.seed(1, 100.0)
    for _ in range(63):
        cost.observe(1, 1.0)
    assert cost.table == [0.0, 1.0]  # one in 64 is within the 5 %
    for _ in range(4):
        cost.observe(1, 50.0)
    assert cost.table == [0.0, 50.0]
    for _ in range(1000):
        cost.observe(1, 1.0)
    assert cost.table == [0.0, 1.0]
    for _ in range(4):
        cost.observe(1, 50.0)
    assert cost.table == [0.0, 50.0]


def test_rates_are_averages_that_fall_in_silence() -> None:
    """A row every eighth of a second is 8 a second, however they are read; nothing for long is less."""
    single, read = Rate(), Rate()
    assert single.per_second(0.0) == 0.0
    for tick in range(1000):
        single.add(1, tick / 8)
    for tick in range(100):
        read.add(8, float(tick))
    assert single.per_second(999 / 8) == pytest.approx(8.0)
    assert read.per_second(99.0) == pytest.approx(8.0, rel=0.01)
    assert single.per_second(999 / 8 + 10) < 4.0
    assert single.gap() == pytest.approx(0.125)
    at_once = Rate()
    at_once.add(5, 1.0)
    at_once.add(5, 1.0)
    assert at_once.per_second(1.0) == 0.0
    at_once.add(1, 2.0)
    assert at_once.per_second(2.0) == 10.0


def test_rates_follow() -> None:
    """Faster or slower within some fifty rows."""
    rate = Rate()
    now = 0.0
    for gap in (1.0, 0.1, 1.0):
        for _ in range(200):
            now += gap
            rate.add(1, now)
        assert rate.per_second(now) == pytest.approx(1 / gap, rel=0.2)


def test_shares_are_opened_level() -> None:
    """A new account starts where those are that are being served; all start level when nobody is."""
    shares = Shares({"big": 4.0})
    big = shares.join("big")
    shares.serve(big, 8)
    assert big.tag == 2.0
    shares.serve(big, 8)
    other = shares.join("other")
    assert other.tag == shares.now == 2.0
    shares.leaves(big)
    shares.leaves(other)
    assert shares.now == 4.0
    assert shares.join("other") is other
    assert other.tag == 4.0
    assert len(shares) == 2


@pytest.mark.parametrize(("length", "bucket"), [(0, 4), (4, 4), (5, 8), (8, 8), (9, None)])
def test_a_length_falls_into_the_least_bucket_that_holds_it(length: int, bucket: int | None) -> None:
    """None if it is longer than all."""
    assert bucket_of(length, (4, 8)) == bucket


def test_row_sizes_are_the_least_that_are_allowed() -> None:
    """All, if none is named."""
    assert row_sizes((), 3) == [0, 1, 2, 3]
    assert row_sizes((2, 5), 5) == [0, 2, 2, 5, 5, 5]

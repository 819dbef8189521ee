"""Sequences: order, seats, the backlog, the end of idle ones, and that every step has exactly one fate."""

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock_scheduler.sequences import Ended, Loss, Lost, Ready, Refusal, SequenceTable, Step

IDLE = 8.0


def table(seats: int = 2, max_waiting: int = 100) -> SequenceTable[str]:
    return SequenceTable(seats, idle=IDLE, max_waiting=max_waiting)


def start(id: object, payload: str = "start", *, end: bool = False, patience: float = inf) -> Step[str]:
    return Step(payload, id, start=True, end=end, patience=patience)


def submit(seats: SequenceTable[str], *steps: Step[str], now: float = 0.0) -> None:
    for step in steps:
        assert seats.submit(step, now) is None


def ready(seats: SequenceTable[str], now: float = 0.0) -> list[str]:
    """The payloads of what is ready; nothing else may have happened."""
    payloads: list[str] = []
    for effect in seats.poll(now):
        assert isinstance(effect, Ready)
        payloads.append(effect.step.payload)
    return payloads


# ── order ─────────────────────────────────────────────────────────────────────────────────────────


def test_steps_of_a_sequence_run_one_after_the_other() -> None:
    """The second step is ready when the first is over, not before."""
    seats, first, second = table(), start(1, "first"), Step("second", 1)
    submit(seats, first, second)
    assert ready(seats) == ["first"]
    seats.finish(first, 1.0)
    assert ready(seats, 1.0) == ["second"]


def test_sequences_run_beside_each_other() -> None:
    """Each with a seat has a step released."""
    seats = table()
    submit(seats, start(1, "one"), start("1", "another"))
    assert ready(seats) == ["one", "another"]


def test_the_lowest_free_seat_is_taken() -> None:
    """Batches that have a row for each seat stay short."""
    seats, steps = table(3), [start(id, end=True) for id in range(3)]
    submit(seats, *steps)
    seats.poll(0.0)
    for step in (steps[2], steps[0]):
        seats.finish(step, 0.0)
    late = start("late")
    submit(seats, late)
    assert late.sequence is not None
    assert late.sequence.seat == 0


# ── START and END ─────────────────────────────────────────────────────────────────────────────────


def test_a_first_step_needs_start() -> None:
    """There is nothing that it could go on with."""
    assert table().submit(Step("lost", 1), 0.0) is Refusal.NOT_STARTED


def test_a_refused_step_leaves_nothing_behind() -> None:
    """The id is as unknown as before."""
    seats = table()
    seats.submit(Step("lost", 1), 0.0)
    assert 1 not in seats


def test_nothing_but_start_follows_end() -> None:
    """Even while the step with END still waits."""
    seats = table()
    submit(seats, start(1), Step("end", 1, end=True))
    assert seats.submit(Step("late", 1), 0.0) is Refusal.NOT_STARTED
    assert seats.submit(start(1, "anew"), 0.0) is None


def test_end_gives_the_seat_back() -> None:
    """After the step with END has run, and what was kept for the sequence can go."""
    seats, only = table(1), start(1, end=True)
    submit(seats, only)
    seats.poll(0.0)
    assert seats.statistics().active == 1
    seats.finish(only, 0.0)
    assert [type(effect) for effect in seats.poll(0.0)] == [Ended]
    assert seats.statistics().active == 0
    assert 1 not in seats


def test_start_on_a_running_sequence_begins_anew_behind_what_waits() -> None:
    """The old steps run first; the seat is kept."""
    seats, first, second = table(1), start(1, "first"), Step("second", 1)
    submit(seats, first, second, start(1, "anew"))
    assert ready(seats) == ["first"]
    seats.finish(first, 0.0)
    assert ready(seats) == ["second"]
    seats.finish(second, 0.0)
    assert ready(seats) == ["anew"]


def test_a_sequence_that_follows_queues_up_like_any_other() -> None:
    """Else one id could keep a seat for ever while others wait."""
    seats, first = table(1), start(1, "first", end=True)
    submit(seats, first, start(2, "other"), start(1, "again"))
    seats.poll(0.0)
    seats.finish(first, 0.0)
    effects = seats.poll(0.0)
    assert [effect.step.payload for effect in effects if isinstance(effect, Ready)] == ["other"]


@pytest.mark.parametrize("ends", [True, False])
def test_a_sequence_that_follows_knows_whether_it_has_its_end(ends: bool) -> None:
    """Its steps came while the one before it still ran."""
    seats, first, again = table(), start(1, end=True), start(1, "again", end=ends)
    submit(seats, first, again)
    seats.poll(0.0)
    seats.finish(first, 0.0)
    seats.poll(0.0)
    assert seats.submit(Step("more", 1), 0.0) is (Refusal.NOT_STARTED if ends else None)


# ── the backlog ───────────────────────────────────────────────────────────────────────────────────


def test_who_finds_no_seat_waits_for_one() -> None:
    """First come, first served."""
    seats, first = table(1), start(1, "first", end=True)
    submit(seats, first, start(2, "second"), start(3, "third"))
    assert ready(seats) == ["first"]
    assert seats.statistics().backlog == 2
    seats.finish(first, 0.0)
    assert [effect.step.payload for effect in seats.poll(0.0) if isinstance(effect, Ready)] == ["second"]


def test_patience_ends_the_whole_sequence_in_the_backlog() -> None:
    """All its steps are lost, the one whose time it was with that reason."""
    seats = table(1)
    submit(seats, start(1), start(2, "a", patience=5.0), Step("b", 2))
    seats.poll(0.0)
    effects = seats.poll(5.0)
    losses = [(effect.step.payload, effect.loss) for effect in effects if isinstance(effect, Lost)]
    assert losses == [("a", Loss.PATIENCE), ("b", Loss.ORPHANED)]
    assert 2 not in seats


def test_patience_is_of_no_concern_with_a_seat() -> None:
    """It is about waiting for one."""
    seats, first = table(1), start(1, "first")
    submit(seats, first, Step("second", 1, patience=1.0))
    seats.poll(0.0)
    assert seats.poll(1.0) == []
    seats.finish(first, 2.0)
    assert ready(seats, 2.0) == ["second"]


# ── time ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_idle_sequence_ends() -> None:
    """Exactly when its time is over; its next step then has to start anew."""
    seats, only = table(), start(1)
    submit(seats, only)
    seats.poll(0.0)
    seats.finish(only, 1.0)
    assert seats.next_wakeup() == 1.0 + IDLE
    assert seats.poll(1.0 + IDLE - 0.125) == []
    assert [type(effect) for effect in seats.poll(1.0 + IDLE)] == [Ended]
    assert seats.submit(Step("late", 1), 1.0 + IDLE) is Refusal.NOT_STARTED


def test_a_sequence_that_lasts_is_never_idle_for_too_long() -> None:
    """Its stream is open; it ends when it is forgotten, and is no work that waits."""
    seats, only = table(), Step("only", 1, start=True, lasts=True)
    submit(seats, only)
    seats.poll(0.0)
    seats.finish(only, 0.0)
    assert seats.next_wakeup() is None
    assert seats.is_idle
    submit(seats, Step("late", 1), now=100 * IDLE)
    seats.forget(1)
    assert 1 in seats  # its step runs


def test_a_sequence_that_begins_behind_an_end_lasts_like_its_step() -> None:
    """It was sent before the one before it was over; its stream is as open."""
    seats = table()
    end, again = Step("end", 1, start=True, end=True, lasts=True), Step("again", 1, start=True, lasts=True)
    submit(seats, end, again)
    seats.poll(0.0)
    seats.finish(end, 0.0)
    seats.poll(0.0)
    seats.finish(again, 0.0)
    seats.poll(0.0)
    assert seats.next_wakeup() is None
    submit(seats, Step("late", 1, lasts=True), now=100 * IDLE)


def test_a_sequence_is_unended_until_its_end_comes() -> None:
    """Not until it is over; and those that somebody will forget do not count."""
    seats, first, last = table(), start(1), Step("last", 1, end=True)
    submit(seats, first, Step("of a stream", 2, start=True, lasts=True))
    assert (seats.unended, seats.is_empty) == (1, False)
    submit(seats, last)
    assert (seats.unended, seats.is_empty) == (0, False)
    seats.forget(2)
    seats.poll(0.0)
    for step in (first, last):
        seats.poll(0.0)
        seats.finish(step, 0.0)
    assert not seats.is_empty
    seats.forget(2)


def test_a_step_keeps_its_sequence_awake() -> None:
    """Idle is only who has neither a step that waits nor one that runs."""
    seats, first, second = table(), start(1), Step("second", 1)
    submit(seats, first)
    seats.poll(0.0)
    seats.finish(first, 0.0)
    submit(seats, second, now=IDLE - 1)
    assert ready(seats, 3 * IDLE) == ["second"]


def test_a_step_that_waits_past_its_deadline_is_lost() -> None:
    """And its sequence is over once its running step is."""
    seats, first = table(1), start(1)
    submit(seats, first, Step("late", 1, deadline=3.0), Step("behind", 1))
    seats.poll(0.0)
    losses = [(effect.step.payload, effect.loss) for effect in seats.poll(3.0) if isinstance(effect, Lost)]
    assert losses == [("late", Loss.DEADLINE), ("behind", Loss.ORPHANED)]
    assert seats.submit(Step("more", 1), 3.0) is Refusal.NOT_STARTED
    seats.finish(first, 4.0)
    assert [type(effect) for effect in seats.poll(4.0)] == [Ended]


# ── losing steps ──────────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_step_takes_the_others_that_wait_with_it() -> None:
    """It is forgotten itself: who cancels knows."""
    seats, first, second = table(), start(1), Step("second", 1)
    submit(seats, first, second, Step("third", 1))
    seats.poll(0.0)
    assert seats.cancel(second)
    losses = [(effect.step.payload, effect.loss) for effect in seats.poll(0.0) if isinstance(effect, Lost)]
    assert losses == [("third", Loss.ORPHANED)]


def test_a_released_step_that_is_cancelled_ends_its_sequence_when_it_is_over() -> None:
    """It may run at this moment."""
    seats, only = table(1), start(1)
    submit(seats, only, start(2, "next"))
    seats.poll(0.0)
    assert not seats.cancel(only)
    assert seats.poll(0.0) == []
    seats.finish(only, 0.0)
    assert [type(effect) for effect in seats.poll(0.0)] == [Ended, Ready]


def test_a_released_step_that_did_not_run_ends_its_sequence() -> None:
    """Whoever runs steps says so with `lose`."""
    seats, only = table(), start(1)
    submit(seats, only, Step("behind", 1))
    seats.poll(0.0)
    seats.lose(only, 0.0)
    assert [type(effect) for effect in seats.poll(0.0)] == [Lost, Ended]


def test_start_begins_anew_while_a_lost_sequence_still_runs() -> None:
    """It is another sequence, which begins when the old one is over."""
    seats, old = table(1), start(1, "old")
    submit(seats, old)
    seats.poll(0.0)
    seats.cancel(old)
    submit(seats, start(1, "new"))
    assert ready(seats) == []
    seats.finish(old, 0.0)
    assert [type(effect) for effect in seats.poll(0.0)] == [Ended, Ready]


def test_a_forgotten_sequence_ends_at_once_if_nothing_of_it_runs() -> None:
    """Its stream is gone: nobody will ever send END."""
    seats, only = table(), start(1)
    submit(seats, only)
    seats.poll(0.0)
    seats.finish(only, 0.0)
    seats.forget(1)
    assert [type(effect) for effect in seats.poll(0.0)] == [Ended]
    seats.forget(1)  # and once more is harmless
    assert seats.poll(0.0) == []


# ── bounds and drain ──────────────────────────────────────────────────────────────────────────────


def test_no_more_steps_wait_than_may() -> None:
    """The released one is not waiting."""
    seats = table(max_waiting=1)
    submit(seats, start(1), Step("waits", 1))
    assert seats.submit(Step("too many", 1), 0.0) is Refusal.FULL


def test_a_step_too_many_ends_its_sequence() -> None:
    """It would go on without that step: those that wait are lost, and only a START may follow."""
    seats = table(max_waiting=1)
    submit(seats, start(1), Step("waits", 1))
    seats.submit(Step("too many", 1), 0.0)
    losses = [effect.step.payload for effect in seats.poll(0.0) if isinstance(effect, Lost)]
    assert losses == ["waits"]
    assert seats.submit(Step("more", 1), 0.0) is Refusal.NOT_STARTED


def test_while_draining_sequences_go_on_and_none_begins() -> None:
    """Clients get time to end what they have begun."""
    seats = table()
    submit(seats, start(1))
    seats.drain()
    assert seats.submit(start(2), 0.0) is Refusal.DRAINING
    assert seats.submit(Step("end", 1, end=True), 0.0) is None


def test_finish_is_for_released_steps() -> None:
    """Anything else is a mistake of the caller's."""
    seats, first, second = table(), start(1), Step("second", 1)
    submit(seats, first, second)
    with pytest.raises(ValueError, match="was not released"):
        seats.finish(second, 0.0)


def test_a_table_needs_a_seat() -> None:
    """Without one nothing would ever run."""
    with pytest.raises(ValueError, match="at least one seat"):
        SequenceTable[str](0)


def test_alarms_of_steps_that_are_over_do_not_pile_up() -> None:
    """A long stream with a far deadline on each step keeps no memory of them."""
    seats, last = table(), start(1)
    submit(seats, last)
    seats.poll(0.0)
    for _ in range(1000):
        step = Step("next", 1, deadline=1e6)
        submit(seats, step)
        seats.finish(last, 0.0)
        seats.poll(0.0)
        last = step
    assert len(seats._alarms) < 200


# ── any history ───────────────────────────────────────────────────────────────────────────────────


class Histories(RuleBasedStateMachine):
    """Ids are small integers, so that they meet. Times are in eighths of a second, so that floats are exact."""

    @initialize(seats=st.integers(1, 3), max_waiting=st.integers(2, 8))
    def begin(self, seats: int, max_waiting: int) -> None:
        self.now = 0.0
        self.number = 0
        self.count = seats
        self.max_waiting = max_waiting
        self.table: SequenceTable[int] = SequenceTable(seats, idle=IDLE, max_waiting=max_waiting)
        self.open: set[int] = set()  # ids that may go on without START
        self.waiting: dict[int, list[Step[int]]] = {id: [] for id in range(5)}
        self.released: dict[int, Step[int]] = {}
        self.settled: set[int] = set()
        self.draining = False

    def settle(self, step: Step[int]) -> None:
        assert step.payload not in self.settled, "two fates"
        self.settled.add(step.payload)

    def take(self) -> None:
        for effect in self.table.poll(self.now):
            match effect:
                case Ready(step):
                    assert step.id not in self.released, "two steps at once"
                    assert self.waiting[step.id].pop(0) is step, "out of order"  # type: ignore[index]
                    self.released[step.id] = step  # type: ignore[index]
                case Lost(step, loss):
                    self.waiting[step.id].remove(step)  # type: ignore[index]
                    self.settle(step)
                    assert loss is not Loss.DEADLINE or step.deadline <= self.now
                    assert loss is not Loss.PATIENCE or step.patience <= self.now
                case Ended(sequence):
                    assert sequence.released is None
                    if sequence.broken:
                        assert not sequence.waiting or sequence.waiting[0].start

    @rule(
        id=st.integers(0, 4),
        begins=st.sampled_from([True, False, False]),
        ends=st.sampled_from([False, False, True]),
        deadline=st.sampled_from([inf, inf, 8, 40]),
        patience=st.sampled_from([inf, inf, 8, 40]),
        lasts=st.sampled_from([False, False, True]),
    )
    def submit(self, id: int, begins: bool, ends: bool, deadline: float, patience: float, lasts: bool) -> None:
        self.number += 1
        step = Step(
            self.number,
            id,
            start=begins,
            end=ends,
            deadline=self.now + deadline / 8,
            patience=self.now + patience / 8,
            lasts=lasts,
        )
        refusal = self.table.submit(step, self.now)
        if refusal is None:
            self.waiting[id].append(step)
        else:
            self.settle(step)
        sequence = step.sequence
        assert (refusal is None) == (sequence is not None)
        if refusal is Refusal.DRAINING:
            assert self.draining
            assert begins
        self.take()

    @precondition(lambda self: self.released)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.released)))
        step = self.released.pop(id)
        self.table.finish(step, self.now)
        self.settle(step)
        self.take()

    @precondition(lambda self: self.released)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.released)))
        step = self.released.pop(id)
        self.table.lose(step, self.now)
        self.settle(step)
        self.take()
        assert not self.waiting[id], "steps behind a lost one"

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        steps = [step for steps in self.waiting.values() for step in steps] + list(self.released.values())
        if not steps:
            return
        step = data.draw(st.sampled_from(steps))
        was_waiting = step in self.waiting[step.id]  # type: ignore[index]
        assert self.table.cancel(step) == was_waiting
        if was_waiting:
            self.waiting[step.id].remove(step)  # type: ignore[index]
            self.settle(step)
        self.take()
        assert not self.waiting[step.id]  # type: ignore[index]

    @rule(id=st.integers(0, 4))
    def forget(self, id: int) -> None:
        self.table.forget(id)
        self.take()
        assert not self.waiting[id]
        assert (id in self.table) == (id in self.released)

    @rule(eighths=st.integers(1, 80))
    def wait(self, eighths: int) -> None:
        self.now += eighths / 8
        self.take()

    @rule(really=st.sampled_from([False, False, False, True]))
    def drain(self, really: bool) -> None:
        if really:
            self.table.drain()
            self.draining = True

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "table"):
            return
        now = self.table.statistics()
        waiting = sum(map(len, self.waiting.values()))
        assert now.waiting == waiting <= self.max_waiting
        assert now.active <= self.count
        assert not (now.backlog and now.active < self.count), "a free seat and somebody in the backlog"
        sequences = list(self.table._sequences.values())
        taken = [each.seat for each in sequences if each.seat is not None]
        assert len(set(taken)) == len(taken) == now.active
        for sequence in sequences:
            if sequence.seat is not None and sequence.waiting:
                assert sequence.released is not None, "a seat, a step, and nothing released"
        for steps in self.waiting.values():
            assert all(step.deadline > self.now for step in steps)
        wakeup = self.table.next_wakeup()
        assert wakeup is None or wakeup > self.now
        assert self.table.is_idle == (not waiting and not self.released)
        assert self.table.is_empty == (not sequences)

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        while self.released:
            _, step = self.released.popitem()
            self.table.finish(step, self.now)
            self.settle(step)
            self.take()
        while (wakeup := self.table.next_wakeup()) is not None:
            self.now = max(wakeup, self.now)
            self.take()
            while self.released:
                _, step = self.released.popitem()
                self.table.finish(step, self.now)
                self.settle(step)
                self.take()
        for id in range(5):
            self.table.forget(id)
        self.take()
        assert self.settled == set(range(1, self.number + 1)), "steps without a fate"
        assert self.table.statistics().active == 0, "seats that nobody gave back"


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)

"""Who runs, who is replaced and when it is given up: the state machine alone, told the time."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.app.workers.supervision import (
    AllServing,
    Drain,
    Effect,
    Finish,
    Kill,
    Patience,
    Replace,
    Spawn,
    Supervision,
    describe_end,
)

PATIENCE = Patience(steady_seconds=10.0, first_wait=0.5, longest_wait=1.5, most_failures=5)
DRAIN = 30.0


def begun(workers: int = 2) -> Supervision:
    """A supervision that has started its workers, none of which serves yet."""
    supervision = Supervision(workers, DRAIN, PATIENCE)
    assert supervision.start() == [Spawn(number) for number in range(1, workers + 1)]
    return supervision


def serving(workers: int = 2) -> Supervision:
    """All of them serve since 0."""
    supervision = begun(workers)
    effects = [effect for number in range(1, workers + 1) for effect in supervision.started(number, 0.0)]
    assert effects == [AllServing()]
    return supervision


# ── starting ──────────────────────────────────────────────────────────────────────────────────────


def test_all_serve_when_the_last_one_does_and_only_once() -> None:
    """The startup is told once, not again when a worker is replaced; until then the server is not ready."""
    supervision = begun()
    assert supervision.started(2, 1.0) == []
    assert not supervision.all_serving
    assert supervision.started(1, 2.0) == [AllServing()]
    assert supervision.all_serving
    supervision.ended(1, -9, 20.0)
    assert not supervision.all_serving
    assert supervision.started(1, 21.0) == []
    assert supervision.all_serving


def test_a_worker_that_cannot_start_ends_all_with_its_own_words() -> None:
    """What is wrong with a model is wrong for all; those that run already are drained."""
    supervision = begun()
    supervision.started(1, 0.0)
    supervision.refused(2, 2, "there is no model in this folder")
    assert supervision.ended(2, 2, 1.0) == [Drain(1)]
    assert supervision.ended(1, 0, 1.5) == [Finish(2, "there is no model in this folder")]


def test_the_first_reason_is_the_one_that_is_told() -> None:
    """All workers fail alike; the others' words and statuses change nothing any more."""
    supervision = begun()
    for number, status in ((1, 1), (2, 2)):
        supervision.refused(number, status, f"reason {number}")
    assert supervision.ended(1, 1, 1.0) == [Drain(2)]
    assert supervision.ended(2, 2, 1.0) == [Finish(1, "reason 1")]


def test_a_worker_that_cannot_start_later_is_a_failure_like_others() -> None:
    """The rest of them serves: a model file that is gone for a moment is no reason to end."""
    supervision = serving()
    supervision.ended(1, -11, 20.0)
    supervision.refused(1, 2, "no such file")
    assert supervision.ended(1, 2, 21.0) == [Replace(1, "could not start: no such file", 0.0), Spawn(1)]


# ── replacing ─────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_that_has_served_is_replaced_at_once_each_time() -> None:
    """However often: what ended it came from outside, and the others are busy."""
    supervision = serving()
    now = 0.0
    for count in range(20):
        now += PATIENCE.steady_seconds
        assert supervision.ended(2, -9, now) == [Replace(2, "was killed by SIGKILL", 0.0), Spawn(2)]
        assert supervision.replaced == count + 1
        supervision.started(2, now)


def test_a_worker_that_ends_early_waits_longer_each_time() -> None:
    """At once, then twice as long each time up to a bound; the alarm is set for it."""
    supervision = begun()
    assert supervision.ended(1, 1, 100.0) == [Replace(1, "ended with status 1", 0.0), Spawn(1)]
    for wait in (0.5, 1.0, 1.5):
        assert supervision.ended(1, 1, 100.0) == [Replace(1, "ended with status 1", wait)]
        assert supervision.next_wakeup() == 100.0 + wait
        assert supervision.poll(100.0 + wait / 2) == []
        assert supervision.poll(100.0 + wait) == [Spawn(1)]
        assert supervision.next_wakeup() is None


def test_too_many_failures_in_a_row_end_all_with_a_sentence() -> None:
    """Status 1; who serves is drained. The sentence names the worker and what happened to it last."""
    supervision = serving()
    for _ in range(PATIENCE.most_failures - 1):
        supervision.ended(1, -11, 5.0)
        supervision.poll(50.0)
    assert supervision.ended(1, -9, 50.0) == [Drain(2)]
    reason = "worker 1 has failed 5 times in a row, the last time it was killed by SIGKILL"
    assert supervision.ended(2, 0, 51.0) == [Finish(1, reason)]


def test_failures_count_for_each_slot_and_end_with_a_steady_worker() -> None:
    """Two that fail by turns are not one that fails all the time; nor is one that has served well in between."""
    supervision = begun()
    for _ in range(PATIENCE.most_failures - 1):
        for number in (1, 2):
            supervision.ended(number, 1, 0.0)
        supervision.poll(50.0)
    supervision.started(1, 50.0)
    supervision.ended(1, 1, 60.0)
    assert supervision.ended(1, 1, 60.0) == [Replace(1, "ended with status 1", 0.0), Spawn(1)]
    assert not supervision.stopping


# ── ending ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("codes", "status"), [((0, 0), 0), ((0, 1), 1), ((-9, 0), 1)])
def test_the_status_of_a_drain_is_that_of_all(codes: tuple[int, int], status: int) -> None:
    """0 only if every worker has answered what it had."""
    supervision = serving()
    assert supervision.stop(10.0) == [Drain(1), Drain(2)]
    assert supervision.stop(11.0) == []
    assert supervision.ended(1, codes[0], 12.0) == []
    assert supervision.ended(2, codes[1], 12.0) == [Finish(status, "")]


def test_nobody_is_started_any_more_during_a_drain() -> None:
    """Neither who ends, nor who waits for its time to come."""
    supervision = begun()
    supervision.ended(1, 1, 0.0)
    supervision.ended(1, 1, 0.0)
    assert supervision.stop(0.1) == [Drain(2)]
    assert supervision.next_wakeup() == 0.1 + DRAIN
    assert supervision.poll(5.0) == []
    assert supervision.ended(2, 0, 5.0) == [Finish(0, "")]


def test_who_does_not_end_in_time_is_killed() -> None:
    """Once, and the status is 1."""
    supervision = serving()
    supervision.stop(0.0)
    supervision.ended(2, 0, 1.0)
    assert supervision.next_wakeup() == DRAIN
    assert supervision.poll(DRAIN) == [Kill(1)]
    assert supervision.next_wakeup() is None
    assert supervision.ended(1, -9, DRAIN) == [Finish(1, "")]


def test_a_cut_ends_all_at_once() -> None:
    """Without waiting for anybody, with status 1."""
    supervision = serving()
    supervision.stop(0.0)
    supervision.ended(1, 0, 0.0)
    assert supervision.cut() == [Kill(2), Finish(1, "")]
    assert supervision.ended(2, -9, 0.0) == []
    assert supervision.cut() == []


def test_a_stop_while_all_wait_ends_at_once() -> None:
    """Nobody is there who could say that it has ended."""
    supervision = begun(1)
    for _ in range(2):
        supervision.ended(1, 1, 0.0)
    assert supervision.stop(0.1) == [Finish(0, "")]


@pytest.mark.parametrize(
    ("code", "text"),
    [(3, "ended with status 3"), (-11, "was killed by SIGSEGV"), (-99, "was killed by signal 99")],
)
def test_an_end_is_told_in_words(code: int, text: str) -> None:
    """Signals by their names, if they have one."""
    assert describe_end(code) == text


# ── any history ───────────────────────────────────────────────────────────────────────────────────

Step = tuple[Literal["serve", "end", "refuse", "wait", "stop", "cut"], int, float]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["serve", "serve", "end", "end", "end", "refuse", "wait", "wait", "stop", "cut"]),
        st.integers(1, 3),
        st.sampled_from([0.0, 0.1, 0.5, 1.0, 9.0, 11.0, 40.0]),
    ),
    max_size=60,
)


@dataclass(slots=True)
class World:
    """Processes as the effects leave them, and what must hold of them at any time."""

    supervision: Supervision
    now: float = 0.0
    alive: dict[int, Literal["starting", "serving"]] = field(default_factory=dict)
    since: dict[int, float] = field(default_factory=dict)
    early: dict[int, int] = field(default_factory=lambda: dict.fromkeys((1, 2, 3), 0))
    refusing: dict[int, int] = field(default_factory=dict)
    drained: set[int] = field(default_factory=set)
    announced: bool = False
    ending: bool = False
    finish: Finish | None = None

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert self.finish is None, "nothing follows the end"
            match effect:
                case Spawn(slot):
                    assert slot not in self.alive, "a slot has one process"
                    assert not self.ending
                    self.alive[slot] = "starting"
                case Drain(slot):
                    assert slot in self.alive
                    assert slot not in self.drained, "told once"
                    self.drained.add(slot)
                    self.ending = True
                case Kill(slot):
                    assert slot in self.alive
                    assert self.ending or effects[-1] == Finish(1, "")
                case AllServing():
                    assert not self.announced
                    assert set(self.alive.values()) == {"serving"}
                    assert len(self.alive) == 3
                    self.announced = True
                case Replace(_, _, seconds):
                    assert 0.0 <= seconds <= PATIENCE.longest_wait
                case Finish() as finish:
                    self.finish = finish
                    self.ending = True
        self.check()

    def check(self) -> None:
        s = self.supervision
        assert s.serving == sum(state == "serving" for state in self.alive.values()) or self.finish
        assert s.all_serving == (not self.ending and list(self.alive.values()) == ["serving"] * 3)
        if self.ending:
            assert s.stopping
        elif len(self.alive) < 3:
            due = s.next_wakeup()
            assert due is not None, "an empty slot is filled some time"
            assert due <= self.now + PATIENCE.longest_wait

    def step(self, step: Step) -> None:
        kind, slot, seconds = step
        if kind == "serve" and self.alive.get(slot) == "starting" and slot not in self.refusing:
            self.alive[slot], self.since[slot] = "serving", self.now
            self.perform(self.supervision.started(slot, self.now))
        elif kind == "refuse" and self.alive.get(slot) == "starting" and slot not in self.refusing:
            self.refusing[slot] = 2
            self.supervision.refused(slot, 2, "bad model")
        elif kind == "end" and slot in self.alive:
            self.end(slot, self.refusing.get(slot, 0 if slot in self.drained else -9))
        elif kind == "wait":
            self.now += seconds
            self.perform(self.supervision.poll(self.now))
        elif kind == "stop":
            was_ending = self.ending
            self.ending = True
            effects = self.supervision.stop(self.now)
            assert not (was_ending and effects)
            self.perform(effects)
        elif kind == "cut":
            dead = self.finish is not None
            self.ending = True
            effects = self.supervision.cut()
            assert dead or {e.slot for e in effects if isinstance(e, Kill)} == set(self.alive)
            self.perform(effects)

    def end(self, slot: int, code: int) -> None:
        state = self.alive.pop(slot)
        steady = state == "serving" and self.now - self.since[slot] >= PATIENCE.steady_seconds
        self.early[slot] = 0 if steady else self.early[slot] + 1
        refused = self.refusing.pop(slot, None) is not None and not self.announced
        was_ending = self.ending
        self.ending = was_ending or refused or self.early[slot] >= PATIENCE.most_failures
        effects = self.supervision.ended(slot, code, self.now)
        if was_ending:
            assert {type(effect) for effect in effects} <= {Finish}
            assert bool(effects) == (not self.alive and self.finish is None)
        self.perform(effects)


@given(STEPS)
def test_any_history(steps: list[Step]) -> None:
    """One process a slot, an empty one is filled in time, a drain is told once, and everything comes to an end."""
    supervision = Supervision(3, DRAIN, PATIENCE)
    world = World(supervision)
    world.perform(supervision.start())
    for step in steps:
        if world.finish is None:
            world.step(step)
    if world.finish is None:
        world.step(("stop", 1, 0.0))
        world.now += DRAIN
        world.perform(supervision.poll(world.now))
        for slot in list(world.alive):
            world.end(slot, -9)
    assert world.finish is not None
    assert supervision.next_wakeup() is None
    assert supervision.poll(inf) == []

"""Many random histories of a driver: whatever happens, each request is answered once, with its own rows.

The histories are made of all that can happen: requests of any size, shape and deadline, cancelled at any
time; batches that end well, badly or strangely, in any order; callbacks that raise, cancel others or ask
again. What deadlines do depends on the clock, so nothing is said of the course of a history, only of what
holds at its end.
"""

import logging
import random
import time
from collections import Counter
from math import inf

import numpy as np
import pytest

from penstock_scheduler import Reason
from penstock_server.engine.jobs import Refused
from penstock_server.errors import Failure
from penstock_server.models.scheduling import Scheduling
from penstock_server.models.spec import Batching
from penstock_server.status import Status
from tests.server.engine.conftest import MakeStage
from tests.server.engine.puppets import Ask, PuppetBatch, Stage, not_run

DELIBERATE = Failure(Status.ABORTED, "deliberate")
UNFORESEEN = Failure(Status.INTERNAL, "internal error (error id 0)", unforeseen=True)
ALONE = "you alone"


class History:
    """One random history."""

    def __init__(self, seed: int, make_stage: MakeStage) -> None:
        self.random = random.Random(seed)
        choose = self.random.choice
        largest = choose([1, 2, 5, 8])
        self.may_split = choose([True, True, False])
        policy = choose(["eager", "fixed", "deadline"])
        batching = choose([True, True, True, False])
        self.may_split = self.may_split or not batching  # an option that has no meaning is not set
        self.stage: Stage = make_stage(
            instances=choose([1, 2, 3]),
            max_batch_size=largest,
            batching_options=Batching(
                enabled=batching,
                max_queue_delay=0.0 if policy == "eager" else choose([0.0, 0.0, 0.0002]),
                preserve_ordering=choose([True, False]),
            ),
            scheduling=Scheduling(
                policy=policy,
                split_oversize=self.may_split,
                allowed_batch_sizes=choose([(), tuple(sorted({1, largest}))]) if batching else (),
                slo=choose([inf, inf, 0.001, 60.0]),
            ),
            max_queued_rows=choose([4, 10, 40]),
        )
        self.may_split = self.may_split and self.stage.spec.batching.enabled
        self.asks: list[Ask] = []
        self.rows = 0
        self.never_queued = 0
        """Cancelled before their turn came."""
        self.forgotten: set[Ask] = set()
        """Cancelled before they were answered."""

    async def run(self) -> None:
        for _ in range(self.random.randrange(20, 80)):
            match self.random.randrange(13):
                case 0:
                    self.cancel()
                case 1 | 2 | 3:
                    self.end_a_batch()
                case 4 | 5 | 6:
                    await self.stage.pass_of_the_loop()
                case _:
                    self.ask()
        idle = [False]
        self.stage.driver.drain(lambda: idle.__setitem__(0, True))
        refused = self.ask()
        while not idle[0]:
            while self.stage.running:
                self.end_a_batch()
            await self.stage.pass_of_the_loop()
        assert refused in self.forgotten or refused.outcomes == [Refused(Reason.DRAINING)]
        self.check()

    def ask(self) -> Ask:
        largest = self.stage.spec.max_batch_size
        rows = self.random.randint(1, largest if self.random.random() < 0.7 or not self.may_split else 3 * largest)
        patience = self.random.choice([inf, inf, inf, 60.0, 0.0003, 0.0, -1.0])
        values = range(self.rows, self.rows + rows)
        self.rows += rows
        ask = self.stage.ask(*values, deadline=time.monotonic() + patience, key=self.random.choice("aab"))
        self.asks.append(ask)
        match self.random.randrange(12):
            case 0:
                ask.on_answer = self.fail
            case 1:
                ask.on_answer = self.cancel
            case 2:
                ask.on_answer = self.ask_once_more
        return ask

    def fail(self) -> None:
        raise ValueError("a callback that raises")

    def ask_once_more(self) -> None:
        if not self.stage.driver.statistics().draining:
            self.ask()

    def cancel(self) -> None:
        if self.asks:
            ask = self.random.choice(self.asks)
            answered = bool(ask.outcomes)
            first = ask not in self.forgotten
            self.never_queued += first and not answered and ask.job in self.stage.driver._incoming
            assert ask.cancel() is (first and not answered)
            if not answered:
                self.forgotten.add(ask)

    def end_a_batch(self) -> None:
        if not self.stage.running:
            return
        index = self.random.randrange(len(self.stage.running))
        batch = self.stage.running[index]
        del self.stage.running[index]
        self.end(batch)

    def end(self, batch: PuppetBatch) -> None:
        y = batch.batch.inputs["X"]
        match self.random.randrange(10):
            case 0:
                batch.finish(DELIBERATE)
            case 1:
                batch.finish(UNFORESEEN)
            case 2:
                batch.finish({"Y": np.concatenate([y, y])})
            case 3:
                batch.finish({})
            case 4:
                for index in range(len(batch.batch.requests)):
                    if self.random.random() < 0.5:
                        batch.batch.fail(index, Status.NOT_FOUND, ALONE)
                batch.finish()
            case _:
                batch.finish()

    # What holds at the end.

    def check(self) -> None:
        statistics = self.stage.driver.statistics()
        assert (statistics.queued, statistics.queued_rows, statistics.running) == (0, 0, 0)
        ends: Counter[str] = Counter()
        for ask in self.asks:
            ends[self.end_of(ask)] += 1
        counters = self.stage.driver.counters
        given_up = not_run(self.stage)
        cancelled = given_up.pop("cancelled", 0)
        reasons = ("queue_full", "expired", "hopeless", "draining", "too_many_rows")
        assert given_up.keys() <= set(reasons)
        # One may have been cancelled by the callback of another that was given up in the same turn.
        assert all(given_up.get(reason, 0) >= ends[reason] for reason in reasons)
        ran = counters.success.count + counters.fail.count
        counted = ran + sum(given_up.values()) + cancelled + self.never_queued
        assert counted == len(self.asks), "each is counted once"
        assert counters.success.count >= ends["outputs"] + ends["deliberate"]
        assert counters.fail.count >= ends["unforeseen"]
        assert counters.execution_count == sum(batch.compute_infer.count for batch in counters.batches.values())
        rows = sum(size * batch.compute_infer.count for size, batch in counters.batches.items())
        assert rows - statistics.padding_rows <= counters.inference_count <= rows
        assert max(counters.batches, default=0) <= self.stage.spec.max_batch_size

    def end_of(self, ask: Ask) -> str:
        if ask in self.forgotten:
            assert ask.outcomes == []
            return "forgotten"
        assert len(ask.outcomes) == 1
        (outcome,) = ask.outcomes
        assert ask.job.tensors == ()
        if isinstance(outcome, Refused):
            return outcome.reason.name.lower()
        if isinstance(outcome, Failure):
            deliberate = outcome in (DELIBERATE, Failure(Status.NOT_FOUND, ALONE))
            assert deliberate or (outcome.unforeseen and outcome.message.startswith("internal error"))
            return "deliberate" if deliberate else "unforeseen"
        (y,) = outcome
        assert y.reshape(-1).tolist() == ask.values
        return "outputs"


async def test_random_histories(make_stage: MakeStage, caplog: pytest.LogCaptureFixture) -> None:
    """Some hundred of them; a failure names the seed, which makes the same history again."""
    caplog.set_level(logging.CRITICAL)
    for seed in range(400):
        try:
            await History(seed, make_stage).run()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise

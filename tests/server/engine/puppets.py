"""A driver whose instances do nothing until the test says so.

    stage = Stage(instances=1, max_batch_size=4)
    first = stage.ask(1, 2)            # two rows with these values
    batch = await stage.next_batch()   # what the driver has started
    batch.finish()                     # the identity: Y is X
    assert await first.answer() == [1, 2]

Each request asks for one output, Y, of an identity model, [rows, 1] INT64. Its values are the test's, so a
row that ends up with another request shows.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from math import inf

import numpy as np

from penstock_proto.datatypes import DATATYPES
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_scheduler import Bounds
from penstock_server.backends.base import ModelBatch, RequestInfo, Tensors
from penstock_server.backends.runner import Done
from penstock_server.backends.runner import Outcome as BatchOutcome
from penstock_server.engine.batching import scheduler_settings
from penstock_server.engine.driver import Driver, SharedDevice
from penstock_server.engine.jobs import Job, Outcome, Plan
from penstock_server.engine.versions import ServedVersion
from penstock_server.errors import Failure
from penstock_server.models.scheduling import Scheduling
from penstock_server.models.spec import Batching, ModelSpec
from penstock_server.tensors.spec import TensorSpec

__all__ = ["Ask", "PuppetBatch", "Stage", "not_run"]

INT64 = DATATYPES["INT64"]


class PuppetBatch:
    """A batch that the driver has started and that waits for the test to end it."""

    def __init__(self, batch: ModelBatch, done: Done) -> None:
        self.batch = batch
        self._done = done

    @property
    def values(self) -> list[int]:
        """What is in it, row by row."""
        return [int(value) for value in self.batch.inputs["X"].reshape(-1)]

    def finish(self, outcome: BatchOutcome | None = None) -> None:
        """End it, by default with the identity."""
        self.batch.started = time.monotonic()
        identity: Tensors = {"Y": self.batch.inputs["X"]}
        self.batch.ended = time.monotonic()
        self._done(self.batch, identity if outcome is None else outcome)


class PuppetRunner:
    """A runner that hands its batches to the test."""

    def __init__(self, stage: "Stage") -> None:
        self._stage = stage
        self.closed = False
        self.runs = False

    def start(self, batch: ModelBatch, done: Done) -> BatchOutcome | None:
        assert not self.runs, "one batch at a time"
        assert not self.closed
        if self._stage.on_start is not None:
            self._stage.on_start(batch)
        if self._stage.at_once is not None:
            batch.started = batch.ended = time.monotonic()
            return self._stage.at_once(batch)
        self.runs = True

        def ended(model_batch: ModelBatch, outcome: BatchOutcome) -> None:
            self.runs = False
            done(model_batch, outcome)

        self._stage.started(PuppetBatch(batch, ended))
        return None

    def close(self, timeout: float) -> bool:
        self.closed = True
        return not self.runs


class Ask:
    """A request of the test's, and every answer that it got."""

    def __init__(
        self,
        stage: "Stage",
        values: Sequence[int],
        *,
        deadline: float = inf,
        key: Hashable = None,
        timeout: float = 0.0,
        level: int = 0,
        tenant: str = "",
    ) -> None:
        self.values = list(values)
        self.outcomes: list[Outcome] = []
        self.cancelled = False
        self.on_answer: Callable[[], object] | None = None
        self._answered = asyncio.Event()
        rows = len(values)
        plan = Plan(stage.version, rows, stage.spec.inputs, ((1,),), (0,), (0,), key)
        raw = np.array(values, "<i8").tobytes()
        info = RequestInfo(rows, outputs=("Y",), timeout_us=round(timeout * 1e6))
        self.job = _Asked(plan, [raw], info, time.monotonic(), deadline=deadline, level=level, tenant=tenant)
        self.job.ask = self

    def answered(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._answered.set()
        if self.on_answer is not None:
            self.on_answer()

    def cancel(self) -> bool:
        self.cancelled = True
        return self.job.cancel()

    async def outcome(self) -> Outcome:
        """Wait for the one answer."""
        await self._answered.wait()
        (outcome,) = self.outcomes
        return outcome

    async def answer(self) -> list[int]:
        """Wait for the outputs; the values of Y."""
        outcome = await self.outcome()
        assert isinstance(outcome, Sequence), outcome
        (y,) = outcome
        assert y.shape == (len(self.values), 1)
        return [int(value) for value in y.reshape(-1)]

    async def failure(self) -> Failure:
        outcome = await self.outcome()
        assert isinstance(outcome, Failure), outcome
        return outcome


class _Asked(Job):
    """A job that tells its `Ask`."""

    __slots__ = ("ask",)
    ask: Ask

    def answer(self, outcome: Outcome) -> None:
        self.ask.answered(outcome)


class Stage:
    """A driver with puppets for instances, and the version that it belongs to."""

    def __init__(
        self,
        *,
        instances: int = 1,
        max_batch_size: int = 4,
        batching: bool = True,
        max_queue_delay: float = 0.0,
        max_queued_rows: int = 100,
        batching_options: Batching | None = None,
        scheduling: Scheduling | None = None,
        device: SharedDevice | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.spec = ModelSpec(
            name="puppet",
            max_batch_size=max_batch_size,
            inputs=(TensorSpec("X", INT64, (1,)),),
            outputs=(TensorSpec("Y", INT64, (1,)),),
            required_inputs=1,
            instance_count=instances,
            batching=batching_options or Batching(enabled=batching, max_queue_delay=max_queue_delay),
            scheduling=scheduling or Scheduling(),
        )
        self.on_start: Callable[[ModelBatch], None] | None = None
        self.at_once: Callable[[ModelBatch], BatchOutcome] | None = None
        """If given, what batches come to, which then run on the loop and are never seen by the test."""
        self.running: deque[PuppetBatch] = deque()
        """Started, and not yet asked for by `next_batch`."""
        self._news = asyncio.Event()
        self.runners = [PuppetRunner(self) for _ in range(instances)]
        settings = scheduler_settings(self.spec, instances, max_queued_rows=max_queued_rows, max_queued_bytes=1 << 30)
        self.driver = Driver(self.spec, settings, self.runners, name="the puppet", bounds=bounds, device=device)
        self.version = ServedVersion(1, self.spec, ModelConfig(), self.driver)

    def started(self, batch: PuppetBatch) -> None:
        self.running.append(batch)
        self._news.set()

    def ask(
        self,
        *values: int,
        deadline: float = inf,
        key: Hashable = None,
        timeout: float = 0.0,
        level: int = 0,
        tenant: str = "",
    ) -> Ask:
        """Submit a request with one row for each value."""
        ask = Ask(self, values, deadline=deadline, key=key, timeout=timeout, level=level, tenant=tenant)
        self.driver.submit(ask.job)
        return ask

    async def next_batch(self) -> PuppetBatch:
        """The next batch that was started, in order."""
        while not self.running:
            self._news.clear()
            await self._news.wait()
        return self.running.popleft()

    async def pass_of_the_loop(self) -> None:
        """Let everything happen that is due now."""
        for _ in range(3):
            await asyncio.sleep(0)


def not_run(stage: Stage) -> dict[str, int]:
    """By reason, how many requests were refused, dropped from the queue or cancelled there."""
    statistics = stage.driver.statistics()
    counts = Counter({reason.name.lower(): count for reason, count in statistics.refused.items()})
    for of_class in statistics.classes.values():
        counts.update({reason.name.lower(): count for reason, count in of_class.dropped.items()})
        counts["cancelled"] += of_class.cancelled
    return dict(+counts)

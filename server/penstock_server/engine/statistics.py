"""What a version of a model has done, in the terms of the V2 statistics extension.

Counted as Triton counts: a request that never reached the model (invalid, refused) is not counted
here at all; a deliberate error of a model is a success; only what nobody foresaw is a failure.
Times are seconds on `time.monotonic()`.
"""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from penstock_scheduler.statistics import QUEUE_SECONDS
from penstock_server.engine.jobs import Job

_arrived = attrgetter("arrived")


@dataclass(slots=True)
class Duration:
    """How often something was done, and how long it took in total."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds

    @property
    def ns(self) -> int:
        """The total in nanoseconds, as the protocol has it."""
        return int(self.seconds * 1e9)


@dataclass(slots=True)
class BatchStatistics:
    """Executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class TimeHistogram:
    """How many durations were at most each bound (not cumulative); the last count is of those beyond all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(QUEUE_SECONDS) + 1))
    seconds: float = 0.0
    """Their sum."""

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(QUEUE_SECONDS, seconds)] += 1
        self.seconds += seconds


@dataclass(slots=True)
class BatchTimes:
    """When the parts of an execution began; the last one ends with `ended`."""

    assembly: float
    infer: float
    output: float
    ended: float


@dataclass(slots=True)
class VersionStatistics:
    """The counters of one version. Written only by its driver, on the loop."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    inference_count: int = 0
    """Rows of requests that were run, without padding."""
    execution_count: int = 0
    """Batches that were run."""
    inline_count: int = 0
    """Of those, how many on the event loop, whatever came of them."""
    last_inference_ms: int = 0
    """Milliseconds since 1970."""
    batches: dict[int, BatchStatistics] = field(default_factory=dict[int, BatchStatistics])
    """By rows of the batch, padding included."""
    compute_time: TimeHistogram = field(default_factory=TimeHistogram)
    """Of batches, from the beginning of their assembly to the end of the model."""

    def record_batch(self, jobs: Sequence[Job], asked: int, rows: int, times: BatchTimes) -> None:
        """A batch of `rows`, `asked` of them its requests', ran and got an answer, be it a deliberate error.

        `jobs` are those that are over with it: a request that ran in parts counts with the last one.
        """
        input_time, infer_time = times.infer - times.assembly, times.output - times.infer
        output_time = times.ended - times.output
        count = len(jobs)
        # Each request has waited for the whole batch's compute, so each counts it.
        self.compute_input.add(input_time * count, count)
        self.compute_infer.add(infer_time * count, count)
        self.compute_output.add(output_time * count, count)
        arrived = sum(map(_arrived, jobs))
        self.queue.add(times.assembly * count - arrived, count)
        self.success.add(times.ended * count - arrived, count)
        self.inference_count += asked
        self.execution_count += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchStatistics()
        self.compute_time.add(times.output - times.assembly)
        batch.compute_input.add(input_time)
        batch.compute_infer.add(infer_time)
        batch.compute_output.add(output_time)

    def record_failure(self, jobs: Sequence[Job], ended: float) -> None:
        """A batch ended in an error that nobody foresaw."""
        self.fail.add(ended * len(jobs) - sum(map(_arrived, jobs)), len(jobs))

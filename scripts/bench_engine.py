"""What the engine costs: microseconds of CPU for each request, from `Driver.submit` to its answer.

    python scripts/bench_engine.py              a table, and what a grpc.aio echo costs here
    python scripts/bench_engine.py --profile    where the time goes, for the first row
    python scripts/bench_engine.py --results bench/results/scheduler
                                                write engine.json and engine.md there, too

An identity model whose run costs nothing is kept at a depth: for each answer a new request comes in. What is measured
is all that the engine does, the scheduler included: admission, forming and assembling batches, handing out views of
the outputs, statistics. Not measured are making the Job (shown in the heading), decoding and encoding messages, and
the hop to the instance's thread and back, which costs as much for a batch of 64 as for one of 1.

The bar at depth 64 is 5 µs where a grpc.aio echo (client and server in one process) costs 150 µs.
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

import uvloop
from bench_scheduler import Table, echo_microseconds, results_option  # type: ignore[import-not-found]  # it lies beside this file

from penstock_proto.datatypes import DATATYPES
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.backends.base import ModelBatch, RequestInfo
from penstock_server.backends.runner import Done
from penstock_server.engine.batching import scheduler_settings
from penstock_server.engine.driver import Driver
from penstock_server.engine.jobs import Job, Outcome, Plan
from penstock_server.engine.versions import ServedVersion
from penstock_server.models.scheduling import Scheduling
from penstock_server.models.spec import Batching, ModelSpec
from penstock_server.tensors.spec import TensorSpec

DEPTHS = (1, 8, 64, 256)
RUNS = 3
FP32 = DATATYPES["FP32"]
RAW = bytes(16)


class InlineRunner:
    """Runs the identity on the loop, in the next pass."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def start(self, batch: ModelBatch, done: Done) -> None:
        batch.started = batch.ended = time.monotonic()
        self._loop.call_soon(done, batch, {"Y": batch.inputs["X"]})

    def close(self, timeout: float) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    name: str
    policy: str
    patience: float = inf
    """Seconds until each request's deadline."""
    rows: int = 1
    allowed: tuple[int, ...] = ()


TABLE = (
    Row("deadline (the default)", "deadline"),
    Row("deadline, with deadlines", "deadline", patience=1000.0),
    Row("eager", "eager"),
    Row("fixed", "fixed"),
    Row("padded to 1, 8 or 64", "deadline", allowed=(1, 8, 64)),
    Row("in parts (of 130 rows)", "deadline", rows=130),
)


def make_version(row: Row) -> ServedVersion:
    tensor = (4,)
    spec = ModelSpec(
        "identity",
        64,
        (TensorSpec("X", FP32, tensor),),
        (TensorSpec("Y", FP32, tensor),),
        1,
        batching=Batching(enabled=True),
        scheduling=Scheduling(policy=row.policy, allowed_batch_sizes=row.allowed),
    )
    settings = scheduler_settings(spec, 1, max_queued_rows=1 << 20, max_queued_bytes=1 << 40)
    return ServedVersion(1, spec, ModelConfig(), Driver(spec, settings, [InlineRunner()], name="the identity"))


async def microseconds(row: Row, depth: int, requests: int) -> float:
    """CPU time of the engine for one request, without what the benchmark itself takes."""
    version = make_version(row)
    plan = Plan(version, row.rows, version.spec.inputs, ((4,),), (0,), (0,), ((4,),))
    info = RequestInfo(row.rows, outputs=("Y",))
    raw = RAW * row.rows
    finished = asyncio.Event()
    left = requests + depth

    def submit() -> None:
        arrived = time.monotonic()
        version.driver.submit(Asked(plan, (raw,), info, arrived, deadline=arrived + row.patience))

    class Asked(Job):
        __slots__ = ()

        def answer(self, outcome: Outcome) -> None:
            nonlocal left
            left -= 1
            if left >= depth:
                submit()
            elif not left:
                finished.set()

    gc.collect()
    began = time.process_time()
    for _ in range(depth):
        submit()
    await finished.wait()
    spent = time.process_time() - began
    await version.driver.close(0.0)
    return spent / (requests + depth) * 1e6


async def job_microseconds(count: int = 50_000) -> float:
    """CPU time of making a Job and of the benchmark's callback."""
    version = make_version(TABLE[0])
    plan = Plan(version, 1, version.spec.inputs, ((4,),), (0,), (0,), ((4,),))
    info = RequestInfo(1, outputs=("Y",))

    class Unheard(Job):
        __slots__ = ()

        def answer(self, outcome: Outcome) -> None:
            pass

    began = time.process_time()
    for _ in range(count):
        arrived = time.monotonic()
        Unheard(plan, (RAW,), info, arrived, deadline=arrived + inf).settle(())
    spent = time.process_time() - began
    await version.driver.close(0.0)
    return spent / count * 1e6


def measured(row: Row, depth: int, requests: int) -> float:
    return uvloop.run(microseconds(row, depth, requests))


def best_of(measure: Callable[[], float]) -> float:
    """The least of several runs, since others may use the machine."""
    return min(measure() for _ in range(RUNS))


def main() -> None:
    parser = argparse.ArgumentParser(description="What the engine costs per request.")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--requests", type=int, default=40_000, help="for each number (default: %(default)s)")
    results_option(parser)
    options = parser.parse_args()
    if options.profile:
        profile = cProfile.Profile()
        profile.enable()
        asyncio.run(microseconds(TABLE[0], 64, options.requests))
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)
        return
    echo = best_of(lambda: asyncio.run(echo_microseconds(3200)))
    job = best_of(lambda: uvloop.run(job_microseconds()))
    table = Table(
        title="What the engine costs",
        bar_of="at depth 64",
        bar=5.0,
        echo=echo,
        depths=DEPTHS,
        notes=[f"Taken off: {job:.2f} µs for making and settling a Job"],
    )
    table.begin()
    for row in TABLE:
        costs = [best_of(partial(measured, row, depth, options.requests // row.rows)) - job for depth in DEPTHS]
        table.add(row.name, costs)
    if options.results:
        table.write(options.results, "engine")


if __name__ == "__main__":
    main()

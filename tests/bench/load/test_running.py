"""Whole loads, with sockets and processes, against the stub: what a run says of a server."""

import os
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from penstock_bench.load.messages import Signature, TensorSpec
from penstock_bench.load.plan import (
    ClosedLoop,
    LoadError,
    LoadPlan,
    MixItem,
    OpenLoop,
    Progress,
    Timeouts,
    check_plan,
    describe,
)
from penstock_bench.load.run import median_of, run_load, sweep, unevenness
from penstock_bench.load.worker import Job, Order
from penstock_bench.results import Point
from tests.bench.load.stub import Behaviour, serving

CLOSED = ClosedLoop(concurrency=16)


@pytest.fixture
def port() -> Generator[int]:
    """A stub that just answers."""
    with serving(Behaviour()) as port:
        yield port


def plan(port: int, **changes: object) -> LoadPlan:
    base = LoadPlan(
        host="127.0.0.1",
        port=port,
        mix=[MixItem(model="stub")],
        load=CLOSED,
        connections=2,
        seconds=0.4,
        warmup=0.1,
        check_every=10,
        variants=64,
        grace=60.0,
    )
    return msgspec.structs.replace(base, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("timeouts", [None, Timeouts(low=1, high=3), Timeouts(low=1, high=3, indexed=False)])
def test_a_closed_loop(timeouts: Timeouts | None) -> None:
    """Everything that is sent is answered and right; latency and throughput agree (Little's law).

    The law counts a request from its sending to its answer, so nearly all of its time has to be the server's. What is
    in flight at the end counts with the whole of its latency, and if this machine is busy then, that is long.
    """
    with serving(Behaviour(service_time=0.02)) as port:
        found = run_load(plan(port, timeouts=timeouts, seconds=1.0, warmup=0.0, check_every=5))
    assert found.latency is not None
    assert (found.failed, found.wrong, found.unanswered, found.partial) == ({}, 0, 0, False)
    assert found.sent == found.ok >= 64
    assert found.checked > 10
    busy_end = 1 + found.latency.maximum / found.duration
    assert 16 * 0.6 < found.throughput * found.latency.mean < 16 * 1.05 * busy_end
    assert 0 < found.generator_cpu < 1.1


@pytest.mark.slow
def test_the_servers_cpu() -> None:
    """Whose processes are known is watched, over all of the measured time."""
    with serving(Behaviour()) as port:
        found = run_load(plan(port, seconds=2.0), watch=[os.getpid()])
    assert found.server_cpu is not None
    assert found.server_cpu > 0


@pytest.mark.slow
def test_an_open_loop_in_two_processes(port: int) -> None:
    """Both together send what is due, by classes, and count what came in time."""
    mix = [MixItem(model="stub", traffic="a"), MixItem(model="stub", traffic="b", metadata={"tenant": "t"})]
    found = run_load(plan(port, load=OpenLoop(rate=500, arrivals="constant"), mix=mix, processes=2, slo=60.0))
    assert found.sent == found.ok == found.in_time == 200
    assert found.offered == pytest.approx(500)
    assert {name for name in found.by_class} == {"a", "b"}
    assert sum(latency.count for latency in found.by_class.values()) == 200


@pytest.mark.slow
def test_what_was_due_is_sent_though_it_is_late(port: int) -> None:
    """A generator that was held up until the end of the load has nothing to spare its server."""
    late = plan(port, load=OpenLoop(rate=500, arrivals="constant"))
    tensors = [TensorSpec("x", "FP32", (-1, 4))], [TensorSpec("y", "FP32", (-1, 4))]
    signature = Signature(inputs=tensors[0], outputs=tensors[1], batched=True)
    job = Job(Order(plan=late, number=0, signatures=[signature], answers=[[]]))
    found = job.perform(time.monotonic() - 10, lambda good, failed: None)
    assert (found.sent, found.unanswered, found.trouble) == (200, 0, "")
    assert found.latency is not None
    assert found.latency.minimum > 9


@pytest.mark.slow
def test_a_server_that_stalls_once_shows_it() -> None:
    """Half a second of stall in an open loop is in the 99th percentile of what was due, and not in all of it.

    At least: a machine that is busy is late as well.
    """
    with serving(Behaviour(stall_after=200, stall_for=0.5)) as port:
        found = run_load(plan(port, load=OpenLoop(rate=200, arrivals="constant"), seconds=2.5))
    assert found.latency is not None
    assert found.latency.quantiles["0.99"] > 0.4
    assert found.latency.quantiles["0.5"] < found.latency.quantiles["0.99"]


@pytest.mark.slow
def test_a_connection_that_is_lost_is_made_again() -> None:
    """What was in flight on it has failed; the load goes on with all its connections."""
    with serving(Behaviour(drop_at=2.0)) as port:
        found = run_load(plan(port, seconds=3.0, warmup=0.0))
    assert not found.partial
    assert set(found.failed) <= {"UNAVAILABLE"}
    assert 1 <= sum(found.failed.values()) <= 8
    assert found.sent == found.ok + sum(found.failed.values())


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle() -> None:
    """What was measured until then is reported as partial, with a reason."""
    with serving(Behaviour(die_after=2000)) as port:
        found = run_load(plan(port, seconds=60.0, warmup=0.0))
    assert found.partial
    assert "lost" in found.warnings[0]
    assert 1000 < found.ok <= 2000
    assert found.duration < 50


@pytest.mark.slow
def test_a_server_that_refuses() -> None:
    """Failures count by their status, and make no latencies."""
    with serving(Behaviour(failing="8", failing_after=4)) as port:
        found = run_load(plan(port, seconds=0.5, warmup=0.0, variants=2, check_every=0))
    assert found.ok == 2 * 4
    assert found.latency is not None
    assert found.latency.count == 8
    assert set(found.failed) == {"RESOURCE_EXHAUSTED"}
    assert found.sent == found.ok + sum(found.failed.values())
    assert any("RESOURCE_EXHAUSTED" in warning for warning in found.warnings)


@pytest.mark.slow
def test_a_sweep_ends_at_saturation(port: int) -> None:
    """Concurrencies double, with no more connections than requests; given ones are taken as they are."""
    found = sweep(plan(port, seconds=0.2, warmup=0.05), "stub", loads=[1, 4])
    assert [(point.concurrency, point.connections) for point in found.points] == [(1, 1), (4, 2)]
    assert (found.failure, found.model, found.load) == ("", "stub", "closed loop, swept, 2 connections")


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1])
def test_ctrl_c_leaves_a_partial_point(port: int, after: int) -> None:
    """The processes end at once, and what they have is reported; also if it comes with the very beginning."""
    stopped = threading.Event()

    def stop_soon(progress: Progress) -> None:
        if progress.answered >= after and not stopped.is_set():
            stopped.set()
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        found = run_load(plan(port, seconds=60.0, warmup=0.0), on_progress=stop_soon)
    finally:
        signal.signal(signal.SIGINT, before)
    assert found.partial
    assert found.warnings[0] == "it was interrupted"
    assert found.duration < 50
    assert found.ok >= after


def test_nobody_there() -> None:
    """One sentence, before any process is started."""
    with pytest.raises(LoadError, match=r"nobody answers at 127\.0\.0\.1:1"):
        run_load(plan(1))


def test_a_trace_that_is_none(tmp_path: Path) -> None:
    """Is told before the server is asked."""
    with pytest.raises(LoadError, match="cannot read"):
        run_load(plan(1, load=OpenLoop(arrivals="trace", trace=str(tmp_path / "none"))))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mix": []}, "names no model"),
        ({"seconds": 0.0}, "more than 0"),
        ({"seconds": float("nan")}, "more than 0"),
        ({"load": ClosedLoop(concurrency=1)}, "leaves connections idle"),
        ({"load": OpenLoop(rate=0)}, "rate"),
        ({"load": OpenLoop(arrivals="trace")}, "trace's file"),
        ({"processes": 3}, "each process needs a connection"),
        ({"timeouts": Timeouts(low=3, high=1)}, "the shorter first"),
        ({"mix": [MixItem(model="m", weight=0)]}, "weight of model 'm'"),
        ({"mix": [MixItem(model="m", rows=0)]}, "at least one row"),
    ],
)
def test_plans_that_make_no_sense(changes: dict[str, object], complaint: str) -> None:
    """Are refused, in words."""
    with pytest.raises(LoadError, match=complaint):
        check_plan(plan(1, **changes))


def test_loads_in_words() -> None:
    """By which series are compared."""
    assert describe(plan(1)) == "closed loop, 2 connections x 8"
    assert describe(plan(1, timeouts=Timeouts(low=1, high=3))) == "closed loop, 2 connections x 8, timeouts"
    assert describe(plan(1, stream=True, streams_per_connection=4)) == "closed loop, 8 streams x 2"
    assert describe(plan(1, load=OpenLoop(rate=500))) == "open loop, poisson, 500/s, 2 connections"


@pytest.mark.parametrize(
    ("windows", "noisy"),
    [([10_000] * 10, False), ([10_000] * 9 + [8_000], True), ([20, 30, 25, 22, 28, 30, 20, 25, 25, 24], False)],
)
def test_noise_is_more_than_chance(windows: list[int], noisy: bool) -> None:
    """Few answers differ by chance; many do not."""
    assert (unevenness(windows) > 0.15) == noisy


def test_the_median_of_repetitions() -> None:
    """It is a run that was, with the spread of all of them, and a word if that is large."""
    points = [
        Point(connections=1, concurrency=1, duration=1, sent=9, ok=9, throughput=each, generator_cpu=0.1)
        for each in (100.0, 140.0, 110.0)
    ]
    found = median_of(points)
    assert (found.throughput, found.repetitions) == (110.0, 3)
    assert found.spread == pytest.approx(40 / 110)
    assert found.warnings == ["noisy: throughput differs by 36% between repetitions"]

"""What the scheduler's rules are to requests: parts, padding, order, priorities, timeouts, tenants, shared devices."""

import os
import time
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from penstock_scheduler import Bounds, FireReason, Reason
from penstock_server.engine.driver import SharedDevice
from penstock_server.engine.jobs import JobTimes, Refused
from penstock_server.errors import Failure
from penstock_server.models.scheduling import Scheduling
from penstock_server.models.spec import Batching, QueuePolicy, TimeoutAction
from penstock_server.status import Status
from tests.server.engine.conftest import MakeStage
from tests.server.engine.puppets import not_run

MS = 1e-3
PATIENCE = 5 * MS
"""What has to happen before a deadline is tried again with more of it, if this machine had its mind elsewhere."""
ON = Batching(enabled=True)
BROKEN = Failure(Status.ABORTED, "broken")


# ── requests larger than a batch ──────────────────────────────────────────────────────────────────


async def test_an_oversize_request_runs_in_parts(make_stage: MakeStage) -> None:
    """In as many batches as it needs, with one answer, whose rows are in order."""
    stage = make_stage(max_batch_size=4)
    ask = stage.ask(*range(10))
    for expected in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]):
        assert not ask.outcomes
        batch = await stage.next_batch()
        assert batch.values == expected
        assert [request.rows for request in batch.batch.requests] == [len(expected)]
        batch.finish()
    assert await ask.answer() == list(range(10))
    counters = stage.driver.counters
    assert (counters.success.count, counters.inference_count, counters.execution_count) == (1, 10, 3)


async def test_the_last_part_shares_its_batch(make_stage: MakeStage) -> None:
    """With who came later."""
    stage = make_stage(max_batch_size=4)
    oversize, small = stage.ask(0, 1, 2, 3, 4), stage.ask(5)
    (await stage.next_batch()).finish()
    last = await stage.next_batch()
    assert last.values == [4, 5]
    last.finish()
    assert await oversize.answer() == [0, 1, 2, 3, 4]
    assert await small.answer() == [5]
    assert stage.driver.counters.success.count == 2


async def test_parts_run_on_all_instances(make_stage: MakeStage) -> None:
    """And may end in any order."""
    stage = make_stage(max_batch_size=2, instances=2)
    ask = stage.ask(*range(6))
    first, second = await stage.next_batch(), await stage.next_batch()
    assert (first.values, second.values) == ([0, 1], [2, 3])
    second.finish()
    third = await stage.next_batch()
    third.finish()
    await stage.pass_of_the_loop()
    assert not ask.outcomes
    first.finish()
    assert await ask.answer() == list(range(6))


@pytest.mark.parametrize("alone", [True, False], ids=["its part", "the batch"])
async def test_parts_share_their_fate(make_stage: MakeStage, alone: bool) -> None:
    """When one fails, those that wait are not run, and what those that run return is dropped. One answer."""
    stage = make_stage(max_batch_size=2, instances=2)
    ask, other = stage.ask(*range(8)), stage.ask(9)
    first, second = await stage.next_batch(), await stage.next_batch()
    if alone:
        second.batch.fail(0, BROKEN.status, BROKEN.message)
        second.finish()
    else:
        second.finish(BROKEN)
    assert await ask.failure() == BROKEN
    following = await stage.next_batch()
    assert following.values == [9]
    following.finish()
    first.finish()
    assert await other.answer() == [9]
    await stage.pass_of_the_loop()
    assert len(ask.outcomes) == 1
    counters = stage.driver.counters
    assert (counters.success.count, counters.fail.count) == (2, 0), "a deliberate error, once"
    statistics = stage.driver.statistics()
    assert (statistics.queued, statistics.queued_rows, statistics.running) == (0, 0, 0)


async def test_two_parts_that_fail(make_stage: MakeStage) -> None:
    """The first reason is the one that is told."""
    stage = make_stage(max_batch_size=2, instances=2)
    ask = stage.ask(*range(4))
    first, second = await stage.next_batch(), await stage.next_batch()
    first.finish({})
    second.finish(BROKEN)
    assert (await ask.failure()).status is Status.INTERNAL
    await stage.pass_of_the_loop()
    counters = stage.driver.counters
    assert (counters.success.count, counters.fail.count) == (0, 1)


async def test_an_oversize_request_is_cancelled_half_way(make_stage: MakeStage) -> None:
    """What waits of it is not run."""
    stage = make_stage(max_batch_size=2)
    ask, other = stage.ask(*range(6)), stage.ask(9)
    batch = await stage.next_batch()
    assert ask.cancel()
    batch.finish()
    assert (await stage.next_batch()).values == [9]
    assert not ask.outcomes
    assert not other.outcomes
    assert not_run(stage) == {"cancelled": 1}


async def test_an_oversize_request_expires_half_way(make_stage: MakeStage) -> None:
    """It is told when it is too late, and the part that runs is dropped."""
    patience = PATIENCE
    while True:
        stage = make_stage(max_batch_size=2)
        ask = stage.ask(*range(6), deadline=time.monotonic() + patience)
        await stage.pass_of_the_loop()
        if stage.running:
            break
        patience *= 3
    batch = await stage.next_batch()
    assert await ask.outcome() == Refused(Reason.EXPIRED)
    batch.finish()
    await stage.pass_of_the_loop()
    assert not stage.running
    assert len(ask.outcomes) == 1
    assert stage.driver.counters.success.count == 0
    assert not_run(stage) == {"expired": 1}


async def test_a_request_larger_than_the_queue(make_stage: MakeStage) -> None:
    """There must be an end."""
    stage = make_stage(max_batch_size=2, max_queued_rows=6)
    assert await stage.ask(*range(7)).outcome() == Refused(Reason.TOO_MANY_ROWS)


async def test_a_model_that_does_not_split(make_stage: MakeStage) -> None:
    """The service refuses such requests; the queue would as well."""
    stage = make_stage(max_batch_size=2, scheduling=Scheduling(split_oversize=False))
    assert await stage.ask(1, 2, 3).outcome() == Refused(Reason.TOO_MANY_ROWS)


# ── padding ───────────────────────────────────────────────────────────────────────────────────────


async def test_batches_are_padded_to_sizes_that_the_model_takes(make_stage: MakeStage) -> None:
    """The model sees rows that nobody asked for, and nobody sees their outputs."""
    stage = make_stage(max_batch_size=8, scheduling=Scheduling(allowed_batch_sizes=(4, 8)))
    asks = [stage.ask(1), stage.ask(2, 3)]
    batch = await stage.next_batch()
    assert batch.values == [1, 2, 3, 3]
    assert batch.batch.rows == 4
    assert [request.rows for request in batch.batch.requests] == [1, 2]
    batch.finish()
    assert [await ask.answer() for ask in asks] == [[1], [2, 3]]
    counters, statistics = stage.driver.counters, stage.driver.statistics()
    assert (counters.inference_count, list(counters.batches)) == (3, [4])
    assert (statistics.padding_rows, statistics.batch_rows) == (1, {3: 1})


async def test_outputs_of_a_padded_batch_must_have_all_its_rows(make_stage: MakeStage) -> None:
    """A model that leaves out the padding has misunderstood, and its rows may be anybody's."""
    stage = make_stage(max_batch_size=4, scheduling=Scheduling(allowed_batch_sizes=(4,)))
    ask = stage.ask(1)
    batch = await stage.next_batch()
    batch.finish({"Y": batch.batch.inputs["X"][:1]})
    assert (await ask.failure()).status is Status.INTERNAL


# ── order ─────────────────────────────────────────────────────────────────────────────────────────


async def test_answers_in_order_of_arrival(make_stage: MakeStage) -> None:
    """Batches end in any order, and so do failures; what was cancelled holds nobody up."""
    stage = make_stage(max_batch_size=1, instances=3, batching_options=replace(ON, preserve_ordering=True))
    asks = [stage.ask(number) for number in range(4)]
    first, second, third = [await stage.next_batch() for _ in range(3)]
    order: list[int] = []
    for number, ask in enumerate(asks):
        ask.on_answer = lambda number=number: order.append(number)
    third.finish()
    fourth = await stage.next_batch()
    fourth.finish()
    second.finish(BROKEN)
    await stage.pass_of_the_loop()
    assert order == []
    assert asks[2].cancel()
    first.finish()
    assert await asks[3].answer() == [3]
    assert await asks[1].failure() == BROKEN
    assert order == [0, 1, 3]
    assert not asks[2].outcomes


async def test_a_timeout_is_told_in_its_turn(make_stage: MakeStage) -> None:
    """With preserve_ordering it is an answer like any other."""
    policy = QueuePolicy(default_timeout=3600.0, allow_timeout_override=True)
    batching = replace(ON, preserve_ordering=True, queue_policy=policy)
    stage = make_stage(max_batch_size=1, batching_options=batching)
    running = stage.ask(1)
    batch = await stage.next_batch()
    late = stage.ask(2, timeout=2 * MS)
    while not not_run(stage):
        await stage.pass_of_the_loop()
    assert not late.outcomes
    batch.finish()
    assert await running.answer() == [1]
    assert await late.outcome() == Refused(Reason.TIMEOUT)


async def test_priorities_go_first(make_stage: MakeStage) -> None:
    """1 is the most urgent; no level, or one that does not exist, is the default."""
    batching = replace(ON, priority_levels=3, default_priority_level=2)
    for policy in ("fixed", "eager", "deadline"):
        stage = make_stage(max_batch_size=1, batching_options=batching, scheduling=Scheduling(policy=policy))
        stage.ask(0)
        batch = await stage.next_batch()
        for value, level in ((1, 3), (2, 0), (3, 9), (4, 2), (5, 1)):
            stage.ask(value, level=level)
        await stage.pass_of_the_loop()
        served: list[int] = []
        for _ in range(5):
            batch.finish()
            batch = await stage.next_batch()
            served += batch.values
        assert served == [5, 2, 3, 4, 1], policy


# ── timeouts and deadlines ────────────────────────────────────────────────────────────────────────


async def test_a_queue_timeout_rejects(make_stage: MakeStage) -> None:
    """While the instance is busy. A request may shorten it, if the model allows, and never prolong it."""
    policy = QueuePolicy(default_timeout=3600.0, allow_timeout_override=True)
    stage = make_stage(batching_options=replace(ON, queue_policy=policy))
    stage.ask(0)
    batch = await stage.next_batch()
    began = time.monotonic()
    short, long = stage.ask(1, timeout=3 * MS), stage.ask(2, timeout=7200.0)
    assert await short.outcome() == Refused(Reason.TIMEOUT)
    assert time.monotonic() >= began + 3 * MS
    batch.finish()
    assert (await stage.next_batch()).values == [2]
    assert not long.outcomes
    assert not_run(stage) == {"timeout": 1}


@pytest.mark.parametrize("default", [None, 3600.0])
async def test_a_timeout_that_the_model_does_not_allow(make_stage: MakeStage, default: float | None) -> None:
    """Has no effect, as in Triton."""
    policy = QueuePolicy(default_timeout=default, max_queue_size=9, allow_timeout_override=default is None)
    stage = make_stage(batching_options=replace(ON, queue_policy=policy))
    stage.ask(0)
    batch = await stage.next_batch()
    ask, clock = stage.ask(1, timeout=1 * MS), stage.ask(2, deadline=time.monotonic() + 5 * MS)
    await clock.outcome()
    batch.finish()
    assert (await stage.next_batch()).values == [1]
    assert not ask.outcomes


async def test_a_queue_timeout_delays(make_stage: MakeStage) -> None:
    """The request goes behind all those in time, and is served all the same."""
    policy = QueuePolicy(default_timeout=3600.0, allow_timeout_override=True, timeout_action=TimeoutAction.DELAY)
    stage = make_stage(max_batch_size=1, batching_options=replace(ON, queue_policy=policy))
    stage.ask(0)
    batch = await stage.next_batch()
    late = stage.ask(1, timeout=3 * MS)
    clock = stage.ask(9, deadline=time.monotonic() + 4 * MS)
    await clock.outcome()
    stage.ask(2)
    await stage.pass_of_the_loop()
    batch.finish()
    batch = await stage.next_batch()
    assert batch.values == [2]
    batch.finish()
    (await stage.next_batch()).finish()
    assert await late.answer() == [1]


@pytest.mark.parametrize("policy", ["eager", "deadline"])
async def test_elsewhere_a_timeout_is_a_deadline(make_stage: MakeStage, policy: str) -> None:
    """From arrival on; the earlier one of it and the client's counts."""
    stage = make_stage(scheduling=Scheduling(policy=policy))
    stage.ask(0)
    batch = await stage.next_batch()
    now = time.monotonic()
    timed = stage.ask(1, timeout=3 * MS)
    earlier = stage.ask(2, timeout=3600.0, deadline=now + 3 * MS)
    stays = stage.ask(3, timeout=3600.0)
    assert await timed.outcome() == await earlier.outcome() == Refused(Reason.EXPIRED)
    assert time.monotonic() >= now + 3 * MS
    batch.finish()
    assert (await stage.next_batch()).values == [3]
    assert not stays.outcomes


async def test_the_models_objective_is_the_deadline_of_who_has_none(make_stage: MakeStage) -> None:
    """Who brings one keeps it, even if it is later."""
    stage = make_stage(scheduling=Scheduling(slo=3 * MS))
    stage.ask(0, deadline=time.monotonic() + 3600)
    batch = await stage.next_batch()
    default, own = stage.ask(1), stage.ask(2, deadline=time.monotonic() + 3600)
    assert await default.outcome() == Refused(Reason.EXPIRED)
    batch.finish()
    assert (await stage.next_batch()).values == [2]
    assert not own.outcomes


async def test_what_cannot_be_in_time_is_refused(make_stage: MakeStage) -> None:
    """By what batches have cost of late (deadline)."""
    stage = make_stage()
    stage.driver.scheduler.cost.seed(1, 1000.0)
    stage.ask(0)
    batch = await stage.next_batch()
    assert await stage.ask(1, deadline=time.monotonic() + 500).outcome() == Refused(Reason.HOPELESS)
    waits = stage.ask(2, deadline=time.monotonic() + 3600)
    batch.finish()
    assert (await stage.next_batch()).values == [2]
    assert not waits.outcomes


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────


async def test_max_queue_size_counts_requests(make_stage: MakeStage) -> None:
    """And not rows."""
    stage = make_stage(batching_options=replace(ON, queue_policy=QueuePolicy(max_queue_size=2)))
    stage.ask(0)
    await stage.next_batch()
    asks = [stage.ask(1, 2, 3), stage.ask(4, 5, 6), stage.ask(7)]
    await stage.pass_of_the_loop()
    (outcome,) = asks[2].outcomes
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.retry_after > 0) == (Reason.QUEUE_FULL, True)
    assert not asks[0].outcomes + asks[1].outcomes


async def test_bounds_that_models_share(make_stage: MakeStage) -> None:
    """What one has queued the others cannot, in rows or in bytes; what runs does not count."""
    bounds = Bounds(3, 1 << 20)
    one, two = make_stage(bounds=bounds), make_stage(bounds=bounds)
    for stage in (one, two):
        stage.ask(0)
    batch = await one.next_batch()
    await two.next_batch()
    one.ask(1, 2)
    await one.pass_of_the_loop()
    two.ask(3)
    refused = two.ask(4)
    assert (await refused.outcome()) == Refused(Reason.QUEUE_FULL, 0.001)
    batch.finish()
    await one.next_batch()
    assert (bounds.rows, bounds.nbytes) == (1, 8)
    small = Bounds(100, 8)
    three = make_stage(bounds=small)
    three.ask(0)
    await three.next_batch()
    assert (await three.ask(1, 2).outcome()) == Refused(Reason.QUEUE_FULL, 0.001)


# ── tenants ───────────────────────────────────────────────────────────────────────────────────────


async def test_tenants_get_their_shares(make_stage: MakeStage) -> None:
    """By weight, however many requests one of them sends."""
    stage = make_stage(max_batch_size=1, scheduling=Scheduling(tenant_weights={"gold": 3.0}))
    stage.ask(0)
    batch = await stage.next_batch()
    for _ in range(20):
        stage.ask(1, tenant="free")
    for _ in range(20):
        stage.ask(2, tenant="gold")
    await stage.pass_of_the_loop()
    served: list[int] = []
    for _ in range(12):
        batch.finish()
        batch = await stage.next_batch()
        served += batch.values
    assert served.count(2) == 9


async def test_a_tenant_that_is_not_known(make_stage: MakeStage) -> None:
    """Is refused if the model says so, and one without a name is none of those it knows."""
    known = Scheduling(tenant_weights={"gold": 1.0}, known_tenants_only=True)
    stage = make_stage(scheduling=known)
    assert await stage.ask(1, tenant="lead").outcome() == Refused(Reason.UNKNOWN_TENANT)
    assert await stage.ask(1).outcome() == Refused(Reason.UNKNOWN_TENANT)
    stage.ask(2, tenant="gold")
    assert (await stage.next_batch()).values == [2]


# ── a shared device ───────────────────────────────────────────────────────────────────────────────


async def test_models_take_turns_on_a_device(make_stage: MakeStage) -> None:
    """One batch at a time over both, though each has an instance that is free."""
    device = SharedDevice(1)
    one, two = (make_stage(max_batch_size=1, device=device) for _ in range(2))
    asks = [stage.ask(number) for number in range(3) for stage in (one, two)]
    served: list[str] = []
    await one.pass_of_the_loop()
    while one.running or two.running:
        assert len(one.running) + len(two.running) == 1
        served.append("one" if one.running else "two")
        (one.running or two.running).popleft().finish()
        await one.pass_of_the_loop()
    assert [await ask.answer() for ask in asks] == [[0], [0], [1], [1], [2], [2]]
    assert served.count("one") == served.count("two") == 3


async def test_a_model_that_leaves_the_device(make_stage: MakeStage) -> None:
    """The others go on, and its alarm serves them until the last one is closed."""
    device = SharedDevice(1)
    one, two = (make_stage(device=device) for _ in range(2))
    assert await one.driver.close(0.0)
    assert len(device.device._members) == 1
    ask = two.ask(1)
    (await two.next_batch()).finish()
    assert await ask.answer() == [1]
    assert await two.driver.close(0.0)
    assert await two.driver.close(0.0), "once more does no harm"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count open files")
async def test_the_last_model_takes_the_devices_alarm_with_it(make_stage: MakeStage) -> None:
    """No file stays open; until then one does."""
    files = len(os.listdir("/proc/self/fd"))
    device = SharedDevice(1)
    one, two = (make_stage(device=device) for _ in range(2))
    assert await one.driver.close(0.0)
    assert len(os.listdir("/proc/self/fd")) == files + 1
    assert await two.driver.close(0.0)
    assert len(os.listdir("/proc/self/fd")) == files


# ── what else a request hears ─────────────────────────────────────────────────────────────────────


async def test_a_callback_cannot_come_between_a_batch_and_its_assembly(make_stage: MakeStage) -> None:
    """One that is dropped may cancel one that starts in the same turn; the batch runs with its row, unharmed."""
    stage = make_stage()
    stage.ask(0)
    batch = await stage.next_batch()
    victim, mate = stage.ask(2), stage.ask(3)
    patience = PATIENCE
    while True:
        doomed = stage.ask(1, deadline=time.monotonic() + patience)
        await stage.pass_of_the_loop()
        if not doomed.outcomes:
            break
        patience *= 3

    def cancel() -> None:
        victim.cancel()

    doomed.on_answer = cancel
    # Both in one turn: the instance comes back, and the deadline has passed.
    while time.monotonic() < doomed.job.deadline:
        pass
    batch.finish()
    following = await stage.next_batch()
    assert await doomed.outcome() == Refused(Reason.EXPIRED)
    assert victim.cancelled is True
    assert following.values == [2, 3]
    following.finish()
    assert await mate.answer() == [3]
    assert not victim.outcomes


async def test_the_times_of_a_request(make_stage: MakeStage) -> None:
    """One record for all of a batch: when it was assembled, run and over, its rows, and why it was started."""
    stage = make_stage(max_batch_size=4, scheduling=Scheduling(allowed_batch_sizes=(4,)))
    asks = [stage.ask(1), stage.ask(2)]
    (await stage.next_batch()).finish()
    await asks[1].answer()
    times = asks[0].job.times
    assert isinstance(times, JobTimes)
    assert times is asks[1].job.times
    assert asks[0].job.arrived <= times.assembly <= times.infer <= times.output <= time.monotonic()
    assert (times.rows, times.reason) == (4, FireReason.IDLE)
    never = stage.ask(3, deadline=0.0)
    await never.outcome()
    assert never.job.times is None


async def test_an_answer_outlives_the_batch_after_it(make_stage: MakeStage) -> None:
    """Even if the model hands its input on as its output, and the input's memory is used again."""
    stage = make_stage(max_batch_size=10_000, max_queued_rows=40_000)
    asks = [stage.ask(*range(start, start + 5000)) for start in (0, 5000)]
    batch = await stage.next_batch()
    asks += [stage.ask(*range(start, start + 5000)) for start in (10_000, 15_000)]
    await stage.pass_of_the_loop()
    held: list[object] = []
    asks[0].on_answer = lambda: held.append(asks[0].outcomes[0])
    first_inputs = batch.batch.inputs["X"]
    batch.finish()
    following = await stage.next_batch()
    assert np.shares_memory(first_inputs, following.batch.inputs["X"]), "the slot's buffer is used again"
    following.finish()
    for ask in asks:
        assert await ask.answer() == ask.values


async def test_no_deadline_is_no_deadline(make_stage: MakeStage) -> None:
    """A job that was given none has none; its timeout is in seconds."""
    stage = make_stage()
    assert stage.ask(0, timeout=0.003).job.timeout == 0.003
    ask = stage.ask(1)
    (await stage.next_batch()).finish()
    await ask.answer()
    assert ask.job.deadline == inf

"""The driver: batches out of what comes in, and one answer for each request, however its batch ends."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from penstock_scheduler import Effect, Reason
from penstock_server.backends.base import ModelBatch, Tensors
from penstock_server.backends.runner import Outcome as BatchOutcome
from penstock_server.engine.jobs import Job, Refused
from penstock_server.errors import Failure
from penstock_server.status import Status
from penstock_server.tensors.codec import Array
from tests.server.engine.conftest import MakeStage
from tests.server.engine.puppets import Ask, Stage, not_run

MS = 1e-3
PATIENCE = 5 * MS
"""What has to happen before a deadline is tried again with more of it, if this machine had its mind elsewhere."""


def answered(asks: Sequence[Ask]) -> list[int]:
    return [len(ask.outcomes) for ask in asks]


# ── batches ───────────────────────────────────────────────────────────────────────────────────────


async def test_what_comes_in_one_pass_of_the_loop_shares_a_batch(make_stage: MakeStage) -> None:
    """Without any delay, as far as the batch has room; each request gets its own rows back."""
    stage = make_stage(max_batch_size=4)
    asks = [stage.ask(10), stage.ask(20, 21), stage.ask(30), stage.ask(40)]
    assert not stage.running, "not before the pass is over"
    batch = await stage.next_batch()
    assert batch.values == [10, 20, 21, 30]
    assert [request.rows for request in batch.batch.requests] == [1, 2, 1]
    batch.finish()
    assert [await ask.answer() for ask in asks[:3]] == [[10], [20, 21], [30]]
    assert not asks[3].outcomes
    (await stage.next_batch()).finish()
    assert await asks[3].answer() == [40]


async def test_late_arrivals_fill_the_next_batch(make_stage: MakeStage) -> None:
    """While the instance runs they wait, and then go together."""
    stage = make_stage()
    first = stage.ask(1)
    batch = await stage.next_batch()
    late = [stage.ask(2), stage.ask(3)]
    await stage.pass_of_the_loop()
    assert not stage.running
    assert repr(stage.driver) == (
        "<Driver the puppet: <Scheduler open: 2 queued (2 rows), 1 running>, 0 of 1 instances idle>"
    )
    batch.finish()
    assert await first.answer() == [1]
    following = await stage.next_batch()
    assert following.values == [2, 3]
    following.finish()
    assert [await ask.answer() for ask in late] == [[2], [3]]


async def test_each_instance_runs_a_batch_of_its_own(make_stage: MakeStage) -> None:
    """As many at once as there are instances, and they may end in any order."""
    stage = make_stage(instances=2, max_batch_size=1)
    asks = [stage.ask(number) for number in range(3)]
    first, second = await stage.next_batch(), await stage.next_batch()
    await stage.pass_of_the_loop()
    assert not stage.running
    second.finish()
    assert await asks[1].answer() == [1]
    third = await stage.next_batch()
    assert third.values == [2]
    third.finish()
    first.finish()
    assert await asks[0].answer() == [0]
    assert answered(asks) == [1, 1, 1]


async def test_requests_of_different_shapes_do_not_meet(make_stage: MakeStage) -> None:
    """What may share a batch is the plan's key."""
    stage = make_stage(instances=2)
    stage.ask(1, key="a")
    stage.ask(2, key="b")
    stage.ask(3, key="a")
    assert (await stage.next_batch()).values == [1, 3]
    assert (await stage.next_batch()).values == [2]


async def test_the_queue_delay_waits_for_company(make_stage: MakeStage) -> None:
    """Requests are held back for as long as their model says, and not for less."""
    short, long = make_stage(max_queue_delay=5 * MS), make_stage(max_queue_delay=3600.0)
    began = time.monotonic()
    for stage in (long, short):
        stage.ask(1)
        stage.ask(2)
    assert (await short.next_batch()).values == [1, 2]
    assert time.monotonic() >= began + 5 * MS
    long.ask(3)
    await long.pass_of_the_loop()
    assert not long.running


async def test_a_full_batch_goes_at_once(make_stage: MakeStage) -> None:
    """Whatever the queue delay."""
    stage = make_stage(max_queue_delay=3600.0, max_batch_size=2)
    stage.ask(1)
    stage.ask(2)
    assert (await stage.next_batch()).values == [1, 2]


async def test_without_dynamic_batching_a_request_is_a_batch(make_stage: MakeStage) -> None:
    """However many rows it has, and however many requests wait."""
    stage = make_stage(batching=False, max_batch_size=8)
    asks = [stage.ask(1, 2, 3), stage.ask(4)]
    for expected in ([1, 2, 3], [4]):
        batch = await stage.next_batch()
        assert batch.values == expected
        batch.finish()
    assert [await ask.answer() for ask in asks] == [[1, 2, 3], [4]]


async def test_a_batch_of_one_request_is_a_view_of_its_bytes(make_stage: MakeStage) -> None:
    """Nothing is copied where there is nothing to join."""
    stage = make_stage()
    ask = stage.ask(7)
    raw = ask.job.tensors[0]
    batch = await stage.next_batch()
    assert np.shares_memory(batch.batch.inputs["X"], np.frombuffer(raw, np.uint8))


# ── how a batch may end ───────────────────────────────────────────────────────────────────────────


async def test_a_failed_batch_fails_each_of_its_requests(make_stage: MakeStage) -> None:
    """With the same words; the instance is free for the next."""
    stage = make_stage()
    asks = [stage.ask(1), stage.ask(2)]
    failure = Failure(Status.UNAVAILABLE, "not today")
    (await stage.next_batch()).finish(failure)
    assert [await ask.failure() for ask in asks] == [failure, failure]
    after = stage.ask(3)
    (await stage.next_batch()).finish()
    assert await after.answer() == [3]


async def test_one_request_fails_alone(make_stage: MakeStage) -> None:
    """The others get the rows that are theirs."""
    stage = make_stage()
    asks = [stage.ask(1), stage.ask(2, 3), stage.ask(4)]
    batch = await stage.next_batch()
    batch.batch.fail(1, Status.INVALID_ARGUMENT, "not this one")
    batch.finish()
    assert await asks[0].answer() == [1]
    assert await asks[1].failure() == Failure(Status.INVALID_ARGUMENT, "not this one")
    assert await asks[2].answer() == [4]


def wrong(array: object) -> dict[str, Array]:
    return {"Y": array}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({}, "output 'Y' is missing"),
        ({"y": np.zeros((2, 1), np.int64)}, "output 'Y' is missing"),
        ({"Y": np.zeros((1, 1), np.int64)}, "has shape [1,1] for a batch of 2 rows"),
        ({"Y": np.zeros((3, 1), np.int64)}, "has shape [3,1] for a batch of 2 rows"),
        ({"Y": np.zeros((), np.int64)}, "has shape [] for a batch of 2 rows"),
        ({"Y": np.zeros((2, 2), np.int64)}, "has shape [2,2], not [1]"),
        ({"Y": np.zeros((2,), np.int64)}, "has shape [2], not [1]"),
        ({"Y": np.zeros((2, 1), np.int32)}, "has numpy type int32, not INT64's <i8"),
        ({"Y": np.zeros((2, 1), ">i8")}, "has numpy type >i8, not INT64's <i8"),
        ({"Y": np.zeros((2, 1), object)}, "has numpy type object"),
        (wrong([[1], [2]]), "output 'Y' is a list, not a numpy array"),
        (wrong(None), "output 'Y' is missing"),
    ],
)
async def test_outputs_that_are_not_what_the_config_promises(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture, outputs: dict[str, Array], told: str
) -> None:
    """An internal error for every request of the batch, with an id; the log has the reason."""
    stage = make_stage()
    asks = [stage.ask(1), stage.ask(2)]
    with caplog.at_level(logging.ERROR):
        (await stage.next_batch()).finish(outputs)
    for ask in asks:
        failure = await ask.failure()
        assert failure.status is Status.INTERNAL
        assert failure.message.startswith("internal error (error id ")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert told in caplog.text
    after = stage.ask(3)
    (await stage.next_batch()).finish()
    assert await after.answer() == [3]


async def test_something_that_is_no_mapping_at_all(make_stage: MakeStage) -> None:
    """A model that returns nothing, or a list, still answers its requests."""
    stage = make_stage()
    nothings: list[Any] = [None, [], 7]
    for nonsense in nothings:
        ask = stage.ask(1)
        batch = await stage.next_batch()
        batch._done(batch.batch, nonsense)
        assert (await ask.failure()).status is Status.INTERNAL


async def test_a_batch_that_cannot_be_started(make_stage: MakeStage) -> None:
    """Its requests are told, the instance comes back."""
    stage = make_stage()

    def fail(batch: ModelBatch) -> None:
        raise MemoryError

    stage.on_start = fail
    asks = [stage.ask(1), stage.ask(2)]
    for ask in asks:
        failure = await ask.failure()
        assert (failure.status, failure.unforeseen) == (Status.INTERNAL, True)
    stage.on_start = None
    after = stage.ask(3)
    (await stage.next_batch()).finish()
    assert await after.answer() == [3]
    assert stage.driver.counters.fail.count == 2


async def test_bytes_that_do_not_make_an_array(make_stage: MakeStage) -> None:
    """The service checks sizes before; were one to slip through, it is an answer and not a hang."""
    stage = make_stage()
    ask = Ask(stage, [1])
    ask.job.tensors = [b"odd"]
    stage.driver.submit(ask.job)
    assert (await ask.failure()).status is Status.INTERNAL
    assert stage.driver.statistics().running == 0


async def test_a_callback_that_raises_hurts_nobody_else(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Its batch-mates get their answers, and it does not get a second one."""
    stage = make_stage()
    asks = [stage.ask(1), stage.ask(2), stage.ask(3)]

    def fail() -> None:
        raise ValueError("the transport is broken")

    asks[1].on_answer = fail
    with caplog.at_level(logging.ERROR):
        (await stage.next_batch()).finish()
    assert [await ask.answer() for ask in asks] == [[1], [2], [3]]
    assert "a request's completion callback failed" in caplog.text
    assert stage.driver.counters.success.count == 3


async def test_a_request_may_ask_again_from_its_callback(make_stage: MakeStage) -> None:
    """Answers call into the server at any time."""
    stage = make_stage()
    again: list[Ask] = []
    first = stage.ask(1)
    first.on_answer = lambda: again.append(stage.ask(2))
    (await stage.next_batch()).finish()
    (await stage.next_batch()).finish()
    assert await again[0].answer() == [2]


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(make_stage: MakeStage) -> None:
    """The time is what the queue takes at what batches have cost of late."""
    stage = make_stage(max_queued_rows=2, max_batch_size=2)
    first = stage.ask(0)
    batch = await stage.next_batch()
    queued = stage.ask(1, 2)
    assert await stage.ask(3).outcome() == Refused(Reason.QUEUE_FULL, 0.001), "nothing has been measured yet"
    stage.driver.scheduler.cost.seed(2, 10.0)
    assert await stage.ask(4).outcome() == Refused(Reason.QUEUE_FULL, 10.0)
    batch.finish()
    assert await first.answer() == [0]
    (await stage.next_batch()).finish()
    assert await queued.answer() == [1, 2]
    assert not_run(stage) == {"queue_full": 2}


async def test_the_time_to_come_back_is_shared_by_the_instances(make_stage: MakeStage) -> None:
    """Twice as many instances, half the time."""
    stage = make_stage(max_queued_rows=4, max_batch_size=1, instances=2)
    stage.driver.scheduler.cost.seed(1, 10.0)
    running = [stage.ask(0), stage.ask(1)]
    batches = [await stage.next_batch(), await stage.next_batch()]
    queued = [stage.ask(number) for number in range(4)]
    assert await stage.ask(9).outcome() == Refused(Reason.QUEUE_FULL, 4 * 10.0 / 2)
    for batch in batches:
        batch.finish()
    for _ in queued:
        (await stage.next_batch()).finish()
    assert [await ask.answer() for ask in running] == [[0], [1]]


async def test_a_batch_teaches_what_it_cost(make_stage: MakeStage) -> None:
    """From the beginning of its assembly to when its instance is back.

    The first of a size is a cold one, and one that failed was cut short: they teach nothing.
    """
    stage = make_stage(max_batch_size=1)
    cost = stage.driver.scheduler.cost
    created = time.monotonic()
    endings: list[Tensors | None] = [None, {}]
    for outcome in endings:
        ask = stage.ask(1)
        (await stage.next_batch()).finish(outcome)
        await ask.outcome()
        assert cost.of(1) == 0
    began = time.monotonic()
    ask = stage.ask(2)
    (await stage.next_batch()).finish()
    await ask.answer()
    assert 0 < cost.of(1) <= time.monotonic() - began
    assert 0 < cost.margin <= time.monotonic() - created


async def test_a_deadline_that_has_passed_is_refused_at_once(make_stage: MakeStage) -> None:
    """Nothing is queued for it."""
    stage = make_stage()
    assert await stage.ask(1, deadline=time.monotonic() - 1).outcome() == Refused(Reason.EXPIRED)
    await stage.pass_of_the_loop()
    assert not stage.running
    assert not_run(stage) == {"expired": 1}


async def test_a_deadline_that_passes_in_the_queue(make_stage: MakeStage) -> None:
    """The request is told then, not when the instance comes back, and does not run."""
    stage = make_stage()
    stage.ask(1)
    batch = await stage.next_batch()
    deadline = time.monotonic() + 3 * MS
    doomed, patient = stage.ask(2, deadline=deadline), stage.ask(3)
    assert await doomed.outcome() == Refused(Reason.EXPIRED)
    assert time.monotonic() >= deadline
    batch.finish()
    assert (await stage.next_batch()).values == [3]
    assert not patient.outcomes


async def test_a_deadline_that_passes_in_the_model_changes_nothing(make_stage: MakeStage) -> None:
    """The answer is there before the client is known not to want it; the transport decides."""
    patience = PATIENCE
    while True:
        stage = make_stage()
        deadline = time.monotonic() + patience
        ask = stage.ask(1, deadline=deadline)
        await stage.pass_of_the_loop()
        if stage.running:
            break
        patience *= 3
    batch = await stage.next_batch()
    waits = stage.ask(2, deadline=deadline + MS)
    assert await waits.outcome() == Refused(Reason.EXPIRED)
    batch.finish()
    assert await ask.answer() == [1]


# ── cancellation ──────────────────────────────────────────────────────────────────────────────────


async def test_a_request_that_is_cancelled_in_the_queue_is_not_run(make_stage: MakeStage) -> None:
    """And never answered; its rows are free for others at once."""
    stage = make_stage(max_queued_rows=1)
    first = stage.ask(1)
    batch = await stage.next_batch()
    gone = stage.ask(2)
    await stage.pass_of_the_loop()
    assert gone.cancel()
    assert not gone.cancel(), "only once"
    assert not gone.job.tensors, "its bytes are let go"
    instead = stage.ask(3)
    batch.finish()
    assert (await stage.next_batch()).values == [3]
    assert await first.answer() == [1]
    assert answered([gone, instead]) == [0, 0]
    assert not_run(stage) == {"cancelled": 1}


async def test_a_request_that_is_cancelled_before_the_turn(make_stage: MakeStage) -> None:
    """In the same pass of the loop in which it came."""
    stage = make_stage()
    gone, stays = stage.ask(1), stage.ask(2)
    assert gone.cancel()
    assert (await stage.next_batch()).values == [2]
    assert answered([gone, stays]) == [0, 0]


async def test_a_request_that_is_cancelled_in_its_batch_stays_there(make_stage: MakeStage) -> None:
    """Its row is computed and dropped; the others' rows do not move."""
    stage = make_stage()
    asks = [stage.ask(1), stage.ask(2), stage.ask(3)]
    batch = await stage.next_batch()
    assert asks[1].cancel()
    batch.finish()
    assert await asks[0].answer() == [1]
    assert await asks[2].answer() == [3]
    assert answered(asks) == [1, 0, 1]
    assert not_run(stage) == {}


async def test_cancelling_what_was_answered_does_nothing(make_stage: MakeStage) -> None:
    """Transports cancel whatever ends, answered or not."""
    stage = make_stage()
    ask = stage.ask(1)
    (await stage.next_batch()).finish()
    await ask.answer()
    assert not ask.cancel()
    late = stage.ask(2, deadline=0.0)
    await late.outcome()
    assert not late.cancel()
    assert not_run(stage) == {"expired": 1}


async def test_a_batch_may_be_cancelled_by_its_own_answers(make_stage: MakeStage) -> None:
    """A connection that breaks while the first answer is written cancels the others of its batch."""
    stage = make_stage()
    asks = [stage.ask(1), stage.ask(2), stage.ask(3)]

    def break_off() -> None:
        for ask in asks[1:]:
            ask.cancel()

    asks[0].on_answer = break_off
    (await stage.next_batch()).finish()
    await stage.pass_of_the_loop()
    assert answered(asks) == [1, 0, 0]


# ── the end ───────────────────────────────────────────────────────────────────────────────────────


def drained(stage: Stage) -> list[str]:
    told: list[str] = []
    stage.driver.drain(lambda: told.append("idle"))
    return told


async def test_a_drain_runs_what_is_queued_and_refuses_the_rest(make_stage: MakeStage) -> None:
    """It tells once, when the last batch has ended."""
    stage = make_stage(max_queue_delay=3600.0, max_batch_size=2)
    asks = [stage.ask(1), stage.ask(2), stage.ask(3)]
    batch = await stage.next_batch()
    asks.append(stage.ask(3))
    told = drained(stage)
    assert await stage.ask(4).outcome() == Refused(Reason.DRAINING)
    batch.finish()
    last = await stage.next_batch()
    assert last.values == [3, 3], "what came before the drain, though in the same pass of the loop, is run"
    assert told == []
    last.finish()
    await stage.pass_of_the_loop()
    assert told == ["idle"]
    assert answered(asks) == [1, 1, 1, 1]


async def test_a_drain_is_over_once(make_stage: MakeStage) -> None:
    """The alarm for a deadline that no longer matters may still go off, and nobody is told again."""
    clock = make_stage()
    clock.ask(3)
    await clock.next_batch()
    patience = PATIENCE
    while True:
        stage = make_stage()
        deadline = time.monotonic() + patience
        ask, waits = stage.ask(1, 2, deadline=deadline), stage.ask(3, 4, 5, deadline=deadline)
        await stage.pass_of_the_loop()
        if stage.running:
            (await stage.next_batch()).finish()
            await stage.pass_of_the_loop()
        if stage.running:
            break
        patience *= 3
    (await stage.next_batch()).finish()
    told = drained(stage)
    await clock.ask(4, deadline=deadline + 2 * MS).outcome()
    await stage.pass_of_the_loop()
    assert told == ["idle"]
    assert answered([ask, waits]) == [1, 1]


async def test_a_drain_of_an_idle_model(make_stage: MakeStage) -> None:
    """Is over at once, though not before the call returns."""
    stage = make_stage()
    told = drained(stage)
    assert told == []
    await stage.pass_of_the_loop()
    assert told == ["idle"]


async def test_a_drain_ends_when_the_last_request_is_cancelled(make_stage: MakeStage) -> None:
    """There may be nobody left to wait for."""
    stage = make_stage()
    first = stage.ask(1)
    batch = await stage.next_batch()
    second = stage.ask(2)
    told = drained(stage)
    batch.finish()
    second.cancel()
    await stage.pass_of_the_loop()
    assert told == ["idle"]
    assert await first.answer() == [1]


async def test_a_drain_waits_for_the_answers(make_stage: MakeStage) -> None:
    """It tells when the last of them is out, and not when the last instance is back."""
    stage = make_stage(max_batch_size=1, instances=2)
    ask, cancelled = stage.ask(1), stage.ask(2)
    first, second = await stage.next_batch(), await stage.next_batch()
    third = stage.ask(3)
    await stage.pass_of_the_loop()
    answers_when_told: list[list[int]] = []
    stage.driver.drain(lambda: answers_when_told.append(answered([ask, cancelled])))
    first.finish()  # the third waits for this instance, so the answer comes a little later
    second.finish()
    third.cancel()
    await stage.pass_of_the_loop()
    assert answers_when_told == [[1, 1]]


async def test_close_closes_every_instance(make_stage: MakeStage) -> None:
    """And tells whether all of them came to an end."""
    stage = make_stage(instances=2)
    assert await stage.driver.close(0.0)
    assert all(runner.closed for runner in stage.runners)


async def test_a_model_that_hangs_is_told_by_close(make_stage: MakeStage) -> None:
    """The others are closed all the same; an answer that comes later still reaches its request."""
    stage = make_stage(instances=2)
    ask = stage.ask(1)
    batch = await stage.next_batch()
    assert not await stage.driver.close(0.0)
    assert all(runner.closed for runner in stage.runners)
    batch.finish()
    assert await ask.answer() == [1]
    await stage.pass_of_the_loop()


# ── statistics ────────────────────────────────────────────────────────────────────────────────────


async def test_the_next_batch_starts_before_the_last_ones_answers(make_stage: MakeStage) -> None:
    """An instance does not idle while answers are written."""
    stage = make_stage(max_batch_size=1)
    first, second = stage.ask(1), stage.ask(2)
    started: list[int] = []
    first.on_answer = lambda: started.append(len(stage.running))
    (await stage.next_batch()).finish()
    assert await first.answer() == [1]
    assert started == [1]
    (await stage.next_batch()).finish()
    assert await second.answer() == [2]


async def test_statistics_count_requests_rows_and_batches(make_stage: MakeStage) -> None:
    """As the protocol has them: a batch of rows is one execution, each request one success."""
    stage = make_stage(max_batch_size=4, max_queued_rows=4)
    counters = stage.driver.counters
    stage.ask(1)
    stage.ask(2, 3)
    (await stage.next_batch()).finish()
    stage.ask(4)
    batch = await stage.next_batch()
    for _ in range(5):
        stage.ask(5)
    await stage.pass_of_the_loop()
    batch.finish()
    (await stage.next_batch()).finish()
    await stage.pass_of_the_loop()
    assert counters.success.count == 7
    assert counters.inference_count == 8
    assert counters.execution_count == 3
    assert {rows: batch.compute_infer.count for rows, batch in counters.batches.items()} == {3: 1, 1: 1, 4: 1}
    for duration in (counters.queue, counters.compute_input, counters.compute_infer, counters.compute_output):
        assert duration.count == 7
        assert duration.seconds >= 0
    assert counters.fail.count == 0
    assert not_run(stage) == {"queue_full": 1}
    assert abs(counters.last_inference_ms - time.time() * 1000) < 60_000


async def test_the_times_of_a_request_add_up(make_stage: MakeStage) -> None:
    """Queue, input, model and output are the whole of its time in the server."""
    stage = make_stage()
    counters = stage.driver.counters
    for _ in range(3):
        stage.ask(1)
        stage.ask(2)
        (await stage.next_batch()).finish()
    parts = (counters.queue, counters.compute_input, counters.compute_infer, counters.compute_output)
    assert sum(part.seconds for part in parts) == pytest.approx(counters.success.seconds, rel=1e-6)
    assert all(part.ns == int(part.seconds * 1e9) for part in parts)


async def test_deliberate_errors_are_successes_and_unforeseen_ones_failures(make_stage: MakeStage) -> None:
    """As Triton counts: the model has done what it wanted, or it has not."""
    stage = make_stage()
    counters = stage.driver.counters
    stage.ask(1)
    (await stage.next_batch()).finish(Failure(Status.NOT_FOUND, "deliberate"))
    stage.ask(2)
    batch = await stage.next_batch()
    batch.batch.fail(0, Status.INVALID_ARGUMENT, "this one")
    batch.finish()
    assert (counters.success.count, counters.fail.count, counters.execution_count) == (2, 0, 2)
    stage.ask(3)
    stage.ask(4)
    (await stage.next_batch()).finish(Failure(Status.INTERNAL, "internal error", unforeseen=True))
    stage.ask(5)
    (await stage.next_batch()).finish({})
    assert (counters.success.count, counters.fail.count, counters.execution_count) == (2, 3, 2)
    assert counters.fail.seconds > 0


async def test_batches_that_run_at_once_follow_one_another(make_stage: MakeStage) -> None:
    """Each in a turn of its own, so that others come between; with answers, failures and counts as any batch."""
    stage = make_stage(max_batch_size=2)
    turns: list[int] = []
    passes = 0

    def run(batch: ModelBatch) -> BatchOutcome:
        turns.append(passes)
        if batch.inputs["X"][0, 0] == 9:
            return Failure(Status.ABORTED, "as told")
        return {"Y": batch.inputs["X"]}

    stage.at_once = run
    asks = [stage.ask(1, 2), stage.ask(3), stage.ask(4), stage.ask(9)]
    for _ in range(6):
        await asyncio.sleep(0)
        passes += 1
    assert [await ask.answer() for ask in asks[:3]] == [[1, 2], [3], [4]]
    assert await asks[3].failure() == Failure(Status.ABORTED, "as told")
    assert len(set(turns)) == len(turns) == 3
    assert stage.driver.counters.inline_count == 3
    assert stage.driver.counters.execution_count == 3
    assert stage.driver.scheduler.is_idle


async def test_a_part_that_fails_at_once_leaves_the_other_batches_alone(make_stage: MakeStage) -> None:
    """The rest of its request is in a batch that is still to be put together, beside somebody else's."""
    stage = make_stage(instances=2, max_batch_size=4)
    ends = iter([Failure(Status.INTERNAL, "broken")])
    stage.at_once = lambda batch: next(ends, {"Y": batch.inputs["X"]})
    large, other = stage.ask(*range(6)), stage.ask(7)
    assert await large.failure() == Failure(Status.INTERNAL, "broken")
    assert await other.answer() == [7]


async def test_who_is_cancelled_in_part_leaves_the_batch_of_others_alone(make_stage: MakeStage) -> None:
    """A part of it is in a batch that is still to be put together, the rest waits."""
    stage = make_stage(instances=2, max_batch_size=4)
    stage.at_once = lambda batch: {"Y": batch.inputs["X"]}
    first, other, large = stage.ask(*range(4)), stage.ask(7), stage.ask(*range(9))
    first.on_answer = large.cancel
    assert await other.answer() == [7]
    assert large.outcomes == []
    assert stage.driver.scheduler.is_idle


async def test_a_batch_that_runs_at_once_lets_a_drain_end(make_stage: MakeStage) -> None:
    """There is no later callback that could do it."""
    stage = make_stage()
    stage.at_once = lambda batch: {"Y": batch.inputs["X"]}
    ask = stage.ask(1)
    idle = asyncio.Event()
    stage.driver.drain(idle.set)
    await idle.wait()
    assert await ask.answer() == [1]


async def test_what_a_model_asks_of_its_requests(make_stage: MakeStage) -> None:
    """It is made when it asks, and then it is a sequence like any other."""
    stage = make_stage()
    for ask in (stage.ask(1, 2), stage.ask(3)):
        del ask
    batch = await stage.next_batch()
    requests = batch.batch.requests
    assert len(requests) == 2
    assert [info.rows for info in requests] == [2, 1]
    assert requests[-1] is requests[1]
    assert [info.rows for info in requests[1:]] == [1]
    assert list(batch.batch.wanted_outputs()) == ["Y"]
    batch.finish()


async def test_an_alarm_takes_the_turn_that_is_due(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second one for the same; the next is due as ever."""
    stage = make_stage()
    scheduler, turns = stage.driver.scheduler, stage.driver._turns
    poll, polls = scheduler.poll, list[float]()

    def watched(now: float) -> list[Effect[Job]]:
        polls.append(now)
        return poll(now)

    monkeypatch.setattr(scheduler, "poll", watched)
    turns.soon()
    turns._turn()  # as the alarm does
    await stage.pass_of_the_loop()
    assert len(polls) == 1
    turns.soon()
    turns._turn()
    turns.soon()
    await stage.pass_of_the_loop()
    assert len(polls) == 3


async def test_an_answer_may_cancel_a_request_of_the_next_batch_of_its_turn() -> None:
    """That batch was formed already: it runs with the request in it, and the others get theirs."""
    stage = Stage(instances=2, max_batch_size=2)
    stage.at_once = lambda batch: {"Y": batch.inputs["X"]}
    first, *_ = asks = [stage.ask(n) for n in range(4)]
    first.on_answer = asks[2].cancel
    assert await asks[3].answer() == [3]
    assert asks[2].outcomes == []
    await stage.driver.close(0.0)

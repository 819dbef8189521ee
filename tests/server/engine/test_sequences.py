"""Sequences in the engine: states that follow them, rows that stay theirs, rounds, and what ends them."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from penstock_proto.datatypes import DATATYPES
from penstock_scheduler import Reason, State
from penstock_server.backends.base import ModelBatch, RequestInfo
from penstock_server.backends.onnx import OnnxBackend
from penstock_server.backends.python import PythonBackend
from penstock_server.backends.runner import Done
from penstock_server.backends.runner import Outcome as RunOutcome
from penstock_server.engine.jobs import Job, Outcome, Outputs, Plan, Refused, StreamedJob
from penstock_server.engine.loading import LoadSettings, load_model
from penstock_server.engine.sequences import SequenceDriver
from penstock_server.engine.versions import ServedVersion
from penstock_server.errors import Failure
from penstock_server.models.repository import scan
from penstock_server.status import Status
from tests.server.backends import onnx_graphs

TENSORS = """
input { name: "X" data_type: TYPE_INT32 dims: 1 }
output { name: "Y" data_type: TYPE_INT32 dims: 1 }
output { name: "ROWS" data_type: TYPE_INT32 dims: 1 }
"""
IDLE = "max_sequence_idle_microseconds: 3600000000"  # an hour: no sequence ends since this machine is slow
STATE = """
state { input_name: "SUM" output_name: "NEW_SUM" data_type: TYPE_INT32 dims: 1 }
"""
# Fails for -1, and the whole batch for -2. Keeps nothing itself.
ADDER = """
import numpy as np
from penstock_server.backends.python import ModelError, PythonModel, Status

class Adder(PythonModel):
    def infer(self, inputs, batch):
        x, total = inputs["X"], inputs["X"] + inputs["SUM"]
        if (x == -2).any():
            raise ModelError(Status.INTERNAL, "all of it")
        for row in np.flatnonzero(x[:, 0] == -1):
            batch.fail(int(row), Status.INTERNAL, "this one")
        return {"Y": total, "NEW_SUM": total, "ROWS": np.full_like(x, len(x))}
"""
# Y says for each row: which row it is, whether it is ready, and whether it starts.
SEATS = """
import numpy as np
from penstock_server.backends.python import PythonModel

class Seats(PythonModel):
    def infer(self, inputs, batch):
        rows = np.arange(batch.rows, dtype=np.int32).reshape(-1, 1)
        assert (inputs["X"][inputs["READY"] == 0] == 0).all()
        assert [request.ready for request in batch.requests] == (inputs["READY"][:, 0] == 1).tolist()
        assert [request.correlation_id for request in batch.requests] == inputs["ID"][:, 0].tolist()
        return {"Y": 100 * inputs["START"] + 10 * inputs["END"] + rows, "ROWS": np.full_like(rows, batch.rows)}
"""
# Counts down from X, a round each.
COUNTDOWN = """
import numpy as np
from penstock_server.backends.python import ModelError, PythonModel, Status

class Countdown(PythonModel):
    def infer(self, inputs, batch):
        left = np.where(inputs["START"] == 1, inputs["X"], inputs["SUM"])
        for row in np.flatnonzero(left[:, 0] > 0):
            batch.reschedule(int(row))
        for row in np.flatnonzero(left[:, 0] == 1313):
            batch.fail(int(row), Status.INTERNAL, "unlucky")
        return {"Y": left, "NEW_SUM": left - 1, "ROWS": np.full_like(left, len(left))}
"""
CONTROLS = "".join(
    f'control_input {{ name: "{kind}" control {{ kind: CONTROL_SEQUENCE_{kind} int32_false_true: [0, 1] }} }}\n'
    for kind in ("START", "END", "READY")
) + ('control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }\n')

Load = Callable[..., Awaitable[ServedVersion]]


class Step(Job):
    """A request and its answer."""

    def __init__(
        self,
        version: ServedVersion,
        value: int | bytes,
        id: int | str,
        start: bool,
        end: bool,
        deadline: float,
        lasts: bool = False,
    ) -> None:
        info = RequestInfo(
            1,
            outputs=("Y", "ROWS"),
            correlation_id=id,
            sequence_start=start,
            sequence_end=end,
            sequence_lasts=lasts,
        )
        raw = value if isinstance(value, bytes) else np.array([value], "<i4").tobytes()
        super().__init__(plan(version), [raw], info, time.monotonic(), deadline=deadline)
        self.outcomes: list[Outcome] = []
        self.on_answer: Callable[[], None] = lambda: None
        self._came = asyncio.Event()
        version.driver.submit(self)

    def answer(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._came.set()
        self.on_answer()

    async def values(self) -> tuple[int, int]:
        """Y and ROWS."""
        outcome = await self.outcome()
        assert isinstance(outcome, list), outcome
        return int(outcome[0].reshape(-1)[0]), int(outcome[1].reshape(-1)[0])

    async def y(self) -> int:
        return (await self.values())[0]

    async def failure(self) -> Failure:
        outcome = await self.outcome()
        assert isinstance(outcome, Failure), outcome
        return outcome

    async def outcome(self) -> Outcome:
        await asyncio.wait_for(self._came.wait(), 60)
        (outcome,) = self.outcomes
        return outcome


class Stream(StreamedJob):
    """A request to a decoupled model."""

    def __init__(self, version: ServedVersion, value: int, room: int = 1 << 30) -> None:
        raw = np.array([value], "<i4").tobytes()
        super().__init__(plan(version), [raw], RequestInfo(1, outputs=("Y", "ROWS")), time.monotonic())
        self.room = room
        self.responses: list[int] = []
        self.outcomes: list[Outcome] = []
        self.on_end: Callable[[], object] = bool
        self._news = asyncio.Event()
        version.driver.submit(self)

    def respond(self, outputs: Outputs) -> bool:
        self.responses.append(int(outputs[0].reshape(-1)[0]))
        self.room -= 1
        self._news.set()
        return self.room > 0

    def answer(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._news.set()
        self.on_end()

    async def reached(self, count: int) -> None:
        while len(self.responses) < count:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 60)

    async def end(self) -> Outcome:
        while not self.outcomes:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 60)
        (outcome,) = self.outcomes
        return outcome


def plan(version: ServedVersion) -> Plan:
    length = int(bool(version.spec.scheduling.length_buckets))
    return Plan(version, 1, version.spec.inputs, ((-1 if length else 1,),), (0, 1), (0, 0), (), length)


def step(
    version: ServedVersion,
    value: int | bytes,
    id: int | str = 1,
    *,
    start: bool = False,
    end: bool = False,
    deadline: float = inf,
) -> Step:
    return Step(version, value, id, start, end, deadline)


def driver_of(version: ServedVersion) -> SequenceDriver:
    assert isinstance(version.driver, SequenceDriver)
    return version.driver


async def no_sequences(version: ServedVersion) -> None:
    """Run requests until none of those before them is left."""
    while driver_of(version).sequence_statistics().active:
        await step(version, 0, id=0).y()


@pytest.fixture
async def load(tmp_path: Path) -> AsyncIterator[Load]:
    """Loads one model; in the end nothing of its sequences may be left that nobody waits for."""
    versions: list[ServedVersion] = []

    async def load(
        text: str | bytes,
        batching: str,
        more: str = "max_batch_size: 4",
        tensors: str = TENSORS,
        idle: str = IDLE,
    ) -> ServedVersion:
        folder = tmp_path / "m" / "1"
        folder.mkdir(parents=True)
        if isinstance(text, bytes):
            (folder / "model.onnx").write_bytes(text)
        else:
            (folder / "model.py").write_text(text)
        (tmp_path / "m" / "config.pbtxt").write_text(f"{tensors} {more} sequence_batching {{ {idle} {batching} }}")
        backends = {backend.name: backend for backend in (PythonBackend(), OnnxBackend(1))}
        model = await load_model(scan(tmp_path).models["m"], backends, LoadSettings())
        assert model.ready, model.states
        versions.append(model.served[1])
        return versions[0]

    yield load
    for version in versions:
        driver = driver_of(version)
        assert driver.scheduler.is_idle
        assert driver.table.is_idle
        assert await driver.close(60.0)


OLDEST = f"oldest {{ max_candidate_sequences: 8 }} {STATE}"


async def test_a_state_follows_its_sequence(load: Load) -> None:
    """Zero at first, and again after the END."""
    version = await load(ADDER, OLDEST)
    assert [await step(version, n, start=n == 1, end=n == 3).y() for n in (1, 2, 3)] == [1, 3, 6]
    assert await step(version, 5, start=True, end=True).y() == 5


async def test_every_step_asks_for_the_same_outputs(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its requests and the states, each once."""
    version = await load(ADDER, OLDEST)
    (runner,) = driver_of(version)._runners
    start, wanted = runner.start, list[list[str]]()

    def watched(batch: ModelBatch, done: Done) -> RunOutcome | None:
        wanted.append(list(batch.wanted_outputs()))
        return start(batch, done)

    monkeypatch.setattr(runner, "start", watched)
    for number in (1, 2, 3):
        await step(version, number, start=number == 1, end=number == 3).y()
    assert len(wanted) == 3
    assert wanted[0] == wanted[1] == wanted[2] == list(dict.fromkeys(wanted[0]))


@pytest.mark.parametrize("strategy", ["direct {}", "oldest { max_candidate_sequences: 8 }"])
@pytest.mark.parametrize("count", ["", "instance_group { count: 3 kind: KIND_CPU }"], ids=["one", "three"])
async def test_every_sequence_gets_what_it_would_get_alone(load: Load, strategy: str, count: str) -> None:
    """Under any interleaving, with more sequences than seats, on one instance or on some."""
    version = await load(ADDER, f"{strategy} {STATE}", f"max_batch_size: 4 {count}")
    rng = random.Random(7)
    waiting = {id: [rng.randrange(100) for _ in range(rng.randrange(1, 8))] for id in range(1, 40)}
    asked: dict[int, list[tuple[Step, int]]] = {id: [] for id in waiting}
    while waiting:
        id = rng.choice(list(waiting))
        value = waiting[id].pop(0)
        total = value + (asked[id][-1][1] if asked[id] else 0)
        asked[id].append((step(version, value, id, start=not asked[id], end=not waiting[id]), total))
        if not waiting[id]:
            del waiting[id]
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    for steps in asked.values():
        for each, total in steps:
            assert await each.y() == total
    assert driver_of(version).sequence_statistics().active == 0


async def test_steps_of_different_sequences_share_a_batch(load: Load) -> None:
    """And those of one do not: they wait for each other."""
    version = await load(ADDER, OLDEST)
    first = [step(version, 1, id, start=True) for id in range(1, 5)]
    second = [step(version, 1, id, end=True) for id in range(1, 5)]
    assert [await each.values() for each in first] == [(1, 4)] * 4
    assert [await each.values() for each in second] == [(2, 4)] * 4


async def test_a_sequence_keeps_its_row(load: Load) -> None:
    """Rows of others that have nothing to run are passed on as not ready, up to the highest that has."""
    version = await load(SEATS, f"direct {{}} {CONTROLS}")
    assert [await step(version, 0, id, start=True).values() for id in (7, 8, 9)] == [(100, 1), (101, 2), (102, 3)]
    assert await step(version, 1, 9).values() == (2, 3)
    assert await step(version, 1, 7, end=True).values() == (10, 1)
    assert await step(version, 1, 5, start=True, end=True).values() == (110, 1)
    for id in (8, 9):
        await step(version, 1, id, end=True).values()


async def test_a_warm_up_is_the_first_step_of_sequences(load: Load) -> None:
    """With states and controls, which its inputs do not name."""
    x = 'inputs { key: "X" value { data_type: TYPE_INT32 dims: 1 zero_data: true } }'
    warmup = f'max_batch_size: 4 model_warmup {{ name: "w" batch_size: 3 {x} }}'
    version = await load(COUNTDOWN, f"oldest {{}} {STATE} {CONTROLS}", warmup)
    assert await step(version, 0, start=True, end=True).y() == 0


async def test_without_a_batch_axis_sequences_take_turns(load: Load) -> None:
    """One seat for each instance; the others wait until it is free."""
    version = await load(ADDER.replace("x[:, 0]", "x"), f"direct {{}} {STATE}", "")
    one, other = step(version, 1, 1, start=True), step(version, 10, 2, start=True, end=True)
    assert await one.y() == 1
    assert driver_of(version).sequence_statistics().backlog == 1
    assert await step(version, 2, 1, end=True).y() == 3
    assert await other.y() == 10


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────


async def test_a_step_that_fails_leaves_its_state_as_it_was(load: Load) -> None:
    """Alone or with its whole batch; others in the batch go on."""
    version = await load(ADDER, OLDEST)
    await step(version, 5, 1, start=True).y()
    await step(version, 6, 2, start=True).y()
    bad, good = step(version, -1, 1), step(version, 1, 2)
    assert (await bad.failure()).message == "this one"
    assert await good.y() == 7
    assert (await step(version, -2, 1).failure()).message == "all of it"
    assert await step(version, 1, 1, end=True).y() == 6
    assert await step(version, 1, 2, end=True).y() == 8


@pytest.mark.parametrize(
    ("id", "start", "message"),
    [
        (
            6, False,
            "inference request for sequence 6 to model 'm' must specify the START flag on the first request of the "
            "sequence",
        ),
        (0, True, "inference request to model 'm' must specify a non-zero or non-empty correlation ID"),
        ("", True, "inference request to model 'm' must specify a non-zero or non-empty correlation ID"),
    ],
)  # fmt: skip
async def test_requests_that_are_of_no_sequence(load: Load, id: int | str, start: bool, message: str) -> None:
    """In Triton's words, where it has some."""
    version = await load(SEATS, f"oldest {{}} {CONTROLS}")
    assert await step(version, 1, id, start=start).failure() == Failure(Status.INVALID_ARGUMENT, message)


async def test_text_is_the_number_0_to_a_model_that_takes_numbers(load: Load) -> None:
    """If the dialect lets it in, as Triton does; the sequences are different ones all the same."""
    version = await load(SEATS.replace(" == inputs", " != inputs"), f"direct {{}} {CONTROLS}")
    assert [await step(version, 1, id, start=True).y() for id in ("a", "b")] == [100, 101]
    assert [await step(version, 1, id, end=True).y() for id in ("a", "b")] == [10, 11]


async def test_a_cancelled_step_ends_its_sequence(load: Load) -> None:
    """Those behind it hear why; a new one of the same id may begin."""
    version = await load(ADDER, OLDEST)
    first, second, third = step(version, 1, start=True), step(version, 1), step(version, 1)
    assert second.cancel()
    assert (await third.failure()).status is Status.ABORTED
    await first.y()
    assert (await step(version, 1).failure()).status is Status.INVALID_ARGUMENT
    assert await step(version, 9, start=True, end=True).y() == 9
    assert second.outcomes == []


async def test_what_follows_a_step_runs_before_its_answer(load: Load) -> None:
    """An instance does not idle while answers are written. A step that has run is not cancelled any more."""
    version = await load(ADDER, OLDEST)
    first, other, second = step(version, 1, start=True), step(version, 5, 2, start=True), step(version, 2)
    seen: list[object] = []
    first.on_answer = lambda: seen.extend((second.state, other.cancel()))
    assert await first.values() == (1, 2)
    assert seen == [State.RUNNING, False]
    assert await other.values() == (5, 2)
    assert await second.values() == (3, 1)
    assert await step(version, 5, 2, end=True).y() == 10


async def test_a_step_that_is_cancelled_before_it_runs_gives_its_seat_back(load: Load) -> None:
    """It was ready, and in no batch yet."""
    version = await load(ADDER, f"direct {{}} {STATE}", "max_batch_size: 1")
    only, waiting = step(version, 1, 1, start=True), step(version, 2, 2, start=True, end=True)
    assert only.cancel()
    assert await waiting.y() == 2
    assert driver_of(version).sequence_statistics().active == 0


async def test_a_deadline_that_has_passed_ends_the_sequence(load: Load) -> None:
    """What the model remembers would be wrong from there on."""
    version = await load(ADDER, OLDEST)
    await step(version, 1, start=True).y()
    late = step(version, 1, deadline=time.monotonic() - 1)
    assert not isinstance(await late.outcome(), list | Failure)
    assert (await step(version, 1).failure()).status is Status.INVALID_ARGUMENT


async def test_a_sequence_that_is_idle_too_long_gives_its_seat_back(load: Load) -> None:
    """By time alone: nothing else happens meanwhile."""
    idle = "max_sequence_idle_microseconds: 1000"
    version = await load(ADDER, f"direct {{}} {STATE}", "max_batch_size: 1", idle=idle)
    first, waiting = step(version, 1, 1, start=True), step(version, 2, 2, start=True, end=True)
    assert (await first.y(), await waiting.y()) == (1, 2)
    assert driver_of(version).sequence_statistics().idle_ended == 1


async def test_a_forgotten_sequence_gives_its_seat_back(load: Load) -> None:
    """Its stream is gone."""
    version = await load(ADDER, OLDEST)
    await step(version, 1, start=True).y()
    version.driver.forget(1)
    assert driver_of(version).sequence_statistics().active == 1, "it is a client's, and no stream's"
    await step(version, 1, end=True).y()
    own = Step(version, 1, 1, True, False, inf, lasts=True)
    assert await own.y() == 1
    assert (await step(version, 1).failure()).status is Status.INVALID_ARGUMENT, "whoever makes up its id is not in it"
    version.driver.forget(1)
    assert driver_of(version).sequence_statistics().active == 0


async def test_a_bad_state_fails_the_batch(load: Load) -> None:
    """With an error id, and the seats keep what they had."""
    version = await load(ADDER.replace('"NEW_SUM": total', '"NEW_SUM": total.astype(np.int64)'), OLDEST)
    assert (await step(version, 1, start=True).failure()).unforeseen
    assert (await step(version, 1, end=True).failure()).unforeseen


# ── rounds ────────────────────────────────────────────────────────────────────────────────────────

ITERATIVE = f"iterative_sequence: true oldest {{}} {STATE} {CONTROLS}"


async def test_an_iterative_request_goes_round_until_it_is_finished(load: Load) -> None:
    """Without any sequence id; one answer, with the outputs of its last round."""
    version = await load(COUNTDOWN, ITERATIVE)
    assert await step(version, 5, id=0).y() == 0
    assert version.driver.counters.execution_count == 6
    assert version.driver.counters.success.count == 1


async def test_requests_join_and_leave_the_running_batch(load: Load) -> None:
    """Continuous batching: a short one does not wait for a long one, nor a late one for its end."""
    version = await load(COUNTDOWN, ITERATIVE)
    endless = step(version, 1 << 30, id=0)
    short = step(version, 3, id=0)
    assert await short.values() == (0, 2)
    for _ in range(10):
        late = step(version, 2, id=0)
        assert await late.values() == (0, 2)
    assert endless.outcomes == []
    endless.cancel()
    await no_sequences(version)


async def test_a_round_that_fails_ends_the_request(load: Load) -> None:
    """With its error, and nothing goes round any more."""
    version = await load(COUNTDOWN, ITERATIVE)
    assert (await step(version, 1320, id=0).failure()).message == "unlucky"


async def test_a_cancelled_request_goes_round_no_more(load: Load) -> None:
    """It is over with the round that runs."""
    version = await load(COUNTDOWN, ITERATIVE)
    endless = step(version, 1 << 30, id=0)
    await step(version, 3, id=0).y()
    assert endless.cancel()
    await step(version, 3, id=0).y()
    await no_sequences(version)


DECOUPLED = "max_batch_size: 4 model_transaction_policy { decoupled: true }"


async def test_each_round_of_a_decoupled_model_is_a_response(load: Load) -> None:
    """And the last one is followed by the end."""
    version = await load(COUNTDOWN, ITERATIVE, DECOUPLED)
    stream = Stream(version, 4)
    assert await stream.end() == ()
    assert stream.responses == [4, 3, 2, 1, 0]


async def test_a_slow_reader_stops_its_own_rounds(load: Load) -> None:
    """It keeps its seat, and others go on."""
    version = await load(COUNTDOWN, ITERATIVE, DECOUPLED)
    slow = Stream(version, 3, room=1)
    await slow.reached(1)
    assert await Stream(version, 10).end() == ()
    assert slow.responses == [3]
    slow.room = 1 << 30
    slow.go_on()
    assert await slow.end() == ()
    assert slow.responses == [3, 2, 1, 0]


async def test_a_slow_reader_that_goes_gives_its_seat_back(load: Load) -> None:
    """Nothing of it is in a batch or in the queue at that moment."""
    version = await load(COUNTDOWN, ITERATIVE, DECOUPLED)
    slow = Stream(version, 3, room=1)
    await slow.reached(1)
    await Stream(version, 1).end()
    assert slow.cancel()
    assert driver_of(version).sequence_statistics().active == 0


async def test_a_stream_that_ends_while_its_paused_step_is_handed_out(load: Load) -> None:
    """What a batch-mate's answer cancels is over once, and its batch is delivered to the end."""
    version = await load(COUNTDOWN, ITERATIVE, DECOUPLED)
    slow, unlucky = Stream(version, 1320, room=1), Stream(version, 1313)
    unlucky.on_end = slow.cancel
    assert isinstance(await unlucky.end(), Failure)
    await Stream(version, 1).end()
    assert driver_of(version).sequence_statistics().active == 0


async def test_only_an_iterative_model_goes_round(load: Load) -> None:
    """Another one that asks for it is not heard: its requests have one answer each."""
    version = await load(COUNTDOWN, f"oldest {{}} {STATE} {CONTROLS}")
    assert await step(version, 5, start=True).y() == 5
    assert await step(version, 0, end=True).y() == 4


# ── draining ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_drain_runs_the_steps_that_wait(load: Load) -> None:
    """In their order; it is over after the last, and no sequence begins meanwhile."""
    version = await load(ADDER, OLDEST)
    steps = [step(version, 1, start=n == 0, end=n == 4) for n in range(5)]
    idle = asyncio.Event()
    version.driver.drain(idle.set)
    refused = step(version, 1, 2, start=True)
    await asyncio.wait_for(idle.wait(), 60)
    assert [await each.y() for each in steps] == [1, 2, 3, 4, 5]
    assert await refused.outcome() == Refused(Reason.DRAINING)


async def test_a_drain_lets_sequences_go_on_to_their_end(load: Load) -> None:
    """By END or with their stream, though nothing of them waits at times: what they have built up would be lost."""
    version = await load(ADDER, OLDEST)
    own = Step(version, 1, 7, True, False, inf, lasts=True)
    assert [await step(version, 1, start=True).y(), await own.y()] == [1, 1]
    assert version.driver.unended_sequences == 1, "the other one ends with its stream"
    idle = asyncio.Event()
    version.driver.drain(idle.set)
    assert await step(version, 2).y() == 3
    assert await Step(version, 2, 7, False, False, inf, lasts=True).y() == 3
    assert await step(version, 1, 2, start=True).outcome() == Refused(Reason.DRAINING)
    assert await step(version, 3, end=True).y() == 6
    assert version.driver.unended_sequences == 0
    assert not idle.is_set()
    version.driver.forget(7)
    await asyncio.wait_for(idle.wait(), 60)


async def test_a_drain_lets_rounds_go_on(load: Load) -> None:
    """To the end of the request; one that waits for its reader is waited for."""
    version = await load(COUNTDOWN, ITERATIVE, DECOUPLED)
    slow, quick = Stream(version, 3, room=1), Stream(version, 5)
    idle = asyncio.Event()
    version.driver.drain(idle.set)
    assert await quick.end() == ()
    assert not idle.is_set()
    slow.cancel()
    await asyncio.wait_for(idle.wait(), 60)
    assert quick.responses == [5, 4, 3, 2, 1, 0]


# ── tensors ───────────────────────────────────────────────────────────────────────────────────────


async def test_outputs_are_cut_back_to_their_length(load: Load) -> None:
    """With length buckets, as in models without sequences."""
    buckets = 'max_batch_size: 4 parameters { key: "length_buckets" value { string_value: "4" } }'
    tensors = TENSORS.replace("dims: 1 }", "dims: -1 }", 2)
    text = ADDER.replace('"NEW_SUM": total, "ROWS": np.full_like(x, len(x))', '"NEW_SUM": x[:, :1], "ROWS": x[:, :1]')
    version = await load(text, OLDEST, buckets, tensors)
    for outcome in [await step(version, n, n, start=True, end=True).outcome() for n in (1, 2)]:
        assert isinstance(outcome, list)
        assert outcome[0].shape == (1, 1)


STRINGS = """
import numpy as np
from penstock_server.backends.python import PythonModel

class Strings(PythonModel):
    def infer(self, inputs, batch):
        sizes = np.array([[len(text)] for (text,) in inputs["X"]], np.int32)
        text = inputs["TEXT"] + inputs["X"]
        total = np.array([[len(text)] for (text,) in text], np.int32)
        return {"Y": total, "ROWS": np.full_like(sizes, len(sizes)), "NEW_TEXT": text.astype("S")}
"""


async def test_rows_without_a_request_have_empty_strings(load: Load) -> None:
    """And a state of strings may be any array of strings, as an output may."""
    tensors = TENSORS.replace("INT32", "STRING", 1)
    state = 'state { input_name: "TEXT" output_name: "NEW_TEXT" data_type: TYPE_STRING dims: 1 }'
    version = await load(STRINGS, f"direct {{}} {state}", tensors=tensors)
    raw = {text: len(text).to_bytes(4, "little") + text for text in (b"ab", b"cde")}
    assert await step(version, raw[b"ab"], 1, start=True).y() == 2
    assert await step(version, raw[b"ab"], 2, start=True).y() == 2
    assert await step(version, raw[b"cde"], 2, end=True).values() == (5, 2)
    assert await step(version, raw[b"ab"], 1, end=True).y() == 4


# Y is different for every order of what was there before. The state is all of it, after a zero.
HISTORY = """
import numpy as np
from penstock_server.backends.python import PythonModel

class History(PythonModel):
    def infer(self, inputs, batch):
        all = np.concatenate([inputs["ALL"], inputs["X"]], axis=1)
        y = (all * np.arange(all.shape[1])).sum(axis=1, keepdims=True, dtype=np.int32)
        return {"Y": y, "NEW_ALL": all, "ROWS": np.full_like(y, len(y))}
"""
GROWING = 'state { input_name: "ALL" output_name: "NEW_ALL" data_type: TYPE_INT32 dims: -1 }'


@pytest.mark.parametrize("strategy", ["direct {}", "oldest { max_candidate_sequences: 8 }"])
@pytest.mark.parametrize("count", ["", "instance_group { count: 2 kind: KIND_CPU }"], ids=["one", "two"])
async def test_a_state_may_grow_with_its_sequence(load: Load, strategy: str, count: str) -> None:
    """Every sequence gets what it would get alone; those of one length share batches, and others wait for theirs."""
    version = await load(HISTORY, f"{strategy} {GROWING}", f"max_batch_size: 4 {count}")
    rng = random.Random(11)
    waiting = {id: [rng.randrange(100) for _ in range(rng.randrange(1, 12))] for id in range(1, 40)}
    asked: list[tuple[Step, int]] = []
    seen: dict[int, list[int]] = {id: [0] for id in waiting}
    while waiting:
        id = rng.choice(list(waiting))
        values, history = waiting[id], seen[id]
        is_first = len(history) == 1
        history.append(values.pop(0))
        each = step(version, history[-1], id, start=is_first, end=not values)
        asked.append((each, sum(place * value for place, value in enumerate(history))))
        if not values:
            del waiting[id]
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    outcomes = [(await each.values(), expected) for each, expected in asked]
    assert [y for (y, _), _ in outcomes] == [expected for _, expected in outcomes]
    assert max(rows for (_, rows), _ in outcomes) > 1
    nothing = driver_of(version).states.nbytes
    assert await step(version, 5, start=True).y() == 5, "a zero, and this"
    assert driver_of(version).states.nbytes == nothing + 4
    await step(version, 5, end=True).y()
    assert driver_of(version).states.nbytes == nothing


async def test_a_state_may_grow_with_the_rounds_of_a_request(load: Load) -> None:
    """What a round leaves may share a batch with others of its length only."""
    text = HISTORY.replace(
        "        y =",
        """
        for row in range(len(all)):
            if all.shape[1] <= all[row, -1]:
                batch.reschedule(row)
        y =""",
    )
    version = await load(text, f"iterative_sequence: true oldest {{}} {GROWING}")
    asked = [step(version, rounds, id=0) for rounds in (2, 7, 4, 7)]
    expected = [sum(place * rounds for place in range(1, max(rounds, 1) + 1)) for rounds in (2, 7, 4, 7)]
    assert [await each.y() for each in asked] == expected
    endless = step(version, 1 << 30, id=0)
    for _ in range(3):
        assert await step(version, 3, id=0).y() == 3 + 6 + 9
    endless.cancel()
    await no_sequences(version)


async def test_a_step_whose_state_has_no_room_fails(load: Load) -> None:
    """And leaves its state as it was; other sequences go on, and so does this one once there is room."""
    version = await load(HISTORY, f"oldest {{}} {GROWING}")
    states = driver_of(version).states
    await step(version, 1, 1, start=True).y()
    await step(version, 1, 2, start=True).y()
    states._limit = states.nbytes
    assert (await step(version, 2, 1).failure()).status is Status.RESOURCE_EXHAUSTED
    assert (await step(version, 2, 2, end=True).failure()).status is Status.RESOURCE_EXHAUSTED
    assert await step(version, 3, 1, end=True).y() == 7


async def test_a_state_of_a_graph_may_grow(load: Load) -> None:
    """From nothing at all, if its config says so."""
    nodes = [
        onnx_graphs.node("Concat", "ALL X", "NEW_ALL", axis=1),
        onnx_graphs.node("ReduceSum", "NEW_ALL axes", "Y"),
        onnx_graphs.node("Identity", "X", "ROWS"),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    x, total, rows = (onnx_graphs.value(name, DATATYPES["INT32"], None, 1) for name in ("X", "Y", "ROWS"))
    old, new = (onnx_graphs.value(name, DATATYPES["INT32"], None, None) for name in ("ALL", "NEW_ALL"))
    graph = onnx_graphs.model(nodes, [x, old], [total, rows, new], [axes])
    state = GROWING.replace("}", 'initial_state { data_type: TYPE_INT32 dims: 0 zero_data: true name: "none" } }')
    version = await load(graph, f"direct {{}} {state}")
    kept = driver_of(version).states
    before = kept.nbytes
    assert [await step(version, n, start=n == 1).y() for n in (1, 2, 3)] == [1, 3, 6]
    assert kept.nbytes == before + 3 * 4
    assert await step(version, 4, 2, start=True, end=True).y() == 4
    assert await step(version, 4, end=True).y() == 10


async def test_a_state_without_axes_may_be_a_number(load: Load) -> None:
    """What numpy computes of arrays without axes are no arrays."""
    state = 'state { input_name: "SUM" output_name: "NEW_SUM" data_type: TYPE_INT32 dims: [] }'
    text = ADDER.replace("x[:, 0]", "x").replace('"NEW_SUM": total', '"NEW_SUM": total[0]')
    version = await load(text, f"direct {{}} {state}", "")
    assert await step(version, 1, start=True).y() == 1
    assert await step(version, 2, end=True).y() == 3

"""Streams to models with sequences: a stream's own sequence, and what is left when streams end at any moment."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from penstock_proto import open_inference_pb2 as pb
from penstock_scheduler.sequences import Step
from penstock_server.backends.python import PythonBackend
from penstock_server.engine.jobs import Job
from penstock_server.engine.loading import LoadSettings, load_model
from penstock_server.engine.sequences import SequenceDriver
from penstock_server.engine.versions import Models
from penstock_server.errors import Failure
from penstock_server.models.repository import scan
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import PENSTOCK
from penstock_server.service.seam import Parts, RequestHead, StreamHandler
from penstock_server.service.streaming import StreamBounds, StreamInference
from penstock_server.status import Status

TENSORS = """
max_batch_size: 8
input { name: "X" data_type: TYPE_INT32 dims: 1 }
output { name: "Y" data_type: TYPE_INT32 dims: 1 }
"""
STATE = 'state { input_name: "SUM" output_name: "NEW_SUM" data_type: TYPE_INT32 dims: 1 }'
ADDER = """
import numpy as np
from penstock_server.backends.python import PythonModel, Status

class Adder(PythonModel):
    def infer(self, inputs, batch):
        for row in np.flatnonzero(inputs["X"][:, 0] == -1):
            batch.fail(int(row), Status.INTERNAL, "this one")
        total = inputs["X"] + inputs["SUM"]
        return {"Y": total, "NEW_SUM": total}
"""
# Counts down from X, a round each; X above 1000 fails at 1000.
COUNTDOWN = """
import numpy as np
from penstock_server.backends.python import PythonModel, Status

class Countdown(PythonModel):
    def infer(self, inputs, batch):
        left = np.where(inputs["START"] == 1, inputs["X"], inputs["SUM"])
        for row in np.flatnonzero(left[:, 0] > 0):
            batch.reschedule(int(row))
        for row in np.flatnonzero(left[:, 0] == 1000):
            batch.fail(int(row), Status.INTERNAL, "unlucky")
        return {"Y": left, "NEW_SUM": left - 1}
"""
COUNTER = """
import numpy as np
from penstock_server.backends.python import ModelError, PythonModel, Status

class Counter(PythonModel):
    async def infer(self, inputs, batch):
        for number in range(int(inputs["X"][0, 0]), -1, -1):
            if number == 1000:
                raise ModelError(Status.INTERNAL, "unlucky")
            yield {"Y": np.array([[number]], np.int32)}
"""
START = 'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }'
DECOUPLED = "model_transaction_policy { decoupled: true }"
MODELS = {
    "oldest": (ADDER, f"sequence_batching {{ oldest {{ max_candidate_sequences: 6 }} {STATE} }}"),
    "direct": (
        ADDER,
        f"instance_group {{ count: 2 kind: KIND_CPU }} max_batch_size: 4 sequence_batching {{ direct {{}} {STATE} }}",
    ),
    "rounds": (COUNTDOWN, f"sequence_batching {{ iterative_sequence: true oldest {{}} {STATE} {START} }}"),
    "tokens": (COUNTDOWN, f"{DECOUPLED} sequence_batching {{ iterative_sequence: true oldest {{}} {STATE} {START} }}"),
    "counter": (COUNTER, DECOUPLED),
}


class Sink:
    """The transport's end of a stream, whose reader may be slow."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.responses: list[pb.ModelStreamInferResponse] = []
        self.credit = 0
        self.room = room
        self.ends: list[Failure | None] = []
        self.news = asyncio.Event()

    def send(self, parts: Parts) -> bool:
        assert not self.ends, "nothing comes after the end"
        self.responses.append(pb.ModelStreamInferResponse.FromString(b"".join(parts)))
        self.room -= 1
        self.news.set()
        return self.room > 0

    def consumed(self, messages: int = 1) -> None:
        self.credit += messages
        self.news.set()

    def finish(self, failure: Failure | None = None) -> None:
        self.ends.append(failure)
        self.news.set()

    async def reached(self, count: int) -> None:
        while len(self.responses) < count:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)


class House:
    """Models, and the service before them."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.budget = ByteBudget(1 << 30)
        self.exiting = False
        self.service = StreamInference(
            Decoder(models, PENSTOCK),
            PENSTOCK,
            self.budget,
            1 << 20,
            is_exiting=lambda: self.exiting,
            bounds=StreamBounds(requests=16),
        )

    def open(self, sink: Sink, *metadata: tuple[str, str]) -> StreamHandler:
        return self.service.stream.open(RequestHead("/m", metadata), sink)


def value(response: pb.ModelStreamInferResponse) -> int:
    assert not response.error_message, response.error_message
    return int(np.frombuffer(response.infer_response.raw_output_contents[0], "<i4")[0])


def request(model: str, *values: int, name: str = "", **parameters: int | bool) -> bytes:
    message = pb.ModelInferRequest(model_name=model, id=name)
    message.inputs.add(name="X", datatype="INT32", shape=[len(values), 1])
    message.raw_input_contents.append(np.array(values, "<i4").tobytes())
    for key, given in parameters.items():
        if isinstance(given, bool):
            message.parameters[key].bool_param = given
        else:
            message.parameters[key].int64_param = given
    return message.SerializeToString()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """In the end nothing may be left of any stream."""
    for name, (text, config) in MODELS.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.py").write_text(text)
        tensors = TENSORS.replace("max_batch_size: 8\n", "") if "max_batch_size" in config else TENSORS
        (tmp_path / name / "config.pbtxt").write_text(tensors + config)
    models = Models()
    for source in scan(tmp_path).models.values():
        model = await load_model(source, {"python": PythonBackend()}, LoadSettings())
        assert model.ready, model.states
        models.add(model)
    house = House(models)
    yield house
    assert house.service.statistics().streams == house.service.statistics().requests == 0
    assert house.budget.taken == 0, "every byte was given back"
    for version in models.versions():
        idle = asyncio.Event()
        version.driver.drain(idle.set)
        await asyncio.wait_for(idle.wait(), 60)
        assert version.driver.scheduler.is_idle
        if isinstance(version.driver, SequenceDriver):
            assert version.driver.table.is_idle
            statistics = version.driver.sequence_statistics()
            assert (statistics.active, statistics.backlog, statistics.waiting) == (0, 0, 0)
        assert await version.driver.close(60.0)


async def test_answered_requests_are_no_work_for_the_collector(house: House) -> None:
    """They go once nobody needs them: with cycles, a busy server would spend a third of its time on finding them."""
    sink = Sink()
    stream = house.open(sink)
    before = [each for each in gc.get_objects() if isinstance(each, Job | Step)]  # what other tests have left
    gc.disable()
    try:
        for number in range(5):
            stream.on_message(request("oldest", number))
        await sink.reached(5)
        await asyncio.sleep(0)
        left = [each for each in gc.get_objects() if isinstance(each, Job | Step)]
        left = [each for each in left if not any(each is other for other in before)]
    finally:
        gc.enable()
    stream.on_cancel()
    assert left == []


async def test_a_streams_own_sequence_begins_with_the_first_request_that_gets_in(house: House) -> None:
    """One before it that asks for two rows is refused, and does not spoil the stream."""
    sink = Sink()
    stream = house.open(sink)
    stream.on_message(request("oldest", 1, 2))
    stream.on_message(request("oldest", 3))
    stream.on_message(request("oldest", 4))
    await sink.reached(3)
    assert "must specify batch-size 1" in sink.responses[0].error_message
    assert [value(each) for each in sink.responses[1:]] == [3, 7]
    stream.on_end()


async def test_a_request_that_is_of_no_sequence_was_not_scheduled(house: House) -> None:
    """It is no failure of the model: the stream goes on whatever it asked for, and the message has only the id."""
    sink = Sink()
    stream = house.open(sink, ("triton_grpc_error", "true"))
    stream.on_message(request("oldest", 1, name="a", sequence_id=5))
    stream.on_message(request("oldest", 1, name="b", sequence_id=5, sequence_start=True, sequence_end=True))
    await sink.reached(2)
    first, second = sink.responses
    assert "must specify the START flag" in first.error_message
    expected = pb.ModelInferResponse(id="a")
    expected.parameters["grpc_status"].int64_param = Status.INVALID_ARGUMENT
    assert first.infer_response == expected
    assert value(second) == 1
    stream.on_end()


async def test_a_sequence_that_lost_a_step_does_not_end_its_stream(house: House) -> None:
    """The stream hears what became of its requests, and never what the server calls its sequence."""
    sink = Sink()
    stream = house.open(sink, ("triton_grpc_error", "true"))
    for name in ("a", "b", "c"):
        stream.on_message(request("oldest", 1, name=name))
    message = pb.ModelInferRequest()
    message.parameters["cancel"].string_param = "b"
    stream.on_message(message.SerializeToString())
    await sink.reached(3)
    stream.on_message(request("oldest", 1, name="d"))
    await sink.reached(4)
    assert value(sink.responses[0]) == 1
    assert [status_of(each) for each in sink.responses[1:]] == [
        Status.CANCELLED,
        Status.ABORTED,
        Status.INVALID_ARGUMENT,
    ]
    assert sink.responses[3].error_message == (
        "inference request for the sequence of its stream to model 'oldest' must specify the START flag on the first "
        "request of the sequence"
    )
    assert sink.ends == []
    stream.on_end()


async def test_while_the_server_exits_no_sequence_begins(house: House) -> None:
    """Neither a stream's own nor one of a single request; those that run go on."""
    sink = Sink()
    stream = house.open(sink)
    stream.on_message(request("oldest", 1))
    await sink.reached(1)
    house.exiting = True
    stream.on_message(request("oldest", 1))
    stream.on_message(request("direct", 1))
    stream.on_message(request("direct", 1))
    stream.on_message(request("rounds", 1))
    await sink.reached(5)
    assert [value(each) for each in sink.responses[:2]] == [1, 2]
    assert all("shutting down" in each.error_message for each in sink.responses[2:])
    stream.on_end()


async def test_a_cancellation_names_what_it_cancels(house: House) -> None:
    """One with something else than text is a mistake, and no wish to cancel all that have no id."""
    sink = Sink()
    stream = house.open(sink)
    stream.on_message(request("oldest", 1))
    message = pb.ModelInferRequest(model_name="oldest")
    message.parameters["cancel"].int64_param = 7
    stream.on_message(message.SerializeToString())
    await sink.reached(2)
    assert value(sink.responses[0]) == 1
    assert sink.responses[1].error_message
    stream.on_end()


async def test_who_cancels_does_not_end_a_stream_that_asked_for_failures_as_status(house: House) -> None:
    """It is no failure of a model."""
    sink = Sink()
    stream = house.open(sink, ("triton_grpc_error", "true"))
    stream.on_message(request("tokens", 1 << 20, name="a"))
    await sink.reached(1)
    message = pb.ModelInferRequest()
    message.parameters["cancel"].string_param = "a"
    stream.on_message(message.SerializeToString())
    stream.on_message(request("oldest", 1))
    while not any(each.infer_response.model_name == "oldest" for each in sink.responses):
        await sink.reached(len(sink.responses) + 1)
    assert sink.ends == []
    stream.on_end()
    assert sink.ends == [None]


# ── many at once ──────────────────────────────────────────────────────────────────────────────────


class Client:
    """A client that sends to one or some models, reads now and then, cancels, and may be gone at any moment."""

    def __init__(self, house: House, seed: int) -> None:
        self.rng = random.Random(seed)
        self.wants_status = self.rng.random() < 0.2
        self.goes = self.rng.random() < 0.4
        self.models = self.rng.sample(list(MODELS), self.rng.randrange(1, 4))
        self.sink = Sink(room=self.rng.choice([1, 3, 1 << 30]))
        self.sink.credit = 4
        metadata = [("triton_grpc_error", "true")] if self.wants_status else []
        self.stream = house.open(self.sink, *metadata)
        self.asked: list[tuple[str, int]] = []

    async def run(self) -> None:
        for number in range(self.rng.randrange(1, 30)):
            await self._rest()
            if self.sink.ends or (self.goes and self.rng.random() < 0.1):
                break
            model = self.rng.choice(self.models)
            value = self.rng.choice([*range(1, 9), 1003 if model in ("rounds", "tokens", "counter") else -1])
            self.asked.append((model, value))
            self.sink.credit -= 1
            self.stream.on_message(request(model, value, name=str(number)))
            if self.rng.random() < 0.05 and not self.sink.ends:
                message = pb.ModelInferRequest()
                message.parameters["cancel"].string_param = str(self.rng.randrange(number + 1))
                self.sink.credit -= 1
                self.stream.on_message(message.SerializeToString())
        if self.goes and not self.sink.ends:
            self.stream.on_cancel()
        elif not self.sink.ends:
            self.stream.on_end()
            while not self.sink.ends:
                await self._rest()

    async def _rest(self) -> None:
        """Let others run, and read what has come, until there is credit for a message."""
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        while not self.sink.ends:
            if self.sink.room <= 0:
                self.sink.room = self.rng.choice([1, 3, 1 << 30])
                self.stream.on_writable()
            if self.sink.credit > 0:
                return
            await asyncio.sleep(0.001)

    def check(self) -> None:
        """Every answer is that of a model that runs alone, and if the stream ended well, none is missing."""
        answers: dict[int, list[pb.ModelStreamInferResponse]] = {number: [] for number in range(len(self.asked))}
        ordered: list[int] = []
        for response in self.sink.responses:
            number = int(response.infer_response.id)
            answers[number].append(response)
            if self.asked[number][0] not in ("tokens", "counter"):
                ordered.append(number)
        assert ordered == sorted(ordered)
        is_whole = self.sink.ends == [None]
        sums, broken = dict.fromkeys(("oldest", "direct"), 0), set[str]()
        for number, (model, given) in enumerate(self.asked):
            came = answers[number]
            errors = [status_of(each) for each in came if each.error_message]
            values = [value(each) for each in came if not each.error_message]
            assert not errors or came[-1].error_message, "an error is the last"
            assert len(errors) < 2
            if model in sums:
                assert len(came) == 1 or (not came and not is_whole)
                if errors and errors[0] is not Status.INTERNAL:
                    broken.add(model)
                elif errors:
                    assert given == -1
                elif values:
                    assert model not in broken
                    sums[model] += given
                    assert values == [sums[model]]
                continue
            expected = list(range(given, 1000 if given > 1000 else -1, -1))
            is_cut = not is_whole or errors == [Status.CANCELLED]
            if model == "rounds":
                expected = expected[-1:] if given < 1000 else []
            assert values == (expected[: len(values)] if is_cut else expected)
            if not is_cut:
                assert errors == ([Status.INTERNAL] if given > 1000 else [])


def status_of(response: pb.ModelStreamInferResponse) -> Status:
    return Status(response.infer_response.parameters["grpc_status"].int64_param)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_clients_do_answers_are_right_and_nothing_is_left(house: House, seed: int) -> None:
    """Streams of all kinds beside each other, with slow readers, cancellations, and clients that go."""
    clients: list[Client] = []

    async def one(number: int) -> None:
        client = Client(house, 1000 * seed + number)
        clients.append(client)
        await client.run()

    for first in range(0, 150, 50):
        async with asyncio.timeout(100):
            await asyncio.gather(*(one(first + number) for number in range(50)))
    for client in clients:
        client.check()

"""ModelInfer through the seam: one reply for each call, and all its bytes given back, however it ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from math import inf

import numpy as np
import pytest

from penstock_proto import open_inference_pb2 as pb
from penstock_server.engine.versions import Models, ServedModel, VersionState
from penstock_server.errors import Failure, Trailers
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import PENSTOCK, TRITON, Dialect
from penstock_server.service.inference import Inference
from penstock_server.service.seam import Cancel, Parts, RequestHead
from penstock_server.status import Status
from tests.server.engine.puppets import Stage

SECRET = "/srv/models/secret.bin"


class Reply:
    """The transport's end of a call."""

    def __init__(self) -> None:
        self.outcomes: list[Parts | Failure] = []
        self._came = asyncio.Event()

    def __call__(self, outcome: Parts | Failure, trailers: Trailers = (), /) -> None:
        self.outcomes.append(outcome)
        self._came.set()

    async def outcome(self) -> Parts | Failure:
        await self._came.wait()
        (outcome,) = self.outcomes
        return outcome

    async def response(self) -> pb.ModelInferResponse:
        outcome = await self.outcome()
        assert not isinstance(outcome, Failure), outcome
        return pb.ModelInferResponse.FromString(b"".join(outcome))

    async def failure(self) -> Failure:
        outcome = await self.outcome()
        assert isinstance(outcome, Failure)
        return outcome


class House:
    """A puppet model behind the inference service."""

    def __init__(self, dialect: Dialect = PENSTOCK, *, budget: int = 1 << 30, largest: int = 1 << 30) -> None:
        self.stage = Stage(max_queued_rows=2, max_batch_size=2)
        models = Models()
        model = ServedModel("puppet", states={1: (VersionState.READY, "")})
        model.serve(self.stage.version)
        models.add(model)
        self.budget = ByteBudget(budget)
        self.inference = Inference(Decoder(models, dialect), dialect, self.budget, largest)

    def call(self, message: bytes, deadline: float = inf) -> tuple[Reply, Cancel]:
        reply = Reply()
        return reply, self.inference.unary.call(RequestHead("/m", deadline=deadline), message, reply)

    def ask(self, *values: int, deadline: float = inf) -> tuple[Reply, Cancel]:
        return self.call(request(*values), deadline)


def request(*values: int) -> bytes:
    message = pb.ModelInferRequest(model_name="puppet", id="7")
    message.inputs.add(name="X", datatype="INT64", shape=[len(values), 1])
    message.raw_input_contents.append(np.array(values, "<i8").tobytes())
    return message.SerializeToString()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    assert house.budget.taken == 0, "every byte was given back"
    await house.stage.driver.close(0.0)


async def test_a_request_is_answered(house: House) -> None:
    """Once, with its own rows, its id and the version that ran."""
    reply, _ = house.ask(3, 4)
    batch = await house.stage.next_batch()
    assert reply.outcomes == []
    assert house.budget.taken == len(request(3, 4))
    batch.finish()
    response = await reply.response()
    assert (response.model_name, response.model_version, response.id) == ("puppet", "1", "7")
    assert np.frombuffer(response.raw_output_contents[0], "<i8").tolist() == [3, 4]


async def test_what_is_wrong_is_told_before_the_call_returns(house: House) -> None:
    """With a reply, not with an exception; its Cancel does nothing."""
    for message, failure in (
        (b"\xff", PENSTOCK.malformed),
        (
            pb.ModelInferRequest(model_name="x").SerializeToString(),
            Failure(Status.NOT_FOUND, "Request for unknown model: 'x' is not found"),
        ),
    ):
        reply, cancel = house.call(message)
        assert reply.outcomes == [failure]
        cancel()
        cancel()
        assert len(reply.outcomes) == 1


async def test_views_are_as_good_as_bytes(house: House) -> None:
    """A transport hands over whatever buffer it has."""
    reply = Reply()
    house.inference.unary.call(RequestHead("/m"), memoryview(b"..." + request(5))[3:], reply)
    (await house.stage.next_batch()).finish()
    assert (await reply.response()).raw_output_contents[0] == (5).to_bytes(8, "little")


async def test_a_deadline_goes_with_the_request(house: House) -> None:
    """Past on arrival or past in the queue, the answer is the same."""
    expected = Failure(Status.DEADLINE_EXCEEDED, "[request id: 7] the deadline passed before the request could run")
    late, _ = house.ask(1, deadline=time.monotonic() - 1)
    assert await late.failure() == expected
    first, _ = house.ask(2)
    batch = await house.stage.next_batch()
    queued, _ = house.ask(3, deadline=time.monotonic() + 0.005)
    assert await queued.failure() == expected
    batch.finish()
    await first.response()


async def test_a_full_queue_says_when_to_come_back(house: House) -> None:
    """In milliseconds, in the trailer that gRPC's own retries look at."""
    running, _ = house.ask(1)
    batch = await house.stage.next_batch()
    queued, _ = house.ask(2, 3)
    refused, _ = house.ask(4)
    assert await refused.failure() == Failure(
        Status.RESOURCE_EXHAUSTED, "[request id: 7] Exceeds maximum queue size", (("grpc-retry-pushback-ms", "1"),)
    )
    batch.finish()
    (await house.stage.next_batch()).finish()
    await running.response()
    await queued.response()


async def test_a_cancelled_call_gets_no_reply(house: House) -> None:
    """In the queue or in its batch; it may be cancelled as often as the transport likes."""
    running, cancel_running = house.ask(1)
    batch = await house.stage.next_batch()
    queued, cancel_queued = house.ask(2)
    for cancel in (cancel_running, cancel_queued, cancel_queued, cancel_running):
        cancel()
    assert house.budget.taken == 0
    batch.finish()
    await house.stage.pass_of_the_loop()
    assert not house.stage.running
    assert running.outcomes == queued.outcomes == []


async def test_cancelling_after_the_reply_does_nothing(house: House) -> None:
    """The bytes were given back already, and only once."""
    reply, cancel = house.ask(1)
    (await house.stage.next_batch()).finish()
    await reply.response()
    cancel()
    assert house.budget.taken == 0
    assert len(reply.outcomes) == 1


async def test_a_failure_of_the_model_is_the_reply(house: House) -> None:
    """Its status and words are as the engine hands them up."""
    reply, _ = house.ask(1)
    (await house.stage.next_batch()).finish(Failure(Status.ABORTED, "as told"))
    assert await reply.failure() == Failure(Status.ABORTED, "as told")


async def test_outputs_that_cannot_be_written_are_an_internal_error(house: House) -> None:
    """The others of the batch get their answers."""
    bad, _ = house.ask(1)
    good, _ = house.ask(2)
    batch = await house.stage.next_batch()
    house.inference.max_message_bytes = 10
    batch.finish()
    assert (await bad.failure()).status is Status.INVALID_ARGUMENT
    assert (await good.failure()).message.startswith("Response has byte size")


async def test_what_nobody_foresaw_is_not_told(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In decoding and in responding: an error id for the client, the rest for the log."""

    def broken(*_: object) -> None:
        raise ValueError(SECRET)

    with monkeypatch.context() as patch:
        patch.setattr("penstock_server.service.decode.find_data", broken)
        in_decoding, _ = house.ask(1)
    in_responding, _ = house.ask(2)
    batch = await house.stage.next_batch()
    with monkeypatch.context() as patch:
        patch.setattr("penstock_server.service.respond.Template.rows", broken)
        batch.finish()
    for reply in (in_decoding, in_responding):
        failure = await reply.failure()
        assert (failure.status, failure.unforeseen) == (Status.INTERNAL, True)
        assert SECRET not in failure.message
    assert caplog.text.count(SECRET) >= 2


async def test_requests_that_do_not_fit_into_memory_are_refused() -> None:
    """Before anything of them is looked at; a request alone always fits."""
    house = House(budget=len(request(1)) + 10)
    first, _ = house.ask(1)
    refused, cancel = house.call(b"\xff" * 11)
    assert await refused.failure() == Failure(
        Status.RESOURCE_EXHAUSTED,
        "the server holds as many bytes of requests as it may",
        (("grpc-retry-pushback-ms", "50"),),
    )
    cancel()
    (await house.stage.next_batch()).finish()
    await first.response()
    alone, _ = house.call(b"\xff" * 1000)
    assert await alone.failure() == PENSTOCK.malformed
    assert (house.budget.taken, house.budget.refused) == (0, 1)
    await house.stage.driver.close(0.0)


async def test_tritons_dialect_says_it_in_tritons_words() -> None:
    """Refusals are UNAVAILABLE there, without a time to come back."""
    house = House(TRITON)
    late, _ = house.ask(1, deadline=time.monotonic() - 1)
    assert await late.failure() == Failure(Status.UNAVAILABLE, "Request timeout expired")
    house.ask(1, 2)
    full, _ = house.ask(3)
    assert await full.failure() == Failure(Status.UNAVAILABLE, "[request id: 7] Exceeds maximum queue size")
    malformed, _ = house.call(b"\xff")
    assert malformed.outcomes == [TRITON.malformed]
    await house.stage.driver.close(0.0)


async def test_a_stopping_server_says_so(house: House) -> None:
    """To requests that slip in while the model drains."""
    house.stage.driver.drain(lambda: None)
    reply, _ = house.ask(1)
    assert await reply.failure() == Failure(
        Status.UNAVAILABLE,
        "[request id: 7] Server is stopping, scheduler for model has stopped accepting new inference requests",
    )

"""ModelStreamInfer through the seam: order, errors that do not end it, bounds, cancelling, decoupled models."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from penstock_proto import open_inference_pb2 as pb
from penstock_scheduler import Reason
from penstock_server.backends.base import ModelBatch
from penstock_server.engine.jobs import Job, Outcome, Refused, StreamedJob
from penstock_server.engine.sequences import ORPHANED
from penstock_server.engine.versions import Models, ServedModel, VersionState
from penstock_server.errors import Failure
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import PENSTOCK, TRITON, Dialect
from penstock_server.service.seam import Parts, RequestHead, StreamHandler
from penstock_server.service.streaming import StreamBounds, StreamInference
from penstock_server.status import Status
from tests.server.engine.puppets import Stage

WANTS_STATUS = (("triton_grpc_error", "true"),)


class Sink:
    """The transport's end of a stream, whose reader may be slow."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.credit = 0
        self.room = 1 << 30
        self.ends: list[Failure | None] = []

    def send(self, parts: Parts) -> bool:
        assert not self.ends, "nothing comes after the end"
        self.sent.append(b"".join(parts))
        self.room -= 1
        return self.room > 0

    def consumed(self, messages: int = 1) -> None:
        self.credit += messages

    def finish(self, failure: Failure | None = None) -> None:
        self.ends.append(failure)

    @property
    def responses(self) -> list[pb.ModelStreamInferResponse]:
        return [pb.ModelStreamInferResponse.FromString(each) for each in self.sent]

    @property
    def ids(self) -> list[str]:
        return [each.infer_response.id for each in self.responses]

    @property
    def errors(self) -> list[str]:
        return [each.error_message for each in self.responses]


class House:
    """A puppet model behind the service, and one stream to it."""

    def __init__(
        self,
        dialect: Dialect = PENSTOCK,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        budget: int = 1 << 30,
        bounds: StreamBounds | None = None,
    ) -> None:
        self.stage = Stage(instances=4, max_batch_size=1, max_queued_rows=100)
        models = Models()
        model = ServedModel("puppet", states={1: (VersionState.READY, "")})
        model.serve(self.stage.version)
        models.add(model)
        self.models = models
        self.budget = ByteBudget(budget)
        self.exiting = False
        self.service = StreamInference(
            Decoder(models, dialect),
            dialect,
            self.budget,
            1 << 30,
            is_exiting=lambda: self.exiting,
            bounds=bounds or StreamBounds(),
        )
        self.sink = Sink()
        self.stream: StreamHandler = self.service.stream.open(RequestHead("/m", metadata), self.sink)

    def ask(self, *names: str) -> None:
        for name in names:
            self.stream.on_message(request(name))


def request(name: str, model: str = "puppet", **parameters: str) -> bytes:
    message = pb.ModelInferRequest(model_name=model, id=name)
    message.inputs.add(name="X", datatype="INT64", shape=[1, 1])
    message.raw_input_contents.append(np.array([7], "<i8").tobytes())
    for key, value in parameters.items():
        message.parameters[key].string_param = value
    return message.SerializeToString()


def cancellation(name: str) -> bytes:
    message = pb.ModelInferRequest(model_name="puppet")
    message.parameters["cancel"].string_param = name
    return message.SerializeToString()


async def settle() -> None:
    """Let everything happen that is due now."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    assert house.budget.taken == 0, "every byte was given back"
    assert house.service.statistics().requests == 0
    await house.stage.driver.close(0.0)


# ── answers ───────────────────────────────────────────────────────────────────────────────────────


async def test_answers_come_in_the_order_of_the_requests(house: House) -> None:
    """Even if the second is ready before the first; each says that it is its request's last."""
    house.ask("a", "b")
    first, second = await house.stage.next_batch(), await house.stage.next_batch()
    second.finish()
    await settle()
    assert house.sink.sent == []
    first.finish()
    await settle()
    assert house.sink.ids == ["a", "b"]
    for response in house.sink.responses:
        assert response.infer_response.parameters["triton_final_response"].bool_param
        assert np.frombuffer(response.infer_response.raw_output_contents[0], "<i8").tolist() == [7]


async def test_half_closed_a_stream_ends_when_all_is_answered(house: House) -> None:
    """Not before, and well."""
    house.ask("a")
    house.stream.on_end()
    batch = await house.stage.next_batch()
    assert house.sink.ends == []
    batch.finish()
    await settle()
    assert (house.sink.ids, house.sink.ends) == (["a"], [None])
    assert house.service.statistics().streams == 0


async def test_a_stream_without_requests_ends_well(house: House) -> None:
    """Somebody opened it and thought better of it."""
    house.stream.on_end()
    assert house.sink.ends == [None]


# ── failures ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_that_fails_is_a_message_and_the_stream_goes_on(house: House) -> None:
    """With its id, and with the status, which Triton's protocol loses."""
    house.stream.on_message(request("bad", model="nobody"))
    house.ask("good")
    (await house.stage.next_batch()).finish()
    await settle()
    assert house.sink.ids == ["bad", "good"]
    assert house.sink.errors == ["Request for unknown model: 'nobody' is not found", ""]
    assert house.sink.responses[0].infer_response.parameters["grpc_status"].int64_param == Status.NOT_FOUND
    assert house.sink.ends == []


async def test_garbage_is_answered_like_any_mistake(house: House) -> None:
    """On that request alone."""
    house.stream.on_message(b"\xff\xff")
    house.stream.on_message(b"")
    assert len(house.sink.errors) == 2
    assert house.sink.errors[0] == PENSTOCK.malformed.message
    assert house.sink.credit == 2


async def test_a_model_that_fails_fails_its_request(house: House) -> None:
    """The response names the model as the request does, and is the request's last."""
    house.ask("a")
    (await house.stage.next_batch()).finish(Failure(Status.INTERNAL, "broken"))
    await settle()
    (response,) = house.sink.responses
    assert (response.error_message, response.infer_response.model_name) == ("broken", "puppet")
    assert response.infer_response.parameters["triton_final_response"].bool_param


async def test_a_response_that_is_too_large_with_all_around_it_fails_alone(house: House) -> None:
    """Else the transport would refuse it, and cut the stream off."""
    house.ask("a")
    (await house.stage.next_batch()).finish()
    await settle()
    size = len(house.sink.sent[0])
    smaller = StreamInference(Decoder(house.models, PENSTOCK), PENSTOCK, house.budget, size - 1)
    sink = Sink()
    stream = smaller.stream.open(RequestHead("/m", ()), sink)
    stream.on_message(request("a"))
    (await house.stage.next_batch()).finish()
    await settle()
    assert [bool(error) for error in sink.errors] == [True]
    stream.on_end()
    house.stream.on_end()


async def test_nothing_of_a_request_is_in_a_circle(house: House) -> None:
    """What has been answered is gone at once: the garbage collector looks seldom."""
    gc.collect()
    gc.disable()
    try:
        house.ask("a", "b")
        (await house.stage.next_batch()).finish(Failure(Status.INTERNAL, "broken"))
        (await house.stage.next_batch()).finish()
        await settle()
        assert len(house.sink.sent) == 2
        assert gc.collect() == 0
    finally:
        gc.enable()


async def test_in_tritons_dialect_a_failure_has_no_status() -> None:
    """Clients compare to the letter."""
    house = House(TRITON)
    house.stream.on_message(request("bad", model="nobody"))
    assert not house.sink.responses[0].infer_response.parameters
    house.stream.on_cancel()


async def test_who_asks_for_the_status_gets_the_first_failure_as_the_streams_own() -> None:
    """What else is in flight is cancelled."""
    house = House(metadata=WANTS_STATUS)
    house.ask("a", "b")
    first, second = await house.stage.next_batch(), await house.stage.next_batch()
    first.finish(Failure(Status.INTERNAL, "broken"))
    await settle()
    assert house.sink.ends == [Failure(Status.INTERNAL, "broken")]
    second.finish()
    await settle()
    assert (house.sink.sent, house.budget.taken) == ([], 0)


async def test_requests_that_never_ran_do_not_end_the_stream_even_then() -> None:
    """So it is with Triton: only what fails behind the scheduler counts."""
    house = House(metadata=WANTS_STATUS)
    house.stream.on_message(request("bad", model="nobody"))
    assert (house.sink.ids, house.sink.ends) == (["bad"], [])
    house.stream.on_cancel()


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        (Failure(Status.ABORTED, "the model says so"), True),
        (Refused(Reason.TIMEOUT), True),
        (Refused(Reason.EXPIRED), False),
        (Refused(Reason.HOPELESS), False),
        (Refused(Reason.QUEUE_FULL), False),
        (ORPHANED, False),
    ],
)
async def test_what_triton_does_not_send_as_status_does_not_end_the_stream(outcome: Outcome, ends: bool) -> None:
    """It knows a time in the queue, but neither deadlines nor sequences that lost a step; the stream goes on then."""
    house = Decoupled(metadata=WANTS_STATUS)
    house.ask("a")
    house.jobs[0].settle(outcome)
    assert (len(house.sink.ends), len(house.sink.errors)) == ((1, 0) if ends else (0, 1))
    house.stream.on_cancel()
    assert house.budget.taken == 0


async def test_a_server_that_exits_says_so_for_each_request(house: House) -> None:
    """And answers what it has taken in before."""
    house.ask("a")
    house.exiting = True
    house.ask("b")
    (await house.stage.next_batch()).finish()
    await settle()
    assert house.sink.ids == ["a", "b"]
    assert "shutting down" in house.sink.errors[1]


async def test_a_request_that_does_not_fit_into_memory_is_refused_alone() -> None:
    """The others of the stream are answered, and no byte is counted that was not taken."""
    house = House(budget=len(request("a")) + 1)
    house.ask("a", "b")
    (await house.stage.next_batch()).finish()
    await settle()
    assert house.sink.ids == ["a", "b"]
    assert house.sink.errors[1] == PENSTOCK.too_many_bytes.message
    assert house.budget.taken == 0


# ── cancelling ────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_that_is_gone_takes_its_requests_with_it(house: House) -> None:
    """Nothing is sent, finished or kept any more."""
    house.ask("a", "b")
    batch = await house.stage.next_batch()
    house.stream.on_cancel()
    assert house.budget.taken == 0
    batch.finish()
    await settle()
    assert (house.sink.sent, house.sink.ends) == ([], [])
    assert house.service.statistics().streams == 0


async def test_one_request_can_be_cancelled_alone(house: House) -> None:
    """It is answered with CANCELLED, in its turn; the message that cancels is no request and gets no answer."""
    house.ask("a", "b", "c")
    batches = [await house.stage.next_batch() for _ in range(3)]
    house.stream.on_message(cancellation("b"))
    for batch in batches:
        batch.finish()
    await settle()
    assert house.sink.ids == ["a", "b", "c"]
    assert house.sink.responses[1].infer_response.parameters["grpc_status"].int64_param == Status.CANCELLED
    assert [not error for error in house.sink.errors] == [True, False, True]
    assert house.sink.credit == 4


async def test_cancelling_what_is_not_there_does_nothing(house: House) -> None:
    """It may have been answered a moment ago."""
    house.stream.on_message(cancellation("nobody"))
    assert house.sink.sent == []


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_is_not_read_from_beyond_its_bound_of_requests() -> None:
    """Its window comes back as answers go out."""
    house = House(bounds=StreamBounds(requests=2))
    house.ask("a", "b", "c")
    assert house.sink.credit == 1
    (await house.stage.next_batch()).finish()
    await settle()
    assert house.sink.credit == 1
    (await house.stage.next_batch()).finish()
    await settle()
    assert house.sink.credit == 3
    house.stream.on_cancel()


async def test_a_stream_is_not_read_from_beyond_its_bound_of_bytes() -> None:
    """Rows may be large."""
    house = House(bounds=StreamBounds(nbytes=len(request("a"))))
    house.ask("a", "b")
    assert house.sink.credit == 0
    (await house.stage.next_batch()).finish()
    (await house.stage.next_batch()).finish()
    await settle()
    assert house.sink.credit == 2
    house.stream.on_cancel()


async def test_windows_are_given_back_eight_at_a_time() -> None:
    """Or all of them once nothing is in flight: a client that waits for its answers is never short of one."""
    house = House()
    house.ask(*"abcdefg")
    assert house.sink.credit == 0
    house.ask("h", "i")
    assert house.sink.credit == 8
    for _ in range(9):
        (await house.stage.next_batch()).finish()
    await settle()
    assert house.sink.credit == 9
    house.stream.on_cancel()


async def test_windows_of_large_messages_are_given_back_at_once() -> None:
    """What is kept back is little in bytes, too."""
    house = House(bounds=StreamBounds(nbytes=len(request("a")) << 12))
    house.ask("a")
    assert house.sink.credit == 1
    house.stream.on_cancel()


async def test_a_reader_that_does_not_keep_up_is_not_read_from() -> None:
    """Answers wait for it, in order, and nothing is lost."""
    house = House(bounds=StreamBounds(requests=16))
    house.sink.room = 1
    house.ask("a", "b")
    for _ in range(2):
        (await house.stage.next_batch()).finish()
    await settle()
    house.ask("c")
    assert house.sink.ids == ["a"]
    assert house.sink.credit == 2
    (await house.stage.next_batch()).finish()
    await settle()
    house.sink.room = 2
    house.stream.on_writable()
    assert house.sink.ids == ["a", "b", "c"]
    assert house.sink.credit == 2
    house.sink.room = 9
    house.stream.on_writable()
    assert house.sink.credit == 3
    house.stream.on_end()
    assert house.sink.ends == [None]


# ── decoupled models ──────────────────────────────────────────────────────────────────────────────


class Decoupled(House):
    """The same with a model of which a test makes the responses."""

    def __init__(self, dialect: Dialect = PENSTOCK, *, metadata: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(dialect, metadata=metadata)
        object.__setattr__(self.stage.spec, "decoupled", True)
        self.jobs: list[StreamedJob] = []
        self.cancelled: list[Job] = []
        driver = self.stage.driver
        driver.submit = self._submit  # type: ignore[method-assign]
        driver.cancel = self._cancel  # type: ignore[method-assign]

    def _submit(self, job: Job) -> None:
        assert isinstance(job, StreamedJob)
        self.jobs.append(job)

    def _cancel(self, job: Job) -> bool:
        self.cancelled.append(job)
        return False


class Flow:
    """The engine's hold on a generator."""

    def __init__(self, job: StreamedJob) -> None:
        self.resumed = 0
        job.batch = ModelBatch({}, 1, [])
        job.batch.flow = self

    def give(self) -> None: ...

    def withhold(self) -> None: ...

    def cancel(self) -> None: ...

    def give_withheld(self) -> None:
        self.resumed += 1


def outputs(value: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    return [np.array([[value]], np.int64)]


def flags(sink: Sink) -> list[bool]:
    return [each.infer_response.parameters["triton_final_response"].bool_param for each in sink.responses]


async def test_responses_are_sent_as_they_come() -> None:
    """Interleaved between requests; none of them is the last, and the end itself is not sent."""
    house = Decoupled()
    house.ask("a", "b")
    first, second = house.jobs
    assert first.respond(outputs(1))
    assert second.respond(outputs(2))
    assert first.respond(outputs(3))
    first.settle(())
    second.settle(())
    assert (house.sink.ids, flags(house.sink)) == (["a", "b", "a"], [False, False, False])
    house.stream.on_end()
    assert house.sink.ends == [None]
    assert house.budget.taken == 0


async def test_who_asks_for_the_end_gets_it() -> None:
    """A response without outputs, with names as the request has them: it named no version."""
    house = Decoupled()
    message = pb.ModelInferRequest.FromString(request("a"))
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    house.stream.on_message(message.SerializeToString())
    house.jobs[0].settle(())
    (response,) = house.sink.responses
    inner = response.infer_response
    assert (inner.id, inner.model_name, inner.model_version, len(inner.outputs)) == ("a", "puppet", "", 0)
    assert flags(house.sink) == [True]
    house.stream.on_end()


async def test_a_failure_after_some_responses_is_the_last_of_them() -> None:
    """On that request alone."""
    house = Decoupled()
    house.ask("a", "b")
    house.jobs[0].respond(outputs(1))
    house.jobs[0].settle(Failure(Status.INTERNAL, "broken"))
    house.jobs[1].respond(outputs(2))
    house.jobs[1].settle(())
    assert house.sink.errors == ["", "broken", ""]
    assert flags(house.sink) == [False, True, False]
    house.stream.on_end()


async def test_a_slow_reader_stops_the_model_and_nothing_is_lost() -> None:
    """`more` says no, and the job is told when there is room."""
    house = Decoupled()
    house.ask("a")
    (job,) = house.jobs
    house.sink.room = 1
    assert not job.respond(outputs(1))
    assert not job.respond(outputs(2))
    job.settle(())
    assert len(house.sink.sent) == 1
    house.sink.room = 9
    house.stream.on_writable()
    assert len(house.sink.sent) == 2
    house.ask("b")
    other = house.jobs[1]
    flow = Flow(other)
    house.sink.room = 1
    assert not other.respond(outputs(3))
    house.sink.room = 9
    house.stream.on_writable()
    assert flow.resumed == 1
    house.stream.on_cancel()


async def test_a_cancelled_decoupled_request_sends_nothing_more() -> None:
    """The engine is told to stop its generator."""
    house = Decoupled()
    house.ask("a")
    (job,) = house.jobs
    house.stream.on_message(cancellation("a"))
    assert house.cancelled == [job]
    assert job.respond(outputs(1))
    assert len(house.sink.sent) == 1  # that it was cancelled
    house.stream.on_end()
    assert house.sink.ends == [None]


async def test_the_first_failure_as_status_cancels_the_other_generators() -> None:
    """The stream is over."""
    house = Decoupled(metadata=WANTS_STATUS)
    house.ask("a", "b")
    house.jobs[0].respond(outputs(1))
    house.jobs[0].settle(Failure(Status.INTERNAL, "broken"))
    assert (house.sink.ids, house.sink.ends) == (["a"], [Failure(Status.INTERNAL, "broken")])
    assert house.cancelled == [house.jobs[1]]
    assert house.budget.taken == 0

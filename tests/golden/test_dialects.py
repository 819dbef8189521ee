"""Where Penstock's dialect and Triton's differ, and the limits that only Penstock has."""

import asyncio
import re
import time
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from penstock_proto import health_pb2
from penstock_proto import open_inference_pb2 as pb
from penstock_scheduler import Reason
from penstock_server.app.settings import Compat, TransportName
from penstock_server.engine.jobs import Refused
from penstock_server.engine.versions import Models
from penstock_server.errors import Failure, Trailers
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import PENSTOCK, TRITON
from penstock_server.service.inference import Inference
from penstock_server.service.seam import Parts, RequestHead
from penstock_server.status import Status
from penstock_server.transports.base import TransportSettings
from tests.golden.cases import SERVICE, Json
from tests.golden.messages import HEALTH, OK, Parameter, addsub, answer, ask, asked, end, floats, given, passed, told
from tests.golden.serving import Call, calling, running, settings_for

# ── limits ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=[Compat.TRITON, Compat.NONE], ids=["triton", "penstock"])
def narrow(
    request: pytest.FixtureRequest, python_models: Path, transport: TransportName, loop: AbstractEventLoop
) -> Iterator[Call]:
    """A server that takes and sends messages of 1 kB at most."""
    settings = settings_for(python_models, transport, request.param)
    bounds = TransportSettings(port=0, max_message_bytes=1024)
    with running(replace(settings, transport=bounds), loop) as server, calling(server.port) as call:
        yield call


def test_a_response_that_is_too_large(narrow: Call) -> None:
    """The request fits, its answer does not: it was the client who asked for that much."""
    request = passed("FP32", 100, raw=floats(*range(100)))
    request.outputs.append(asked("OUT", 100))
    status, text = end(narrow, request)
    assert status == "INVALID_ARGUMENT"
    size = re.fullmatch(r"Response has byte size (\d+) which exceeds gRPC's byte size limit 1024\.", text)
    assert size is not None
    assert int(size[1]) > 100 * len("1.000000:0")


def test_a_request_that_is_too_large(narrow: Call) -> None:
    """It never gets as far as the service."""
    assert end(narrow, passed("UINT8", 2000, raw=bytes(2000)))[0] == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("asks", "text"),
    [
        (addsub(id="x" * 129), "the request's id has more than 128 characters"),
        (
            told(**{f"p{i}": Parameter(int64_param=i) for i in range(33)}),
            "too many parameters in the request: at most 32 are allowed",
        ),
        (
            told(**{"k" * 129: Parameter(int64_param=1)}),
            "a parameter's key has 129 characters, more than the limit of 128",
        ),
        (
            told(custom=Parameter(string_param="v" * 4097)),
            "the value of parameter 'custom' has 4097 characters, more than the limit of 4096",
        ),
    ],
)
def test_limits_of_our_own(asks: pb.ModelInferRequest, text: str, triton: Call, penstock: Call) -> None:
    """Penstock bounds what a request may cost before it is parsed; Triton's dialect has no such bounds."""
    assert end(triton, asks) == OK
    assert end(penstock, asks) == ("INVALID_ARGUMENT", text)


def test_counts_are_known_before_anything_is_parsed(triton: Call, penstock: Call) -> None:
    """Each empty input would cost a parser many times the two bytes that it takes here."""
    reply = penstock(f"/{SERVICE}/ModelInfer", [b"\x2a\x00" * 65])
    text = "too many inputs in the request: at most 64 are allowed"
    assert (reply.status, reply.details) == ("INVALID_ARGUMENT", text)
    assert triton(f"/{SERVICE}/ModelInfer", [b"\x2a\x00" * 65]).status == "NOT_FOUND"


# ── where the dialects differ ─────────────────────────────────────────────────────────────────────


def test_the_server_says_its_name(triton: Call, penstock: Call) -> None:
    """Triton's to those who look for it."""
    for call, name in ((triton, "triton"), (penstock, "penstock")):
        metadata = ask(call, "ServerMetadata")
        assert isinstance(metadata, dict)
        assert metadata["name"] == name
        assert "statistics" in cast("list[Json]", metadata["extensions"])


@pytest.mark.parametrize("method", ["ModelInfer", "ServerLive", "ModelConfig"])
def test_bytes_that_are_no_message(method: str, triton: Call, penstock: Call) -> None:
    """The client's mistake by default; a C++ server sees it before it has a status of its own."""
    path = f"/{SERVICE}/{method}"
    assert triton(path, [b"\xff\xff"]).status == "INTERNAL"
    reply = penstock(path, [b"\xff\xff"])
    assert (reply.status, reply.details) == ("INVALID_ARGUMENT", "the request is not a well-formed message")


def test_health_of_a_service_that_does_not_exist(triton: Call, penstock: Call) -> None:
    """Triton ignores the name."""
    request = health_pb2.HealthCheckRequest(service="nope").SerializeToString()
    assert ask(triton, HEALTH, request) == {"status": "SERVING"}
    reply = penstock(HEALTH, [request])
    assert (reply.status, reply.details) == ("NOT_FOUND", "unknown service 'nope'")
    for service in ("", SERVICE):
        request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        assert ask(penstock, HEALTH, request) == {"status": "SERVING"}


def test_a_request_larger_than_a_batch(triton: Call, penstock: Call) -> None:
    """Penstock runs it in parts; Triton does not."""
    nine = floats(*range(36))
    request = addsub(given("A", "FP32", 9, 4), given("B", "FP32", 9, 4), raw=[nine, nine], id="7")
    text = "[request id: 7] inference request batch-size must be <= 8 for 'addsub'"
    assert end(triton, request) == ("INVALID_ARGUMENT", text)
    response = answer(penstock, request)
    assert response.outputs[0].shape == [9, 4]
    # Version 2, the latest, multiplies by 10.
    assert response.raw_output_contents[0] == floats(*(20 * value for value in range(36)))


LATE = "Request timeout expired"
STOPPING = "[request id: 7] Server is stopping, scheduler for model has stopped accepting new inference requests"


@pytest.mark.parametrize(
    ("reason", "triton", "status", "text"),
    [
        (
            Reason.QUEUE_FULL,
            (Status.UNAVAILABLE, "[request id: 7] Exceeds maximum queue size"),
            Status.RESOURCE_EXHAUSTED,
            "[request id: 7] Exceeds maximum queue size",
        ),
        (
            Reason.EXPIRED,
            (Status.UNAVAILABLE, LATE),
            Status.DEADLINE_EXCEEDED,
            "[request id: 7] the deadline passed before the request could run",
        ),
        (
            Reason.TIMEOUT,
            (Status.UNAVAILABLE, LATE),
            Status.DEADLINE_EXCEEDED,
            "[request id: 7] the request's time in the queue is up",
        ),
        (
            Reason.HOPELESS,
            (Status.UNAVAILABLE, LATE),
            Status.DEADLINE_EXCEEDED,
            "[request id: 7] the request cannot be answered before its deadline",
        ),
        (Reason.DRAINING, (Status.UNAVAILABLE, STOPPING), Status.UNAVAILABLE, STOPPING),
        (
            Reason.UNKNOWN_TENANT,
            None,
            Status.PERMISSION_DENIED,
            "[request id: 7] the tenant is not known to this model",
        ),
        (Reason.NO_ROWS, None, Status.INVALID_ARGUMENT, "[request id: 7] the request has no rows"),
        (
            Reason.TOO_MANY_ROWS,
            None,
            Status.INVALID_ARGUMENT,
            "[request id: 7] the request has more rows than the model's queue takes",
        ),
        (
            Reason.TOO_LONG,
            None,
            Status.INVALID_ARGUMENT,
            "[request id: 7] the request is longer than the largest of the model's length buckets",
        ),
    ],
)
def test_requests_that_are_not_run(
    reason: Reason, triton: tuple[Status, str] | None, status: Status, text: str
) -> None:
    """Triton has one status for its reasons, of which a client cannot tell whether to come back; ours are ours."""
    failure = PENSTOCK.refusal(Refused(reason), "7")
    assert (failure.status, failure.message, failure.trailers) == (status, text, ())
    failure = TRITON.refusal(Refused(reason), "7")
    assert (failure.status, failure.message) == (triton or (status, text))


def test_every_reason_has_words() -> None:
    """In both dialects: a client never hears of an internal error for a refusal."""
    for reason in Reason:
        for dialect in (PENSTOCK, TRITON):
            assert dialect.refusal(Refused(reason), "").message


@pytest.mark.parametrize(("seconds", "pushback"), [(0.0001, "1"), (0.0126, "13"), (2.0, "2000")])
def test_when_to_come_back(seconds: float, pushback: str) -> None:
    """A full queue says it in whole milliseconds, at least one: 0 would be at once. Triton says nothing."""
    refused = Refused(Reason.QUEUE_FULL, seconds)
    assert PENSTOCK.refusal(refused, "").trailers == (("grpc-retry-pushback-ms", pushback),)
    assert TRITON.refusal(refused, "").trailers == ()


def test_a_deadline_that_had_passed_on_arrival(python_models: Path, loop: AbstractEventLoop) -> None:
    """It ends like one that passes in the queue. No client can show it: it gives up at the same moment itself."""
    replies: list[Failure | Parts] = []

    def reply(outcome: Failure | Parts, trailers: Trailers = (), /) -> None:
        replies.append(outcome)

    async def call(models: Models) -> None:
        head = RequestHead("ModelInfer", deadline=time.monotonic())
        for dialect in (TRITON, PENSTOCK):
            inference = Inference(Decoder(models, dialect), dialect, ByteBudget(1 << 20), 1 << 20)
            inference.call(head, addsub(id="7").SerializeToString(), reply)

    with running(settings_for(python_models, TransportName.GRPCIO, Compat.NONE), loop) as server:
        asyncio.run_coroutine_threadsafe(call(server.models), loop).result()
    expired = Refused(Reason.EXPIRED)
    assert replies == [TRITON.refusal(expired, "7"), PENSTOCK.refusal(expired, "7")]


@pytest.mark.parametrize(
    "method",
    [
        "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus", "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus", "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings",
    ],
)  # fmt: skip
def test_methods_that_are_not_there_yet(method: str, either: Call) -> None:
    """UNIMPLEMENTED with a sentence, not as if nobody had heard of them."""
    reply = either(f"/{SERVICE}/{method}", [b""])
    assert (reply.status, reply.responses) == ("UNIMPLEMENTED", ())
    assert "by this server" in reply.details or "start the server with" in reply.details

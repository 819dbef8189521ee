"""gRPC's interop cases, by grpcio's clients: what any client of gRPC may expect of any server.

A case bears the name it has in gRPC's own description. Most run with the client that blocks, in a thread beside the
loop that serves; where grpc.aio goes other ways (streams, cancellation, deadlines) the case runs with it as well.
The clients of other languages are in `clients/`.
"""

import asyncio
import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, ParamSpec, TypeVar

import grpc
import pytest
from grpc import aio

from tests.interop import interop_pb2 as messages
from tests.interop import interop_pb2_grpc as services
from tests.interop.run import CASES
from tests.server.transports.conftest import Served
from tests.server.transports.methods import News

REPOSITORY = Path(__file__).parent.parent.parent
STUBS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")

LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
REQUESTS = (27_182, 8, 1_828, 45_904)
RESPONSES = (31_415, 9, 2_653, 58_979)
METADATA = (("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab" * 3))
STATUS_MESSAGE = "test status message"
SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"

P = ParamSpec("P")
T = TypeVar("T")


def in_a_thread(case: Callable[P, None]) -> Callable[P, Coroutine[None, None, None]]:
    """The server keeps the event loop; a client that blocks goes beside it."""

    @functools.wraps(case)
    async def run(*args: P.args, **kwargs: P.kwargs) -> None:
        await asyncio.to_thread(case, *args, **kwargs)

    return run


class Requests(Generic[T]):
    """Requests that are sent one at a time, to a client that wants to be given an iterator."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[T | None] = SimpleQueue()

    def send(self, request: T) -> None:
        self._queue.put(request)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[T]:
        while (request := self._queue.get()) is not None:
            yield request


def payload(size: int) -> messages.Payload:
    return messages.Payload(body=bytes(size))


def large_request() -> messages.SimpleRequest:
    return messages.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))


def asking(response: int, request: int = 0) -> messages.StreamingOutputCallRequest:
    """A request of the one size for a response of the other."""
    wanted = [messages.ResponseParameters(size=response)]
    return messages.StreamingOutputCallRequest(response_parameters=wanted, payload=payload(request))


def inputs(sizes: Iterable[int] = REQUESTS) -> Iterator[messages.StreamingInputCallRequest]:
    return (messages.StreamingInputCallRequest(payload=payload(size)) for size in sizes)


def failing(message: str) -> messages.EchoStatus:
    return messages.EchoStatus(code=grpc.StatusCode.UNKNOWN.value[0], message=message)


# ── calls that go well ────────────────────────────────────────────────────────────────────────────


@in_a_thread
def test_empty_unary(stub: services.TestServiceStub) -> None:
    """Nothing is answered by nothing: messages of no bytes are messages."""
    assert stub.EmptyCall(messages.Empty()) == messages.Empty()


@in_a_thread
def test_large_unary(stub: services.TestServiceStub) -> None:
    """More than one frame and more than one window of HTTP/2, in both directions."""
    assert stub.UnaryCall(large_request()).payload.body == bytes(LARGE_RESPONSE)


@in_a_thread
def test_client_streaming(stub: services.TestServiceStub) -> None:
    """All requests count, and there is one response."""
    assert stub.StreamingInputCall(inputs()).aggregated_payload_size == 74_922


@in_a_thread
def test_server_streaming(stub: services.TestServiceStub) -> None:
    """One request, and all responses, in order."""
    request = messages.StreamingOutputCallRequest(
        response_parameters=[messages.ResponseParameters(size=size) for size in RESPONSES]
    )
    assert [len(response.payload.body) for response in stub.StreamingOutputCall(request)] == list(RESPONSES)


@in_a_thread
def test_ping_pong(stub: services.TestServiceStub) -> None:
    """Each response comes before the next request is sent."""
    requests: Requests[messages.StreamingOutputCallRequest] = Requests()
    call = stub.FullDuplexCall(iter(requests))
    for request, response in zip(REQUESTS, RESPONSES, strict=True):
        requests.send(asking(response, request))
        assert len(next(call).payload.body) == response
    requests.end()
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


async def test_ping_pong_aio(served: Served) -> None:
    """The same by reading and writing, as grpc.aio also can."""
    call = services.TestServiceStub(served.channel).FullDuplexCall()
    for request, response in zip(REQUESTS, RESPONSES, strict=True):
        await call.write(asking(response, request))
        answer = await call.read()
        assert isinstance(answer, messages.StreamingOutputCallResponse)
        assert len(answer.payload.body) == response
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@in_a_thread
def test_empty_stream(stub: services.TestServiceStub) -> None:
    """A stream without messages ends well."""
    call = stub.FullDuplexCall(iter(()))
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


# ── compressed requests ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=lambda c: c.name)
@in_a_thread
def test_client_compressed_unary(stub: services.TestServiceStub, served: Served, compression: grpc.Compression) -> None:
    """Understood, and answered without compression, which the client is told.

    The case's probe, a message that is not compressed though it says so, is left out: a service does not learn that.
    """
    response, call = stub.UnaryCall.with_call(large_request(), compression=compression)
    assert response.payload.body == bytes(LARGE_RESPONSE)
    assert dict(call.initial_metadata() or ()).get("grpc-encoding", "identity") == "identity"
    # Zeros become small: it was compressed indeed. (The grpcio transport does not count.)
    assert served.transport.statistics().received_bytes < LARGE_REQUEST // 10


@in_a_thread
def test_client_compressed_streaming(stub: services.TestServiceStub) -> None:
    """Every message of a stream is inflated by itself; small ones gRPC's client sends as they are."""
    response = stub.StreamingInputCall(inputs(), compression=grpc.Compression.Gzip)
    assert response.aggregated_payload_size == 74_922


# ── calls that are given up ───────────────────────────────────────────────────────────────────────


@in_a_thread
def test_cancel_after_begin(stub: services.TestServiceStub) -> None:
    """Before the first message. The connection goes on."""
    requests: Requests[messages.StreamingInputCallRequest] = Requests()
    call = stub.StreamingInputCall.future(iter(requests))
    call.cancel()
    requests.end()
    assert call.cancelled()
    assert call.code() is grpc.StatusCode.CANCELLED
    assert stub.EmptyCall(messages.Empty()) == messages.Empty()


async def test_cancel_after_begin_aio(served: Served) -> None:
    """The same with grpc.aio, which says so by asyncio's own exception."""
    stub = services.TestServiceStub(served.channel)
    call = stub.StreamingInputCall()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert await stub.EmptyCall(messages.Empty()) == messages.Empty()


async def test_cancel_after_first_response(stub: services.TestServiceStub, news: News) -> None:
    """In the middle of a conversation; the service hears of it."""

    def case() -> None:
        requests: Requests[messages.StreamingOutputCallRequest] = Requests()
        call = stub.FullDuplexCall(iter(requests))
        requests.send(asking(RESPONSES[0], REQUESTS[0]))
        assert len(next(call).payload.body) == RESPONSES[0]
        call.cancel()
        requests.end()
        assert call.code() is grpc.StatusCode.CANCELLED
        assert stub.EmptyCall(messages.Empty()) == messages.Empty()

    await asyncio.to_thread(case)
    await news.has("over")


async def test_cancel_after_first_response_aio(served: Served, news: News) -> None:
    """The same with grpc.aio."""
    call = services.TestServiceStub(served.channel).FullDuplexCall()
    await call.write(asking(RESPONSES[0], REQUESTS[0]))
    answer = await call.read()
    assert isinstance(answer, messages.StreamingOutputCallResponse)
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    await news.has("over")


@in_a_thread
def test_timeout_on_sleeping_server(stub: services.TestServiceStub) -> None:
    """A deadline ends a stream to which nothing is said; by whom does not matter. The connection goes on."""
    requests: Requests[messages.StreamingOutputCallRequest] = Requests()
    requests.send(messages.StreamingOutputCallRequest(payload=payload(REQUESTS[0])))
    call = stub.FullDuplexCall(iter(requests), timeout=0.001)
    with pytest.raises(grpc.RpcError):
        next(call)
    requests.end()
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stub.EmptyCall(messages.Empty()) == messages.Empty()


async def test_timeout_on_sleeping_server_aio(served: Served, news: News) -> None:
    """The same with grpc.aio, and with time enough for the stream to reach the service, which then hears the end."""

    async def requests() -> AsyncIterator[messages.StreamingOutputCallRequest]:
        yield asking(RESPONSES[0], REQUESTS[0])
        await over.wait()

    over, sizes, timeout = asyncio.Event(), list[int](), 0.2
    while not sizes:
        call = services.TestServiceStub(served.channel).FullDuplexCall(requests(), timeout=timeout)
        with pytest.raises(aio.AioRpcError) as caught:  # noqa: PT012
            async for response in call:
                sizes.append(len(response.payload.body))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        timeout *= 3
    assert sizes == [RESPONSES[0]]
    await news.has("over")
    over.set()


# ── metadata and statuses ─────────────────────────────────────────────────────────────────────────


@in_a_thread
def test_custom_metadata(stub: services.TestServiceStub) -> None:
    """Text and bytes reach the service and come back, with the trailers of a unary call.

    The case asks for the first of them before the response, and for both of a stream: the seam has neither.
    """
    response, call = stub.UnaryCall.with_call(large_request(), metadata=METADATA)
    assert len(response.payload.body) == LARGE_RESPONSE
    assert tuple(tuple(pair) for pair in call.trailing_metadata() or ()) == METADATA


@in_a_thread
def test_status_code_and_message(stub: services.TestServiceStub) -> None:
    """A failure arrives as it was meant, from a unary call and from a stream."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.UnaryCall(messages.SimpleRequest(response_status=failing(STATUS_MESSAGE)))
    assert ended(caught.value) == (grpc.StatusCode.UNKNOWN, STATUS_MESSAGE)

    call = stub.FullDuplexCall(iter([messages.StreamingOutputCallRequest(response_status=failing(STATUS_MESSAGE))]))
    with pytest.raises(grpc.RpcError):
        next(call)
    assert ended(call) == (grpc.StatusCode.UNKNOWN, STATUS_MESSAGE)


@in_a_thread
def test_special_status_message(stub: services.TestServiceStub) -> None:
    """Line breaks, blanks at the ends, and characters beyond ASCII and beyond 16 bits."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.UnaryCall(messages.SimpleRequest(response_status=failing(SPECIAL_MESSAGE)))
    assert ended(caught.value) == (grpc.StatusCode.UNKNOWN, SPECIAL_MESSAGE)


@in_a_thread
def test_unimplemented_method(stub: services.TestServiceStub) -> None:
    """A method that a known service does not have."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.UnimplementedCall(messages.Empty())
    assert ended(caught.value)[0] is grpc.StatusCode.UNIMPLEMENTED


@in_a_thread
def test_unimplemented_service(channel: grpc.Channel) -> None:
    """A service that nobody knows."""
    with pytest.raises(grpc.RpcError) as caught:
        services.UnimplementedServiceStub(channel).UnimplementedCall(messages.Empty())
    assert ended(caught.value)[0] is grpc.StatusCode.UNIMPLEMENTED


def ended(call: object) -> tuple[grpc.StatusCode, str | None]:
    """How a call ended: grpcio's errors are calls, which its types do not say."""
    assert isinstance(call, grpc.Call)
    return call.code(), call.details()


# ── what the clients are made of ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_run_here(case: str) -> None:
    """What clients of other languages run, and what `make interop` waits to hear of."""
    assert callable(globals()[f"test_{case}"])


def test_the_stubs_are_those_of_the_proto_file(tmp_path: Path) -> None:
    """Else this client would speak of other fields than those of other languages, which compile it themselves."""
    subprocess.run([sys.executable, "-m", "tests.interop.stubs", tmp_path], cwd=REPOSITORY, check=True)
    for ending in STUBS:
        path = Path("tests", "interop", f"interop{ending}")
        assert (tmp_path / path).read_text() == (REPOSITORY / path).read_text()

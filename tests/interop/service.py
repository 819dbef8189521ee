"""gRPC's interoperability test service, made of nothing but the seam.

It answers with as many zeros as the client asks for, adds up what the client sends, or fails as it is told. What the
seam has no words for it cannot do: no metadata goes before the first response, so what is to be echoed there goes with
the trailers; streams that end well have none; whether a request was compressed is not told; and responses never are.
"""

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from penstock_server.errors import Failure, Trailers
from penstock_server.service.seam import (
    Buffer,
    Cancel,
    Methods,
    Reply,
    RequestHead,
    Stream,
    StreamSink,
    Unary,
    nothing_to_cancel,
)
from penstock_server.status import Status
from tests.interop import interop_pb2 as messages

ECHOED = ("x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin")

_STATUSES = {status.value: status for status in Status}
_MALFORMED = Failure(Status.INVALID_ARGUMENT, "not the message of this method")

AnyMessage = TypeVar("AnyMessage", bound=Message)


class InteropService:
    """The service for one server. `on_over` is called when a stream's client has said its last or has had enough.

    The two are one here since grpc.aio tells them apart too late: a stream that is cancelled ends first, for who reads.
    """

    def __init__(self, on_over: Callable[[], None] = lambda: None) -> None:
        self.methods: Methods = {
            "/grpc.testing.TestService/EmptyCall": Unary(_empty_call),
            "/grpc.testing.TestService/UnaryCall": Unary(_unary_call),
            "/grpc.testing.TestService/StreamingInputCall": Stream(lambda head, sink: _Adding(sink, on_over)),
            "/grpc.testing.TestService/StreamingOutputCall": Stream(lambda head, sink: _Answering(sink, on_over)),
            "/grpc.testing.TestService/FullDuplexCall": Stream(lambda head, sink: _Answering(sink, on_over)),
        }

    def __repr__(self) -> str:
        return f"<InteropService of {len(self.methods)} methods>"


def _empty_call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
    """An empty message is no bytes at all."""
    reply([b""] if not message else _MALFORMED)
    return nothing_to_cancel


def _unary_call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
    """As many zeros as the client asks for, or the failure."""
    request = _parsed(messages.SimpleRequest, message)
    if request is None:
        reply(_MALFORMED)
    elif request.response_status.code:
        reply(_failure(request.response_status), _echoes(head))
    else:
        response = messages.SimpleResponse(payload=_zeros(request.response_size))
        reply([response.SerializeToString()], _echoes(head))
    return nothing_to_cancel


class _Adding:
    """The handler of a stream of requests, which are counted and not kept."""

    def __init__(self, sink: StreamSink, on_over: Callable[[], None]) -> None:
        self._sink = sink
        self._bytes = 0
        self._on_over = on_over

    def __repr__(self) -> str:
        return f"<_Adding: {self._bytes} bytes so far>"

    def on_message(self, message: Buffer) -> None:
        request = _parsed(messages.StreamingInputCallRequest, message)
        if request is None:
            self._sink.finish(_MALFORMED)
            return
        self._bytes += len(request.payload.body)
        self._sink.consumed()

    def on_end(self) -> None:
        self._on_over()
        response = messages.StreamingInputCallResponse(aggregated_payload_size=self._bytes)
        self._sink.send([response.SerializeToString()])
        self._sink.finish()

    def on_cancel(self) -> None:
        self._on_over()

    def on_writable(self) -> None:
        """The one response never waits."""


class _Answering:
    """The handler of a stream of responses, for one request or for many.

    A request's window is given back when all its responses are sent: a client that does not read cannot go on asking.
    """

    def __init__(self, sink: StreamSink, on_over: Callable[[], None]) -> None:
        self._sink = sink
        # Sizes of responses to send; the status that ends a request stands after them.
        self._to_do: deque[int | messages.EchoStatus] = deque()
        self._room = True
        self._ended = False
        self._on_over = on_over

    def __repr__(self) -> str:
        return f"<_Answering: {len(self._to_do)} to do{', ended' if self._ended else ''}>"

    def on_message(self, message: Buffer) -> None:
        request = _parsed(messages.StreamingOutputCallRequest, message)
        if request is None:
            self._sink.finish(_MALFORMED)
            return
        self._to_do.extend(wanted.size for wanted in request.response_parameters)
        self._to_do.append(request.response_status)
        self._go_on()

    def on_end(self) -> None:
        self._on_over()
        self._ended = True
        self._go_on()

    def on_cancel(self) -> None:
        self._on_over()

    def on_writable(self) -> None:
        self._room = True
        self._go_on()

    def _go_on(self) -> None:
        while self._room and self._to_do:
            next_one = self._to_do.popleft()
            if isinstance(next_one, int):
                response = messages.StreamingOutputCallResponse(payload=_zeros(next_one))
                self._room = self._sink.send([response.SerializeToString()])
            elif next_one.code:
                self._sink.finish(_failure(next_one))
                return
            else:
                self._sink.consumed()
        if self._ended and not self._to_do:
            self._sink.finish()


def _parsed(kind: type[AnyMessage], message: Buffer) -> AnyMessage | None:
    """None if it is no such message."""
    try:
        return kind.FromString(bytes(message))
    except DecodeError:
        return None


def _zeros(size: int) -> messages.Payload:
    """A payload of so many bytes; less than none is none."""
    return messages.Payload(body=b"\0" * size)


def _failure(status: messages.EchoStatus) -> Failure:
    """What the client asked for; codes that gRPC does not have are UNKNOWN, as anywhere in gRPC."""
    return Failure(_STATUSES.get(status.code, Status.UNKNOWN), status.message)


def _echoes(head: RequestHead) -> Trailers:
    """What the client wants to see again."""
    return tuple(pair for pair in head.metadata if pair[0] in ECHOED)

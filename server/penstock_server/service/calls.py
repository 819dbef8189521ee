"""How a service's methods become methods of the seam: parsing, serialising and the one error door.

A *simple* method takes a parsed request and returns a response at once, or raises. Everything it raises
goes through `failure_of`, so no transport ever sees an exception.
"""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from penstock_server.errors import Failure, failure_of
from penstock_server.service.seam import (
    Buffer,
    Cancel,
    Reply,
    RequestHead,
    Stream,
    StreamHandler,
    StreamSink,
    Unary,
    nothing_to_cancel,
)
from penstock_server.status import Status

Q = TypeVar("Q", bound=Message)


def simple(answer: Callable[[Q], Message], request_type: type[Q], malformed: Failure) -> Unary:
    """A unary method that is answered at once."""

    def call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        try:
            request = request_type.FromString(bytes(message))
        except DecodeError:
            reply(malformed)
            return nothing_to_cancel
        try:
            outcome: list[bytes] | Failure = [answer(request).SerializeToString()]
        except Exception as error:
            outcome = failure_of(error, during=head.method)
        reply(outcome)
        return nothing_to_cancel

    return Unary(call)


def unimplemented(sentence: str) -> Unary:
    """A unary method that the protocol has and this server has not."""

    def call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply(Failure(Status.UNIMPLEMENTED, sentence))
        return nothing_to_cancel

    return Unary(call)


def unimplemented_stream(sentence: str) -> Stream:
    """A stream that the protocol has and this server has not: it ends before the client has to send anything."""

    def open_stream(head: RequestHead, sink: StreamSink) -> StreamHandler:
        sink.finish(Failure(Status.UNIMPLEMENTED, sentence))
        return _Ended()

    return Stream(open_stream)


class _Ended:
    """The handler of a stream that was over when it began: it may still hear what was on its way."""

    def on_message(self, message: Buffer) -> None: ...

    def on_end(self) -> None: ...

    def on_cancel(self) -> None: ...

    def on_writable(self) -> None: ...

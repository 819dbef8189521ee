"""How a service's methods become methods of the seam: parsing, serialising and the one error door.

A *simple* method takes a parsed request and returns a response at once, or raises. Everything it raises
goes through `failure_of`, so no transport ever sees an exception.
"""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from penstock_server.errors import Failure, failure_of
from penstock_server.service.seam import Buffer, Cancel, Reply, RequestHead, Unary, nothing_to_cancel
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

"""How calls end, as header blocks. What repeats is made once: a block of a failure is encoded at its first time."""

import logging
from functools import lru_cache

from penstock_server.errors import Failure, Trailers, failure_of
from penstock_server.grpc_wire import status as fields
from penstock_server.grpc_wire.metadata import encode_metadata
from penstock_server.http2.headers import HeaderBlock
from penstock_server.status import Status
from penstock_server.transports.base import status_message

_log = logging.getLogger(__name__)

RESPONSE = HeaderBlock(fields.RESPONSE)
"""The head of every response."""
OK = HeaderBlock(fields.OK)
"""The trailers of a call that ended well."""

METHOD_NOT_FOUND = HeaderBlock(fields.trailers_only(fields.UNIMPLEMENTED, "Method not found!"))
"""In the words of gRPC's own servers."""
DEADLINE_EXCEEDED = Failure(Status.DEADLINE_EXCEEDED, "Deadline Exceeded")
"""Likewise."""
BAD_TIMEOUT = Failure(Status.INTERNAL, "Error parsing 'grpc-timeout' metadata")
"""Likewise."""
STOPPED = Failure(Status.UNAVAILABLE, "the server has stopped")
TOO_SLOW = Failure(Status.DEADLINE_EXCEEDED, "the message took too long to come")
OVER_MEMORY = Failure(Status.RESOURCE_EXHAUSTED, "the server holds as many bytes of messages that come in as it may")


def too_large(size: int, limit: int) -> Failure:
    """A message that must not be sent."""
    return Failure(Status.RESOURCE_EXHAUSTED, f"SERVER: Sent message larger than max ({size} vs. {limit})")


def well(trailers: Trailers) -> HeaderBlock:
    """The trailers of a call that ended well and has something to add."""
    try:
        return HeaderBlock((*fields.OK, *encode_metadata(trailers)))
    except ValueError as error:
        return _bad_trailers(error, only=False)


@lru_cache(maxsize=256)
def badly(failure: Failure, trailers: Trailers = (), only: bool = False) -> HeaderBlock:
    """The trailers of a call that failed; `only`: with the head that was not sent yet."""
    try:
        metadata = encode_metadata(failure.trailers + trailers)
    except ValueError as error:
        return _bad_trailers(error, only)
    make = fields.trailers_only if only else fields.trailers
    return HeaderBlock(make(failure.status, status_message(failure.message), metadata))


def _bad_trailers(error: ValueError, only: bool) -> HeaderBlock:
    # Trailers come from the services. Wrong ones are an error of theirs, which clients see as any other.
    return badly(failure_of(error, during="the sending of trailers"), only=only)

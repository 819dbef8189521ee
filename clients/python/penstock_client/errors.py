"""What a call can end with besides an answer: two exceptions.

    InputError      the caller's values cannot be sent; nothing left the process
    InferenceError  the call failed: a gRPC status, and the server's (or gRPC's) own words

No `grpc.RpcError` leaves this package: the shells hand each one to `of_rpc_error` and it stays as
the `__cause__`. There is no subclass per status: callers compare `error.status`.
"""

from collections.abc import Iterable
from typing import cast

import grpc

Trailers = tuple[tuple[str, str | bytes], ...]

PUSHBACK = "grpc-retry-pushback-ms"
"""The trailer by which a server says when a retry is welcome (gRFC A6)."""


class InputError(ValueError):
    """A value cannot be sent as the tensor or parameter it is meant to be. The message names it."""


class InferenceError(Exception):
    """A call failed.

    >>> try:
    ...     client.infer("iris", {"X": x})
    ... except InferenceError as error:
    ...     if error.status is grpc.StatusCode.NOT_FOUND: ...
    """

    def __init__(self, status: grpc.StatusCode, message: str, trailers: Trailers = ()) -> None:
        super().__init__(status, message, trailers)
        self.status = status
        self.message = message
        """The server's words. For an internal error they hold the error id that its log has."""
        self.trailers = trailers
        """The trailing metadata of the answer."""

    def __str__(self) -> str:
        return f"{self.status.name}: {self.message}"

    @property
    def pushback(self) -> str | None:
        """The retry pushback as the server wrote it; None if it sent none."""
        return next((str(value) for key, value in self.trailers if key == PUSHBACK), None)


def of_rpc_error(error: grpc.RpcError) -> InferenceError:
    """The same failure in this package's words, sync and async alike. `error` becomes the cause."""
    # A tuple, or grpc.aio's multi-dict, or None: all that is said of it is that it yields pairs.
    pairs = cast(Iterable[tuple[str, str | bytes]] | None, error.trailing_metadata())
    trailers = tuple((key, value) for key, value in pairs or ())
    failure = InferenceError(error.code(), error.details() or "", trailers)
    failure.__cause__ = error
    return failure


def malformed(what: str) -> InferenceError:
    """The server answered, but not in the protocol's terms."""
    return InferenceError(grpc.StatusCode.INTERNAL, f"the server's answer is malformed: {what}")

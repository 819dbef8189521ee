"""What can go wrong, and the one door from exceptions to what a client is told.

Inside Penstock an *expected* failure is raised as one of the classes below. Each carries its gRPC
status, and its message is written for the client: no path, no internal name, no foreign exception's
text. Everything else that is raised is *unforeseen*: `failure_of` logs it with an error id and tells
the client only that id.

On the hot path a failure is not raised but handed over as a value, `Failure`.
"""

import logging
import secrets
from dataclasses import dataclass
from typing import ClassVar

from penstock_server.status import Status

_log = logging.getLogger(__name__)

Trailers = tuple[tuple[str, str | bytes], ...]
"""Metadata at the end of a call: text, or bytes for keys that end in `-bin`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An unsuccessful end of a call, as a value."""

    status: Status
    message: str
    trailers: Trailers = ()
    unforeseen: bool = False
    """Nobody meant this to happen: the details are in the log, under the error id of the message."""


class PenstockError(Exception):
    """Base of the expected failures; not raised itself."""

    status: ClassVar[Status]

    def __init__(self, message: str, *, trailers: Trailers = ()) -> None:
        super().__init__(message)
        self.message = message
        self.trailers = trailers

    def failure(self) -> Failure:
        """This error as a value."""
        return Failure(self.status, self.message, self.trailers)


class InvalidRequest(PenstockError):
    """The request is malformed or contradicts the model."""

    status = Status.INVALID_ARGUMENT


class NotFound(PenstockError):
    """There is no such model, version or service."""

    status = Status.NOT_FOUND


class NotReady(PenstockError):
    """It exists but cannot answer now: loading, failed, or the server is draining."""

    status = Status.UNAVAILABLE


class DeadlineExceeded(PenstockError):
    """The deadline passed, or cannot be met."""

    status = Status.DEADLINE_EXCEEDED


class Unsupported(PenstockError):
    """The protocol has it, this server or model has not."""

    status = Status.UNIMPLEMENTED


class ModelError(Exception):
    """A deliberate failure of a model: status and message reach the client as they are.

    UNKNOWN is the one status a model cannot answer: to clients it means that a server lost control
    of an exception, so it is delivered as INTERNAL.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        # Models are written without a type checker: a mistake shows here, not in a transport.
        status = Status(status)
        self.status = Status.INTERNAL if status in (Status.OK, Status.UNKNOWN) else status
        self.message = str(message)

    def failure(self) -> Failure:
        """This error as a value."""
        return Failure(self.status, self.message)


class LoadError(Exception):
    """A model cannot be loaded. For the operator: the text may name files."""

    def __init__(self, message: str, *, model: str = "", file: str = "", field: str = "") -> None:
        where = ", ".join(part for part in (file, field and f"field '{field}'") if part)
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.model = model
        self.file = file
        self.field = field


class BindError(Exception):
    """An address cannot be listened on. For the operator."""


def failure_of(error: BaseException, *, during: str) -> Failure:
    """What a client is told about this exception: the one door from exceptions to statuses.

    `during` says in a few words what was being done, for the log.
    """
    if isinstance(error, PenstockError | ModelError):
        return error.failure()
    error_id = secrets.token_hex(4)
    _log.error("unforeseen error during %s", during, exc_info=error, extra={"error_id": error_id})
    return Failure(Status.INTERNAL, f"internal error (error id {error_id})", unforeseen=True)

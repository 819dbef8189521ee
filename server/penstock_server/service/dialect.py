"""The points in which Penstock differs from Triton towards a V2 client, each in one place.

By default Penstock speaks its own dialect. `--compat triton` undoes every difference, for clients
and tests that compare texts and statuses to the letter.
"""

from dataclasses import dataclass

from penstock_server.engine.jobs import Refusal, Refused
from penstock_server.errors import Failure
from penstock_server.status import Status


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may cost before it is parsed. See docs/reference/limits.md."""

    inputs: int = 64
    outputs: int = 64
    parameters: int = 32
    id_length: int = 128
    key_length: int = 128
    string_length: int = 4096
    head_bytes: int = 1 << 20
    """All of a request but its tensors' data. A parser may need 40 times as much memory."""
    typed_bytes: int = 8 << 20
    """Data in typed contents, whose elements are handled one by one. Raw contents have no such limit."""
    string_elements: int = 1 << 20
    """Elements of a BYTES tensor, which are handled one by one too."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How Penstock words and grades what the protocol leaves open, or Triton's way of it."""

    server_name: str
    limits: Limits | None
    """None: whatever the message limit lets through is parsed."""
    strict_versions: bool
    """Versions are plain decimal numbers; Triton takes whatever C's `stol` takes."""
    refuse_surplus_raw: bool
    """More raw contents than inputs are an error."""
    health_knows_names: bool
    """Health of an unknown service is NOT_FOUND, and Watch exists; Triton ignores the name."""
    malformed: Failure
    """The answer to bytes that are no message."""
    honest_overload: bool
    """A full queue is RESOURCE_EXHAUSTED and a passed deadline DEADLINE_EXCEEDED; Triton: UNAVAILABLE."""

    def refusal(self, refused: Refused, request_id: str) -> Failure:
        """What a client is told whose request was not run."""
        prefix = id_prefix(request_id)
        if refused.reason is Refusal.DRAINING:
            text = "Server is stopping, scheduler for model has stopped accepting new inference requests"
            return Failure(Status.UNAVAILABLE, prefix + text)
        if refused.reason is Refusal.QUEUE_FULL:
            text = prefix + "Exceeds maximum queue size"
            if not self.honest_overload:
                return Failure(Status.UNAVAILABLE, text)
            pushback = "" if refused.retry_after is None else str(max(1, round(refused.retry_after * 1000)))
            return Failure(Status.RESOURCE_EXHAUSTED, text, (("grpc-retry-pushback-ms", pushback),) if pushback else ())
        if self.honest_overload:
            return Failure(Status.DEADLINE_EXCEEDED, prefix + "the deadline passed before the request could run")
        return Failure(Status.UNAVAILABLE, "Request timeout expired")


def id_prefix(request_id: str) -> str:
    """What Triton's core puts before its messages. The id is the client's: cut, it may be anything."""
    return f"[request id: {request_id[:128] or '<id_unknown>'}] "


PENSTOCK = Dialect(
    server_name="penstock",
    limits=Limits(),
    strict_versions=True,
    refuse_surplus_raw=True,
    health_knows_names=True,
    malformed=Failure(Status.INVALID_ARGUMENT, "the request is not a well-formed message"),
    honest_overload=True,
)

TRITON = Dialect(
    server_name="triton",
    limits=None,
    strict_versions=False,
    refuse_surplus_raw=False,
    health_knows_names=False,
    malformed=Failure(Status.INTERNAL, "Unable to parse request"),
    honest_overload=False,
)

"""The points in which Penstock differs from Triton towards a V2 client, each in one place.

By default Penstock speaks its own dialect. `--compat triton` undoes every difference, for clients
and tests that compare texts and statuses to the letter.
"""

from dataclasses import dataclass

from penstock_scheduler import Reason
from penstock_server.engine.jobs import Refused
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
    typed_bytes: int = 1 << 20
    """Data in typed contents of all inputs. The parser and we go over its elements one by one, on the loop, and all
    other clients wait meanwhile. Raw contents have no such limit."""
    typed_fields: int = 1 << 16
    """Elements of `bytes_contents` of all inputs. An empty one has two bytes in the message, in the parser hundreds.
    Numbers outside a packed array count, too; no client sends them so."""
    string_elements: int = 1 << 17
    """Elements of a BYTES tensor, whatever way it comes in: each becomes an object, on the loop. A million of them
    kept the other clients waiting for most of a second."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How Penstock words and grades what the protocol leaves open, or Triton's way of it."""

    server_name: str
    limits: Limits | None
    """None: whatever the message limit lets through is parsed."""
    strict_versions: bool
    """Versions are plain decimal numbers; Triton takes whatever C's `stol` takes."""
    strict_sequence_ids: bool
    """Text is no id of a sequence whose model wants numbers; Triton takes it. The model is told 0 then."""
    refuse_surplus_raw: bool
    """More raw contents than inputs are an error."""
    health_knows_names: bool
    """Health of an unknown service is NOT_FOUND, and Watch exists; Triton ignores the name."""
    malformed: Failure
    """The answer to bytes that are no message."""
    split_oversize: bool
    """A request of more rows than a batch is run in parts; Triton refuses it."""
    honest_overload: bool
    """A full queue is RESOURCE_EXHAUSTED and a passed deadline DEADLINE_EXCEEDED; Triton: UNAVAILABLE."""
    richer_streams: bool
    """On ModelStreamInfer a failure's status is told, and single requests can be cancelled."""

    def refusal(self, refused: Refused, request_id: str) -> Failure:
        """What a client is told whose request was not run."""
        prefix = id_prefix(request_id)
        match refused.reason:
            case Reason.DRAINING:
                text = "Server is stopping, scheduler for model has stopped accepting new inference requests"
                return Failure(Status.UNAVAILABLE, prefix + text)
            case Reason.QUEUE_FULL:
                return self._queue_full(prefix, refused.retry_after)
            case Reason.EXPIRED | Reason.TIMEOUT | Reason.HOPELESS:
                if not self.honest_overload:
                    return Failure(Status.UNAVAILABLE, "Request timeout expired")
                return Failure(Status.DEADLINE_EXCEEDED, prefix + _LATE[refused.reason])
            case Reason.UNKNOWN_TENANT:
                return Failure(Status.PERMISSION_DENIED, prefix + "the tenant is not known to this model")
            case _:
                return Failure(Status.INVALID_ARGUMENT, prefix + _WRONG[refused.reason])

    @property
    def too_many_bytes(self) -> Failure:
        """What a client is told whose request does not fit into the server's memory now."""
        text = "the server holds as many bytes of requests as it may"
        if not self.honest_overload:
            return Failure(Status.UNAVAILABLE, text)
        return Failure(Status.RESOURCE_EXHAUSTED, text, (("grpc-retry-pushback-ms", "50"),))

    def _queue_full(self, prefix: str, retry_after: float) -> Failure:
        text = prefix + "Exceeds maximum queue size"
        if not self.honest_overload:
            return Failure(Status.UNAVAILABLE, text)
        if not retry_after:
            return Failure(Status.RESOURCE_EXHAUSTED, text)
        pushback = str(max(1, round(retry_after * 1000)))
        return Failure(Status.RESOURCE_EXHAUSTED, text, (("grpc-retry-pushback-ms", pushback),))


_LATE = {
    Reason.EXPIRED: "the deadline passed before the request could run",
    Reason.TIMEOUT: "the request's time in the queue is up",
    Reason.HOPELESS: "the request cannot be answered before its deadline",
}

_WRONG = {
    Reason.NO_ROWS: "the request has no rows",
    Reason.TOO_MANY_ROWS: "the request has more rows than the model's queue takes",
    Reason.TOO_LONG: "the request is longer than the largest of the model's length buckets",
}


def id_prefix(request_id: str) -> str:
    """What Triton's core puts before its messages. The id is the client's: cut, it may be anything."""
    return f"[request id: {request_id[:128] or '<id_unknown>'}] "


PENSTOCK = Dialect(
    server_name="penstock",
    limits=Limits(),
    strict_versions=True,
    strict_sequence_ids=True,
    refuse_surplus_raw=True,
    health_knows_names=True,
    malformed=Failure(Status.INVALID_ARGUMENT, "the request is not a well-formed message"),
    split_oversize=True,
    honest_overload=True,
    richer_streams=True,
)

TRITON = Dialect(
    server_name="triton",
    limits=None,
    strict_versions=False,
    strict_sequence_ids=False,
    refuse_surplus_raw=False,
    health_knows_names=False,
    malformed=Failure(Status.INTERNAL, "Unable to parse request"),
    split_oversize=False,
    honest_overload=False,
    richer_streams=False,
)

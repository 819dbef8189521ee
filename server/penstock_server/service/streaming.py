"""ModelStreamInfer: one stream, many requests, each answered on it.

    on_message ─▶ decode ─▶ engine ─▶ done ─▶ (its turn) ─▶ sink

* A request that fails is a message with the error; the stream goes on. A client that sends the metadata
  `triton_grpc_error: true` wants the first failure of a model, or the first request that Triton's queue gives up, as
  the stream's own status instead. What Triton does not know ends no stream: cancelled requests, and deadlines.
* Answers come in the order of the requests, so the first that is not answered holds up those behind it. Responses of
  decoupled models are sent as they come, in order within a request.
* Memory is bounded by not reading: a message's receive window is given back while the stream has room, in requests and
  in bytes, and while its reader keeps up. So a client that does not read is soon not read from either, and a decoupled
  model that writes for it is told to wait.
* When the client is gone, all that it has asked is cancelled.
* While the server drains, sequences that run may go on, since what they have built up would be lost; nothing begins.

Beyond Triton's protocol, in Penstock's dialect: a failure's status travels as the parameter `grpc_status` of
`infer_response`; a message with the parameter `cancel` cancels the requests of that id, which are then answered with
CANCELLED unless they were answered before, or are steps of a sequence that have run; and requests to a model with
sequences that name none are the sequence of their stream, from its first request to its end.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from google.protobuf.message import DecodeError

from penstock_proto.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from penstock_scheduler import Reason, TrafficClass
from penstock_server.backends.base import RequestInfo
from penstock_server.engine.assembly import BatchOutputs
from penstock_server.engine.jobs import Job, Outcome, Outputs, Refused, StreamedJob
from penstock_server.engine.sequences import ORPHANED
from penstock_server.engine.versions import ServedVersion
from penstock_server.errors import Failure, failure_of
from penstock_server.models.sequences import SequenceSpec
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import Dialect
from penstock_server.service.inference import EXITING, facts_of, goes_on
from penstock_server.service.respond import Wrapping, respond, varint
from penstock_server.service.scan import Malformed, scan
from penstock_server.service.seam import Buffer, Parts, RequestHead, Stream, StreamHandler, StreamSink
from penstock_server.service.skeleton import Form, Skeletons
from penstock_server.status import Status

STATUS_KEY = "triton_grpc_error"
CANCEL_KEY = "cancel"

_STREAM = TrafficClass.STREAM
_CANCELLED = Failure(Status.CANCELLED, "the request was cancelled by its client")

_ERROR_TAG = bytes([1 << 3 | 2])
_RESPONSE_TAG = bytes([2 << 3 | 2])


def _flag(value: bool) -> bytes:
    """The field that says whether a response is its request's last. Fields may stand in any order: it is appended."""
    response = ModelInferResponse()
    response.parameters["triton_final_response"].bool_param = value
    return response.SerializeToString()


_FINAL, _NOT_FINAL = _flag(True), _flag(False)
_WRAPPING = len(_FINAL) + len(_RESPONSE_TAG) + 5
"""Bytes of a message around its response, at most."""

_AT_ADMISSION = frozenset(Reason) - {Reason.EXPIRED, Reason.HOPELESS, Reason.TIMEOUT}
"""Refusals that Triton gives before it has scheduled a request."""
_OURS = frozenset((Reason.EXPIRED, Reason.HOPELESS))
"""Refusals that Triton does not give: it does not read a call's deadline."""


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """What one stream may have in flight before it is not read from any more."""

    requests: int = 256
    nbytes: int = 16 << 20

    @property
    def at_once(self) -> tuple[int, int]:
        """So many messages, or bytes of them, are given back at once, since that costs the same for one and for many.

        By default 8 and 4 KiB. What is kept back until then is less than any window of a transport, also if all
        streams of a connection do so.
        """
        return max(1, self.requests >> 5), self.nbytes >> 12


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """What all streams together have open, and have seen."""

    streams: int = 0
    requests: int = 0
    """In flight."""
    opened: int = 0
    messages: int = 0


class StreamInference:
    """Answers ModelStreamInfer."""

    def __init__(
        self,
        decoder: Decoder,
        dialect: Dialect,
        budget: ByteBudget,
        max_message_bytes: int,
        *,
        tenant_key: str = "",
        on_request: Callable[[Job], None] | None = None,
        is_exiting: Callable[[], bool] = lambda: False,
        bounds: StreamBounds = StreamBounds(),
    ) -> None:
        self.skeletons = Skeletons(decoder, wrapping=Wrapping(_RESPONSE_TAG, _FINAL))
        self.dialect = dialect
        self.budget = budget
        self.max_response_bytes = max_message_bytes - _WRAPPING
        self.tenant_key = tenant_key.lower()  # as keys arrive
        self.on_request = on_request
        self.is_exiting = is_exiting
        self.bounds = bounds
        self.at_once, self.at_once_bytes = bounds.at_once
        self.streams: set[InferStream] = set()
        self.opened = 0
        self.sequence_ids = count(1 << 63)  # far from those that clients choose
        self.messages = 0
        self.stream = Stream(self.open)

    def __repr__(self) -> str:
        return f"<StreamInference: {len(self.streams)} streams open>"

    def open(self, head: RequestHead, sink: StreamSink) -> StreamHandler:
        stream = InferStream(self, head, sink)
        self.streams.add(stream)
        self.opened += 1
        return stream

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(
            streams=len(self.streams),
            requests=sum(stream.in_flight for stream in self.streams),
            opened=self.opened,
            messages=self.messages,
        )


class _Asked:
    """A message of a stream, from when it came to its last answer."""

    __slots__ = (
        "ends_stream",
        "form",
        "id_field",
        "job",
        "message",
        "ready",
        "size",
        "stream",
        "was_scheduled",
        "was_taken",
    )

    def __init__(self, stream: "InferStream", message: Buffer) -> None:
        self.stream = stream
        self.message = message
        self.size = len(message)
        self.form: Form | None = None  # None: it is no request that could be run
        self.id_field = b""  # encoded, as it came and as it goes out again
        self.job: Job | None = None
        self.ready: Parts | Failure | None = None  # what is still to be sent; () is nothing
        self.was_taken = False  # by its model's engine, which refuses some at once
        self.was_scheduled = False
        self.ends_stream = False  # its failure is one that a client may want as the status of the stream

    @property
    def id(self) -> str:
        return ModelInferRequest.FromString(self.id_field).id


class _OnStream(Job):
    """What both kinds of request have in common: they belong to a message of a stream."""

    __slots__ = ()
    asked: _Asked

    def describe(self) -> RequestInfo:
        return replace(self.info, id=self.asked.id) if self.asked.id_field else self.info

    def answer(self, outcome: Outcome) -> None:
        self.asked.stream.answered(self.asked, outcome)


class _Once(_OnStream):
    """A request with one answer."""

    __slots__ = ("asked",)

    def answer_rows(self, outputs: BatchOutputs, start: int, end: int) -> None:
        self.asked.stream.answered_rows(self.asked, outputs, start, end)


class _Often(_OnStream, StreamedJob):
    """A request to a decoupled model."""

    __slots__ = ("asked",)

    def respond(self, outputs: Outputs) -> bool:
        return self.asked.stream.respond(self.asked, outputs)


class InferStream:
    """One stream: the handler of its transport's sink."""

    def __init__(self, service: StreamInference, head: RequestHead, sink: StreamSink) -> None:
        self._service = service
        self._head = head
        self._sink = sink
        self._tenant, _ = facts_of(head.metadata, service.tenant_key)
        self._wants_status = (STATUS_KEY, "true") in head.metadata
        self._ordered: deque[_Asked] = deque()  # answered in this order
        self._decoupled: dict[_Asked, None] = {}  # answered as they come
        self._nbytes = 0
        self._owed = 0  # messages whose window is still to be given back
        self._owed_bytes = 0
        self._outbox: deque[Parts] = deque()  # of decoupled models, while the reader does not keep up
        self._is_blocked = False
        self._sequences: dict[ServedVersion, int | str] = {}  # the stream's own, by the model that has it
        # What the last request like one of these was, without its sequence and with it: most are like the one before.
        self._own_info = RequestInfo(1), RequestInfo(1)
        self._has_ended = False  # the client has sent all
        self._is_over = False

    def __repr__(self) -> str:
        state = "over" if self._is_over else "blocked" if self._is_blocked else "open"
        return f"<InferStream {state}: {self.in_flight} requests, {self._nbytes} bytes in flight>"

    @property
    def in_flight(self) -> int:
        """Requests without their last response."""
        return len(self._ordered) + len(self._decoupled)

    # The transport's calls.

    def on_message(self, message: Buffer) -> None:
        service = self._service
        service.messages += 1
        asked = _Asked(self, message)
        size = asked.size
        self._ordered.append(asked)
        self._owed += 1
        self._owed_bytes += size
        if service.budget.take(size):
            self._nbytes += size
            self._begin(asked)
        else:
            asked.ready = service.dialect.too_many_bytes
            asked.size = 0
        if asked.ready is not None:
            self._flush()
        elif self._owed >= service.at_once or self._owed_bytes >= service.at_once_bytes:
            self._give_back()

    def on_end(self) -> None:
        self._has_ended = True
        self._flush()

    def on_cancel(self) -> None:
        self._close()

    def on_writable(self) -> None:
        self._is_blocked = False
        while self._outbox and not self._is_blocked:
            self._send(self._outbox.popleft())
        if not self._is_blocked:
            for asked in list(self._decoupled):
                if isinstance(asked.job, StreamedJob):
                    asked.job.go_on()
        self._flush()

    # A request's way in.

    def _begin(self, asked: _Asked) -> None:
        service = self._service
        arrived = time.monotonic()
        try:
            form, tensors, asked.id_field = service.skeletons.read(asked.message)
        except Exception as error:
            if not self._is_cancellation(asked):
                asked.ready = failure_of(error, during=self._head.method)
            return
        info, version = form.info, form.plan.version
        sequences = version.spec.sequences
        if sequences is not None:
            info = self._of_a_sequence(version, sequences, info)
        if service.is_exiting() and not goes_on(info, version):
            asked.ready = EXITING
            return
        asked.form = form
        job: _Once | _Often
        if version.spec.decoupled:
            self._decoupled[self._ordered.pop()] = None
            job = _Often(form.plan, tensors, info, arrived)
            job.deadline = self._head.deadline
            job.traffic = _STREAM
            job.level = form.level
            job.tenant = self._tenant
        else:
            deadline, tenant = self._head.deadline, self._tenant
            job = _Once(form.plan, tensors, info, arrived, deadline, _STREAM, form.level, tenant)
        job.asked = asked
        asked.job = job
        try:
            if service.on_request is not None:
                service.on_request(job)
            version.driver.submit(job)
        except Exception as error:
            job.settle(failure_of(error, during=self._head.method))
        asked.was_taken = True
        if info.sequence_lasts and not job.is_settled:
            self._sequences[version] = info.correlation_id

    def _of_a_sequence(self, version: ServedVersion, sequences: SequenceSpec, info: RequestInfo) -> RequestInfo:
        """Give a request without a sequence that of the stream, which the first begins that is not refused at once."""
        if info.correlation_id or sequences.iterative or not self._service.dialect.richer_streams:
            return info
        known = self._sequences.get(version)
        if known is None:
            number = next(self._service.sequence_ids)
            known = f"stream {number - (1 << 63)}" if sequences.id_is_text else number
            info = replace(info, sequence_start=True)
            return replace(info, correlation_id=known, sequence_lasts=True)
        of_form, own = self._own_info
        if of_form is not info or own.correlation_id != known:
            own = replace(info, correlation_id=known, sequence_lasts=True)
            self._own_info = info, own
        return own

    def _is_cancellation(self, asked: _Asked) -> bool:
        """Whether it is no request but cancels one; then that is done. Only asked of what is no request."""
        if not self._service.dialect.richer_streams:
            return False
        request = _parsed(asked.message)
        if request is None or request.inputs or not request.parameters[CANCEL_KEY].HasField("string_param"):
            return False
        asked.ready = ()
        name = request.parameters[CANCEL_KEY].string_param
        for other in [*self._ordered, *self._decoupled]:
            job = other.job
            if job is not None and other.id == name and job.cancel():
                self.answered(other, _CANCELLED)
        return True

    # Its way out.

    def answered(self, asked: _Asked, outcome: Outcome) -> None:
        """The engine has answered a request, or a decoupled model is at its end."""
        if self._is_over:
            return
        reason = outcome.reason if isinstance(outcome, Refused) else None
        asked.was_scheduled = asked.was_taken and reason not in _AT_ADMISSION
        is_ours = outcome is _CANCELLED or outcome is ORPHANED or reason in _OURS
        asked.ends_stream = asked.was_scheduled and not is_ours
        answer = self._answer(asked, outcome)
        if asked in self._decoupled:
            self._finish_decoupled(asked, answer)
        else:
            asked.ready = answer
        self._flush()

    def answered_rows(self, asked: _Asked, outputs: BatchOutputs, start: int, end: int) -> None:
        """The same of one whose answer are rows of a batch: the quick way, by the template of its form."""
        if self._is_over or asked.form is None or asked.job is None:
            return
        asked.was_scheduled = asked.ends_stream = True
        try:
            room = self._service.max_response_bytes
            ready = asked.form.template.rows(outputs, asked.id_field, start, end, room)
        except Exception as error:
            asked.ready = failure_of(error, during="the making of a response")
        else:
            asked.ready = ready or self._parts(asked, outputs.of(asked.job, start, end), _FINAL)
        if self._ordered[0] is asked:
            self._flush()

    def respond(self, asked: _Asked, outputs: Outputs) -> bool:
        """A decoupled model has made a response. False: the reader does not keep up."""
        if self._is_over or asked not in self._decoupled:
            return True
        answer = self._parts(asked, outputs, _NOT_FINAL)
        self._send_or_keep(self._failed(asked, answer) if isinstance(answer, Failure) else answer)
        return not self._is_blocked

    def _answer(self, asked: _Asked, outcome: Outcome) -> Parts | Failure:
        assert asked.form is not None
        if isinstance(outcome, Failure):
            return outcome
        if isinstance(outcome, Refused):
            return self._service.dialect.refusal(outcome, asked.id)
        if asked in self._decoupled:
            return self._empty_final(asked) if asked.form.wants_empty_final else ()
        return self._parts(asked, outcome, _FINAL)

    def _parts(self, asked: _Asked, outputs: Outputs, flag: bytes) -> Parts | Failure:
        assert asked.form is not None
        try:
            inner = respond(asked.form.plan, asked.id, outputs, self._service.max_response_bytes)
        except Exception as error:
            return failure_of(error, during="the making of a response")
        inner.append(flag)
        return _wrapped(inner)

    def _empty_final(self, asked: _Asked) -> Parts:
        """The end of a decoupled model's responses, with names as the *request* has them."""
        response = _named(asked)
        return _wrapped([response.SerializeToString(), _FINAL])

    def _failed(self, asked: _Asked, failure: Failure) -> Parts:
        """The message that tells a failure."""
        response = ModelInferResponse()
        if asked.was_scheduled:
            response = _named(asked)
        elif asked.form is not None:
            response.id = asked.id
        else:
            request = _parsed(asked.message)
            response.id = "" if request is None else request.id
        if self._service.dialect.richer_streams:
            response.parameters["grpc_status"].int64_param = failure.status
        text = failure.message.encode("utf-8", "replace")
        inner = [response.SerializeToString(), _FINAL if asked.was_scheduled else b""]
        return [_ERROR_TAG + varint(len(text)) + text, *_wrapped(inner)]

    def _finish_decoupled(self, asked: _Asked, answer: Parts | Failure) -> None:
        del self._decoupled[asked]
        if isinstance(answer, Failure):
            if self._wants_status and asked.ends_stream:
                self._release(asked)
                self._end(answer)
                return
            answer = self._failed(asked, answer)
        self._release(asked)
        if answer:
            self._send_or_keep(answer)

    def _flush(self) -> None:
        """Send what has its turn, give the window back while there is room, and end if all is said."""
        ordered = self._ordered
        while ordered and not self._is_blocked and not self._is_over and (answer := ordered[0].ready) is not None:
            asked = ordered.popleft()
            if isinstance(answer, Failure):
                if self._wants_status and asked.ends_stream:
                    self._release(asked)
                    self._end(answer)
                    return
                answer = self._failed(asked, answer)
            self._release(asked)
            if answer and not self._sink.send(answer):
                self._is_blocked = True
        if self._owed:
            service = self._service
            is_much = self._owed >= service.at_once or self._owed_bytes >= service.at_once_bytes
            if is_much or not (ordered or self._decoupled):
                self._give_back()
        if self._has_ended and not self._is_over and not self.in_flight and not self._outbox:
            self._end()

    def _give_back(self) -> None:
        """Give the window back, if there is room for what will come then."""
        bounds = self._service.bounds
        if not self._owed or self._is_over or self._is_blocked:
            return
        if self.in_flight < bounds.requests and self._nbytes < bounds.nbytes:
            owed, self._owed, self._owed_bytes = self._owed, 0, 0
            self._sink.consumed(owed)

    def _send(self, parts: Parts) -> None:
        if not self._sink.send(parts):
            self._is_blocked = True

    def _send_or_keep(self, parts: Parts) -> None:
        if self._is_blocked:
            self._outbox.append(parts)
        else:
            self._send(parts)

    def _release(self, asked: _Asked) -> None:
        self._nbytes -= asked.size
        self._service.budget.give(asked.size)
        asked.message = b""
        asked.job = None  # which knows this: together they would wait for the garbage collector

    def _end(self, failure: Failure | None = None) -> None:
        """It is over, well or with a failure."""
        if not self._is_over:
            self._close()
            self._sink.finish(failure)

    def _close(self) -> None:
        """Whatever is still in flight is wanted by nobody."""
        self._is_over = True
        self._service.streams.discard(self)
        for asked in [*self._ordered, *self._decoupled]:
            if asked.job is not None:
                asked.job.cancel()
            self._release(asked)
        self._ordered.clear()
        self._decoupled.clear()
        self._outbox.clear()
        for version, id in self._sequences.items():
            version.driver.forget(id)


def _named(asked: _Asked) -> ModelInferResponse:
    """A response with the id, and with the model's name and version as the request has them."""
    request = _parsed(asked.message)
    assert request is not None, "it was decoded before"
    return ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)


def _parsed(message: Buffer) -> ModelInferRequest | None:
    """A request without its raw contents; None if it is malformed. For what is not the normal way only."""
    try:
        return ModelInferRequest.FromString(scan(message, None).head)
    except (Malformed, DecodeError):
        return None


def _wrapped(inner: Sequence[Buffer]) -> list[Buffer]:
    """The pieces of a ModelInferResponse as those of a ModelStreamInferResponse."""
    return [_RESPONSE_TAG + varint(sum(map(len, inner))), *inner]

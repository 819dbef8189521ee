"""ModelInfer: bytes in, a job for the engine, bytes out.

While the server exits only that is let in which goes on with a sequence: what the sequence has built up would be lost.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from penstock_proto.open_inference_pb2 import ModelInferRequest
from penstock_scheduler import TrafficClass
from penstock_server.backends.base import RequestInfo
from penstock_server.engine.assembly import BatchOutputs
from penstock_server.engine.jobs import Job, Outcome, Refused
from penstock_server.engine.versions import ServedVersion
from penstock_server.errors import Failure, PenstockError, failure_of
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import Dialect
from penstock_server.service.respond import respond
from penstock_server.service.seam import (
    Buffer,
    Cancel,
    Metadata,
    Parts,
    Reply,
    RequestHead,
    Unary,
    UnaryCall,
    nothing_to_cancel,
)
from penstock_server.service.skeleton import Form, Skeletons
from penstock_server.service.timing import TIMING_KEY, server_timing
from penstock_server.status import Status

_INTERACTIVE = TrafficClass.INTERACTIVE

EXITING = Failure(
    Status.UNAVAILABLE,
    "GRPC server is shutting down and has stopped accepting new requests.",
    (("grpc-retry-pushback-ms", "1000"),),
)
"""Triton's words. The pushback keeps clients from coming back at once: the transport waits until none does."""


class Inference:
    """Answers ModelInfer."""

    def __init__(
        self,
        decoder: Decoder,
        dialect: Dialect,
        budget: ByteBudget,
        max_message_bytes: int,
        tenant_key: str = "",
        on_request: Callable[[Job], None] | None = None,
        is_exiting: Callable[[], bool] = lambda: False,
    ) -> None:
        self.skeletons = Skeletons(decoder)
        self.dialect = dialect
        self.budget = budget
        self.max_message_bytes = max_message_bytes
        self._tenant_key = tenant_key.lower()  # as keys arrive
        self._is_exiting = is_exiting
        self._on_request = on_request  # told of each job before it is scheduled
        self._metadata: Metadata = ()  # of the last call
        self._facts = facts_of((), self._tenant_key)
        self.unary = Unary(self.call, self.call_many)

    def call(self, head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        if self._is_exiting() and not self._goes_on(message):
            reply(EXITING)
            return nothing_to_cancel
        return self._call(head, message, reply, time.monotonic())

    def call_many(self, calls: Sequence[UnaryCall]) -> Sequence[Cancel]:
        """All of one read have come at once."""
        if self._is_exiting():
            return [self.call(*each) for each in calls]
        arrived, call = time.monotonic(), self._call
        return [call(head, message, reply, arrived) for head, message, reply in calls]

    def _goes_on(self, message: Buffer) -> bool:
        try:
            form, _, _ = self.skeletons.read(message)
        except PenstockError:
            return False
        return goes_on(form.info, form.plan.version)

    def _call(self, head: RequestHead, message: Buffer, reply: Reply, arrived: float) -> Cancel:
        size = len(message)
        if not self.budget.take(size):
            reply(self.dialect.too_many_bytes)
            return nothing_to_cancel
        try:
            form, tensors, id_bytes = self.skeletons.read(message)
        except Exception as error:
            self.budget.give(size)
            reply(failure_of(error, during=head.method))
            return nothing_to_cancel
        if head.metadata is not self._metadata:
            self._metadata, self._facts = head.metadata, facts_of(head.metadata, self._tenant_key)
        call = _Call(self, form, tensors, id_bytes, arrived, head.deadline, self._facts, size, reply)
        try:
            if self._on_request is not None:
                self._on_request(call)
            form.plan.version.driver.submit(call)
        except Exception as error:
            call.abandon()
            reply(failure_of(error, during=head.method))
        return call.abandon


class _Call(Job):
    """One ModelInfer on its way through the engine."""

    __slots__ = ("_form", "_id_field", "_inference", "_reply", "_size", "_wants_timing")

    def __init__(
        self,
        inference: Inference,
        form: Form,
        tensors: Sequence[Buffer],
        id_bytes: bytes,
        arrived: float,
        deadline: float,
        facts: tuple[str, bool],
        size: int,
        reply: Reply,
    ) -> None:
        tenant, self._wants_timing = facts
        # `super()` would make an object for each request.
        Job.__init__(self, form.plan, tensors, form.info, arrived, deadline, _INTERACTIVE, form.level, tenant)
        self._inference = inference
        self._form = form
        self._id_field = id_bytes  # encoded, as it came and as it goes out again
        self._size = size
        self._reply = reply

    @property
    def _id(self) -> str:
        return ModelInferRequest.FromString(self._id_field).id

    def describe(self) -> RequestInfo:
        return replace(self.info, id=self._id) if self._id_field else self.info

    def abandon(self) -> None:
        """The client has left: nobody is to be told anything any more."""
        if self.cancel():
            self._inference.budget.give(self._size)

    def answer_rows(self, outputs: BatchOutputs, start: int, end: int) -> None:
        max_bytes = self._inference.max_message_bytes
        try:
            parts = self._form.template.rows(outputs, self._id_field, start, end, max_bytes)
        except Exception as error:
            self._finish(failure_of(error, during="the making of a response"))
            return
        if parts is None:
            self.answer(outputs.of(self, start, end))
        else:
            self._finish(parts)

    def answer(self, outcome: Outcome) -> None:
        inference = self._inference
        reply: Parts | Failure
        if isinstance(outcome, Failure):
            reply = outcome
        elif isinstance(outcome, Refused):
            reply = inference.dialect.refusal(outcome, self._id)
        else:
            try:
                reply = respond(self.plan, self._id, outcome, inference.max_message_bytes)
            except Exception as error:
                reply = failure_of(error, during="the making of a response")
        self._finish(reply)

    def _finish(self, outcome: Parts | Failure) -> None:
        self._inference.budget.give(self._size)
        if self._wants_timing:
            self._reply(outcome, server_timing(self, time.monotonic()))
        else:
            self._reply(outcome)


def goes_on(info: RequestInfo, version: ServedVersion) -> bool:
    """Whether a request goes on with a sequence. It may be one that is over, or never was."""
    return version.spec.sequences is not None and bool(info.correlation_id) and not info.sequence_start


def facts_of(metadata: Metadata, tenant_key: str) -> tuple[str, bool]:
    """Whose call it is, by the key that says so (in lower case), and whether it wants to know where the time went."""
    tenant, wants_timing = "", False
    for key, value in metadata:
        if key == TIMING_KEY:
            wants_timing = True
        elif key == tenant_key and key and not tenant:
            tenant = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return tenant, wants_timing

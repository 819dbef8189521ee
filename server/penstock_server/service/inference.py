"""ModelInfer: bytes in, a job for the engine, bytes out."""

import time
from collections.abc import Callable

from penstock_server.engine.jobs import Job, Outcome, Refused
from penstock_server.errors import Failure, failure_of
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder, InferRequest
from penstock_server.service.dialect import Dialect
from penstock_server.service.respond import respond
from penstock_server.service.seam import Buffer, Cancel, Parts, Reply, RequestHead, Unary, nothing_to_cancel
from penstock_server.service.timing import TIMING_KEY, server_timing
from penstock_server.status import Status

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
        self._decoder = decoder
        self._dialect = dialect
        self._budget = budget
        self._max_message_bytes = max_message_bytes
        self._tenant_key = tenant_key.lower()  # as keys arrive
        self._is_exiting = is_exiting  # what is let in before is answered, nothing else is let in
        self._on_request = on_request  # told of each job before it is scheduled
        self.unary = Unary(self.call)

    def call(self, head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        arrived = time.monotonic()
        size = len(message)
        if self._is_exiting():
            reply(EXITING)
            return nothing_to_cancel
        if not self._budget.take(size):
            reply(self._dialect.too_many_bytes)
            return nothing_to_cancel
        try:
            request = self._decoder.decode(message)
        except Exception as error:
            self._budget.give(size)
            reply(failure_of(error, during=head.method))
            return nothing_to_cancel

        wants_timing = any(key == TIMING_KEY for key, _ in head.metadata)

        def done(outcome: Outcome) -> None:
            self._budget.give(size)
            reply(self._answer(request, outcome), server_timing(job, time.monotonic()) if wants_timing else ())

        def cancel() -> None:
            if job.cancel():
                self._budget.give(size)

        job = Job(
            request.plan,
            request.tensors,
            request.info,
            arrived,
            done,
            deadline=head.deadline,
            level=request.parameters.priority,
            tenant=tenant_of(head, self._tenant_key),
        )
        try:
            if self._on_request is not None:
                self._on_request(job)
            request.plan.version.driver.submit(job)
        except Exception as error:
            cancel()
            reply(failure_of(error, during=head.method))
        return cancel

    def _answer(self, request: InferRequest, outcome: Outcome) -> Parts | Failure:
        if isinstance(outcome, Failure):
            return outcome
        if isinstance(outcome, Refused):
            return self._dialect.refusal(outcome, request.info.id)
        try:
            return respond(request.plan, request.info.id, outcome, self._max_message_bytes)
        except Exception as error:
            return failure_of(error, during="the making of a response")


def tenant_of(head: RequestHead, key: str) -> str:
    """Whose request it is, by the metadata key that says so; empty without one. `key` is in lower case."""
    if key:
        for name, value in head.metadata:
            if name == key:
                return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return ""

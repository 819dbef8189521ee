"""ModelInfer: bytes in, a job for the engine, bytes out."""

import time

from penstock_server.engine.jobs import Job, Outcome, Refusal, Refused
from penstock_server.errors import Failure, failure_of
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder, InferRequest
from penstock_server.service.dialect import Dialect
from penstock_server.service.respond import respond
from penstock_server.service.seam import Buffer, Cancel, Parts, Reply, RequestHead, Unary, nothing_to_cancel

_NO_MEMORY = Refused(Refusal.QUEUE_FULL, retry_after=0.05)


class Inference:
    """Answers ModelInfer."""

    def __init__(self, decoder: Decoder, dialect: Dialect, budget: ByteBudget, max_message_bytes: int) -> None:
        self._decoder = decoder
        self._dialect = dialect
        self._budget = budget
        self._max_message_bytes = max_message_bytes
        self.unary = Unary(self.call)

    def call(self, head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        arrived = time.monotonic()
        size = len(message)
        if not self._budget.take(size):
            reply(self._dialect.refusal(_NO_MEMORY, ""))
            return nothing_to_cancel
        try:
            request = self._decoder.decode(message)
        except Exception as error:
            self._budget.give(size)
            reply(failure_of(error, during=head.method))
            return nothing_to_cancel

        def done(outcome: Outcome) -> None:
            self._budget.give(size)
            reply(self._answer(request, outcome))

        def cancel() -> None:
            if job.cancel():
                self._budget.give(size)

        job = Job(request.plan, request.tensors, request.info, arrived, head.deadline, done)
        request.plan.version.driver.submit(job)
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

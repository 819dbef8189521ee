"""Runs a decoupled model: a request is a batch of its own, and what runs is a generator.

To the scheduler an instance is LIVE ones, since so many of its generators may run beside each other. A response goes to
its request as it comes; the engine is done with a request at the end of its generator.
"""

from penstock_server.backends.base import ModelBatch, Tensors
from penstock_server.backends.runner import Outcome as RunOutcome
from penstock_server.engine.assembly import check_outputs
from penstock_server.engine.driver import Driver, Result, Run
from penstock_server.engine.jobs import Job, StreamedJob
from penstock_server.errors import Failure, failure_of

LIVE = 64
"""Generators of one instance that run beside each other; requests beyond them wait in the queue."""


class DecoupledDriver(Driver):
    """The queue and the instances of one version of a decoupled model."""

    def cancel(self, job: Job) -> bool:
        is_gone = super().cancel(job)
        if isinstance(job, StreamedJob) and job.batch is not None and job.batch.flow is not None:
            job.batch.flow.cancel()
        return is_gone

    def _model_batch(self, run: Run, rows: int) -> ModelBatch:
        (job,) = run.batch.tickets
        if not isinstance(job, StreamedJob):
            raise TypeError(f"{job!r} takes one answer, and a decoupled model gives any number of responses")
        batch = super()._model_batch(run, rows)
        batch.respond = lambda tensors: self._respond(run, job, batch, tensors)
        job.batch = batch
        return batch

    def _respond(self, run: Run, job: StreamedJob, batch: ModelBatch, tensors: Tensors) -> None:
        """One response, on its way to the request."""
        flow = batch.flow
        if job.is_settled or flow is None:  # it was cancelled, or had a bad response before
            return
        try:
            checked = run.slot.detach(check_outputs(tensors, job.plan.outputs, self._spec, batch.rows))
        except Exception as error:
            run.spoilt = failure_of(error, during=f"the check of a response of {self._name}")
            job.settle(run.spoilt)
            flow.cancel()
            return
        if job.respond([checked[index] for index in job.plan.outputs]):
            flow.give()
        else:
            flow.withhold()

    def _checked(self, run: Run, model_batch: ModelBatch, outcome: RunOutcome) -> Result:
        if run.spoilt is not None:
            return run.spoilt
        return outcome if isinstance(outcome, Failure) else {}

    def _cost(self, run: Run, result: Result) -> float | None:
        """None: how long one generator ran says nothing about the next."""
        return None

    def _hand_out(self, run: Run, model_batch: ModelBatch, result: object) -> None:
        (job,) = run.batch.tickets
        job.settle(())

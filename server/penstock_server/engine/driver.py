"""Runs a scheduler on the event loop: the only place where its time is real and its batches run.

    submit ─▶ scheduler ──turn──▶ Start  ─▶ gather ─▶ runner ─▶ _finished ─▶ scatter ─▶ each job's done
                            └──▶ Expire ─▶ done

* One *turn* serves everything that came in one pass of the loop: a batch for free.
* However a batch ends, each of its jobs is settled and its instance comes back (`_finished`).
* No task, future or coroutine: a request costs a Job and a Ticket, a batch one closure.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from penstock_scheduler import Batch, Policy, Reason, Rejected, Scheduler, Start, Ticket
from penstock_scheduler import Statistics as QueueStatistics
from penstock_server.backends.base import ModelBatch, Tensors
from penstock_server.backends.runner import Outcome, Runner
from penstock_server.engine.assembly import check_outputs, gather, scatter
from penstock_server.engine.jobs import Job, Refusal, Refused
from penstock_server.engine.statistics import BatchTimes, VersionStatistics
from penstock_server.engine.wakeup import WakeUp
from penstock_server.errors import Failure, failure_of
from penstock_server.models.spec import ModelSpec

_log = logging.getLogger(__name__)

_REFUSALS = {
    Reason.QUEUE_FULL: Refusal.QUEUE_FULL,
    Reason.DEADLINE: Refusal.EXPIRED,
    Reason.DRAINING: Refusal.DRAINING,
}


class Driver:
    """The queue and the instances of one version of a model. Lives on the loop that made it."""

    def __init__(self, spec: ModelSpec, runners: Sequence[Runner], *, max_queued_rows: int, name: str) -> None:
        self._spec = spec
        self._max_batch_rows = spec.max_batch_size if spec.batching.enabled else 1
        policy = Policy(
            instances=len(runners),
            max_batch_rows=self._max_batch_rows,
            max_queued_rows=max_queued_rows,
            max_queue_delay=spec.batching.max_queue_delay,
        )
        self._scheduler: Scheduler[Job] = Scheduler(policy)
        self._runners = runners
        self._idle = list(runners)
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._wakeup = WakeUp(self._loop, self._turn)
        self._turn_is_due = False
        self._service_time = 0.0  # seconds a batch takes, smoothed
        self._on_idle: Callable[[], None] | None = None
        self.counters = VersionStatistics()

    def __repr__(self) -> str:
        return f"<Driver {self._name}: {self._scheduler!r}, {len(self._idle)} of {len(self._runners)} instances idle>"

    def submit(self, job: Job) -> None:
        """Queue a request. It is settled when it was run, has expired, or at once if it is refused."""
        # Without dynamic batching a request is a batch, however many rows it has.
        rows = job.plan.rows if self._spec.batching.enabled else 1
        try:
            job.ticket = self._scheduler.submit(
                job, rows=rows, now=time.monotonic(), key=job.plan.key, deadline=job.deadline
            )
        except Rejected as rejected:
            # TOO_MANY_ROWS has no entry: the service refuses such requests before they come here.
            self._refuse(job, _REFUSALS[rejected.reason])
            return
        self._turn_soon()

    def cancel(self, ticket: Ticket[Job]) -> None:
        """Take a request off the queue. One that already runs stays in its batch; its result is dropped."""
        if self._scheduler.cancel(ticket):
            self.counters.refuse("cancelled")
            self._turn_soon()

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Admit nothing more, run what is queued, then call back once."""
        self._scheduler.drain()
        self._on_idle = on_idle
        self._turn_soon()

    async def close(self, timeout: float) -> bool:
        """Stop, and close the instances. False if one of them did not come to an end in `timeout` seconds."""
        self._wakeup.close()  # on the loop that watches it
        return all(await asyncio.gather(*(asyncio.to_thread(runner.close, timeout) for runner in self._runners)))

    def statistics(self) -> QueueStatistics:
        """What is queued and running now."""
        return self._scheduler.statistics()

    # The turn.

    def _turn_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_is_due = False
        for effect in self._scheduler.poll(time.monotonic()):
            if isinstance(effect, Start):
                self._start(effect.batch)
            else:
                self._refuse(effect.ticket.payload, Refusal.EXPIRED)
        self._wakeup.set(self._scheduler.next_wakeup())
        if self._on_idle is not None:
            statistics = self._scheduler.statistics()
            if not statistics.queued and not statistics.running:
                on_idle, self._on_idle = self._on_idle, None
                on_idle()

    def _refuse(self, job: Job, refusal: Refusal) -> None:
        self.counters.refuse(refusal.name.lower())
        job.settle(Refused(refusal, self._retry_after() if refusal is Refusal.QUEUE_FULL else None))

    def _retry_after(self) -> float:
        """Seconds until what is queued now has been run, at the pace of late."""
        batches = self._scheduler.statistics().queued_rows / self._max_batch_rows
        return max(0.001, batches * self._service_time / len(self._runners))

    # A batch's life.

    def _start(self, batch: Batch[Job]) -> None:
        runner = self._idle.pop()
        jobs = [ticket.payload for ticket in batch.tickets]
        rows = sum(job.plan.rows for job in jobs)
        assembly = time.monotonic()

        def done(model_batch: ModelBatch, outcome: Outcome) -> None:
            self._finished(batch, jobs, runner, model_batch, outcome, assembly)

        try:
            inputs = gather(jobs, rows, batched=self._spec.max_batch_size > 0)
            model_batch = ModelBatch(inputs, rows, [job.info for job in jobs])
            runner.start(model_batch, done)
        except Exception as error:
            failure = failure_of(error, during=f"assembly of a batch for {self._name}")
            nothing = ModelBatch({}, rows, (), started=assembly, ended=time.monotonic())
            self._loop.call_soon(done, nothing, failure)

    def _finished(
        self,
        batch: Batch[Job],
        jobs: Sequence[Job],
        runner: Runner,
        model_batch: ModelBatch,
        outcome: Outcome,
        assembly: float,
    ) -> None:
        self._service_time += 0.2 * (model_batch.ended - assembly - self._service_time)
        try:
            if isinstance(outcome, Failure):
                self._settle_all(jobs, outcome)
            else:
                self._deliver(jobs, model_batch, outcome)
        except Exception as error:
            outcome = failure_of(error, during=f"delivery of the outputs of {self._name}")
            self._settle_all(jobs, outcome)
        finally:
            self._scheduler.finish(batch)
            self._idle.append(runner)
            self._turn_soon()
            ended = time.monotonic()
            if isinstance(outcome, Failure) and outcome.unforeseen:
                self.counters.record_failure(jobs, ended)
            else:
                times = BatchTimes(assembly, model_batch.started, model_batch.ended, ended)
                self.counters.record_batch(jobs, model_batch.rows, times)

    def _settle_all(self, jobs: Sequence[Job], outcome: Failure) -> None:
        for job in jobs:
            job.settle(outcome)

    def _deliver(self, jobs: Sequence[Job], model_batch: ModelBatch, outputs: Tensors) -> None:
        wanted = sorted({index for job in jobs for index in job.plan.outputs})
        checked = check_outputs(outputs, wanted, self._spec, model_batch.rows)
        start = 0
        for index, job in enumerate(jobs):
            failure = model_batch.failures.get(index)
            job.settle(failure or scatter(checked, job, start, batched=self._spec.max_batch_size > 0))
            start += job.plan.rows

"""Runs the batches of one version of a model.

    submit ─▶ scheduler ──turn──▶ Start ─▶ gather ─▶ runner ─▶ finished ─▶ _deliver ─▶ each job's answer
                            └──▶ Drop ─▶ answer

* However a batch ends, its instance comes back (`finished`) and each of its jobs is settled (`_deliver`), in this
  order: if somebody waits, the next turn is asked for before the answers of the last batch are made.
* No task, future, coroutine or closure: a request costs a Job, a batch a _Run.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import overload

import numpy as np
from numpy.typing import NDArray

from penstock_scheduler import Batch, Bounds, Device, Reason, Scheduler, Settings, Share, State, Statistics
from penstock_server.backends.base import ModelBatch, RequestInfo
from penstock_server.backends.runner import Outcome as RunOutcome
from penstock_server.backends.runner import Runner
from penstock_server.engine.assembly import BatchOutputs, check_outputs, join
from penstock_server.engine.jobs import Job, JobTimes, Outcome, Outputs, Refused
from penstock_server.engine.lengths import cut, rows_of
from penstock_server.engine.round_robin import RoundRobin
from penstock_server.engine.slots import Slot
from penstock_server.engine.statistics import BatchTimes, VersionStatistics
from penstock_server.engine.turns import Turns
from penstock_server.errors import Failure, failure_of
from penstock_server.models.spec import ModelSpec
from penstock_server.tensors.codec import Array

_log = logging.getLogger(__name__)

_plan_outputs = attrgetter("plan.outputs")


class Driver:
    """The queue and the instances of one version of a model. Lives on the loop that made it."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: Settings,
        runners: Sequence[Runner],
        *,
        name: str,
        bounds: Bounds | None = None,
        device: "SharedDevice | None" = None,
        round_robin: RoundRobin | None = None,
    ) -> None:
        self._spec = spec
        self._name = name
        self._device = device.device if device else None
        self.scheduler: Scheduler[Job] = Scheduler(settings, device=self._device, shared_bounds=bounds)
        self._turns = device.turns if device else Turns(self.scheduler, round_robin)
        self._turns.add(self)
        self._runners = runners
        self._largest = settings.max_batch_rows
        self._all_outputs = tuple(range(len(spec.outputs)))
        self._all_names = tuple(tensor.name for tensor in spec.outputs)
        self._idle = deque((runner, Slot(spec.batched)) for runner in runners)
        self._incoming: list[Job] = []
        self._held: dict[Job, Outcome] | None = {} if settings.preserve_ordering else None
        self._ran: set[int] = set()  # sizes of batches
        self._delivering = 0  # batches that are over and whose answers are still to come
        self._loop = asyncio.get_running_loop()
        self._on_idle: Callable[[], None] | None = None
        self._closed = False
        self.counters = VersionStatistics()

    def __repr__(self) -> str:
        return f"<Driver {self._name}: {self.scheduler!r}, {len(self._idle)} of {len(self._runners)} instances idle>"

    def submit(self, job: Job) -> None:
        """Queue a request. It is settled when it was run, dropped or refused."""
        self._incoming.append(job)
        self._turns.soon()

    def cancel(self, job: Job) -> bool:
        """Take a request off the queue. False: it runs already and stays in its batch; its result is dropped."""
        if self.scheduler.cancel(job):
            self._turns.soon()
            return True
        if job.state is State.NEW and job in self._incoming:
            self._incoming.remove(job)
            return True
        return False

    def forget(self, id: int | str) -> None:
        """The stream whose sequence this is has ended. Without sequences there is nothing to do."""

    @property
    def unended_sequences(self) -> int:
        """Sequences that clients have begun and are still to end; those that are their stream's own do not count."""
        return 0

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Admit nothing more, run what is queued, then call back once."""
        if self._closed:
            on_idle()
            return
        self.admit(time.monotonic())
        self.scheduler.drain()
        self._on_idle = on_idle
        self._turns.soon()

    async def close(self, timeout: float) -> bool:
        """Stop, and close the instances. False if one of them did not come to an end in `timeout` seconds."""
        if self._closed:
            return True
        self._closed = True
        self._turns.remove(self)  # on the loop that watches its alarm
        if self._device is not None and self.scheduler.is_idle:
            self._device.remove(self.scheduler)
            self._device = None
        return all(
            await asyncio.gather(*(asyncio.to_thread(runner.close, timeout) for runner in dict.fromkeys(self._runners)))
        )

    def statistics(self) -> Statistics:
        """What is queued and running now, and what was decided so far."""
        return self.scheduler.statistics()

    # For the turns.

    def admit(self, now: float) -> None:
        """Hand the scheduler what came in since the last turn."""
        if not self._incoming:
            return
        incoming, self._incoming = self._incoming, []
        # Some may have been cancelled in the same pass of the loop.
        for refused in self.scheduler.submit_many([job for job in incoming if not job.is_settled], now):
            self._refuse(refused.ticket, Refused(refused.reason, refused.retry_after))

    def _refuse(self, job: Job, refused: Refused) -> None:
        job.settle(refused)

    def drop(self, job: Job, reason: Reason) -> None:
        """The scheduler has given a request up."""
        self._answer(job, Refused(reason))

    def release(self, job: Job) -> None:
        """With preserve_ordering: it is this request's turn to be answered."""
        assert self._held is not None
        outcome = self._held.pop(job, None)
        if outcome is not None:  # None: it was cancelled
            job.settle(outcome)

    def tell_if_idle(self) -> None:
        """Call back the drain that waits for this."""
        if self._on_idle is not None and self.scheduler.is_idle and not self._incoming and not self._delivering:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()

    def _answer(self, job: Job, outcome: Outcome) -> None:
        if self._held is None:
            job.settle(outcome)
        elif not job.is_settled:
            self._held.setdefault(job, outcome)  # until it is released; of an oversize request the first fate counts

    # A batch's life.

    def start(self, batch: Batch[Job]) -> None:
        """Run a batch on an idle instance."""
        run = Run(self, batch, *self._idle.popleft(), time.monotonic(), self._wanted(batch.tickets))
        rows = batch.padded_rows if self._spec.batching.enabled else batch.tickets[0].plan.rows
        try:
            model_batch = self._model_batch(run, rows)
            outcome = run.runner.start(model_batch, run.done)
        except Exception as error:
            failure = failure_of(error, during=f"assembly of a batch for {self._name}")
            nothing = ModelBatch({}, rows, (), started=run.assembly, ended=time.monotonic())
            self._loop.call_soon(run.done, nothing, failure)
            return
        if outcome is not None:
            self.counters.inline_count += 1
            self.finished(run, model_batch, outcome, at_once=True)

    def _model_batch(self, run: "Run", rows: int) -> ModelBatch:
        infos = Infos(len(run.batch.tickets), partial(_infos, run.batch))
        return ModelBatch(run.slot.gather(run.batch), rows, infos, self._names(run.wanted))

    def _wanted(self, jobs: Sequence[Job]) -> Sequence[int]:
        """The outputs that some request asks for, by index, ascending."""
        first = jobs[0].plan.outputs
        if len(first) == len(self._all_outputs):  # as most do, and more than all nobody can want
            return self._all_outputs
        return sorted(set(first).union(*map(_plan_outputs, jobs)))

    def _names(self, wanted: Sequence[int]) -> Sequence[str]:
        """Their names."""
        return self._all_names if wanted is self._all_outputs else [self._all_names[index] for index in wanted]

    def finished(self, run: "Run", model_batch: ModelBatch, outcome: RunOutcome, *, at_once: bool = False) -> None:
        """A batch has run, `at_once` if that was on the loop."""
        result = self._checked(run, model_batch, outcome)
        batch, over = run.batch, run.batch.tickets
        failed = () if batch.shares is None else self._share_fate(batch, model_batch, result)
        run.ended = time.monotonic()
        self.scheduler.finish(batch, run.ended, self._cost(run, result))
        self._idle.append((run.runner, run.slot))
        if not at_once:
            self._go_on()
        if batch.shares is not None:
            for job in batch.tickets:
                if job.is_settled:
                    job.let_go()
            over = [job for job in over if job.rows <= self._largest or job.state is State.DONE or job in failed]
        if self._held is None and not at_once and self._has_work:
            # An instance that has work to do does not wait until the answers are written.
            self._delivering += 1
            self._loop.call_soon(self._deliver_later, run, model_batch, result, over)
        else:
            self._deliver(run, model_batch, result, over)
            self._go_on()  # after what the answers have asked of the loop: they are written before

    def _go_on(self) -> None:
        """Take a turn after a batch, if there is anything to do."""
        if self.scheduler.needs_poll or self._incoming or self._on_idle is not None:
            self._turns.soon()

    @property
    def _has_work(self) -> bool:
        """There is something for the next batch."""
        return bool(self.scheduler.queued or self._incoming)

    def _checked(self, run: "Run", model_batch: ModelBatch, outcome: RunOutcome) -> "Result":
        """What the model has returned, independent of the slot; a failure if it is not what it should be."""
        if isinstance(outcome, Failure):
            return outcome
        try:
            return run.slot.detach(check_outputs(outcome, run.wanted, self._spec, model_batch.rows))
        except Exception as error:
            return failure_of(error, during=f"the check of the outputs of {self._name}")

    def _cost(self, run: "Run", result: "Result") -> float | None:
        """What a batch took, if that says anything about others: a failed one does not, nor the first of a size."""
        rows = run.batch.padded_rows
        is_typical = rows in self._ran and not _is_unforeseen(result)
        self._ran.add(rows)
        return run.ended - run.assembly if is_typical else None

    def _share_fate(self, batch: Batch[Job], model_batch: ModelBatch, result: "Result") -> Sequence[Job]:
        """The oversize requests that fail with their parts in this batch. Their other parts will not run."""
        assert batch.shares is not None
        failed = [
            job
            for index, (job, share) in enumerate(zip(batch.tickets, batch.shares, strict=True))
            if share is not None
            and job.state is not State.GONE
            and (isinstance(result, Failure) or index in model_batch.failures)
        ]
        for job in failed:
            self.scheduler.fail(job)
        return failed

    def _deliver_later(self, run: "Run", model_batch: ModelBatch, result: "Result", over: Sequence[Job]) -> None:
        self._delivering -= 1
        self._deliver(run, model_batch, result, over)
        self.tell_if_idle()

    def _deliver(self, run: "Run", model_batch: ModelBatch, result: "Result", over: Sequence[Job]) -> None:
        """Answer a batch's requests. `over` are those that are over with it: one in parts is with its last one."""
        batch = run.batch
        started, ended, rows = model_batch.started, model_batch.ended, model_batch.rows
        times = JobTimes(run.assembly, started, ended, rows, batch.reason)
        for job in batch.tickets:
            job.times = times
        if not isinstance(result, Failure):
            try:
                self._hand_out(run, model_batch, result)
            except Exception as error:
                result = failure_of(error, during=f"delivery of the outputs of {self._name}")
        if isinstance(result, Failure):
            for job in batch.tickets:
                self._answer(job, result)
        now = time.monotonic()
        if _is_unforeseen(result):
            self.counters.record_failure(over, now)
            return
        self.scheduler.cost.observe_reply(now - run.ended)
        asked = batch.rows if self._spec.batching.enabled else rows
        self.counters.record_batch(over, asked, rows, BatchTimes(run.assembly, started, ended, now))

    def _hand_out(self, run: "Run", model_batch: ModelBatch, result: Mapping[int, Array]) -> None:
        """Answer each request of a batch with its rows."""
        batch, outputs = run.batch, BatchOutputs(result, self._spec.batched)
        start = 0
        if self._held is None and batch.shares is None and not batch.length and not model_batch.failures:
            for job in batch.tickets:
                end = start + job.plan.rows
                job.deliver(outputs, start, end)
                start = end
            return
        failures, length, shares = model_batch.failures, batch.length, batch.shares
        for index, job in enumerate(batch.tickets):
            end = start + rows_of(batch, index)
            if failures and index in failures:
                self._answer(job, failures[index])
            elif not job.is_settled:
                arrays = self._own(job, outputs, start, end, length)
                share = None if shares is None else shares[index]
                whole = arrays if share is None else _joined(job, share, arrays)
                if whole is not None:
                    self._answer(job, whole)
            start = end

    def _own(self, job: Job, outputs: BatchOutputs, start: int, end: int, bucket: int) -> list[Array]:
        """A request's rows of the outputs, as long as the request if they were padded to a bucket's length."""
        arrays = outputs.of(job, start, end)
        if not bucket:
            return arrays
        tensors = [self._spec.outputs[output] for output in job.plan.outputs]
        return [cut(*pair, job.length, bucket) for pair in zip(arrays, tensors, strict=True)]


_NO_ROWS = np.empty(0, np.intp)

Result = Mapping[int, Array] | Failure
"""The outputs of a batch by index, or why there are none."""


class Run:
    """A batch on its way through an instance."""

    __slots__ = ("_driver", "assembly", "batch", "ended", "rows", "runner", "seats", "slot", "spoilt", "wanted")

    def __init__(
        self, driver: Driver, batch: Batch[Job], runner: Runner, slot: Slot, assembly: float, wanted: Sequence[int]
    ) -> None:
        self._driver = driver
        self.batch = batch
        self.runner = runner
        self.slot = slot
        self.assembly = assembly
        self.wanted = wanted  # the outputs that some request asks for, by index
        self.ended = 0.0  # when the instance came back
        self.spoilt: Failure | None = None  # by a response, of a decoupled model
        # Of a batch of sequences, for each request: the seat of its sequence, and its row.
        self.seats: NDArray[np.intp] = _NO_ROWS
        self.rows: NDArray[np.intp] = _NO_ROWS

    def done(self, model_batch: ModelBatch, outcome: RunOutcome) -> None:
        """Hear how it ended."""
        self._driver.finished(self, model_batch, outcome)


def _is_unforeseen(result: Result) -> bool:
    return isinstance(result, Failure) and result.unforeseen


def _joined(job: Job, share: Share, outputs: Outputs) -> Outputs | None:
    """The outputs of an oversize request once all its parts are there, of which this is one."""
    if job.pieces is None:
        job.pieces = []
    job.pieces.append((share.start, outputs))
    return join(job.pieces, job.plan.rows)


class Infos(Sequence[RequestInfo]):
    """What the model is told of each request, made when it asks, which most do not."""

    def __init__(self, count: int, make: Callable[[], list[RequestInfo]]) -> None:
        self._count = count
        self._make = make
        self._made: list[RequestInfo] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> RequestInfo: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RequestInfo]: ...
    def __getitem__(self, index: int | slice) -> RequestInfo | Sequence[RequestInfo]:
        if self._made is None:
            self._made = self._make()
        return self._made[index]


def _infos(batch: Batch[Job]) -> list[RequestInfo]:
    """Of each request; of a part: its own rows."""
    infos = [job.describe() for job in batch.tickets]
    if batch.shares is None:
        return infos
    pairs = zip(infos, batch.shares, strict=True)
    return [info if share is None else replace(info, rows=share.rows) for info, share in pairs]


class SharedDevice:
    """A device that several models share, and its turns."""

    def __init__(self, capacity: int) -> None:
        self.device: Device[Job] = Device(capacity)
        self.turns = Turns(self.device)

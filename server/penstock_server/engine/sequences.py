"""Runs a model with sequences: the table says whose turn it is, and batches are made of what is ready.

    submit ─▶ table ──Ready──▶ scheduler ─▶ … ─▶ states in ─▶ run ─▶ states out ─▶ answers
                └───Lost───▶ answer                             │
                └◀──────────────── finish ◀─────────────────────┴── "not finished" ─▶ scheduler again

A sequence has one step at a time in the scheduler, so a batch has steps of different sequences; that is where many
streams become one execution. With the direct strategy a sequence keeps its row and its instance: steps of different
instances have different keys, so they never share a batch. (A batch may then have to wait for its instance while
another one is idle; sequences are spread evenly, so it rarely does.) States of different shapes cannot be one array:
if shapes vary, they are in the key, too.

A step of an iterative model may say that it is not finished. It then goes back into the queue as it is, with the state
it left behind, and whatever came meanwhile joins the next batch: continuous batching.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from operator import attrgetter

import numpy as np

from penstock_scheduler import Bounds, Reason, Settings, State
from penstock_scheduler.sequences import Ended, Loss, Lost, Ready, Refusal, SequenceStatistics, SequenceTable, Step
from penstock_server.backends.base import ModelBatch, RequestInfo, Tensors
from penstock_server.backends.runner import Outcome as RunOutcome
from penstock_server.backends.runner import Runner
from penstock_server.engine.assembly import BatchOutputs
from penstock_server.engine.controls import fill, public_id
from penstock_server.engine.driver import Driver, Infos, Result, Run, SharedDevice
from penstock_server.engine.jobs import Job, Outcome, Refused, StreamedJob
from penstock_server.engine.round_robin import RoundRobin
from penstock_server.engine.states import Rows, States
from penstock_server.engine.wakeup import WakeUp
from penstock_server.errors import Failure, InvalidRequest, failure_of
from penstock_server.models.sequences import SequenceSpec
from penstock_server.models.spec import ModelSpec
from penstock_server.status import Status
from penstock_server.tensors.codec import Array

_WAITING = 16
"""Steps behind others of their sequence cost a batch nothing, and streams bound their own: so many times more of them
may wait than rows in the queue."""
_NO_SEAT = Failure(Status.UNAVAILABLE, "timeout of the corresponding sequence has been expired")
"""Triton's words."""
ORPHANED = Failure(
    Status.ABORTED, "the sequence is over: another of its requests was cancelled, or could not be run in time"
)
"""Of a step that did not run. Nothing is wrong with it, nor with the model."""
_NO_ROOM = Failure(Status.RESOURCE_EXHAUSTED, "the states of the model's sequences take as much memory as they may")
_NO_REQUEST = RequestInfo(1, ready=False)


class SequenceDriver(Driver):
    """The queue, the sequences and the instances of one version of a model."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: Settings,
        runners: Sequence[Runner],
        *,
        name: str,
        bounds: Bounds | None = None,
        device: SharedDevice | None = None,
        round_robin: RoundRobin | None = None,
    ) -> None:
        super().__init__(spec, settings, runners, name=name, bounds=bounds, device=device, round_robin=round_robin)
        assert spec.sequences is not None, "a model without sequences has a plain driver"
        self._sequences: SequenceSpec = spec.sequences
        self._instances = len(runners)
        self._has_keys = self._sequences.direct or self._sequences.is_variable
        seats = self._sequences.seats * self._instances
        self.table: SequenceTable[Job] = SequenceTable(
            seats, idle=self._sequences.idle, max_waiting=_WAITING * settings.max_queued_rows
        )
        self.states = States(self._sequences.states, seats)
        self._alarm = WakeUp(self._loop, self._turns.soon)

    def __repr__(self) -> str:
        return f"<SequenceDriver {self._name}: {self.table!r}, {self.scheduler!r}>"

    def sequence_statistics(self) -> SequenceStatistics:
        """The sequences in progress, and what became of those before."""
        return self.table.statistics()

    # What comes in.

    def submit(self, job: Job) -> None:
        now = time.monotonic()
        problem = self._problem(job)
        if problem is not None:
            job.settle(problem)
            return
        info = job.info
        own = self._sequences.iterative and not info.correlation_id  # a sequence of one request
        step = job.step = Step(
            job,
            job if own else _key(info.correlation_id, is_streams=info.sequence_lasts),
            start=own or info.sequence_start,
            end=own or info.sequence_end,
            deadline=job.deadline,
            patience=now + info.timeout_us / 1e6 if info.timeout_us else inf,
            lasts=info.sequence_lasts,
        )
        refusal = self.table.submit(step, now)
        if refusal is not None:
            job.settle(self._refusal(refusal, info))
        self._turns.soon()

    def cancel(self, job: Job) -> bool:
        step = job.step
        assert step is not None, "it was submitted"
        gone = self.table.cancel(step)
        if not gone and (super().cancel(job) or _is_paused(job)):
            self.table.finish(step, time.monotonic())  # it was ready, and will not run
        self._turns.soon()
        return gone

    def forget(self, id: int | str) -> None:
        """The stream whose sequence this is has ended."""
        self.table.forget(_key(id, is_streams=True))
        self._turns.soon()

    @property
    def unended_sequences(self) -> int:
        return self.table.unended

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Let no sequence begin and those that have begun end: then admit nothing more and call back once.

        What a sequence has built up would be lost otherwise. It ends by its END, by its idle time, or with its stream.
        """
        self.table.drain()
        if self._closed:
            on_idle()
            return
        self._on_idle = on_idle
        self._turns.soon()

    def tell_if_idle(self) -> None:
        """The scheduler stays open until then: it is shown the steps of a sequence, and rounds, one after the other."""
        if self._on_idle is not None and self.table.is_empty:
            self.scheduler.drain()
            super().tell_if_idle()

    async def close(self, timeout: float) -> bool:
        self._alarm.close()
        return await super().close(timeout)

    def _problem(self, job: Job) -> Failure | None:
        """What Triton's sequence batcher asks of a request before anything else."""
        info = job.info
        if job.plan.rows == 1 and info.correlation_id and not info.sequence_start:
            return None  # most are
        model = self._spec.name
        if job.plan.rows != 1:
            return InvalidRequest(
                f"inference request to model '{model}' must specify batch-size 1 due to requirements of sequence "
                "batcher"
            ).failure()
        if not info.correlation_id and not self._sequences.iterative:
            return InvalidRequest(
                f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
            ).failure()
        return None

    def _refusal(self, refusal: Refusal, info: RequestInfo) -> Failure | Refused:
        match refusal:
            case Refusal.NOT_STARTED:
                # What we call the sequence of a stream is nobody's business.
                which = "the sequence of its stream" if info.sequence_lasts else f"sequence {info.correlation_id}"
                return InvalidRequest(
                    f"inference request for {which} to model '{self._spec.name}' must specify the START flag on the "
                    "first request of the sequence"
                ).failure()
            case Refusal.FULL:
                return Refused(Reason.QUEUE_FULL)
            case Refusal.DRAINING:
                return Refused(Reason.DRAINING)

    # What the table says.

    def admit(self, now: float) -> None:
        """Ask the table first: whatever happened to it since the last turn, that is once for all of it."""
        self._perform(now)
        super().admit(now)

    def _perform(self, now: float) -> None:
        table = self.table
        while (wakeup := table.next_wakeup()) is not None and wakeup <= now:
            for effect in table.poll(now):
                match effect:
                    case Ready(step):
                        self._run_step(step, now)
                    case Lost(step, loss):
                        step.payload.settle(_outcome_of(loss))
                    case Ended(sequence):  # whoever gets its seat begins anew, and runs later than now
                        if sequence.seat is not None:
                            self.states.drop(sequence.seat)
        self._alarm.set(wakeup)

    def _run_step(self, step: Step[Job], now: float) -> None:
        job = step.payload
        if job.is_settled:  # cancelled at this moment
            self.table.finish(step, now)
            return
        if self._has_keys:
            self._set_key(step)
        self._incoming.append(job)

    def _set_key(self, step: Step[Job]) -> None:
        """Steps with equal keys may share a batch."""
        assert step.sequence is not None
        seat = step.sequence.seat
        assert seat is not None, "it is ready"
        instance = seat % self._instances if self._sequences.direct else 0
        step.payload.key = (step.payload.plan.key, instance, self.states.shapes(seat, start=step.start))

    # What the scheduler says.

    def drop(self, job: Job, reason: Reason) -> None:
        super().drop(job, reason)
        self._lost(job)

    def _refuse(self, job: Job, refused: Refused) -> None:
        super()._refuse(job, refused)
        self._lost(job)

    def _lost(self, job: Job) -> None:
        assert job.step is not None
        self.table.lose(job.step, time.monotonic())
        self._turns.soon()

    # A batch's life.

    def _model_batch(self, run: Run, rows: int) -> ModelBatch:
        batch = run.batch
        if self._sequences.direct:
            batch.tickets.sort(key=_seat)  # rows ascend
        steps: list[Step[Job]] = list(map(_step, batch.tickets))
        seats = np.fromiter(map(_seat, batch.tickets), np.intp, len(steps))
        if self._sequences.direct:
            run.runner = self._runners[int(seats[0]) % self._instances]
            taken = seats // self._instances
            rows = int(taken[-1]) + 1 if self._spec.batched else 1
            by_row: list[Step[Job] | None] = [None] * rows
            for step, row in zip(steps, taken.tolist(), strict=True):
                by_row[row] = step
        else:
            taken = np.arange(len(steps))
            by_row = [*steps, *[None] * (rows - len(steps))]
        fresh = [index for index, step in enumerate(steps) if step.start]
        if fresh:
            self.states.reset(seats[fresh])
        inputs = run.slot.gather(batch)
        if self._spec.batched:
            inputs = {name: _spread(array, taken, rows) for name, array in inputs.items()}
        inputs |= self._with_axis(self.states.gather(seats, taken, rows))
        inputs |= fill(self._sequences.controls, by_row, batched=self._spec.batched)
        run.seats, run.rows = seats, taken
        names = [*self._names(run.wanted), *(state.output for state in self._sequences.states)]
        return ModelBatch(inputs, rows, Infos(rows, partial(_infos, by_row)), names)

    def finished(self, run: Run, model_batch: ModelBatch, outcome: RunOutcome, *, at_once: bool = False) -> None:
        """Sequences go on before the next batch starts, since what follows a step, or goes round, belongs into it.

        What goes round is known when the answers are given; else they can wait until the next batch runs.
        """
        rounds = self._sequences.iterative or self._spec.decoupled
        if not rounds:
            now = time.monotonic()
            for step in map(_step_of, run.batch.tickets):
                self.table.finish(step, now)
        super().finished(run, model_batch, outcome, at_once=at_once or rounds)

    @property
    def _has_work(self) -> bool:
        return super()._has_work or self.table.has_news

    def _go_on(self) -> None:
        if self.table.has_news:
            self._turns.soon()
        else:
            if not self._closed:  # a batch may end after that, and the alarm is gone
                self._alarm.set(self.table.next_wakeup())
            super()._go_on()

    def _with_axis(self, states: Tensors) -> Tensors:
        return states if self._spec.batched else {name: array[0] for name, array in states.items()}

    def _checked(self, run: Run, model_batch: ModelBatch, outcome: RunOutcome) -> Result:
        """Keep the states of those that did not fail, and check the outputs."""
        result = super()._checked(run, model_batch, outcome)
        if isinstance(result, Failure) or isinstance(outcome, Failure):
            return result
        try:
            arrays = self.states.check(outcome, model_batch.rows if self._spec.batched else None)
        except Exception as error:
            return failure_of(error, during=f"the check of the states of {self._name}")
        seats, rows = run.seats, run.rows
        if model_batch.failures:
            good = np.array([row not in model_batch.failures for row in rows])
            seats, rows = seats[good], rows[good]
        for row in self.states.scatter(seats, rows, arrays):
            model_batch.failures[row] = _NO_ROOM
        return result

    def _hand_out(self, run: Run, model_batch: ModelBatch, result: Mapping[int, Array]) -> None:
        outputs, bucket = BatchOutputs(result, self._spec.batched), run.batch.length
        is_plain = self._held is None and not bucket
        for job, row in zip(run.batch.tickets, run.rows.tolist(), strict=True):
            if row in model_batch.failures:
                self._answer(job, model_batch.failures[row])
            elif job.is_settled:
                continue
            elif isinstance(job, StreamedJob):
                has_room = job.respond(self._own(job, outputs, row, row + 1, bucket))
                if row not in model_batch.unfinished:
                    job.settle(())
                elif not has_room:
                    job.batch = _paused(partial(self._go_round, job))
            elif row not in model_batch.unfinished:
                if is_plain:
                    job.deliver(outputs, row, row + 1)
                else:
                    self._answer(job, self._own(job, outputs, row, row + 1, bucket))

    def _deliver(self, run: Run, model_batch: ModelBatch, result: Result, over: Sequence[Job]) -> None:
        if not self._sequences.iterative:
            model_batch.unfinished.clear()
        again = set[Job]()
        if not isinstance(result, Failure) and model_batch.unfinished:
            again = {
                job
                for job, row in zip(run.batch.tickets, run.rows.tolist(), strict=True)
                if row in model_batch.unfinished and row not in model_batch.failures
            }
        super()._deliver(run, model_batch, result, [job for job in over if job not in again])
        now = time.monotonic()
        for job in run.batch.tickets:
            if job in again and not job.is_settled:
                if not _is_paused(job):
                    self._go_round(job)
                continue
            step = _step_of(job)
            if not step.is_over:  # it is if the answer of another one has cancelled it while it was paused
                self.table.finish(step, now)
            job.step = None  # which knows it: together they would be garbage that only the collector finds

    def _go_round(self, job: Job) -> None:
        """Queue a step that is not finished again."""
        if isinstance(job, StreamedJob):
            job.batch = None
        step = _step_of(job)
        step.start = False
        if self._has_keys:
            self._set_key(step)
        job.state = State.NEW
        super().submit(job)


def first_step(spec: ModelSpec, rows: int) -> Tensors:
    """What a model with sequences is given beside its inputs if each row is the first of a sequence; else nothing."""
    sequences = spec.sequences
    if sequences is None:
        return {}
    nobody = np.empty(0, np.intp)
    tensors = States(sequences.states, 1).gather(nobody, nobody, rows)
    if not spec.batched:
        tensors = {name: array[0] for name, array in tensors.items()}
    return tensors | fill(sequences.controls, [Step(None, 1, start=True)] * rows, batched=spec.batched)


def _outcome_of(loss: Loss) -> Outcome:
    match loss:
        case Loss.DEADLINE:
            return Refused(Reason.EXPIRED)
        case Loss.PATIENCE:
            return _NO_SEAT
        case Loss.ORPHANED:
            return ORPHANED


def _key(id: int | str, *, is_streams: bool) -> Hashable:
    """What the table knows a sequence by: a client must not reach another stream's, whatever id it makes up."""
    return (id,) if is_streams else id


def _step_of(job: Job) -> Step[Job]:
    assert job.step is not None, "it was submitted"
    return job.step


_step, _seat = attrgetter("step"), attrgetter("step.sequence.seat")
"""Of a job that is ready: both are there then."""


def _infos(steps: Sequence[Step[Job] | None]) -> list[RequestInfo]:
    return [_NO_REQUEST if step is None else _info_of(step) for step in steps]


def _info_of(step: Step[Job]) -> RequestInfo:
    id = public_id(step.id)
    return replace(step.payload.describe(), correlation_id=id, sequence_start=step.start, sequence_end=step.end)


def _spread(array: Array, rows: Rows, count: int) -> Array:
    """The rows of an array in their places among `count`; the others are zeros, or empty strings."""
    if len(array) == count:
        return array
    spread = np.zeros((count, *array.shape[1:]), array.dtype)
    if array.dtype == object:
        spread.fill(b"")
    spread[rows] = array[: len(rows)]
    return spread


class _Paused:
    """The flow of a step whose next round waits for a slow reader."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        self._go_on = go_on

    def give(self) -> None: ...

    def withhold(self) -> None: ...

    def give_withheld(self) -> None:
        self._go_on()

    def cancel(self) -> None: ...


def _paused(go_on: Callable[[], None]) -> ModelBatch:
    return ModelBatch({}, 0, (), flow=_Paused(go_on))


def _is_paused(job: Job) -> bool:
    return isinstance(job, StreamedJob) and job.batch is not None

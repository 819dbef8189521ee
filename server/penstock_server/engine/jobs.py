"""A request inside the engine: what it asks for, and how its answer gets out."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from penstock_scheduler import FireReason, Reason, State, Ticket, TrafficClass
from penstock_server.backends.base import ModelBatch, RequestInfo
from penstock_server.errors import Failure
from penstock_server.tensors.codec import Array, Buffer
from penstock_server.tensors.spec import TensorSpec

if TYPE_CHECKING:
    from penstock_scheduler.sequences import Step
    from penstock_server.engine.assembly import BatchOutputs
    from penstock_server.engine.versions import ServedVersion

_log = logging.getLogger(__name__)

_IN_A_BATCH = (State.FORMED, State.RUNNING)
_DONE = State.DONE


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was not run, or not to its end. The service layer has the words for it."""

    reason: Reason
    retry_after: float = 0.0
    """Seconds after which a retry has a chance; 0 if waiting does not help."""


Outputs = Sequence[Array]
"""The outputs that the plan asks for, in its order, with this request's rows only."""

Outcome = Outputs | Failure | Refused


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known of a request but its data: checked once, good for every request like it."""

    version: "ServedVersion"
    rows: int
    """Rows it brings; 1 for a model without a batch axis."""
    inputs: tuple[TensorSpec, ...]
    """The inputs that are given, in the model's order."""
    shapes: tuple[tuple[int, ...], ...]
    """Their shapes as the model takes them, without the batch axis."""
    outputs: tuple[int, ...]
    """Which of the model's outputs are asked for, by index, ascending."""
    classes: tuple[int, ...]
    """For each of them: how many classes are asked for, or 0 for the tensor itself."""
    key: Hashable
    """Requests with equal keys may share a batch: the same inputs in the same shapes."""
    length: int = 0
    """How long the variable axis is, for a model with length buckets."""
    batch_rows: int = field(init=False)
    """Rows that it counts for in a batch: 1 if the model does not share batches, whatever it brings."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_rows", self.rows if self.version.spec.batching.enabled else 1)


class Job(Ticket):
    """One request on its way through the engine: the scheduler's ticket and the engine's own in one object.

    Whoever makes requests subclasses it and says in `answer` where the outcome goes, so that a request costs neither
    a closure nor a second object. It is answered once, or cancelled before.
    """

    __slots__ = ("arrived", "info", "is_settled", "pieces", "plan", "step", "tensors", "times")

    def __init__(
        self,
        plan: Plan,
        tensors: Sequence[Buffer],
        info: RequestInfo,
        arrived: float,
        deadline: float = inf,
        traffic: TrafficClass = TrafficClass.INTERACTIVE,
        level: int = 0,
        tenant: str = "",
    ) -> None:
        Ticket.__init__(  # `super()` would make an object for each request
            self,
            plan.batch_rows,
            len(tensors[0]) if len(tensors) == 1 else sum(map(len, tensors)),
            plan.key,
            deadline,
            traffic,
            level,
            tenant,
            info.timeout_us / 1e6,
            plan.length,
        )
        self.plan = plan
        self.tensors: Sequence[Buffer] = tensors  # raw contents of the plan's inputs, in its order
        self.info = info
        self.arrived = arrived
        self.is_settled = False  # answered, or cancelled
        self.pieces: list[tuple[int, Outputs]] | None = None  # of an oversize request: first row and outputs
        self.times: JobTimes | None = None
        self.step: Step[Job] | None = None  # of its sequence, for a model that has some

    def answer(self, outcome: Outcome) -> None:
        """Take the outcome. Called at most once, by the engine."""
        raise NotImplementedError

    def answer_rows(self, outputs: "BatchOutputs", start: int, end: int) -> None:
        """Take the outcome of a request that ran whole: its rows of a batch, from `start` to before `end`.

        Instead of `answer`, and for a subclass that would rather write bytes than look at arrays.
        """
        self.answer(outputs.of(self, start, end))

    def describe(self) -> RequestInfo:
        """What its model may know of it."""
        return self.info

    def settle(self, outcome: Outcome) -> None:
        """Answer it, unless it was answered or cancelled before."""
        if self._end():
            try:
                self.answer(outcome)
            except Exception:
                # One caller's trouble must not keep its batch-mates from their answers.
                _log.exception("a request's completion callback failed")

    def deliver(self, outputs: "BatchOutputs", start: int, end: int) -> None:
        """Answer it with its rows of a batch, unless it was answered or cancelled before."""
        if self._end():
            try:
                self.answer_rows(outputs, start, end)
            except Exception:
                _log.exception("a request's completion callback failed")

    def cancel(self) -> bool:
        """Forget it: it is not answered any more. It leaves the queue if it still waits there.

        False if it was answered, or forgotten, before; or if it is a step of a sequence and over: then it will be.
        """
        if (self.step is not None and self.step.is_over) or not self._end():
            return False
        self.plan.version.driver.cancel(self)
        return True

    def _end(self) -> bool:
        """The one place where a request ends. False if it has ended before."""
        if self.is_settled:
            return False
        self.is_settled = True
        self.pieces = None
        if self.state is _DONE:  # as it mostly is: the same as to `let_go`, without a call for each request
            self.tensors = ()
        else:
            self.let_go()
        return True

    def let_go(self) -> None:
        """Keep its data no longer than needed, now that it has ended or that a batch with a part of it has.

        A batch needs them even if it is still to be put together, and even of a request whose other parts wait or are
        gone.
        """
        if self.state is _DONE or (self.state not in _IN_A_BATCH and self.unfinished <= self.remaining):
            self.tensors = ()


class StreamedJob(Job):
    """A request to a decoupled model: any number of responses, then `answer` without outputs or with a failure."""

    __slots__ = ("batch",)

    def __init__(self, plan: Plan, tensors: Sequence[Buffer], info: RequestInfo, arrived: float) -> None:
        super().__init__(plan, tensors, info, arrived)
        self.batch: ModelBatch | None = None  # once it runs

    def respond(self, outputs: Outputs) -> bool:
        """Take a response. False: the model has to wait until `go_on` is called."""
        raise NotImplementedError

    def go_on(self) -> None:
        """There is room for more responses."""
        if self.batch is not None and self.batch.flow is not None:
            self.batch.flow.give_withheld()


@dataclass(slots=True, eq=False)
class JobTimes:
    """Where a request's time went, on `time.monotonic()`; one object for all jobs of a batch.

    Nobody changes it; it is not frozen because that costs.
    """

    assembly: float
    """When its batch was begun to be put together: until then it was queued."""
    infer: float
    output: float
    rows: int
    """Rows of the batch."""
    reason: FireReason
    """Why the batch was started."""

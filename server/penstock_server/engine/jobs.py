"""A request inside the engine: what it asks for, and how its answer gets out."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from penstock_scheduler import Ticket
from penstock_server.backends.base import RequestInfo
from penstock_server.errors import Failure
from penstock_server.tensors.codec import Array, Buffer
from penstock_server.tensors.spec import TensorSpec

if TYPE_CHECKING:
    from penstock_server.engine.versions import ServedVersion

_log = logging.getLogger(__name__)


class Refusal(Enum):
    """Why a request was not run. The service layer has the words for it."""

    QUEUE_FULL = auto()
    EXPIRED = auto()
    DRAINING = auto()


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was never run."""

    reason: Refusal
    retry_after: float | None = None
    """Seconds after which a retry has a chance; None if nothing is known."""


Outputs = Sequence[Array]
"""The outputs that the plan asks for, in its order, with this request's rows only."""

Outcome = Outputs | Failure | Refused
Done = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known of a request but its data: checked once, good for every request like it."""

    version: "ServedVersion"
    rows: int
    """Rows it brings; 1 for a model without batching."""
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


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way through the engine."""

    plan: Plan
    tensors: Sequence[Buffer]
    """Raw contents of the plan's inputs, in its order."""
    info: RequestInfo
    arrived: float
    deadline: float
    done: Done | None
    ticket: "Ticket[Job] | None" = None

    def settle(self, outcome: Outcome) -> None:
        """Answer it, unless it was answered or cancelled before."""
        done, self.done = self.done, None
        if done is None:
            return
        self.tensors = ()
        try:
            done(outcome)
        except Exception:
            # One caller's trouble must not keep its batch-mates from their answers.
            _log.exception("a request's completion callback failed")

    def cancel(self) -> bool:
        """Forget it: `done` is not called any more. It leaves the queue if it still waits there.

        False if it was answered, or forgotten, before.
        """
        if self.done is None:
            return False
        self.done = None
        self.tensors = ()
        if self.ticket is not None:
            self.plan.version.driver.cancel(self.ticket)
        return True

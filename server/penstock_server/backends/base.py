"""The contract between the engine and a backend.

    Backend.open(source) ──▶ OpenModel ──instances(config)──▶ ModelInstance ──run(batch)──▶ tensors

* A *backend* knows one kind of model file. It opens a version of a model, says what it can read off
  it (`signature`), and makes as many *instances* as the completed config asks for.
* An *instance* runs one batch at a time and may block: a runner (`backends.runner`) owns the thread
  that calls it. Instances of one model may run at the same time, each in its own thread.
* Whatever an instance raises becomes the answer of every request of the batch: `ModelError` as it
  is, anything else as INTERNAL with an error id. `ModelBatch.fail` fails one request alone.

Every backend passes the conformance suite in `tests/server/backends/conformance.py`.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.errors import Failure, ModelError
from penstock_server.models.signature import Signature
from penstock_server.status import Status
from penstock_server.tensors.codec import Array

Tensors = dict[str, Array]
"""Arrays by tensor name."""

ParameterValue = bool | int | str | float


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What a model may want to know about one request of its batch."""

    rows: int
    """Rows of the batch that are this request's; 1 for a model without batching."""
    id: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict[str, ParameterValue])
    """The request's custom parameters."""
    outputs: tuple[str, ...] = ()
    """The outputs that were asked for, in the model's order."""
    correlation_id: int | str = 0
    """The id of the sequence it belongs to; 0 if none."""
    sequence_start: bool = False
    sequence_end: bool = False
    sequence_lasts: bool = False
    """The sequence is its stream's: it ends with it, and is not given up for being idle."""
    timeout_us: int = 0
    """The `timeout` parameter, in microseconds; 0 if none."""
    ready: bool = True
    """False: there is no request in this row, which is the seat of a sequence that has sent none (strategy direct)."""


@dataclass(slots=True, eq=False)
class ModelBatch:
    """One execution of a model."""

    inputs: Tensors
    """With the batch axis first if the model batches: `[rows, ...]`. Arrays may be read-only."""
    rows: int
    requests: Sequence[RequestInfo]
    """In the order of their rows."""
    wanted: Sequence[str] | None = None
    """The outputs that some request asks for, in the model's order; see `wanted_outputs`."""
    failures: dict[int, Failure] = field(default_factory=dict[int, Failure])
    """By index in `requests`; what `fail` wrote."""
    started: float = 0.0
    """`time.monotonic()` when the instance began to run; set by the runner."""
    ended: float = 0.0
    unfinished: set[int] = field(default_factory=set[int])
    """By index in `requests`; what `reschedule` wrote."""
    respond: "Callable[[Tensors], None] | None" = None
    """Of a decoupled model: takes a response, on the engine's loop; set by the engine."""
    flow: "Flow | None" = None
    """Of a decoupled model: set by the runner when it begins."""

    def wanted_outputs(self) -> Collection[str]:
        """The outputs that some request asks for. Whoever assembled the batch may know without looking at each."""
        if self.wanted is not None:
            return self.wanted
        return {name for request in self.requests for name in request.outputs}

    def fail(self, index: int, status: Status, message: str) -> None:
        """Answer the request at `index` with an error, as `ModelError` would all; the others get their outputs."""
        self.failures[index] = ModelError(status, message).failure()

    def reschedule(self, index: int) -> None:
        """Of an iterative model: the request at `index` is not finished. It runs again, with the states of this run.

        A decoupled model's outputs of this run are a response; those of any other model are not looked at.
        """
        self.unfinished.add(index)

    def row_ranges(self) -> list[tuple[int, int]]:
        """The first and the last-plus-one row of each request."""
        ranges: list[tuple[int, int]] = []
        start = 0
        for request in self.requests:
            ranges.append((start, start + request.rows))
            start += request.rows
        return ranges


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A version of a model on disk."""

    model: str
    version: int
    path: Path
    """The model file."""


class ModelInstance(Protocol):
    """Runs one batch at a time, in one thread.

    An instance with an attribute `may_run_inline` that is true may be called on any thread, one batch at a time, and
    does nothing in `run` but compute: its batches may run on the event loop if they are short.
    """

    def run(self, batch: ModelBatch) -> Tensors:
        """The outputs, at least those that a request asks for; axis 0 is the batch if the model batches."""
        ...

    def close(self) -> None:
        """Free what the instance holds. Called once, after its last `run`."""
        ...


@runtime_checkable
class DecoupledInstance(Protocol):
    """Answers requests with any number of responses, many requests beside each other, in one thread with a loop."""

    def stream(self, batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        """The responses to the one request of a batch, each with the outputs that it asks for."""
        ...

    def close(self) -> None:
        """Free what the instance holds. Called once, after its last generator was closed."""
        ...


class Flow(Protocol):
    """The engine's hold on a generator that runs. Its calls are made on the engine's loop."""

    def give(self) -> None:
        """A response was taken: there is room for another one."""
        ...

    def withhold(self) -> None:
        """A response was taken, and there shall be no other until `give_withheld`."""
        ...

    def give_withheld(self) -> None:
        """There is room again."""
        ...

    def cancel(self) -> None:
        """Nobody wants more responses: close the generator where it stands."""
        ...


class OpenModel(Protocol):
    """An opened version of a model, not yet able to run."""

    @property
    def signature(self) -> Signature | None:
        """What the file says of inputs and outputs; None if it says nothing (a Python model)."""
        ...

    def instances(self, config: ModelConfig, count: int) -> Sequence[ModelInstance | DecoupledInstance]:
        """Make the instances. May block for long. Raises LoadError, or anything a model's code raises."""
        ...


class Backend(Protocol):
    """Opens model files of one kind."""

    name: ClassVar[str]

    def open(self, files: ModelFiles, config: ModelConfig) -> OpenModel:
        """Open a version, with the config as written. May block. Raises LoadError."""
        ...

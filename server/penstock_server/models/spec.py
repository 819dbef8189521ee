"""What the hot path knows of a model: a completed configuration, digested once.

Nothing of protobuf is left in it, times are in seconds, and what the configuration can express in
two ways is said in one: priorities always exist (one level if none were configured), a queue without
a bound or a timeout has None.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from penstock_proto.model_config_pb2 import ModelConfig, ModelQueuePolicy
from penstock_server.models.config import Tensor, datatype_of
from penstock_server.models.problems import refuse
from penstock_server.models.scheduling import Scheduling, read_scheduling
from penstock_server.models.sequences import SequenceSpec
from penstock_server.tensors.spec import TensorSpec, show_shape


class TimeoutAction(Enum):
    """What becomes of a request whose time in the queue is up."""

    REJECT = "reject"
    DELAY = "delay"
    """It goes behind all those whose time is not up."""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How long requests may wait, and how many of them."""

    max_queue_size: int | None = None
    """Requests, not rows; None is no bound."""
    default_timeout: float | None = None
    """Seconds; None is no limit."""
    allow_timeout_override: bool = False
    """Whether a request may set a shorter timeout than the default."""
    timeout_action: TimeoutAction = TimeoutAction.REJECT


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests are put into batches."""

    enabled: bool = False
    """Whether requests share batches. If not, each request runs by itself; the queue's rules hold all the same."""
    preferred_sizes: tuple[int, ...] = ()
    """Rows, ascending."""
    max_queue_delay: float = 0.0
    """Seconds a batch may wait to become fuller, from when its oldest request arrived."""
    preserve_ordering: bool = False
    priority_levels: int = 1
    """Levels are 1, the most urgent, to this."""
    default_priority_level: int = 1
    """For requests that name no level, or one that does not exist."""
    queue_policy: QueuePolicy = QueuePolicy()
    level_policies: Mapping[int, QueuePolicy] = field(default_factory=dict[int, QueuePolicy])
    """For the levels that have a policy of their own."""

    def policy(self, level: int) -> QueuePolicy:
        """The queue policy of a priority level."""
        return self.level_policies.get(level, self.queue_policy)


@dataclass(frozen=True, slots=True)
class Reshape:
    """A tensor that clients see in another shape than the model. Both without the batch axis."""

    client: tuple[int, ...]
    model: tuple[int, ...]

    def to_model(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The model's shape for a client's shape that fits `client`. Neither has a batch axis."""
        return _fill(self.model, self.client, shape)

    def to_client(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The client's shape for a model's shape that fits `model`. Neither has a batch axis."""
        return _fill(self.client, self.model, shape)


def _fill(target: Sequence[int], pattern: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """`target` with its axes of any length taken, in order, from those of `shape`, which fits `pattern`."""
    lengths = iter([length for length, axis in zip(shape, pattern, strict=True) if axis == -1])
    return tuple(next(lengths) if axis == -1 else axis for axis in target)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as requests meet it."""

    name: str
    max_batch_size: int
    """Rows; 0 is a model without a batch axis."""
    inputs: tuple[TensorSpec, ...]
    """In the order of the configuration, in the shapes that clients use."""
    outputs: tuple[TensorSpec, ...]
    required_inputs: int
    """How many inputs a request cannot leave out."""
    input_reshapes: Mapping[str, Reshape] = field(default_factory=dict[str, Reshape])
    """By name, for the inputs whose shape in the model differs."""
    output_reshapes: Mapping[str, Reshape] = field(default_factory=dict[str, Reshape])
    decoupled: bool = False
    """The model sends any number of responses to a request."""
    instance_count: int = 1
    batching: Batching = Batching()
    scheduling: Scheduling = field(default_factory=Scheduling)
    sequences: SequenceSpec | None = None
    """None: its requests have nothing to do with each other."""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def batched(self) -> bool:
        """Whether the first axis of every tensor of a request is the batch."""
        return self.max_batch_size > 0

    @property
    def batch_rows(self) -> int:
        """The most rows that one execution takes: 1 for a model without a batch axis."""
        return max(self.max_batch_size, 1)

    def describe(self) -> str:
        """What it takes and gives, in one line: `X FP32 [-1,4] → label INT64 [-1]`."""
        return f"{self._show(self.inputs)} → {self._show(self.outputs)}"

    def _show(self, tensors: Iterable[TensorSpec]) -> str:
        batch = (-1,) if self.max_batch_size else ()
        return ", ".join(f"{t.name} {t.datatype.name} {show_shape((*batch, *t.shape))}" for t in tensors)


def model_spec(
    config: ModelConfig,
    labels: Mapping[str, Sequence[str]] | None = None,
    sequences: SequenceSpec | None = None,
) -> ModelSpec:
    """The spec of a completed configuration (see completion.py). `labels` are by output name."""
    names = labels or {}
    return ModelSpec(
        name=config.name,
        max_batch_size=config.max_batch_size,
        inputs=tuple(_tensor_spec(tensor, optional=tensor.optional) for tensor in config.input),
        outputs=tuple(_tensor_spec(tensor, labels=tuple(names.get(tensor.name, ()))) for tensor in config.output),
        required_inputs=sum(not tensor.optional for tensor in config.input),
        input_reshapes=_reshapes(config.input),
        output_reshapes=_reshapes(config.output),
        decoupled=config.model_transaction_policy.decoupled,
        instance_count=sum(group.count for group in config.instance_group),
        batching=_batching(config) if sequences is None else _batching_of_steps(config, sequences),
        scheduling=_scheduling(config),
        sequences=sequences,
        parameters={key: parameter.string_value for key, parameter in config.parameters.items()},
    )


def _tensor_spec(tensor: Tensor, *, optional: bool = False, labels: tuple[str, ...] = ()) -> TensorSpec:
    datatype = datatype_of(tensor.data_type)
    assert datatype is not None, "a completed configuration was checked"
    return TensorSpec(tensor.name, datatype, tuple(tensor.dims), optional, labels)


def _reshapes(tensors: Iterable[Tensor]) -> dict[str, Reshape]:
    return {
        tensor.name: Reshape(tuple(tensor.dims), tuple(tensor.reshape.shape))
        for tensor in tensors
        if tensor.HasField("reshape") and tensor.reshape.shape != tensor.dims
    }


def _scheduling(config: ModelConfig) -> Scheduling:
    scheduling, problems = read_scheduling(config)
    refuse(problems, model=config.name, file="config.pbtxt")
    return scheduling


def _batching(config: ModelConfig) -> Batching:
    if not config.HasField("dynamic_batching"):
        return Batching()
    batching = config.dynamic_batching
    return Batching(
        # A decoupled model answers each request by itself.
        enabled=config.max_batch_size > 0 and not config.model_transaction_policy.decoupled,
        preferred_sizes=tuple(sorted(set(batching.preferred_batch_size))),
        max_queue_delay=batching.max_queue_delay_microseconds / 1e6,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels or 1,
        default_priority_level=batching.default_priority_level if batching.priority_levels else 1,
        queue_policy=_queue_policy(batching.default_queue_policy),
        level_policies={
            level: _queue_policy(policy)
            for level, policy in sorted(batching.priority_queue_policy.items())
            if batching.priority_levels
        },
    )


def _batching_of_steps(config: ModelConfig, sequences: SequenceSpec) -> Batching:
    """How the steps of different sequences share batches."""
    return Batching(
        enabled=config.max_batch_size > 0,
        preferred_sizes=sequences.preferred_sizes,
        max_queue_delay=sequences.max_queue_delay,
        preserve_ordering=sequences.preserve_ordering,
    )


def _queue_policy(policy: ModelQueuePolicy) -> QueuePolicy:
    delays = policy.timeout_action == ModelQueuePolicy.DELAY
    return QueuePolicy(
        max_queue_size=policy.max_queue_size or None,
        default_timeout=policy.default_timeout_microseconds / 1e6 or None,
        allow_timeout_override=policy.allow_timeout_override,
        timeout_action=TimeoutAction.DELAY if delays else TimeoutAction.REJECT,
    )

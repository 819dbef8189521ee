"""What `sequence_batching` in a configuration means, digested once: controls, states, and how sequences are seated.

A *control* is an input of the model that the server fills, one value a row: whether the row begins a sequence, ends
one, has a request at all, or which sequence it is. A *state* is an output that the server keeps for a sequence and
hands in again with its next request.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil, prod
from pathlib import Path

import numpy as np

from penstock_proto import byte_tensors
from penstock_proto.datatypes import BY_CONFIG_NAME, DATATYPES, DataType
from penstock_proto.model_config_pb2 import DataType as ConfigType
from penstock_proto.model_config_pb2 import ModelConfig, ModelSequenceBatching
from penstock_server.models.paths import read_inside
from penstock_server.models.problems import Problem, refuse
from penstock_server.tensors.codec import Array, memory_of, object_array, view
from penstock_server.tensors.spec import TensorSpec, show_shape

FOLDER = "initial_state"
MAX_STATE_BYTES = 1 << 30
"""Of all states of a model, every seat counted."""
_DEFAULT_CANDIDATES = 256

_Control = ModelSequenceBatching.Control
_ID_TYPES = frozenset({"UINT64", "INT64", "UINT32", "INT32", "BYTES"})


class ControlKind(Enum):
    """What a control tells the model about a row."""

    START = _Control.CONTROL_SEQUENCE_START
    READY = _Control.CONTROL_SEQUENCE_READY
    END = _Control.CONTROL_SEQUENCE_END
    CORRID = _Control.CONTROL_SEQUENCE_CORRID


@dataclass(frozen=True, slots=True)
class Control:
    """An input that the server fills, [rows, 1]."""

    name: str
    kind: ControlKind
    datatype: DataType
    false: float = 0
    true: float = 1
    """What stands for false and for true; CORRID has the id itself."""


@dataclass(frozen=True, slots=True)
class StateSpec:
    """What the server keeps for a sequence from one request to the next."""

    output: str
    """The model's output that it is taken from."""
    tensor: TensorSpec
    """The input that it is handed in as, without the batch axis. -1: the model decides, anew with each request."""
    initial: Array
    """What it is before the first request, without the batch axis."""

    @property
    def is_variable(self) -> bool:
        """Whether its shape may change."""
        return -1 in self.tensor.shape

    @property
    def is_loose(self) -> bool:
        """Whether its size may change."""
        return self.is_variable or self.initial.dtype == object


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """How the sequences of a model are served."""

    direct: bool
    """A sequence keeps its row of the batch; otherwise the oldest requests share a batch, whosever they are."""
    idle: float
    """Seconds without a request after which a sequence is over."""
    seats: int
    """Sequences that an instance has in progress at once."""
    controls: tuple[Control, ...] = ()
    states: tuple[StateSpec, ...] = ()
    preferred_sizes: tuple[int, ...] = ()
    max_queue_delay: float = 0.0
    preserve_ordering: bool = False
    iterative: bool = False
    """A request may go round several times before it is answered."""

    @property
    def id_is_text(self) -> bool | None:
        """Whether the model takes ids as text; None if it does not care."""
        for control in self.controls:
            if control.kind is ControlKind.CORRID:
                return control.datatype.name == "BYTES"
        return None

    @property
    def is_variable(self) -> bool:
        """Whether a state's shape may change."""
        return any(state.is_variable for state in self.states)

    @property
    def state_bytes(self) -> int:
        """What the states of one sequence take, at first at least."""
        return sum(memory_of(state.initial) for state in self.states)


def read_sequences(config: ModelConfig, model_dir: Path) -> SequenceSpec | None:
    """The spec of a completed configuration; None if it is not about sequences.

    LoadError names everything that is wrong. Files of initial states lie in the model's folder `initial_state`.
    """
    if not config.HasField("sequence_batching"):
        return None
    batching, rows = config.sequence_batching, max(config.max_batch_size, 1)
    problems = list(_clashes(config, batching))
    controls = tuple(_controls(batching, problems))
    states = tuple(_states(batching, model_dir, problems))
    spec = SequenceSpec(
        direct=not batching.HasField("oldest"),
        idle=batching.max_sequence_idle_microseconds / 1e6,
        seats=rows,
        controls=controls,
        states=states,
        iterative=batching.iterative_sequence,
    )
    spec = _direct(spec, batching.direct, rows) if spec.direct else _oldest(spec, batching.oldest)
    total = spec.state_bytes * spec.seats * sum(group.count for group in config.instance_group)
    if total > MAX_STATE_BYTES:
        reason = f"the states of all sequences take {total} bytes, more than the {MAX_STATE_BYTES} that they may"
        problems.append(Problem("sequence_batching.state", reason))
    refuse(problems, model=config.name, file=f"{model_dir.name}/config.pbtxt")
    return spec


def _direct(spec: SequenceSpec, given: ModelSequenceBatching.StrategyDirect, rows: int) -> SequenceSpec:
    """With a utilization of slots that is enough, a batch waits for it; otherwise for nothing."""
    enough = min(rows, ceil(given.minimum_slot_utilization * rows))
    if not given.max_queue_delay_microseconds or enough < 1:
        return spec
    return replace(spec, preferred_sizes=(enough,), max_queue_delay=given.max_queue_delay_microseconds / 1e6)


def _oldest(spec: SequenceSpec, given: ModelSequenceBatching.StrategyOldest) -> SequenceSpec:
    return replace(
        spec,
        seats=max(given.max_candidate_sequences or _DEFAULT_CANDIDATES, 1),
        preferred_sizes=tuple(sorted(set(given.preferred_batch_size))),
        max_queue_delay=given.max_queue_delay_microseconds / 1e6,
        preserve_ordering=given.preserve_ordering,
    )


def _controls(batching: ModelSequenceBatching, problems: list[Problem]) -> Iterator[Control]:
    for index, given in enumerate(batching.control_input):
        for control in given.control:
            field = f"sequence_batching.control_input[{index}].control"
            kind = ControlKind(control.kind)
            if kind is ControlKind.CORRID:
                datatype = BY_CONFIG_NAME.get(ConfigType.Name(control.data_type))
                if datatype is None or datatype.name not in _ID_TYPES:
                    reason = f"CORRID needs one of the data types {', '.join(sorted(_ID_TYPES))}"
                    problems.append(Problem(field, reason))
                    continue
                yield Control(given.name, kind, datatype)
                continue
            values = [
                (DATATYPES[name], pair)
                for name, pair in (
                    ("INT32", control.int32_false_true),
                    ("FP32", control.fp32_false_true),
                    ("BOOL", control.bool_false_true),
                )
                if len(pair)
            ]
            if len(values) != 1 or len(values[0][1]) != 2:
                reason = f"{kind.name} needs exactly one of the fields ..._false_true, with two values"
                problems.append(Problem(field, reason))
                continue
            datatype, (false, true) = values[0]
            yield Control(given.name, kind, datatype, false, true)


def _states(batching: ModelSequenceBatching, model_dir: Path, problems: list[Problem]) -> Iterator[StateSpec]:
    for index, state in enumerate(batching.state):
        field = f"sequence_batching.state[{index}]"
        datatype = BY_CONFIG_NAME.get(ConfigType.Name(state.data_type))
        if datatype is None:
            problems.append(Problem(f"{field}.data_type", "a state needs a data type"))
            continue
        if any(axis < -1 for axis in state.dims):
            reason = f"an axis has a length, or -1 for any, got dims {show_shape(tuple(state.dims))}"
            problems.append(Problem(f"{field}.dims", reason))
            continue
        tensor = TensorSpec(state.input_name, datatype, tuple(state.dims))
        try:
            yield StateSpec(state.output_name, tensor, _initial(state, tensor, model_dir))
        except ValueError as error:
            problems.append(Problem(f"{field}.initial_state", str(error)))


def _initial(state: ModelSequenceBatching.State, tensor: TensorSpec, model_dir: Path) -> Array:
    """What a state is at first: zeros (empty strings) unless a file says otherwise. ValueError if that is wrong.

    An axis of any length is as long as the initial state says, or 1: so it is with Triton.
    """
    if len(state.initial_state) > 1:
        raise ValueError("there may be one initial state")
    shape, datatype = tuple(1 if axis == -1 else axis for axis in tensor.shape), tensor.datatype
    for initial in state.initial_state:
        if initial.data_type != state.data_type or not _is_one_of(tuple(initial.dims), tensor.shape):
            raise ValueError(f"it needs the state's data type and dims {show_shape(tensor.shape)}, each with a length")
        shape = tuple(initial.dims)
        if not initial.data_file:
            continue
        raw = read_inside(model_dir / FOLDER, initial.data_file, MAX_STATE_BYTES)
        if not datatype.itemsize:
            return object_array(byte_tensors.unpack(raw), shape)
        if len(raw) != prod(shape) * datatype.itemsize:
            size = prod(shape) * datatype.itemsize
            raise ValueError(f"'{initial.data_file}' has {len(raw)} bytes, and a state has {size}")
        return view(raw, datatype, shape)
    if not datatype.itemsize:
        return object_array([b""] * prod(shape), shape)
    return np.zeros(shape, datatype.numpy)


def _is_one_of(shape: tuple[int, ...], shapes: tuple[int, ...]) -> bool:
    """Whether a shape is one of those that are written with -1 for any length."""
    if len(shape) != len(shapes):
        return False
    return all(length >= 0 and axis in (-1, length) for length, axis in zip(shape, shapes, strict=True))


def _clashes(config: ModelConfig, batching: ModelSequenceBatching) -> Iterator[Problem]:
    """Names that mean two things, and settings that contradict each other."""
    inputs = {tensor.name for tensor in config.input}
    names = [given.name for given in batching.control_input] + [state.input_name for state in batching.state]
    for name in sorted(set(names)):
        if name in inputs:
            yield Problem("sequence_batching", f"'{name}' is filled by the server: it cannot be an input of requests")
        if names.count(name) > 1:
            yield Problem("sequence_batching", f"'{name}' is declared twice")
    outputs = [state.output_name for state in batching.state]
    for name in sorted(set(outputs)):
        if outputs.count(name) > 1:
            yield Problem("sequence_batching.state", f"output '{name}' is declared twice")
    if config.model_transaction_policy.decoupled and not batching.iterative_sequence:
        reason = "a decoupled model with sequences needs iterative_sequence: a step gives one response"
        yield Problem("model_transaction_policy.decoupled", reason)
    for size in batching.oldest.preferred_batch_size:
        if not 1 <= size <= max(config.max_batch_size, 1):
            reason = f"{size} is not between 1 and max_batch_size ({config.max_batch_size})"
            yield Problem("sequence_batching.oldest.preferred_batch_size", reason)
    if not 0 <= batching.direct.minimum_slot_utilization <= 1:
        yield Problem("sequence_batching.direct.minimum_slot_utilization", "it is a share, from 0 to 1")

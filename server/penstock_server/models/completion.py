"""From a configuration as written to one with nothing left open, as ModelConfig answers it.

What the operator wrote is kept. What is missing comes from the model's own signature, by Triton's rules:

* Inputs or outputs that are not declared are the model's.
* The batch size is filled in only together with tensors: who declares both inputs and outputs has
  said with `max_batch_size` 0 that there is no batch axis. If the first axis of *every* input and
  output of the model is of any length, the model is batched along it, and dynamic batching is
  switched on unless the operator chose a scheduler.
* What is declared is held against the model, and everything that contradicts it is told at once.

The rest are defaults that depend on no model. A completed configuration completes to itself.
"""

from collections.abc import Iterator, MutableSequence, Sequence

from penstock_proto.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup
from penstock_server.models.config import Tensor, completable, config_problems, datatype_of
from penstock_server.models.names import name_backend
from penstock_server.models.problems import Problem, refuse
from penstock_server.models.scheduling import length_mask
from penstock_server.models.signature import Signature, SignatureTensor
from penstock_server.tensors.spec import show_shape

DEFAULT_MAX_BATCH_SIZE = 4
"""For models of a repository whose configuration leaves the batch size to the model, as Triton has it."""
_SEQUENCE_IDLE_MICROSECONDS = 1_000_000


def complete_config(
    config: ModelConfig,
    signature: Signature | None,
    *,
    default_max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
) -> ModelConfig:
    """A copy of `config` with everything filled in. `signature` is None for a model that cannot tell.

    Raises LoadError with all contradictions between configuration and model, and all errors of the
    completed configuration. It names the model's `config.pbtxt`.
    """
    completed = ModelConfig()
    completed.CopyFrom(config)
    name_backend(completed)
    problems: list[Problem] = []
    if signature is not None and completable(completed):
        problems += _complete_from(signature, completed, default_max_batch_size)
    if not problems:  # else the tensors are still open, and all that could be said of them would mislead
        if signature is not None:
            _reshape_scalars(completed, signature)
            problems += _contradictions(completed, signature)
        problems += _missing_tensors(completed, signature)
    _fill_defaults(completed)
    refuse([*problems, *config_problems(completed)], model=config.name, file=f"{config.name}/config.pbtxt")
    return completed


# ── from the model ────────────────────────────────────────────────────────────────────────────────


def _complete_from(signature: Signature, config: ModelConfig, default_max_batch_size: int) -> list[Problem]:
    """Fill in the batch size and the tensors that are not declared; what keeps that from being done."""
    if config.max_batch_size > 0 and not signature.batchable:
        unbatchable = _unbatchable(signature)
        return [Problem("max_batch_size", f"the model cannot be batched: the first axis of {unbatchable} is fixed")]
    if config.max_batch_size == 0 and signature.batchable:
        config.max_batch_size = default_max_batch_size
    if config.max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
        config.dynamic_batching.SetInParent()
    batched = config.max_batch_size > 0
    elsewhere = _sequence_tensors(config)
    if not config.input:
        for tensor in signature.inputs:
            if tensor.name not in elsewhere and not tensor.optional:
                _declare(config.input.add(), tensor, batched)
    if not config.output:
        for tensor in signature.outputs:
            if tensor.name not in elsewhere:
                _declare(config.output.add(), tensor, batched)
    return []


def _declare(declared: Tensor, tensor: SignatureTensor, batched: bool) -> None:
    declared.name = tensor.name
    declared.data_type = DataType.Value(tensor.datatype.config_name)
    shape = tensor.shape[1:] if batched else tensor.shape
    declared.dims.extend(shape or (1,))
    if not shape:  # requests know no tensors without axes
        declared.reshape.SetInParent()


def _unbatchable(signature: Signature) -> str:
    tensors = (*signature.inputs, *signature.outputs)
    shapes = [f"'{tensor.name}' {show_shape(tensor.shape)}" for tensor in tensors if tensor.shape[:1] != (-1,)]
    return ", ".join(shapes) or "its inputs (it has none)"


def _sequence_tensors(config: ModelConfig) -> set[str]:
    """Tensors of the model that the sequence batcher fills or keeps: they are not the clients'."""
    batching = config.sequence_batching
    controls = {control.name for control in batching.control_input}
    states = {name for state in batching.state for name in (state.input_name, state.output_name)}
    return controls | states


# ── against the model ─────────────────────────────────────────────────────────────────────────────


def _reshape_scalars(config: ModelConfig, signature: Signature) -> None:
    """Dims [1] of a tensor without axes mean a reshape, whether it was written or not: there is no other way to ask."""
    if config.max_batch_size > 0:
        return
    for declared, model in ((config.input, signature.inputs), (config.output, signature.outputs)):
        scalars = {tensor.name for tensor in model if not tensor.shape}
        for tensor in declared:
            if tensor.name in scalars and list(tensor.dims) == [1]:
                tensor.reshape.SetInParent()


def _contradictions(config: ModelConfig, signature: Signature) -> Iterator[Problem]:
    batched = config.max_batch_size > 0
    yield from _tensor_contradictions("input", config.input, signature.inputs, batched)
    yield from _tensor_contradictions("output", config.output, signature.outputs, batched)
    declared = {tensor.name for tensor in config.input if not tensor.optional} | _sequence_tensors(config)
    declared.add(length_mask(config))  # a client may leave it out, and then the server makes it
    for tensor in signature.inputs:
        if tensor.name not in declared and not tensor.optional:
            made_optional = any(tensor.name == each.name for each in config.input)
            reason = "cannot be optional" if made_optional else "must be declared"
            yield Problem("input", f"input '{tensor.name}' {reason}: the model needs it")


def _tensor_contradictions(
    kind: str, declared: Sequence[Tensor], model: Sequence[SignatureTensor], batched: bool
) -> Iterator[Problem]:
    known = {tensor.name: tensor for tensor in model}
    for index, tensor in enumerate(declared):
        field, what = f"{kind}[{index}]", f"{kind} '{tensor.name}'"
        own = known.get(tensor.name)
        if own is None:
            names = ", ".join(f"'{name}'" for name in known) or "none"
            yield Problem(f"{field}.name", f"the model has no {what}, but {names}")
            continue
        datatype = datatype_of(tensor.data_type)
        if datatype is not None and datatype != own.datatype:
            expected = own.datatype.config_name
            yield Problem(f"{field}.data_type", f"{what}: the model has {expected}, got {datatype.config_name}")
        yield from _shape_contradictions(field, what, tensor, own, batched)


def _shape_contradictions(
    field: str, what: str, tensor: Tensor, own: SignatureTensor, batched: bool
) -> Iterator[Problem]:
    part = "reshape.shape" if tensor.HasField("reshape") else "dims"
    shape = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
    full = ((-1,) if batched else ()) + tuple(shape)
    if len(full) == len(own.shape) and all(axis in (-1, dim) for dim, axis in zip(full, own.shape, strict=True)):
        return
    reason = f"{what}: the model has shape {show_shape(own.shape)}, got {show_shape(full)}"
    if batched and own.shape == (-1,) and tuple(shape) == (1,):
        reason += "; one value a row is dims [ 1 ] with reshape { shape: [ ] }"
    elif batched:
        reason += ", whose first axis is the batch (max_batch_size is above 0)"
    elif own.shape[:1] == (-1,) and own.shape[1:] == full:
        reason += "; is max_batch_size missing?"
    yield Problem(f"{field}.{part}", reason)


def _missing_tensors(config: ModelConfig, signature: Signature | None) -> Iterator[Problem]:
    if signature is None and not config.input:
        yield Problem("input", "no inputs are declared, and the model does not tell them")
    if not config.output:
        known = "the model does not tell them" if signature is None else "the model has none"
        yield Problem("output", f"no outputs are declared, and {known}")


# ── defaults ──────────────────────────────────────────────────────────────────────────────────────


def _fill_defaults(config: ModelConfig) -> None:
    if not config.version_policy.WhichOneof("policy_choice"):
        config.version_policy.latest.num_versions = 1
    if not config.instance_group:
        config.instance_group.add(name=config.name)
    for index, group in enumerate(config.instance_group):
        group.name = group.name or f"{config.name}_{index}"
        group.count = group.count or 1
        if group.kind == ModelInstanceGroup.KIND_AUTO:
            # There is no other device yet, so nothing is left of a list of GPUs.
            group.kind = ModelInstanceGroup.KIND_CPU
            group.ClearField("gpus")
    optimization = config.optimization
    if not optimization.HasField("input_pinned_memory"):
        optimization.input_pinned_memory.enable = True
    if not optimization.HasField("output_pinned_memory"):
        optimization.output_pinned_memory.enable = True
    if config.HasField("dynamic_batching") and config.max_batch_size > 0:
        _prefer_full_batches(config.dynamic_batching.preferred_batch_size, config.max_batch_size)
    if config.HasField("sequence_batching"):
        batching = config.sequence_batching
        batching.max_sequence_idle_microseconds = batching.max_sequence_idle_microseconds or _SEQUENCE_IDLE_MICROSECONDS
        if batching.HasField("oldest") and config.max_batch_size > 0:
            _prefer_full_batches(batching.oldest.preferred_batch_size, config.max_batch_size)


def _prefer_full_batches(sizes: MutableSequence[int], max_batch_size: int) -> None:
    if not sizes:
        sizes.append(max_batch_size)

"""`config.pbtxt`: reading it, and saying everything that is wrong with it.

The format is Triton's, so any field of Triton's parses. What Penstock does not do is never passed
over in silence: if to ignore it would change answers it is an error, otherwise a warning.

`config_problems` takes configurations as written and completed ones. In one as written, what the
model can still supply may be missing: `max_batch_size`, `input` and `output` (see completion.py).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import chain, pairwise
from math import prod
from pathlib import PurePath

from google.protobuf import text_format
from google.protobuf.message import Message

from penstock_proto import datatypes
from penstock_proto.model_config_pb2 import (
    DataType,
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelQueuePolicy,
)
from penstock_server.errors import LoadError
from penstock_server.models.names import BACKENDS, NAME, NAME_RULE
from penstock_server.models.problems import Problem

Tensor = ModelInput | ModelOutput


def parse_config(text: str, *, file: str | PurePath) -> ModelConfig:
    """The configuration in this text. `file` is only named in errors.

    Raises LoadError with file, line and field for a syntax error, an unknown field or a value that
    does not fit its field.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        line = error.GetLine() or 1
        reason = f"line {line}: {_reason(error, text)}"
        field = _field_at(text, line, error.GetColumn() or 1)
        raise LoadError(reason, file=str(file), field=field) from None


def datatype_of(value: int) -> datatypes.DataType | None:
    """The datatype of a `data_type` field; None for TYPE_INVALID and for numbers that are none."""
    known = DataType.DESCRIPTOR.values_by_number.get(value)
    return datatypes.BY_CONFIG_NAME.get(known.name) if known else None


def completable(config: ModelConfig) -> bool:
    """Whether the model's own signature is still to fill in tensors, and with them the batch size."""
    return not (config.input and config.output)


def config_problems(config: ModelConfig) -> list[Problem]:
    """Everything wrong with a configuration, errors and warnings, in the order of its fields."""
    return list(
        chain(
            _names(config),
            _versions(config),
            _batch_size(config),
            _tensors("input", config.input),
            _tensors("output", config.output),
            _inputs(config.input),
            _scheduling(config),
            _instance_groups(config.instance_group),
            _unsupported(config),
        )
    )


# ── errors of the parser ──────────────────────────────────────────────────────────────────────────


def _reason(error: text_format.ParseError, text: str) -> str:
    """The parser's message without its position and its quote of the line, which come first in it."""
    lines = text.split("\n")
    quoted = lines[(error.GetLine() or 1) - 1] if lines else ""
    message = re.sub(r"^\d+(:\d+)? : ", "", str(error)).removeprefix(f"'{quoted}': ").removeprefix("'': ")
    unknown = re.fullmatch(r'Message type "([\w.]+)" has no field named "(.*)"\.', message)
    if not unknown:
        return message
    message_type = ModelConfig.DESCRIPTOR.file.pool.FindMessageTypeByName(unknown[1])
    similar = get_close_matches(unknown[2], message_type.fields_by_name, n=1)
    hint = f", did you mean '{similar[0]}'?" if similar else ""
    return f"{message_type.name} has no field '{unknown[2]}'{hint}"


_STRING_OR_COMMENT = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?""")
_FIELD = re.compile(r"([A-Za-z_]\w*)\s*(?=[:{\[<])")


def _field_at(text: str, line: int, column: int) -> str:
    """The last field name that begins at or before a position (both counted from 1)."""
    masked = _STRING_OR_COMMENT.sub(lambda found: " " * len(found[0]), text)
    lines = masked.split("\n")
    offset = sum(len(each) + 1 for each in lines[: line - 1]) + column - 1
    names = [found[1] for found in _FIELD.finditer(masked) if found.start() <= offset]
    return names[-1] if names else ""


# ── checks ────────────────────────────────────────────────────────────────────────────────────────


def _names(config: ModelConfig) -> Iterator[Problem]:
    for field, name in (
        ("name", config.name),
        ("backend", config.backend),
        ("default_model_filename", config.default_model_filename),
    ):
        if name and not NAME.fullmatch(name):
            yield Problem(field, f"{name!r} {NAME_RULE}")
    known = BACKENDS.get(config.backend)
    if known and config.platform not in ("", known.platform):
        yield Problem("platform", f"'{config.platform}' contradicts backend '{config.backend}'")
    if config.platform == "ensemble" or config.HasField("ensemble_scheduling"):
        yield Problem("ensemble_scheduling", "ensembles are not supported by this version")


def _versions(config: ModelConfig) -> Iterator[Problem]:
    policy = config.version_policy
    if policy.HasField("latest") and policy.latest.num_versions == 0:
        yield Problem("version_policy.latest.num_versions", "must be at least 1")
    if policy.HasField("specific"):
        if not policy.specific.versions:
            yield Problem("version_policy.specific.versions", "names no version")
        for version in policy.specific.versions:
            if version < 1:
                yield Problem("version_policy.specific.versions", f"{version} is not a version: they begin at 1")


def _batch_size(config: ModelConfig) -> Iterator[Problem]:
    if config.max_batch_size < 0:
        yield Problem("max_batch_size", f"must be 0 (no batching) or more, not {config.max_batch_size}")


def _tensors(kind: str, tensors: Sequence[Tensor]) -> Iterator[Problem]:
    count = Counter(tensor.name for tensor in tensors)
    for index, tensor in enumerate(tensors):
        field = f"{kind}[{index}]"
        if not tensor.name:
            yield Problem(f"{field}.name", f"the {kind} has no name")
        elif count[tensor.name] > 1:
            count[tensor.name] = 0  # say it once
            yield Problem(f"{field}.name", f"'{tensor.name}' is the name of more than one {kind}")
        if datatype_of(tensor.data_type) is None:
            yield Problem(f"{field}.data_type", f"{kind} '{tensor.name}' needs a data type, such as TYPE_FP32")
        if tensor.is_shape_tensor:
            yield Problem(f"{field}.is_shape_tensor", "shape tensors exist only for TensorRT")
        if tensor.is_non_linear_format_io:
            yield Problem(f"{field}.is_non_linear_format_io", "non-linear formats exist only for TensorRT")
        yield from _shape(field, f"{kind} '{tensor.name}'", tensor)


def _shape(field: str, what: str, tensor: Tensor) -> Iterator[Problem]:
    dims, target = list(tensor.dims), list(tensor.reshape.shape)
    if not dims:
        yield Problem(f"{field}.dims", f"{what} needs dims; a single value per row is [1], with a reshape if need be")
    axes = ((f"{field}.dims", dims), (f"{field}.reshape.shape", target))
    wrong = [(path, dim) for path, shape in axes for dim in shape if dim < 1 and dim != -1]
    for path, dim in wrong:
        yield Problem(path, f"{what}: an axis is at least 1, or -1 for any length, not {dim}")
    if tensor.HasField("reshape") and dims and not wrong and _sizes(dims) != _sizes(target):
        yield Problem(f"{field}.reshape", f"{what}: {target} does not hold the elements of dims {dims}")


def _sizes(shape: Sequence[int]) -> list[int]:
    """The sizes of the fixed parts between axes of any length. Equal for shapes that reshape into each other."""
    cuts = [-1, *(axis for axis, dim in enumerate(shape) if dim == -1), len(shape)]
    return [prod(shape[start + 1 : end]) for start, end in pairwise(cuts)]


def _inputs(inputs: Sequence[ModelInput]) -> Iterator[Problem]:
    for index, tensor in enumerate(inputs):
        if tensor.allow_ragged_batch:
            yield Problem(f"input[{index}].allow_ragged_batch", "ragged batches are not supported by this version")
        if tensor.format != ModelInput.FORMAT_NONE and len(tensor.dims) != 3:
            yield Problem(f"input[{index}].format", f"input '{tensor.name}': an image format needs 3 dims")


def _scheduling(config: ModelConfig) -> Iterator[Problem]:
    if config.HasField("dynamic_batching"):
        yield from _preferred_sizes(config)
        yield from _priorities(config.dynamic_batching)
        yield from _ordering(config.dynamic_batching)
    if config.model_transaction_policy.decoupled:
        yield Problem(
            "model_transaction_policy.decoupled",
            "a decoupled model answers on ModelStreamInfer only; ModelInfer refuses it",
            "warning",
        )


def _preferred_sizes(config: ModelConfig) -> Iterator[Problem]:
    field, largest = "dynamic_batching.preferred_batch_size", config.max_batch_size
    # As long as the batch size is to come from the model, there is nothing to compare with.
    undecided = largest == 0 and completable(config)
    for size in config.dynamic_batching.preferred_batch_size:
        if size < 1 or not (undecided or size <= largest):
            yield Problem(field, f"{size} is not between 1 and max_batch_size ({largest})")
    if largest == 0 and not undecided:
        yield Problem("dynamic_batching", "with max_batch_size 0 requests are queued but never batched", "warning")


def _priorities(batching: ModelDynamicBatching) -> Iterator[Problem]:
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels:
        if not 1 <= default <= levels:
            field = "dynamic_batching.default_priority_level"
            yield Problem(field, f"{default} is not between 1 and priority_levels ({levels})")
        for level in sorted(batching.priority_queue_policy):
            if not 1 <= level <= levels:
                field = "dynamic_batching.priority_queue_policy"
                yield Problem(field, f"{level} is not between 1 and priority_levels ({levels})")
    elif default or batching.priority_queue_policy:
        name = "default_priority_level" if default else "priority_queue_policy"
        yield Problem(f"dynamic_batching.{name}", "has no effect without priority_levels", "warning")


def _ordering(batching: ModelDynamicBatching) -> Iterator[Problem]:
    policies = {"default_queue_policy": batching.default_queue_policy}
    for level in sorted(batching.priority_queue_policy):
        policies[f"priority_queue_policy[{level}]"] = batching.priority_queue_policy[level]
    for name, policy in policies.items():
        if policy.allow_timeout_override and not policy.default_timeout_microseconds:
            yield Problem(
                f"dynamic_batching.{name}.allow_timeout_override",
                "has no effect without default_timeout_microseconds: a request may only shorten a timeout",
                "warning",
            )
        delays = policy.default_timeout_microseconds and policy.timeout_action == ModelQueuePolicy.DELAY
        if batching.preserve_ordering and delays:
            yield Problem(f"dynamic_batching.{name}.timeout_action", "DELAY contradicts preserve_ordering")
    if batching.preserve_ordering and batching.priority_levels > 1:
        field = "dynamic_batching.preserve_ordering"
        yield Problem(field, f"contradicts priority_levels {batching.priority_levels}: priorities reorder requests")


def _instance_groups(groups: Sequence[ModelInstanceGroup]) -> Iterator[Problem]:
    for index, group in enumerate(groups):
        field = f"instance_group[{index}]"
        if group.count < 0:
            yield Problem(f"{field}.count", f"must be at least 1, not {group.count}")
        if group.kind == ModelInstanceGroup.KIND_GPU:
            yield Problem(
                f"{field}.kind",
                "KIND_GPU: this version runs models on the CPU only; use KIND_CPU, or KIND_AUTO to take what there is",
            )
        elif group.gpus:
            if group.kind == ModelInstanceGroup.KIND_AUTO:
                yield Problem(f"{field}.gpus", "ignored: this version runs models on the CPU only", "warning")
            else:
                yield Problem(f"{field}.gpus", f"{ModelInstanceGroup.Kind.Name(group.kind)} contradicts a list of GPUs")
        for name in sorted(_given(group) & _IGNORED_OF_INSTANCES):
            yield _ignored(f"{field}.{name}")


_REFUSED = {
    "batch_input": "ragged batches are not supported by this version",
    "batch_output": "ragged batches are not supported by this version",
    "model_operations": "libraries of custom operators are not loaded on a configuration's word",
    "model_repository_agents": "repository agents are not supported: what they check would go unchecked",
}
_IGNORED = {"cc_model_filenames", "metric_tags", "model_metrics", "runtime"}
_IGNORED_OPTIMIZATIONS = {"cuda", "eager_batching", "execution_accelerators", "priority"}
_IGNORED_OF_INSTANCES = {"host_policy", "passive", "profile", "rate_limiter", "secondary_devices"}


def _unsupported(config: ModelConfig) -> Iterator[Problem]:
    given = _given(config)
    if config.response_cache.enable:
        yield Problem("response_cache", "a response cache is not supported by this version")
    for field, reason in _REFUSED.items():
        if field in given:
            yield Problem(field, reason)
    for field in sorted(given & _IGNORED):
        yield _ignored(field)
    for field in sorted(_given(config.optimization) & _IGNORED_OPTIMIZATIONS):
        yield _ignored(f"optimization.{field}")


def _given(message: Message) -> set[str]:
    """The names of the fields that a message has."""
    return {field.name for field, _ in message.ListFields()}


def _ignored(field: str) -> Problem:
    return Problem(field, "ignored by this version", "warning")

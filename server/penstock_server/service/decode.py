"""From the bytes of a ModelInferRequest to a checked request, in the order in which Triton checks.

message ─▶ scan ─▶ upb ─▶ version ─▶ model ─▶ decoupled ─▶ parameters ─▶ data ─▶ outputs ─▶ inputs ─▶ sizes
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from penstock_proto.open_inference_pb2 import ModelInferRequest
from penstock_server.backends.base import RequestInfo
from penstock_server.engine.jobs import Plan
from penstock_server.engine.lengths import request_length, without_length
from penstock_server.engine.versions import LATEST, Models, ServedVersion
from penstock_server.errors import Failure, InvalidRequest, PenstockError, Unsupported
from penstock_server.models.spec import ModelSpec
from penstock_server.service.dialect import Dialect, id_prefix
from penstock_server.service.parameters import RequestParameters, read_parameters
from penstock_server.service.scan import Malformed, Scanned, scan
from penstock_server.service.tensor_data import InputTensor, find_data
from penstock_server.service.validate import check_data, check_inputs, check_rows
from penstock_server.tensors.codec import Buffer

_STRICT_VERSION = re.compile(r"(-?)(0|[1-9][0-9]*)")
_LAX_VERSION = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]+)")
"""What C's `stol` takes: white space is skipped, and the rest behind the digits ignored."""

_NO_CLASSES = frozenset({"BOOL", "FP16", "BF16", "BYTES"})
"""Datatypes whose values have no order that Triton knows, or that it cannot print."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that the model can take."""

    plan: Plan
    tensors: Sequence[Buffer]
    """Raw contents of the plan's inputs, in its order."""
    info: RequestInfo
    """Without the id, so that it is good for every request like it."""
    parameters: RequestParameters
    id: str
    order: Sequence[int]
    """For each of the message's raw contents: the index in `tensors`. Empty if the data came in typed contents."""


class MalformedRequest(PenstockError):
    """The bytes are no ModelInferRequest. The dialect has status and text."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self._failure = failure

    def failure(self) -> Failure:
        return self._failure


def parse_version(text: str, dialect: Dialect) -> int:
    """The version that a request names; `LATEST` if it names none. InvalidRequest if it is no int64 from 0."""
    if not text:
        return LATEST
    match = _STRICT_VERSION.fullmatch(text) if dialect.strict_versions else _LAX_VERSION.match(text)
    # 20 digits are too many for an int64 already, and int() refuses very many with an error of its own.
    version = int(match[1] + match[2][:20]) if match else None
    if version is None or not -(1 << 63) <= version < 1 << 63:
        raise InvalidRequest(
            f"failed to get model version from specified version string '{text[:128]}' (details: stol), "
            "version should be an integral value > 0"
        )
    if version < 0:
        raise InvalidRequest(
            f"invalid model version specified '{text[:128]}' , version should be an integral value > 0"
        )
    return version


class Decoder:
    """Decodes requests for the models of a server."""

    def __init__(self, models: Models, dialect: Dialect) -> None:
        self.models = models
        self.dialect = dialect

    def decode(self, message: Buffer, *, streaming: bool = False) -> InferRequest:
        """A checked request. Raises PenstockError with the text and status that the client is told.

        Decoupled models are for `streaming` requests, those of ModelStreamInfer.
        """
        scanned, request = self._parse(message)
        version = self.models.find(request.model_name, parse_version(request.model_version, self.dialect))
        spec = version.spec
        if spec.decoupled and not streaming:
            raise Unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
        limits = self.dialect.limits
        if limits is not None and len(request.id) > limits.id_length:
            raise InvalidRequest(f"the request's id has more than {limits.id_length} characters")
        parameters = read_parameters(request.parameters, limits)
        prefix = id_prefix(request.id)
        inputs = _by_name(request.inputs, prefix)
        data = find_data(request.inputs, scanned.raw, spec.name)
        outputs, classes = _requested_outputs(request, spec)
        if self.dialect.refuse_surplus_raw and len(scanned.raw) > len(inputs):
            raise InvalidRequest(
                f"expected {len(inputs)} raw_input_contents but got {len(scanned.raw)} for model '{spec.name}'"
            )
        split = self.dialect.split_oversize and spec.batching.enabled and spec.scheduling.split_oversize
        rows = check_inputs(inputs, spec, prefix, split=split)
        for expected in spec.inputs:
            if (tensor := inputs.get(expected.name)) is not None:
                check_data(tensor, rows, data[expected.name], expected, spec, prefix, limits)
        check_rows(rows, spec, prefix)
        _check_classes(outputs, classes, spec)
        if self.dialect.strict_sequence_ids:
            _check_sequence_id(parameters.correlation_id, spec)
        plan = _plan(version, rows, inputs, outputs, classes)
        info = RequestInfo(
            rows=rows,
            parameters=parameters.custom,
            outputs=tuple(spec.outputs[index].name for index in outputs),
            correlation_id=parameters.correlation_id,
            sequence_start=parameters.sequence_start,
            sequence_end=parameters.sequence_end,
            timeout_us=parameters.timeout_us,
        )
        tensors = [data[tensor.name] for tensor in plan.inputs]
        place = {tensor.name: index for index, tensor in enumerate(plan.inputs)}
        order = [place[tensor.name] for tensor in request.inputs] if scanned.raw else []
        return InferRequest(plan, tensors, info, parameters, request.id, order)

    def _parse(self, message: Buffer) -> tuple[Scanned, ModelInferRequest]:
        try:
            scanned = scan(message, self.dialect.limits)
            return scanned, ModelInferRequest.FromString(scanned.head)
        except (Malformed, DecodeError):
            raise MalformedRequest(self.dialect.malformed) from None


def _by_name(inputs: Sequence[InputTensor], prefix: str) -> dict[str, InputTensor]:
    named: dict[str, InputTensor] = {}
    for tensor in inputs:
        if tensor.name in named:
            raise InvalidRequest(f"{prefix}input '{tensor.name[:128]}' already exists in request")
        named[tensor.name] = tensor
    return named


def _requested_outputs(request: ModelInferRequest, spec: ModelSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indexes of the outputs that are asked for, in the model's order, and for each how many classes."""
    if not request.outputs:
        return tuple(range(len(spec.outputs))), (0,) * len(spec.outputs)
    classes: dict[str, int] = {}
    for output in request.outputs:
        count = _class_count(output)
        classes[output.name] = classes.get(output.name) or count  # of an output that is named twice the first counts
    known = {tensor.name for tensor in spec.outputs}
    for name in sorted(classes):
        if name not in known:
            raise InvalidRequest(f"unexpected inference output '{name[:128]}' for model '{spec.name}'")
    wanted = tuple(index for index, tensor in enumerate(spec.outputs) if tensor.name in classes)
    return wanted, tuple(classes[spec.outputs[index].name] for index in wanted)


def _class_count(output: ModelInferRequest.InferRequestedOutputTensor) -> int:
    """The classes that the output's `classification` parameter asks for; 0 without it."""
    if any(key.startswith("shared_memory_") for key in output.parameters):
        raise Unsupported("shared memory is not supported by this server: the output comes with the response")
    if "classification" not in output.parameters:
        return 0
    parameter = output.parameters["classification"]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise InvalidRequest("invalid value type for 'classification' parameter, expected int64_param")
    if parameter.int64_param <= 0:
        raise InvalidRequest("invalid value for 'classification' parameter, expected >= 0")
    return parameter.int64_param


def _check_classes(outputs: Sequence[int], classes: Sequence[int], spec: ModelSpec) -> None:
    """Refuse classes of what cannot be ranked. Triton sees it in the model's answer, so it comes after all else."""
    for index, count in zip(outputs, classes, strict=True):
        datatype = spec.outputs[index].datatype.name
        if count and datatype in _NO_CLASSES:
            raise InvalidRequest(f"class result not available for output due to unsupported type '{datatype}'")


def _check_sequence_id(id: int | str, spec: ModelSpec) -> None:
    """Refuse text where the model is told numbers: it could not tell two such sequences from each other."""
    if id and isinstance(id, str) and spec.sequences is not None and spec.sequences.id_is_text is False:
        raise InvalidRequest(f"the ids of sequences of model '{spec.name}' are numbers, not strings")


def _plan(
    version: ServedVersion,
    rows: int,
    inputs: dict[str, InputTensor],
    outputs: tuple[int, ...],
    classes: tuple[int, ...],
) -> Plan:
    spec = version.spec
    given = tuple(tensor for tensor in spec.inputs if tensor.name in inputs)
    shapes: list[tuple[int, ...]] = []
    for tensor in given:
        shape = tuple(inputs[tensor.name].shape)
        shape = shape[1:] if spec.max_batch_size else shape
        reshape = spec.input_reshapes.get(tensor.name)
        shapes.append(shape if reshape is None else reshape.to_model(shape))
    # Names belong to the key only where a request may leave some out.
    names = () if len(given) == len(spec.inputs) else (tuple(tensor.name for tensor in given),)
    if not spec.scheduling.length_buckets:
        return Plan(version, rows, given, tuple(shapes), outputs, classes, (*names, *shapes))
    length = request_length(given, shapes, spec)
    key = (*names, *map(without_length, given, shapes))
    return Plan(version, rows, given, tuple(shapes), outputs, classes, key, length)

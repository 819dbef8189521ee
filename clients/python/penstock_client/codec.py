"""Inference requests and answers, between Python and the wire. Pure; both clients share it.

The tensors go on the wire without passing through protobuf: a serialised message is its fields one
after the other, and `raw_input_contents` has the highest number of all, so what protobuf makes of the
rest, followed by tag, length and bytes of each tensor, *is* the message. That spares two copies of
every tensor, leaving one join.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from penstock_client.errors import InputError, malformed
from penstock_client.tensors import (
    Array,
    Buffer,
    Encoded,
    TensorLike,
    decode,
    decode_typed,
    encode,
    is_plain,
    object_array,
)
from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES, DataType

_LENGTH_DELIMITED = 2
_RAW_TAG = bytes([pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])

Parameter: TypeAlias = bool | int | float | str
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """An output that is asked for, and how.

    >>> client.infer("resnet", {"image": image}, outputs=[OutputRequest("scores", classes=5)])
    """

    name: str
    classes: int | None = None
    """None: the output's values. k: its k highest of each row instead, as BYTES `value:index[:label]`."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class InferResult(Mapping[str, Array]):
    """A model's answer: its outputs by name, in the model's order.

    Arrays are views of the answer's bytes, hence read-only: `.copy()` one to change it. BYTES outputs
    are object arrays of `bytes`, BF16 ones are float32.

    >>> result = client.infer("iris", {"X": x})
    >>> result["probabilities"].argmax(axis=1)
    """

    model_name: str
    model_version: str
    """The version that answered, also where the request named none."""
    id: str
    """The request's id."""
    parameters: Mapping[str, Parameter]
    arrays: Mapping[str, Array]
    datatypes: Mapping[str, str]
    """What each output travelled as: tells FP32 from BF16."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(self.arrays)

    def text(self, name: str) -> Array:
        """A BYTES output as an object array of `str`, taken for UTF-8. UnicodeDecodeError if it is not."""
        array = self[name]
        return object_array([one.decode() for one in array.ravel().tolist()], array.shape)

    def __getitem__(self, name: str) -> Array:
        try:
            return self.arrays[name]
        except KeyError:
            raise KeyError(f"no output '{name}'; there are {', '.join(self.arrays) or 'none'}") from None

    # By identity: comparing arrays gives arrays, of which Mapping could make no answer.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name}: {self.datatypes[name]} {list(array.shape)}" for name, array in self.items())
        return f"<InferResult of {self.model_name} {self.model_version}: {outputs}>"


Signature: TypeAlias = Mapping[str, DataType]
"""The datatypes that a model expects, by input."""


def needs_signature(inputs: Mapping[str, TensorLike]) -> bool:
    """Whether only the model can say what these are to be sent as."""
    return any(map(is_plain, inputs.values()))


def infer_request(
    model: str,
    inputs: Mapping[str, TensorLike],
    signature: Signature | None,
    *,
    version: str = "",
    outputs: Iterable[str | OutputRequest] | None = None,
    parameters: Mapping[str, Parameter] | None = None,
    request_id: str = "",
) -> bytes:
    """A serialised `ModelInferRequest`. InputError for what cannot be sent.

    `signature` is needed where `needs_signature(inputs)`.
    """
    tensors = {name: _encode(model, name, value, signature) for name, value in inputs.items()}
    head = pb.ModelInferRequest(
        model_name=model,
        model_version=version,
        id=request_id,
        parameters={name: parameter(name, value) for name, value in (parameters or {}).items()},
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=name, datatype=tensor.datatype.name, shape=tensor.shape)
            for name, tensor in tensors.items()
        ],
        outputs=[_requested(output) for output in outputs or ()],
    )
    parts: list[Buffer] = [head.SerializeToString()]
    for tensor in tensors.values():
        parts += (_RAW_TAG, _varint(len(tensor.raw)), tensor.raw)
    return b"".join(parts)


def _encode(model: str, name: str, value: TensorLike, signature: Signature | None) -> Encoded:
    expected = signature.get(name) if signature else None
    if expected is None and signature is not None and is_plain(value):
        known = ", ".join(f"'{each}'" for each in signature)
        raise InputError(f"model '{model}' has no input '{name}'; it has {known or 'none'}")
    return encode(value, expected, f"input '{name}' of model '{model}'")


def _requested(output: str | OutputRequest) -> pb.ModelInferRequest.InferRequestedOutputTensor:
    if isinstance(output, str):
        return pb.ModelInferRequest.InferRequestedOutputTensor(name=output)
    classes = {} if output.classes is None else {"classification": pb.InferParameter(int64_param=output.classes)}
    return pb.ModelInferRequest.InferRequestedOutputTensor(name=output.name, parameters=classes)


def parameter(name: str, value: Parameter) -> pb.InferParameter:
    """A parameter as it travels. InputError if the protocol has no kind for it."""
    match value:
        case bool():  # before int, which it is too
            return pb.InferParameter(bool_param=value)
        case int() if -(2**63) <= value < 2**63:
            return pb.InferParameter(int64_param=value)
        case int() if 0 <= value < 2**64:
            return pb.InferParameter(uint64_param=value)
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)
        case _:
            raise InputError(f"parameter '{name}' is no bool, float, str or int of 64 bits: {value!r}")


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def parsed(message: type[M], answer: bytes) -> M:
    """The message in these bytes. InferenceError if there is none."""
    try:
        return message.FromString(answer)
    except DecodeError:
        raise malformed(f"it is no {message.DESCRIPTOR.name}") from None


def infer_result(answer: bytes) -> InferResult:
    """What a serialised `ModelInferResponse` says. InferenceError if it contradicts itself."""
    return read_response(parsed(pb.ModelInferResponse, answer))


def read_response(response: pb.ModelInferResponse) -> InferResult:
    """The same of a parsed one."""
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        raise malformed(f"{len(response.outputs)} outputs with {len(raw)} raw contents")
    # Servers other than Triton may answer with typed contents; then there are no raw ones at all.
    contents: Sequence[bytes | None] = raw or [None] * len(response.outputs)
    return InferResult(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id,
        parameters=_parameters(response.parameters),
        arrays={output.name: _array(output, raw) for output, raw in zip(response.outputs, contents, strict=True)},
        datatypes={output.name: output.datatype for output in response.outputs},
    )


def _array(output: pb.ModelInferResponse.InferOutputTensor, raw: bytes | None) -> Array:
    datatype = DATATYPES.get(output.datatype)
    if datatype is None:
        raise malformed(f"output '{output.name}' has the unknown datatype '{output.datatype}'")
    try:
        if raw is not None:
            return decode(raw, datatype, output.shape)
        if datatype.contents is None:
            raise malformed(f"output '{output.name}' is {datatype.name} but not raw")
        return decode_typed(list(getattr(output.contents, datatype.contents)), datatype, output.shape)
    except (ValueError, OverflowError) as error:
        raise malformed(f"output '{output.name}': {error}") from error


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    kinds = {name: one.WhichOneof("parameter_choice") for name, one in parameters.items()}
    return {name: getattr(parameters[name], kind) for name, kind in kinds.items() if kind}


def signature(response: pb.ModelMetadataResponse) -> Signature:
    """What a model expects, from its metadata. InferenceError if it names a datatype that is none."""
    try:
        return {tensor.name: DATATYPES[tensor.datatype] for tensor in response.inputs}
    except KeyError as error:
        raise malformed(f"model '{response.name}' has an input of the unknown datatype {error}") from None

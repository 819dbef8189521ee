"""From a request's outputs to the pieces of its ModelInferResponse.

The tensors' bytes are not handed to protobuf, which would copy them: the response is serialised
without them, and each is appended as a field of its own. A protobuf message is the run of its fields,
so the pieces joined are the message that protobuf would have written.
"""

from collections.abc import Sequence

from penstock_proto.datatypes import DATATYPES
from penstock_proto.open_inference_pb2 import ModelInferResponse
from penstock_server.engine.jobs import Outputs, Plan
from penstock_server.errors import InvalidRequest
from penstock_server.service.classification import classify
from penstock_server.tensors.codec import Array, Buffer, raw_of

_RAW_TAG = bytes([6 << 3 | 2])  # raw_output_contents, length-delimited
_BYTES = DATATYPES["BYTES"]


def respond(plan: Plan, request_id: str, outputs: Outputs, max_bytes: int) -> list[Buffer]:
    """The response, in pieces. InvalidRequest if it is larger than a message may be."""
    response, raw = build_response(plan, request_id, outputs)
    parts: list[Buffer] = [response.SerializeToString()]
    for data in raw:
        parts.append(_RAW_TAG + varint(len(data)))
        parts.append(data)
    size = sum(map(len, parts))
    if size > max_bytes:
        raise InvalidRequest(f"Response has byte size {size} which exceeds gRPC's byte size limit {max_bytes}.")
    return parts


def build_response(plan: Plan, request_id: str, outputs: Outputs) -> tuple[ModelInferResponse, Sequence[Buffer]]:
    """The response without its raw contents, and those."""
    version, spec = plan.version, plan.version.spec
    response = ModelInferResponse(model_name=spec.name, model_version=str(version.version), id=request_id)
    raw: list[Buffer] = []
    for index, classes, array in zip(plan.outputs, plan.classes, outputs, strict=True):
        tensor = spec.outputs[index]
        datatype = tensor.datatype
        if classes:
            array = classify(array, classes, tensor, batched=spec.max_batch_size > 0)
            datatype = _BYTES
        response.outputs.add(name=tensor.name, datatype=datatype.name, shape=_shape(array))
        raw.append(raw_of(array, datatype))
    return response, raw


def _shape(array: Array) -> tuple[int, ...]:
    return array.shape


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

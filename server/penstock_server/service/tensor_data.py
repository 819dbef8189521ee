"""Finds the data of each input of a request, and makes raw contents of it whatever form it came in."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES
from penstock_proto.open_inference_pb2 import InferTensorContents, ModelInferRequest
from penstock_server.errors import InvalidRequest, Unsupported
from penstock_server.tensors.codec import Buffer

InputTensor = ModelInferRequest.InferInputTensor

_TYPED = (
    ("bool_contents", "BOOL", "?"),
    ("int_contents", "INT32", "<i4"),
    ("int64_contents", "INT64", "<i8"),
    ("uint_contents", "UINT32", "<u4"),
    ("uint64_contents", "UINT64", "<u8"),
    ("fp32_contents", "FP32", "<f4"),
    ("fp64_contents", "FP64", "<f8"),
    ("bytes_contents", "BYTES", "O"),
)
"""Typed arrays in the order in which Triton looks at them: field, its own datatype, numpy's code."""


def find_data(inputs: Sequence[InputTensor], raw: Sequence[Buffer], model: str) -> dict[str, Buffer]:
    """The raw contents of each input, by name.

    Raw contents are matched by position. InvalidRequest if an input has no data, has it twice, or has it
    in a typed array that is not its datatype's; sizes are not checked here.
    """
    found: dict[str, Buffer] = {}
    for index, tensor in enumerate(inputs):
        if any(key.startswith("shared_memory_") for key in tensor.parameters):
            raise Unsupported("shared memory is not supported by this server: send the tensor's data in the request")
        if raw:
            if tensor.HasField("contents"):
                raise InvalidRequest(
                    "contents field must not be specified when using raw_input_contents for "
                    f"'{tensor.name[:128]}' for model '{model}'"
                )
            if index >= len(raw):
                raise _no_data(tensor.name, model)
            found[tensor.name] = raw[index]
        else:
            found[tensor.name] = _typed_data(tensor, model)
    return found


def _typed_data(tensor: InputTensor, model: str) -> Buffer:
    where = f"for input tensor '{tensor.name[:128]}' for model '{model}'"
    if not tensor.HasField("contents"):
        raise _no_data(tensor.name, model)
    data: Buffer | None = None
    datatype = DATATYPES.get(tensor.datatype)
    for field, its_type, code in _TYPED:
        elements = getattr(tensor.contents, field)
        if not elements:
            continue
        if data is not None:
            raise InvalidRequest(f"unexpected explicit tensor data {where}, binary data was already supplied.")
        if datatype is None or datatype.contents != field:
            expected = datatype.name if datatype else "<invalid>"
            raise InvalidRequest(
                f"unexpected explicit tensor data {where} of type '{its_type}', expected datatype '{expected}'"
            )
        data = _raw(tensor.contents, elements, datatype.numpy, code)
    return b"" if data is None else data  # contents without an element are those of a tensor without any


def _raw(contents: InferTensorContents, elements: Sequence[object], datatype_code: str, field_code: str) -> Buffer:
    if field_code == "O":
        return byte_tensors.pack(contents.bytes_contents)
    # INT8 travels in an array of 32-bit numbers; what does not fit wraps around, as in Triton.
    values = np.fromiter(cast("Sequence[float]", elements), field_code, len(elements))
    return values.astype(datatype_code).tobytes()


def _no_data(name: str, model: str) -> InvalidRequest:
    return InvalidRequest(f"unable to find data for input tensor '{name[:128]}' for model '{model}' in request.")

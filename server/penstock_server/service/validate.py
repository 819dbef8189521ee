"""Holds a request's inputs against the model: counts, names, batch, datatypes, shapes, sizes, in this order.

The texts are Triton's, to the letter, for clients that look for them.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES
from penstock_server.errors import InvalidRequest
from penstock_server.models.spec import ModelSpec
from penstock_server.service.dialect import Limits
from penstock_server.service.tensor_data import InputTensor
from penstock_server.tensors.codec import Buffer
from penstock_server.tensors.spec import TensorSpec, show_shape

_LARGEST_AXIS = 2**31 - 1
_LARGEST_STRING = 16 << 20
_MOST_AXES_SHOWN = 16

_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try "
    "setting max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def check_inputs(inputs: Mapping[str, InputTensor], spec: ModelSpec, prefix: str, *, split: bool) -> int:
    """Check everything but the data. Returns the rows; 1 for a model without a batch axis.

    They may be 0, which is an error that comes after those of the data: see `check_rows`. `prefix` goes
    before the texts that have it in Triton. With `split`, a request may have more rows than a batch.
    """
    _check_names(inputs, spec, prefix)
    rows = _check_batch(inputs, spec, prefix, split) if spec.max_batch_size else 1
    for expected in spec.inputs:
        tensor = inputs.get(expected.name)
        if tensor is not None:
            _check_tensor(tensor, expected, spec, prefix)
    return rows


def _check_names(inputs: Mapping[str, InputTensor], spec: ModelSpec, prefix: str) -> None:
    missing = [tensor.name for tensor in spec.inputs if not tensor.optional and tensor.name not in inputs]
    known = {tensor.name for tensor in spec.inputs}
    unknown = [name for name in inputs if name not in known]
    most, least, given = len(spec.inputs), spec.required_inputs, len(inputs)
    if not least <= given <= most or (missing and not unknown):
        expected = f"{most} inputs" if least == most else f"number of inputs between {least} and {most}"
        got = f"[{_quoted(inputs)}]"
        # Triton leaves out the opening bracket when nothing is missing; clients compare texts.
        lacking = f"[{_quoted(missing)}]" if missing else "]"
        raise InvalidRequest(
            f"{prefix}expected {expected} but got {given} inputs for model '{spec.name}'. Got input(s) {got}, "
            f"but missing required input(s) {lacking}. Please provide all required input(s)."
        )
    if unknown:
        raise InvalidRequest(f"unexpected inference input '{unknown[0][:128]}' for model '{spec.name}'")


def _quoted(names: Sequence[str] | Mapping[str, object]) -> str:
    return ",".join(f"'{name[:128]}'" for name in names)


def _check_batch(inputs: Mapping[str, InputTensor], spec: ModelSpec, prefix: str, split: bool) -> int:
    rows: int | None = None
    for name, tensor in inputs.items():
        if not tensor.shape:
            raise InvalidRequest(
                f"{prefix}input '{name}' has no shape but model requires batch dimension for '{spec.name}'"
            )
        if not rows:
            rows = tensor.shape[0]
        elif tensor.shape[0] != rows or rows < 0:
            raise InvalidRequest(f"{prefix}input '{name}' batch size does not match other inputs for '{spec.name}'")
    if rows is None:  # a model whose inputs are all optional, and none was given
        return 1
    if rows > spec.max_batch_size and not split:
        raise InvalidRequest(f"{prefix}inference request batch-size must be <= {spec.max_batch_size} for '{spec.name}'")
    if rows < 0:
        raise _too_few_rows(spec, prefix)
    return rows


def check_rows(rows: int, spec: ModelSpec, prefix: str) -> None:
    """Refuse a request without rows, to be called after the data was checked.

    Triton takes one for a request without a batch axis, and so complains of the size of its data.
    """
    if not rows:
        raise _too_few_rows(spec, prefix)


def _too_few_rows(spec: ModelSpec, prefix: str) -> InvalidRequest:
    return InvalidRequest(f"{prefix}inference request batch-size must be >= 1 for '{spec.name}'")


def _check_tensor(tensor: InputTensor, expected: TensorSpec, spec: ModelSpec, prefix: str) -> None:
    if tensor.datatype != expected.datatype.name:
        got = tensor.datatype if tensor.datatype in DATATYPES else "<invalid>"
        raise InvalidRequest(
            f"{prefix}inference input '{tensor.name}' data-type is '{got}', "
            f"but model '{spec.name}' expects '{expected.datatype.name}'"
        )
    shape = tensor.shape[1:] if spec.max_batch_size else tensor.shape[:]
    fits = len(shape) == len(expected.shape)
    for axis, dim in zip(shape, expected.shape, strict=False):
        if fits and axis == -1:
            raise InvalidRequest(
                f"{prefix}All input dimensions should be specified for input '{tensor.name}' for model '{spec.name}', "
                f"got {_shown(tensor.shape)}"
            )
        fits = fits and dim in (-1, axis)
    if not fits:
        full = (-1, *expected.shape) if spec.max_batch_size else expected.shape
        note = _NOTE if spec.max_batch_size else ""
        raise InvalidRequest(
            f"{prefix}unexpected shape for input '{tensor.name}' for model '{spec.name}'. "
            f"Expected {show_shape(full)}, got {_shown(tensor.shape)}. {note}"
        )


def _shown(shape: Sequence[int]) -> str:
    """A client's shape for a message, which shall not be as long as the client likes."""
    shown = show_shape(list(shape[:_MOST_AXES_SHOWN]))
    return shown if len(shape) <= _MOST_AXES_SHOWN else f"{shown[:-1]},...]"


def check_data(
    tensor: InputTensor,
    rows: int,
    data: Buffer,
    expected: TensorSpec,
    spec: ModelSpec,
    prefix: str,
    limits: Limits | None,
) -> None:
    """Check the size of an input's data against its shape, and what can be checked of its content."""
    model = spec.name
    elements = (rows or 1) * prod(tensor.shape[1:]) if spec.max_batch_size else prod(tensor.shape)
    itemsize = expected.datatype.itemsize
    if not itemsize:
        check_strings(tensor.name, data, elements, model, prefix, limits)
    elif len(data) != elements * itemsize:
        raise InvalidRequest(
            f"{prefix}input byte size mismatch for input '{tensor.name}' for model '{model}'. "
            f"Expected {elements * itemsize}, got {len(data)}"
        )
    if any(axis < 0 or axis > _LARGEST_AXIS for axis in tensor.shape):
        # The sizes fit all the same if there are two negative axes, or if another one is 0.
        raise InvalidRequest(
            f"{prefix}input '{tensor.name}' for model '{model}' has an axis that is not between 0 and {_LARGEST_AXIS}"
        )
    if expected.datatype.name == "BOOL" and not are_bools(data):
        raise InvalidRequest(f"{prefix}input '{tensor.name}' for model '{model}' has BOOL elements other than 0 and 1")


def are_bools(data: Buffer) -> bool:
    """Whether each of these bytes is 0 or 1."""
    return not len(data) or np.frombuffer(data, np.uint8).max() <= 1


def check_strings(name: str, data: Buffer, elements: int, model: str, prefix: str, limits: Limits | None) -> None:
    """Walk a BYTES tensor: as many elements as the shape says, each of them whole. InvalidRequest if not."""
    if limits is not None and elements > limits.string_elements:
        raise InvalidRequest(
            f"{prefix}input '{name}' for model '{model}' has {elements} elements, "
            f"more than the limit of {limits.string_elements} for BYTES"
        )
    spans, stopped = byte_tensors.spans(data, elements + 1)
    whole, rest = len(spans), len(data) - stopped
    if whole == elements and not rest and (limits is None or len(data) <= _LARGEST_STRING):
        return  # as nearly always
    where = f"for inference input '{name}' for model '{model}'"
    if 0 < rest < byte_tensors.LENGTH_BYTES and whole <= elements:
        raise InvalidRequest(
            f"{prefix}incomplete string length indicator {where}, expecting {byte_tensors.LENGTH_BYTES} bytes but only "
            f"{rest} bytes available. Please make sure the string length indicator is in one buffer."
        )
    counted = whole + 1 if rest and whole <= elements else whole  # one that is cut short counts as one
    if counted > elements:
        raise InvalidRequest(f"{prefix}unexpected number of string elements {counted} {where}, expecting {elements}")
    if counted < elements:
        raise InvalidRequest(f"{prefix}expected {elements} string elements {where}, got {counted}")
    if rest:
        length = int.from_bytes(data[stopped : stopped + byte_tensors.LENGTH_BYTES], "little")
        raise InvalidRequest(
            f"incomplete string data for inference input '{name}', expecting string of length {length} "
            f"but only {rest - byte_tensors.LENGTH_BYTES} bytes available"
        )
    if limits is not None and any(end - start > _LARGEST_STRING for start, end in spans):
        raise InvalidRequest(
            f"{prefix}input '{name}' for model '{model}' has an element of more than {_LARGEST_STRING} bytes"
        )

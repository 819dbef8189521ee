"""From a batch's outputs to the answers.

    … ── instance ──▶ [rows, ...] ── check_outputs ──▶ scatter ──▶ view, view, view

Outputs are not copied here: an answer is a view of the batch's array. Only the answer to an oversize request, whose
parts come from several batches, is joined.
"""

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import cast

import numpy as np

from penstock_server.engine.jobs import Job, Outputs
from penstock_server.models.spec import ModelSpec
from penstock_server.tensors.codec import Array, Buffer, dtype_of
from penstock_server.tensors.spec import TensorSpec, show_shape

_ARRAYS = (np.ndarray, np.generic)


class BadOutput(Exception):
    """A model returned something else than its config promises. For the log, not for clients."""


def check_outputs(outputs: object, wanted: Collection[int], spec: ModelSpec, rows: int) -> dict[int, Array]:
    """The wanted outputs by index, in the clients' shapes. BadOutput if one is not what the config promises.

    `outputs` is what a model returned. Models are written without a type checker: it may be anything.
    """
    if type(outputs) is not dict and not isinstance(outputs, Mapping):  # to ask an abstract class takes longer
        raise BadOutput(f"the model returned {_kind(outputs)}, not a dict of arrays by the outputs' names")
    arrays = cast("Mapping[str, object]", outputs)
    checked: dict[int, Array] = {}
    for index in wanted:
        tensor = spec.outputs[index]
        array = arrays.get(tensor.name)
        if array is None:
            raise BadOutput(f"output '{tensor.name}' is missing")
        if not isinstance(array, _ARRAYS):  # what numpy computes of arrays without axes are generics
            raise BadOutput(f"output '{tensor.name}' is {_kind(array)}, not a numpy array")
        checked[index] = _check(cast("Array", array), tensor, spec, rows)
    return checked


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _check(array: Array, tensor: TensorSpec, spec: ModelSpec, rows: int) -> Array:
    if array.dtype != dtype_of(tensor.datatype) and not (tensor.datatype.numpy == "O" and array.dtype.kind in "SU"):
        wanted = f"{tensor.datatype.name}'s {tensor.datatype.numpy}"
        raise BadOutput(f"output '{tensor.name}' has numpy type {array.dtype}, not {wanted}")
    shape: tuple[int, ...] = array.shape
    if spec.max_batch_size:
        if not shape or shape[0] != rows:
            raise BadOutput(f"output '{tensor.name}' has shape {show_shape(shape)} for a batch of {rows} rows")
        shape = shape[1:]
    reshape = spec.output_reshapes.get(tensor.name)
    expected = tensor.shape if reshape is None else reshape.model
    if shape != expected and not _fits(shape, expected):
        raise BadOutput(f"output '{tensor.name}' has shape {show_shape(array.shape)}, not {show_shape(expected)}")
    if reshape is None:
        return array
    client_shape = reshape.to_client(shape)
    return array.reshape((rows, *client_shape) if spec.max_batch_size else client_shape)


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(e in (-1, a) for a, e in zip(shape, expected, strict=True))


class BatchOutputs:
    """What a batch has returned, checked: the wanted outputs by index. Each request of it gets some of the rows."""

    __slots__ = ("arrays", "batched", "memo", "raws")

    def __init__(self, arrays: Mapping[int, Array], batched: bool) -> None:
        self.arrays = arrays
        self.batched = batched
        self.memo: dict[object, object] = {}
        """Whatever an answering request wants to have ready for others of its kind in the batch."""
        self.raws: dict[int, Buffer] = {}
        """The arrays as bytes, likewise; of those that anybody has asked for."""

    def of(self, job: Job, start: int, end: int) -> list[Array]:
        """The outputs of one request, as views."""
        return scatter(self.arrays, job, start, end, self.batched)


def scatter(outputs: Mapping[int, Array], job: Job, start: int, end: int, batched: bool) -> list[Array]:
    """The outputs of one request, whose rows are those from `start` to before `end`."""
    if not batched:
        return [outputs[index] for index in job.plan.outputs]
    return [outputs[index][start:end] for index in job.plan.outputs]


def join(pieces: Sequence[tuple[int, Outputs]], rows: int) -> list[Array] | None:
    """The outputs of an oversize request from those of its parts, each with its first row; None if some are missing."""
    ordered = [outputs for _, outputs in sorted(pieces, key=itemgetter(0))]
    if sum(len(outputs[0]) for outputs in ordered) < rows:
        return None
    return [np.concatenate(parts) for parts in zip(*ordered, strict=True)]

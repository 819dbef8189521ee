"""Variable-length inputs: padded to a bucket's length before the model, cut back to their own after it.

A model with `length_buckets` has one axis of any length in some of its inputs, and a request has one length
for all of them. Requests whose lengths fall into one bucket share batches, whatever their lengths are.
Padding is zeros (empty strings for BYTES). Outputs with an axis of any length that comes out as long as the
bucket are cut back to the request's length; others are what they are.
"""

from collections.abc import Sequence

import numpy as np

from penstock_scheduler import Batch
from penstock_server.engine.jobs import Job
from penstock_server.errors import InvalidRequest
from penstock_server.models.spec import ModelSpec
from penstock_server.tensors.codec import Array, Buffer, view
from penstock_server.tensors.spec import TensorSpec


def length_axis(shape: Sequence[int]) -> int | None:
    """The axis of any length, counted without the batch axis; None if there is none, or more than one."""
    axes = [axis for axis, length in enumerate(shape) if length == -1]
    return axes[0] if len(axes) == 1 else None


def request_length(inputs: Sequence[TensorSpec], shapes: Sequence[Sequence[int]], spec: ModelSpec) -> int:
    """The length of a request. InvalidRequest if its inputs have different ones."""
    lengths = {
        shape[axis]
        for tensor, shape in zip(inputs, shapes, strict=True)
        if (axis := length_axis(tensor.shape)) is not None
    }
    if len(lengths) != 1:
        shown = ", ".join(map(str, sorted(lengths))) or "none"
        raise InvalidRequest(f"the inputs of model '{spec.name}' must have one length, not {shown}")
    return lengths.pop()


def without_length(tensor: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with its variable axis left open, as it is in the key of a batch."""
    axis = length_axis(tensor.shape)
    return shape if axis is None else (*shape[:axis], -1, *shape[axis + 1 :])


def pad(batch: Batch[Job], pieces: Sequence[Buffer], rows: int, tensor: TensorSpec, shape: Sequence[int]) -> Array:
    """One input of a batch, `[rows, ...]` with the variable axis as long as the bucket."""
    axis = length_axis(tensor.shape)
    assert axis is not None
    full = [*shape]
    full[axis] = batch.length
    padded: Array = np.zeros((rows, *full), tensor.datatype.numpy)
    if not tensor.datatype.itemsize:
        padded.fill(b"")
    row = 0
    for index, (job, piece) in enumerate(zip(batch.tickets, pieces, strict=True)):
        full[axis] = job.length
        count = rows_of(batch, index)
        target = (slice(row, row + count), *([slice(None)] * axis), slice(0, job.length))
        padded[target] = view(piece, tensor.datatype, (count, *full))
        row += count
    padded.flags.writeable = False  # as all inputs are
    return padded


def mask(batch: Batch[Job], rows: int, tensor: TensorSpec) -> Array:
    """The mask input of a batch, `[rows, length]`: 1 for an element of a request, 0 for padding."""
    lengths = np.zeros(rows, np.int64)
    row = 0
    for index, job in enumerate(batch.tickets):
        count = rows_of(batch, index)
        lengths[row : row + count] = job.length
        row += count
    return (np.arange(batch.length) < lengths[:, np.newaxis]).astype(tensor.datatype.numpy)


def cut(array: Array, tensor: TensorSpec, length: int, bucket: int) -> Array:
    """A request's rows of an output, cut back to its length."""
    axis = length_axis(tensor.shape)
    if axis is None or array.shape[1 + axis] != bucket:
        return array
    return array[(slice(None), *([slice(None)] * axis), slice(0, length))]


def rows_of(batch: Batch[Job], index: int) -> int:
    """The rows of one request in a batch."""
    share = None if batch.shares is None else batch.shares[index]
    return batch.tickets[index].plan.rows if share is None else share.rows

"""Assembly of a batch's inputs: one copy per row, into memory that is kept for the next batch.

    raw, raw, raw ── Slot.gather ──▶ [rows, ...] ── instance ──▶ …

A slot belongs to an instance, which runs one batch at a time, so a batch's inputs are not needed any more
when the next is assembled. Three ways, by what is cheapest:

* a batch of one whole request is not copied: its arrays are views of the message. But if they are not aligned there,
  they are, since a copy costs far less than a model that reads across the boundaries of numbers (602 KB under ONNX
  Runtime: 5 µs for the copy, 62 µs for the reading);
* small tensors are joined by one call into fresh memory: for a few kilobytes an allocation costs less
  than a slice assignment for each row;
* large ones are copied row by row into the slot's buffer.

Raw contents of BYTES tensors are always joined; each element carries its length.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

from penstock_proto import byte_tensors
from penstock_scheduler import Batch, Share
from penstock_server.backends.base import Tensors
from penstock_server.engine import lengths
from penstock_server.engine.jobs import Job
from penstock_server.tensors.codec import Array, Buffer, view
from penstock_server.tensors.spec import TensorSpec

_JOIN_BYTES = 64 << 10
"""Up to this size, all rows together, tensors are joined."""


class Slot:
    """The input buffers of one instance."""

    def __init__(self, batched: bool) -> None:
        self._batched = batched
        self._buffers: dict[str, bytearray] = {}

    def __repr__(self) -> str:
        return f"<Slot of {sum(map(len, self._buffers.values()))} bytes>"

    def gather(self, batch: Batch[Job]) -> Tensors:
        """The input arrays of a batch, padded to its `padded_rows`. Valid until the next call."""
        plan = batch.tickets[0].plan
        # Without dynamic batching a batch is one request, whatever rows it has.
        padding = batch.padded_rows - batch.rows
        rows = batch.padded_rows if plan.version.spec.batching.enabled else plan.rows
        tensors: Tensors = {}
        for index, (spec, shape) in enumerate(zip(plan.inputs, plan.shapes, strict=True)):
            pieces = _pieces(batch, index, spec)
            if batch.length and lengths.length_axis(spec.shape) is not None:
                tensors[spec.name] = lengths.pad(batch, pieces, rows, spec, shape)
                continue
            full = (rows, *shape) if self._batched else shape
            if len(pieces) == 1 and not padding:
                array = view(pieces[0], spec.datatype, full)
                if array.flags.aligned:
                    tensors[spec.name] = array
                    continue
            tensors[spec.name] = view(self._join(pieces, spec, shape, padding), spec.datatype, full)
        mask = plan.version.spec.scheduling.length_mask_input
        if mask and mask not in tensors:
            spec = next(tensor for tensor in plan.version.spec.inputs if tensor.name == mask)
            tensors[mask] = lengths.mask(batch, rows, spec)
        return tensors

    def detach(self, outputs: dict[int, Array]) -> dict[int, Array]:
        """Outputs that share no memory with the slot: a model may hand its input on, and an answer outlives a batch."""
        for buffer in self._buffers.values():
            mine = np.frombuffer(buffer, np.uint8)
            for index, array in outputs.items():
                if np.may_share_memory(array, mine):
                    outputs[index] = array.copy()
        return outputs

    def _join(self, pieces: list[Buffer], spec: TensorSpec, shape: Sequence[int], padding: int) -> Buffer:
        if padding:
            pieces.append(_pad(pieces[-1], spec, shape, padding))
        size = sum(map(len, pieces))
        if size <= _JOIN_BYTES or not spec.datatype.itemsize:
            return b"".join(pieces)
        buffer = self._buffers.get(spec.name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[spec.name] = bytearray(size)
        target = memoryview(buffer)
        offset = 0
        for piece in pieces:
            end = offset + len(piece)
            target[offset:end] = piece
            offset = end
        return target[:size].toreadonly()


def _pieces(batch: Batch[Job], index: int, spec: TensorSpec) -> list[Buffer]:
    """What each request brings of one input: all of it, or the part of an oversize one that is in this batch."""
    if batch.shares is None:
        return [job.tensors[index] for job in batch.tickets]
    return [
        job.tensors[index] if share is None else _part(job.tensors[index], share, spec, job.plan.shapes[index])
        for job, share in zip(batch.tickets, batch.shares, strict=True)
    ]


def _part(raw: Buffer, share: Share, spec: TensorSpec, shape: Sequence[int]) -> Buffer:
    """Some rows of a tensor's raw contents."""
    elements = prod(shape)
    first, last = share.start * elements, (share.start + share.rows) * elements
    if spec.datatype.itemsize:
        size = spec.datatype.itemsize
        return memoryview(raw)[first * size : last * size]
    spans, end = byte_tensors.spans(raw, last)
    begin = spans[first][0] - byte_tensors.LENGTH_BYTES if first < last else end
    return memoryview(raw)[begin:end]


def _pad(last: Buffer, spec: TensorSpec, shape: Sequence[int], rows: int) -> Buffer:
    """Rows that nobody asked for: the last one again, which is at least valid; for BYTES empty strings."""
    elements = prod(shape)
    if not spec.datatype.itemsize:
        return bytes(rows * elements * byte_tensors.LENGTH_BYTES)
    row_bytes = elements * spec.datatype.itemsize
    return bytes(memoryview(last)[len(last) - row_bytes :]) * rows

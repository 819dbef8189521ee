"""From requests to a batch's arrays, and from a batch's outputs to the answers.

    raw, raw, raw ── gather ──▶ [rows, ...] ── instance ──▶ [rows, ...] ── scatter ──▶ view, view, view

Inputs are copied once, by one join for each tensor; a batch of one request is not copied at all.
Raw contents of BYTES tensors join just as well, since each element carries its length. Outputs are
not copied: an answer is a view of the batch's array.
"""

from collections.abc import Sequence

from penstock_server.backends.base import Tensors
from penstock_server.engine.jobs import Job
from penstock_server.models.spec import ModelSpec
from penstock_server.tensors.codec import Array, view
from penstock_server.tensors.spec import TensorSpec, show_shape


class BadOutput(Exception):
    """A model returned something else than its config promises. For the log, not for clients."""


def gather(jobs: Sequence[Job], rows: int, batched: bool) -> Tensors:
    """The input arrays of a batch of requests with equal keys."""
    plan = jobs[0].plan
    tensors: Tensors = {}
    for index, (spec, shape) in enumerate(zip(plan.inputs, plan.shapes, strict=True)):
        raw = jobs[0].tensors[index] if len(jobs) == 1 else b"".join([job.tensors[index] for job in jobs])
        tensors[spec.name] = view(raw, spec.datatype, (rows, *shape) if batched else shape)
    return tensors


def check_outputs(outputs: Tensors, wanted: Sequence[int], spec: ModelSpec, rows: int) -> dict[int, Array]:
    """The wanted outputs by index, as contiguous arrays. BadOutput if one is not what the config promises."""
    checked: dict[int, Array] = {}
    for index in wanted:
        tensor = spec.outputs[index]
        array = outputs.get(tensor.name)
        if array is None:
            raise BadOutput(f"output '{tensor.name}' is missing")
        checked[index] = _check(array, tensor, spec, rows)
    return checked


def _check(array: Array, tensor: TensorSpec, spec: ModelSpec, rows: int) -> Array:
    code = tensor.datatype.numpy
    if array.dtype != code and not (code == "O" and array.dtype.kind in "SU"):
        raise BadOutput(f"output '{tensor.name}' has numpy type {array.dtype}, not {tensor.datatype.name}'s {code}")
    shape: tuple[int, ...] = array.shape
    if spec.max_batch_size:
        if not shape or shape[0] != rows:
            raise BadOutput(f"output '{tensor.name}' has shape {show_shape(shape)} for a batch of {rows} rows")
        shape = shape[1:]
    reshape = spec.output_reshapes.get(tensor.name)
    expected = tensor.shape if reshape is None else reshape.model
    if len(shape) != len(expected) or any(e not in (-1, a) for a, e in zip(shape, expected, strict=True)):
        raise BadOutput(f"output '{tensor.name}' has shape {show_shape(array.shape)}, not {show_shape(expected)}")
    if reshape is None:
        return array
    client_shape = reshape.to_client(shape)
    return array.reshape((rows, *client_shape) if spec.max_batch_size else client_shape)


def scatter(outputs: dict[int, Array], job: Job, start: int, batched: bool) -> list[Array]:
    """The outputs of one request, whose rows begin at `start`."""
    plan = job.plan
    if not batched:
        return [outputs[index] for index in plan.outputs]
    end = start + plan.rows
    return [outputs[index][start:end] for index in plan.outputs]

"""What a model that may run on the loop takes there, tried before anybody asks.

Otherwise each size of batch would have to prove itself in threads, and that under the load that comes first: sixteen
models that are asked at once contend for the interpreter for seconds, and what is measured then is several times what a
run would take on the loop.

The inputs are zeros, which may be no valid input: what fails proves nothing, and `backends.inline` goes on measuring
whatever was found here. Nothing is tried where the time depends on what is asked: with axes of any length.
"""

import time
from collections.abc import Iterator
from math import prod

import numpy as np

from penstock_server.backends.base import ModelBatch, ModelInstance, RequestInfo, Tensors
from penstock_server.models.spec import ModelSpec
from penstock_server.models.warmup import MAX_ELEMENTS

_RUNS = 4
"""The first of them is a cold one. Of the others the longest counts."""


def zeros(spec: ModelSpec, rows: int) -> Tensors | None:
    """Inputs of zeros in the clients' shapes, without the optional ones; None if they were too large.

    Axes of any length are 1, or as long as the smallest length bucket. The mask of lengths is ones.
    """
    buckets = spec.scheduling.length_buckets
    free = min(buckets) if buckets else 1
    inputs: Tensors = {}
    for tensor in spec.inputs:
        is_mask = tensor.name == spec.scheduling.length_mask_input
        if tensor.optional and not is_mask:
            continue
        whole = (rows, *tensor.shape) if spec.batched else tensor.shape
        shape = tuple(free if axis == -1 else axis for axis in whole)
        if prod(shape) > MAX_ELEMENTS:
            return None
        inputs[tensor.name] = np.full(shape, 0 if tensor.datatype.itemsize else b"", tensor.datatype.numpy)
        if is_mask:
            inputs[tensor.name] += 1
    return inputs


def has_fixed_shapes(spec: ModelSpec) -> bool:
    """Whether a batch's time depends on its rows only, as far as shapes tell."""
    return all(-1 not in tensor.shape for tensor in spec.inputs)


def cpu_seconds(instance: ModelInstance, spec: ModelSpec, inputs: Tensors, rows: int) -> float | None:
    """What a run of these inputs, for all outputs, takes of the processor; None if it fails. Blocks."""
    outputs = tuple(tensor.name for tensor in spec.outputs)
    batch = ModelBatch(inputs, rows, [RequestInfo(rows, outputs=outputs)])
    try:
        return max(list(_times(instance, batch))[1:])
    except BaseException:  # models may raise anything
        return None


def _times(instance: ModelInstance, batch: ModelBatch) -> Iterator[float]:
    for _ in range(_RUNS):
        began = time.thread_time()
        instance.run(batch)
        yield time.thread_time() - began

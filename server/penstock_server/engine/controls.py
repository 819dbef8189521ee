"""The control inputs of a sequence model: what the server tells it about each row, [rows, 1]."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from penstock_scheduler.sequences import P, Step
from penstock_server.backends.base import Tensors
from penstock_server.models.sequences import Control, ControlKind
from penstock_server.tensors.codec import Array

_WRAPS = {"UINT64": 64, "INT64": 64, "UINT32": 32, "INT32": 32}
"""Bits of an id. A larger one is cut, and a large unsigned one is the negative signed one of the same bits."""


def fill(controls: Sequence[Control], steps: Sequence[Step[P] | None], *, batched: bool) -> Tensors:
    """The controls of a batch, given the step in each row; None is a row without a request."""
    tensors: Tensors = {}
    for control in controls:
        match control.kind:
            case ControlKind.START:
                array = _flags(control, [step is not None and step.start for step in steps])
            case ControlKind.END:
                array = _flags(control, [step is not None and step.end for step in steps])
            case ControlKind.READY:
                array = _flags(control, [step is not None for step in steps])
            case ControlKind.CORRID:
                array = _ids(control, [0 if step is None else public_id(step.id) for step in steps])
        tensors[control.name] = array.reshape(-1, 1) if batched else array
    return tensors


def _flags(control: Control, values: Sequence[bool]) -> Array:
    return np.where(values, control.true, control.false).astype(control.datatype.numpy)


def _ids(control: Control, ids: Sequence[int | str]) -> Array:
    if control.datatype.name == "BYTES":
        return np.array([_text(id).encode() for id in ids], object)
    bits = _WRAPS[control.datatype.name]
    numbers = [id & ((1 << bits) - 1) if isinstance(id, int) else 0 for id in ids]
    return np.array(numbers, f"u{bits // 8}").view(control.datatype.numpy)


def _text(id: int | str) -> str:
    return id if isinstance(id, str) else str(id or "")


def public_id(key: object) -> int | str:
    """The id that a model is told, of what a sequence is known by: that of a stream's own one is in a tuple.

    0 for a sequence that has none, as that of a single iterative request.
    """
    if isinstance(key, tuple):
        (key,) = cast("tuple[object]", key)
    return key if isinstance(key, int | str) else 0

"""The states of a model's sequences: what it gave out for one request and gets back with the next of that sequence.

Each state is one array with a row for each seat, [seats, ...], allocated when the model loads. So a batch gathers what
it needs in one step and scatters what it gets in another, whatever the number of sequences, and no more memory is ever
taken. On a device these would be device arrays: nothing else here would change.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from penstock_server.backends.base import Tensors
from penstock_server.models.sequences import StateSpec
from penstock_server.tensors.codec import Array
from penstock_server.tensors.spec import show_shape

Rows = NDArray[np.intp]


class BadState(Exception):
    """A model returned a state that is not what its config promises. For the log, not for clients."""


class States:
    """All states of one version of a model."""

    def __init__(self, specs: Sequence[StateSpec], seats: int) -> None:
        self._specs = specs
        self._arrays: list[Array] = [np.empty((seats, *spec.initial.shape), spec.initial.dtype) for spec in specs]
        for spec, array in zip(specs, self._arrays, strict=True):
            array[:] = spec.initial
        self.nbytes = sum(array.nbytes for array in self._arrays)
        """What all of them take, used or not."""

    def __repr__(self) -> str:
        return f"<States: {len(self._specs)} of {self.nbytes} bytes>"

    def reset(self, seats: Rows) -> None:
        """Begin anew in these seats."""
        for spec, array in zip(self._specs, self._arrays, strict=True):
            array[seats] = spec.initial

    def drop(self, seat: int) -> None:
        """The sequence in this seat is over: keep nothing that takes memory beside the arrays, as strings do."""
        for spec, array in zip(self._specs, self._arrays, strict=True):
            if array.dtype == object:
                array[seat] = spec.initial

    def gather(self, seats: Rows, rows: Rows, count: int) -> Tensors:
        """The inputs of a batch of `count` rows: in `rows` the states of `seats`, in all others initial ones."""
        tensors: Tensors = {}
        for spec, array in zip(self._specs, self._arrays, strict=True):
            if len(rows) == count:
                tensors[spec.tensor.name] = array[seats]  # rows are in order, and there are no others
                continue
            batch = np.empty((count, *spec.initial.shape), spec.initial.dtype)
            batch[:] = spec.initial
            batch[rows] = array[seats]
            tensors[spec.tensor.name] = batch
        return tensors

    def check(self, outputs: Mapping[str, object], count: int | None) -> list[Array]:
        """The states that a model returned, [count, ...]; without a batch axis if `count` is None.

        BadState if one is missing, or is not as its config says.
        """
        axis = () if count is None else (count,)
        found: list[Array] = []
        for spec in self._specs:
            returned = outputs.get(spec.output)
            if not isinstance(returned, np.ndarray | np.generic):  # as in outputs: arrays without axes
                raise BadState(f"state '{spec.output}' is missing")
            array = np.asarray(cast("Array", returned))
            if spec.initial.dtype == object:
                array = _as_objects(array)
            if array.dtype != spec.initial.dtype:
                raise BadState(f"state '{spec.output}' has numpy type {array.dtype}, not {spec.initial.dtype}")
            if array.shape != (*axis, *spec.initial.shape):
                expected = show_shape((*axis, *spec.initial.shape))
                raise BadState(f"state '{spec.output}' has shape {show_shape(array.shape)}, not {expected}")
            found.append(array if axis else array[np.newaxis])
        return found

    def scatter(self, seats: Rows, rows: Rows, arrays: Sequence[Array]) -> None:
        """Keep what a batch returned in `rows` as the states of `seats`."""
        for array, returned in zip(self._arrays, arrays, strict=True):
            array[seats] = returned[rows]


def _as_objects(array: Array) -> Array:
    """Strings as the model gets them: an array of `bytes`. Anything else as it is."""
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
    return array.astype(object) if array.dtype.kind == "S" else array

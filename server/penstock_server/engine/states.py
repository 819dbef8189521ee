"""The states of a model's sequences: what it gave out for one request and gets back with the next of that sequence.

States of a fixed size are one array each with a row for each seat, [seats, ...], allocated when the model loads. So a
batch gathers what it needs in one step and scatters what it gets in another, whatever the number of sequences. On a
device these would be device arrays: nothing else here would change.

States with an axis of any length, and strings, are *loose*: an array for each seat, as large as the model makes it.
All states together never take more than a limit. A step whose states do not fit keeps those it had.

* A batch has sequences of one `shapes` only, since its states are one array. Whoever makes batches sees to it.
* A seat is counted with what it holds, and at least with initial states: so it can always begin anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from penstock_server.backends.base import Tensors
from penstock_server.models.sequences import MAX_STATE_BYTES, StateSpec
from penstock_server.tensors.codec import Array, element_bytes, memory_of, object_array
from penstock_server.tensors.spec import show_shape

Rows = NDArray[np.intp]
Shapes = tuple[tuple[int, ...], ...]


class BadState(Exception):
    """A model returned a state that is not what its config promises. For the log, not for clients."""


class States:
    """All states of one version of a model."""

    def __init__(self, specs: Sequence[StateSpec], seats: int, limit: int = MAX_STATE_BYTES) -> None:
        self._specs = specs
        self._limit = limit
        self._fixed: dict[int, Array] = {}
        self._loose: dict[int, list[Array]] = {}
        for index, spec in enumerate(specs):
            if spec.is_loose:
                self._loose[index] = [spec.initial] * seats
            else:
                self._fixed[index] = _repeated(spec.initial, seats)
        self._shaped = [kept for index, kept in self._loose.items() if specs[index].is_variable]
        self._least = sum(memory_of(specs[index].initial) for index in self._loose)
        self._sizes = [self._least] * seats
        self.nbytes = sum(array.nbytes for array in self._fixed.values()) + self._least * seats
        """What all of them take."""

    def __repr__(self) -> str:
        return f"<States: {len(self._specs)} of {self.nbytes} bytes>"

    def shapes(self, seat: int, *, start: bool) -> Shapes:
        """What the states in this seat must have in common with others of a batch, now or after a `reset`."""
        if not self._shaped:
            return ()
        if start:
            return tuple(spec.initial.shape for spec in self._specs if spec.is_variable)
        return tuple(kept[seat].shape for kept in self._shaped)

    def reset(self, seats: Rows) -> None:
        """Begin anew in these seats."""
        for index, array in self._fixed.items():
            array[seats] = self._specs[index].initial
        if self._loose:
            for seat in seats.tolist():
                self.drop(seat)

    def drop(self, seat: int) -> None:
        """The sequence in this seat is over: keep nothing of it that takes memory of its own."""
        for index, kept in self._loose.items():
            kept[seat] = self._specs[index].initial
        self._resize(seat, self._least)

    def gather(self, seats: Rows, rows: Rows, count: int) -> Tensors:
        """The inputs of a batch of `count` rows: in `rows` the states of `seats`, in all others initial ones.

        In the others there are zeros, or empty strings, if the states of `seats` have another shape than initial ones.
        """
        tensors: Tensors = {}
        for index, spec in enumerate(self._specs):
            if index in self._fixed:
                own = self._fixed[index][seats]
            else:
                kept = self._loose[index]
                own = _stacked([kept[int(seat)] for seat in seats], spec.initial)
            if len(rows) < count:
                others = _repeated(_filler(spec, own.shape[1:]), count)
                others[rows] = own
                own = others  # otherwise rows are in order, and there are no others
            tensors[spec.tensor.name] = own
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
                array = _as_objects(array, spec.output)
            if array.dtype != spec.initial.dtype:
                raise BadState(f"state '{spec.output}' has numpy type {array.dtype}, not {spec.initial.dtype}")
            expected = (*axis, *spec.tensor.shape)
            if len(array.shape) != len(expected) or any(
                want not in (-1, has) for want, has in zip(expected, array.shape, strict=True)
            ):
                shapes = f"{show_shape(array.shape)}, not {show_shape(expected)}"
                raise BadState(f"state '{spec.output}' has shape {shapes}")
            found.append(array if axis else array[np.newaxis])
        return found

    def scatter(self, seats: Rows, rows: Rows, arrays: Sequence[Array]) -> list[int]:
        """Keep what a batch returned in `rows` as the states of `seats`.

        Returns the rows whose states would be too much memory: their seats keep what they had.
        """
        too_much: list[int] = []
        if self._loose:
            for seat, row in zip(seats.tolist(), rows.tolist(), strict=True):
                if not self._keep(seat, (arrays[index][row, ...] for index in self._loose)):
                    too_much.append(row)
            if too_much:
                fits = ~np.isin(rows, too_much)
                seats, rows = seats[fits], rows[fits]
        for index, array in self._fixed.items():
            array[seats] = arrays[index][rows]
        return too_much

    def _keep(self, seat: int, views: Iterable[Array]) -> bool:
        """Keep copies of the loose states that a seat got, each a view of its batch's. False: there is no room."""
        new = list(views)
        size = max(sum(map(memory_of, new)), self._least)
        if self.nbytes + size - self._sizes[seat] > self._limit:
            return False
        self._resize(seat, size)
        for kept, array in zip(self._loose.values(), new, strict=True):
            kept[seat] = array.copy()
        return True

    def _resize(self, seat: int, size: int) -> None:
        self.nbytes += size - self._sizes[seat]
        self._sizes[seat] = size


def _repeated(array: Array, count: int) -> Array:
    """[count, ...], so many times the same."""
    repeated = np.empty((count, *array.shape), array.dtype)
    repeated[:] = array
    return repeated


def _stacked(arrays: Sequence[Array], initial: Array) -> Array:
    return np.stack(arrays) if arrays else np.empty((0, *initial.shape), initial.dtype)


def _filler(spec: StateSpec, shape: tuple[int, ...]) -> Array:
    """What rows without a sequence get beside those of this shape."""
    if shape == spec.initial.shape:
        return spec.initial
    filler = np.zeros(shape, spec.initial.dtype)
    if filler.dtype == object:
        filler.fill(b"")
    return filler


def _as_objects(array: Array, name: str) -> Array:
    """Strings as the model gets them: an array of `bytes`. What is no array of strings at all as it is."""
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
    if array.dtype.kind == "S":
        return array.astype(object)
    if array.dtype == object:
        try:
            return object_array([element_bytes(each) for each in array.flat], array.shape)
        except TypeError as error:
            raise BadState(f"state '{name}': {error}") from None
    return array

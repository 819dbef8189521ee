"""States in their seats, and controls for each row."""

from typing import Any

import numpy as np
import pytest

from penstock_proto.datatypes import DATATYPES
from penstock_scheduler.sequences import Step
from penstock_server.engine.controls import fill
from penstock_server.engine.states import BadState, States
from penstock_server.models.sequences import Control, ControlKind, StateSpec
from penstock_server.tensors.spec import TensorSpec


def states(seats: int = 4) -> States:
    initial = np.array([7.0, 8.0], np.float32)
    return States([StateSpec("T", TensorSpec("S", DATATYPES["FP32"], (2,)), initial)], seats)


def rows(*numbers: int) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    return np.array(numbers, np.intp)


def test_each_seat_gets_its_own_back() -> None:
    """Whatever rows the sequences had; a seat that was not in the batch keeps what it has."""
    kept = states()
    kept.scatter(rows(2, 0), rows(0, 1), [np.array([[1, 2], [3, 4]], np.float32)])
    assert kept.gather(rows(0, 1, 2), rows(0, 1, 2), 3)["S"].tolist() == [[3, 4], [7, 8], [1, 2]]


def test_rows_without_a_sequence_have_initial_states() -> None:
    """Padding, and empty seats of a direct batch: a model must not see what is another's."""
    kept = states()
    kept.scatter(rows(0, 1), rows(0, 1), [np.array([[3, 4], [1, 2]], np.float32)])
    assert kept.gather(rows(1), rows(2), 3)["S"].tolist() == [[7, 8], [7, 8], [1, 2]]


def test_a_reset_seat_begins_anew() -> None:
    """And no other."""
    kept = states()
    kept.scatter(rows(0, 1), rows(0, 1), [np.array([[1, 2], [3, 4]], np.float32)])
    kept.reset(rows(1))
    assert kept.gather(rows(0, 1), rows(0, 1), 2)["S"].tolist() == [[1, 2], [7, 8]]


def test_what_a_batch_gathered_is_its_own() -> None:
    """A model may write into its inputs."""
    kept = states()
    kept.gather(rows(0), rows(0), 1)["S"][:] = 0
    assert kept.gather(rows(0), rows(0), 1)["S"].tolist() == [[7, 8]]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ({}, "missing"),
        ({"T": [[1.0, 2.0]]}, "missing"),
        ({"T": np.zeros((1, 2))}, "numpy type float64, not float32"),
        ({"T": np.zeros((2, 2), np.float32)}, r"shape \[2,2\], not \[1,2\]"),
    ],
)
def test_a_bad_state_is_not_kept(returned: dict[str, object], reason: str) -> None:
    """The message is for the model's author."""
    with pytest.raises(BadState, match=reason):
        states().check(returned, 1)


def test_a_good_state_is_taken_as_it_is() -> None:
    """In the order of the config."""
    array = np.zeros((1, 2), np.float32)
    (found,) = states().check({"T": array, "Y": None}, 1)
    assert found is array


STEPS: tuple[Step[Any] | None, ...] = (Step("", 5, start=True), None, Step("", (1 << 64) - 1, end=True))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ControlKind.START, [[1], [-1], [-1]]),
        (ControlKind.END, [[-1], [-1], [1]]),
        (ControlKind.READY, [[1], [-1], [1]]),
    ],
)
def test_flags_have_the_values_of_the_config(kind: ControlKind, expected: list[list[int]]) -> None:
    """A row without a request is none of them."""
    control = Control("C", kind, DATATYPES["INT32"], -1, 1)
    array = fill([control], STEPS, batched=True)["C"]
    assert array.dtype == np.int32
    assert array.tolist() == expected


@pytest.mark.parametrize(
    ("datatype", "expected"),
    [
        ("UINT64", [5, 0, (1 << 64) - 1]),
        ("INT64", [5, 0, -1]),
        ("UINT32", [5, 0, (1 << 32) - 1]),
        ("INT32", [5, 0, -1]),
        ("BYTES", [b"5", b"", b"18446744073709551615"]),
    ],
)
def test_ids_in_the_type_of_the_config(datatype: str, expected: list[object]) -> None:
    """Unsigned ids that travel as signed ones come out as they went in."""
    control = Control("C", ControlKind.CORRID, DATATYPES[datatype])
    assert fill([control], STEPS, batched=False)["C"].tolist() == expected

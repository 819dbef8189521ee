"""States in their seats, and controls for each row."""

from typing import Any

import numpy as np
import pytest

from penstock_proto.datatypes import DATATYPES
from penstock_scheduler.sequences import Step
from penstock_server.engine.controls import fill
from penstock_server.engine.states import BadState, States
from penstock_server.models.sequences import Control, ControlKind, StateSpec
from penstock_server.tensors.codec import Array
from penstock_server.tensors.spec import TensorSpec


def states(seats: int = 4) -> States:
    initial = np.array([7.0, 8.0], np.float32)
    return States([StateSpec("T", TensorSpec("S", DATATYPES["FP32"], (2,)), initial)], seats)


def growing(limit: int = 1 << 20) -> States:
    """Of four seats: A, [-1, 2] FP32, and TEXT, [1] BYTES."""
    a, text = np.zeros((1, 2), np.float32), np.array([b"ab"], object)
    return States(
        [
            StateSpec("NEW_A", TensorSpec("A", DATATYPES["FP32"], (-1, 2)), a),
            StateSpec("NEW_TEXT", TensorSpec("TEXT", DATATYPES["BYTES"], (1,)), text),
        ],
        4,
        limit,
    )


def grown(count: int, length: int, text: bytes = b"ab") -> list[Array]:
    """What a batch of `count` rows returns."""
    return [np.ones((count, length, 2), np.float32), np.full((count, 1), text, object)]


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


def test_states_of_any_length_are_kept_as_they_are() -> None:
    """Each seat's in its own shape, which it shares a batch by; a seat that begins anew has the initial one."""
    kept = growing()
    kept.scatter(rows(2, 0), rows(0, 1), grown(2, 3, b"text"))
    kept.scatter(rows(1), rows(0), grown(1, 0))
    assert [kept.shapes(seat, start=False) for seat in range(4)] == [((3, 2),), ((0, 2),), ((3, 2),), ((1, 2),)]
    assert kept.shapes(2, start=True) == ((1, 2),)
    tensors = kept.gather(rows(0, 2), rows(0, 1), 2)
    assert tensors["A"].tolist() == np.ones((2, 3, 2)).tolist()
    assert tensors["TEXT"].tolist() == [[b"text"], [b"text"]]
    assert kept.gather(rows(1), rows(0), 1)["A"].shape == (1, 0, 2)
    kept.reset(rows(0))
    kept.drop(2)
    assert [kept.shapes(seat, start=False) for seat in (0, 2)] == [((1, 2),)] * 2
    assert kept.gather(rows(0), rows(0), 1)["TEXT"].tolist() == [[b"ab"]]


def test_rows_beside_states_of_any_length_have_zeros_of_their_shape() -> None:
    """Or initial states, if these have it."""
    kept = growing()
    kept.scatter(rows(0), rows(0), grown(1, 2, b"text"))
    tensors = kept.gather(rows(0), rows(1), 2)
    assert tensors["A"].tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    assert tensors["TEXT"].tolist() == [[b"ab"], [b"text"]]


def test_what_a_model_does_to_its_outputs_later_does_not_change_a_state() -> None:
    """It is a copy, which keeps nothing else of the batch either."""
    kept, arrays = growing(), grown(2, 2)
    kept.scatter(rows(0), rows(1), arrays)
    arrays[0][:] = 7
    tensors = kept.gather(rows(0), rows(0), 1)
    assert tensors["A"].tolist() == [[[1, 1], [1, 1]]]
    tensors["A"][:] = 8
    assert kept.gather(rows(0), rows(0), 1)["A"].tolist() == [[[1, 1], [1, 1]]]


def test_states_are_counted_with_what_they_hold() -> None:
    """Strings included; and never with less than initial ones, so that every seat can begin anew."""
    kept = growing()
    first = kept.nbytes
    kept.scatter(rows(0), rows(0), grown(1, 1001, b"x" * 502))
    assert kept.nbytes == first + 1000 * 2 * 4 + 500
    kept.scatter(rows(0, 1), rows(0, 1), grown(2, 0, b""))
    assert kept.nbytes == first
    kept.scatter(rows(1), rows(0), grown(1, 1001))
    kept.drop(1)
    assert kept.nbytes == first


def test_a_state_that_does_not_fit_is_not_kept() -> None:
    """Its seat keeps what it had, all of it; others of the batch are kept."""
    kept = growing()
    kept = growing(limit=kept.nbytes + 1000)
    assert kept.scatter(rows(3, 1, 2), rows(0, 1, 3), grown(4, 101, b"y")) == [1, 3]
    assert [kept.shapes(seat, start=False) for seat in (3, 1, 2)] == [((101, 2),), ((1, 2),), ((1, 2),)]
    assert kept.gather(rows(1), rows(0), 1)["TEXT"].tolist() == [[b"ab"]]
    kept.drop(3)
    assert kept.scatter(rows(1), rows(1), grown(4, 101, b"y")) == []


@pytest.mark.parametrize(
    ("a", "text", "reason"),
    [
        (np.zeros((1, 5, 3), np.float32), np.array([[b""]], object), r"'NEW_A' has shape \[1,5,3\], not \[1,-1,2\]"),
        (np.zeros((1, 2), np.float32), np.array([[b""]], object), r"'NEW_A' has shape \[1,2\], not \[1,-1,2\]"),
        (np.zeros((1, 5, 2), np.float32), np.array([[7]], object), "'NEW_TEXT': an element of a BYTES tensor is bytes"),
    ],
)
def test_a_bad_state_of_any_length(a: Array, text: Array, reason: str) -> None:
    """All but the open axis is as the config says, and strings are strings."""
    with pytest.raises(BadState, match=reason):
        growing().check({"NEW_A": a, "NEW_TEXT": text}, 1)


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

"""Requests' bytes into a batch's arrays: joined, padded, in parts, in memory that is used again."""

import numpy as np
import pytest

from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES
from penstock_scheduler import Share
from penstock_server.engine.jobs import Job
from penstock_server.engine.slots import Slot
from penstock_server.models.spec import Batching, ModelSpec
from penstock_server.tensors.codec import Array
from penstock_server.tensors.spec import TensorSpec
from tests.server.engine.batches import batch_of, ticket

FP32, BYTES = DATATYPES["FP32"], DATATYPES["BYTES"]
X, TEXT = TensorSpec("X", FP32, (-1,)), TensorSpec("TEXT", BYTES, (1,))


def spec_of(*inputs: TensorSpec, max_batch_size: int = 8, batching: bool = True) -> ModelSpec:
    return ModelSpec("m", max_batch_size, inputs, (), len(inputs), batching=Batching(enabled=batching))


def fp32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def rows_of(rows: int, *values: float, width: int = 1) -> Job:
    """A request of X."""
    return ticket(spec_of(X), rows, fp32(*values), shapes=[(width,)])


def texts(*values: bytes) -> Job:
    return ticket(spec_of(TEXT), len(values), byte_tensors.pack(values), shapes=[(1,)])


LARGE = 20_000
"""Floats, and more bytes than are joined."""


def large(value: float, rows: int = 1) -> Job:
    return ticket(spec_of(X), rows, np.full(rows * LARGE, value, "<f4").tobytes(), shapes=[(LARGE,)])


# ── joined ────────────────────────────────────────────────────────────────────────────────────────


def test_requests_are_joined_row_by_row() -> None:
    """In their order, each with as many rows as it has."""
    inputs = Slot(batched=True).gather(batch_of(rows_of(1, 1, 2, width=2), rows_of(2, 3, 4, 5, 6, width=2)))
    assert inputs["X"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert inputs["X"].dtype == "<f4"


def test_bytes_tensors_are_joined_as_they_travel() -> None:
    """Each element carries its length, so no element has to be looked at to join them."""
    inputs = Slot(batched=True).gather(batch_of(texts(b"first"), texts(b"", b"a\0b")))
    assert inputs["TEXT"].tolist() == [[b"first"], [b""], [b"a\0b"]]


def test_inputs_do_not_get_mixed_up() -> None:
    """Each tensor's bytes are found by the plan's order."""
    spec = spec_of(TEXT, X)
    jobs = [
        ticket(spec, 1, byte_tensors.pack([name]), fp32(number), shapes=[(1,), (1,)])
        for name, number in ((b"a", 1), (b"b", 2))
    ]
    inputs = Slot(batched=True).gather(batch_of(*jobs))
    assert list(inputs) == ["TEXT", "X"]
    assert inputs["TEXT"].tolist() == [[b"a"], [b"b"]]
    assert inputs["X"].tolist() == [[1], [2]]


def test_a_model_without_a_batch_axis_gets_the_shape_it_was_sent() -> None:
    """No axis in front."""
    spec = spec_of(X, max_batch_size=0, batching=False)
    assert Slot(batched=False).gather(batch_of(ticket(spec, 1, fp32(1, 2), shapes=[(2,)])))["X"].tolist() == [1, 2]
    assert Slot(batched=False).gather(batch_of(ticket(spec, 1, fp32(1), shapes=[()])))["X"].shape == ()


def test_without_dynamic_batching_a_request_keeps_its_rows() -> None:
    """The scheduler counts it as one row, whatever it has."""
    job = ticket(spec_of(X, batching=False), 3, fp32(1, 2, 3), shapes=[(1,)])
    assert job.rows == 1
    assert Slot(batched=True).gather(batch_of(job))["X"].tolist() == [[1], [2], [3]]


def test_axes_without_elements() -> None:
    """A batch of nothing has its rows all the same."""
    inputs = Slot(batched=True).gather(batch_of(rows_of(1, width=0), rows_of(2, width=0)))
    assert inputs["X"].shape == (3, 0)


@pytest.mark.parametrize(
    "jobs", [[rows_of(1, 1)], [rows_of(1, 1), rows_of(1, 2)], [large(1), large(2)]], ids=["view", "joined", "copied"]
)
def test_inputs_cannot_be_written(jobs: list[Job]) -> None:
    """A model sees the same kind of array, however many requests its batch has."""
    assert not Slot(batched=True).gather(batch_of(*jobs))["X"].flags.writeable


# ── padded ────────────────────────────────────────────────────────────────────────────────────────


def test_missing_rows_repeat_the_last_one() -> None:
    """It is at least valid, which zeros need not be."""
    slot = Slot(batched=True)
    assert slot.gather(batch_of(rows_of(2, 1, 2), padded_rows=4))["X"].tolist() == [[1], [2], [2], [2]]
    padded = slot.gather(batch_of(rows_of(1, 1), rows_of(1, 2), padded_rows=4))
    assert padded["X"].tolist() == [[1], [2], [2], [2]]


def test_missing_rows_of_strings_are_empty() -> None:
    """The last one may be of any length."""
    inputs = Slot(batched=True).gather(batch_of(texts(b"a"), texts(b"long"), padded_rows=4))
    assert inputs["TEXT"].tolist() == [[b"a"], [b"long"], [b""], [b""]]


def test_large_tensors_are_padded_too() -> None:
    """In the slot's buffer."""
    inputs = Slot(batched=True).gather(batch_of(large(1), large(2), padded_rows=4))
    assert inputs["X"].shape == (4, LARGE)
    assert inputs["X"][:, 0].tolist() == inputs["X"][:, -1].tolist() == [1, 2, 2, 2]


# ── parts of oversize requests ────────────────────────────────────────────────────────────────────


def test_a_part_is_some_rows_of_its_request() -> None:
    """Beside whole requests."""
    oversize = rows_of(5, *range(10), width=2)
    batch = batch_of(oversize, rows_of(1, 20, 21, width=2), shares=[Share(3, 2), None])
    assert Slot(batched=True).gather(batch)["X"].tolist() == [[6, 7], [8, 9], [20, 21]]


def test_a_part_of_a_request_with_strings() -> None:
    """Found by walking its elements; the first and the last row are no special case."""
    oversize = texts(b"zero", b"", b"two", b"\0three")
    for start, rows, expected in (
        (0, 2, [[b"zero"], [b""]]),
        (1, 2, [[b""], [b"two"]]),
        (3, 1, [[b"\0three"]]),
        (0, 4, [[b"zero"], [b""], [b"two"], [b"\0three"]]),
    ):
        batch = batch_of(oversize, shares=[Share(start, rows)])
        assert Slot(batched=True).gather(batch)["TEXT"].tolist() == expected


def test_a_part_without_elements() -> None:
    """A row may be empty."""
    spec = spec_of(TensorSpec("TEXT", BYTES, (-1,)))
    job = ticket(spec, 3, b"", shapes=[(0,)])
    assert Slot(batched=True).gather(batch_of(job, shares=[Share(1, 2)]))["TEXT"].shape == (2, 0)


# ── memory ────────────────────────────────────────────────────────────────────────────────────────


def address(array: Array) -> int:
    data: int = array.__array_interface__["data"][0]
    return data


def test_a_single_request_is_not_copied() -> None:
    """Its array is a view of its message, however large."""
    job = large(1)
    assert np.shares_memory(Slot(batched=True).gather(batch_of(job))["X"], np.frombuffer(job.tensors[0], np.uint8))


def test_what_is_not_aligned_in_its_message_is_copied() -> None:
    """Models would read it slowly, or not at all; large or small, and into the same buffer again."""
    for size in (1, LARGE):
        slot, spec = Slot(batched=True), spec_of(X)
        numbers = np.arange(size, dtype="<f4")
        arrays: list[Array] = []
        for offset in range(8):
            message = bytearray(offset) + numbers.tobytes()
            array = slot.gather(batch_of(ticket(spec, 1, memoryview(message)[offset:], shapes=[(size,)])))["X"]
            assert array.flags.aligned
            assert array.tolist() == [numbers.tolist()]
            assert np.shares_memory(array, np.frombuffer(message, np.uint8)) == (offset % 4 == 0)
            arrays.append(array)
        assert size == 1 or np.shares_memory(arrays[1], arrays[2])


def test_the_buffer_of_large_tensors_is_used_again() -> None:
    """It grows with the largest batch and stays."""
    slot = Slot(batched=True)
    largest = address(slot.gather(batch_of(large(1), large(2), large(3)))["X"])
    again = slot.gather(batch_of(large(4), large(5)))["X"]
    assert address(again) == largest
    assert again[:, 0].tolist() == [4, 5]
    grown = slot.gather(batch_of(large(1), large(2), large(3), large(4)))["X"]
    assert grown[:, -1].tolist() == [1, 2, 3, 4]
    assert repr(slot) == f"<Slot of {4 * LARGE * 4} bytes>"


def test_small_tensors_need_no_buffer() -> None:
    """They are joined in one call, and each batch has its own memory."""
    slot = Slot(batched=True)
    first = slot.gather(batch_of(rows_of(1, 1), rows_of(1, 2)))["X"]
    slot.gather(batch_of(rows_of(1, 3), rows_of(1, 4)))
    assert first.tolist() == [[1], [2]]
    assert repr(slot) == "<Slot of 0 bytes>"


def test_outputs_that_are_inputs_are_copied() -> None:
    """A model may hand its input on, and the next batch will be written over it; other outputs are left alone."""
    slot = Slot(batched=True)
    x = slot.gather(batch_of(large(1), large(2)))["X"]
    own = x * 2
    outputs = slot.detach({0: x, 1: x[:, 1:3], 2: own})
    slot.gather(batch_of(large(8), large(9)))
    assert outputs[0][:, 0].tolist() == [1, 2]
    assert outputs[1].tolist() == [[1, 1], [2, 2]]
    assert outputs[2] is own

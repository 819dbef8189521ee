"""Inputs of any length: padded to the bucket, told apart by the mask, cut back in the outputs."""

from dataclasses import replace

import numpy as np
import pytest

from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES
from penstock_scheduler import Share
from penstock_server.engine.jobs import Job
from penstock_server.engine.lengths import cut, length_axis, request_length, without_length
from penstock_server.engine.slots import Slot
from penstock_server.errors import InvalidRequest
from penstock_server.models.scheduling import Scheduling
from penstock_server.models.spec import Batching, ModelSpec
from penstock_server.tensors.spec import TensorSpec
from tests.server.engine.batches import batch_of, ticket

INT32, BYTES, FP32 = DATATYPES["INT32"], DATATYPES["BYTES"], DATATYPES["FP32"]
TOKENS = TensorSpec("TOKENS", INT32, (-1,))
MASK = TensorSpec("MASK", INT32, (-1,), optional=True)
BUCKETS = Scheduling(length_buckets=(4, 8))
MASKED = replace(BUCKETS, length_mask_input="MASK")


def spec_of(*inputs: TensorSpec, scheduling: Scheduling = BUCKETS) -> ModelSpec:
    return ModelSpec("m", 8, inputs, (), 1, batching=Batching(enabled=True), scheduling=scheduling)


def ints(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def tokens(*rows: list[int], spec: ModelSpec | None = None) -> Job:
    """A request with these rows, which are of one length."""
    length = len(rows[0])
    raw = ints(*(value for row in rows for value in row))
    return ticket(spec or spec_of(TOKENS), len(rows), raw, shapes=[(length,)], length=length)


def test_several_lengths_in_one_batch() -> None:
    """Each row is filled up with zeros to the bucket's length, and no row moves."""
    batch = batch_of(tokens([1, 2]), tokens([3, 4, 5], [6, 7, 8]), tokens([9]), length=4)
    inputs = Slot(batched=True).gather(batch)
    assert inputs["TOKENS"].tolist() == [[1, 2, 0, 0], [3, 4, 5, 0], [6, 7, 8, 0], [9, 0, 0, 0]]
    assert inputs["TOKENS"].dtype == "<i4"
    assert not inputs["TOKENS"].flags.writeable, "as all inputs are"


def test_a_request_that_fills_its_bucket() -> None:
    """Nothing is left to pad."""
    assert Slot(batched=True).gather(batch_of(tokens([1, 2, 3, 4]), length=4))["TOKENS"].tolist() == [[1, 2, 3, 4]]


def test_rows_are_padded_too() -> None:
    """With zeros all along."""
    inputs = Slot(batched=True).gather(batch_of(tokens([1, 2]), padded_rows=3, length=4))
    assert inputs["TOKENS"].tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_strings_are_padded_with_empty_ones() -> None:
    """And not with numbers."""
    spec = spec_of(TensorSpec("WORDS", BYTES, (-1,)))
    job = ticket(spec, 1, byte_tensors.pack([b"a", b"b"]), shapes=[(2,)], length=2)
    inputs = Slot(batched=True).gather(batch_of(job, padded_rows=2, length=4))
    assert inputs["WORDS"].tolist() == [[b"a", b"b", b"", b""], [b""] * 4]


def test_an_axis_in_the_middle() -> None:
    """The others are as they are."""
    spec = spec_of(TensorSpec("X", INT32, (2, -1, 2)))
    raw = ints(*range(8))
    batch = batch_of(ticket(spec, 1, raw, shapes=[(2, 2, 2)], length=2), length=4)
    (row,) = Slot(batched=True).gather(batch)["X"].tolist()
    zero = [0, 0]
    assert row == [[[0, 1], [2, 3], zero, zero], [[4, 5], [6, 7], zero, zero]]


def test_inputs_without_such_an_axis_are_joined() -> None:
    """Only what is of any length is padded."""
    spec = spec_of(TOKENS, TensorSpec("KIND", INT32, (1,)))
    jobs = [
        ticket(spec, 1, ints(*range(length)), ints(kind), shapes=[(length,), (1,)], length=length)
        for length, kind in ((2, 20), (3, 30))
    ]
    inputs = Slot(batched=True).gather(batch_of(*jobs, length=4))
    assert inputs["TOKENS"].tolist() == [[0, 1, 0, 0], [0, 1, 2, 0]]
    assert inputs["KIND"].tolist() == [[20], [30]]


def test_a_part_of_an_oversize_request() -> None:
    """Its rows are padded like any others."""
    oversize = tokens([1, 2], [3, 4], [5, 6])
    batch = batch_of(oversize, tokens([7, 8, 9]), length=4, shares=[Share(1, 2), None])
    inputs = Slot(batched=True).gather(batch)
    assert inputs["TOKENS"].tolist() == [[3, 4, 0, 0], [5, 6, 0, 0], [7, 8, 9, 0]]


def test_the_mask_tells_elements_from_padding() -> None:
    """1 for what a client sent. Rows that nobody asked for have none."""
    spec = spec_of(TOKENS, MASK, scheduling=MASKED)
    batch = batch_of(tokens([1], spec=spec), tokens([2, 3, 4], [5, 6, 7], spec=spec), padded_rows=4, length=4)
    inputs = Slot(batched=True).gather(batch)
    assert inputs["MASK"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert inputs["MASK"].dtype == "<i4"


def test_the_mask_of_a_part() -> None:
    """As long as the part."""
    spec = spec_of(TOKENS, MASK, scheduling=MASKED)
    batch = batch_of(tokens([1], [2], [3], spec=spec), length=2, shares=[Share(0, 2)])
    assert Slot(batched=True).gather(batch)["MASK"].tolist() == [[1, 0], [1, 0]]


def test_a_mask_that_the_client_sends() -> None:
    """It knows better, and what is padded is 0 in it as well."""
    spec = spec_of(TOKENS, MASK, scheduling=MASKED)
    job = ticket(spec, 1, ints(1, 2, 3), ints(1, 0, 1), shapes=[(3,), (3,)], length=3)
    assert Slot(batched=True).gather(batch_of(job, length=4))["MASK"].tolist() == [[1, 0, 1, 0]]


# ── outputs ───────────────────────────────────────────────────────────────────────────────────────


def test_outputs_as_long_as_the_bucket_are_cut() -> None:
    """Along the axis that is of any length."""
    array = np.arange(16).reshape(2, 4, 2)
    assert cut(array, TensorSpec("Y", FP32, (-1, 2)), 3, 4).tolist() == array[:, :3].tolist()


@pytest.mark.parametrize(
    ("shape", "array"),
    [((-1,), (2, 3)), ((4,), (2, 4)), ((-1, -1), (2, 4, 4))],
    ids=["another length", "a fixed length", "two axes"],
)
def test_other_outputs_are_left_alone(shape: tuple[int, ...], array: tuple[int, ...]) -> None:
    """What is no sequence of the request's length is what it is."""
    y = np.zeros(array)
    assert cut(y, TensorSpec("Y", FP32, shape), 1, 4) is y


# ── the length of a request ───────────────────────────────────────────────────────────────────────


def test_the_axis_that_is_meant() -> None:
    """There may be only one."""
    assert length_axis((2, -1)) == 1
    assert length_axis((-1, 3)) == 0
    assert length_axis((2,)) is None
    assert length_axis((-1, -1)) is None


def test_the_key_leaves_the_length_open() -> None:
    """So requests of different lengths may meet; those whose other axes differ may not."""
    assert without_length(TensorSpec("X", FP32, (2, -1)), (2, 7)) == (2, -1)
    assert without_length(TensorSpec("X", FP32, (2, 3)), (2, 3)) == (2, 3)


def test_a_request_has_one_length() -> None:
    """Its inputs agree; those of a fixed length have no say."""
    spec = spec_of(TOKENS, MASK, TensorSpec("KIND", INT32, (1,)))
    assert request_length(spec.inputs, [(5,), (5,), (1,)], spec) == 5
    with pytest.raises(InvalidRequest, match=r"the inputs of model 'm' must have one length, not 3, 5$"):
        request_length(spec.inputs, [(5,), (3,), (1,)], spec)
    with pytest.raises(InvalidRequest, match=r"must have one length, not none$"):
        request_length(spec.inputs[2:], [(1,)], spec)

"""The best classes of an output, held against a reference that sorts them one by one."""

import math
from functools import cmp_to_key

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from penstock_server.service.classification import classify
from penstock_server.tensors.codec import Array
from tests.server.service.fakes import tensor

NUMBERS = ["INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "FP32", "FP64"]


def reference(row: list[float], count: int, labels: tuple[str, ...]) -> list[bytes]:
    """Compare every two: the larger value first, what is no number last, of equals the lower index."""

    def compare(one: int, other: int) -> int:
        a, b = row[one], row[other]
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) - math.isnan(b) or one - other
        return -1 if a > b else 1 if a < b else one - other

    texts: list[bytes] = []
    for index in sorted(range(len(row)), key=cmp_to_key(compare))[:count]:
        value = row[index]
        text = f"{value:f}" if isinstance(value, float) else str(value)
        label = labels[index] if index < len(labels) else ""
        texts.append(":".join([text, str(index), *([label] if label else [])]).encode())
    return texts


@st.composite
def outputs(draw: st.DrawFn) -> Array:
    """[rows, ...] of any number type, with many equal values and the extremes."""
    dtype = np.dtype(draw(st.sampled_from(NUMBERS)).replace("FP", "float").lower())
    shape = draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5))
    if dtype.kind == "f":
        few = st.sampled_from([0.0, -0.0, 1.0, 0.5, -2.25, math.inf, -math.inf, math.nan])
    else:
        limits = np.iinfo(dtype)
        few = st.sampled_from([0, 1, 2, int(limits.max), int(limits.min)])
    return draw(npst.arrays(dtype, shape, elements=few))


labels_given = st.sampled_from([(), ("a",), ("a", "", "c"), ("ä", "b", "c", "d", "e", "f")])


@given(outputs(), st.integers(1, 7), labels_given)
def test_the_best_of_each_row(array: Array, count: int, labels: tuple[str, ...]) -> None:
    """Rows are ranked by themselves, all their elements taken together whatever their axes."""
    spec = tensor("Y", "FP32", -1, labels=labels)
    got = classify(array, count, spec, batched=True)
    rows = [row.reshape(-1).tolist() for row in array]
    assert got.tolist() == [reference(row, count, labels) for row in rows]
    assert got.shape == (len(rows), min(count, len(rows[0])))


@given(outputs(), st.integers(1, 7), labels_given)
def test_the_best_of_all_without_a_batch_axis(array: Array, count: int, labels: tuple[str, ...]) -> None:
    """The whole output is one row, and its answer has no axis for rows."""
    got = classify(array, count, tensor("Y", "FP32", -1, labels=labels), batched=False)
    assert got.tolist() == reference(array.reshape(-1).tolist(), count, labels)
    assert got.ndim == 1


@pytest.mark.parametrize("shape", [(2, 0), (3, 0, 4)])
def test_rows_without_elements_have_no_classes(shape: tuple[int, ...]) -> None:
    """An answer, if an empty one."""
    got = classify(np.zeros(shape, np.float32), 3, tensor("Y", "FP32", -1), batched=True)
    assert got.shape == (shape[0], 0)


def test_more_classes_than_anyone_has() -> None:
    """The number is the client's and may be any."""
    got = classify(np.array([[1, 2]], np.int32), (1 << 63) - 1, tensor("Y", "INT32", 2), batched=True)
    assert got.tolist() == [[b"2:1", b"1:0"]]

"""A batch's arrays into each request's outputs."""

from collections.abc import Sequence

import numpy as np
import pytest

from penstock_proto.datatypes import DATATYPES
from penstock_server.engine.assembly import BadOutput, check_outputs, join, scatter
from penstock_server.engine.jobs import Job
from penstock_server.models.spec import ModelSpec, Reshape
from penstock_server.tensors.codec import Array, object_array
from penstock_server.tensors.spec import TensorSpec
from tests.server.engine.batches import ticket

FP32, BYTES = DATATYPES["FP32"], DATATYPES["BYTES"]


def job(rows: int, outputs: Sequence[int] = (0,)) -> Job:
    return ticket(spec_of(), rows, outputs=outputs)


def spec_of(*outputs: TensorSpec, max_batch_size: int = 8, **reshapes: Reshape) -> ModelSpec:
    return ModelSpec("m", max_batch_size, (), outputs, 0, output_reshapes=reshapes)


def test_each_request_gets_its_rows_as_views() -> None:
    """And only the outputs that it asks for, in the model's order."""
    checked: dict[int, Array] = {0: np.arange(8.0).reshape(4, 2), 2: np.arange(4)}
    jobs = [job(1, [0, 2]), job(2, [2]), job(1, [0])]
    first, second, third = (
        scatter(checked, each, start, end, batched=True)
        for each, start, end in zip(jobs, (0, 1, 3), (1, 3, 4), strict=True)
    )
    assert [array.tolist() for array in first] == [[[0, 1]], [0]]
    assert [array.tolist() for array in second] == [[1, 2]]
    assert [array.tolist() for array in third] == [[[6, 7]]]
    assert np.shares_memory(first[0], checked[0])


def test_without_a_batch_axis_the_output_is_the_answer() -> None:
    """All of it is the one request's."""
    checked: dict[int, Array] = {0: np.arange(3)}
    (whole,) = scatter(checked, job(1), 0, 1, batched=False)
    assert whole is checked[0]


def test_outputs_are_held_against_the_config() -> None:
    """Axes of any length may have any, the others their own; what nobody asks for is not looked at."""
    spec = spec_of(TensorSpec("Y", FP32, (-1, 2)), TensorSpec("Z", FP32, (1,)))
    y = np.zeros((3, 5, 2), np.float32)
    assert check_outputs({"Y": y, "Z": np.zeros(0)}, [0], spec, 3) == {0: y}


def test_text_outputs_may_be_numpys_own_strings() -> None:
    """Python models make them without thinking of it."""
    spec = spec_of(TensorSpec("Y", BYTES, (1,)))
    for array in (np.array([["a"], ["b"]]), np.array([[b"a"], [b"b"]]), object_array([b"a", b"b"], (2, 1))):
        assert check_outputs({"Y": array}, [0], spec, 2)[0] is array
    with pytest.raises(BadOutput, match="numpy type float32"):
        check_outputs({"Y": np.zeros((2, 1), np.float32)}, [0], spec, 2)


def test_text_is_no_output_of_another_datatype() -> None:
    """Objects only stand for BYTES."""
    for array in (np.array([["1"]]), np.array([[1.0]], object)):
        with pytest.raises(BadOutput, match="numpy type"):
            check_outputs({"Y": array}, [0], spec_of(TensorSpec("Y", FP32, (1,))), 1)


@pytest.mark.parametrize("name", sorted(set(DATATYPES) - {"BYTES"}))
def test_the_outputs_numpy_type_is_the_datatypes(name: str) -> None:
    """Exactly: what would be converted silently might be a mistake."""
    spec = spec_of(TensorSpec("Y", DATATYPES[name], (1,)))
    for other in DATATYPES.values():
        array = np.zeros((1, 1), other.numpy)
        if other.numpy == DATATYPES[name].numpy:
            assert check_outputs({"Y": array}, [0], spec, 1)
        else:
            with pytest.raises(BadOutput, match="numpy type"):
                check_outputs({"Y": array}, [0], spec, 1)


@pytest.mark.parametrize(("max_batch_size", "rows"), [(8, 2), (0, 1)])
def test_outputs_are_reshaped_for_clients(max_batch_size: int, rows: int) -> None:
    """The model's shape is checked, the client's is sent."""
    reshape = Reshape(client=(1, -1), model=(-1,))
    spec = spec_of(TensorSpec("Y", FP32, (1, -1)), max_batch_size=max_batch_size, Y=reshape)
    batch = (rows,) if max_batch_size else ()
    y = np.zeros((*batch, 3), np.float32)
    assert check_outputs({"Y": y}, [0], spec, rows)[0].shape == (*batch, 1, 3)
    with pytest.raises(BadOutput, match=r"not \[-1\]"):
        check_outputs({"Y": np.zeros((*batch, 1, 3), np.float32)}, [0], spec, rows)


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (None, "the model returned None, not a dict of arrays by the outputs' names"),
        ([np.zeros((2, 1), np.float32)], "the model returned a list, not a dict of arrays by the outputs' names"),
        ({"Y": [[1.0], [2.0]]}, "output 'Y' is a list, not a numpy array"),
        ({"Y": None}, "output 'Y' is missing"),
    ],
)
def test_what_is_no_array_is_told_in_a_sentence(outputs: object, told: str) -> None:
    """Whoever writes a model sees what it returned, and not where we stumbled over it."""
    with pytest.raises(BadOutput) as caught:
        check_outputs(outputs, [0], spec_of(TensorSpec("Y", FP32, (1,))), 2)
    assert str(caught.value) == told


def test_a_number_of_numpys_is_an_array_without_axes() -> None:
    """Numpy makes one of whatever it computes of arrays without axes."""
    spec = spec_of(TensorSpec("Y", FP32, (1,)), max_batch_size=0, Y=Reshape(client=(1,), model=()))
    assert check_outputs({"Y": np.float32(3)}, [0], spec, 1)[0].tolist() == [3]


def test_a_scalar_output_is_reshaped_for_clients() -> None:
    """Who know no tensors without axes."""
    spec = spec_of(TensorSpec("Y", FP32, (1,)), max_batch_size=0, Y=Reshape(client=(1,), model=()))
    assert check_outputs({"Y": np.zeros((), np.float32)}, [0], spec, 1)[0].shape == (1,)


def test_the_parts_of_an_oversize_request_are_joined_by_row() -> None:
    """In whatever order they end; nothing until all are there."""
    y, text = np.arange(6).reshape(3, 2), object_array([b"a", b"bb", b""], (3, 1))
    pieces = [(2, [y[2:], text[2:]]), (0, [y[:1], text[:1]])]
    assert join(pieces, 3) is None
    pieces.append((1, [y[1:2], text[1:2]]))
    whole = join(pieces, 3)
    assert whole is not None
    assert [array.tolist() for array in whole] == [y.tolist(), text.tolist()]

"""Requests' bytes into a batch's arrays, and a batch's arrays into each request's outputs."""

import time
from collections.abc import Sequence
from math import inf

import numpy as np
import pytest

from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES
from penstock_server.backends.base import RequestInfo
from penstock_server.engine.assembly import BadOutput, check_outputs, gather, scatter
from penstock_server.engine.jobs import Job, Plan
from penstock_server.models.spec import ModelSpec, Reshape
from penstock_server.tensors.codec import Array, object_array
from penstock_server.tensors.spec import TensorSpec

FP32, BYTES, BOOL = DATATYPES["FP32"], DATATYPES["BYTES"], DATATYPES["BOOL"]
NO_VERSION: None = None


def plan(rows: int, *inputs: tuple[TensorSpec, tuple[int, ...]], outputs: Sequence[int] = (0,)) -> Plan:
    """A plan for inputs that are given with the shapes in which the model takes them."""
    specs, shapes = tuple(spec for spec, _ in inputs), tuple(shape for _, shape in inputs)
    version = NO_VERSION  # which assembly does not look at
    return Plan(version, rows, specs, shapes, tuple(outputs), (0,) * len(outputs), shapes)  # type: ignore[arg-type]


def job(its_plan: Plan, *tensors: bytes) -> Job:
    return Job(its_plan, tensors, RequestInfo(its_plan.rows), time.monotonic(), inf, None)


def fp32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


X, TEXT = TensorSpec("X", FP32, (-1,)), TensorSpec("TEXT", BYTES, (1,))


def test_requests_are_joined_row_by_row() -> None:
    """In their order, each with as many rows as it has."""
    jobs = [job(plan(1, (X, (2,))), fp32(1, 2)), job(plan(2, (X, (2,))), fp32(3, 4, 5, 6))]
    batch = gather(jobs, 3, batched=True)
    assert batch["X"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert batch["X"].dtype == "<f4"


def test_bytes_tensors_are_joined_as_they_travel() -> None:
    """Each element carries its length, so no element has to be looked at to join them."""
    jobs = [
        job(plan(1, (TEXT, (1,))), byte_tensors.pack([b"first"])),
        job(plan(2, (TEXT, (1,))), byte_tensors.pack([b"", b"a\0b"])),
    ]
    assert gather(jobs, 3, batched=True)["TEXT"].tolist() == [[b"first"], [b""], [b"a\0b"]]


def test_inputs_do_not_get_mixed_up() -> None:
    """Each tensor's bytes are found by the plan's order."""
    plans = [plan(1, (TEXT, (1,)), (X, (1,))) for _ in range(2)]
    jobs = [
        job(each, byte_tensors.pack([name]), fp32(number))
        for each, name, number in zip(plans, (b"a", b"b"), (1, 2), strict=True)
    ]
    batch = gather(jobs, 2, batched=True)
    assert list(batch) == ["TEXT", "X"]
    assert batch["TEXT"].tolist() == [[b"a"], [b"b"]]
    assert batch["X"].tolist() == [[1], [2]]


def test_a_model_without_a_batch_axis_gets_the_shape_it_was_sent() -> None:
    """No axis in front."""
    assert gather([job(plan(1, (X, (2,))), fp32(1, 2))], 1, batched=False)["X"].tolist() == [1, 2]
    assert gather([job(plan(1, (X, ())), fp32(1))], 1, batched=False)["X"].shape == ()


def test_axes_without_elements() -> None:
    """A batch of nothing has its rows all the same."""
    jobs = [job(plan(1, (X, (0,))), b""), job(plan(2, (X, (0,))), b"")]
    assert gather(jobs, 3, batched=True)["X"].shape == (3, 0)


def test_inputs_cannot_be_written() -> None:
    """Joined or not: a model sees the same kind of array, however many requests its batch has."""
    for count in (1, 2):
        jobs = [job(plan(1, (X, (1,))), fp32(1)) for _ in range(count)]
        assert not gather(jobs, count, batched=True)["X"].flags.writeable


# ── outputs ───────────────────────────────────────────────────────────────────────────────────────


def spec_of(*outputs: TensorSpec, max_batch_size: int = 8, **reshapes: Reshape) -> ModelSpec:
    return ModelSpec("m", max_batch_size, (), outputs, 0, output_reshapes=reshapes)


def test_each_request_gets_its_rows_as_views() -> None:
    """And only the outputs that it asks for, in the model's order."""
    checked: dict[int, Array] = {0: np.arange(8.0).reshape(4, 2), 2: np.arange(4)}
    jobs = [job(plan(1, outputs=[0, 2])), job(plan(2, outputs=[2])), job(plan(1, outputs=[0]))]
    first, second, third = (
        scatter(checked, each, start, batched=True) for each, start in zip(jobs, (0, 1, 3), strict=True)
    )
    assert [array.tolist() for array in first] == [[[0, 1]], [0]]
    assert [array.tolist() for array in second] == [[1, 2]]
    assert [array.tolist() for array in third] == [[[6, 7]]]
    assert np.shares_memory(first[0], checked[0])


def test_without_a_batch_axis_the_output_is_the_answer() -> None:
    """All of it is the one request's."""
    checked: dict[int, Array] = {0: np.arange(3)}
    (whole,) = scatter(checked, job(plan(1)), 0, batched=False)
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


def test_a_scalar_output_is_reshaped_for_clients() -> None:
    """Who know no tensors without axes."""
    spec = spec_of(TensorSpec("Y", FP32, (1,)), max_batch_size=0, Y=Reshape(client=(1,), model=()))
    assert check_outputs({"Y": np.zeros((), np.float32)}, [0], spec, 1)[0].shape == (1,)

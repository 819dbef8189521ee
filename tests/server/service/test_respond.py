"""Responses in pieces: joined they are what protobuf would have written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from penstock_proto.datatypes import DATATYPES
from penstock_proto.open_inference_pb2 import ModelInferResponse
from penstock_server.engine.jobs import Plan
from penstock_server.errors import InvalidRequest
from penstock_server.models.spec import ModelSpec
from penstock_server.service.respond import build_response, respond
from penstock_server.tensors.codec import Array, raw_of
from tests.server.service.fakes import models_of, spec, tensor

UNLIMITED = 1 << 40


def plan_for(its_spec: ModelSpec, rows: int = 1, classes: dict[int, int] | None = None) -> Plan:
    """All outputs are asked for."""
    version = models_of(its_spec).find(its_spec.name)
    count = len(its_spec.outputs)
    return Plan(
        version, rows, (), (), tuple(range(count)), tuple((classes or {}).get(i, 0) for i in range(count)), None
    )


@st.composite
def answers(draw: st.DrawFn) -> tuple[ModelSpec, list[Array]]:
    """A model and its outputs, of any datatypes and shapes, some larger than a one-byte length tells."""
    outputs, arrays = [], list[Array]()
    for index in range(draw(st.integers(0, 3))):
        datatype = DATATYPES[draw(st.sampled_from(list(DATATYPES)))]
        shape = draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6))
        if datatype.itemsize:
            bits = draw(st.integers(0, 1))
            array: Array = np.full(shape, bits, datatype.numpy)
        else:
            array = draw(npst.arrays(object, shape, elements=st.binary(max_size=3) | st.text(max_size=3)))
        arrays.append(array.T if draw(st.booleans()) else array)
        outputs.append(tensor(f"output{index}", datatype.name, *[-1] * len(shape)))
    return spec(draw(st.sampled_from(["m", "ä" * 100])), [], outputs), arrays


@given(answers(), st.sampled_from(["", "7", "ä" * 128]))
def test_the_pieces_are_the_message_that_protobuf_writes(answer: tuple[ModelSpec, list[Array]], its_id: str) -> None:
    """Byte by byte, with the raw contents that protobuf never sees here."""
    its_spec, arrays = answer
    plan = plan_for(its_spec)
    expected = ModelInferResponse(model_name=its_spec.name, model_version="1", id=its_id)
    for each, array in zip(its_spec.outputs, arrays, strict=True):
        expected.outputs.add(name=each.name, datatype=each.datatype.name, shape=array.shape)
        expected.raw_output_contents.append(bytes(raw_of(array, each.datatype)))
    assert b"".join(respond(plan, its_id, arrays, UNLIMITED)) == expected.SerializeToString()


def test_every_output_has_its_raw_contents() -> None:
    """An empty entry for one without elements: clients count them."""
    plan = plan_for(spec("m", [], [tensor("A", "FP32", -1), tensor("B", "BYTES", -1), tensor("C", "INT8", 1)]))
    outputs: list[Array] = [np.zeros(0, np.float32), np.zeros(0, object), np.ones(1, np.int8)]
    response = ModelInferResponse.FromString(b"".join(respond(plan, "", outputs, UNLIMITED)))
    assert list(response.raw_output_contents) == [b"", b"", b"\1"]
    assert [list(each.shape) for each in response.outputs] == [[0], [0], [1]]


def test_tensor_data_is_not_copied() -> None:
    """The piece is the array's memory."""
    array = np.arange(1000, dtype=np.float32)
    parts = respond(plan_for(spec("m", [], [tensor("A", "FP32", -1)])), "", [array], UNLIMITED)
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), array) for part in parts)


def test_classes_come_instead_of_the_output() -> None:
    """As BYTES, in the shape of the classes; the other outputs as they are."""
    its_spec = spec(
        "m", [], [tensor("A", "FP32", 3, labels=("x", "y", "z")), tensor("B", "INT32", 1)], max_batch_size=4
    )
    outputs: list[Array] = [np.array([[0, 2, 1], [5, 4, 3]], np.float32), np.array([[1], [2]], np.int32)]
    response, raw = build_response(plan_for(its_spec, rows=2, classes={0: 2}), "", outputs)
    assert [(each.name, each.datatype, list(each.shape)) for each in response.outputs] == [
        ("A", "BYTES", [2, 2]), ("B", "INT32", [2, 1]),
    ]  # fmt: skip
    assert b"2.000000:1:y" in bytes(raw[0])
    assert bytes(raw[1]) == outputs[1].tobytes()


def test_a_response_may_be_as_large_as_a_message() -> None:
    """To the byte; more is refused in Triton's words."""
    plan = plan_for(spec("m", [], [tensor("A", "UINT8", -1)]))
    outputs: list[Array] = [np.zeros(1000, np.uint8)]
    size = len(b"".join(respond(plan, "7", outputs, UNLIMITED)))
    assert respond(plan, "7", outputs, size)
    with pytest.raises(InvalidRequest) as caught:
        respond(plan, "7", outputs, size - 1)
    assert caught.value.message == (f"Response has byte size {size} which exceeds gRPC's byte size limit {size - 1}.")

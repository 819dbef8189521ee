"""Requests and answers as bytes, against protobuf's own serialisation and Triton's own client."""

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from penstock_client import InferenceError, InferResult, InputError, Tensor, calls
from penstock_client.codec import Parameter, infer_request, infer_result, parameter
from penstock_client.tensors import TensorLike
from penstock_proto import health_pb2
from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES

triton_pb: Any = service_pb2  # made while it is imported, which no type checker sees
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, NDArray[Any]]:
    """A datatype and an array that holds it, as users hold it: BF16 as float32, BYTES as objects."""
    datatype = DATATYPES[draw(st.sampled_from(sorted(DATATYPES)))]
    if datatype.name == "BYTES":
        return "BYTES", draw(arrays.arrays(object, shapes, elements=st.binary(max_size=9), fill=st.nothing()))
    if datatype.name == "BF16":
        bits = draw(arrays.arrays("<u2", shapes))
        return "BF16", (bits.astype("<u4") << np.uint32(16)).view("<f4")
    return datatype.name, draw(arrays.arrays(datatype.numpy, shapes))


def echoed(message: bytes) -> bytes:
    """The answer of a model whose outputs are its inputs."""
    request = pb.ModelInferRequest.FromString(message)
    response = pb.ModelInferResponse(
        model_name=request.model_name, model_version="1", id=request.id, raw_output_contents=request.raw_input_contents
    )
    for one in request.inputs:
        response.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
    return response.SerializeToString()


def answer(datatype: str, shape: list[int], raw: list[bytes]) -> InferResult:
    """What is made of an answer with one output."""
    output = pb.ModelInferResponse.InferOutputTensor(name="y", datatype=datatype, shape=shape)
    return infer_result(pb.ModelInferResponse(outputs=[output], raw_output_contents=raw).SerializeToString())


@given(st.lists(tensors(), max_size=4))
def test_every_tensor_survives(values: list[tuple[str, NDArray[Any]]]) -> None:
    """Any arrays of any datatypes come back with the same datatype, shape and elements."""
    inputs: dict[str, TensorLike] = {f"in{n}": Tensor(array, name) for n, (name, array) in enumerate(values)}
    result = infer_result(echoed(infer_request("m", inputs, None)))
    assert result.outputs == tuple(inputs)
    for (datatype, array), (name, decoded) in zip(values, result.items(), strict=True):
        assert result.datatypes[name] == datatype
        assert decoded.shape == array.shape
        if datatype == "BF16":
            np.testing.assert_array_equal(decoded, array)  # a NaN's payload may change
        else:
            assert decoded.dtype == array.dtype
            assert decoded.tolist() == array.tolist() or decoded.tobytes() == array.tobytes()


@given(st.lists(tensors(), max_size=4), st.text(max_size=5), st.text(max_size=5))
def test_requests_are_as_protobuf_writes_them(
    values: list[tuple[str, NDArray[Any]]], model: str, request_id: str
) -> None:
    """Writing the tensors behind the rest by hand gives what protobuf gives, byte for byte."""
    inputs: dict[str, TensorLike] = {f"in{n}": Tensor(array, name) for n, (name, array) in enumerate(values)}
    message = infer_request(model, inputs, None, outputs=["y"], request_id=request_id)
    assert pb.ModelInferRequest.FromString(message).SerializeToString() == message


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 3_000_000])
def test_lengths_of_all_sizes(size: int) -> None:
    """A tensor's length is written right, however many bytes the length takes."""
    message = infer_request("m", {"x": np.ones(size, np.uint8)}, None)
    assert [len(raw) for raw in pb.ModelInferRequest.FromString(message).raw_input_contents] == [size]


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.ones((2, 3), np.float32), "FP32"),
        (np.array([["a"], ["é"]], object), "BYTES"),
        (np.zeros((0, 4), "?"), "BOOL"),
    ],
)
def test_tritons_client_says_the_same(array: NDArray[Any], datatype: str) -> None:
    """Our request has the tensors of tritonclient's, and tritonclient reads our echo."""
    theirs = triton.InferInput("x", array.shape, datatype)
    theirs.set_data_from_numpy(array)
    request = triton_pb.ModelInferRequest.FromString(infer_request("m", {"x": array}, None))
    assert request.inputs[0] == theirs._get_tensor()
    assert request.raw_input_contents[0] == theirs._get_content()
    read: Any = triton.InferResult(triton_pb.ModelInferResponse.FromString(echoed(request.SerializeToString())))
    expected = np.char.encode(array.astype(str), "utf-8") if datatype == "BYTES" else array
    assert read.as_numpy("x").tolist() == expected.tolist()


class TestResults:
    def test_arrays_are_views_of_the_answer(self) -> None:
        """Nothing is copied, so nothing can be changed."""
        array = answer("FP32", [2], [b"\0" * 8])["y"]
        assert not array.flags.writeable
        assert not array.flags.owndata

    def test_is_a_mapping(self) -> None:
        """Names, length, iteration and a missing name behave as in any mapping, with a helpful error."""
        result = answer("INT8", [1], [b"\7"])
        assert (list(result), len(result), "y" in result, result.get("z")) == (["y"], 1, True, None)
        with pytest.raises(KeyError, match="no output 'z'; there are y"):
            result["z"]
        assert result != answer("INT8", [1], [b"\7"])
        assert len({result, result}) == 1
        assert repr(result) == "<InferResult of  : y: INT8 [1]>"

    def test_text(self) -> None:
        """BYTES outputs can be had as text, of the same shape."""
        result = answer("BYTES", [1, 2], [b"\2\0\0\0\xc3\xa9\0\0\0\0"])
        assert result["y"].tolist() == [["é".encode(), b""]]
        assert result.text("y").tolist() == [["é", ""]]

    def test_parameters(self) -> None:
        """All kinds of parameters become Python values; one without a value is left out."""
        kinds: dict[str, Parameter] = {"b": True, "i": -1, "u": 2**63, "d": 0.5, "s": "x"}
        parameters = {name: parameter(name, value) for name, value in kinds.items()}
        response = pb.ModelInferResponse(parameters={**parameters, "none": pb.InferParameter()})
        assert infer_result(response.SerializeToString()).parameters == kinds

    @pytest.mark.parametrize(
        ("datatype", "contents", "values"),
        [
            ("FP32", pb.InferTensorContents(fp32_contents=[1.5, 2]), [1.5, 2.0]),
            ("INT8", pb.InferTensorContents(int_contents=[-1, 2]), [-1, 2]),
            ("UINT64", pb.InferTensorContents(uint64_contents=[2**63, 2]), [2**63, 2]),
            ("BOOL", pb.InferTensorContents(bool_contents=[True, False]), [True, False]),
            ("BYTES", pb.InferTensorContents(bytes_contents=[b"a", b"\0"]), [b"a", b"\0"]),
        ],
    )
    def test_typed_contents(self, datatype: str, contents: pb.InferTensorContents, values: list[object]) -> None:
        """Servers that answer with typed contents instead of raw ones are understood."""
        output = pb.ModelInferResponse.InferOutputTensor(name="y", datatype=datatype, shape=[2], contents=contents)
        result = infer_result(pb.ModelInferResponse(outputs=[output]).SerializeToString())
        assert result["y"].tolist() == values
        assert result["y"].dtype == np.dtype(DATATYPES[datatype].numpy)

    def test_typed_contents_that_do_not_fit(self) -> None:
        """A shape with -1 is not taken for "whatever fits" there either."""
        contents = pb.InferTensorContents(fp32_contents=[1.5, 2])
        output = pb.ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=[-1], contents=contents)
        with pytest.raises(InferenceError, match="output 'y': a negative dimension"):
            infer_result(pb.ModelInferResponse(outputs=[output]).SerializeToString())

    @pytest.mark.parametrize(
        ("datatype", "shape", "raw", "complaint"),
        [
            ("FP32", [2], [b"\0" * 7], "7 bytes, where 2 elements of FP32"),
            ("FP32", [-1], [b"\0" * 8], "negative dimension"),
            ("BYTES", [2], [b"\1\0\0\0a"], "1 elements, where 2"),
            ("BYTES", [1], [b"\2\0\0\0a"], "cut short"),
            ("BYTES", [-1], [b""], "negative dimension"),
            ("CUSTOM", [1], [b"\0"], "unknown datatype 'CUSTOM'"),
            ("FP32", [1], [b"\0" * 4, b""], "1 outputs with 2 raw contents"),
            ("FP32", [1], [], "array"),
            ("FP16", [1], [], "FP16 but not raw"),
            ("BYTES", [1], [], "0 elements, where 1"),
        ],
    )
    def test_answers_that_contradict_themselves(
        self, datatype: str, shape: list[int], raw: list[bytes], complaint: str
    ) -> None:
        """They are the server's error, INTERNAL, and say what is wrong."""
        with pytest.raises(InferenceError, match=f"^INTERNAL: the server's answer is malformed: .*{complaint}"):
            answer(datatype, shape, raw)


class TestRequests:
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (True, "bool_param"),
            (1, "int64_param"),
            (-(2**63), "int64_param"),
            (2**64 - 1, "uint64_param"),
            (1.0, "double_param"),
            ("1", "string_param"),
        ],
    )
    def test_kinds_of_parameters(self, value: Parameter, kind: str) -> None:
        """Each Python type has its kind; large integers are unsigned ones."""
        one = parameter("p", value)
        assert one.WhichOneof("parameter_choice") == kind
        assert getattr(one, kind) == value

    @pytest.mark.parametrize("value", [2**64, -(2**63) - 1, None, [1]])
    def test_parameters_that_the_protocol_lacks(self, value: Any) -> None:
        """They are refused by name before anything is sent."""
        with pytest.raises(InputError, match="parameter 'p' is no "):
            infer_request("m", {}, None, parameters={"p": value})

    def test_plain_values_take_the_models_datatype(self) -> None:
        """Arrays beside them are not touched, also where the model expects another datatype."""
        known = {"x": DATATYPES["FP16"], "y": DATATYPES["FP16"]}
        request = pb.ModelInferRequest.FromString(infer_request("m", {"x": [1.5], "y": np.array([1.5])}, known))
        assert [one.datatype for one in request.inputs] == ["FP16", "FP64"]


class TestCalls:
    def test_every_path_is_a_method_of_the_protocol(self) -> None:
        """The paths are written by hand; the protocol's descriptors know them, with these messages."""
        table: list[calls.Call[Any]] = [
            calls.server_live(),
            calls.server_ready(),
            calls.model_ready("m", ""),
            calls.server_metadata(),
            calls.model_metadata("m", ""),
            calls.model_config("m", ""),
            calls.statistics("m", ""),
            calls.repository_index(True),
            calls.health("s"),
        ]
        services = {**pb.DESCRIPTOR.services_by_name, **health_pb2.DESCRIPTOR.services_by_name}
        known = {f"/{service.full_name}/{method.name}" for service in services.values() for method in service.methods}
        assert {call.path for call in table} <= known

    def test_bytes_that_are_no_message(self) -> None:
        """gRPC carries bytes only, so it is we who say that an answer is none."""
        with pytest.raises(InferenceError, match="INTERNAL: the server's answer is malformed: it is no ServerLive"):
            calls.server_live().read(b"\xff")
        with pytest.raises(InferenceError, match="it is no ModelInferResponse"):
            infer_result(b"\xff")

    def test_a_model_with_a_datatype_of_its_own(self) -> None:
        """Metadata that names an unknown datatype is the server's error."""
        tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FLOAT")
        metadata = pb.ModelMetadataResponse(name="m", inputs=[tensor])
        with pytest.raises(InferenceError, match="model 'm' has an input of the unknown datatype 'FLOAT'"):
            calls.signature("m", "").read(metadata.SerializeToString())

    def test_an_unknown_health(self) -> None:
        """A status that a later protocol adds is UNKNOWN, not an error."""
        assert calls.health("").read(b"\x08\x09") is calls.Health.UNKNOWN

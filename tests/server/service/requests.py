"""Inference requests as hypothesis makes them, and the fields that they are made of."""

from hypothesis import strategies as st

from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES

names = st.sampled_from(["", "X", "Y", "input", "ä", "x" * 200])
numbers = st.integers(-(1 << 63), (1 << 63) - 1)


@st.composite
def parameters(draw: st.DrawFn) -> pb.InferParameter:
    """A parameter of any kind, or of none."""
    parameter = pb.InferParameter()
    match draw(st.integers(0, 5)):
        case 0:
            parameter.bool_param = draw(st.booleans())
        case 1:
            parameter.int64_param = draw(numbers)
        case 2:
            parameter.string_param = draw(st.text(max_size=5))
        case 3:
            parameter.double_param = draw(st.floats())
        case 4:
            parameter.uint64_param = draw(st.integers(0, (1 << 64) - 1))
    return parameter


@st.composite
def contents(draw: st.DrawFn) -> pb.InferTensorContents:
    """Typed contents, mostly in one array."""
    made = pb.InferTensorContents()
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        match draw(st.integers(0, 4)):
            case 0:
                made.bool_contents.extend(draw(st.lists(st.booleans(), max_size=4)))
            case 1:
                made.int_contents.extend(draw(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=4)))
            case 2:
                made.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=4)))
            case 3:
                made.bytes_contents.extend(draw(st.lists(st.binary(max_size=4), max_size=4)))
            case 4:
                made.uint64_contents.extend(draw(st.lists(st.integers(0, (1 << 64) - 1), max_size=4)))
    return made


@st.composite
def inputs(draw: st.DrawFn) -> pb.ModelInferRequest.InferInputTensor:
    tensor = pb.ModelInferRequest.InferInputTensor(
        name=draw(names),
        datatype=draw(st.sampled_from([*DATATYPES, "", "FP99"])),
        shape=draw(st.lists(st.sampled_from([-1, 0, 1, 2, 4, 1 << 40]), max_size=4)),
    )
    for key in draw(st.lists(names, max_size=2)):
        tensor.parameters[key].CopyFrom(draw(parameters()))
    if draw(st.booleans()):
        tensor.contents.CopyFrom(draw(contents()))
    return tensor


@st.composite
def outputs(draw: st.DrawFn) -> pb.ModelInferRequest.InferRequestedOutputTensor:
    tensor = pb.ModelInferRequest.InferRequestedOutputTensor(name=draw(names))
    if draw(st.booleans()):
        tensor.parameters[draw(names)].CopyFrom(draw(parameters()))
    return tensor


@st.composite
def request_fields(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """The fields of a request, each with its number: any, none, or several of each."""
    fields = [(number, draw(names).encode()) for number in (1, 2, 3) if draw(st.booleans())]
    for key in draw(st.lists(names, max_size=3)):
        entry = pb.ModelInferRequest(parameters={key: draw(parameters())}).SerializeToString()
        fields.append((4, entry[2:] if len(entry) < 130 else entry[3:]))
    fields += [(5, tensor.SerializeToString()) for tensor in draw(st.lists(inputs(), max_size=3))]
    fields += [(6, tensor.SerializeToString()) for tensor in draw(st.lists(outputs(), max_size=3))]
    fields += [(7, data) for data in draw(st.lists(st.binary(max_size=20), max_size=3))]
    return fields

"""From bytes to a checked request: what comes out fits the model, and what does not is refused in bounded words.

The texts themselves are held in tests/golden.
"""

import struct
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_proto import byte_tensors
from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES
from penstock_scheduler import Batch, FireReason
from penstock_server.engine.jobs import Job
from penstock_server.engine.slots import Slot
from penstock_server.errors import Failure, InvalidRequest, NotFound, PenstockError, Unsupported
from penstock_server.models.spec import Reshape
from penstock_server.service.decode import Decoder, InferRequest, MalformedRequest
from penstock_server.service.dialect import PENSTOCK, TRITON, Dialect
from penstock_server.status import Status
from tests.server.service.fakes import models_of, spec, tensor
from tests.server.service.requests import parameters, request_fields
from tests.server.service.wire import encodings

Input = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor

MIXED = spec(
    "mixed",
    [
        tensor("X", "FP32", -1, 2),
        tensor("TEXT", "BYTES", -1),
        tensor("FLAG", "BOOL", 1, optional=True),
        tensor("OTHER", "BOOL", 1, optional=True),
        tensor("N", "INT64", -1, -1, optional=True),
    ],
    [tensor("Y", "FP32", -1), tensor("Z", "BYTES", 1), tensor("W", "INT64", 2)],
    max_batch_size=4,
)
FIXED = spec(
    "fixed",
    [tensor("X", "FP32", 1), tensor("M", "INT16", -1, -1, -1)],
    [tensor("Y", "FP32", 1)],
    input_reshapes={"X": Reshape(client=(1,), model=())},
)
FREE = spec("free", [tensor("A", "INT8", -1, optional=True)], [tensor("B", "INT8", -1)], max_batch_size=2)
DECOUPLED = spec("decoupled", [], [tensor("Y", "FP32", 1)], decoupled=True)
MODELS = models_of(MIXED, FIXED, FREE, DECOUPLED)

both_dialects = pytest.mark.parametrize("dialect", [PENSTOCK, TRITON], ids=lambda dialect: dialect.server_name)


def decode(request: pb.ModelInferRequest | bytes, dialect: Dialect = PENSTOCK) -> InferRequest:
    message = request if isinstance(request, bytes) else request.SerializeToString()
    return Decoder(MODELS, dialect).decode(message)


def mixed(**inputs: tuple[str, list[int], bytes]) -> pb.ModelInferRequest:
    """A request to `mixed`: datatype, shape and raw contents by input."""
    request = pb.ModelInferRequest(model_name="mixed", id="7")
    for name, (datatype, shape, raw) in inputs.items():
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request


TWO_ROWS = {
    "X": ("FP32", [2, 1, 2], struct.pack("<4f", 1, 2, 3, 4)),
    "TEXT": ("BYTES", [2, 1], byte_tensors.pack([b"a", b""])),
}


# ── what comes out ────────────────────────────────────────────────────────────────────────────────


def test_a_plan_says_all_but_the_data() -> None:
    """Rows, inputs in the model's order, their shapes without the batch axis, and every output if none is named."""
    backwards = mixed(**dict(reversed(TWO_ROWS.items())))
    for request in (mixed(**TWO_ROWS), backwards):
        decoded = decode(request)
        plan = decoded.plan
        assert (plan.version.spec.name, plan.rows) == ("mixed", 2)
        assert [each.name for each in plan.inputs] == ["X", "TEXT"]
        assert plan.shapes == ((1, 2), (1,))
        assert (plan.outputs, plan.classes) == ((0, 1, 2), (0, 0, 0))
        assert [bytes(data) for data in decoded.tensors] == [TWO_ROWS["X"][2], TWO_ROWS["TEXT"][2]]
        assert (decoded.id, decoded.info.rows, decoded.info.outputs) == ("7", 2, ("Y", "Z", "W"))


def test_raw_contents_stay_views_of_the_message() -> None:
    """Tensor data is copied once, into its batch."""
    message = mixed(**TWO_ROWS).SerializeToString()
    for data in decode(message).tensors:
        assert isinstance(data, memoryview)
        assert data.obj is message


def test_outputs_are_asked_for_by_name() -> None:
    """In any order and twice: the plan has them once, in the model's order, with their classes."""
    request = mixed(**TWO_ROWS)
    request.outputs.add(name="W").parameters["classification"].int64_param = 2
    request.outputs.add(name="Y")
    request.outputs.add(name="W")
    decoded = decode(request)
    assert (decoded.plan.outputs, decoded.plan.classes) == ((0, 2), (0, 2))
    assert decoded.info.outputs == ("Y", "W")


def test_requests_share_a_batch_if_their_shapes_and_inputs_are_equal() -> None:
    """Rows and the order of the inputs do not matter; the shape of a row and the optional inputs do."""
    one_row = {
        "X": ("FP32", [1, 1, 2], bytes(8)),
        "TEXT": ("BYTES", [1, 1], byte_tensors.pack([b"long enough"])),
    }
    flag = {"FLAG": ("BOOL", [1, 1], b"\1")}
    other = {"OTHER": ("BOOL", [1, 1], b"\1")}
    n = {"N": ("INT64", [1, 1, 1], bytes(8))}
    longer = one_row | {"X": ("FP32", [1, 3, 2], bytes(24))}
    key = decode(mixed(**one_row)).plan.key
    assert decode(mixed(**TWO_ROWS)).plan.key == key
    assert decode(mixed(**dict(reversed(one_row.items())))).plan.key == key
    different = (longer, one_row | flag, one_row | other, one_row | n, one_row | n | flag, one_row | n | flag | other)
    others = [decode(mixed(**each)).plan.key for each in different]
    assert len({key, *others}) == 7
    assert decode(mixed(**(flag | n | one_row))).plan.key == others[4]


def test_inputs_are_reshaped_for_the_model() -> None:
    """The client's shape is checked, the model's goes into the plan."""
    request = pb.ModelInferRequest(model_name="fixed")
    request.inputs.add(name="X", datatype="FP32", shape=[1])
    request.inputs.add(name="M", datatype="INT16", shape=[1, 2, 3])
    request.raw_input_contents.extend([bytes(4), bytes(12)])
    plan = decode(request).plan
    assert plan.shapes == ((), (1, 2, 3))
    assert plan.rows == 1


def test_parameters_reach_the_model() -> None:
    """Its own ones as a mapping, those of the protocol as fields."""
    request = mixed(**TWO_ROWS)
    request.parameters["mine"].string_param = "v"
    request.parameters["sequence_id"].int64_param = 5
    request.parameters["sequence_start"].bool_param = True
    request.parameters["timeout"].int64_param = 1500
    request.parameters["priority"].uint64_param = 2
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    decoded = decode(request)
    assert decoded.info.parameters == {"mine": "v"}
    assert (decoded.info.correlation_id, decoded.info.sequence_start, decoded.info.sequence_end) == (5, True, False)
    assert (decoded.info.timeout_us, decoded.parameters.priority) == (1500, 2)
    assert decoded.parameters.empty_final_response


def test_a_model_whose_inputs_are_all_optional() -> None:
    """Nothing given is one row of nothing."""
    plan = decode(pb.ModelInferRequest(model_name="free")).plan
    assert (plan.rows, plan.inputs, plan.shapes) == (1, (), ())


# ── any request at all ────────────────────────────────────────────────────────────────────────────


def check(decoded: InferRequest) -> None:
    """A request that was let in can be made into a batch, whatever it was."""
    plan = decoded.plan
    its_spec = plan.version.spec
    assert 1 <= plan.rows <= max(1, its_spec.max_batch_size)
    assert {each.name for each in its_spec.inputs if not each.optional} <= {each.name for each in plan.inputs}
    assert plan.outputs
    assert len(plan.outputs) == len(plan.classes)
    hash(plan.key)
    job = Job(plan, decoded.tensors, decoded.info, 0.0)
    batch = Batch(plan.key, plan.length, [job], job.rows, FireReason.IDLE)
    arrays = Slot(its_spec.batched).gather(batch)
    for each, shape, data in zip(plan.inputs, plan.shapes, decoded.tensors, strict=True):
        array = arrays[each.name]
        assert array.shape == ((plan.rows, *shape) if its_spec.max_batch_size else shape)
        assert array.dtype == each.datatype.numpy
        if each.datatype.itemsize:
            assert len(data) == each.datatype.itemsize * prod(shape) * plan.rows
        if each.datatype.name == "BOOL":
            assert np.frombuffer(data, np.uint8).max(initial=0) <= 1


def attempt(message: bytes, dialect: Dialect) -> InferRequest | None:
    """Decode: a request that fits, or an error that may be told to the client."""
    try:
        decoded = decode(message, dialect)
    except PenstockError as error:
        check_failure(error.failure(), dialect)
        return None
    check(decoded)
    return decoded


def check_failure(failure: Failure, dialect: Dialect) -> None:
    if failure != dialect.malformed:
        assert failure.status in (Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.UNIMPLEMENTED)
    assert len(failure.message) <= 10_000
    assert not failure.unforeseen


names = st.sampled_from(["X", "TEXT", "FLAG", "N", "M", "A", "Q"])
shapes = st.lists(st.sampled_from([-2, -1, 0, 1, 1, 2, 2, 3, 5, 1 << 20, 1 << 31, 1 << 33, -(1 << 33)]), max_size=5)
raws = st.sampled_from(
    [b"", bytes(4), bytes(8), bytes(16), b"\1", b"\1\1", b"\2", *map(bytes, (1, 2, 12, 24, 64))]
) | st.lists(st.binary(max_size=3), max_size=3).map(byte_tensors.pack)


def change_input(draw: st.DrawFn, request: pb.ModelInferRequest) -> None:
    """Change one of the inputs that are there, or what is sent for it."""
    index = draw(st.integers(0, len(request.inputs) - 1))
    changed = request.inputs[index]
    match draw(st.integers(0, 5)):
        case 0:
            del changed.shape[:]
            changed.shape.extend(draw(shapes))
        case 1:
            changed.name = draw(names)
        case 2:
            changed.datatype = draw(st.sampled_from([*DATATYPES, "X"]))
        case 3 if index < len(request.raw_input_contents):
            request.raw_input_contents[index] = draw(raws)
        case 4:
            del request.raw_input_contents[:]
            changed.contents.fp32_contents.extend([1.0] * draw(st.integers(0, 5)))
        case _:
            del request.inputs[index]


def change_rest(draw: st.DrawFn, request: pb.ModelInferRequest) -> None:
    """Change or add something else."""
    match draw(st.integers(0, 5)):
        case 0:
            request.model_name = draw(st.sampled_from(["mixed", "fixed", "free", "decoupled", "nobody"]))
        case 1:
            request.model_version = draw(st.sampled_from(["", "1", "2", "0", "-1", "x", "1" * 99]))
        case 2:
            request.inputs.add(name=draw(names), datatype=draw(st.sampled_from(list(DATATYPES))), shape=draw(shapes))
        case 3:
            request.raw_input_contents.append(draw(raws))
        case 4:
            output = request.outputs.add(name=draw(st.sampled_from(["Y", "Z", "W", "V"])))
            if draw(st.booleans()):
                output.parameters["classification"].CopyFrom(draw(parameters()))
        case _:
            key = draw(st.sampled_from(["priority", "timeout", "sequence_id", "k", "triton_x"]))
            request.parameters[key].CopyFrom(draw(parameters()))


@st.composite
def nearly_right(draw: st.DrawFn) -> bytes:
    """A request that is right but for some changes, which may cancel each other out."""
    request = mixed(**TWO_ROWS)
    for _ in range(draw(st.integers(0, 4))):
        if len(request.inputs) > 0 and draw(st.booleans()):
            change_input(draw, request)
        else:
            change_rest(draw, request)
    return request.SerializeToString()


@both_dialects
@given(nearly_right())
@settings(max_examples=300)
def test_requests_that_are_nearly_right(dialect: Dialect, message: bytes) -> None:
    """They fit and make a batch, or they are refused in words for the client; nothing else comes out."""
    attempt(message, dialect)


@both_dialects
@given(request_fields().flatmap(encodings))
def test_requests_of_any_kind(dialect: Dialect, message: bytes) -> None:
    """Likewise for what has little to do with any model."""
    attempt(message, dialect)


@both_dialects
@given(st.data())
def test_flipped_bytes(dialect: Dialect, data: st.DataObject) -> None:
    """Likewise for a good request with some bytes changed."""
    message = bytearray(mixed(**TWO_ROWS).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    attempt(bytes(message), dialect)


@both_dialects
@given(st.binary(max_size=40))
def test_noise(dialect: Dialect, message: bytes) -> None:
    """Likewise for any bytes."""
    attempt(message, dialect)


@both_dialects
def test_truncations(dialect: Dialect) -> None:
    """Likewise wherever a request is cut short: most of them are malformed, none is what it was."""
    message = mixed(**TWO_ROWS).SerializeToString()
    assert attempt(message, dialect) is not None
    assert [length for length in range(len(message)) if attempt(message[:length], dialect)] == []


def fixed(shape: list[int], data: bytes) -> pb.ModelInferRequest:
    """A request to `fixed` with this M."""
    request = pb.ModelInferRequest(model_name="fixed")
    request.inputs.add(name="X", datatype="FP32", shape=[1])
    request.inputs.add(name="M", datatype="INT16", shape=shape)
    request.raw_input_contents.extend([bytes(4), data])
    return request


@both_dialects
def test_axes_that_cannot_be(dialect: Dialect) -> None:
    """Their product may fit the data all the same: two negative ones make a positive, and a zero hides any."""
    assert attempt(fixed([1, (1 << 31) - 1, 0], b"").SerializeToString(), dialect) is not None
    for shape, data in (([1, -2, -2], bytes(8)), ([0, 1 << 31, 2], b""), ([0, -2, 2], b""), ([-1, -1, 1], bytes(2))):
        with pytest.raises(InvalidRequest, match=r"axis|dimensions"):
            decode(fixed(shape, data), dialect)


@both_dialects
def test_data_fits_its_shape_to_the_byte(dialect: Dialect) -> None:
    """Neither less nor more."""
    decode(fixed([1, 1, 2], bytes(4)), dialect)
    for size in (0, 2, 3, 5, 6, 8):
        with pytest.raises(InvalidRequest, match=f"Expected 4, got {size}"):
            decode(fixed([1, 1, 2], bytes(size)), dialect)


@both_dialects
def test_booleans_are_0_or_1(dialect: Dialect) -> None:
    """numpy would take any byte for a BOOL, and what comes of it differs from operator to operator."""
    for byte in (0, 1):
        decode(mixed(**TWO_ROWS, FLAG=("BOOL", [2, 1], bytes([1, byte]))), dialect)
    for byte in (2, 0x80, 0xFF):
        with pytest.raises(InvalidRequest, match="BOOL elements other than 0 and 1"):
            decode(mixed(**TWO_ROWS, FLAG=("BOOL", [2, 1], bytes([0, byte]))), dialect)


# ── words ─────────────────────────────────────────────────────────────────────────────────────────

LONG = "n" * 20_000


def long_requests() -> list[pb.ModelInferRequest]:
    """Each has something of the client's that is much too long, where it will be complained of."""
    model = pb.ModelInferRequest(model_name=LONG)
    version = pb.ModelInferRequest(model_name="mixed", model_version=LONG)
    request_id = mixed(X=("FP32", [1], b""))
    request_id.id = LONG
    unknown = mixed(**TWO_ROWS, **{LONG: ("FP32", [1], bytes(4))})
    del unknown.inputs[0], unknown.raw_input_contents[0]
    twice = mixed(**{LONG: ("FP32", [1], b"")})
    twice.inputs.add(name=LONG)
    twice.raw_input_contents.append(b"")
    no_data = mixed(**{LONG: ("FP32", [1], b"")})
    del no_data.raw_input_contents[:]
    two_forms = mixed(**{LONG: ("FP32", [1], b"")})
    two_forms.inputs[0].contents.fp32_contents.append(1)
    two_arrays = pb.ModelInferRequest(model_name="mixed")
    two_arrays.inputs.add(name=LONG, datatype="FP32").contents.fp32_contents.append(1)
    two_arrays.inputs[0].contents.fp64_contents.append(1)
    wrong_array = pb.ModelInferRequest(model_name="mixed")
    wrong_array.inputs.add(name=LONG, datatype=LONG).contents.fp64_contents.append(1)
    datatype = mixed(**TWO_ROWS | {"X": (LONG, [2, 1, 2], b"")})
    shape = mixed(**TWO_ROWS | {"X": ("FP32", [2] * 20_000, b"")})
    unknown_axis = mixed(**TWO_ROWS | {"X": ("FP32", [2, -1] + [2] * 20_000, b"")})
    output = mixed(**TWO_ROWS)
    output.outputs.add(name=LONG)
    key = mixed(**TWO_ROWS)
    key.parameters[LONG].uint64_param = 1
    sequence = mixed(**TWO_ROWS)
    sequence.parameters["sequence_id"].string_param = LONG
    return [
        model, version, request_id, unknown, twice, no_data, two_forms, two_arrays, wrong_array, datatype, shape,
        unknown_axis, output, key, sequence,
    ]  # fmt: skip


@both_dialects
@pytest.mark.parametrize("number", range(len(long_requests())))
def test_what_the_client_sent_is_not_sent_back_in_full(number: int, dialect: Dialect) -> None:
    """Names are cut at 128 characters and shapes at some axes, so that an error fits into a header."""
    request = long_requests()[number]
    with pytest.raises(PenstockError) as caught:
        decode(request, dialect)
    assert not isinstance(caught.value, MalformedRequest)
    assert len(caught.value.message) < 1000, caught.value.message[:2000]


def test_limits_of_a_request() -> None:
    """Those that are not counted before the parse, each at its edge."""
    edge = mixed(**TWO_ROWS)
    edge.id = "i" * 128
    edge.parameters["k" * 128].string_param = "v" * 4096
    decode(edge)
    for change, told in (
        ({"id": "i" * 129}, "the request's id has more than 128 characters"),
        ({"key": "k" * 129}, "a parameter's key has 129 characters, more than the limit of 128"),
        ({"value": "v" * 4097}, "the value of parameter 'k' has 4097 characters, more than the limit of 4096"),
    ):
        request = mixed(**TWO_ROWS)
        request.id = change.get("id", "")
        request.parameters[change.get("key", "k")].string_param = change.get("value", "")
        with pytest.raises(InvalidRequest) as caught:
            decode(request)
        assert caught.value.message == told
        decode(request, TRITON)


def test_strings_of_a_bytes_tensor_have_a_size() -> None:
    """No element is larger than 16 MiB."""
    large = (16 << 20) + 1
    request = mixed(**TWO_ROWS | {"TEXT": ("BYTES", [2, 1], byte_tensors.pack([bytes(large), b""]))})
    with pytest.raises(InvalidRequest, match="has an element of more than 16777216 bytes"):
        decode(request)
    decode(request, TRITON)


def test_a_bytes_tensor_has_not_too_many_elements() -> None:
    """They are handled one by one; what the shape says is enough to refuse it."""
    most = PENSTOCK.limits.string_elements if PENSTOCK.limits else 0
    request = mixed(**TWO_ROWS | {"TEXT": ("BYTES", [2, most // 2 + 1], b"")})
    with pytest.raises(InvalidRequest, match=f"has {most + 2} elements, more than the limit of {most} for BYTES"):
        decode(request)


def test_who_is_not_there_and_who_cannot() -> None:
    """Statuses, not only words."""
    with pytest.raises(NotFound):
        decode(pb.ModelInferRequest(model_name="nobody"))
    with pytest.raises(Unsupported, match="decoupled"):
        decode(pb.ModelInferRequest(model_name="decoupled"))
    with pytest.raises(MalformedRequest):
        decode(b"\xff")

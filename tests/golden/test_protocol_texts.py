"""Rules for inference that no recorded case covers, in Triton's dialect and in Penstock's own.

`either` runs a test in both dialects: most of the protocol is the same in them. Where they differ a test names both
answers. The texts are Triton's but for those of limits that only Penstock has.
"""

import re

import numpy as np
import pytest

from penstock_proto import byte_tensors
from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES
from penstock_server.errors import InvalidRequest
from penstock_server.models.spec import ModelSpec
from penstock_server.service.classification import classify
from penstock_server.service.validate import check_data
from penstock_server.tensors.spec import TensorSpec
from tests.golden.cases import Json
from tests.golden.messages import (
    FOUR,
    OK,
    UNKNOWN_ID,
    A,
    B,
    Contents,
    Parameter,
    addsub,
    answer,
    asked,
    classes,
    classified,
    end,
    failing,
    floats,
    given,
    ints,
    passed,
    seen,
    told,
)
from tests.golden.serving import Call

# ── versions ──────────────────────────────────────────────────────────────────────────────────────


def _no_number(version: str) -> tuple[str, str]:
    return "INVALID_ARGUMENT", (
        f"failed to get model version from specified version string '{version}' (details: stol), "
        "version should be an integral value > 0"
    )


@pytest.mark.parametrize("version", ["1x", " 1", "\t1", "01", "+1", "1.5", "1 "])
def test_versions_are_what_stol_takes_or_plain_numbers(version: str, triton: Call, penstock: Call) -> None:
    """Triton reads the digits at the beginning; by default Penstock wants nothing else."""
    assert answer(triton, addsub(version=version)).model_version == "1"
    assert end(penstock, addsub(version=version)) == _no_number(version)


@pytest.mark.parametrize(
    "version", ["x", " ", "-", "--1", "9223372036854775808", "-9223372036854775809", "9" * 128, "1" * 5000]
)
def test_versions_that_are_no_number(version: str, either: Call) -> None:
    """Neither what has no digits nor what is no 64-bit number. A very long one is not sent back in full."""
    assert end(either, addsub(version=version)) == _no_number(version[:128])


@pytest.mark.parametrize("version", ["0", "3", "9223372036854775807"])
def test_versions_that_are_not_served(version: str, either: Call) -> None:
    """A version that is on disk and not in the policy is as unknown as one that is not there."""
    text = f"Request for unknown model: 'addsub' version {version} is not found"
    assert end(either, addsub(version=version)) == ("NOT_FOUND", text)


def test_the_response_names_the_version_that_ran(either: Call) -> None:
    """A request may leave it open; the answer does not."""
    response = answer(either, addsub(id="7"))
    assert (response.model_name, response.model_version, response.id) == ("addsub", "2", "7")


# ── parameters ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "parameter", "field", "value"),
    [
        ("sequence_id", Parameter(string_param="alpha"), "correlation_id", "alpha"),
        ("sequence_id", Parameter(string_param=""), "correlation_id", ""),
        ("sequence_id", Parameter(string_param="x" * 128), "correlation_id", "x" * 128),
        ("sequence_id", Parameter(int64_param=-(1 << 63)), "correlation_id", 1 << 63),
        ("timeout", Parameter(int64_param=3_600_000_000), "timeout", 3_600_000_000),
        ("timeout", Parameter(int64_param=-1), "timeout", (1 << 64) - 1),
        ("custom", Parameter(double_param=-0.5), "parameters", {"custom": -0.5}),
        ("custom", Parameter(bool_param=False), "parameters", {"custom": False}),
        ("custom", Parameter(string_param=""), "parameters", {"custom": ""}),
        ("tritonx", Parameter(int64_param=1), "parameters", {"tritonx": 1}),
        ("Triton_x", Parameter(int64_param=1), "parameters", {"Triton_x": 1}),
        ("priority", Parameter(uint64_param=(1 << 64) - 1), "parameters", {}),
        ("sequence_end", Parameter(bool_param=True), "parameters", {}),
        ("triton_enable_empty_final_response", Parameter(bool_param=False), "parameters", {}),
    ],
)
def test_parameters_that_a_model_is_told(key: str, parameter: Parameter, field: str, value: Json, either: Call) -> None:
    """Those with a meaning come by name, unsigned where they are; the others as they are."""
    assert seen(either, told(**{key: parameter}))[field] == value


RESERVED = (
    "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
    "'triton_' are allowed: triton_enable_empty_final_response"
)


@pytest.mark.parametrize(
    ("key", "parameter", "text"),
    [
        ("triton_", Parameter(int64_param=1), RESERVED),
        ("triton_final_response", Parameter(bool_param=True), RESERVED),
        (
            "triton_enable_empty_final_response",
            Parameter(),
            "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param.",
        ),
        (
            "sequence_id",
            Parameter(bool_param=True),
            "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        ),
        (
            "sequence_end",
            Parameter(string_param="true"),
            "invalid value type for 'sequence_end' parameter, expected bool_param.",
        ),
        ("timeout", Parameter(bool_param=True), "invalid value type for 'timeout' parameter, expected int64_param."),
    ],
)
def test_parameters_that_are_refused(key: str, parameter: Parameter, text: str, either: Call) -> None:
    """By key and type, before the inputs are looked at, and without the request's id."""
    request = told(**{key: parameter})
    del request.inputs[:]
    request.id = "7"
    assert end(either, request) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize("text", ["x" * 129, "é" * 65])
def test_a_string_sequence_id_has_a_bound(text: str, either: Call) -> None:
    """Of 128 bytes, with a status that is not that of a wrong value."""
    outcome = end(either, told(sequence_id=Parameter(string_param=text)))
    assert outcome == ("UNIMPLEMENTED", "string correlation ID cannot be longer than 128 characters")


def test_a_string_id_for_a_model_that_is_told_numbers(triton: Call, penstock: Call) -> None:
    """Triton takes it; by default it is refused, since the model could not tell such sequences apart."""
    request = pb.ModelInferRequest(
        model_name="accum",
        inputs=[given("X", "INT32", 1, 1)],
        raw_input_contents=[ints(1)],
        parameters={
            "sequence_id": Parameter(string_param="alpha"),
            "sequence_start": Parameter(bool_param=True),
            "sequence_end": Parameter(bool_param=True),
        },
    )
    assert answer(triton, request).raw_output_contents[0] == ints(1)
    text = "the ids of sequences of model 'accum' are numbers, not strings"
    assert end(penstock, request) == ("INVALID_ARGUMENT", text)


# ── the data of inputs ────────────────────────────────────────────────────────────────────────────


def test_two_typed_arrays_in_one_tensor(either: Call) -> None:
    """The second one is too many, whatever it holds."""
    text = (
        "unexpected explicit tensor data for input tensor 'IN' for model 'pass_INT32', "
        "binary data was already supplied."
    )
    both = Contents(int_contents=[1], fp32_contents=[1.0])
    assert end(either, passed("INT32", 1, contents=both)) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize("datatype", ["INT32", "BYTES", "FP16"])
def test_typed_contents_without_elements(datatype: str, either: Call) -> None:
    """They are the data of a tensor without elements, and too little for any other."""
    response = answer(either, passed(datatype, 0, contents=Contents()))
    assert (list(response.outputs[0].shape), list(response.raw_output_contents)) == ([0], [b""])
    status, text = end(either, passed(datatype, 2, contents=Contents()))
    assert status == "INVALID_ARGUMENT"
    if datatype == "BYTES":
        assert text == f"{UNKNOWN_ID}expected 2 string elements for inference input 'IN' for model 'pass_BYTES', got 0"
    else:
        size = 2 * {"INT32": 4, "FP16": 2}[datatype]
        assert text == (
            f"{UNKNOWN_ID}input byte size mismatch for input 'IN' for model 'pass_{datatype}'. Expected {size}, got 0"
        )


def test_an_empty_tensor_needs_its_raw_contents(either: Call) -> None:
    """Shape [0] has no bytes, but an entry."""
    assert end(either, passed("FP32", 0, raw=b"")) == OK
    text = "unable to find data for input tensor 'IN' for model 'pass_FP32' in request."
    assert end(either, passed("FP32", 0)) == ("INVALID_ARGUMENT", text)


def test_raw_contents_shut_typed_ones_out(either: Call) -> None:
    """Of every tensor, and also where they are empty."""
    request = addsub(A, given("B", "FP32", 1, 4, contents=Contents()), raw=[FOUR])
    text = "contents field must not be specified when using raw_input_contents for 'B' for model 'addsub'"
    assert end(either, request) == ("INVALID_ARGUMENT", text)


def test_surplus_raw_contents(triton: Call, penstock: Call) -> None:
    """Triton ignores them; by default Penstock refuses what nobody reads."""
    request = addsub(raw=[FOUR, FOUR, FOUR])
    assert end(triton, request) == OK
    text = "expected 2 raw_input_contents but got 3 for model 'addsub'"
    assert end(penstock, request) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (
            b"\x01\0\0\0a\x05\0\0\0b",
            "incomplete string data for inference input 'IN', expecting string of length 5 but only 1 bytes available",
        ),
        (
            b"\x01\0\0\0a\xff\xff\xff\xff",
            "incomplete string data for inference input 'IN', expecting string of length 4294967295 but only 0 bytes "
            "available",
        ),
        (
            b"\x01\0\0\0a\0\0\0",
            f"{UNKNOWN_ID}incomplete string length indicator for inference input 'IN' for model 'pass_BYTES', "
            "expecting 4 bytes but only 3 bytes available. "
            "Please make sure the string length indicator is in one buffer.",
        ),
        (
            byte_tensors.pack([b"a", b"b", b"c", b"d"]),
            f"{UNKNOWN_ID}unexpected number of string elements 3 for inference input 'IN' for model 'pass_BYTES', "
            "expecting 2",
        ),
        (
            byte_tensors.pack([b"a", b"b"]) + b"\x05\0\0\0",
            f"{UNKNOWN_ID}unexpected number of string elements 3 for inference input 'IN' for model 'pass_BYTES', "
            "expecting 2",
        ),
    ],
)
def test_strings_that_do_not_fit(raw: bytes, text: str, either: Call) -> None:
    """Elements are counted first; only the last of the right number can be found cut short."""
    assert end(either, passed("BYTES", 2, raw=raw)) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize("value", [2, 255])
def test_booleans_are_0_or_1(value: int, either: Call) -> None:
    """Triton hands any byte to the model, for which it is neither true nor false; that is not copied."""
    status, text = end(either, passed("BOOL", 2, raw=bytes([1, value])))
    assert (status, "BOOL elements other than 0 and 1" in text) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize(
    ("datatype", "field", "expected"), [("INT8", "int_contents", b"\x02"), ("UINT16", "uint_contents", b"\x02\x01")]
)
def test_narrow_integers_wrap_around(datatype: str, field: str, expected: bytes, either: Call) -> None:
    """Typed arrays are wider than the tensor; the low bits count."""
    contents = Contents()
    getattr(contents, field).append(65536 + 258)
    (raw,) = answer(either, passed(datatype, 1, contents=contents)).raw_output_contents
    assert raw == expected


# ── inputs against the model ──────────────────────────────────────────────────────────────────────

NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def _intsum(*shape: int, raw: bytes = FOUR) -> pb.ModelInferRequest:
    """A request of `intsum` with this shape and data of X."""
    return pb.ModelInferRequest(
        model_name="intsum",
        inputs=[given("X", "INT32", *shape), given("Y", "INT32", 2, 3), given("Z", "INT32", 1)],
        raw_input_contents=[raw, ints(*range(6)), ints(1)],
    )


@pytest.mark.parametrize(
    ("asks", "text"),
    [
        (addsub(A, given("C", "FP32", 1, 4), id="7"), "unexpected inference input 'C' for model 'addsub'"),
        (
            addsub(A, A, id="7"),
            "[request id: 7] input 'A' already exists in request",
        ),
        (
            classified(scores=[1.0] * 36, rows=9),
            f"{UNKNOWN_ID}inference request batch-size must be <= 8 for 'classifier'",
        ),
        (
            addsub(A, given("B", "FP32", 1, 5), raw=[FOUR, FOUR + b"\0\0\0\0"], id="7"),
            f"[request id: 7] unexpected shape for input 'B' for model 'addsub'. Expected [-1,4], got [1,5]. {NOTE}",
        ),
        (
            addsub(A, given("B", "FP32", 1, -1), id="7"),
            "[request id: 7] All input dimensions should be specified for input 'B' for model 'addsub', got [1,-1]",
        ),
        (
            passed("INT32", -1, raw=ints(1)),
            f"{UNKNOWN_ID}All input dimensions should be specified for input 'IN' for model 'pass_INT32', got [-1]",
        ),
        (
            passed("INT32", 1, -1, raw=ints(1)),
            f"{UNKNOWN_ID}unexpected shape for input 'IN' for model 'pass_INT32'. Expected [-1], got [1,-1]. ",
        ),
        (
            addsub(A, given("B", "FP32", 1, 5, -1)),
            f"{UNKNOWN_ID}unexpected shape for input 'B' for model 'addsub'. Expected [-1,4], got [1,5,-1]. {NOTE}",
        ),
        (
            _intsum(3, -1),
            f"{UNKNOWN_ID}unexpected shape for input 'X' for model 'intsum'. Expected [2,3], got [3,-1]. ",
        ),
        (
            passed("INT32", -2, raw=ints(1, 2)),
            f"{UNKNOWN_ID}input byte size mismatch for input 'IN' for model 'pass_INT32'. Expected -8, got 8",
        ),
        (
            addsub(given("A", "FP32", 2, 4), B, raw=[FOUR + FOUR, FOUR], id="7"),
            "[request id: 7] input 'B' batch size does not match other inputs for 'addsub'",
        ),
        (
            addsub(given("A", "INT32", 1, 4), given("B", "FP32", 1, 5), id="7"),
            "[request id: 7] inference input 'A' data-type is 'INT32', but model 'addsub' expects 'FP32'",
        ),
        (
            addsub(raw=[FOUR, FOUR + b"\0"], id="7"),
            "[request id: 7] input byte size mismatch for input 'B' for model 'addsub'. Expected 16, got 17",
        ),
    ],
)
def test_inputs_that_do_not_fit(asks: pb.ModelInferRequest, text: str, either: Call) -> None:
    """The first thing that is wrong is told, in Triton's order and words."""
    assert end(either, asks) == ("INVALID_ARGUMENT", text)


def test_no_rows(either: Call) -> None:
    """Triton takes a batch of 0 rows for no batch axis. What it would run for that reason is refused here."""
    zero = given("A", "FP32", 0, 4), given("B", "FP32", 0, 4)
    text = f"{UNKNOWN_ID}input byte size mismatch for input 'A' for model 'addsub'. Expected 16, got 0"
    assert end(either, addsub(*zero, raw=[b"", b""])) == ("INVALID_ARGUMENT", text)
    text = f"{UNKNOWN_ID}inference request batch-size must be >= 1 for 'addsub'"
    assert end(either, addsub(*zero)) == ("INVALID_ARGUMENT", text)
    negative = given("A", "FP32", -1, 4), given("B", "FP32", -1, 4)
    text = f"{UNKNOWN_ID}input 'B' batch size does not match other inputs for 'addsub'"
    assert end(either, addsub(*negative)) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize("shape", [(1 << 62, 4), ((1 << 62) + 1, 4), (1 << 32, 1 << 32), (-2, -2), (0, 1 << 40)])
def test_shapes_that_would_wrap_around(shape: tuple[int, int], either: Call) -> None:
    """Sizes are not counted in 64 bits: no product of axes comes out small, or right, by accident."""
    assert end(either, _intsum(*shape))[0] == "INVALID_ARGUMENT"
    batched = addsub(given("A", "FP32", *shape), given("B", "FP32", *shape))
    assert end(either, batched)[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("shape", "size"), [((-2, -2), 16), ((0, 1 << 40), 0), ((1 << 40, 0), 0)])
def test_axes_have_bounds_of_their_own(shape: tuple[int, int], size: int) -> None:
    """Where the size is right by accident; no golden model has two axes of any length."""
    tensor = TensorSpec("IN", DATATYPES["FP32"], (-1, -1))
    spec = ModelSpec("m", 0, (tensor,), (), required_inputs=1)
    with pytest.raises(InvalidRequest, match="has an axis that is not between 0 and 2147483647"):
        check_data(given("IN", "FP32", *shape), 1, bytes(size), tensor, spec, "", None)


def _optional(*names: str) -> pb.ModelInferRequest:
    sizes = {"X": 2}
    return pb.ModelInferRequest(
        model_name="optional",
        inputs=[given(name, "FP32", sizes.get(name, 1)) for name in names],
        raw_input_contents=[bytes(4 * sizes.get(name, 1)) for name in names],
    )


@pytest.mark.parametrize(
    ("names", "got", "lacking"),
    [
        (("SCALE",), "1 inputs for model 'optional'. Got input(s) ['SCALE']", "['X']"),
        (("SCALE", "BIAS"), "2 inputs for model 'optional'. Got input(s) ['SCALE','BIAS']", "['X']"),
        (
            ("X", "SCALE", "BIAS", "MORE"),
            "4 inputs for model 'optional'. Got input(s) ['X','SCALE','BIAS','MORE']",
            "]",
        ),
    ],
)
def test_a_required_input_is_missed_whatever_the_count(
    names: tuple[str, ...], got: str, lacking: str, either: Call
) -> None:
    """Triton counts only, and runs the model without what it needs; that is not copied, but the words are."""
    text = (
        f"{UNKNOWN_ID}expected number of inputs between 1 and 3 but got {got}, "
        f"but missing required input(s) {lacking}. Please provide all required input(s)."
    )
    assert end(either, _optional(*names)) == ("INVALID_ARGUMENT", text)


def test_optional_inputs_come_in_any_order(either: Call) -> None:
    """Raw contents are matched by position, inputs by name."""
    request = _optional("BIAS", "X")
    request.raw_input_contents[:] = [floats(10), floats(1, 2)]
    assert answer(either, request).raw_output_contents[0] == floats(11, 12)


# ── outputs ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [0, -1])
def test_no_classes_are_an_error(count: int, either: Call) -> None:
    """A count of 0 is not the way to ask for the tensor. It is seen before an output that does not exist."""
    request = classified(asked("NO"), asked("SCORES", count))
    text = "invalid value for 'classification' parameter, expected >= 0"
    assert end(either, request) == ("INVALID_ARGUMENT", text)


def test_unknown_outputs_are_told_in_alphabetical_order(either: Call) -> None:
    """Before the inputs are counted."""
    request = classified(asked("Z"), asked("SCORES"), asked("Q"))
    del request.inputs[:]
    del request.raw_input_contents[:]
    text = "unexpected inference output 'Q' for model 'classifier'"
    assert end(either, request) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize("datatype", ["BOOL", "FP16", "BF16", "BYTES"])
def test_types_that_have_no_classes_are_seen_last(datatype: str, either: Call) -> None:
    """Triton sees them in the model's answer, and ends on BYTES. A wrong input is what is told, if there is one."""
    request = passed(datatype, 0, raw=b"")
    request.outputs.append(asked("OUT", 1))
    text = f"class result not available for output due to unsupported type '{datatype}'"
    assert end(either, request) == ("INVALID_ARGUMENT", text)
    request.inputs[0].name = "INPUT"
    text = f"unexpected inference input 'INPUT' for model 'pass_{datatype}'"
    assert end(either, request) == ("INVALID_ARGUMENT", text)


def test_more_classes_than_there_are(either: Call) -> None:
    """All of them come; without a batch axis the whole tensor is one row; without labels there are none."""
    request = classified(asked("RANKS", 1 << 40))
    assert classes(either, request) == ["4:1", "3:2", "2:3", "1:0"]
    request = pb.ModelInferRequest(
        model_name="intsum",
        inputs=[given("X", "INT32", 2, 3), given("Y", "INT32", 2, 3), given("Z", "INT32", 1)],
        raw_input_contents=[ints(-5, 0, 7, 7, 1, 2), ints(*[0] * 6), ints(0)],
        outputs=[asked("SUM", 9)],
    )
    assert classes(either, request) == ["7:2", "7:3", "2:5", "1:4", "0:1", "-5:0"]
    assert list(answer(either, request).outputs[0].shape) == [6]


def test_the_first_classification_of_an_output_counts(either: Call) -> None:
    """An output may be named twice, and comes once; named plainly as well it still comes as classes."""
    request = classified(asked("SCORES"), asked("SCORES", 1), asked("SCORES", 3), asked("SCORES"))
    response = answer(either, request)
    assert [(output.name, output.datatype, list(output.shape)) for output in response.outputs] == [
        ("SCORES", "BYTES", [1, 1])
    ]


def test_what_is_no_number_ranks_last(either: Call) -> None:
    """Infinity is more than anything, and NaN is no best class."""
    request = classified(asked("SCORES", 4), scores=(float("nan"), -float("inf"), float("inf"), 0.0))
    assert classes(either, request) == ["inf:2:emu", "0.000000:3:fox", "-inf:1:dog", "nan:0:cat"]


def test_a_class_without_a_name_is_its_number() -> None:
    """An empty line in a file of labels is no label."""
    spec = TensorSpec("OUT", DATATYPES["INT32"], (3,), labels=("cat", ""))
    best = classify(np.array([1, 2, 3], np.int32), 3, spec, batched=False)
    assert list(best.flat) == [b"3:2", b"2:1", b"1:0:cat"]


def test_outputs_come_in_the_order_of_the_model(either: Call) -> None:
    """With one raw entry each, and typed contents never."""
    response = answer(either, classified(asked("RANKS"), asked("SCORES")))
    assert [output.name for output in response.outputs] == ["SCORES", "RANKS"]
    assert list(response.raw_output_contents) == [floats(1, 4, 3, 2), ints(1, 4, 3, 2)]
    assert not any(output.HasField("contents") for output in response.outputs)


@pytest.mark.parametrize("key", ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"])
def test_shared_memory_is_not_there(key: str, either: Call) -> None:
    """Neither for inputs nor for outputs; a client that wants it is told at once."""
    request = addsub()
    request.inputs[0].parameters[key].int64_param = 0
    status, text = end(either, request)
    assert (status, text) == (
        "UNIMPLEMENTED",
        "shared memory is not supported by this server: send the tensor's data in the request",
    )
    request = addsub()
    request.outputs.add(name="SUM").parameters[key].int64_param = 0
    status, text = end(either, request)
    assert (status, text) == (
        "UNIMPLEMENTED",
        "shared memory is not supported by this server: the output comes with the response",
    )


# ── failures of models ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("code", "status"), [(4, "UNAVAILABLE"), (7, "CANCELLED"), (0, "INTERNAL")])
def test_a_model_chooses_status_and_text(code: int, status: str, either: Call) -> None:
    """To the letter, but for UNKNOWN, which would say that nobody chose."""
    assert end(either, failing(code, "no more tea")) == (status, "no more tea")


def test_the_text_of_an_unforeseen_exception_is_hidden(either: Call) -> None:
    """It may name anything. The client gets an id to ask about."""
    status, text = end(either, failing(-1, "/etc/secret"))
    assert status == "INTERNAL"
    assert re.fullmatch(r"internal error \(error id [0-9a-f]{8}\)", text)

"""The scanner against protobuf's own parser, and the limits that it holds before anything is parsed."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock_proto.open_inference_pb2 import InferTensorContents, ModelInferRequest
from penstock_server.errors import InvalidRequest
from penstock_server.service.dialect import Limits
from penstock_server.service.scan import Malformed, scan
from tests.server.service.requests import request_fields
from tests.server.service.wire import END_GROUP, GROUP, encodings, field, varint

LIMITS = Limits()

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor


def parsed(message: bytes) -> ModelInferRequest | None:
    """What protobuf makes of a message; None if it is none."""
    try:
        return ModelInferRequest.FromString(message)
    except DecodeError:
        return None


def joined(message: bytes) -> ModelInferRequest | None:
    """What the scanner's two halves are together; None if they are no message."""
    try:
        scanned = scan(message, None)
        request = ModelInferRequest.FromString(scanned.head)
    except (Malformed, DecodeError):
        return None
    assert not request.raw_input_contents, "no tensor data is left in the head"
    request.raw_input_contents.extend(bytes(data) for data in scanned.raw)
    return request


def has_groups(message: bytes) -> bool:
    """Whether a byte could begin or end a group."""
    return any(byte & 7 in (GROUP, END_GROUP) for byte in message)


@given(request_fields().flatmap(encodings))
@settings(max_examples=150)
def test_head_and_raw_contents_are_the_message(message: bytes) -> None:
    """In any order, with unknown fields and long varints: the two halves say what protobuf reads in the whole."""
    expected = parsed(message)
    assert expected is not None
    assert joined(message) == expected
    with_views = scan(memoryview(message), None)
    assert all(view.obj is message for view in with_views.raw), "raw contents are views"


@given(st.binary(max_size=40))
@example(b"")
@example(field(7, b"x", tag_padding=4))
@example(field(7, b"x", tag_padding=5))
@example(field(7, b"x", length_padding=9))
@example(b"\x3a\x81" + b"\x80" * 8 + b"\x02x")  # a length whose 65th bit does not count
@example(b"\x3a" + varint(1 << 31) + b"x")
@example(b"\x3a" + varint((1 << 64) - 1) + b"x")
@example(b"\x3a" + varint((1 << 63) + 1) + b"x")
@example(b"\x3a" + b"\x80" * 10 + b"\x00")  # eleven bytes of length
@example(b"\x02\x00")  # field number 0
@example(b"\x3e")  # a wire type that does not exist
@example(field(5, b"\xff"))
@settings(max_examples=1000)
def test_what_the_scanner_takes_is_what_protobuf_takes(message: bytes) -> None:
    """Neither more nor less, so that no request changes its meaning. But groups, which nobody sends, are refused."""
    ours, theirs = joined(message), parsed(message)
    if ours is not None or not has_groups(message):
        assert ours == theirs


@given(request_fields().flatmap(encodings), st.data())
@settings(max_examples=200)
def test_mutilated_messages(message: bytes, data: st.DataObject) -> None:
    """A byte changed, dropped or repeated: still the same as protobuf, and never another error."""
    if message:
        at = data.draw(st.integers(0, len(message) - 1))
        middle = data.draw(st.sampled_from([b"", message[at : at + 1] * 2, b"\x00", b"\xff", b"\x80"]))
        message = message[:at] + middle + message[at + 1 :]
    ours, theirs = joined(message), parsed(message)
    if ours is not None or not has_groups(message):
        assert ours == theirs


def test_every_truncation() -> None:
    """A message that is cut short is what protobuf takes it for, wherever it is cut."""
    request = ModelInferRequest(
        model_name="m",
        id="17",
        parameters={},
        inputs=[Input(name="X", datatype="FP32", shape=[1, 300], contents=InferTensorContents(fp32_contents=[1, 2]))],
        outputs=[Output(name="Y")],
        raw_input_contents=[b"abcd" * 40, b"", b"efgh"],
    )
    message = request.SerializeToString() + field(100, b"later") + b"\x40\xff\x01"
    assert joined(message) == parsed(message) is not None
    for length in range(len(message)):
        assert joined(message[:length]) == parsed(message[:length]), length


@pytest.mark.parametrize("start", [field(1, b"m"), b""])
def test_groups_are_refused(start: bytes) -> None:
    """Where protobuf would skip them: whoever sends one has no V2 client."""
    group = varint(9 << 3 | GROUP) + varint(9 << 3 | END_GROUP)
    assert parsed(start + group) is not None
    with pytest.raises(Malformed):
        scan(start + group, None)


@given(st.binary(max_size=60), st.sampled_from([None, LIMITS, Limits(inputs=1, outputs=0, parameters=0, head_bytes=9)]))
@settings(max_examples=500)
def test_any_bytes_are_scanned_or_refused(message: bytes, limits: Limits | None) -> None:
    """Nothing but the two errors comes out, with or without limits."""
    try:
        scanned = scan(message, limits)
    except (Malformed, InvalidRequest):
        return
    assert len(scanned.head) + sum(map(len, scanned.raw)) <= len(message)


# ── limits ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("number", "most", "name"),
    [(4, 32, "parameters"), (5, 64, "inputs"), (6, 64, "outputs"), (7, 64, "raw_input_contents")],
)
def test_the_number_of_each_field(number: int, most: int, name: str) -> None:
    """Exactly as many as the limit pass. Empty ones count: they cost a parser most of all."""
    one = field(number, b"")
    scan(one * most, LIMITS)
    with pytest.raises(InvalidRequest) as caught:
        scan(one * (most + 1), LIMITS)
    assert caught.value.message == f"too many {name} in the request: at most {most} are allowed"
    scan(one * 2 * most, None)


def test_a_flood_of_fields_is_refused_at_the_first_too_many() -> None:
    """What comes after is not even looked at: it may be no message at all."""
    with pytest.raises(InvalidRequest):
        scan(field(5, b"") * 65 + b"\xff" * 100, LIMITS)


def test_the_size_of_the_head() -> None:
    """All that is no tensor data; raw contents may be of any size."""
    limits = Limits(head_bytes=100, typed_bytes=50)
    raw = field(7, bytes(1000))
    scan(field(9, bytes(98)) + raw, limits)
    with pytest.raises(InvalidRequest) as caught:
        scan(raw + field(9, bytes(99)), limits)
    assert caught.value.message == ("the request has 101 bytes besides its tensors' data, more than the limit of 100")


def contents(size: int) -> bytes:
    """An input with typed contents of this size."""
    return Input(name="X", contents=InferTensorContents(bytes_contents=[bytes(size - 2)])).SerializeToString()


def test_the_size_of_typed_contents() -> None:
    """Counted over all inputs, apart from the rest of the head."""
    limits = Limits(head_bytes=50, typed_bytes=200)
    scan(field(5, contents(100)) * 2, limits)
    with pytest.raises(InvalidRequest) as caught:
        scan(field(5, contents(100)) * 2 + field(5, contents(4)), limits)
    assert caught.value.message == (
        "typed contents of 204 bytes exceed the limit of 200: send the data in raw_input_contents"
    )


def test_the_elements_of_typed_contents() -> None:
    """Counted over all inputs before they are parsed: four million empty strings are 8 MiB, and a gigabyte parsed."""
    element = field(8, b"")
    half = LIMITS.typed_fields // 2
    scan(field(5, field(5, element * half)) * 2, LIMITS)
    scan(field(5, field(5, element * half) * 2), LIMITS)  # a parser merges the two
    for flood in (
        field(5, field(5, element * half)) * 2 + field(5, field(5, element)),
        field(5, field(5, element * half) * 2 + field(5, element)),
        field(5, field(5, b"\x10\x00" * (LIMITS.typed_fields + 1))),  # int_contents that are not packed
        field(5, field(5, element * (4 << 20))),
    ):
        with pytest.raises(InvalidRequest) as caught:
            scan(flood, LIMITS)
        assert caught.value.message == (
            "the request has more than 65536 elements in bytes_contents: send the data in raw_input_contents"
        )
        scan(flood, None)


def test_a_packed_array_is_one_element() -> None:
    """Its numbers take no more memory than in the message, and `typed_bytes` bounds them."""
    scan(field(5, field(5, field(6, bytes(4 * 200_000)))), LIMITS)


@given(st.binary(max_size=30))
def test_the_inside_of_contents_is_scanned_or_refused(inside: bytes) -> None:
    """As that of an input: counting may meet anything."""
    message = field(5, field(5, inside))
    try:
        head = scan(message, LIMITS).head
    except Malformed:
        assert has_groups(inside) or parsed(message) is None
        return
    assert head == message


def test_the_default_limits_are_those_of_the_reference() -> None:
    """docs/reference/limits.md states them."""
    assert (LIMITS.typed_bytes, LIMITS.typed_fields, LIMITS.string_elements) == (1 << 20, 65_536, 131_072)


def test_typed_contents_do_not_hide_other_bytes() -> None:
    """What is in an input beside its contents counts as head: a long name, a long shape."""
    long = Input(name="x" * 200).SerializeToString()
    with pytest.raises(InvalidRequest, match="besides its tensors' data"):
        scan(field(5, long), Limits(head_bytes=100))


def test_the_fields_of_one_input() -> None:
    """An input is a handful of fields. More are a flood in disguise: here of empty parameters."""
    scan(field(5, field(4, b"") * 256), LIMITS)
    with pytest.raises(InvalidRequest) as caught:
        scan(field(5, field(4, b"") * 257), LIMITS)
    assert caught.value.message == "too many fields in one of the request's inputs: at most 256"
    with pytest.raises(InvalidRequest):
        scan(field(5, b"\x18\x01" * 257), LIMITS)  # a shape that is not packed


@given(st.binary(max_size=30))
def test_the_inside_of_an_input_is_scanned_or_refused(inside: bytes) -> None:
    """Counting goes into the inputs; what it finds there may be anything."""
    message = field(5, inside)
    try:
        head = scan(message, LIMITS).head
    except Malformed:
        assert has_groups(inside) or parsed(message) is None
        return
    assert head == message

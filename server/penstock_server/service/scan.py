"""Splits an encoded ModelInferRequest into its head and its raw contents, before anything is parsed.

    message ──▶ head (everything but raw contents; small, for upb) + views of the raw contents

This has two ends. Tensor bytes never go through the protobuf parser: they stay views of the message
until they are copied once, into their batch. And what a request will cost is known before it is paid:
a megabyte of empty `inputs` entries becomes 41 MiB of objects in a parser, and one of empty `bytes_contents`
60 MiB, so both are counted first.

The wire format is a run of (tag, value); a tag is `number << 3 | type`. Source:
https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator
from dataclasses import dataclass

from penstock_server.errors import InvalidRequest
from penstock_server.service.dialect import Limits

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Tags of ModelInferRequest's fields, all length-delimited.
_PARAMETERS = 4 << 3 | _BYTES
_INPUT = 5 << 3 | _BYTES
_OUTPUT = 6 << 3 | _BYTES
_RAW = 7 << 3 | _BYTES
# InferInputTensor.contents
_CONTENTS = 5 << 3 | _BYTES

_LONGEST_TAG = 5
"""In bytes: more are malformed, whatever they mean. What is scanned away must be as good as what is parsed."""
_64_BITS = (1 << 64) - 1

_MAX_TENSOR_FIELDS = 256
"""Fields in one `inputs` entry; an honest one has a handful."""


class Malformed(Exception):
    """The bytes are no protobuf message."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """A request in two."""

    head: bytes
    raw: list[memoryview]


def scan(message: bytes | memoryview, limits: Limits | None) -> Scanned:
    """Split a request. Raises `Malformed`, or InvalidRequest if it exceeds the limits."""
    data = memoryview(message).toreadonly()
    raw: list[memoryview] = []
    kept: list[memoryview] = []  # runs of the head between raw contents
    counts = {_PARAMETERS: 0, _INPUT: 0, _OUTPUT: 0, _RAW: 0}
    typed_bytes = typed_fields = 0
    run = offset = 0
    size = len(data)
    while offset < size:
        start = offset
        tag, offset = _varint(data, offset)
        if offset - start > _LONGEST_TAG:
            raise Malformed
        if tag & 7 != _BYTES:
            offset = _skip(data, offset, tag)
            continue
        length, value = _varint(data, offset)
        offset = value + length
        if offset > size:
            raise Malformed
        if tag not in counts:
            continue
        counts[tag] += 1
        if limits is not None and counts[tag] > _allowed(tag, limits):
            raise InvalidRequest(f"too many {_NAMES[tag]} in the request: at most {_allowed(tag, limits)} are allowed")
        if tag == _RAW:
            raw.append(data[value:offset])
            kept.append(data[run:start])
            run = offset
        elif tag == _INPUT and limits is not None:
            for contents in _typed_contents(data[value:offset]):
                typed_bytes += len(contents)
                typed_fields = _count_fields(contents, typed_fields, limits.typed_fields)
    kept.append(data[run:])
    head = b"".join(kept)
    if limits is not None:
        _check_sizes(len(head) - typed_bytes, typed_bytes, limits)
    return Scanned(head, raw)


_NAMES = {_PARAMETERS: "parameters", _INPUT: "inputs", _OUTPUT: "outputs", _RAW: "raw_input_contents"}


def _allowed(tag: int, limits: Limits) -> int:
    if tag == _PARAMETERS:
        return limits.parameters
    return limits.outputs if tag == _OUTPUT else limits.inputs


def _check_sizes(head_bytes: int, typed_bytes: int, limits: Limits) -> None:
    if typed_bytes > limits.typed_bytes:
        raise InvalidRequest(
            f"typed contents of {typed_bytes} bytes exceed the limit of {limits.typed_bytes}: "
            "send the data in raw_input_contents"
        )
    if head_bytes > limits.head_bytes:
        raise InvalidRequest(
            f"the request has {head_bytes} bytes besides its tensors' data, more than the limit of {limits.head_bytes}"
        )


def _typed_contents(tensor: memoryview) -> Iterator[memoryview]:
    """The typed contents of an `inputs` entry. There may be several: a parser merges them."""
    fields = offset = 0
    while offset < len(tensor):
        fields += 1
        if fields > _MAX_TENSOR_FIELDS:
            raise InvalidRequest(f"too many fields in one of the request's inputs: at most {_MAX_TENSOR_FIELDS}")
        tag, offset = _varint(tensor, offset)
        if tag & 7 != _BYTES:
            offset = _skip(tensor, offset, tag)
            continue
        length, value = _varint(tensor, offset)
        offset = value + length
        if offset > len(tensor):
            raise Malformed
        if tag == _CONTENTS:
            yield tensor[value:offset]


def _count_fields(contents: memoryview, fields: int, most: int) -> int:
    """`fields` and those of these contents: elements of `bytes_contents`, packed arrays, numbers without an array."""
    offset = 0
    while offset < len(contents):
        fields += 1
        if fields > most:  # told here and not at the end: the walk itself costs the loop its time
            raise InvalidRequest(
                f"the request has more than {most} elements in bytes_contents: send the data in raw_input_contents"
            )
        tag, offset = _varint(contents, offset)
        if tag & 7 != _BYTES:
            offset = _skip(contents, offset, tag)
            continue
        length, value = _varint(contents, offset)
        offset = value + length
    if offset > len(contents):
        raise Malformed
    return fields


def _varint(data: memoryview, offset: int) -> tuple[int, int]:
    """A varint and where it ends."""
    try:
        byte = data[offset]
        if byte < 0x80:  # tags and most lengths
            return byte, offset + 1
        value, shift = byte & 0x7F, 7
        while shift < 70:  # ten bytes at most, of which 64 bits count
            offset += 1
            byte = data[offset]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & _64_BITS, offset + 1
            shift += 7
    except IndexError:
        pass
    raise Malformed


def _skip(data: memoryview, offset: int, tag: int) -> int:
    """Past the value of a field that is not length-delimited. Groups, long deprecated, are refused."""
    match tag & 7:
        case 0:
            return _varint(data, offset)[1]
        case 1:
            offset += 8
        case 5:
            offset += 4
        case _:
            raise Malformed
    if offset > len(data):
        raise Malformed
    return offset

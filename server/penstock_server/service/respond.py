"""From a request's outputs to the pieces of its ModelInferResponse.

The tensors' bytes are not handed to protobuf, which would copy them: the response is serialised
without them, and each is appended as a field of its own. A protobuf message is the run of its fields,
so the pieces joined are the message that protobuf would have written.

Requests with one plan have the same response but for id and data. So there is a `Template` for them, made once:

    model name and version │ id │ outputs: names, datatypes, shapes │ data │ …
    ────────── kept ──────── ask ────────────── kept ──────────────── batch ──

A response is then one join of slices of what the batch has returned. Where it is not so simple (classes, strings, a
response that is too large) `respond` makes the response from the arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from penstock_proto.datatypes import DATATYPES
from penstock_proto.open_inference_pb2 import ModelInferResponse
from penstock_server.engine.assembly import BatchOutputs
from penstock_server.engine.jobs import Outputs, Plan
from penstock_server.errors import InvalidRequest
from penstock_server.service.classification import classify
from penstock_server.tensors.codec import Array, Buffer, raw_of

_RAW_TAG = bytes([6 << 3 | 2])  # raw_output_contents, length-delimited
_BYTES = DATATYPES["BYTES"]
_ANY_SIZE = DATATYPES["UINT8"]  # the data of every datatype that has a size is its memory
_JOIN_BYTES = 16 << 10
"""Responses up to this size are one piece. Of larger ones the data is never copied here."""


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What a response is put into: it becomes a field of a message, of which it is all."""

    tag: bytes
    """Of that field, which is length-delimited."""
    last: bytes
    """A field that is appended to each response."""


def respond(plan: Plan, request_id: str, outputs: Outputs, max_bytes: int) -> list[Buffer]:
    """The response, in pieces. InvalidRequest if it is larger than a message may be."""
    response, raw = build_response(plan, request_id, outputs)
    parts: list[Buffer] = [response.SerializeToString()]
    for data in raw:
        parts.append(_raw_head(len(data)))
        parts.append(data)
    size = sum(map(len, parts))
    if size > max_bytes:
        raise InvalidRequest(f"Response has byte size {size} which exceeds gRPC's byte size limit {max_bytes}.")
    return parts


def build_response(plan: Plan, request_id: str, outputs: Outputs) -> tuple[ModelInferResponse, Sequence[Buffer]]:
    """The response without its raw contents, and those."""
    version, spec = plan.version, plan.version.spec
    response = ModelInferResponse(model_name=spec.name, model_version=str(version.version), id=request_id)
    raw: list[Buffer] = []
    for index, classes, array in zip(plan.outputs, plan.classes, outputs, strict=True):
        tensor = spec.outputs[index]
        datatype = tensor.datatype
        if classes:
            array = classify(array, classes, tensor, batched=spec.max_batch_size > 0)
            datatype = _BYTES
        response.outputs.add(name=tensor.name, datatype=datatype.name, shape=_shape(array))
        raw.append(raw_of(array, datatype))
    return response, raw


class Template:
    """The response to every request of a plan, without id and data."""

    __slots__ = ("_fixed", "_is_fixed", "_is_simple", "_layout", "_shapes", "plan", "wrapping")

    def __init__(self, plan: Plan, wrapping: Wrapping | None = None) -> None:
        self.plan = plan
        self.wrapping = wrapping
        tensors = [plan.version.spec.outputs[index] for index in plan.outputs]
        self._is_simple = bool(tensors) and not any(plan.classes) and all(each.datatype.itemsize for each in tensors)
        self._is_fixed = all(-1 not in each.shape for each in tensors)
        self._fixed: _Layout | None = None  # the layout of all batches, once there is one for all
        self._layout: _Layout | None = None  # the last one
        self._shapes: list[tuple[int, ...]] = []  # of the outputs that it is for, without the batch axis

    def rows(self, outputs: BatchOutputs, id_field: bytes, start: int, end: int, max_bytes: int) -> list[Buffer] | None:
        """The response to the request with these rows of a batch; None if it has to be made from the arrays."""
        layout = self._fixed
        if layout is None:
            layout = self._layout_of(outputs)
        if layout is None or layout.size + len(id_field) > max_bytes:
            return None
        return layout.parts(outputs, id_field, start, end)

    def _layout_of(self, outputs: BatchOutputs) -> "_Layout | None":
        """The layout of a batch's responses, looked for once in a batch; None if they are not so simple."""
        layout = outputs.memo.get(self)
        if isinstance(layout, _Layout):
            return layout
        if not self._is_simple:
            return None
        layout = outputs.memo[self] = self._lay_out(outputs)
        if self._is_fixed:
            self._fixed = layout
        return layout

    def _lay_out(self, outputs: BatchOutputs) -> "_Layout":
        first = 1 if outputs.batched else 0
        shapes = [outputs.arrays[index].shape[first:] for index in self.plan.outputs]
        if self._layout is None or shapes != self._shapes:
            self._shapes = shapes
            self._layout = _Layout(self.plan, shapes, outputs.batched, self.wrapping)
        return self._layout


class _Layout:
    """What the responses of a plan have in common, for outputs of the same shapes."""

    __slots__ = ("_id_size", "_is_joined", "_lead", "_outputs", "_start", "_wrapping", "size")

    def __init__(self, plan: Plan, shapes: Sequence[tuple[int, ...]], batched: bool, wrapping: Wrapping | None) -> None:
        """`shapes` are the outputs', without the batch axis."""
        spec = plan.version.spec
        middle = ModelInferResponse()
        self.size = 0
        """Of a response, but for its id."""
        heads: list[bytes] = []
        row_bytes: list[int] = []  # an output without a batch axis has one row
        rows = plan.rows if batched else 1
        for index, shape in zip(plan.outputs, shapes, strict=True):
            tensor = spec.outputs[index]
            middle.outputs.add(
                name=tensor.name, datatype=tensor.datatype.name, shape=(rows, *shape) if batched else shape
            )
            row = prod(shape) * tensor.datatype.itemsize
            row_bytes.append(row)
            heads.append(_raw_head(rows * row))
            self.size += rows * row
        heads[0] = middle.SerializeToString() + heads[0]
        # Of each output: what goes before its data, which it is, and the bytes of a row.
        self._outputs = list(zip(heads, plan.outputs, row_bytes, strict=True))
        start = ModelInferResponse(model_name=spec.name, model_version=str(plan.version.version))
        self._start = start.SerializeToString()
        self.size += len(self._start) + sum(map(len, heads))
        self._is_joined = self.size <= _JOIN_BYTES
        self._wrapping = wrapping
        # With a wrapping: what goes before an id of so many bytes, which is mostly the same for all.
        self._id_size = -1
        self._lead = self._start

    def parts(self, outputs: BatchOutputs, id_field: bytes, start: int, end: int) -> list[Buffer]:
        """The response to the request with the rows from `start` to before `end`; `id_field` is its id, encoded."""
        wrapping, raws = self._wrapping, outputs.raws
        if wrapping is not None and len(id_field) != self._id_size:
            self._id_size = len(id_field)
            size = self.size + self._id_size + len(wrapping.last)
            self._lead = wrapping.tag + varint(size) + self._start
        if self._is_joined:
            pieces: list[Buffer] = [self._lead, id_field]
            for head, index, row in self._outputs:
                raw = raws[index] if index in raws else _raw_in(outputs, index)
                pieces += (head, raw[start * row : end * row])
            if wrapping is not None:
                pieces.append(wrapping.last)
            return [b"".join(pieces)]
        before = self._lead + id_field
        parts: list[Buffer] = []
        for head, index, row in self._outputs:
            parts += (before + head, memoryview(_raw_in(outputs, index))[start * row : end * row])
            before = b""
        if wrapping is not None:
            parts.append(wrapping.last)
        return parts


def _raw_in(outputs: BatchOutputs, index: int) -> Buffer:
    """An output's data, of the whole batch: once for all requests."""
    raw = outputs.raws.get(index)
    if raw is None:
        array = outputs.arrays[index]
        raw = array.tobytes() if array.nbytes <= _JOIN_BYTES else raw_of(array, _ANY_SIZE)
        outputs.raws[index] = raw
    return raw


def id_field(request_id: str) -> bytes:
    """The id as a field of a response, which has it under the same number as a request."""
    text = request_id.encode()
    return b"\x1a" + varint(len(text)) + text if text else b""


def _raw_head(size: int) -> bytes:
    return _RAW_TAG + varint(size)


def _shape(array: Array) -> tuple[int, ...]:
    return array.shape


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
